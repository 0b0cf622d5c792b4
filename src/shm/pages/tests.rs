use proptest::prelude::*;

use super::*;
use crate::shm::testing::{Rig, TestMemory};

type Pool = PagePool<TestMemory>;

/// A run filled with a pattern behind its header.
struct Run {
    pool: &'static Pool,
    start: NonNull<RunHeader>,
    bytes: usize,
    fill: u8,
}

impl Run {
    fn new(pool: &'static Pool, bytes: usize, fill: u8) -> Option<Self> {
        let start = pool.allocate(bytes).ok()?;
        assert_eq!(start.as_ptr() as usize % PAGE_SIZE, 0);
        // SAFETY: the run holds `bytes` bytes, the first of them its header.
        unsafe { start.add(1).cast::<u8>().write_bytes(fill, bytes - size_of::<RunHeader>()) };
        Some(Self { pool, start, bytes, fill })
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let len = self.bytes - size_of::<RunHeader>();
        // SAFETY: allocated and filled in `new`, released only here.
        unsafe {
            let space = NonNull::slice_from_raw_parts(self.start.add(1).cast::<u8>(), len);
            assert!(space.as_ref().iter().all(|&byte| byte == self.fill), "overwritten");
            self.pool.release(self.start);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn runs_never_overlap_and_all_goes_back(
        ops in prop::collection::vec(
            (any::<bool>(), prop_oneof![4 => 1usize..4, 4 => 1usize..=128, 1 => 129usize..135], any::<prop::sample::Index>()),
            1..200,
        ),
        reserve in 0usize..4,
        chunks in prop_oneof![Just(usize::MAX >> 21), 3usize..6],
    ) {
        let rig = Rig::new(reserve);
        rig.arena.set_limit(rig.arena.live_bytes() + (chunks << 19));
        let mut live: Vec<Run> = Vec::new();
        for (n, (add, pages, which)) in ops.into_iter().enumerate() {
            if add || live.is_empty() {
                live.extend(Run::new(rig.pool, pages * PAGE_SIZE - n % 4000, n as u8));
            } else {
                live.swap_remove(which.index(live.len()));
            }
            let used = live.iter().map(|run| run.bytes.div_ceil(PAGE_SIZE)).filter(|&n| n <= 128).sum::<usize>();
            let usage = rig.pool.usage();
            prop_assert_eq!(usage.pages, used);
            prop_assert!(usage.chunks >= reserve);
            prop_assert!(usage.chunks <= reserve.max(live.len()));
        }
        drop(live);
        rig.assert_empty();
        prop_assert_eq!(rig.pool.usage(), PoolUsage { chunks: reserve, ..PoolUsage::default() });
    }
}

#[test]
fn single_pages_fill_chunks_wholly() {
    let rig = Rig::new(0);
    let mut live: Vec<_> = (0..128 * 4).map(|n| Run::new(rig.pool, 5000 - n, 1).unwrap()).collect();
    live.retain(|run| run.bytes <= PAGE_SIZE);
    live.extend((0..128 * 4).map(|_| Run::new(rig.pool, PAGE_SIZE, 2).unwrap()));
    assert!(rig.pool.usage().chunks <= rig.pool.usage().pages.div_ceil(128) + 1);
    drop(live);
    rig.assert_empty();
}

#[test]
fn a_pool_that_cannot_have_its_reserve_leaves_nothing() {
    let arena = crate::shm::HeapArena::new();
    arena.fail_after(2);
    assert!(Pool::new(arena, 3).is_err());
    assert_eq!(arena.live_bytes(), 0);
    arena.never_fail();
    let pool = Pool::new(arena, 3).unwrap();
    assert_eq!(pool.usage().chunks, 3);
    drop(pool);
    assert_eq!(arena.live_bytes(), 0);
}
