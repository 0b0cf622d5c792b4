//! Publications by the names that peers give them.

use crate::presence::presentity::PresentityKey;
use crate::presence::publication::PublicationCopy;
use crate::shm::{Id, Memory};
use crate::store::Store;
use crate::store::lanes::copy_publication;
use crate::store::records::{Publication, PublicationPhase};
use crate::store::shard::Shard;

use super::Pending;

/// What a peer calls a publication; empty texts name none.
#[derive(Debug, Clone, Copy)]
pub struct Names<'a> {
    /// Its id, which stays; but some servers give it another one with each change.
    pub ruid: &'a [u8],
    /// Its entity-tags, before the change and after it.
    pub tags: [&'a [u8]; 2],
}

impl<M: Memory> Store<M> {
    /// The publication of a presentity with this id, or else with one of these
    /// entity-tags, the first one first.
    pub fn find_publication(
        &self,
        key: &PresentityKey,
        names: Names<'_>,
    ) -> Option<PublicationCopy> {
        let hash = self.presentity_hash(&key.identity, key.package);
        let found = self.with(self.shard_of(&key.identity), |records| {
            let presentity = records.find(key, hash)?;
            let mut by_tag = names.tags.iter().filter(|tag| !tag.is_empty()).filter_map(|tag| {
                let id = records.with_tag(presentity, tag)?;
                living(records, id)
            });
            let first = by_tag.next();
            let has_ruid = |record: &&Publication<M>| record.block().ruid() == names.ruid;
            // Most often the tag is known, and no other publication need be looked at.
            let record = match first.filter(|record| names.ruid.is_empty() || has_ruid(record)) {
                Some(record) => Some(record),
                None => {
                    let owner = records.presentities.get(presentity)?;
                    let mut all = owner.living(&records.publications);
                    let same = all.find(|(_, record)| !names.ruid.is_empty() && has_ruid(record));
                    same.map(|(_, record)| record).or(first)
                }
            }?;
            Some(copy_publication(records, record))
        });
        found.ok().flatten()
    }

    /// The id of a publication that is being changed.
    pub fn ruid_of(&self, pending: &Pending<M>) -> Vec<u8> {
        let ruid = self.with(pending.shard, |records| {
            records.publications.get(pending.publication).map(|record| record.block().ruid())
        });
        ruid.ok().flatten().unwrap_or_default()
    }
}

fn living<M: Memory>(records: &Shard<M>, id: Id<Publication<M>>) -> Option<&Publication<M>> {
    records.publications.get(id).filter(|record| {
        matches!(record.phase, PublicationPhase::Live | PublicationPhase::Changing)
    })
}
