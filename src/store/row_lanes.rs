//! Lanes of presentities whose subscriptions are rows of the database
//! (`subs_db_mode=3`). A record is in memory only while its subscription awaits
//! a NOTIFY; lanes, state versions and final publications are those of the other modes. The
//! watchers of a change are read from the table in pages: a fan-out.

use crate::error::Fault;
use crate::presence::presentity::PresentityKey;
use crate::presence::state_version::StateVersion;
use crate::presence::subscription::{DialogId, Ending, Snapshot, Text};
use crate::presence::transition::Phase;
use crate::shm::{Id, Memory};
use crate::store::dialogs::{Places, is_dialog};
use crate::store::lanes::pick::{Picked, Picking};
use crate::store::lanes::{Composed, Taken, forget_seen, is_excluded};
use crate::store::records::{Presentity, RowClaim, Subscription};
use crate::store::rows::dialog_of;
use crate::store::shard::Shard;
use crate::store::subscription_block::shrink;
use crate::store::{LaneRef, Store, Token};

/// A subscription that awaits a NOTIFY.
#[derive(Debug, Clone)]
pub struct PendingNotify {
    /// The subscription as its row says; `local_cseq` is the last one used.
    pub subscription: Snapshot,
    /// Unix time of its end.
    pub expires_at: i64,
    /// Its NOTIFY is the last one.
    pub ending: Option<Ending>,
    /// What the NOTIFY has to do about the row.
    pub claim: RowClaim,
    /// State version that its watcher was notified of, where that is known.
    pub notified: Option<StateVersion>,
    /// The row's `reason` is NULL.
    pub null_reason: bool,
}

/// How to go on with notifying the watchers of a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FanOutStep {
    /// All have been notified.
    Done,
    /// Read the rows whose `id` is greater.
    Page(i64),
    /// Nothing urgent: the notifier processes may do it. All changes are those
    /// of the watcher with this Contact, if it is not empty.
    Leave(Vec<u8>),
}

/// Those that are here while they await a NOTIFY.
struct PendingRows;

impl<M: Memory> Picked<M> for PendingRows {
    fn token(
        _store: &Store<M>,
        _shard: usize,
        _records: &Shard<M>,
        _id: Id<Subscription<M>>,
    ) -> Option<Token> {
        Some(Token::ROW)
    }

    /// A fan-out is about the changes up to its state version; what ends later is said by the
    /// next one, once.
    fn ends_up_to(records: &Shard<M>, owner: &Presentity<M>) -> Option<StateVersion> {
        let extra = records.extra(owner);
        Some(extra.map_or(StateVersion::default(), |extra| extra.rows.state_version))
    }

    /// Numbers in a row that are taken together are given back together.
    fn notified_after(before: StateVersion, _last: StateVersion) -> StateVersion {
        before
    }

    fn seen_to(
        store: &Store<M>,
        records: &mut Shard<M>,
        picking: &mut Picking<'_, M>,
        id: Id<Subscription<M>>,
    ) {
        let shard = usize::from(picking.lane.shard);
        picking.released.extend(store.release_row(records, shard, id));
    }
}

impl<M: Memory> Store<M> {
    /// As `take`, of those that are rows: they are all pending one by one, and their
    /// records go.
    pub fn take_rows(
        &self,
        lane: LaneRef<M>,
        composed: Composed<'_>,
        now: i64,
        limit: usize,
    ) -> Taken {
        let mut picking = Picking::new(lane, composed, now, limit);
        let is_latest = self.with(usize::from(lane.shard), |records| {
            self.pick_pending::<PendingRows>(records, &mut picking);
            let owner = records.presentities.get(lane.presentity);
            owner.is_some_and(|owner| owner.state_version == composed.state_version)
        });
        let Picking { notifies, released, .. } = picking;
        for (places, token) in released {
            self.forget(places, token);
        }
        let (more, is_latest) = (notifies.len() >= limit, is_latest.unwrap_or(true));
        Taken { notifies, more, is_latest, begins: None, unreserved: Vec::new() }
    }

    /// A subscription is to be sent a NOTIFY. Gives the lane when the caller is
    /// the one to send it.
    pub fn queue_row(
        &self,
        key: &PresentityKey,
        pending: &PendingNotify,
    ) -> Result<Option<LaneRef<M>>, Fault> {
        let hash = self.presentity_hash(&key.identity, key.package);
        let shard = self.shard_of(&key.identity);
        let dialog = dialog_of(&pending.subscription);
        let place = self.dialog_hash(dialog);
        self.with(shard, |records| {
            let presentity = self.find_or_create(records, key, hash)?;
            let known = self.known_row(records, shard, place, dialog);
            let queued = match known {
                Some(id) => replace(records, id, pending),
                None => self.add_row(records, shard, presentity, place, pending),
            };
            match queued {
                Ok(id) => records.mark_notify_pending(id),
                Err(fault) => {
                    self.drop_if_idle(records, presentity);
                    return Err(fault);
                }
            }
            Ok(records.take_lane(presentity).then_some(LaneRef { shard: shard as u16, presentity }))
        })?
    }

    /// Queues those of a page of rows who have to be notified. Gives how many rows
    /// there was memory for.
    pub fn queue_page(&self, lane: LaneRef<M>, page: &[PendingNotify]) -> usize {
        let shard = usize::from(lane.shard);
        self.with(shard, |records| {
            for (n, pending) in page.iter().enumerate() {
                let Some(owner) = records.presentities.get(lane.presentity) else { return n };
                let contact = pending.subscription.text(Text::Contact);
                if is_excluded(records.extra(owner), contact, owner.completed) {
                    continue;
                }
                let dialog = dialog_of(&pending.subscription);
                let place = self.dialog_hash(dialog);
                let completed = owner.completed;
                match self.known_row(records, shard, place, dialog) {
                    // What waits may be newer than the page. It has to be notified
                    // of what the fan-out reports.
                    Some(id) => mark_not_notified(records, id, completed),
                    None => match self.add_row(records, shard, lane.presentity, place, pending) {
                        Ok(id) => records.mark_notify_pending(id),
                        Err(_) => return n,
                    },
                }
            }
            page.len()
        })
        .unwrap_or_default()
    }

    /// The record of a dialog that awaits its NOTIFY already.
    fn known_row(
        &self,
        records: &Shard<M>,
        shard: usize,
        place: u64,
        dialog: DialogId<'_>,
    ) -> Option<Id<Subscription<M>>> {
        let token = self
            .dialogs(place)
            .ok()?
            .lock()
            .find(place, |token| token.shard() == shard && is_dialog(records, token, dialog))?;
        Self::resolve(records, token)
    }

    fn add_row(
        &self,
        records: &mut Shard<M>,
        shard: usize,
        presentity: Id<Presentity<M>>,
        place: u64,
        pending: &PendingNotify,
    ) -> Result<Id<Subscription<M>>, Fault> {
        let id = super::subscriptions::new_record(records, presentity, &pending.subscription)?;
        let (state_version, completed) = records
            .presentities
            .get(presentity)
            .map(|p| (p.state_version, p.completed))
            .unwrap_or_default();
        if let Some(record) = records.subscriptions.get_mut(id) {
            record.expires_at = pending.expires_at.into();
            record.claim = pending.claim;
            record.null_reason = pending.null_reason;
            record.phase = pending.ending.map_or(Phase::Live, Phase::Ending);
            // Who asks is shown the newest state; who is notified of a change has
            // been notified of everything before the fan-out.
            record.notified = pending.notified.unwrap_or(match pending.claim {
                RowClaim::FanOut | RowClaim::NotifierSlot(_) => completed,
                RowClaim::None | RowClaim::Asked | RowClaim::Rescue => state_version,
            });
        }
        let token = self.token(shard, records, id).ok_or(Fault::Host)?;
        let indexed = self.dialogs(place)?.lock().insert(place, token);
        if let Err(full) = indexed {
            records.retire_subscription(id);
            return Err(full.into());
        }
        Ok(id)
    }

    /// The NOTIFY of a row was taken: its record goes. Gives where the index
    /// has it.
    fn release_row(
        &self,
        records: &mut Shard<M>,
        shard: usize,
        id: Id<Subscription<M>>,
    ) -> Option<(Places, Token)> {
        let places = self.places(records, records.subscriptions.get(id)?);
        let token = self.token(shard, records, id)?;
        records.retire_subscription(id);
        Some((places, token))
    }

    /// How to go on with the fan-out over the watchers of the lane's presentity.
    /// `buffers`: there are notifier processes.
    pub fn fan_out_step(&self, lane: LaneRef<M>, buffers: bool) -> FanOutStep {
        self.with(usize::from(lane.shard), |records| {
            let Some(owner) = records.presentities.get(lane.presentity) else {
                return FanOutStep::Done;
            };
            let (state_version, completed) = (owner.state_version, owner.completed);
            let Some(extra) = records.extra_mut(lane.presentity) else { return FanOutStep::Done };
            if extra.rows.running {
                return FanOutStep::Page(extra.rows.cursor);
            }
            if completed == state_version {
                return FanOutStep::Done;
            }
            extra.rows.state_version = state_version;
            if buffers && !extra.rows.urgent {
                let excluded = is_excluded(Some(extra), &extra.sender, completed);
                return FanOutStep::Leave(if excluded {
                    extra.sender.to_vec()
                } else {
                    Vec::new()
                });
            }
            extra.rows.urgent = false;
            extra.rows.running = true;
            extra.rows.cursor = 0;
            FanOutStep::Page(0)
        })
        .unwrap_or(FanOutStep::Done)
    }

    /// The fan-out has seen the rows up to this `id`, or all (`None`).
    pub fn fan_out_read(&self, lane: LaneRef<M>, last: Option<i64>) {
        let _ = self.with(usize::from(lane.shard), |records| {
            let Some(extra) = records.extra_mut(lane.presentity) else { return };
            match last {
                Some(id) => extra.rows.cursor = id,
                None => {
                    extra.rows.running = false;
                    let state_version = extra.rows.state_version;
                    let owner = records.presentities.get_mut(lane.presentity);
                    if let Some(owner) =
                        owner.filter(|owner| state_version.is_after(owner.completed))
                    {
                        owner.completed = state_version;
                        forget_seen(records, lane.presentity);
                    }
                }
            }
        });
    }

    /// The presentity, if somebody may watch it. Where subscriptions are rows, that
    /// is seen later.
    pub(super) fn watched(
        &self,
        records: &mut Shard<M>,
        key: &PresentityKey,
        hash: u64,
    ) -> Result<Option<Id<Presentity<M>>>, Fault> {
        match records.reads_watchers() {
            true => self.find_or_create(records, key, hash).map(Some),
            false => Ok(records.find(key, hash)),
        }
    }

    /// Somebody here watches the presentity, or may.
    pub fn may_be_watched(&self, key: &PresentityKey) -> bool {
        let hash = self.presentity_hash(&key.identity, key.package);
        self.with(self.shard_of(&key.identity), |records| {
            records.reads_watchers()
                || records.find(key, hash).is_some_and(|id| records.may_be_watched(id))
        })
        .unwrap_or(false)
    }
}

/// A NOTIFY is awaited already: it is to show what is known now. A copy of the
/// row that is older than a request that waits changes nothing.
fn replace<M: Memory>(
    records: &mut Shard<M>,
    id: Id<Subscription<M>>,
    pending: &PendingNotify,
) -> Result<Id<Subscription<M>>, Fault> {
    if let Some(notified) = pending.notified {
        mark_not_notified(records, id, notified);
    }
    let waiting = records.subscriptions.get(id).map(|record| record.remote_cseq);
    if waiting.is_some_and(|cseq| pending.subscription.remote_cseq < cseq) {
        return Ok(id);
    }
    let Some(owner) = records.subscriptions.get(id).map(|record| record.presentity) else {
        return Ok(id);
    };
    let owner = records.watched(owner).owner;
    let text = records.blob(&shrink(pending.subscription.block(), owner))?;
    if let Some(record) = records.subscriptions.get_mut(id) {
        record.text = text;
        record.expires_at = pending.expires_at.into();
        record.remote_cseq = pending.subscription.remote_cseq;
        record.local_cseq = pending.subscription.local_cseq;
        record.version = pending.subscription.version;
        record.flags = pending.subscription.flags;
        record.status = pending.subscription.status;
        record.null_reason = pending.null_reason;
        match (pending.ending, record.phase) {
            (Some(why), _) => record.phase = Phase::Ending(why),
            // It was refreshed before its end was reported.
            (None, Phase::Ending(Ending::Expired)) => record.phase = Phase::Live,
            (None, _) => {}
        }
        if matches!(pending.claim, RowClaim::Asked | RowClaim::Rescue) {
            record.claim = pending.claim;
        }
    }
    Ok(id)
}

/// A watcher has not been notified of more than this state version.
fn mark_not_notified<M: Memory>(
    records: &mut Shard<M>,
    id: Id<Subscription<M>>,
    state_version: StateVersion,
) {
    if let Some(record) = records.subscriptions.get_mut(id) {
        record.unmark_notified(state_version);
    }
}
