//! The fan-out of a state version to the watchers in memory: one iteration over all of
//! them, which several portions, and several processes, share.

use crate::presence::state_version::StateVersion;
use crate::presence::subscription::Text;
use crate::shm::{Id, Memory};
use crate::store::records::{Presentity, PresentityExtra, Subscription};
use crate::store::shard::Shard;

/// Begins a fan-out over all watchers unless one is under way or all are notified; gives
/// how many there are.
pub(super) fn start_fan_out<M: Memory>(
    records: &mut Shard<M>,
    id: Id<Presentity<M>>,
    state_version: StateVersion,
) -> Option<u32> {
    if let Some(record) = records.presentities.get_mut(id)
        && record.unvisited == 0
        && state_version.is_after(record.completed)
    {
        record.fan_out_mark = !record.fan_out_mark;
        record.unvisited = record.watchers.len() as u32;
        record.fan_out_version = state_version;
        return Some(record.unvisited);
    }
    None
}

/// The next watcher of the fan-out; it goes to the end of the list.
pub(super) fn next_in_fan_out<M: Memory>(
    records: &mut Shard<M>,
    id: Id<Presentity<M>>,
    state_version: StateVersion,
) -> Option<Id<Subscription<M>>> {
    let owner = records.presentities.get_mut(id)?;
    if owner.unvisited == 0 || owner.fan_out_version.is_after(state_version) {
        return None;
    }
    // Who shares the lane has it in hand, and looks again afterwards. It may
    // also have been notified just now, as one that was pending.
    let first = owner.watchers.front().and_then(|id| records.subscriptions.get(id));
    if first.is_some_and(|record| record.in_flight && state_version.is_after(record.notified)) {
        return None;
    }
    let first = owner.watchers.pop_front(&mut records.subscriptions)?;
    owner.watchers.push_back(&mut records.subscriptions, first);
    owner.unvisited -= 1;
    if let Some(record) = records.subscriptions.get_mut(first) {
        record.fan_out_mark = owner.fan_out_mark;
    }
    Some(first)
}

/// A fan-out that has reached everybody: its state version is complete.
pub(in crate::store) fn close_fan_out<M: Memory>(records: &mut Shard<M>, id: Id<Presentity<M>>) {
    if !records.may_be_watched(id) {
        records.mark_all_notified(id);
        return;
    }
    // The fan-out over those that are read is another one.
    if records.reads_watchers() {
        return;
    }
    let Some(record) = records.presentities.get_mut(id) else { return };
    if record.unvisited == 0 && record.fan_out_version.is_after(record.completed) {
        let state_version = record.fan_out_version;
        record.completed = state_version;
    }
}

/// Forgets what all watchers have been notified of: ends and changes up to the state version that
/// is complete, unless a NOTIFY that reports them is still to leave.
pub(in crate::store) fn forget_seen<M: Memory>(records: &mut Shard<M>, id: Id<Presentity<M>>) {
    let Some(owner) = records.presentities.get(id) else { return };
    let (completed, none_pending) = (owner.completed, owner.pending_notifies.is_empty());
    if let Some(extra) = records.extra_mut(id).filter(|extra| extra.keeps_finals) {
        if extra.unsent > 0 || !none_pending {
            return;
        }
        extra.keeps_finals = false;
    }
    records.drop_finals(id, Some(completed));
    records.drop_changes(id, Some(completed));
}

/// The watcher has to be notified of a change: it has not been, may see it, and
/// did not make it itself.
pub(super) fn wants_change<M: Memory>(
    records: &Shard<M>,
    id: Id<Subscription<M>>,
    state_version: StateVersion,
    now: i64,
) -> bool {
    let Some(record) = records.subscriptions.get(id) else { return false };
    let Some(owner) = records.presentities.get(record.presentity) else { return false };
    state_version.is_after(record.notified)
        && record.sees_changes(now)
        && !is_excluded(records.extra(owner), record.text(Text::Contact), record.notified)
}

/// All changes since the state version that the watcher was notified of are its own.
pub(in crate::store) fn is_excluded<M: Memory>(
    extra: Option<&PresentityExtra<M>>,
    contact: &[u8],
    notified: StateVersion,
) -> bool {
    extra.is_some_and(|extra| {
        !extra.sender.is_empty()
            && contact == &*extra.sender
            && !extra.sender_since.is_after(notified.next())
    })
}

impl<M: Memory> Subscription<M> {
    /// Its watcher has been notified of this state version, at least.
    pub(in crate::store) fn mark_notified(&mut self, state_version: StateVersion) {
        if state_version.is_after(self.notified) {
            self.notified = state_version;
        }
    }

    /// Its watcher has not been notified of more than this state version.
    pub(in crate::store) fn unmark_notified(&mut self, state_version: StateVersion) {
        if self.notified.is_after(state_version) {
            self.notified = state_version;
        }
    }
}
