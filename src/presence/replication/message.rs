//! The messages that peers send each other, by their action.

use super::json::{Malformed, Object};
use super::publication_message::PublicationMessage;

/// A publication has changed.
pub const UPDATE_PUBLICATION: i64 = 1;
/// Asks for all publications.
pub const SYNC_PUBLICATIONS: i64 = 2;
/// A subscription has changed (6.1).
pub const UPDATE_SUBSCRIPTION: i64 = 3;
/// Asks for all subscriptions (6.1).
pub const SYNC_SUBSCRIPTIONS: i64 = 4;

/// What a message is, read so far as its kind needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message<'a> {
    /// An action that says nothing, or one of later releases.
    Nothing,
    /// A publication has changed.
    Publication(PublicationMessage<'a>),
    /// The sender asks for all publications.
    AskPublications,
    /// A subscription has changed.
    Subscription(&'a Object),
    /// The sender asks for all subscriptions.
    AskSubscriptions,
}

impl<'a> Message<'a> {
    /// Which message an object is.
    pub fn read(message: &'a Object) -> Result<Message<'a>, Malformed> {
        let action = message.number("action", 0..=i64::from(i32::MAX))?.unwrap_or_default();
        // Wrong types are refused whatever the action is.
        message.object("presentity")?;
        let subscription = message.object("subscription")?;
        Ok(match action {
            UPDATE_PUBLICATION => Message::Publication(PublicationMessage::read(message)?),
            SYNC_PUBLICATIONS => Message::AskPublications,
            UPDATE_SUBSCRIPTION => {
                Message::Subscription(subscription.ok_or(Malformed("there is no subscription"))?)
            }
            SYNC_SUBSCRIPTIONS => Message::AskSubscriptions,
            _ => Message::Nothing,
        })
    }
}

/// A message that asks for all of a kind (`SYNC_PUBLICATIONS` …).
pub fn question(action: i64) -> Vec<u8> {
    format!("{{\"action\":{action}}}").into_bytes()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail loudly")]
    use super::*;
    use proptest::prelude::*;

    const MOST: usize = 100_000;

    fn verdict(message: &[u8]) -> Result<(), Malformed> {
        let object = Object::parse(message, MOST)?;
        Message::read(&object).map(|_| ())
    }

    fn sample() -> PublicationMessage<'static> {
        PublicationMessage {
            domain: b"Example.org",
            user: b"bob",
            event: b"presence",
            etag: b"aa.0",
            new_etag: b"bb.1",
            expires: Some(3600),
            received: 1_764_335_123,
            sender: Some(b"sip:bob@example.org"),
            is_new: false,
            ruid: b"pres-1",
            body: b"<a b=\"\\\">\r\n\tn\xc3\xa4\x01/</a>",
        }
    }

    #[test]
    fn it_is_written_as_stock_writes_it() {
        let written = sample().write();
        let text = r#"{"action":1,"presentity":{"domain":"Example.org","user":"bob","etag":"aa.0","expires":3600,"recv":1764335123,"sender":"sip:bob@example.org","event":"presence"},"t_new":0,"cur_etag":"bb.1","ruid":"pres-1","body":"<a b=\"\\\">\r\n\tnä\u0001/</a>"}"#;
        assert_eq!(String::from_utf8(written).unwrap(), text);
        let small = PublicationMessage { sender: None, body: b"", expires: None, ..sample() };
        let text = r#"{"action":1,"presentity":{"domain":"Example.org","user":"bob","etag":"aa.0","expires":-1,"recv":1764335123,"event":"presence"},"t_new":0,"cur_etag":"bb.1","ruid":"pres-1","body":""}"#;
        assert_eq!(String::from_utf8(small.write()).unwrap(), text);
        assert_eq!(question(SYNC_PUBLICATIONS), b"{\"action\":2}");
    }

    #[test]
    fn what_is_written_is_read() {
        let message = sample().write();
        let object = Object::parse(&message, MOST).unwrap();
        assert_eq!(Message::read(&object), Ok(Message::Publication(sample())));
        for (message, kind) in [
            (&b"{\"action\":2}"[..], Message::AskPublications),
            (b"{\"action\":4}", Message::AskSubscriptions),
            (b"{\"action\":0}", Message::Nothing),
            (b"{\"action\":9,\"of\":[{\"later\":null}]}", Message::Nothing),
            (b" { } ", Message::Nothing),
        ] {
            let object = Object::parse(message, MOST).unwrap();
            assert_eq!(Message::read(&object), Ok(kind));
        }
    }

    /// Each of these has ended a stock server, or has confused one.
    #[test]
    fn hostile_messages_are_refused() {
        let change = String::from_utf8(sample().write()).unwrap();
        let mut all: Vec<String> = ["", " ", "[]", "[{\"action\":1}]", "1", "\"x\"", "null", "tru"]
            .map(str::to_owned)
            .to_vec();
        let strange = ["7", "{}", "[]", "null", "true", "1.5", "1e400", "99999999999999999999"];
        for name in ["user", "domain", "etag", "event", "sender", "cur_etag", "ruid", "body"] {
            for value in strange {
                let from = change.find(&format!("\"{name}\":\"")).unwrap() + name.len() + 3;
                let mut end = from + 1;
                while change.as_bytes()[end] != b'"' || change.as_bytes()[end - 1] == b'\\' {
                    end += 1;
                }
                all.push(format!("{}{value}{}", &change[..from], &change[end + 1..]));
            }
        }
        for (name, own) in [("action", "1"), ("expires", "3600"), ("recv", "1764335123")] {
            let text = format!("\"{name}\":{own}");
            for value in ["\"1\"", "{}", "[]", "null", "true", "1.5", "1e400", "-2", "1e3"] {
                all.push(change.replace(&text, &format!("\"{name}\":{value}")));
            }
        }
        for value in ["[]", "null", "\"x\"", "1", "{}"] {
            all.push(format!("{{\"action\":1,\"presentity\":{value}}}"));
            all.push(format!("{{\"action\":3,\"subscription\":{value}}}").replace("{}}", "1}"));
        }
        all.push("{\"action\":1}".into());
        all.push("{\"action\":1,\"action\":1}".into());
        all.push(change.replace("\"t_new\":0", "\"t_new\":2"));
        all.push(change.replace("\"t_new\":0", "\"t_new\":0,\"presentity\":{}"));
        all.push(change.replace("\"user\":", "\"user\":\"a\",\"user\":"));
        all.push(change.replace("bob", "b\\u0000b"));
        all.push(change.replace("bob", "b\0b"));
        all.push(change.replace("bb.1", "b\\r\\nX: y"));
        all.push(change.replace("bob", &"b".repeat(2000)));
        all.push(change.replace("\"domain\":\"Example.org\"", "\"domain\":\"\""));
        all.push(change.replace("\"event\":\"presence\"", "\"other\":1"));
        all.push(change.replace("aa.0", ""));
        all.push(format!("{change}x"));
        all.push(format!("{change}{change}"));
        all.push(change[..change.len() - 1].to_owned());
        all.push("[".repeat(20_000));
        all.push("{\"a\":".repeat(20_000));
        all.push(format!("{{\"a\":{}1{}}}", "[".repeat(100), "]".repeat(100)));
        let many: Vec<String> = (0..100).map(|n| format!("\"n{n}\":1")).collect();
        all.push(format!("{{{}}}", many.join(",")));
        all.push(format!("{{\"a\":\"{}\"}}", "x".repeat(MOST)));
        for message in all {
            assert!(verdict(message.as_bytes()).is_err(), "{message:.300}");
        }
        assert_eq!(verdict(change.as_bytes()), Ok(()));
    }

    proptest! {
        #[test]
        fn any_bytes_are_judged(message in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = verdict(&message);
        }

        #[test]
        fn any_change_of_a_byte_is_judged(at in 0usize..300, byte: u8) {
            let mut message = sample().write();
            if let Some(place) = message.get_mut(at) {
                *place = byte;
            }
            let _ = verdict(&message);
        }

        #[test]
        fn any_document_comes_back(body in prop::collection::vec(1u8..=255, 0..300)) {
            let message = PublicationMessage { body: &body, ..sample() }.write();
            let object = Object::parse(&message, MOST).unwrap();
            match Message::read(&object) {
                Ok(Message::Publication(read)) => prop_assert_eq!(read.body, &body[..]),
                other => prop_assert!(false, "{:?}", other),
            }
        }
    }
}
