//! The same between forked processes, on memory they really share.

use core::ptr::{NonNull, null_mut};
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::*;

/// The start of a shared mapping, of which blocks are cut one after the other.
struct Mapping {
    used: AtomicUsize,
    live: AtomicUsize,
}

const MAPPED: usize = 256 << 20;

#[derive(Clone, Copy)]
struct SharedArena(&'static Mapping);

impl SharedArena {
    fn new() -> Self {
        let (access, flags) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
        // SAFETY: a fresh anonymous mapping, zero-filled, never unmapped; zeros
        // are a valid `Mapping`.
        let mapping = unsafe {
            let start = libc::mmap(null_mut(), MAPPED, access, flags | libc::MAP_NORESERVE, -1, 0);
            assert_ne!(start, libc::MAP_FAILED);
            start.cast::<Mapping>().as_ref().unwrap()
        };
        mapping.used.store(size_of::<Mapping>(), Ordering::Relaxed);
        Self(mapping)
    }
}

// SAFETY: blocks are disjoint parts of one mapping, 8-byte aligned since all
// sizes are rounded up, and are never used twice.
unsafe impl Arena for SharedArena {
    fn allocate(&self, size: usize) -> Option<NonNull<u8>> {
        let size = size.next_multiple_of(8);
        let at = self.0.used.fetch_add(size, Ordering::Relaxed);
        if at + size > MAPPED {
            return None;
        }
        self.0.live.fetch_add(size, Ordering::Relaxed);
        // SAFETY: within the mapping.
        NonNull::new(unsafe { (&raw const *self.0).cast::<u8>().add(at).cast_mut() })
    }

    unsafe fn release(&self, _: NonNull<u8>, size: usize) {
        self.0.live.fetch_sub(size.next_multiple_of(8), Ordering::Relaxed);
    }
}

/// A lock that works wherever its byte is shared.
struct Spin(AtomicBool);

// SAFETY: only one `swap` finds `false` until `unlock` stores it again.
unsafe impl lock_api::RawMutex for Spin {
    #[allow(clippy::declare_interior_mutable_const)]
    const INIT: Self = Self(AtomicBool::new(false));
    type GuardMarker = lock_api::GuardSend;

    fn lock(&self) {
        while !self.try_lock() {
            std::thread::yield_now();
        }
    }

    fn try_lock(&self) -> bool {
        !self.0.swap(true, Ordering::Acquire)
    }

    unsafe fn unlock(&self) {
        self.0.store(false, Ordering::Release);
    }
}

struct SharedMemory;

impl Memory for SharedMemory {
    type Arena = SharedArena;
    type Lock = Spin;
}

#[test]
fn processes_share_shards() {
    let arena = SharedArena::new();
    let pool = place(arena, PagePool::<SharedMemory>::new(arena, 1).unwrap()).unwrap();
    let heap = place(arena, Heap::new(pool)).unwrap();
    let shards = place_slice(arena, 4, |_| Ok(Mutex::<Spin, _>::new(Shard::new(heap)?))).unwrap();
    let (usage, bytes) = (pool.usage(), arena.0.live.load(Ordering::Relaxed));
    let children: Vec<_> = (1..4)
        .map(|seed| {
            // SAFETY: the child only uses the containers, its stack and async-
            // signal-safe calls; `alarm` ends it should it hang.
            unsafe {
                let child = libc::fork();
                if child == 0 {
                    libc::alarm(60);
                    work::<SharedMemory>(heap, shards, seed, 5_000);
                    libc::_exit(0);
                }
                child
            }
        })
        .collect();
    for child in children {
        assert!(child > 0);
        let mut status = -1;
        // SAFETY: waits for a child of ours, and fills in its status.
        assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
        assert_eq!(status, 0);
    }
    assert!(shards.iter().map(|shard| shard.lock().records.len()).sum::<usize>() > 0);
    for shard in shards {
        let mut shard = shard.lock();
        shard.check();
        while shard.expire(1_000_000) > 0 {}
        assert!(shard.records.is_empty());
    }
    assert_eq!((pool.usage(), arena.0.live.load(Ordering::Relaxed)), (usage, bytes));
}
