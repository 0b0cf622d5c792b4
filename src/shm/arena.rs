//! Where shared memory comes from.

use core::alloc::Layout;
use core::fmt;
use core::ptr::NonNull;

use lock_api::RawMutex;

/// The host's shared allocator, as a handle that every process can copy.
///
/// # Safety
///
/// A block returned by [`allocate`](Arena::allocate) is at least `size` bytes,
/// 8-byte aligned, disjoint from every other live block, readable and writable
/// at the same address in every process that uses the layer, and stays so until
/// it is released. Both functions may be called by any process at any time.
pub unsafe trait Arena: Copy + Send + Sync + 'static {
    /// Takes a block of `size` bytes, or `None` if there is no such block.
    fn allocate(&self, size: usize) -> Option<NonNull<u8>>;

    /// Gives a block back.
    ///
    /// # Safety
    ///
    /// `block` came from [`allocate`](Arena::allocate) of the same arena with
    /// the same `size`, was not released before, and nobody uses it any more.
    unsafe fn release(&self, block: NonNull<u8>, size: usize);
}

/// The two things a container needs from its surroundings.
///
/// Containers are generic over one `M: Memory`, so that the same code runs on
/// the host's shared memory and, in tests, on [`HeapArena`](super::HeapArena)
/// with `parking_lot::RawMutex`.
pub trait Memory: 'static {
    /// Where blocks come from.
    type Arena: Arena;
    /// A lock that works between all users of the memory. Its `INIT` value is
    /// an unlocked lock that may be moved before its first use.
    type Lock: RawMutex + Send + Sync + 'static;
}

/// What an arena aligns its blocks to.
const ARENA_ALIGN: usize = 8;

/// A block of the arena and, inside it, an address aligned as asked.
#[derive(Debug, Clone, Copy)]
pub(super) struct AlignedBlock {
    /// The aligned address; at least the size asked for follows it.
    pub(super) start: NonNull<u8>,
    /// What the arena returned, for a request of `size` bytes.
    pub(super) raw: NonNull<u8>,
    /// What the arena was asked for.
    pub(super) size: usize,
}

impl AlignedBlock {
    /// Allocates for `layout`, whatever its alignment.
    pub(super) fn allocate<A: Arena>(arena: A, layout: Layout) -> Option<Self> {
        let slack = layout.align().saturating_sub(ARENA_ALIGN);
        let size = layout.size().max(1).checked_add(slack)?;
        let raw = arena.allocate(size)?;
        let skip = raw.align_offset(layout.align());
        if skip > slack {
            // SAFETY: just allocated with this size, and used by nobody.
            unsafe { arena.release(raw, size) };
            return None;
        }
        // SAFETY: `skip` is at most the slack that the block was enlarged by.
        let start = unsafe { raw.add(skip) };
        Some(Self { start, raw, size })
    }

    /// Gives the block back.
    ///
    /// # Safety
    ///
    /// It came from `arena`, was not released before, and nobody uses it.
    pub(super) unsafe fn release<A: Arena>(self, arena: A) {
        // SAFETY: `raw` and `size` are of the one allocation; see above.
        unsafe { arena.release(self.raw, self.size) };
    }
}

/// There was no memory for what was asked; nothing has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutOfMemory;

impl fmt::Display for OutOfMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("out of shared memory")
    }
}

impl core::error::Error for OutOfMemory {}
