//! Several short strings packed into one block of bytes: a record's text costs
//! one allocation, and copying a record out of shared memory is one `memcpy`.

use std::marker::PhantomData;

/// The strings of a record, each named by a variant.
pub trait Fields: Copy {
    /// How many fields there are.
    const COUNT: usize;
    /// Position of this field, below `COUNT`.
    fn index(self) -> usize;
}

/// A field was too long to be packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooLong;

/// Instead of an end offset: the field is the same as the one with this number.
pub(crate) const SAME: u16 = 0x8000;

/// A string that is shorter is not worth the look at the others.
pub(crate) const WORTH_SHARING: usize = 3;

/// Collects fields into a block: for each the end of its text, or the number of
/// an earlier one that is the same (`SAME`), as `COUNT` little-endian u16, then
/// the texts in order.
pub fn pack<'a, F: Fields>(value: impl Fn(usize) -> &'a [u8]) -> Result<Vec<u8>, TooLong> {
    let length: usize = (0..F::COUNT).map(|field| value(field).len()).sum();
    if length >= usize::from(SAME) {
        return Err(TooLong);
    }
    let mut block = Vec::with_capacity(F::COUNT * 2 + length);
    block.resize(F::COUNT * 2, 0);
    let text = block.len();
    for field in 0..F::COUNT {
        let own = value(field);
        let same = (own.len() >= WORTH_SHARING)
            .then(|| (0..field).find(|earlier| value(*earlier) == own))
            .flatten();
        let entry = match same {
            Some(earlier) => SAME | earlier as u16,
            None => {
                block.extend_from_slice(own);
                (block.len() - text) as u16
            }
        };
        block[field * 2..field * 2 + 2].copy_from_slice(&entry.to_le_bytes());
    }
    Ok(block)
}

/// A block could be packed again with so many bytes more. (Fields that share
/// their text may have one each then.)
pub fn has_room(block: &[u8], more: usize) -> bool {
    block.len() + more < usize::from(SAME) / 2
}

/// Takes so many bytes from the start of `rest`, or all that there are.
pub(crate) fn take<'a>(rest: &mut &'a [u8], count: usize) -> &'a [u8] {
    let (taken, left) = rest.split_at_checked(count).unwrap_or((rest, b""));
    *rest = left;
    taken
}

/// Whether this is a token (RFC 3261 25.1).
pub fn is_token(text: &[u8]) -> bool {
    let is = |byte: &u8| {
        byte.is_ascii_alphanumeric()
            || matches!(byte, b'-' | b'.' | b'!' | b'%' | b'*' | b'_' | b'+' | b'`' | b'\'' | b'~')
    };
    !text.is_empty() && text.iter().all(is)
}

/// Splits at a separator outside quoted strings.
pub fn split_unquoted(value: &[u8], separator: u8) -> Vec<&[u8]> {
    let mut parts = Vec::new();
    let (mut start, mut quoted, mut escaped) = (0, false, false);
    for (at, byte) in value.iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b if *b == separator && !quoted => {
                parts.push(&value[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&value[start..]);
    parts
}

/// Appends a number in decimal digits: what `format!` costs more for.
pub fn push_decimal(out: &mut Vec<u8>, mut number: u32) {
    let mut digits = [0u8; 10];
    let mut start = digits.len();
    while start > 0 {
        start -= 1;
        digits[start] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[start..]);
}

/// One in each byte.
const ONES: u64 = u64::MAX / 255;

/// The eight hexadecimal digits of a number, made all at once.
fn digits_of(number: u32) -> [u8; 8] {
    let mut nibbles = u64::from(number);
    nibbles = (nibbles | nibbles << 16) & 0x0000_FFFF_0000_FFFF;
    nibbles = (nibbles | nibbles << 8) & 0x00FF_00FF_00FF_00FF;
    nibbles = (nibbles | nibbles << 4) & (15 * ONES);
    let letters = ((nibbles + 6 * ONES) >> 4) & ONES;
    (nibbles + u64::from(b'0') * ONES + letters * u64::from(b'a' - b'0' - 10)).to_be_bytes()
}

/// The number that eight lower-case hexadecimal digits stand for.
pub fn from_digits(digits: [u8; 8]) -> Option<u32> {
    let word = u64::from_be_bytes(digits);
    let letters = (word >> 6) & ONES;
    let mut nibbles = (word & (15 * ONES)) + letters * 9;
    let most = nibbles & !(15 * ONES);
    nibbles = (nibbles | nibbles >> 4) & 0x00FF_00FF_00FF_00FF;
    nibbles = (nibbles | nibbles >> 8) & 0x0000_FFFF_0000_FFFF;
    let number = (nibbles | nibbles >> 16) as u32;
    // Anything else is read as digits, but not as those that it is made of.
    (most == 0 && digits_of(number) == digits).then_some(number)
}

/// Appends bytes in hexadecimal digits.
pub fn push_hexadecimal(out: &mut Vec<u8>, bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let (fours, rest) = bytes.as_chunks::<4>();
    for four in fours {
        out.extend_from_slice(&digits_of(u32::from_be_bytes(*four)));
    }
    for byte in rest {
        out.extend([DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
    }
}

/// A view of a packed block.
#[derive(Debug)]
pub struct Packed<'a, F> {
    block: &'a [u8],
    fields: PhantomData<F>,
}

impl<F> Clone for Packed<'_, F> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<F> Copy for Packed<'_, F> {}

impl<'a, F: Fields> Packed<'a, F> {
    /// Looks at a block that `pack` made.
    pub fn new(block: &'a [u8]) -> Packed<'a, F> {
        Packed { block, fields: PhantomData }
    }

    /// One field; empty if the block is not of this kind.
    pub fn get(self, field: F) -> &'a [u8] {
        let mut at = field.index();
        if let Some(entry) = self.entry(at)
            && entry & SAME != 0
        {
            at = usize::from(entry & !SAME).min(at);
        }
        // Fields that are the same as others have no text of their own.
        let mut before = (0..at).rev().filter_map(|at| self.entry(at));
        let start = before.find(|entry| entry & SAME == 0).unwrap_or(0);
        let text = self.block.get(F::COUNT * 2..).unwrap_or_default();
        match self.entry(at) {
            Some(end) => text.get(usize::from(start)..usize::from(end)).unwrap_or_default(),
            None => b"",
        }
    }

    /// All fields in order; with each the number of the earlier one that it is the
    /// same as, if that is how it was packed.
    pub(crate) fn fields(self) -> impl Iterator<Item = (&'a [u8], Option<u8>)> {
        let (entries, text) = self.block.split_at_checked(2 * F::COUNT).unwrap_or_default();
        let mut start = 0;
        entries.as_chunks::<2>().0.iter().map(move |entry| {
            let entry = u16::from_le_bytes(*entry);
            if entry & SAME == 0 {
                let own = text.get(start..usize::from(entry)).unwrap_or_default();
                start = usize::from(entry);
                return (own, None);
            }
            let earlier = usize::from(entry & !SAME);
            let end = |field| self.entry(field).filter(|entry| entry & SAME == 0);
            let before = (0..earlier.min(F::COUNT)).rev().find_map(end).unwrap_or_default();
            let shared = end(earlier).and_then(|end| text.get(before.into()..end.into()));
            (shared.unwrap_or_default(), u8::try_from(earlier).ok())
        })
    }

    fn entry(self, field: usize) -> Option<u16> {
        let bytes = self.block.get(field * 2..field * 2 + 2)?;
        Some(u16::from_le_bytes([bytes[0], bytes[1]]))
    }

    /// The whole block.
    pub fn block(self) -> &'a [u8] {
        self.block
    }
}

/// Declares an enum of text fields.
macro_rules! fields {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name { $($(#[$field_doc])* $field),+ }

        impl $crate::presence::text::Fields for $name {
            const COUNT: usize = [$($name::$field),+].len();
            fn index(self) -> usize { self as usize }
        }

        impl $name {
            /// All fields in their packed order.
            pub const ALL: &'static [$name] = &[$($name::$field),+];
        }
    };
}
pub(crate) use fields;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fields! {
        /// Test fields.
        Letters { /// a
            A, /// b
            B, /// c
            C }
    }

    #[test]
    fn fields_come_back() {
        let texts = [b"one".to_vec(), Vec::new(), b"three".to_vec()];
        let block = pack::<Letters>(|n| texts[n].as_slice()).unwrap_or_default();
        for field in Letters::ALL {
            assert_eq!(Packed::new(&block).get(*field), texts[field.index()]);
        }
    }

    #[test]
    fn a_strange_block_has_empty_fields() {
        for block in
            [&b""[..], b"\x01", b"\xff\xff\x00\x00\xff\x00ab", b"\x01\x80\x00\x80\x01\x80a"]
        {
            for field in Letters::ALL {
                assert!(Packed::new(block).get(*field).is_empty());
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        assert_eq!(pack::<Letters>(|_| &[0; 10_923]), Err(TooLong));
        assert!(pack::<Letters>(|_| &[0; 10_922]).is_ok());
    }

    #[test]
    fn what_is_the_same_is_kept_once() {
        let texts: [&[u8]; 3] = [b"example.org", b"x", b"example.org"];
        let block = pack::<Letters>(|n| texts[n]).unwrap_or_default();
        assert_eq!(block.len(), 6 + 12);
        for field in Letters::ALL {
            assert_eq!(Packed::new(&block).get(*field), texts[field.index()]);
        }
    }

    proptest! {
        #[test]
        fn any_fields_come_back(texts in proptest::array::uniform3("[ab]{0,4}")) {
            let block = pack::<Letters>(|n| texts[n].as_bytes()).unwrap_or_default();
            for field in Letters::ALL {
                prop_assert_eq!(Packed::new(&block).get(*field), texts[field.index()].as_bytes());
            }
        }

        #[test]
        fn digits_are_read(number: u32, at in 0usize..8, byte: u8) {
            let mut digits = digits_of(number);
            prop_assert_eq!(from_digits(digits), Some(number));
            digits[at] = byte;
            let text = String::from_utf8_lossy(&digits).into_owned();
            let canonical = byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
            let expected = u32::from_str_radix(&text, 16).ok().filter(|_| canonical);
            prop_assert_eq!(from_digits(digits), expected);
        }

        #[test]
        fn digits_are_those_of_format(number: u32, bytes: [u8; 16]) {
            let mut out = Vec::new();
            push_decimal(&mut out, number);
            out.push(b' ');
            push_hexadecimal(&mut out, &bytes);
            let expected = format!("{number} {:032x}", u128::from_be_bytes(bytes));
            prop_assert_eq!(out, expected.into_bytes());
        }
    }
}
