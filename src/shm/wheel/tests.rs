use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::shm::Slab;
use crate::shm::testing::{Rig, TestMemory};

struct Expiry;

#[derive(Default)]
struct Record {
    timer: Timer<Record>,
}

impl Timed<Expiry> for Record {
    fn timer(&self) -> &Timer<Self> {
        &self.timer
    }
    fn timer_mut(&mut self) -> &mut Timer<Self> {
        &mut self.timer
    }
}

type Records = Slab<Record, TestMemory>;
type TestWheel = Wheel<Record, Expiry, TestMemory>;

fn records(rig: &Rig, count: usize) -> (Records, Vec<Id<Record>>) {
    let mut records = Slab::new(rig.heap);
    let ids = (0..count).map(|_| records.insert(Record::default()).ok().unwrap()).collect();
    (records, ids)
}

fn drain(
    wheel: &mut TestWheel,
    records: &mut Records,
    now: i64,
    mut budget: usize,
) -> std::vec::Vec<Id<Record>> {
    std::iter::from_fn(|| wheel.pop_due(records, now, &mut budget)).collect()
}

#[derive(Debug, Clone)]
enum Op {
    Schedule(usize, i64),
    Cancel(usize),
    Clock(i64),
    Pop(usize),
    PopAll,
}

fn ops() -> impl Strategy<Value = std::vec::Vec<Op>> {
    let delay = prop_oneof![4 => -3i64..20, 2 => -40i64..100, 1 => 0i64..100_000];
    let step =
        prop_oneof![8 => 0i64..4, 2 => 0i64..70, 1 => 0i64..50_000, 1 => -6i64..0, 1 => -500i64..0];
    let op = prop_oneof![
        5 => (0..COUNT, delay).prop_map(|(which, delay)| Op::Schedule(which, delay)),
        1 => (0..COUNT).prop_map(Op::Cancel),
        3 => step.prop_map(Op::Clock),
        3 => (0usize..6).prop_map(Op::Pop),
        1 => Just(Op::PopAll),
    ];
    prop::collection::vec(op, 1..250)
}

const COUNT: usize = 40;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn everything_is_popped_once_due_and_nothing_before(ops in ops(), turn in 0u32..6, start in -50i64..1_700_000_000) {
        let rig = Rig::new(0);
        let (mut records, ids) = records(&rig, COUNT);
        let mut now = start;
        let mut wheel = TestWheel::new(rig.heap, 1 << turn, now).unwrap();
        let mut model = BTreeMap::<usize, i64>::new();
        for op in ops.into_iter().chain([Op::Clock(200_000), Op::PopAll]) {
            match op {
                Op::Schedule(which, delay) => {
                    prop_assert!(wheel.schedule(&mut records, ids[which], now + delay));
                    model.insert(which, now + delay);
                }
                Op::Cancel(which) => {
                    let was = model.remove(&which).is_some();
                    prop_assert_eq!(wheel.cancel(&mut records, ids[which]), was);
                }
                Op::Clock(step) => now += step,
                Op::Pop(budget) => pop(&mut wheel, &mut records, &mut model, now, budget),
                Op::PopAll => {
                    // Within the jitter of the clock some may come later.
                    let exact = now >= wheel.latest || now < wheel.latest - JITTER;
                    pop(&mut wheel, &mut records, &mut model, now, usize::MAX);
                    prop_assert!(!exact || model.values().all(|&deadline| deadline > now));
                }
            }
            prop_assert_eq!(wheel.len(), model.len());
            for (which, &id) in ids.iter().enumerate() {
                prop_assert_eq!(wheel.deadline(&records, id), model.get(&which).copied());
            }
        }
        prop_assert!(wheel.is_empty());
        drop((wheel, records));
        rig.assert_empty();
    }
}

fn pop(
    wheel: &mut TestWheel,
    records: &mut Records,
    model: &mut BTreeMap<usize, i64>,
    now: i64,
    budget: usize,
) {
    let popped = drain(wheel, records, now, budget);
    assert!(popped.len() <= budget);
    for id in popped {
        let deadline = model.remove(&(id.index() as usize)).unwrap();
        assert!(deadline <= now, "popped {} s early", deadline - now);
    }
}

#[test]
fn the_earliest_second_comes_first() {
    let rig = Rig::new(0);
    let (mut records, ids) = records(&rig, 500);
    let mut wheel = TestWheel::new(rig.heap, 1000, 0).unwrap();
    let deadline = |at: usize| (at * 7919 % 997) as i64;
    for (at, &id) in ids.iter().enumerate() {
        wheel.schedule(&mut records, id, deadline(at));
    }
    let mut popped = vec![];
    while !wheel.is_empty() {
        popped.extend(drain(&mut wheel, &mut records, 1000, 7));
    }
    assert!(popped.is_sorted_by_key(|id| deadline(id.index() as usize)));
    assert_eq!(popped.len(), 500);
}

#[test]
fn jumps_of_the_clock_are_bounded_work() {
    let rig = Rig::new(0);
    let (mut records, ids) = records(&rig, 3);
    for now in [0, 1_700_000_000, i64::MIN, i64::MAX] {
        let mut wheel = TestWheel::new(rig.heap, 4096, 0).unwrap();
        wheel.schedule(&mut records, ids[0], 5);
        wheel.schedule(&mut records, ids[1], i64::MAX);
        wheel.schedule(&mut records, ids[2], i64::MIN);
        // Far more seconds than could be gone through one by one.
        let popped = drain(&mut wheel, &mut records, now, 100);
        assert_eq!(popped.contains(&ids[0]), now >= 5);
        assert!(!popped.contains(&ids[1]));
        assert!(popped.contains(&ids[2]));
        let popped = drain(&mut wheel, &mut records, 5, 100);
        assert_eq!(popped.contains(&ids[0]), now < 5);
        for &id in &ids {
            wheel.cancel(&mut records, id);
        }
    }
}

#[test]
fn a_wheel_without_memory_is_an_error() {
    let rig = Rig::new(0);
    rig.heap.faults.fail_after(0);
    assert_eq!(TestWheel::new(rig.heap, 4096, 0).err(), Some(OutOfMemory));
    rig.heap.faults.never_fail();
    let wheel = TestWheel::new(rig.heap, 4000, 0).unwrap();
    assert_eq!(wheel.buckets.len(), 4096);
    assert_eq!(size_of::<Timer<Record>>(), 12);
    drop(wheel);
    rig.assert_empty();
}
