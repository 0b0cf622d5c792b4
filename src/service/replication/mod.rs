//! Replication over DMQ: what is accepted here is sent to the peers, and what
//! they tell is applied here. Nothing is sent by who serves a request: a change
//! goes into the outbox, and a process of its own hands it to DMQ.

mod incoming;
mod outgoing;
mod publications;
pub mod subscriptions;

pub use incoming::{Received, receive};
pub use outgoing::Replicator;

use crate::ports::Host;
use crate::presence::presentity::PresentityKey;
use crate::presence::publication::Step;
use crate::presence::replication::stamp::Stamp;
use crate::presence::replication::update::Update;
use crate::service::Server;
use crate::service::publication_request::{Origin, PublicationRequest};
use crate::shm::Memory;
use crate::store::publications::PublicationChange;
use crate::store::replication::{Class, Known, RecordKey, Replication};

/// Seconds for which more is known of what has run out or was removed: a message
/// about it may still be under way.
const GRACE: i64 = 60;
/// Seconds for which the stamp of hard state is known.
const FOR_EVER: i64 = 10 * 365 * 86_400;

/// A change that peers are to hear of, before it is made. Its stamp is known
/// from here on: what a peer says of the same publication meanwhile is judged by
/// it.
pub struct Begun {
    stamp: Stamp,
}

/// What peers are to hear.
pub struct ForPeers {
    key: RecordKey,
    update: Update,
}

/// How long the stamp of a publication is of use.
fn known_until<M: Memory>(server: &Server<M>, expires_at: Option<i64>, now: i64) -> i64 {
    expires_at.unwrap_or(now + FOR_EVER).max(now) + GRACE.max(i64::from(server.config.max_expires))
}

/// How long it has to be known that a publication is gone: a server that was away
/// may have it for as long as the longest lifetime.
fn gone_until<M: Memory>(server: &Server<M>, now: i64) -> i64 {
    now + i64::from(server.config.max_expires) + GRACE
}

impl Begun {
    /// `None` where nobody hears of it.
    pub fn new<M: Memory>(
        server: &Server<M>,
        host: &mut dyn Host,
        publishing: &PublicationRequest<'_>,
        change: &PublicationChange<'_>,
    ) -> Option<Begun> {
        let replication = told_by(server, publishing)?;
        let now = host.now();
        let stamp = replication.stamp(host.milliseconds());
        let is_gone = publishing.step == Step::Remove;
        let tag = if is_gone { publishing.if_match? } else { change.entity_tag };
        let until = match is_gone {
            true => gone_until(server, now),
            false => known_until(server, change.expires_at, now),
        };
        let key = replication.tag_key(&publishing.key, tag);
        replication.keep(key, Known { stamp, is_gone }, until, now);
        Some(Begun { stamp })
    }

    /// The change was made: `ruid` is the publication's id. Without one nothing was.
    pub fn done<M: Memory>(
        self,
        server: &Server<M>,
        publishing: &PublicationRequest<'_>,
        change: &PublicationChange<'_>,
        ruid: Option<&[u8]>,
    ) -> Option<ForPeers> {
        let replication = told_by(server, publishing)?;
        let Origin::Here { domain } = publishing.origin else { return None };
        let Some(ruid) = ruid.filter(|ruid| !ruid.is_empty()) else {
            replication.forget(replication.tag_key(&publishing.key, change.entity_tag));
            return None;
        };
        let old = publishing.if_match.unwrap_or_default();
        let is_gone = publishing.step == Step::Remove;
        settle(server, replication, (&publishing.key, ruid), (old, change), self.stamp, is_gone);
        let update = Update {
            stamp: self.stamp,
            received: change.now,
            expires_at: change.expires_at,
            is_new: publishing.step == Step::Create,
            is_gone,
            domain: domain.to_vec(),
            user: publishing.key.user.clone(),
            event: publishing.package.name.clone(),
            etag: old.to_vec(),
            new_etag: if is_gone { old.to_vec() } else { change.entity_tag.to_vec() },
            sender: change.sender.unwrap_or_default().to_vec(),
            ruid: ruid.to_vec(),
            body: if is_gone { Vec::new() } else { publishing.body.to_vec() },
        };
        Some(ForPeers { key: replication.ruid_key(ruid), update })
    }

    /// The change was not made.
    pub fn failed<M: Memory>(
        &self,
        server: &Server<M>,
        publishing: &PublicationRequest<'_>,
        change: &PublicationChange<'_>,
    ) {
        let Some(replication) = told_by(server, publishing) else { return };
        let tag = match publishing.step {
            Step::Remove => publishing.if_match,
            _ => Some(change.entity_tag).filter(|tag| publishing.if_match != Some(tag)),
        };
        if let Some(tag) = tag {
            replication.forget(replication.tag_key(&publishing.key, tag));
        }
    }
}

/// The change is made: the former tag says nothing any more, and what is gone is
/// known by its id.
fn settle<M: Memory>(
    server: &Server<M>,
    replication: &Replication<M>,
    (key, ruid): (&PresentityKey, &[u8]),
    (old, change): (&[u8], &PublicationChange<'_>),
    stamp: Stamp,
    is_gone: bool,
) {
    match is_gone {
        true => {
            let until = gone_until(server, change.now);
            let known = Known { stamp, is_gone };
            replication.keep(replication.ruid_key(ruid), known, until, change.now);
        }
        false if !old.is_empty() && old != change.entity_tag => {
            replication.forget(replication.tag_key(key, old));
        }
        false => {}
    }
}

/// What is shared for it, if peers hear of this change.
fn told_by<M: Memory>(
    server: &Server<M>,
    publishing: &PublicationRequest<'_>,
) -> Option<&'static Replication<M>> {
    let is_ours = matches!(publishing.origin, Origin::Here { .. });
    let replication = server.store.replication()?;
    (is_ours && server.config.dmq.publications).then_some(replication)
}

impl ForPeers {
    /// Puts it into the outbox.
    pub fn put<M: Memory>(self, server: &Server<M>, host: &mut dyn Host) {
        let Some(replication) = server.store.replication() else { return };
        let payload = self.update.pack();
        if replication.put(self.key, Class::Publication, &payload, Update::merge) {
            host.wake_replicator();
        }
    }
}
