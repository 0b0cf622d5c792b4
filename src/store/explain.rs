//! What memory has about one watcher of one presentity, for those who ask why it sees
//! what it sees. No lock is held for more than a page of watchers.

use crate::presence::notify_fate::LatestNotify;
use crate::presence::presentity::PresentityKey;
use crate::presence::subscription::{DialogId, Snapshot, Text};
use crate::presence::transition::Phase;
use crate::presence::uri::identity;
use crate::shm::{Id, Memory};
use crate::store::Store;
use crate::store::lanes::is_excluded;
use crate::store::records::{Lag, Presentity, Subscription};
use crate::store::shard::Shard;
use crate::store::subscriptions::{dialog_of_record, snapshot};
use crate::store::walk::{PAGE, Place};

/// A subscription, and how far its watcher has been notified.
#[derive(Debug, Clone)]
pub struct Explained {
    /// The subscription.
    pub subscription: Snapshot,
    /// Unix time of its end.
    pub expires_at: i64,
    /// Where it is in its life.
    pub phase: Phase,
    /// How its row differs from it.
    pub lag: Lag,
    /// It has a row.
    pub has_row: bool,
    /// How often in succession the database has refused that.
    pub refusals: u8,
    /// A NOTIFY is being sent.
    pub in_flight: bool,
    /// It awaits a NOTIFY of its own.
    pub has_pending_notify: bool,
    /// It has not been notified of the newest state, and is to be.
    pub is_behind: bool,
    /// Its Contact has made the latest change.
    pub is_excluded: bool,
    /// What became of its latest NOTIFY.
    pub latest: LatestNotify,
}

/// A presentity's lane, and how far its watchers have been notified.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LaneState {
    /// It waits for a sender process.
    pub is_queued: bool,
    /// Processes that are at it.
    pub owners: u8,
    /// Watchers that the fan-out has not reached yet.
    pub unvisited: u32,
    /// Not all have been notified of the newest state.
    pub is_behind: bool,
}

impl<M: Memory> Store<M> {
    /// How far the watchers of a presentity have been notified, if it is in memory.
    pub fn lane_seen(&self, key: &PresentityKey) -> Option<LaneState> {
        let hash = self.presentity_hash(&key.identity, key.package);
        self.with(self.shard_of(&key.identity), |records| {
            let owner = records.presentities.get(records.find(key, hash)?)?;
            Some(LaneState {
                is_queued: owner.lane.is_queued(),
                owners: owner.lane.owners(),
                unvisited: owner.unvisited,
                is_behind: owner.completed != owner.state_version,
            })
        })
        .ok()?
    }

    /// The subscriptions of a watcher (user and host) to a presentity, those that are
    /// over included as long as they have a record.
    pub fn explained(
        &self,
        key: &PresentityKey,
        (user, host): (&[u8], &[u8]),
        now: i64,
    ) -> Vec<Explained> {
        let watcher = identity(user, host, self.policy.user_case);
        let hash = self.presentity_hash(&key.identity, key.package);
        let shard = self.shard_of(&key.identity);
        let mut found = Vec::new();
        let is_one = |records: &Shard<M>, record: &Subscription<M>| {
            let text = |field| records.text(record, field);
            record.phase != Phase::Gone
                && identity(text(Text::WatcherUser), text(Text::WatcherHost), self.policy.user_case)
                    == watcher
        };
        // Mostly there are few.
        let few = self.with(shard, |records| {
            let owner = records.find(key, hash).and_then(|id| records.presentities.get(id));
            let Some(owner) = owner else { return true };
            if owner.watchers.len() > PAGE as usize {
                return false;
            }
            let all = owner.watchers.iter(&records.subscriptions);
            let ours = all.filter(|(_, record)| is_one(records, record));
            found.extend(ours.map(|(_, record)| explained(records, owner, record, now)));
            true
        });
        if few.unwrap_or(true) {
            return found;
        }
        let shard = u32::try_from(shard).unwrap_or(u32::MAX);
        let mut at = Some(Place { shard, index: 0 });
        while let Some(place) = at.filter(|place| place.shard == shard) {
            at = self.each_subscription(place, |records, record| {
                // The presentity may have gone, and come again.
                let id = records.find(key, hash);
                if id == Some(record.presentity)
                    && is_one(records, record)
                    && let Some(owner) = id.and_then(|id| records.presentities.get(id))
                {
                    found.push(explained(records, owner, record, now));
                }
            });
        }
        found
    }

    /// The row of this dialog is yet to be deleted: its subscription, to this
    /// presentity, is over.
    pub fn awaits_deletion(&self, key: &PresentityKey, dialog: DialogId<'_>) -> bool {
        let shard = u32::try_from(self.shard_of(&key.identity)).unwrap_or(u32::MAX);
        let (mut at, mut is_found) = (Some(Place { shard, index: 0 }), false);
        while let Some(place) = at.filter(|place| place.shard == shard && !is_found) {
            at = self.each_subscription(place, |_, record| {
                is_found |= record.phase == Phase::Gone && dialog_of_record(record) == dialog;
            });
        }
        is_found
    }

    /// The record of a row that awaits its NOTIFY.
    pub fn explained_row(
        &self,
        key: &PresentityKey,
        dialog: DialogId<'_>,
        now: i64,
    ) -> Option<Explained> {
        let token = self.find_dialog(dialog).ok()??;
        let shard = self.shard_of(&key.identity);
        self.with(shard, |records| {
            let id: Id<Subscription<M>> =
                (token.shard() == shard).then(|| Self::resolve(records, token)).flatten()?;
            let record = records.subscriptions.get(id)?;
            let owner = records.presentities.get(record.presentity)?;
            Some(explained(records, owner, record, now))
        })
        .ok()?
    }
}

fn explained<M: Memory>(
    records: &Shard<M>,
    owner: &Presentity<M>,
    record: &Subscription<M>,
    now: i64,
) -> Explained {
    let (extra, contact) = (records.extra(owner), record.text(Text::Contact));
    let sender = extra.map(|extra| &*extra.sender).filter(|sender| !sender.is_empty());
    let is_behind = owner.state_version.is_after(record.notified)
        && record.sees_changes(now)
        && !is_excluded(extra, contact, record.notified);
    Explained {
        subscription: snapshot(record, owner.watched(&records.hosts), now),
        expires_at: record.expires_at.get(),
        phase: record.phase,
        lag: record.lag,
        has_row: record.has_row,
        refusals: record.refusals,
        in_flight: record.in_flight,
        has_pending_notify: record.has_pending_notify,
        is_behind,
        is_excluded: sender == Some(contact),
        latest: record.latest,
    }
}
