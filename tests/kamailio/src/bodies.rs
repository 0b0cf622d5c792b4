//! Documents that are published, and readers for those that come back.

use crate::sip::aor;
use std::fmt::Write as _;

/// Content type of [`pidf`].
pub const PIDF: &str = "application/pidf+xml";
/// Content type of [`dialog_info`].
pub const DIALOG_INFO: &str = "application/dialog-info+xml";
/// Content type of [`message_summary`].
pub const MESSAGE_SUMMARY: &str = "application/simple-message-summary";

/// A PIDF document of one tuple: `basic` is `open` or `closed`; a note is
/// written unless it is empty.
pub fn pidf(entity: &str, tuple_id: &str, basic: &str, note: &str) -> String {
    let note = if note.is_empty() { String::new() } else { format!("<note>{note}</note>") };
    format!(
        "<?xml version=\"1.0\"?>\n<presence xmlns=\"urn:ietf:params:xml:ns:pidf\" entity=\"{}\">\
         <tuple id=\"{tuple_id}\"><status><basic>{basic}</basic></status>{note}</tuple></presence>\n",
        aor(entity)
    )
}

/// [`pidf`] of one phone that is there.
pub fn open(user: &str) -> String {
    pidf(user, "phone", "open", "")
}

/// A dialog-info document with `(dialog id, state)` entries.
pub fn dialog_info(entity: &str, version: u32, dialogs: &[(&str, &str)]) -> String {
    let mut text = format!(
        "<?xml version=\"1.0\"?>\n<dialog-info xmlns=\"urn:ietf:params:xml:ns:dialog-info\" \
         version=\"{version}\" state=\"full\" entity=\"{}\">",
        aor(entity)
    );
    for (id, state) in dialogs {
        let _ = write!(
            text,
            "<dialog id=\"{id}\" call-id=\"{id}\" direction=\"initiator\"><state>{state}</state></dialog>"
        );
    }
    text.push_str("</dialog-info>\n");
    text
}

/// A message summary with new and old voice messages.
pub fn message_summary(account: &str, new: u32, old: u32) -> String {
    format!(
        "Messages-Waiting: {}\r\nMessage-Account: {}\r\nVoice-Message: {new}/{old} (0/0)\r\n",
        if new > 0 { "yes" } else { "no" },
        aor(account)
    )
}

fn parse(text: &str) -> roxmltree::Document<'_> {
    roxmltree::Document::parse(text)
        .unwrap_or_else(|error| panic!("not an XML document ({error}): {text:?}"))
}

/// One tuple of a PIDF document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tuple {
    /// Its `id`.
    pub id: String,
    /// `open`, `closed`, or empty.
    pub basic: String,
    /// Text of its note, or empty.
    pub note: String,
}

fn child_text(node: roxmltree::Node<'_, '_>, name: &str) -> String {
    node.descendants()
        .find(|child| child.tag_name().name() == name)
        .and_then(|child| child.text())
        .unwrap_or("")
        .trim()
        .to_owned()
}

/// The tuples of a PIDF document, in document order; none in an empty text.
pub fn tuples(text: &str) -> Vec<Tuple> {
    if text.is_empty() {
        return Vec::new();
    }
    parse(text)
        .descendants()
        .filter(|node| node.tag_name().name() == "tuple")
        .map(|node| Tuple {
            id: node.attribute("id").unwrap_or("").to_owned(),
            basic: child_text(node, "basic"),
            note: child_text(node, "note"),
        })
        .collect()
}

/// `(id, state)` of the dialogs in a dialog-info document, in document order; none in an empty text.
pub fn dialogs(text: &str) -> Vec<(String, String)> {
    if text.is_empty() {
        return Vec::new();
    }
    parse(text)
        .descendants()
        .filter(|node| node.tag_name().name() == "dialog")
        .map(|node| (node.attribute("id").unwrap_or("").to_owned(), child_text(node, "state")))
        .collect()
}

/// The `version` attribute of a document's root element.
pub fn version(text: &str) -> u32 {
    parse(text)
        .root_element()
        .attribute("version")
        .and_then(|number| number.parse().ok())
        .unwrap_or_else(|| panic!("no version attribute: {text}"))
}

/// One `<watcher>` of a watcherinfo document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatcherInfo {
    /// The watcher's URI.
    pub uri: String,
    /// `active`, `pending`, `terminated`, `waiting`.
    pub status: String,
    /// What happened.
    pub event: String,
    /// The opaque id.
    pub id: String,
}

/// The watchers of a watcherinfo document, in document order.
pub fn watchers(text: &str) -> Vec<WatcherInfo> {
    parse(text)
        .descendants()
        .filter(|node| node.tag_name().name() == "watcher")
        .map(|node| {
            let attribute = |name| node.attribute(name).unwrap_or("").to_owned();
            WatcherInfo {
                uri: node.text().unwrap_or("").trim().to_owned(),
                status: attribute("status"),
                event: attribute("event"),
                id: attribute("id"),
            }
        })
        .collect()
}

/// A pres-rules document (RFC 5025): for each watcher its sub-handling, such as
/// `allow`; who is allowed sees everything.
pub fn pres_rules(rules: &[(&str, &str)]) -> String {
    let mut document = String::from(
        "<?xml version=\"1.0\"?><cr:ruleset xmlns:cr=\"urn:ietf:params:xml:ns:common-policy\" \
         xmlns:pr=\"urn:ietf:params:xml:ns:pres-rules\">",
    );
    for (index, (watcher, handling)) in rules.iter().enumerate() {
        document += &format!(
            "<cr:rule id=\"r{index}\"><cr:conditions><cr:identity><cr:one id=\"{}\"/>\
             </cr:identity></cr:conditions><cr:actions><pr:sub-handling>{handling}\
             </pr:sub-handling></cr:actions><cr:transformations><pr:provide-services>\
             <pr:all-services/></pr:provide-services><pr:provide-persons><pr:all-persons/>\
             </pr:provide-persons><pr:provide-all-attributes/></cr:transformations></cr:rule>",
            aor(watcher)
        );
    }
    document + "</cr:ruleset>"
}
