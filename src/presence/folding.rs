//! How many documents report ended publications. A document for each
//! end, each with all that lives, would be work and memory that is a product of
//! two counts which clients choose (A14): so one document reports as many ends
//! as make it at most twice as large as what lives alone.

use crate::presence::state_version::StateVersion;

/// Documents need not be smaller than that, in bytes: a NOTIFY fits into a
/// datagram.
const SMALL: usize = 16 * 1024;

/// Of so many documents at most is a set of ends made, if it is not known how
/// much lives.
const UNKNOWN_PARTS: usize = 8;

/// An ended publication.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End {
    /// The state version in which it ended. What has the same one stays together, for
    /// state versions say what a watcher has seen.
    pub state_version: StateVersion,
    /// Bytes of its document.
    pub bytes: usize,
}

/// The number of the document that reports each end. `living`: bytes of what
/// lives, if that is known.
pub fn documents(ends: impl Iterator<Item = End> + Clone, living: Option<usize>) -> Vec<u32> {
    let all = |ends: &mut dyn Iterator<Item = End>| ends.map(|end| end.bytes).sum::<usize>();
    let most = living.unwrap_or_else(|| all(&mut ends.clone()) / UNKNOWN_PARTS).max(SMALL);
    let (mut number, mut bytes, mut last) = (0u32, 0usize, None);
    ends.map(|end| {
        let is_full = bytes > 0 && bytes.saturating_add(end.bytes) > most;
        if is_full && last != Some(end.state_version) {
            (number, bytes) = (number.saturating_add(1), 0);
        }
        bytes = bytes.saturating_add(end.bytes);
        last = Some(end.state_version);
        number
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn fold(bytes: &[usize], living: Option<usize>) -> Vec<u32> {
        let versions =
            std::iter::successors(Some(StateVersion::default()), |last| Some(last.next()));
        let ends = bytes.iter().zip(versions);
        let ends = ends.map(|(bytes, state_version)| End { state_version, bytes: *bytes });
        documents(ends, living)
    }

    #[test]
    fn small_ends_share_a_document() {
        assert!(fold(&[], Some(0)).is_empty());
        assert_eq!(fold(&[500, 500, 500], Some(0)), [0, 0, 0]);
        assert_eq!(fold(&[58_000, 58_000, 100, 58_000], Some(0)), [0, 1, 2, 3]);
        assert_eq!(fold(&[58_000, 58_000, 100, 58_000], Some(120_000)), [0, 0, 0, 1]);
        // A document may be full.
        assert_eq!(fold(&[8192, 8192, 1, 16_383, 1], Some(0)), [0, 0, 1, 1, 2]);
        assert_eq!(fold(&[50_000; 16], None), [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7]);
    }

    #[test]
    fn the_ends_of_a_state_version_are_not_divided() {
        let end = |state_version| End { state_version, bytes: 10_000 };
        let first = end(StateVersion::default());
        let second = end(first.state_version.next());
        assert_eq!(documents([first, second, second].into_iter(), Some(0)), [0, 1, 1]);
        assert_eq!(documents([first, first, second].into_iter(), Some(0)), [0, 0, 1]);
    }

    proptest! {
        #[test]
        fn the_work_is_linear(
            bytes in prop::collection::vec(1..60_000usize, 0..300), living in 0..1_000_000usize,
        ) {
            let numbers = fold(&bytes, Some(living));
            let count = numbers.last().map_or(0, |last| *last as usize + 1);
            let all: usize = bytes.iter().sum();
            // Each document has the ends once, and all that lives.
            prop_assert!(count * living <= 2 * all + living);
            prop_assert!(numbers.is_sorted());
            prop_assert!(numbers.windows(2).all(|pair| pair[1] - pair[0] <= 1));
        }
    }
}
