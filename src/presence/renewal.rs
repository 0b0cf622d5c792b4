//! What a SUBSCRIBE brings to a subscription that there is, and how its text
//! follows.

use crate::presence::cseq::CSeq;
use crate::presence::event_package::PackageId;
use crate::presence::subscription::{ROOM_FOR_REASON, Snapshot, Text, with_text};
use crate::presence::text::{TooLong, has_room};

/// What an in-dialog SUBSCRIBE brings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Renewal<'a> {
    /// The package it names.
    pub package: PackageId,
    /// The `id` it names; `None` if it names none.
    pub event_id: Option<&'a [u8]>,
    /// Its CSeq.
    pub cseq: CSeq,
    /// How much too low that may be (`cseq_offset`).
    pub cseq_offset: u32,
    /// Seconds granted; 0 ends the subscription.
    pub expires: u32,
    /// Unix time now.
    pub now: i64,
    /// Its Contact URI.
    pub contact: &'a [u8],
    /// The socket it came in on, and our Contact there.
    pub socket: &'a [u8],
    /// Our Contact.
    pub local_contact: &'a [u8],
    /// Branch flags.
    pub flags: u32,
}

/// Where a watcher is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target<'a> {
    /// Its Contact URI.
    pub contact: &'a [u8],
    /// The socket its requests come in on.
    pub socket: &'a [u8],
    /// Our own Contact.
    pub local_contact: &'a [u8],
}

/// What a subscription has of a SUBSCRIBE, besides its target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Renewed {
    /// Highest CSeq received.
    pub remote_cseq: CSeq,
    /// Branch flags.
    pub flags: u32,
    /// Seconds granted.
    pub expires: u32,
    /// Unix time of its end.
    pub expires_at: i64,
}

impl<'a> Renewal<'a> {
    /// What the first SUBSCRIBE of a dialog brings to one that is known already.
    pub fn again(snapshot: &'a Snapshot, now: i64) -> Renewal<'a> {
        Renewal {
            package: snapshot.package,
            event_id: Some(snapshot.text(Text::EventId)),
            cseq: snapshot.remote_cseq,
            cseq_offset: 0,
            expires: snapshot.expires,
            now,
            contact: snapshot.text(Text::Contact),
            socket: snapshot.text(Text::Socket),
            local_contact: snapshot.text(Text::LocalContact),
            flags: snapshot.flags,
        }
    }

    /// Unix time at which the subscription ends.
    pub fn expires_at(&self) -> i64 {
        self.now + i64::from(self.expires)
    }

    /// What a subscription has then whose highest CSeq was this one. (An offset may
    /// let lower ones in.)
    pub fn renewed(&self, remote_cseq: CSeq) -> Renewed {
        Renewed {
            remote_cseq: self.cseq.max(remote_cseq),
            flags: self.flags,
            expires: self.expires,
            expires_at: self.expires_at(),
        }
    }

    /// The packed text of the subscription with what the request brings; `None`
    /// if that is what it has. `whole` makes a packed block of all it has.
    pub fn text(
        &self,
        known: Target<'_>,
        whole: impl FnOnce() -> Vec<u8>,
    ) -> Result<Option<Vec<u8>>, TooLong> {
        let brought = [
            (Text::Contact, known.contact, self.contact),
            (Text::Socket, known.socket, self.socket),
            (Text::LocalContact, known.local_contact, self.local_contact),
        ];
        let mut others = brought.iter().filter(|(_, old, new)| old != new).peekable();
        if others.peek().is_none() {
            return Ok(None);
        }
        let mut block = whole();
        for (field, _, new) in others {
            block = with_text(&block, *field, new)?;
        }
        // The rules may give it a reason later.
        if has_room(&block, ROOM_FOR_REASON) { Ok(Some(block)) } else { Err(TooLong) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::presence::text::{Packed, pack};

    fn known() -> Snapshot {
        let block = pack::<Text>(|n| match Text::ALL[n] {
            Text::Contact => b"sip:old@h",
            Text::Socket => b"udp:h:5060",
            _ => b"",
        });
        Snapshot::new(PackageId(0), block.unwrap())
    }

    fn text_of(contact: &[u8]) -> Result<Option<Vec<u8>>, TooLong> {
        let known = known();
        let renewal = Renewal { contact, ..Renewal::again(&known, 0) };
        let target = Target { contact: b"sip:old@h", socket: b"udp:h:5060", local_contact: b"" };
        renewal.text(target, || known.block().to_vec())
    }

    #[test]
    fn the_target_follows_the_request() {
        let block = text_of(b"sip:new@h").unwrap().unwrap();
        assert_eq!(Packed::<Text>::new(&block).get(Text::Contact), b"sip:new@h");
        assert_eq!(Packed::<Text>::new(&block).get(Text::Socket), b"udp:h:5060");
    }

    #[test]
    fn one_that_brings_nothing_new_costs_nothing() {
        assert_eq!(text_of(b"sip:old@h"), Ok(None));
    }

    #[test]
    fn there_is_always_room_for_a_reason() {
        assert_eq!(text_of(&[b'a'; 65_535 - 100]), Err(TooLong));
    }
}
