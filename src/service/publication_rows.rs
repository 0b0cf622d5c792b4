//! Publications as database rows (`publ_cache=1`): the index in memory has
//! judged the change, here it becomes durable before anybody is told.

use crate::error::{Fault, Rejection};
use crate::ports::{Assignment, Database, Host, Value};
use crate::presence::publication::{Step, unknown_entity_tag};
use crate::service::Server;
use crate::service::durable::durable;
use crate::service::publishing::Publishing;
use crate::shm::Memory;
use crate::store::lanes::PublicationCopy;
use crate::store::publications::{Change, Pending};
use crate::store::rows::{
    PUBLICATION_COLUMNS, presentity_conditions, publication_conditions, read_publication,
};
use crate::store::shard::PresentityKey;

/// Writes a claimed change. Gives the document that the row had, if watchers
/// have to see it a last time.
pub fn write<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    publishing: &Publishing<'_>,
    change: &Change<'_>,
    pending: &Pending<M>,
) -> Result<Option<Vec<u8>>, Rejection> {
    let table = table(server)?;
    let event = &publishing.package.name;
    let database = host.database().ok_or(Fault::Database)?;
    let key = &pending.key;
    let row = publication_conditions(key, event, &pending.stored.entity_tag);
    match publishing.step {
        Step::Create => {
            let new = new_row(key, event, change, publishing.body);
            let replaced = pending
                .replaced_row
                .as_ref()
                .map(|stored| publication_conditions(key, event, &stored.entity_tag));
            let ended = match &replaced {
                Some(conditions) if pending.unseen_final => body(database, table, conditions)?,
                _ => None,
            };
            durable(database, |database| {
                if let Some(conditions) = &replaced {
                    database.delete(table, conditions)?;
                }
                database.insert(table, &new)
            })?;
            Ok(ended)
        }
        Step::Refresh | Step::Modify => {
            let set = changes(change, publishing.body);
            let modified = publishing.step == Step::Modify;
            let ended = match modified && pending.unseen_final {
                true => body(database, table, &row)?,
                false => None,
            };
            let mut met = None;
            durable(database, |database| {
                database.update(table, &row, &set)?;
                met = database.affected_rows();
                Ok(())
            })?;
            // Somebody has deleted the row behind the index.
            if met == Some(0) {
                return Err(unknown_entity_tag());
            }
            Ok(ended)
        }
        Step::Remove => {
            let shown = publishing.package.aggregates && pending.has_watchers;
            let closed = match shown || pending.unseen_final {
                true => body(database, table, &row)?,
                false => None,
            };
            durable(database, |database| database.delete(table, &row))?;
            Ok(closed)
        }
    }
}

/// Deletes the row of an expired publication; gives its document if wanted.
pub fn remove<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    key: &PresentityKey,
    event: &[u8],
    tag: &[u8],
    with_body: bool,
) -> Result<Option<Vec<u8>>, Fault> {
    let table = table(server)?;
    let database = host.database().ok_or(Fault::Database)?;
    let row = publication_conditions(key, event, tag);
    let closed = if with_body { body(database, table, &row)? } else { None };
    durable(database, |database| database.delete(table, &row))?;
    Ok(closed)
}

/// The presentity's publications as the database has them, oldest first.
pub fn read<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    key: &PresentityKey,
    event: &[u8],
) -> Result<Vec<PublicationCopy>, Fault> {
    let table = table(server)?;
    let database = host.database().ok_or(Fault::Database)?;
    let mut found = Vec::new();
    database.query(
        table,
        &presentity_conditions(key, event),
        PUBLICATION_COLUMNS,
        Some("received_time, id"),
        &mut |row| found.extend(read_publication(row).map(|row| row.publication)),
    )?;
    Ok(found)
}

fn table<M: Memory>(server: &Server<M>) -> Result<&str, Fault> {
    std::str::from_utf8(&server.config.presentity_table).map_err(|_| Fault::Database)
}

fn body(
    database: &mut dyn Database,
    table: &str,
    row: &[crate::ports::Condition],
) -> Result<Option<Vec<u8>>, Fault> {
    let mut found = None;
    database.query(table, row, &["body"], None, &mut |columns| {
        found = columns.first().map(|value| value.as_bytes().to_vec());
    })?;
    Ok(found)
}

fn new_row(key: &PresentityKey, event: &[u8], change: &Change<'_>, body: &[u8]) -> Vec<Assignment> {
    vec![
        ("domain", Value::text(&key.host)),
        ("username", Value::text(&key.user)),
        ("event", Value::text(event)),
        ("etag", Value::text(change.entity_tag)),
        ("sender", Value::text(change.sender.unwrap_or_default())),
        ("body", Value::Blob(body.to_vec())),
        ("received_time", Value::Int(change.now)),
        ("priority", Value::Int(i64::from(change.priority))),
        ("ruid", Value::text(change.ruid)),
        ("expires", Value::Int(change.expires_at.unwrap_or(-1))),
    ]
}

fn changes(change: &Change<'_>, body: &[u8]) -> Vec<Assignment> {
    let mut set = vec![
        ("etag", Value::text(change.entity_tag)),
        ("expires", Value::Int(change.expires_at.unwrap_or(-1))),
        ("priority", Value::Int(i64::from(change.priority))),
    ];
    if !body.is_empty() {
        // A refresh keeps the publication's place among the others.
        set.push(("received_time", Value::Int(change.now)));
        set.push(("body", Value::Blob(body.to_vec())));
    }
    if let Some(sender) = change.sender {
        set.push(("sender", Value::text(sender)));
    }
    set
}
