//! Who owns a lane: taken by who has work for it, handed over, shared, freed.

use crate::error::Fault;
use crate::presence::cseq::CSeq;
use crate::presence::notify_fate::NotifyFate;
use crate::presence::presentity::PresentityKey;
use crate::presence::transition::Phase;
use crate::shm::{Id, Memory};
use crate::store::lanes::{PlannedNotify, close_fan_out, forget_seen};
use crate::store::records::Presentity;
use crate::store::shard::Shard;
use crate::store::waits::Since;
use crate::store::{LaneRef, Store, Token};
use std::sync::atomic::Ordering;

/// Watchers yet to be visited that make it worthwhile to share a lane.
const SHARED_FROM: u32 = 128;

impl<M: Memory> Store<M> {
    /// The NOTIFY of this CSeq was answered.
    pub fn answered(&self, token: Token, cseq: CSeq, code: u16, now: i64) {
        let _ = self.with(token.shard(), |records| {
            let id = Self::resolve(records, token)?;
            records.subscriptions.get_mut(id)?.latest.answered(cseq, code, now);
            Some(())
        });
    }

    /// These NOTIFYs have been sent, each with its CSeq: the next ones of their dialogs may be, and
    /// subscriptions whose last one it was are gone.
    pub fn delivered(
        &self,
        lane: LaneRef<M>,
        sent: impl Iterator<Item = (Token, CSeq, NotifyFate)>,
        now: i64,
    ) {
        let mut ended = Vec::new();
        let _ = self.with(usize::from(lane.shard), |records| {
            for (token, cseq, fate) in sent {
                let Some(id) = Self::resolve(records, token) else { continue };
                let Some(record) = records.subscriptions.get_mut(id) else { continue };
                record.in_flight = false;
                record.latest.sent(cseq, fate, now);
                if record.phase == Phase::Leaving {
                    let places = records.subscriptions.get(id).map(|r| self.places(records, r));
                    ended.extend(places.zip(Some(token)));
                    records.retire_subscription(id);
                }
            }
        });
        for (places, token) in ended {
            self.forget(places, token);
        }
    }

    /// These NOTIFYs could not be sent. Their watchers have not been notified, and are
    /// not pending again before `notify_again` says so.
    pub fn not_sent<'a>(
        &self,
        lane: LaneRef<M>,
        notifies: impl Iterator<Item = &'a PlannedNotify>,
    ) {
        let _ = self.with(usize::from(lane.shard), |records| {
            for notify in notifies {
                let id = notify.token.and_then(|token| Self::resolve(records, token));
                let Some(record) = id.and_then(|id| records.subscriptions.get_mut(id)) else {
                    continue;
                };
                record.in_flight = false;
                record.unmark_notified(notify.notified);
                if let (Phase::Leaving, Some(why)) = (record.phase, notify.ending) {
                    record.phase = Phase::Ending(why);
                }
            }
        });
    }

    /// The NOTIFYs that `not_sent` was given are to be sent again, each by its
    /// token and CSeq, unless a later one has been taken since.
    pub fn notify_again(&self, unsent: &[(Token, CSeq)]) {
        for (token, cseq) in unsent {
            let _ = self.with(token.shard(), |records| {
                let id = Self::resolve(records, *token)?;
                let record = records.subscriptions.get(id)?;
                if record.local_cseq == *cseq {
                    records.mark_notify_pending(id);
                }
                Some(())
            });
        }
    }

    /// A run has NOTIFYs in hand that could not leave: what they report is not
    /// forgotten before `release_unsent`. (Without memory for that it may be.)
    pub fn keep_unsent(&self, lane: LaneRef<M>) {
        let _ = self.with(usize::from(lane.shard), |records| {
            let extra = records.make_extra(lane.presentity)?;
            (extra.unsent, extra.keeps_finals) = (extra.unsent.saturating_add(1), true);
            Ok::<_, Fault>(())
        });
    }

    /// They are pending again, or given up.
    pub fn release_unsent(&self, lane: LaneRef<M>) {
        let _ = self.with(usize::from(lane.shard), |records| {
            let Some(extra) = records.extra_mut(lane.presentity) else { return };
            extra.unsent = extra.unsent.saturating_sub(1);
            let owner = records.presentities.get(lane.presentity);
            if owner.is_some_and(|owner| owner.lane.owners() == 0) {
                forget_seen(records, lane.presentity);
                self.drop_if_idle(records, lane.presentity);
            }
        });
    }

    /// Nothing more is tried for these NOTIFYs, which `not_sent` was given. Who
    /// has ended goes without.
    pub fn given_up(&self, lane: LaneRef<M>, unsent: &[(Token, CSeq)], now: i64) {
        let mut ended = Vec::new();
        let _ = self.with(usize::from(lane.shard), |records| {
            for (token, cseq) in unsent {
                let id = Self::resolve(records, *token);
                let record = id.and_then(|id| records.subscriptions.get_mut(id));
                if let Some(record) = record
                    && matches!(record.phase, Phase::Ending(_))
                    && (record.local_cseq, record.has_pending_notify) == (*cseq, false)
                {
                    record.phase = Phase::Leaving;
                    ended.push((*token, *cseq, NotifyFate::Unroutable));
                }
            }
        });
        self.delivered(lane, ended.into_iter(), now);
        let _ = self.with(usize::from(lane.shard), |records| {
            self.drop_if_idle(records, lane.presentity);
        });
    }

    /// The owner leaves the lane as it is: somebody comes back to it.
    pub fn park(&self, lane: LaneRef<M>) {
        let _ = self.with(usize::from(lane.shard), |records| {
            if let Some(record) = records.presentities.get_mut(lane.presentity) {
                record.lane.leave();
            }
            self.waits_no_more(records, lane.presentity);
            self.drop_if_idle(records, lane.presentity);
        });
    }

    /// The presentity of a lane that the caller owns.
    pub fn lane_key(&self, lane: LaneRef<M>) -> Option<PresentityKey> {
        self.with(usize::from(lane.shard), |records| records.key_of(lane.presentity)).ok()?
    }

    /// Everything taken has been sent. True: there is more, and the caller
    /// still owns the lane. False: it does not any more. `served`: the caller
    /// has found something to do.
    pub fn finish(&self, lane: LaneRef<M>, served: bool) -> bool {
        self.with(usize::from(lane.shard), |records| {
            close_fan_out(records, lane.presentity);
            let has_work = records.has_work(lane.presentity);
            let owner = records.presentities.get(lane.presentity);
            // Others have some in hand.
            if owner.is_some_and(|owner| owner.lane.owners() <= 1) {
                forget_seen(records, lane.presentity);
            }
            let Some(record) = records.presentities.get_mut(lane.presentity) else { return false };
            // What is left is in the hands of others, who will look again.
            let leave = !has_work || (!served && record.lane.owners() > 1);
            if leave {
                record.lane.leave();
                self.waits_no_more(records, lane.presentity);
                self.drop_if_idle(records, lane.presentity);
            }
            !leave
        })
        .unwrap_or(false)
    }

    /// The owner leaves the rest to the sender processes, which have to be
    /// woken.
    pub fn hand_over(&self, lane: LaneRef<M>) {
        self.hand_over_since(lane, self.starting_now());
    }

    /// The same of what began before.
    pub fn hand_over_since(&self, lane: LaneRef<M>, since: Since) {
        let _ = self.with(usize::from(lane.shard), |records| {
            if let Some(record) = records.presentities.get_mut(lane.presentity) {
                record.lane.leave();
            }
            self.enqueue(records, lane.presentity, since);
        });
    }

    /// The owner has a long fan-out before it: another sender process may share
    /// it, up to `most` of them.
    pub fn share(&self, lane: LaneRef<M>, most: u8, since: Since) {
        let _ = self.with(usize::from(lane.shard), |records| {
            let worthwhile = records.presentities.get(lane.presentity).is_some_and(|record| {
                record.unvisited >= SHARED_FROM && record.lane.owners() < most
            });
            if worthwhile {
                self.enqueue(records, lane.presentity, since);
            }
        });
    }

    fn enqueue(&self, records: &mut Shard<M>, id: Id<Presentity<M>>, since: Since) {
        if let Some(record) = records.presentities.get_mut(id)
            && !record.lane.is_queued()
        {
            record.lane.set_queued(true);
            self.queue(records, id, since);
        }
    }

    fn queue(&self, records: &mut Shard<M>, id: Id<Presentity<M>>, since: Since) {
        records.queued.push_back(&mut records.presentities, id);
        records.gauges.queued();
        self.begins_to_wait(records, id, since);
        self.shared.wake.store(true, Ordering::Release);
    }

    /// Takes a lane that was handed over, from one shard.
    pub fn take_over(&self, shard: usize) -> Option<LaneRef<M>> {
        self.with(shard, |records| {
            let presentity = records.queued.pop_front(&records.presentities)?;
            let lane = &mut records.presentities.get_mut(presentity)?.lane;
            lane.set_queued(false);
            lane.enter();
            records.gauges.taken();
            Some(LaneRef { shard: shard as u16, presentity })
        })
        .ok()
        .flatten()
    }

    /// Leaves a presentity's work to the sender processes.
    pub(super) fn queue_lane(&self, records: &mut Shard<M>, id: Id<Presentity<M>>) {
        if !records.has_work(id) {
            return;
        }
        match records.presentities.get_mut(id) {
            Some(record) if record.lane.is_free() => record.lane.set_queued(true),
            _ => return,
        }
        self.queue(records, id, self.starting_now());
    }
}
