use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::shm::testing::{Rig, TestMemory};
use crate::shm::{Blob, Id};

/// Something to put into a slab: knows its number, takes room.
trait Element: Sized {
    fn new(rig: &Rig, number: u64) -> Self;
    fn number(&self) -> u64;
}

impl Element for u64 {
    fn new(_: &Rig, number: u64) -> Self {
        number
    }
    fn number(&self) -> u64 {
        *self
    }
}

/// Bytes that only some numbers of slots to a page fit.
struct Wide<const N: usize>([u8; N], u64);

impl<const N: usize> Element for Wide<N> {
    fn new(_: &Rig, number: u64) -> Self {
        Self([number as u8; N], number)
    }
    fn number(&self) -> u64 {
        assert!(self.0.iter().all(|&byte| byte == self.1 as u8), "overwritten");
        self.1
    }
}

impl Element for Blob<TestMemory> {
    fn new(rig: &Rig, number: u64) -> Self {
        Blob::new(rig.heap, &number.to_be_bytes()).unwrap()
    }
    fn number(&self) -> u64 {
        u64::from_be_bytes((**self).try_into().unwrap())
    }
}

/// What is done to the slab; the numbers choose among what is there.
#[derive(Debug, Clone)]
enum Op {
    Insert(u8),
    Remove(prop::sample::Index),
    RemoveKey(prop::sample::Index),
    RemoveMost(u8),
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        4 => any::<u8>().prop_map(Op::Insert),
        3 => any::<prop::sample::Index>().prop_map(Op::Remove),
        3 => any::<prop::sample::Index>().prop_map(Op::RemoveKey),
        1 => any::<u8>().prop_map(Op::RemoveMost),
    ];
    prop::collection::vec(op, 1..120)
}

fn check<T: Element>(ops: Vec<Op>) {
    let rig = Rig::new(1);
    let mut slab = Slab::<T, TestMemory>::new(rig.heap);
    let mut model = BTreeMap::<u32, (Key<T>, u64)>::new();
    let mut dead = Vec::new();
    let mut number = 0;
    for op in ops {
        match op {
            Op::Insert(count) => {
                for _ in 0..count {
                    number += 1;
                    let id = slab.insert(T::new(&rig, number)).ok().unwrap();
                    let old = model.insert(id.index(), (slab.key(id).unwrap(), number));
                    assert!(old.is_none(), "an id in use was given out again");
                }
            }
            Op::Remove(which) | Op::RemoveKey(which) if !model.is_empty() => {
                let at = *model.keys().nth(which.index(model.len())).unwrap();
                let (key, number) = model.remove(&at).unwrap();
                let by_key = matches!(op, Op::RemoveKey(_));
                let gone = if by_key { slab.remove_key(key) } else { slab.remove(key.id()) };
                assert_eq!(gone.unwrap().number(), number);
                dead.push(key);
            }
            Op::RemoveMost(keep) => {
                model.retain(|&at, (key, _)| {
                    let stays = at % 16 == u32::from(keep % 16);
                    if !stays {
                        slab.remove(key.id()).unwrap();
                        dead.push(*key);
                    }
                    stays
                });
            }
            _ => {}
        }
        assert_eq!(slab.len(), model.len());
    }
    let found: Vec<_> = slab.iter().map(|(id, value)| (id.index(), value.number())).collect();
    let expected: Vec<_> = model.iter().map(|(&at, &(_, number))| (at, number)).collect();
    assert_eq!(found, expected);
    for &(key, number) in model.values() {
        assert_eq!(slab.get_key_mut(key).unwrap().number(), number);
        assert_eq!(slab.get(key.id()).unwrap().number(), number);
        let rest = slab.iter_from(key.id().index()).next().unwrap();
        assert_eq!(rest.1.number(), number);
    }
    for key in dead {
        assert!(slab.get_key(key).is_none() && slab.remove_key(key).is_none(), "{key:?} lives on");
    }
    if model.len().is_multiple_of(2) {
        model.values().for_each(|(key, _)| drop(slab.remove(key.id()).unwrap()));
    } else {
        slab.clear();
    }
    // Empty, it owns nothing, though it is still there.
    rig.assert_empty();
    assert!(slab.is_empty() && slab.iter().next().is_none());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn behaves_as_a_map_of_numbers(ops in ops()) { check::<u64>(ops) }

    #[test]
    fn behaves_as_a_map_of_records(ops in ops()) { check::<Wide<500>>(ops) }

    #[test]
    fn behaves_as_a_map_of_pages(ops in ops()) { check::<Wide<4000>>(ops) }

    #[test]
    fn behaves_as_a_map_of_blobs(ops in ops()) { check::<Blob<TestMemory>>(ops) }
}

#[test]
fn a_failed_insert_gives_the_value_back_and_changes_nothing() {
    for failing in 0..12 {
        let rig = Rig::new(1);
        let mut slab = Slab::<Wide<900>, TestMemory>::new(rig.heap);
        rig.heap.faults.fail_after(failing);
        let mut ids: Vec<Id<_>> = Vec::new();
        let refused = loop {
            match slab.insert(Wide([1; 900], 1)) {
                Ok(id) => ids.push(id),
                Err(value) => break value,
            }
        };
        assert_eq!((refused.number(), slab.len()), (1, ids.len()));
        assert!(ids.iter().all(|&id| slab.get(id).is_some()));
        rig.heap.faults.never_fail();
        ids.push(slab.insert(refused).ok().unwrap());
        rig.heap.faults.fail_after(0);
        ids.into_iter().for_each(|id| assert!(slab.remove(id).is_some()));
        rig.assert_empty();
    }
}

#[test]
fn the_directory_shrinks_with_the_slab() {
    let rig = Rig::new(0);
    let mut slab = Slab::<u64, TestMemory>::new(rig.heap);
    let first = slab.insert(0).unwrap();
    let one_element = rig.pool.usage().pages;
    for n in 1..200_000 {
        slab.insert(n).unwrap();
    }
    for n in 1..200_000 {
        assert!(slab.remove(Id::from_index(n).unwrap()).is_some());
    }
    assert_eq!(rig.pool.usage().pages, one_element);
    assert_eq!(slab.get(first), Some(&0));
    drop(slab);
    rig.assert_empty();
}

#[test]
fn elements_are_dropped_with_the_slab() {
    let rig = Rig::new(0);
    let mut slab = Slab::<Blob<TestMemory>, TestMemory>::new(rig.heap);
    for n in 0..1000 {
        slab.insert(Element::new(&rig, n)).unwrap();
    }
    drop(slab);
    rig.assert_empty();
}
