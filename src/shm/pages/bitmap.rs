//! Which pages of a chunk are free.

/// Pages in a chunk.
pub(super) const PAGES_PER_CHUNK: u32 = 128;

/// The longest run a chunk can give.
pub(super) const MAX_RUN: u32 = PAGES_PER_CHUNK;

/// The bin of chunks all of whose pages are free.
pub(super) const EMPTY_BIN: usize = MAX_RUN.ilog2() as usize;

/// The first bin in which every chunk has a run of `count` pages.
pub(super) fn bin_that_fits(count: u32) -> usize {
    count.next_power_of_two().ilog2() as usize
}

/// The first bin in which some chunk may have a run of `count` pages.
pub(super) fn bin_that_may_fit(count: u32) -> usize {
    count.checked_ilog2().unwrap_or(0) as usize
}

/// One bit for each page of a chunk, set while the page is free. Aligned to
/// eight bytes, as all in the arena is.
#[repr(Rust, packed(8))]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FreePages(u128);

impl FreePages {
    /// All pages.
    pub(super) const ALL: Self = Self(!0);

    /// Takes the lowest run of `count` free pages; returns its first page.
    pub(super) fn take(&mut self, count: u32) -> Option<u32> {
        let starts = starts(self.0, count)?;
        if starts == 0 {
            return None;
        }
        let first = starts.trailing_zeros();
        self.0 &= !mask(first, count);
        Some(first)
    }

    /// Gives back a run that was taken.
    pub(super) fn give(&mut self, first: u32, count: u32) {
        debug_assert_eq!(self.0 & mask(first, count), 0, "pages given back twice");
        self.0 |= mask(first, count);
    }

    /// The bin of a chunk with these pages: the binary logarithm of the longest
    /// run's length, rounded down; [`EMPTY_BIN`] if all are free, and none if
    /// none is.
    pub(super) fn bin(self) -> Option<usize> {
        if self == Self::ALL {
            return Some(EMPTY_BIN);
        }
        let mut starts = self.0;
        let mut bin = None;
        for power in 0..EMPTY_BIN {
            if starts == 0 {
                break;
            }
            // Here are the starts of runs of 2^power pages.
            bin = Some(power);
            starts &= starts >> (1 << power);
        }
        bin
    }
}

/// The bits at which a run of `count` set bits begins.
fn starts(bits: u128, count: u32) -> Option<u128> {
    if count == 0 || count > MAX_RUN {
        return None;
    }
    let mut starts = bits;
    let mut have = 1;
    while have < count {
        let step = have.min(count - have);
        starts &= starts >> step;
        have += step;
    }
    Some(starts)
}

/// `count` bits (1 to 128) from `first` on.
fn mask(first: u32, count: u32) -> u128 {
    (!0 >> (PAGES_PER_CHUNK - count)) << first
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn naive(bits: u128, count: u32) -> Option<u32> {
        (0..=MAX_RUN - count).find(|&first| (first..first + count).all(|bit| bits >> bit & 1 == 1))
    }

    proptest! {
        #[test]
        fn takes_the_lowest_run_that_fits(
            bits in prop_oneof![Just(!0), any::<u128>(), (any::<u128>(), any::<u128>()).prop_map(|(a, b)| a | b)],
            count in 1..=MAX_RUN,
        ) {
            let before = FreePages(bits);
            let longest = (1..=MAX_RUN).rev().find(|&n| naive(before.0, n).is_some()).unwrap_or(0);
            let bin = if longest == MAX_RUN { Some(EMPTY_BIN) } else { longest.checked_ilog2().map(|bin| bin as usize) };
            prop_assert_eq!(before.bin(), bin);
            prop_assert!(bin.is_none_or(|bin| bin < bin_that_fits(count)) || naive(before.0, count).is_some());
            let mut pages = before;
            let first = pages.take(count);
            prop_assert_eq!(first, naive(before.0, count));
            if let Some(first) = first {
                pages.give(first, count);
            }
            prop_assert_eq!(pages, before);
        }
    }

    #[test]
    fn the_whole_chunk_is_one_run() {
        let mut pages = FreePages::ALL;
        assert_eq!(pages.take(MAX_RUN), Some(0));
        assert_eq!(
            (pages.bin(), pages.take(1), pages.take(0), pages.take(MAX_RUN + 1)),
            (None, None, None, None)
        );
        pages.give(0, MAX_RUN);
        assert_eq!(pages, FreePages::ALL);
    }
}
