//! The version of a presentity's state: a count of accepted changes. It says which
//! of two states is the newer one, and what a watcher has been notified of.

/// A version of a presentity's state. The count wraps: of two versions the one that
/// fewer steps lead to is the later one, so they have no order beyond that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct StateVersion(u32);

impl StateVersion {
    /// The version after the next change.
    pub fn next(self) -> StateVersion {
        StateVersion(self.0.wrapping_add(1))
    }

    /// The version before the last change.
    pub fn before(self) -> StateVersion {
        StateVersion(self.0.wrapping_sub(1))
    }

    /// This version is later than the other one.
    pub fn is_after(self, other: StateVersion) -> bool {
        self != other && self.0.wrapping_sub(other.0) < u32::MAX / 2
    }

    /// So many changes lie between the other version and this one; less than 0 if this
    /// one is the earlier one. Versions near to another one can be sorted by it.
    pub fn since(self, other: StateVersion) -> i32 {
        self.0.wrapping_sub(other.0) as i32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_count_wraps() {
        let last = StateVersion::default().before();
        let first = last.next();
        assert_eq!(first, StateVersion::default());
        assert!(first.is_after(last) && !last.is_after(first));
        assert!(!first.is_after(first));
        assert_eq!((first.since(last), last.since(first), first.since(first)), (1, -1, 0));
    }

    proptest! {
        #[test]
        fn of_two_near_versions_one_is_later(from: u32, steps in 1..i32::MAX / 2) {
            let from = StateVersion(from);
            let to = StateVersion(from.0.wrapping_add(steps as u32));
            prop_assert!(to.is_after(from) && !from.is_after(to));
            prop_assert_eq!((to.since(from), from.since(to)), (steps, -steps));
        }
    }
}
