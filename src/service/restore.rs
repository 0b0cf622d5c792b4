//! Takes over what the database has kept from the last run, ours or the stock
//! module's.

use crate::error::Fault;
use crate::ports::{Compare, Condition, Host, Level, Value};
use crate::presence::event_package::Event;
use crate::presence::event_package::EventPackage;
use crate::presence::event_package::PackageId;
use crate::presence::registry::EventPackageRegistry;
use crate::presence::subscription::Text;
use crate::service::orphaned_rows::{NOTIFY_WITHIN, restored_cseq};
use crate::service::publications::{TakenOver, respell};
use crate::service::{Server, paging, replication};
use crate::shm::Memory;
use crate::store::rows::{
    PUBLICATION_COLUMNS, SUBSCRIPTION_COLUMNS, read_publication, read_subscription,
};

/// What was taken over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Restored {
    /// Records in memory.
    pub taken: usize,
    /// Rows that could not be read or kept.
    pub skipped: usize,
    /// Skipped rows whose packages are not loaded.
    pub unknown: usize,
    out_of_memory: bool,
}

impl Restored {
    /// Counts a row: `None` if it could not be read, else what became of it.
    fn count(&mut self, row: Option<Result<(), Fault>>) {
        match row {
            Some(Ok(())) => self.taken += 1,
            unread => {
                self.skipped += 1;
                self.out_of_memory |= unread == Some(Err(Fault::SharedMemory));
            }
        }
    }

    /// A server that has not room for what it kept must not run without it.
    fn complete(self) -> Result<Restored, Fault> {
        if self.out_of_memory { Err(Fault::SharedMemory) } else { Ok(self) }
    }
}

/// The package of a row; a placeholder if its module is not loaded.
fn package_of(registry: &mut EventPackageRegistry, event: &[u8]) -> Option<PackageId> {
    registry.exact(&Event::parse(event)?).or_else(|| registry.add(EventPackage::named(event)?).ok())
}

/// Loads the living subscriptions into memory.
pub fn subscriptions<M: Memory>(
    server: &mut Server<M>,
    host: &mut dyn Host,
) -> Result<Restored, Fault> {
    let now = host.now();
    let table = table(&server.config.active_watchers_table)?;
    let (mut restored, mut unknown) = (Restored::default(), 0);
    let Server { registry, store, config, .. } = server;
    // What has run out since is ended later (B45), by who looks for left-overs.
    let since = now - i64::from(config.expires_offset);
    let conditions = [("expires", Compare::Greater, Value::Int(since - 1))];
    let most = config.fetch_rows as usize;
    let database = host.database().ok_or(Fault::Database)?;
    paging::all(database, &table, &conditions, SUBSCRIPTION_COLUMNS, (most, true), &mut |row| {
        restored.count(read_subscription(row, now).and_then(|mut row| {
            let package = Event::parse(&row.event).and_then(|event| registry.exact(&event));
            let Some(package) = package else {
                unknown += 1;
                return None;
            };
            row.snapshot.package = package;
            let cseq = restored_cseq(row.snapshot.local_cseq);
            row.snapshot.local_cseq = replication::subscriptions::restored(store, config, cseq);
            row.snapshot.version = row.snapshot.version.saturating_add(1);
            let key = store.key(
                row.snapshot.text(Text::PresentityUser),
                row.snapshot.text(Text::PresentityHost),
                package,
            );
            let now = row.expires_at - i64::from(row.snapshot.expires);
            Some(store.restore_subscription(&key, &row.snapshot, now).map(|_| ()))
        }));
    })?;
    restored.unknown = unknown;
    let restored = restored.complete()?;
    report(host, "subscriptions", restored);
    Ok(restored)
}

/// Indexes the publications of the database (`publ_cache=1`). Spellings of a
/// domain that differ from ours are made the same.
pub fn publications<M: Memory>(
    server: &mut Server<M>,
    host: &mut dyn Host,
) -> Result<Restored, Fault> {
    let table = table(&server.config.presentity_table)?;
    let mut restored = Restored::default();
    let mut respelled = Vec::new();
    let Server { registry, store, config, .. } = server;
    // What ended long ago is not used again; it is ended by who looks for
    // left-overs (B45). A publisher that is late finds its publication.
    let since = host.now() - NOTIFY_WITHIN;
    let (hard_state, recent) = (
        [("expires", Compare::Less, Value::Int(1))],
        [("expires", Compare::Greater, Value::Int(since))],
    );
    let parts: &[&[Condition]] = if config.startup_mode { &[&hard_state, &recent] } else { &[&[]] };
    let database = host.database().ok_or(Fault::Database)?;
    let most = config.fetch_rows as usize;
    let mut each = |row: &[Value]| {
        restored.count(read_publication(row).and_then(|row| {
            let package_id = package_of(registry, &row.event)?;
            let package = registry.get(package_id)?;
            let key = store.key(&row.user, &row.host, package_id);
            let taken = TakenOver::of(package, &row);
            let kept = store.restore_publication(&key, &taken.change(&row));
            if kept.is_ok() && (key.host != row.host || key.user != row.user) {
                respelled.push((row, key));
            }
            Some(kept)
        }));
    };
    for part in parts {
        paging::all(database, &table, part, PUBLICATION_COLUMNS, (most, false), &mut each)?;
    }
    // Rows come by `id`, and one that was changed keeps its own.
    store.put_all_in_order();
    let restored = restored.complete()?;
    for (row, key) in respelled {
        respell(database, &table, &row, &key)?;
    }
    report(host, "publications", restored);
    Ok(restored)
}

fn table(name: &[u8]) -> Result<String, Fault> {
    String::from_utf8(name.to_vec()).map_err(|_| Fault::Database)
}

fn report(host: &mut dyn Host, what: &str, restored: Restored) {
    let level = if restored.skipped > 0 { Level::Warning } else { Level::Info };
    let Restored { taken, skipped, unknown, .. } = restored;
    match unknown {
        0 => host.log(level, format_args!("{taken} {what} taken over, {skipped} rows skipped")),
        _ => host.log(
            level,
            format_args!(
                "{taken} {what} taken over, {skipped} rows skipped, {unknown} of them of packages \
                 that are not loaded"
            ),
        ),
    }
}
