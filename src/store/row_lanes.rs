//! Lanes of presentities whose subscriptions are rows of the database
//! (`subs_db_mode=3`). A record is in memory only while its subscription awaits
//! a NOTIFY; lanes, rounds and farewells are those of the other modes. The
//! watchers of a change are read from the table in pages: a walk.

use crate::error::Fault;
use crate::presence::presentity::PresentityKey;
use crate::presence::subscription::{DialogId, Ending, Snapshot, Text};
use crate::presence::transition::Phase;
use crate::shm::{Id, Memory};
use crate::store::dialogs::{Places, is_dialog};
use crate::store::lanes::{forget_told, is_spared};
use crate::store::records::{Claim, Presentity, Subscription};
use crate::store::rows::dialog_of;
use crate::store::shard::{Shard, later};
use crate::store::subscription_block::shrink;
use crate::store::{LaneRef, Store, Token};

/// A subscription that awaits a NOTIFY.
#[derive(Debug, Clone)]
pub struct DueRow {
    /// The subscription as its row says; `local_cseq` is the last one used.
    pub subscription: Snapshot,
    /// Unix time of its end.
    pub expires_at: i64,
    /// Its NOTIFY is the last one.
    pub ending: Option<Ending>,
    /// What the NOTIFY has to do about the row.
    pub claim: Claim,
    /// Round that its watcher was told of, where that is known.
    pub told: Option<u32>,
    /// The row's `reason` is NULL.
    pub null_reason: bool,
}

/// How to go on with telling the watchers of a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WalkStep {
    /// All have been told.
    Done,
    /// Read the rows whose `id` is greater.
    Page(i64),
    /// Nothing urgent: the notifier processes may do it. All changes are those
    /// of the watcher with this Contact, if it is not empty.
    Leave(Vec<u8>),
}

impl<M: Memory> Store<M> {
    /// A subscription is to be sent a NOTIFY. Gives the lane when the caller is
    /// the one to send it.
    pub fn queue_row(
        &self,
        key: &PresentityKey,
        due: &DueRow,
    ) -> Result<Option<LaneRef<M>>, Fault> {
        let hash = self.presentity_hash(&key.identity, key.package);
        let shard = self.shard_of(&key.identity);
        let dialog = dialog_of(&due.subscription);
        let place = self.dialog_hash(dialog);
        self.with(shard, |records| {
            let presentity = self.find_or_create(records, key, hash)?;
            let known = self.known_row(records, shard, place, dialog);
            let queued = match known {
                Some(id) => replace(records, id, due),
                None => self.add_row(records, shard, presentity, place, due),
            };
            match queued {
                Ok(id) => records.mark_due(id),
                Err(fault) => {
                    self.drop_if_idle(records, presentity);
                    return Err(fault);
                }
            }
            Ok(records.take_lane(presentity).then_some(LaneRef { shard: shard as u16, presentity }))
        })?
    }

    /// Of a page of the walk those who have to be told; gives how many rows
    /// there was memory for.
    pub fn queue_page(&self, lane: LaneRef<M>, page: &[DueRow]) -> usize {
        let shard = usize::from(lane.shard);
        self.with(shard, |records| {
            for (n, due) in page.iter().enumerate() {
                let Some(owner) = records.presentities.get(lane.presentity) else { return n };
                let contact = due.subscription.text(Text::Contact);
                if is_spared(records.aside(owner), contact, owner.completed) {
                    continue;
                }
                let dialog = dialog_of(&due.subscription);
                let place = self.dialog_hash(dialog);
                let completed = owner.completed;
                match self.known_row(records, shard, place, dialog) {
                    // What waits may be newer than the page. It has to be told
                    // what the walk tells.
                    Some(id) => not_told(records, id, completed),
                    None => match self.add_row(records, shard, lane.presentity, place, due) {
                        Ok(id) => records.mark_due(id),
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
        due: &DueRow,
    ) -> Result<Id<Subscription<M>>, Fault> {
        let id = super::subscriptions::new_record(records, presentity, &due.subscription)?;
        let (round, completed) = records
            .presentities
            .get(presentity)
            .map(|p| (p.round, p.completed))
            .unwrap_or_default();
        if let Some(record) = records.subscriptions.get_mut(id) {
            record.expires_at = due.expires_at.into();
            record.claim = due.claim;
            record.null_reason = due.null_reason;
            record.phase = due.ending.map_or(Phase::Live, Phase::Ending);
            // Who asks is shown the newest state; who is told of a change has
            // been told of everything before the walk.
            record.told = due.told.unwrap_or(match due.claim {
                Claim::Walk | Claim::Turn(_) => completed,
                Claim::None | Claim::Asked | Claim::Rescue => round,
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
    pub(super) fn release_row(
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

    /// How to go on with the walk over the watchers of the lane's presentity.
    /// `buffers`: there are notifier processes.
    pub fn walk(&self, lane: LaneRef<M>, buffers: bool) -> WalkStep {
        if !self.policy.rows_only() {
            // Memory has all of them.
            return WalkStep::Done;
        }
        self.with(usize::from(lane.shard), |records| {
            let Some(owner) = records.presentities.get(lane.presentity) else {
                return WalkStep::Done;
            };
            let (round, completed) = (owner.round, owner.completed);
            let Some(aside) = records.aside_mut(lane.presentity) else { return WalkStep::Done };
            if aside.rows.running {
                return WalkStep::Page(aside.rows.cursor);
            }
            if completed == round {
                return WalkStep::Done;
            }
            aside.rows.round = round;
            if buffers && !aside.rows.urgent {
                let spared = is_spared(Some(aside), &aside.sender, completed);
                return WalkStep::Leave(if spared { aside.sender.to_vec() } else { Vec::new() });
            }
            aside.rows.urgent = false;
            aside.rows.running = true;
            aside.rows.cursor = 0;
            WalkStep::Page(0)
        })
        .unwrap_or(WalkStep::Done)
    }

    /// The walk has seen the rows up to this `id`, or all (`None`).
    pub fn walked(&self, lane: LaneRef<M>, last: Option<i64>) {
        let _ = self.with(usize::from(lane.shard), |records| {
            let Some(aside) = records.aside_mut(lane.presentity) else { return };
            match last {
                Some(id) => aside.rows.cursor = id,
                None => {
                    aside.rows.running = false;
                    let round = aside.rows.round;
                    let owner = records.presentities.get_mut(lane.presentity);
                    if let Some(owner) = owner.filter(|owner| later(round, owner.completed)) {
                        owner.completed = round;
                        forget_told(records, lane.presentity);
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
        match self.policy.rows_only() {
            true => self.find_or_create(records, key, hash).map(Some),
            false => Ok(records.find(key, hash)),
        }
    }

    /// Somebody here watches the presentity, or may.
    pub fn may_be_watched(&self, key: &PresentityKey) -> bool {
        let hash = self.presentity_hash(&key.identity, key.package);
        self.policy.rows_only()
            || self
                .with(self.shard_of(&key.identity), |records| {
                    records.find(key, hash).is_some_and(|id| records.may_be_watched(id))
                })
                .unwrap_or(false)
    }
}

/// A NOTIFY is awaited already: it is to show what is known now. A copy of the
/// row that is older than a request that waits changes nothing.
fn replace<M: Memory>(
    records: &mut Shard<M>,
    id: Id<Subscription<M>>,
    due: &DueRow,
) -> Result<Id<Subscription<M>>, Fault> {
    if let Some(told) = due.told {
        not_told(records, id, told);
    }
    let waiting = records.subscriptions.get(id).map(|record| record.remote_cseq);
    if waiting.is_some_and(|cseq| due.subscription.remote_cseq < cseq) {
        return Ok(id);
    }
    let Some(owner) = records.subscriptions.get(id).map(|record| record.presentity) else {
        return Ok(id);
    };
    let owner = records.watched(owner).owner;
    let text = records.blob(&shrink(due.subscription.block(), owner))?;
    if let Some(record) = records.subscriptions.get_mut(id) {
        record.text = text;
        record.expires_at = due.expires_at.into();
        record.remote_cseq = due.subscription.remote_cseq;
        record.local_cseq = due.subscription.local_cseq;
        record.version = due.subscription.version;
        record.flags = due.subscription.flags;
        record.status = due.subscription.status;
        record.null_reason = due.null_reason;
        match (due.ending, record.phase) {
            (Some(why), _) => record.phase = Phase::Ending(why),
            // It was refreshed before its end was told.
            (None, Phase::Ending(Ending::Expired)) => record.phase = Phase::Live,
            (None, _) => {}
        }
        if matches!(due.claim, Claim::Asked | Claim::Rescue) {
            record.claim = due.claim;
        }
    }
    Ok(id)
}

/// A watcher has not been told of more than this round.
fn not_told<M: Memory>(records: &mut Shard<M>, id: Id<Subscription<M>>, round: u32) {
    if let Some(record) = records.subscriptions.get_mut(id) {
        record.was_told_only(round);
    }
}
