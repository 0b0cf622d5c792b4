//! Finds small values by a hash.

use core::fmt;
use core::mem;

use allocator_api2::vec::Vec;

use super::allocator::HeapAllocator;
use super::arena::{Memory, OutOfMemory};
use super::heap::Heap;

/// A table from 64-bit hashes to small values, such as an
/// [`Id`](super::Id) or a [`Key`](super::Key), in a heap.
///
/// The table knows neither the keys nor how to hash them: the caller brings the
/// hash ([`KeyedHash`](super::KeyedHash)), and says which of the values with
/// that hash is meant. It never goes to the elements by itself. Of the hash it
/// keeps half, so values with different hashes may stand for each other:
/// `is_it` has to look at the element where that matters.
///
/// Open addressing, where entries further from their place come first (Robin
/// Hood): so the table may be nearly full. It grows by a quarter, to what fills
/// its pages: tables that double are three quarters full at best.
pub struct HashIndex<V, M: Memory> {
    /// Never all used, so that every search ends; or none at all.
    slots: Vec<Slot<V>, HeapAllocator<M>>,
    len: usize,
    heap: &'static Heap<M>,
}

/// Half of the hash stands beside the value, so that growing need not fetch what
/// the values stand for.
#[derive(Clone, Copy)]
struct Slot<V> {
    hash: u32,
    value: Option<V>,
}

/// The half of the hash that is kept; who has many tables chooses among them by
/// the other one.
fn half(hash: u64) -> u32 {
    (hash >> 32) as u32
}

/// Of eight slots so many are used before the table grows.
const FULL_EIGHTHS: usize = 7;

impl<V: Copy, M: Memory> HashIndex<V, M> {
    /// An empty table, which owns no memory.
    pub fn new(heap: &'static Heap<M>) -> Self {
        Self { slots: Vec::new_in(HeapAllocator::new(heap)), len: 0, heap }
    }

    /// The number of values.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no value.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds a value. Others with the same hash, even the same value, stay.
    pub fn insert(&mut self, hash: u64, value: V) -> Result<(), OutOfMemory> {
        if self.len + 1 > self.slots.len() * FULL_EIGHTHS / 8 {
            self.resize(self.len + self.len / 4 + 4)?;
        }
        self.put(half(hash), value);
        Ok(())
    }

    /// The value with this hash for which `is_it` says yes.
    pub fn find(&self, hash: u64, is_it: impl FnMut(V) -> bool) -> Option<V> {
        self.slots.get(self.position(hash, is_it)?)?.value
    }

    /// Puts another value in the place of one. Needs no memory.
    pub fn replace(&mut self, hash: u64, value: V, is_it: impl FnMut(V) -> bool) -> Option<V> {
        let at = self.position(hash, is_it)?;
        self.slots.get_mut(at)?.value.replace(value)
    }

    /// Removes the value with this hash for which `is_it` says yes.
    pub fn remove(&mut self, hash: u64, is_it: impl FnMut(V) -> bool) -> Option<V> {
        let value = self.vacate(hash, is_it)?;
        self.trim(0);
        Some(value)
    }

    /// The value with this hash for which `is_it` says yes is found under
    /// another hash from now on. Needs no memory.
    pub fn rekey(&mut self, hash: u64, new: u64, is_it: impl FnMut(V) -> bool) {
        if let Some(value) = self.vacate(hash, is_it) {
            self.put(half(new), value);
        }
    }

    /// Makes room for so many values in all: up to there, `insert` needs no
    /// memory, as long as only `vacate` takes values out.
    pub fn reserve(&mut self, values: usize) -> Result<(), OutOfMemory> {
        if values > self.slots.len() * FULL_EIGHTHS / 8 {
            self.resize(values + values / 4 + 4)?;
        }
        Ok(())
    }

    /// Does what `remove` does, but leaves the table as large as it is.
    pub fn vacate(&mut self, hash: u64, is_it: impl FnMut(V) -> bool) -> Option<V> {
        let mut hole = self.position(hash, is_it)?;
        let value = self.slots.get_mut(hole)?.value.take();
        self.len -= 1;
        // Those behind it that are not in their place move up.
        loop {
            let next = self.after(hole);
            match self.slots.get(next).copied() {
                Some(slot) if slot.value.is_some() && self.distance(slot.hash, next) > 0 => {
                    self.slots.swap(hole, next);
                    hole = next;
                }
                _ => break,
            }
        }
        value
    }

    /// All values, in no order.
    pub fn iter(&self) -> impl Iterator<Item = V> {
        self.slots.iter().filter_map(|slot| slot.value)
    }

    /// Removes all values.
    pub fn clear(&mut self) {
        *self = Self::new(self.heap);
    }

    /// Where the value is.
    fn position(&self, hash: u64, mut is_it: impl FnMut(V) -> bool) -> Option<usize> {
        let hash = half(hash);
        let mut at = self.home(hash);
        for passed in 0..self.slots.len() {
            let slot = self.slots.get(at)?;
            let value = slot.value?;
            if slot.hash == hash {
                if is_it(value) {
                    return Some(at);
                }
            } else if self.distance(slot.hash, at) < passed {
                // It would have come before this one.
                return None;
            }
            at = self.after(at);
        }
        None
    }

    /// Enters a value; there is an empty slot.
    fn put(&mut self, hash: u32, value: V) {
        let mut new = Slot { hash, value: Some(value) };
        let (mut at, mut passed) = (self.home(hash), 0);
        while let Some(slot) = self.slots.get(at).copied() {
            if slot.value.is_none() {
                self.slots[at] = new;
                self.len += 1;
                return;
            }
            let distance = self.distance(slot.hash, at);
            if distance < passed {
                (self.slots[at], new, passed) = (new, slot, distance);
            }
            at = self.after(at);
            passed += 1;
        }
    }

    /// The slot where a search for a hash begins.
    fn home(&self, hash: u32) -> usize {
        ((u64::from(hash) * self.slots.len() as u64) >> 32) as usize
    }

    /// How far a slot is from where its hash belongs.
    fn distance(&self, hash: u32, at: usize) -> usize {
        let home = self.home(hash);
        if at >= home { at - home } else { at + self.slots.len() - home }
    }

    fn after(&self, at: usize) -> usize {
        if at + 1 < self.slots.len() { at + 1 } else { 0 }
    }

    /// Moves to a table with room for so many values, and as many more as its
    /// memory has room for.
    fn resize(&mut self, values: usize) -> Result<(), OutOfMemory> {
        let count = Self::slots_for(values).ok_or(OutOfMemory)?;
        let mut slots = Vec::new_in(HeapAllocator::new(self.heap));
        slots.try_reserve_exact(count).map_err(|_| OutOfMemory)?;
        slots.resize(count, Slot { hash: 0, value: None });
        let old = mem::replace(&mut self.slots, slots);
        self.len = 0;
        for slot in old {
            if let Some(value) = slot.value {
                self.put(slot.hash, value);
            }
        }
        Ok(())
    }

    fn slots_for(values: usize) -> Option<usize> {
        let bytes = (values / FULL_EIGHTHS + 1).checked_mul(8 * size_of::<Slot<V>>())?;
        Some(Heap::<M>::filled(bytes) / size_of::<Slot<V>>())
    }

    /// Moves to a smaller table if this one would be nearly empty with so many
    /// values, or with those that it has. Failing to is no harm.
    pub fn trim(&mut self, values: usize) {
        let values = values.max(self.len);
        if values == 0 {
            self.clear();
        } else if self.slots.len() / 4 > values + 4
            && Self::slots_for(values * 2).is_some_and(|count| count < self.slots.len())
        {
            let _ = self.resize(values * 2);
        }
    }
}

impl<V, M: Memory> fmt::Debug for HashIndex<V, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HashIndex").field("len", &self.len).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
