//! Where subscriptions are kept: the one place that asks for it (`subs_db_mode`).

use super::in_memory::{InMemory, RowsOf};
use super::in_rows::InRows;
use super::{AcceptedSubscription, WatcherRef};
use crate::error::{Fault, Rejection};
use crate::ports::Host;
use crate::presence::limits::Limit;
use crate::presence::presentity::PresentityKey;
use crate::presence::renewal::Renewal;
use crate::presence::subscription::{DialogId, Snapshot};
use crate::presence::transition::Refusal;
use crate::service::Server;
use crate::shm::Memory;
use crate::store::listing::Listed;
use crate::store::{SubscriptionRows, Token};

/// The storage that goes with this use of rows, for the life of the server.
pub fn storage<M: Memory>(rows: SubscriptionRows) -> &'static dyn Storage<M> {
    match rows {
        SubscriptionRows::None => &InMemory { rows: RowsOf::None },
        SubscriptionRows::AtOnce => &InMemory { rows: RowsOf::Requests },
        SubscriptionRows::Later => &InMemory { rows: RowsOf::Flushes },
        SubscriptionRows::Only => &InRows,
    }
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
pub trait Storage<M: Memory>: Sync {
    /// Stores a new subscription.
    fn insert(
        &self,
        server: &Server<M>,
        host: &mut dyn Host,
        key: &PresentityKey,
        subscription: &Snapshot,
    ) -> Result<Insertion, Rejection>;

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

    /// The subscriptions to a presentity URI, in all packages.
    fn list(
        &self,
        server: &Server<M>,
        host: &mut dyn Host,
        uri: &[u8],
    ) -> Result<Vec<Listed>, Fault>;

    /// Ends what has run out.
    fn expire(&self, server: &Server<M>, host: &mut dyn Host);

    /// Writes what lags behind, and ends what has run out in rows alone.
    fn flush(&self, _server: &Server<M>, _host: &mut dyn Host) {}

    /// The server has started: ends what has run out while it was down.
    fn at_start(&self, _server: &Server<M>, _host: &mut dyn Host) -> Result<(), Fault> {
        Ok(())
    }

    /// A row says when a subscription ends.
    fn has_rows(&self) -> bool;

    /// Other servers change the same subscriptions.
    fn is_shared(&self) -> bool {
        false
    }
}
