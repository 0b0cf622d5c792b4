//! The pages of a slab.

use core::mem;

use allocator_api2::vec::Vec;

use crate::shm::allocator::HeapAllocator;
use crate::shm::arena::{Memory, OutOfMemory};
use crate::shm::heap::{ALIGN, Heap};
use crate::shm::id::Id;
use crate::shm::pages::PAGE_SIZE;

/// One place for an element.
pub(super) enum Slot<T, G> {
    /// The slot is not in use; this is the next such slot of the segment.
    Free {
        next: u32,
    },
    Used {
        generation: G,
        value: T,
    },
}

/// Ends a chain of slots or segments.
const NONE: u32 = u32::MAX;

/// A run of pages full of slots. A vacant one has no pages, but keeps its place
/// in the directory, for the place decides the ids.
struct Segment<T, M: Memory, G> {
    /// The slots used so far; the capacity is that of the pages.
    slots: Vec<Slot<T, G>, HeapAllocator<M>>,
    used: u32,
    free: u32,
    /// Neighbours in the chain of segments with a free slot, or of vacant ones.
    prev: u32,
    next: u32,
}

/// Which chain a segment is in.
#[derive(Clone, Copy)]
enum Chain {
    Roomy = 0,
    Vacant = 1,
}

/// All segments of a slab. The last one is never vacant.
pub(super) struct Directory<T, M: Memory, G> {
    segments: Vec<Segment<T, M, G>, HeapAllocator<M>>,
    chains: [u32; 2],
    allocator: HeapAllocator<M>,
}

impl<T, M: Memory, G> Directory<T, M, G> {
    /// Slots in a segment.
    const SLOTS: u32 = slots_per_segment(size_of::<Slot<T, G>>(), Heap::<M>::ONE_PAGE);

    pub(super) fn new(heap: &'static Heap<M>) -> Self {
        const { assert!(align_of::<T>() <= ALIGN, "more than a heap aligns to") };
        let allocator = HeapAllocator::new(heap);
        Self { segments: Vec::new_in(allocator), chains: [NONE; 2], allocator }
    }

    pub(super) fn slot(&self, id: Id<T>) -> Option<&Slot<T, G>> {
        let (segment, slot) = (id.index() / Self::SLOTS, id.index() % Self::SLOTS);
        self.segments.get(segment as usize)?.slots.get(slot as usize)
    }

    pub(super) fn slot_mut(&mut self, id: Id<T>) -> Option<&mut Slot<T, G>> {
        let (segment, slot) = (id.index() / Self::SLOTS, id.index() % Self::SLOTS);
        self.segments.get_mut(segment as usize)?.slots.get_mut(slot as usize)
    }

    pub(super) fn iter_from(&self, start: u32) -> impl Iterator<Item = (u32, &Slot<T, G>)> {
        let (first, skip) = (start / Self::SLOTS, (start % Self::SLOTS) as usize);
        let segments = self.segments.get(first as usize..).unwrap_or_default();
        segments.iter().zip(first..).flat_map(move |(segment, number)| {
            let skip = if number == first { skip } else { 0 };
            let slots = segment.slots.get(skip..).unwrap_or_default();
            (number * Self::SLOTS + skip as u32..).zip(slots)
        })
    }

    /// Puts a value into some free slot.
    pub(super) fn occupy(&mut self, generation: G, value: T) -> Result<Id<T>, T> {
        let Ok(number) = self.roomy_segment() else { return Err(value) };
        let Some(segment) = self.segments.get_mut(number as usize) else { return Err(value) };
        let fresh = segment.slots.len() as u32;
        let at = if segment.free == NONE { fresh } else { segment.free };
        let Some(id) = Id::from_index(number * Self::SLOTS + at) else { return Err(value) };
        let used = Slot::Used { generation, value };
        if at == fresh {
            // Within the capacity: a roomy segment without a free slot has
            // slots left that were never used.
            segment.slots.push(used);
        } else if let Slot::Free { next } = mem::replace(&mut segment.slots[at as usize], used) {
            segment.free = next;
        }
        segment.used += 1;
        if segment.used == Self::SLOTS {
            self.unchain(Chain::Roomy, number);
        }
        Ok(id)
    }

    /// Takes the value out of a slot, and gives the segment's pages back if it
    /// was the last one.
    pub(super) fn vacate(&mut self, id: Id<T>) -> Option<T> {
        let (number, at) = (id.index() / Self::SLOTS, id.index() % Self::SLOTS);
        let segment = self.segments.get_mut(number as usize)?;
        let slot = segment.slots.get_mut(at as usize)?;
        if let Slot::Free { .. } = slot {
            return None;
        }
        let old = mem::replace(slot, Slot::Free { next: segment.free });
        segment.free = at;
        segment.used -= 1;
        let left = segment.used;
        if left + 1 == Self::SLOTS && left > 0 {
            self.chain(Chain::Roomy, number);
        } else if left == 0 {
            self.release(number);
        }
        match old {
            Slot::Used { value, .. } => Some(value),
            Slot::Free { .. } => None,
        }
    }

    /// Drops all values and gives all memory back.
    pub(super) fn clear(&mut self) {
        self.segments = Vec::new_in(self.allocator);
        self.chains = [NONE; 2];
    }

    /// A segment with a free slot; a new one, if there is none.
    fn roomy_segment(&mut self) -> Result<u32, OutOfMemory> {
        let roomy = self.chains[Chain::Roomy as usize];
        if roomy != NONE {
            return Ok(roomy);
        }
        let mut slots = Vec::new_in(self.allocator);
        slots.try_reserve_exact(Self::SLOTS as usize).map_err(|_| OutOfMemory)?;
        let vacant = self.chains[Chain::Vacant as usize];
        if let Some(segment) = self.segments.get_mut(vacant as usize) {
            segment.slots = slots;
            segment.free = NONE;
            self.unchain(Chain::Vacant, vacant);
            self.chain(Chain::Roomy, vacant);
            return Ok(vacant);
        }
        let number = u32::try_from(self.segments.len()).map_err(|_| OutOfMemory)?;
        if number >= Id::<T>::COUNT / Self::SLOTS {
            return Err(OutOfMemory);
        }
        self.segments.try_reserve(1).map_err(|_| OutOfMemory)?;
        self.segments.push(Segment { slots, used: 0, free: NONE, prev: NONE, next: NONE });
        self.chain(Chain::Roomy, number);
        Ok(number)
    }

    /// Gives the pages of an unused segment back, and the end of the directory
    /// if nothing follows.
    fn release(&mut self, number: u32) {
        if Self::SLOTS > 1 {
            self.unchain(Chain::Roomy, number);
        }
        if let Some(segment) = self.segments.get_mut(number as usize) {
            segment.slots = Vec::new_in(self.allocator);
        }
        self.chain(Chain::Vacant, number);
        while self.segments.last().is_some_and(|last| last.slots.capacity() == 0) {
            self.unchain(Chain::Vacant, self.segments.len() as u32 - 1);
            self.segments.pop();
        }
        self.shrink();
    }

    /// Moves the directory to a smaller block if most of it is unused. Failing
    /// to is no harm.
    fn shrink(&mut self) {
        let len = self.segments.len();
        if len == 0 {
            self.segments = Vec::new_in(self.allocator);
        } else if self.segments.capacity() / 4 >= len.max(4) {
            let mut smaller = Vec::new_in(self.allocator);
            if smaller.try_reserve_exact(len * 2).is_ok() {
                smaller.append(&mut self.segments);
                self.segments = smaller;
            }
        }
    }

    /// Puts a segment at the front of a chain.
    fn chain(&mut self, chain: Chain, number: u32) {
        let next = mem::replace(&mut self.chains[chain as usize], number);
        if let Some(segment) = self.segments.get_mut(number as usize) {
            (segment.prev, segment.next) = (NONE, next);
        }
        if let Some(segment) = self.segments.get_mut(next as usize) {
            segment.prev = number;
        }
    }

    /// Takes a segment out of the chain it is in.
    fn unchain(&mut self, chain: Chain, number: u32) {
        let Some(segment) = self.segments.get(number as usize) else { return };
        let (prev, next) = (segment.prev, segment.next);
        match self.segments.get_mut(prev as usize) {
            Some(segment) => segment.next = next,
            None => self.chains[chain as usize] = next,
        }
        if let Some(segment) = self.segments.get_mut(next as usize) {
            segment.prev = prev;
        }
    }
}

/// How many slots of `size` bytes a segment has: those of the fewest pages of
/// which at most an eighth is left over, or else of one slot.
const fn slots_per_segment(size: usize, one_page: usize) -> u32 {
    let mut space = one_page;
    while space < one_page + 16 * PAGE_SIZE {
        if size <= space && (space % size) * 8 <= space {
            return (space / size) as u32;
        }
        space += PAGE_SIZE;
    }
    1
}
