//! Free fragments for Kamailio's heaps.
//!
//! Kamailio's default allocator, `qm`, has a list of free fragments for each
//! multiple of 16 bytes up to 16 KB and looks for one from the list of the size
//! that is asked for upwards. A heap that was only allocated from is one large
//! fragment, so each allocation walks to the last of a thousand lists: some
//! 20 000 instructions, and a SIP request makes twenty allocations and more,
//! in the core and in `tm`. They give back all of it, and neighbours that are
//! free are joined, so that stays so for ever.
//!
//! Here free fragments of the sizes that requests need are left lying about,
//! each with a small block behind it that stays in use and keeps it from being
//! joined. A walk then ends after a few lists. They are free memory like any
//! other, except for single blocks that are larger.

use std::ffi::c_void;
use std::iter::repeat_n;

use crate::host::sys;

/// For one process, by what it takes for one request: a dozen header fields of
/// 64 bytes, parsed headers of up to 500, `sip_msg` of 2 KB, texts of messages.
/// Larger fragments are split where there are no smaller ones left.
const PRIVATE: &[(usize, usize)] = &[
    (64, 48),
    (128, 24),
    (192, 12),
    (256, 12),
    (320, 6),
    (384, 6),
    (448, 6),
    (512, 8),
    (640, 4),
    (768, 4),
    (1024, 6),
    (1280, 2),
    (1536, 2),
    (2048, 4),
    (3072, 2),
    (4096, 2),
    (6144, 1),
    (8192, 2),
    (12_288, 1),
    (16_384, 1),
];

/// For the transactions of all processes; one set for two or three of them,
/// which `tm` keeps for some seconds: each takes 8.3 KB, a request of 3 to 5 KB
/// if it was received, the text of a reply or request, a callback.
const SHARED: &[(usize, usize)] =
    &[(64, 3), (512, 2), (768, 2), (1024, 1), (4096, 1), (5120, 1), (8704, 2)];

/// What stays in use behind each fragment.
const SEPARATOR: usize = 16;
/// What the allocator adds to a block, at most.
const OVERHEAD: usize = 128;
/// Separators that fall into holes of the heap before one is where it has to be.
const ATTEMPTS: usize = 16;
/// The fragments take at most this part of the memory that is free.
const SHARE: usize = 8;
/// Sets of shared ones that are enough: what 700 requests a second keep in use.
const SETS: usize = 1600;

/// One of the two heaps.
struct Heap {
    allocate: unsafe extern "C" fn(usize) -> *mut c_void,
    release: unsafe extern "C" fn(*mut c_void),
}

/// Prepares the heap of this process; to be called when the process starts.
pub fn scatter_private() {
    // SAFETY: both read counters of a heap that exists since before modules are
    // initialised.
    let (walks, available) = unsafe { (sys::kshim_pkg_walks(), sys::kshim_pkg_available()) };
    if walks != 0 && size_of_set(PRIVATE) <= available as usize / SHARE {
        let heap = Heap { allocate: sys::kshim_pkg_malloc, release: sys::kshim_pkg_free };
        scatter(&heap, PRIVATE, 1);
    }
}

/// Prepares the shared heap; to be called before the fork, when what stays
/// for good has been allocated.
pub fn scatter_shared() {
    // SAFETY: both read counters of a heap that exists since before modules are
    // initialised.
    let (walks, available) = unsafe { (sys::kshim_shm_walks(), sys::kshim_shm_available()) };
    if walks != 0 {
        let sets = available as usize / SHARE / size_of_set(SHARED);
        let heap = Heap { allocate: sys::kshim_shm_malloc, release: sys::kshim_shm_free };
        scatter(&heap, SHARED, sets.min(SETS));
    }
}

/// What is freed from now on stays as it is; to be called at the very end.
/// `tm` then frees all transactions in the order of their hashes: `qm` joins
/// them with the free ones around to ever other sizes, and looks through all
/// the larger ones for the place of each. A hundred thousand take half a
/// minute, for memory that the system gets back as a whole.
pub fn join_no_more() {
    // SAFETY: `core_cfg` is the core's own or a block in shared memory that
    // this process holds; it is the last one, nobody else reads it.
    unsafe {
        if sys::kshim_shm_walks() != 0 {
            sys::kshim_join_no_more();
        }
    }
}

/// Bytes that one set takes.
fn size_of_set(set: &[(usize, usize)]) -> usize {
    set.iter().map(|(size, count)| count * (size + SEPARATOR + 2 * OVERHEAD)).sum()
}

/// Allocates fragments and separators in turn, then gives the fragments back.
/// (To shrink larger blocks would be less work, but then `qm` counts what was
/// cut off as used.)
fn scatter(heap: &Heap, set: &[(usize, usize)], times: usize) {
    let sizes = set.iter().flat_map(|(size, count)| repeat_n(*size, *count));
    let mut given_back = Vec::new();
    for size in repeat_n(sizes, times).flatten() {
        // SAFETY: both heaps exist before modules are initialised.
        let fragment = unsafe { (heap.allocate)(size) };
        if fragment.is_null() {
            break;
        }
        given_back.push(fragment);
        let end = fragment.addr() + size;
        for _ in 0..ATTEMPTS {
            // SAFETY: both heaps exist before modules are initialised.
            let separator = unsafe { (heap.allocate)(SEPARATOR) };
            // The right one stays in use as long as its heap; nobody needs its
            // address.
            if separator.is_null() || (end..end + OVERHEAD).contains(&separator.addr()) {
                break;
            }
            given_back.push(separator);
        }
    }
    for block in given_back {
        // SAFETY: it came from this heap, and nobody else knows of it.
        unsafe { (heap.release)(block) };
    }
}
