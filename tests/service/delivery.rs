//! NOTIFYs that cannot be sent: what one watcher lacks stays with it (A10, A13).

use crate::fakes::{FakeMemory, PRESENCE, Publish, Setup, Subscribe, World};
use presence::config::{PublicationCache, SubscriptionMode};
use presence::ports::NotifyOutcome;
use presence::service::Server;
use presence::service::notifier::retry_queue::RetryQueue;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

/// A sender process, with a clock of its own.
struct Sender<'a> {
    server: &'a Server<FakeMemory>,
    retry_queue: RetryQueue<'a, FakeMemory>,
    time: Duration,
}

impl<'a> Sender<'a> {
    fn new(server: &'a Arc<Server<FakeMemory>>) -> Sender<'a> {
        Sender { server, retry_queue: RetryQueue::new(server), time: Duration::ZERO }
    }

    /// Serves what was handed over.
    fn serve(&mut self, world: &mut World) {
        for _ in 0..100 {
            let shards = 0..self.server.store.shards();
            let lanes: Vec<_> = shards.filter_map(|n| self.server.store.take_over(n)).collect();
            if lanes.is_empty() {
                return;
            }
            for lane in lanes {
                self.retry_queue.serve(&mut world.host, lane, self.time);
            }
        }
        panic!("never done");
    }

    /// Lets time pass until the next attempt; gives how long that was.
    fn wait(&mut self, world: &mut World) -> Option<Duration> {
        let next = self.retry_queue.next()?;
        let pause = next.saturating_sub(self.time);
        self.time = next;
        assert!(self.retry_queue.serve_next(&mut world.host, next));
        self.serve(world);
        Some(pause)
    }
}

/// Subscriptions in memory, with rows, and as rows only.
pub fn modes() -> [Setup; 3] {
    let rows = Setup {
        mode: SubscriptionMode::DbOnly,
        cache: PublicationCache::None,
        authorizes: false,
        ..Setup::stored()
    };
    [Setup::default(), Setup::stored(), rows]
}

#[test]
fn nothing_that_becomes_of_a_notify_stops_the_others() {
    use NotifyOutcome::*;
    for setup in modes() {
        for (outcome, stays) in [(Dropped, true), (Failed, true), (Gone, false)] {
            let mut world = World::new(setup.clone());
            for watcher in ["first", "bad", "last"] {
                world.watch(watcher, "presence");
            }
            world.watch("looker", "presence.winfo");
            world.send();
            world.seen();
            world.host.outcomes.insert("bad".into(), outcome);
            let tag = world.create("presence", "a");
            world.modify("presence", &tag, "b");
            world.send();
            let notified = world.notifies();
            let count = |call_id: &str| notified.iter().filter(|n| n.call_id == call_id).count();
            assert_eq!((count("first"), count("last")), (2, 2), "{outcome:?}");
            assert_eq!(world.watchers("alice", PRESENCE), if stays { 3 } else { 2 });
            assert_eq!(count("looker"), usize::from(!stays), "{outcome:?}");
        }
    }
}

#[test]
fn a_watcher_that_is_gone_stays_where_time_outs_do_not_end_it() {
    for setup in modes() {
        let setup = Setup { config: |config| config.timeout_rm_subs = false, ..setup };
        let mut world = World::new(setup);
        world.watch("gone", "presence");
        world.seen();
        world.host.outcomes.insert("gone".into(), NotifyOutcome::Gone);
        let tag = world.create("presence", "a");
        world.send();
        assert_eq!(world.watchers("alice", PRESENCE), 1);
        world.host.outcomes.clear();
        world.modify("presence", &tag, "b");
        world.send();
        assert_eq!(world.notifies().last().map(|n| n.body.clone()), Some("b".into()));
    }
}

/// The phone has changed networks: its old connection is found gone while its
/// refresh comes over a new one.
#[test]
fn who_has_come_over_a_new_connection_meanwhile_stays() {
    for moves in [true, false] {
        for setup in modes() {
            let mut world = World::new(setup);
            world.watch("w", "presence");
            world.watch("looker", "presence.winfo");
            world.send();
            world.seen();
            world.host.outcomes.insert("sip:w@h".into(), NotifyOutcome::Gone);
            let mut other = world.fork();
            world.host.during_notify.push_back(Box::new(move || {
                let contact_host = if moves { "elsewhere" } else { "h" };
                let refresh = Subscribe { contact_host, ..Subscribe::refresh("w") };
                assert_eq!(other.subscribe(refresh).code, 200);
            }));
            world.create("presence", "a");
            world.send();
            assert_eq!(world.watchers("alice", PRESENCE), usize::from(moves));
            let (of_end, mut notified): (Vec<_>, Vec<_>) =
                world.notifies().into_iter().partition(|n| n.call_id == "looker");
            assert_eq!(of_end.len(), usize::from(!moves), "who looks is told of an end");
            let notified = notified.pop().map(|n| (n.contact, n.body));
            assert_eq!(notified, moves.then(|| ("sip:w@elsewhere".into(), "a".into())));
        }
    }
}

/// It has unsubscribed, which who looks has been notified, when it is found gone.
#[test]
fn an_end_is_told_once_to_those_who_look() {
    for setup in modes() {
        let mode = setup.mode;
        let mut world = World::new(setup);
        world.watch("w", "presence");
        world.watch("looker", "presence.winfo");
        world.send();
        world.seen();
        world.host.outcomes.insert("sip:w@h".into(), NotifyOutcome::Gone);
        let mut other = world.fork();
        world.host.during_notify.push_back(Box::new(move || {
            assert_eq!(other.subscribe(Subscribe::end("w")).code, 200);
            other.send();
            let notified: Vec<_> = other.notifies().into_iter().map(|n| n.call_id).collect();
            assert_eq!(notified, ["looker"]);
        }));
        world.create("presence", "a");
        world.send();
        let notified = world.notifies();
        assert!(notified.iter().all(|n| n.call_id != "looker"), "{mode:?}: {notified:?}");
        assert_eq!(world.watchers("alice", PRESENCE), 0);
    }
}

#[test]
fn want_of_memory_for_one_is_not_waited_for_by_others_and_has_an_end() {
    for setup in modes() {
        let mut world = World::new(setup);
        for watcher in ["first", "bad", "last"] {
            world.watch(watcher, "presence");
        }
        world.send();
        world.seen();
        world.host.outcomes.insert("bad".into(), NotifyOutcome::NoMemory);
        let tag = world.create("presence", "a");
        let server = world.server.clone();
        let mut sender = Sender::new(&server);
        sender.serve(&mut world);
        let notified: Vec<_> = world.notifies().into_iter().map(|n| (n.call_id, n.body)).collect();
        assert_eq!(notified.len(), 2, "{notified:?}");
        // Meanwhile the presentity goes on.
        let tag = world.modify("presence", &tag, "b");
        sender.serve(&mut world);
        assert_eq!(world.notifies().len(), 2);
        world.watch("late", "presence");
        sender.serve(&mut world);
        assert_eq!(world.notifies().len(), 1);
        let mut pauses = Vec::new();
        while let Some(pause) = sender.wait(&mut world) {
            pauses.push(pause);
            assert!(pauses.len() < 20, "it has no end");
        }
        assert!(pauses.len() > 4 && pauses.is_sorted(), "{pauses:?}");
        assert!(pauses.iter().sum::<Duration>() > Duration::from_secs(30), "{pauses:?}");
        assert_eq!(world.watchers("alice", PRESENCE), 4, "nobody's subscription has ended");
        // The next change is for all.
        world.host.outcomes.clear();
        world.modify("presence", &tag, "c");
        sender.serve(&mut world);
        assert_eq!(world.notifies().len(), 4);
        assert_eq!(sender.retry_queue.next(), None);
    }
}

#[test]
fn memory_that_comes_back_is_used() {
    for setup in modes() {
        let mut world = World::new(setup);
        for n in 0..40 {
            world.watch(&format!("w{n}"), "presence");
        }
        world.send();
        world.seen();
        world.host.longest = Some(10);
        let big = "b".repeat(100);
        world.publish(Publish { body: &big, ..Publish::default() });
        let server = world.server.clone();
        let mut sender = Sender::new(&server);
        sender.serve(&mut world);
        sender.wait(&mut world);
        assert_eq!(world.notifies(), []);
        world.host.longest = None;
        sender.wait(&mut world);
        let notified = world.notifies();
        assert_eq!(notified.len(), 40);
        assert!(notified.iter().all(|n| n.body == big));
        assert_eq!(sender.retry_queue.next(), None);
    }
}

#[test]
fn a_document_that_never_fits_is_left_out() {
    for setup in modes() {
        let mut world = World::new(setup);
        world.watch("w", "presence");
        world.seen();
        world.host.longest = Some(10);
        let big = "b".repeat(100);
        world.publish(Publish { body: &big, ..Publish::default() });
        let server = world.server.clone();
        let mut sender = Sender::new(&server);
        sender.serve(&mut world);
        while sender.wait(&mut world).is_some() {}
        let notified = world.notifies();
        assert_eq!(notified.iter().map(|n| n.body.as_str()).collect::<Vec<_>>(), [""]);
        assert!(!notified[0].headers.contains("Content-Type"), "{}", notified[0].headers);
        assert_eq!(world.watchers("alice", PRESENCE), 1);
    }
}

#[test]
fn a_last_notify_and_one_for_who_fetches_wait_for_memory() {
    for setup in modes() {
        let mut world = World::new(setup);
        world.create("presence", "a");
        world.watch("w", "presence");
        world.send();
        world.seen();
        world.host.room = Some(0);
        assert_eq!(world.subscribe(Subscribe::end("w")).code, 200);
        let fetch = Subscribe { expires: Some("0"), ..Subscribe::new("f") };
        assert_eq!(world.subscribe(fetch).code, 200);
        let server = world.server.clone();
        let mut sender = Sender::new(&server);
        sender.serve(&mut world);
        sender.wait(&mut world);
        assert_eq!(world.notifies(), []);
        world.host.room = None;
        while sender.wait(&mut world).is_some() {}
        let mut notified = world.notifies();
        notified.sort_by(|a, b| a.call_id.cmp(&b.call_id));
        let notified: Vec<_> = notified
            .iter()
            .map(|n| (n.call_id.as_str(), n.state.as_str(), n.body.as_str()))
            .collect();
        let over = "terminated;reason=timeout";
        assert_eq!(notified, [("f", over, "a"), ("w", over, "a")]);
        assert_eq!(world.watchers("alice", PRESENCE), 0);
    }
}

#[test]
fn a_lane_that_cannot_be_composed_waits_alone() {
    let mut world = World::new(Setup { restricts: true, ..Setup::default() });
    world.watch("w", "presence");
    world.watch("m", "message-summary");
    world.seen();
    world.host.outside.rules_fail.store(true, SeqCst);
    let server = world.server.clone();
    let mut sender = Sender::new(&server);
    let tag = world.create("presence", "a");
    sender.serve(&mut world);
    world.modify("presence", &tag, "b");
    world.create("message-summary", "1");
    sender.serve(&mut world);
    assert_eq!(world.seen(), ["m 3 active 1"]);
    sender.wait(&mut world);
    assert_eq!(world.seen(), [""; 0]);
    world.host.outside.rules_fail.store(false, SeqCst);
    sender.wait(&mut world);
    assert_eq!(world.seen(), ["w 3 active b"]);
    assert_eq!(sender.retry_queue.next(), None);
    // A package that never can is given up until the next change.
    world.host.outside.rules_fail.store(true, SeqCst);
    world.create("presence", "c");
    sender.serve(&mut world);
    let mut attempts = 0;
    while sender.wait(&mut world).is_some() {
        attempts += 1;
        assert!(attempts < 100, "it has no end");
    }
    world.host.outside.rules_fail.store(false, SeqCst);
    world.create("presence", "d");
    assert_eq!(world.seen(), ["w 4 active b+c+d"]);
}

#[test]
fn after_a_panic_the_rest_of_a_portion_is_told() {
    for setup in modes() {
        let mut world = World::new(setup);
        for n in 0..20 {
            world.watch(&format!("w{n}"), "presence");
        }
        world.send();
        world.seen();
        for _ in 0..5 {
            world.host.during_notify.push_back(Box::new(|| {}));
        }
        world.host.during_notify.push_back(Box::new(|| panic!("injected")));
        let publish = catch_unwind(AssertUnwindSafe(|| world.create("presence", "a")));
        assert!(publish.is_err());
        world.send();
        let mut notified: Vec<_> = world.notifies().into_iter().map(|n| n.call_id).collect();
        notified.sort();
        notified.dedup();
        assert_eq!(notified.len(), 19, "all but the one that failed");
    }
}

#[test]
fn who_had_to_wait_for_memory_is_told_of_the_end() {
    for setup in modes() {
        let name = format!("{:?}", setup.mode);
        let mut world = World::new(setup);
        for watcher in ["other", "w"] {
            world.watch(watcher, "presence");
        }
        world.create("presence", "a");
        let tag = world.create("presence", "b");
        world.send();
        world.seen();
        world.host.outcomes.insert("w".into(), NotifyOutcome::NoMemory);
        world.remove("presence", &tag);
        let server = world.server.clone();
        let mut sender = Sender::new(&server);
        sender.serve(&mut world);
        assert_eq!(world.notifies().len(), 1, "{name}");
        world.create("presence", "c");
        sender.serve(&mut world);
        world.notifies();
        world.host.outcomes.clear();
        while sender.wait(&mut world).is_some() {}
        let notified: Vec<_> = world.notifies().into_iter().map(|n| (n.call_id, n.body)).collect();
        let body = |body: &str| ("w".to_owned(), body.to_owned());
        assert_eq!(notified, [body("closed(b)+a+c"), body("a+c")], "{name}");
        // Then it is forgotten.
        world.create("presence", "d");
        sender.serve(&mut world);
        let notified: Vec<_> = world.notifies().into_iter().map(|n| n.body).collect();
        assert_eq!(notified, ["a+c+d", "a+c+d"], "{name}");
    }
}

#[test]
fn after_a_panic_who_had_to_wait_for_memory_is_told() {
    for setup in modes() {
        let name = format!("{:?}", setup.mode);
        let mut world = World::new(setup);
        for watcher in ["a", "b"] {
            world.watch(watcher, "presence");
        }
        world.send();
        world.seen();
        world.host.outcomes.insert("a".into(), NotifyOutcome::NoMemory);
        world.host.during_notify.push_back(Box::new(|| {}));
        world.host.during_notify.push_back(Box::new(|| panic!("injected")));
        let publish = catch_unwind(AssertUnwindSafe(|| world.create("presence", "1")));
        assert!(publish.is_err(), "{name}");
        world.host.outcomes.clear();
        world.host.during_notify.clear();
        world.send();
        let notified: Vec<_> = world.notifies().into_iter().map(|n| n.call_id).collect();
        assert_eq!(notified, ["a"], "{name}: all but the one that failed");
    }
}
