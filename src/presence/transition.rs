//! The life of a subscription (RFC 6665 4.2, RFC 3857 4.7.1): what becomes of
//! it with each event, what watcher information reports of that, and
//! whether its own watcher is sent a NOTIFY. There is no other place that says
//! so: the stores copy what they know into a `CurrentSubscription`, ask, and write down what
//! comes of it, be that a record or a row.

use crate::presence::cseq::CSeq;
use crate::presence::event_package::PackageId;
use crate::presence::renewal::{Renewal, Renewed, Target};
use crate::presence::subscription::{
    Authorization, Ending, Snapshot, Status, TURNED_AWAY, Text, has_expired, with_text,
};
use crate::presence::text::TooLong;
use crate::presence::winfo::WatcherNews;

/// Seconds that the 2xx to a SUBSCRIBE may take to leave. If it has not then,
/// its process has failed, and the subscription takes its course without.
pub const REPLY_TIME: i64 = 64;

/// Where a subscription is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Accepted; no NOTIFY may leave before its 2xx has.
    AwaitingResponse,
    /// In use.
    Live,
    /// Ended: its last NOTIFY is pending.
    Ending(Ending),
    /// Its last NOTIFY is being sent: over, unless that cannot be sent now.
    Leaving,
    /// Over; what is left of it waits only to be deleted.
    Gone,
}

impl Phase {
    /// It has not been ended: it counts where there are limits.
    pub fn lives(self) -> bool {
        matches!(self, Phase::AwaitingResponse | Phase::Live)
    }

    /// Nothing is to be sent any more.
    pub fn is_over(self) -> bool {
        matches!(self, Phase::Leaving | Phase::Gone)
    }
}

/// What is known of a subscription, wherever it is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CurrentSubscription<'a> {
    /// The package it subscribes to.
    pub package: PackageId,
    /// Its `id` parameter.
    pub event_id: &'a [u8],
    /// Where its watcher is to be reached.
    pub contact: &'a [u8],
    /// The socket its requests come in on.
    pub socket: &'a [u8],
    /// Our own Contact.
    pub local_contact: &'a [u8],
    /// Highest CSeq received.
    pub remote_cseq: CSeq,
    /// Unix time of its end.
    pub expires_at: i64,
    /// Its state.
    pub status: Status,
    /// The reason of that.
    pub reason: &'a [u8],
    /// Where it is in its life.
    pub phase: Phase,
}

/// What can happen to a subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event<'a> {
    /// A SUBSCRIBE in its dialog.
    Subscribe(&'a Renewal<'a>),
    /// The rules say what its watcher may see, at this Unix time.
    Decision(&'a Authorization, i64),
    /// Time goes by: it ends more than `offset` seconds (`expires_offset`) after
    /// its time; the second in which it ends is its own.
    Clock {
        /// Unix time now.
        now: i64,
        /// Seconds of grace.
        offset: i64,
    },
    /// The answer to a NOTIFY, or the script, says that its watcher is gone; with
    /// a Contact only as long as it is to be reached there.
    NotifyAnswer(Option<&'a [u8]>),
    /// Its client has subscribed anew in the same call (`delete_same_subs`).
    Replaced,
}

/// What becomes of a subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next<'a> {
    /// It is as it was.
    Unchanged,
    /// A request is refused.
    Refused(Refusal),
    /// It has what the request brings, and is in this phase.
    Renewed(Renewed, Phase),
    /// It has the state that was decided, and is in this phase.
    Decided(&'a Authorization, Phase),
    /// It has run out.
    Expired,
    /// Nothing is left of it.
    Removed,
}

/// Why an in-dialog SUBSCRIBE is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// There is no such subscription: 481 (RFC 6665 4.2.1.1).
    Unknown,
    /// CSeq out of order: 500 (RFC 3261 12.2.2).
    OutOfOrder,
}

/// Whether its own watcher is sent a NOTIFY.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notify {
    /// No.
    None,
    /// When the 2xx has left, which comes later.
    AfterResponse,
    /// Now, of what it may see.
    Now,
    /// Now, the last one.
    Last(Ending),
}

/// What an event leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct Transition<'a> {
    /// What becomes of the subscription.
    pub next: Next<'a>,
    /// Its packed text, if that is another one then.
    pub text: Option<Vec<u8>>,
    /// Unix time at which it is to be looked at again, if that is another one.
    pub again: Option<i64>,
    /// What watcher information reports. Each end is reported once.
    pub winfo: Option<WatcherNews>,
    /// What its own watcher is notified of.
    pub notify: Notify,
}

impl<'a> Transition<'a> {
    const NOTHING: Transition<'static> = Transition::silently(Next::Unchanged);

    const fn silently(next: Next<'a>) -> Transition<'a> {
        Transition { next, text: None, again: None, winfo: None, notify: Notify::None }
    }

    /// What an event leads to where there is no subscription.
    pub const fn of_nobody(event: &Event<'_>) -> Transition<'a> {
        match event {
            Event::Subscribe(_) => Transition::silently(Next::Refused(Refusal::Unknown)),
            _ => Transition::NOTHING,
        }
    }

    /// Something is to be written down.
    pub fn is_change(&self) -> bool {
        !matches!(self.next, Next::Unchanged | Next::Refused(_))
    }

    /// A subscription that has lived ends by this: that is reported once.
    pub fn ends(&self) -> bool {
        self.is_over() && self.winfo.is_some()
    }

    /// Why the NOTIFY that is to leave now is the last one, if it is.
    pub fn last(&self) -> Option<Ending> {
        match self.notify {
            Notify::Last(why) => Some(why),
            Notify::None | Notify::AfterResponse | Notify::Now => None,
        }
    }

    /// The subscription lives no more.
    pub fn is_over(&self) -> bool {
        match self.next {
            Next::Renewed(_, phase) | Next::Decided(_, phase) => !phase.lives(),
            Next::Expired | Next::Removed => true,
            Next::Unchanged | Next::Refused(_) => false,
        }
    }
}

impl<'a> CurrentSubscription<'a> {
    /// Takes what is known from a copy; the phase and the end are given.
    pub fn of(copy: &'a Snapshot, phase: Phase, expires_at: i64) -> CurrentSubscription<'a> {
        CurrentSubscription {
            package: copy.package,
            event_id: copy.text(Text::EventId),
            contact: copy.text(Text::Contact),
            socket: copy.text(Text::Socket),
            local_contact: copy.text(Text::LocalContact),
            remote_cseq: copy.remote_cseq,
            expires_at,
            status: copy.status,
            reason: copy.text(Text::Reason),
            phase,
        }
    }

    /// What the event leads to. `whole` makes a packed block of all text that the
    /// subscription has.
    pub fn handle<'e>(
        &self,
        event: &Event<'e>,
        whole: impl FnOnce() -> Vec<u8>,
    ) -> Result<Transition<'e>, TooLong> {
        match event {
            Event::Subscribe(renewal) => self.subscribe(renewal, whole),
            Event::Decision(decision, now) => Ok(self.decide(decision, *now, whole)),
            Event::Clock { now, offset } => Ok(self.clock(*now, *offset)),
            Event::NotifyAnswer(Some(contact)) if *contact != self.contact => {
                Ok(Transition::NOTHING)
            }
            Event::NotifyAnswer(_) | Event::Replaced => Ok(self.remove()),
        }
    }

    /// It has ended, and cannot go on.
    fn is_ended(&self) -> bool {
        match self.phase {
            Phase::AwaitingResponse | Phase::Live => false,
            // It ran out, but its watcher has not been notified: it may go on, unless
            // it was the rules that ended it.
            Phase::Ending(Ending::Expired) => self.status == Status::Terminated,
            Phase::Ending(_) | Phase::Leaving | Phase::Gone => true,
        }
    }

    /// RFC 6665 4.2.1.
    fn subscribe<'e>(
        &self,
        renewal: &Renewal<'_>,
        whole: impl FnOnce() -> Vec<u8>,
    ) -> Result<Transition<'e>, TooLong> {
        let same_id = renewal.event_id.is_none_or(|id| id == self.event_id);
        if self.is_ended() || self.package != renewal.package || !same_id {
            return Ok(Transition::silently(Next::Refused(Refusal::Unknown)));
        }
        let cseq = u64::from(renewal.cseq.0) + u64::from(renewal.cseq_offset);
        if cseq <= u64::from(self.remote_cseq.0) {
            return Ok(Transition::silently(Next::Refused(Refusal::OutOfOrder)));
        }
        let (phase, winfo) = if renewal.expires == 0 {
            let ended = WatcherNews::ended(self.status, Ending::Unsubscribed);
            (Phase::Ending(Ending::Unsubscribed), Some(WatcherNews { full: true, ..ended }))
        } else if self.phase == Phase::AwaitingResponse {
            (Phase::AwaitingResponse, None)
        } else {
            // Its end has been reported.
            let is_back = !self.phase.lives();
            (Phase::Live, is_back.then(|| WatcherNews::began(self.status)))
        };
        // Also when it ends: its target may have moved, and the last NOTIFY goes
        // there.
        let target = Target {
            contact: self.contact,
            socket: self.socket,
            local_contact: self.local_contact,
        };
        let text = renewal.text(target, whole)?;
        let again = renewal.expires_at() + if phase.lives() { 0 } else { REPLY_TIME };
        let next = Next::Renewed(renewal.renewed(self.remote_cseq), phase);
        let notify = Notify::AfterResponse;
        Ok(Transition { next, text, again: Some(again), winfo, notify })
    }

    fn decide<'e>(
        &self,
        decision: &'e Authorization,
        now: i64,
        whole: impl FnOnce() -> Vec<u8>,
    ) -> Transition<'e> {
        let is_same = self.status == decision.status && self.reason == decision.reason;
        if is_same || !self.phase.lives() {
            return Transition::NOTHING;
        }
        let block = whole();
        let (decision, text) = match with_text(&block, Text::Reason, &decision.reason) {
            Ok(text) => (decision, Some(text)),
            // Who leaves no room for a reason is not spared the decision.
            Err(TooLong) => (&TURNED_AWAY, with_text(&block, Text::Reason, b"").ok()),
        };
        let ending =
            (decision.status == Status::Terminated).then(|| Ending::from_reason(&decision.reason));
        let winfo = (self.status != decision.status)
            .then(|| WatcherNews::decided(self.status, decision.status, ending));
        let phase = ending.map_or(self.phase, Phase::Ending);
        let notify = match ending {
            // No NOTIFY leaves before the 2xx.
            _ if self.phase == Phase::AwaitingResponse => Notify::AfterResponse,
            Some(ending) => Notify::Last(ending),
            None => Notify::Now,
        };
        // Should the 2xx never leave, the end is reported without.
        let again = ending.map(|_| now + REPLY_TIME);
        Transition { next: Next::Decided(decision, phase), text, again, winfo, notify }
    }

    fn clock<'e>(&self, now: i64, offset: i64) -> Transition<'e> {
        let patience = self.expires_at + REPLY_TIME;
        match self.phase {
            Phase::Leaving | Phase::Gone => Transition::NOTHING,
            // Its last NOTIFY has not left.
            Phase::Ending(why) => Transition { notify: Notify::Last(why), ..Transition::NOTHING },
            Phase::AwaitingResponse | Phase::Live if !has_expired(self.expires_at, now, offset) => {
                Transition::NOTHING
            }
            Phase::AwaitingResponse if now <= patience => {
                Transition { again: Some(patience), ..Transition::NOTHING }
            }
            Phase::AwaitingResponse | Phase::Live => Transition {
                winfo: Some(WatcherNews::ended(self.status, Ending::Expired)),
                notify: Notify::Last(Ending::Expired),
                ..Transition::silently(Next::Expired)
            },
        }
    }

    fn remove<'e>(&self) -> Transition<'e> {
        if self.phase.is_over() {
            return Transition::NOTHING;
        }
        // An end that awaits its NOTIFY has been reported.
        let winfo = self.phase.lives().then(|| WatcherNews::ended(self.status, Ending::Expired));
        Transition { winfo, ..Transition::silently(Next::Removed) }
    }
}

#[cfg(test)]
mod tests;
