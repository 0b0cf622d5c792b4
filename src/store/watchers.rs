//! The subscriptions to one presentity, one after the other: no lock is held
//! for longer than a portion of them takes.

use crate::presence::presentity::PresentityKey;
use crate::presence::subscription::Snapshot;
use crate::presence::transition::Phase;
use crate::shm::Memory;
use crate::store::subscriptions::snapshot;
use crate::store::{LaneRef, Store, Token};

/// Subscriptions copied under one lock.
const PORTION: usize = 64;

impl<M: Memory> Store<M> {
    /// All subscriptions to a presentity that are not over, each copied when
    /// its turn comes.
    pub fn each_watcher(
        &self,
        key: &PresentityKey,
        now: i64,
        mut each: impl FnMut(Token, Snapshot),
    ) {
        let hash = self.presentity_hash(&key.identity, key.package);
        let shard = self.shard_of(&key.identity);
        let tokens = self.with(shard, |records| {
            let owner = records.find(key, hash).and_then(|id| records.presentities.get(id));
            let Some(owner) = owner else { return Vec::new() };
            owner
                .watchers
                .iter(&records.subscriptions)
                .filter_map(|(id, _)| self.token(shard, records, id))
                .collect()
        });
        for portion in tokens.unwrap_or_default().chunks(PORTION) {
            let copies = self.with(shard, |records| {
                let copy = |token: &Token| {
                    let record = records.subscriptions.get(Self::resolve(records, *token)?)?;
                    let watched = records.watched(record.presentity);
                    matches!(record.phase, Phase::AwaitingResponse | Phase::Live)
                        .then(|| (*token, snapshot(record, watched, now)))
                };
                portion.iter().filter_map(copy).collect::<Vec<_>>()
            });
            for (token, copy) in copies.unwrap_or_default() {
                each(token, copy);
            }
        }
    }

    /// The lane of a presentity, if it has something to send and nobody owns it.
    pub fn lane_of(&self, key: &PresentityKey) -> Option<LaneRef<M>> {
        let hash = self.presentity_hash(&key.identity, key.package);
        let shard = self.shard_of(&key.identity);
        self.with(shard, |records| {
            let presentity = records.find(key, hash)?;
            records.take_lane(presentity).then_some(LaneRef { shard: shard as u16, presentity })
        })
        .ok()
        .flatten()
    }
}
