//! Puts root structures into the arena, for good.

use core::alloc::Layout;
use core::mem;
use core::ptr::NonNull;

use super::arena::{AlignedBlock, Arena, OutOfMemory};

/// Moves `value` into `arena`, where it stays as long as the server runs.
///
/// Meant for what is created once, before the fork: the pool, the heaps, the
/// shards. On failure `value` is dropped.
pub fn place<A: Arena, T: Send + Sync + 'static>(
    arena: A,
    value: T,
) -> Result<&'static T, OutOfMemory> {
    let block = AlignedBlock::allocate(arena, Layout::new::<T>()).ok_or(OutOfMemory)?;
    let slot = block.start.cast::<T>();
    // SAFETY: a fresh block of T's size and alignment, which is never released.
    unsafe {
        slot.write(value);
        Ok(slot.as_ref())
    }
}

/// Makes `len` values in `arena`, where they stay as long as the server runs.
///
/// If `make` fails, or there is no memory, what was made is dropped again and
/// nothing stays allocated.
pub fn place_slice<A: Arena, T: Send + Sync + 'static>(
    arena: A,
    len: usize,
    mut make: impl FnMut(usize) -> Result<T, OutOfMemory>,
) -> Result<&'static [T], OutOfMemory> {
    let layout = Layout::array::<T>(len).map_err(|_| OutOfMemory)?;
    let block = AlignedBlock::allocate(arena, layout).ok_or(OutOfMemory)?;
    let first = block.start.cast::<T>();
    let mut unfinished = Unfinished { first, made: 0, block, arena };
    while unfinished.made < len {
        let value = make(unfinished.made)?;
        // SAFETY: the block has room for `len` values; `made` is below that.
        unsafe { first.add(unfinished.made).write(value) };
        unfinished.made += 1;
    }
    mem::forget(unfinished);
    // SAFETY: all `len` values were written, and the block is never released.
    Ok(unsafe { NonNull::slice_from_raw_parts(first, len).as_ref() })
}

/// A slice under construction; undone when `make` fails or panics.
struct Unfinished<A: Arena, T> {
    first: NonNull<T>,
    made: usize,
    block: AlignedBlock,
    arena: A,
}

impl<A: Arena, T> Drop for Unfinished<A, T> {
    fn drop(&mut self) {
        // SAFETY: the first `made` values were written and nobody has seen
        // them; the block is this arena's, and after them unused.
        unsafe {
            NonNull::slice_from_raw_parts(self.first, self.made).drop_in_place();
            self.block.release(self.arena);
        }
    }
}

#[cfg(test)]
mod tests {
    use core::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    use super::*;
    use crate::shm::HeapArena;

    #[repr(align(64))]
    struct Wide(u8);

    #[test]
    fn placed_values_are_aligned() {
        let arena = HeapArena::new();
        for value in 0..20 {
            let placed = place(arena, Wide(value)).unwrap();
            assert_eq!(placed as *const Wide as usize % 64, 0);
            assert_eq!(placed.0, value);
        }
        let slice = place_slice(arena, 5, |i| Ok(Wide(i as u8))).unwrap();
        assert!(slice.iter().enumerate().all(|(i, wide)| wide.0 == i as u8));
        assert!(place_slice(arena, 0, |_| Ok(1u64)).unwrap().is_empty());
    }

    #[test]
    fn a_failed_slice_leaves_nothing() {
        static DROPPED: AtomicUsize = AtomicUsize::new(0);
        struct Counted;
        impl Drop for Counted {
            fn drop(&mut self) {
                DROPPED.fetch_add(1, Relaxed);
            }
        }
        let arena = HeapArena::new();
        let made = place_slice(arena, 9, |i| if i < 4 { Ok(Counted) } else { Err(OutOfMemory) });
        assert!(made.is_err());
        assert_eq!(DROPPED.load(Relaxed), 4);
        assert_eq!(arena.live_bytes(), 0);
        assert!(place_slice(arena, usize::MAX, |_| Ok(1u64)).is_err());
        arena.fail_after(0);
        assert!(place(arena, 7u64).is_err());
        assert_eq!(arena.live_bytes(), 0);
    }
}
