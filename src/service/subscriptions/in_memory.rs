//! Subscriptions that are records in memory, with rows that follow or without.

use super::storage::{Insertion, Numbering, Storage};
use super::{AcceptedSubscription, WatcherRef, release};
use crate::config::Config;
use crate::error::{Fault, Rejection};
use crate::ports::{Host, Level, Value};
use crate::presence::event_package::PackageId;
use crate::presence::explain::EndReason;
use crate::presence::listing::{After, Wanted};
use crate::presence::presentity::PresentityKey;
use crate::presence::renewal::Renewal;
use crate::presence::subscription::{DialogId, Snapshot, Text};
use crate::presence::transition::{Event, Next, Refusal};
use crate::service::overview::Kept;
use crate::service::rate_limited_log::RateLimitedLog;
use crate::service::{Server, check_widths, ends, orphaned_rows, write_back};
use crate::shm::Memory;
use crate::store::Token;
use crate::store::listing::Listed;
use crate::store::rows::dialog_of;
use crate::store::subscriptions::Inserted;
use crate::store::walk::{Page, Place};

static UNENDED: RateLimitedLog = RateLimitedLog::new();

/// Subscriptions ended per shard and lock.
const BATCH: usize = 256;

/// When rows are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowsOf {
    /// There are none.
    None,
    /// Before a request is answered.
    Requests,
    /// Later.
    Flushes,
}

/// Records in memory.
#[derive(Debug)]
pub struct InMemory {
    /// When their rows are written.
    pub rows: RowsOf,
}

impl<M: Memory> Storage<M> for InMemory {
    fn insert(
        &self,
        server: &Server<M>,
        host: &mut dyn Host,
        key: &PresentityKey,
        subscription: &Snapshot,
    ) -> Result<Insertion, Rejection> {
        let mut replaced = Vec::new();
        let inserted =
            server.store.insert_replacing(key, subscription, host.now(), &mut replaced)?;
        for replaced in replaced {
            ends::ended(server, host, &replaced, EndReason::Replaced);
        }
        let token = match inserted {
            Inserted::New(token) => token,
            Inserted::Known(token) => {
                return Ok(Insertion::Known(AcceptedSubscription::Record(token)));
            }
            Inserted::Taken => return Ok(Insertion::Taken),
            Inserted::Full(limit) => return Ok(Insertion::Full(limit)),
        };
        if let Err(rejection) = self.write(server, host, token) {
            server.store.withdraw(token, false);
            return Err(rejection);
        }
        Ok(Insertion::New(AcceptedSubscription::Record(token)))
    }

    fn renew(
        &self,
        server: &Server<M>,
        host: &mut dyn Host,
        dialog: DialogId<'_>,
        renewal: &Renewal<'_>,
    ) -> Result<Result<AcceptedSubscription, Refusal>, Rejection> {
        if self.rows == RowsOf::Requests {
            let changes = [
                ("contact", Value::text(renewal.contact)),
                ("local_contact", Value::text(renewal.local_contact)),
                ("socket_info", Value::text(renewal.socket)),
            ];
            check_widths(&server.widths.subscriptions, &changes)?;
        }
        let event = Event::Subscribe(renewal);
        let token = match server.store.update_dialog(dialog, &event)? {
            (renewed, Some(token)) => match renewed.next {
                Next::Refused(refusal) => return Ok(Err(refusal)),
                _ => token,
            },
            (_, None) => return Ok(Err(Refusal::Unknown)),
        };
        if let Err(rejection) = self.write(server, host, token) {
            // What is in memory holds; the row follows with the next flush.
            if let Some(lane) = release(server, host, AcceptedSubscription::Record(token)) {
                server.store.hand_over(lane);
            }
            return Err(rejection);
        }
        Ok(Ok(AcceptedSubscription::Record(token)))
    }

    fn write(
        &self,
        server: &Server<M>,
        host: &mut dyn Host,
        token: Token,
    ) -> Result<(), Rejection> {
        match self.rows {
            RowsOf::Requests => write_back::write_through(server, host, token),
            RowsOf::None | RowsOf::Flushes => Ok(()),
        }
    }

    fn remove_call(
        &self,
        server: &Server<M>,
        host: &mut dyn Host,
        key: &PresentityKey,
        subscription: &Snapshot,
    ) -> Result<(), Fault> {
        let dialog = dialog_of(subscription);
        let only = (Some(dialog.from_tag), None);
        let removed = server.store.remove_same_call(key, dialog.call_id, only, host.now());
        for replaced in removed {
            ends::ended(server, host, &replaced, EndReason::Replaced);
        }
        Ok(())
    }

    fn is_to(
        &self,
        server: &Server<M>,
        _host: &mut dyn Host,
        dialog: DialogId<'_>,
        key: &PresentityKey,
    ) -> Result<Option<bool>, Fault> {
        let token = server.store.find_dialog(dialog)?;
        token.map(|token| server.store.is_watching(token, key)).transpose()
    }

    fn find(
        &self,
        server: &Server<M>,
        host: &mut dyn Host,
        dialog: DialogId<'_>,
    ) -> Result<Option<Snapshot>, Fault> {
        let token = server.store.find_dialog(dialog)?;
        Ok(token.and_then(|token| server.store.subscription(token, host.now())))
    }

    fn each_watcher(
        &self,
        server: &Server<M>,
        host: &mut dyn Host,
        key: &PresentityKey,
        each: &mut dyn FnMut(WatcherRef, Snapshot),
    ) -> Result<(), Fault> {
        let now = host.now();
        server.store.each_watcher(key, now, |token, copy| each(WatcherRef::Record(token), copy));
        Ok(())
    }

    fn watchers_named(
        &self,
        server: &Server<M>,
        host: &mut dyn Host,
        key: &PresentityKey,
        users: &[&[u8]],
        each: &mut dyn FnMut(WatcherRef, Snapshot),
    ) -> Result<(), Fault> {
        self.each_watcher(server, host, key, &mut |watching, copy| {
            if users.contains(&copy.text(Text::WatcherUser)) {
                each(watching, copy);
            }
        })
    }

    fn has_subscribers(
        &self,
        server: &Server<M>,
        host: &mut dyn Host,
        key: &PresentityKey,
    ) -> Result<bool, Fault> {
        Ok(server.store.has_subscribers(key, host.now()))
    }

    fn page(
        &self,
        server: &Server<M>,
        host: &mut dyn Host,
        wanted: (&Wanted<'_>, Option<PackageId>),
        after: Option<After>,
        most: usize,
    ) -> Result<Page<Listed>, Fault> {
        let at = after.map_or(Some(Place::default()), Place::of).ok_or(Fault::Host)?;
        Ok(server.store.subscriptions_page(at, wanted, host.now(), most))
    }

    fn expire(&self, server: &Server<M>, host: &mut dyn Host) {
        let offset = i64::from(server.config.expires_offset);
        for shard in 0..server.store.shards() {
            while server.store.expire_subscriptions(shard, host.now(), offset, BATCH) {
                server.wake_senders(host);
            }
            server.wake_senders(host);
        }
    }

    fn flush(&self, server: &Server<M>, host: &mut dyn Host) {
        if self.rows == RowsOf::None {
            return;
        }
        write_back::flush(server, host, false);
        if orphaned_rows::subscriptions(server, host).is_err() {
            let line = format_args!("expired subscriptions cannot be deleted from the table");
            UNENDED.log(host, Level::Error, line);
        }
    }

    fn at_start(&self, server: &Server<M>, host: &mut dyn Host) -> Result<(), Fault> {
        match self.rows {
            RowsOf::None => Ok(()),
            RowsOf::Requests | RowsOf::Flushes => orphaned_rows::subscriptions(server, host),
        }
    }

    fn is_prompt(&self, config: &Config) -> bool {
        match self.rows {
            RowsOf::None => false,
            RowsOf::Requests => true,
            // With a period of 0 a write-back never happens.
            RowsOf::Flushes => config.db_update_period.is_some(),
        }
    }

    fn kept(&self) -> Kept {
        let (mode, are) = match self.rows {
            RowsOf::None => (0, "in memory only"),
            RowsOf::Requests => (1, "in memory, and written before a request is answered"),
            RowsOf::Flushes => (2, "in memory, and written within a second or by the timer"),
        };
        Kept { mode, are, outlive_server: self.rows != RowsOf::None }
    }

    fn numbering(&self) -> Numbering {
        Numbering::Reserved
    }

    fn report_unusable_rows(&self, server: &Server<M>, host: &mut dyn Host) {
        if self.rows != RowsOf::None {
            orphaned_rows::report_unusable_rows(server, host);
        }
    }
}
