//! Subscriptions written back to the database (`subs_db_mode=2`).

use crate::fakes::{MWI, PRESENCE, Setup, Subscribe, World};
use presence::config::PublicationCache;
use presence::ports::{Assignment, Value};
use presence::presence::cseq::CSeq;
use presence::presence::subscription::{Snapshot, Status, Text};
use presence::service::{restore, write_back};
use presence::store::rows;
use presence::store::widths::{Column, Widths};
use proptest::prelude::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

fn setup() -> Setup {
    Setup { cache: PublicationCache::Record, shards: 1, authorizes: false, ..Setup::stored() }
}

fn flush(world: &mut World) -> usize {
    write_back::flush(&world.server, &mut world.host, false)
}

/// Call-IDs in the table.
fn stored(world: &World) -> Vec<String> {
    let mut calls = world.host.database.as_ref().unwrap().column("active_watchers", "callid");
    calls.sort();
    calls
}

fn column(world: &World, column: &str) -> Vec<String> {
    world.host.database.as_ref().unwrap().column("active_watchers", column)
}

#[test]
fn rows_follow_subscriptions() {
    let mut world = World::new(setup());
    world.watch("a", "presence");
    world.watch("b", "presence");
    assert_eq!(stored(&world), [""; 0]);
    assert_eq!(flush(&mut world), 0);
    assert_eq!(stored(&world), ["a", "b"]);
    assert_eq!(column(&world, "event"), ["presence", "presence"]);
    assert_eq!(column(&world, "presentity_uri"), ["sip:alice@h", "sip:alice@h"]);
    // CSeqs are reserved ahead of use (A7).
    assert_eq!(column(&world, "local_cseq"), ["10002", "10002"]);
    world.pass(10);
    world.subscribe(Subscribe { contact_host: "new", cseq: Some(99), ..Subscribe::refresh("b") });
    world.subscribe(Subscribe::end("a"));
    // Neither stored nor deleted: it was over before.
    world.watch("c", "presence");
    world.subscribe(Subscribe::end("c"));
    flush(&mut world);
    assert_eq!(stored(&world), ["b"]);
    assert_eq!(
        (column(&world, "contact"), column(&world, "remote_cseq")),
        (vec!["sip:b@new".into()], vec!["99".into()])
    );
    assert_eq!(column(&world, "expires"), [(world.now() + 3600).to_string()]);
    let before = world.host.database.as_ref().unwrap().statements();
    flush(&mut world);
    assert_eq!(world.host.database.as_ref().unwrap().statements(), before, "nothing to do");
    world.subscribe(Subscribe { cseq: Some(100), ..Subscribe::end("b") });
    flush(&mut world);
    assert_eq!(stored(&world), [""; 0]);
    world.assert_empty();
}

#[test]
fn cseqs_are_reserved_again_before_they_run_out() {
    let mut world = World::new(setup());
    world.watch("w", "presence");
    flush(&mut world);
    let mut tag = world.create("presence", "0");
    for n in 1..6000 {
        tag = world.modify("presence", &tag, &n.to_string());
    }
    flush(&mut world);
    let reserved: u32 = column(&world, "local_cseq")[0].parse().unwrap();
    let used = world.notifies().last().unwrap().cseq;
    assert!(reserved >= used + 9_000, "{reserved} {used}");
}

#[test]
fn a_clean_shutdown_writes_what_lags_and_reserves_nothing() {
    let mut world = World::new(setup());
    world.watch("v", "presence");
    flush(&mut world);
    world.watch("w", "presence");
    world.create("presence", "a");
    let statements = world.host.database.as_ref().unwrap().statements();
    write_back::flush(&world.server, &mut world.host, true);
    assert_eq!(world.host.database.as_ref().unwrap().statements(), statements + 1);
    assert_eq!(
        (column(&world, "local_cseq"), column(&world, "version")),
        (vec!["10002".into(), "3".into()], vec!["10001".into(), "2".into()])
    );
}

#[test]
fn a_database_without_statements_for_many_rows_gets_them_one_by_one() {
    let mut world = World::new(setup());
    let database = world.host.database.clone().unwrap();
    database.one_by_one();
    for n in 0..10 {
        world.watch(&format!("w{n}"), "presence");
    }
    assert_eq!((flush(&mut world), stored(&world).len()), (0, 10));
    for n in 0..10 {
        world.subscribe(Subscribe {
            contact_host: "new",
            cseq: Some(99),
            ..Subscribe::refresh(&format!("w{n}"))
        });
    }
    // In the transaction of the batch: no row was tried alone, which deletes.
    let before = database.statements();
    assert_eq!(flush(&mut world), 0);
    assert_eq!(database.statements(), before + 10);
    assert_eq!(column(&world, "remote_cseq"), ["99"; 10]);
}

#[test]
fn a_scan_that_fails_goes_on_in_pages() {
    for scanned in [0, 1, 7, 10, 20] {
        let mut world = World::new(setup());
        for n in 0..10 {
            world.watch(&format!("w{n}"), "presence");
        }
        flush(&mut world);
        let database = world.host.database.clone().unwrap();
        database.scan_only(scanned);
        let mut new = World::new(Setup { database: Some(database), ..setup() });
        let server = Arc::get_mut(&mut new.server).unwrap();
        let restored = restore::subscriptions(server, &mut new.host).unwrap();
        assert_eq!((restored.taken, restored.skipped), (10, 0), "{scanned}");
    }
}

#[test]
fn two_notifies_of_a_dialog_reserve_once() {
    let mut world = World::new(setup());
    world.watch("w", "presence");
    flush(&mut world);
    let dialog = presence::presence::subscription::DialogId {
        call_id: b"w",
        from_tag: Subscribe::new("w").from_tag.as_bytes(),
        to_tag: b"tt-w",
    };
    let token = world.server.store.find_dialog(dialog).unwrap().unwrap();
    let before = world.host.database.as_ref().unwrap().statements();
    write_back::reserve(&world.server, &mut world.host, &[token, token]);
    assert_eq!(world.host.database.as_ref().unwrap().statements(), before + 1);
}

/// It may be in a transaction of somebody else.
#[test]
fn a_transaction_that_does_not_begin_is_not_rolled_back() {
    let mut world = World::new(setup());
    world.watch("w", "presence");
    let database = world.host.database.as_ref().unwrap();
    let (asked, count) = (Arc::new(AtomicUsize::new(0)), 3);
    let fails = asked.clone();
    database.fail_if(move |s| s.verb == "begin" && fails.fetch_add(1, SeqCst) < count);
    flush(&mut world);
    assert_eq!(asked.load(SeqCst), count + 1);
    assert_eq!(stored(&world), ["w"]);
}

#[test]
fn a_database_that_is_away_loses_nothing() {
    let mut world = World::new(setup());
    for n in 0..10 {
        world.watch(&format!("w{n}"), "presence");
    }
    let database = world.host.database.clone().unwrap();
    database.fail_if(|_| true);
    assert_eq!(flush(&mut world), 10);
    assert_eq!(world.complaints().len(), 1);
    world.subscribe(Subscribe::end("w3"));
    world.subscribe(Subscribe { contact_host: "new", ..Subscribe::refresh("w4") });
    flush(&mut world);
    database.work_again();
    assert_eq!(flush(&mut world), 0);
    assert_eq!(stored(&world).len(), 9);
    assert!(column(&world, "contact").contains(&"sip:w4@new".to_owned()));
    database.fail_if(|_| true);
    for n in (0..10).filter(|n| *n != 3) {
        world.subscribe(Subscribe::end(&format!("w{n}")));
    }
    assert_eq!(flush(&mut world), 9);
    database.work_again();
    assert_eq!((flush(&mut world), stored(&world).len()), (0, 0));
    world.send();
    world.assert_empty();
}

#[test]
fn bad_rows_do_not_keep_the_others() {
    let mut world = World::new(setup());
    for n in 0..20 {
        let call = if n < 5 { format!("bad{n}") } else { format!("good{n}") };
        world.watch(&call, "presence");
    }
    let database = world.host.database.clone().unwrap();
    database.fail_if(|s| s.verb == "insert" && s.texts.iter().any(|text| text.starts_with(b"bad")));
    for _ in 0..4 {
        flush(&mut world);
    }
    assert_eq!(stored(&world).len(), 15);
    database.work_again();
    flush(&mut world);
    assert_eq!(stored(&world).len(), 20);
}

/// The database refuses rows, and takes the others at once, however many it
/// refuses and wherever they are.
#[test]
fn thousands_of_bad_rows_do_not_keep_the_others() {
    let mut world = World::new(Setup { shards: 4, ..setup() });
    for n in 0..400 {
        world.watch(&format!("bad{n}"), "presence");
    }
    for n in 0..100 {
        world.watch(&format!("good{n}"), "presence");
    }
    let database = world.host.database.clone().unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    database.fail_if(move |s| {
        let bad = s.verb == "insert" && s.texts.iter().any(|text| text.starts_with(b"bad"));
        count.fetch_add(usize::from(bad), SeqCst);
        bad
    });
    assert_eq!(flush(&mut world), 400);
    assert_eq!(stored(&world).len(), 100);
    // They are notified of, but not each.
    assert!(world.complaints().len() < 5, "{:?}", world.complaints());
    // New ones are written together, as if there were no bad ones.
    world.watch("late1", "presence");
    world.watch("late2", "presence");
    let begun = database.statements();
    let before = asked.load(SeqCst);
    flush(&mut world);
    assert_eq!(stored(&world).len(), 102);
    assert!(database.statements() > begun + 2 && asked.load(SeqCst) > before, "tried again");
    // A clean stop writes what it can.
    world.watch("last", "presence");
    write_back::flush(&world.server, &mut world.host, true);
    assert_eq!(stored(&world).len(), 103);
    database.work_again();
    while flush(&mut world) > 0 {}
    assert_eq!(stored(&world).len(), 503);
}

/// What the database's own word says is not tried a second time.
#[test]
fn a_row_at_fault_is_tried_once_and_given_up_in_the_end() {
    let mut world = World::new(setup());
    world.watch("bad", "presence");
    let database = world.host.database.clone().unwrap();
    database.explain(presence::ports::Verdict::Statement);
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    database.fail_if(move |s| {
        let bad = s.verb == "insert" && s.texts.contains(&&b"bad"[..]);
        count.fetch_add(usize::from(bad), SeqCst);
        bad
    });
    flush(&mut world);
    assert_eq!(asked.load(SeqCst), 2, "among the others, and alone");
    for n in 0..20 {
        world.watch(&format!("good{n}"), "presence");
        flush(&mut world);
    }
    assert!(asked.load(SeqCst) < 15, "{}", asked.load(SeqCst));
    assert_eq!(flush(&mut world), 0, "it waits until it changes");
    database.work_again();
    world.subscribe(Subscribe::refresh("bad"));
    assert_eq!(flush(&mut world), 0);
    assert_eq!(stored(&world).len(), 21);
    // One that is over is freed in the end, whatever the database says.
    database.fail_if(|s| s.verb == "delete" && s.texts.contains(&&b"bad"[..]));
    world.subscribe(Subscribe { cseq: Some(99), ..Subscribe::end("bad") });
    for _ in 0..20 {
        assert_eq!(flush(&mut world), 1);
    }
    database.work_again();
    assert_eq!((flush(&mut world), stored(&world).len()), (0, 20));
}

/// Nobody sleeps for what cannot succeed.
#[test]
fn a_refused_row_costs_no_time() {
    let mut world =
        World::new(Setup { mode: presence::config::SubscriptionMode::WriteThrough, ..setup() });
    let database = world.host.database.clone().unwrap();
    database.fail_if(|s| s.texts.contains(&&b"bad"[..]));
    let start = std::time::Instant::now();
    for _ in 0..50 {
        let reply = world.subscribe(Subscribe::new("bad"));
        assert_eq!((reply.code, reply.reason), (400, "Refused by the Database"));
    }
    assert!(start.elapsed() < std::time::Duration::from_millis(500), "{:?}", start.elapsed());
    // A database that is away is another thing.
    database.fail_if(|_| true);
    assert_eq!(world.subscribe(Subscribe::new("bad")).code, 500);
    database.work_again();
    assert_eq!(world.subscribe(Subscribe::new("bad")).code, 200);
}

/// A conflict passes.
#[test]
fn conflicts_are_repeated() {
    let mut world = World::new(setup());
    world.watch("w", "presence");
    let database = world.host.database.clone().unwrap();
    database.explain(presence::ports::Verdict::Conflict);
    let mut left = 5;
    database.fail_if(move |s| {
        left -= i32::from(s.verb == "insert");
        s.verb == "insert" && left >= 0
    });
    assert_eq!((flush(&mut world), stored(&world).len()), (0, 1));
}

#[test]
fn an_end_while_the_row_is_being_written_removes_the_row() {
    for fails in [false, true] {
        let mut world = World::new(setup());
        world.watch("w", "presence");
        let mut other = world.fork();
        let database = world.host.database.clone().unwrap();
        let mut once = Some(move || drop(other.subscribe(Subscribe::end("w"))));
        database.fail_if(move |statement| {
            if statement.verb == "insert"
                && let Some(once) = once.take()
            {
                std::thread::spawn(once).join().unwrap();
            }
            fails && statement.verb == "insert"
        });
        flush(&mut world);
        database.work_again();
        flush(&mut world);
        assert_eq!(stored(&world), [""; 0]);
        world.assert_empty();
    }
}

#[test]
fn any_mix_of_ends_and_failures_leaves_exactly_the_living() {
    for seed in 0..20u64 {
        let mut world = World::new(Setup { shards: 2, ..setup() });
        let database = world.host.database.clone().unwrap();
        let mut count = seed;
        database.fail_if(move |_| {
            count = count
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            count >> 33 & 7 == 0
        });
        let stop = Arc::new(AtomicBool::new(false));
        let flusher = {
            let (mut world, stop) = (world.fork(), stop.clone());
            std::thread::spawn(move || {
                while !stop.load(SeqCst) {
                    flush(&mut world);
                }
            })
        };
        let threads: Vec<_> = (0..2)
            .map(|thread| {
                let mut world = world.fork();
                std::thread::spawn(move || {
                    for n in 0..40 {
                        let call = format!("{thread}.{n}");
                        world.watch(&call, "presence");
                        if n % 3 == 0 {
                            world.subscribe(Subscribe::refresh(&call));
                        }
                        if n % 2 == 0 {
                            world.subscribe(Subscribe::end(&call));
                        }
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        stop.store(true, SeqCst);
        flusher.join().unwrap();
        database.work_again();
        world.send();
        assert_eq!(flush(&mut world), 0);
        assert_eq!((stored(&world).len(), world.watchers("alice", PRESENCE)), (40, 40));
        for call in stored(&world) {
            world.subscribe(Subscribe {
                cseq: Some(i32::MAX.unsigned_abs()),
                ..Subscribe::end(&call)
            });
        }
        flush(&mut world);
        assert_eq!(stored(&world), [""; 0]);
        world.assert_empty();
    }
}

#[test]
fn subscriptions_survive_a_restart() {
    let mut world = World::new(setup());
    let event = Some("message-summary;id=5");
    world.subscribe(Subscribe { event, cseq: Some(7), ..Subscribe::new("w") });
    world.subscribe(Subscribe { expires: Some("5"), ..Subscribe::new("short") });
    flush(&mut world);
    let mut new = World::new(Setup { database: world.host.database.clone(), ..setup() });
    new.pass(6);
    let server = Arc::get_mut(&mut new.server).unwrap();
    let restored = restore::subscriptions(server, &mut new.host).unwrap();
    assert_eq!((restored.taken, restored.skipped), (1, 0));
    assert_eq!((new.watchers("alice", MWI), new.watchers("alice", PRESENCE)), (1, 0));
    let refresh = |cseq| Subscribe { event, cseq: Some(cseq), ..Subscribe::refresh("w") };
    assert_eq!(new.subscribe(refresh(7)).code, 500);
    assert_eq!(new.subscribe(refresh(8)).code, 200);
    let sent = new.notifies();
    assert!(sent[0].cseq > 10_000 && sent[0].headers.contains("Event: message-summary;id=5\r\n"));
    new.pass(4000);
    new.expire();
    assert_eq!(new.seen().len(), 1);
    flush(&mut new);
    new.assert_empty();
    assert_eq!(stored(&new), ["short"], "a row that was over at the start is the cleaner's");
}

#[test]
fn strange_rows_are_skipped() {
    let mut world = World::new(setup());
    world.watch("w", "presence");
    flush(&mut world);
    use presence::ports::Database;
    let mut database = world.host.database.clone().unwrap();
    for (column, value) in [("local_cseq", Value::Int(-5)), ("event", Value::text(b";"))] {
        let set: Assignment = (column, value);
        let mut new = World::new(Setup { database: Some(database.clone()), ..setup() });
        database.update("active_watchers", &[], &[set]).unwrap();
        let server = Arc::get_mut(&mut new.server).unwrap();
        let restored = restore::subscriptions(server, &mut new.host).unwrap();
        assert_eq!((restored.taken, restored.skipped), (0, 1));
        new.assert_empty();
    }
}

proptest! {
    #[test]
    fn a_row_reads_as_it_was_written(
        texts in proptest::collection::vec("[a-zA-Z0-9:;.@-]{0,12}", 18),
        (remote, local, version, flags) in any::<(u32, u32, u32, u32)>(),
        expires in 0..1_000_000u32,
    ) {
        let text = |n: usize| texts[n % texts.len()].as_bytes().to_vec();
        let mut snapshot = Snapshot::new(PRESENCE, Vec::new());
        for (n, field) in Text::ALL.iter().enumerate() {
            let value = match field {
                Text::PresentityHost => b"host.example".to_vec(),
                Text::PresentityUser => text(n).into_iter().filter(|b| !b":@".contains(b)).collect(),
                _ => text(n),
            };
            snapshot.set_text(*field, &value).unwrap();
        }
        snapshot.status = Status::Pending;
        (snapshot.remote_cseq, snapshot.local_cseq) = (CSeq(remote), CSeq(local));
        (snapshot.version, snapshot.flags, snapshot.expires) = (version, flags, expires);
        let row = rows::subscription_row(&snapshot, b"presence", 1000 + i64::from(expires), 0);
        let read: Vec<_> = rows::SUBSCRIPTION_COLUMNS
            .iter()
            .map(|name| row.iter().find(|(column, _)| column == name).unwrap().1.clone())
            .collect();
        let read = rows::read_subscription(&read, 1000).unwrap();
        prop_assert_eq!((&read.event[..], read.expires_at), (&b"presence"[..], 1000 + i64::from(expires)));
        snapshot.package = Default::default();
        prop_assert_eq!(read.snapshot, snapshot);
    }
}

#[test]
fn an_end_that_a_failing_flush_has_in_hand() {
    let mut world = World::new(setup());
    world.watch("w", "presence");
    flush(&mut world);
    let (server, now) = (world.server.clone(), world.now());
    let taken = Arc::new(std::sync::Mutex::new(Vec::new()));
    let hand = taken.clone();
    world.subscribe(Subscribe {
        // The flush comes by between the end and its NOTIFY ...
        before_reply: Some(Box::new(move || {
            *hand.lock().unwrap() = server.store.take_dirty(
                (0, presence::store::records::Lag::Urgent),
                200,
                now,
                false,
            );
        })),
        ..Subscribe::end("w")
    });
    // ... and finds out afterwards that the database is away.
    let rows = std::mem::take(&mut *taken.lock().unwrap());
    assert_eq!(rows.len(), 1);
    rows.iter().for_each(|row| world.server.store.row_failed(row));
    flush(&mut world);
    assert_eq!(stored(&world), [""; 0]);
}

#[test]
fn what_does_not_fit_is_not_written_before_a_notify_either() {
    let mut world = World::new(setup());
    let contact = Column { name: "contact".to_owned(), width: Some(30), ..Column::default() };
    let widths = Widths::new(vec![contact]);
    Arc::get_mut(&mut world.server).unwrap().widths.subscriptions = widths;
    world.watch("w", "presence");
    flush(&mut world);
    let long = "l".repeat(40);
    world.subscribe(Subscribe { contact_host: &long, ..Subscribe::refresh("w") });
    flush(&mut world);
    assert_eq!(stored(&world), [""; 0], "what is out of date must not come back");
    let before = world.host.database.as_ref().unwrap().statements();
    world.host.database.as_ref().unwrap().fail_if(|statement| statement.verb == "update");
    let mut tag = world.create("presence", "a");
    let start = std::time::Instant::now();
    for _ in 0..10 {
        tag = world.modify("presence", &tag, "b");
    }
    eprintln!("10 changes took {:?}", start.elapsed());
    assert_eq!(world.host.database.as_ref().unwrap().statements() - before, 0);
}
