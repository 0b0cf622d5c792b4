//! Subscriptions are counted for limits from when they are accepted until they
//! have ended: every change of their phase that matters is here.

use crate::error::Fault;
use crate::presence::limits::{Limit, Limits};
use crate::presence::subscription::{Ending, Text};
use crate::presence::transition::Phase;
use crate::presence::uri::identity;
use crate::shm::{Id, Memory};
use crate::store::records::{Presentity, Subscription};
use crate::store::shard::Shard;

impl<M: Memory> Shard<M> {
    /// Counts a subscription to this presentity that begins to live, unless a
    /// limit says no. Rows are not counted here.
    pub fn count_in(
        &self,
        presentity: Id<Presentity<M>>,
        watcher: u64,
        limits: &Limits,
    ) -> Result<Result<(), Limit>, Fault> {
        if self.reads_watchers() {
            return Ok(Ok(()));
        }
        // Those that wait for their last NOTIFY, which comes at once, included.
        let watchers = self.presentities.get(presentity).map_or(0, |owner| owner.watchers.len());
        let watchers = u32::try_from(watchers).unwrap_or(u32::MAX);
        if !limits.has_room(Limit::OfPresentity, watchers) {
            return Ok(Err(Limit::OfPresentity));
        }
        self.tally.enter(watcher, limits)
    }

    /// A subscription that was counted lives no more.
    pub(super) fn count_out(&self, id: Id<Subscription<M>>) {
        let Some(record) = self.subscriptions.get(id) else { return };
        self.give_back_count(self.watcher(record));
    }

    /// What was counted in does not come to live.
    pub fn give_back_count(&self, watcher: u64) {
        if !self.reads_watchers() {
            self.tally.leave(watcher);
        }
    }

    /// The hash of a subscription's watcher.
    fn watcher(&self, record: &Subscription<M>) -> u64 {
        let text = |field| self.text(record, field);
        let (user, host) = (text(Text::WatcherUser), text(Text::WatcherHost));
        self.tally.watcher(&identity(user, host, self.policy.user_case))
    }

    /// A subscription ends; only its last NOTIFY is to be sent.
    pub fn end_subscription(&mut self, id: Id<Subscription<M>>, why: Ending) {
        if let Some(record) = self.subscriptions.get_mut(id)
            && !matches!(record.phase, Phase::Leaving | Phase::Gone)
        {
            let lived = record.phase.lives();
            record.phase = Phase::Ending(why);
            if lived {
                self.count_out(id);
            }
        }
        self.subscription_expiry.cancel(&mut self.subscriptions, id);
    }

    /// A subscription that ran out goes on, should it be one. It was accepted
    /// once, so no limit says no.
    pub fn revive_subscription(&mut self, id: Id<Subscription<M>>) -> Result<(), Fault> {
        let Some(record) = self.subscriptions.get(id) else { return Ok(()) };
        if record.phase != Phase::Ending(Ending::Expired) {
            return Ok(());
        }
        let (presentity, watcher) = (record.presentity, self.watcher(record));
        let _ = self.count_in(presentity, watcher, &Limits::NONE)?;
        if let Some(record) = self.subscriptions.get_mut(id) {
            record.phase = Phase::Live;
        }
        Ok(())
    }
}
