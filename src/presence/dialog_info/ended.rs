//! A dialog-info document as it looks once its publisher is gone.

use quick_xml::events::{BytesText, Event};
use quick_xml::{Reader, Writer};

/// Depth of `<dialog-info><dialog><state>`.
const STATE: usize = 2;

/// The document with every dialog terminated, or `None` if it is not well
/// formed. Packages that merge dialog-info have no notion of a publication
/// that is to be shown closed (their `agg_nbody` ignores the index), and a
/// full document that merely lacks a dialog leaves some lamps lit.
pub fn ended(body: &[u8]) -> Option<Vec<u8>> {
    let mut reader = Reader::from_reader(body);
    reader.config_mut().expand_empty_elements = true;
    let mut writer = Writer::new(Vec::with_capacity(body.len() + 16));
    let (mut depth, mut in_state) = (0usize, false);
    loop {
        match reader.read_event().ok()? {
            Event::Eof => break,
            Event::Start(element) => {
                let opens_state = depth == STATE && element.local_name().as_ref() == b"state";
                writer.write_event(Event::Start(element)).ok()?;
                if opens_state {
                    writer.write_event(Event::Text(BytesText::new("terminated"))).ok()?;
                    in_state = true;
                }
                depth += 1;
            }
            Event::End(element) => {
                depth = depth.checked_sub(1)?;
                in_state &= depth != STATE;
                writer.write_event(Event::End(element)).ok()?;
            }
            // What the state was, in whatever form, is replaced.
            _ if in_state => {}
            event => writer.write_event(event).ok()?,
        }
    }
    (depth == 0).then(|| writer.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::presence::dialog_info::summary;
    use proptest::prelude::*;

    #[test]
    fn every_dialog_is_over() {
        let body = b"<?xml version=\"1.0\"?>\n<d:dialog-info xmlns:d=\"urn:x\" version=\"1\">\
            <d:dialog id=\"a\"><d:state event=\"x\">conf<!-- -->irmed</d:state><d:local/></d:dialog>\
            <d:dialog id=\"b\"><d:state/></d:dialog></d:dialog-info>";
        let over = ended(body).unwrap();
        let text = String::from_utf8(over.clone()).unwrap();
        assert!(text.contains("<d:state event=\"x\">terminated</d:state>"), "{text}");
        let info = summary(&over).unwrap();
        assert_eq!((info.dialogs, info.all_terminated), (2, true));
    }

    #[test]
    fn what_cannot_be_read_is_refused() {
        for bad in ["<a><b></a>", "<dialog-info>", "</x>"] {
            assert_eq!(ended(bad.as_bytes()), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = ended(&body);
        }
    }
}
