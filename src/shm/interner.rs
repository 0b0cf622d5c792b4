//! An interner: texts that many records share.

use core::fmt;

use super::arena::{Memory, OutOfMemory};
use super::blob::Blob;
use super::hash::KeyedHash;
use super::heap::Heap;
use super::id::Id;
use super::index::HashIndex;
use super::slab::{Slab, Unkeyed};

/// A text, and how many use it.
pub struct Interned<M: Memory> {
    text: Blob<M>,
    uses: u32,
}

/// Each different text is kept once, for as long as somebody uses it.
///
/// Who [takes](Self::take) a text has to [give it back](Self::give_back) once.
pub struct Interner<M: Memory> {
    entries: Slab<Interned<M>, M, Unkeyed>,
    by_text: HashIndex<Id<Interned<M>>, M>,
    hash: KeyedHash,
    heap: &'static Heap<M>,
}

impl<M: Memory> Interner<M> {
    /// Has no text.
    pub fn new(heap: &'static Heap<M>, hash: KeyedHash) -> Self {
        Self { entries: Slab::new(heap), by_text: HashIndex::new(heap), hash, heap }
    }

    /// The number of different texts.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no text.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Interns a text, which is used once more.
    pub fn take(&mut self, text: &[u8]) -> Result<Id<Interned<M>>, OutOfMemory> {
        let hash = self.hash.hash(text);
        let known = self.by_text.find(hash, |id| self.get(id) == text);
        if let Some(entry) = known.and_then(|id| self.entries.get_mut(id)) {
            entry.uses = entry.uses.checked_add(1).ok_or(OutOfMemory)?;
            return known.ok_or(OutOfMemory);
        }
        let entry = Interned { text: Blob::new(self.heap, text)?, uses: 1 };
        let id = self.entries.insert(entry).map_err(|_| OutOfMemory)?;
        if let Err(full) = self.by_text.insert(hash, id) {
            self.entries.remove(id);
            return Err(full);
        }
        Ok(id)
    }

    /// A text is used once less.
    pub fn give_back(&mut self, id: Id<Interned<M>>) {
        let Some(entry) = self.entries.get_mut(id) else { return };
        entry.uses = entry.uses.saturating_sub(1);
        if entry.uses == 0 {
            let hash = self.hash.hash(&entry.text);
            self.by_text.remove(hash, |known| known == id);
            self.entries.remove(id);
        }
    }

    /// The text of an entry.
    pub fn get(&self, id: Id<Interned<M>>) -> &[u8] {
        self.entries.get(id).map_or(b"", |entry| &entry.text)
    }
}

impl<M: Memory> fmt::Debug for Interner<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Words").field("len", &self.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::shm::testing::{Rig, TestMemory};

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_text_is_kept_once_while_it_is_used(
            ops in prop::collection::vec((any::<bool>(), 0usize..30, any::<prop::sample::Index>()), 1..300),
            failing in prop_oneof![Just(usize::MAX), 0usize..12],
        ) {
            let rig = Rig::new(0);
            let mut entries = Interner::<TestMemory>::new(rig.heap, KeyedHash::new([9; 16]));
            let mut used: Vec<(usize, Id<Interned<TestMemory>>)> = Vec::new();
            let text = |n: usize| format!("host{n}.example.org");
            rig.heap.faults.fail_after(failing);
            for (take, n, which) in ops {
                if take || used.is_empty() {
                    match entries.take(text(n).as_bytes()) {
                        Ok(id) => used.push((n, id)),
                        Err(OutOfMemory) => {
                            prop_assert!(failing != usize::MAX && used.iter().all(|&(m, _)| m != n));
                        }
                    }
                } else {
                    let (_, id) = used.swap_remove(which.index(used.len()));
                    entries.give_back(id);
                }
                let mut different: Vec<_> = used.iter().map(|(n, _)| n).collect();
                different.sort_unstable();
                different.dedup();
                prop_assert_eq!(entries.len(), different.len());
                for &(n, id) in &used {
                    let text = text(n);
                    prop_assert_eq!(entries.get(id), text.as_bytes());
                }
            }
            used.into_iter().for_each(|(_, id)| entries.give_back(id));
            prop_assert!(entries.is_empty());
            rig.assert_empty();
        }
    }
}
