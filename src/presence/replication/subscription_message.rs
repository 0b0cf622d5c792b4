//! A subscription as 6.1 and later tell of it: the message is written with their
//! keys in their order, and nothing else, for they refuse what they do not know.

use super::json::{Malformed, Object, push_name, push_number, push_text};
use super::message::UPDATE_SUBSCRIPTION;
use crate::presence::cseq::CSeq;
use crate::presence::subscription::{Snapshot, Status, Text};
use crate::presence::text::{self, Fields};
use crate::presence::uri::{self, presentity_uri};

/// Bytes that a text may have.
const LINE: usize = 1024;
/// Bytes that a route set may have.
const ROUTES: usize = 8192;

/// Texts of the message by their keys, in stock's order.
const TEXTS: &[(&str, Text)] = &[
    ("contact", Text::Contact),
    ("local_contact", Text::LocalContact),
    ("watcher_domain", Text::WatcherHost),
    ("watcher_user", Text::WatcherUser),
    ("from_domain", Text::FromHost),
    ("from_user", Text::FromUser),
    ("to_domain", Text::ToHost),
    ("to_user", Text::ToUser),
    ("from_tag", Text::FromTag),
    ("to_tag", Text::ToTag),
    ("user_agent", Text::UserAgent),
    ("callid", Text::CallId),
    ("reason", Text::Reason),
    ("socket_info", Text::Socket),
    ("record_route", Text::RecordRoute),
    ("event_id", Text::EventId),
];

/// Texts without which it is not the subscription of a dialog.
const NEEDED: &[Text] = &[Text::CallId, Text::FromTag, Text::ToTag, Text::Contact];

/// A subscription that a peer tells of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubscriptionMessage {
    /// Name of the event package.
    pub event: Vec<u8>,
    /// Its packed texts (`presence::subscription::Text`).
    pub block: Vec<u8>,
    /// CSeq up to which its owner's NOTIFYs may go. (A stock server says which one
    /// its last NOTIFY had.)
    pub local_cseq: u32,
    /// CSeq of the watcher's last SUBSCRIBE.
    pub remote_cseq: u32,
    /// The version that goes with `local_cseq`.
    pub version: u32,
    /// Unix time of its end by the sender's clock; 0: it is over. (A stock server
    /// takes small numbers for seconds that are left.)
    pub expires: i64,
    /// Branch flags for the script.
    pub flags: u32,
    /// Its state.
    pub status: Status,
}

impl SubscriptionMessage {
    /// Reads what stands under `subscription`.
    pub fn read(object: &Object) -> Result<SubscriptionMessage, Malformed> {
        let line = |name: &str| {
            let most = if name == "record_route" { ROUTES } else { LINE };
            object.line(name, most).map(Option::unwrap_or_default)
        };
        let number = |name: &str| {
            let range = i64::from(i32::MIN)..=i64::from(u32::MAX);
            object.number(name, range).map(Option::unwrap_or_default)
        };
        let (user, host) = uri::split(line("pres_uri")?);
        let (user, host) = (uri::user::stored(user), host.to_ascii_lowercase());
        let event = line("event")?;
        if event.is_empty() || (user.is_empty() && host.is_empty()) {
            return Err(Malformed("it names no presentity or no package"));
        }
        let mut texts: [&[u8]; Text::COUNT] = [b""; Text::COUNT];
        for (name, field) in TEXTS {
            texts[field.index()] = line(name)?;
        }
        texts[Text::PresentityUser.index()] = &user;
        texts[Text::PresentityHost.index()] = &host;
        if NEEDED.iter().any(|field| texts[field.index()].is_empty()) {
            return Err(Malformed("a text of the dialog is missing"));
        }
        for name in ["updated", "updated_winfo", "recv"] {
            number(name)?;
        }
        let block = text::pack::<Text>(|n| texts[n]).map_err(|_| Malformed("it is too long"))?;
        let expires = object.number("expires", 0..=i64::from(u32::MAX))?;
        Ok(SubscriptionMessage {
            event: event.to_vec(),
            block,
            // The CSeq before that of its last NOTIFY, as stock counts.
            local_cseq: (number("local_cseq")? as u32).saturating_add(1),
            remote_cseq: number("remote_cseq")? as u32,
            version: number("version")? as u32,
            expires: expires.ok_or(Malformed("it does not say when it ends"))?,
            flags: number("flags")? as u32,
            status: Status::from_number(number("status")?),
        })
    }

    /// The message about a subscription. Its CSeq and version are those that may be
    /// used; `expires` is the Unix time of its end, or 0; `received`, which peers of
    /// 6.1 refuse, the Unix time of the change.
    pub fn write(
        subscription: &Snapshot,
        event: &[u8],
        expires: i64,
        received: Option<i64>,
    ) -> Vec<u8> {
        let mut message = Vec::with_capacity(768 + subscription.block().len());
        message.push(b'{');
        push_number(&mut message, "action", UPDATE_SUBSCRIPTION);
        push_name(&mut message, "subscription");
        message.push(b'{');
        let text = |field| subscription.text(field);
        let uri = presentity_uri(text(Text::PresentityUser), text(Text::PresentityHost));
        push_text(&mut message, "pres_uri", &uri);
        for (name, field) in TEXTS {
            push_text(&mut message, name, text(*field));
        }
        push_text(&mut message, "event", event);
        // 0 is an end to those who take numbers in the past for lifetimes.
        let signed = |number: u32| i64::from(number as i32);
        for (name, number) in [
            ("local_cseq", i64::from(subscription.local_cseq.saturating_sub(1).0)),
            ("remote_cseq", i64::from(subscription.remote_cseq.0)),
            ("expires", expires.max(0)),
            ("flags", signed(subscription.flags)),
            ("status", subscription.status as i64),
            ("version", i64::from(subscription.version & i32::MAX as u32)),
            ("updated", 0),
            ("updated_winfo", 0),
        ] {
            push_number(&mut message, name, number);
        }
        if let Some(received) = received {
            push_number(&mut message, "recv", received);
        }
        message.extend_from_slice(b"}}");
        message
    }

    /// As a copy of a subscription; its package and how long it has left are the
    /// caller's to fill in.
    pub fn snapshot(&self) -> Snapshot {
        let mut copy = Snapshot::new(Default::default(), self.block.clone());
        copy.remote_cseq = CSeq(self.remote_cseq);
        copy.local_cseq = CSeq(self.local_cseq);
        copy.version = self.version;
        copy.flags = self.flags;
        copy.status = self.status;
        copy
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail loudly")]
    use super::*;
    use crate::presence::event_package::PackageId;
    use crate::presence::replication::message::Message;
    use proptest::prelude::*;

    const MOST: usize = 100_000;

    fn sample() -> Snapshot {
        let block = text::pack::<Text>(|n| match Text::ALL[n] {
            Text::CallId => b"call-1",
            Text::FromTag => b"from",
            Text::ToTag => b"to",
            Text::Contact => b"sip:watcher@192.0.2.9:5070;ob",
            Text::LocalContact => b"sip:192.0.2.1:5060",
            Text::Socket => b"udp:192.0.2.1:5060",
            Text::EventId => b"",
            Text::Reason => b"",
            Text::PresentityUser | Text::ToUser => b"alice",
            Text::FromUser | Text::WatcherUser => b"bob",
            Text::RecordRoute => b"<sip:192.0.2.2;lr>, <sip:192.0.2.3;lr>",
            Text::UserAgent => b"Phone \"1\"",
            _ => b"example.org",
        })
        .unwrap();
        let mut snapshot = Snapshot::new(PackageId(0), block);
        (snapshot.remote_cseq, snapshot.local_cseq) = (CSeq(7), CSeq(1023));
        snapshot.version = 1021;
        snapshot
    }

    fn read(message: &[u8]) -> Result<SubscriptionMessage, Malformed> {
        let object = Object::parse(message, MOST)?;
        match Message::read(&object)? {
            Message::Subscription(object) => SubscriptionMessage::read(object),
            _ => Err(Malformed("another message")),
        }
    }

    const WRITTEN: &str = r#"{"action":3,"subscription":{"pres_uri":"sip:alice@example.org","contact":"sip:watcher@192.0.2.9:5070;ob","local_contact":"sip:192.0.2.1:5060","watcher_domain":"example.org","watcher_user":"bob","from_domain":"example.org","from_user":"bob","to_domain":"example.org","to_user":"alice","from_tag":"from","to_tag":"to","user_agent":"Phone \"1\"","callid":"call-1","reason":"","socket_info":"udp:192.0.2.1:5060","record_route":"<sip:192.0.2.2;lr>, <sip:192.0.2.3;lr>","event_id":"","event":"presence","local_cseq":1022,"remote_cseq":7,"expires":1764335123,"flags":0,"status":1,"version":1021,"updated":0,"updated_winfo":0}}"#;

    #[test]
    fn it_is_written_with_stocks_keys_in_stocks_order() {
        let written = SubscriptionMessage::write(&sample(), b"presence", 1_764_335_123, None);
        assert_eq!(String::from_utf8(written).unwrap(), WRITTEN);
        let with = SubscriptionMessage::write(&sample(), b"presence", 1_764_335_123, Some(5));
        let wanted = WRITTEN.replace("_winfo\":0}}", "_winfo\":0,\"recv\":5}}");
        assert_eq!(String::from_utf8(with).unwrap(), wanted);
        // No expiry in the past but the end itself.
        let over = SubscriptionMessage::write(&sample(), b"presence", -3, None);
        assert!(String::from_utf8(over).unwrap().contains(",\"expires\":0,"));
    }

    #[test]
    fn what_is_written_is_read() {
        for received in [None, Some(1_764_335_000)] {
            let sample = sample();
            let message = SubscriptionMessage::write(&sample, b"presence", 99, received);
            let message = read(&message).unwrap();
            assert_eq!((&message.event[..], message.expires), (&b"presence"[..], 99));
            assert_eq!(message.snapshot(), sample);
        }
    }

    #[test]
    fn a_stock_servers_spelling_is_ours() {
        let message = WRITTEN.replace("sip:alice@example.org", "sip:%61lice@Example.ORG");
        assert_eq!(read(message.as_bytes()).unwrap().snapshot(), sample());
    }

    #[test]
    fn what_is_no_subscription_is_refused() {
        let texts = TEXTS.iter().map(|(name, _)| *name).chain(["pres_uri", "event"]);
        let mut all = Vec::new();
        for name in texts {
            let start = WRITTEN.find(&format!("\"{name}\":\"")).unwrap() + name.len() + 3;
            let end = start + 1 + WRITTEN[start + 1..].find("\",\"").unwrap() + 1;
            let long = format!("\"{}\"", "x".repeat(ROUTES + 1));
            let values =
                ["7", "null", "{}", "[]", "true", "\"a\\u0000\"", "\"a\\r\\nX: y\"", &long];
            for value in values {
                all.push(format!("{}{value}{}", &WRITTEN[..start], &WRITTEN[end..]));
            }
        }
        for name in ["local_cseq", "remote_cseq", "expires", "flags", "status", "version"] {
            let start = WRITTEN.find(&format!("\"{name}\":")).unwrap() + name.len() + 3;
            let end = start + WRITTEN[start..].find(',').unwrap();
            for value in ["\"1\"", "null", "{}", "1.5", "1e99", "99999999999", "-99999999999"] {
                all.push(format!("{}{value}{}", &WRITTEN[..start], &WRITTEN[end..]));
            }
        }
        all.push(WRITTEN.replace("\"callid\":\"call-1\",", ""));
        all.push(WRITTEN.replace("\"call-1\"", "\"\""));
        all.push(WRITTEN.replace("\"event\":\"presence\",", ""));
        all.push(WRITTEN.replace("\"expires\":1764335123,", ""));
        all.push(WRITTEN.replace("\"expires\":1764335123,", "\"expires\":-1,"));
        all.push(WRITTEN.replace("\"updated\":0", "\"updated\":\"0\""));
        all.push(WRITTEN.replace("\"flags\":0", "\"flags\":0,\"flags\":0"));
        all.push("{\"action\":3}".to_owned());
        all.push("{\"action\":3,\"subscription\":[]}".to_owned());
        all.push("{\"action\":3,\"subscription\":{}}".to_owned());
        for message in all {
            assert!(read(message.as_bytes()).is_err(), "{message:.300}");
        }
        // What later releases add is not looked at.
        let later = WRITTEN.replace("{\"pres_uri\"", "{\"later\":[1],\"pres_uri\"");
        assert!(read(later.as_bytes()).is_ok());
    }

    proptest! {
        #[test]
        fn any_change_of_a_byte_is_judged(at in 0usize..700, byte: u8) {
            let mut message = WRITTEN.as_bytes().to_vec();
            if let Some(place) = message.get_mut(at) {
                *place = byte;
            }
            let _ = read(&message);
        }
    }
}
