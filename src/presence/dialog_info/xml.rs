//! XML for the documents that presence itself reads and writes: a bounded
//! walk over foreign documents, and escaping for our own.
//!
//! Whatever a client sends is read in time linear in its length: depth,
//! attributes and namespace declarations are limited, and entities other than
//! XML's own are not expanded.

use quick_xml::Reader;
use quick_xml::escape::resolve_predefined_entity;
use quick_xml::events::{BytesRef, BytesStart, Event};

/// Deepest nesting (libxml2's limit, too).
const MAX_DEPTH: usize = 256;
/// Most attributes of one element.
const MAX_ATTRIBUTES: usize = 256;
/// Most namespace declarations in scope.
const MAX_BINDINGS: usize = 256;

/// What the walk meets. The root element is opened at depth 0; text and the
/// end of an element have the depth at which the element was opened.
pub(in crate::presence) enum Node<'n> {
    /// An element begins.
    Open(Element<'n>),
    /// A piece of an element's own text.
    Text(&'n [u8]),
    /// An element ends.
    Close,
}

/// The beginning of an element.
pub(in crate::presence) struct Element<'n> {
    /// Prefix; empty if there is none.
    pub prefix: &'n [u8],
    /// Name without prefix.
    pub name: &'n [u8],
    /// URI of its namespace; empty if it has none.
    pub namespace: &'n [u8],
    start: &'n BytesStart<'n>,
}

impl Element<'_> {
    /// The value of an attribute without prefix.
    pub fn attribute(&self, name: &[u8]) -> Option<Vec<u8>> {
        let attribute = self.start.try_get_attribute(name).ok().flatten()?;
        if attribute.value.contains(&b'&') {
            return attribute.unescape_value().ok().map(|value| value.into_owned().into_bytes());
        }
        Some(attribute.value.into_owned())
    }
}

/// Visits a document from its beginning to its end. `false` if it is not well
/// formed or exceeds a limit: what was visited until then does not count.
pub(in crate::presence) fn walk(body: &[u8], mut visit: impl FnMut(usize, Node<'_>)) -> bool {
    let mut reader = Reader::from_reader(body);
    reader.config_mut().expand_empty_elements = true;
    let mut scope = Scope::default();
    let (mut depth, mut complete) = (0usize, false);
    loop {
        let Ok(event) = reader.read_event() else { return false };
        match (event, depth.checked_sub(1)) {
            (Event::Start(start), _) => {
                if complete || depth >= MAX_DEPTH || !scope.enter(depth, &start) {
                    return false;
                }
                let name = start.name();
                let prefix = name.prefix().map_or(&b""[..], |prefix| prefix.into_inner());
                let element = Element {
                    prefix,
                    name: name.local_name().into_inner(),
                    namespace: scope.resolve(prefix),
                    start: &start,
                };
                visit(depth, Node::Open(element));
                depth += 1;
            }
            (Event::End(_), Some(inside)) => {
                visit(inside, Node::Close);
                scope.leave(inside);
                depth = inside;
                complete = depth == 0;
            }
            (Event::Text(text), Some(inside)) => visit(inside, Node::Text(&text)),
            (Event::CData(text), Some(inside)) => visit(inside, Node::Text(&text)),
            (Event::GeneralRef(reference), Some(inside)) => {
                let Some(text) = resolve(&reference) else { return false };
                visit(inside, Node::Text(text.as_bytes()));
            }
            (Event::Text(text), None) if text.trim_ascii().is_empty() => {}
            (Event::Decl(_) | Event::DocType(_), None) if !complete => {}
            (Event::Comment(_) | Event::PI(_), _) => {}
            (Event::Eof, None) => return complete,
            _ => return false,
        }
    }
}

/// A character reference or one of the five entities that XML defines.
fn resolve(reference: &BytesRef<'_>) -> Option<String> {
    if reference.is_char_ref() {
        return reference.resolve_char_ref().ok().flatten().map(String::from);
    }
    let name = std::str::from_utf8(reference).ok()?;
    resolve_predefined_entity(name).map(str::to_owned)
}

/// The namespace declarations in scope, each with the depth it was made at.
#[derive(Default)]
struct Scope {
    bindings: Vec<(usize, Vec<u8>, Vec<u8>)>,
}

impl Scope {
    /// Takes an element's declarations in; `false` if its attributes are
    /// malformed or too many.
    fn enter(&mut self, depth: usize, start: &BytesStart<'_>) -> bool {
        for (count, attribute) in start.attributes().enumerate() {
            let Ok(attribute) = attribute else { return false };
            let foul = attribute.value.contains(&b'<')
                || (attribute.value.contains(&b'&') && attribute.unescape_value().is_err());
            if foul || count >= MAX_ATTRIBUTES {
                return false;
            }
            let key = attribute.key.into_inner();
            let prefix = match key.strip_prefix(b"xmlns") {
                Some([]) => &b""[..],
                Some([b':', prefix @ ..]) => prefix,
                _ => continue,
            };
            if self.bindings.len() >= MAX_BINDINGS {
                return false;
            }
            self.bindings.push((depth, prefix.to_vec(), attribute.value.into_owned()));
        }
        true
    }

    fn leave(&mut self, depth: usize) {
        while self.bindings.last().is_some_and(|(made_at, ..)| *made_at >= depth) {
            self.bindings.pop();
        }
    }

    fn resolve(&self, prefix: &[u8]) -> &[u8] {
        let bound = self.bindings.iter().rev().find(|(_, known, _)| known == prefix);
        bound.map_or(b"", |(.., uri)| uri)
    }
}

/// Appends text so that it is right both in an attribute and in an element.
/// What XML cannot hold (control characters, bytes that are not UTF-8)
/// becomes U+FFFD.
pub(in crate::presence) fn escape(out: &mut Vec<u8>, text: &[u8]) {
    for chunk in text.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '&' => out.extend_from_slice(b"&amp;"),
                '<' => out.extend_from_slice(b"&lt;"),
                '>' => out.extend_from_slice(b"&gt;"),
                '"' => out.extend_from_slice(b"&quot;"),
                // They are written as references, so that an attribute keeps them.
                '\t' => out.extend_from_slice(b"&#9;"),
                '\n' => out.extend_from_slice(b"&#10;"),
                '\r' => out.extend_from_slice(b"&#13;"),
                '\0'..=' ' if character != ' ' => push(out, char::REPLACEMENT_CHARACTER),
                '\u{fffe}' | '\u{ffff}' => push(out, char::REPLACEMENT_CHARACTER),
                _ => push(out, character),
            }
        }
        if !chunk.invalid().is_empty() {
            push(out, char::REPLACEMENT_CHARACTER);
        }
    }
}

fn push(out: &mut Vec<u8>, character: char) {
    out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// All elements as `depth namespace|name`, and the text; `None` if not
    /// well formed.
    fn outline(body: &[u8]) -> Option<(Vec<String>, Vec<u8>)> {
        let (mut elements, mut content) = (Vec::new(), Vec::new());
        walk(body, |depth, node| match node {
            Node::Open(element) => {
                let part = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                let (namespace, name) = (part(element.namespace), part(element.name));
                elements.push(format!("{depth} {namespace}|{name}"));
            }
            Node::Text(text) => content.extend_from_slice(text),
            Node::Close => {}
        })
        .then_some((elements, content))
    }

    #[test]
    fn prefixes_are_resolved_in_their_scope() {
        let body = b"\xef\xbb\xbf<?xml version=\"1.0\"?><!-- x --><a xmlns='u' xmlns:p='v'>\
            <p:b xmlns:p='w'/><p:c xmlns=''><d/></p:c>t&amp;&#65;<![CDATA[<]]></a>\n";
        let (elements, text) = outline(body).unwrap_or_default();
        assert_eq!(elements, ["0 u|a", "1 w|b", "1 v|c", "2 |d"]);
        assert_eq!(text, b"t&A<");
    }

    #[test]
    fn what_is_not_well_formed_is_refused() {
        for body in [
            "",
            "text",
            "<a>",
            "</a>",
            "<a></b>",
            "<a/><b/>",
            "<a/>text",
            "text<a/>",
            "<a b/>",
            "<a b='1' b='2'/>",
            "<a>&unknown;</a>",
            "<a b='&unknown;'/>",
            "<a b='<'/>",
            "<a>&</a>",
            "<a/>&amp;",
            "<a><?xml version='1.0'?></a>",
            "<!DOCTYPE a [<!ENTITY e 'x'>]><a>&e;</a>",
        ] {
            assert_eq!(outline(body.as_bytes()), None, "{body}");
        }
    }

    #[test]
    fn limits_hold() {
        let nested = |depth| ["<a>".repeat(depth), "</a>".repeat(depth)].concat();
        assert!(outline(nested(256).as_bytes()).is_some());
        assert!(outline(nested(257).as_bytes()).is_none());
        let wide = |count| {
            let attributes: String = (0..count).map(|n| format!(" a{n}='{n}'")).collect();
            format!("<a{attributes}/>")
        };
        assert!(outline(wide(256).as_bytes()).is_some());
        assert!(outline(wide(100_000).as_bytes()).is_none());
        let bindings = "<a xmlns:p='u'>".repeat(200) + &"</a>".repeat(200);
        assert!(outline(bindings.as_bytes()).is_some());
        let siblings = format!("<a>{}</a>", "<b xmlns='u'/>".repeat(10_000));
        assert!(outline(siblings.as_bytes()).is_some());
    }

    proptest! {
        #[test]
        fn any_bytes_are_walked(body: Vec<u8>) {
            let _ = outline(&body);
        }

        #[test]
        fn anything_like_xml_is_walked(body in "([<>/a:&;'=!\\[\\]? x-]|xmlns|<a>|</a>|<!--){0,40}") {
            let _ = outline(body.as_bytes());
        }

        #[test]
        fn escaped_text_comes_back(text: Vec<u8>) {
            let mut body = b"<a b=\"".to_vec();
            escape(&mut body, &text);
            body.extend_from_slice(b"\">");
            escape(&mut body, &text);
            body.extend_from_slice(b"</a>");
            let mut attribute = None;
            let (_, content) = outline(&body).unwrap_or_default();
            let well_formed = walk(&body, |_, node| if let Node::Open(element) = node {
                attribute = element.attribute(b"b");
            });
            prop_assert!(well_formed);
            let kept: String = String::from_utf8_lossy(&text).chars().map(|c| match c {
                '\t' | '\n' | '\r' => c,
                '\0'..='\u{1f}' | '\u{fffe}' | '\u{ffff}' => '\u{fffd}',
                _ => c,
            }).collect();
            prop_assert_eq!(String::from_utf8_lossy(&content), kept.as_str());
            prop_assert_eq!(attribute, Some(kept.into_bytes()));
        }
    }
}
