use std::thread;

use proptest::prelude::*;

use super::*;
use crate::shm::testing::{Rig, TestMemory};

/// A live allocation and the byte it was filled with.
struct Live {
    start: NonNull<u8>,
    size: usize,
    fill: u8,
}

// SAFETY: the memory is the test's own until it is released.
unsafe impl Send for Live {}

impl Live {
    fn new(heap: &'static Heap<TestMemory>, size: usize, fill: u8) -> Option<Self> {
        let start = heap.allocate(size).ok()?;
        assert_eq!(start.as_ptr() as usize % ALIGN, 0);
        // SAFETY: fresh memory of this size.
        unsafe { start.write_bytes(fill, size) };
        Some(Self { start, size, fill })
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        // SAFETY: allocated and filled in `new`, released only here.
        unsafe {
            let bytes = NonNull::slice_from_raw_parts(self.start, self.size);
            assert!(bytes.as_ref().iter().all(|&byte| byte == self.fill), "overwritten");
            Heap::<TestMemory>::release(self.start);
        }
    }
}

fn size() -> impl Strategy<Value = usize> {
    prop_oneof![6 => 0usize..300, 3 => 0usize..2100, 2 => 2000usize..20_000, 1 => 200_000usize..400_000]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn allocations_never_overlap_and_all_goes_back(
        ops in prop::collection::vec((any::<bool>(), size(), any::<prop::sample::Index>()), 1..400),
        reserve in 0usize..3,
        limit in prop_oneof![Just(usize::MAX), 500_000usize..2_000_000],
    ) {
        let rig = Rig::new(reserve);
        rig.arena.set_limit(limit.saturating_add(reserve << 18));
        let mut live = Vec::new();
        for (n, (add, size, which)) in ops.into_iter().enumerate() {
            if add || live.is_empty() {
                live.extend(Live::new(rig.heap, size, n as u8));
            } else {
                live.swap_remove(which.index(live.len()));
            }
            let slots = live.iter().filter_map(|l| class_of(l.size)).map(slot_size).sum::<usize>();
            prop_assert_eq!(rig.heap.usage().slot_bytes, slots);
        }
        drop(live);
        rig.assert_empty();
        prop_assert_eq!(rig.pool.usage().chunks, reserve);
    }
}

#[test]
fn fills_pages_before_it_takes_new_ones() {
    let rig = Rig::new(1);
    let mut live: Vec<_> = (0..630).map(|n| Live::new(rig.heap, 64, n as u8).unwrap()).collect();
    assert_eq!(rig.heap.usage().slot_pages, 10);
    // Holes are used again.
    for at in (0..300).rev() {
        live.swap_remove(at * 2);
    }
    live.extend((0..300).map(|n| Live::new(rig.heap, 60, n as u8).unwrap()));
    assert_eq!(rig.heap.usage().slot_pages, 10);
    drop(live);
    rig.assert_empty();
}

#[test]
fn absurd_sizes_are_refused() {
    let rig = Rig::new(0);
    for size in [usize::MAX, usize::MAX - 63, usize::MAX / 2, isize::MAX as usize - 4096] {
        assert_eq!(rig.heap.allocate(size), Err(OutOfMemory));
    }
    rig.assert_empty();
}

#[test]
fn exhaustion_is_an_error_and_passes() {
    let rig = Rig::new(1);
    rig.arena.set_limit(rig.arena.live_bytes());
    let mut live = Vec::new();
    while let Some(one) = Live::new(rig.heap, 1000, live.len() as u8) {
        live.push(one);
    }
    assert_eq!(live.len(), 128 * 4);
    live.pop();
    live.push(Live::new(rig.heap, 1000, 1).unwrap());
    assert!(Live::new(rig.heap, 1000, 1).is_none());
    drop(live);
    rig.assert_empty();
}

#[test]
fn threads_share_heaps_and_free_each_others_memory() {
    let rig = Rig::new(1);
    let other = super::super::place(rig.arena, Heap::new(rig.pool)).unwrap();
    let idle = rig.arena.live_bytes();
    thread::scope(|scope| {
        let (sender, receiver) = std::sync::mpsc::sync_channel::<Live>(64);
        for seed in 0..3usize {
            let sender = sender.clone();
            scope.spawn(move || {
                let mut random = seed * 7919 + 1;
                for n in 0..4000 {
                    random =
                        random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                    let heap = if random >> 40 & 1 == 0 { rig.heap } else { other };
                    sender.send(Live::new(heap, (random >> 33) % 3000, n as u8).unwrap()).unwrap();
                }
            });
        }
        drop(sender);
        scope.spawn(move || {
            let mut kept = std::collections::VecDeque::new();
            for live in receiver {
                kept.push_back(live);
                if kept.len() > 500 {
                    kept.pop_front();
                }
            }
        });
    });
    assert_eq!(other.usage(), HeapUsage::default());
    assert_eq!(rig.arena.live_bytes(), idle);
    assert_eq!(rig.pool.usage(), super::super::PoolUsage { chunks: 1, pages: 0, large_bytes: 0 });
}
