//! Lets `allocator-api2` vectors live in a [`Heap`].

use core::alloc::Layout;
use core::fmt;
use core::ptr::NonNull;

use allocator_api2::alloc::{AllocError, Allocator};

use super::arena::Memory;
use super::heap::{ALIGN, Heap};

/// A handle on a heap that implements `allocator-api2`'s `Allocator`.
///
/// Collections on it must only grow through their `try_reserve`: everything
/// else that needs memory (`push` beyond the capacity, `clone`, `shrink_to`)
/// aborts the process when there is none.
pub struct HeapAllocator<M: Memory>(&'static Heap<M>);

impl<M: Memory> HeapAllocator<M> {
    /// A handle on `heap`.
    pub const fn new(heap: &'static Heap<M>) -> Self {
        Self(heap)
    }
}

impl<M: Memory> Clone for HeapAllocator<M> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<M: Memory> Copy for HeapAllocator<M> {}

impl<M: Memory> fmt::Debug for HeapAllocator<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HeapAllocator")
    }
}

// SAFETY: a heap's blocks stay valid until they are released, and may be
// released through any handle, for their pages name the heap.
unsafe impl<M: Memory> Allocator for HeapAllocator<M> {
    fn allocate(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        if layout.align() > ALIGN {
            return Err(AllocError);
        }
        let start = if layout.size() == 0 {
            NonNull::<u64>::dangling().cast()
        } else {
            self.0.allocate(layout.size()).map_err(|_| AllocError)?
        };
        Ok(NonNull::slice_from_raw_parts(start, layout.size()))
    }

    unsafe fn deallocate(&self, start: NonNull<u8>, layout: Layout) {
        if layout.size() != 0 {
            // SAFETY: a block that is not empty came from `Heap::allocate`, and
            // by the contract it is live and nobody uses it any more.
            unsafe { Heap::<M>::release(start) };
        }
    }
}
