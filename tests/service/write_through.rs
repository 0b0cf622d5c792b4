//! Subscriptions that are written before their requests are answered
//! (`subs_db_mode=1`).

use crate::fakes::{PRESENCE, Setup, Subscribe, World};
use presence::config::{PublicationCache, SubscriptionMode};
use presence::service::write_back;

fn world() -> World {
    World::new(Setup {
        mode: SubscriptionMode::WriteThrough,
        cache: PublicationCache::Record,
        shards: 1,
        authorizes: false,
        ..Setup::stored()
    })
}

fn calls(world: &World) -> Vec<String> {
    world.host.database.as_ref().unwrap().column("active_watchers", "callid")
}

fn column(world: &World, column: &str) -> Vec<String> {
    world.host.database.as_ref().unwrap().column("active_watchers", column)
}

#[test]
fn the_row_is_there_with_the_answer() {
    let mut world = world();
    world.watch("w", "presence");
    assert_eq!(
        (calls(&world), column(&world, "remote_cseq")),
        (vec!["w".into()], vec!["1".into()])
    );
    world.subscribe(Subscribe { contact_host: "new", ..Subscribe::refresh("w") });
    assert_eq!(column(&world, "contact"), ["sip:w@new"]);
    world.subscribe(Subscribe::end("w"));
    assert_eq!(calls(&world), [""; 0]);
    world.send();
    write_back::flush(&world.server, &mut world.host, false);
    world.assert_empty();
}

#[test]
fn the_timer_does_not_write_what_a_request_is_writing() {
    let mut world = world();
    let mut timer = world.fork();
    world.subscribe(Subscribe {
        before_reply: Some(Box::new(move || {
            write_back::flush(&timer.server, &mut timer.host, false);
        })),
        ..Subscribe::new("w")
    });
    assert_eq!(calls(&world), ["w"]);
}

#[test]
fn a_refresh_that_cannot_be_written_does_not_stop_its_lane() {
    let mut world = world();
    world.watch("w", "presence");
    let tag = world.create("presence", "a");
    let database = world.host.database.clone().unwrap();
    database.fail_if(|_| true);
    assert_eq!(world.subscribe(Subscribe::refresh("w")).code, 500);
    assert_eq!(world.subscribe(Subscribe::new("x")).code, 500);
    database.work_again();
    world.send();
    world.seen();
    world.modify("presence", &tag, "b");
    assert_eq!(world.seen(), ["w 5 active b"]);
    write_back::flush(&world.server, &mut world.host, false);
    assert_eq!(column(&world, "remote_cseq"), ["3"]);
    assert_eq!(world.watchers("alice", PRESENCE), 1);
}

#[test]
fn an_old_request_that_comes_again_ends_nothing() {
    let mut world = world();
    let first = Subscribe { cseq: Some(1), ..Subscribe::new("w") };
    world.subscribe(first);
    world.pass(100);
    let database = world.host.database.clone().unwrap();
    database.fail_if(|_| true);
    world.subscribe(Subscribe { cseq: Some(1), ..Subscribe::new("w") });
    database.work_again();
    assert_eq!(world.subscribe(Subscribe { cseq: Some(2), ..Subscribe::refresh("w") }).code, 200);
}
