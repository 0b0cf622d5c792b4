//! Media types (RFC 3261 20.15): which published documents a package takes.

/// Whether two Content-Type values name the same media type. Case, parameters
/// and white space do not matter. A value that is no media type equals none.
pub fn matches(one: &[u8], other: &[u8]) -> bool {
    if one == other {
        return media_type(one).is_some();
    }
    match (media_type(one), media_type(other)) {
        (Some((type_1, subtype_1)), Some((type_2, subtype_2))) => {
            type_1.eq_ignore_ascii_case(type_2) && subtype_1.eq_ignore_ascii_case(subtype_2)
        }
        _ => false,
    }
}

/// Whether a package whose documents have type `package` takes a document of
/// type `given`. A document without type is taken to be the package's, as the
/// stock module does.
pub fn acceptable(given: Option<&[u8]>, package: &[u8]) -> bool {
    given.is_none_or(|given| given.trim_ascii().is_empty() || matches(given, package))
}

/// Type and subtype. `None` if one of them is missing.
fn media_type(value: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = value.iter().position(|byte| *byte == b';').unwrap_or(value.len());
    let value = value.get(..end)?;
    let slash = value.iter().position(|byte| *byte == b'/')?;
    let (kind, subtype) = (value.get(..slash)?.trim_ascii(), value.get(slash + 1..)?.trim_ascii());
    (!kind.is_empty() && !subtype.is_empty()).then_some((kind, subtype))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PIDF: &[u8] = b"application/pidf+xml";

    #[test]
    fn case_parameters_and_space_do_not_matter() {
        for given in [
            "application/pidf+xml",
            "Application/PIDF+XML",
            " application / pidf+xml ",
            "application/pidf+xml;charset=\"UTF-8\"",
            "application/pidf+xml ; charset=a/b",
        ] {
            assert!(matches(given.as_bytes(), PIDF), "{given}");
        }
    }

    #[test]
    fn other_types_differ() {
        for given in [
            "",
            "application",
            "application/",
            "/pidf+xml",
            "text/pidf+xml",
            "application/xpidf+xml",
            ";application/pidf+xml",
            "application/pidf+xml, text/plain",
        ] {
            assert!(!matches(given.as_bytes(), PIDF), "{given}");
        }
        assert!(!matches(b"", b""));
    }

    #[test]
    fn a_document_without_type_is_taken() {
        for given in [None, Some(&b""[..]), Some(b" "), Some(b"application/PIDF+xml;x")] {
            assert!(acceptable(given, PIDF), "{given:?}");
        }
        assert!(!acceptable(Some(b"text/plain"), PIDF));
    }

    proptest! {
        #[test]
        fn any_bytes_are_compared(one: Vec<u8>, other: Vec<u8>) {
            prop_assert_eq!(matches(&one, &other), matches(&other, &one));
        }
    }
}
