//! Kamailio's `str` (pointer and length, not terminated) and Rust's `&[u8]`.

use crate::host::sys;

/// The bytes of a `str`. No pointer, or no positive length, is empty.
///
/// # Safety
/// The bytes live and stay unchanged for `'a`.
pub unsafe fn bytes<'a>(text: sys::_str) -> &'a [u8] {
    match usize::try_from(text.len) {
        Ok(length) if length > 0 && !text.s.is_null() => {
            // SAFETY: a Kamailio `str` with a pointer has `len` readable bytes.
            unsafe { std::slice::from_raw_parts(text.s.cast(), length) }
        }
        _ => b"",
    }
}

/// The bytes of a `str` behind a pointer; `None` for NULL.
///
/// # Safety
/// `text` is NULL or points to a `str`; its bytes live for `'a`.
pub unsafe fn pointed<'a>(text: *const sys::_str) -> Option<&'a [u8]> {
    // SAFETY: a `str` of Kamailio's, whose bytes stay as long as what it belongs
    // to; NULL is checked by `as_ref`.
    unsafe { text.as_ref().map(|text| bytes(*text)) }
}

/// A `str` that looks at `text`, for calls that only read it. A length beyond
/// an int is cut off.
pub fn lend(text: &[u8]) -> sys::_str {
    // An empty slice may begin at address 1: C that counts back from the end,
    // as the core's hash functions do, would wrap around.
    let start = if text.is_empty() { c"".as_ptr() } else { text.as_ptr().cast() };
    sys::_str { s: start.cast_mut(), len: i32::try_from(text.len()).unwrap_or(i32::MAX) }
}

/// `text` without white space around it; header values may begin or end with
/// the line break of a folded line.
pub fn trimmed(text: &[u8]) -> &[u8] {
    text.trim_ascii()
}

/// `text` on one line: line breaks of folded headers become spaces.
pub fn unfolded(text: &[u8]) -> impl Iterator<Item = u8> {
    text.iter().map(|byte| if matches!(byte, b'\r' | b'\n' | 0) { b' ' } else { *byte })
}
