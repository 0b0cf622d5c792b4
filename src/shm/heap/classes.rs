//! The slot sizes of a heap.

use super::{ALIGN, HEADER_SIZE, PAGE_SIZE};

/// Number of classes.
pub(super) const CLASSES: usize = SIZES.len();

/// The largest slot; what is larger gets pages of its own.
pub(super) const LARGEST: usize = SIZES[CLASSES - 1] as usize;

/// Slot sizes: the largest multiples of 8 of which 2, 3, 4 ... fit in a page
/// after its header, so that little is wasted at a page's end.
const SIZES: [u16; 41] = [
    16, 24, 32, 40, 48, 56, 64, 72, 80, 88, 96, 104, 112, 120, 128, 136, 144, 152, 160, 168, 176,
    192, 200, 208, 224, 232, 248, 264, 288, 304, 336, 360, 400, 448, 504, 576, 672, 800, 1008,
    1344, 2016,
];

/// The class for each size, in steps of 8 bytes.
const BY_SIZE: [u8; LARGEST / ALIGN] = {
    let mut table = [0; LARGEST / ALIGN];
    let mut class = 0;
    let mut step = 0;
    while step < table.len() {
        if (step + 1) * ALIGN > SIZES[class] as usize {
            class += 1;
        }
        table[step] = class as u8;
        step += 1;
    }
    table
};

/// The class of the smallest slots that hold `size` bytes, if any do.
pub(super) fn class_of(size: usize) -> Option<usize> {
    BY_SIZE.get(size.saturating_sub(1) / ALIGN).map(|&class| class.into())
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
            assert_eq!(slot_size(class) % ALIGN, 0);
            let used = slots_per_page(class) * slot_size(class);
            assert!(PAGE_SIZE - HEADER_SIZE - used < 224, "class {class} wastes too much");
        }
        assert_eq!(slots_per_page(CLASSES - 1), 2);
    }
}
