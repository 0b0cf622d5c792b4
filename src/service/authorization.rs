//! Who may watch: the package's rules and the `watchers` table (B17).

use crate::error::{Fault, Rejection};
use crate::ports::{Assignment, Compare, Condition, Host, Value};
use crate::presence::event_package::EventPackage;
use crate::presence::subscription::{Authorization, Ending, Snapshot, Status, Text};
use crate::service::durable::single;
use crate::service::{Server, check_widths};
use crate::shm::Memory;
use crate::store::rows::presentity_uri;

/// Old rows looked at in one go.
const PORTION: usize = 500;

/// User and host of a watcher.
pub(super) type Name = (Vec<u8>, Vec<u8>);

/// What the table says about a watcher.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Row {
    /// Its state.
    pub(super) state: Authorization,
    /// Somebody has decided, not the rules: whoever approves a pending watcher
    /// sets its status, and the reason stays NULL.
    pub(super) by_hand: bool,
}

/// A row with its key.
#[derive(Debug)]
pub(super) struct OldRow {
    pub(super) resource: Vec<u8>,
    pub(super) event: Vec<u8>,
    pub(super) name: Name,
    pub(super) state: Authorization,
    pub(super) inserted: i64,
}

/// The state that a new subscription gets.
pub fn authorize<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    package: &EventPackage,
    subscription: &Snapshot,
) -> Result<Authorization, Rejection> {
    if !package.requires_authorization || server.config.force_active {
        return Ok(Authorization::default());
    }
    let rules = host.rules(
        subscription.package,
        subscription.text(Text::PresentityUser),
        subscription.text(Text::PresentityHost),
    )?;
    let mut undecided = subscription.clone();
    undecided.status = Status::Pending;
    let verdict = host.authorize(subscription.package, &undecided, rules.as_deref())?;
    let table = table(server)?;
    let now = host.now();
    let Some(database) = server.database(host)? else {
        // Without the table nobody could ever approve a watcher by hand.
        let explicit = verdict.status != Status::Pending || rules.is_some();
        return Ok(if explicit { verdict } else { Authorization::default() });
    };
    let row = watcher(subscription, &package.name);
    let mut known = None;
    database.query(table, &row, &["status", "reason"], None, &mut |columns| {
        if let [status, reason] = columns {
            known = Some(read(status, reason).state);
        }
    })?;
    match known {
        // Nobody is named, or somebody is to be asked: what was decided by
        // hand stays. Who was put off may ask again.
        Some(known) if verdict.status == Status::Pending && !was_put_off(&known) => Ok(known),
        Some(known) if known == verdict => Ok(known),
        Some(_) => {
            let set = columns(&verdict);
            single(database, |database, _| database.update(table, &row, &set))?;
            Ok(verdict)
        }
        None => {
            let mut new: Vec<Assignment> =
                row.iter().map(|(column, _, value)| (*column, value.clone())).collect();
            new.extend(columns(&verdict));
            new.push(("inserted_time", Value::Int(now)));
            check_widths(&server.widths.watchers, &new)?;
            // Two first subscriptions of one watcher may race for the row. (To
            // delete it first would lock the gap it leaves, and deadlock.)
            let set = columns(&verdict);
            single(database, |database, _| {
                let Err(fault) = database.insert(table, &new) else { return Ok(()) };
                let mut there = false;
                database.query(table, &row, &["status"], None, &mut |_| there = true)?;
                if there { database.update(table, &row, &set) } else { Err(fault) }
            })?;
            Ok(verdict)
        }
    }
}

/// It was ended, but not turned away for good (RFC 3857 4.7.1).
fn was_put_off(known: &Authorization) -> bool {
    known.status == Status::Terminated && Ending::from_reason(&known.reason) != Ending::Rejected
}

fn watcher(subscription: &Snapshot, event: &[u8]) -> Vec<Condition> {
    conditions(
        &presentity_uri(subscription),
        subscription.text(Text::WatcherUser),
        subscription.text(Text::WatcherHost),
        event,
    )
}

/// The row of a watcher: its full unique key.
pub(super) fn conditions(
    resource: &[u8],
    user: &[u8],
    domain: &[u8],
    event: &[u8],
) -> Vec<Condition> {
    vec![
        ("presentity_uri", Compare::Eq, Value::text(resource)),
        ("watcher_username", Compare::Eq, Value::text(user)),
        ("watcher_domain", Compare::Eq, Value::text(domain)),
        ("event", Compare::Eq, Value::text(event)),
    ]
}

/// The columns that say what was decided; see [`Row::by_hand`].
pub(super) fn columns(state: &Authorization) -> Vec<Assignment> {
    let reason = match (state.status, state.reason.as_slice()) {
        (Status::Pending, b"") => Value::Null,
        (_, reason) => Value::text(reason),
    };
    vec![("status", Value::Int(state.status as i64)), ("reason", reason)]
}

fn read(status: &Value, reason: &Value) -> Row {
    let state = Authorization {
        status: Status::from_number(status.as_int().unwrap_or(2)),
        reason: reason.as_bytes().to_vec(),
    };
    let by_hand = state.status != Status::Pending && *reason == Value::Null;
    Row { state, by_hand }
}

/// The name of the table.
pub(super) fn table<M: Memory>(server: &Server<M>) -> Result<&str, Fault> {
    std::str::from_utf8(&server.config.watchers_table).map_err(|_| Fault::Database)
}

/// User and host of a watcher.
pub(super) type WatcherName = (Vec<u8>, Vec<u8>);

/// All rows of a presentity, by watcher.
pub(super) fn rows<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    resource: &[u8],
    event: &[u8],
) -> Result<Vec<(WatcherName, Row)>, Fault> {
    let mut found = Vec::new();
    let table = table(server)?;
    let Some(database) = server.database(host)? else { return Ok(found) };
    let conditions = [
        ("presentity_uri", Compare::Eq, Value::text(resource)),
        ("event", Compare::Eq, Value::text(event)),
    ];
    let wanted = ["watcher_username", "watcher_domain", "status", "reason"];
    database.query(table, &conditions, &wanted, None, &mut |columns| {
        if let [user, domain, status, reason] = columns {
            let name = (user.as_bytes().to_vec(), domain.as_bytes().to_vec());
            found.push((name, read(status, reason)));
        }
    })?;
    Ok(found)
}

/// Rows inserted after `from` and before `before`, the oldest first, some.
pub(super) fn old_rows<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    from: i64,
    before: i64,
) -> Result<Vec<OldRow>, Fault> {
    let mut found = Vec::new();
    let table = table(server)?;
    let Some(database) = server.database(host)? else { return Ok(found) };
    let conditions = [
        ("inserted_time", Compare::Greater, Value::Int(from)),
        ("inserted_time", Compare::Less, Value::Int(before)),
    ];
    let wanted = [
        "presentity_uri",
        "event",
        "watcher_username",
        "watcher_domain",
        "status",
        "reason",
        "inserted_time",
    ];
    database.query(table, &conditions, &wanted, Some("inserted_time"), &mut |columns| {
        let [resource, event, user, domain, status, reason, inserted] = columns else { return };
        let inserted = inserted.as_int().unwrap_or_default();
        // Those of one second stay together: the next portion begins after it.
        let full = found.len() >= PORTION
            && found.last().is_some_and(|last: &OldRow| last.inserted != inserted);
        if !full {
            found.push(OldRow {
                resource: resource.as_bytes().to_vec(),
                event: event.as_bytes().to_vec(),
                name: (user.as_bytes().to_vec(), domain.as_bytes().to_vec()),
                state: read(status, reason).state,
                inserted,
            });
        }
    })?;
    Ok(found)
}
