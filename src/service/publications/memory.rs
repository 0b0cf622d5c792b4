//! Publications in memory: a change is judged and claimed under the lock of
//! their shard (`begin`), written where there are rows, and made part of the state
//! (`commit`). Here without rows; `indexed` has them.

use crate::error::Fault;
use crate::ports::Host;
use crate::presence::event_package::{EventPackage, PackageId};
use crate::presence::listing::{After, Wanted};
use crate::presence::presentity::PresentityKey;
use crate::presence::publication::{PublicationCopy, Refused};
use crate::service::Server;
use crate::service::listing::Published;
use crate::service::overview::Kept;
use crate::service::publication_request::PublicationRequest;
use crate::shm::Memory;
use crate::store::Store;
use crate::store::publications::{Begun, Expired, Pending, PublicationChange, PublicationRowKey};
use crate::store::walk::{Page, Place};

use super::{Applied, Found, Made, Names, Publications};

/// Records ended per shard and lock.
const BATCH: usize = 256;
/// Seconds after which a publication whose row cannot be deleted is retried.
const RETRY: i64 = 5;

/// Publications in memory only (`publ_cache=2`).
pub struct InMemory;

/// A claimed publication. The claim is given up when the change fails, also
/// when a callback panics: the publication must not stay claimed for ever.
struct ClaimGuard<'a, M: Memory> {
    store: &'a Store<M>,
    pending: Option<Pending<M>>,
}

impl<M: Memory> Drop for ClaimGuard<'_, M> {
    fn drop(&mut self) {
        if let Some(pending) = self.pending.take() {
            self.store.abort_publication(pending);
        }
    }
}

/// The ways in which a change goes through memory.
pub(super) trait Durable<M: Memory> {
    /// The document of a publication whose dialog may come back to life.
    fn document(
        &mut self,
        stored: &PublicationRowKey,
        kept: Option<Vec<u8>>,
    ) -> Result<Option<Vec<u8>>, Refused>;

    /// Writes a claimed change. Gives the document that its row had, if watchers
    /// have to see it a last time.
    fn write(&mut self, pending: &Pending<M>) -> Result<Option<Vec<u8>>, Refused>;

    /// What is published now, where the row keeps it.
    fn published(&self) -> Option<&[u8]>;
}

/// Nothing outlives the server.
struct NoRows;

impl<M: Memory> Durable<M> for NoRows {
    fn document(
        &mut self,
        _stored: &PublicationRowKey,
        kept: Option<Vec<u8>>,
    ) -> Result<Option<Vec<u8>>, Refused> {
        Ok(kept)
    }

    fn write(&mut self, _pending: &Pending<M>) -> Result<Option<Vec<u8>>, Refused> {
        Ok(None)
    }

    fn published(&self) -> Option<&[u8]> {
        None
    }
}

/// Judges a change by what is in memory, and makes it.
pub(super) fn publish<M: Memory>(
    server: &Server<M>,
    publishing: &PublicationRequest<'_>,
    change: &PublicationChange<'_>,
    durable: &mut dyn Durable<M>,
) -> Result<Applied<M>, Refused> {
    let (store, package) = (&server.store, publishing.package);
    let pending = match store.begin_publication(&publishing.key, package, change)? {
        Begun::Pending(pending) => pending,
        Begun::Refused(refused) => return Err(refused),
        Begun::Unchanged => return Ok(Applied::Unchanged),
        Begun::Reopens(stored, kept) => {
            let document = durable.document(&stored, kept)?.ok_or(Refused::EntityTag)?;
            return Ok(Applied::Reopens(document));
        }
    };
    let mut claim = ClaimGuard { store, pending: Some(pending) };
    let (mut ended, mut ruid) = (None, Vec::new());
    if let Some(pending) = &mut claim.pending {
        if publishing.is_silent() {
            pending.change = pending.change.silently();
        }
        ended = durable.write(pending)?;
        if store.replication().is_some() {
            ruid = store.ruid_of(pending);
        }
    }
    let (closing, published) = (package.aggregates, durable.published());
    let lane = claim.pending.take().and_then(|pending| {
        store.commit_publication(pending, closing, ended.as_deref(), published)
    });
    Ok(Applied::Made(Made { lane, ruid }))
}

/// A publication of memory as a peer may mean it.
pub(super) fn found(copy: PublicationCopy) -> Found {
    let PublicationCopy { entity_tag, ruid, received, .. } = copy;
    Found { entity_tag, ruid, received }
}

/// Publications that were claimed, the next one last. What is not dealt with is
/// given back, also when a callback panics; those that were not tried come
/// first the next time.
struct ExpiredClaims<'a, M: Memory> {
    store: &'a Store<M>,
    now: i64,
    expired: Vec<Expired<M>>,
}

impl<M: Memory> Drop for ExpiredClaims<'_, M> {
    fn drop(&mut self) {
        if let Some(interrupted) = self.expired.pop() {
            self.store.keep_expired(interrupted, self.now, RETRY);
        }
        for untried in self.expired.drain(..) {
            self.store.keep_expired(untried, self.now, 0);
        }
    }
}

/// Ends publications that have expired. `delete` deletes the row of one, and
/// gives the document that it had, if watchers have to see that. Fails with
/// `Fault::Database` if the database is away.
pub(super) fn expire<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    delete: impl Fn(&mut dyn Host, &Expired<M>) -> Result<Option<Vec<u8>>, Fault>,
) -> Result<(), Fault> {
    // One time for all: what is to be retried later is not retried now.
    let (now, quietly) = (host.now(), server.config.force_delete);
    let (store, mut result) = (&server.store, Ok(()));
    for shard in 0..store.shards() {
        let mut more = true;
        while more {
            let (expired, rest) =
                store.claim_expired(shard, (now, BATCH), &server.registry, quietly);
            more = rest;
            let mut claimed = ExpiredClaims { store, now, expired };
            claimed.expired.reverse();
            while let Some(publication) = claimed.expired.last() {
                let deleted = delete(host, publication);
                let Some(publication) = claimed.expired.pop() else { break };
                match deleted {
                    Ok(document) => store.remove_expired(publication, document.as_deref()),
                    Err(fault) => {
                        store.keep_expired(publication, now, RETRY);
                        if fault == Fault::Database {
                            return Err(fault);
                        }
                        // The row's own fault is no reason to keep the others waiting.
                        result = Err(fault);
                    }
                }
            }
        }
    }
    result
}

impl<M: Memory> Publications<M> for InMemory {
    fn publish(
        &self,
        server: &Server<M>,
        _host: &mut dyn Host,
        publishing: &PublicationRequest<'_>,
        change: &PublicationChange<'_>,
    ) -> Result<Applied<M>, Refused> {
        publish(server, publishing, change, &mut NoRows)
    }

    fn expire(&self, server: &Server<M>, host: &mut dyn Host) -> Result<(), Fault> {
        expire(server, host, |_, _| Ok(None))
    }

    fn end_orphaned(&self, _server: &Server<M>, _host: &mut dyn Host) -> Result<(), Fault> {
        Ok(())
    }

    fn has_tag(
        &self,
        server: &Server<M>,
        _host: &mut dyn Host,
        key: &PresentityKey,
        tag: &[u8],
    ) -> Result<bool, Fault> {
        Ok(server.store.has_publication(key, tag))
    }

    fn find(
        &self,
        server: &Server<M>,
        _host: &mut dyn Host,
        key: &PresentityKey,
        names: Names<'_>,
    ) -> Result<Option<Found>, Fault> {
        Ok(server.store.find_publication(key, names).map(found))
    }

    fn current(
        &self,
        server: &Server<M>,
        _host: &mut dyn Host,
        key: &PresentityKey,
        _event: &[u8],
    ) -> Result<Vec<PublicationCopy>, Fault> {
        Ok(server.store.living(key).publications)
    }

    fn newest_here(
        &self,
        server: &Server<M>,
        key: &PresentityKey,
        most: usize,
    ) -> Option<(Vec<PublicationCopy>, bool)> {
        Some(server.store.newest(key, most))
    }

    fn complete(
        &self,
        _server: &Server<M>,
        _host: &mut dyn Host,
        _key: &PresentityKey,
        _event: &[u8],
        known: Vec<PublicationCopy>,
    ) -> Result<Vec<PublicationCopy>, Fault> {
        Ok(known)
    }

    fn newest(
        &self,
        _server: &Server<M>,
        _host: &mut dyn Host,
        _key: &PresentityKey,
        _event: &[u8],
        known: &PublicationCopy,
    ) -> Result<Vec<PublicationCopy>, Fault> {
        Ok(vec![known.clone()])
    }

    fn are_complete(&self, _known: &[PublicationCopy]) -> bool {
        true
    }

    fn page(
        &self,
        server: &Server<M>,
        _host: &mut dyn Host,
        wanted: (&Wanted<'_>, Option<PackageId>),
        after: Option<After>,
        (documents, most): (bool, usize),
    ) -> Result<Page<Published>, Fault> {
        let at = after.map_or(Some(Place::default()), Place::of).ok_or(Fault::Host)?;
        let page = server.store.publications_page(at, wanted, documents, most);
        let found = page.found.into_iter().filter_map(|(place, (key, publication))| {
            let event = server.registry.get(key.package)?.name.clone();
            Some((place, Published { user: key.user, host: key.host, event, publication }))
        });
        Ok(Page { found: found.collect(), next: page.next })
    }

    fn kept(&self) -> Kept {
        Kept { mode: 2, are: "in memory only", outlive_server: false }
    }

    fn are_in_memory(&self) -> bool {
        true
    }

    fn follow(
        &self,
        _server: &Server<M>,
        _host: &mut dyn Host,
        _key: &PresentityKey,
        _package: &EventPackage,
    ) -> Result<(), Fault> {
        Ok(())
    }

    fn follow_all(&self, _server: &Server<M>, _host: &mut dyn Host) -> Result<(), Fault> {
        // There are no rows to follow.
        Err(Fault::Database)
    }
}
