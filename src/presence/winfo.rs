//! Watcher information documents (RFC 3858): who watches a presentity.

use std::hash::Hasher;

use siphasher::sip::SipHasher24;

use crate::presence::dialog_info::xml::escape;
use crate::presence::subscription::{Ending, Status};

/// The content type of watcher information.
pub const CONTENT_TYPE: &[u8] = b"application/watcherinfo+xml";

/// What brought a watcher into its state (RFC 3857 4.7.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WatcherEvent {
    /// It subscribed.
    Subscribe,
    /// It was approved.
    Approved,
    /// The server ended the subscription; the watcher may subscribe again.
    Deactivated,
    /// The subscription is over; the watcher may subscribe anew, but should wait first.
    Probation,
    /// It was turned away.
    Rejected,
    /// It did not refresh, or it unsubscribed.
    Timeout,
    /// It waited for a decision for too long.
    GiveUp,
    /// The presentity does not exist any more.
    NoResource,
}

impl WatcherEvent {
    /// The value of the `event` attribute.
    pub fn word(self) -> &'static str {
        match self {
            WatcherEvent::Subscribe => "subscribe",
            WatcherEvent::Approved => "approved",
            WatcherEvent::Deactivated => "deactivated",
            WatcherEvent::Probation => "probation",
            WatcherEvent::Rejected => "rejected",
            WatcherEvent::Timeout => "timeout",
            WatcherEvent::GiveUp => "giveup",
            WatcherEvent::NoResource => "noresource",
        }
    }

    /// The event behind the reason a subscription ended with (RFC 6665 4.1.3
    /// has the same words); one that is not known is a deactivation.
    pub fn from_reason(reason: &[u8]) -> WatcherEvent {
        [
            WatcherEvent::Deactivated,
            WatcherEvent::Probation,
            WatcherEvent::Rejected,
            WatcherEvent::Timeout,
            WatcherEvent::GiveUp,
            WatcherEvent::NoResource,
        ]
        .into_iter()
        .find(|event| event.word().as_bytes().eq_ignore_ascii_case(reason))
        .unwrap_or(WatcherEvent::Deactivated)
    }
}

/// What those who watch the watchers are told of one of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WatcherNews {
    /// Its state, as documents show it.
    pub status: Status,
    /// What brought it there.
    pub event: WatcherEvent,
    /// They get the list of all watchers.
    pub full: bool,
}

impl WatcherNews {
    /// A subscription in this state has begun, or goes on after its end was told.
    pub fn began(status: Status) -> WatcherNews {
        WatcherNews { status, event: WatcherEvent::Subscribe, full: false }
    }

    /// A subscription that was in this state has ended.
    pub fn ended(status: Status, why: Ending) -> WatcherNews {
        let status = match status {
            // Who was waiting for a decision may still get one (RFC 3857 4.7.1).
            Status::Pending | Status::Waiting => Status::Waiting,
            Status::Active | Status::Terminated => Status::Terminated,
        };
        WatcherNews { status, event: WatcherEvent::from_reason(why.reason()), full: false }
    }

    /// The rules have given a watcher another state; with `ending` its
    /// subscription has ended by that.
    pub fn decided(before: Status, after: Status, ending: Option<Ending>) -> WatcherNews {
        let event = match (before, after) {
            (_, Status::Terminated) => {
                WatcherEvent::from_reason(ending.map_or(b"", Ending::reason))
            }
            (Status::Pending | Status::Waiting, Status::Active) => WatcherEvent::Approved,
            _ => WatcherEvent::Subscribe,
        };
        WatcherNews { status: after, event, full: false }
    }

    /// A watcher was turned away: it has no subscription.
    pub fn rejected() -> WatcherNews {
        let (status, event) = (Status::Terminated, WatcherEvent::Rejected);
        WatcherNews { status, event, full: false }
    }
}

/// One watcher.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Watcher<'a> {
    /// Names the subscription, the same in all documents (`watcher_id`).
    pub id: &'a str,
    /// URI of the watcher.
    pub uri: &'a [u8],
    /// State of its subscription.
    pub status: Status,
    /// What brought it there.
    pub event: WatcherEvent,
    /// Name to show.
    pub display_name: Option<&'a [u8]>,
    /// Seconds until the subscription ends.
    pub expiration: Option<u32>,
    /// Seconds since it began.
    pub duration_subscribed: Option<u32>,
}

/// A watcher information document about one presentity and package.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WatcherInfo<'a> {
    /// Number of the document in its dialog, from 0, rising by 1.
    pub version: u32,
    /// All watchers are listed, not only those that changed.
    pub full: bool,
    /// URI of the presentity.
    pub resource: &'a [u8],
    /// Name of the package watched, such as `presence`.
    pub package: &'a [u8],
    /// The watchers.
    pub watchers: &'a [Watcher<'a>],
}

impl WatcherInfo<'_> {
    /// The document.
    pub fn to_xml(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(256 + 160 * self.watchers.len());
        out.extend_from_slice(
            b"<?xml version=\"1.0\"?>\n<watcherinfo xmlns=\"urn:ietf:params:xml:ns:watcherinfo\"",
        );
        number(&mut out, "version", self.version);
        attribute(&mut out, "state", if self.full { b"full" } else { b"partial" });
        out.extend_from_slice(b">\n  <watcher-list");
        attribute(&mut out, "resource", self.resource);
        attribute(&mut out, "package", self.package);
        if self.watchers.is_empty() {
            out.extend_from_slice(b"/>\n");
        } else {
            out.extend_from_slice(b">\n");
            self.watchers.iter().for_each(|watcher| watcher.write(&mut out));
            out.extend_from_slice(b"  </watcher-list>\n");
        }
        out.extend_from_slice(b"</watcherinfo>\n");
        out
    }
}

impl Watcher<'_> {
    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"    <watcher");
        attribute(out, "id", self.id.as_bytes());
        attribute(out, "event", self.event.word().as_bytes());
        attribute(out, "status", self.status.word().as_bytes());
        if let Some(name) = self.display_name {
            attribute(out, "display-name", name);
        }
        if let Some(seconds) = self.expiration {
            number(out, "expiration", seconds);
        }
        if let Some(seconds) = self.duration_subscribed {
            number(out, "duration-subscribed", seconds);
        }
        out.push(b'>');
        escape(out, self.uri);
        out.extend_from_slice(b"</watcher>\n");
    }
}

fn attribute(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.push(b' ');
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"=\"");
    escape(out, value);
    out.push(b'"');
}

fn number(out: &mut Vec<u8>, name: &str, value: u32) {
    attribute(out, name, value.to_string().as_bytes());
}

/// The id of a watcher: the same for the life of its dialog, different for
/// every dialog, and without a trace of the Call-ID to who has not the key.
/// The processes of a server must share the key. A watcher without a dialog
/// (one that waits) is named by its URI and the presentity's, with the last
/// tag empty.
pub fn watcher_id(call_id: &[u8], from_tag: &[u8], to_tag: &[u8], key: [u8; 16]) -> String {
    let mut hasher = SipHasher24::new_with_key(&key);
    for part in [call_id, from_tag, to_tag] {
        // The length keeps what one part ends with from the next one.
        hasher.write_u64(part.len() as u64);
        hasher.write(part);
    }
    format!("{:016x}", hasher.finish())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::presence::dialog_info::xml::{Node, walk};
    use proptest::prelude::*;

    const BOB: Watcher<'_> = Watcher {
        id: "1",
        uri: b"sip:bob@b",
        status: Status::Active,
        event: WatcherEvent::Subscribe,
        display_name: None,
        expiration: None,
        duration_subscribed: None,
    };

    fn document(full: bool, watchers: &[Watcher<'_>]) -> String {
        let info =
            WatcherInfo { version: 3, full, resource: b"sip:a@b", package: b"presence", watchers };
        String::from_utf8_lossy(&info.to_xml()).into_owned()
    }

    #[test]
    fn a_document_looks_as_stock_writes_it() {
        let carol = Watcher {
            id: "2",
            uri: b"sip:carol@b",
            status: Status::Terminated,
            event: WatcherEvent::Timeout,
            display_name: Some(b"Carol \"C\""),
            expiration: Some(0),
            duration_subscribed: Some(60),
        };
        assert_eq!(
            document(true, &[BOB, carol]),
            "<?xml version=\"1.0\"?>\n\
             <watcherinfo xmlns=\"urn:ietf:params:xml:ns:watcherinfo\" version=\"3\" state=\"full\">\n  \
             <watcher-list resource=\"sip:a@b\" package=\"presence\">\n    \
             <watcher id=\"1\" event=\"subscribe\" status=\"active\">sip:bob@b</watcher>\n    \
             <watcher id=\"2\" event=\"timeout\" status=\"terminated\" \
             display-name=\"Carol &quot;C&quot;\" expiration=\"0\" duration-subscribed=\"60\">\
             sip:carol@b</watcher>\n  \
             </watcher-list>\n\
             </watcherinfo>\n"
        );
    }

    #[test]
    fn a_list_may_be_empty() {
        assert_eq!(
            document(false, &[]),
            "<?xml version=\"1.0\"?>\n\
             <watcherinfo xmlns=\"urn:ietf:params:xml:ns:watcherinfo\" version=\"3\" state=\"partial\">\n  \
             <watcher-list resource=\"sip:a@b\" package=\"presence\"/>\n\
             </watcherinfo>\n"
        );
    }

    #[test]
    fn reasons_become_events() {
        for (reason, event) in [
            (&b"timeout"[..], WatcherEvent::Timeout),
            (b"Rejected", WatcherEvent::Rejected),
            (b"giveup", WatcherEvent::GiveUp),
            (b"", WatcherEvent::Deactivated),
            (b"subscribe", WatcherEvent::Deactivated),
        ] {
            assert_eq!(WatcherEvent::from_reason(reason), event);
        }
    }

    #[test]
    fn ids_are_stable_and_differ() {
        let key = [7; 16];
        let id = watcher_id(b"call", b"from", b"to", key);
        assert_eq!(id, watcher_id(b"call", b"from", b"to", key));
        assert_eq!(id.len(), 16);
        for other in [
            watcher_id(b"callf", b"rom", b"to", key),
            watcher_id(b"call", b"fromt", b"o", key),
            watcher_id(b"call", b"to", b"from", key),
            watcher_id(b"call", b"from", b"to", [8; 16]),
        ] {
            assert_ne!(id, other);
        }
    }

    proptest! {
        #[test]
        fn any_watcher_gives_a_well_formed_document(uri: Vec<u8>, resource: Vec<u8>, name: Vec<u8>) {
            let watcher = Watcher { uri: &uri, display_name: Some(&name), ..BOB };
            let info = WatcherInfo {
                version: 0, full: true, resource: &resource, package: &name, watchers: &[watcher; 2],
            };
            let mut watchers = 0;
            let well_formed = walk(&info.to_xml(), |_, node| {
                if let Node::Open(element) = node {
                    watchers += usize::from(element.name == b"watcher");
                }
            });
            prop_assert!(well_formed);
            prop_assert_eq!(watchers, 2);
        }
    }
}
