//! Kamailio's two heaps: `shm`, shared by all processes, and `pkg`, private to
//! one. Our own temporaries use neither; `pkg` is only for what crosses to or
//! comes from C, and these types say who frees it.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::host::{sys, text};

/// Shared memory as an arena for the containers of `shm/`.
#[derive(Debug, Clone, Copy, Default)]
pub struct ShmArena;

// SAFETY: shm_malloc gives blocks of at least the size asked for, at the same
// address in every process, that stay until shm_free; both take the heap's own
// lock.
unsafe impl crate::shm::Arena for ShmArena {
    fn allocate(&self, size: usize) -> Option<NonNull<u8>> {
        ALLOCATED.fetch_add(size, Ordering::Relaxed);
        shm_allocate(size).or_else(|| {
            ALLOCATED.fetch_sub(size, Ordering::Relaxed);
            None
        })
    }

    unsafe fn release(&self, block: NonNull<u8>, size: usize) {
        ALLOCATED.fetch_sub(size, Ordering::Relaxed);
        // SAFETY: the caller's block came from `allocate`, that is from shm_malloc.
        unsafe { sys::kshim_shm_free(block.as_ptr().cast()) }
    }
}

/// Bytes that this process has taken for the containers and not given back.
static ALLOCATED: AtomicUsize = AtomicUsize::new(0);

/// Bytes that the containers have, as far as this process knows: it does as long
/// as it is the only one.
pub fn allocated() -> usize {
    ALLOCATED.load(Ordering::Relaxed)
}

/// A block of shared memory, aligned to 8 bytes.
pub fn shm_allocate(size: usize) -> Option<NonNull<u8>> {
    // SAFETY: the shared heap exists before modules are initialised.
    NonNull::new(unsafe { sys::kshim_shm_malloc(size.max(1)) }.cast())
}

/// A copy of `bytes` in shared memory that lives as long as the server; `None`
/// when there is no memory left.
pub fn shm_copy(bytes: &[u8]) -> Option<NonNull<u8>> {
    let block = shm_allocate(bytes.len())?;
    // SAFETY: the block is new and has room for `bytes`.
    unsafe { block.as_ptr().copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
    Some(block)
}

/// A block of `pkg` memory that we own until we hand it to C.
#[derive(Debug)]
pub struct PkgBlock(NonNull<u8>);

impl PkgBlock {
    /// A new block, all zero.
    pub fn zeroed(size: usize) -> Option<PkgBlock> {
        // SAFETY: every process has its private heap from its start.
        let block = NonNull::new(unsafe { sys::kshim_pkg_malloc(size.max(1)) }.cast::<u8>())?;
        // SAFETY: the block has `size` bytes.
        unsafe { block.as_ptr().write_bytes(0, size) };
        Some(PkgBlock(block))
    }

    /// A copy of `bytes`, with a terminating zero behind it.
    pub fn copy(bytes: &[u8]) -> Option<PkgBlock> {
        let block = PkgBlock::zeroed(bytes.len() + 1)?;
        // SAFETY: the block is new and longer than `bytes`.
        unsafe { block.0.as_ptr().copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
        Some(block)
    }

    /// Where it is; still ours.
    pub fn as_ptr(&self) -> *mut u8 {
        self.0.as_ptr()
    }

    /// Hands it to C, which will pkg_free it.
    pub fn into_raw(self) -> *mut u8 {
        let block = self.0;
        std::mem::forget(self);
        block.as_ptr()
    }
}

impl Drop for PkgBlock {
    fn drop(&mut self) {
        // SAFETY: the block came from pkg_malloc and is still ours.
        unsafe { sys::kshim_pkg_free(self.0.as_ptr().cast()) }
    }
}

/// A `str` and its bytes, both in `pkg`, for C to free (bytes first).
pub fn pkg_text(bytes: &[u8]) -> Option<*mut sys::_str> {
    let content = PkgBlock::copy(bytes)?;
    let header = PkgBlock::zeroed(size_of::<sys::_str>())?;
    let text = sys::_str { s: content.as_ptr().cast(), len: text::lend(bytes).len };
    let pointer = header.into_raw().cast::<sys::_str>();
    content.into_raw();
    // SAFETY: the block is new, of the size of a `str`, and pkg blocks are
    // aligned to at least 8 bytes.
    unsafe { pointer.write(text) };
    Some(pointer)
}

/// How the bytes of a `str` that a sibling gave us are freed; the `str` itself
/// is always in `pkg`.
#[derive(Clone, Copy)]
pub enum Release {
    /// With pkg_free.
    Pkg,
    /// With the sibling's function, if it registered one.
    With(sys::free_body_t),
}

/// A `str` that a sibling allocated and we have to free.
pub struct Received {
    text: NonNull<sys::_str>,
    release: Release,
}

impl Received {
    /// Takes over what a callback returned; `None` for NULL.
    ///
    /// # Safety
    /// `text` is NULL or a `str` in pkg memory that nobody else frees, whose
    /// bytes are freed as `release` says.
    pub unsafe fn take(text: *mut sys::_str, release: Release) -> Option<Received> {
        NonNull::new(text).map(|text| Received { text, release })
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: we own the `str`; its bytes live until we drop it.
        unsafe { text::bytes(*self.text.as_ptr()) }
    }
}

impl Drop for Received {
    fn drop(&mut self) {
        // SAFETY: `take` was promised that both are ours to free in this way.
        unsafe {
            let content = (*self.text.as_ptr()).s;
            if !content.is_null() {
                match self.release {
                    Release::Pkg => sys::kshim_pkg_free(content.cast()),
                    Release::With(Some(free)) => free(content),
                    // Nobody knows which heap it is from: leaking it is safe.
                    Release::With(None) => {}
                }
            }
            sys::kshim_pkg_free(self.text.as_ptr().cast());
        }
    }
}
