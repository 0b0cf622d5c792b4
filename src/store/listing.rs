//! What there is, for those who ask: the script and the operator's commands.
//! Everything is copied out under one shard's lock at a time.

use crate::presence::presentity::PresentityKey;
use crate::presence::publication::PublicationCopy;
use crate::presence::subscription::{Snapshot, is_within_its_time};
use crate::presence::transition::Phase;
use crate::shm::Memory;
use crate::store::Store;
use crate::store::lanes::copy_publication;
use crate::store::records::PublicationPhase;

/// A subscription and its end.
#[derive(Debug, Clone)]
pub struct Listed {
    /// The subscription.
    pub subscription: Snapshot,
    /// Unix time of its end.
    pub expires_at: i64,
}

impl<M: Memory> Store<M> {
    /// Somebody's subscription to exactly this presentity and package lives,
    /// pending or not (B33).
    pub fn has_subscribers(&self, key: &PresentityKey, now: i64) -> bool {
        let hash = self.presentity_hash(&key.identity, key.package);
        self.with(self.shard_of(&key.identity), |records| {
            let owner = records.find(key, hash).and_then(|id| records.presentities.get(id));
            owner.is_some_and(|owner| {
                owner.watchers.iter(&records.subscriptions).any(|(_, record)| {
                    matches!(record.phase, Phase::AwaitingResponse | Phase::Live)
                        && is_within_its_time(record.expires_at.get(), now)
                })
            })
        })
        .unwrap_or(false)
    }

    /// Up to so many of a presentity's publications, the newest first, and whether
    /// these are all. Those whose documents the database keeps come without.
    pub fn newest(&self, key: &PresentityKey, most: usize) -> (Vec<PublicationCopy>, bool) {
        let hash = self.presentity_hash(&key.identity, key.package);
        self.with(self.shard_of(&key.identity), |records| {
            let owner = records.find(key, hash).and_then(|id| records.presentities.get(id));
            let Some(owner) = owner else { return (Vec::new(), true) };
            let mut all =
                owner.publications.iter_back(&records.publications).filter(|(_, record)| {
                    matches!(record.phase, PublicationPhase::Live | PublicationPhase::Changing)
                });
            let copy = |(_, record)| copy_publication(records, record);
            let newest = all.by_ref().take(most).map(copy).collect();
            (newest, all.next().is_none())
        })
        .unwrap_or_default()
    }
}
