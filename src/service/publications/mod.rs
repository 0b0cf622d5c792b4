//! Where publications are kept. What becomes of one is said by
//! `presence::publication::transition` alone; here are the ways of keeping it:
//! *memory* alone, *indexed* (memory, with a row of each that outlives the
//! server), and *rows* alone. This file is the one place that asks for the mode;
//! use cases, timers and notifiers use the trait.

mod audience;
mod bounded;
mod expired_rows;
mod indexed;
mod memory;
mod respelled;
mod resync;
mod rows;
mod statements;
mod taken_over;

use crate::config::{Config, PublicationCache};
use crate::error::Fault;
use crate::ports::{Condition, Host};
use crate::presence::event_package::{EventPackage, PackageId};
use crate::presence::listing::{After, Wanted};
use crate::presence::presentity::PresentityKey;
use crate::presence::publication::{PublicationCopy, Refused};
use crate::service::Server;
use crate::service::listing::Published;
use crate::service::overview::Kept;
use crate::service::publication_request::PublicationRequest;
use crate::shm::Memory;
use crate::store::LaneRef;
use crate::store::publications::PublicationChange;
use crate::store::walk::Page;

pub use crate::store::publications::Names;
pub use bounded::newest as newest_that_fit;
pub(super) use respelled::respell;
pub(super) use taken_over::TakenOver;

/// A way of keeping publications.
pub trait Publications<M: Memory>: Sync {
    /// Judges a change by what is stored, and makes it.
    fn publish(
        &self,
        server: &Server<M>,
        host: &mut dyn Host,
        publishing: &PublicationRequest<'_>,
        change: &PublicationChange<'_>,
    ) -> Result<Applied<M>, Refused>;

    /// What the rows of those that live meet, any of these, where memory does not
    /// count them.
    fn counted_rows(&self, _now: i64) -> Vec<Vec<Condition>> {
        Vec::new()
    }

    /// Ends those that have expired.
    fn expire(&self, server: &Server<M>, host: &mut dyn Host) -> Result<(), Fault>;

    /// Ends those that expired while the server was down.
    fn end_orphaned(&self, server: &Server<M>, host: &mut dyn Host) -> Result<(), Fault>;

    /// A presentity has one of this entity-tag.
    fn has_tag(
        &self,
        server: &Server<M>,
        host: &mut dyn Host,
        key: &PresentityKey,
        tag: &[u8],
    ) -> Result<bool, Fault>;

    /// The publication of a presentity with this id, or else with one of these
    /// entity-tags, the first one first. Empty ones name none.
    fn find(
        &self,
        server: &Server<M>,
        host: &mut dyn Host,
        key: &PresentityKey,
        names: Names<'_>,
    ) -> Result<Option<Found>, Fault>;

    /// All of a presentity, oldest change first.
    fn current(
        &self,
        server: &Server<M>,
        host: &mut dyn Host,
        key: &PresentityKey,
        event: &[u8],
    ) -> Result<Vec<PublicationCopy>, Fault>;

    /// Up to so many of a presentity, the newest first, and whether these are
    /// all; `None` if that is not known without reading rows.
    fn newest_here(
        &self,
        server: &Server<M>,
        key: &PresentityKey,
        most: usize,
    ) -> Option<(Vec<PublicationCopy>, bool)>;

    /// Those that were copied from memory (`known`), with the documents that the
    /// database keeps.
    fn complete(
        &self,
        server: &Server<M>,
        host: &mut dyn Host,
        key: &PresentityKey,
        event: &[u8],
        known: Vec<PublicationCopy>,
    ) -> Result<Vec<PublicationCopy>, Fault>;

    /// The newest that memory has, with its document, for a package that shows no
    /// other.
    fn newest(
        &self,
        server: &Server<M>,
        host: &mut dyn Host,
        key: &PresentityKey,
        event: &[u8],
        known: &PublicationCopy,
    ) -> Result<Vec<PublicationCopy>, Fault>;

    /// All that a document is made of was copied from memory: nothing is read
    /// later, and might be newer.
    fn are_complete(&self, known: &[PublicationCopy]) -> bool;

    /// Some of those that are asked for, in this package or in all, where a list
    /// goes on: from `after` on, about `most`, with their `documents` or without.
    fn page(
        &self,
        server: &Server<M>,
        host: &mut dyn Host,
        wanted: (&Wanted<'_>, Option<PackageId>),
        after: Option<After>,
        amount: (bool, usize),
    ) -> Result<Page<Published>, Fault>;

    /// How they are kept, for those who ask.
    fn kept(&self) -> Kept;

    /// All that there is, is in memory.
    fn are_in_memory(&self) -> bool;

    /// Somebody may have changed the rows of a presentity by hand.
    fn follow(
        &self,
        server: &Server<M>,
        host: &mut dyn Host,
        key: &PresentityKey,
        package: &EventPackage,
    ) -> Result<(), Fault>;

    /// Somebody may have changed any rows by hand: whoever watches something that
    /// is different now is notified.
    fn follow_all(&self, server: &Server<M>, host: &mut dyn Host) -> Result<(), Fault>;
}

/// What became of a change.
#[must_use]
pub enum Applied<M: Memory> {
    /// It is stored.
    Made(Made<M>),
    /// Nothing changes, and the entity-tag stays (shared lines).
    Unchanged,
    /// Nothing yet: it may open a dialog again that this stored document has
    /// as terminated.
    Reopens(Vec<u8>),
}

/// Each is a row of the database, whatever else it is.
pub(super) fn are_rows(config: &Config) -> bool {
    config.publications() != PublicationCache::Record
}

/// A change that is stored.
pub struct Made<M: Memory> {
    /// The caller notifies if it is given the lane.
    pub lane: Option<LaneRef<M>>,
    /// The id of the publication, where peers are notified of it; else empty.
    pub ruid: Vec<u8>,
}

/// A publication that a peer means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its entity-tag here.
    pub entity_tag: Vec<u8>,
    /// Its id here.
    pub ruid: Vec<u8>,
    /// Unix time of its latest change.
    pub received: i64,
}

/// The rows judge a change.
pub fn judged_by_rows(config: &Config) -> bool {
    config.publications() == PublicationCache::None
}

/// Memory takes the rows over when the server starts, and has room for some of
/// their documents.
pub fn are_indexed(config: &Config) -> bool {
    config.publications() == PublicationCache::Hybrid
}

/// How publications are kept with this configuration, for the life of the server.
pub(super) fn publications<M: Memory>(config: &Config) -> &'static dyn Publications<M> {
    match config.publications() {
        PublicationCache::Record => &memory::InMemory,
        PublicationCache::Hybrid => &indexed::Indexed,
        PublicationCache::None => &rows::Rows,
    }
}
