//! A change of a publication on its way to the peers. Until it has left, later
//! changes of the same publication become part of it.

use super::publication_message::PublicationMessage;
use super::stamp::Stamp;
use crate::presence::text::take;

/// A change, and the state after it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Update {
    /// When it was made.
    pub stamp: Stamp,
    /// The same as Unix time, as told to stock servers.
    pub received: i64,
    /// Unix time of its end; `None` for hard state.
    pub expires_at: Option<i64>,
    /// Peers have not heard of the publication.
    pub is_new: bool,
    /// It is gone.
    pub is_gone: bool,
    /// Domain of the presentity, as published.
    pub domain: Vec<u8>,
    /// User of the presentity.
    pub user: Vec<u8>,
    /// Event package.
    pub event: Vec<u8>,
    /// The entity-tag that peers know.
    pub etag: Vec<u8>,
    /// The entity-tag now.
    pub new_etag: Vec<u8>,
    /// The publisher's watcher URI, or empty.
    pub sender: Vec<u8>,
    /// The publication's id.
    pub ruid: Vec<u8>,
    /// The document; empty if it has not changed.
    pub body: Vec<u8>,
}

mod is {
    pub const NEW: u8 = 1;
    pub const GONE: u8 = 2;
    pub const FOR_EVER: u8 = 4;
    pub const COARSE: u8 = 8;
}

impl Update {
    fn texts(&self) -> [&Vec<u8>; 8] {
        [
            &self.domain,
            &self.user,
            &self.event,
            &self.etag,
            &self.new_etag,
            &self.sender,
            &self.ruid,
            &self.body,
        ]
    }

    /// As bytes, for the outbox.
    pub fn pack(&self) -> Vec<u8> {
        let texts = self.texts();
        let length: usize = texts.iter().map(|text| text.len() + 4).sum();
        let mut packed = Vec::with_capacity(length + 41);
        let flag = |is_so: bool, flag| if is_so { flag } else { 0 };
        packed.push(
            flag(self.is_new, is::NEW)
                | flag(self.is_gone, is::GONE)
                | flag(self.expires_at.is_none(), is::FOR_EVER)
                | flag(self.stamp.is_coarse, is::COARSE),
        );
        packed.extend_from_slice(&self.stamp.time().to_le_bytes());
        packed.extend_from_slice(&self.stamp.node.to_le_bytes());
        packed.extend_from_slice(&self.received.to_le_bytes());
        packed.extend_from_slice(&self.expires_at.unwrap_or_default().to_le_bytes());
        for text in texts {
            let length = u32::try_from(text.len()).unwrap_or(0);
            packed.extend_from_slice(&length.to_le_bytes());
            packed.extend_from_slice(text.get(..length as usize).unwrap_or_default());
        }
        packed
    }

    /// From such bytes.
    pub fn unpack(mut packed: &[u8]) -> Update {
        let flags = take(&mut packed, 1).first().copied().unwrap_or_default();
        let mut number =
            || take(&mut packed, 8).try_into().map(u64::from_le_bytes).unwrap_or_default();
        let (time, node) = (number(), number());
        let (received, expires_at) = (number() as i64, number() as i64);
        let mut text = || {
            let length = take(&mut packed, 4).try_into().map(u32::from_le_bytes);
            take(&mut packed, length.unwrap_or_default() as usize).to_vec()
        };
        Update {
            stamp: Stamp { is_coarse: flags & is::COARSE != 0, ..Stamp::of(time, node) },
            received,
            expires_at: (flags & is::FOR_EVER == 0).then_some(expires_at),
            is_new: flags & is::NEW != 0,
            is_gone: flags & is::GONE != 0,
            domain: text(),
            user: text(),
            event: text(),
            etag: text(),
            new_etag: text(),
            sender: text(),
            ruid: text(),
            body: text(),
        }
    }

    /// One change of two, in whichever order they have come; `None` if peers need
    /// hear nothing.
    pub fn merged(self, other: Update) -> Option<Update> {
        let (older, newer) =
            if self.stamp.beats(other.stamp) { (other, self) } else { (self, other) };
        if older.is_new && newer.is_gone {
            return None;
        }
        // The tag that peers know is the one before both.
        let etag = if older.is_new { newer.new_etag.clone() } else { older.etag };
        let body = if newer.body.is_empty() && !newer.is_gone { older.body } else { newer.body };
        let is_new = older.is_new || newer.is_new;
        Some(Update { etag, body, is_new, ..newer })
    }

    /// The same, on packed ones.
    pub fn merge(waiting: &[u8], new: &[u8]) -> Option<Vec<u8>> {
        Some(Update::unpack(waiting).merged(Update::unpack(new))?.pack())
    }

    /// What peers are told at `now`; `None` if it has run out meanwhile: they have
    /// seen that by themselves, or need not hear of it.
    pub fn message(&self, now: i64) -> Option<PublicationMessage<'_>> {
        let expires = match (self.is_gone, self.expires_at) {
            (true, _) => Some(0),
            (false, None) => None,
            (false, Some(at)) => {
                // As granted, unless it has waited: seconds may just have changed.
                let since = if now - self.received > 1 { now } else { self.received };
                Some(u32::try_from(at - since).ok().filter(|left| *left > 0)?)
            }
        };
        let new_etag = if self.is_new || self.is_gone { &[][..] } else { &self.new_etag };
        Some(PublicationMessage {
            domain: &self.domain,
            user: &self.user,
            event: &self.event,
            etag: if self.is_new { &self.new_etag } else { &self.etag },
            new_etag,
            expires,
            received: self.received,
            sender: (!self.sender.is_empty()).then_some(&self.sender),
            is_new: self.is_new,
            ruid: &self.ruid,
            body: &self.body,
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail loudly")]
    use super::*;
    use proptest::prelude::*;

    fn update(time: u64, etag: &str, new_etag: &str, body: &str) -> Update {
        Update {
            stamp: Stamp::of(time << 16, 1),
            received: time as i64,
            expires_at: Some(1000),
            domain: b"H".to_vec(),
            user: b"u".to_vec(),
            event: b"presence".to_vec(),
            etag: etag.into(),
            new_etag: new_etag.into(),
            ruid: b"r".to_vec(),
            body: body.into(),
            ..Update::default()
        }
    }

    fn new(time: u64, tag: &str) -> Update {
        Update { is_new: true, ..update(time, "", tag, "first") }
    }

    fn gone(time: u64, tag: &str) -> Update {
        Update { is_gone: true, ..update(time, tag, tag, "") }
    }

    #[test]
    fn what_waits_becomes_one_change() {
        // Peers know t0; whichever comes into the outbox first.
        let (one, two) = (update(1, "t0", "t1", "one"), update(2, "t1", "t2", "two"));
        let both = Update { etag: b"t0".to_vec(), ..two.clone() };
        assert_eq!(one.clone().merged(two.clone()), Some(both.clone()));
        assert_eq!(two.clone().merged(one.clone()), Some(both));
        // A refresh keeps the document that has not left yet.
        let refresh = update(3, "t2", "t3", "");
        let kept = two.clone().merged(refresh).unwrap();
        assert_eq!(
            (&kept.body[..], &kept.etag[..], &kept.new_etag[..]),
            (&b"two"[..], &b"t1"[..], &b"t3"[..])
        );
        // A removal names the tag that peers know, and has no document.
        let removed = two.merged(gone(4, "t2")).unwrap();
        assert_eq!((&removed.etag[..], removed.is_gone, removed.body.len()), (&b"t1"[..], true, 0));
    }

    #[test]
    fn what_is_new_stays_new_until_it_has_left() {
        let both = new(1, "t0").merged(update(2, "t0", "t1", "two")).unwrap();
        let message = both.message(900).unwrap();
        assert!(message.is_new && message.new_etag.is_empty());
        assert_eq!(
            (message.etag, message.body, message.expires),
            (&b"t1"[..], &b"two"[..], Some(100))
        );
        assert_eq!(new(1, "t0").merged(gone(2, "t0")), None);
    }

    #[test]
    fn messages_are_as_in_stock() {
        let change = update(1, "t0", "t1", "x");
        let message = change.message(0).unwrap();
        assert_eq!((message.etag, message.new_etag), (&b"t0"[..], &b"t1"[..]));
        assert_eq!(change.message(1000), None);
        let removal = gone(2, "t1");
        let message = removal.message(5000).unwrap();
        let read = (message.etag, message.new_etag, message.expires);
        assert_eq!(read, (&b"t1"[..], &b""[..], Some(0)));
        let hard = Update { expires_at: None, ..new(1, "file") };
        assert_eq!(hard.message(5000).unwrap().expires, None);
    }

    proptest! {
        #[test]
        fn any_change_comes_back(
            time: u64, node: u64, received: i64, expires_at: Option<i64>, flags in 0u8..8,
            texts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 8),
        ) {
            let mut texts = texts.into_iter();
            let mut text = || texts.next().unwrap_or_default();
            let update = Update {
                stamp: Stamp { is_coarse: flags & 4 != 0, ..Stamp::of(time, node) },
                received, expires_at, is_new: flags & 1 != 0, is_gone: flags & 2 != 0,
                domain: text(), user: text(), event: text(), etag: text(), new_etag: text(),
                sender: text(), ruid: text(), body: text(),
            };
            prop_assert_eq!(Update::unpack(&update.pack()), update);
        }

        #[test]
        fn any_bytes_are_unpacked_somehow(packed: Vec<u8>) {
            let _ = Update::unpack(&packed);
        }
    }
}
