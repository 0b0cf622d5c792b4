//! Records of one type, found by number.

mod directory;

use core::fmt;

use self::directory::{Directory, Slot};
use super::arena::Memory;
use super::heap::Heap;
use super::id::{Id, Key};

/// A growing vector of elements that stay where they are, in pages of a heap.
///
/// All operations are O(1), growing and shrinking the page directory amortised.
/// A page whose last element is removed goes back at once; its range of ids is
/// used again later. Dropping the slab drops the elements.
///
/// With [`Unkeyed`] elements there are no keys, and each takes four bytes less.
pub struct Slab<T, M: Memory, G: Generation = u32> {
    directory: Directory<T, M, G>,
    len: usize,
    generation: G,
}

/// What tells an element from others that were in its place.
pub trait Generation: Copy + Default {
    /// That of the element after the one with this.
    fn next(self) -> Self;
}

impl Generation for u32 {
    fn next(self) -> Self {
        self.wrapping_add(1).max(1)
    }
}

/// Elements are not told apart: only their ids name them.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unkeyed;

impl Generation for Unkeyed {
    fn next(self) -> Self {
        self
    }
}

impl<T, M: Memory, G: Generation> Slab<T, M, G> {
    /// An empty slab, which owns no memory.
    pub fn new(heap: &'static Heap<M>) -> Self {
        Self { directory: Directory::new(heap), len: 0, generation: G::default() }
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds an element. Gives it back if there is no memory for it.
    pub fn insert(&mut self, value: T) -> Result<Id<T>, T> {
        // Counted for the whole slab, so that a page that went and came again
        // cannot repeat a generation.
        let generation = self.generation.next();
        match self.directory.occupy(generation, value) {
            Ok(id) => {
                self.generation = generation;
                self.len += 1;
                Ok(id)
            }
            Err(value) => Err(value),
        }
    }

    /// Removes an element.
    pub fn remove(&mut self, id: Id<T>) -> Option<T> {
        let value = self.directory.vacate(id)?;
        self.len -= 1;
        Some(value)
    }

    /// The element of this id.
    pub fn get(&self, id: Id<T>) -> Option<&T> {
        match self.directory.slot(id)? {
            Slot::Used { value, .. } => Some(value),
            Slot::Free { .. } => None,
        }
    }

    /// The element of this id, to be changed.
    pub fn get_mut(&mut self, id: Id<T>) -> Option<&mut T> {
        match self.directory.slot_mut(id)? {
            Slot::Used { value, .. } => Some(value),
            Slot::Free { .. } => None,
        }
    }

    /// All elements, by rising id.
    pub fn iter(&self) -> impl Iterator<Item = (Id<T>, &T)> {
        self.iter_from(0)
    }

    /// The elements whose [`Id::index`] is at least `start`, by rising id.
    ///
    /// A walk over all elements can so be cut in pieces, with the lock released
    /// in between: each piece starts behind the last index of the one before.
    pub fn iter_from(&self, start: u32) -> impl Iterator<Item = (Id<T>, &T)> {
        self.directory.iter_from(start).filter_map(|(index, slot)| match slot {
            Slot::Used { value, .. } => Some((Id::from_index(index)?, value)),
            Slot::Free { .. } => None,
        })
    }

    /// Drops all elements.
    pub fn clear(&mut self) {
        self.directory.clear();
        self.len = 0;
    }
}

impl<T, M: Memory> Slab<T, M> {
    /// Removes the element of this key.
    pub fn remove_key(&mut self, key: Key<T>) -> Option<T> {
        self.get_key(key)?;
        self.remove(key.id())
    }

    /// The key of an element.
    pub fn key(&self, id: Id<T>) -> Option<Key<T>> {
        match self.directory.slot(id)? {
            Slot::Used { generation, .. } => Some(Key::new(id, *generation)),
            Slot::Free { .. } => None,
        }
    }

    /// The element of this key, unless it is gone.
    pub fn get_key(&self, key: Key<T>) -> Option<&T> {
        match self.directory.slot(key.id())? {
            Slot::Used { generation, value } if *generation == key.generation() => Some(value),
            _ => None,
        }
    }

    /// The element of this key, to be changed, unless it is gone.
    pub fn get_key_mut(&mut self, key: Key<T>) -> Option<&mut T> {
        match self.directory.slot_mut(key.id())? {
            Slot::Used { generation, value } if *generation == key.generation() => Some(value),
            _ => None,
        }
    }
}

impl<T, M: Memory, G: Generation> fmt::Debug for Slab<T, M, G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slab").field("len", &self.len).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
