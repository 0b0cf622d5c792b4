//! A page of slots of one size.

use core::ptr::{NonNull, null_mut};

use super::classes::{slot_size, slots_per_page};
use super::{HEADER_SIZE, Heap, Memory, PAGE_SIZE};
use crate::shm::pages::RunHeader;

/// Stands at the start of every run of pages that a heap uses, so that a slot's
/// address without its low 12 bits leads to it.
///
/// `heap` and `class` never change while the run is in use and may be read
/// without a lock; the rest belongs to the heap's lock.
#[repr(C)]
pub(super) struct Page<M: Memory> {
    run: RunHeader,
    pub(super) heap: &'static Heap<M>,
    /// Neighbours in the list of the class's pages with a free slot.
    pub(super) prev: *mut Page<M>,
    pub(super) next: *mut Page<M>,
    /// Slots given back, chained by a [`FreeSlot`] in each.
    free: *mut FreeSlot,
    /// The class, or [`WHOLE_RUN`].
    pub(super) class: u8,
    /// Slots handed out.
    used: u8,
    /// Slots ever handed out; those from here on are untouched.
    carved: u8,
}

/// The class of a run that is one single allocation.
pub(super) const WHOLE_RUN: u8 = u8::MAX;

/// What a slot holds while nobody uses it.
struct FreeSlot {
    next: *mut FreeSlot,
}

impl<M: Memory> Page<M> {
    /// Fills in what follows the run's own header.
    ///
    /// # Safety
    ///
    /// `run` is a run of at least [`HEADER_SIZE`] bytes that nobody else uses.
    pub(super) unsafe fn prepare(
        run: NonNull<RunHeader>,
        heap: &'static Heap<M>,
        class: u8,
    ) -> NonNull<Self> {
        const { assert!(size_of::<Self>() <= HEADER_SIZE) };
        let page = run.cast::<Self>();
        let this = page.as_ptr();
        // SAFETY: the run has room for the whole header, aligned to a page; the
        // fields are written one by one, for the first is the pool's.
        unsafe {
            (&raw mut (*this).heap).write(heap);
            (&raw mut (*this).prev).write(null_mut());
            (&raw mut (*this).next).write(null_mut());
            (&raw mut (*this).free).write(null_mut());
            (&raw mut (*this).class).write(class);
            (&raw mut (*this).used).write(0);
            (&raw mut (*this).carved).write(0);
        }
        page
    }

    /// The page that a slot, or the start of a whole run's space, lies in.
    pub(super) fn of(slot: NonNull<u8>) -> NonNull<Self> {
        // A page is never at address 0, so the low bits are all that goes.
        let skip = slot.as_ptr() as usize % PAGE_SIZE;
        // SAFETY: a slot lies behind the page's header in the same block.
        unsafe { slot.sub(skip) }.cast()
    }

    /// The first byte behind the header.
    ///
    /// # Safety
    ///
    /// `page` is a live page of a heap.
    pub(super) unsafe fn space(page: NonNull<Self>) -> NonNull<u8> {
        // SAFETY: a page is longer than its header.
        unsafe { page.cast::<u8>().add(HEADER_SIZE) }
    }

    /// Takes a slot; says also whether it was the last one.
    ///
    /// # Safety
    ///
    /// `page` is a live page of a slot class with a free slot, and the caller
    /// holds its heap's lock.
    pub(super) unsafe fn take(page: NonNull<Self>) -> (NonNull<u8>, bool) {
        // SAFETY: the page is live and the lock makes us the only user of the
        // fields used here. A slot of the free chain is unused and holds a
        // FreeSlot; one not carved yet lies in the page, for not all are used.
        unsafe {
            let this = page.as_ptr();
            let class = usize::from((*this).class);
            let slot = match NonNull::new((*this).free) {
                Some(slot) => {
                    (*this).free = slot.read().next;
                    slot.cast()
                }
                None => {
                    let index = usize::from((*this).carved);
                    (*this).carved += 1;
                    Self::space(page).add(index * slot_size(class))
                }
            };
            (*this).used += 1;
            (slot, usize::from((*this).used) == slots_per_page(class))
        }
    }

    /// Gives a slot back. Says whether the page had been full, and whether it
    /// is unused now.
    ///
    /// # Safety
    ///
    /// `slot` was taken from `page` and nobody uses it any more; the caller
    /// holds the heap's lock.
    pub(super) unsafe fn give(page: NonNull<Self>, slot: NonNull<u8>) -> (bool, bool) {
        // SAFETY: the page is live and the lock makes us the only user of the
        // fields used here; the slot is ours again, 8-byte aligned and at
        // least 16 bytes long.
        unsafe {
            let this = page.as_ptr();
            let class = usize::from((*this).class);
            if cfg!(debug_assertions) {
                slot.write_bytes(0xDE, slot_size(class));
            }
            let was_full = usize::from((*this).used) == slots_per_page(class);
            let slot = slot.cast::<FreeSlot>();
            slot.write(FreeSlot { next: (*this).free });
            (*this).free = slot.as_ptr();
            (*this).used -= 1;
            (was_full, (*this).used == 0)
        }
    }
}
