//! Finds small values by a hash.

use core::fmt;

use hashbrown::HashTable;

use super::allocator::HeapAllocator;
use super::arena::{Memory, OutOfMemory};
use super::heap::Heap;

/// A table from 64-bit hashes to small values, such as an
/// [`Id`](super::Id) or a [`Key`](super::Key), in a heap.
///
/// The table knows neither the keys nor how to hash them: the caller brings the
/// hash ([`KeyedHash`](super::KeyedHash)), and says which of the values with
/// that hash is meant. It never goes to the elements by itself.
pub struct HashIndex<V, M: Memory> {
    table: HashTable<Entry<V>, HeapAllocator<M>>,
    allocator: HeapAllocator<M>,
}

/// The whole hash stands beside the value, so that growing need not fetch what
/// the values stand for.
#[derive(Clone, Copy)]
struct Entry<V> {
    hash: u64,
    value: V,
}

impl<V> Entry<V> {
    fn hash(&self) -> u64 {
        self.hash
    }
}

impl<V: Copy, M: Memory> HashIndex<V, M> {
    /// An empty table, which owns no memory.
    pub fn new(heap: &'static Heap<M>) -> Self {
        let allocator = HeapAllocator::new(heap);
        Self { table: HashTable::new_in(allocator), allocator }
    }

    /// The number of values.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Whether there is no value.
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// Adds a value. Others with the same hash, even the same value, stay.
    pub fn insert(&mut self, hash: u64, value: V) -> Result<(), OutOfMemory> {
        self.table.try_reserve(1, Entry::hash).map_err(|_| OutOfMemory)?;
        self.table.insert_unique(hash, Entry { hash, value }, Entry::hash);
        Ok(())
    }

    /// The value with this hash for which `is_it` says yes.
    pub fn find(&self, hash: u64, mut is_it: impl FnMut(V) -> bool) -> Option<V> {
        let found = self.table.find(hash, |entry| entry.hash == hash && is_it(entry.value));
        found.map(|entry| entry.value)
    }

    /// Puts another value in the place of one. Needs no memory.
    pub fn replace(&mut self, hash: u64, value: V, mut is_it: impl FnMut(V) -> bool) -> Option<V> {
        let found = self.table.find_mut(hash, |entry| entry.hash == hash && is_it(entry.value));
        found.map(|entry| core::mem::replace(&mut entry.value, value))
    }

    /// Removes the value with this hash for which `is_it` says yes.
    pub fn remove(&mut self, hash: u64, mut is_it: impl FnMut(V) -> bool) -> Option<V> {
        let found = self.table.find_entry(hash, |entry| entry.hash == hash && is_it(entry.value));
        let (entry, _) = found.ok()?.remove();
        self.shrink();
        Some(entry.value)
    }

    /// All values, in no order.
    pub fn iter(&self) -> impl Iterator<Item = V> {
        self.table.iter().map(|entry| entry.value)
    }

    /// Removes all values.
    pub fn clear(&mut self) {
        self.table = HashTable::new_in(self.allocator);
    }

    /// Moves to a smaller table if this one is nearly empty. Failing to is no
    /// harm. `HashTable::shrink_to` would abort without memory.
    fn shrink(&mut self) {
        let len = self.table.len();
        if len == 0 {
            self.clear();
        } else if self.table.capacity() / 8 > len {
            let mut smaller = HashTable::new_in(self.allocator);
            if smaller.try_reserve(len * 2, Entry::hash).is_ok() {
                for entry in &self.table {
                    smaller.insert_unique(entry.hash, *entry, Entry::hash);
                }
                self.table = smaller;
            }
        }
    }
}

impl<V, M: Memory> fmt::Debug for HashIndex<V, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HashIndex").field("len", &self.table.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
