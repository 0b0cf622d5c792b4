//! Verdicts and what they are made of, in words.

use std::fmt;

use super::{Decider, End, EndReason, Verdict, Waiting, WaitsFor};
use crate::presence::notify_fate::NotifyFate;
use crate::presence::subscription::{Ending, Status};

impl fmt::Display for EndReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EndReason::Ended(Ending::Unsubscribed) => f.write_str("the watcher has unsubscribed"),
            EndReason::Ended(Ending::Expired) => f.write_str("expired: it was not refreshed"),
            EndReason::Ended(Ending::Rejected) => {
                f.write_str("rejected: the rules block this watcher")
            }
            EndReason::Ended(Ending::Deactivated) => {
                f.write_str("deactivated by the rules: the watcher may subscribe again")
            }
            EndReason::Ended(Ending::Probation) => {
                f.write_str("put on probation by the rules: the watcher may subscribe again later")
            }
            EndReason::Ended(Ending::GiveUp) => {
                f.write_str("given up: no decision came while it was pending")
            }
            EndReason::Ended(Ending::NoResource) => {
                f.write_str("the presentity does not exist any more (noresource)")
            }
            EndReason::NotifyAnswered(408) => f.write_str("a NOTIFY was not answered (408)"),
            EndReason::NotifyAnswered(code) => write!(f, "a NOTIFY was answered {code}"),
            EndReason::ConnectionGone => {
                f.write_str("the watcher's connection was gone when a NOTIFY was to be sent")
            }
            EndReason::Script => f.write_str("the script has ended it (delete_subscription)"),
            EndReason::Replaced => {
                f.write_str("replaced: its client subscribed anew in the same call")
            }
            EndReason::Fetch => f.write_str("it was a fetch: one NOTIFY, nothing is stored"),
            EndReason::Refused(code) => write!(f, "the SUBSCRIBE was refused with {code}"),
        }
    }
}

impl fmt::Display for Decider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Decider::Nobody => f.write_str("nobody: this package needs no authorization"),
            Decider::ForceActive => f.write_str("force_active"),
            Decider::Rules(None) => f.write_str("the rules, which cannot be read now"),
            Decider::Rules(Some(Status::Pending)) => {
                f.write_str("the rules: none names this watcher, or one says confirm")
            }
            Decider::Rules(Some(status)) => write!(f, "the rules: {}", status.word()),
            Decider::NoRules(status) => {
                write!(f, "nobody: the presentity has no rules ({})", status.word())
            }
            Decider::Row { status, by_hand: true } => {
                write!(f, "the table watchers, by hand: {}", status.word())
            }
            Decider::Row { status, by_hand: false } => {
                write!(f, "the table watchers, from an earlier decision: {}", status.word())
            }
        }
    }
}

impl fmt::Display for WaitsFor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WaitsFor::Delivery => f.write_str("it is being sent at this moment"),
            WaitsFor::Sender => f.write_str("a sender process has yet to take it"),
            WaitsFor::FanOut(watchers) => {
                write!(f, "the fan-out has {watchers} watchers to go")
            }
            WaitsFor::Database => f.write_str("database away"),
            WaitsFor::Memory => f.write_str("no shared memory for a NOTIFY: raise -m"),
            WaitsFor::Package => {
                f.write_str("the package fails: its rules cannot be read, or nothing composed")
            }
            WaitsFor::Other(fault) => write!(f, "{fault}"),
            WaitsFor::NotifierProcess(seconds) => {
                write!(f, "a notifier process comes by within {seconds} s (waitn_time)")
            }
            WaitsFor::NextChange => f.write_str("given up until the next change"),
        }
    }
}

/// A Unix time as people write it, in UTC.
#[derive(Debug, Clone, Copy)]
pub struct Time(pub i64);

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (days, second) = (self.0.div_euclid(86_400), self.0.rem_euclid(86_400));
        // Days of years that begin in March, and of eras of 400 years.
        let days = days + 719_468;
        let (era, day) = (days.div_euclid(146_097), days.rem_euclid(146_097));
        let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
        let day = day - (365 * year + year / 4 - year / 100);
        let month = (5 * day + 2) / 153;
        let day = day - (153 * month + 2) / 5 + 1;
        let month = if month < 10 { month + 3 } else { month - 9 };
        let year = year + era * 400 + i64::from(month <= 2);
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
    }
}

impl fmt::Display for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.what)?;
        if let Some(since) = self.since {
            write!(f, " since {}", Time(since))?;
        }
        if let Some(next) = self.next_try {
            write!(f, ", tried again at {}", Time(next))?;
        }
        Ok(())
    }
}

impl Verdict {
    /// What is said of those that say the same each time.
    fn words(&self) -> Option<&'static str> {
        Some(match self {
            Verdict::NeverSubscribed => {
                "no subscription: this watcher has not subscribed, or it ended too long ago to be \
                 remembered"
            }
            Verdict::WouldBeRejected => {
                "no subscription: the rules block this watcher, a SUBSCRIBE is rejected"
            }
            Verdict::AwaitingResponse => {
                "just subscribed: no NOTIFY may leave before the 2xx has left"
            }
            Verdict::ForeignRow => {
                "only in the table: another server or program has written the row, which this \
                 server takes over when it starts"
            }
            Verdict::PendingNoRule => "pending: no rule names this watcher",
            Verdict::PendingByRow => {
                "pending: the table watchers says so, and no rule names this watcher"
            }
            Verdict::PendingUnknown => "pending, and the rules cannot be read now",
            Verdict::PolitelyBlocked => {
                "politely blocked by the rules: it is told that all is well, and shown nothing"
            }
            Verdict::Excluded => "suppressed: the watcher is the publisher",
            Verdict::EmptyFirst => {
                "no NOTIFY yet: there was nothing to show, and send_fast_notify is off"
            }
            Verdict::NotSent(NotifyFate::Dropped) => {
                "the script has dropped the last NOTIFY (event_route[tm:local-request])"
            }
            Verdict::NotSent(NotifyFate::ConnectionGone) => {
                "the watcher's connection is gone, and timeout_rm_subs is off: nothing is sent"
            }
            Verdict::NotSent(_) => {
                "the last NOTIFY could not be sent: its Contact or route cannot be reached"
            }
            Verdict::NoPublication => "presentity has no publication",
            Verdict::AllExpired => "presentity has no publication that lives: all have expired",
            Verdict::NothingShown => "nothing of what is published can be shown",
            _ => return None,
        })
    }

    /// What is said of those that name times, codes or reasons.
    fn details(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Verdict::Ended(end) => ended(*end, f),
            Verdict::RanOut(at) => {
                write!(f, "expired at {}: the next timer ends it (db_update_period)", Time(*at))
            }
            Verdict::LastNotifyWaits(why, waiting) => {
                write!(f, "ended: {}; its last NOTIFY waits", EndReason::Ended(*why))?;
                match waiting {
                    Some(waiting) => write!(f, ": {waiting}"),
                    None => Ok(()),
                }
            }
            Verdict::PendingStale(status) => write!(
                f,
                "pending, though it would be {} if it was judged now: presence.updateWatchers does that",
                status.word()
            ),
            Verdict::ActiveStale(status) => write!(
                f,
                "active, though it would be {} if it was judged now: presence.updateWatchers does that",
                status.word()
            ),
            Verdict::Waits(waiting) => write!(f, "waits: {waiting}"),
            Verdict::Unanswered(at) => {
                write!(f, "the last NOTIFY, sent at {}, has not been answered yet", Time(*at))
            }
            Verdict::Refused(408, at) => {
                write!(f, "the last NOTIFY, sent at {}, was never answered (408)", Time(*at))
            }
            Verdict::Refused(code, at) => {
                let at = Time(*at);
                write!(
                    f,
                    "the last NOTIFY, sent at {at}, was answered {code}: the watcher has refused it"
                )
            }
            Verdict::InOrder(NotifyFate::Answered(code), at) => {
                let at = Time(*at);
                write!(f, "in order: the last NOTIFY, sent at {at}, was answered {code}")
            }
            _ => f.write_str("in order: nothing has changed since this server was started"),
        }
    }
}

fn ended(end: End, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let End { reason, at, cseq } = end;
    let at = Time(at);
    match reason {
        EndReason::NotifyAnswered(_) | EndReason::ConnectionGone => {
            write!(f, "subscription ended at {at}: {reason} (CSeq {})", cseq.0)
        }
        EndReason::Fetch | EndReason::Refused(_) => {
            write!(f, "no subscription: {reason}, at {at}")
        }
        _ => write!(f, "subscription ended at {at}: {reason}"),
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.words() {
            Some(words) => f.write_str(words),
            None => self.details(f),
        }
    }
}
