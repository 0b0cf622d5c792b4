//! Picks those who lack a version of the state, with the numbers of their NOTIFYs.

use crate::presence::state_version::StateVersion;
use crate::presence::subscription::{Ending, Text, may_see};
use crate::presence::transition::Phase;
use crate::shm::{Id, Memory};
use crate::store::dialogs::Places;
use crate::store::lanes::fan_out::{close_fan_out, next_in_fan_out, start_fan_out, wants_change};
use crate::store::lanes::{CSEQ_RESERVE, Composed, Document, PlannedNotify, Taken, by_document};
use crate::store::records::{RowClaim, Subscription, Watched};
use crate::store::shard::Shard;
use crate::store::subscriptions::snapshot;
use crate::store::{LaneRef, Store, Token};

/// So many times as many watchers as NOTIFYs are looked at in one go.
const VISITS: usize = 4;

/// One portion, while it is picked under the shard's lock.
struct Picking<'a, M: Memory> {
    lane: LaneRef<M>,
    composed: Composed<'a>,
    now: i64,
    limit: usize,
    /// So many watchers may still be looked at.
    visits: usize,
    notifies: Vec<PlannedNotify>,
    /// Subscriptions that are rows, whose records are gone: where the index has
    /// them.
    released: Vec<(Places, Token)>,
}

impl<M: Memory> Picking<'_, M> {
    fn is_full(&self) -> bool {
        self.notifies.len() >= self.limit || self.visits == 0
    }
}

impl<M: Memory> Store<M> {
    /// Takes subscriptions that have not been notified of what was composed, up
    /// to `limit` NOTIFYs or a few times as many that need none.
    pub fn take(&self, lane: LaneRef<M>, composed: Composed<'_>, now: i64, limit: usize) -> Taken {
        let mut picking = Picking {
            lane,
            composed,
            now,
            limit,
            visits: limit.saturating_mul(VISITS),
            notifies: Vec::new(),
            released: Vec::new(),
        };
        let found = self.with(usize::from(lane.shard), |records| {
            self.pick_pending(records, &mut picking);
            // Those whose subscriptions are rows are all pending one by one.
            if self.policy.rows_only() {
                let owner = records.presentities.get(lane.presentity);
                let is_latest =
                    owner.is_some_and(|owner| owner.state_version == composed.state_version);
                return (picking.notifies.len() >= limit, is_latest, Vec::new());
            }
            let more = self.pick_others(records, &mut picking);
            // Now, or the next call would begin the fan-out again.
            close_fan_out(records, lane.presentity);
            let unreserved = self.unreserved(records, &picking.notifies);
            by_document(&mut picking.notifies);
            (more, true, unreserved)
        });
        for (places, token) in picking.released {
            self.forget(places, token);
        }
        let (more, is_latest, unreserved) = found.unwrap_or((false, true, Vec::new()));
        Taken { notifies: picking.notifies, more, is_latest, unreserved }
    }

    /// Those who await a NOTIFY of their own.
    fn pick_pending(&self, records: &mut Shard<M>, picking: &mut Picking<'_, M>) {
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
                    self.pick_one(records, picking, id, newest);
                }
                Phase::Ending(_) => self.pick_one(records, picking, id, Document::Newest),
            }
            self.picked_pending(records, picking, id);
        }
    }

    /// One that was pending has been seen to.
    fn picked_pending(
        &self,
        records: &mut Shard<M>,
        picking: &mut Picking<'_, M>,
        id: Id<Subscription<M>>,
    ) {
        if self.policy.rows_only() {
            let shard = usize::from(picking.lane.shard);
            picking.released.extend(self.release_row(records, shard, id));
            return;
        }
        let Some(record) = records.subscriptions.get_mut(id) else { return };
        match record.phase {
            Phase::Ending(_) => record.phase = Phase::Leaving,
            _ => record.mark_notified(picking.composed.state_version),
        }
    }

    /// Those of all watchers who have to be notified of a change; true if there are
    /// others.
    fn pick_others(&self, records: &mut Shard<M>, picking: &mut Picking<'_, M>) -> bool {
        let (composed, presentity) = (picking.composed, picking.lane.presentity);
        start_fan_out(records, presentity, composed.state_version);
        while !picking.is_full() {
            let Some(id) = next_in_fan_out(records, presentity, composed.state_version) else {
                return false;
            };
            picking.visits -= 1;
            if wants_change(records, id, composed.state_version, picking.now) {
                let record = records.subscriptions.get(id);
                let newest = record.map_or(Document::Newest, |r| composed.for_all(r.notified));
                self.pick_one(records, picking, id, newest);
            }
            if let Some(record) = records.subscriptions.get_mut(id) {
                record.mark_notified(composed.state_version);
            }
        }
        true
    }

    /// The NOTIFYs that bring one subscription up to what was composed. `newest`
    /// is its form of the newest document.
    fn pick_one(
        &self,
        records: &mut Shard<M>,
        picking: &mut Picking<'_, M>,
        id: Id<Subscription<M>>,
        newest: Document,
    ) {
        let (lane, composed, now) = (picking.lane, picking.composed, picking.now);
        let rows_only = self.policy.rows_only();
        let token = match rows_only {
            true => Some(Token::ROW),
            false => self.token(usize::from(lane.shard), records, id),
        };
        let Some(owner) = records.presentities.get(lane.presentity) else { return };
        let watched = owner.watched(&records.hosts);
        let fan_out = owner
            .extra
            .and_then(|id| records.extras.get(id))
            .map_or(StateVersion::default(), |a| a.rows.state_version);
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
            // A fan-out over rows is about the changes up to its state version; what ends
            // later is said by the next one, once.
            let end = if rows_only { up_to(fan_out).max(at) } else { composed.finals.len() };
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
                // Numbers in a row that are taken together are given back together.
                notified = if rows_only { notified } else { last };
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
        if self.policy.keeps_rows()
            && record.has_row
            && record.reserved_cseq < record.local_cseq.saturating_add(CSEQ_RESERVE / 2)
        {
            records.mark_dirty(id);
        }
    }

    /// Lists those subscriptions that go on and whose rows do not reserve the CSeqs of
    /// their NOTIFYs.
    fn unreserved(&self, records: &Shard<M>, notifies: &[PlannedNotify]) -> Vec<Token> {
        if !self.policy.keeps_rows() {
            return Vec::new();
        }
        let living = notifies.iter().filter(|notify| notify.ending.is_none());
        let is_unreserved = |token: &Token| {
            Self::resolve(records, *token)
                .and_then(|id| records.subscriptions.get(id))
                .is_some_and(|record| record.has_row && record.reserved_cseq < record.local_cseq)
        };
        living.filter_map(|notify| notify.token).filter(is_unreserved).collect()
    }
}

impl Composed<'_> {
    /// Nothing is sent to this one, who has just subscribed.
    fn skips<M: Memory>(&self, record: &Subscription<M>) -> bool {
        self.skip_first
            && record.local_cseq <= 1
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
