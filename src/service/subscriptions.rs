//! Subscriptions, wherever they are kept: what the use cases do with them. Where
//! that is, `storage` says; `presence::transition` says what becomes of one.

mod in_memory;
mod in_rows;
mod storage;

pub use storage::{Keeping, keeping};
pub(in crate::service) use storage::{Numbering, Storage, storage};

use crate::error::{Fault, Rejection};
use crate::ports::{Host, Level};
use crate::presence::presentity::PresentityKey;
use crate::presence::renewal::Renewal;
use crate::presence::subscription::{Authorization, DialogId, Snapshot, Status, Text};
use crate::presence::transition::{Event, Refusal};
use crate::service::rate_limited_log::RateLimitedLog;
use crate::service::subscription_rows::ActiveWatcherRow;
use crate::service::{Server, limits, replication};
use crate::shm::Memory;
use crate::store::rows::dialog_of;
use crate::store::{LaneRef, Token};
use in_rows::AcceptedRow;
use storage::Insertion;

static UNDELETED: RateLimitedLog = RateLimitedLog::new();

/// A subscription that a SUBSCRIBE has made or changed; its NOTIFY waits for
/// the 2xx.
#[derive(Debug)]
pub enum AcceptedSubscription {
    /// A record in memory.
    Record(Token),
    /// A row of the database.
    Row(Box<AcceptedRow>),
}

impl AcceptedSubscription {
    /// Names the record; `Token::ROW` for a row.
    pub fn token(&self) -> Token {
        match self {
            AcceptedSubscription::Record(token) => *token,
            AcceptedSubscription::Row(_) => Token::ROW,
        }
    }

    /// A row that the request has made. (What is new of a record, the record knows.)
    fn is_new(&self) -> bool {
        matches!(self, AcceptedSubscription::Row(row) if row.is_new())
    }
}

/// One of the subscriptions to a presentity.
#[derive(Debug)]
pub enum WatcherRef {
    /// A record in memory.
    Record(Token),
    /// A row of the database.
    Row(Box<ActiveWatcherRow>),
}

/// Stores a new subscription.
pub fn insert<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    key: &PresentityKey,
    subscription: &Snapshot,
) -> Result<AcceptedSubscription, Rejection> {
    let storage = server.subscriptions();
    let stored = match storage.insert(server, host, key, subscription)? {
        Insertion::New(stored) => stored,
        Insertion::Known(stored) => match renew_again(server, host, subscription)? {
            Some(again) => return Ok(again),
            None if !stored.is_new() => return Ok(stored),
            None => stored,
        },
        Insertion::Taken => return Err(rejection(Refusal::Unknown)),
        Insertion::Full(limit) => return Err(limits::too_many(server, limit, subscription)),
    };
    storage.begun(server, host, key, subscription)?;
    Ok(stored)
}

/// A SUBSCRIBE outside of a dialog that stores nothing: a fetch, or one of a
/// watcher who is turned away. If it makes the dialog id of a subscription, a
/// fetch ends that one; what it gives is to be released. With
/// `delete_same_subs` a fetch also ends what the same client has in this call.
pub fn fetch<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    key: &PresentityKey,
    subscription: &Snapshot,
) -> Result<Option<AcceptedSubscription>, Rejection> {
    let (dialog, storage) = (dialog_of(subscription), server.subscriptions());
    let is_blocked = subscription.status == Status::Terminated;
    // NOTIFYs of two subscriptions in one dialog would use its CSeqs twice.
    let ended = match storage.is_to(server, host, dialog, key)? {
        Some(true) if !is_blocked => {
            let again = renew_again(server, host, subscription)?;
            Some(again.ok_or_else(|| rejection(Refusal::OutOfOrder))?)
        }
        Some(_) => return Err(rejection(Refusal::Unknown)),
        None => None,
    };
    if server.config.delete_same_subs && !is_blocked && ended.is_none() {
        storage.remove_call(server, host, key, subscription)?;
    }
    Ok(ended)
}

/// The answer to a SUBSCRIBE that is refused for the state of its dialog.
pub fn rejection(refusal: Refusal) -> Rejection {
    match refusal {
        Refusal::Unknown => Rejection::new(481, "Subscription does not exist"),
        Refusal::OutOfOrder => Rejection::new(500, "Server Internal Error"),
    }
}

/// The dialog of a new subscription is known. A watcher that has forgotten its To
/// tag goes on with the subscription it has; `None` if it is the same request
/// once more. One that has ended, or has another `id`, is not there.
fn renew_again<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    subscription: &Snapshot,
) -> Result<Option<AcceptedSubscription>, Rejection> {
    let renewal = Renewal::again(subscription, host.now());
    match renew(server, host, dialog_of(subscription), &renewal)? {
        Ok(stored) => Ok(Some(stored)),
        Err(Refusal::OutOfOrder) => Ok(None),
        Err(unknown) => Err(rejection(unknown)),
    }
}

/// Judges an in-dialog SUBSCRIBE and, if it is in order, applies it.
pub fn renew<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    dialog: DialogId<'_>,
    renewal: &Renewal<'_>,
) -> Result<Result<AcceptedSubscription, Refusal>, Rejection> {
    let before = replication::subscriptions::own_of(server, host, dialog);
    let renewed = server.subscriptions().renew(server, host, dialog, renewal)?;
    if let (Ok(stored), Some(before)) = (&renewed, before) {
        replication::subscriptions::served(server, &before, stored.token(), renewal.cseq);
    }
    if !matches!(renewed, Err(Refusal::Unknown)) {
        return Ok(renewed);
    }
    // Another server may have had it.
    match replication::subscriptions::for_request(server, host, dialog, renewal)? {
        Ok(()) => server.subscriptions().renew(server, host, dialog, renewal),
        Err(refusal) => Ok(Err(refusal)),
    }
}

/// The 2xx could not be sent: a new subscription is not stored. False if it is an older
/// one, which stays as the request has changed it: its watcher may still be there, and
/// an end is an end.
pub fn withdraw<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    stored: &AcceptedSubscription,
) -> bool {
    let deleted = match stored {
        AcceptedSubscription::Record(token) => {
            if !server.store.withdraw(*token, true) {
                return false;
            }
            // Else the row goes with the next flush, if there is one.
            server.subscriptions().write(server, host, *token).is_ok()
        }
        AcceptedSubscription::Row(row) => match row.withdraw(server, host) {
            None => return false,
            Some(deleted) => deleted.is_ok(),
        },
    };
    if !deleted {
        UNDELETED.log(
            host,
            Level::Error,
            format_args!("a subscription whose 2xx could not be sent has left its row"),
        );
    }
    true
}

/// The subscription as it is.
pub fn shown<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    stored: &AcceptedSubscription,
) -> Option<Snapshot> {
    match stored {
        AcceptedSubscription::Record(token) => server.store.subscription(*token, host.now()),
        AcceptedSubscription::Row(row) => Some(row.shown().clone()),
    }
}

/// The 2xx has left: the NOTIFY may. Gives the lane when the caller is the one
/// to send it.
pub fn release<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    stored: AcceptedSubscription,
) -> Option<LaneRef<M>> {
    match stored {
        AcceptedSubscription::Record(token) => server.store.release_subscription(token),
        AcceptedSubscription::Row(row) => row.release(server, host),
    }
}

/// The subscription of a dialog, for those who only look.
pub fn find<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    dialog: DialogId<'_>,
) -> Result<Option<Snapshot>, Fault> {
    server.subscriptions().find(server, host, dialog)
}

/// All subscriptions to a presentity that are not over, one after the other.
pub fn each_watcher<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    key: &PresentityKey,
    mut each: impl FnMut(WatcherRef, Snapshot),
) -> Result<(), Fault> {
    server.subscriptions().each_watcher(server, host, key, &mut each)
}

/// Somebody's subscription to a presentity lives (B33).
pub fn has_subscribers<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    key: &PresentityKey,
) -> Result<bool, Fault> {
    server.subscriptions().has_subscribers(server, host, key)
}

/// A decision about a watcher: its subscription gets the state, and is to be
/// sent a NOTIFY if that is another one than before. True if it is.
pub fn decide<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    key: &PresentityKey,
    watching: &WatcherRef,
    decision: &Authorization,
) -> Result<bool, Fault> {
    match watching {
        WatcherRef::Record(token) => {
            let event = Event::Decision(decision, host.now());
            let is_change = server.store.update(*token, &event)?.is_change();
            if is_change {
                replication::subscriptions::changed(server, host, *token);
            }
            Ok(is_change)
        }
        WatcherRef::Row(row) => in_rows::decide(server, host, key, row, decision),
    }
}

/// A subscription ends because its watcher is gone; with `contact` only as long
/// as it is to be reached there. `copy` is that of the NOTIFY, which alone names a
/// row. False if it had ended already.
pub fn remove<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    (token, copy): (Token, Option<&Snapshot>),
    contact: Option<&[u8]>,
) -> Result<bool, Fault> {
    let event = Event::NotifyAnswer(contact);
    match (token, copy) {
        (Token::ROW, Some(copy)) => in_rows::remove(server, host, copy, &event),
        (Token::ROW, None) => Ok(false),
        (token, _) => {
            let before = replication::subscriptions::own(server, host, token);
            let is_change = server.store.update(token, &event)?.is_change();
            if let Some((subscription, expires_at)) = before.filter(|_| is_change) {
                replication::subscriptions::ended(server, host, &subscription, expires_at);
            }
            Ok(is_change)
        }
    }
}

/// The presentity that a subscription is to.
pub(in crate::service) fn key_of<M: Memory>(
    server: &Server<M>,
    subscription: &Snapshot,
) -> PresentityKey {
    let text = |field| subscription.text(field);
    let (user, host) = (text(Text::PresentityUser), text(Text::PresentityHost));
    server.store.key(user, host, subscription.package)
}
