//! Owned bytes, mostly few.

use core::fmt;
use core::ops::Deref;

use super::arena::{Memory, OutOfMemory};
use super::blob::Blob;
use super::heap::Heap;

/// As a [`Blob`], but up to 14 bytes lie in the value itself, which has 16.
pub struct ShortBlob<M: Memory>(Place<M>);

enum Place<M: Memory> {
    Here { len: u8, bytes: [u8; HERE] },
    Elsewhere(Blob<M>),
}

/// Bytes that have room in the value.
const HERE: usize = 14;

impl<M: Memory> ShortBlob<M> {
    /// A copy of `bytes`.
    pub fn new(heap: &'static Heap<M>, bytes: &[u8]) -> Result<Self, OutOfMemory> {
        let mut here = [0; HERE];
        let place = match here.get_mut(..bytes.len()) {
            Some(room) => {
                room.copy_from_slice(bytes);
                Place::Here { len: bytes.len() as u8, bytes: here }
            }
            None => Place::Elsewhere(Blob::new(heap, bytes)?),
        };
        Ok(Self(place))
    }
}

impl<M: Memory> Deref for ShortBlob<M> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Place::Here { len, bytes } => bytes.get(..usize::from(*len)).unwrap_or_default(),
            Place::Elsewhere(blob) => blob,
        }
    }
}

impl<M: Memory> fmt::Debug for ShortBlob<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "b\"{}\"", self.escape_ascii())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shm::testing::{Rig, TestMemory};

    #[test]
    fn holds_what_it_was_given() {
        assert_eq!(size_of::<ShortBlob<TestMemory>>(), 16);
        let rig = Rig::new(0);
        let bytes: Vec<u8> = (0..100).collect();
        for len in 0..100 {
            rig.heap.faults.fail_after(0);
            let short = ShortBlob::<TestMemory>::new(rig.heap, &bytes[..len]);
            assert_eq!(short.is_ok(), len <= HERE);
            rig.heap.faults.never_fail();
            let short = ShortBlob::<TestMemory>::new(rig.heap, &bytes[..len]).unwrap();
            assert_eq!(*short, bytes[..len]);
        }
        rig.assert_empty();
    }
}
