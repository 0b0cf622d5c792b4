//! Shared memory runs out (A4): requests are refused with 503, what is stored
//! stays whole, and everything goes on when there is memory again.

use crate::fakes::{DIALOG, MWI, PRESENCE, Publish, Setup, Subscribe, WINFO, World, dialog};
use presence::config::{PublicationCache, SubscriptionMode};
use presence::shm::{Blob, Heap, place};

/// Everything that requests can see.
fn visible(world: &World) -> String {
    let mut all = String::new();
    for package in [PRESENCE, WINFO, MWI, DIALOG] {
        for user in ["alice", "bob"] {
            let key = world.key(user, package);
            let state = world.server.store.state(&key);
            all += &format!("{:?} {:?}", state.publications, state.finals);
            all += &format!("{:?}", world.server.store.watchers(&key, world.now()));
        }
    }
    all
}

/// Tries a request with room for no, one, two ... pages until it succeeds. A
/// new kind of allocation takes a page, so each of them fails in turn.
fn exhaust(prepare: impl Fn(&mut World), request: impl Fn(&mut World) -> u16) {
    for pages in 0..40 {
        let mut world = World::new(Setup { shards: 1, ..Setup::default() });
        prepare(&mut world);
        world.send();
        world.events();
        let before = visible(&world);
        let usage = world.usage();
        // Fill the chunks that there are, then make room for some pages.
        let filler = place(world.arena, Heap::new(world.pool)).unwrap();
        let page = vec![0; Heap::<crate::fakes::FakeMemory>::ONE_PAGE];
        let mut filling = vec![Blob::new(filler, &page).unwrap()];
        world.arena.fail_after(0);
        filling.extend(std::iter::from_fn(|| Blob::new(filler, &page).ok()));
        filling.drain(..pages);
        let code = request(&mut world);
        world.arena.never_fail();
        drop(filling);
        if code == 200 {
            assert!(pages > 0, "nothing was ever refused");
            return;
        }
        assert_eq!(code, 503, "with {pages} pages");
        assert_eq!(visible(&world), before, "with {pages} pages");
        assert_eq!(world.usage(), usage, "with {pages} pages");
        assert_eq!(world.seen(), [""; 0]);
        assert_eq!(request(&mut world), 200);
    }
    panic!("never enough");
}

fn nothing(_: &mut World) {}

/// Fills a page's worth of records' text, so that the next needs a page.
fn crowd(world: &mut World) {
    for n in 0..60 {
        world.subscribe(Subscribe { user: "bob", ..Subscribe::new(&format!("w{n}")) });
    }
}

#[test]
fn a_new_subscription_is_refused() {
    exhaust(nothing, |world| world.subscribe(Subscribe::new("w")).code);
    exhaust(crowd, |world| {
        let call = "c".repeat(300);
        world.subscribe(Subscribe::new(&call)).code
    });
}

#[test]
fn a_refresh_with_another_contact_is_refused() {
    let refresh = |world: &mut World| {
        let contact = "n".repeat(700);
        world.subscribe(Subscribe { contact_host: &contact, ..Subscribe::refresh("w") }).code
    };
    exhaust(|world| world.watch("w", "presence"), refresh);
}

#[test]
fn a_refresh_as_before_needs_no_memory() {
    let mut world = World::default();
    world.watch("w", "presence");
    world.arena.fail_after(0);
    assert_eq!(world.subscribe(Subscribe::refresh("w")).code, 200);
    assert_eq!(world.subscribe(Subscribe::end("w")).code, 200);
    assert_eq!(world.seen().len(), 3);
    world.assert_empty();
}

#[test]
fn a_new_publication_is_refused() {
    for watched in [false, true] {
        let prepare = |world: &mut World| {
            if watched {
                world.watch("w", "presence");
            }
        };
        let body = "b".repeat(900);
        exhaust(prepare, |world| world.publish(Publish { body: &body, ..Publish::default() }).code);
    }
}

#[test]
fn a_replaced_dialog_stays_if_the_new_one_is_refused() {
    let prepare = |world: &mut World| {
        world.watch("w", "dialog");
        world.create("dialog", &dialog("x", "early"));
    };
    let new = dialog("x", "confirmed") + &" ".repeat(1500);
    exhaust(prepare, |world| {
        world.publish(Publish { event: Some("dialog"), body: &new, ..Publish::default() }).code
    });
}

#[test]
fn a_modification_is_refused_and_can_be_repeated() {
    let prepare = |world: &mut World| {
        world.watch("w", "presence");
        world.publish(Publish { body: "a", ..Publish::default() });
    };
    let body = "b".repeat(1500);
    exhaust(prepare, |world| {
        let state = world.server.store.state(&world.key("alice", PRESENCE));
        let tag = String::from_utf8(state.publications[0].entity_tag.clone()).unwrap();
        world.publish(Publish { tag: Some(&tag), body: &body, ..Publish::default() }).code
    });
}

#[test]
fn what_ends_needs_no_memory() {
    let mut world = World::default();
    world.watch("w", "presence");
    world.publish(Publish { body: "a", expires: Some("10"), ..Publish::default() });
    let b = world.create("presence", "b");
    world.seen();
    // Not a single slot is left.
    let filler = place(world.arena, Heap::new(world.pool)).unwrap();
    world.arena.fail_after(0);
    let page = [0; Heap::<crate::fakes::FakeMemory>::ONE_PAGE];
    let filling: Vec<_> = std::iter::from_fn(|| Blob::new(filler, &page).ok()).collect();
    world.remove("presence", &b);
    world.pass(10);
    world.expire();
    world.pass(4000);
    world.expire();
    let expected =
        ["w 5 active closed(b)+a", "w 6 active closed(a)", "w 7 terminated;reason=timeout"];
    assert_eq!(world.seen(), expected);
    drop(filling);
}

#[test]
fn what_the_host_has_no_memory_for_is_sent_later() {
    for setup in [
        Setup::default(),
        Setup {
            mode: SubscriptionMode::DbOnly,
            cache: PublicationCache::None,
            authorizes: false,
            ..Setup::stored()
        },
    ] {
        let mut world = World::new(setup);
        for n in 0..50 {
            world.watch(&format!("w{n}"), "presence");
        }
        world.send();
        world.seen();
        world.host.room = Some(10);
        world.create("presence", "a");
        let mut notified = world.notifies();
        assert_eq!(notified.len(), 10);
        // Some memory has come back, then enough.
        world.host.room = Some(15);
        world.send_step();
        notified.extend(world.notifies());
        assert_eq!(notified.len(), 25);
        world.host.room = None;
        world.send();
        notified.extend(world.notifies());
        let mut calls: Vec<_> =
            notified.iter().filter(|sent| sent.body == "a").map(|sent| &sent.call_id).collect();
        calls.sort();
        calls.dedup();
        assert_eq!(calls.len(), 50, "everybody is told");
    }
}
