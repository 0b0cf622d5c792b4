//! Subscriptions that are rows of the database only. In memory there are those
//! that await a NOTIFY.

use super::storage::{Insertion, Numbering, Storage};
use super::{AcceptedSubscription, WatcherRef, key_of};
use crate::error::{Fault, Rejection};
use crate::ports::{Compare, Condition, Host, Level, Value};
use crate::presence::event_package::PackageId;
use crate::presence::explain::EndReason;
use crate::presence::limits::Limit;
use crate::presence::listing::{After, Wanted};
use crate::presence::presentity::PresentityKey;
use crate::presence::renewal::Renewal;
use crate::presence::subscription::{Authorization, DialogId, Ending, Snapshot, Text};
use crate::presence::transition::{Event, Next, Refusal, Transition};
use crate::presence::winfo::WatcherNews;
use crate::service::durable::catch_up;
use crate::service::notifier_slots::slot_of_dialog;
use crate::service::overview::Kept;
use crate::service::rate_limited_log::RateLimitedLog;
use crate::service::subscription_rows::{self as rows, ActiveWatcherRow};
use crate::service::{Server, check_widths, ends, expired_rows, limits, orphaned_rows};
use crate::shm::Memory;
use crate::store::LaneRef;
use crate::store::listing::Listed;
use crate::store::records::RowClaim;
use crate::store::row_lanes::PendingNotify;
use crate::store::rows::{NOT_FLAGGED, dialog_of};
use crate::store::walk::Page;

static UNNOTIFIED: RateLimitedLog = RateLimitedLog::new();
static UNENDED: RateLimitedLog = RateLimitedLog::new();

/// Watchers whose rows are read one by one; of more all are read.
const FEW: usize = 4;

/// A row that a SUBSCRIBE has made or changed.
#[derive(Debug)]
pub struct AcceptedRow {
    key: PresentityKey,
    pending: PendingNotify,
    is_new: bool,
    /// A notifier process sends its NOTIFY.
    left: bool,
}

impl AcceptedRow {
    /// The subscription as it is.
    pub(super) fn shown(&self) -> &Snapshot {
        &self.pending.subscription
    }

    /// The request has made it: it counts, and those who watch are to be notified.
    pub(super) fn is_new(&self) -> bool {
        self.is_new
    }

    /// Deletes the row, if it is new.
    pub(super) fn withdraw<M: Memory>(
        &self,
        server: &Server<M>,
        host: &mut dyn Host,
    ) -> Option<Result<bool, Fault>> {
        if !self.is_new {
            return None;
        }
        let deleted = rows::delete(server, host, dialog_of(&self.pending.subscription));
        if deleted == Ok(true) {
            limits::row_counted(server, &self.key, &self.pending.subscription, false);
        }
        Some(deleted)
    }

    /// Its NOTIFY may leave. Gives the lane when the caller is the one to send it.
    pub(super) fn release<M: Memory>(
        &self,
        server: &Server<M>,
        host: &mut dyn Host,
    ) -> Option<LaneRef<M>> {
        let watcher = &self.pending.subscription;
        if self.is_new {
            let news = WatcherNews::began(watcher.status);
            server.store.watcher_row_changed(&self.key, watcher, news);
        }
        if self.left {
            return None;
        }
        server.store.queue_row(&self.key, &self.pending).unwrap_or_else(|fault| {
            UNNOTIFIED.log(
                host,
                Level::Error,
                format_args!("a subscription gets its NOTIFY with the next change: {fault}"),
            );
            None
        })
    }
}

/// Rows of the database.
#[derive(Debug)]
pub struct InRows;

impl<M: Memory> Storage<M> for InRows {
    fn counted_rows(&self, now: i64) -> Option<Vec<Condition>> {
        // One lives in its last second.
        Some(vec![("expires", Compare::Greater, Value::Int(now - 1))])
    }

    fn insert(
        &self,
        server: &Server<M>,
        host: &mut dyn Host,
        key: &PresentityKey,
        subscription: &Snapshot,
    ) -> Result<Insertion, Rejection> {
        let expires_at = host.now() + i64::from(subscription.expires);
        let slot = slot_of_dialog(server, dialog_of(subscription));
        if let Some(limit) = full(server, host, key, subscription)? {
            return Ok(Insertion::Full(limit));
        }
        let flag = slot.unwrap_or(NOT_FLAGGED);
        let is_new = rows::insert(server, host, subscription, expires_at, flag)?;
        if !is_new {
            return match known(server, host, key, subscription, slot)? {
                Insertion::Taken if catch_up(host) => known(server, host, key, subscription, slot),
                known => Ok(known),
            };
        }
        let pending = PendingNotify {
            subscription: subscription.clone(),
            expires_at,
            ending: None,
            claim: RowClaim::Asked,
            notified: None,
            null_reason: false,
        };
        let stored = AcceptedRow { key: key.clone(), pending, is_new, left: slot.is_some() };
        Ok(Insertion::New(AcceptedSubscription::Row(Box::new(stored))))
    }

    fn begun(
        &self,
        server: &Server<M>,
        host: &mut dyn Host,
        key: &PresentityKey,
        subscription: &Snapshot,
    ) -> Result<(), Fault> {
        limits::row_counted(server, key, subscription, true);
        match server.config.delete_same_subs {
            true => replace_call(server, host, key, subscription, None),
            false => Ok(()),
        }
    }

    fn renew(
        &self,
        server: &Server<M>,
        host: &mut dyn Host,
        dialog: DialogId<'_>,
        renewal: &Renewal<'_>,
    ) -> Result<Result<AcceptedSubscription, Refusal>, Rejection> {
        match renew(server, host, dialog, renewal)? {
            Err(Refusal::Unknown) if catch_up(host) => renew(server, host, dialog, renewal),
            renewed => Ok(renewed),
        }
    }

    fn remove_call(
        &self,
        server: &Server<M>,
        host: &mut dyn Host,
        key: &PresentityKey,
        subscription: &Snapshot,
    ) -> Result<(), Fault> {
        replace_call(server, host, key, subscription, Some(subscription.text(Text::FromTag)))
    }

    fn is_to(
        &self,
        server: &Server<M>,
        host: &mut dyn Host,
        dialog: DialogId<'_>,
        key: &PresentityKey,
    ) -> Result<Option<bool>, Fault> {
        Ok(rows::find(server, host, dialog)?.map(|row| is_row_to(server, &row, key)))
    }

    fn find(
        &self,
        server: &Server<M>,
        host: &mut dyn Host,
        dialog: DialogId<'_>,
    ) -> Result<Option<Snapshot>, Fault> {
        let living = |host: &mut dyn Host| {
            let row = rows::find(server, host, dialog)?;
            Ok(row.filter(|row| !row.has_ended()).map(|row| row.subscription))
        };
        match living(host)? {
            None if catch_up(host) => living(host),
            found => Ok(found),
        }
    }

    fn each_watcher(
        &self,
        server: &Server<M>,
        host: &mut dyn Host,
        key: &PresentityKey,
        each: &mut dyn FnMut(WatcherRef, Snapshot),
    ) -> Result<(), Fault> {
        for row in rows::watchers(server, host, key)? {
            let copy = row.subscription.clone();
            each(WatcherRef::Row(Box::new(row)), copy);
        }
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
        if users.len() > FEW {
            return self.each_watcher(server, host, key, each);
        }
        for user in users {
            for row in rows::of_watcher(server, host, key, user)? {
                let copy = row.subscription.clone();
                each(WatcherRef::Row(Box::new(row)), copy);
            }
        }
        Ok(())
    }

    fn has_subscribers(
        &self,
        server: &Server<M>,
        host: &mut dyn Host,
        key: &PresentityKey,
    ) -> Result<bool, Fault> {
        rows::has_subscribers(server, host, key)
    }

    fn page(
        &self,
        server: &Server<M>,
        host: &mut dyn Host,
        (wanted, package): (&Wanted<'_>, Option<PackageId>),
        after: Option<After>,
        most: usize,
    ) -> Result<Page<Listed>, Fault> {
        let after = match after {
            None => 0,
            Some(After::Row(id)) => id,
            Some(After::Record { .. }) => return Err(Fault::Host),
        };
        let lists = rows::of_wanted(wanted, package.and_then(|id| server.registry.get(id)));
        let page = rows::page_of_any(server, host, &lists, after, most)?;
        let mut found: Vec<(After, Listed)> = Vec::new();
        for row in page.rows {
            let text = |field| row.subscription.text(field);
            let is_one = !row.has_ended()
                && wanted.is_of(text(Text::PresentityUser), text(Text::PresentityHost))
                && wanted
                    .like
                    .as_ref()
                    .is_none_or(|like| like.fits(text(Text::WatcherUser), text(Text::WatcherHost)));
            // A database that does not mind case gives it in two spellings.
            let place = After::Row(row.id);
            if is_one && found.last().is_none_or(|(last, _)| *last != place) {
                let ActiveWatcherRow { subscription, expires_at, .. } = row;
                found.push((place, Listed { subscription, expires_at }));
            }
        }
        Ok(Page { found, next: page.last.map(After::Row) })
    }

    fn expire(&self, server: &Server<M>, host: &mut dyn Host) {
        if let Err(fault) = expired_rows::expire(server, host) {
            let line = format_args!("expired subscriptions are ended the next time: {fault}");
            UNENDED.log(host, Level::Error, line);
        }
    }

    fn at_start(&self, server: &Server<M>, host: &mut dyn Host) -> Result<(), Fault> {
        expired_rows::expire(server, host)
    }

    fn kept(&self) -> Kept {
        Kept { mode: 3, are: "rows of the database only", outlive_server: true }
    }

    fn numbering(&self) -> Numbering {
        Numbering::Claimed
    }

    fn is_shared(&self) -> bool {
        true
    }

    fn notified_elsewhere_since(&self, now: i64) -> Option<i64> {
        Some(now - rows::NOTIFYING)
    }

    fn report_unusable_rows(&self, server: &Server<M>, host: &mut dyn Host) {
        orphaned_rows::report_unusable_rows(server, host);
    }
}

/// Judges an in-dialog SUBSCRIBE by the row, and applies it.
fn renew<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    dialog: DialogId<'_>,
    renewal: &Renewal<'_>,
) -> Result<Result<AcceptedSubscription, Refusal>, Rejection> {
    let slot = slot_of_dialog(server, dialog);
    let found = rows::find(server, host, dialog)?;
    let fits = |changes: &[_]| check_widths(&server.widths.subscriptions, changes);
    let event = Event::Subscribe(renewal);
    let (renewed, row) = rows::update(server, host, found, &event, slot, fits)?;
    let row = match (renewed.next, row) {
        (Next::Refused(refusal), _) => return Ok(Err(refusal)),
        (_, Some(row)) => row,
        (_, None) => return Ok(Err(Refusal::Unknown)),
    };
    let key = key_of(server, &row.subscription);
    notify_winfo(server, &key, &row.subscription, &renewed);
    let pending =
        row.into_pending(renewed.is_over().then_some(Ending::Unsubscribed), RowClaim::Asked);
    let stored = AcceptedRow { key, pending, is_new: false, left: slot.is_some() };
    Ok(Ok(AcceptedSubscription::Row(Box::new(stored))))
}

/// A row is that of a subscription to this presentity.
fn is_row_to<M: Memory>(server: &Server<M>, row: &ActiveWatcherRow, key: &PresentityKey) -> bool {
    row.subscription.package == key.package
        && key_of(server, &row.subscription).identity == key.identity
}

/// The dialog of a new subscription has a row. It is this request's if nobody has
/// touched it since: only the answer to its statement was lost. Else the request is
/// an older copy, and the row stays as it is.
fn known<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    key: &PresentityKey,
    subscription: &Snapshot,
    slot: Option<i64>,
) -> Result<Insertion, Rejection> {
    let found = rows::find(server, host, dialog_of(subscription))?;
    let Some(row) = found.filter(|row| is_row_to(server, row, key)) else {
        return Ok(Insertion::Taken);
    };
    let is_new = row.subscription.remote_cseq == subscription.remote_cseq
        && row.subscription.numbers() == subscription.numbers();
    let pending = row.into_pending(None, RowClaim::Asked);
    let left = is_new && slot.is_some();
    let stored = AcceptedRow { key: key.clone(), pending, is_new, left };
    Ok(Insertion::Known(AcceptedSubscription::Row(Box::new(stored))))
}

/// Which limit keeps a new subscription out. One that is known, or takes the
/// place of another one, needs no room.
fn full<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    key: &PresentityKey,
    subscription: &Snapshot,
) -> Result<Option<Limit>, Fault> {
    let Some(limit) = limits::full_of_rows(server, host, key, subscription)? else {
        return Ok(None);
    };
    let needs_none = rows::find(server, host, dialog_of(subscription))?.is_some()
        || (server.config.delete_same_subs
            && rows::of_call(server, host, subscription, None)?.iter().any(|row| !row.has_ended()));
    Ok((!needs_none).then_some(limit))
}

/// `delete_same_subs`: other dialogs of a call are gone, for a client that has
/// restarted has forgotten them; with `from_tag` only those of one client.
fn replace_call<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    key: &PresentityKey,
    subscription: &Snapshot,
    from_tag: Option<&[u8]>,
) -> Result<(), Fault> {
    for row in rows::of_call(server, host, subscription, from_tag)? {
        if dialog_of(&row.subscription) != dialog_of(subscription) {
            let copy = row.subscription.clone();
            if end(server, host, key, row, &Event::Replaced)? {
                ends::ended(server, host, &copy, EndReason::Replaced);
            }
        }
    }
    Ok(())
}

/// The watcher of a NOTIFY is gone. False if its subscription had ended already.
pub(super) fn remove<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    copy: &Snapshot,
    event: &Event<'_>,
) -> Result<bool, Fault> {
    let row = ActiveWatcherRow::of_notify(copy.clone(), host.now());
    end(server, host, &key_of(server, copy), row, event)
}

/// Nothing is to be left of a subscription. False if it had ended already.
fn end<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    key: &PresentityKey,
    row: ActiveWatcherRow,
    event: &Event<'_>,
) -> Result<bool, Fault> {
    let (ended, row) = rows::update(server, host, Some(row), event, None, |_| Ok::<_, Fault>(()))?;
    let Some(row) = row.filter(|_| ended.is_change()) else { return Ok(false) };
    notify_winfo(server, key, &row.subscription, &ended);
    Ok(true)
}

/// The rules have decided about a watcher. True if that makes a difference.
pub(super) fn decide<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    key: &PresentityKey,
    row: &ActiveWatcherRow,
    decision: &Authorization,
) -> Result<bool, Fault> {
    let slot = slot_of_dialog(server, dialog_of(&row.subscription));
    let event = Event::Decision(decision, host.now());
    let (decided, row) =
        rows::update(server, host, Some(row.clone()), &event, slot, |_| Ok::<_, Fault>(()))?;
    let Some(row) = row.filter(|_| decided.is_change()) else { return Ok(false) };
    notify_winfo(server, key, &row.subscription, &decided);
    let pending = row.into_pending(decided.last(), RowClaim::Asked);
    let stored = AcceptedRow { key: key.clone(), pending, is_new: false, left: slot.is_some() };
    if let Some(lane) = stored.release(server, host) {
        server.store.hand_over(lane);
    }
    Ok(true)
}

/// Those who watch the watchers are notified of what became of one, and one that has
/// ended counts no more.
fn notify_winfo<M: Memory>(
    server: &Server<M>,
    key: &PresentityKey,
    watcher: &Snapshot,
    transition: &Transition<'_>,
) {
    if transition.ends() {
        limits::row_counted(server, key, watcher, false);
    }
    if let Some(news) = transition.winfo {
        server.store.watcher_row_changed(key, watcher, news);
    }
}
