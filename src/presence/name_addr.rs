//! Addresses in angle brackets (RFC 3261 20: Contact, Record-Route), in the
//! plain form that nearly every one has. The host's parser knows every form,
//! but allocates for each; it is asked where this one gives up.

/// One address: `<uri>`, then maybe parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NameAddr<'a> {
    /// From the bracket to the last parameter.
    pub whole: &'a [u8],
    /// What is between the brackets.
    pub uri: &'a [u8],
}

impl NameAddr<'_> {
    /// Bytes of `whole` up to and with the closing bracket.
    pub fn bracketed(&self) -> usize {
        self.uri.len() + 2
    }
}

/// Reads one address and nothing else; `None` if it is not plain: white space
/// in it, a display name, a quoted pair, a comma, anything malformed.
pub fn single(value: &[u8]) -> Option<NameAddr<'_>> {
    let (address, rest) = first(value)?;
    rest.is_empty().then_some(address)
}

/// Reads addresses that commas separate; `None` if one is not plain.
pub fn list(value: &[u8]) -> Option<Vec<NameAddr<'_>>> {
    let mut addresses = Vec::with_capacity(4);
    let mut rest = value.trim_ascii();
    loop {
        let (address, behind) = first(rest)?;
        addresses.push(address);
        rest = match behind.trim_ascii_start() {
            [] => return Some(addresses),
            [b',', more @ ..] => more.trim_ascii_start(),
            _ => return None,
        };
    }
}

/// The address that `text` begins with, and what is behind it.
fn first(text: &[u8]) -> Option<(NameAddr<'_>, &[u8])> {
    let inside = text.strip_prefix(b"<")?;
    let close = inside.iter().position(|byte| !is_uri_byte(*byte))?;
    let (uri, mut rest) = inside.split_at(close);
    rest = rest.strip_prefix(b">")?;
    if uri.is_empty() {
        return None;
    }
    while let Some(parameter) = rest.strip_prefix(b";") {
        let behind = skip_token(parameter)?;
        rest = match behind.strip_prefix(b"=") {
            None => behind,
            Some(value) => match value.strip_prefix(b"\"") {
                None => skip_token(value)?,
                Some(quoted) => {
                    let end = quoted.iter().position(|byte| !is_quotable(*byte))?;
                    quoted.get(end..)?.strip_prefix(b"\"")?
                }
            },
        };
    }
    let whole = text.get(..text.len() - rest.len())?;
    Some((NameAddr { whole, uri }, rest))
}

fn skip_token(text: &[u8]) -> Option<&[u8]> {
    let end = text.iter().position(|byte| !is_token_byte(*byte)).unwrap_or(text.len());
    (end > 0).then(|| text.get(end..)).flatten()
}

/// What may stand for itself in a URI; brackets and quotes may not.
fn is_uri_byte(byte: u8) -> bool {
    byte.is_ascii_graphic() && !matches!(byte, b'<' | b'>' | b'"' | b'\\')
}

/// A token or a host (RFC 3261 25.1).
fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(byte, b'-' | b'.' | b'!' | b'%' | b'*' | b'_' | b'+' | b'`' | b'\'' | b'~')
        || matches!(byte, b'[' | b']' | b':')
}

fn is_quotable(byte: u8) -> bool {
    (byte.is_ascii_graphic() || byte == b' ') && !matches!(byte, b'"' | b'\\')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn uri(value: &str) -> Option<String> {
        single(value.as_bytes()).map(|one| String::from_utf8_lossy(one.uri).into_owned())
    }

    #[test]
    fn plain_addresses_are_read() {
        for (value, expected) in [
            ("<sip:a@b>", "sip:a@b"),
            ("<sip:a@[::1]:5060;transport=tcp?x=y>", "sip:a@[::1]:5060;transport=tcp?x=y"),
            ("<sip:a@b>;expires=60;ob", "sip:a@b"),
            ("<sip:a@b>;+sip.instance=\"<urn:uuid:1>\";reg-id=1", "sip:a@b"),
        ] {
            assert_eq!(uri(value).as_deref(), Some(expected), "{value}");
        }
    }

    #[test]
    fn everything_else_is_left_to_others() {
        for value in [
            "",
            "*",
            "<",
            "<>",
            "<sip:a",
            "sip:a@b",
            "\"A\" <sip:a@b>",
            "A <sip:a@b>",
            "<sip:a b>",
            "<sip:a@b> ",
            "<sip:a@b>;",
            "<sip:a@b>;;x",
            "<sip:a@b>;x=",
            "<sip:a@b>;x=\"y",
            "<sip:a@b>;x=\"\\\"\"",
            "<sip:a@b>; x",
            "<sip:a@b>x",
            "<sip:a@b>,<sip:c@d>",
            "<a<b>",
            "<sip:a\r\n @b>",
        ] {
            assert_eq!(uri(value), None, "{value}");
        }
    }

    #[test]
    fn a_list_keeps_its_order() {
        let found = list(b" <sip:a;lr>,\r\n <sip:b;lr>;x=y , <sip:c> ").unwrap_or_default();
        let whole: Vec<_> = found.iter().map(|one| one.whole).collect();
        assert_eq!(whole, [&b"<sip:a;lr>"[..], b"<sip:b;lr>;x=y", b"<sip:c>"]);
        assert_eq!(found.first().map(NameAddr::bracketed), Some(10));
        for value in ["", ",", "<sip:a>,", ",<sip:a>", "<sip:a>,,<sip:b>", "<sip:a> <sip:b>"] {
            assert_eq!(list(value.as_bytes()), None, "{value}");
        }
    }

    proptest! {
        #[test]
        fn what_is_read_is_what_was_there(value: Vec<u8>) {
            if let Some(found) = list(&value) {
                let joined: Vec<_> = found.iter().map(|one| one.whole).collect();
                let strip = |text: Vec<u8>| -> Vec<u8> {
                    text.into_iter().filter(|byte| !byte.is_ascii_whitespace()).collect()
                };
                prop_assert_eq!(strip(joined.join(&b","[..])), strip(value.clone()));
            }
        }
    }
}
