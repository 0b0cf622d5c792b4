//! Why a watcher sees what it sees: a verdict over all that is known of it. Facts
//! in, words out; whoever asks has collected the facts.

mod words;

use crate::error::Fault;
use crate::presence::cseq::CSeq;
use crate::presence::notify_fate::NotifyFate;
use crate::presence::subscription::{Ending, Status};
use crate::presence::transition::Phase;

pub use words::Time;

/// Why a subscription is over, or never was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndReason {
    /// It took its course.
    Ended(Ending),
    /// A NOTIFY was answered with a code that ends it; 408 stands for no answer.
    NotifyAnswered(u16),
    /// The watcher's connection is gone, and only it could open another one.
    ConnectionGone,
    /// The script has ended it (`delete_subscription` of `xavp_cfg`).
    Script,
    /// Its client has subscribed anew in the same call (`delete_same_subs`).
    Replaced,
    /// It was a fetch: one NOTIFY, and nothing is stored.
    Fetch,
    /// The SUBSCRIBE was refused with this code.
    Refused(u16),
}

impl EndReason {
    /// As a number, and from one.
    pub fn to_bits(self) -> u32 {
        let (kind, value) = match self {
            EndReason::Ended(ending) => (1, ending as u16),
            EndReason::NotifyAnswered(code) => (2, code),
            EndReason::ConnectionGone => (3, 0),
            EndReason::Script => (4, 0),
            EndReason::Replaced => (5, 0),
            EndReason::Fetch => (6, 0),
            EndReason::Refused(code) => (7, code),
        };
        kind << 16 | u32::from(value)
    }

    /// What `to_bits` has given.
    pub fn from_bits(bits: u32) -> Option<EndReason> {
        const ENDINGS: [Ending; 7] = [
            Ending::Unsubscribed,
            Ending::Expired,
            Ending::Rejected,
            Ending::Deactivated,
            Ending::Probation,
            Ending::GiveUp,
            Ending::NoResource,
        ];
        let value = bits as u16;
        Some(match bits >> 16 {
            1 => EndReason::Ended(ENDINGS.into_iter().find(|ending| *ending as u16 == value)?),
            2 => EndReason::NotifyAnswered(value),
            3 => EndReason::ConnectionGone,
            4 => EndReason::Script,
            5 => EndReason::Replaced,
            6 => EndReason::Fetch,
            7 => EndReason::Refused(value),
            _ => return None,
        })
    }

    /// It is what a watcher does, or time: nobody has to look into it.
    pub fn is_ordinary(self) -> bool {
        matches!(
            self,
            EndReason::Ended(Ending::Unsubscribed | Ending::Expired)
                | EndReason::Replaced
                | EndReason::Fetch
        )
    }
}

/// An end that is remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End {
    /// Why.
    pub reason: EndReason,
    /// Unix time.
    pub at: i64,
    /// CSeq of the last NOTIFY.
    pub cseq: CSeq,
}

/// Where a subscription is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whereabouts {
    /// In the memory of this server.
    Memory,
    /// In the table, which is where this server keeps them.
    Row,
    /// In the table only, though this server has them in memory: another server or
    /// program has written the row.
    ForeignRow,
}

/// What is known of a subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KnownSubscription {
    /// Where it is.
    pub whereabouts: Whereabouts,
    /// Its state.
    pub status: Status,
    /// It is politely blocked.
    pub is_politely_blocked: bool,
    /// Where it is in its life.
    pub phase: Phase,
    /// Unix time of its end.
    pub expires_at: i64,
    /// CSeq of the latest NOTIFY.
    pub cseq: CSeq,
    /// What became of that.
    pub fate: NotifyFate,
    /// When it was sent; 0 if that is not known.
    pub notified_at: i64,
    /// The latest change was made by this watcher's own Contact.
    pub is_excluded: bool,
}

/// Who has decided about the watcher.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decider {
    /// The package needs no authorization.
    Nobody,
    /// `force_active` is on.
    ForceActive,
    /// The rules, with what they say now; `None` if they cannot be read.
    Rules(Option<Status>),
    /// The presentity has no rules; what the package makes of that.
    NoRules(Status),
    /// The row of the watcher in the table `watchers`: approved or blocked by hand, or
    /// as an earlier decision has left it.
    Row {
        /// What it says.
        status: Status,
        /// Somebody has written it by hand.
        by_hand: bool,
    },
}

impl Decider {
    /// What it says now, if that is known.
    pub fn status(self) -> Option<Status> {
        match self {
            Decider::Nobody | Decider::ForceActive => Some(Status::Active),
            Decider::Rules(status) => status,
            Decider::NoRules(status) | Decider::Row { status, .. } => Some(status),
        }
    }
}

/// What a NOTIFY waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitsFor {
    /// It is being sent at this moment.
    Delivery,
    /// A sender process has yet to take it.
    Sender,
    /// The fan-out reaches this watcher later: so many are before it, at most.
    FanOut(u32),
    /// The database is away.
    Database,
    /// Shared memory for a NOTIFY.
    Memory,
    /// The package: its rules cannot be read, or it composes no document.
    Package,
    /// Something else that has failed.
    Other(Fault),
    /// A notifier process, which comes by within so many seconds (`waitn_time`).
    NotifierProcess(u32),
    /// The next change: everything was tried.
    NextChange,
}

/// A NOTIFY that waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waiting {
    /// What for.
    pub what: WaitsFor,
    /// Unix time since when; `None` if that is not known.
    pub since: Option<i64>,
    /// Unix time of the next try; `None` if it is made as soon as possible, or never.
    pub next_try: Option<i64>,
}

/// The publications of the presentity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PublicationsKnown {
    /// All that are stored.
    pub all: usize,
    /// Those that make up what is shown.
    pub shown: usize,
    /// Those whose time is over.
    pub expired: usize,
    /// The package has none of its own: it reports on watchers.
    pub is_watcher_info: bool,
}

/// All that is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// Unix time.
    pub now: i64,
    /// Seconds by which `expires_offset` delays an end.
    pub expires_offset: i64,
    /// The subscription, if there is one.
    pub subscription: Option<KnownSubscription>,
    /// The last end of one, if that is remembered.
    pub end: Option<End>,
    /// Who decides about the watcher; `None` if that could not be found out.
    pub decider: Option<Decider>,
    /// A NOTIFY that waits.
    pub waiting: Option<Waiting>,
    /// What is published.
    pub publications: PublicationsKnown,
    /// `send_fast_notify` is off.
    pub skips_empty_first: bool,
}

/// Why it is as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// There is no subscription, and none has ended lately.
    NeverSubscribed,
    /// There is none, and the rules block the watcher.
    WouldBeRejected,
    /// There was one, and it has ended.
    Ended(End),
    /// Its 2xx has not left yet.
    AwaitingResponse,
    /// Its time is over; it is ended by the timer.
    RanOut(i64),
    /// It has ended, and its last NOTIFY waits.
    LastNotifyWaits(Ending, Option<Waiting>),
    /// Only another server or program has it.
    ForeignRow,
    /// No rule names the watcher.
    PendingNoRule,
    /// The table says that it is pending.
    PendingByRow,
    /// It is pending, and the rules cannot be read.
    PendingUnknown,
    /// It is pending, and would not be if it was judged now.
    PendingStale(Status),
    /// It is active, and would not be if it was judged now.
    ActiveStale(Status),
    /// The rules have it told that all is well.
    PolitelyBlocked,
    /// It has not been told of the newest state.
    Waits(Waiting),
    /// It has made the change itself.
    Excluded,
    /// Nothing was there to be shown when it subscribed.
    EmptyFirst,
    /// The latest NOTIFY could not be sent.
    NotSent(NotifyFate),
    /// The latest NOTIFY has no answer yet.
    Unanswered(i64),
    /// The latest NOTIFY was refused, and the subscription stays.
    Refused(u16, i64),
    /// Nothing is published.
    NoPublication,
    /// What was published has expired.
    AllExpired,
    /// What is published cannot be shown.
    NothingShown,
    /// All is as it should be.
    InOrder(NotifyFate, i64),
}

/// The verdict.
pub fn verdict(facts: &Facts) -> Verdict {
    let Some(subscription) = &facts.subscription else { return without(facts) };
    match subscription.phase {
        Phase::AwaitingResponse => return Verdict::AwaitingResponse,
        Phase::Ending(why) => return Verdict::LastNotifyWaits(why, facts.waiting),
        Phase::Leaving | Phase::Gone => {
            return Verdict::LastNotifyWaits(Ending::Expired, facts.waiting);
        }
        Phase::Live => {}
    }
    if subscription.whereabouts == Whereabouts::ForeignRow {
        return Verdict::ForeignRow;
    }
    if subscription.expires_at < facts.now - facts.expires_offset {
        return Verdict::RanOut(subscription.expires_at);
    }
    if let Some(verdict) = authorization(facts, subscription) {
        return verdict;
    }
    if let Some(waiting) = facts.waiting {
        return Verdict::Waits(waiting);
    }
    delivery(facts, subscription)
}

/// There is no subscription.
fn without(facts: &Facts) -> Verdict {
    match (facts.end, facts.decider.and_then(Decider::status)) {
        (Some(end), _) => Verdict::Ended(end),
        (None, Some(Status::Terminated)) => Verdict::WouldBeRejected,
        (None, _) => Verdict::NeverSubscribed,
    }
}

/// What keeps the state from a watcher that nobody has allowed to see it.
fn authorization(facts: &Facts, subscription: &KnownSubscription) -> Option<Verdict> {
    let decided = facts.decider.and_then(Decider::status);
    if subscription.status == Status::Active {
        return match decided {
            _ if subscription.is_politely_blocked => Some(Verdict::PolitelyBlocked),
            Some(status @ Status::Terminated) => Some(Verdict::ActiveStale(status)),
            _ => None,
        };
    }
    Some(match (facts.decider, decided) {
        (_, Some(status @ (Status::Active | Status::Terminated))) => Verdict::PendingStale(status),
        (Some(Decider::Row { .. }), _) => Verdict::PendingByRow,
        (_, None) => Verdict::PendingUnknown,
        (_, Some(Status::Pending | Status::Waiting)) => Verdict::PendingNoRule,
    })
}

/// The watcher may see the state, and nothing waits.
fn delivery(facts: &Facts, subscription: &KnownSubscription) -> Verdict {
    let at = subscription.notified_at;
    match subscription.fate {
        fate @ (NotifyFate::Dropped | NotifyFate::Unroutable | NotifyFate::ConnectionGone) => {
            return Verdict::NotSent(fate);
        }
        NotifyFate::Answered(code) if code >= 300 => return Verdict::Refused(code, at),
        NotifyFate::Sent => return Verdict::Unanswered(at),
        NotifyFate::None | NotifyFate::Answered(_) => {}
    }
    if subscription.is_excluded {
        return Verdict::Excluded;
    }
    let publications = &facts.publications;
    let has_none = publications.shown == 0 && !publications.is_watcher_info;
    match publications {
        _ if has_none && facts.skips_empty_first && subscription.cseq <= CSeq(1) => {
            Verdict::EmptyFirst
        }
        PublicationsKnown { all: 0, .. } if has_none => Verdict::NoPublication,
        PublicationsKnown { all, expired, .. } if has_none && all == expired => Verdict::AllExpired,
        _ if has_none => Verdict::NothingShown,
        _ => Verdict::InOrder(subscription.fate, at),
    }
}

#[cfg(test)]
mod tests;
