//! Subscriptions are counted, for limits and for the operator, from when they are
//! accepted until they have ended, publications from when they are part of the
//! state: every change of their phase that matters is here.

use crate::error::Fault;
use crate::presence::limits::{Limit, Limits};
use crate::presence::subscription::{Ending, Status, Text};
use crate::presence::transition::Phase;
use crate::presence::uri::identity;
use crate::shm::{Id, Memory};
use crate::store::gauges::Gauge;
use crate::store::records::{Presentity, Subscription};
use crate::store::shard::Shard;

impl<M: Memory> Shard<M> {
    /// Counts a subscription to this presentity that begins to live, unless a
    /// limit says no. Rows are not counted here.
    pub fn count_in(
        &self,
        presentity: Id<Presentity<M>>,
        (watcher, status): (u64, Status),
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
        let entered = self.tally.enter(watcher, limits)?;
        if entered.is_ok()
            && let Some(owner) = self.presentities.get(presentity)
        {
            self.gauges.more(owner.package, Gauge::of(status));
        }
        Ok(entered)
    }

    /// A subscription that was counted lives no more.
    pub(super) fn count_out(&self, id: Id<Subscription<M>>) {
        let Some(record) = self.subscriptions.get(id) else { return };
        self.give_back_count(record.presentity, (self.watcher(record), record.status));
    }

    /// What was counted in does not come to live.
    pub fn give_back_count(&self, presentity: Id<Presentity<M>>, (watcher, status): (u64, Status)) {
        if self.reads_watchers() {
            return;
        }
        self.tally.leave(watcher);
        if let Some(owner) = self.presentities.get(presentity) {
            self.gauges.less(owner.package, Gauge::of(status));
        }
    }

    /// A subscription gets another state.
    pub fn set_status(&mut self, id: Id<Subscription<M>>, status: Status) {
        let are_counted = !self.reads_watchers();
        let Some(record) = self.subscriptions.get_mut(id) else { return };
        let before = std::mem::replace(&mut record.status, status);
        let is_counted = record.phase.lives() && are_counted;
        let owner = record.presentity;
        if is_counted
            && Gauge::of(before) != Gauge::of(status)
            && let Some(owner) = self.presentities.get(owner)
        {
            self.gauges.less(owner.package, Gauge::of(before));
            self.gauges.more(owner.package, Gauge::of(status));
        }
    }

    /// A publication becomes part of the state of this presentity, or leaves it.
    pub(super) fn publication_counted(&self, presentity: Id<Presentity<M>>, begins: bool) {
        let Some(owner) = self.presentities.get(presentity) else { return };
        match begins {
            true => self.gauges.more(owner.package, Gauge::Publications),
            false => self.gauges.less(owner.package, Gauge::Publications),
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
        let (presentity, watcher) = (record.presentity, (self.watcher(record), record.status));
        let _ = self.count_in(presentity, watcher, &Limits::NONE)?;
        if let Some(record) = self.subscriptions.get_mut(id) {
            record.phase = Phase::Live;
        }
        Ok(())
    }
}
