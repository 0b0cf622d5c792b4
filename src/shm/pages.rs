//! Runs of 4 KiB pages, cut from few large blocks of the arena.
//!
//! The host's allocator suffers when long-lived small records lie between its
//! own short-lived ones, so it is asked for [chunks](chunk) of 512 KiB only
//! and for single blocks that no chunk could hold.

mod bitmap;
mod chunk;

use core::alloc::Layout;
use core::ptr::NonNull;

use lock_api::Mutex;

use self::bitmap::MAX_RUN;
use self::chunk::{Bins, Chunk};
use super::arena::{AlignedBlock, Memory, OutOfMemory};

/// Bytes in a page.
pub const PAGE_SIZE: usize = 4096;

/// Every run of pages begins with this; the pool finds its way back by it.
pub(super) struct RunHeader {
    origin: Origin,
}

/// Where a run came from.
#[derive(Clone, Copy)]
enum Origin {
    Chunk { chunk: NonNull<Chunk>, first: u8, count: u8 },
    Arena(AlignedBlock),
}

/// What a pool has taken from the arena, and how much of it is in use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PoolUsage {
    /// Chunks of 512 KiB held, the reserve included.
    pub chunks: usize,
    /// Pages of those chunks that are in use.
    pub pages: usize,
    /// Bytes in blocks taken for single requests too large for a chunk.
    pub large_bytes: usize,
}

impl PoolUsage {
    /// Bytes taken from the arena.
    pub fn held(self) -> usize {
        self.chunks * chunk::CHUNK_SIZE + self.large_bytes
    }

    /// Bytes of these that are in use.
    pub fn used(self) -> usize {
        self.pages * PAGE_SIZE + self.large_bytes
    }
}

/// The source of pages for all heaps.
///
/// Chunks that no page is used of go back to the arena, but never so many that
/// fewer than the reserve remain.
#[repr(align(64))]
pub struct PagePool<M: Memory> {
    arena: M::Arena,
    reserve: usize,
    state: Mutex<M::Lock, State>,
}

struct State {
    bins: Bins,
    usage: PoolUsage,
}

// SAFETY: the chunks that the pointers name are shared memory, which every
// thread and process may use; the mutex around the state serialises that use.
unsafe impl Send for State {}

impl<M: Memory> PagePool<M> {
    /// A pool that takes `reserve` chunks now and keeps as many for good.
    pub fn new(arena: M::Arena, reserve: usize) -> Result<Self, OutOfMemory> {
        let state = State { bins: Bins::new(), usage: PoolUsage::default() };
        let pool = Self { arena, reserve, state: Mutex::new(state) };
        for _ in 0..reserve {
            pool.state.lock().grow(arena)?;
        }
        Ok(pool)
    }

    /// The arena that the pool draws on.
    pub fn arena(&self) -> M::Arena {
        self.arena
    }

    /// What is held and used at the moment.
    pub fn usage(&self) -> PoolUsage {
        self.state.lock().usage
    }

    /// Takes pages for `bytes` bytes, a [`RunHeader`] at their start included.
    ///
    /// The run is page-aligned and its header filled in; the caller may use all
    /// of it but the header.
    pub(super) fn allocate(&self, bytes: usize) -> Result<NonNull<RunHeader>, OutOfMemory> {
        let bytes = bytes.max(size_of::<RunHeader>());
        let (run, origin) = match u32::try_from(bytes.div_ceil(PAGE_SIZE)) {
            Ok(count) if count <= MAX_RUN => self.cut(count)?,
            _ => self.take_large(bytes)?,
        };
        // SAFETY: the run is page-aligned, at least a header long, and ours.
        unsafe { run.write(RunHeader { origin }) };
        Ok(run)
    }

    fn cut(&self, count: u32) -> Result<(NonNull<RunHeader>, Origin), OutOfMemory> {
        let mut state = self.state.lock();
        let (chunk, first) = match state.bins.take(count) {
            Some(found) => found,
            None => {
                state.grow(self.arena)?;
                state.bins.take(count).ok_or(OutOfMemory)?
            }
        };
        state.usage.pages += count as usize;
        // Both are at most 128.
        let origin = Origin::Chunk { chunk, first: first as u8, count: count as u8 };
        // SAFETY: a chunk with a page in use is live; `first` is a page of it.
        let run = unsafe { Chunk::page(chunk, first) };
        Ok((run.cast(), origin))
    }

    fn take_large(&self, bytes: usize) -> Result<(NonNull<RunHeader>, Origin), OutOfMemory> {
        let layout = Layout::from_size_align(bytes, PAGE_SIZE).map_err(|_| OutOfMemory)?;
        let block = AlignedBlock::allocate(self.arena, layout).ok_or(OutOfMemory)?;
        self.state.lock().usage.large_bytes += block.size;
        Ok((block.start.cast(), Origin::Arena(block)))
    }

    /// Gives a run back.
    ///
    /// # Safety
    ///
    /// `run` came from [`allocate`](Self::allocate) of this pool, its header is
    /// as it was, it was not released before, and nobody uses it any more.
    pub(super) unsafe fn release(&self, run: NonNull<RunHeader>) {
        // SAFETY: a run begins with its header.
        match unsafe { run.read() }.origin {
            Origin::Arena(block) => {
                self.state.lock().usage.large_bytes -= block.size;
                // SAFETY: the header says that this run is that block.
                unsafe { block.release(self.arena) };
            }
            Origin::Chunk { chunk, first, count } => {
                let mut state = self.state.lock();
                state.usage.pages -= usize::from(count);
                // SAFETY: the header says that these are the run's pages.
                let empty = unsafe { state.bins.give(chunk, first.into(), count.into()) };
                if empty && state.usage.chunks > self.reserve {
                    state.usage.chunks -= 1;
                    // SAFETY: the chunk is wholly free and ours.
                    let block = unsafe { state.bins.withdraw(chunk) };
                    // The arena may be slow; nobody need wait for it.
                    drop(state);
                    // SAFETY: no page of the block is in use and no bin names
                    // the chunk any more.
                    unsafe { block.release(self.arena) };
                }
            }
        }
    }
}

impl State {
    /// Adds a chunk.
    fn grow<A: super::Arena>(&mut self, arena: A) -> Result<(), OutOfMemory> {
        let chunk = Chunk::create(arena).ok_or(OutOfMemory)?;
        // SAFETY: just created.
        unsafe { self.bins.add(chunk) };
        self.usage.chunks += 1;
        Ok(())
    }
}

impl<M: Memory> Drop for PagePool<M> {
    /// Gives the chunks back that nobody uses.
    fn drop(&mut self) {
        let state = self.state.get_mut();
        while let Some(chunk) = state.bins.any_empty() {
            // SAFETY: the chunk is wholly free and ours; once withdrawn nobody
            // knows it.
            unsafe { state.bins.withdraw(chunk).release(self.arena) };
        }
    }
}

#[cfg(test)]
mod tests;
