//! PUBLISH with publications in the database (`publ_cache=1`).

use crate::fakes::{DIALOG, PRESENCE, Publish, Setup, Subscribe, World, dialog};
use presence::presence::uri::UserCase;
use presence::service::{expiry, restore};
use std::sync::Arc;

fn world() -> World {
    World::new(Setup::stored())
}

fn rows(world: &World, column: &str) -> Vec<String> {
    world.host.database.as_ref().unwrap().column("presentity", column)
}

/// A server that has just started on the database of another.
fn restart(world: &World) -> World {
    let mut new = World::new(Setup { database: world.host.database.clone(), ..Setup::stored() });
    new.pass(world.now() - new.now());
    let server = Arc::get_mut(&mut new.server).unwrap();
    restore::publications(server, &mut new.host).unwrap();
    restore::subscriptions(server, &mut new.host).unwrap();
    new
}

#[test]
fn the_row_follows_the_publication() {
    let mut world = world();
    world.watch("w", "presence");
    let tag = world.create("presence", "a");
    assert_eq!((rows(&world, "etag"), rows(&world, "body")), (vec![tag.clone()], vec!["a".into()]));
    let tag = world.modify("presence", &tag, "b");
    let tag = world.publish(Publish { tag: Some(&tag), ..Publish::default() }).tag;
    assert_eq!((rows(&world, "etag"), rows(&world, "body")), (vec![tag.clone()], vec!["b".into()]));
    world.remove("presence", &tag);
    assert_eq!(rows(&world, "etag"), [""; 0]);
    let expected = ["w 2 active offline", "w 3 active a", "w 4 active b", "w 5 active closed(b)"];
    assert_eq!(world.seen(), expected);
}

#[test]
fn a_row_that_cannot_be_written_changes_nothing() {
    let mut world = world();
    world.watch("w", "presence");
    let tag = world.create("presence", "a");
    world.seen();
    let database = world.host.database.clone().unwrap();
    let usage = world.usage();
    for verb in ["insert", "update", "delete"] {
        database.fail_if(move |statement| statement.verb == verb);
        let (tag, body, expires) = match verb {
            "insert" => (None, "b", None),
            "update" => (Some(&*tag), "b", None),
            _ => (Some(&*tag), "", Some("0")),
        };
        let answer = world.publish(Publish { tag, body, expires, ..Publish::default() });
        assert_eq!(answer.code, 400, "the database answers others");
        assert_eq!((rows(&world, "body"), world.usage()), (vec!["a".to_owned()], usage.clone()));
    }
    database.work_again();
    assert_eq!(world.seen(), [""; 0]);
    world.modify("presence", &tag, "b");
    assert_eq!(world.seen(), ["w 4 active b"]);
}

#[test]
fn a_row_deleted_behind_our_back_is_412() {
    let mut world = world();
    let tag = world.create("presence", "a");
    use presence::ports::Database;
    world.host.database.as_mut().unwrap().delete("presentity", &[]).unwrap();
    let answer = world.publish(Publish { tag: Some(&tag), body: "b", ..Publish::default() });
    assert_eq!(answer.code, 412);
}

#[test]
fn an_expired_row_goes_and_is_shown_closed() {
    let mut world = world();
    world.watch("w", "presence");
    world.create("presence", "a");
    world.seen();
    world.pass(3600);
    world.subscribe(Subscribe::refresh("w"));
    world.expire();
    assert_eq!(rows(&world, "etag"), [""; 0]);
    assert_eq!(world.seen(), ["w 4 active a", "w 5 active closed(a)"]);
}

#[test]
fn a_row_that_cannot_be_deleted_is_tried_again_without_end_of_the_timer() {
    let mut world = world();
    for _ in 0..20 {
        world.create("presence", "a");
    }
    let database = world.host.database.clone().unwrap();
    let outside = world.host.outside.clone();
    // The database is away, and each attempt takes a second.
    database.fail_if(move |statement| {
        outside.now.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        statement.verb == "delete"
    });
    world.pass(3600);
    expiry::publications(&world.server, &mut world.host);
    assert_eq!(rows(&world, "etag").len(), 20);
    database.work_again();
    world.pass(10);
    world.expire();
    assert_eq!(rows(&world, "etag"), [""; 0]);
}

#[test]
fn one_bad_row_does_not_keep_the_others() {
    let mut world = world();
    let tags: Vec<_> = (0..10).map(|_| world.create("presence", "a")).collect();
    let bad = tags[4].clone().into_bytes();
    let database = world.host.database.clone().unwrap();
    database.fail_if(move |s| s.verb == "delete" && s.texts.iter().any(|text| *text == bad));
    world.pass(3600);
    world.expire();
    assert_eq!(rows(&world, "etag"), tags[4..5]);
}

#[test]
fn a_final_state_is_not_lost_while_the_lane_is_busy() {
    let mut world = world();
    world.watch("w", "dialog");
    let tag = world.create("dialog", &dialog("x", "early"));
    world.seen();
    let mut other = world.fork();
    world.host.during_notify.push_back(Box::new(move || {
        let tag = other.modify("dialog", &tag, &dialog("x", "terminated"));
        other.modify("dialog", &tag, &dialog("y", "trying"));
    }));
    world.create("dialog", &dialog("z", "early"));
    let expected = [
        "w 4 active x:early+z:early",
        "w 5 active x:terminated+z:early+y:trying",
        "w 6 active z:early+y:trying",
    ];
    assert_eq!(world.seen(), expected);
    assert_eq!(world.complaints(), [""; 0]);
}

#[test]
fn users_may_be_spelled_in_any_case() {
    let mut world = World::new(Setup { user_case: UserCase::Insensitive, ..Setup::stored() });
    let tag = world.create("presence", "a");
    world.publish(Publish { user: "Alice", body: "b", ..Publish::default() });
    world.subscribe(Subscribe { user: "ALICE", expires: Some("0"), ..Subscribe::new("fetch") });
    assert_eq!(world.seen(), ["fetch 1 terminated;reason=timeout a+b"]);
    let removal =
        Publish { user: "aLICE", tag: Some(&tag), expires: Some("0"), ..Publish::default() };
    assert_eq!(world.publish(removal).code, 200);
    assert_eq!(rows(&world, "body"), ["b"]);
}

#[test]
fn publications_survive_a_restart() {
    let mut world = world();
    let a = world.create("presence", "a");
    world.pass(1);
    world.create("presence", "b");
    world.publish(Publish { expires: Some("5"), body: "c", ..Publish::default() });
    world.create("dialog", &dialog("x", "early"));
    world.pass(6);
    let mut world = restart(&world);
    let fetch = |event| Subscribe { event: Some(event), expires: Some("0"), ..Subscribe::new("f") };
    world.subscribe(fetch("presence"));
    assert_eq!(world.seen(), ["f 1 terminated;reason=timeout a+b"]);
    world.expire();
    world.remove("presence", &a);
    world.create("dialog", &dialog("x", "confirmed"));
    let mut bodies = rows(&world, "body");
    bodies.sort();
    assert_eq!(bodies, [&*dialog("x", "confirmed"), "b"]);
    assert_eq!(world.documents("alice", DIALOG).len(), 1);
    assert_eq!(world.documents("alice", PRESENCE).len(), 1);
}

#[test]
fn no_cseq_is_used_twice_however_often_the_server_crashes() {
    let mut world = world();
    world.watch("w", "presence");
    let mut last = 0;
    presence::service::write_back::flush(&world.server, &mut world.host, false);
    for n in 0..4 {
        for m in 0..3 {
            world.create("presence", &format!("{n}.{m}"));
        }
        let cseqs: Vec<_> = world.notifies().iter().map(|sent| sent.cseq).collect();
        assert!(cseqs.is_sorted() && cseqs[0] > last, "{cseqs:?} after {last}");
        last = cseqs[cseqs.len() - 1];
        // Crashes at once, or after a flush of changes.
        if n % 2 == 1 {
            presence::service::write_back::flush(&world.server, &mut world.host, false);
        }
        world = restart(&world);
    }
}
