//! Rows of the `watchers` table that nobody needs (B17).

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicI64, Ordering};

use crate::error::Fault;
use crate::ports::{Compare, Host, Value};
use crate::presence::event_package::{Event, PackageId};
use crate::presence::presentity::PresentityKey;
use crate::presence::subscription::Status;
use crate::presence::uri;
use crate::service::authorization::{self, Name, WatchersRow};
use crate::service::durable::single;
use crate::service::watchers::ask;
use crate::service::{Server, subscriptions};
use crate::shm::Memory;

/// Where the last look at the table has stopped (`inserted_time`). Only the
/// timer's process looks; it begins anew when it has seen all.
static SEEN: AtomicI64 = AtomicI64::new(-1);

/// A presentity with old rows.
struct Resource {
    id: PackageId,
    key: PresentityKey,
    /// Their identities.
    watching: HashSet<Vec<u8>>,
    /// Its rules, once they were needed; `Err` when they cannot be had.
    rules: Option<Result<Option<Vec<u8>>, Fault>>,
}

/// Forgets rows inserted before `before` of those who do not watch: the pending
/// ones, and those that the rules would make again. A portion of them is
/// looked at in one call.
pub fn purge<M: Memory>(server: &Server<M>, host: &mut dyn Host, before: i64) -> Result<(), Fault> {
    let from = SEEN.load(Ordering::Relaxed);
    let old = authorization::old_rows(server, host, from, before)?;
    SEEN.store(old.last().map_or(-1, |row| row.inserted), Ordering::Relaxed);
    let table = authorization::table(server)?;
    let mut resources: HashMap<(Vec<u8>, Vec<u8>), Option<Resource>> = HashMap::new();
    for row in old {
        let of = (row.place.resource.clone(), row.place.event.clone());
        let known = resources.entry(of).or_insert_with(|| resource(server, host, &row));
        let Some(known) = known.as_mut() else { continue };
        if known.watching.contains(&row.place.name.identity(server))
            || !would_come_back(host, known, &row)
        {
            continue;
        }
        let mut conditions = row.place.conditions();
        // Somebody may approve it by hand right now.
        conditions.push(("status", Compare::Eq, Value::Int(row.state.status as i64)));
        let database = host.database().ok_or(Fault::Database)?;
        match single(database, |database, _| database.delete(table, &conditions)) {
            // One that cannot be deleted does not keep the others.
            Ok(()) | Err(Fault::Refused) => {}
            Err(fault) => return Err(fault),
        }
    }
    Ok(())
}

/// `None` for a package that is not known, and when its watchers are not.
fn resource<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    row: &WatchersRow,
) -> Option<Resource> {
    let id = server.registry.exact(&Event::parse(&row.place.event)?)?;
    let (user, domain) = uri::split(&row.place.resource);
    let key = server.store.key(user, domain, id);
    let mut watching = HashSet::new();
    subscriptions::each_watcher(server, host, &key, |_, copy| {
        watching.insert(Name::of(&copy).identity(server));
    })
    .ok()?;
    Some(Resource { id, key, watching, rules: None })
}

/// The row is what the rules would make of a new subscription.
fn would_come_back(host: &mut dyn Host, known: &mut Resource, row: &WatchersRow) -> bool {
    if row.state.status == Status::Pending {
        return true;
    }
    let (id, key) = (known.id, &known.key);
    let rules = known.rules.get_or_insert_with(|| host.rules(id, &key.user, &key.host));
    let Ok(rules) = rules else { return false };
    ask(host, key, &row.place.name, Status::Pending, rules.as_deref())
        .is_ok_and(|verdict| verdict == row.state)
}
