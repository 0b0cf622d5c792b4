//! Changes that have to leave for the peers. What changes again before it has
//! left leaves once, in its newest form; so the outbox has at most one entry for
//! each record, and is bounded besides.

use super::{Bounds, RecordKey};
use crate::shm::{Blob, HashIndex, Heap, Id, Linked, Links, List, Memory, OutOfMemory, Slab};

/// Milliseconds between two messages about one record: a stock peer handles
/// messages side by side, and would take the second one first.
pub const SPACING: u64 = 50;

/// What a change is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// A publication.
    Publication,
    /// A subscription.
    Subscription,
}

/// A change that is taken to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    /// What it is of.
    pub class: Class,
    /// What was put.
    pub payload: Vec<u8>,
}

/// The one list in which an entry is.
enum Turn {}

struct Entry<M: Memory> {
    key: RecordKey,
    class: Class,
    /// Empty: nothing waits, but something has left lately.
    payload: Blob<M>,
    /// It waits in `ready`; else in `resting`, until then.
    is_ready: bool,
    rests_until: u64,
    turn: Links<Entry<M>>,
}

impl<M: Memory> Linked<Turn> for Entry<M> {
    fn links(&self) -> &Links<Self> {
        &self.turn
    }

    fn links_mut(&mut self) -> &mut Links<Self> {
        &mut self.turn
    }
}

/// All that waits.
pub struct Outbox<M: Memory> {
    heap: &'static Heap<M>,
    entries: Slab<Entry<M>, M>,
    by_key: HashIndex<Id<Entry<M>>, M>,
    ready: List<Entry<M>, Turn>,
    /// Of these something has left lately; first in, first out.
    resting: List<Entry<M>, Turn>,
    waiting: usize,
    bytes: usize,
    bounds: Bounds,
}

fn hash(key: RecordKey) -> u64 {
    key[0]
}

impl<M: Memory> Outbox<M> {
    /// An empty one.
    pub fn new(heap: &'static Heap<M>, bounds: Bounds) -> Outbox<M> {
        Outbox {
            heap,
            entries: Slab::new(heap),
            by_key: HashIndex::new(heap),
            ready: List::new(),
            resting: List::new(),
            waiting: 0,
            bytes: 0,
            bounds,
        }
    }

    /// Changes that wait.
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// Adds a change, or makes one of it and of what waits for the same record.
    /// True if nothing was ready before.
    pub fn put(
        &mut self,
        key: RecordKey,
        class: Class,
        payload: &[u8],
        merge: impl FnOnce(&[u8], &[u8]) -> Option<Vec<u8>>,
    ) -> Result<bool, OutOfMemory> {
        let was_idle = self.ready.is_empty();
        let found = self.find(key);
        match found.and_then(|id| Some((id, self.entries.get(id)?))) {
            Some((id, entry)) if !entry.payload.is_empty() => {
                let merged = merge(&entry.payload, payload).unwrap_or_default();
                self.fill(id, &merged)?;
                if merged.is_empty() {
                    self.drop_idle(id);
                }
            }
            Some((id, _)) => self.fill(id, payload)?,
            None => self.add(key, class, payload)?,
        }
        Ok(was_idle)
    }

    fn find(&self, key: RecordKey) -> Option<Id<Entry<M>>> {
        let is_it = |id| self.entries.get(id).is_some_and(|entry| entry.key == key);
        self.by_key.find(hash(key), is_it)
    }

    /// There may be so many bytes instead of so many.
    fn check(&self, old: usize, new: usize, one_more: bool) -> Result<(), OutOfMemory> {
        let bytes = self.bytes.saturating_sub(old) + new;
        // Who makes less of it is never refused.
        let is_more = new > old || one_more;
        let is_full = bytes > self.bounds.bytes || one_more && self.waiting >= self.bounds.waiting;
        if is_more && is_full { Err(OutOfMemory) } else { Ok(()) }
    }

    fn fill(&mut self, id: Id<Entry<M>>, payload: &[u8]) -> Result<(), OutOfMemory> {
        let old = self.entries.get(id).map_or(0, |entry| entry.payload.len());
        self.check(old, payload.len(), old == 0 && !payload.is_empty())?;
        let blob = Blob::new(self.heap, payload)?;
        if let Some(entry) = self.entries.get_mut(id) {
            entry.payload = blob;
            self.bytes = self.bytes.saturating_sub(old) + payload.len();
            self.waiting += usize::from(!payload.is_empty());
            self.waiting -= usize::from(old > 0);
        }
        Ok(())
    }

    fn add(&mut self, key: RecordKey, class: Class, payload: &[u8]) -> Result<(), OutOfMemory> {
        self.check(0, payload.len(), true)?;
        let payload = Blob::new(self.heap, payload)?;
        let bytes = payload.len();
        let entry =
            Entry { key, class, payload, is_ready: true, rests_until: 0, turn: Links::new() };
        let id = self.entries.insert(entry).map_err(|_| OutOfMemory)?;
        if self.by_key.insert(hash(key), id).is_err() {
            self.entries.remove(id);
            return Err(OutOfMemory);
        }
        self.ready.push_back(&mut self.entries, id);
        (self.waiting, self.bytes) = (self.waiting + 1, self.bytes + bytes);
        Ok(())
    }

    /// An entry without a change that is ready is of no use.
    fn drop_idle(&mut self, id: Id<Entry<M>>) {
        let Some(entry) = self.entries.get(id).filter(|entry| entry.is_ready) else { return };
        let key = entry.key;
        self.ready.unlink(&mut self.entries, id);
        self.by_key.remove(hash(key), |other| other == id);
        self.entries.remove(id);
    }

    /// Takes what is to leave now, the oldest first.
    pub fn take(&mut self, now: u64, most: usize) -> Vec<Outgoing> {
        self.wake_resting(now);
        let mut taken = Vec::new();
        while taken.len() < most
            && let Some(id) = self.ready.front()
        {
            self.ready.unlink(&mut self.entries, id);
            let Some(entry) = self.entries.get_mut(id) else { break };
            let payload = std::mem::take(&mut entry.payload);
            (entry.is_ready, entry.rests_until) = (false, now.saturating_add(SPACING));
            taken.push(Outgoing { class: entry.class, payload: payload.to_vec() });
            self.bytes = self.bytes.saturating_sub(payload.len());
            self.waiting = self.waiting.saturating_sub(1);
            self.resting.push_back(&mut self.entries, id);
        }
        taken
    }

    fn wake_resting(&mut self, now: u64) {
        while let Some(id) = self.resting.front() {
            let Some(entry) = self.entries.get_mut(id) else { break };
            // A clock that was set back must not hold what waits.
            if entry.rests_until > now && entry.rests_until - now <= SPACING {
                break;
            }
            entry.is_ready = true;
            let is_empty = entry.payload.is_empty();
            self.resting.unlink(&mut self.entries, id);
            self.ready.push_back(&mut self.entries, id);
            if is_empty {
                self.drop_idle(id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail loudly")]
    use super::*;
    use crate::shm::{HeapArena, PagePool, TestMemory, place};
    use proptest::prelude::*;

    fn outbox(waiting: usize, bytes: usize) -> Outbox<TestMemory> {
        let arena = HeapArena::new();
        let pool = place(arena, PagePool::new(arena, 0).unwrap()).unwrap();
        let heap = place(arena, Heap::new(pool)).unwrap();
        Outbox::new(heap, Bounds { waiting, bytes, stamps: 0 })
    }

    fn both(waiting: &[u8], new: &[u8]) -> Option<Vec<u8>> {
        Some([waiting, new].concat())
    }

    fn payloads(taken: Vec<Outgoing>) -> Vec<String> {
        taken.into_iter().map(|one| String::from_utf8(one.payload).unwrap()).collect()
    }

    #[test]
    fn what_has_not_left_leaves_once() {
        let mut outbox = outbox(10, 1000);
        assert_eq!(outbox.put([1; 2], Class::Publication, b"a", both), Ok(true));
        assert_eq!(outbox.put([2; 2], Class::Publication, b"x", both), Ok(false));
        assert_eq!(outbox.put([1; 2], Class::Publication, b"b", both), Ok(false));
        assert_eq!(payloads(outbox.take(100, 9)), ["ab", "x"]);
        assert_eq!(outbox.waiting(), 0);
        // Another message about it has to wait for a moment, and may be made of many.
        assert!(outbox.put([1; 2], Class::Publication, b"c", both).unwrap());
        outbox.put([1; 2], Class::Publication, b"d", both).unwrap();
        outbox.put([3; 2], Class::Publication, b"y", both).unwrap();
        assert_eq!(payloads(outbox.take(100 + SPACING - 1, 9)), ["y"]);
        assert_eq!(payloads(outbox.take(100 + SPACING, 9)), ["cd"]);
        assert!(payloads(outbox.take(100 + SPACING * 3, 9)).is_empty());
        assert!(outbox.entries.is_empty() && outbox.by_key.is_empty());
        assert_eq!((outbox.waiting, outbox.bytes), (0, 0));
    }

    #[test]
    fn what_nobody_has_heard_of_is_not_told() {
        let mut outbox = outbox(10, 1000);
        outbox.put([1; 2], Class::Publication, b"made", both).unwrap();
        outbox.put([1; 2], Class::Publication, b"removed", |_, _| None).unwrap();
        assert!(outbox.take(0, 9).is_empty() && outbox.entries.is_empty());
    }

    #[test]
    fn a_clock_that_is_set_back_holds_nothing() {
        let mut outbox = outbox(10, 1000);
        outbox.put([1; 2], Class::Publication, b"a", both).unwrap();
        outbox.take(1_000_000, 9);
        outbox.put([1; 2], Class::Publication, b"b", both).unwrap();
        assert_eq!(payloads(outbox.take(5, 9)), ["b"]);
    }

    proptest! {
        #[test]
        fn it_is_bounded(puts in prop::collection::vec((0u64..20, 0usize..40, any::<bool>()), 0..200)) {
            let mut outbox = outbox(8, 100);
            for (n, (key, length, take)) in puts.into_iter().enumerate() {
                let payload = vec![b'x'; length + 1];
                let _ = outbox.put([key; 2], Class::Publication, &payload, |_, new| Some(new.to_vec()));
                prop_assert!(outbox.waiting <= 8 && outbox.bytes <= 100);
                if take {
                    outbox.take(n as u64 * 20, 3);
                }
            }
            outbox.take(u64::MAX / 2, 99);
            outbox.take(u64::MAX / 2 + 2 * SPACING, 99);
            outbox.take(u64::MAX / 2 + 4 * SPACING, 99);
            prop_assert_eq!((outbox.waiting, outbox.bytes, outbox.entries.len()), (0, 0, 0));
        }
    }
}
