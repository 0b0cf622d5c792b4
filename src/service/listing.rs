//! What there is, for the operator's commands, wherever it is kept: in pages, so
//! that neither memory nor anybody's request is a matter of how much there is.

use crate::error::Fault;
use crate::ports::Host;
use crate::presence::event_package::{Event, PackageId};
use crate::presence::listing::{After, Wanted};
use crate::presence::publication::PublicationCopy;
use crate::service::Server;
use crate::shm::Memory;
use crate::store::listing::Listed;
use crate::store::walk::Page;

/// Rows read in one go.
const PAGE: usize = 250;
/// The same with their documents.
const PAGE_OF_DOCUMENTS: usize = 16;

/// A publication and what it belongs to.
#[derive(Debug, Clone)]
pub struct Published {
    /// User of the presentity.
    pub user: Vec<u8>,
    /// Host of the presentity.
    pub host: Vec<u8>,
    /// Name of the event package.
    pub event: Vec<u8>,
    /// The publication.
    pub publication: PublicationCopy,
}

/// Why there is no such list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// There is no such event package.
    Event,
    /// `after` does not come from this list.
    After,
    /// What the server stands on has failed.
    Fault(Fault),
}

impl From<Fault> for Refused {
    fn from(fault: Fault) -> Refused {
        Refused::Fault(fault)
    }
}

/// The package that is named, if one is.
fn package<M: Memory>(
    server: &Server<M>,
    wanted: &Wanted<'_>,
) -> Result<Option<PackageId>, Refused> {
    let Some(event) = wanted.event else { return Ok(None) };
    let package = Event::parse(event).and_then(|event| server.registry.exact(&event));
    package.map(Some).ok_or(Refused::Event)
}

/// Lists of records go on at a record, those of rows at a row.
fn check(after: Option<After>, in_memory: bool) -> Result<(), Refused> {
    match (after, in_memory) {
        (None, _) | (Some(After::Record { .. }), true) | (Some(After::Row(_)), false) => Ok(()),
        _ => Err(Refused::After),
    }
}

/// The living subscriptions that are asked for, one after the other, each with
/// where a list goes on behind it. `each` says whether it wants another one.
pub fn subscriptions<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    wanted: &Wanted<'_>,
    mut each: impl FnMut(After, Listed) -> bool,
) -> Result<(), Refused> {
    let package = package(server, wanted)?;
    let storage = server.subscriptions();
    check(wanted.after, !storage.is_shared())?;
    walk(wanted.after, &mut each, |after| {
        storage.page(server, host, (wanted, package), after, PAGE)
    })
}

/// The publications that are asked for, as `subscriptions`; with their
/// `documents` or without.
pub fn publications<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    wanted: &Wanted<'_>,
    documents: bool,
    mut each: impl FnMut(After, Published) -> bool,
) -> Result<(), Refused> {
    let package = package(server, wanted)?;
    let publications = server.publications();
    check(wanted.after, publications.are_in_memory())?;
    let most = if documents { PAGE_OF_DOCUMENTS } else { PAGE };
    walk(wanted.after, &mut each, |after| {
        publications.page(server, host, (wanted, package), after, (documents, most))
    })
}

fn walk<T>(
    mut after: Option<After>,
    each: &mut dyn FnMut(After, T) -> bool,
    mut page: impl FnMut(Option<After>) -> Result<Page<T>, Fault>,
) -> Result<(), Refused> {
    loop {
        let page = page(after)?;
        for (place, entry) in page.found {
            if !each(place, entry) {
                return Ok(());
            }
        }
        match page.next {
            None => return Ok(()),
            next => after = next,
        }
    }
}
