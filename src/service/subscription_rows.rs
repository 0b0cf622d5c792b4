//! Subscriptions that are rows of the database only (`subs_db_mode=3`). Several
//! servers may work on one table: nothing is locked, every change names the
//! state that it was judged by, and one that meets no row is judged again (A8).

mod claim;
mod presentity;
mod update;

pub use claim::{ClaimConditions, adopt_slots, can_change, claim, delete_ended, flag_watchers};

pub use presentity::{
    all_of_watcher, has_subscribers, of_call, of_presentity, of_wanted, of_watcher, page_of_any,
    watchers,
};
pub use update::{delete, insert, update};

use crate::error::Fault;
use crate::ports::{Compare, Condition, Extent, Host, Value, Wanted};
use crate::presence::event_package::{Event as EventHeader, PackageId};
use crate::presence::registry::EventPackageRegistry;
use crate::presence::subscription::{DialogId, Ending, Snapshot, Status, Text};
use crate::presence::transition::{CurrentSubscription, Event, Phase};
use crate::presence::uri;
use crate::service::Server;
use crate::service::durable::single;
use crate::service::paging::{Place, count as count_rows, page as page_of};
use crate::shm::Memory;
use crate::store::records::RowClaim;
use crate::store::row_lanes::PendingNotify;
use crate::store::rows::{NOT_FLAGGED, SUBSCRIPTION_COLUMNS, dialog_conditions, read_subscription};

/// Rows read to see whether there is one.
const FEW: usize = 8;

/// Seconds in which a server tells its watchers of a change or an end that it has
/// made. Then it is taken to be gone, and another server does.
pub(super) const NOTIFYING: i64 = 10;

/// `reason` of a row whose watcher has unsubscribed, or which has run out (then
/// its status is terminated): only its last NOTIFY is missing.
pub(super) const ENDED: &[u8] = b"timeout";

/// A row, read. CSeq and version are the last ones used.
#[derive(Debug, Clone)]
pub struct ActiveWatcherRow {
    /// Its `id`.
    pub id: i64,
    /// The subscription.
    pub subscription: Snapshot,
    /// Unix time of its end.
    pub expires_at: i64,
    /// The notifier slot that it is flagged for; negative for none.
    pub updated: i64,
    /// Its `reason` is NULL, not empty.
    pub null_reason: bool,
}

impl ActiveWatcherRow {
    /// The row of a subscription as a NOTIFY has shown it.
    pub fn of_notify(subscription: Snapshot, now: i64) -> ActiveWatcherRow {
        let expires_at = now + i64::from(subscription.expires);
        ActiveWatcherRow {
            id: 0,
            subscription,
            expires_at,
            updated: NOT_FLAGGED,
            null_reason: false,
        }
    }

    /// Where the subscription is in its life: its reason says whether it has
    /// ended.
    fn phase(&self) -> Phase {
        let reason = self.subscription.text(Text::Reason);
        match self.subscription.status {
            Status::Terminated => Phase::Ending(Ending::from_reason(reason)),
            _ if reason == ENDED => Phase::Ending(Ending::Unsubscribed),
            _ => Phase::Live,
        }
    }

    /// What is known of the subscription.
    pub fn current(&self) -> CurrentSubscription<'_> {
        CurrentSubscription::of(&self.subscription, self.phase(), self.expires_at)
    }

    /// It has been ended; only its last NOTIFY is missing.
    pub fn has_ended(&self) -> bool {
        !self.phase().lives()
    }

    /// Why its last NOTIFY is sent, if it is its turn.
    pub fn ending(&self, now: i64, offset: i64) -> Option<Ending> {
        let clock = self.current().handle(&Event::Clock { now, offset }, Vec::new);
        clock.ok().and_then(|clock| clock.last())
    }

    /// As something that awaits a NOTIFY.
    pub fn into_pending(self, ending: Option<Ending>, claim: RowClaim) -> PendingNotify {
        PendingNotify {
            subscription: self.subscription,
            expires_at: self.expires_at,
            ending,
            claim,
            notified: None,
            null_reason: self.null_reason,
        }
    }
}

/// Columns that make an `ActiveWatcherRow`, but for its `id`: those of a subscription, then
/// the flag.
pub(super) fn columns() -> Vec<&'static str> {
    let mut all = SUBSCRIPTION_COLUMNS.to_vec();
    all.push("updated");
    all
}

/// The name of the table.
pub(super) fn table<M: Memory>(server: &Server<M>) -> Result<&str, Fault> {
    std::str::from_utf8(&server.config.active_watchers_table).map_err(|_| Fault::Database)
}

/// The package of a row; `None` if its module is not loaded.
fn package_of(registry: &EventPackageRegistry, event: &[u8]) -> Option<PackageId> {
    registry.exact(&EventHeader::parse(event)?)
}

pub(super) fn read(
    registry: &EventPackageRegistry,
    id: i64,
    columns: &[Value],
    now: i64,
) -> Option<ActiveWatcherRow> {
    let (updated, columns) = columns.split_last()?;
    let reason = SUBSCRIPTION_COLUMNS.iter().position(|column| *column == "reason")?;
    let null_reason = *columns.get(reason)? == Value::Null;
    let row = read_subscription(columns, now)?;
    let mut subscription = row.snapshot;
    subscription.package = package_of(registry, &row.event)?;
    // The number in the row counts the dialog's, and tm's counts once more.
    subscription.local_cseq = subscription.local_cseq.saturating_add(1);
    let updated = updated.as_int().unwrap_or(NOT_FLAGGED);
    Some(ActiveWatcherRow { id, subscription, expires_at: row.expires_at, updated, null_reason })
}

fn rows<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    conditions: &[Condition],
) -> Result<Vec<ActiveWatcherRow>, Fault> {
    let (table, now, mut wanted) = (table(server)?, host.now(), columns());
    wanted.push("id");
    let database = host.database().ok_or(Fault::Database)?;
    single(database, |database, _| {
        let mut found = Vec::new();
        database.query(table, conditions, &wanted, None, &mut |row| {
            if let Some((id, row)) = row.split_last()
                && let Some(id) = id.as_int()
            {
                found.extend(read(&server.registry, id, row, now));
            }
        })?;
        Ok(found)
    })
}

/// A page of rows and where the next one begins.
pub struct Page {
    /// Those that can be read.
    pub rows: Vec<ActiveWatcherRow>,
    /// `id` of the last row of the page, readable or not; `None` if no other
    /// page follows.
    pub last: Option<i64>,
}

/// Rows that meet the conditions with an `id` greater than `after`.
pub fn page<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    conditions: &[Condition],
    after: i64,
    most: usize,
) -> Result<Page, Fault> {
    let (table, now) = (table(server)?, host.now());
    let database = host.database().ok_or(Fault::Database)?;
    let mut rows = Vec::new();
    let place = Place { after, page: Wanted { most, extent: Extent::Part, is_text: true } };
    let last = page_of(database, table, conditions, &columns(), place, &mut |id, row| {
        rows.extend(read(&server.registry, id, row, now));
    })?;
    Ok(Page { rows, last })
}

/// Counts rows of subscriptions that have not ended, up to `most`.
pub fn count<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    lists: Vec<Vec<Condition>>,
    most: u32,
) -> Result<u32, Fault> {
    let (table, now) = (table(server)?, host.now());
    let database = host.database().ok_or(Fault::Database)?;
    let mut count = 0;
    for mut conditions in lists {
        conditions.push(("expires", Compare::Greater, Value::Int(now)));
        count += count_rows(database, table, &conditions, most - count)?;
    }
    Ok(count)
}

/// What finds the rows of a watcher in all packages, in each spelling of its user.
pub fn of_this_watcher(subscription: &Snapshot) -> Vec<Vec<Condition>> {
    let host = subscription.text(Text::WatcherHost).to_ascii_lowercase();
    let users = uri::user::spellings(subscription.text(Text::WatcherUser));
    users
        .into_iter()
        .map(|user| {
            vec![
                ("watcher_username", Compare::Eq, Value::Text(user)),
                ("watcher_domain", Compare::Eq, Value::text(&host)),
            ]
        })
        .collect()
}

/// The row of a dialog.
pub fn find<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    dialog: DialogId<'_>,
) -> Result<Option<ActiveWatcherRow>, Fault> {
    Ok(rows(server, host, &dialog_conditions(dialog))?.into_iter().next())
}
