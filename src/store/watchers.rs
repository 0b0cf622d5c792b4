//! The subscriptions to one presentity, one after the other: no lock is held
//! for longer than a portion of them takes.

use crate::error::Fault;
use crate::presence::presentity::PresentityKey;
use crate::presence::subscription::{Authorization, Ending, Snapshot, Status, Text, with_text};
use crate::presence::winfo::WatcherEvent;
use crate::shm::Memory;
use crate::store::records::Phase;
use crate::store::subscription_block::{expand, shrink};
use crate::store::subscriptions::{REPLY_TIME, snapshot};
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
                    matches!(record.phase, Phase::Held | Phase::Live)
                        .then(|| (*token, snapshot(record, watched, now)))
                };
                portion.iter().filter_map(copy).collect::<Vec<_>>()
            });
            for (token, copy) in copies.unwrap_or_default() {
                each(token, copy);
            }
        }
    }

    /// A decision about a watcher: its subscription gets the state, and is to
    /// be sent a NOTIFY if that is another one than before. True if it is.
    pub fn decide(&self, token: Token, decision: &Authorization, now: i64) -> Result<bool, Fault> {
        self.with(token.shard(), |records| {
            let Some(id) = Self::resolve(records, token) else { return Ok(false) };
            let Some(record) = records.subscriptions.get(id) else { return Ok(false) };
            let same =
                record.status == decision.status && record.text(Text::Reason) == decision.reason;
            if same || !matches!(record.phase, Phase::Held | Phase::Live) {
                return Ok(false);
            }
            let (before, held) = (record.status, record.phase == Phase::Held);
            // Allocate first, change after.
            let turned_away = Authorization::turned_away();
            let owner = records.watched(record.presentity).owner;
            let block = expand(&record.text, owner);
            let (decision, block) = match with_text(&block, Text::Reason, &decision.reason) {
                Ok(block) => (decision, block),
                // Who leaves no room for a reason is not spared the decision.
                Err(_) => (&turned_away, block),
            };
            let text = records.blob(&shrink(&block, owner));
            let over = decision.status == Status::Terminated;
            // A subscription that is to end ends also without memory for the
            // reason.
            let text = match text {
                Err(fault) if !over => return Err(fault),
                text => text.ok(),
            };
            if let Some(record) = records.subscriptions.get_mut(id) {
                record.status = decision.status;
                if let Some(text) = text {
                    record.text = text;
                }
            }
            let ending = Ending::from_reason(&decision.reason);
            if over {
                records.end_subscription(id, ending);
                // No NOTIFY leaves before the 2xx; should that never leave, the
                // end is told without.
                let wheel = &mut records.subscription_expiry;
                wheel.schedule(&mut records.subscriptions, id, now + REPLY_TIME);
            }
            let event = WatcherEvent::of_decision(before, decision.status, ending);
            if before != decision.status {
                self.watcher_changed(records, id, event, over, false);
            }
            if !held {
                records.mark_due(id);
            }
            if self.policy.keeps_rows() {
                records.mark_dirty(id);
            }
            Ok(true)
        })?
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
