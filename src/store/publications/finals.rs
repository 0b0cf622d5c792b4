//! Final publications: what has ended, or was replaced in a final state, and
//! some watchers have yet to see. `presence::publication::transition` says which
//! do; here they are kept.

use crate::error::Fault;
use crate::presence::publication::PublicationCopy;
use crate::presence::publication::transition::{CurrentPublication, FanOut, FinalForm, Watchers};
use crate::presence::state_version::StateVersion;
use crate::shm::{Blob, Id, Memory};
use crate::store::lanes::forget_seen;
use crate::store::publication_block::Parts;
use crate::store::records::{Presentity, Publication, PublicationPhase, Seconds};
use crate::store::shard::Shard;

use super::{pack, repack};

/// KiB that final publications of one presentity take while watchers have yet to
/// see them (A14). Beyond that no other one ends: a request has to come again,
/// what has run out waits.
const MOST: u16 = 16 << 10;

/// What a record counts beside its document.
const RECORD_BYTES: usize = 256;

impl<M: Memory> Shard<M> {
    /// A publication as its transitions see it. Its document may be in its row.
    pub(in crate::store) fn stored<'a>(
        &'a self,
        record: &'a Publication<M>,
    ) -> CurrentPublication<'a> {
        let owner = self.presentities.get(record.presentity);
        CurrentPublication {
            facts: record.facts,
            sender: Some(record.block().sender()),
            has_document: true,
            unseen: owner.is_some_and(|owner| record.state_version.is_after(owner.completed)),
        }
    }

    /// Those who watch a presentity.
    pub(in crate::store) fn watchers_of(&self, id: Id<Presentity<M>>) -> Watchers {
        let backlogged = self.presentities.get(id).is_some_and(|owner| owner.finals_kib >= MOST);
        Watchers { any: self.may_be_watched(id), backlogged }
    }

    /// Ends a publication: it leaves the state, and becomes a final one if
    /// watchers have to see that.
    pub(in crate::store) fn end_publication(
        &mut self,
        id: Id<Publication<M>>,
        closing: bool,
        fan_out: FanOut,
        sender: &[u8],
    ) {
        let Some(record) = self.publications.get(id) else { return };
        let owner = record.presentity;
        let has_document = !self.body(record).is_empty();
        let stored = CurrentPublication { has_document, ..self.stored(record) };
        match stored.ends(closing, self.watchers_of(owner)) {
            Some(shown) => self.becomes_final(id, shown),
            None => self.remove_publication(id),
        }
        self.publications_changed(owner, fan_out, sender);
    }

    fn becomes_final(&mut self, id: Id<Publication<M>>, shown: FinalForm) {
        self.publication_expiry.cancel(&mut self.publications, id);
        self.leave_index(id);
        self.release_body(id);
        let Some(owner_id) = self.publications.get(id).map(|record| record.presentity) else {
            return;
        };
        self.publication_counted(owner_id, false);
        let Some(owner) = self.presentities.get_mut(owner_id) else { return };
        let next = owner.state_version.next();
        owner.publications.unlink(&mut self.publications, id);
        owner.is_indexed &= !owner.publications.is_empty();
        if let Some(record) = self.publications.get_mut(id) {
            (record.phase, record.state_version) = as_final(shown, record.state_version, next);
        }
        self.add_final(id);
    }

    /// A publication is about to be modified: its former state stays as a final
    /// publication if watchers have to see that. `document` is the one that the
    /// database has kept.
    pub(in crate::store) fn keep_former(
        &mut self,
        id: Id<Publication<M>>,
        document: Option<&[u8]>,
    ) {
        let Some(record) = self.publications.get(id) else { return };
        let document = document.unwrap_or_else(|| self.body(record));
        let stored =
            CurrentPublication { has_document: !document.is_empty(), ..self.stored(record) };
        let Some(shown) = stored.ends(false, self.watchers_of(record.presentity)) else { return };
        let block = record.block();
        let parts = Parts {
            entity_tag: &block.entity_tag(),
            sender: block.sender(),
            dialog_id: block.dialog_id(),
            body: document,
            ..Parts::default()
        };
        // Without memory for the copy the watchers see the newer state at once.
        let Ok(copy) = repack(self, &block, &parts) else { return };
        let (owner, received, priority) = (record.presentity, record.received, record.priority);
        let when = (record.state_version, received, priority);
        let _ = self.insert_final(owner, copy, shown, when);
    }

    /// A publication that was read from its row has ended.
    pub(in crate::store) fn keep_row(
        &mut self,
        presentity: Id<Presentity<M>>,
        from: &PublicationCopy,
        shown: FinalForm,
    ) -> Result<(), Fault> {
        let parts = Parts {
            entity_tag: &from.entity_tag,
            sender: &from.sender,
            ruid: &from.ruid,
            user: b"",
            dialog_id: b"",
            body: &from.body,
        };
        let block = pack(self, &parts)?;
        let Some(owner) = self.presentities.get(presentity) else { return Ok(()) };
        let when = (owner.state_version, from.received.into(), from.priority);
        self.insert_final(presentity, block, shown, when)
    }

    fn insert_final(
        &mut self,
        presentity: Id<Presentity<M>>,
        block: Blob<M>,
        shown: FinalForm,
        (changed, received, priority): (StateVersion, Seconds, i32),
    ) -> Result<(), Fault> {
        let Some(owner) = self.presentities.get(presentity) else { return Ok(()) };
        let (phase, state_version) = as_final(shown, changed, owner.state_version.next());
        let record = Publication {
            received,
            priority,
            state_version,
            ..Publication::new(presentity, block, phase)
        };
        let id = self.publications.insert(record).map_err(|_| Fault::SharedMemory)?;
        self.add_final(id);
        Ok(())
    }

    fn add_final(&mut self, id: Id<Publication<M>>) {
        let Some(record) = self.publications.get(id) else { return };
        let (presentity, weight) = (record.presentity, self.weight(record));
        if let Some(owner) = self.presentities.get_mut(presentity) {
            owner.finals.push_back(&mut self.publications, id);
            owner.finals_kib = owner.finals_kib.saturating_add(weight);
        }
    }

    /// Published state has changed. `sender` has done that (empty: nobody to be
    /// excluded).
    pub(in crate::store) fn publications_changed(
        &mut self,
        id: Id<Presentity<M>>,
        fan_out: FanOut,
        sender: &[u8],
    ) {
        match fan_out {
            FanOut::None => {}
            FanOut::Silent => {
                let before =
                    self.presentities.get(id).map(|owner| (owner.completed, owner.state_version));
                self.state_changed(id, sender);
                if let (Some((completed, state_version)), Some(owner)) =
                    (before, self.presentities.get_mut(id))
                    && completed == state_version
                {
                    owner.completed = owner.state_version;
                    // Otherwise the lane's owner forgets what is not notified.
                    if owner.lane.owners() == 0 {
                        forget_seen(self, id);
                    }
                }
            }
            FanOut::Watchers { urgent } => {
                self.state_changed(id, sender);
                // For the fan-out over those that are read.
                if urgent && let Some(extra) = self.extra_mut(id) {
                    extra.rows.urgent = true;
                }
            }
        }
    }

    /// Forgets final publications that all watchers have seen: those up to a
    /// state version, or all.
    pub fn drop_finals(&mut self, id: Id<Presentity<M>>, up_to: Option<StateVersion>) {
        let first = |shard: &Self| shard.presentities.get(id)?.finals.front();
        while let Some(ended) = first(self) {
            let seen = self.publications.get(ended).is_none_or(|record| {
                up_to.is_none_or(|state_version| !record.state_version.is_after(state_version))
            });
            if !seen {
                break;
            }
            self.remove_publication(ended);
        }
    }

    /// What a final publication takes, in KiB.
    pub(in crate::store) fn weight(&self, record: &Publication<M>) -> u16 {
        u16::try_from((self.body(record).len() + RECORD_BYTES).div_ceil(1024)).unwrap_or(u16::MAX)
    }
}

/// Phase and state version of a final publication: one shown closed has changed in the
/// next state version, one shown as it was in that of its latest change.
fn as_final(
    shown: FinalForm,
    changed: StateVersion,
    next: StateVersion,
) -> (PublicationPhase, StateVersion) {
    match shown {
        FinalForm::Closed => (PublicationPhase::Closing, next),
        FinalForm::AsItWas => (PublicationPhase::Superseded, changed),
    }
}
