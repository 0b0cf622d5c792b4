//! Values as SQL literals.

use crate::ports::Value;

/// Writes a value between quotes, or a number without them (`bare`). `false`
/// when it has to be left to the driver; `text` then ends somewhere in it.
///
/// Text is written if it is printable ASCII without a backslash: what a
/// backslash means depends on the server's mode, other bytes on the
/// connection's character set. A quote is doubled, which all understand.
#[must_use]
pub fn push(text: &mut Vec<u8>, value: &Value, bare: bool) -> bool {
    match value {
        // A larger one has another type, and is no value of the column's.
        Value::Int(number) if i32::try_from(*number).is_ok() => {
            let digits = number.to_string();
            let quote: &[u8] = if bare { b"" } else { b"'" };
            for part in [quote, digits.as_bytes(), quote] {
                text.extend_from_slice(part);
            }
            true
        }
        Value::Text(bytes) if bytes.iter().all(is_plain) => {
            text.push(b'\'');
            for byte in bytes {
                if *byte == b'\'' {
                    text.push(b'\'');
                }
                text.push(*byte);
            }
            text.push(b'\'');
            true
        }
        // Among others NULL would take their type, where there is one.
        Value::Int(_) | Value::Text(_) | Value::Blob(_) | Value::Null => false,
    }
}

fn is_plain(byte: &u8) -> bool {
    matches!(byte, b' '..=b'~') && *byte != b'\\'
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What a server reads, in the mode given: the text of a literal and what
    /// is left behind it. `None` if it does not end.
    fn read(literal: &[u8], backslash_escapes: bool) -> Option<(Vec<u8>, &[u8])> {
        let mut rest = literal.strip_prefix(b"'")?;
        let mut read = Vec::new();
        loop {
            match rest {
                [b'\\', byte, after @ ..] if backslash_escapes => {
                    read.push(*byte);
                    rest = after;
                }
                [b'\'', b'\'', after @ ..] => {
                    read.push(b'\'');
                    rest = after;
                }
                [b'\'', after @ ..] => return Some((read, after)),
                [byte, after @ ..] => {
                    read.push(*byte);
                    rest = after;
                }
                [] => return None,
            }
        }
    }

    fn written(value: &Value) -> Option<Vec<u8>> {
        let mut text = Vec::new();
        push(&mut text, value, true).then_some(text)
    }

    #[test]
    fn plain_values_are_written() {
        let text = |text: &str| written(&Value::text(text.as_bytes()));
        assert_eq!(text("").as_deref(), Some(&b"''"[..]));
        assert_eq!(text("sip:o'brien@h").as_deref(), Some(&b"'sip:o''brien@h'"[..]));
        assert_eq!(text("a\"b`c;--?%s:x$1").as_deref(), Some(&b"'a\"b`c;--?%s:x$1'"[..]));
        assert_eq!(written(&Value::Int(-7)).as_deref(), Some(&b"-7"[..]));
        let mut quoted = Vec::new();
        assert!(push(&mut quoted, &Value::Int(-7), false));
        assert_eq!(quoted, b"'-7'");
    }

    #[test]
    fn the_driver_gets_what_is_not_plain() {
        for bytes in [&b"a\\b"[..], b"a\0b", "\u{e9}".as_bytes(), b"\xbf\x27", b"a\nb", b"\x7f"] {
            assert_eq!(written(&Value::text(bytes)), None, "{bytes:?}");
        }
        assert_eq!(written(&Value::Null), None);
        assert_eq!(written(&Value::Blob(b"a".to_vec())), None);
        assert_eq!(written(&Value::Int(i64::from(i32::MAX) + 1)), None);
    }

    proptest! {
        #[test]
        fn no_value_escapes(
            bytes in proptest::collection::vec(
                prop_oneof![any::<u8>(), Just(b'\''), Just(b'\\'), Just(b'a')],
                0..40,
            ),
            behind in proptest::collection::vec(any::<u8>(), 0..5),
        ) {
            if let Some(mut literal) = written(&Value::Text(bytes.clone())) {
                // Every multibyte character set has ASCII as it is.
                prop_assert!(literal.is_ascii());
                literal.push(b',');
                literal.extend_from_slice(&behind);
                for backslash_escapes in [false, true] {
                    let (read, rest) = read(&literal, backslash_escapes).unwrap();
                    prop_assert_eq!(&read, &bytes);
                    prop_assert_eq!(&rest[1..], &behind[..]);
                }
            }
        }
    }
}
