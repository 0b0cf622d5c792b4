//! Dialog information documents (RFC 4235): as much as the server itself has
//! to know of them. Merging them is the package's business.

mod ended;
pub mod reopened;
pub(in crate::presence) mod xml;

pub use ended::ended;

use xml::{Element, Node};

/// What a dialog-info document says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DialogInfo {
    /// Number of dialogs.
    pub dialogs: usize,
    /// `id` of the first dialog.
    pub first_id: Option<Vec<u8>>,
    /// There is a dialog, and all of them are over.
    pub all_terminated: bool,
    /// There is a dialog that is over.
    pub any_terminated: bool,
}

/// Depths of the elements: `<dialog-info><dialog><state>`.
const ROOT: usize = 0;
const DIALOG: usize = 1;
const STATE: usize = 2;

/// What the walk over a document's dialogs meets.
enum Met<'e, 'n> {
    /// A dialog begins.
    Dialog(&'e Element<'n>),
    /// It ends; it is over (`terminated`) or not.
    End(bool),
}

/// Visits the dialogs of a document. False when it is not well formed or no
/// dialog-info: what was visited until then does not count.
///
/// Elements are known by name in any namespace, as the stock module does:
/// there are phones that forget or misspell the declaration.
fn each_dialog(body: &[u8], mut meet: impl FnMut(Met<'_, '_>)) -> bool {
    let (mut is_dialog_info, mut in_dialog) = (false, false);
    // Text of the current dialog's first <state>: None before, then whether
    // it is still being read.
    let mut state: Option<(Vec<u8>, bool)> = None;
    let well_formed = xml::walk(body, |depth, node| match (depth, node) {
        (ROOT, Node::Open(element)) => is_dialog_info = element.name == b"dialog-info",
        (DIALOG, Node::Open(element)) => {
            in_dialog = element.name == b"dialog";
            state = None;
            if in_dialog {
                meet(Met::Dialog(&element));
            }
        }
        (DIALOG, Node::Close) => {
            let over = |(text, _): &(Vec<u8>, bool)| text.trim_ascii() == b"terminated";
            if in_dialog {
                meet(Met::End(state.as_ref().is_some_and(over)));
            }
            in_dialog = false;
        }
        (STATE, Node::Open(element)) if element.name == b"state" && state.is_none() => {
            state = Some((Vec::new(), true));
        }
        (STATE, Node::Text(piece)) => {
            if let Some((text, true)) = &mut state {
                text.extend_from_slice(piece);
            }
        }
        (STATE, Node::Close) => {
            if let Some((_, reading)) = &mut state {
                *reading = false;
            }
        }
        _ => {}
    });
    well_formed && is_dialog_info
}

/// Reads a document. `None` when it is not well formed or no dialog-info.
pub fn summary(body: &[u8]) -> Option<DialogInfo> {
    let mut info = DialogInfo::default();
    let mut terminated = 0usize;
    let read = each_dialog(body, |met| match met {
        Met::Dialog(element) => {
            if info.dialogs == 0 {
                info.first_id = element.attribute(b"id");
            }
            info.dialogs += 1;
        }
        Met::End(is_over) => terminated += usize::from(is_over),
    });
    info.all_terminated = info.dialogs > 0 && terminated == info.dialogs;
    info.any_terminated = terminated > 0;
    read.then_some(info)
}

/// A document without dialogs for `entity`, a presentity URI. A shared line's
/// own phone gets it instead of what it published.
pub fn empty_document(entity: &[u8], version: u32) -> Vec<u8> {
    let mut out = b"<?xml version=\"1.0\"?>\n\
        <dialog-info xmlns=\"urn:ietf:params:xml:ns:dialog-info\" version=\""
        .to_vec();
    out.extend_from_slice(version.to_string().as_bytes());
    out.extend_from_slice(b"\" state=\"full\" entity=\"");
    xml::escape(&mut out, entity);
    out.extend_from_slice(b"\"/>\n");
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn dialogs(inner: &str) -> Option<(usize, Option<String>, bool)> {
        let body = format!(
            "<?xml version=\"1.0\"?>\n<dialog-info xmlns=\"urn:ietf:params:xml:ns:dialog-info\" \
             version=\"0\" state=\"full\" entity=\"sip:a@b\">{inner}</dialog-info>\n"
        );
        let info = summary(body.as_bytes())?;
        let id = info.first_id.map(|id| String::from_utf8_lossy(&id).into_owned());
        Some((info.dialogs, id, info.all_terminated))
    }

    #[test]
    fn dialogs_are_counted_and_their_states_compared() {
        let id = |id: &str| Some(id.to_owned());
        for (inner, expected) in [
            ("", (0, None, false)),
            ("<dialog id=\"x&amp;y\"><state>confirmed</state></dialog>", (1, id("x&y"), false)),
            ("<dialog id='x'><state> terminated\n</state></dialog>", (1, id("x"), true)),
            (
                "<dialog id='x'><state event='y'>termi<!-- -->nated</state></dialog>",
                (1, id("x"), true),
            ),
            (
                "<dialog id='x'><state>terminated</state></dialog>\n\
                 <dialog id='y'><state>early</state></dialog>",
                (2, id("x"), false),
            ),
            (
                "<dialog id='x'><state>terminated</state></dialog>\
                 <dialog id='y'><local/><state>terminated</state></dialog>",
                (2, id("x"), true),
            ),
            ("<dialog><state>terminated</state></dialog><dialog id='y'/>", (2, None, false)),
            // Neither another element nor a second state counts.
            (
                "<dialog id='x'><local><state>terminated</state></local></dialog>",
                (1, id("x"), false),
            ),
            (
                "<dialog id='x'><state>early</state><state>terminated</state></dialog>",
                (1, id("x"), false),
            ),
            ("<note><state>terminated</state></note>", (0, None, false)),
        ] {
            assert_eq!(dialogs(inner), Some(expected), "{inner}");
        }
    }

    #[test]
    fn prefixes_do_not_matter() {
        let body = b"<d:dialog-info xmlns:d='urn:ietf:params:xml:ns:dialog-info'>\
            <d:dialog id='7'><d:state>terminated</d:state></d:dialog></d:dialog-info>";
        let expected = DialogInfo {
            dialogs: 1,
            first_id: Some(b"7".to_vec()),
            all_terminated: true,
            any_terminated: true,
        };
        assert_eq!(summary(body), Some(expected));
    }

    #[test]
    fn other_documents_are_none() {
        for body in ["", "x", "<presence/>", "<dialog-info>", "<a><dialog-info/></a>"] {
            assert_eq!(summary(body.as_bytes()), None, "{body}");
        }
    }

    #[test]
    fn an_empty_document_is_as_stock_writes_it() {
        let expected = "<?xml version=\"1.0\"?>\n\
            <dialog-info xmlns=\"urn:ietf:params:xml:ns:dialog-info\" version=\"1\" \
            state=\"full\" entity=\"sip:a@b\"/>\n";
        assert_eq!(String::from_utf8_lossy(&empty_document(b"sip:a@b", 1)), expected);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(body: Vec<u8>) {
            let _ = summary(&body);
        }

        #[test]
        fn an_empty_document_is_well_formed_for_any_entity(entity: Vec<u8>, version: u32) {
            let read = summary(&empty_document(&entity, version));
            prop_assert_eq!(read, Some(DialogInfo::default()));
        }
    }
}
