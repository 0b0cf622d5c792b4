//! What the tests of this crate run the containers on.

use core::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use super::{Heap, HeapArena, Memory, OutOfMemory, PagePool, place};

/// The process's heap and `parking_lot`'s lock.
#[derive(Debug)]
pub struct TestMemory;

impl Memory for TestMemory {
    type Arena = HeapArena;
    type Lock = parking_lot::RawMutex;
}

/// Lets a heap's allocations fail from a chosen one on.
pub(crate) struct Faults {
    remaining: AtomicUsize,
}

impl Faults {
    pub(crate) const fn none() -> Self {
        Self { remaining: AtomicUsize::new(usize::MAX) }
    }

    /// Lets `count` more succeed and fails the rest.
    pub(crate) fn fail_after(&self, count: usize) {
        self.remaining.store(count, Relaxed);
    }

    pub(crate) fn never_fail(&self) {
        self.fail_after(usize::MAX);
    }

    pub(crate) fn admit(&self) -> Result<(), OutOfMemory> {
        let counted =
            |count: usize| if count == usize::MAX { Some(count) } else { count.checked_sub(1) };
        self.remaining.fetch_update(Relaxed, Relaxed, counted).map(drop).map_err(|_| OutOfMemory)
    }
}

/// An arena with a pool and a heap.
#[derive(Clone, Copy)]
pub(crate) struct Rig {
    pub(crate) arena: HeapArena,
    pub(crate) pool: &'static PagePool<TestMemory>,
    pub(crate) heap: &'static Heap<TestMemory>,
    idle_bytes: usize,
}

impl Rig {
    pub(crate) fn new(reserve: usize) -> Self {
        let arena = HeapArena::new();
        let pool = place(arena, PagePool::new(arena, reserve).unwrap()).unwrap();
        let heap = place(arena, Heap::new(pool)).unwrap();
        Self { arena, pool, heap, idle_bytes: arena.live_bytes() }
    }

    /// Checks that nothing is in use and everything has gone back.
    #[track_caller]
    pub(crate) fn assert_empty(&self) {
        assert_eq!(self.heap.usage(), Default::default());
        assert_eq!(self.pool.usage().pages, 0);
        assert_eq!(self.arena.live_bytes(), self.idle_bytes);
    }
}
