//! Publications in memory with a row of each (`publ_cache=1`). Memory judges a
//! change; the row is written before anybody is notified. Documents lie in the rows,
//! and as far as there is room in memory, too.

use std::collections::HashMap;

use crate::error::Fault;
use crate::ports::{Compare, Host, Value};
use crate::presence::entity_tag::EntityTag;
use crate::presence::event_package::{Event, EventPackage, PackageId};
use crate::presence::listing::{After, Wanted};
use crate::presence::presentity::PresentityKey;
use crate::presence::publication::{PublicationCopy, Refused, Step};
use crate::service::durable::delete;
use crate::service::listing::Published;
use crate::service::orphaned_rows::delete_all;
use crate::service::overview::Kept;
use crate::service::paging::Pages;
use crate::service::publication_request::PublicationRequest;
use crate::service::{Server, check_widths};
use crate::shm::Memory;
use crate::store::publications::{Expired, Pending, PublicationChange, PublicationRowKey};
use crate::store::rows::{PUBLICATION_COLUMNS, publication_conditions, read_publication};
use crate::store::walk::Page;

use super::memory::{self, Durable, InMemory};
use super::statements::{self, body, changes, have_run_out, insert, new_row, replace, table};
use super::{Applied, Found, Names, Publications, expired_rows, resync};

/// Rows without a record read in one go, with their documents.
const PAGE: usize = 100;

/// Publications in memory, with rows.
pub struct Indexed;

/// A change that has to outlive the server.
struct WithRow<'a, 'b, M: Memory> {
    server: &'a Server<M>,
    host: &'a mut dyn Host,
    publishing: &'a PublicationRequest<'b>,
    change: &'a PublicationChange<'b>,
}

impl<M: Memory> WithRow<'_, '_, M> {
    /// The document of a publication that ends or is replaced.
    fn former(&mut self, stored: &PublicationRowKey) -> Result<Option<Vec<u8>>, Fault> {
        let (key, tag) = (&stored.key, &stored.entity_tag);
        let kept = self.server.store.body_of(key, tag);
        if kept.is_some() {
            return Ok(kept);
        }
        let row = publication_conditions(key, &self.publishing.package.name, tag);
        let database = self.host.database().ok_or(Fault::Database)?;
        body(database, table(self.server)?, &row)
    }
}

impl<M: Memory> Durable<M> for WithRow<'_, '_, M> {
    fn document(
        &mut self,
        stored: &PublicationRowKey,
        kept: Option<Vec<u8>>,
    ) -> Result<Option<Vec<u8>>, Refused> {
        if kept.is_some() {
            return Ok(kept);
        }
        let event = &self.publishing.package.name;
        let row = statements::one(self.server, self.host, &stored.key, event, &stored.entity_tag)?;
        Ok(row.map(|row| row.body))
    }

    fn write(&mut self, pending: &Pending<M>) -> Result<Option<Vec<u8>>, Refused> {
        let (server, publishing, change) = (self.server, self.publishing, self.change);
        let table = table(server)?;
        let (key, event) = (&pending.stored.key, &publishing.package.name);
        let new = match publishing.step {
            Step::Create => new_row(key, event, change, publishing.body),
            Step::Refresh | Step::Modify => changes(change, publishing.body),
            Step::Remove => Vec::new(),
        };
        check_widths(&server.widths.publications, &new)?;
        let former = pending.replaced_row.as_ref().unwrap_or(&pending.stored);
        let ended = match pending.change.ended {
            Some(_) => self.former(former)?,
            None => None,
        };
        let row = publication_conditions(&former.key, event, &former.entity_tag);
        let own = publication_conditions(key, event, change.entity_tag);
        let database = self.host.database().ok_or(Fault::Database)?;
        match (publishing.step, &pending.replaced_row) {
            (Step::Create, None) => insert(database, table, &new, &own, change.ruid)?,
            (Step::Create, Some(_)) => replace(database, table, &row, &own, (&new, change.ruid))?,
            (Step::Refresh | Step::Modify, _) => {
                statements::update(database, table, &row, &own, &new)?;
            }
            // If it has gone already, so much the better.
            (Step::Remove, _) => {
                let _ = delete(database, table, &row)?;
            }
        }
        Ok(ended)
    }

    fn published(&self) -> Option<&[u8]> {
        self.change.facts.map(|_| self.publishing.body)
    }
}

/// Deletes the row of an expired publication. Gives the document that it had, if
/// watchers have to see that.
fn delete_expired<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    expired: &Expired<M>,
) -> Result<Option<Vec<u8>>, Fault> {
    let package = server.registry.get(expired.stored.key.package).ok_or(Fault::Package)?;
    let (key, tag) = (&expired.stored.key, &expired.stored.entity_tag);
    let row = publication_conditions(key, &package.name, tag);
    let (table, database) = (table(server)?, host.database().ok_or(Fault::Database)?);
    let document = match expired.change.ended {
        Some(_) => body(database, table, &row)?,
        None => None,
    };
    delete(database, table, &row)?;
    Ok(document)
}

/// Ends publications whose rows have expired and of which there is no record:
/// they ended while the server was down, or others wrote them (B45).
fn end_strangers<M: Memory>(server: &Server<M>, host: &mut dyn Host) -> Result<(), Fault> {
    let table = table(server)?;
    let mut pages = Pages::new(PAGE, false);
    loop {
        let conditions = have_run_out(host.now());
        let database = host.database().ok_or(Fault::Database)?;
        let page = pages.next(database, table, &conditions, PUBLICATION_COLUMNS)?;
        let Some(page) = page else { return Ok(()) };
        let mut silent = Vec::new();
        for (id, columns) in page {
            let Some(row) = read_publication(&columns) else { continue };
            let package = Event::parse(&row.event).and_then(|event| server.registry.exact(&event));
            let key = package.map(|package| server.store.key(&row.user, &row.host, package));
            let tag = &row.publication.entity_tag;
            if key.as_ref().is_some_and(|key| server.store.knows_publication(key, tag)) {
                continue;
            }
            if key.is_some_and(|key| server.store.may_be_watched(&key)) {
                let ended = expired_rows::end_expired(server, host, table, row);
                if ended != Err(Fault::Refused) {
                    ended?;
                }
                continue;
            }
            let at = row.publication.expires_at.unwrap_or_default();
            silent.push(vec![
                ("id", Compare::Eq, Value::Int(id)),
                ("etag", Compare::Eq, Value::text(tag)),
                ("expires", Compare::Eq, Value::Int(at)),
            ]);
        }
        delete_all(host, table, &silent)?;
        server.wake_senders(host);
    }
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

impl<M: Memory> Publications<M> for Indexed {
    fn publish(
        &self,
        server: &Server<M>,
        host: &mut dyn Host,
        publishing: &PublicationRequest<'_>,
        change: &PublicationChange<'_>,
    ) -> Result<Applied<M>, Refused> {
        // The document is the row's.
        let change = &PublicationChange { body: None, ..change.clone() };
        let mut row = WithRow { server, host, publishing, change };
        memory::publish(server, publishing, change, &mut row)
    }

    fn expire(&self, server: &Server<M>, host: &mut dyn Host) -> Result<(), Fault> {
        let known =
            memory::expire(server, host, |host, expired| delete_expired(server, host, expired));
        match known {
            Err(Fault::Database) => known,
            // Those with a record were just dealt with.
            _ => end_strangers(server, host).and(known),
        }
    }

    fn end_orphaned(&self, server: &Server<M>, host: &mut dyn Host) -> Result<(), Fault> {
        end_strangers(server, host)
    }

    fn has_tag(
        &self,
        server: &Server<M>,
        host: &mut dyn Host,
        key: &PresentityKey,
        tag: &[u8],
    ) -> Result<bool, Fault> {
        InMemory.has_tag(server, host, key, tag)
    }

    fn find(
        &self,
        server: &Server<M>,
        _host: &mut dyn Host,
        key: &PresentityKey,
        names: Names<'_>,
    ) -> Result<Option<Found>, Fault> {
        Ok(server.store.find_publication(key, names).map(memory::found))
    }

    fn current(
        &self,
        server: &Server<M>,
        host: &mut dyn Host,
        key: &PresentityKey,
        event: &[u8],
    ) -> Result<Vec<PublicationCopy>, Fault> {
        let known = server.store.living(key);
        self.complete(server, host, &known.key, event, known.publications)
    }

    fn newest_here(
        &self,
        server: &Server<M>,
        key: &PresentityKey,
        most: usize,
    ) -> Option<(Vec<PublicationCopy>, bool)> {
        let (newest, is_all) = server.store.newest(key, most);
        self.are_complete_here(&newest).then_some((newest, is_all))
    }

    fn complete(
        &self,
        server: &Server<M>,
        host: &mut dyn Host,
        key: &PresentityKey,
        event: &[u8],
        known: Vec<PublicationCopy>,
    ) -> Result<Vec<PublicationCopy>, Fault> {
        if self.are_complete_here(&known) {
            return Ok(known);
        }
        // Rows in the order of the index; those it does not know come first.
        let mut rows = statements::read(server, host, key, event)?;
        remember(server, key, &rows);
        let places: HashMap<&[u8], usize> =
            known.iter().enumerate().rev().map(|(place, p)| (&*p.ruid, place)).collect();
        rows.sort_by_cached_key(|row| places.get(&*row.ruid).copied());
        Ok(rows)
    }

    fn newest(
        &self,
        server: &Server<M>,
        host: &mut dyn Host,
        key: &PresentityKey,
        event: &[u8],
        known: &PublicationCopy,
    ) -> Result<Vec<PublicationCopy>, Fault> {
        if let Some(row) = statements::one(server, host, key, event, &known.entity_tag)? {
            remember(server, key, std::slice::from_ref(&row));
            return Ok(vec![row]);
        }
        // Its row is another one by now.
        self.complete(server, host, key, event, vec![known.clone()])
    }

    fn are_complete(&self, known: &[PublicationCopy]) -> bool {
        self.are_complete_here(known)
    }

    fn page(
        &self,
        server: &Server<M>,
        host: &mut dyn Host,
        wanted: (&Wanted<'_>, Option<PackageId>),
        after: Option<After>,
        (documents, most): (bool, usize),
    ) -> Result<Page<Published>, Fault> {
        let mut page = InMemory.page(server, host, wanted, after, (documents, most))?;
        let lacks = |entry: &&mut (After, Published)| entry.1.publication.body.is_empty();
        for (_, published) in page.found.iter_mut().filter(lacks).filter(|_| documents) {
            let package =
                Event::parse(&published.event).and_then(|event| server.registry.exact(&event));
            let Some(package) = package else { continue };
            let key = server.store.key(&published.user, &published.host, package);
            let tag = &published.publication.entity_tag;
            let row = statements::one(server, host, &key, &published.event, tag)?;
            published.publication.body = row.map(|row| row.body).unwrap_or_default();
        }
        Ok(page)
    }

    fn kept(&self) -> Kept {
        Kept { mode: 1, are: "rows of the database, with an index in memory", outlive_server: true }
    }

    fn are_in_memory(&self) -> bool {
        true
    }

    fn follow(
        &self,
        server: &Server<M>,
        host: &mut dyn Host,
        key: &PresentityKey,
        package: &EventPackage,
    ) -> Result<(), Fault> {
        resync::presentity(server, host, key, package)
    }

    fn follow_all(&self, server: &Server<M>, host: &mut dyn Host) -> Result<(), Fault> {
        resync::everything(server, host)
    }
}

impl Indexed {
    fn are_complete_here(&self, known: &[PublicationCopy]) -> bool {
        known.iter().all(|publication| !publication.body.is_empty())
    }
}
