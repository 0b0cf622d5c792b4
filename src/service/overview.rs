//! How much there is, and of whom: `presence.summary` and `presence.top`.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};

use crate::error::Fault;
use crate::ports::{Compare, Condition, Group, Host, Value};
use crate::presence::event_package::Event;
use crate::presence::presentity::PresentityKey;
use crate::presence::subscription::Status;
use crate::service::Server;
use crate::service::paging::Pages;
use crate::shm::Memory;
use crate::store::records::Lag;
use crate::store::sources::Sent;
use crate::store::walk::{Count, Place};

/// Rows counted in one go where the database does not count itself.
const PAGE: usize = 1000;

/// More groups than these are of no interest.
const GROUPS: usize = 100_000;

/// What there is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Summary {
    /// By package, in the order of their registration.
    pub packages: Vec<(Vec<u8>, Count)>,
    /// In all packages.
    pub all: Count,
    /// Rows of subscriptions that lag behind memory.
    pub unwritten: Unwritten,
    /// What a restart would lose now.
    pub lost: Lost,
}

/// Rows of subscriptions that lag behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Unwritten {
    /// Of new and ended ones, which are written within a second.
    pub urgent: usize,
    /// Of changed ones, which the timer writes.
    pub changed: usize,
    /// Those that the database has refused; they are tried again.
    pub refused: usize,
}

impl Unwritten {
    fn all(self) -> usize {
        self.urgent + self.changed + self.refused
    }
}

/// What a restart would lose now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Lost {
    /// Subscriptions, by a clean stop.
    pub subscriptions_by_stop: u64,
    /// Subscriptions that are lost or come back as they were before, if the server is
    /// killed.
    pub subscriptions_by_kill: u64,
    /// Publications, by either.
    pub publications: u64,
}

/// Counts what there is.
pub fn summary<M: Memory>(server: &Server<M>, host: &mut dyn Host) -> Result<Summary, Fault> {
    let mut counts = vec![Count::default(); server.registry.ids().count()];
    let store = &server.store;
    if server.subscriptions().is_shared() {
        count_subscription_rows(server, host, &mut counts)?;
    } else {
        each_page(|at| store.count_subscriptions(at, &mut counts));
    }
    if server.publications().are_in_memory() {
        each_page(|at| store.count_publications(at, &mut counts));
    } else {
        count_publication_rows(server, host, &mut counts)?;
    }
    each_page(|at| store.count_presentities(at, &mut counts));
    let mut all = Count::default();
    for count in &counts {
        all.active += count.active;
        all.pending += count.pending;
        all.ending += count.ending;
        all.publications += count.publications;
        all.presentities += count.presentities;
    }
    let lag = |lag| (0..store.shards()).map(|shard| store.count_dirty(shard, lag)).sum();
    let unwritten = Unwritten {
        urgent: lag(Lag::Urgent),
        changed: lag(Lag::Changed),
        refused: lag(Lag::Refused),
    };
    let name = |package| server.registry.get(package).map(|package| package.name.clone());
    let names = server.registry.ids().map(|id| name(id).unwrap_or_default());
    let packages = names.zip(counts);
    let lost = lost(server, all, unwritten);
    Ok(Summary { packages: packages.collect(), all, unwritten, lost })
}

fn lost<M: Memory>(server: &Server<M>, all: Count, unwritten: Unwritten) -> Lost {
    let living = all.active + all.pending;
    let (subscriptions, publications) = kept(server);
    let (subscriptions_by_stop, subscriptions_by_kill) = match subscriptions.outlive_server {
        false => (living, living),
        // A clean stop writes everything but what the database refuses.
        true => (unwritten.refused as u64, unwritten.all() as u64),
    };
    let publications = if publications.outlive_server { 0 } else { all.publications };
    Lost { subscriptions_by_stop, subscriptions_by_kill, publications }
}

/// How something is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kept {
    /// The value of the parameter that says so.
    pub mode: u32,
    /// The same in words.
    pub are: &'static str,
    /// They are there after a restart.
    pub outlive_server: bool,
}

/// How subscriptions are kept, and publications.
pub fn kept<M: Memory>(server: &Server<M>) -> (Kept, Kept) {
    (server.subscriptions().kept(), server.publications().kept())
}

/// Walks over all records.
fn each_page(mut page: impl FnMut(Place) -> Option<Place>) {
    let mut at = Some(Place::default());
    while let Some(place) = at {
        at = page(place);
    }
}

/// Rows by the values of columns: counted by the database where it can, else here.
fn groups(
    host: &mut dyn Host,
    table: &str,
    conditions: &[Condition],
    columns: &[&'static str],
    most: usize,
) -> Result<Vec<Group>, Fault> {
    let database = host.database().ok_or(Fault::Database)?;
    if let Some(groups) = database.groups(table, conditions, columns, most)? {
        return Ok(groups);
    }
    let mut counts: BTreeMap<Vec<Vec<u8>>, Group> = BTreeMap::new();
    let mut pages = Pages::new(PAGE, true);
    while let Some(page) = pages.next(database, table, conditions, columns)? {
        for (_, values) in page {
            let name = values.iter().map(|value| match value {
                Value::Int(number) => number.to_string().into_bytes(),
                text => text.as_bytes().to_vec(),
            });
            counts.entry(name.collect()).or_insert((values, 0)).1 += 1;
        }
    }
    let mut groups: Vec<Group> = counts.into_values().collect();
    groups.sort_by_key(|(_, count)| Reverse(*count));
    groups.truncate(most);
    Ok(groups)
}

/// The count of the package that a row names.
fn of_package<'a, M: Memory>(
    server: &Server<M>,
    counts: &'a mut [Count],
    event: &Value,
) -> Option<&'a mut Count> {
    let package = server.registry.exact(&Event::parse(event.as_bytes())?)?;
    counts.get_mut(usize::from(package.0))
}

fn count_subscription_rows<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    counts: &mut [Count],
) -> Result<(), Fault> {
    let table = table(&server.config.active_watchers_table)?;
    let living = [("expires", Compare::Greater, Value::Int(host.now()))];
    for (values, number) in groups(host, table, &living, &["event", "status"], GROUPS)? {
        let [event, status] = &values[..] else { continue };
        let Some(count) = of_package(server, counts, event) else { continue };
        match Status::from_number(status.as_int().unwrap_or_default()) {
            Status::Active => count.active += number,
            Status::Pending | Status::Waiting => count.pending += number,
            Status::Terminated => count.ending += number,
        }
    }
    Ok(())
}

fn count_publication_rows<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    counts: &mut [Count],
) -> Result<(), Fault> {
    let table = table(&server.config.presentity_table)?;
    for (values, number) in groups(host, table, &[], &["event"], GROUPS)? {
        let count = values.first().and_then(|event| of_package(server, counts, event));
        if let Some(count) = count {
            count.publications += number;
        }
    }
    Ok(())
}

fn table(name: &[u8]) -> Result<&str, Fault> {
    std::str::from_utf8(name).map_err(|_| Fault::Database)
}

/// One of the busiest: two texts that name it, and how many.
pub type Busiest = (Vec<u8>, Vec<u8>, u64);

/// The watchers with the most subscriptions: user, host and how many.
pub fn top_watchers<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    most: usize,
) -> Result<Vec<Busiest>, Fault> {
    if server.subscriptions().is_shared() {
        let table = table(&server.config.active_watchers_table)?;
        let living = [("expires", Compare::Greater, Value::Int(host.now()))];
        let columns = ["watcher_username", "watcher_domain"];
        let groups = groups(host, table, &living, &columns, most)?.into_iter();
        return Ok(groups
            .filter_map(|(values, count)| match &values[..] {
                [user, domain] => {
                    Some((user.as_bytes().to_vec(), domain.as_bytes().to_vec(), count))
                }
                _ => None,
            })
            .collect());
    }
    let mut counts = HashMap::new();
    each_page(|at| server.store.count_watchers(at, &mut counts));
    let mut top = Top::new(most);
    for (count, place) in counts.into_values() {
        top.add(count, place);
    }
    let named = |(count, place): (u32, Place)| {
        // It may have ended meanwhile.
        let (user, host) = server.store.watcher_at(place)?;
        Some((user, host, u64::from(count)))
    };
    Ok(top.into_sorted().into_iter().filter_map(named).collect())
}

/// The presentities with the most watchers: URI, package and how many.
pub fn top_presentities<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    most: usize,
) -> Result<Vec<Busiest>, Fault> {
    if server.subscriptions().is_shared() {
        let table = table(&server.config.active_watchers_table)?;
        let living = [("expires", Compare::Greater, Value::Int(host.now()))];
        let groups = groups(host, table, &living, &["presentity_uri", "event"], most)?.into_iter();
        return Ok(groups
            .filter_map(|(values, count)| match &values[..] {
                [uri, event] => Some((uri.as_bytes().to_vec(), event.as_bytes().to_vec(), count)),
                _ => None,
            })
            .collect());
    }
    let mut top: Top<PresentityKey> = Top::new(most);
    each_page(|at| {
        let (mut found, least) = (Vec::new(), top.least());
        let next = server.store.watched_page(at, |count| count > least, &mut found);
        found.into_iter().for_each(|(count, key)| top.add(count, key));
        next
    });
    let named = |(count, key): (u32, PresentityKey)| {
        let event = server.registry.get(key.package).map(|package| package.name.clone());
        let uri = crate::presence::uri::presentity_uri(&key.user, &key.host);
        (uri, event.unwrap_or_default(), u64::from(count))
    };
    Ok(top.into_sorted().into_iter().map(named).collect())
}

/// The addresses and the clients that send the most requests.
pub fn top_sources<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    most: usize,
) -> [Vec<Sent>; 2] {
    server.store.busiest(most, host.now())
}

/// The entries with the highest counts.
struct Top<T> {
    most: usize,
    heap: BinaryHeap<Reverse<(u32, usize)>>,
    entries: Vec<Option<T>>,
}

impl<T> Top<T> {
    fn new(most: usize) -> Top<T> {
        Top { most, heap: BinaryHeap::new(), entries: Vec::new() }
    }

    /// What has no more than this is of no interest.
    fn least(&self) -> u32 {
        let is_full = self.heap.len() >= self.most;
        self.heap.peek().filter(|_| is_full).map_or(0, |Reverse((count, _))| *count)
    }

    fn add(&mut self, count: u32, entry: T) {
        if self.most == 0 || count <= self.least() {
            return;
        }
        if self.heap.len() < self.most {
            self.heap.push(Reverse((count, self.entries.len())));
            self.entries.push(Some(entry));
        } else if let Some(Reverse((_, at))) = self.heap.pop() {
            self.heap.push(Reverse((count, at)));
            if let Some(place) = self.entries.get_mut(at) {
                *place = Some(entry);
            }
        }
    }

    /// The highest first.
    fn into_sorted(mut self) -> Vec<(u32, T)> {
        let sorted = std::mem::take(&mut self.heap).into_sorted_vec();
        let entry = |Reverse((count, at)): Reverse<(u32, usize)>| {
            Some((count, self.entries.get_mut(at)?.take()?))
        };
        sorted.into_iter().filter_map(entry).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_highest_counts_stay(counts in prop::collection::vec(0u32..50, 0..60), most in 0usize..9) {
            let mut top = Top::new(most);
            counts.iter().for_each(|count| top.add(*count, *count));
            let mut expected: Vec<u32> = counts.into_iter().filter(|count| *count > 0).collect();
            expected.sort_unstable_by(|a, b| b.cmp(a));
            expected.truncate(most);
            let found: Vec<u32> = top.into_sorted().into_iter().map(|(count, entry)| {
                assert_eq!(count, entry);
                count
            }).collect();
            prop_assert_eq!(found, expected);
        }
    }
}
