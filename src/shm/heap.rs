//! An allocator of slots in pages of a [`PagePool`].

mod classes;
mod page;

use core::fmt;
use core::ptr::{NonNull, null_mut};

use lock_api::Mutex;

use self::classes::{CLASSES, class_of, slot_size};
use self::page::{Page, WHOLE_RUN};
use super::arena::{Memory, OutOfMemory};
use super::pages::{PAGE_SIZE, PagePool};

/// Bytes at a page's start that slots cannot use.
const HEADER_SIZE: usize = 64;

/// What slots are aligned to.
pub(super) const ALIGN: usize = 8;

/// Allocates 8-byte aligned memory of any size, in O(1).
///
/// Up to 2016 bytes come from pages of equal slots, more from a run of pages.
/// A page that becomes unused goes back to the pool. Freeing needs the address
/// only, and may happen anywhere: the heap has a lock of its own. Give each few
/// lock shards one heap, and that lock is hardly ever contended.
///
/// Heaps side by side share no cache line.
#[repr(align(64))]
pub struct Heap<M: Memory> {
    pool: &'static PagePool<M>,
    state: Mutex<M::Lock, State<M>>,
    #[cfg(test)]
    pub(super) faults: super::testing::Faults,
}

struct State<M: Memory> {
    /// For each class the pages that have a free slot.
    partial: [*mut Page<M>; CLASSES],
    usage: HeapUsage,
}

/// What a heap has handed out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HeapUsage {
    /// Bytes in slots handed out.
    pub slot_bytes: usize,
    /// Pages that are cut in slots.
    pub slot_pages: usize,
    /// Allocations larger than a slot.
    pub runs: usize,
}

// SAFETY: the pages that the pointers name are shared memory, which every
// thread and process may use; the mutex around the state serialises that use.
unsafe impl<M: Memory> Send for State<M> {}

impl<M: Memory> Heap<M> {
    /// The most bytes that one page holds as a single allocation, and that each
    /// further page adds [`PAGE_SIZE`] to.
    pub const ONE_PAGE: usize = PAGE_SIZE - HEADER_SIZE;

    /// An empty heap. It has to be [placed](super::place) before its first use,
    /// for its pages name it.
    pub fn new(pool: &'static PagePool<M>) -> Self {
        let state = State { partial: [null_mut(); CLASSES], usage: HeapUsage::default() };
        Self {
            pool,
            state: Mutex::new(state),
            #[cfg(test)]
            faults: super::testing::Faults::none(),
        }
    }

    /// The most bytes that take no more memory than `bytes` do.
    pub fn filled(bytes: usize) -> usize {
        match class_of(bytes) {
            Some(class) => slot_size(class),
            None => bytes.saturating_add(HEADER_SIZE).next_multiple_of(PAGE_SIZE) - HEADER_SIZE,
        }
    }

    /// The pool that the heap draws on.
    pub fn pool(&self) -> &'static PagePool<M> {
        self.pool
    }

    /// What is handed out at the moment.
    pub fn usage(&self) -> HeapUsage {
        self.state.lock().usage
    }

    /// Takes `size` bytes, 8-byte aligned.
    pub fn allocate(&'static self, size: usize) -> Result<NonNull<u8>, OutOfMemory> {
        #[cfg(test)]
        self.faults.admit()?;
        match class_of(size) {
            Some(class) => self.take_slot(class),
            None => self.take_run(size),
        }
    }

    fn take_slot(&'static self, class: usize) -> Result<NonNull<u8>, OutOfMemory> {
        let mut state = self.state.lock();
        let page = match NonNull::new(state.partial[class]) {
            Some(page) => page,
            None => {
                let run = self.pool.allocate(PAGE_SIZE)?;
                // SAFETY: a fresh run of one page.
                let page = unsafe { Page::prepare(run, self, class as u8) };
                // SAFETY: the page is fresh, hence in no list.
                unsafe { state.link(class, page) };
                state.usage.slot_pages += 1;
                page
            }
        };
        // SAFETY: pages in the list are live and have a free slot; we hold the
        // lock.
        let (slot, last) = unsafe { Page::take(page) };
        if last {
            // SAFETY: the page is in this list.
            unsafe { state.unlink(class, page) };
        }
        state.usage.slot_bytes += slot_size(class);
        Ok(slot)
    }

    fn take_run(&'static self, size: usize) -> Result<NonNull<u8>, OutOfMemory> {
        let run = self.pool.allocate(size.checked_add(HEADER_SIZE).ok_or(OutOfMemory)?)?;
        self.state.lock().usage.runs += 1;
        // SAFETY: a fresh run, longer than the header.
        unsafe { Ok(Page::space(Page::prepare(run, self, WHOLE_RUN))) }
    }

    /// Gives memory back to the heap it came from.
    ///
    /// # Safety
    ///
    /// `slot` came from [`allocate`](Self::allocate) of some `Heap<M>`, was not
    /// released before, and nobody uses it any more.
    pub unsafe fn release(slot: NonNull<u8>) {
        let page = Page::<M>::of(slot);
        // SAFETY: while a slot is in use its page is live, and these two fields
        // do not change.
        let (heap, class) = unsafe { ((*page.as_ptr()).heap, (*page.as_ptr()).class) };
        if class == WHOLE_RUN {
            heap.state.lock().usage.runs -= 1;
            // SAFETY: the run was the slot alone, and its header is untouched.
            unsafe { heap.pool.release(page.cast()) };
            return;
        }
        let class = usize::from(class);
        let mut state = heap.state.lock();
        // SAFETY: the slot is of this page; we hold its heap's lock.
        let (was_full, unused) = unsafe { Page::give(page, slot) };
        state.usage.slot_bytes -= slot_size(class);
        // SAFETY: a page is in its class's list unless it is full.
        unsafe {
            match (was_full, unused) {
                (true, false) => state.link(class, page),
                (false, true) => state.unlink(class, page),
                _ => {}
            }
        }
        if unused {
            state.usage.slot_pages -= 1;
            // SAFETY: no slot is in use and no list names the page any more.
            unsafe { heap.pool.release(page.cast()) };
        }
    }
}

impl<M: Memory> State<M> {
    /// Puts a page at the front of its class's list.
    ///
    /// # Safety
    ///
    /// The page is live, of this heap and in no list.
    unsafe fn link(&mut self, class: usize, page: NonNull<Page<M>>) {
        let next = self.partial[class];
        // SAFETY: the page and those in the list are live; we hold the lock.
        unsafe {
            (*page.as_ptr()).prev = null_mut();
            (*page.as_ptr()).next = next;
            if !next.is_null() {
                (*next).prev = page.as_ptr();
            }
        }
        self.partial[class] = page.as_ptr();
    }

    /// Takes a page out of its class's list.
    ///
    /// # Safety
    ///
    /// The page is in this list.
    unsafe fn unlink(&mut self, class: usize, page: NonNull<Page<M>>) {
        // SAFETY: the pages in the list are live; we hold the lock.
        unsafe {
            let (prev, next) = ((*page.as_ptr()).prev, (*page.as_ptr()).next);
            if prev.is_null() {
                self.partial[class] = next;
            } else {
                (*prev).next = next;
            }
            if !next.is_null() {
                (*next).prev = prev;
            }
        }
    }
}

impl<M: Memory> fmt::Debug for Heap<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Heap").field("usage", &self.usage()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
