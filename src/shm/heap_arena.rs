//! An [`Arena`] on the process's own heap, for tests and benchmarks.

use core::alloc::Layout;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use super::arena::Arena;

/// An arena that is as unkind as the contract allows: every address is 8 modulo
/// 16. It counts what is live and fails on demand.
///
/// Copies share their counters. These are leaked, a few words for each arena.
#[derive(Debug, Clone, Copy)]
pub struct HeapArena {
    state: &'static State,
}

#[derive(Debug)]
struct State {
    live: AtomicUsize,
    limit: AtomicUsize,
    remaining: AtomicUsize,
}

/// Added to a 16-byte aligned address; the block is longer by as much.
const SKEW: usize = 8;

impl HeapArena {
    /// A new arena without a limit.
    pub fn new() -> Self {
        let state = Box::leak(Box::new(State {
            live: AtomicUsize::new(0),
            limit: AtomicUsize::new(usize::MAX),
            remaining: AtomicUsize::new(usize::MAX),
        }));
        Self { state }
    }

    /// Bytes allocated and not yet released.
    pub fn live_bytes(&self) -> usize {
        self.state.live.load(Relaxed)
    }

    /// Allocations that would make more than `bytes` live fail from now on.
    pub fn set_limit(&self, bytes: usize) {
        self.state.limit.store(bytes, Relaxed);
    }

    /// Allocations fail from now on, once `count` more have succeeded.
    pub fn fail_after(&self, count: usize) {
        self.state.remaining.store(count, Relaxed);
    }

    /// Takes back [`set_limit`](Self::set_limit) and
    /// [`fail_after`](Self::fail_after).
    pub fn never_fail(&self) {
        self.set_limit(usize::MAX);
        self.fail_after(usize::MAX);
    }

    fn layout(size: usize) -> Option<Layout> {
        Layout::from_size_align(size.checked_add(SKEW)?, 16).ok()
    }

    /// Counts one allocation of `size` bytes, unless it has to fail.
    fn admit(&self, size: usize) -> bool {
        let counted = |count: usize| count.checked_sub(1);
        let within = |live: usize| {
            let live = live.checked_add(size)?;
            (live <= self.state.limit.load(Relaxed)).then_some(live)
        };
        self.state.remaining.fetch_update(Relaxed, Relaxed, counted).is_ok()
            && self.state.live.fetch_update(Relaxed, Relaxed, within).is_ok()
    }
}

impl Default for HeapArena {
    fn default() -> Self {
        Self::new()
    }
}

// SAFETY: blocks come from the global allocator, which all threads share; the
// layout's 16-byte alignment makes the skewed address 8-byte aligned.
unsafe impl Arena for HeapArena {
    fn allocate(&self, size: usize) -> Option<NonNull<u8>> {
        let layout = Self::layout(size)?;
        if !self.admit(size) {
            return None;
        }
        // SAFETY: the layout holds at least SKEW bytes, so it is not empty.
        let raw = unsafe { std::alloc::alloc(layout) };
        let Some(raw) = NonNull::new(raw) else {
            self.state.live.fetch_sub(size, Relaxed);
            return None;
        };
        // SAFETY: SKEW bytes past the start is within the block.
        Some(unsafe { raw.add(SKEW) })
    }

    unsafe fn release(&self, block: NonNull<u8>, size: usize) {
        let Some(layout) = Self::layout(size) else { return };
        self.state.live.fetch_sub(size, Relaxed);
        // SAFETY: by the contract `block` is what `allocate` returned for this
        // size: SKEW bytes past a block of the same layout.
        unsafe { std::alloc::dealloc(block.as_ptr().sub(SKEW), layout) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_8_modulo_16_and_counted() {
        let arena = HeapArena::new();
        let block = arena.allocate(100).unwrap();
        assert_eq!(block.as_ptr() as usize % 16, 8);
        assert_eq!(arena.live_bytes(), 100);
        // SAFETY: allocated above with this size.
        unsafe { arena.release(block, 100) };
        assert_eq!(arena.live_bytes(), 0);
    }

    #[test]
    fn fails_on_demand() {
        let arena = HeapArena::new();
        arena.set_limit(10);
        assert!(arena.allocate(11).is_none());
        arena.never_fail();
        arena.fail_after(1);
        let block = arena.allocate(8).unwrap();
        assert!(arena.allocate(8).is_none());
        assert_eq!(arena.live_bytes(), 8);
        assert!(HeapArena::new().allocate(usize::MAX).is_none());
        // SAFETY: allocated above with this size.
        unsafe { arena.release(block, 8) };
    }
}
