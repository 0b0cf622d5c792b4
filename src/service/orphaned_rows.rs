//! Rows that nobody here has a record of, and whose time is over: they ended
//! while the server was down, or others wrote them. Each is ended once, by who
//! deletes it as it was read: a row that somebody refreshes meanwhile lives on
//! (B45). Rows that cannot be read here, and those of packages that are not
//! loaded, are counted and kept.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::error::Fault;
use crate::ports::{Compare, Condition, Host, Level, Value};
use crate::presence::cseq::CSeq;
use crate::presence::event_package::Event;
use crate::presence::presentity::PresentityKey;
use crate::presence::subscription::{Ending, Snapshot, Text};
use crate::presence::winfo::WatcherNews;
use crate::service::durable::{self, durable, each_or_all};
use crate::service::paging::{self, Pages};
use crate::service::{Server, subscription_rows, write_back};
use crate::shm::Memory;
use crate::store::rows::{
    SUBSCRIPTION_COLUMNS, SubscriptionRow, dialog_of, read_subscription, unsigned,
};

/// Rows read in one go.
const PAGE: usize = 500;
/// Seconds for which a row may outlive its record: the end of that has been reported, and
/// whoever writes is about to delete the row.
const IN_WRITERS_HANDS: i64 = 2;

/// Rows deleted in one transaction of which nobody has to be notified.
const BATCH: usize = 200;

/// Seconds after its end that a watcher is notified of it. Its last refresh may
/// have been lost with the server; later it has noticed by itself.
pub const NOTIFY_WITHIN: i64 = 600;
/// Watchers notified in one sweep. All at once are more than memory has room for,
/// most of them where nobody answers any more.
const MAX_NOTIFIED: usize = 1000;

/// Rows that are kept, as of the last sweep.
static UNUSABLE: AtomicUsize = AtomicUsize::new(0);

/// Rows that are of no use here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct UnusableRows {
    /// They do not have the form of a subscription.
    pub unreadable: usize,
    /// Their packages are not loaded.
    pub unknown: usize,
}

impl UnusableRows {
    /// All of them.
    pub fn all(self) -> usize {
        self.unreadable + self.unknown
    }
}

impl std::fmt::Display for UnusableRows {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let UnusableRows { unreadable, unknown } = self;
        write!(f, "{unreadable} unreadable, {unknown} of packages that are not loaded")
    }
}

/// The server has started: what ended while it was down. To be called once.
pub fn at_start<M: Memory>(server: &Server<M>, host: &mut dyn Host) {
    let swept = server.subscriptions().at_start(server, host);
    report(swept, host, "subscriptions");
    if server.config.clean_period.is_some() {
        let swept = server.publications().end_orphaned(server, host);
        report(swept, host, "publications");
    }
    server.wake_senders(host);
}

fn report(swept: Result<(), Fault>, host: &mut dyn Host, what: &str) {
    if let Err(fault) = swept {
        let line = format_args!("expired {what} of the last run are ended later: {fault}");
        host.log(Level::Error, line);
    }
}

/// A row of a subscription that has run out.
struct Expired {
    id: i64,
    row: SubscriptionRow,
    key: PresentityKey,
}

impl Expired {
    fn conditions(&self) -> Vec<Condition> {
        as_read(self.id, self.row.expires_at, self.row.snapshot.remote_cseq)
    }
}

/// The row of a subscription as it was read: nobody has refreshed it since.
pub(super) fn as_read(id: i64, expires_at: i64, remote_cseq: CSeq) -> Vec<Condition> {
    vec![
        ("id", Compare::Eq, Value::Int(id)),
        ("expires", Compare::Eq, Value::Int(expires_at)),
        ("remote_cseq", Compare::Eq, unsigned(remote_cseq.0)),
    ]
}

/// Ends subscriptions of `active_watchers` that have expired and are not in
/// memory (`subs_db_mode` 1 and 2).
pub fn subscriptions<M: Memory>(server: &Server<M>, host: &mut dyn Host) -> Result<(), Fault> {
    let table = subscription_rows::table(server)?;
    let mut pages = Pages::new(PAGE, true);
    let (mut unusable, mut notified) = (0, 0);
    loop {
        let now = host.now();
        let before = now - i64::from(server.config.expires_offset) - IN_WRITERS_HANDS;
        let conditions = [("expires", Compare::Less, Value::Int(before))];
        let database = host.database().ok_or(Fault::Database)?;
        let page = pages.next(database, table, &conditions, SUBSCRIPTION_COLUMNS)?;
        let Some(page) = page else { break };
        let mut strangers = Vec::new();
        for (id, columns) in page {
            match read(server, &columns, now) {
                Ok((row, key)) if server.store.find_dialog(dialog_of(&row.snapshot))?.is_none() => {
                    strangers.push(Expired { id, row, key });
                }
                Ok(_) => {}
                Err(_) => unusable += 1,
            }
        }
        // A subscription that is over may have had the row, which is about to
        // be deleted: its end has been reported.
        if !strangers.is_empty() {
            write_back::write_urgent(server, host)?;
            end_all(server, host, table, strangers, &mut notified)?;
        }
        server.wake_senders(host);
    }
    warn_of_unusable(host, table, unusable);
    Ok(())
}

/// So many expired rows are kept, for nobody here can use them: one line when
/// there are more or fewer than the last time.
pub(super) fn warn_of_unusable(host: &mut dyn Host, table: &str, unusable: usize) {
    if UNUSABLE.swap(unusable, Ordering::Relaxed) != unusable && unusable > 0 {
        let line = format_args!(
            "{unusable} expired rows of {table} are kept: they cannot be read, or their packages are \
             not loaded"
        );
        host.log(Level::Warning, line);
    }
}

/// A row and whom it watches; `Err` if it has to be kept: true if it is
/// unreadable, false if its package is not loaded.
fn read<M: Memory>(
    server: &Server<M>,
    columns: &[Value],
    now: i64,
) -> Result<(SubscriptionRow, PresentityKey), bool> {
    let mut row = read_subscription(columns, now).ok_or(true)?;
    let package = Event::parse(&row.event).and_then(|event| server.registry.exact(&event));
    row.snapshot.package = package.ok_or(false)?;
    let key = server.store.key(
        row.snapshot.text(Text::PresentityUser),
        row.snapshot.text(Text::PresentityHost),
        row.snapshot.package,
    );
    Ok((row, key))
}

fn end_all<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    table: &str,
    strangers: Vec<Expired>,
    notified: &mut usize,
) -> Result<(), Fault> {
    let mut silent = Vec::new();
    for one in strangers {
        let recent = host.now() - one.row.expires_at <= NOTIFY_WITHIN && *notified < MAX_NOTIFIED;
        if !recent && !server.store.is_reported(&one.key) {
            silent.push(one.conditions());
            continue;
        }
        let conditions = one.conditions();
        match delete(host, table, &conditions) {
            Ok(true) => {}
            // What cannot be deleted is no reason to keep the others waiting.
            Ok(false) | Err(Fault::Refused) => continue,
            Err(fault) => return Err(fault),
        }
        *notified += usize::from(recent);
        let Expired { row, key, .. } = one;
        notify_end(server, &key, row.snapshot, row.expires_at, recent);
    }
    delete_all(host, table, &silent)
}

/// Deletes a row; false if it is not as it was read.
pub(super) fn delete(
    host: &mut dyn Host,
    table: &str,
    conditions: &[Condition],
) -> Result<bool, Fault> {
    let database = host.database().ok_or(Fault::Database)?;
    durable::delete(database, table, conditions)
}

/// Deletes rows that nobody has to be notified of.
pub(super) fn delete_all(
    host: &mut dyn Host,
    table: &str,
    rows: &[Vec<Condition>],
) -> Result<(), Fault> {
    let database = host.database().ok_or(Fault::Database)?;
    for batch in rows.chunks(BATCH) {
        let all: Vec<&[Condition]> = batch.iter().map(Vec::as_slice).collect();
        match durable(database, |database, _| database.delete_rows(table, &all)) {
            // One at fault does not keep the others.
            Err(Fault::Refused) => {
                let deleted =
                    each_or_all(database, batch, |database, row| database.delete(table, row));
                if deleted != Err(Fault::Refused) {
                    deleted?;
                }
            }
            deleted => deleted?,
        }
    }
    Ok(())
}

/// A subscription whose row is gone has ended: its watcher is notified, and those
/// who watch the watchers.
fn notify_end<M: Memory>(
    server: &Server<M>,
    key: &PresentityKey,
    mut subscription: Snapshot,
    expires_at: i64,
    recent: bool,
) {
    subscription.local_cseq = restored_cseq(subscription.local_cseq);
    let queued = recent && server.store.queue_ended(key, &subscription, expires_at).is_ok();
    if !queued {
        let news = WatcherNews::ended(subscription.status, Ending::Expired);
        server.store.watcher_row_changed(key, &subscription, news);
    }
}

/// CSeq of a dialog that is taken over. The stock module's row lags behind the
/// wire (A7, B39): it counts the dialog up, tm once more, and with subs_db_mode 1
/// the first NOTIFY leaves after the row was written.
pub fn restored_cseq(stored: CSeq) -> CSeq {
    stored.saturating_add(2)
}

/// Rows of subscriptions that are of no use here, whether their time is over or
/// not.
pub fn unusable_rows<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
) -> Result<UnusableRows, Fault> {
    let table = subscription_rows::table(server)?;
    let (mut unusable, now) = (UnusableRows::default(), host.now());
    let most = server.config.fetch_rows as usize;
    let database = host.database().ok_or(Fault::Database)?;
    paging::all(
        database,
        table,
        &[],
        SUBSCRIPTION_COLUMNS,
        (most, true),
        &mut |columns| match read(server, columns, now) {
            Ok(_) => {}
            Err(true) => unusable.unreadable += 1,
            Err(false) => unusable.unknown += 1,
        },
    )?;
    Ok(unusable)
}

/// Says how many rows of subscriptions are of no use here (`presence.cleanup`).
pub fn report_unusable_rows<M: Memory>(server: &Server<M>, host: &mut dyn Host) {
    match unusable_rows(server, host) {
        Ok(unusable) => {
            let level = if unusable.all() > 0 { Level::Warning } else { Level::Info };
            let all = unusable.all();
            host.log(
                level,
                format_args!("{all} rows of subscriptions are of no use here: {unusable}"),
            );
        }
        Err(fault) => {
            let line = format_args!("rows of subscriptions cannot be counted: {fault}");
            host.log(Level::Error, line);
        }
    }
}
