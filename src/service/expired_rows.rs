//! Rows of subscriptions whose time is over, where these are rows of the database
//! only (`subs_db_mode=3`).

use std::collections::HashSet;

use crate::error::Fault;
use crate::ports::{Compare, Condition, Host, Level, Value};
use crate::presence::event_package::Kind;
use crate::presence::subscription::Ending;
use crate::service::paging::Pages;
use crate::service::rate_limited_log::RateLimitedLog;
use crate::service::subscription_rows as rows;
use crate::service::subscriptions::key_of;
use crate::service::watcher_info::row_ended;
use crate::service::{Server, notifier_slots, orphaned_rows};
use crate::shm::Memory;
use crate::store::records::RowClaim;
use crate::store::rows::{dialog_of, presentity_uri};

static UNQUEUED: RateLimitedLog = RateLimitedLog::new();

/// Expired rows read in one go. The server sorts all of them for each page.
const EXPIRED_PAGE: usize = 1000;

/// Subscriptions that may wait for their last NOTIFY when more are read.
const MAX_PENDING: usize = 10_000;
/// How often, 5 ms apart, a look is taken whether there are fewer.
const PATIENCE: u32 = 400;
/// Rows read in one go of those who watch watchers.
const PAGE: usize = 1000;

/// Ends subscriptions that have expired, and those whose last NOTIFY a server
/// that is gone has left unsent. Who has noticed by itself, long ago, is not
/// told any more.
pub fn expire<M: Memory>(server: &Server<M>, host: &mut dyn Host) -> Result<(), Fault> {
    host.database().into_iter().for_each(|database| database.look_for_outages());
    let offset = i64::from(server.config.expires_offset);
    let notifying = rows::NOTIFYING + notifier_slots::longest_wait(server);
    let mut pages = Pages::new(EXPIRED_PAGE, true);
    let (mut unusable, mut reported) = (0, None);
    loop {
        let now = host.now();
        let conditions = vec![("expires", Compare::Less, Value::Int(now - offset))];
        let page = next_of(server, host, &conditions, &mut pages)?;
        let Some((page, unreadable)) = page else {
            orphaned_rows::warn_of_unusable(host, rows::table(server)?, unusable);
            break;
        };
        unusable += unreadable;
        let old = |row: &rows::ActiveWatcherRow| {
            row.expires_at < now - offset - orphaned_rows::NOTIFY_WITHIN
        };
        let (old, recent): (Vec<_>, Vec<_>) = page.into_iter().partition(old);
        let mut notified = Vec::new();
        for row in recent {
            let dialog = dialog_of(&row.subscription);
            if row.has_ended() && server.store.is_end_reported(dialog, row.subscription.local_cseq)
            {
                let cseq = row.subscription.remote_cseq;
                notified.push(orphaned_rows::as_read(row.id, row.expires_at, cseq));
                continue;
            }
            if row.has_ended() && row.expires_at >= now - offset - notifying {
                continue;
            }
            let key = key_of(server, &row.subscription);
            let ending = row.ending(now, offset);
            let claim = if row.has_ended() { RowClaim::Rescue } else { RowClaim::Asked };
            match server.store.queue_row(&key, &row.into_pending(ending, claim)) {
                Ok(lane) => lane.into_iter().for_each(|lane| server.store.hand_over(lane)),
                Err(fault) => UNQUEUED.log(
                    host,
                    Level::Error,
                    format_args!("an ended subscription has to wait for its NOTIFY: {fault}"),
                ),
            }
        }
        orphaned_rows::delete_all(host, rows::table(server)?, &notified)?;
        end_old(server, host, old, &mut reported)?;
        server.wake_senders(host);
        if !has_room(server) {
            // The rest has its turn the next time.
            break;
        }
    }
    notifier_slots::adopt(server, host)
}

/// The senders have kept up with what was queued: waits for them, not for long.
fn has_room<M: Memory>(server: &Server<M>) -> bool {
    for _ in 0..PATIENCE {
        if server.store.waiting() < MAX_PENDING {
            return true;
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    false
}

/// Deletes rows whose time was over long ago. Those who watch the watchers are
/// told; `reported` has the presentity URIs that somebody watches so.
fn end_old<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    old: Vec<rows::ActiveWatcherRow>,
    reported: &mut Option<HashSet<Vec<u8>>>,
) -> Result<(), Fault> {
    let table = rows::table(server)?;
    let mut silent = Vec::new();
    for row in old {
        let known = match reported.take() {
            Some(known) => known,
            None => reported_presentities(server, host)?,
        };
        let is_reported = known.contains(&presentity_uri(&row.subscription).to_ascii_lowercase());
        *reported = Some(known);
        let cseq = row.subscription.remote_cseq;
        let conditions = orphaned_rows::as_read(row.id, row.expires_at, cseq);
        if !is_reported {
            silent.push(conditions);
            continue;
        }
        let deleted = match orphaned_rows::delete(host, table, &conditions) {
            // What cannot be deleted is no reason to keep the others waiting.
            Err(Fault::Refused) => false,
            deleted => deleted?,
        };
        if deleted {
            let why = row.ending(host.now(), 0).unwrap_or(Ending::Expired);
            row_ended(server, &key_of(server, &row.subscription), &row.subscription, why);
        }
    }
    orphaned_rows::delete_all(host, table, &silent)
}

/// The next of `pages`, and how many of its rows cannot be read here; `None` after
/// the last one.
fn next_of<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    conditions: &[Condition],
    pages: &mut Pages,
) -> Result<Option<(Vec<rows::ActiveWatcherRow>, usize)>, Fault> {
    let (table, now) = (rows::table(server)?, host.now());
    let database = host.database().ok_or(Fault::Database)?;
    let page = pages.next(database, table, conditions, &rows::columns())?;
    Ok(page.map(|page| {
        let all = page.len();
        let read = |(id, row): &(i64, Vec<Value>)| rows::read(&server.registry, *id, row, now);
        let readable: Vec<rows::ActiveWatcherRow> = page.iter().filter_map(read).collect();
        let unreadable = all - readable.len();
        (readable, unreadable)
    }))
}

/// The presentities whose watchers somebody watches, in any package.
fn reported_presentities<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
) -> Result<HashSet<Vec<u8>>, Fault> {
    let table = rows::table(server)?;
    let peers = server.registry.ids().filter_map(|id| server.registry.get(id));
    let peers: Vec<_> = peers.filter(|package| package.kind == Kind::WatcherInfo).collect();
    let mut found = HashSet::new();
    for package in peers {
        let conditions = [("event", Compare::Eq, Value::text(&package.name))];
        let mut pages = Pages::new(PAGE, true);
        let database = host.database().ok_or(Fault::Database)?;
        while let Some(page) = pages.next(database, table, &conditions, &["presentity_uri"])? {
            let uris = page.into_iter().filter_map(|(_, row)| row.into_iter().next());
            found.extend(uris.map(|uri| uri.as_bytes().to_ascii_lowercase()));
        }
    }
    Ok(found)
}
