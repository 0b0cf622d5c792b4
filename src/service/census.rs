//! How much there is of each event package, wherever it is kept: memory counts as
//! it goes, rows are counted when somebody asks.

use crate::error::Fault;
use crate::ports::{Condition, Group, Host, Value};
use crate::presence::event_package::{Event, PackageId};
use crate::presence::subscription::Status;
use crate::service::Server;
use crate::shm::Memory;
use crate::store::gauges::Gauge;

/// Packages and states that rows may have, and more.
const GROUPS: usize = 1000;

/// Counts by package.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Census {
    packages: Vec<[u64; Gauge::ALL.len()]>,
}

impl Census {
    /// What there is of a package.
    pub fn of(&self, package: PackageId, gauge: Gauge) -> u64 {
        let counts = self.packages.get(usize::from(package.0));
        counts.and_then(|counts| counts.get(gauge as usize)).copied().unwrap_or(0)
    }

    /// What there is of all.
    pub fn all(&self, gauge: Gauge) -> u64 {
        self.packages.iter().filter_map(|counts| counts.get(gauge as usize)).sum()
    }

    fn add(&mut self, package: PackageId, gauge: Gauge, count: u64) {
        let counts = self.packages.get_mut(usize::from(package.0));
        if let Some(known) = counts.and_then(|counts| counts.get_mut(gauge as usize)) {
            *known += count;
        }
    }
}

/// Some of it has to be counted in the database.
pub fn counts_rows<M: Memory>(server: &Server<M>) -> bool {
    server.subscriptions().counted_rows(0).is_some()
        || !server.publications().counted_rows(0).is_empty()
}

/// Counts what there is. Where subscriptions or publications are rows, those of all
/// servers on the tables are counted; presentities are those that memory has.
pub fn take<M: Memory>(server: &Server<M>, host: &mut dyn Host) -> Result<Census, Fault> {
    let gauges = server.store.gauges();
    let in_memory = |package| Gauge::ALL.map(|gauge| gauges.of(package, gauge));
    let mut census = Census { packages: server.registry.ids().map(in_memory).collect() };
    let now = host.now();
    if let Some(living) = server.subscriptions().counted_rows(now) {
        let of = |row: &[Value]| {
            let status = row.get(1).and_then(Value::as_int).unwrap_or_default();
            Gauge::of(Status::from_number(status))
        };
        let table = &server.config.active_watchers_table;
        count(server, host, &mut census, (table, &living), &["event", "status"], of)?;
    }
    for living in server.publications().counted_rows(now) {
        let table = &server.config.presentity_table;
        let of = |_: &[Value]| Gauge::Publications;
        count(server, host, &mut census, (table, &living), &["event"], of)?;
    }
    Ok(census)
}

/// Counts the rows of a table by package and by what `of` says of them.
fn count<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    census: &mut Census,
    (table, living): (&[u8], &[Condition]),
    columns: &[&'static str],
    of: impl Fn(&[Value]) -> Gauge,
) -> Result<(), Fault> {
    let table = std::str::from_utf8(table).map_err(|_| Fault::Database)?;
    let Some(database) = server.database(host)? else { return Ok(()) };
    let groups = match database.groups(table, living, columns, GROUPS)? {
        Some(groups) => groups,
        None => {
            let mut counts: Vec<Group> = Vec::new();
            database.query(table, living, columns, None, &mut |row| match counts
                .iter_mut()
                .find(|(known, _)| known == row)
            {
                Some((_, count)) => *count += 1,
                None => counts.push((row.to_vec(), 1)),
            })?;
            counts
        }
    };
    for (row, count) in groups {
        let event = row.first().and_then(|event| Event::parse(event.as_bytes()));
        if let Some(package) = event.and_then(|event| server.registry.exact(&event)) {
            census.add(package, of(&row), count);
        }
    }
    Ok(())
}
