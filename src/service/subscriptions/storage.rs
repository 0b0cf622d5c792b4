//! Where subscriptions are kept: the one place that asks for it (`subs_db_mode`).
//! What it is asked for is decided at start: `Server` has the storage, the store its
//! policies (`service/policy.rs`).

use super::in_memory::{InMemory, RowsOf};
use super::in_rows::InRows;
use super::{AcceptedSubscription, WatcherRef};
use crate::config::{Config, SubscriptionMode};
use crate::error::{Fault, Rejection};
use crate::ports::{Condition, Host};
use crate::presence::event_package::PackageId;
use crate::presence::limits::Limit;
use crate::presence::listing::{After, Wanted};
use crate::presence::presentity::PresentityKey;
use crate::presence::renewal::Renewal;
use crate::presence::subscription::{DialogId, Snapshot};
use crate::presence::transition::Refusal;
use crate::service::Server;
use crate::service::overview::Kept;
use crate::shm::Memory;
use crate::store::Token;
use crate::store::listing::Listed;
use crate::store::walk::Page;

/// The storage that goes with the configuration, for the life of the server.
pub(in crate::service) fn storage<M: Memory>(config: &Config) -> &'static dyn Storage<M> {
    match config.subs_db_mode {
        SubscriptionMode::Memory => &InMemory { rows: RowsOf::None },
        SubscriptionMode::WriteThrough => &InMemory { rows: RowsOf::Requests },
        SubscriptionMode::WriteBack => &InMemory { rows: RowsOf::Flushes },
        SubscriptionMode::DbOnly => &InRows,
    }
}

/// What goes with where subscriptions are kept, for those who prepare for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keeping {
    /// Each is a record in memory. Where it is not, those that await a NOTIFY are.
    pub has_records: bool,
    /// Each has a row, or is one: a table is needed, and a row must be able to say
    /// when a subscription ends.
    pub has_rows: bool,
    /// The row of a new one waits for the writers (B49); its request does not.
    pub new_rows_wait: bool,
}

impl Keeping {
    /// Records have rows that follow them: read at start, written at the end.
    pub fn rows_follow(self) -> bool {
        self.has_records && self.has_rows
    }

    /// Other servers change the same subscriptions, so that their rows judge.
    pub fn is_shared(self) -> bool {
        !self.has_records
    }
}

/// What goes with this configuration.
pub fn keeping(config: &Config) -> Keeping {
    let (has_records, has_rows, new_rows_wait) = match config.subs_db_mode {
        SubscriptionMode::Memory => (true, false, false),
        SubscriptionMode::WriteThrough => (true, true, false),
        SubscriptionMode::WriteBack => (true, true, true),
        SubscriptionMode::DbOnly => (false, true, false),
    };
    Keeping { has_records, has_rows, new_rows_wait }
}

/// Where the numbers of a dialog's NOTIFYs are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::service) enum Numbering {
    /// In memory: who picks a watcher has its number. A row, if there is one,
    /// reserves some ahead (A7).
    Reserved,
    /// In the dialog's row, which several servers change. Each number is claimed
    /// there, and the state is read after the row and before the claim.
    Claimed,
}

/// What became of a subscription that was to be stored.
#[must_use]
pub enum Insertion {
    /// It is stored.
    New(AcceptedSubscription),
    /// The presentity has a subscription of this dialog, which stays as it is.
    Known(AcceptedSubscription),
    /// The dialog is that of a subscription to something else: one dialog id is
    /// one subscription.
    Taken,
    /// There are too many.
    Full(Limit),
}

/// A kind of storage. Decisions are `presence::transition`'s.
pub(in crate::service) trait Storage<M: Memory>: Sync {
    /// Stores a new subscription.
    fn insert(
        &self,
        server: &Server<M>,
        host: &mut dyn Host,
        key: &PresentityKey,
        subscription: &Snapshot,
    ) -> Result<Insertion, Rejection>;

    /// What the rows of those that live meet, where memory does not count them.
    fn counted_rows(&self, _now: i64) -> Option<Vec<Condition>> {
        None
    }

    /// One that was inserted begins.
    fn begun(
        &self,
        _server: &Server<M>,
        _host: &mut dyn Host,
        _key: &PresentityKey,
        _subscription: &Snapshot,
    ) -> Result<(), Fault> {
        Ok(())
    }

    /// An in-dialog SUBSCRIBE.
    fn renew(
        &self,
        server: &Server<M>,
        host: &mut dyn Host,
        dialog: DialogId<'_>,
        renewal: &Renewal<'_>,
    ) -> Result<Result<AcceptedSubscription, Refusal>, Rejection>;

    /// A record is written before its request is answered, if requests wait for
    /// that.
    fn write(
        &self,
        _server: &Server<M>,
        _host: &mut dyn Host,
        _token: Token,
    ) -> Result<(), Rejection> {
        Ok(())
    }

    /// Ends the other subscriptions of this one's client in its call
    /// (`delete_same_subs`).
    fn remove_call(
        &self,
        server: &Server<M>,
        host: &mut dyn Host,
        key: &PresentityKey,
        subscription: &Snapshot,
    ) -> Result<(), Fault>;

    /// The subscription of a dialog is one to this presentity; `None` if it has
    /// none.
    fn is_to(
        &self,
        server: &Server<M>,
        host: &mut dyn Host,
        dialog: DialogId<'_>,
        key: &PresentityKey,
    ) -> Result<Option<bool>, Fault>;

    /// The subscription of a dialog that is not over.
    fn find(
        &self,
        server: &Server<M>,
        host: &mut dyn Host,
        dialog: DialogId<'_>,
    ) -> Result<Option<Snapshot>, Fault>;

    /// All subscriptions to a presentity that are not over.
    fn each_watcher(
        &self,
        server: &Server<M>,
        host: &mut dyn Host,
        key: &PresentityKey,
        each: &mut dyn FnMut(WatcherRef, Snapshot),
    ) -> Result<(), Fault>;

    /// Those subscriptions to a presentity that are not over and whose watchers have
    /// one of these users.
    fn watchers_named(
        &self,
        server: &Server<M>,
        host: &mut dyn Host,
        key: &PresentityKey,
        users: &[&[u8]],
        each: &mut dyn FnMut(WatcherRef, Snapshot),
    ) -> Result<(), Fault>;

    /// Somebody's subscription to a presentity lives.
    fn has_subscribers(
        &self,
        server: &Server<M>,
        host: &mut dyn Host,
        key: &PresentityKey,
    ) -> Result<bool, Fault>;

    /// Some of the subscriptions that are asked for, in this package or in all,
    /// where a list goes on: from `after` on, about `most`.
    fn page(
        &self,
        server: &Server<M>,
        host: &mut dyn Host,
        wanted: (&Wanted<'_>, Option<PackageId>),
        after: Option<After>,
        most: usize,
    ) -> Result<Page<Listed>, Fault>;

    /// Ends what has run out.
    fn expire(&self, server: &Server<M>, host: &mut dyn Host);

    /// Writes what lags behind, and ends what has run out in rows alone.
    fn flush(&self, _server: &Server<M>, _host: &mut dyn Host) {}

    /// The server has started: ends what has run out while it was down.
    fn at_start(&self, _server: &Server<M>, _host: &mut dyn Host) -> Result<(), Fault> {
        Ok(())
    }

    /// Rows that are missing, or whose subscriptions are over, are written within a
    /// second (B49).
    fn is_prompt(&self, _config: &Config) -> bool {
        false
    }

    /// How NOTIFYs get their numbers.
    fn numbering(&self) -> Numbering;

    /// Other servers change the same subscriptions.
    fn is_shared(&self) -> bool {
        false
    }

    /// Other servers may still be notifying their watchers of what was published since
    /// this time; `None` where there are none.
    fn notified_elsewhere_since(&self, _now: i64) -> Option<i64> {
        None
    }

    /// How they are kept, for those who ask.
    fn kept(&self) -> Kept;

    /// Says how many rows are of no use here (`presence.cleanup`).
    fn report_unusable_rows(&self, _server: &Server<M>, _host: &mut dyn Host) {}
}
