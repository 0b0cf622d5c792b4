//! Rows of publications that somebody has changed behind our back: the index
//! in memory follows them (B42).

use std::collections::HashSet;

use crate::error::Fault;
use crate::ports::{Condition, Host, Value};
use crate::presence::event_package::{Event, EventPackage, PackageId};
use crate::presence::listing::Wanted;
use crate::presence::presentity::PresentityKey;
use crate::service::Server;
use crate::service::notifier::{self, Budget};
use crate::shm::Memory;
use crate::store::rows::{
    PUBLICATION_COLUMNS, PublicationRow, presentity_conditions, read_publication,
};
use crate::store::walk::Place;

use super::statements::table;
use super::{TakenOver, respell};

/// What names a publication: identity, package and entity-tag.
type Name = (Vec<u8>, PackageId, Vec<u8>);

fn name(key: &PresentityKey, tag: &[u8]) -> Name {
    (key.identity.clone(), key.package, tag.to_vec())
}

/// Follows the rows of one presentity. Nobody is notified yet.
pub(super) fn presentity<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    key: &PresentityKey,
    package: &EventPackage,
) -> Result<(), Fault> {
    server.store.forget_bodies(key);
    let tags = server.store.entity_tags(key);
    let before = tags.into_iter().map(|tag| (key.clone(), tag)).collect();
    let spelled = |key| presentity_conditions(&key, &package.name);
    let conditions: Vec<_> = key.spellings().into_iter().map(spelled).collect();
    follow(server, host, &conditions, before).map(|_| ())
}

/// Follows all rows, and notifies whoever watches something that is different
/// now.
pub(super) fn everything<M: Memory>(server: &Server<M>, host: &mut dyn Host) -> Result<(), Fault> {
    let mut before = Vec::new();
    let (all, mut at) = (Wanted::default(), Some(Place::default()));
    while let Some(place) = at {
        let page = server.store.publications_page(place, (&all, None), false, usize::MAX);
        for (_, (key, copy)) in page.found {
            server.store.forget_bodies(&key);
            before.push((key, copy.entity_tag));
        }
        at = page.next.and_then(Place::of);
    }
    for key in follow(server, host, &[Vec::new()], before)? {
        if let Some(lane) = server.store.notify_all_again(&key)? {
            notifier::run(server, host, lane, Budget::WORKER);
        }
    }
    server.wake_senders(host);
    Ok(())
}

/// A row that was read.
struct Found {
    key: PresentityKey,
    row: PublicationRow,
    taken: TakenOver,
}

/// The rows are those that meet any of the lists of conditions; `before` is what the
/// index had before the rows are read: what is in both is updated, what only the rows
/// have is entered, what only the index has is dropped. Gives the presentities that are
/// different now.
fn follow<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    conditions: &[Vec<Condition>],
    before: Vec<(PresentityKey, Vec<u8>)>,
) -> Result<Vec<PresentityKey>, Fault> {
    let known: HashSet<Name> = before.iter().map(|(key, tag)| name(key, tag)).collect();
    let mut seen: HashSet<Name> = HashSet::new();
    let mut changed: Vec<PresentityKey> = Vec::new();
    for Found { key, row, taken } in read(server, host, conditions)? {
        respell(host.database().ok_or(Fault::Database)?, table(server)?, &row, &key)?;
        let name = name(&key, &row.publication.entity_tag);
        let is_known = known.contains(&name);
        if server.store.sync_publication(&key, &taken.change(&row), is_known)?
            && changed.last() != Some(&key)
        {
            changed.push(key);
        }
        seen.insert(name);
    }
    for key in &changed {
        server.store.put_in_order(key);
    }
    for (key, tag) in before {
        let Some(package) = server.registry.get(key.package) else { continue };
        if !seen.contains(&name(&key, &tag))
            && server.store.forget_publication(&key, &tag, package)
            && changed.last() != Some(&key)
        {
            changed.push(key);
        }
    }
    Ok(changed)
}

/// Reads the rows that meet any of the lists of conditions, oldest change first. Their
/// documents stay in the database.
fn read<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    conditions: &[Vec<Condition>],
) -> Result<Vec<Found>, Fault> {
    let (mut rows, table) = (Vec::new(), table(server)?);
    let database = host.database().ok_or(Fault::Database)?;
    let mut read = |columns: &[Value]| {
        let Some(mut row) = read_publication(columns) else { return };
        let id = Event::parse(&row.event).and_then(|event| server.registry.exact(&event));
        let Some((id, package)) = id.and_then(|id| Some((id, server.registry.get(id)?))) else {
            return;
        };
        let key = server.store.key(&row.user, &row.host, id);
        let taken = TakenOver::of(package, &row);
        row.publication.body = Vec::new();
        rows.push(Found { key, row, taken });
    };
    for conditions in conditions {
        let order = Some("received_time, id");
        database.query(table, conditions, PUBLICATION_COLUMNS, order, &mut read)?;
    }
    Ok(rows)
}
