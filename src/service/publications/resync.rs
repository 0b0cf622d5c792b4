//! Rows of publications that somebody has changed behind our back: the index
//! in memory follows them (B42).

use std::collections::HashSet;

use crate::error::Fault;
use crate::ports::{Condition, Host, Value};
use crate::presence::event_package::{Event, EventPackage, PackageId};
use crate::presence::listing::Wanted;
use crate::presence::presentity::PresentityKey;
use crate::presence::publication::Step;
use crate::service::Server;
use crate::service::notifier::{self, Budget};
use crate::service::restore::facts;
use crate::shm::Memory;
use crate::store::publications::PublicationChange;
use crate::store::rows::{
    PUBLICATION_COLUMNS, PublicationRow, presentity_conditions, read_publication,
};
use crate::store::walk::Place;

use super::respell;
use super::statements::table;

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

/// The rows are those that meet any of the lists of conditions; `before` is what the index had before the rows are read: what is in both is
/// updated, what only the rows have is entered, what only the index has is
/// dropped. Gives the presentities that are different now.
fn follow<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    conditions: &[Vec<Condition>],
    before: Vec<(PresentityKey, Vec<u8>)>,
) -> Result<Vec<PresentityKey>, Fault> {
    let known: HashSet<Name> = before.iter().map(|(key, tag)| name(key, tag)).collect();
    let mut seen: HashSet<Name> = HashSet::new();
    let mut rows = Vec::new();
    let table = table(server)?;
    let database = host.database().ok_or(Fault::Database)?;
    let order = Some("received_time, id");
    let mut read = |columns: &[Value]| {
        let Some(row) = read_publication(columns) else { return };
        let package = Event::parse(&row.event).and_then(|event| server.registry.exact(&event));
        let Some(package) = package else { return };
        let key = server.store.key(&row.user, &row.host, package);
        let (facts, dialog_id) = facts(server.registry.get(package), &row);
        // The documents stay in the database.
        let row = PublicationRow {
            publication: crate::presence::publication::PublicationCopy {
                body: Vec::new(),
                ..row.publication
            },
            ..row
        };
        rows.push((key, row, facts, dialog_id));
    };
    for conditions in conditions {
        database.query(table, conditions, PUBLICATION_COLUMNS, order, &mut read)?;
    }
    let mut changed: Vec<PresentityKey> = Vec::new();
    for (key, row, facts, dialog_id) in rows {
        respell(host.database().ok_or(Fault::Database)?, table, &row, &key)?;
        let publication = &row.publication;
        let change = PublicationChange {
            step: Step::Create,
            if_match: None,
            entity_tag: &publication.entity_tag,
            ruid: &publication.ruid,
            sender: Some(&publication.sender),
            body: None,
            facts: Some(facts),
            dialog_id: &dialog_id,
            expires_at: publication.expires_at,
            now: publication.received,
            priority: publication.priority,
            judged_by: None,
        };
        let name = name(&key, &publication.entity_tag);
        if server.store.sync_publication(&key, &change, known.contains(&name))?
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
