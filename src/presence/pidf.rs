//! Presence documents (RFC 3863): as much as the server itself has to know of
//! them. Merging and filtering them is presence_xml's business.

use crate::presence::content_type;
use crate::presence::dialog_info::xml::{self, Element, Node};

/// The content type of presence documents.
pub const CONTENT_TYPE: &[u8] = b"application/pidf+xml";

/// The namespace of RPID (RFC 4480).
const RPID: &[u8] = b"urn:ietf:params:xml:ns:pidf:rpid";

/// Whether a Content-Type value is that of a presence document.
pub fn is_pidf(content_type: &[u8]) -> bool {
    content_type::matches(content_type, CONTENT_TYPE)
}

/// The sphere the presentity says it is in (RFC 4480 3.10): the text of the
/// first `<sphere>` of RPID or, where there is none, the name of the element
/// in it, such as `work`. `None` if there is no sphere or the document is not
/// well formed.
///
/// The stock module takes the text only, so that rules never see the form of
/// the RFC, and knows the element by the prefixes `rpid` and `r`.
pub fn sphere(body: &[u8]) -> Option<Vec<u8>> {
    // Depth of the sphere while it is open.
    let mut open = None;
    let mut found = false;
    let (mut text, mut child) = (Vec::new(), None);
    let well_formed = xml::walk(body, |depth, node| match node {
        Node::Open(element) => match open {
            None if !found && is_sphere(&element) => (open, found) = (Some(depth), true),
            Some(sphere) if depth == sphere + 1 && child.is_none() && element.name != b"note" => {
                child = Some(element.name.to_vec());
            }
            _ => {}
        },
        Node::Text(piece) if open == Some(depth) => text.extend_from_slice(piece),
        Node::Text(_) => {}
        Node::Close if open == Some(depth) => open = None,
        Node::Close => {}
    });
    if !well_formed {
        return None;
    }
    match text.trim_ascii() {
        b"" => child,
        text => Some(text.to_vec()),
    }
}

/// Whether a document is well-formed XML.
pub fn is_well_formed(body: &[u8]) -> bool {
    let mut elements = 0;
    xml::walk(body, |_, node| elements += u32::from(matches!(node, Node::Open(_)))) && elements > 0
}

fn is_sphere(element: &Element<'_>) -> bool {
    let stock_prefix = [&b"rpid"[..], b"r"].iter().any(|p| element.prefix.eq_ignore_ascii_case(p));
    element.name.eq_ignore_ascii_case(b"sphere") && (element.namespace == RPID || stock_prefix)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn person(sphere: &str) -> String {
        format!(
            "<?xml version='1.0' encoding='UTF-8'?><presence xmlns='urn:ietf:params:xml:ns:pidf' \
             xmlns:dm='urn:ietf:params:xml:ns:pidf:data-model' xmlns:r='urn:other' \
             xmlns:x='urn:ietf:params:xml:ns:pidf:rpid' entity='sip:a@b'>\
             <tuple id='t'><status><basic>open</basic></status></tuple>\
             <dm:person id='p'>{sphere}</dm:person></presence>"
        )
    }

    #[test]
    fn a_sphere_is_its_text_or_the_element_in_it() {
        for (inner, sphere) in [
            ("", None),
            ("<x:sphere>work</x:sphere>", Some("work")),
            ("<x:sphere>\n work </x:sphere>", Some("work")),
            ("<r:sphere>home</r:sphere>", Some("home")),
            ("<rpid:sphere>home</rpid:sphere>", Some("home")),
            ("<x:sphere><x:work/></x:sphere>", Some("work")),
            ("<x:sphere> <x:note>at it</x:note> <x:work>1</x:work> </x:sphere>", Some("work")),
            ("<x:sphere>bowling &amp; league</x:sphere>", Some("bowling & league")),
            ("<x:sphere/>", None),
            ("<sphere>work</sphere>", None),
            ("<dm:sphere>work</dm:sphere>", None),
            ("<x:sphere>one</x:sphere><x:sphere>two</x:sphere>", Some("one")),
            ("<x:activities><x:work/></x:activities>", None),
        ] {
            let found = super::sphere(person(inner).as_bytes());
            assert_eq!(found.as_deref(), sphere.map(str::as_bytes), "{inner}");
        }
    }

    #[test]
    fn a_broken_document_has_no_sphere() {
        assert_eq!(sphere(b""), None);
        assert_eq!(sphere(b"<r:sphere xmlns:r='u'>work</r:sphere><"), None);
    }

    #[test]
    fn pidf_is_known_by_its_type() {
        assert!(is_pidf(b"application/PIDF+xml; charset=utf-8"));
        assert!(!is_pidf(b"application/pidf-diff+xml"));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(body: Vec<u8>) {
            let _ = sphere(&body);
        }

        #[test]
        fn any_text_comes_back(text in "\\PC*") {
            let mut escaped = Vec::new();
            xml::escape(&mut escaped, text.as_bytes());
            let inner = format!("<x:sphere>{}</x:sphere>", String::from_utf8_lossy(&escaped));
            let expected = Some(text.as_bytes().trim_ascii()).filter(|t| !t.is_empty());
            let found = sphere(person(&inner).as_bytes());
            prop_assert_eq!(found.as_deref(), expected);
        }
    }
}
