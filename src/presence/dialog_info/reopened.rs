//! Dialogs that have terminated stay so (B44): an update that was overtaken by
//! the one that ended its dialog would leave a lamp busy.

use std::collections::{HashMap, HashSet};

use quick_xml::events::{BytesEnd, BytesStart, BytesText, Event};
use quick_xml::{Reader, Writer};

use super::{DIALOG, Met, STATE, each_dialog};

/// The dialogs of a document that are over: by `id` their call-ids, as far as
/// they have any.
#[derive(Default)]
struct Over(HashMap<Vec<u8>, HashSet<Option<Vec<u8>>>>);

impl Over {
    fn of(document: &[u8]) -> Option<Over> {
        let mut over = Over::default();
        let mut current = None;
        let read = each_dialog(document, |met| match met {
            Met::Dialog(element) => {
                current = element.attribute(b"id").map(|id| (id, element.attribute(b"call-id")));
            }
            Met::End(is_over) => {
                if let (true, Some((id, call_id))) = (is_over, current.take()) {
                    over.0.entry(id).or_default().insert(call_id);
                }
            }
        });
        (read && !over.0.is_empty()).then_some(over)
    }

    /// The dialog is one of them. Publishers use an `id` again for another
    /// call, and tell the calls apart by their call-ids, if they tell them.
    fn has(&self, id: Option<Vec<u8>>, call_id: Option<Vec<u8>>) -> bool {
        let known = id.and_then(|id| self.0.get(&id));
        known.is_some_and(|calls| {
            call_id.is_none() || calls.contains(&None) || calls.contains(&call_id)
        })
    }
}

/// The published document, in which each dialog that `stored` has as terminated
/// is terminated. `None` if it has none that comes back to life.
pub fn without_reopened(stored: &[u8], published: &[u8]) -> Option<Vec<u8>> {
    let over = Over::of(stored)?;
    let (mut reopened, mut number, mut is_known) = (HashSet::new(), 0usize, false);
    let read = each_dialog(published, |met| match met {
        Met::Dialog(element) => {
            is_known = over.has(element.attribute(b"id"), element.attribute(b"call-id"));
        }
        Met::End(is_over) => {
            if is_known && !is_over {
                reopened.insert(number);
            }
            number += 1;
        }
    });
    (read && !reopened.is_empty()).then(|| terminated(published, &reopened)).flatten()
}

/// The document with some of its dialogs, told by their numbers, terminated.
/// Everything else stays as it is written.
fn terminated(body: &[u8], which: &HashSet<usize>) -> Option<Vec<u8>> {
    let mut reader = Reader::from_reader(body);
    reader.config_mut().expand_empty_elements = true;
    let mut writer = Writer::new(Vec::with_capacity(body.len() + 16));
    let (mut depth, mut number) = (0usize, 0usize);
    let (mut ending, mut in_state, mut has_state) = (false, false, false);
    loop {
        match reader.read_event().ok()? {
            Event::Eof => break,
            Event::Start(element) => {
                if depth == DIALOG && element.local_name().as_ref() == b"dialog" {
                    (ending, has_state) = (which.contains(&number), false);
                    number += 1;
                }
                let is_state = depth == STATE && element.local_name().as_ref() == b"state";
                if ending && is_state {
                    // What brought it to its old state says nothing of the new.
                    let mut plain = element.clone();
                    plain.clear_attributes();
                    writer.write_event(Event::Start(plain)).ok()?;
                    writer.write_event(Event::Text(BytesText::new("terminated"))).ok()?;
                    (in_state, has_state) = (true, true);
                } else if !in_state {
                    writer.write_event(Event::Start(element)).ok()?;
                }
                depth += 1;
            }
            Event::End(element) => {
                depth = depth.checked_sub(1)?;
                if in_state && depth != STATE {
                    continue;
                }
                in_state = false;
                if depth == DIALOG && ending {
                    if !has_state {
                        add_state(&mut writer, &element)?;
                    }
                    ending = false;
                }
                writer.write_event(Event::End(element)).ok()?;
            }
            // What the state was, in whatever form, is replaced.
            _ if in_state => {}
            event => writer.write_event(event).ok()?,
        }
    }
    (depth == 0).then(|| writer.into_inner())
}

/// A dialog without a state gets one, in its own namespace.
fn add_state(writer: &mut Writer<Vec<u8>>, dialog: &BytesEnd<'_>) -> Option<()> {
    let name = match dialog.name().prefix() {
        Some(prefix) => [prefix.into_inner(), b":state"].concat(),
        None => b"state".to_vec(),
    };
    let name = String::from_utf8(name).ok()?;
    writer.write_event(Event::Start(BytesStart::new(&name))).ok()?;
    writer.write_event(Event::Text(BytesText::new("terminated"))).ok()?;
    writer.write_event(Event::End(BytesEnd::new(&name))).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail loudly")]
    use super::*;
    use crate::presence::dialog_info::summary;
    use proptest::prelude::*;

    fn document(dialogs: &str) -> Vec<u8> {
        format!("<dialog-info xmlns=\"urn:ietf:params:xml:ns:dialog-info\" version=\"1\" state=\"partial\">{dialogs}</dialog-info>").into_bytes()
    }

    fn dialog(attributes: &str, state: &str) -> String {
        format!("<dialog {attributes}><state event=\"x\">{state}</state><local/></dialog>")
    }

    /// `id:state` of each dialog, `-` for none that comes back to life.
    fn kept(stored: &str, published: &str) -> String {
        let Some(kept) = without_reopened(&document(stored), &document(published)) else {
            return "-".to_owned();
        };
        let (mut found, mut id) = (Vec::new(), Vec::new());
        assert!(each_dialog(&kept, |met| match met {
            Met::Dialog(element) => id = element.attribute(b"id").unwrap_or_default(),
            Met::End(is_over) =>
                found.push(format!("{}:{}", String::from_utf8_lossy(&id), u8::from(is_over))),
        }));
        found.join(" ")
    }

    #[test]
    fn a_dialog_is_known_by_id_and_call_id() {
        let over = |attributes| dialog(attributes, "terminated");
        let lives = |attributes| dialog(attributes, "confirmed");
        for (stored, published, expected) in [
            ("id='a'", "id='a'", "a:1"),
            ("id='a' call-id='1'", "call-id='1' id='a'", "a:1"),
            ("id='a' call-id='1'", "id='a'", "a:1"),
            ("id='a'", "id='a' call-id='1'", "a:1"),
            ("id='a&amp;b'", "id='a&#38;b'", "a&b:1"),
            ("id='a' call-id='1'", "id='a' call-id='2'", "-"),
            ("id='a' call-id='x'", "id='a' call-id='X'", "-"),
            ("id='a'", "id='A'", "-"),
            ("id='a' call-id='1'", "id='b' call-id='1'", "-"),
            ("call-id='1'", "call-id='1'", "-"),
        ] {
            assert_eq!(kept(&over(stored), &lives(published)), expected, "{stored} {published}");
            assert_eq!(kept(&lives(stored), &lives(published)), "-", "{stored}");
            assert_eq!(kept(&over(stored), &over(published)), "-", "{stored}");
        }
    }

    #[test]
    fn the_other_dialogs_change() {
        let stored = dialog("id='a'", "terminated") + &dialog("id='b'", "confirmed");
        let published = dialog("id='b'", "terminated")
            + "<note/>"
            + &dialog("id='a'", "early")
            + &dialog("id='c'", "early");
        assert_eq!(kept(&stored, &published), "b:1 a:1 c:0");
    }

    #[test]
    fn prefixes_namespaces_and_missing_states() {
        let over = "<d:dialog-info xmlns:d='urn:x'><d:dialog id='a'><d:state>terminated</d:state>\
            </d:dialog></d:dialog-info>";
        let published = "<?xml version='1.0'?><e:dialog-info xmlns:e='urn:y'><e:dialog id='a'>\
            <e:remote><e:state>x</e:state></e:remote></e:dialog><e:dialog id='b'/></e:dialog-info>";
        let kept = without_reopened(over.as_bytes(), published.as_bytes()).unwrap();
        let kept = String::from_utf8(kept).unwrap();
        assert_eq!(
            kept,
            "<?xml version='1.0'?><e:dialog-info xmlns:e='urn:y'><e:dialog id='a'>\
            <e:remote><e:state>x</e:state></e:remote><e:state>terminated</e:state></e:dialog>\
            <e:dialog id='b'></e:dialog></e:dialog-info>"
        );
        let nested = "<dialog-info><dialog id='a'><state code='1'>con<x>fir</x>med<!-- --></state>\
            <local>y</local></dialog></dialog-info>";
        let kept = without_reopened(over.as_bytes(), nested.as_bytes()).unwrap();
        assert_eq!(
            String::from_utf8(kept).unwrap(),
            "<dialog-info><dialog id='a'><state>terminated</state><local>y</local></dialog>\
            </dialog-info>"
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(one: Vec<u8>, other: Vec<u8>) {
            let _ = without_reopened(&one, &other);
        }

        #[test]
        fn nothing_that_is_over_lives_on(
            stored in prop::collection::vec((0u8..4, 0u8..3, any::<bool>()), 0..6),
            published in prop::collection::vec((0u8..4, 0u8..3, any::<bool>()), 0..6),
        ) {
            let write = |dialogs: &[(u8, u8, bool)]| {
                let of = |(id, call, over): &(u8, u8, bool)| dialog(
                    &format!("id='{id}' call-id='{call}'"), if *over { "terminated" } else { "early" },
                );
                document(&dialogs.iter().map(of).collect::<String>())
            };
            let (old, new) = (write(&stored), write(&published));
            let kept = without_reopened(&old, &new).unwrap_or_else(|| new.clone());
            let over: Vec<_> = stored.iter().filter(|(.., over)| *over).collect();
            let expected: Vec<_> = published
                .iter()
                .map(|(id, call, is_over)| {
                    let was = over.iter().any(|(a, b, _)| (a, b) == (id, call));
                    (*id, *call, *is_over || was)
                })
                .collect();
            prop_assert_eq!(summary(&kept).map(|info| info.dialogs), Some(published.len()));
            let states = |body: &[u8]| {
                let mut all = Vec::new();
                each_dialog(body, |met| if let Met::End(is_over) = met { all.push(is_over) });
                all
            };
            let wanted: Vec<_> = expected.iter().map(|(.., over)| *over).collect();
            prop_assert_eq!(states(&kept), wanted);
            // It is judged once: nothing more to do.
            prop_assert_eq!(without_reopened(&old, &kept), None);
        }
    }
}
