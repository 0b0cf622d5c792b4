//! Who may watch: the package's rules and the `watchers` table (B17).

use crate::error::Fault;
use crate::ports::{Compare, Condition, Host, Value};
use crate::presence::event_package::EventPackage;
use crate::presence::subscription::{Authorization, Snapshot, Status, Text};
use crate::service::{Server, publication_rows::durable};
use crate::shm::Memory;
use crate::store::rows::presentity_uri;

/// The state that a new subscription gets.
pub fn authorize<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    package: &EventPackage,
    subscription: &Snapshot,
) -> Result<Authorization, Fault> {
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
    let table = std::str::from_utf8(&server.config.watchers_table).map_err(|_| Fault::Database)?;
    let now = host.now();
    let Some(database) = host.database() else {
        // Without the table nobody could ever approve a watcher by hand.
        let explicit = verdict.status != Status::Pending || rules.is_some();
        return Ok(if explicit { verdict } else { Authorization::default() });
    };
    let row = watcher(subscription, &package.name);
    let mut known = None;
    database.query(table, &row, &["status", "reason"], None, &mut |columns| {
        if let [status, reason] = columns {
            known = Some(Authorization {
                status: Status::from_number(status.as_int().unwrap_or(2)),
                reason: reason.as_bytes().to_vec(),
            });
        }
    })?;
    match known {
        // Nobody is named, or somebody is to be asked: what was decided by
        // hand stays.
        Some(known) if verdict.status == Status::Pending || known == verdict => Ok(known),
        Some(_) => {
            let set = [
                ("status", Value::Int(verdict.status as i64)),
                ("reason", Value::text(&verdict.reason)),
            ];
            durable(database, |database| database.update(table, &row, &set))?;
            Ok(verdict)
        }
        None => {
            let mut new: Vec<(&'static str, Value)> =
                row.iter().map(|(column, _, value)| (*column, value.clone())).collect();
            new.extend([
                ("status", Value::Int(verdict.status as i64)),
                ("reason", Value::text(&verdict.reason)),
                ("inserted_time", Value::Int(now)),
            ]);
            // Two first subscriptions of one watcher may race for the row.
            let stored = durable(database, |database| {
                database.delete(table, &row)?;
                database.insert(table, &new)
            });
            stored.map(|()| verdict)
        }
    }
}

fn watcher(subscription: &Snapshot, event: &[u8]) -> Vec<Condition> {
    vec![
        ("presentity_uri", Compare::Eq, Value::Text(presentity_uri(subscription))),
        ("watcher_username", Compare::Eq, Value::text(subscription.text(Text::WatcherUser))),
        ("watcher_domain", Compare::Eq, Value::text(subscription.text(Text::WatcherHost))),
        ("event", Compare::Eq, Value::text(event)),
    ]
}
