//! Finds the publications of those presentities that have many of them. The
//! others, which are nearly all, are walked, and take no memory here.
//!
//! All living publications of a presentity are in the index, or none is.

use crate::error::Fault;
use crate::presence::publication::transition::is_same_dialog;
use crate::shm::{
    Blob, HashIndex, Heap, Id, KeyedHash, Linked, Links, List, Memory, Slab, Uncounted, Unkeyed,
};
use crate::store::publication_block::PackedTag;
use crate::store::records::{Presentity, Publication, PublicationPhase};
use crate::store::shard::Shard;
use std::num::NonZeroU32;

/// So many publications of a presentity are walked.
const FEW: usize = 16;

/// List membership: publications of the same first dialog.
#[derive(Debug)]
struct SameDialog;

/// A publication in the index.
struct Entry<M: Memory> {
    publication: Id<Publication<M>>,
    /// Place among those of the same dialog, in the order of the publications.
    same_dialog: Links<Entry<M>>,
}

impl<M: Memory> Linked<SameDialog> for Entry<M> {
    fn links(&self) -> &Links<Self> {
        &self.same_dialog
    }
    fn links_mut(&mut self) -> &mut Links<Self> {
        &mut self.same_dialog
    }
}

type Dialog<M> = List<Entry<M>, SameDialog, Uncounted>;

/// The index of one shard.
pub struct PublicationIndex<M: Memory> {
    hash: KeyedHash,
    entries: Slab<Entry<M>, M, Unkeyed>,
    /// By presentity and entity-tag.
    tags: HashIndex<Id<Entry<M>>, M>,
    /// By presentity and dialog the first one of it. Once there is one, or is to
    /// be, there is room for all entries.
    dialogs: HashIndex<Id<Entry<M>>, M>,
    /// By presentity how many of its publications are in the index.
    counts: HashIndex<NonZeroU32, M>,
}

impl<M: Memory> PublicationIndex<M> {
    /// An empty index, which owns no memory.
    pub fn new(heap: &'static Heap<M>, hash: KeyedHash) -> PublicationIndex<M> {
        PublicationIndex {
            hash,
            entries: Slab::new(heap),
            tags: HashIndex::new(heap),
            dialogs: HashIndex::new(heap),
            counts: HashIndex::new(heap),
        }
    }

    fn count(&self, owner: Id<Presentity<M>>) -> u32 {
        self.counts.find(self.place(owner, b""), |_| true).map_or(0, NonZeroU32::get)
    }

    fn one_more(&mut self, owner: Id<Presentity<M>>) -> Result<(), Fault> {
        let place = self.place(owner, b"");
        match self.counts.find(place, |_| true) {
            Some(count) => {
                self.counts.replace(place, count.saturating_add(1), |_| true);
                Ok(())
            }
            None => Ok(self.counts.insert(place, NonZeroU32::MIN)?),
        }
    }

    fn one_less(&mut self, owner: Id<Presentity<M>>) {
        let place = self.place(owner, b"");
        match NonZeroU32::new(self.count(owner).saturating_sub(1)) {
            Some(left) => self.counts.replace(place, left, |_| true),
            None => self.counts.remove(place, |_| true),
        };
    }

    fn place(&self, owner: Id<Presentity<M>>, text: &[u8]) -> u64 {
        self.hash.hash_parts(&[&owner.index().to_le_bytes(), text])
    }
}

impl<M: Memory> Shard<M> {
    /// Publications of a presentity that have not ended, those being created
    /// included.
    pub(in crate::store) fn published(&self, presentity: Id<Presentity<M>>) -> u32 {
        match self.presentities.get(presentity) {
            Some(owner) if owner.is_indexed => self.index.count(presentity),
            Some(owner) => owner.publications.iter(&self.publications).count() as u32,
            None => 0,
        }
    }

    /// The publication of a presentity with this entity-tag that has not ended.
    pub(in crate::store) fn with_tag(
        &self,
        presentity: Id<Presentity<M>>,
        tag: &[u8],
    ) -> Option<Id<Publication<M>>> {
        let owner = self.presentities.get(presentity)?;
        let packed = PackedTag::new(tag).ok()?;
        if !owner.is_indexed {
            let mut all = owner.publications.iter(&self.publications);
            return all.find(|(_, record)| packed.is_of(&record.block)).map(|(id, _)| id);
        }
        let index = &self.index;
        let entry = index.tags.find(index.place(presentity, tag), |entry| {
            self.of_entry(entry).is_some_and(|(_, record)| {
                record.presentity == presentity && packed.is_of(&record.block)
            })
        })?;
        self.of_entry(entry).map(|(id, _)| id)
    }

    /// The first living publication of a presentity that is about this dialog
    /// and that no request is changing.
    pub(in crate::store) fn with_dialog(
        &self,
        presentity: Id<Presentity<M>>,
        dialog_id: &[u8],
    ) -> Option<Id<Publication<M>>> {
        if dialog_id.is_empty() {
            return None;
        }
        let owner = self.presentities.get(presentity)?;
        let is_free = |record: &Publication<M>| record.phase == PublicationPhase::Live;
        if !owner.is_indexed {
            let mut all = owner.publications.iter(&self.publications);
            return all
                .find(|(_, record)| {
                    is_free(record) && is_same_dialog(dialog_id, record.block().dialog_id())
                })
                .map(|(id, _)| id);
        }
        let first = self.first_of_dialog(presentity, dialog_id);
        let all = Dialog::<M>::starting_at(first);
        let mut all = all.iter(&self.index.entries).map(|(_, entry)| entry.publication);
        all.find(|id| self.publications.get(*id).is_some_and(is_free))
    }

    /// A publication was added to its presentity's list, which may make it one
    /// that has many.
    pub(in crate::store) fn index_publication(
        &mut self,
        id: Id<Publication<M>>,
    ) -> Result<(), Fault> {
        let Some(record) = self.publications.get(id) else { return Ok(()) };
        let presentity = record.presentity;
        let Some(owner) = self.presentities.get(presentity) else { return Ok(()) };
        if owner.is_indexed {
            return self.enter_index(id);
        }
        if owner.publications.iter(&self.publications).nth(FEW).is_none() {
            return Ok(());
        }
        let all: Vec<_> = owner.publications.iter(&self.publications).map(|(id, _)| id).collect();
        for (n, id) in all.iter().enumerate() {
            if let Err(full) = self.enter_index(*id) {
                all.iter().take(n).for_each(|id| self.remove_entry(*id));
                return Err(full);
            }
        }
        if let Some(owner) = self.presentities.get_mut(presentity) {
            owner.is_indexed = true;
        }
        Ok(())
    }

    /// Makes sure that a publication can become one of any dialog without more
    /// memory, until it ends.
    pub(in crate::store) fn reserve_dialog(
        &mut self,
        id: Id<Publication<M>>,
        dialog_id: &[u8],
    ) -> Result<(), Fault> {
        if self.is_indexed(id) && !dialog_id.is_empty() {
            self.index.dialogs.reserve(self.index.entries.len())?;
        }
        Ok(())
    }

    /// Gives a publication other text; for another dialog room was reserved.
    /// `moved`: it goes to the end of its presentity's publications.
    pub(in crate::store) fn set_block(
        &mut self,
        id: Id<Publication<M>>,
        block: Blob<M>,
        moved: bool,
    ) {
        let entry = if self.is_indexed(id) { self.entry_of(id) } else { None };
        let Some(record) = self.publications.get_mut(id) else { return };
        let Some(entry) = entry else {
            record.block = block;
            return;
        };
        let owner = record.presentity;
        let (old_tag, old_dialog) =
            (record.block().entity_tag(), record.block().dialog_id().to_vec());
        let new = crate::store::publication_block::Block::new(&block);
        let (new_tag, new_dialog) = (new.entity_tag(), new.dialog_id().to_vec());
        let rejoins = moved || old_dialog != new_dialog;
        if rejoins {
            self.leave_dialog(owner, &old_dialog, entry);
        }
        if let Some(record) = self.publications.get_mut(id) {
            record.block = block;
        }
        let index = &mut self.index;
        let (old, new) = (index.place(owner, &old_tag), index.place(owner, &new_tag));
        index.tags.rekey(old, new, |known| known == entry);
        if rejoins {
            // There is room.
            let _ = self.join_dialog(owner, &new_dialog, entry);
        }
    }

    /// A publication went to the end of its presentity's list.
    pub(in crate::store) fn moved_in_index(&mut self, id: Id<Publication<M>>) {
        let Some(record) = self.publications.get(id).filter(|_| self.is_indexed(id)) else {
            return;
        };
        let (owner, dialog) = (record.presentity, record.block().dialog_id().to_vec());
        if let Some(entry) = self.entry_of(id) {
            self.leave_dialog(owner, &dialog, entry);
            let _ = self.join_dialog(owner, &dialog, entry);
        }
    }

    /// A publication ends or goes.
    pub(in crate::store) fn leave_index(&mut self, id: Id<Publication<M>>) {
        if self.is_indexed(id) {
            self.remove_entry(id);
        }
    }

    fn remove_entry(&mut self, id: Id<Publication<M>>) {
        let Some(entry) = self.entry_of(id) else { return };
        let Some(record) = self.publications.get(id) else { return };
        let (owner, tag) = (record.presentity, record.block().entity_tag());
        let dialog = record.block().dialog_id().to_vec();
        self.leave_dialog(owner, &dialog, entry);
        let index = &mut self.index;
        let place = index.place(owner, &tag);
        index.tags.remove(place, |known| known == entry);
        index.entries.remove(entry);
        index.one_less(owner);
        index.dialogs.trim(index.entries.len());
    }

    /// The publication has not ended, and its presentity is one that has many.
    fn is_indexed(&self, id: Id<Publication<M>>) -> bool {
        self.publications.get(id).is_some_and(|record| {
            let owner = self.presentities.get(record.presentity);
            !record.phase.is_final_publication() && owner.is_some_and(|owner| owner.is_indexed)
        })
    }

    fn enter_index(&mut self, id: Id<Publication<M>>) -> Result<(), Fault> {
        let Some(record) = self.publications.get(id) else { return Ok(()) };
        let (owner, block) = (record.presentity, record.block());
        let (tag, dialog) = (block.entity_tag(), block.dialog_id().to_vec());
        let is_changing = record.phase == PublicationPhase::Changing;
        let index = &mut self.index;
        index.one_more(owner)?;
        let entry = Entry { publication: id, same_dialog: Links::new() };
        let Ok(entry) = index.entries.insert(entry) else {
            index.one_less(owner);
            return Err(Fault::SharedMemory);
        };
        let place = index.place(owner, &tag);
        if let Err(full) = index.tags.insert(place, entry) {
            index.entries.remove(entry);
            index.one_less(owner);
            return Err(full.into());
        }
        // One that a request is changing may be about to get a dialog.
        let reserved = match is_changing {
            true => index.dialogs.reserve(index.entries.len()).map_err(Fault::from),
            false => Ok(()),
        };
        if let Err(full) = reserved.and_then(|()| self.join_dialog(owner, &dialog, entry)) {
            self.index.tags.remove(place, |known| known == entry);
            self.index.entries.remove(entry);
            self.index.one_less(owner);
            return Err(full);
        }
        Ok(())
    }

    fn entry_of(&self, id: Id<Publication<M>>) -> Option<Id<Entry<M>>> {
        let record = self.publications.get(id)?;
        let place = self.index.place(record.presentity, &record.block().entity_tag());
        self.index.tags.find(place, |entry| {
            self.index.entries.get(entry).is_some_and(|entry| entry.publication == id)
        })
    }

    fn of_entry(&self, entry: Id<Entry<M>>) -> Option<(Id<Publication<M>>, &Publication<M>)> {
        let id = self.index.entries.get(entry)?.publication;
        Some((id, self.publications.get(id)?))
    }

    fn first_of_dialog(&self, owner: Id<Presentity<M>>, dialog_id: &[u8]) -> Option<Id<Entry<M>>> {
        let place = self.index.place(owner, dialog_id);
        self.index.dialogs.find(place, |entry| {
            self.of_entry(entry).is_some_and(|(_, record)| {
                record.presentity == owner && record.block().dialog_id() == dialog_id
            })
        })
    }

    fn join_dialog(
        &mut self,
        owner: Id<Presentity<M>>,
        dialog_id: &[u8],
        entry: Id<Entry<M>>,
    ) -> Result<(), Fault> {
        if dialog_id.is_empty() {
            return Ok(());
        }
        let first = self.first_of_dialog(owner, dialog_id).filter(|first| *first != entry);
        let index = &mut self.index;
        if first.is_none() {
            index.dialogs.reserve(index.entries.len())?;
            let place = index.place(owner, dialog_id);
            index.dialogs.insert(place, entry)?;
        }
        Dialog::<M>::starting_at(first).push_back(&mut index.entries, entry);
        Ok(())
    }

    /// The publication still has the text that it joined with.
    fn leave_dialog(&mut self, owner: Id<Presentity<M>>, dialog_id: &[u8], entry: Id<Entry<M>>) {
        let Some(first) = self.first_of_dialog(owner, dialog_id).filter(|_| !dialog_id.is_empty())
        else {
            return;
        };
        let index = &mut self.index;
        let place = index.place(owner, dialog_id);
        let mut all = Dialog::<M>::starting_at(Some(first));
        all.unlink(&mut index.entries, entry);
        match all.front() {
            None => drop(index.dialogs.vacate(place, |known| known == entry)),
            Some(next) if first == entry => {
                index.dialogs.replace(place, next, |known| known == entry);
            }
            Some(_) => {}
        }
    }
}
