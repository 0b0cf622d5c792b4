//! Limits on what clients may pile up (A14): in every mode, and never at the
//! cost of what is stored already.

use crate::fakes::{Answered, PRESENCE, Publish, Setup, Subscribe, World};
use presence::config::{Config, PublicationCache, SubscriptionMode};
use presence::service::sibling_publication::{self, SiblingPublication};
use presence::service::{restore, write_back};
use std::sync::Arc;

fn modes() -> [Setup; 4] {
    let stored = |mode| Setup { mode, ..Setup::stored() };
    [
        Setup::default(),
        stored(SubscriptionMode::WriteBack),
        stored(SubscriptionMode::WriteThrough),
        stored(SubscriptionMode::DbOnly),
    ]
}

fn caches() -> [Setup; 3] {
    let stored = |cache| Setup { cache, ..Setup::stored() };
    [Setup::default(), stored(PublicationCache::Hybrid), stored(PublicationCache::None)]
}

#[track_caller]
fn assert_refused(answer: &Answered) {
    assert_eq!((answer.code, &*answer.headers), (503, "Retry-After: 60\r\n"), "{answer:?}");
}

fn limited(setup: Setup, config: fn(&mut Config)) -> World {
    World::new(Setup { config, ..setup })
}

/// `second` of two subscriptions is one too many until the first has ended.
fn one_at_a_time(mut world: World, second: fn() -> Subscribe<'static>) {
    let mode = world.server.config.subs_db_mode;
    assert_eq!(world.subscribe(Subscribe::new("w")).code, 200);
    for _ in 0..3 {
        assert_refused(&world.subscribe(second()));
    }
    assert_eq!(world.subscribe(Subscribe::refresh("w")).code, 200, "{mode:?}");
    let fetch = Subscribe { call_id: "f", expires: Some("0"), ..second() };
    assert_eq!(world.subscribe(fetch).code, 200, "a fetch stores nothing");
    assert_eq!(world.subscribe(Subscribe::end("w")).code, 200, "{mode:?}");
    assert_eq!(world.subscribe(second()).code, 200, "{mode:?}: there is room again");
    world.seen();
}

#[test]
fn subscriptions_of_a_watcher_have_a_limit() {
    for setup in modes() {
        let world = limited(setup, |config| config.limits.of_watcher = 1);
        one_at_a_time(world, || Subscribe { watcher: "w", user: "bob", ..Subscribe::new("x") });
    }
}

#[test]
fn subscriptions_to_a_presentity_have_a_limit() {
    for setup in modes() {
        let world = limited(setup, |config| config.limits.of_presentity = 1);
        one_at_a_time(world, || Subscribe::new("x"));
    }
}

#[test]
fn all_subscriptions_have_a_limit() {
    for setup in modes() {
        let world = limited(setup, |config| config.limits.subscriptions = 1);
        one_at_a_time(world, || Subscribe { user: "bob", ..Subscribe::new("x") });
    }
}

#[test]
fn others_are_not_concerned() {
    for setup in modes() {
        let mut world = limited(setup, |config| {
            (config.limits.of_watcher, config.limits.of_presentity) = (1, 2)
        });
        world.watch("w", "presence");
        world.watch("x", "presence");
        assert_refused(&world.subscribe(Subscribe::new("y")));
        world.watch("y", "message-summary");
        let bob = Subscribe { user: "bob", ..Subscribe::new("z") };
        assert_eq!(world.subscribe(bob).code, 200);
    }
}

#[test]
fn publications_of_a_presentity_have_a_limit() {
    for setup in caches() {
        let mut world = limited(setup, |config| config.limits.publications = 2);
        let cache = world.server.config.publ_cache;
        let tag = world.create("presence", "a");
        let other = world.create("presence", "b");
        let one_more = || Publish { body: "c", ..Publish::default() };
        assert_refused(&world.publish(one_more()));
        assert_eq!(world.publish(Publish { user: "bob", ..one_more() }).code, 200);
        world.create("message-summary", "m");
        let tag = world.modify("presence", &tag, "a2");
        assert_refused(&world.publish(one_more()));
        world.remove("presence", &tag);
        assert_eq!(world.publish(one_more()).code, 200, "{cache:?}: there is room again");
        world.remove("presence", &other);
    }
}

/// A new publication of a dialog replaces the one there is.
#[test]
fn a_dialog_that_is_published_again_needs_no_room() {
    for setup in caches() {
        let mut world = limited(setup, |config| config.limits.publications = 1);
        let early = crate::fakes::dialog("1", "early");
        world.create("dialog", &early);
        world.create("dialog", &crate::fakes::dialog("1", "confirmed"));
        let body = &crate::fakes::dialog("2", "early");
        let other = Publish { event: Some("dialog"), body, ..Publish::default() };
        assert_refused(&world.publish(other));
    }
}

#[test]
fn documents_have_a_limit() {
    for setup in caches() {
        let mut world = limited(setup, |config| config.limits.document = 3);
        let tag = world.create("presence", "abc");
        let four = |tag| Publish { tag, body: "abcd", ..Publish::default() };
        for tag in [None, Some(&*tag)] {
            let answer = world.publish(four(tag));
            assert_eq!((answer.code, &*answer.headers), (413, ""));
        }
        let removal = Publish { expires: Some("0"), ..four(Some(&tag)) };
        assert_eq!(world.publish(removal).code, 200, "a removal is never refused");
        let given = SiblingPublication {
            package: PRESENCE,
            user: b"alice",
            domain: b"h",
            entity_tag: b"tag",
            sender: None,
            body: b"abcd",
            expires: 60,
            for_ever: false,
            is_new: true,
        };
        let refused = sibling_publication::publish(&world.server, &mut world.host, &given);
        let refused = presence::error::Rejection::from(refused.unwrap_err());
        assert_eq!(refused.code, 413, "a sibling's document too");
        let for_ever = SiblingPublication { for_ever: true, ..given };
        let kept = sibling_publication::publish(&world.server, &mut world.host, &for_ever);
        assert_eq!(kept, Ok(()), "the operator's does not count");
    }
}

#[test]
fn refreshes_of_a_dialog_keep_a_distance() {
    for setup in modes() {
        let mut world = limited(setup, |config| config.limits.refresh_gap = 2500);
        world.watch("w", "presence");
        world.watch("x", "presence");
        let code = |world: &mut World, it| world.subscribe(it).code;
        assert_eq!(code(&mut world, Subscribe::refresh("w")), 200);
        let answer = world.subscribe(Subscribe::refresh("w"));
        assert_eq!((answer.code, &*answer.headers), (503, "Retry-After: 3\r\n"));
        assert_eq!(code(&mut world, Subscribe::refresh("x")), 200, "another dialog");
        world.pass(2);
        assert_eq!(code(&mut world, Subscribe::refresh("w")), 503);
        world.pass(1);
        assert_eq!(code(&mut world, Subscribe::refresh("w")), 200);
        assert_eq!(code(&mut world, Subscribe::end("w")), 200, "an end is never refused");
    }
}

#[test]
fn changes_of_a_publication_keep_a_distance() {
    for setup in caches() {
        let mut world = limited(setup, |config| config.limits.publish_gap = 1000);
        let tag = world.create("presence", "a");
        world.create("presence", "other");
        let modify = || Publish { tag: Some(&tag), body: "b", ..Publish::default() };
        let refresh = || Publish { tag: Some(&tag), ..Publish::default() };
        for request in [modify(), refresh()] {
            let answer = world.publish(request);
            assert_eq!((answer.code, &*answer.headers), (503, "Retry-After: 1\r\n"));
        }
        world.pass(1);
        let answer = world.publish(modify());
        assert_eq!(answer.code, 200);
        world.remove("presence", &answer.tag);
    }
}

/// What is stored is taken over, however much it is.
#[test]
fn a_start_keeps_all() {
    let mut old = World::new(Setup::stored());
    for watcher in ["1", "2", "3"] {
        old.subscribe(Subscribe { watcher: "w", ..Subscribe::new(watcher) });
        old.create("presence", watcher);
    }
    write_back::flush(&old.server, &mut old.host, true);
    let database = old.host.database.clone();
    let config = |config: &mut Config| {
        (config.limits.of_watcher, config.limits.publications) = (2, 2);
        (config.limits.of_presentity, config.limits.subscriptions) = (2, 2);
    };
    let mut world = World::new(Setup { database, config, ..Setup::stored() });
    let mut server =
        Arc::into_inner(std::mem::replace(&mut world.server, World::default().server)).unwrap();
    restore::publications(&mut server, &mut world.host).unwrap();
    restore::subscriptions(&mut server, &mut world.host).unwrap();
    world.server = Arc::new(server);
    assert_eq!(world.watchers("alice", PRESENCE), 3);
    assert_eq!(world.documents("alice", PRESENCE).len(), 3);
    world.pass(1);
    for watcher in ["1", "2", "3"] {
        let refresh = Subscribe { watcher: "w", cseq: Some(99), ..Subscribe::refresh(watcher) };
        assert_eq!(world.subscribe(refresh).code, 200);
    }
    assert_refused(&world.subscribe(Subscribe { watcher: "w", ..Subscribe::new("4") }));
    assert_refused(&world.publish(Publish { body: "d", ..Publish::default() }));
}

/// A phone that has restarted gets through when its old subscription goes for it.
#[test]
fn a_replacement_needs_no_room() {
    let config = |config: &mut Config| {
        config.delete_same_subs = true;
        config.limits.of_watcher = 1;
    };
    let mut world = World::new(Setup { same_call: true, config, ..Setup::default() });
    for from_tag in ["1", "2", "3"] {
        assert_eq!(world.subscribe(Subscribe { from_tag, ..Subscribe::new("w") }).code, 200);
    }
    assert_eq!(world.watchers("alice", PRESENCE), 1);
    assert_refused(&world.subscribe(Subscribe { watcher: "w", ..Subscribe::new("x") }));
}

/// One line for each offender and minute, and every refusal counts.
#[test]
fn refusals_are_counted_and_told_seldom() {
    let mut world = World::new(Setup { config: |c| c.limits.of_watcher = 1, ..Setup::default() });
    for watcher in ["w", "x"] {
        world.watch(watcher, "presence");
    }
    let calls: Vec<String> = (0..100).map(|n| format!("c{n}")).collect();
    for second in 0..2 {
        for call in &calls {
            for watcher in ["w", "x"] {
                assert_refused(&world.subscribe(Subscribe { watcher, ..Subscribe::new(call) }));
            }
        }
        let lines = world.complaints();
        assert_eq!(lines.len(), 2, "{second} {lines:?}");
        assert!(lines[0].contains("max_subscriptions_per_watcher reached by sip:w@h"));
        world.pass(60);
    }
    assert_eq!(world.server.store.tally().refusals(), 400);
}

/// A client that subscribes for ever anew, as some do, stays within its share of
/// the memory, by default.
#[test]
fn a_looping_client_is_bounded_by_default() {
    let by_memory = |config: &mut Config| config.limits = config.limits.in_memory(4 << 20);
    let mut world = World::new(Setup { config: by_memory, ..Setup::default() });
    let mut codes = std::collections::BTreeMap::<u16, u32>::new();
    for n in 0..11_000 {
        let call = format!("loop{n}");
        let event = Some("message-summary");
        let request = Subscribe { watcher: "w", event, ..Subscribe::new(&call) };
        *codes.entry(world.subscribe(request).code).or_default() += 1;
    }
    assert_eq!(codes, [(200, 10_000), (503, 1000)].into());
}
