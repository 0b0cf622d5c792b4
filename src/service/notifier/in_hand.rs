//! A portion of a lane's NOTIFYs, from when they are picked until all are settled.

use crate::error::Fault;
use crate::ports::{Database, Host, Level};
use crate::presence::event_package::EventPackage;
use crate::service::compose::Composition;
use crate::service::durable::{each_or_all, single};
use crate::service::notifier::deliver::{Delivery, deliver};
use crate::service::notifier::number::{Dialog, due_again, keep_last};
use crate::service::notifier::shortage::{Shortage, requeue};
use crate::service::seldom::Seldom;
use crate::service::subscription_rows as rows;
use crate::service::{Server, notify_reply};
use crate::shm::Memory;
use crate::store::lanes::{Document, Send};
use crate::store::records::Claim;
use crate::store::row_lanes::DueRow;
use crate::store::rows::dialog_of;
use crate::store::{LaneRef, Token};

static UNDELETED: Seldom = Seldom::new();

/// NOTIFYs that were picked. Until they are settled nobody else sends one in their
/// dialogs. Also when a callback panics the dialogs are free again, and what was not
/// tried is due.
pub(super) struct InHand<'a, M: Memory> {
    pub server: &'a Server<M>,
    pub lane: LaneRef<M>,
    /// Dialogs that have yet to get the numbers of their NOTIFYs.
    pub open: Vec<Dialog>,
    /// NOTIFYs with numbers, in the order in which they leave.
    pub numbered: Vec<Send>,
    /// So many of them were tried.
    tried: usize,
    /// Those that did not leave.
    failed: Vec<(usize, Delivery)>,
}

impl<'a, M: Memory> InHand<'a, M> {
    /// Nothing yet.
    pub fn new(server: &'a Server<M>, lane: LaneRef<M>) -> Self {
        let (open, numbered, failed) = (Vec::new(), Vec::new(), Vec::new());
        InHand { server, lane, open, numbered, tried: 0, failed }
    }

    /// Some of those that have no numbers yet were flagged.
    pub fn serves_flags(&self) -> bool {
        let first = |dialog: &Dialog| dialog.sends.first().map(|first| first.claim);
        self.open.iter().any(|dialog| matches!(first(dialog), Some(Claim::Turn(_))))
    }

    /// Those numbered that show the state and whose flags were taken off, as
    /// something that awaits another NOTIFY.
    pub fn flagged(&self) -> Vec<DueRow> {
        let mut again: Vec<DueRow> = Vec::new();
        let shows = |send: &&Send| {
            matches!(send.claim, Claim::Turn(_))
                && send.ending.is_none()
                && send.document != Document::None
        };
        for send in self.numbered.iter().filter(shows) {
            keep_last(&mut again, due_again(send));
        }
        again
    }

    /// These are due again.
    pub fn repeat(&self, host: &mut dyn Host, rows: impl IntoIterator<Item = DueRow>) {
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
        for (n, send) in self.numbered.iter().enumerate() {
            self.tried = n + 1;
            let before = self.failed.iter().find(|(at, _)| {
                self.numbered.get(*at).is_some_and(|failed| is_same_dialog(failed, send))
            });
            let delivery = match before {
                Some((_, delivery)) => *delivery,
                None => deliver(host, package, composition, send, &mut shortage.room),
            };
            match (delivery, send.token) {
                (Delivery::Done, _) => continue,
                (Delivery::Gone, Some(token)) if send.ending.is_none() && before.is_none() => {
                    notify_reply::gone(self.server, host, token, &send.subscription);
                }
                (Delivery::Gone, _) => {}
                (Delivery::Postponed, _) => shortage.keep(send),
            }
            self.failed.push((n, delivery));
        }
    }

    /// Settles what was tried: the next NOTIFYs of these dialogs may leave, and
    /// subscriptions whose last one has left are gone.
    pub fn settle(&mut self, host: &mut dyn Host) {
        self.delete_ended(host);
        self.free();
    }

    /// What has no numbers yet is due again.
    pub fn give_back(&mut self, host: &mut dyn Host) {
        let open: Vec<_> = self.open.drain(..).filter_map(Dialog::due).collect();
        let untried = self.untried_rows();
        if open.is_empty() && untried.is_empty() {
            return;
        }
        self.repeat(host, open.into_iter().chain(untried));
    }

    /// Those numbered that were not tried, where they are rows; they are taken out.
    fn untried_rows(&mut self) -> Vec<DueRow> {
        let tried = self.tried.min(self.numbered.len());
        if !self.numbered.first().is_some_and(is_row) {
            return Vec::new();
        }
        let mut again: Vec<DueRow> = Vec::new();
        for send in self.numbered.drain(tried..) {
            keep_last(&mut again, due_again(&send));
        }
        again
    }

    /// Frees the dialogs in memory. What was not tried is due again.
    fn free(&mut self) {
        let store = &self.server.store;
        let sends = std::mem::take(&mut self.numbered);
        let failed = std::mem::take(&mut self.failed);
        let tried = std::mem::take(&mut self.tried).min(sends.len());
        if sends.first().is_none_or(is_row) {
            return;
        }
        let (tried, untried) = sends.split_at(tried);
        let is_unsent = |n| failed.contains(&(n, Delivery::Postponed));
        let sent = tried.iter().enumerate().filter(|(n, _)| !is_unsent(*n));
        store.delivered(self.lane, sent.filter_map(|(_, send)| send.token));
        if failed.is_empty() && untried.is_empty() {
            return;
        }
        let unsent = tried.iter().enumerate().filter(|(n, _)| is_unsent(*n));
        store.not_sent(self.lane, unsent.map(|(_, send)| send).chain(untried));
        let number = |send: &Send| Some((send.token?, send.subscription.local_cseq));
        let again: Vec<_> = untried.iter().filter_map(number).collect();
        store.due_again(&again);
    }

    /// Deletes the rows of dialogs whose last NOTIFY has left. One that stays is
    /// found by the timer, and told a second time.
    fn delete_ended(&self, host: &mut dyn Host) {
        let postponed = |n| self.failed.contains(&(n, Delivery::Postponed));
        let tried = self.numbered.iter().enumerate().take(self.tried);
        let ended: Vec<_> = tried
            .filter(|(n, send)| {
                send.ending.is_some() && send.claim != Claim::None && !postponed(*n)
            })
            .map(|(_, send)| send)
            .collect();
        let (Ok(table), false) = (rows::table(self.server), ended.is_empty()) else { return };
        let delete = |database: &mut dyn Database, send: &Send| {
            rows::delete_ended(database, table, &send.subscription)
        };
        let deleted = host.database().ok_or(Fault::Database).and_then(|database| {
            if self.server.config.notifier_processes > 0 || ended.len() == 1 {
                return ended
                    .iter()
                    .try_for_each(|send| single(database, |database, _| delete(database, send)));
            }
            each_or_all(database, &ended, |database, send| delete(database, send))
        });
        if let Err(fault) = deleted {
            let line = format_args!("ended subscriptions stay in the table for now: {fault}");
            UNDELETED.log(host, Level::Error, line);
        }
    }
}

impl<M: Memory> Drop for InHand<'_, M> {
    fn drop(&mut self) {
        let mut rows: Vec<_> = self.open.drain(..).filter_map(Dialog::due).collect();
        rows.append(&mut self.untried_rows());
        if !rows.is_empty()
            && let Some(key) = self.server.store.lane_key(self.lane)
        {
            for due in rows {
                // The lane is the caller's: it is not given again.
                let _ = self.server.store.queue_row(&key, &due);
            }
        }
        self.free();
    }
}

fn is_row(send: &Send) -> bool {
    send.token == Some(Token::ROW)
}

fn is_same_dialog(one: &Send, other: &Send) -> bool {
    one.token == other.token
        && (!is_row(one) || dialog_of(&one.subscription) == dialog_of(&other.subscription))
}
