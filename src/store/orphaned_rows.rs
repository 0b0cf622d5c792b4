//! What the database has left of subscriptions and publications that are in
//! memory no more, or never were.

use crate::error::Fault;
use crate::presence::limits::Limits;
use crate::presence::presentity::PresentityKey;
use crate::presence::subscription::{Ending, Snapshot};
use crate::presence::transition::Phase;
use crate::presence::winfo::WatcherNews;
use crate::shm::Memory;
use crate::store::Store;
use crate::store::subscriptions::Inserted;

impl<M: Memory> Store<M> {
    /// A subscription whose row is gone has run out at this time: its watcher is
    /// told by the sender processes, as are those who watch the watchers.
    pub fn queue_ended(
        &self,
        key: &PresentityKey,
        subscription: &Snapshot,
        expires_at: i64,
    ) -> Result<(), Fault> {
        let phase = Phase::Ending(Ending::Expired);
        let added = self.add(key, subscription, expires_at, (phase, &Limits::NONE))?;
        // A record that the dialog has comes to its own end.
        let Inserted::New(token) = added else { return Ok(()) };
        self.with(token.shard(), |records| {
            let Some(id) = Self::resolve(records, token) else { return };
            let Some(record) = records.subscriptions.get(id) else { return };
            let (presentity, status) = (record.presentity, record.status);
            records.subscription_expiry.cancel(&mut records.subscriptions, id);
            self.watcher_changed(records, id, WatcherNews::ended(status, Ending::Expired));
            records.mark_notify_pending(id);
            self.queue_lane(records, presentity);
        })
    }

    /// Records of subscriptions in memory; where these are rows, those that await a
    /// NOTIFY.
    pub fn waiting(&self) -> usize {
        let of = |shard| self.with(shard, |records| records.subscriptions.len()).unwrap_or(0);
        (0..self.shards()).map(of).sum()
    }

    /// Somebody here watches the watchers of a presentity, or may.
    pub fn is_reported(&self, key: &PresentityKey) -> bool {
        self.policy
            .reported_by(key.package)
            .is_some_and(|package| self.may_be_watched(&PresentityKey { package, ..key.clone() }))
    }

    /// A presentity has a publication of this entity-tag, or a request is just
    /// making it.
    pub fn knows_publication(&self, key: &PresentityKey, tag: &[u8]) -> bool {
        let hash = self.presentity_hash(&key.identity, key.package);
        self.with(self.shard_of(&key.identity), |records| {
            records.find(key, hash).and_then(|owner| records.with_tag(owner, tag)).is_some()
        })
        .unwrap_or(false)
    }
}
