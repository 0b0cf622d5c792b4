//! Publications that have run out: claimed, so that no request changes them
//! while their row is deleted, then removed.

use crate::shm::{Id, Memory};
use crate::store::Store;
use crate::store::records::{Publication, PublicationPhase};

use super::{Stored, keep_document, stored, unseen_final};

/// An expired publication that was claimed for removal.
pub struct Expired<M: Memory> {
    shard: usize,
    publication: Id<Publication<M>>,
    /// Its row.
    pub stored: Stored,
    /// There are watchers whom the removal has to be shown to.
    pub has_watchers: bool,
    /// As with `Pending`.
    pub unseen_final: bool,
}

impl<M: Memory> Store<M> {
    /// Claims up to `budget` publications of one shard that have expired. True
    /// if there may be more.
    pub fn claim_expired(&self, shard: usize, now: i64, budget: usize) -> (Vec<Expired<M>>, bool) {
        self.with(shard, |records| {
            let mut claimed = Vec::new();
            let mut looks = budget;
            while let Some(publication) =
                records.publication_expiry.pop_due(&mut records.publications, now, &mut looks)
            {
                let Some(record) = records.publications.get(publication) else { continue };
                let (phase, presentity) = (record.phase, record.presentity);
                if phase != PublicationPhase::Live || records.has_many_farewells(presentity) {
                    // A request is changing it, or too many have ended that its
                    // watchers have yet to see: look again in a second.
                    records.publication_expiry.schedule(
                        &mut records.publications,
                        publication,
                        now + 1,
                    );
                    continue;
                }
                if let Some(record) = records.publications.get_mut(publication) {
                    record.phase = PublicationPhase::Changing;
                }
                let Ok(stored) = stored(records, publication) else { continue };
                claimed.push(Expired {
                    shard,
                    publication,
                    stored,
                    has_watchers: records.may_be_watched(presentity),
                    unseen_final: unseen_final(records, publication),
                });
            }
            (claimed, looks == 0)
        })
        .unwrap_or_default()
    }

    /// Removes a claimed publication. Its watchers are told by the sender
    /// processes, unless `quietly`.
    pub fn remove_expired(
        &self,
        expired: Expired<M>,
        shows_closed: bool,
        document: Option<&[u8]>,
        quietly: bool,
    ) {
        let _ = self.with(expired.shard, |records| {
            let Some(record) = records.publications.get_mut(expired.publication) else { return };
            let presentity = record.presentity;
            keep_document(records, expired.publication, document);
            if quietly {
                let told = records.presentities.get(presentity).map(|p| (p.completed, p.round));
                records.end_publication(expired.publication, false, b"");
                if let (Some((completed, round)), Some(owner)) =
                    (told, records.presentities.get_mut(presentity))
                    && completed == round
                {
                    owner.completed = owner.round;
                }
            } else {
                records.end_publication(expired.publication, shows_closed, b"");
            }
            self.queue_lane(records, presentity);
            self.drop_if_idle(records, presentity);
        });
    }

    /// Gives a claimed publication back because its row could not be deleted;
    /// it is tried again after `delay` seconds.
    pub fn keep_expired(&self, expired: Expired<M>, now: i64, delay: i64) {
        let _ = self.with(expired.shard, |records| {
            if let Some(record) = records.publications.get_mut(expired.publication) {
                record.phase = PublicationPhase::Live;
                records.publication_expiry.schedule(
                    &mut records.publications,
                    expired.publication,
                    now + delay,
                );
            }
        });
    }
}
