//! The containers together: between threads, between processes, without memory.

mod fork;

use std::thread;

use lock_api::Mutex;

use super::testing::{Rig, TestMemory};
use super::*;

/// A small store as it would be built on this layer.
struct Shard<M: Memory> {
    records: Slab<Record<M>, M>,
    by_name: HashIndex<Id<Record<M>>, M>,
    expiry: Wheel<Record<M>, Expiry, M>,
    newest: List<Record<M>, Newest>,
}

struct Record<M: Memory> {
    name: Blob<M>,
    body: Blob<M>,
    timer: Timer<Record<M>>,
    newest: Links<Record<M>>,
}

struct Expiry;
struct Newest;

impl<M: Memory> Timed<Expiry> for Record<M> {
    fn timer(&self) -> &Timer<Self> {
        &self.timer
    }
    fn timer_mut(&mut self) -> &mut Timer<Self> {
        &mut self.timer
    }
}

impl<M: Memory> Linked<Newest> for Record<M> {
    fn links(&self) -> &Links<Self> {
        &self.newest
    }
    fn links_mut(&mut self) -> &mut Links<Self> {
        &mut self.newest
    }
}

const HASH: KeyedHash = KeyedHash::new(*b"a key for testin");

impl<M: Memory> Shard<M> {
    fn new(heap: &'static Heap<M>) -> Result<Self, OutOfMemory> {
        Ok(Self {
            records: Slab::new(heap),
            by_name: HashIndex::new(heap),
            expiry: Wheel::new(heap, 64, 0)?,
            newest: List::new(),
        })
    }

    fn find(&self, name: &[u8]) -> Option<Id<Record<M>>> {
        self.by_name.find(HASH.hash(name), |id| {
            self.records.get(id).is_some_and(|record| *record.name == *name)
        })
    }

    /// Adds a record, or gives it a new body; changes nothing on failure.
    fn put(
        &mut self,
        heap: &'static Heap<M>,
        name: &[u8],
        body: &[u8],
        deadline: i64,
    ) -> Result<(), OutOfMemory> {
        let body = Blob::new(heap, body)?;
        let id = match self.find(name) {
            Some(id) => id,
            None => {
                let name = Blob::new(heap, name)?;
                let hash = HASH.hash(&name);
                let record =
                    Record { name, body: Blob::EMPTY, timer: Timer::new(), newest: Links::new() };
                let id = self.records.insert(record).map_err(|_| OutOfMemory)?;
                if let Err(error) = self.by_name.insert(hash, id) {
                    self.records.remove(id);
                    return Err(error);
                }
                id
            }
        };
        if let Some(record) = self.records.get_mut(id) {
            record.body = body;
        }
        self.expiry.schedule(&mut self.records, id, deadline);
        self.newest.unlink(&mut self.records, id);
        self.newest.push_front(&mut self.records, id);
        Ok(())
    }

    fn remove(&mut self, id: Id<Record<M>>) -> Option<Record<M>> {
        self.expiry.cancel(&mut self.records, id);
        self.newest.unlink(&mut self.records, id);
        let record = self.records.remove(id)?;
        self.by_name.remove(HASH.hash(&record.name), |other| other == id);
        Some(record)
    }

    fn expire(&mut self, now: i64) -> usize {
        let mut budget = 20;
        let mut expired = 0;
        while let Some(id) = self.expiry.pop_due(&mut self.records, now, &mut budget) {
            self.remove(id);
            expired += 1;
        }
        expired
    }

    fn check(&self) {
        assert_eq!(self.records.len(), self.by_name.len());
        assert_eq!(self.records.len(), self.expiry.len());
        assert_eq!(self.records.len(), self.newest.len());
        assert_eq!(self.newest.iter(&self.records).count(), self.records.len());
        assert!(self.records.iter().all(|(id, record)| self.find(&record.name) == Some(id)));
    }
}

/// A sequence of numbers that differ enough.
struct Random(u64);

impl Random {
    fn next(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) % below
    }
}

/// Some thousand operations on a random record each.
fn work<M: Memory>(
    heap: &'static Heap<M>,
    shards: &[Mutex<M::Lock, Shard<M>>],
    seed: u64,
    steps: i64,
) {
    let mut random = Random(seed);
    let bytes = [seed as u8; 5000];
    for now in 0..steps {
        let name = random.next(800).to_be_bytes();
        let mut shard = shards[HASH.hash(&name) as usize % shards.len()].lock();
        match random.next(4) {
            0 => drop(shard.find(&name).and_then(|id| shard.remove(id))),
            1 => drop(shard.expire(now)),
            _ => {
                let body = &bytes[..random.next(5000) as usize];
                let _ = shard.put(heap, &name, body, now + random.next(200) as i64);
            }
        }
    }
}

#[test]
fn threads_share_shards() {
    let rig = Rig::new(2);
    let shards = place_slice(rig.arena, 4, |_| Ok(Mutex::new(Shard::new(rig.heap)?))).unwrap();
    let (pages, bytes) = (rig.pool.usage(), rig.arena.live_bytes());
    // Sometimes there is not enough.
    rig.arena.set_limit(bytes + (1 << 20));
    thread::scope(|scope| {
        for seed in 1..4 {
            scope.spawn(move || work::<TestMemory>(rig.heap, shards, seed, 10_000));
        }
    });
    for shard in shards {
        let mut shard = shard.lock();
        shard.check();
        while shard.expire(1_000_000) > 0 {}
        shard.check();
        assert!(shard.records.is_empty());
    }
    assert_eq!((rig.pool.usage(), rig.arena.live_bytes()), (pages, bytes));
}

#[test]
fn every_single_allocation_may_fail() {
    let rig = Rig::new(1);
    let mut failing = 0;
    loop {
        rig.heap.faults.never_fail();
        let mut shard = Shard::<TestMemory>::new(rig.heap).unwrap();
        let mut failed = 0;
        rig.heap.faults.fail_after(failing);
        for n in 0..60u32 {
            let before = shard.records.len();
            let known = shard.find(&n.to_be_bytes()).is_some();
            if shard.put(rig.heap, &n.to_be_bytes(), &[7; 300], n.into()).is_err() {
                failed += 1;
                assert_eq!(
                    (shard.records.len(), shard.find(&n.to_be_bytes()).is_some()),
                    (before, known)
                );
                // One failure, then there is memory again.
                rig.heap.faults.never_fail();
            }
        }
        shard.check();
        assert_eq!(shard.records.len(), 60 - failed);
        rig.heap.faults.fail_after(0);
        while shard.expire(1000) > 0 {}
        assert!(shard.records.is_empty());
        drop(shard);
        rig.assert_empty();
        failing += 1;
        if failed == 0 {
            break;
        }
    }
    assert!(failing > 120, "only {failing} allocations were tried");
}

#[test]
fn a_storm_leaves_no_trace() {
    let rig = Rig::new(4);
    let mut shard = Shard::<TestMemory>::new(rig.heap).unwrap();
    shard.put(rig.heap, b"before", b"body", 10_000_000).unwrap();
    let (usage, bytes) = (rig.pool.usage(), rig.arena.live_bytes());
    for n in 0..50_000u32 {
        shard.put(rig.heap, &n.to_be_bytes(), &[1; 120], (n % 300).into()).unwrap();
    }
    assert!(rig.pool.usage().chunks > 10);
    while shard.expire(1000) > 0 {}
    assert_eq!((rig.pool.usage(), rig.arena.live_bytes()), (usage, bytes));
    assert!(shard.find(b"before").is_some());
}
