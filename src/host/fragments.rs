//! Free fragments for the private heap of a process.
//!
//! Kamailio's default allocator, `qm`, has a list of free fragments for each
//! multiple of 16 bytes up to 16 KB and looks for one from the list of the size
//! that is asked for upwards. A heap that was only allocated from is one large
//! fragment, so each allocation walks to the last of a thousand lists: some
//! 20 000 instructions, and a SIP request makes twenty allocations and more,
//! in the core and in `tm`. They give back all of it, and neighbours that are
//! free are joined, so that stays so for ever.
//!
//! `scatter` leaves free fragments of the sizes that requests need, each with
//! a small block behind it that stays in use and keeps it from being joined. A
//! walk then ends after a few lists. They are free memory like any other.

use crate::host::memory::PkgBlock;
use crate::host::sys;

/// Sizes and how many of each, by what one request takes: a dozen header
/// fields of 64 bytes, parsed headers of up to 500, `sip_msg` of 2 KB, texts of
/// messages. Larger fragments are split where there are no smaller ones left.
const FRAGMENTS: &[(usize, usize)] = &[
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

/// What stays in use behind each fragment.
const SEPARATOR: usize = 16;
/// What the allocator adds to a block, at most.
const OVERHEAD: usize = 256;
/// Separators that fall into holes of the heap before one is where it has to be.
const ATTEMPTS: usize = 16;
/// The fragments may take this part of the heap's free memory.
const SHARE: usize = 10;

/// Prepares this process's heap; to be called once, when the process starts.
/// Other allocators than `qm` do not walk.
pub fn scatter() {
    // SAFETY: reads what the core knows of its allocator.
    let available = unsafe { (sys::kshim_pkg_walks() != 0).then(|| sys::kshim_pkg_available()) };
    let size = |(size, count): &(usize, usize)| count * (size + SEPARATOR + 2 * OVERHEAD);
    let needed: usize = FRAGMENTS.iter().map(size).sum();
    if available.is_none_or(|available| available as usize / SHARE < needed) {
        return;
    }
    let mut given_back = Vec::new();
    for (size, count) in FRAGMENTS {
        for _ in 0..*count {
            let Some(fragment) = PkgBlock::new(*size) else { return };
            let end = fragment.as_ptr().addr() + size;
            given_back.push(fragment);
            for _ in 0..ATTEMPTS {
                let Some(separator) = PkgBlock::new(SEPARATOR) else { return };
                let at = separator.as_ptr().addr();
                if (end..end + OVERHEAD).contains(&at) {
                    // It stays in use as long as the process lives.
                    separator.into_raw();
                    break;
                }
                given_back.push(separator);
            }
        }
    }
}
