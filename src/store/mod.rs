//! What is stored and in which order it changes: presentities, publications,
//! subscriptions and the notification lanes. Safe code over the containers of
//! `shm`; every function takes one shard's lock, does bounded work on records
//! and returns copies. No I/O happens here.

pub mod counters;
mod counting;
pub mod cseq_floors;
pub mod dialog_owners;
pub mod dialogs;
pub mod explain;
pub mod gauges;
pub mod insight;
pub mod lane_owners;
pub mod lanes;
pub mod listing;
pub mod orphaned_rows;
pub mod outage;
pub mod publication_block;
pub mod publications;
pub mod records;
pub mod replication;
pub mod resync;
pub mod retransmissions;
pub mod row_lanes;
pub mod rows;
pub mod shard;
pub mod sources;
pub mod subscription_block;
pub mod subscriptions;
pub mod tally;
pub mod waits;
pub mod walk;
pub mod watcher_changes;
pub mod watchers;
pub mod widths;
pub mod write_back;
pub mod writers;

use crate::error::Fault;
use crate::presence::event_package::PackageId;
use crate::presence::limits::Limits;
use crate::presence::presentity::PresentityKey;
use crate::presence::uri::{self, UserCase, identity};
use crate::shm::{HashIndex, Id, Key, KeyedHash, Memory, OutOfMemory, Slab};
use crate::store::counters::Counters;
use crate::store::cseq_floors::CseqFloors;
use crate::store::gauges::Gauges;
use crate::store::insight::Insight;
use crate::store::records::{Presentity, Subscription};
use crate::store::replication::Replication;
use crate::store::retransmissions::Retransmissions;
use crate::store::shard::Shard;
use crate::store::tally::Tally;
use crate::store::waits::Wait;
use crate::store::writers::Writers;
use lock_api::Mutex;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

impl From<OutOfMemory> for Fault {
    fn from(_: OutOfMemory) -> Fault {
        Fault::SharedMemory
    }
}

/// What the store has to know of the configuration.
#[derive(Debug, Clone)]
pub struct Policy {
    /// How users are compared.
    pub user_case: UserCase,
    /// A new subscription replaces those of the same presentity and Call-ID.
    pub replaces_same_call: bool,
    /// What clients may pile up.
    pub limits: Limits,
    /// The package that reports on the watchers of each package.
    pub watcher_info: Vec<Option<PackageId>>,
    /// For each package: its document is that of its newest publication, which is
    /// the last one in the store's order.
    pub shows_newest: Vec<bool>,
}

impl Policy {
    /// The package that reports on the watchers of this one.
    pub fn reported_by(&self, package: PackageId) -> Option<PackageId> {
        self.watcher_info.get(usize::from(package.0)).copied().flatten()
    }

    /// The package shows the newest publication alone.
    pub fn shows_newest(&self, package: PackageId) -> bool {
        self.shows_newest.get(usize::from(package.0)).copied().unwrap_or_default()
    }

    /// The package reports on the watchers of another.
    pub fn reports_watchers(&self, package: PackageId) -> bool {
        self.watcher_info.contains(&Some(package))
    }
}

/// Where a presentity is while somebody owns its lane: its record cannot go away.
#[derive(Debug)]
pub struct LaneRef<M: Memory> {
    shard: u16,
    presentity: Id<Presentity<M>>,
}

impl<M: Memory> Clone for LaneRef<M> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<M: Memory> Copy for LaneRef<M> {}

/// Names a subscription across processes and time; a stale one finds nothing.
/// Fits the one pointer that a NOTIFY's transaction carries; 0 names none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Token {
    /// One more than the index of the record's id.
    place: NonZeroU32,
    /// The shard, and the low bits of the record's generation.
    high: u32,
}

const GENERATION_BITS: u32 = 20;
const GENERATION_MASK: u32 = (1 << GENERATION_BITS) - 1;

impl Token {
    /// Stands for a subscription that is a row: its dialog names it.
    pub const ROW: Token = Token { place: NonZeroU32::MAX, high: u32::MAX };

    /// Gives it as a number that is never 0.
    pub fn number(self) -> u64 {
        u64::from(self.high) << 32 | u64::from(self.place.get())
    }

    /// Reads the number of a token.
    pub fn from_number(number: u64) -> Option<Token> {
        Some(Token { place: NonZeroU32::new(number as u32)?, high: (number >> 32) as u32 })
    }

    /// The key with its shard; of the generation only the low bits fit.
    fn new<T>(shard: usize, key: Key<T>) -> Option<Token> {
        let generation = key.to_u64() as u32 & GENERATION_MASK;
        Some(Token {
            place: NonZeroU32::new(key.id().index() + 1)?,
            high: (shard as u32) << GENERATION_BITS | generation,
        })
    }

    /// The id of the record that the token names, if it is still that one.
    fn resolve<T, M: Memory>(self, records: &Slab<T, M>) -> Option<Id<T>> {
        let id = Id::from_index(self.place.get() - 1)?;
        let generation = records.key(id)?.to_u64() as u32 & GENERATION_MASK;
        (generation == self.high & GENERATION_MASK).then_some(id)
    }

    fn shard(self) -> usize {
        (self.high >> GENERATION_BITS) as usize
    }
}

/// The parts of the store that lie in shared memory.
pub struct Shared<M: Memory> {
    /// Records by the hash of their presentity's identity.
    pub shards: &'static [Mutex<M::Lock, Shard<M>>],
    /// Tokens of subscriptions by the hash of their dialog.
    pub dialogs: &'static [Mutex<M::Lock, HashIndex<Token, M>>],
    /// The hash, the same in all processes.
    pub hash: &'static KeyedHash,
    /// Answers given lately.
    pub retransmissions: &'static Retransmissions<M>,
    /// How much there is of what clients may pile up.
    pub tally: &'static Tally<M>,
    /// Lanes were handed over and the sender processes not woken yet.
    pub wake: &'static AtomicBool,
    /// Who writes subscriptions' rows.
    pub writers: &'static Writers,
    /// CSeqs that were used here in dialogs whose rows count them.
    pub floors: &'static CseqFloors,
    /// What is remembered for operators.
    pub insight: &'static Insight,
    /// What is notified to other servers over DMQ, where it is.
    pub replication: Option<&'static Replication<M>>,
    /// Since when lanes wait; `WAITS`.
    pub waits: &'static [Wait],
}

/// All state of the server.
pub struct Store<M: Memory> {
    shared: Shared<M>,
    /// What has happened so far; each process's copy has its own slot.
    counters: Counters,
    /// What this process was last notified of the time, in milliseconds.
    clock: AtomicU64,
    /// What it has to know of the configuration.
    pub policy: Policy,
}

impl<M: Memory> Store<M> {
    /// A store over what lies in shared memory. The number of shards is a
    /// power of two up to 4096.
    pub fn new(shared: Shared<M>, counters: Counters, policy: Policy) -> Store<M> {
        Store { shared, counters, clock: AtomicU64::new(0), policy }
    }

    /// What has happened so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// How much there is.
    pub fn gauges(&self) -> &Gauges {
        self.shared.tally.gauges()
    }

    /// Tells this process the time (milliseconds of the Unix time): lanes that it
    /// queues from now on wait since then.
    pub fn set_clock(&self, now: u64) {
        self.clock.store(now, Ordering::Relaxed);
    }

    /// Subscriptions whose rows are yet to be written.
    pub fn unwritten(&self) -> usize {
        let of = |shard: usize| {
            self.with(shard, |records| {
                records.changed.len() + records.urgent.len() + records.refused.len()
            })
        };
        (0..self.shards()).filter_map(|shard| of(shard).ok()).sum()
    }

    /// Answers given lately.
    pub fn retransmissions(&self) -> &Retransmissions<M> {
        self.shared.retransmissions
    }

    /// How much there is of what clients may pile up.
    pub fn tally(&self) -> &Tally<M> {
        self.shared.tally
    }

    /// The keyed hash that all processes share.
    pub fn hash(&self) -> &KeyedHash {
        self.shared.hash
    }

    /// A key for some purpose, the same in all processes until the restart.
    pub fn secret(&self, purpose: &[u8]) -> [u8; 16] {
        let half = |n: u8| u128::from(self.shared.hash.hash_parts(&[b"secret", purpose, &[n]]));
        (half(0) << 64 | half(1)).to_be_bytes()
    }

    /// The key of a presentity.
    pub fn key(&self, user: &[u8], host: &[u8], package: PackageId) -> PresentityKey {
        PresentityKey {
            identity: identity(user, host, self.policy.user_case),
            user: uri::user::stored(user).into_owned(),
            host: host.to_ascii_lowercase(),
            package,
        }
    }

    /// Lanes were handed over since the last call: the caller wakes the
    /// sender processes.
    pub fn take_wake(&self) -> bool {
        self.shared.wake.load(Ordering::Relaxed) && self.shared.wake.swap(false, Ordering::AcqRel)
    }

    /// Number of shards.
    pub fn shards(&self) -> usize {
        self.shared.shards.len()
    }

    /// Works on one shard under its lock.
    fn with<R>(&self, shard: usize, work: impl FnOnce(&mut Shard<M>) -> R) -> Result<R, Fault> {
        let shard = self.shared.shards.get(shard).ok_or(Fault::Host)?;
        Ok(work(&mut shard.lock()))
    }

    /// The shard of an identity. A package and its watcher information share
    /// it, so that both change under one lock.
    fn shard_of(&self, identity: &[u8]) -> usize {
        self.shared.hash.hash(identity) as usize & self.shared.shards.len().saturating_sub(1)
    }

    fn presentity_hash(&self, identity: &[u8], package: PackageId) -> u64 {
        self.shared.hash.hash_parts(&[&package.0.to_le_bytes(), identity])
    }

    /// The presentity of this key, made if it is not known.
    fn find_or_create(
        &self,
        records: &mut Shard<M>,
        key: &PresentityKey,
        hash: u64,
    ) -> Result<Id<Presentity<M>>, Fault> {
        let has_extra = records.reads_watchers() || self.policy.reports_watchers(key.package);
        records.find_or_create(key, hash, has_extra)
    }

    fn drop_if_idle(&self, shard: &mut Shard<M>, id: Id<Presentity<M>>) {
        shard.drop_if_idle(id, |identity, package| self.presentity_hash(identity, package));
    }

    fn token(&self, shard: usize, records: &Shard<M>, id: Id<Subscription<M>>) -> Option<Token> {
        Token::new(shard, records.subscriptions.key(id)?)
    }

    fn resolve(records: &Shard<M>, token: Token) -> Option<Id<Subscription<M>>> {
        token.resolve(&records.subscriptions)
    }
}
