//! Chunks, and the lists of those that have free pages.

use core::alloc::Layout;
use core::ptr::{NonNull, null_mut};

use super::PAGE_SIZE;
use super::bitmap::{EMPTY_BIN, FreePages, PAGES_PER_CHUNK, bin_that_fits, bin_that_may_fit};
use crate::shm::arena::{AlignedBlock, Arena};

/// Bytes in a chunk.
pub(super) const CHUNK_SIZE: usize = PAGES_PER_CHUNK as usize * PAGE_SIZE;

/// Describes a chunk. It lies beside the chunk's pages: a block of the arena is
/// longer than these by nearly a page, so that they can be aligned.
pub(super) struct Chunk {
    block: AlignedBlock,
    free: FreePages,
    /// Neighbours in the bin of its longest free run; a full chunk is in none.
    prev: *mut Chunk,
    next: *mut Chunk,
}

impl Chunk {
    /// Takes a chunk from the arena, all its pages free, in no bin.
    pub(super) fn create<A: Arena>(arena: A) -> Option<NonNull<Self>> {
        const { assert!(2 * size_of::<Self>() <= PAGE_SIZE - 8 && align_of::<Self>() <= 8) };
        let layout = Layout::from_size_align(CHUNK_SIZE, PAGE_SIZE).ok()?;
        let block = AlignedBlock::allocate(arena, layout)?;
        let before = block.start.as_ptr() as usize - block.raw.as_ptr() as usize;
        let place = if before >= size_of::<Self>() {
            block.raw
        } else {
            // SAFETY: the block's start was moved by less than a header, so
            // that most of the page by which it is longer is at its end.
            unsafe { block.start.add(CHUNK_SIZE) }
        };
        let chunk = place.cast::<Self>();
        let header = Self { block, free: FreePages::ALL, prev: null_mut(), next: null_mut() };
        // SAFETY: the place is 8-byte aligned, as the arena's block and a page
        // are, and has room for the header outside the pages.
        unsafe { chunk.write(header) };
        Some(chunk)
    }

    /// The address of a page.
    ///
    /// # Safety
    ///
    /// The chunk is live and has this page.
    pub(super) unsafe fn page(chunk: NonNull<Self>, number: u32) -> NonNull<u8> {
        // SAFETY: the block never changes while the chunk is live, and its
        // pages follow its start.
        unsafe { (*chunk.as_ptr()).block.start.add(number as usize * PAGE_SIZE) }
    }
}

/// Chunks tried in a bin that may, but need not, hold a run long enough.
const PROBES: usize = 4;

/// Chunks with free pages by the length of their longest free run: 1, 2-3, 4-7,
/// 8-15, 16-31, 32-63, 64-127 and 128. So a run is found, or known not to exist, without
/// a walk over the chunks.
///
/// All chunks named here are live and used only under the lock that protects
/// this struct.
pub(super) struct Bins {
    heads: [*mut Chunk; EMPTY_BIN + 1],
}

impl Bins {
    pub(super) const fn new() -> Self {
        Self { heads: [null_mut(); EMPTY_BIN + 1] }
    }

    /// Takes a run of `count` pages out of some chunk; prefers chunks with
    /// little room. Returns the chunk and the run's first page.
    pub(super) fn take(&mut self, count: u32) -> Option<(NonNull<Chunk>, u32)> {
        let certain = bin_that_fits(count);
        let perhaps = bin_that_may_fit(count);
        if perhaps < certain {
            let mut chunk = self.heads[perhaps];
            for _ in 0..PROBES {
                let Some(candidate) = NonNull::new(chunk) else { break };
                // SAFETY: it is in a bin.
                if let Some(first) = unsafe { self.take_from(candidate, count) } {
                    return Some((candidate, first));
                }
                // SAFETY: it is in a bin, hence live (see `Bins`).
                chunk = unsafe { (*candidate.as_ptr()).next };
            }
        }
        let chunk = self.heads.get(certain..)?.iter().find_map(|&head| NonNull::new(head))?;
        // SAFETY: it is in a bin.
        let first = unsafe { self.take_from(chunk, count) }?;
        Some((chunk, first))
    }

    /// Takes a run out of one chunk.
    ///
    /// # Safety
    ///
    /// The chunk is in a bin.
    unsafe fn take_from(&mut self, chunk: NonNull<Chunk>, count: u32) -> Option<u32> {
        // SAFETY: it is in a bin, hence live, and the lock makes us its only
        // user (see `Bins`).
        let free = unsafe { &mut (*chunk.as_ptr()).free };
        let before = free.bin();
        let first = free.take(count)?;
        let after = free.bin();
        // SAFETY: the chunk was where its free pages said.
        unsafe { self.refile(chunk, before, after) };
        Some(first)
    }

    /// Gives a run back; says whether the whole chunk is free now.
    ///
    /// # Safety
    ///
    /// The run was taken from this chunk by [`take`](Self::take) of these bins
    /// and not given back before.
    pub(super) unsafe fn give(&mut self, chunk: NonNull<Chunk>, first: u32, count: u32) -> bool {
        // SAFETY: a chunk with a run in use is live, and the lock makes us its
        // only user (see `Bins`).
        let free = unsafe { &mut (*chunk.as_ptr()).free };
        let before = free.bin();
        free.give(first, count);
        let after = free.bin();
        // SAFETY: the chunk was where its free pages said.
        unsafe { self.refile(chunk, before, after) };
        after == Some(EMPTY_BIN)
    }

    /// Adds a chunk.
    ///
    /// # Safety
    ///
    /// The chunk is fresh from [`Chunk::create`]; from here on it is used
    /// through these bins only.
    pub(super) unsafe fn add(&mut self, chunk: NonNull<Chunk>) {
        // SAFETY: a fresh chunk is live, wholly free and in no bin.
        unsafe { self.refile(chunk, None, Some(EMPTY_BIN)) };
    }

    /// Takes a wholly free chunk out; its block is the caller's to release.
    ///
    /// # Safety
    ///
    /// The chunk is in these bins and wholly free.
    pub(super) unsafe fn withdraw(&mut self, chunk: NonNull<Chunk>) -> AlignedBlock {
        // SAFETY: a wholly free chunk is in that bin; being in one it is live.
        unsafe {
            self.refile(chunk, Some(EMPTY_BIN), None);
            (*chunk.as_ptr()).block
        }
    }

    /// Some wholly free chunk.
    pub(super) fn any_empty(&self) -> Option<NonNull<Chunk>> {
        NonNull::new(self.heads[EMPTY_BIN])
    }

    /// Moves a chunk from one bin, or none, to another.
    ///
    /// # Safety
    ///
    /// The chunk is live and in the bin `from`.
    unsafe fn refile(&mut self, chunk: NonNull<Chunk>, from: Option<usize>, to: Option<usize>) {
        if from == to {
            return;
        }
        let node = chunk.as_ptr();
        // SAFETY: the chunk and its neighbours in a bin are live, and the lock
        // makes us their only user (see `Bins`).
        unsafe {
            if let Some(bin) = from {
                let (prev, next) = ((*node).prev, (*node).next);
                if prev.is_null() {
                    self.heads[bin] = next;
                } else {
                    (*prev).next = next;
                }
                if !next.is_null() {
                    (*next).prev = prev;
                }
            }
            if let Some(bin) = to {
                let next = self.heads[bin];
                ((*node).prev, (*node).next) = (null_mut(), next);
                if !next.is_null() {
                    (*next).prev = node;
                }
                self.heads[bin] = node;
            }
        }
    }
}
