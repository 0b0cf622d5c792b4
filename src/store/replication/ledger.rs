//! When records were changed last, and which are gone (tombstones). A bounded
//! number for a bounded time: without an entry the next message wins.

use super::RecordKey;
use crate::presence::replication::stamp::Stamp;
use crate::shm::{HashIndex, Heap, Memory};

/// What is known of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    /// Its last change.
    pub stamp: Stamp,
    /// That was its end.
    pub is_gone: bool,
}

#[derive(Clone, Copy)]
struct Entry {
    key: RecordKey,
    known: Known,
    /// Unix time from which it need not be known any more.
    until: u32,
}

/// Entries that are looked at for one that may go.
const LOOKED_AT: usize = 16;

/// A part of all records.
pub struct Ledger<M: Memory> {
    entries: HashIndex<Entry, M>,
    most: usize,
}

fn hash(key: RecordKey) -> u64 {
    key[0]
}

fn seconds(time: i64) -> u32 {
    u32::try_from(time.max(0)).unwrap_or(u32::MAX)
}

impl<M: Memory> Ledger<M> {
    /// For at most so many records.
    pub fn new(heap: &'static Heap<M>, most: usize) -> Ledger<M> {
        Ledger { entries: HashIndex::new(heap), most }
    }

    /// What is known of a record.
    pub fn get(&self, key: RecordKey, now: i64) -> Option<Known> {
        let found = self.entries.find(hash(key), |entry| entry.key == key)?;
        (found.until > seconds(now)).then_some(found.known)
    }

    /// Keeps it. What is newer already stays; so does an end, unless a change
    /// beats it.
    pub fn put(&mut self, key: RecordKey, known: Known, until: i64, now: i64) {
        let entry = Entry { key, known, until: seconds(until) };
        match self.get(key, now) {
            Some(old) if old.stamp.beats(known.stamp) && !known.stamp.beats(old.stamp) => {}
            Some(_) => {
                self.entries.replace(hash(key), entry, |entry| entry.key == key);
            }
            None => {
                self.remove(key);
                if self.entries.len() >= self.most {
                    self.make_room(now);
                }
                // Without memory nothing is known of it.
                let _ = self.entries.insert(hash(key), entry);
            }
        }
    }

    /// Forgets it.
    pub fn remove(&mut self, key: RecordKey) {
        self.entries.remove(hash(key), |entry| entry.key == key);
    }

    /// Forgets what need not be known any longer.
    pub fn sweep(&mut self, now: i64) {
        let now = seconds(now);
        let old: Vec<RecordKey> =
            self.entries.iter().filter(|entry| entry.until <= now).map(|entry| entry.key).collect();
        for key in old {
            self.entries.vacate(hash(key), |entry| entry.key == key);
        }
        self.entries.trim(0);
    }

    /// Of some the one goes that would go first.
    fn make_room(&mut self, now: i64) {
        self.sweep(now);
        if self.entries.len() < self.most {
            return;
        }
        let first = self.entries.iter().take(LOOKED_AT).min_by_key(|entry| entry.until);
        if let Some(first) = first {
            self.remove(first.key);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail loudly")]
    use super::*;
    use crate::shm::{HeapArena, PagePool, TestMemory, place};

    fn ledger(most: usize) -> Ledger<TestMemory> {
        let arena = HeapArena::new();
        let pool = place(arena, PagePool::new(arena, 0).unwrap()).unwrap();
        Ledger::new(place(arena, Heap::new(pool)).unwrap(), most)
    }

    fn at(milliseconds: u64, is_gone: bool) -> Known {
        let stamp = Stamp { milliseconds, ..Stamp::default() };
        Known { stamp, is_gone }
    }

    #[test]
    fn the_newest_is_known_for_its_time() {
        let mut ledger = ledger(100);
        let key = [7, 1];
        assert_eq!(ledger.get(key, 0), None);
        ledger.put(key, at(5, false), 100, 0);
        ledger.put(key, at(4, true), 200, 0);
        assert_eq!(ledger.get(key, 0), Some(at(5, false)));
        ledger.put(key, at(6, true), 200, 0);
        assert_eq!(ledger.get(key, 199), Some(at(6, true)));
        assert_eq!(ledger.get(key, 200), None);
        assert_eq!(ledger.get([7, 2], 0), None);
        ledger.put(key, at(1, false), 300, 250);
        assert_eq!(ledger.get(key, 250), Some(at(1, false)));
        ledger.remove(key);
        assert_eq!(ledger.get(key, 250), None);
    }

    #[test]
    fn there_are_never_too_many() {
        let mut ledger = ledger(50);
        for n in 0..500 {
            ledger.put([n; 2], at(n, false), 1000, 0);
            assert!(ledger.entries.len() <= 50);
        }
        assert!(ledger.get([499; 2], 0).is_some());
        ledger.sweep(1000);
        assert!(ledger.entries.is_empty());
    }
}
