//! What is counted, for whom, and how long what is remembered holds.
#![allow(clippy::unwrap_used, reason = "tests fail loudly")]

use super::*;
use crate::shm::{Heap, HeapArena, PagePool, TestMemory, place};

type Counts = Tally<TestMemory>;

/// `times` and `rows`: places in those tables.
fn tally(times: usize, rows: usize) -> Counts {
    let arena = HeapArena::new();
    let pool = place(arena, PagePool::<TestMemory>::new(arena, 0).unwrap()).unwrap();
    let heap = place(arena, Heap::new(pool)).unwrap();
    let watchers: Vec<_> = (0..4).map(|_| Mutex::new(HashIndex::new(heap))).collect();
    let tables = Tables {
        watchers: watchers.leak(),
        times: (0..times).map(|_| AtomicU64::new(0)).collect::<Vec<_>>().leak(),
        rows: (0..rows).map(|_| RowCount::default()).collect::<Vec<_>>().leak(),
    };
    Tally::new(tables, Box::leak(Box::new(KeyedHash::new([7; 16]))))
}

fn counts(tally: &Counts, watchers: &[u64]) -> (u32, Vec<u32>) {
    (tally.subscriptions(), watchers.iter().map(|watcher| tally.of_watcher(*watcher)).collect())
}

#[test]
fn subscriptions_are_counted_for_all_and_for_each_watcher() {
    let tally = tally(0, 0);
    let both = [tally.watcher(b"a@h"), tally.watcher(b"b@h")];
    assert_ne!(both[0], both[1]);
    for watcher in [both[0], both[0], both[1]] {
        assert_eq!(tally.enter(watcher, &Limits::NONE), Ok(Ok(())));
    }
    assert_eq!(counts(&tally, &both), (3, vec![2, 1]));
    tally.leave(both[0]);
    assert_eq!(counts(&tally, &both), (2, vec![1, 1]));
    tally.leave(both[0]);
    tally.leave(both[1]);
    assert_eq!(counts(&tally, &both), (0, vec![0, 0]));
    tally.leave(both[0]);
    assert_eq!(counts(&tally, &both), (0, vec![0, 0]), "never less than none");
}

#[test]
fn who_is_over_a_limit_is_not_counted() {
    let tally = tally(0, 0);
    let (one, other) = (tally.watcher(b"a@h"), tally.watcher(b"b@h"));
    let limits = Limits { of_watcher: 2, subscriptions: 3, ..Limits::NONE };
    assert_eq!(tally.enter(one, &limits), Ok(Ok(())));
    assert_eq!(tally.enter(one, &limits), Ok(Ok(())));
    assert_eq!(tally.enter(one, &limits), Ok(Err(Limit::OfWatcher)));
    assert_eq!(counts(&tally, &[one]), (2, vec![2]));
    assert_eq!(tally.enter(other, &limits), Ok(Ok(())));
    assert_eq!(tally.enter(other, &limits), Ok(Err(Limit::Subscriptions)));
    assert_eq!(counts(&tally, &[one, other]), (3, vec![2, 1]));
    tally.leave(one);
    assert_eq!(tally.enter(other, &limits), Ok(Ok(())), "there is room again");
}

#[test]
fn an_offender_has_a_line_a_minute() {
    let tally = tally(0, 0);
    let line = |who: &[u8], now| tally.refused(&[b"max", who], now);
    assert!(line(b"a", 1000));
    assert!(!line(b"a", 1000) && !line(b"a", 1059));
    assert!(line(b"b", 1001), "another one has its own");
    assert!(line(b"a", 1060));
    assert!(!line(b"a", 1061) && !line(b"b", 1060));
    assert_eq!(tally.refusals(), 7);
}

/// Thousands of offenders share the lines that are remembered: some stay
/// without one, nobody has two.
#[test]
fn under_pressure_there_are_fewer_lines() {
    let tally = tally(0, 0);
    let lines = |now| -> Vec<bool> {
        (0..5000u32).map(|who| tally.refused(&[&who.to_le_bytes()], now)).collect()
    };
    let (first, second) = (lines(1000), lines(1030));
    let had = first.iter().filter(|line| **line).count();
    assert!((LINES / 2..=LINES).contains(&had), "{had}");
    assert!(first.iter().zip(&second).all(|(first, second)| !(*first && *second)));
    assert!(lines(1090).contains(&true));
    // As long as there is room, each of them has one.
    let few = super::tests::tally(0, 0);
    assert!((0..100u32).all(|who| few.refused(&[&who.to_le_bytes()], 1000)));
    assert!((0..100u32).all(|who| !few.refused(&[&who.to_le_bytes()], 1001)));
}

#[test]
fn requests_in_quick_succession_are_known() {
    let tally = tally(64, 0);
    for start in [5_000, (1 << 32) - 50] {
        let soon = |now| tally.is_too_soon(&[b"a"], 100, now);
        assert!(!soon(start));
        tally.remember(&[b"a"], start);
        assert!(soon(start) && soon(start + 99));
        assert!(!soon(start + 100));
        assert!(!soon(start - 1), "a clock that was put back refuses nobody");
        assert!(!tally.is_too_soon(&[b"b"], 100, start), "another one");
        assert!(!tally.is_too_soon(&[b"a"], 0, start), "no gap is wanted");
    }
}

#[test]
fn names_that_share_a_place_are_told_apart() {
    let tally = tally(1, 1);
    tally.remember(&[b"a"], 5_000);
    assert!(!tally.is_too_soon(&[b"b"], 100, 5_000));
    tally.remember(&[b"b"], 5_010);
    assert!(!tally.is_too_soon(&[b"a"], 100, 5_010), "the older one is forgotten");
    tally.rows_counted(&[b"a"], 3, true, 100);
    let room = |name: &[u8]| tally.room(&[name], |count| count < 3, 100);
    assert_eq!((room(b"a"), room(b"b")), (Room::No, Room::Ask));
}

#[test]
fn tables_that_are_not_there_refuse_nobody() {
    let tally = tally(0, 0);
    tally.remember(&[b"a"], 5_000);
    assert!(!tally.is_too_soon(&[b"a"], 100, 5_000));
    tally.rows_counted(&[b"a"], 3, true, 100);
    tally.row_added(&[b"a"]);
    tally.row_gone(&[b"a"]);
    assert_eq!(tally.room(&[b"a"], |_| false, 100), Room::Yes);
}

#[test]
fn nobody_is_refused_before_the_rows_are_counted() {
    let tally = tally(0, 64);
    let name: &[&[u8]] = &[b"a"];
    let room = |now| tally.room(name, |count| count < 2, now);
    assert_eq!(room(100), Room::Yes);
    tally.row_added(name);
    assert_eq!(room(100), Room::Yes);
    tally.row_added(name);
    assert_eq!(room(100), Room::Ask);
    // The table has fewer: others have removed some.
    tally.rows_counted(name, 1, false, 100);
    assert_eq!(room(100), Room::Yes);
    tally.rows_counted(name, 2, false, 100);
    assert_eq!(room(100), Room::Ask, "it was not said that there is none");
    // What it says of who has no room holds for ten seconds.
    tally.rows_counted(name, 2, true, 100);
    assert_eq!((room(100), room(109), room(110)), (Room::No, Room::No, Room::Ask));
    tally.row_gone(name);
    assert_eq!(room(100), Room::Yes);
    tally.row_added(name);
    assert_eq!(room(100), Room::Ask, "a row that went has made it doubtful");
    for _ in 0..5 {
        tally.row_gone(name);
    }
    tally.row_added(name);
    assert_eq!(room(100), Room::Yes, "never less than none");
}
