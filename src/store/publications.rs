//! Publications: one change at a time, in two steps. `begin` claims the
//! publication and allocates all that the change needs; between the steps the
//! service writes the database where there is one; `commit` makes the change
//! part of the state, or `abort` leaves everything as it was.

mod bodies;
mod claim;
mod expired;
mod finals;
mod index;
mod named;
mod rows;

pub use bodies::Documents;
pub use expired::Expired;
pub use index::PublicationIndex;
pub use named::Names;
pub use rows::{Audience, RowsChanged};

pub(super) use claim::{otherwise_spelled, pack, repack};

use crate::error::Fault;
use crate::presence::presentity::PresentityKey;
use crate::presence::publication::transition::{self, Next};
use crate::presence::publication::{Facts, Refused, Step};
use crate::shm::{Blob, Id, Memory};
use crate::store::records::{Presentity, Publication, PublicationPhase, Seconds};
use crate::store::shard::Shard;
use crate::store::{LaneRef, Store};

/// What a PUBLISH makes of a publication.
#[derive(Debug, Clone)]
pub struct PublicationChange<'a> {
    /// Create, refresh, modify or remove.
    pub step: Step,
    /// The entity-tag it refers to; `None` for a new one.
    pub if_match: Option<&'a [u8]>,
    /// The entity-tag that it hands out.
    pub entity_tag: &'a [u8],
    /// Stable id of a new publication.
    pub ruid: &'a [u8],
    /// The publisher's watcher URI, if given.
    pub sender: Option<&'a [u8]>,
    /// The new document; `None` leaves it, or the database keeps it.
    pub body: Option<&'a [u8]>,
    /// What is known of the new document; `None` leaves it.
    pub facts: Option<Facts>,
    /// `id` of its first dialog: another publication of the same dialog is
    /// replaced. Empty for none.
    pub dialog_id: &'a [u8],
    /// Unix time of its end; `None` for hard state.
    pub expires_at: Option<i64>,
    /// Unix time now.
    pub now: i64,
    /// Its order among publications.
    pub priority: i32,
    /// The stored document by which it was seen that no dialog comes back to
    /// life; `None` before one was looked at.
    pub judged_by: Option<&'a [u8]>,
}

/// A publication as the database knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicationRowKey {
    /// Entity-tag of its row.
    pub entity_tag: Vec<u8>,
    /// Sender of its row.
    pub sender: Vec<u8>,
    /// Its presentity, as its row spells it.
    pub key: PresentityKey,
}

/// What `begin` says.
pub enum Begun<M: Memory> {
    /// Claimed: write the database, then commit or abort.
    Pending(Pending<M>),
    /// Nothing changes; the entity-tag stays (shared lines).
    Unchanged,
    /// It may open a dialog again that the stored document has as terminated.
    Reopens(PublicationRowKey, Option<Vec<u8>>),
    /// Refused.
    Refused(Refused),
}

/// A claimed publication and what it is to become.
pub struct Pending<M: Memory> {
    shard: usize,
    presentity: Id<Presentity<M>>,
    publication: Id<Publication<M>>,
    step: Step,
    block: Option<Blob<M>>,
    facts: Option<Facts>,
    expires_at: Option<i64>,
    now: i64,
    priority: i32,
    sender: Vec<u8>,
    replaced: Option<Id<Publication<M>>>,
    /// The publication as it was; for a new one as it will be.
    pub stored: PublicationRowKey,
    /// The publication of the same dialog that the new one replaces.
    pub replaced_row: Option<PublicationRowKey>,
    /// What the request makes of it.
    pub change: transition::PublicationTransition,
}

impl<M: Memory> Store<M> {
    /// Second step: the change is part of the state from here on. Gives the
    /// lane when the caller is the one to notify.
    /// `closing`: the package shows a removed publication closed once;
    /// `document` is what was published before, where the database has kept
    /// that; `published` what is published now, where the row keeps it.
    pub fn commit_publication(
        &self,
        pending: Pending<M>,
        closing: bool,
        document: Option<&[u8]>,
        published: Option<&[u8]>,
    ) -> Option<LaneRef<M>> {
        self.with(pending.shard, |records| {
            let (shard, presentity) = (pending.shard, pending.presentity);
            let sender = pending.sender.clone();
            let (publication, fan_out) = (pending.publication, pending.change.fan_out);
            if let Some(replaced) = pending.replaced {
                keep_document(records, replaced, document);
                records.end_publication(replaced, false, fan_out, &sender);
            }
            match pending.change.next {
                Next::Gone => {
                    keep_document(records, publication, document);
                    records.end_publication(publication, closing, fan_out, &sender);
                }
                next => {
                    if next == Next::Newest && pending.step == Step::Modify {
                        records.keep_former(publication, document);
                    }
                    enter(records, pending);
                    records.publications_changed(presentity, fan_out, &sender);
                    if next == Next::Newest {
                        touch(records, publication);
                    }
                }
            }
            if let Some(body) = published {
                records.keep_body(publication, body);
            }
            let lane = records.take_lane(presentity);
            if !lane {
                self.drop_if_idle(records, presentity);
            }
            lane.then_some(LaneRef { shard: shard as u16, presentity })
        })
        .ok()
        .flatten()
    }

    /// Gives a claim up: everything is as before.
    pub fn abort_publication(&self, pending: Pending<M>) {
        let _ = self.with(pending.shard, |records| {
            if let Some(record) = pending.replaced.and_then(|id| records.publications.get_mut(id)) {
                record.phase = PublicationPhase::Live;
            }
            if pending.step == Step::Create {
                records.remove_publication(pending.publication);
                self.drop_if_idle(records, pending.presentity);
            } else if let Some(record) = records.publications.get_mut(pending.publication) {
                record.phase = PublicationPhase::Live;
            }
        });
    }
}

/// The claimed change takes effect. The publication becomes the newest, unless
/// it is only refreshed: then nothing changes for the watchers.
fn enter<M: Memory>(records: &mut Shard<M>, pending: Pending<M>) {
    let id = pending.publication;
    let moves = pending.change.next != Next::Refreshed;
    if records.publications.get(id).is_some_and(|it| it.phase == PublicationPhase::Reserved) {
        records.publication_counted(pending.presentity, true);
    }
    if let Some(block) = pending.block {
        records.set_block(id, block, moves);
    }
    if let Some(record) = records.publications.get_mut(id) {
        if let Some(facts) = pending.facts {
            record.facts = facts;
        }
        record.expires_at = pending.expires_at.map(Seconds::from);
        if moves {
            record.received = pending.now.into();
        }
        record.priority = pending.priority;
        record.phase = PublicationPhase::Live;
    }
    records.schedule_end(id, pending.expires_at);
    if moves && let Some(owner) = records.presentities.get_mut(pending.presentity) {
        owner.publications.unlink(&mut records.publications, id);
        owner.publications.push_back(&mut records.publications, id);
    }
}

/// A publication has changed in its presentity's current state version.
fn touch<M: Memory>(records: &mut Shard<M>, publication: Id<Publication<M>>) {
    let Some(record) = records.publications.get_mut(publication) else { return };
    if let Some(owner) = records.presentities.get(record.presentity) {
        record.state_version = owner.state_version;
    }
}

/// Gives a publication that ends the document that the database has kept.
fn keep_document<M: Memory>(
    records: &mut Shard<M>,
    id: Id<Publication<M>>,
    document: Option<&[u8]>,
) {
    if let Some(body) = document {
        // Without memory it is not shown again.
        let _ = records.set_document(id, body);
    }
}

fn stored<M: Memory>(
    records: &Shard<M>,
    id: Id<Publication<M>>,
) -> Result<PublicationRowKey, Fault> {
    let record = records.publications.get(id).ok_or(Fault::Host)?;
    let key = records.key_of(record.presentity).ok_or(Fault::Host)?;
    let block = record.block();
    let key = match block.user() {
        b"" => key,
        user => PresentityKey { user: user.to_vec(), ..key },
    };
    Ok(PublicationRowKey { entity_tag: block.entity_tag(), sender: block.sender().to_vec(), key })
}
