//! Requests whose final reply could not be sent: the client has been told nothing, or
//! that it failed.

use crate::fakes::{MWI, PRESENCE, Publish, Setup, Subscribe, World};
use presence::config::{PublicationCache, SubscriptionMode};
use std::sync::atomic::Ordering::SeqCst;

fn modes() -> [Setup; 4] {
    let stored = |mode, cache| Setup { mode, cache, authorizes: false, ..Setup::stored() };
    [
        Setup::default(),
        stored(SubscriptionMode::WriteThrough, PublicationCache::Hybrid),
        stored(SubscriptionMode::WriteBack, PublicationCache::None),
        stored(SubscriptionMode::DbOnly, PublicationCache::None),
    ]
}

fn without_replies(world: &mut World, request: impl FnOnce(&mut World)) {
    world.host.outside.replies_fail.store(true, SeqCst);
    request(world);
    world.host.outside.replies_fail.store(false, SeqCst);
}

fn rows(world: &World, table: &str) -> usize {
    world.host.database.as_ref().map_or(0, |database| database.column(table, "event").len())
}

#[test]
fn a_new_subscription_is_not_stored() {
    for setup in modes() {
        let mut world = World::new(setup);
        world.create("presence", "a");
        world.watch("looker", "presence.winfo");
        world.seen();
        without_replies(&mut world, |world| {
            world.subscribe(Subscribe::new("w"));
        });
        world.send();
        assert_eq!(world.seen(), [""; 0], "neither the watcher nor who looks is told");
        assert_eq!(world.watchers("alice", PRESENCE), 0);
        assert!(rows(&world, "active_watchers") <= 1, "only who looks");
        // The same request again is a new one.
        world.watch("w", "presence");
        world.send();
        assert_eq!(world.seen().len(), 2);
    }
}

/// The request comes again later than answers are kept.
#[test]
fn a_late_copy_of_a_first_request_is_not_new() {
    for refreshed in [false, true] {
        for setup in modes() {
            let mode = setup.mode;
            let mut world = World::new(setup);
            let first = || Subscribe { cseq: Some(1), ..Subscribe::new("w") };
            world.subscribe(first());
            if refreshed {
                world.subscribe(Subscribe { cseq: Some(5), ..Subscribe::refresh("w") });
            }
            world.watch("looker", "presence.winfo");
            world.send();
            world.seen();
            for is_answered in [false, true] {
                world.pass(40);
                match is_answered {
                    true => assert_eq!(world.subscribe(first()).code, 200),
                    false => without_replies(&mut world, |world| {
                        world.subscribe(first());
                    }),
                }
                world.send();
                let notified: Vec<_> = world.notifies().into_iter().map(|n| n.call_id).collect();
                assert_eq!(notified, ["w"], "{mode:?}: nothing is new for who looks");
                assert_eq!(world.watchers("alice", PRESENCE), 1, "{mode:?}");
            }
        }
    }
}

#[test]
fn a_fetch_is_not_told() {
    for setup in modes() {
        let mut world = World::new(setup);
        without_replies(&mut world, |world| {
            world.subscribe(Subscribe { expires: Some("0"), ..Subscribe::new("f") });
        });
        assert_eq!(world.seen(), [""; 0]);
    }
}

#[test]
fn a_refresh_and_an_end_count() {
    for setup in modes() {
        let mut world = World::new(setup);
        world.watch("w", "presence");
        world.send();
        world.seen();
        without_replies(&mut world, |world| {
            world.subscribe(Subscribe::refresh("w"));
        });
        world.send();
        assert_eq!(world.seen().len(), 1);
        assert_eq!(world.watchers("alice", PRESENCE), 1);
        without_replies(&mut world, |world| {
            world.subscribe(Subscribe::end("w"));
        });
        world.send();
        assert_eq!(world.notifies().len(), 1);
        assert_eq!(world.watchers("alice", PRESENCE), 0);
    }
}

#[test]
fn a_new_publication_is_not_stored() {
    for setup in modes() {
        let mut world = World::new(setup);
        world.watch("m", "message-summary");
        world.create("presence", "a");
        world.send();
        world.seen();
        for event in ["presence", "message-summary"] {
            without_replies(&mut world, |world| {
                world.publish(Publish { event: Some(event), body: "b", ..Publish::default() });
            });
        }
        world.send();
        assert!(world.notifies().iter().all(|n| !n.body.contains('b')), "nobody is told");
        assert!(world.documents("alice", PRESENCE).len() <= 1);
        assert_eq!(world.documents("alice", MWI), [""; 0]);
        assert!(rows(&world, "presentity") <= 1);
    }
}
