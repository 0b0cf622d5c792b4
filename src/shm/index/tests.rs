use proptest::prelude::*;

use super::*;
use crate::shm::KeyedHash;
use crate::shm::testing::{Rig, TestMemory};

type Index = HashIndex<u32, TestMemory>;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn behaves_as_a_multimap(
        ops in prop::collection::vec((0u8..8, 0u64..40, 0u32..4), 1..600),
        same_bits in any::<bool>(),
        failing in prop_oneof![Just(usize::MAX), 0usize..8],
    ) {
        let rig = Rig::new(0);
        let mut index = Index::new(rig.heap);
        let mut model = Vec::<(u64, u32)>::new();
        rig.heap.faults.fail_after(failing);
        for (op, hash, value) in ops {
            // What is close together confuses a table.
            let hash = hash << if same_bits { 32 } else { 50 };
            let at = model.iter().position(|&entry| entry == (hash, value));
            match op {
                0..=2 => match index.insert(hash, value) {
                    Ok(()) => model.push((hash, value)),
                    Err(OutOfMemory) => prop_assert!(failing != usize::MAX),
                },
                3 => prop_assert_eq!(index.find(hash, |v| v == value), at.map(|_| value)),
                4 => {
                    prop_assert_eq!(index.remove(hash, |v| v == value), at.map(|_| value));
                    at.map(|at| model.swap_remove(at));
                }
                5 => {
                    let new = (hash >> 3) + (1 << 40);
                    index.rekey(hash, new, |v| v == value);
                    at.into_iter().for_each(|at| model[at].0 = new);
                }
                6 => {
                    // Room that was made stays while values only leave.
                    let most = model.len() + value as usize;
                    if index.reserve(most).is_ok() {
                        let taken = index.vacate(hash, |v| v == value);
                        prop_assert_eq!(taken, at.map(|_| value));
                        at.map(|at| model.swap_remove(at));
                        index.trim(most);
                        rig.heap.faults.fail_after(0);
                        fill(&mut index, &mut model, hash, most);
                        rig.heap.faults.fail_after(failing);
                    }
                }
                _ => {
                    prop_assert_eq!(index.replace(hash, value + 1, |v| v == value), at.map(|_| value));
                    if let Some(at) = at {
                        model[at].1 += 1;
                    }
                }
            }
            prop_assert_eq!(index.len(), model.len());
        }
        prop_assert_eq!(sorted(index.iter()), sorted(model.iter().map(|entry| entry.1)));
        // Removing needs no memory, and in the end there is none in use.
        rig.heap.faults.fail_after(0);
        for (hash, value) in model {
            prop_assert_eq!(index.remove(hash, |v| v == value), Some(value));
        }
        prop_assert!(index.is_empty());
        rig.assert_empty();
    }
}

fn sorted(values: impl Iterator<Item = u32>) -> Vec<u32> {
    let mut values: Vec<_> = values.collect();
    values.sort_unstable();
    values
}

/// Enters as many values of this hash as there is room for.
fn fill(index: &mut Index, model: &mut Vec<(u64, u32)>, hash: u64, most: usize) {
    while model.len() < most {
        index.insert(hash, 77).unwrap();
        model.push((hash, 77));
    }
}

#[test]
fn what_is_not_there_is_not_found_beside_its_hash() {
    let rig = Rig::new(0);
    let mut index = Index::new(rig.heap);
    index.insert(0, 1).unwrap();
    assert_eq!(index.find(1 << 50, |value| value == 1), None);
}

#[test]
fn memory_follows_the_number_of_values() {
    let rig = Rig::new(0);
    let hash = KeyedHash::new(*b"0123456789abcdef");
    let hash = |n: u32| hash.hash(&n.to_be_bytes());
    let mut index = Index::new(rig.heap);
    rig.assert_empty();
    for n in 0..100_000 {
        index.insert(hash(n), n).unwrap();
    }
    assert!(rig.pool.usage().large_bytes > 1_000_000);
    for n in 0..100_000 {
        assert_eq!(index.find(hash(n), |v| v == n), Some(n));
    }
    // Of half a hash hardly any two are the same.
    assert!((0..100_000).filter(|&n| index.find(hash(n), |v| v != n).is_some()).count() < 10);
    for n in 10..100_000 {
        assert_eq!(index.remove(hash(n), |v| v == n), Some(n));
    }
    assert_eq!((rig.pool.usage().large_bytes, rig.pool.usage().pages), (0, 1));
    assert!((0..10).all(|n| index.find(hash(n), |v| v == n) == Some(n)));
    index.clear();
    rig.assert_empty();
}

#[test]
fn a_table_is_mostly_full() {
    let rig = Rig::new(0);
    let hash = KeyedHash::new([5; 16]);
    let mut index = HashIndex::<crate::shm::Id<u8>, TestMemory>::new(rig.heap);
    for n in 0..50_000u32 {
        index.insert(hash.hash(&n.to_be_bytes()), crate::shm::Id::from_index(n).unwrap()).unwrap();
        let usage = rig.pool.usage();
        let bytes = usage.pages * crate::shm::PAGE_SIZE + usage.large_bytes;
        assert!(n < 3000 || bytes < 13 * n as usize, "{bytes} bytes for {n} values of 8");
    }
    drop(index);
    rig.assert_empty();
}

#[test]
fn coming_and_going_does_not_grow_the_table() {
    let rig = Rig::new(0);
    let mut index = Index::new(rig.heap);
    let hash = KeyedHash::new([3; 16]);
    let hash = |n: u32| hash.hash(&n.to_be_bytes());
    for n in 0..300_000 {
        index.insert(hash(n), n).unwrap();
        if let Some(old) = n.checked_sub(100) {
            index.remove(hash(old), |v| v == old).unwrap();
        }
    }
    assert_eq!(index.len(), 100);
    assert!(rig.pool.usage().pages <= 4);
}
