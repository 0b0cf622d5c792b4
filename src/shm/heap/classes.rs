//! The slot sizes of a heap.

use super::{HEADER_SIZE, PAGE_SIZE};

/// Number of classes.
pub(super) const CLASSES: usize = SIZES.len();

/// The largest slot; what is larger gets pages of its own.
pub(super) const LARGEST: usize = SIZES[CLASSES - 1] as usize;

/// Slot sizes: steps of 16 up to 256, then the largest multiples of 16 of which
/// 14, 12, 10, 9, ... 2 fit in a page after its header, so that little is
/// wasted at a page's end.
const SIZES: [u16; 27] = [
    16, 32, 48, 64, 80, 96, 112, 128, 144, 160, 176, 192, 208, 224, 240, 256, //
    288, 336, 400, 448, 496, 576, 672, 800, 1008, 1344, 2016,
];

/// The class for each size, in steps of 16 bytes.
const BY_SIZE: [u8; LARGEST / 16] = {
    let mut table = [0; LARGEST / 16];
    let mut class = 0;
    let mut step = 0;
    while step < table.len() {
        if (step + 1) * 16 > SIZES[class] as usize {
            class += 1;
        }
        table[step] = class as u8;
        step += 1;
    }
    table
};

/// The class of the smallest slots that hold `size` bytes, if any do.
pub(super) fn class_of(size: usize) -> Option<usize> {
    BY_SIZE.get(size.saturating_sub(1) / 16).map(|&class| class.into())
}

/// The bytes in a slot of `class`.
pub(super) fn slot_size(class: usize) -> usize {
    SIZES[class].into()
}

/// The number of slots in a page of `class`.
pub(super) fn slots_per_page(class: usize) -> usize {
    (PAGE_SIZE - HEADER_SIZE) / slot_size(class)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_size_gets_the_smallest_slot_that_holds_it() {
        for size in 0..=LARGEST {
            let class = class_of(size).unwrap();
            assert!(slot_size(class) >= size);
            assert!(class == 0 || slot_size(class - 1) < size);
        }
        assert_eq!(class_of(LARGEST + 1), None);
        assert_eq!(class_of(usize::MAX), None);
    }

    #[test]
    fn slots_are_aligned_and_waste_little() {
        for class in 0..CLASSES {
            assert_eq!(slot_size(class) % 16, 0);
            let used = slots_per_page(class) * slot_size(class);
            assert!(PAGE_SIZE - HEADER_SIZE - used < 224, "class {class} wastes too much");
        }
        assert_eq!(slots_per_page(CLASSES - 1), 2);
    }
}
