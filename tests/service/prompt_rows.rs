//! New and ended subscriptions are written within a second (B49), changed ones
//! with the timer (`subs_db_mode=2`).

use crate::fakes::{Setup, Subscribe, World};
use presence::config::{PublicationCache, SubscriptionMode};
use presence::service::write_back;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

fn setup() -> Setup {
    Setup { cache: PublicationCache::Record, shards: 4, authorizes: false, ..Setup::stored() }
}

fn prompt(world: &mut World, milliseconds: i64) -> bool {
    write_back::prompt(&world.server, &mut world.host, milliseconds)
}

fn flush(world: &mut World) -> usize {
    write_back::flush(&world.server, &mut world.host, false)
}

fn column(world: &World, column: &str) -> Vec<String> {
    let mut values = world.host.database.as_ref().unwrap().column("active_watchers", column);
    values.sort();
    values
}

fn refresh(world: &mut World, call_id: &str, contact_host: &str, cseq: u32) {
    let it = Subscribe { contact_host, cseq: Some(cseq), ..Subscribe::refresh(call_id) };
    assert_eq!(world.subscribe(it).code, 200);
}

fn watch_many(world: &mut World, count: usize) {
    for n in 0..count {
        let (call_id, user) = (format!("w{n}"), format!("u{n}"));
        let it = Subscribe { user: &user, event: Some("presence"), ..Subscribe::new(&call_id) };
        assert_eq!(world.subscribe(it).code, 200);
    }
}

#[test]
fn new_and_ended_ones_do_not_wait_for_the_timer() {
    let mut world = World::new(setup());
    world.watch("a", "presence");
    world.watch("b", "presence");
    assert!(!prompt(&mut world, 1000));
    assert_eq!(column(&world, "callid"), ["a", "b"]);
    assert_eq!(column(&world, "local_cseq"), ["10002", "10002"], "reserved (A7)");
    world.subscribe(Subscribe { cseq: Some(90), ..Subscribe::end("a") });
    refresh(&mut world, "b", "new", 91);
    world.watch("c", "presence");
    prompt(&mut world, 1400);
    assert_eq!(column(&world, "callid"), ["a", "b"], "half a second makes a batch");
    prompt(&mut world, 1500);
    assert_eq!(column(&world, "callid"), ["b", "c"]);
    assert!(column(&world, "contact").iter().all(|contact| !contact.contains("new")));
    assert_eq!(flush(&mut world), 0);
    assert!(column(&world, "contact").iter().any(|contact| contact.contains("new")));
    // One that has run out is deleted once its watcher has been notified.
    world.pass(3601);
    world.expire();
    prompt(&mut world, 4_000_000);
    assert_eq!(column(&world, "callid"), [""; 0]);
    world.assert_empty();
}

#[test]
fn a_clock_that_was_set_back_stops_nothing() {
    let mut world = World::new(setup());
    world.watch("a", "presence");
    prompt(&mut world, 9_000_000);
    world.watch("b", "presence");
    prompt(&mut world, 1000);
    assert_eq!(column(&world, "callid"), ["a", "b"]);
}

#[test]
fn a_period_of_0_means_never() {
    let config = |config: &mut presence::config::Config| config.db_update_period = None;
    let mut world = World::new(Setup { config, ..setup() });
    world.watch("a", "presence");
    prompt(&mut world, 1000);
    assert_eq!(world.host.database.as_ref().unwrap().statements(), 0);
    write_back::flush(&world.server, &mut world.host, true);
    assert_eq!(column(&world, "callid"), ["a"], "but for the clean stop");
    // Written through, only ends are left to the senders.
    let mode = SubscriptionMode::WriteThrough;
    let mut world = World::new(Setup { config, mode, ..setup() });
    world.watch("a", "presence");
    world
        .server
        .store
        .find_dialog(presence::presence::subscription::DialogId {
            call_id: b"a",
            from_tag: Subscribe::new("a").from_tag.as_bytes(),
            to_tag: b"tt-a",
        })
        .map(|token| world.server.store.remove_subscription(token.unwrap()))
        .unwrap();
    prompt(&mut world, 1000);
    assert_eq!(column(&world, "callid"), [""; 0]);
}

#[test]
fn batches_do_not_end_with_a_shard() {
    let mut world = World::new(Setup { shards: 64, ..setup() });
    watch_many(&mut world, 150);
    let transactions = Arc::new(AtomicUsize::new(0));
    let seen = transactions.clone();
    world.host.database.as_ref().unwrap().fail_if(move |statement| {
        seen.fetch_add(usize::from(statement.verb == "begin"), SeqCst);
        false
    });
    assert!(!prompt(&mut world, 1000));
    assert_eq!((column(&world, "callid").len(), transactions.load(SeqCst)), (150, 1));
    for n in 0..150 {
        refresh(&mut world, &format!("w{n}"), "new", 900 + n);
    }
    assert_eq!((flush(&mut world), transactions.load(SeqCst)), (0, 2));
}

#[test]
fn a_sender_writes_a_portion_and_goes_on_where_it_was() {
    let mut world = World::new(setup());
    watch_many(&mut world, 2500);
    assert!(prompt(&mut world, 1000), "there is more");
    assert_eq!(column(&world, "callid").len(), 2000);
    assert!(!prompt(&mut world, 1000));
    assert_eq!(column(&world, "callid").len(), 2500);
}

#[test]
fn while_the_database_is_away_nothing_is_lost_and_it_is_not_hammered() {
    let mut world = World::new(setup());
    world.watch("old", "presence");
    prompt(&mut world, 1000);
    let database = world.host.database.clone().unwrap();
    database.fail_if(|_| true);
    watch_many(&mut world, 500);
    assert!(!prompt(&mut world, 2000));
    let tried = database.statements();
    for milliseconds in (2500..7000).step_by(500) {
        assert!(!prompt(&mut world, milliseconds));
    }
    assert_eq!(database.statements(), tried, "a pause");
    // Meanwhile some end, and some are refreshed.
    world.subscribe(Subscribe { cseq: Some(8000), ..Subscribe::end("old") });
    for n in 0..100u32 {
        let call_id = format!("w{n}");
        world.subscribe(Subscribe { cseq: Some(9000 + n), ..Subscribe::end(&call_id) });
        refresh(&mut world, &format!("w{}", 100 + n), "new", 9500 + n);
    }
    database.work_again();
    assert!(!prompt(&mut world, 7000));
    let calls = column(&world, "callid");
    assert_eq!(calls.len(), 400);
    assert!(!calls.contains(&"old".to_owned()) && !calls.contains(&"w5".to_owned()));
    let moved = |world: &World| {
        column(world, "contact").iter().filter(|contact| contact.contains("new")).count()
    };
    assert_eq!(moved(&world), 100, "what is written later is what it is then");
}

// The row may be there all the same, and must not come back.
#[test]
fn the_answer_to_an_insert_is_lost_and_then_it_ends() {
    let mut world = World::new(setup());
    let database = world.host.database.clone().unwrap();
    world.watch("w", "presence");
    database.one_by_one();
    let mut inserts = 0;
    // Each attempt is executed, and none is answered.
    database.fail_if(move |statement| {
        inserts += usize::from(statement.verb == "insert");
        inserts > 1
    });
    database.lose_answer("insert");
    prompt(&mut world, 1000);
    database.work_again();
    world.subscribe(Subscribe { cseq: Some(8000), ..Subscribe::end("w") });
    prompt(&mut world, 6000);
    assert_eq!(column(&world, "callid"), [""; 0]);
    world.assert_empty();
}

#[test]
fn one_process_writes_at_a_time() {
    let mut world = World::new(setup());
    world.watch("a", "presence");
    let server = world.server.clone();
    let writing = server.store.begin_writing().unwrap();
    assert!(!prompt(&mut world, 1000));
    assert_eq!(column(&world, "callid"), [""; 0]);
    let mut timer = world.fork();
    std::thread::scope(|scope| {
        let flushed = scope.spawn(move || flush(&mut timer));
        std::thread::sleep(Duration::from_millis(30));
        assert!(!flushed.is_finished(), "the timer waits");
        drop(writing);
        assert_eq!(flushed.join().unwrap(), 0);
    });
    assert_eq!(column(&world, "callid"), ["a"]);
}

// A refresh that comes while the INSERT is under way is not lost, and is not
// written before it.
#[test]
fn a_refresh_while_the_insert_is_in_hand() {
    for fails in [false, true] {
        let mut world = World::new(setup());
        world.watch("w", "presence");
        let database = world.host.database.clone().unwrap();
        let (begun, go) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (entered, wait) = (begun.clone(), go.clone());
        database.fail_if(move |statement| {
            if statement.verb == "begin" && entered.fetch_add(1, SeqCst) == 0 {
                while wait.load(SeqCst) == 0 {
                    std::thread::yield_now();
                }
            }
            fails
        });
        let mut sender = world.fork();
        std::thread::scope(|scope| {
            scope.spawn(move || prompt(&mut sender, 1000));
            while begun.load(SeqCst) == 0 {
                std::thread::yield_now();
            }
            refresh(&mut world, "w", "new", 900);
            go.store(1, SeqCst);
        });
        assert_eq!(column(&world, "callid").len(), usize::from(!fails));
        database.work_again();
        prompt(&mut world, 6000);
        assert_eq!(column(&world, "callid"), ["w"]);
        assert_eq!(flush(&mut world), 0);
        assert_eq!(column(&world, "remote_cseq"), ["900"]);
    }
}
