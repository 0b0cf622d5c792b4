//! Statements about the rows of publications. Each says what it finds if only the
//! answer of an earlier attempt was lost.

use crate::error::Fault;
use crate::ports::{
    Assignment, Compare, Condition, Database, Extent, Host, Value, Wanted as Amount,
};
use crate::presence::event_package::PackageId;
use crate::presence::listing::{After, Wanted};
use crate::presence::presentity::PresentityKey;
use crate::presence::publication::{PublicationCopy, Refused};
use crate::service::Server;
use crate::service::durable::{durable, single};
use crate::service::listing::Published;
use crate::service::paging::{Place, page as page_of};
use crate::shm::Memory;
use crate::store::publications::PublicationChange;
use crate::store::rows::{
    PUBLICATION_COLUMNS, PublicationRow, presentity_conditions, publication_conditions,
    read_publication,
};

use crate::store::walk::Page;

use super::{Found, Names, bounded};

/// Adds a row of this `ruid`; 412 if another one has its entity-tag. Only the
/// answer of an attempt may have been lost, ours or the driver's own: then the row
/// is there.
pub(super) fn insert(
    database: &mut dyn Database,
    table: &str,
    row: &[Assignment],
    own: &[Condition],
    ruid: &[u8],
) -> Result<(), Refused> {
    let ours = [own, &[("ruid", Compare::Eq, Value::text(ruid))]].concat();
    let inserted =
        single(database, |database, lost| match lost > 0 && exists(database, table, &ours)? {
            true => Ok(()),
            false => database.insert(table, row),
        });
    match inserted {
        Err(Fault::Refused) if exists(database, table, &ours)? => Ok(()),
        Err(Fault::Refused) if exists(database, table, own)? => Err(Refused::EntityTag),
        inserted => Ok(inserted?),
    }
}

/// Puts a row of this `ruid` in the place of another one; 412 if a third one has its
/// entity-tag. What an attempt may have left of which only the answer was lost is
/// deleted after such a one alone: to delete what is not there locks the gap.
pub(super) fn replace(
    database: &mut dyn Database,
    table: &str,
    old: &[Condition],
    own: &[Condition],
    (new, ruid): (&[Assignment], &[u8]),
) -> Result<(), Refused> {
    let ours = [own, &[("ruid", Compare::Eq, Value::text(ruid))]].concat();
    let replaced = durable(database, |database, lost| {
        database.delete(table, old)?;
        if lost > 0 {
            database.delete(table, &ours)?;
        }
        database.insert(table, new)
    });
    match replaced {
        // One in the same place, with the same tag, is the one that was replaced.
        Err(Fault::Refused) if own != old && exists(database, table, own)? => {
            Err(Refused::EntityTag)
        }
        replaced => Ok(replaced?),
    }
}

/// Changes the row of a publication; 412 if there is none like that. `own`: the row
/// as it is afterwards.
pub(super) fn update(
    database: &mut dyn Database,
    table: &str,
    row: &[Condition],
    own: &[Condition],
    set: &[Assignment],
) -> Result<(), Refused> {
    let met = single(database, |database, _| {
        database.update(table, row, set)?;
        match database.affected_rows() {
            // Only the answer of an earlier attempt may have been lost, of ours
            // or of the driver's own. Servers that count changes, not rows,
            // meet none where nothing changes.
            Some(0) => exists(database, table, own),
            _ => Ok(true),
        }
    })?;
    if met { Ok(()) } else { Err(Refused::EntityTag) }
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

/// The publication of an id, or else of one of these entity-tags.
pub(super) fn find<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    key: &PresentityKey,
    names: Names<'_>,
) -> Result<Option<Found>, Fault> {
    let event = &server.registry.get(key.package).ok_or(Fault::Package)?.name;
    let mut wanted = Vec::new();
    for spelled in key.spellings() {
        let named = |column, text: &[u8]| {
            let mut row = presentity_conditions(&spelled, event);
            row.push((column, Compare::Eq, Value::text(text)));
            row
        };
        wanted.push(named("ruid", names.ruid));
        wanted.extend(names.tags.iter().map(|tag| named("etag", tag)));
    }
    wanted.retain(|row| row.last().is_some_and(|(.., name)| !name.as_bytes().is_empty()));
    // The id first, in every spelling.
    wanted.sort_by_key(|row| row.last().is_some_and(|(column, ..)| *column != "ruid"));
    let (table, database) = (table(server)?, host.database().ok_or(Fault::Database)?);
    for row in wanted {
        let found = single(database, |database, _| {
            let mut found = None;
            let columns = &["etag", "ruid", "received_time"];
            database.query(table, &row, columns, None, &mut |row| {
                if let [tag, ruid, received] = row {
                    found = Some(Found {
                        entity_tag: tag.as_bytes().to_vec(),
                        ruid: ruid.as_bytes().to_vec(),
                        received: received.as_int().unwrap_or_default(),
                    });
                }
            })?;
            Ok(found)
        })?;
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

/// The presentity's publications as the database has them, oldest first.
pub(super) fn read<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    key: &PresentityKey,
    event: &[u8],
) -> Result<Vec<PublicationCopy>, Fault> {
    Ok(read_rows(server, host, key, event)?.into_iter().map(|row| row.publication).collect())
}

/// The rows of the presentity's publications, in whichever spelling they are (B46).
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
    Ok(rows.logged(host))
}

pub(super) fn table<M: Memory>(server: &Server<M>) -> Result<&str, Fault> {
    std::str::from_utf8(&server.config.presentity_table).map_err(|_| Fault::Database)
}

/// The document of a row.
pub(super) fn body(
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

/// Some of the publications that are asked for, by the `id` of their rows.
pub(super) fn page<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    (wanted, package): (&Wanted<'_>, Option<PackageId>),
    after: Option<After>,
    (documents, most): (bool, usize),
) -> Result<Page<Published>, Fault> {
    let after = match after {
        None => 0,
        Some(After::Row(id)) => id,
        Some(After::Record { .. }) => return Err(Fault::Host),
    };
    let package = package.and_then(|id| server.registry.get(id));
    let event = package.map(|package| ("event", Compare::Eq, Value::text(&package.name)));
    let conditions: Vec<Condition> = event.into_iter().collect();
    // The document is the last column.
    let columns = match (documents, PUBLICATION_COLUMNS) {
        (false, [columns @ .., _]) => columns,
        _ => PUBLICATION_COLUMNS,
    };
    let table = table(server)?;
    let database = host.database().ok_or(Fault::Database)?;
    let mut found = Vec::new();
    let wanted_page = Amount { most, extent: Extent::Most, is_text: !documents };
    let place = Place { after, page: wanted_page };
    let next = page_of(database, table, &conditions, columns, place, &mut |id, row| {
        let mut row = row.to_vec();
        row.resize(PUBLICATION_COLUMNS.len(), Value::Null);
        let row = read_publication(&row).filter(|row| {
            wanted.is_of(&row.user, &row.host)
                && wanted.like.as_ref().is_none_or(|like| like.fits(&row.user, &row.host))
        });
        found.extend(row.map(|PublicationRow { user, host, event, publication }| {
            (After::Row(id), Published { user, host, event, publication })
        }));
    })?;
    Ok(Page { found, next: next.map(After::Row) })
}

/// Rows of publications that have run out, in this second or before; hard state has 0 or
/// less.
pub(super) fn have_run_out(now: i64) -> [Condition; 2] {
    [("expires", Compare::Less, Value::Int(now + 1)), ("expires", Compare::Greater, Value::Int(0))]
}

/// The others, but for hard state.
pub(super) fn will_run_out(now: i64) -> Condition {
    ("expires", Compare::Greater, Value::Int(now))
}

pub(super) fn new_row(
    key: &PresentityKey,
    event: &[u8],
    change: &PublicationChange<'_>,
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

pub(super) fn changes(change: &PublicationChange<'_>, body: &[u8]) -> Vec<Assignment> {
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
