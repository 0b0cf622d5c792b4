//! The fan-out of a state version to the watchers in memory: a walk over all of
//! them, which several portions, and several processes, share.

use crate::presence::subscription::Text;
use crate::shm::{Id, Memory};
use crate::store::records::{Aside, Presentity, Subscription};
use crate::store::shard::{Shard, later};

/// Begins a walk over all watchers unless one is under way or all are told.
pub(super) fn start_pass<M: Memory>(records: &mut Shard<M>, id: Id<Presentity<M>>, round: u32) {
    if let Some(record) = records.presentities.get_mut(id)
        && record.unvisited == 0
        && later(round, record.completed)
    {
        record.pass = !record.pass;
        record.unvisited = record.watchers.len() as u32;
        record.pass_round = round;
    }
}

/// The next watcher of the walk; it goes to the end of the list.
pub(super) fn next_in_pass<M: Memory>(
    records: &mut Shard<M>,
    id: Id<Presentity<M>>,
    round: u32,
) -> Option<Id<Subscription<M>>> {
    let owner = records.presentities.get_mut(id)?;
    if owner.unvisited == 0 || later(owner.pass_round, round) {
        return None;
    }
    // Who shares the lane has it in hand, and looks again afterwards. It may
    // also have been told just now, as one that was due.
    let first = owner.watchers.front().and_then(|id| records.subscriptions.get(id));
    if first.is_some_and(|record| record.in_flight && later(round, record.told)) {
        return None;
    }
    let first = owner.watchers.pop_front(&mut records.subscriptions)?;
    owner.watchers.push_back(&mut records.subscriptions, first);
    owner.unvisited -= 1;
    if let Some(record) = records.subscriptions.get_mut(first) {
        record.pass = owner.pass;
    }
    Some(first)
}

/// A walk that has reached everybody: its round is complete.
pub(in crate::store) fn close_pass<M: Memory>(records: &mut Shard<M>, id: Id<Presentity<M>>) {
    if !records.may_be_watched(id) {
        records.everybody_told(id);
        return;
    }
    // The walk over rows is another one.
    if records.watchers_are_rows() {
        return;
    }
    let Some(record) = records.presentities.get_mut(id) else { return };
    if record.unvisited == 0 && later(record.pass_round, record.completed) {
        let round = record.pass_round;
        record.completed = round;
    }
}

/// Forgets what all watchers have been told of: ends and changes up to the round that
/// is complete, unless a NOTIFY that tells of them is still to leave.
pub(in crate::store) fn forget_told<M: Memory>(records: &mut Shard<M>, id: Id<Presentity<M>>) {
    let Some(owner) = records.presentities.get(id) else { return };
    let (completed, nobody_due) = (owner.completed, owner.due.is_empty());
    if let Some(aside) = records.aside_mut(id).filter(|aside| aside.owes_ends) {
        if aside.unsent > 0 || !nobody_due {
            return;
        }
        aside.owes_ends = false;
    }
    records.drop_farewells(id, Some(completed));
    records.drop_changes(id, Some(completed));
}

/// The watcher has to be told of a change: it has not been, may see it, and
/// did not make it itself.
pub(super) fn wants_change<M: Memory>(
    records: &Shard<M>,
    id: Id<Subscription<M>>,
    round: u32,
    now: i64,
) -> bool {
    let Some(record) = records.subscriptions.get(id) else { return false };
    let Some(owner) = records.presentities.get(record.presentity) else { return false };
    later(round, record.told)
        && record.sees_changes(now)
        && !is_spared(records.aside(owner), record.text(Text::Contact), record.told)
}

/// All changes since the round that the watcher was told of are its own.
pub(in crate::store) fn is_spared<M: Memory>(
    aside: Option<&Aside<M>>,
    contact: &[u8],
    told: u32,
) -> bool {
    aside.is_some_and(|aside| {
        !aside.sender.is_empty()
            && contact == &*aside.sender
            && !later(aside.sender_since, told.wrapping_add(1))
    })
}

impl<M: Memory> Subscription<M> {
    /// Its watcher has been told of this round, at least.
    pub(in crate::store) fn has_been_told(&mut self, round: u32) {
        if later(round, self.told) {
            self.told = round;
        }
    }

    /// Its watcher has not been told of more than this round.
    pub(in crate::store) fn was_told_only(&mut self, round: u32) {
        if later(self.told, round) {
            self.told = round;
        }
    }
}
