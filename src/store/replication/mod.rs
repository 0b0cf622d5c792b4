//! What the processes of a server that replicates share: the changes that have to
//! leave (`outbox`), when the living and the removed were changed (`ledger`), who
//! the others are (`peers`), and a clock. There is none of it without DMQ.

mod ledger;
mod mirror;
mod outbox;
mod peers;

pub use ledger::{Known, Ledger};
pub use mirror::{Mirrored, Put};
pub use outbox::{Class, Outbox, Outgoing};
pub use peers::{NodeUri, Peer, Peers, Wants};

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use lock_api::Mutex;

use crate::presence::presentity::PresentityKey;
use crate::presence::replication::stamp::{self, Stamp};
use crate::shm::{Heap, KeyedHash, Memory, OutOfMemory, place, place_slice};
use crate::store::Store;

/// Stands for a record, without its names: two hashes, which no two records share.
pub type RecordKey = [u64; 2];

/// Parts of the ledger, each with a lock.
const PARTS: usize = 64;

/// Counts since the start of the server, for statistics.
#[derive(Debug, Default)]
pub struct Counts {
    /// Messages of changes that were handed to DMQ.
    pub sent: AtomicU64,
    /// Messages of peers that were applied.
    pub applied: AtomicU64,
    /// Messages of peers that were older than what is known here.
    pub outdated: AtomicU64,
    /// Messages of peers that were refused.
    pub refused: AtomicU64,
    /// Changes that found the outbox full: peers of ours are sent all there is.
    pub overflowed: AtomicU64,
    /// Messages that a peer has not answered with 200.
    pub unanswered: AtomicU64,
}

/// Adds one.
pub fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// How much may be kept.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Changes that wait to leave.
    pub waiting: usize,
    /// Bytes of them.
    pub bytes: usize,
    /// Stamps.
    pub stamps: usize,
}

impl Bounds {
    /// For a server with so much free shared memory.
    pub fn of(free: usize) -> Bounds {
        Bounds {
            waiting: (free / 4096).clamp(1024, 100_000),
            bytes: (free / 8).clamp(1 << 20, 64 << 20),
            stamps: (free / 1024).clamp(4096, 1_000_000),
        }
    }
}

/// All of it.
pub struct Replication<M: Memory> {
    /// This server: a random number for each start.
    pub node: u64,
    /// Its address as the others know it.
    pub own: NodeUri,
    clock: AtomicU64,
    outbox: Mutex<M::Lock, Outbox<M>>,
    ledger: &'static [Mutex<M::Lock, Ledger<M>>],
    peers: Mutex<M::Lock, Peers>,
    mirror: &'static [Mutex<M::Lock, mirror::Part<M>>],
    slot: AtomicU32,
    hash: &'static KeyedHash,
    /// The other nodes have to be asked for what they have.
    asks: AtomicBool,
    /// Numbers for the operator.
    pub counts: Counts,
}

impl<M: Memory> Replication<M> {
    /// Nothing is known yet. `arena` and `heap` are where it lies.
    pub fn new(
        arena: M::Arena,
        heap: &'static Heap<M>,
        hash: &'static KeyedHash,
        (random, own): ([u8; 16], &[u8]),
        bounds: Bounds,
    ) -> Result<&'static Replication<M>, OutOfMemory> {
        let ledger =
            place_slice(arena, PARTS, |_| Ok(Mutex::new(Ledger::new(heap, bounds.stamps / PARTS))));
        let most_over = bounds.stamps / mirror::PARTS;
        let mirror = place_slice(arena, mirror::PARTS, |_| {
            Ok(Mutex::new(mirror::Part::new(heap, most_over)))
        });
        let (node, _) = random.split_at(8);
        let replication = Replication {
            node: node.try_into().map(u64::from_le_bytes).unwrap_or_default(),
            own: NodeUri::new(own).unwrap_or(NodeUri::EMPTY),
            clock: AtomicU64::new(0),
            outbox: Mutex::new(Outbox::new(heap, bounds)),
            ledger: ledger?,
            peers: Mutex::new(Peers::default()),
            mirror: mirror?,
            slot: AtomicU32::new(0),
            hash,
            asks: AtomicBool::new(false),
            counts: Counts::default(),
        };
        place(arena, replication)
    }

    /// The stamp of a change that is made now (milliseconds of the Unix time).
    pub fn stamp(&self, now: u64) -> Stamp {
        let order = Ordering::Relaxed;
        let step = |last| Some(stamp::next(last, now));
        let last = self.clock.fetch_update(order, order, step).unwrap_or_default();
        Stamp::of(stamp::next(last, now), self.node)
    }

    /// A change of this stamp was seen: later ones of ours are to be later.
    pub fn seen(&self, stamp: Stamp, now: u64) {
        let order = Ordering::Relaxed;
        let step = |last| Some(stamp::seen(last, stamp, now));
        let _ = self.clock.fetch_update(order, order, step);
    }

    /// A number that stands for a text; other servers have others.
    pub fn key(&self, kind: &[u8], parts: [&[u8]; 2]) -> RecordKey {
        let half = |salt: &[u8]| self.hash.hash_parts(&[salt, kind, parts[0], parts[1]]);
        [half(b"replication"), half(b"also")]
    }

    /// Stands for the publication of an entity-tag.
    pub fn tag_key(&self, key: &PresentityKey, tag: &[u8]) -> RecordKey {
        let mut kind = b"tag".to_vec();
        kind.extend_from_slice(&key.package.0.to_le_bytes());
        self.key(&kind, [&key.identity, tag])
    }

    /// Stands for the publication of an id.
    pub fn ruid_key(&self, ruid: &[u8]) -> RecordKey {
        self.key(b"ruid", [ruid, b""])
    }

    /// What is known of a record.
    pub fn known(&self, key: RecordKey, now: i64) -> Option<Known> {
        self.ledger(key)?.lock().get(key, now)
    }

    /// Keeps when a record was changed, or that it is gone, until then (Unix
    /// time). Without memory for it the next message about it wins.
    pub fn keep(&self, key: RecordKey, known: Known, until: i64, now: i64) {
        if let Some(ledger) = self.ledger(key) {
            ledger.lock().put(key, known, until, now);
        }
    }

    /// Nothing is to be known of a record any more.
    pub fn forget(&self, key: RecordKey) {
        if let Some(ledger) = self.ledger(key) {
            ledger.lock().remove(key);
        }
    }

    /// Forgets what need not be known any longer, in one part. Gives the next one.
    pub fn sweep(&self, part: usize, now: i64) -> usize {
        if let Some(ledger) = self.ledger.get(part) {
            ledger.lock().sweep(now);
        }
        (part + 1) % PARTS
    }

    fn ledger(&self, key: RecordKey) -> Option<&Mutex<M::Lock, Ledger<M>>> {
        self.ledger.get(key[1] as usize % PARTS)
    }

    /// Puts a change into the outbox. `merge` makes one payload of one that still
    /// waits and the new one, or none if there is nothing to be said. True if the
    /// replicator is to be woken.
    pub fn put(
        &self,
        key: RecordKey,
        class: Class,
        payload: &[u8],
        merge: impl FnOnce(&[u8], &[u8]) -> Option<Vec<u8>>,
    ) -> bool {
        match self.outbox.lock().put(key, class, payload, merge) {
            Ok(wake) => return wake,
            Err(OutOfMemory) => count(&self.counts.overflowed),
        }
        // Outside of the outbox's lock.
        self.peers.lock().all_behind();
        true
    }

    /// Takes some of what is to leave now (milliseconds of any clock).
    pub fn take(&self, now: u64, most: usize) -> Vec<Outgoing> {
        self.outbox.lock().take(now, most)
    }

    /// Changes that wait.
    pub fn waiting(&self) -> usize {
        self.outbox.lock().waiting()
    }

    /// This server's share of the CSeqs (`cseq_blocks::Slot`); 0: none yet.
    pub fn slot(&self) -> u32 {
        self.slot.load(Ordering::Relaxed)
    }

    /// It has this one from now on.
    pub fn set_slot(&self, slot: u32) {
        self.slot.store(slot, Ordering::Relaxed);
    }

    /// What stands for this server's address.
    pub fn address(&self) -> u64 {
        stamp::node_of(self.own.as_bytes())
    }

    /// The other nodes. Short work only: it is done under a lock.
    pub fn peers<R>(&self, work: impl FnOnce(&mut Peers) -> R) -> R {
        work(&mut self.peers.lock())
    }

    /// The other nodes are to be asked for what they have.
    pub fn ask_all(&self) {
        self.asks.store(true, Ordering::Release);
    }

    /// They are to be asked: true once.
    pub fn take_ask(&self) -> bool {
        self.asks.load(Ordering::Relaxed) && self.asks.swap(false, Ordering::AcqRel)
    }
}

impl<M: Memory> Store<M> {
    /// What a server that replicates shares; `None` for others.
    pub fn replication(&self) -> Option<&'static Replication<M>> {
        self.shared.replication
    }
}
