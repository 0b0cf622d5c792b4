//! Subscriptions, wherever they are kept: the one place that asks for
//! `subs_db_mode` when a subscription is made, changed, looked up or ended.

use crate::config::SubscriptionMode;
use crate::error::{Fault, Rejection};
use crate::ports::{Host, Level, Value};
use crate::presence::presentity::PresentityKey;
use crate::presence::subscription::{
    Authorization, DialogId, Ending, InDialog, Snapshot, Status, Text,
};
use crate::presence::winfo::WatcherEvent;
use crate::service::seldom::Seldom;
use crate::service::subscription_rows::{self as rows, Row};
use crate::service::turns::turn_of_dialog;
use crate::service::{Server, check_widths, limits, write_back};
use crate::shm::Memory;
use crate::store::listing::Listed;
use crate::store::records::Claim;
use crate::store::renewal::Renewal;
use crate::store::row_lanes::DueRow;
use crate::store::rows::{NOT_FLAGGED, dialog_of};
use crate::store::subscriptions::Inserted;
use crate::store::{LaneRef, Token};

static UNTOLD: Seldom = Seldom::new();
static UNDELETED: Seldom = Seldom::new();

/// A subscription that a SUBSCRIBE has made or changed; its NOTIFY waits for
/// the 2xx.
#[derive(Debug)]
pub enum Stored {
    /// A record in memory.
    Record(Token),
    /// A row of the database.
    Row(Box<StoredRow>),
}

/// A row that a SUBSCRIBE has made or changed.
#[derive(Debug)]
pub struct StoredRow {
    key: PresentityKey,
    due: DueRow,
    /// What those who watch the watchers are to be told, and whether they get
    /// all watchers.
    event: Option<(WatcherEvent, bool)>,
    /// A notifier process sends its NOTIFY.
    left: bool,
}

/// One of the subscriptions to a presentity.
#[derive(Debug)]
pub enum Watching {
    /// A record in memory.
    Record(Token),
    /// A row of the database.
    Row(Box<Row>),
}

/// Stores a new subscription.
pub fn insert<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    key: &PresentityKey,
    subscription: &Snapshot,
) -> Result<Stored, Rejection> {
    let now = host.now();
    if server.config.subs_db_mode != SubscriptionMode::DbOnly {
        let token = match server.store.insert_subscription(key, subscription, now)? {
            Inserted::New(token) => token,
            Inserted::Known(token) => {
                let again = renew_again(server, host, subscription, now)?;
                return Ok(again.unwrap_or(Stored::Record(token)));
            }
            Inserted::Taken => return Err(no_such_subscription()),
            Inserted::Full(limit) => return Err(limits::too_many(server, limit, subscription)),
        };
        if server.config.subs_db_mode == SubscriptionMode::WriteThrough
            && let Err(rejection) = write_back::write_through(server, host, token)
        {
            server.store.withdraw(token, false);
            return Err(rejection);
        }
        return Ok(Stored::Record(token));
    }
    let expires_at = now + i64::from(subscription.expires);
    let turn = turn_of_dialog(server, dialog_of(subscription));
    check_room(server, host, key, subscription)?;
    let is_new = rows::insert(server, host, subscription, expires_at, turn.unwrap_or(NOT_FLAGGED))?;
    if !is_new {
        let row = rows::find(server, host, dialog_of(subscription))?;
        if !row.is_some_and(|row| is_to(server, &row.subscription, key)) {
            return Err(no_such_subscription());
        }
        if let Some(again) = renew_again(server, host, subscription, now)? {
            return Ok(again);
        }
    }
    limits::row_counted(server, key, subscription, true);
    if server.config.delete_same_subs {
        remove_rows_of_call(server, host, key, subscription, None)?;
    }
    Ok(Stored::Row(Box::new(StoredRow {
        key: key.clone(),
        due: DueRow {
            subscription: subscription.clone(),
            expires_at,
            ending: None,
            claim: Claim::Asked,
            told: None,
            null_reason: false,
        },
        event: Some((WatcherEvent::Subscribe, false)),
        left: turn.is_some(),
    })))
}

/// A new subscription that is a row, unless there are too many. One that is
/// known, or takes the place of another one, needs no room.
fn check_room<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    key: &PresentityKey,
    subscription: &Snapshot,
) -> Result<(), Rejection> {
    let Some(limit) = limits::full_of_rows(server, host, key, subscription)? else {
        return Ok(());
    };
    let is_known = rows::find(server, host, dialog_of(subscription))?.is_some()
        || (server.config.delete_same_subs && rows::has_same_call(server, host, subscription)?);
    if is_known { Ok(()) } else { Err(limits::too_many(server, limit, subscription)) }
}

/// `delete_same_subs`: other rows of a call, or with `from_tag` those of one
/// client, are gone.
fn remove_rows_of_call<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    key: &PresentityKey,
    subscription: &Snapshot,
    from_tag: Option<&[u8]>,
) -> Result<(), Fault> {
    for gone in rows::replace_same_call(server, host, subscription, from_tag)? {
        limits::row_counted(server, key, &gone, false);
        server.store.watcher_row_changed(key, &gone, WatcherEvent::Timeout, true, false);
    }
    Ok(())
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
) -> Result<Option<Stored>, Rejection> {
    let (dialog, now) = (dialog_of(subscription), host.now());
    // NOTIFYs of two subscriptions in one dialog would use its CSeqs twice.
    let is_known = match server.store.policy.rows_only() {
        true => rows::find(server, host, dialog)?.map(|row| is_to(server, &row.subscription, key)),
        false => match server.store.find_dialog(dialog)? {
            Some(token) => Some(server.store.is_watching(token, key)?),
            None => None,
        },
    };
    let is_blocked = subscription.status == Status::Terminated;
    let ended = match is_known {
        Some(true) if !is_blocked => {
            let again = renew_again(server, host, subscription, now)?;
            Some(again.ok_or_else(out_of_order)?)
        }
        Some(_) => return Err(no_such_subscription()),
        None => None,
    };
    if server.config.delete_same_subs && !is_blocked && ended.is_none() {
        let (call_id, from_tag) = (dialog.call_id, Some(dialog.from_tag));
        match server.store.policy.rows_only() {
            true => remove_rows_of_call(server, host, key, subscription, from_tag)?,
            false => server.store.remove_same_call(key, call_id, from_tag, None),
        }
    }
    Ok(ended)
}

/// A subscription is one to this presentity in this package.
fn is_to<M: Memory>(server: &Server<M>, subscription: &Snapshot, key: &PresentityKey) -> bool {
    let text = |field| subscription.text(field);
    let (user, domain) = (text(Text::PresentityUser), text(Text::PresentityHost));
    subscription.package == key.package
        && server.store.key(user, domain, key.package).identity == key.identity
}

/// 481 (RFC 6665 4.2.1.1).
pub fn no_such_subscription() -> Rejection {
    Rejection::new(481, "Subscription does not exist")
}

/// 500 (RFC 3261 12.2.2).
pub fn out_of_order() -> Rejection {
    Rejection::new(500, "Server Internal Error")
}

/// The dialog of a new subscription is known. A watcher that has forgotten its To
/// tag goes on with the subscription it has; `None` if it is the same request
/// once more. One that has ended, or has another `id`, is not there.
fn renew_again<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    subscription: &Snapshot,
    now: i64,
) -> Result<Option<Stored>, Rejection> {
    let renewal = Renewal::again(subscription, now);
    match renew(server, host, dialog_of(subscription), &renewal)? {
        (InDialog::Unknown, _) => Err(no_such_subscription()),
        (InDialog::OutOfOrder, _) => Ok(None),
        (InDialog::Refresh | InDialog::End, stored) => Ok(stored),
    }
}

/// Judges an in-dialog SUBSCRIBE and, if it is in order, applies it.
pub fn renew<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    dialog: DialogId<'_>,
    renewal: &Renewal<'_>,
) -> Result<(InDialog, Option<Stored>), Rejection> {
    if server.config.subs_db_mode == SubscriptionMode::WriteThrough {
        let changes = [
            ("contact", Value::text(renewal.contact)),
            ("local_contact", Value::text(renewal.local_contact)),
            ("socket_info", Value::text(renewal.socket)),
        ];
        check_widths(&server.widths.subscriptions, &changes)?;
    }
    if server.config.subs_db_mode != SubscriptionMode::DbOnly {
        let (verdict, token) = server.store.renew_subscription(dialog, renewal)?;
        if let Some(token) = token
            && server.config.subs_db_mode == SubscriptionMode::WriteThrough
            && let Err(rejection) = write_back::write_through(server, host, token)
        {
            // What is in memory holds; the row follows with the next flush.
            if let Some(lane) = release(server, host, Stored::Record(token)) {
                server.store.hand_over(lane);
            }
            return Err(rejection);
        }
        return Ok((verdict, token.map(Stored::Record)));
    }
    let turn = turn_of_dialog(server, dialog);
    let (verdict, row) = rows::renew(server, host, dialog, renewal, turn)?;
    let stored = row.map(|row| {
        let over = verdict == InDialog::End;
        let key = super::turns::key_of(server, &row);
        if over {
            limits::row_counted(server, &key, &row.subscription, false);
        }
        Stored::Row(Box::new(StoredRow {
            key,
            due: row.due(over.then_some(Ending::Unsubscribed), Claim::Asked),
            event: over.then_some((WatcherEvent::Timeout, true)),
            left: turn.is_some(),
        }))
    });
    Ok((verdict, stored))
}

/// The 2xx could not be sent: a new subscription is not stored. False if it is an older
/// one, which stays as the request has changed it: its watcher may still be there, and
/// an end is an end.
pub fn withdraw<M: Memory>(server: &Server<M>, host: &mut dyn Host, stored: &Stored) -> bool {
    let deleted = match stored {
        Stored::Record(token) => {
            if !server.store.withdraw(*token, true) {
                return false;
            }
            match server.config.subs_db_mode {
                // Else the row goes with the next flush, if there is one.
                SubscriptionMode::WriteThrough => {
                    write_back::write_through(server, host, *token).is_ok()
                }
                _ => true,
            }
        }
        Stored::Row(row) => {
            if !matches!(row.event, Some((WatcherEvent::Subscribe, _))) {
                return false;
            }
            rows::delete(server, host, dialog_of(&row.due.subscription), None).is_ok()
        }
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
    stored: &Stored,
) -> Option<Snapshot> {
    match stored {
        Stored::Record(token) => server.store.subscription(*token, host.now()),
        Stored::Row(row) => Some(row.due.subscription.clone()),
    }
}

/// The 2xx has left: the NOTIFY may. Gives the lane when the caller is the one
/// to send it.
pub fn release<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    stored: Stored,
) -> Option<LaneRef<M>> {
    match stored {
        Stored::Record(token) => server.store.release_subscription(token),
        Stored::Row(row) => {
            if let Some((event, whole)) = row.event {
                let over = row.due.ending.is_some();
                let watcher = &row.due.subscription;
                server.store.watcher_row_changed(&row.key, watcher, event, over, whole);
            }
            if row.left {
                return None;
            }
            let queued = server.store.queue_row(&row.key, &row.due);
            queued.unwrap_or_else(|fault| {
                UNTOLD.log(
                    host,
                    Level::Error,
                    format_args!("a subscription gets its NOTIFY with the next change: {fault}"),
                );
                None
            })
        }
    }
}

/// The subscription of a dialog, for those who only look.
pub fn find<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    dialog: DialogId<'_>,
) -> Result<Option<Snapshot>, Fault> {
    if server.store.policy.rows_only() {
        let row = rows::find(server, host, dialog)?;
        return Ok(row.filter(|row| !row.has_ended()).map(|row| row.subscription));
    }
    let token = server.store.find_dialog(dialog)?;
    Ok(token.and_then(|token| server.store.subscription(token, host.now())))
}

/// All subscriptions to a presentity that are not over, one after the other.
pub fn each_watcher<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    key: &PresentityKey,
    mut each: impl FnMut(Watching, Snapshot),
) -> Result<(), Fault> {
    if server.store.policy.rows_only() {
        for row in rows::watchers(server, host, key)? {
            let copy = row.subscription.clone();
            each(Watching::Row(Box::new(row)), copy);
        }
        return Ok(());
    }
    let now = host.now();
    server.store.each_watcher(key, now, |token, copy| each(Watching::Record(token), copy));
    Ok(())
}

/// Somebody's subscription to a presentity lives (B33).
pub fn has_subscribers<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    key: &PresentityKey,
) -> Result<bool, Fault> {
    match server.store.policy.rows_only() {
        true => rows::has_subscribers(server, host, key),
        false => Ok(server.store.has_subscribers(key, host.now())),
    }
}

/// The subscriptions to a presentity URI, in all packages.
pub fn list<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    uri: &[u8],
) -> Result<Vec<Listed>, Fault> {
    if server.store.policy.rows_only() {
        let rows = rows::of_uri(server, host, uri)?;
        let living = rows.into_iter().filter(|row| !row.has_ended());
        let listed =
            |row: Row| Listed { subscription: row.subscription, expires_at: row.expires_at };
        return Ok(living.map(listed).collect());
    }
    let now = host.now();
    let shards = 0..server.store.shards();
    Ok(shards.flat_map(|shard| server.store.list_subscriptions(shard, uri, now)).collect())
}

/// A decision about a watcher: its subscription gets the state, and is to be
/// sent a NOTIFY if that is another one than before. True if it is.
pub fn decide<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    key: &PresentityKey,
    watching: &Watching,
    decision: &Authorization,
) -> Result<bool, Fault> {
    let row = match watching {
        Watching::Record(token) => return server.store.decide(*token, decision, host.now()),
        Watching::Row(row) => row,
    };
    let before = row.subscription.status;
    let mut subscription = row.subscription.clone();
    let turned_away = Authorization::turned_away();
    let decision = match subscription.set_text(Text::Reason, &decision.reason) {
        Ok(()) => decision,
        // Who leaves no room for a reason is not spared the decision.
        Err(_) => &turned_away,
    };
    subscription.status = decision.status;
    if subscription == row.subscription {
        return Ok(false);
    }
    let (turn, now) = (turn_of_dialog(server, dialog_of(&subscription)), host.now());
    if !rows::decide(server, host, row, decision, (turn, now))? {
        return Ok(false);
    }
    let over = decision.status == Status::Terminated;
    if over {
        limits::row_counted(server, key, &subscription, false);
    }
    let ending = Ending::from_reason(&decision.reason);
    if before != decision.status {
        let event = WatcherEvent::of_decision(before, decision.status, ending);
        let shown = if over { &row.subscription } else { &subscription };
        server.store.watcher_row_changed(key, shown, event, over, false);
    }
    let due = DueRow {
        subscription,
        expires_at: if over { now } else { row.expires_at },
        ending: over.then_some(ending),
        claim: Claim::Asked,
        told: None,
        null_reason: false,
    };
    let stored = StoredRow { key: key.clone(), due, event: None, left: turn.is_some() };
    if let Some(lane) = release(server, host, Stored::Row(Box::new(stored))) {
        server.store.hand_over(lane);
    }
    Ok(true)
}

/// A subscription that is a row ends because its watcher is gone; with `contact`
/// only as long as it is to be reached there. False if it had ended already.
pub fn remove_row<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    subscription: &Snapshot,
    contact: Option<&[u8]>,
) -> Result<bool, Fault> {
    if !rows::delete(server, host, dialog_of(subscription), contact)? {
        return Ok(false);
    }
    let (user, domain) =
        (subscription.text(Text::PresentityUser), subscription.text(Text::PresentityHost));
    let key = server.store.key(user, domain, subscription.package);
    limits::row_counted(server, &key, subscription, false);
    server.store.watcher_row_changed(&key, subscription, WatcherEvent::Timeout, true, false);
    Ok(true)
}
