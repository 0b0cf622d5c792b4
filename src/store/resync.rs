//! Brings the index of publications in line with rows that somebody has
//! changed behind it, and makes watchers look again.

use crate::error::Fault;
use crate::presence::event_package::EventPackage;
use crate::presence::presentity::PresentityKey;
use crate::presence::publication::transition::{Event, Outcome, closes, transition};
use crate::shm::{Id, Memory};
use crate::store::publication_block::Parts;
use crate::store::publications::{PublicationChange, otherwise_spelled, pack};
use crate::store::records::{Publication, PublicationPhase, Seconds};
use crate::store::shard::Shard;
use crate::store::{LaneRef, Store};

impl<M: Memory> Store<M> {
    /// A presentity has a publication of this entity-tag, also when a request is
    /// just changing it.
    pub fn has_publication(&self, key: &PresentityKey, tag: &[u8]) -> bool {
        let hash = self.presentity_hash(&key.identity, key.package);
        self.with(self.shard_of(&key.identity), |records| {
            let found = records.find(key, hash).and_then(|owner| records.with_tag(owner, tag));
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
                .living(&records.publications)
                .filter(|(_, record)| record.phase == PublicationPhase::Live)
                .map(|(_, record)| record.block().entity_tag())
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
        row: &PublicationChange<'_>,
        known: bool,
    ) -> Result<bool, Fault> {
        let hash = self.presentity_hash(&key.identity, key.package);
        let changed = self.with(self.shard_of(&key.identity), |records| {
            let owner = records.find(key, hash);
            match owner.and_then(|owner| records.with_tag(owner, row.entity_tag)) {
                Some(id) => follow_row(records, id, key, row).map(Some),
                None => Ok(None),
            }
        })?;
        match changed? {
            Some(changed) => Ok(changed),
            None if known => Ok(false),
            None => self.restore_publication(key, row).map(|()| true),
        }
    }

    /// Drops a publication whose row is gone from the index. True if it was
    /// there.
    pub fn forget_publication(
        &self,
        key: &PresentityKey,
        tag: &[u8],
        package: &EventPackage,
    ) -> bool {
        let hash = self.presentity_hash(&key.identity, key.package);
        self.with(self.shard_of(&key.identity), |records| {
            let Some(owner) = records.find(key, hash) else { return false };
            let found = records.with_tag(owner, tag).filter(|id| {
                records
                    .publications
                    .get(*id)
                    .is_some_and(|record| record.phase == PublicationPhase::Live)
            });
            let Some((id, record)) = found.and_then(|id| Some((id, records.publications.get(id)?)))
            else {
                return false;
            };
            let watchers = records.watchers_of(owner);
            let outcome = transition(&records.stored(record), Event::Removed, package, watchers);
            let Outcome::Change(change) = outcome else { return false };
            records.end_publication(id, closes(Event::Removed, package), change.fan_out, b"");
            self.queue_lane(records, owner);
            self.drop_if_idle(records, owner);
            true
        })
        .unwrap_or(false)
    }

    /// Everybody who may see the state is to be notified of it again. Gives the
    /// lane when the caller is the one to do so.
    pub fn notify_all_again(&self, key: &PresentityKey) -> Result<Option<LaneRef<M>>, Fault> {
        let hash = self.presentity_hash(&key.identity, key.package);
        let shard = self.shard_of(&key.identity);
        self.with(shard, |records| {
            let Some(presentity) = self.watched(records, key, hash)? else { return Ok(None) };
            records.state_changed(presentity, b"");
            if self.policy.reports_watchers(key.package)
                && let Some(state_version) =
                    records.presentities.get(presentity).map(|owner| owner.state_version)
            {
                // "Again" means all watchers, not those that have changed.
                records.wants_full_since(presentity, state_version);
                if let Some(extra) = records.extra_mut(presentity) {
                    extra.rows.urgent = true;
                }
            }
            let lane = records.take_lane(presentity);
            Ok(lane.then_some(LaneRef { shard: shard as u16, presentity }))
        })?
    }
}

/// A record follows its row. False if it is the same, or a request is just changing it.
fn follow_row<M: Memory>(
    records: &mut Shard<M>,
    id: Id<Publication<M>>,
    key: &PresentityKey,
    row: &PublicationChange<'_>,
) -> Result<bool, Fault> {
    let Some(record) = records.publications.get(id) else { return Ok(false) };
    if record.phase != PublicationPhase::Live {
        return Ok(false);
    }
    let (stored, ends) = (record.block(), row.expires_at.map(Seconds::from));
    let parts = Parts {
        entity_tag: row.entity_tag,
        sender: row.sender.unwrap_or_default(),
        ruid: row.ruid,
        user: otherwise_spelled(records, record.presentity, key),
        dialog_id: row.dialog_id,
        body: stored.body(),
    };
    let same_text = stored.ruid() == parts.ruid
        && stored.user() == parts.user
        && stored.sender() == parts.sender
        && stored.dialog_id() == parts.dialog_id;
    let same = same_text
        && record.expires_at == ends
        && record.priority == row.priority
        && record.facts == row.facts.unwrap_or_default()
        && record.received == row.now.into();
    if same {
        return Ok(false);
    }
    let block = (!same_text).then(|| pack(records, &parts)).transpose()?;
    if let Some(block) = block {
        records.reserve_dialog(id, row.dialog_id)?;
        records.set_block(id, block, false);
    }
    if let Some(record) = records.publications.get_mut(id) {
        record.expires_at = ends;
        record.priority = row.priority;
        record.received = row.now.into();
        record.facts = row.facts.unwrap_or_default();
    }
    records.schedule_end(id, row.expires_at);
    Ok(true)
}
