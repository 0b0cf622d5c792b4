//! Media types (RFC 3261 20.15, 20.1): which published documents a package takes,
//! and whose documents a watcher does.

use crate::presence::header_values::Values;
use crate::presence::text::split_unquoted;

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

/// Types that a sibling may make of a package's documents: what rls sends for
/// a list (RFC 4662).
const CONTAINERS: [(&[u8], &[u8]); 3] =
    [(b"multipart", b"related"), (b"multipart", b"mixed"), (b"application", b"rlmi+xml")];

/// Types that say what NOTIFYs of their packages have (RFC 3863, 3858, 4235,
/// 3842, 4575, 3680, 5875). What a package with another type may send in its
/// place, as profiles in `text/xml` are URLs for some phones, nobody but its
/// module knows.
const SETTLED: [&[u8]; 7] = [
    b"application/pidf+xml",
    b"application/watcherinfo+xml",
    b"application/dialog-info+xml",
    b"application/simple-message-summary",
    b"application/conference-info+xml",
    b"application/reginfo+xml",
    b"application/xcap-diff+xml",
];

/// Whether a watcher with these Accept headers can take documents of type
/// `package`: one of them names it, or a wildcard does, and does not refuse it
/// by `q=0`; the most specific range counts. What a sibling may make of the
/// documents counts as well, and so does a relative of the type (`xpidf+xml`
/// for `pidf+xml`, plain XML for `…+xml`): phones name these and take the
/// other. Headers that name no type at all say nothing.
pub fn is_accepted(accept: &Values<'_>, package: &[u8]) -> bool {
    if accept.is_empty() {
        return true;
    }
    let Some((kind, subtype)) = media_type(package) else { return true };
    if !SETTLED.iter().any(|settled| matches(settled, package)) {
        return true;
    }
    let (mut names_any, mut relative, mut best) = (false, false, (0, false));
    for range in accept.iter().flat_map(|value| split_unquoted(value, b',')) {
        let (range_kind, range_subtype) = match media_type(range) {
            Some(range) => range,
            None if parameters(range).0 == b"*" => (&b"*"[..], &b"*"[..]),
            None => continue,
        };
        names_any = true;
        let taken = !is_refused(range);
        let same_kind = range_kind.eq_ignore_ascii_case(kind);
        let precision = match (range_kind, range_subtype) {
            _ if same_kind && range_subtype.eq_ignore_ascii_case(subtype) => 3,
            (_, b"*") if same_kind => 2,
            (b"*", b"*") => 1,
            _ => {
                relative |= taken && is_relative((range_kind, range_subtype), subtype);
                continue;
            }
        };
        best = best.max((precision, taken));
    }
    !names_any || relative || best.1
}

/// A type that may come instead of `subtype`, or whose takers take it.
fn is_relative((kind, other): (&[u8], &[u8]), subtype: &[u8]) -> bool {
    let family = family(subtype);
    CONTAINERS.iter().any(|(one, two)| {
        let any_part = other == b"*" && *one == b"multipart";
        one.eq_ignore_ascii_case(kind) && (any_part || two.eq_ignore_ascii_case(other))
    }) || other.eq_ignore_ascii_case(b"xml") && ends_with(subtype, b"+xml")
        || other.windows(family.len()).any(|part| part.eq_ignore_ascii_case(family))
}

/// What relatives have in common: `pidf`, `dialog-info`, `message-summary`.
fn family(subtype: &[u8]) -> &[u8] {
    let core = match ends_with(subtype, b"+xml") {
        true => subtype.get(..subtype.len() - 4).unwrap_or(subtype),
        false => subtype,
    };
    match core.split_at_checked(b"simple-".len()) {
        Some((start, rest)) if start.eq_ignore_ascii_case(b"simple-") && !rest.is_empty() => rest,
        _ => core,
    }
}

fn ends_with(text: &[u8], end: &[u8]) -> bool {
    text.len() > end.len()
        && text.get(text.len() - end.len()..).is_some_and(|tail| tail.eq_ignore_ascii_case(end))
}

/// A media range with `q=0` (RFC 3261 20.1).
fn is_refused(range: &[u8]) -> bool {
    split_unquoted(parameters(range).1, b';').into_iter().any(|parameter| {
        let mut halves = parameter.splitn(2, |byte| *byte == b'=').map(<[u8]>::trim_ascii);
        let (name, value) = (halves.next().unwrap_or_default(), halves.next().unwrap_or_default());
        name.eq_ignore_ascii_case(b"q")
            && value.first() == Some(&b'0')
            && value.iter().all(|byte| matches!(byte, b'0' | b'.'))
    })
}

/// What is before the parameters, and the parameters.
fn parameters(value: &[u8]) -> (&[u8], &[u8]) {
    let end = value.iter().position(|byte| *byte == b';').unwrap_or(value.len());
    let (front, rest) = value.split_at(end);
    (front.trim_ascii(), rest.strip_prefix(b";").unwrap_or_default())
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

    fn accepted(accept: &[&str], package: &str) -> bool {
        let accept = accept.iter().map(|value| value.as_bytes()).collect();
        is_accepted(&accept, package.as_bytes())
    }

    #[test]
    fn phones_that_take_the_documents_are_served() {
        for (accept, package) in [
            // No header, or none with a type in it.
            (&[][..], "application/pidf+xml"),
            (&["", " , ;q=0", "nonsense"], "application/pidf+xml"),
            (&["application/pidf+xml"], "application/pidf+xml"),
            (&["Application/PIDF+XML;q=0.1"], "application/pidf+xml"),
            (&["text/plain", "x/y, application/pidf+xml ;level=\"a,b\""], "application/pidf+xml"),
            (&["*/*"], "application/dialog-info+xml"),
            (&["text/html, *; q=.2, */*; q=.2"], "application/dialog-info+xml"),
            (&["application/*;q=0.2"], "application/simple-message-summary"),
            (&["application/sdp, multipart/related, application/rlmi+xml"], "application/pidf+xml"),
            (&["multipart/*"], "application/pidf+xml"),
            // Lists as phones and soft phones send them.
            (
                &["multipart/related, application/rlmi+xml, application/pidf+xml"],
                "application/pidf+xml",
            ),
            (&["application/xpidf+xml, text/xml+msrtc.pidf"], "application/pidf+xml"),
            (&["application/cpim-pidf+xml"], "application/pidf+xml"),
            (&["application/pidf-diff+xml"], "application/pidf+xml"),
            (&["application/xml"], "application/dialog-info+xml"),
            (&["text/xml"], "application/watcherinfo+xml"),
            (&["application/x-simple-message-summary"], "application/simple-message-summary"),
            (&["application/dialog-info+xml"], "application/dialog-info+xml"),
            (&["application/watcherinfo+xml"], "application/watcherinfo+xml"),
            // Packages of which only their module knows what they send.
            (&["application/url"], "text/xml"),
            (&["application/pidf+xml"], "text/check"),
            // A package whose type says nothing.
            (&["text/plain"], ""),
        ] {
            assert!(accepted(accept, package), "{accept:?} for {package}");
        }
    }

    #[test]
    fn phones_that_cannot_are_told() {
        for (accept, package) in [
            (&["text/plain"][..], "application/pidf+xml"),
            (&["text/*"], "application/pidf+xml"),
            (&["application/sdp"], "application/simple-message-summary"),
            (&["application/dialog-info+xml"], "application/pidf+xml"),
            (&["application/pidf+xml"], "application/dialog-info+xml"),
            (&["application/pidf+xml"], "application/watcherinfo+xml"),
            (&["application/xml"], "application/simple-message-summary"),
            // A part of a name makes no relative.
            (&["application/session-info"], "application/dialog-info+xml"),
            (&["application/media-control+xml"], "application/dialog-info+xml"),
            (&["application/summary"], "application/simple-message-summary"),
            (&["text/plain", "image/png"], "application/pidf+xml"),
            // The most specific range decides.
            (&["application/pidf+xml;q=0"], "application/pidf+xml"),
            (&["application/pidf+xml ; x=y ; Q = 0.000"], "application/pidf+xml"),
            (&["*/*, application/pidf+xml;q=0.0"], "application/pidf+xml"),
            (&["application/*;q=0", "*/*;q=1"], "application/pidf+xml"),
            (&["*/*;q=0"], "application/pidf+xml"),
            (&["multipart/related;q=0, text/plain"], "application/pidf+xml"),
        ] {
            assert!(!accepted(accept, package), "{accept:?} for {package}");
        }
    }

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
