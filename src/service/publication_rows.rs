//! Publications as database rows (`publ_cache=1`): the index in memory has
//! judged the change, here it becomes durable before anybody is told.

mod bounded;

pub use bounded::newest as newest_that_fit;

use crate::config::PublicationCache;
use crate::error::Fault;
use crate::ports::{Assignment, Condition, Database, Host, Value};
use crate::presence::entity_tag::EntityTag;
use crate::presence::presentity::PresentityKey;
use crate::presence::publication::PublicationCopy;
use crate::presence::publication::{Refused, Step};
use crate::service::durable::{durable, single};
use crate::service::publishing::Publishing;
use crate::service::{Server, check_widths};
use crate::shm::Memory;
use crate::store::publications::{Change, Pending};
use crate::store::rows::{PublicationRow, presentity_conditions, publication_conditions};
use std::collections::HashMap;

/// Writes a claimed change. Gives the document that the row had, if watchers
/// have to see it a last time.
pub fn write<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    publishing: &Publishing<'_>,
    change: &Change<'_>,
    pending: &Pending<M>,
) -> Result<Option<Vec<u8>>, Refused> {
    let table = table(server)?;
    let event = &publishing.package.name;
    let database = host.database().ok_or(Fault::Database)?;
    let key = &pending.stored.key;
    let row = publication_conditions(key, event, &pending.stored.entity_tag);
    let kept = || server.store.body_of(key, &pending.stored.entity_tag);
    match publishing.step {
        Step::Create => {
            let new = new_row(key, event, change, publishing.body);
            check_widths(&server.widths.publications, &new)?;
            let own = publication_conditions(key, event, change.entity_tag);
            let replaced = pending
                .replaced_row
                .as_ref()
                .map(|stored| publication_conditions(&stored.key, event, &stored.entity_tag));
            let ended = match (&replaced, &pending.replaced_row) {
                (Some(conditions), Some(stored)) if pending.change.ended.is_some() => {
                    match server.store.body_of(key, &stored.entity_tag) {
                        Some(kept) => Some(kept),
                        None => body(database, table, conditions)?,
                    }
                }
                _ => None,
            };
            match &replaced {
                None => single(database, |database, attempt| {
                    // Only the answer of the first attempt may have been lost.
                    match attempt > 0 && exists(database, table, &own)? {
                        true => Ok(()),
                        false => database.insert(table, &new),
                    }
                })?,
                Some(conditions) => replace(database, table, conditions, &own, &new)?,
            }
            Ok(ended)
        }
        Step::Refresh | Step::Modify => {
            let ended = match pending.change.ended.map(|_| kept()) {
                Some(None) => body(database, table, &row)?,
                Some(kept) => kept,
                None => None,
            };
            update(server, host, &row, change, publishing, &changes(change, publishing.body))?;
            Ok(ended)
        }
        Step::Remove => {
            let closed = match pending.change.ended.map(|_| kept()) {
                Some(None) => body(database, table, &row)?,
                Some(kept) => kept,
                None => None,
            };
            single(database, |database, _| database.delete(table, &row))?;
            Ok(closed)
        }
    }
}

/// Puts a row in the place of another one. Only a repeated attempt deletes what
/// an earlier one may have left: to delete what is not there locks the gap.
pub(super) fn replace(
    database: &mut dyn Database,
    table: &str,
    old: &[Condition],
    own: &[Condition],
    new: &[Assignment],
) -> Result<(), Fault> {
    let mut attempts = 0;
    durable(database, |database| {
        attempts += 1;
        database.delete(table, old)?;
        if attempts > 1 {
            database.delete(table, own)?;
        }
        database.insert(table, new)
    })
}

/// Changes the row of a publication; 412 if there is none like that.
pub(super) fn update<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    row: &[Condition],
    change: &Change<'_>,
    publishing: &Publishing<'_>,
    set: &[Assignment],
) -> Result<(), Refused> {
    check_widths(&server.widths.publications, set)?;
    let table = table(server)?;
    let new = publication_conditions(&publishing.key, &publishing.package.name, change.entity_tag);
    let database = host.database().ok_or(Fault::Database)?;
    let met = single(database, |database, _| {
        database.update(table, row, set)?;
        match database.affected_rows() {
            // Only the answer of an earlier attempt may have been lost, of ours
            // or of the driver's own. Servers that count changes, not rows,
            // meet none where nothing changes.
            Some(0) => exists(database, table, &new),
            _ => Ok(true),
        }
    })?;
    if met { Ok(()) } else { Err(Refused::EntityTag) }
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
    single(database, |database, _| database.delete(table, &row))?;
    Ok(closed)
}

/// There is a row like that.
pub(super) fn exists(
    database: &mut dyn Database,
    table: &str,
    row: &[Condition],
) -> Result<bool, Fault> {
    let mut found = false;
    database.query(table, row, &["etag"], None, &mut |_| found = true)?;
    Ok(found)
}

/// A presentity has a publication of this entity-tag.
pub fn has_tag<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    key: &PresentityKey,
    tag: &[u8],
) -> Result<bool, Fault> {
    if server.config.publications() != PublicationCache::None {
        return Ok(server.store.has_publication(key, tag));
    }
    let package = server.registry.get(key.package).ok_or(Fault::Package)?;
    let table = table(server)?;
    let database = host.database().ok_or(Fault::Database)?;
    for key in key.spellings() {
        let row = publication_conditions(&key, &package.name, tag);
        if single(database, |database, _| exists(database, table, &row))? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The publication of an entity-tag.
pub(super) fn one<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    key: &PresentityKey,
    event: &[u8],
    tag: &[u8],
) -> Result<Option<PublicationCopy>, Fault> {
    let row = publication_conditions(key, event, tag);
    Ok(read_with_ids(server, host, &row)?.into_iter().next().map(|(_, row)| row.publication))
}

/// The publications of a presentity: those that memory has, or the rows where
/// these judge.
pub fn current<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    key: &PresentityKey,
    event: &[u8],
) -> Result<Vec<PublicationCopy>, Fault> {
    let indexed = match server.config.publications() {
        PublicationCache::None => return read(server, host, key, event),
        PublicationCache::Hybrid | PublicationCache::Record => server.store.living(key),
    };
    complete(server, host, &indexed.key, event, indexed.publications)
}

/// The newest publication of the index with its document, for a package that shows
/// no other. If its row is another one by now, all are looked at.
pub fn newest<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    key: &PresentityKey,
    event: &[u8],
    indexed: &PublicationCopy,
) -> Result<Vec<PublicationCopy>, Fault> {
    if server.config.publications() == PublicationCache::Hybrid
        && let Some(row) = one(server, host, key, event, &indexed.entity_tag)?
    {
        remember(server, key, std::slice::from_ref(&row));
        return Ok(vec![row]);
    }
    complete(server, host, key, event, vec![indexed.clone()])
}

/// Keeps documents that were read from their rows.
fn remember<M: Memory>(server: &Server<M>, key: &PresentityKey, rows: &[PublicationCopy]) {
    // A tag that the document keeps when it changes tells nothing.
    if server.registry.get(key.package).is_some_and(|package| !package.keeps_entity_tag) {
        let bodies = rows
            .iter()
            .filter(|row| EntityTag::is_minted(&row.entity_tag))
            .map(|row| (&*row.entity_tag, &*row.body));
        server.store.remember_bodies(key, bodies);
    }
}

/// Publications of the index with the documents that the database keeps.
pub fn complete<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    key: &PresentityKey,
    event: &[u8],
    indexed: Vec<PublicationCopy>,
) -> Result<Vec<PublicationCopy>, Fault> {
    match server.config.publications() {
        PublicationCache::None => read(server, host, key, event),
        PublicationCache::Hybrid if indexed.iter().any(|known| known.body.is_empty()) => {
            // Rows in the order of the index; those it does not know come first.
            let mut rows = read(server, host, key, event)?;
            remember(server, key, &rows);
            let places: HashMap<&[u8], usize> =
                indexed.iter().enumerate().rev().map(|(place, p)| (&*p.ruid, place)).collect();
            rows.sort_by_cached_key(|row| places.get(&*row.ruid).copied());
            Ok(rows)
        }
        PublicationCache::Hybrid | PublicationCache::Record => Ok(indexed),
    }
}

/// The presentity's publications as the database has them, oldest first.
pub fn read<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    key: &PresentityKey,
    event: &[u8],
) -> Result<Vec<PublicationCopy>, Fault> {
    Ok(read_rows(server, host, key, event)?.into_iter().map(|row| row.publication).collect())
}

/// The same, as rows, in whichever spelling they are (B46).
pub(super) fn read_rows<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    key: &PresentityKey,
    event: &[u8],
) -> Result<Vec<PublicationRow>, Fault> {
    let mut rows = Vec::new();
    for spelled in key.spellings() {
        rows.push(read_with_ids(server, host, &presentity_conditions(&spelled, event))?);
    }
    if rows.iter().filter(|rows| !rows.is_empty()).count() > 1 {
        let mut all = rows.concat();
        all.sort_by_key(|(id, row)| (row.publication.received, *id));
        rows = vec![all];
    }
    Ok(rows.into_iter().flatten().map(|(_, row)| row).collect())
}

/// Rows in the order of the publications, with their `id`s.
fn read_with_ids<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    conditions: &[Condition],
) -> Result<Vec<(i64, PublicationRow)>, Fault> {
    let table = table(server)?;
    let database = host.database().ok_or(Fault::Database)?;
    let rows = bounded::read(database, table, conditions)?;
    Ok(rows.told(host))
}

pub(super) fn table<M: Memory>(server: &Server<M>) -> Result<&str, Fault> {
    std::str::from_utf8(&server.config.presentity_table).map_err(|_| Fault::Database)
}

fn body(
    database: &mut dyn Database,
    table: &str,
    row: &[Condition],
) -> Result<Option<Vec<u8>>, Fault> {
    single(database, |database, _| {
        let mut found = None;
        database.query(table, row, &["body"], None, &mut |columns| {
            found = columns.first().map(|value| value.as_bytes().to_vec());
        })?;
        Ok(found)
    })
}

pub(super) fn new_row(
    key: &PresentityKey,
    event: &[u8],
    change: &Change<'_>,
    body: &[u8],
) -> Vec<Assignment> {
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

pub(super) fn changes(change: &Change<'_>, body: &[u8]) -> Vec<Assignment> {
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
