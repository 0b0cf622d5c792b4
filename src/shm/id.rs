//! How the elements of a [`Slab`](super::Slab) are named.

use core::fmt;
use core::hash::{Hash, Hasher};
use core::marker::PhantomData;
use core::num::NonZeroU32;

/// Names an element of a slab as long as it is there.
///
/// Four bytes, as is `Option<Id<T>>`. An id is used again after its element is
/// gone, so keep ids where they are dropped together with the element, and a
/// [`Key`] everywhere else.
pub struct Id<T> {
    number: NonZeroU32,
    element: PhantomData<fn() -> T>,
}

impl<T> Id<T> {
    /// Names no element; marks what is in no list.
    pub(super) const RESERVED: Self = Self { number: NonZeroU32::MAX, element: PhantomData };

    /// The number of ids.
    pub(super) const COUNT: u32 = u32::MAX - 1;

    /// The id of the slot `index`, if there are that many ids.
    pub fn from_index(index: u32) -> Option<Self> {
        let number = NonZeroU32::new(index.checked_add(1)?)?;
        (number < NonZeroU32::MAX).then_some(Self { number, element: PhantomData })
    }

    /// The slot, counted from 0.
    pub fn index(self) -> u32 {
        self.number.get() - 1
    }
}

/// Names one element of a slab for ever: it finds nothing once that element is
/// gone, even if another one has taken its place.
///
/// It would find a wrong one only after 2³²-1 further insertions.
pub struct Key<T> {
    id: Id<T>,
    generation: u32,
}

impl<T> Key<T> {
    pub(super) fn new(id: Id<T>, generation: u32) -> Self {
        Self { id, generation }
    }

    /// Where the element is, or was.
    pub fn id(self) -> Id<T> {
        self.id
    }

    pub(super) fn generation(self) -> u32 {
        self.generation
    }

    /// The key as a number that is not 0, for what can only carry numbers.
    pub fn to_u64(self) -> u64 {
        u64::from(self.id.number.get()) << 32 | u64::from(self.generation)
    }

    /// The key that became this number, if one can have.
    pub fn from_u64(number: u64) -> Option<Self> {
        let id = Id::from_index(((number >> 32) as u32).checked_sub(1)?)?;
        Some(Self { id, generation: number as u32 })
    }
}

// By hand, for derived code would ask the same of `T`.
impl<T> Clone for Id<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Id<T> {}

impl<T> PartialEq for Id<T> {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl<T> Eq for Id<T> {}

impl<T> Hash for Id<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.number.hash(state);
    }
}

impl<T> fmt::Debug for Id<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.index())
    }
}

impl<T> Clone for Key<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Key<T> {}

impl<T> PartialEq for Key<T> {
    fn eq(&self, other: &Self) -> bool {
        self.to_u64() == other.to_u64()
    }
}

impl<T> Eq for Key<T> {}

impl<T> Hash for Key<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.to_u64().hash(state);
    }
}

impl<T> fmt::Debug for Key<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}.{}", self.id, self.generation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_small() {
        assert_eq!(size_of::<Option<Id<String>>>(), 4);
        assert_eq!(size_of::<Option<Key<String>>>(), 8);
    }

    #[test]
    fn numbers_and_keys_correspond() {
        for index in [0, 1, 77, Id::<u8>::COUNT - 1] {
            let key = Key::new(Id::<u8>::from_index(index).unwrap(), 9);
            assert_eq!(Key::from_u64(key.to_u64()), Some(key));
            assert_eq!(key.id().index(), index);
        }
        assert_eq!(Id::<u8>::from_index(Id::<u8>::COUNT), None);
        assert_eq!(Id::<u8>::from_index(u32::MAX), None);
        assert_eq!(Key::<u8>::from_u64(0), None);
        assert_eq!(Key::<u8>::from_u64(5), None);
        assert_eq!(Key::<u8>::from_u64(u64::MAX), None);
    }
}
