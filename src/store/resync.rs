//! Brings the index of publications in line with rows that somebody has
//! changed behind it, and makes watchers look again.

use crate::error::Fault;
use crate::presence::publication::Text;
use crate::presence::text;
use crate::shm::Memory;
use crate::store::publications::{Change, with_tag};
use crate::store::records::PublicationPhase;
use crate::store::shard::PresentityKey;
use crate::store::{LaneRef, Store};

impl<M: Memory> Store<M> {
    /// A presentity has a publication of this entity-tag, also when a request is
    /// just changing it.
    pub fn has_publication(&self, key: &PresentityKey, tag: &[u8]) -> bool {
        let hash = self.presentity_hash(&key.identity, key.package);
        self.with(self.shard_of(&key.identity), |records| {
            let found = records.find(key, hash).and_then(|owner| with_tag(records, owner, tag));
            found.and_then(|id| records.publications.get(id)).is_some_and(|record| {
                matches!(record.phase, PublicationPhase::Live | PublicationPhase::Changing)
            })
        })
        .unwrap_or(false)
    }

    /// The entity-tags of a presentity's publications, those that a request is
    /// just changing left out.
    pub fn entity_tags(&self, key: &PresentityKey) -> Vec<Vec<u8>> {
        let hash = self.presentity_hash(&key.identity, key.package);
        self.with(self.shard_of(&key.identity), |records| {
            let owner = records.find(key, hash).and_then(|id| records.presentities.get(id));
            let Some(owner) = owner else { return Vec::new() };
            owner
                .publications
                .iter(&records.publications)
                .filter(|(_, record)| record.phase == PublicationPhase::Live)
                .map(|(_, record)| record.text(Text::EntityTag).to_vec())
                .collect()
        })
        .unwrap_or_default()
    }

    /// Enters a row into the index. `known`: it was there before the row was
    /// read; if it is gone now, so is the row. True if something is different
    /// now.
    pub fn sync_publication(
        &self,
        key: &PresentityKey,
        row: &Change<'_>,
        known: bool,
    ) -> Result<bool, Fault> {
        let hash = self.presentity_hash(&key.identity, key.package);
        let changed = self.with(self.shard_of(&key.identity), |records| -> Result<_, Fault> {
            let Some(id) =
                records.find(key, hash).and_then(|owner| with_tag(records, owner, row.entity_tag))
            else {
                return Ok(None);
            };
            let Some(record) = records.publications.get(id) else { return Ok(Some(false)) };
            if record.phase != PublicationPhase::Live {
                return Ok(Some(false));
            }
            let sender = row.sender.unwrap_or_default();
            let same_text = record.text(Text::Ruid) == row.ruid
                && record.text(Text::Sender) == sender
                && record.text(Text::DialogId) == row.dialog_id;
            let same = same_text
                && record.expires_at == row.expires_at
                && record.priority == row.priority
                && record.received == row.now;
            if same {
                return Ok(Some(false));
            }
            let text = match same_text {
                true => None,
                false => {
                    let packed = text::pack::<Text>(|n| match Text::ALL[n] {
                        Text::EntityTag => row.entity_tag,
                        Text::Sender => sender,
                        Text::Ruid => row.ruid,
                        Text::DialogId => row.dialog_id,
                    });
                    Some(records.blob(&packed.map_err(|_| Fault::Host)?)?)
                }
            };
            if let Some(record) = records.publications.get_mut(id) {
                if let Some(text) = text {
                    record.text = text;
                }
                record.expires_at = row.expires_at;
                record.priority = row.priority;
                record.received = row.now;
                record.facts = row.facts.unwrap_or_default();
            }
            match row.expires_at {
                Some(at) => {
                    records.publication_expiry.schedule(&mut records.publications, id, at);
                }
                None => {
                    records.publication_expiry.cancel(&mut records.publications, id);
                }
            }
            Ok(Some(true))
        })?;
        match changed? {
            Some(changed) => Ok(changed),
            None if known => Ok(false),
            None => self.restore_publication(key, row).map(|()| true),
        }
    }

    /// Drops a publication whose row is gone from the index. True if it was
    /// there.
    pub fn forget_publication(&self, key: &PresentityKey, tag: &[u8]) -> bool {
        let hash = self.presentity_hash(&key.identity, key.package);
        self.with(self.shard_of(&key.identity), |records| {
            let Some(owner) = records.find(key, hash) else { return false };
            let found = with_tag(records, owner, tag).filter(|id| {
                records
                    .publications
                    .get(*id)
                    .is_some_and(|record| record.phase == PublicationPhase::Live)
            });
            let Some(id) = found else { return false };
            records.end_publication(id, false, b"");
            self.queue_lane(records, owner);
            self.drop_if_idle(records, owner);
            true
        })
        .unwrap_or(false)
    }

    /// The state is to be told again to everybody who may see it. Gives the
    /// lane when the caller is the one to do so.
    pub fn tell_again(&self, key: &PresentityKey) -> Result<Option<LaneRef<M>>, Fault> {
        let hash = self.presentity_hash(&key.identity, key.package);
        let shard = self.shard_of(&key.identity);
        self.with(shard, |records| {
            let Some(presentity) = self.watched(records, key, hash)? else { return Ok(None) };
            records.state_changed(presentity, b"");
            if self.policy.watcher_info.contains(&Some(key.package))
                && let Some(owner) = records.presentities.get_mut(presentity)
            {
                // "Again" means all watchers, not those that have changed.
                owner.wants_full_since(owner.round);
                owner.rows.urgent = true;
            }
            let lane = records.take_lane(presentity);
            Ok(lane.then_some(LaneRef { shard: shard as u16, presentity }))
        })?
    }
}
