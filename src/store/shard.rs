//! One shard: the records of some of the presentities, under one lock. The
//! functions here keep lists, indexes and counters in step; they do no I/O.

use crate::error::Fault;
use crate::presence::event_package::PackageId;
use crate::presence::text;
use crate::shm::{Blob, HashIndex, Heap, Id, List, Memory, OutOfMemory, Slab, Wheel};
use crate::store::publications::Bodies;
use crate::store::records::{
    Dirty, Expiring, Phase, Presentity, PresentityText, Publication, PublicationPhase, Queued,
    Subscription,
};
use crate::store::watcher_changes::WatcherChange;

/// Buckets of a shard's expiry wheels: records further away than this many
/// seconds are looked at once a turn.
const WHEEL_BUCKETS: usize = 512;

/// Which presentity, in which package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PresentityKey {
    /// `uri::identity`.
    pub identity: Vec<u8>,
    /// User as spelled.
    pub user: Vec<u8>,
    /// Host in lower case.
    pub host: Vec<u8>,
    /// The event package.
    pub package: PackageId,
}

/// All records of some presentities.
pub struct Shard<M: Memory> {
    /// Where their text lies.
    pub heap: &'static Heap<M>,
    /// Presentities with state or watchers.
    pub presentities: Slab<Presentity<M>, M>,
    /// Their subscriptions.
    pub subscriptions: Slab<Subscription<M>, M>,
    /// Their publications.
    pub publications: Slab<Publication<M>, M>,
    /// Changes of watchers that are yet to be told.
    pub changes: Slab<WatcherChange<M>, M>,
    /// Presentities by the hash of identity and package.
    by_identity: HashIndex<Id<Presentity<M>>, M>,
    /// When subscriptions end.
    pub subscription_expiry: Wheel<Subscription<M>, Expiring, M>,
    /// When publications end.
    pub publication_expiry: Wheel<Publication<M>, Expiring, M>,
    /// Subscriptions whose row is to be written or deleted.
    pub dirty: List<Subscription<M>, Dirty>,
    /// Presentities whose lane was handed over.
    pub queued: List<Presentity<M>, Queued>,
    /// Documents that are kept beside their rows.
    pub bodies: Bodies<M>,
    /// Subscriptions are rows of the database; those here only await a NOTIFY.
    watchers_are_rows: bool,
}

/// How a shard is to be.
#[derive(Debug, Clone, Copy, Default)]
pub struct ShardPolicy {
    /// Subscriptions are kept in the database only.
    pub watchers_are_rows: bool,
    /// Bytes of documents that are kept beside their rows.
    pub kept_bodies: usize,
}

impl<M: Memory> Shard<M> {
    /// An empty shard.
    pub fn new(
        heap: &'static Heap<M>,
        now: i64,
        policy: ShardPolicy,
    ) -> Result<Shard<M>, OutOfMemory> {
        Ok(Shard {
            heap,
            presentities: Slab::new(heap),
            subscriptions: Slab::new(heap),
            publications: Slab::new(heap),
            changes: Slab::new(heap),
            by_identity: HashIndex::new(heap),
            subscription_expiry: Wheel::new(heap, WHEEL_BUCKETS, now)?,
            publication_expiry: Wheel::new(heap, WHEEL_BUCKETS, now)?,
            dirty: List::new(),
            queued: List::new(),
            bodies: Bodies::new(policy.kept_bodies),
            watchers_are_rows: policy.watchers_are_rows,
        })
    }

    /// Copies bytes into this shard.
    pub fn blob(&self, bytes: &[u8]) -> Result<Blob<M>, Fault> {
        Ok(Blob::new(self.heap, bytes)?)
    }

    /// The presentity of this key, whose hash is `hash`.
    pub fn find(&self, key: &PresentityKey, hash: u64) -> Option<Id<Presentity<M>>> {
        self.by_identity.find(hash, |id| {
            self.presentities.get(id).is_some_and(|known| {
                known.package == key.package && known.text(PresentityText::Identity) == key.identity
            })
        })
    }

    /// The presentity of this key, made if it is not known.
    pub fn find_or_create(
        &mut self,
        key: &PresentityKey,
        hash: u64,
    ) -> Result<Id<Presentity<M>>, Fault> {
        if let Some(id) = self.find(key, hash) {
            return Ok(id);
        }
        let packed = text::pack::<PresentityText>(|n| match PresentityText::ALL[n] {
            PresentityText::Identity => &key.identity,
            PresentityText::User => &key.user,
            PresentityText::Host => &key.host,
        })
        .map_err(|_| Fault::Host)?;
        let record = Presentity::new(self.blob(&packed)?, key.package);
        let id = self.presentities.insert(record).map_err(|_| Fault::SharedMemory)?;
        if let Err(full) = self.by_identity.insert(hash, id) {
            self.presentities.remove(id);
            return Err(full.into());
        }
        Ok(id)
    }

    /// Forgets a presentity that nothing refers to. `hash` computes the hash
    /// of its identity and package.
    pub fn drop_if_idle(&mut self, id: Id<Presentity<M>>, hash: impl Fn(&[u8], PackageId) -> u64) {
        let Some(record) = self.presentities.get(id) else { return };
        if !record.is_idle() || (self.watchers_are_rows && record.completed != record.round) {
            return;
        }
        let hash = hash(record.text(PresentityText::Identity), record.package);
        self.by_identity.remove(hash, |known| known == id);
        self.presentities.remove(id);
    }

    /// Takes a subscription off everything but the database. It stays as a
    /// record while a row has to be deleted.
    pub fn retire_subscription(&mut self, id: Id<Subscription<M>>) {
        let Some(record) = self.subscriptions.get_mut(id) else { return };
        if record.phase == Phase::Gone {
            return;
        }
        record.phase = Phase::Gone;
        let (presentity, is_due, has_row, is_dirty, pass) =
            (record.presentity, record.is_due, record.has_row, record.is_dirty, record.pass);
        self.subscription_expiry.cancel(&mut self.subscriptions, id);
        if let Some(owner) = self.presentities.get_mut(presentity) {
            owner.watchers.unlink(&mut self.subscriptions, id);
            if owner.unvisited > 0 && pass != owner.pass {
                owner.unvisited -= 1;
            }
            if is_due {
                owner.due.unlink(&mut self.subscriptions, id);
            }
        }
        if let Some(record) = self.subscriptions.get_mut(id) {
            record.is_due = false;
        }
        match (has_row, is_dirty) {
            (true, false) => self.mark_dirty(id),
            (false, true) => {
                self.dirty.unlink(&mut self.subscriptions, id);
                self.subscriptions.remove(id);
            }
            (true, true) => {}
            (false, false) => {
                self.subscriptions.remove(id);
            }
        }
    }

    /// Puts a subscription on the list of those to be written.
    pub fn mark_dirty(&mut self, id: Id<Subscription<M>>) {
        if let Some(record) = self.subscriptions.get_mut(id)
            && !record.is_dirty
        {
            record.is_dirty = true;
            self.dirty.push_back(&mut self.subscriptions, id);
        }
    }

    /// Puts a subscription on its presentity's list of those to be notified
    /// one by one.
    pub fn mark_due(&mut self, id: Id<Subscription<M>>) {
        let Some(record) = self.subscriptions.get_mut(id) else { return };
        if record.is_due || record.phase == Phase::Gone {
            return;
        }
        record.is_due = true;
        let presentity = record.presentity;
        if let Some(owner) = self.presentities.get_mut(presentity) {
            owner.due.push_back(&mut self.subscriptions, id);
        }
    }

    /// Counts a change of the state. `sender` made it (empty: nobody to be
    /// spared). Without watchers nobody has to be told.
    pub fn state_changed(&mut self, id: Id<Presentity<M>>, sender: &[u8]) {
        // A sender that cannot be remembered is notified like everybody else.
        let remembered = match self.presentities.get(id) {
            Some(record) if *record.sender != *sender => Some(self.blob(sender)),
            Some(_) => None,
            None => return,
        };
        let Some(record) = self.presentities.get_mut(id) else { return };
        record.round = record.round.wrapping_add(1);
        if let Some(blob) = remembered {
            record.sender = blob.unwrap_or_default();
            record.sender_since = record.round;
        }
        if !self.may_be_watched(id) {
            self.everybody_told(id);
        }
    }

    /// Somebody watches the presentity, as far as is known here.
    pub fn may_be_watched(&self, id: Id<Presentity<M>>) -> bool {
        self.watchers_are_rows
            || self.presentities.get(id).is_some_and(|record| !record.watchers.is_empty())
    }

    /// Subscriptions are kept in the database only.
    pub fn watchers_are_rows(&self) -> bool {
        self.watchers_are_rows
    }

    /// Nobody is left who has not been told of the latest state.
    pub fn everybody_told(&mut self, id: Id<Presentity<M>>) {
        let Some(record) = self.presentities.get_mut(id) else { return };
        record.completed = record.round;
        record.unvisited = 0;
        self.drop_farewells(id, None);
        self.drop_changes(id, None);
    }

    /// Forgets ended publications that all watchers have seen: those up to a
    /// round, or all.
    pub fn drop_farewells(&mut self, id: Id<Presentity<M>>, up_to: Option<u32>) {
        let Some(record) = self.presentities.get_mut(id) else { return };
        while let Some(first) = record.farewells.front() {
            let seen = up_to.is_none_or(|round| {
                self.publications.get(first).is_none_or(|p| !later(p.round, round))
            });
            if !seen {
                break;
            }
            record.farewells.unlink(&mut self.publications, first);
            self.publications.remove(first);
        }
    }

    /// Ends a publication: it leaves the state. It stays as a farewell while
    /// there are watchers who have to see it closed, or who have not yet seen
    /// that it is in a final state.
    pub fn end_publication(&mut self, id: Id<Publication<M>>, farewell: bool, sender: &[u8]) {
        let Some(record) = self.publications.get(id) else { return };
        let (owner_id, round) = (record.presentity, record.round);
        let (is_final, has_body) = (record.facts.is_final, !record.body.is_empty());
        self.publication_expiry.cancel(&mut self.publications, id);
        self.release_body(id);
        let Some(owner) = self.presentities.get_mut(owner_id) else { return };
        owner.publications.unlink(&mut self.publications, id);
        let unseen = is_final && later(round, owner.completed);
        let watched = self.watchers_are_rows || !owner.watchers.is_empty();
        if (farewell || unseen) && has_body && watched {
            owner.rows.urgent = true;
            let next = owner.round.wrapping_add(1);
            owner.farewells.push_back(&mut self.publications, id);
            if let Some(record) = self.publications.get_mut(id) {
                (record.phase, record.round) = match farewell {
                    true => (PublicationPhase::Closing, next),
                    false => (PublicationPhase::Superseded, round),
                };
            }
        } else {
            self.publications.remove(id);
        }
        self.state_changed(owner_id, sender);
    }

    /// The presentity has something to send.
    pub fn has_work(&self, id: Id<Presentity<M>>) -> bool {
        self.presentities.get(id).is_some_and(|record| {
            !record.due.is_empty() || (record.completed != record.round && self.may_be_watched(id))
        })
    }

    /// Takes the lane for the caller if there is work and nobody has it.
    pub fn take_lane(&mut self, id: Id<Presentity<M>>) -> bool {
        if !self.has_work(id) {
            return false;
        }
        match self.presentities.get_mut(id) {
            Some(record) if record.lane.is_free() => {
                record.lane.owners = 1;
                true
            }
            _ => false,
        }
    }
}

/// `round` comes after `other`, also when the counter has wrapped.
pub fn later(round: u32, other: u32) -> bool {
    round != other && round.wrapping_sub(other) < u32::MAX / 2
}
