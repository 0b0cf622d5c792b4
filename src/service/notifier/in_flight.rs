//! A portion of a lane's NOTIFYs, from when they are picked until all are settled.

use crate::error::Fault;
use crate::ports::{Database, Host, Level};
use crate::presence::event_package::EventPackage;
use crate::presence::explain::EndReason;
use crate::presence::subscription::{Ending, Snapshot};
use crate::service::compose::Composition;
use crate::service::durable::{each_or_all, single};
use crate::service::notifier::deliver::{Delivery, count, deliver};
use crate::service::notifier::dialog::{Dialog, keep_last, notify_again};
use crate::service::notifier::shortage::{Shortage, requeue};
use crate::service::notifier_slots::may_change_together;
use crate::service::rate_limited_log::RateLimitedLog;
use crate::service::subscription_rows as rows;
use crate::service::{Server, ends, notify_reply};
use crate::shm::Memory;
use crate::store::lanes::{Document, PlannedNotify};
use crate::store::records::RowClaim;
use crate::store::row_lanes::PendingNotify;
use crate::store::rows::dialog_of;
use crate::store::{LaneRef, Token};
use std::time::Instant;

static UNDELETED: RateLimitedLog = RateLimitedLog::new();

/// NOTIFYs that were picked. Until they are settled nobody else sends one in their
/// dialogs. Also when a callback panics the dialogs are free again, and what was not
/// tried is pending.
pub(super) struct InFlight<'a, M: Memory> {
    pub server: &'a Server<M>,
    pub lane: LaneRef<M>,
    /// When the PUBLISH came that is notified of, if there is one.
    pub since: Option<Instant>,
    /// Dialogs that have yet to get the numbers of their NOTIFYs.
    pub open: Vec<Dialog>,
    /// NOTIFYs with numbers, in the order in which they leave.
    pub numbered: Vec<PlannedNotify>,
    /// So many of them were tried.
    tried: usize,
    /// Those that were not handed over.
    failed: Vec<(usize, Delivery)>,
    /// Unix time of the last attempt.
    now: i64,
}

impl<'a, M: Memory> InFlight<'a, M> {
    /// Has nothing yet.
    pub fn new(server: &'a Server<M>, lane: LaneRef<M>, since: Option<Instant>) -> Self {
        let (open, numbered, failed) = (Vec::new(), Vec::new(), Vec::new());
        InFlight { server, lane, since, open, numbered, tried: 0, failed, now: 0 }
    }

    /// Some of those that have no numbers yet were flagged.
    pub fn serves_flags(&self) -> bool {
        let first = |dialog: &Dialog| dialog.notifies.first().map(|first| first.claim);
        self.open.iter().any(|dialog| matches!(first(dialog), Some(RowClaim::NotifierSlot(_))))
    }

    /// Those numbered that show the state and whose flags were taken off, as
    /// something that awaits another NOTIFY.
    pub fn flagged(&self) -> Vec<PendingNotify> {
        let mut again: Vec<PendingNotify> = Vec::new();
        let shows = |notify: &&PlannedNotify| {
            matches!(notify.claim, RowClaim::NotifierSlot(_))
                && notify.ending.is_none()
                && notify.document != Document::None
        };
        for notify in self.numbered.iter().filter(shows) {
            keep_last(&mut again, notify_again(notify));
        }
        again
    }

    /// These are pending again.
    pub fn repeat(&self, host: &mut dyn Host, rows: impl IntoIterator<Item = PendingNotify>) {
        if let Some(key) = self.server.store.lane_key(self.lane) {
            requeue(self.server, host, &key, rows.into_iter());
        }
    }

    /// Sends what has its numbers. The NOTIFYs of a dialog leave together: after one
    /// that could not, the others are not tried.
    pub fn deliver(
        &mut self,
        host: &mut dyn Host,
        package: &EventPackage,
        composition: &Composition<'_>,
        shortage: &mut Shortage<'_, M>,
    ) {
        self.now = host.now();
        for (n, notify) in self.numbered.iter().enumerate() {
            self.tried = n + 1;
            let before = self.failed.iter().find(|(at, delivery)| {
                !delivery.is_done()
                    && self.numbered.get(*at).is_some_and(|failed| is_same_dialog(failed, notify))
            });
            let delivery = match before {
                Some((_, delivery)) => *delivery,
                None => deliver(host, package, composition, notify, &mut shortage.host_memory),
            };
            count(self.server.store.counters(), notify, delivery);
            if notify.token == Some(Token::ROW) && !delivery.is_postponed() {
                let (dialog, cseq) =
                    (dialog_of(&notify.subscription), notify.subscription.local_cseq);
                self.server.store.remember_latest(dialog, cseq, delivery.fate(), self.now);
            }
            if delivery.is_done() {
                self.told_after(notify, delivery);
                if delivery != Delivery::Sent {
                    self.failed.push((n, delivery));
                }
                continue;
            }
            match (delivery, notify.token) {
                (Delivery::Gone, Some(token)) if notify.ending.is_none() && before.is_none() => {
                    notify_reply::gone(self.server, host, token, &notify.subscription);
                }
                (Delivery::Postponed { .. }, _) => shortage.keep(notify),
                _ => {}
            }
            self.failed.push((n, delivery));
        }
    }

    /// A NOTIFY that reports a PUBLISH has left: how long that took.
    fn told_after(&self, notify: &PlannedNotify, delivery: Delivery) {
        if let Some(since) = self.since
            && (delivery, notify.ending) == (Delivery::Sent, None)
        {
            let time = u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX);
            self.server.store.counters().told_after(notify.subscription.package, time);
        }
    }

    /// Settles what was tried: the next NOTIFYs of these dialogs may leave, and
    /// subscriptions whose last one has left are gone.
    pub fn settle(&mut self, host: &mut dyn Host) {
        self.delete_ended(host);
        let ended = self.ended();
        self.free();
        for (subscription, ending) in ended {
            ends::ended(self.server, host, &subscription, EndReason::Ended(ending));
        }
    }

    /// The subscriptions whose last NOTIFY has left.
    fn ended(&self) -> Vec<(Snapshot, Ending)> {
        let tried = self.numbered.iter().enumerate().take(self.tried);
        let ended = tried.filter(|(n, notify)| {
            let is_postponed = |(at, why): &(usize, Delivery)| at == n && why.is_postponed();
            notify.ending.is_some() && !self.failed.iter().any(is_postponed)
        });
        ended
            .filter_map(|(_, notify)| Some((notify.subscription.clone(), notify.ending?)))
            .collect()
    }

    /// What has no numbers yet is pending again.
    pub fn give_back(&mut self, host: &mut dyn Host) {
        let open: Vec<_> = self.open.drain(..).filter_map(Dialog::into_pending).collect();
        let untried = self.untried_rows();
        if open.is_empty() && untried.is_empty() {
            return;
        }
        self.repeat(host, open.into_iter().chain(untried));
    }

    /// Those numbered that were not tried, where they are rows; they are taken out.
    fn untried_rows(&mut self) -> Vec<PendingNotify> {
        let tried = self.tried.min(self.numbered.len());
        if !self.numbered.first().is_some_and(is_row) {
            return Vec::new();
        }
        let mut again: Vec<PendingNotify> = Vec::new();
        for notify in self.numbered.drain(tried..) {
            keep_last(&mut again, notify_again(&notify));
        }
        again
    }

    /// Frees the dialogs in memory. What was not tried is pending again.
    fn free(&mut self) {
        let store = &self.server.store;
        let notifies = std::mem::take(&mut self.numbered);
        let failed = std::mem::take(&mut self.failed);
        let tried = std::mem::take(&mut self.tried).min(notifies.len());
        if notifies.first().is_none_or(is_row) {
            return;
        }
        let (tried, untried) = notifies.split_at(tried);
        let is_unsent = |n| failed.iter().any(|(at, why)| *at == n && why.is_postponed());
        let fate = |n| {
            let delivery = failed.iter().find(|(at, _)| *at == n);
            delivery.map_or(Delivery::Sent, |(_, delivery)| *delivery).fate()
        };
        let sent = tried.iter().enumerate().filter(|(n, _)| !is_unsent(*n));
        let sent = sent.filter_map(|(n, notify)| {
            Some((notify.token?, notify.subscription.local_cseq, fate(n)))
        });
        store.delivered(self.lane, sent, self.now);
        if failed.is_empty() && untried.is_empty() {
            return;
        }
        let unsent = tried.iter().enumerate().filter(|(n, _)| is_unsent(*n));
        store.not_sent(self.lane, unsent.map(|(_, notify)| notify).chain(untried));
        let number = |notify: &PlannedNotify| Some((notify.token?, notify.subscription.local_cseq));
        let again: Vec<_> = untried.iter().filter_map(number).collect();
        store.notify_again(&again);
    }

    /// Deletes the rows of dialogs whose last NOTIFY has left. One that stays is
    /// deleted by the timer; should another server come to it first, that one tells the
    /// end a second time.
    fn delete_ended(&self, host: &mut dyn Host) {
        let postponed = |n| self.failed.iter().any(|(at, why)| *at == n && why.is_postponed());
        let tried = self.numbered.iter().enumerate().take(self.tried);
        let ended: Vec<_> = tried
            .filter(|(n, notify)| {
                notify.ending.is_some() && notify.claim != RowClaim::None && !postponed(*n)
            })
            .map(|(_, notify)| notify)
            .collect();
        let (Ok(table), false) = (rows::table(self.server), ended.is_empty()) else { return };
        let delete = |database: &mut dyn Database, notify: &PlannedNotify| {
            rows::delete_ended(database, table, &notify.subscription)
        };
        let deleted = host.database().ok_or(Fault::Database).and_then(|database| {
            if ended.len() == 1 || !may_change_together(self.server) {
                return ended.iter().try_for_each(|notify| {
                    single(database, |database, _| delete(database, notify))
                });
            }
            each_or_all(database, &ended, |database, notify| delete(database, notify))
        });
        if let Err(fault) = deleted {
            for notify in &ended {
                let (dialog, cseq) =
                    (dialog_of(&notify.subscription), notify.subscription.local_cseq);
                self.server.store.end_was_reported(dialog, cseq);
            }
            let line = format_args!("ended subscriptions stay in the table for now: {fault}");
            UNDELETED.log(host, Level::Error, line);
        }
    }
}

impl<M: Memory> Drop for InFlight<'_, M> {
    fn drop(&mut self) {
        let mut rows: Vec<_> = self.open.drain(..).filter_map(Dialog::into_pending).collect();
        rows.append(&mut self.untried_rows());
        if !rows.is_empty()
            && let Some(key) = self.server.store.lane_key(self.lane)
        {
            for pending in rows {
                // The lane is the caller's: it is not given again.
                let _ = self.server.store.queue_row(&key, &pending);
            }
        }
        self.free();
    }
}

fn is_row(notify: &PlannedNotify) -> bool {
    notify.token == Some(Token::ROW)
}

fn is_same_dialog(one: &PlannedNotify, other: &PlannedNotify) -> bool {
    one.token == other.token
        && (!is_row(one) || dialog_of(&one.subscription) == dialog_of(&other.subscription))
}
