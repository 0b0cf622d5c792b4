//! Picks those who lack a version of the state, with the numbers of their NOTIFYs.
//! `row_lanes` does so where all that is here awaits a NOTIFY.

use crate::presence::state_version::StateVersion;
use crate::presence::subscription::{Ending, Text, may_see};
use crate::presence::transition::Phase;
use crate::shm::{Id, Memory};
use crate::store::dialogs::Places;
use crate::store::lanes::fan_out::{close_fan_out, next_in_fan_out, start_fan_out, wants_change};
use crate::store::lanes::{CSEQ_RESERVE, Composed, Document, PlannedNotify, Taken, by_document};
use crate::store::records::{Presentity, RowClaim, Subscription, Watched};
use crate::store::shard::Shard;
use crate::store::subscriptions::{FIRST_CSEQ, snapshot};
use crate::store::{LaneRef, Store, Token};

/// So many times as many watchers as NOTIFYs are looked at in one go.
const VISITS: usize = 4;

/// One portion, while it is picked under the shard's lock.
pub(in crate::store) struct Picking<'a, M: Memory> {
    pub lane: LaneRef<M>,
    composed: Composed<'a>,
    now: i64,
    limit: usize,
    /// So many watchers may still be looked at.
    visits: usize,
    pub notifies: Vec<PlannedNotify>,
    /// Subscriptions whose rows reserve none of the CSeqs taken.
    unreserved: Vec<Token>,
    /// Those whose records are gone: where the index has them.
    pub released: Vec<(Places, Token)>,
    /// A fan-out over so many watchers begins.
    begins: Option<u32>,
}

impl<'a, M: Memory> Picking<'a, M> {
    /// Nothing yet.
    pub fn new(lane: LaneRef<M>, composed: Composed<'a>, now: i64, limit: usize) -> Self {
        Picking {
            lane,
            composed,
            now,
            limit,
            visits: limit.saturating_mul(VISITS),
            notifies: Vec::new(),
            begins: None,
            unreserved: Vec::new(),
            released: Vec::new(),
        }
    }

    fn is_full(&self) -> bool {
        self.notifies.len() >= self.limit || self.visits == 0
    }
}

/// What goes with the subscriptions that are picked from.
pub(in crate::store) trait Picked<M: Memory> {
    /// What names one in its NOTIFYs.
    fn token(
        store: &Store<M>,
        shard: usize,
        records: &Shard<M>,
        id: Id<Subscription<M>>,
    ) -> Option<Token>;

    /// Of the final publications only those up to this state version are notified now.
    fn ends_up_to(records: &Shard<M>, owner: &Presentity<M>) -> Option<StateVersion>;

    /// The state version that a watcher was notified of before a NOTIFY that comes after one of
    /// `last`; `before` all of its NOTIFYs.
    fn notified_after(before: StateVersion, last: StateVersion) -> StateVersion;

    /// One that was pending has been seen to.
    fn seen_to(
        store: &Store<M>,
        records: &mut Shard<M>,
        picking: &mut Picking<'_, M>,
        id: Id<Subscription<M>>,
    );
}

/// Those that stay here.
struct Records;

impl<M: Memory> Picked<M> for Records {
    fn token(
        store: &Store<M>,
        shard: usize,
        records: &Shard<M>,
        id: Id<Subscription<M>>,
    ) -> Option<Token> {
        store.token(shard, records, id)
    }

    fn ends_up_to(_records: &Shard<M>, _owner: &Presentity<M>) -> Option<StateVersion> {
        None
    }

    fn notified_after(_before: StateVersion, last: StateVersion) -> StateVersion {
        last
    }

    fn seen_to(
        _store: &Store<M>,
        records: &mut Shard<M>,
        picking: &mut Picking<'_, M>,
        id: Id<Subscription<M>>,
    ) {
        let Some(record) = records.subscriptions.get_mut(id) else { return };
        match record.phase {
            Phase::Ending(_) => record.phase = Phase::Leaving,
            _ => record.mark_notified(picking.composed.state_version),
        }
    }
}

impl<M: Memory> Store<M> {
    /// Takes subscriptions that have not been notified of what was composed, up
    /// to `limit` NOTIFYs or a few times as many that need none.
    pub fn take(&self, lane: LaneRef<M>, composed: Composed<'_>, now: i64, limit: usize) -> Taken {
        let mut picking = Picking::new(lane, composed, now, limit);
        let more = self.with(usize::from(lane.shard), |records| {
            self.pick_pending::<Records>(records, &mut picking);
            let more = self.pick_others(records, &mut picking);
            // Now, or the next call would begin the fan-out again.
            close_fan_out(records, lane.presentity);
            by_document(&mut picking.notifies);
            more
        });
        let Picking { notifies, unreserved, begins, .. } = picking;
        Taken { notifies, more: more.unwrap_or(false), is_latest: true, begins, unreserved }
    }

    /// Those who await a NOTIFY of their own.
    pub(in crate::store) fn pick_pending<P: Picked<M>>(
        &self,
        records: &mut Shard<M>,
        picking: &mut Picking<'_, M>,
    ) {
        let composed = picking.composed;
        // Who subscribed while only changes were composed waits for the rest.
        let only_changes = composed.watchers.is_some_and(|watchers| !watchers.has_all);
        while !picking.is_full() {
            picking.visits -= 1;
            let Some(owner) = records.presentities.get_mut(picking.lane.presentity) else { break };
            // Who subscribed after a change must not be shown the state before
            // it, for the change counts as notified: it waits for the next state version.
            let first = owner.pending_notifies.front().and_then(|id| records.subscriptions.get(id));
            if first.is_some_and(|record| {
                record.in_flight
                    || record.notified.is_after(composed.state_version)
                    || (only_changes && record.claim != RowClaim::FanOut)
            }) {
                break;
            }
            let Some(id) = owner.pending_notifies.pop_front(&mut records.subscriptions) else {
                break;
            };
            let Some(record) = records.subscriptions.get_mut(id) else { continue };
            record.has_pending_notify = false;
            match record.phase {
                Phase::AwaitingResponse | Phase::Leaving | Phase::Gone => continue,
                Phase::Live if composed.skips(record) => {}
                Phase::Live => {
                    let newest = match record.claim {
                        RowClaim::FanOut => composed.for_all(record.notified),
                        RowClaim::None
                        | RowClaim::Asked
                        | RowClaim::Rescue
                        | RowClaim::NotifierSlot(_) => Document::Newest,
                    };
                    self.pick_one::<P>(records, picking, id, newest);
                }
                Phase::Ending(_) => self.pick_one::<P>(records, picking, id, Document::Newest),
            }
            P::seen_to(self, records, picking, id);
        }
    }

    /// Those of all watchers who have to be notified of a change; true if there are
    /// others.
    fn pick_others(&self, records: &mut Shard<M>, picking: &mut Picking<'_, M>) -> bool {
        let (composed, presentity) = (picking.composed, picking.lane.presentity);
        picking.begins = start_fan_out(records, presentity, composed.state_version);
        while !picking.is_full() {
            let Some(id) = next_in_fan_out(records, presentity, composed.state_version) else {
                return false;
            };
            picking.visits -= 1;
            if wants_change(records, id, composed.state_version, picking.now) {
                let record = records.subscriptions.get(id);
                let newest = record.map_or(Document::Newest, |r| composed.for_all(r.notified));
                self.pick_one::<Records>(records, picking, id, newest);
            }
            if let Some(record) = records.subscriptions.get_mut(id) {
                record.mark_notified(composed.state_version);
            }
        }
        true
    }

    /// The NOTIFYs that bring one subscription up to what was composed. `newest`
    /// is its form of the newest document.
    fn pick_one<P: Picked<M>>(
        &self,
        records: &mut Shard<M>,
        picking: &mut Picking<'_, M>,
        id: Id<Subscription<M>>,
        newest: Document,
    ) {
        let (lane, composed, now) = (picking.lane, picking.composed, picking.now);
        let token = P::token(self, usize::from(lane.shard), records, id);
        let Some(owner) = records.presentities.get(lane.presentity) else { return };
        let ends_up_to = P::ends_up_to(records, owner);
        let watched = owner.watched(&records.hosts);
        let Some(record) = records.subscriptions.get_mut(id) else { return };
        let ending = match record.phase {
            Phase::Ending(why) => Some(why),
            _ => None,
        };
        let notifies = &mut picking.notifies;
        let sees = may_see(record.status, record.text(Text::Reason))
            && ending.is_none_or(Ending::shows_state);
        if sees && ending.is_none() {
            let up_to = |state_version| {
                composed.finals.partition_point(|f| !f.state_version.is_after(state_version))
            };
            let mut at = up_to(record.notified);
            let all = composed.finals.len();
            let end = ends_up_to.map_or(all, |state_version| up_to(state_version).max(at));
            let (mut notified, mut covered) = (record.notified, false);
            while let Some(first) = composed.finals.get(at..end).and_then(<[_]>::first) {
                let rest = &composed.finals[at..end];
                let next = at + rest.partition_point(|f| f.document <= first.document);
                let document = Document::Finals(at, next);
                notifies
                    .push(next_notify(record, watched, token, document, None, now).after(notified));
                let last = composed.finals[next - 1].state_version;
                // The final publication of the newest state version is the newest state.
                covered = last == composed.state_version;
                notified = P::notified_after(record.notified, last);
                at = next;
            }
            if !covered {
                notifies
                    .push(next_notify(record, watched, token, newest, None, now).after(notified));
            }
        } else {
            let document = if sees { newest } else { Document::None };
            notifies.push(next_notify(record, watched, token, document, ending, now));
        }
        if record.has_row {
            // Of those who go on.
            if ending.is_none() && record.reserved_cseq < record.local_cseq {
                picking.unreserved.extend(token);
            }
            if record.reserved_cseq < record.local_cseq.saturating_add(CSEQ_RESERVE / 2) {
                records.mark_dirty(id);
            }
        }
    }
}

impl Composed<'_> {
    /// Nothing is sent to this one, who has just subscribed.
    fn skips<M: Memory>(&self, record: &Subscription<M>) -> bool {
        self.skip_first
            && record.local_cseq <= FIRST_CSEQ
            && may_see(record.status, record.text(Text::Reason))
    }

    /// The newest document for those who are notified because it has changed.
    fn for_all(&self, notified: StateVersion) -> Document {
        match self.watchers {
            Some(watchers) if !watchers.full_since.is_after(notified) => Document::Changed,
            _ => Document::Newest,
        }
    }
}

impl PlannedNotify {
    /// Says of which state version the watcher was notified before.
    fn after(self, notified: StateVersion) -> PlannedNotify {
        PlannedNotify { notified, ..self }
    }
}

fn next_notify<M: Memory>(
    record: &mut Subscription<M>,
    watched: Watched<'_>,
    token: Option<Token>,
    document: Document,
    ending: Option<Ending>,
    now: i64,
) -> PlannedNotify {
    record.in_flight = true;
    record.set_numbers(record.numbers().next());
    PlannedNotify {
        subscription: snapshot(record, watched, now),
        token,
        document,
        notified: record.notified,
        ending,
        claim: record.claim,
        expires_at: record.expires_at.get(),
        null_reason: record.null_reason,
    }
}
