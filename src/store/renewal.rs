//! What a SUBSCRIBE brings to a subscription that there is, and how it is applied.

use crate::error::Fault;
use crate::presence::event_package::PackageId;
use crate::presence::subscription::{ROOM_FOR_REASON, Snapshot, Text, with_text};
use crate::presence::text::has_room;
use crate::shm::{Id, Memory};
use crate::store::records::Subscription;
use crate::store::shard::Shard;
use crate::store::subscription_block::{expand, shrink};

/// What an in-dialog SUBSCRIBE brings.
#[derive(Debug, Clone, Copy)]
pub struct Renewal<'a> {
    /// The package it names.
    pub package: PackageId,
    /// The `id` it names; `None` if it names none.
    pub event_id: Option<&'a [u8]>,
    /// Its CSeq.
    pub cseq: u32,
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
}

/// Applies it to the record, and schedules the new end.
pub(super) fn refresh<M: Memory>(
    records: &mut Shard<M>,
    id: Id<Subscription<M>>,
    renewal: &Renewal<'_>,
) -> Result<(), Fault> {
    let Some(record) = records.subscriptions.get(id) else { return Ok(()) };
    let owner = records.watched(record.presentity).owner;
    let mut changed: Option<Vec<u8>> = None;
    for (field, value) in [
        (Text::Contact, renewal.contact),
        (Text::Socket, renewal.socket),
        (Text::LocalContact, renewal.local_contact),
    ] {
        if record.text(field) != value {
            let block = changed.take().unwrap_or_else(|| expand(&record.text, owner));
            changed = Some(with_text(&block, field, value)?);
        }
    }
    if changed.as_ref().is_some_and(|block| !has_room(block, ROOM_FOR_REASON)) {
        return Err(Fault::TooLong);
    }
    let text = changed.map(|block| records.blob(&shrink(&block, owner))).transpose()?;
    records.revive_subscription(id)?;
    let expires_at = renewal.now + i64::from(renewal.expires);
    if let Some(record) = records.subscriptions.get_mut(id) {
        if let Some(text) = text {
            record.text = text;
        }
        record.remote_cseq = renewal.cseq.max(record.remote_cseq);
        record.flags = renewal.flags;
        record.expires_at = expires_at.into();
    }
    records.subscription_expiry.schedule(&mut records.subscriptions, id, expires_at);
    Ok(())
}
