//! Many publications that end before their watchers are notified (A14): few
//! documents tell of all of them, each end once, and little memory is taken.

use crate::fakes::{Publish, Setup, World, dialog};
use presence::config::{PublicationCache, SubscriptionMode};
use presence::ports::Verdict;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// Counts what each thread has allocated.
struct Counting;

thread_local! {
    static NOW: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

fn count(bytes: isize) {
    let _ = NOW.try_with(|now| {
        now.set(now.get() + bytes);
        let _ = PEAK.try_with(|peak| peak.set(peak.get().max(now.get())));
    });
}

// SAFETY: everything is the system's allocator's.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller's layout.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: it came from there, with this layout.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// The most that was allocated while `work` ran, beyond what was before.
fn peak(work: impl FnOnce()) -> usize {
    let before = NOW.get();
    PEAK.set(before);
    work();
    (PEAK.get() - before) as usize
}

/// A world with watchers who cannot be notified for now.
fn behind(setup: Setup, event: &str, watchers: usize) -> World {
    let mut world = World::new(setup);
    for n in 0..watchers {
        world.watch(&format!("w{n}"), event);
    }
    world.send();
    world.events();
    world.host.room = Some(0);
    world
}

fn setups() -> [Setup; 4] {
    let rows = Setup { mode: SubscriptionMode::DbOnly, ..Setup::stored() };
    [
        Setup::default(),
        Setup::stored(),
        Setup { cache: PublicationCache::None, ..Setup::stored() },
        Setup { cache: PublicationCache::Record, ..rows },
    ]
}

/// How often all NOTIFYs to one watcher say each of these.
fn said(world: &World, call_id: &str, what: impl Iterator<Item = String>) -> (usize, Vec<usize>) {
    let sent: Vec<_> = world.notifies().into_iter().filter(|n| n.call_id == call_id).collect();
    let times = |text: String| {
        sent.iter().flat_map(|n| n.body.split('+')).filter(|part| *part == text).count()
    };
    (sent.len(), what.map(times).collect())
}

#[test]
fn all_ends_are_shown_once_by_few_documents() {
    for setup in setups() {
        for (event, watchers) in [("presence", 1), ("dialog", 3), ("presence", 40)] {
            let name = format!("{event}, {watchers} watchers, {:?} {:?}", setup.cache, setup.mode);
            // Each has a database of its own.
            let database = setup.database.as_ref().map(|_| Default::default());
            let mut world = behind(Setup { database, ..setup.clone() }, event, watchers);
            let body = |n: usize| match event {
                "dialog" => dialog(&format!("d{n}"), "confirmed"),
                _ => format!("p{n}"),
            };
            world.create(event, &body(1000));
            for n in 0..100 {
                let tag = world.create(event, &body(n));
                world.remove(event, &tag);
            }
            world.host.room = None;
            world.send();
            let ended = |n: usize| match event {
                "dialog" => format!("d{n}:terminated"),
                _ => format!("closed(p{n})"),
            };
            let last = format!("w{}", watchers - 1);
            let (count, times) = said(&world, &last, (0..100).map(ended));
            assert_eq!(times, [1; 100], "{name}");
            assert!(count <= 3, "{name}: {count} NOTIFYs");
        }
    }
}

#[test]
fn one_dialog_that_ends_again_and_again_is_shown_once() {
    let mut world = behind(Setup::default(), "dialog", 1);
    for _ in 0..50 {
        let tag = world.create("dialog", &dialog("d", "confirmed"));
        world.remove("dialog", &tag);
    }
    world.host.room = None;
    world.send();
    assert_eq!(said(&world, "w0", ["d:terminated".to_owned()].into_iter()), (1, vec![1]));
}

#[test]
fn who_has_seen_some_ends_is_told_of_the_others() {
    let mut world = behind(Setup::default(), "presence", 1);
    let tags: Vec<_> = (0..20).map(|n| world.create("presence", &format!("p{n}"))).collect();
    for (n, tag) in tags.iter().enumerate() {
        world.remove("presence", tag);
        if n == 9 {
            // It has what has ended until here in its first NOTIFY.
            world.watch("late", "presence");
        }
    }
    world.host.room = None;
    world.send();
    let sent = world.notifies();
    let of = |call: &str| -> Vec<String> {
        let of = sent.iter().filter(|n| n.call_id == call);
        of.flat_map(|n| n.body.split('+').map(str::to_owned)).collect()
    };
    let times = |call: &str, n: usize| {
        of(call).iter().filter(|part| **part == format!("closed(p{n})")).count()
    };
    assert!((0..20).all(|n| times("w0", n) == 1), "{:?}", of("w0"));
    assert!((0..20).all(|n| times("late", n) == usize::from(n > 9)), "{:?}", of("late"));
}

#[test]
fn a_composition_takes_little_more_than_the_state() {
    const DOCUMENT: usize = 58_000;
    let mut world = behind(Setup::default(), "presence", 5);
    let body = |n: usize| format!("{n:058000}");
    world.create("presence", "first");
    for n in 0..200 {
        let tag = world.create("presence", &body(n));
        world.remove("presence", &tag);
    }
    world.host.room = None;
    world.host.counts = Some(0);
    let most = peak(|| world.send());
    let sent = world.host.counts.unwrap_or_default();
    assert!(sent >= 5 * 100, "{sent} NOTIFYs");
    // The fake package alone takes four documents for one.
    assert!(most < (200 + 10) * DOCUMENT, "{} documents", most / DOCUMENT);
}

#[test]
fn what_is_alive_is_not_composed_for_each_end() {
    const COUNT: usize = 300;
    let mut world = behind(Setup::default(), "dialog", 2);
    let body = |n: usize| {
        dialog(&format!("d{n}"), "confirmed")
            .replace("<dialog-info>", &format!("<dialog-info a=\"{n:01000}\">"))
    };
    (0..COUNT).for_each(|n| drop(world.create("dialog", &body(n))));
    for n in COUNT..2 * COUNT {
        let tag = world.create("dialog", &body(n));
        world.remove("dialog", &tag);
    }
    world.host.room = None;
    world.host.counts = Some(0);
    world.send();
    let sent = world.host.counts.unwrap_or_default();
    assert!(sent <= 2 * 4, "{sent} NOTIFYs");
}

#[test]
fn ends_wait_when_too_many_are_yet_to_be_told() {
    for setup in setups() {
        let mut world = behind(setup, "presence", 1);
        let body = "x".repeat(300_000);
        let mut tags: Vec<_> = (0..80).map(|_| world.create("presence", &body)).collect();
        let expires = Publish { expires: Some("5"), body: "runs out", ..Publish::default() };
        world.publish(expires);
        let mut accepted = 0;
        let refused = loop {
            let Some(tag) = tags.pop() else { panic!("everything may end") };
            match world.publish(Publish {
                tag: Some(&tag),
                expires: Some("0"),
                ..Publish::default()
            }) {
                answered if answered.code == 200 => accepted += 1,
                answered => break (answered.code, tag),
            }
        };
        assert!((50..80).contains(&accepted), "{accepted}");
        assert_eq!(refused.0, 503);
        world.pass(10);
        presence::service::expiry::publications(&world.server, &mut world.host);
        world.host.room = None;
        world.send();
        let closed = |world: &World| {
            let sent = world.notifies();
            sent.iter().flat_map(|n| n.body.split('+')).filter(|p| p.starts_with("closed(")).count()
        };
        assert_eq!(closed(&world), accepted);
        world.remove("presence", &refused.1);
        world.pass(2);
        world.expire();
        assert_eq!(closed(&world), 2);
    }
}

/// What a watcher is shown is made of the newest documents, when together they are
/// larger than any that could be sent.
#[test]
fn one_document_is_made_of_a_bounded_amount() {
    let caches = [PublicationCache::Record, PublicationCache::Hybrid, PublicationCache::None];
    let mut lines = 0;
    for cache in caches {
        let mut world = match cache {
            PublicationCache::Record => World::default(),
            cache => World::new(Setup { cache, ..Setup::stored() }),
        };
        let body = |n: usize| format!("{n:02}{}", "x".repeat(1_000_000));
        for n in 0..36 {
            world.create("presence", &body(n));
        }
        world.watch("w", "presence");
        world.send();
        let shown = world.notifies().pop().unwrap().body;
        let numbers: Vec<_> = shown.split('+').map(|one| one[..2].to_owned()).collect();
        let newest: Vec<_> = (3..36).map(|n| format!("{n:02}")).collect();
        assert_eq!(numbers, newest, "{cache:?}");
        lines += world.complaints().iter().filter(|line| line.contains("oldest document")).count();
    }
    assert!((1..6).contains(&lines), "few lines tell of it: {lines}");
}

/// A result that is too large for the driver's memory is read in parts.
#[test]
fn documents_that_cannot_be_read_at_once_are_read_in_parts() {
    for cache in [PublicationCache::Hybrid, PublicationCache::None] {
        let mut world = World::new(Setup { cache, ..Setup::stored() });
        for n in 0..40 {
            world.create("presence", &format!("{n:02}"));
        }
        let database = world.host.database.clone().unwrap();
        database.explain(Verdict::Statement);
        let mut whole = true;
        database.fail_if(move |it| {
            let publications = it.verb == "query" && it.texts == [b"alice", &b"h"[..], b"presence"];
            publications && std::mem::take(&mut whole)
        });
        world.watch("w", "presence");
        world.send();
        let all: Vec<_> = (0..40).map(|n| format!("{n:02}")).collect();
        assert_eq!(world.notifies().pop().unwrap().body, all.join("+"), "{cache:?}");
    }
}
