//! Every request and every NOTIFY is counted once, as what it was.

use crate::fakes::{PRESENCE, Publish, Setup, Subscribe, World};
use presence::ports::{NotifyOutcome, PackageVerdict};
use presence::presence::measures::{Answer, Method, NotifyResult, StateShown, Total};
use presence::service::notify_reply;
use presence::store::gauges::Gauge;
use std::sync::atomic::Ordering::SeqCst;

fn answers(world: &World, method: Method) -> Vec<(&'static str, u64)> {
    let counters = world.server.store.counters();
    let all = Answer::ALL.into_iter().map(|it| (it.label(), counters.requests(method, it)));
    all.filter(|(_, count)| *count > 0).collect()
}

fn told(world: &World) -> Vec<(&'static str, u64)> {
    let counters = world.server.store.counters();
    let all = NotifyResult::ALL.into_iter().map(|it| (it.label(), counters.notifies(it)));
    all.filter(|(_, count)| *count > 0).collect()
}

#[test]
fn every_answer_to_a_publish_counts_once() {
    let mut world =
        World::new(Setup { config: |config| config.limits.document = 100, ..Setup::default() });
    let refused = |verdict| Publish { body: "a", verdict, ..Publish::default() };
    let replied = |replied| refused(PackageVerdict::Refused { replied });
    world.create("presence", "a");
    assert_eq!(
        world.publish(Publish { event: Some("weather"), body: "a", ..Publish::default() }).code,
        489
    );
    assert_eq!(world.publish(Publish { event: None, body: "a", ..Publish::default() }).code, 489);
    assert_eq!(
        world.publish(Publish { tag: Some("x"), body: "a", ..Publish::default() }).code,
        412
    );
    assert_eq!(
        world.publish(Publish { expires: Some("x"), body: "a", ..Publish::default() }).code,
        400
    );
    assert_eq!(world.publish(Publish { body: &"a".repeat(101), ..Publish::default() }).code, 413);
    assert_eq!(world.publish(replied(false)).code, 415);
    // The sibling has said so itself.
    assert_eq!(world.publish(replied(true)).code, 0);
    let expected = [("2xx", 1), ("412", 1), ("489", 2), ("other", 4)];
    assert_eq!(answers(&world, Method::Publish), expected);
    let counters = world.server.store.counters();
    assert_eq!(counters.refused(Method::Publish), 7);
    assert_eq!(counters.requests_of(None, Method::Publish, Answer::Event), 2);
    assert_eq!(counters.requests_of(Some(PRESENCE), Method::Publish, Answer::Other), 4);
    assert_eq!(world.server.store.tally().refusals(), 1);
}

#[test]
fn who_gets_no_answer_is_not_accepted() {
    let mut world = World::default();
    world.host.outside.replies_fail.store(true, SeqCst);
    world.publish(Publish { body: "a", ..Publish::default() });
    world.subscribe(Subscribe::new("w"));
    world.subscribe(Subscribe { event: Some("weather"), ..Subscribe::new("v") });
    world.host.outside.replies_fail.store(false, SeqCst);
    let counters = world.server.store.counters();
    assert_eq!(answers(&world, Method::Publish), []);
    assert_eq!(answers(&world, Method::Subscribe), [("489", 1)]);
    assert_eq!(counters.total(Total::Unanswered), 3);
}

#[test]
fn what_comes_again_is_counted_once() {
    let mut world = World::default();
    for _ in 0..3 {
        let answer = world.publish(Publish { body: "a", cseq: Some(1), ..Publish::default() });
        assert_eq!(answer.code, 200);
        assert_eq!(world.subscribe(Subscribe { cseq: Some(1), ..Subscribe::new("w") }).code, 200);
    }
    assert_eq!(answers(&world, Method::Publish), [("2xx", 1)]);
    assert_eq!(answers(&world, Method::Subscribe), [("2xx", 1)]);
    assert_eq!(world.server.store.counters().total(Total::Repeated), 4);
}

#[test]
fn every_notify_is_counted_as_what_became_of_it() {
    let mut world = World::default();
    for (watcher, outcome) in [
        ("dropped", NotifyOutcome::Dropped),
        ("failed", NotifyOutcome::Failed),
        ("large", NotifyOutcome::TooLarge),
    ] {
        world.host.outcomes.insert(watcher.into(), outcome);
        world.watch(watcher, "presence");
    }
    world.watch("well", "presence");
    world.subscribe(Subscribe { watcher: "pending", ..Subscribe::new("pending") });
    let expected = [("sent", 2), ("unsent", 2), ("dropped", 1)];
    assert_eq!(told(&world), expected);
    let server = world.server.clone();
    let counters = server.store.counters();
    assert_eq!(counters.notifies_of(PRESENCE, StateShown::Pending, NotifyResult::Sent), 1);
    assert_eq!(counters.unanswered(), 2);
    notify_reply::count(&world.server, PRESENCE, StateShown::Active, (202, true));
    notify_reply::count(&world.server, PRESENCE, StateShown::Pending, (408, false));
    assert_eq!(counters.unanswered(), 0);
    let gauges = world.server.store.gauges();
    let of = |gauge| gauges.of(PRESENCE, gauge);
    assert_eq!([of(Gauge::Active), of(Gauge::Pending)], [4, 1]);
    // A fetch that has nothing stored.
    world.subscribe(Subscribe { expires: Some("0"), ..Subscribe::new("fetch") });
    assert_eq!(counters.notifies_of(PRESENCE, StateShown::Terminated, NotifyResult::Sent), 1);
}

#[test]
fn a_notify_that_waits_for_memory_counts_when_it_has_left() {
    let mut world = World::default();
    world.watch("w", "presence");
    world.host.room = Some(0);
    world.create("presence", "a");
    assert_eq!(told(&world), [("sent", 1)]);
    world.host.room = None;
    world.create("presence", "b");
    world.send();
    assert_eq!(told(&world), [("sent", 2)]);
}

#[test]
fn times_and_sizes_are_those_of_published_changes() {
    let mut world = World::default();
    (0..3).for_each(|n| world.watch(&format!("w{n}"), "presence"));
    let counters = |world: &World| {
        let counters = world.server.store.counters();
        let latencies = counters.latencies(PRESENCE).up_to.last().copied();
        (latencies.unwrap_or(0), counters.fan_outs(PRESENCE).sum)
    };
    assert_eq!(counters(&world), (0, 0));
    world.create("presence", "a");
    assert_eq!(counters(&world), (3, 3));
}

#[test]
fn lanes_that_wait_have_an_age() {
    let mut world = World::default();
    // More than a worker sends by itself.
    for n in 0..200 {
        let watcher = format!("w{n}");
        world.subscribe(Subscribe { watcher: "many", ..Subscribe::new(&watcher) });
    }
    world.create("presence", "a");
    let store = &world.server.store;
    let now = |world: &World| world.now().unsigned_abs() * 1000;
    assert_eq!(store.gauges().queued(), 1);
    world.pass(3);
    assert!((3000..60_000).contains(&store.longest_wait(now(&world))));
    world.send();
    let store = &world.server.store;
    assert_eq!((store.gauges().queued(), store.longest_wait(now(&world))), (0, 0));
    // What the sender processes have sent counts as well, with what it waited for.
    let latencies = store.counters().latencies(PRESENCE);
    assert_eq!(latencies.up_to.last(), Some(&200));
    assert!(latencies.sum >= 70 * 3_000_000, "{latencies:?}");
}
