//! Owned bytes.

use core::fmt;
use core::marker::PhantomData;
use core::ops::Deref;
use core::ptr::NonNull;

use super::arena::{Memory, OutOfMemory};
use super::heap::Heap;

/// Immutable bytes in a [`Heap`]; given back when dropped.
///
/// Twelve bytes itself, aligned to four, as is `Option<Blob>`: records have
/// several. An empty blob allocates nothing.
#[repr(C, packed(4))]
pub struct Blob<M: Memory> {
    start: NonNull<u8>,
    len: u32,
    memory: PhantomData<fn() -> M>,
}

// SAFETY: a blob owns its bytes alone and never changes them, and `Heap` may be
// given memory back from anywhere.
unsafe impl<M: Memory> Send for Blob<M> {}
// SAFETY: a shared blob is only read: nothing changes its bytes before it is
// dropped.
unsafe impl<M: Memory> Sync for Blob<M> {}

impl<M: Memory> Blob<M> {
    /// No bytes.
    pub const EMPTY: Self = Self { start: NonNull::dangling(), len: 0, memory: PhantomData };

    /// A copy of `bytes`.
    pub fn new(heap: &'static Heap<M>, bytes: &[u8]) -> Result<Self, OutOfMemory> {
        Self::concat(heap, &[bytes])
    }

    /// A copy of all `parts`, one after the other.
    pub fn concat(heap: &'static Heap<M>, parts: &[&[u8]]) -> Result<Self, OutOfMemory> {
        let mut len = 0usize;
        for part in parts {
            len = len.checked_add(part.len()).ok_or(OutOfMemory)?;
        }
        let short = u32::try_from(len).map_err(|_| OutOfMemory)?;
        if len == 0 {
            return Ok(Self::EMPTY);
        }
        let start = heap.allocate(len)?;
        let mut at = 0;
        for part in parts {
            // SAFETY: the fresh block has room for `len` bytes, which is what
            // the parts add up to; nobody else knows it yet.
            unsafe {
                start.add(at).copy_from_nonoverlapping(NonNull::from(*part).cast(), part.len())
            };
            at += part.len();
        }
        Ok(Self { start, len: short, memory: PhantomData })
    }
}

impl<M: Memory> Drop for Blob<M> {
    fn drop(&mut self) {
        if self.len > 0 {
            // SAFETY: a blob that is not empty owns a live block of a `Heap<M>`.
            unsafe { Heap::<M>::release(self.start) };
        }
    }
}

impl<M: Memory> Deref for Blob<M> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `len` bytes from `start` on were written when the blob was
        // made and are its own; an empty slice may start anywhere but at null.
        unsafe { NonNull::slice_from_raw_parts(self.start, self.len as usize).as_ref() }
    }
}

impl<M: Memory> AsRef<[u8]> for Blob<M> {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl<M: Memory> Default for Blob<M> {
    fn default() -> Self {
        Self::EMPTY
    }
}

impl<M: Memory> PartialEq for Blob<M> {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl<M: Memory> Eq for Blob<M> {}

impl<M: Memory> fmt::Debug for Blob<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "b\"{}\"", self.escape_ascii())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shm::testing::{Rig, TestMemory};

    #[test]
    fn is_small() {
        assert_eq!(size_of::<Blob<TestMemory>>(), 12);
        assert_eq!(size_of::<Option<Blob<TestMemory>>>(), 12);
        assert_eq!(align_of::<Blob<TestMemory>>(), 4);
    }

    #[test]
    fn holds_what_it_was_given() {
        let rig = Rig::new(0);
        let bytes: Vec<u8> = (0..=255).cycle().take(1_000_000).collect();
        for len in [0, 1, 15, 16, 17, 2016, 2017, 4032, 4033, 524_223, 524_224, 524_225, 1_000_000]
        {
            let blob = Blob::new(rig.heap, &bytes[..len]).unwrap();
            assert_eq!(*blob, bytes[..len]);
            let halves = bytes[..len].split_at(len / 2);
            assert_eq!(Blob::concat(rig.heap, &[halves.0, b"", halves.1]).unwrap(), blob);
        }
        rig.assert_empty();
    }

    #[test]
    fn an_empty_blob_allocates_nothing() {
        let rig = Rig::new(0);
        rig.heap.faults.fail_after(0);
        let blob = Blob::new(rig.heap, b"").unwrap();
        assert!(blob.is_empty());
        assert_eq!(Blob::new(rig.heap, b"x"), Err(OutOfMemory));
        rig.assert_empty();
    }
}
