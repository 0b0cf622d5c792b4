//! Rows that ended while the server was down, or that others wrote: each is
//! ended once (B45).

use crate::fakes::{FakeDatabase, PRESENCE, Setup, Subscribe, World};
use presence::config::{Config, PublicationCache, SubscriptionMode};
use presence::ports::{Compare, Condition, Database, Value};
use presence::service::{expiry, orphaned_rows, restore, subscriptions, write_back};
use std::sync::Arc;

fn setup(mode: SubscriptionMode) -> Setup {
    let cache = PublicationCache::Record;
    Setup { mode, cache, authorizes: false, ..Setup::stored() }
}

const MODES: [SubscriptionMode; 3] =
    [SubscriptionMode::WriteThrough, SubscriptionMode::WriteBack, SubscriptionMode::DbOnly];

fn calls(world: &World) -> Vec<String> {
    let mut calls = world.host.database.as_ref().unwrap().column("active_watchers", "callid");
    calls.sort();
    calls
}

fn of(call_id: &str) -> Vec<Condition> {
    vec![("callid", Compare::Eq, Value::text(call_id.as_bytes()))]
}

/// The row of a subscription says that it has ended so many seconds ago.
fn ended(database: &mut FakeDatabase, now: i64, call_id: &str, seconds: i64) {
    let set = [("expires", Value::Int(now - seconds))];
    database.update("active_watchers", &of(call_id), &set).unwrap();
}

/// The server starts with what a database has.
fn start(database: &FakeDatabase, setup: Setup) -> World {
    let mut world = World::new(Setup { database: Some(database.clone()), ..setup });
    if subscriptions::keeping(&world.server.config).rows_follow() {
        let server = Arc::get_mut(&mut world.server).unwrap();
        restore::subscriptions(server, &mut world.host).unwrap();
    }
    orphaned_rows::at_start(&world.server, &mut world.host);
    world
}

/// A database with the subscriptions that `make` leaves there.
fn stored(setup: Setup, make: impl FnOnce(&mut World)) -> (FakeDatabase, i64) {
    let mut world = World::new(setup);
    make(&mut world);
    write_back::flush(&world.server, &mut world.host, false);
    (world.host.database.clone().unwrap(), world.now())
}

fn bodies(world: &World) -> String {
    let sent = world.notifies();
    sent.iter().map(|sent| sent.body.as_str()).collect()
}

#[test]
fn who_ended_while_the_server_was_down_is_told_once() {
    for mode in MODES {
        let (mut database, now) = stored(setup(mode), |world| {
            for call_id in ["recent", "old", "living"] {
                world.watch(call_id, "presence");
            }
        });
        ended(&mut database, now, "recent", 60);
        ended(&mut database, now, "old", 4000);
        let mut world = start(&database, setup(mode));
        world.send();
        let sent = world.notifies();
        assert_eq!(sent.len(), 1, "{mode:?}: the old one has noticed by itself");
        assert!(sent[0].brief().starts_with("recent"), "{mode:?} {}", sent[0].brief());
        assert!(sent[0].brief().contains("terminated;reason=timeout"), "{}", sent[0].brief());
        if mode != SubscriptionMode::DbOnly {
            assert!(sent[0].cseq > 10_000, "{mode:?} CSeq {}", sent[0].cseq);
        }
        assert_eq!(calls(&world), ["living"], "{mode:?}");
        for _ in 0..2 {
            expiry::update(&world.server, &mut world.host);
            world.send();
        }
        assert_eq!(world.seen(), [""; 0], "{mode:?}");
        assert_eq!(world.watchers("alice", PRESENCE), 1);
    }
}

#[test]
fn who_watches_the_watchers_is_told_once() {
    for mode in MODES {
        let (mut database, now) = stored(setup(mode), |world| {
            world.watch("recent", "presence");
            world.watch("old", "presence");
            world.watch("guard", "presence.winfo");
        });
        ended(&mut database, now, "recent", 60);
        ended(&mut database, now, "old", 4000);
        let mut world = start(&database, setup(mode));
        world.send();
        let notified = bodies(&world);
        assert_eq!(notified.matches("event=\"timeout\"").count(), 2, "{mode:?} {notified}");
        assert_eq!(calls(&world), ["guard"], "{mode:?}");
        expiry::update(&world.server, &mut world.host);
        world.send();
        assert_eq!(world.seen(), [""; 0], "{mode:?}");
    }
}

// Rows that others write while the server runs go with the next cleaning.
#[test]
fn a_row_that_somebody_wrote_is_ended_when_its_time_is_over() {
    for mode in MODES {
        let mut world = World::new(setup(mode));
        let mut other = world.beside(setup(mode));
        other.subscribe(Subscribe { expires: Some("5"), ..Subscribe::new("theirs") });
        write_back::flush(&other.server, &mut other.host, false);
        world.events();
        expiry::update(&world.server, &mut world.host);
        assert_eq!(calls(&world), ["theirs"], "{mode:?}: it lives");
        world.pass(9);
        expiry::update(&world.server, &mut world.host);
        world.send();
        assert_eq!(world.seen().len(), 1, "{mode:?}");
        assert_eq!(calls(&world), [""; 0], "{mode:?}");
    }
}

#[test]
fn a_record_whose_row_lags_behind_is_not_touched() {
    let mut world = World::new(setup(SubscriptionMode::WriteBack));
    world.subscribe(Subscribe { expires: Some("5"), ..Subscribe::new("w") });
    write_back::flush(&world.server, &mut world.host, false);
    world.subscribe(Subscribe { cseq: Some(900), ..Subscribe::refresh("w") });
    world.pass(10);
    world.events();
    orphaned_rows::subscriptions(&world.server, &mut world.host).unwrap();
    world.send();
    assert_eq!((world.seen(), calls(&world)), (vec![], vec!["w".to_owned()]));
    assert_eq!(world.watchers("alice", PRESENCE), 1);
}

// Its record is gone, and its row not yet.
#[test]
fn an_end_that_was_told_is_not_told_again() {
    let mut world = World::new(setup(SubscriptionMode::WriteBack));
    world.watch("guard", "presence.winfo");
    world.subscribe(Subscribe {
        expires: Some("5"),
        event: Some("presence"),
        ..Subscribe::new("w")
    });
    write_back::flush(&world.server, &mut world.host, false);
    world.pass(7);
    world.events();
    world.expire();
    let notified = bodies(&world);
    assert_eq!(notified.matches("event=\"timeout\"").count(), 1, "{notified}");
    assert_eq!(calls(&world), ["guard", "w"]);
    world.pass(3);
    orphaned_rows::subscriptions(&world.server, &mut world.host).unwrap();
    world.send();
    assert_eq!((world.seen(), calls(&world)), (vec![], vec!["guard".to_owned()]));
}

// While the row was read, another server refreshed it.
#[test]
fn a_refresh_wins() {
    for (mode, seconds) in MODES.into_iter().flat_map(|mode| [(mode, 60), (mode, 4000)]) {
        let (mut database, now) = stored(setup(mode), |world| world.watch("w", "presence"));
        ended(&mut database, now, "w", seconds);
        // What was read is not so any more when it is to be deleted.
        let mut world = start_without_looking(&database, setup(mode));
        let (mut beside, mut queries) = (database.clone(), 0);
        world.host.database.as_mut().unwrap().before_statement(move |verb| {
            queries += usize::from(verb == "query");
            if queries > 0 && (verb == "delete" || verb == "update" || verb == "begin") {
                queries = 0;
                let set = [("expires", Value::Int(now + 3600)), ("remote_cseq", Value::Int(99))];
                beside.update("active_watchers", &of("w"), &set).unwrap();
            }
        });
        orphaned_rows::at_start(&world.server, &mut world.host);
        world.send();
        assert_eq!((world.seen(), calls(&world)), (vec![], vec!["w".to_owned()]), "{mode:?}");
    }
}

fn start_without_looking(database: &FakeDatabase, setup: Setup) -> World {
    World::new(Setup { database: Some(database.clone()), ..setup })
}

#[test]
fn a_refresh_before_the_last_notify_is_in_time() {
    let mode = SubscriptionMode::WriteBack;
    let (mut database, now) = stored(setup(mode), |world| world.watch("w", "presence"));
    ended(&mut database, now, "w", 5);
    let mut world = start(&database, setup(mode));
    assert_eq!(world.subscribe(Subscribe { cseq: Some(900), ..Subscribe::refresh("w") }).code, 200);
    write_back::prompt(&world.server, &mut world.host, 1000);
    world.send();
    let seen = world.seen();
    assert!(seen.iter().all(|seen| !seen.contains("terminated")), "{seen:?}");
    assert_eq!(calls(&world), ["w"], "it has a row again");
}

#[test]
fn rows_that_nobody_can_use_are_counted_and_kept() {
    for mode in MODES {
        let (mut database, now) = stored(setup(mode), |world| {
            for call_id in ["unreadable", "unknown", "living unknown"] {
                world.watch(call_id, "presence");
            }
        });
        ended(&mut database, now, "unreadable", 100_000);
        ended(&mut database, now, "unknown", 100_000);
        let set = [("local_cseq", Value::Null)];
        database.update("active_watchers", &of("unreadable"), &set).unwrap();
        for call_id in ["unknown", "living unknown"] {
            let set = [("event", Value::text(b"reg"))];
            database.update("active_watchers", &of(call_id), &set).unwrap();
        }
        let mut world = start(&database, setup(mode));
        let lines = world.complaints();
        let unusable: Vec<_> = lines.iter().filter(|line| line.contains("are kept")).collect();
        assert_eq!(unusable.len(), 1, "{mode:?} {lines:?}");
        assert!(unusable[0].starts_with("2 expired rows"), "{unusable:?}");
        expiry::update(&world.server, &mut world.host);
        assert!(!world.complaints().iter().any(|line| line.contains("are kept")), "one line");
        let unusable = orphaned_rows::unusable_rows(&world.server, &mut world.host).unwrap();
        assert_eq!((unusable.unreadable, unusable.unknown), (1, 2), "{mode:?}");
        world.pass(100_000);
        expiry::update(&world.server, &mut world.host);
        world.send();
        assert_eq!((calls(&world).len(), world.seen()), (3, vec![]), "{mode:?}");
    }
}

#[test]
fn expires_offset_delays_the_end() {
    let config = |config: &mut Config| config.expires_offset = 20;
    for mode in MODES {
        let setup = Setup { config, ..setup(mode) };
        let (mut database, now) = stored(setup.clone(), |world| world.watch("w", "presence"));
        ended(&mut database, now, "w", 10);
        let mut world = start(&database, setup);
        world.send();
        assert_eq!((world.seen(), calls(&world).len()), (vec![], 1), "{mode:?}");
        let again = Subscribe { cseq: Some(900), expires: Some("1"), ..Subscribe::refresh("w") };
        assert_eq!(world.subscribe(again).code, 200, "{mode:?}");
        world.events();
        world.pass(23);
        expiry::update(&world.server, &mut world.host);
        world.send();
        write_back::flush(&world.server, &mut world.host, false);
        assert_eq!((world.seen().len(), calls(&world).len()), (1, 0), "{mode:?}");
    }
}

#[test]
fn very_many_take_neither_memory_nor_notifies() {
    for mode in MODES {
        let (mut database, now) = stored(setup(mode), |world| {
            for n in 0..300 {
                world.watch(&format!("w{n}"), "presence");
            }
        });
        let set = [("expires", Value::Int(now - 4000))];
        database.update("active_watchers", &[], &set).unwrap();
        let mut world = start(&database, setup(mode));
        world.assert_empty();
        world.send();
        assert_eq!((world.seen(), calls(&world)), (vec![], vec![]), "{mode:?}");
        if mode != SubscriptionMode::WriteBack {
            continue;
        }
        // Of those that ended just now as many are notified as memory has room for.
        let (mut database, now) = stored(setup(mode), |world| {
            for n in 0..1020 {
                world.watch(&format!("w{n}"), "presence");
            }
        });
        let set = [("expires", Value::Int(now - 10))];
        database.update("active_watchers", &[], &set).unwrap();
        let mut world = start(&database, setup(mode));
        world.send();
        assert_eq!((world.seen().len(), calls(&world).len()), (1000, 0), "{mode:?}");
        world.assert_empty();
    }
}

#[test]
fn while_the_database_is_away_nothing_is_ended_and_later_all_is() {
    let mode = SubscriptionMode::WriteBack;
    let (mut database, now) = stored(setup(mode), |world| world.watch("w", "presence"));
    ended(&mut database, now, "w", 10);
    database.fail_if(|statement| statement.verb == "delete");
    let mut world = start(&database, setup(mode));
    world.send();
    assert_eq!((world.seen(), calls(&world).len()), (vec![], 1));
    database.work_again();
    expiry::update(&world.server, &mut world.host);
    world.send();
    assert_eq!((world.seen().len(), calls(&world).len()), (1, 0));
}

/// Rows of publications that others have written.
mod publications {
    use super::*;

    fn setup() -> Setup {
        Setup { mode: SubscriptionMode::Memory, authorizes: false, ..Setup::stored() }
    }

    fn row(database: &mut FakeDatabase, tag: &str, expires: i64) {
        let text = |text: &str| Value::text(text.as_bytes());
        let row = [
            ("username", text("alice")),
            ("domain", text("h")),
            ("event", text("presence")),
            ("etag", text(tag)),
            ("expires", Value::Int(expires)),
            ("received_time", Value::Int(1)),
            ("body", Value::Blob(b"theirs".to_vec())),
            ("sender", text("")),
            ("priority", Value::Int(0)),
            ("ruid", text(tag)),
        ];
        database.insert("presentity", &row).unwrap();
    }

    fn tags(world: &World) -> Vec<String> {
        world.host.database.as_ref().unwrap().column("presentity", "etag")
    }

    #[test]
    fn they_go_with_the_next_cleaning_and_are_shown_closed_once() {
        for watched in [false, true] {
            let mut world = World::new(setup());
            let mut database = world.host.database.clone().unwrap();
            if watched {
                world.watch("w", "presence");
            }
            let now = world.now();
            row(&mut database, "theirs", now + 2);
            row(&mut database, "hard", -1);
            row(&mut database, "later", now + 100);
            world.events();
            world.expire();
            assert_eq!(tags(&world).len(), 3);
            world.pass(3);
            world.expire();
            assert_eq!(tags(&world), ["hard", "later"], "watched: {watched}");
            assert_eq!(world.seen().len(), usize::from(watched));
            world.expire();
            assert_eq!(world.seen(), [""; 0]);
        }
    }

    // A row that a request is just about to refresh.
    #[test]
    fn one_with_a_record_is_not_touched() {
        let mut world = World::new(setup());
        let tag = world.create("presence", "ours");
        let mut database = world.host.database.clone().unwrap();
        let set = [("expires", Value::Int(world.now() - 1000))];
        database.update("presentity", &[], &set).unwrap();
        let server = world.server.clone();
        server.publications().end_orphaned(&server, &mut world.host).unwrap();
        assert_eq!(tags(&world), [tag]);
    }

    #[test]
    fn what_ended_long_ago_is_not_loaded_at_start() {
        let old = World::new(setup());
        let mut database = old.host.database.clone().unwrap();
        let now = old.now();
        for (tag, expires) in
            [("old", now - 4000), ("late", now - 10), ("hard", -1), ("on", now + 9)]
        {
            row(&mut database, tag, expires);
        }
        for (startup_mode, taken) in [(true, 3), (false, 4)] {
            let mut world = World::new(Setup { database: Some(database.clone()), ..setup() });
            let server = Arc::get_mut(&mut world.server).unwrap();
            server.config.startup_mode = startup_mode;
            let restored = restore::publications(server, &mut world.host).unwrap();
            assert_eq!((restored.taken, restored.skipped), (taken, 0));
        }
        let mut world = World::new(Setup { database: Some(database.clone()), ..setup() });
        let server = Arc::get_mut(&mut world.server).unwrap();
        restore::publications(server, &mut world.host).unwrap();
        orphaned_rows::at_start(&world.server, &mut world.host);
        assert_eq!(tags(&world), ["late", "hard", "on"]);
        world.expire();
        assert_eq!(tags(&world), ["hard", "on"]);
    }
}
