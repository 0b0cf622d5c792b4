//! Documents that are kept in memory beside their rows (`publ_cache=1`), so
//! that they need not be read back for every NOTIFY. How much is kept is
//! bounded (`publ_cache_bodies`); the ones kept longest go first.

use crate::error::Fault;
use crate::presence::presentity::PresentityKey;
use crate::shm::{Heap, Id, List, Memory, Slab, Unkeyed};
use crate::store::Store;
use crate::store::records::{Cached, Document, Publication, PublicationPhase};
use crate::store::shard::Shard;

/// One document takes at most this part of what may be kept.
const LARGEST: usize = 8;

/// The documents of one shard that its database keeps as well.
pub struct Documents<M: Memory> {
    documents: Slab<Document<M>, M, Unkeyed>,
    /// Those that may go when there is no room; the ones kept longest first.
    list: List<Document<M>, Cached>,
    bytes: usize,
    most: usize,
}

impl<M: Memory> Documents<M> {
    /// Up to `most` bytes are kept; with 0 none.
    pub fn new(heap: &'static Heap<M>, most: usize) -> Documents<M> {
        Documents { documents: Slab::new(heap), list: List::new(), bytes: 0, most }
    }

    /// A document goes. One that counts as kept does not.
    pub fn remove(&mut self, id: Id<Document<M>>) {
        self.documents.remove(id);
    }
}

impl<M: Memory> Shard<M> {
    /// The document of a publication, if it is in memory.
    pub fn body<'a>(&'a self, record: &'a Publication<M>) -> &'a [u8] {
        match record.document.and_then(|id| self.documents.documents.get(id)) {
            Some(document) => &document.body,
            None => record.block().body(),
        }
    }

    /// Keeps the document of a publication, if there is room; what was kept of
    /// it before goes.
    pub(in crate::store) fn keep_body(&mut self, id: Id<Publication<M>>, body: &[u8]) {
        self.forget_body(id);
        if body.is_empty() || body.len() > self.documents.most / LARGEST {
            return;
        }
        while self.documents.bytes + body.len() > self.documents.most {
            let all = &self.documents;
            let oldest = all.list.front().and_then(|oldest| all.documents.get(oldest));
            let Some(publication) = oldest.map(|document| document.publication) else { break };
            self.forget_body(publication);
        }
        let Ok(document) = self.set_document(id, body) else { return };
        self.documents.bytes += body.len();
        self.documents.list.push_back(&mut self.documents.documents, document);
    }

    /// Gives a publication a document beside its row that stays as long as the
    /// publication does.
    pub(in crate::store) fn set_document(
        &mut self,
        id: Id<Publication<M>>,
        body: &[u8],
    ) -> Result<Id<Document<M>>, Fault> {
        let blob = self.blob(body)?;
        self.release_body(id);
        let record = self.publications.get_mut(id).ok_or(Fault::Host)?;
        let documents = &mut self.documents.documents;
        if let Some(known) = record.document
            && let Some(document) = documents.get_mut(known)
        {
            document.body = blob;
            return Ok(known);
        }
        let document = Document { publication: id, body: blob, cached: Default::default() };
        let added = documents.insert(document).map_err(|_| Fault::SharedMemory)?;
        record.document = Some(added);
        Ok(added)
    }

    /// The document of a publication is to be read from its row again.
    pub(in crate::store) fn forget_body(&mut self, id: Id<Publication<M>>) {
        if self.release_body(id)
            && let Some(record) = self.publications.get_mut(id)
            && let Some(document) = record.document.take()
        {
            self.documents.remove(document);
        }
    }

    /// A document does not count as kept any more; true if it did.
    pub(in crate::store) fn release_body(&mut self, id: Id<Publication<M>>) -> bool {
        let Some(document) = self.publications.get(id).and_then(|record| record.document) else {
            return false;
        };
        let all = &mut self.documents;
        let kept = all.list.unlink(&mut all.documents, document);
        if let Some(document) = all.documents.get(document).filter(|_| kept) {
            all.bytes -= document.body.len().min(all.bytes);
        }
        kept
    }
}

impl<M: Memory> Store<M> {
    /// Documents of a presentity that were read from their rows. One whose
    /// entity-tag is another one now is out of date.
    pub fn remember_bodies<'a>(
        &self,
        key: &PresentityKey,
        read: impl Iterator<Item = (&'a [u8], &'a [u8])>,
    ) {
        let hash = self.presentity_hash(&key.identity, key.package);
        let _ = self.with(self.shard_of(&key.identity), |records| {
            let Some(owner) = records.find(key, hash) else { return };
            for (tag, body) in read {
                let Some(id) = records.with_tag(owner, tag) else { continue };
                let wanted = records.publications.get(id).is_some_and(|record| {
                    record.phase == PublicationPhase::Live && records.body(record).is_empty()
                });
                if wanted {
                    records.keep_body(id, body);
                }
            }
        });
    }

    /// The rows of a presentity may have been changed by hand.
    pub fn forget_bodies(&self, key: &PresentityKey) {
        let hash = self.presentity_hash(&key.identity, key.package);
        let _ = self.with(self.shard_of(&key.identity), |records| {
            let owner = records.find(key, hash).and_then(|id| records.presentities.get(id));
            let Some(owner) = owner else { return };
            let all: Vec<_> = owner.living(&records.publications).map(|(id, _)| id).collect();
            for id in all {
                records.forget_body(id);
            }
        });
    }

    /// The document that a publication has in memory.
    pub fn body_of(&self, key: &PresentityKey, tag: &[u8]) -> Option<Vec<u8>> {
        let hash = self.presentity_hash(&key.identity, key.package);
        self.with(self.shard_of(&key.identity), |records| {
            let owner = records.find(key, hash)?;
            let record = records.publications.get(records.with_tag(owner, tag)?)?;
            let body = records.body(record);
            (!body.is_empty()).then(|| body.to_vec())
        })
        .ok()
        .flatten()
    }
}
