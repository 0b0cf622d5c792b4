//! Documents that are kept in memory beside their rows (`publ_cache=1`), so
//! that they need not be read back for every NOTIFY. How much is kept is
//! bounded (`publ_cache_bodies`); the ones kept longest go first.

use crate::shm::{Blob, Id, List, Memory};
use crate::store::Store;
use crate::store::records::{Kept, Publication, PublicationPhase};
use crate::store::shard::{PresentityKey, Shard};

use super::with_tag;

/// One document takes at most this part of what may be kept.
const LARGEST: usize = 8;

/// The documents of one shard that are kept.
pub struct Bodies<M: Memory> {
    list: List<Publication<M>, Kept>,
    bytes: usize,
    most: usize,
}

impl<M: Memory> Bodies<M> {
    /// Up to `most` bytes are kept; with 0 none.
    pub fn new(most: usize) -> Bodies<M> {
        Bodies { list: List::new(), bytes: 0, most }
    }
}

impl<M: Memory> Shard<M> {
    /// Keeps the document of a publication, if there is room; what was kept of
    /// it before goes.
    pub(in crate::store) fn keep_body(&mut self, id: Id<Publication<M>>, body: &[u8]) {
        self.forget_body(id);
        if body.is_empty() || body.len() > self.bodies.most / LARGEST {
            return;
        }
        while self.bodies.bytes + body.len() > self.bodies.most {
            let Some(oldest) = self.bodies.list.front() else { break };
            self.forget_body(oldest);
        }
        let Ok(blob) = self.blob(body) else { return };
        let Some(record) = self.publications.get_mut(id) else { return };
        record.body = blob;
        record.is_kept = true;
        self.bodies.bytes += body.len();
        self.bodies.list.push_back(&mut self.publications, id);
    }

    /// The document of a publication is to be read from its row again.
    pub(in crate::store) fn forget_body(&mut self, id: Id<Publication<M>>) {
        if self.release_body(id)
            && let Some(record) = self.publications.get_mut(id)
        {
            record.body = Blob::default();
        }
    }

    /// A document does not count as kept any more; true if it did.
    pub(in crate::store) fn release_body(&mut self, id: Id<Publication<M>>) -> bool {
        let Some(record) = self.publications.get_mut(id).filter(|record| record.is_kept) else {
            return false;
        };
        record.is_kept = false;
        self.bodies.bytes -= record.body.len().min(self.bodies.bytes);
        self.bodies.list.unlink(&mut self.publications, id);
        true
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
                let Some(id) = with_tag(records, owner, tag) else { continue };
                let wanted = records.publications.get(id).is_some_and(|record| {
                    record.phase == PublicationPhase::Live && record.body.is_empty()
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
            let all: Vec<_> =
                owner.publications.iter(&records.publications).map(|(id, _)| id).collect();
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
            let record = records.publications.get(with_tag(records, owner, tag)?)?;
            (!record.body.is_empty()).then(|| record.body.to_vec())
        })
        .ok()
        .flatten()
    }
}
