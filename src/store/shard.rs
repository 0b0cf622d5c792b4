//! One shard: the records of some of the presentities, under one lock. The
//! functions here keep lists, indexes and counters in step; they do no I/O.

use crate::error::Fault;
use crate::presence::event_package::PackageId;
use crate::presence::presentity::PresentityKey;
use crate::presence::subscription::Text;
use crate::presence::transition::Phase;
use crate::presence::uri::{UserCase, identity, same_user};
use crate::shm::{
    Blob, HashIndex, Heap, Id, Interner, KeyedHash, List, Memory, OutOfMemory, Queue, ShortBlob,
    Slab, Unkeyed, Wheel,
};
use crate::store::gauges::{Gauge, Stripe};
use crate::store::publications::{Documents, PublicationIndex};
use crate::store::records::{
    Dirty, Expiring, Lag, Presentity, PresentityExtra, Publication, PublicationPhase, Publications,
    Queued, Subscription, Watched,
};
use crate::store::subscription_block::{self, Owner};
use crate::store::tally::Tally;
use crate::store::watcher_changes::WatcherChange;

/// So many shards share a heap. Of each size of text a heap has a page that is
/// not full, which is much where each shard has but some hundred records; the
/// heap's lock is held for far shorter than a shard's.
pub const SHARDS_PER_HEAP: usize = 4;

/// Buckets of a shard's expiry wheels: records further away than this many
/// seconds are looked at once a turn.
const WHEEL_BUCKETS: usize = 512;

/// All records of some presentities.
pub struct Shard<M: Memory> {
    /// Where their text lies.
    pub heap: &'static Heap<M>,
    /// Presentities with state or watchers.
    pub presentities: Slab<Presentity<M>, M, Unkeyed>,
    /// What few of them have.
    pub extras: Slab<PresentityExtra<M>, M, Unkeyed>,
    /// Their hosts, each text once.
    pub hosts: Interner<M>,
    /// Their subscriptions.
    pub subscriptions: Slab<Subscription<M>, M>,
    /// Their publications.
    pub publications: Publications<M>,
    /// Changes of watchers that are yet to be reported.
    pub changes: Slab<WatcherChange<M>, M, Unkeyed>,
    /// Presentities by the hash of identity and package.
    by_identity: HashIndex<Id<Presentity<M>>, M>,
    /// When subscriptions end.
    pub subscription_expiry: Wheel<Subscription<M>, Expiring, M>,
    /// When publications end.
    pub publication_expiry: Wheel<Publication<M>, Expiring, M>,
    /// Subscriptions whose row is to be changed.
    pub changed: List<Subscription<M>, Dirty>,
    /// Subscriptions whose row is to be made or deleted.
    pub urgent: List<Subscription<M>, Dirty>,
    /// Subscriptions whose row the database has refused.
    pub refused: List<Subscription<M>, Dirty>,
    /// Presentities whose lane was handed over.
    pub queued: Queue<Presentity<M>, Queued>,
    /// Documents that the database keeps as well.
    pub documents: Documents<M>,
    /// Publications of presentities that have many.
    pub(super) index: PublicationIndex<M>,
    pub(super) tally: &'static Tally<M>,
    /// How much there is.
    pub(super) gauges: &'static Stripe,
    /// Tells it from others.
    pub(super) number: usize,
    pub(super) policy: ShardPolicy,
}

/// How a shard is to be.
#[derive(Debug, Clone, Copy)]
pub struct ShardPolicy {
    /// How users are compared.
    pub user_case: UserCase,
    /// All subscriptions are here. Where they are not, those here await a NOTIFY:
    /// they are read when there is something to tell, and counted elsewhere.
    pub knows_watchers: bool,
    /// Subscriptions have rows that follow what changes here.
    pub rows_follow: bool,
    /// The row of a new one waits for the writers, too (B49); else its request
    /// writes it.
    pub new_rows_wait: bool,
    /// Bytes of documents that are kept beside their rows.
    pub document_cache_bytes: usize,
}

impl<M: Memory> Shard<M> {
    /// An empty shard.
    pub fn new(
        heap: &'static Heap<M>,
        (hash, tally): (KeyedHash, &'static Tally<M>),
        now: i64,
        policy: ShardPolicy,
    ) -> Result<Shard<M>, OutOfMemory> {
        let (number, gauges) = tally.gauges().join();
        Ok(Shard {
            heap,
            presentities: Slab::new(heap),
            extras: Slab::new(heap),
            hosts: Interner::new(heap, hash),
            subscriptions: Slab::new(heap),
            publications: Slab::new(heap),
            changes: Slab::new(heap),
            by_identity: HashIndex::new(heap),
            subscription_expiry: Wheel::new(heap, WHEEL_BUCKETS, now)?,
            publication_expiry: Wheel::new(heap, WHEEL_BUCKETS, now)?,
            changed: List::new(),
            urgent: List::new(),
            refused: List::new(),
            queued: Queue::new(),
            documents: Documents::new(heap, policy.document_cache_bytes),
            index: PublicationIndex::new(heap, hash),
            tally,
            gauges,
            number,
            policy,
        })
    }

    /// Copies bytes into this shard.
    pub fn blob(&self, bytes: &[u8]) -> Result<Blob<M>, Fault> {
        Ok(Blob::new(self.heap, bytes)?)
    }

    /// The presentity of this key, whose hash is `hash`.
    pub fn find(&self, key: &PresentityKey, hash: u64) -> Option<Id<Presentity<M>>> {
        self.by_identity
            .find(hash, |id| self.presentities.get(id).is_some_and(|known| self.is(known, key)))
    }

    /// The presentity is that of the key.
    pub fn is(&self, known: &Presentity<M>, key: &PresentityKey) -> bool {
        known.package == key.package
            && same_user(&known.user, &key.user, self.policy.user_case)
            && self.hosts.get(known.host) == key.host
    }

    /// The key of a presentity.
    pub fn key_of(&self, id: Id<Presentity<M>>) -> Option<PresentityKey> {
        let record = self.presentities.get(id)?;
        let Owner { user, host } = record.watched(&self.hosts).owner;
        Some(PresentityKey {
            identity: identity(user, host, self.policy.user_case),
            user: user.to_vec(),
            host: host.to_vec(),
            package: record.package,
        })
    }

    /// What is watched; nothing if that is gone.
    pub fn watched(&self, id: Id<Presentity<M>>) -> Watched<'_> {
        self.presentities.get(id).map(|owner| owner.watched(&self.hosts)).unwrap_or_default()
    }

    /// Any string of a subscription.
    pub fn text<'a>(&'a self, record: &'a Subscription<M>, field: Text) -> &'a [u8] {
        subscription_block::get(&record.text, field, self.watched(record.presentity).owner)
    }

    /// The presentity of this key, made if it is not known. `has_extra`: it is one
    /// of the few.
    pub fn find_or_create(
        &mut self,
        key: &PresentityKey,
        hash: u64,
        has_extra: bool,
    ) -> Result<Id<Presentity<M>>, Fault> {
        if let Some(id) = self.find(key, hash) {
            return Ok(id);
        }
        let user = ShortBlob::new(self.heap, &key.user)?;
        let record = Presentity::new(user, self.hosts.take(&key.host)?, key.package);
        let id = match self.presentities.insert(record) {
            Ok(id) => id,
            Err(record) => {
                self.hosts.give_back(record.host);
                return Err(Fault::SharedMemory);
            }
        };
        self.gauges.more(key.package, Gauge::Presentities);
        let made = if has_extra { self.make_extra(id).map(drop) } else { Ok(()) };
        if let Err(fault) = made.and_then(|()| Ok(self.by_identity.insert(hash, id)?)) {
            self.remove_presentity(id);
            return Err(fault);
        }
        Ok(id)
    }

    /// Forgets a presentity that nothing refers to. `hash` computes the hash
    /// of its identity and package.
    pub fn drop_if_idle(&mut self, id: Id<Presentity<M>>, hash: impl Fn(&[u8], PackageId) -> u64) {
        let Some(record) = self.presentities.get(id) else { return };
        let is_idle = record.lane.is_free()
            && record.watchers.is_empty()
            && record.publications.is_empty()
            && record.finals.is_empty()
            && self.extra(record).is_none_or(|extra| extra.changes.is_empty() && extra.unsent == 0);
        if !is_idle || (self.reads_watchers() && record.completed != record.state_version) {
            return;
        }
        let Owner { user, host } = record.watched(&self.hosts).owner;
        let identity = identity(user, host, self.policy.user_case);
        let hash = hash(&identity, record.package);
        self.by_identity.remove(hash, |known| known == id);
        self.remove_presentity(id);
    }

    fn remove_presentity(&mut self, id: Id<Presentity<M>>) {
        if let Some(record) = self.presentities.remove(id) {
            self.gauges.less(record.package, Gauge::Presentities);
            self.hosts.give_back(record.host);
            if let Some(extra) = record.extra {
                self.extras.remove(extra);
            }
        }
    }

    /// What few presentities have, if this one has it.
    pub fn extra(&self, record: &Presentity<M>) -> Option<&PresentityExtra<M>> {
        self.extras.get(record.extra?)
    }

    /// Gives it to be changed.
    pub fn extra_mut(&mut self, id: Id<Presentity<M>>) -> Option<&mut PresentityExtra<M>> {
        self.extras.get_mut(self.presentities.get(id)?.extra?)
    }

    /// Gives it to be changed; it is made if it is not there.
    pub fn make_extra(&mut self, id: Id<Presentity<M>>) -> Result<&mut PresentityExtra<M>, Fault> {
        let record = self.presentities.get_mut(id).ok_or(Fault::Host)?;
        let extra = match record.extra {
            Some(extra) => extra,
            None => {
                let extra =
                    self.extras.insert(PresentityExtra::new()).map_err(|_| Fault::SharedMemory)?;
                record.extra = Some(extra);
                extra
            }
        };
        self.extras.get_mut(extra).ok_or(Fault::Host)
    }

    /// Takes a subscription off everything but the database. It stays as a
    /// record while a row has to be deleted.
    pub fn retire_subscription(&mut self, id: Id<Subscription<M>>) {
        let Some(record) = self.subscriptions.get_mut(id) else { return };
        if record.phase == Phase::Gone {
            return;
        }
        let lives = record.phase.lives();
        record.phase = Phase::Gone;
        if lives {
            self.count_out(id);
        }
        let Some(record) = self.subscriptions.get(id) else { return };
        let (presentity, has_pending_notify, fan_out_mark) =
            (record.presentity, record.has_pending_notify, record.fan_out_mark);
        let has_row = record.has_row || record.row_in_doubt;
        self.subscription_expiry.cancel(&mut self.subscriptions, id);
        if let Some(owner) = self.presentities.get_mut(presentity) {
            owner.watchers.unlink(&mut self.subscriptions, id);
            if owner.unvisited > 0 && fan_out_mark != owner.fan_out_mark {
                owner.unvisited -= 1;
            }
            if has_pending_notify {
                owner.pending_notifies.unlink(&mut self.subscriptions, id);
            }
        }
        if let Some(record) = self.subscriptions.get_mut(id) {
            record.has_pending_notify = false;
        }
        if has_row {
            self.mark_dirty(id);
        } else {
            self.take_off(id);
            self.subscriptions.remove(id);
        }
    }

    /// A subscription has changed: so does its row, if there is one that follows.
    pub fn row_follows(&mut self, id: Id<Subscription<M>>) {
        if self.policy.rows_follow {
            self.mark_dirty(id);
        }
    }

    /// A subscription has begun: it gets a row, unless its request writes it.
    pub fn row_begins(&mut self, id: Id<Subscription<M>>) {
        if self.policy.new_rows_wait {
            self.mark_dirty(id);
        }
    }

    /// Puts a subscription on the list of those whose row is to be written: the
    /// urgent one if it has none, or is over; that of the refused if it is one.
    pub fn mark_dirty(&mut self, id: Id<Subscription<M>>) {
        let Some(record) = self.subscriptions.get(id) else { return };
        let is_over = matches!(record.phase, Phase::Ending(_) | Phase::Gone);
        let lag = match record.refusals {
            0 if is_over || !record.has_row => Lag::Urgent,
            0 => Lag::Changed,
            _ => Lag::Refused,
        };
        if record.lag == lag || (record.lag, lag) == (Lag::Urgent, Lag::Changed) {
            return;
        }
        self.take_off(id);
        if let Some(record) = self.subscriptions.get_mut(id) {
            record.lag = lag;
        }
        let list = match lag {
            Lag::Urgent => &mut self.urgent,
            Lag::Changed => &mut self.changed,
            Lag::Refused => &mut self.refused,
            Lag::None => return,
        };
        list.push_back(&mut self.subscriptions, id);
    }

    /// Takes a subscription off the lists of those whose row is to be written.
    pub fn take_off(&mut self, id: Id<Subscription<M>>) {
        let Some(record) = self.subscriptions.get_mut(id) else { return };
        let list = match std::mem::replace(&mut record.lag, Lag::None) {
            Lag::Urgent => &mut self.urgent,
            Lag::Changed => &mut self.changed,
            Lag::Refused => &mut self.refused,
            Lag::None => return,
        };
        list.unlink(&mut self.subscriptions, id);
    }

    /// Puts a subscription on its presentity's list of those to be notified
    /// one by one.
    pub fn mark_notify_pending(&mut self, id: Id<Subscription<M>>) {
        let Some(record) = self.subscriptions.get_mut(id) else { return };
        if record.has_pending_notify || matches!(record.phase, Phase::Leaving | Phase::Gone) {
            return;
        }
        record.has_pending_notify = true;
        let presentity = record.presentity;
        if let Some(owner) = self.presentities.get_mut(presentity) {
            owner.pending_notifies.push_back(&mut self.subscriptions, id);
        }
    }

    /// Counts a change of the state. `sender` made it (empty: nobody to be
    /// excluded). Without watchers nobody has to be notified.
    pub fn state_changed(&mut self, id: Id<Presentity<M>>, sender: &[u8]) {
        let Some(record) = self.presentities.get_mut(id) else { return };
        record.state_version = record.state_version.next();
        let (state_version, extra) = (record.state_version, record.extra);
        let known = extra.and_then(|extra| self.extras.get(extra));
        if known.map_or(&b""[..], |known| &known.sender) != sender {
            // A sender that cannot be remembered is notified like everybody else.
            let blob = self.blob(sender).unwrap_or_default();
            if let Ok(extra) = self.make_extra(id) {
                (extra.sender, extra.sender_since) = (blob, state_version);
            }
        }
        if !self.may_be_watched(id) {
            self.mark_all_notified(id);
        }
    }

    /// Somebody watches the presentity, as far as is known here.
    pub fn may_be_watched(&self, id: Id<Presentity<M>>) -> bool {
        self.reads_watchers()
            || self.presentities.get(id).is_some_and(|record| !record.watchers.is_empty())
    }

    /// Who watches is read when there is something to tell.
    pub fn reads_watchers(&self) -> bool {
        !self.policy.knows_watchers
    }

    /// Nobody is left who has not been notified of the latest state.
    pub fn mark_all_notified(&mut self, id: Id<Presentity<M>>) {
        let Some(record) = self.presentities.get_mut(id) else { return };
        record.completed = record.state_version;
        record.unvisited = 0;
        self.drop_finals(id, None);
        self.drop_changes(id, None);
    }

    /// A publication ends at this Unix time, or does not.
    pub fn schedule_end(&mut self, id: Id<Publication<M>>, at: Option<i64>) {
        match at {
            Some(at) => self.publication_expiry.schedule(&mut self.publications, id, at),
            None => self.publication_expiry.cancel(&mut self.publications, id),
        };
    }

    /// Takes a publication out of its presentity's list, for good.
    pub fn remove_publication(&mut self, id: Id<Publication<M>>) {
        self.leave_index(id);
        let Some(record) = self.publications.get(id) else { return };
        let (presentity, is_final_publication) =
            (record.presentity, record.phase.is_final_publication());
        if matches!(record.phase, PublicationPhase::Live | PublicationPhase::Changing) {
            self.publication_counted(presentity, false);
        }
        let weight = self.weight(record);
        self.release_body(id);
        self.publication_expiry.cancel(&mut self.publications, id);
        if let Some(owner) = self.presentities.get_mut(presentity) {
            if is_final_publication {
                owner.finals.unlink(&mut self.publications, id);
                owner.finals_kib = owner.finals_kib.saturating_sub(weight);
            } else {
                owner.publications.unlink(&mut self.publications, id);
                owner.is_indexed &= !owner.publications.is_empty();
            }
        }
        if let Some(document) = self.publications.remove(id).and_then(|record| record.document) {
            self.documents.remove(document);
        }
    }

    /// The presentity has something to send.
    pub fn has_work(&self, id: Id<Presentity<M>>) -> bool {
        self.presentities.get(id).is_some_and(|record| {
            !record.pending_notifies.is_empty()
                || (record.completed != record.state_version && self.may_be_watched(id))
        })
    }

    /// Takes the lane for the caller if there is work and nobody has it.
    pub fn take_lane(&mut self, id: Id<Presentity<M>>) -> bool {
        if !self.has_work(id) {
            return false;
        }
        match self.presentities.get_mut(id) {
            Some(record) if record.lane.is_free() => record.lane.enter(),
            _ => false,
        }
    }
}
