//! Publications that have run out: claimed, so that no request changes them
//! while their row is deleted, then removed.

use crate::presence::publication::transition::{self, Event, Outcome, closes, transition};
use crate::presence::registry::EventPackageRegistry;
use crate::shm::{Id, Memory};
use crate::store::Store;
use crate::store::records::{Publication, PublicationPhase};

use super::{PublicationRowKey, keep_document, stored};

/// An expired publication that was claimed for removal.
pub struct Expired<M: Memory> {
    shard: usize,
    publication: Id<Publication<M>>,
    /// Its row.
    pub stored: PublicationRowKey,
    /// What its end makes of it.
    pub change: transition::PublicationTransition,
    closing: bool,
}

impl<M: Memory> Store<M> {
    /// Claims up to `budget` publications of one shard that have run out, in
    /// this second or before. True if there may be more.
    pub fn claim_expired(
        &self,
        shard: usize,
        (now, budget): (i64, usize),
        registry: &EventPackageRegistry,
        force_delete: bool,
    ) -> (Vec<Expired<M>>, bool) {
        let clock = Event::Clock { force_delete };
        self.with(shard, |records| {
            let mut claimed = Vec::new();
            let mut looks = budget;
            while let Some(publication) =
                records.publication_expiry.pop_due(&mut records.publications, now, &mut looks)
            {
                let Some(record) = records.publications.get(publication) else { continue };
                let presentity = record.presentity;
                let package = records.presentities.get(presentity).map(|owner| owner.package);
                let Some(package) = package.and_then(|id| registry.get(id)) else { continue };
                let watchers = records.watchers_of(presentity);
                let outcome = match record.phase {
                    PublicationPhase::Live => {
                        transition(&records.stored(record), clock, package, watchers)
                    }
                    // A request is changing it.
                    _ => Outcome::Unchanged,
                };
                let Outcome::Change(change) = outcome else {
                    let expiry = &mut records.publication_expiry;
                    expiry.schedule(&mut records.publications, publication, now + 1);
                    continue;
                };
                if let Some(record) = records.publications.get_mut(publication) {
                    record.phase = PublicationPhase::Changing;
                }
                let Ok(stored) = stored(records, publication) else { continue };
                let closing = closes(clock, package);
                claimed.push(Expired { shard, publication, stored, change, closing });
            }
            (claimed, looks == 0)
        })
        .unwrap_or_default()
    }

    /// Removes a claimed publication. Its watchers are notified by the sender
    /// processes.
    pub fn remove_expired(&self, expired: Expired<M>, document: Option<&[u8]>) {
        let _ = self.with(expired.shard, |records| {
            let Some(record) = records.publications.get_mut(expired.publication) else { return };
            let presentity = record.presentity;
            keep_document(records, expired.publication, document);
            let Expired { publication, closing, change, .. } = expired;
            records.end_publication(publication, closing, change.fan_out, b"");
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
