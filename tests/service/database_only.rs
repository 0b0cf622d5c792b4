//! Subscriptions and publications in the database only (`subs_db_mode=3`), on
//! one server and on several.

use crate::fakes::{PRESENCE, Publish, Sent, Setup, Subscribe, World};
use presence::config::{PublicationCache, SubscriptionMode};
use presence::ports::{Database, Value, Verdict};
use presence::presence::subscription::Text;
use presence::service::{expired_rows, flagged_rows, notifier_slots, notify_reply};
use presence::store::Token;
use std::collections::{BTreeMap, HashMap};

fn setup() -> Setup {
    Setup {
        mode: SubscriptionMode::DbOnly,
        cache: PublicationCache::None,
        authorizes: false,
        ..Setup::stored()
    }
}

fn column(world: &World, table: &str, column: &str) -> Vec<String> {
    world.host.database.as_ref().unwrap().column(table, column)
}

fn calls(world: &World) -> Vec<String> {
    column(world, "active_watchers", "callid")
}

#[test]
fn a_dialog_from_its_beginning_to_its_end() {
    let mut world = World::new(setup());
    world.watch("w", "presence");
    assert_eq!(calls(&world), ["w"]);
    let tag = world.create("presence", "a");
    world.subscribe(Subscribe::refresh("w"));
    world.remove("presence", &tag);
    world.subscribe(Subscribe::end("w"));
    let expected = [
        "w 2 active offline",
        "w 3 active a",
        "w 4 active a",
        "w 5 active closed(a)",
        "w 6 terminated;reason=timeout offline",
    ];
    assert_eq!(world.seen(), expected);
    assert_eq!((calls(&world), column(&world, "presentity", "etag")), (vec![], vec![]));
    assert_eq!(world.subscribe(Subscribe::refresh("w")).code, 481);
    world.send();
    world.assert_empty();
}

#[test]
fn the_row_continues_where_stock_would() {
    let mut world = World::new(setup());
    world.watch("w", "presence");
    assert_eq!(world.notifies()[0].cseq, 2);
    // Stock counts the number in the row up, and tm once more.
    assert_eq!(column(&world, "active_watchers", "local_cseq"), ["1"]);
    assert_eq!(column(&world, "active_watchers", "updated"), ["-1"]);
}

#[test]
fn an_expired_row_is_told_once_and_deleted() {
    let mut world = World::new(setup());
    let mut other = world.beside(setup());
    world.subscribe(Subscribe { expires: Some("10"), ..Subscribe::new("w") });
    world.watch("stays", "presence");
    world.seen();
    world.pass(11);
    world.expire();
    other.expire();
    world.expire();
    assert_eq!(world.seen(), ["w 3 terminated;reason=timeout"]);
    assert_eq!(calls(&world), ["stays"]);
    world.assert_empty();
}

#[test]
fn a_refresh_wins_over_the_timer() {
    let mut world = World::new(setup());
    world.subscribe(Subscribe { expires: Some("10"), ..Subscribe::new("w") });
    world.pass(11);
    // The timer has read the row, and its NOTIFY waits for the sender.
    expired_rows::expire(&world.server, &mut world.host).unwrap();
    let mut other = world.beside(setup());
    assert_eq!(other.subscribe(Subscribe::refresh("w")).code, 200);
    world.send();
    assert_eq!(world.seen(), ["w 2 active offline", "w 3 active offline"]);
    assert_eq!(calls(&world), ["w"]);
}

#[test]
fn a_refresh_after_the_last_notify_is_too_late() {
    let mut world = World::new(setup());
    world.subscribe(Subscribe { expires: Some("10"), ..Subscribe::new("w") });
    world.seen();
    world.pass(11);
    // The NOTIFY leaves, its row is still there.
    world.host.database.as_ref().unwrap().fail_if(|statement| statement.verb == "delete");
    world.expire();
    assert_eq!(world.seen(), ["w 3 terminated;reason=timeout"]);
    world.host.database.as_ref().unwrap().work_again();
    assert_eq!(world.subscribe(Subscribe::refresh("w")).code, 481);
    world.expire();
    world.assert_empty();
}

#[test]
fn the_answer_to_a_notify_ends_the_row() {
    let mut world = World::new(setup());
    world.watch("w", "presence");
    world.send();
    world.watch("winfo", "presence.winfo");
    world.seen();
    let mut found = None;
    let key = world.key("alice", PRESENCE);
    presence::service::subscriptions::each_watcher(
        &world.server,
        &mut world.host,
        &key,
        |_, copy| found = Some(copy),
    )
    .unwrap();
    let found = found.unwrap();
    assert_eq!(found.text(Text::CallId), b"w");
    let (server, host) = (&world.server, &mut world.host);
    notify_reply::handle(server, host, Token::ROW, Some(&found), 200, false);
    notify_reply::handle(server, host, Token::ROW, Some(&found), 481, false);
    notify_reply::handle(server, host, Token::ROW, Some(&found), 481, false);
    world.send();
    assert_eq!(calls(&world), ["winfo"]);
    let seen = world.notifies();
    assert_eq!(seen.len(), 1, "{seen:?}");
    assert!(seen[0].body.contains("event=\"timeout\" status=\"terminated\""), "{}", seen[0].body);
    world.assert_empty();
}

/// A database that is away for a while: requests that need it get 500, what
/// was accepted is notified afterwards.
#[test]
fn what_was_accepted_is_told_when_the_database_is_back() {
    let mut world = World::new(setup());
    world.watch("w", "presence");
    let tag = world.create("presence", "a");
    world.seen();
    let database = world.host.database.clone().unwrap();
    // It goes away after the publication is stored.
    let mut updates = 0;
    database.fail_if(move |statement| {
        updates += u32::from(statement.verb == "update");
        updates > 1 || (updates == 1 && statement.verb != "update")
    });
    let modified = Publish { tag: Some(&tag), body: "b", ..Publish::default() };
    let answer = world.publish(modified);
    assert_eq!(answer.code, 200);
    assert_eq!(world.seen(), [""; 0]);
    let refused = Publish { tag: Some(&answer.tag), body: "c", ..Publish::default() };
    assert_eq!(world.publish(refused).code, 500);
    assert_eq!(world.subscribe(Subscribe::new("x")).code, 500);
    assert_eq!(world.subscribe(Subscribe::end("w")).code, 500);
    world.events();
    database.work_again();
    world.send();
    assert_eq!(world.seen(), ["w 4 active b"]);
    assert_eq!(calls(&world), ["w"]);
    world.assert_empty();
}

#[test]
fn any_failure_in_the_middle_loses_no_final_state() {
    for seed in 0..24u64 {
        let mut world = World::new(setup());
        let database = world.host.database.clone().unwrap();
        for n in 0..3 {
            world.watch(&format!("w{n}"), "presence");
        }
        let mut count = seed;
        database.fail_if(move |_| {
            count = count
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (count >> 33) % 3 == 0
        });
        let mut last = "offline".to_owned();
        let mut tag: Option<String> = None;
        for n in 0..12 {
            let body = format!("b{n}");
            let publish = Publish { tag: tag.as_deref(), body: &body, ..Publish::default() };
            let answer = world.publish(publish);
            match answer.code {
                200 => (last, tag) = (body, Some(answer.tag)),
                _ if tag.is_none() => {}
                code => assert!(code == 500 || code == 400, "{code}"),
            }
        }
        database.work_again();
        world.send();
        let sent = world.notifies();
        for n in 0..3 {
            let call = format!("w{n}");
            let own: Vec<&Sent> = sent.iter().filter(|sent| sent.call_id == call).collect();
            assert!(own.windows(2).all(|two| two[0].cseq < two[1].cseq), "{own:#?}");
            let body = &own.last().unwrap().body;
            // One that got 500 may have been stored all the same.
            assert!(*body == last || body > &last, "seed {seed}: {body} is not {last}");
        }
        world.assert_empty();
    }
}

/// A higher CSeq never has an older step of any publisher (`publisher.step`).
fn check_order(call: &str, mut sent: Vec<Sent>) {
    sent.sort_by_key(|notify| notify.cseq);
    let mut newest: HashMap<String, u32> = HashMap::new();
    for notify in &sent {
        for part in notify.body.split('+').filter_map(|part| part.split_once('.')) {
            let step: u32 = part.1.parse().unwrap();
            let known = newest.entry(part.0.to_owned()).or_default();
            assert!(step >= *known, "{call}: {} is older than {known}: {sent:#?}", notify.brief());
            *known = step;
        }
    }
}

/// Several servers, each with publishers on the same presentity: no CSeq
/// twice, and the highest one of each dialog has the last state.
fn race(notifiers: u32) {
    let with_notifiers: fn(&mut presence::config::Config) = match notifiers {
        0 => |_| {},
        _ => |config| {
            config.notifier_processes = 1;
            config.waitn_time = 1;
            config.notifier_poll_rate = 2;
        },
    };
    let setup = Setup { config: with_notifiers, ..setup() };
    let mut world = World::new(setup.clone());
    let others: Vec<World> = (0..3).map(|_| world.beside(setup.clone())).collect();
    for n in 0..4 {
        world.watch(&format!("w{n}"), "presence");
    }
    let threads: Vec<_> = others
        .iter()
        .enumerate()
        .flat_map(|(n, other)| {
            let publisher = {
                let mut other = other.fork();
                other.host.yields = true;
                std::thread::spawn(move || {
                    let mut tag: Option<String> = None;
                    for step in 0..20 {
                        let body = format!("{n}.{step}");
                        tag = Some(match &tag {
                            None => other.create("presence", &body),
                            Some(tag) => other.modify("presence", tag, &body),
                        });
                    }
                })
            };
            let subscriber = {
                let mut other = other.fork();
                std::thread::spawn(move || {
                    for _ in 0..10 {
                        let code = other.subscribe(Subscribe::refresh("w0")).code;
                        assert!([200, 500].contains(&code), "{code}");
                        other.send();
                    }
                })
            };
            // The notifier process comes by while changes are made.
            let notifier = {
                let mut other = other.fork();
                other.host.yields = true;
                std::thread::spawn(move || {
                    for slot in (0..2).cycle().take(if notifiers > 0 { 20 } else { 0 }) {
                        flagged_rows::serve(&other.server, &mut other.host, slot);
                        other.send();
                    }
                })
            };
            [publisher, subscriber, notifier]
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    for mut other in others {
        other.send();
        for slot in 0..2 {
            flagged_rows::serve(&other.server, &mut other.host, slot);
        }
        other.send();
        other.assert_empty();
    }
    let mut dialogs: BTreeMap<String, Vec<Sent>> = BTreeMap::new();
    for sent in world.notifies() {
        dialogs.entry(sent.call_id.clone()).or_default().push(sent);
    }
    assert_eq!(dialogs.len(), 4);
    for (call, sent) in dialogs {
        let mut by_number: HashMap<u32, usize> = HashMap::new();
        for notify in &sent {
            *by_number.entry(notify.cseq).or_default() += 1;
        }
        assert!(by_number.values().all(|times| *times == 1), "{call}: a CSeq twice: {sent:#?}");
        check_order(&call, sent.clone());
        let last = sent.iter().max_by_key(|notify| notify.cseq).unwrap();
        for n in 0..3 {
            assert!(last.body.contains(&format!("{n}.19")), "{call}: {last:?}");
        }
    }
}

#[test]
fn several_servers_share_a_database() {
    (0..10).for_each(|_| race(0));
}

#[test]
fn several_servers_with_notifier_processes() {
    (0..10).for_each(|_| race(1));
}

#[test]
fn a_change_waits_for_its_turn_an_end_does_not() {
    let setup = Setup {
        config: |config| {
            config.notifier_processes = 2;
            config.waitn_time = 1;
            config.notifier_poll_rate = 2;
        },
        ..setup()
    };
    let mut world = World::new(setup.clone());
    world.watch("w", "presence");
    assert_eq!(world.seen(), ["w 2 active offline"]);
    let tag = world.create("presence", "a");
    let tag = world.modify("presence", &tag, "b");
    assert_eq!(world.seen(), [""; 0]);
    // Any server's notifier sends it, once.
    let mut other = world.beside(setup);
    for server in [&mut other, &mut world] {
        for slot in 0..4 {
            flagged_rows::serve(&server.server, &mut server.host, slot);
        }
    }
    assert_eq!(world.seen(), ["w 3 active b"]);
    world.remove("presence", &tag);
    assert_eq!(world.seen(), ["w 4 active closed(b)"]);
    world.send();
    world.assert_empty();
}

#[test]
fn notifier_processes_send_what_subscribers_get() {
    let setup = Setup {
        config: |config| {
            config.notifier_processes = 1;
            config.waitn_time = 1;
            config.notifier_poll_rate = 1;
            config.send_fast_notify = false;
        },
        ..setup()
    };
    let mut world = World::new(setup);
    world.create("presence", "a");
    world.watch("w", "presence");
    assert_eq!(world.seen(), [""; 0]);
    flagged_rows::serve(&world.server, &mut world.host, 0);
    assert_eq!(world.seen(), ["w 2 active a"]);
    world.subscribe(Subscribe::end("w"));
    flagged_rows::serve(&world.server, &mut world.host, 0);
    assert_eq!(world.seen(), ["w 3 terminated;reason=timeout a"]);
    assert_eq!(calls(&world), [""; 0]);
    world.send();
    world.assert_empty();
}

fn stage() -> (World, String) {
    let mut world = World::new(setup());
    world.watch("w", "presence");
    world.create("presence", "a");
    let tag = world.create("presence", "b");
    world.seen();
    (world, tag)
}

#[test]
fn an_end_is_told_also_when_its_claim_fails() {
    for verb in ["update", "query"] {
        let (mut world, tag) = stage();
        let database = world.host.database.clone().unwrap();
        // After the row of the publication is gone.
        let mut deleted = false;
        database.fail_if(move |statement| {
            deleted |= statement.verb == "delete";
            deleted && statement.verb == verb
        });
        world.remove("presence", &tag);
        database.work_again();
        world.send();
        let seen = world.seen();
        assert!(seen.iter().any(|sent| sent.contains("closed(b)")), "{verb}: {seen:?}");
        world.assert_empty();
    }
}

#[test]
fn every_end_is_told_when_claims_fail_half_way() {
    for notifiers in [0, 1] {
        let config: fn(&mut presence::config::Config) = match notifiers {
            0 => |_| {},
            _ => |config| config.notifier_processes = 1,
        };
        let mut world = World::new(Setup { config, ..setup() });
        for n in 0..3 {
            let call = format!("w{n}");
            world.subscribe(Subscribe { expires: Some("10"), ..Subscribe::new(&call) });
        }
        world.seen();
        world.pass(11);
        expired_rows::expire(&world.server, &mut world.host).unwrap();
        let database = world.host.database.clone().unwrap();
        let mut updates = 0;
        database.fail_if(move |statement| {
            updates += u32::from(statement.verb == "update");
            updates > 1
        });
        world.send_step();
        database.work_again();
        world.send();
        let mut seen = world.seen();
        seen.sort();
        assert_eq!(seen.len(), 3, "{seen:?}");
        assert!(seen.iter().all(|sent| sent.contains("terminated;reason=timeout")), "{seen:?}");
        world.expire();
        assert_eq!((world.seen(), calls(&world)), (vec![], vec![]));
        world.assert_empty();
    }
}

#[test]
fn a_farewell_is_told_also_when_another_server_is_faster() {
    let mut world = World::new(setup());
    for n in 0..40 {
        world.watch(&format!("w{n:02}"), "presence");
    }
    let tag = world.create("presence", "a");
    world.send();
    world.seen();
    let mut other = world.beside(setup());
    world.host.during_notify.push_back(Box::new(move || {
        other.create("presence", "c");
        other.send();
    }));
    world.remove("presence", &tag);
    world.send();
    let sent = world.notifies();
    for n in 0..40 {
        let call = format!("w{n:02}");
        let own: Vec<_> = sent.iter().filter(|sent| sent.call_id == call).collect();
        assert!(own.iter().any(|sent| sent.body.contains("closed(a)")), "{call}: {own:?}");
        let mut numbers: Vec<_> = own.iter().map(|sent| sent.cseq).collect();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), own.len(), "{own:?}");
        let last = own.iter().max_by_key(|sent| sent.cseq).unwrap();
        assert!(last.body.ends_with('c'), "{own:?}");
    }
}

#[test]
fn a_decision_made_meanwhile_counts() {
    let (mut world, _) = stage();
    let mut database = world.host.database.clone().unwrap();
    let answer = world.subscribe(Subscribe {
        before_reply: Some(Box::new(move || {
            // Another server has revoked it, and taken a number.
            let set = [("status", Value::Int(2)), ("local_cseq", Value::Int(20))];
            database.update("active_watchers", &[], &set).unwrap();
        })),
        ..Subscribe::refresh("w")
    });
    assert_eq!(answer.code, 200);
    assert_eq!(world.seen(), ["w 22 pending"]);
}

#[test]
fn what_waits_is_not_replaced_by_an_older_row() {
    use presence::store::publications::RowsChanged;
    let (mut world, _) = stage();
    // Somebody has the lane, and has begun to walk.
    let key = world.key("alice", PRESENCE);
    let lane = world.server.store.rows_changed(&key, RowsChanged::default()).unwrap().unwrap();
    let mut found = Vec::new();
    presence::service::subscriptions::each_watcher(&world.server, &mut world.host, &key, |_, w| {
        found.push(w)
    })
    .unwrap();
    world.subscribe(Subscribe { contact_host: "new", ..Subscribe::refresh("w") });
    assert_ne!(
        world.server.store.fan_out_step(lane, false),
        presence::store::row_lanes::FanOutStep::Done
    );
    let old = presence::store::row_lanes::PendingNotify {
        subscription: found.remove(0),
        expires_at: world.now() + 100,
        ending: None,
        claim: presence::store::records::RowClaim::FanOut,
        notified: None,
        null_reason: false,
    };
    assert_eq!(world.server.store.queue_page(lane, &[old]), 1);
    world.server.store.hand_over(lane);
    world.send();
    let sent = world.notifies();
    assert!(!sent.is_empty() && sent.iter().all(|sent| sent.contact == "sip:w@new"), "{sent:?}");
    world.assert_empty();
}

#[test]
fn watchers_that_cannot_be_read_are_not_told_of_as_gone() {
    let mut world = World::new(setup());
    world.watch("w", "presence");
    world.send();
    let database = world.host.database.clone().unwrap();
    let mut inserted = false;
    database.fail_if(move |statement| {
        inserted |= statement.verb == "insert";
        inserted && statement.verb == "query"
    });
    world.seen();
    world.watch("winfo", "presence.winfo");
    assert_eq!(world.seen(), [""; 0]);
    database.work_again();
    world.send();
    let sent = world.notifies();
    assert_eq!(sent.len(), 1);
    assert!(sent[0].body.contains("state=\"full\"") && sent[0].body.contains("sip:w@h"));
    world.assert_empty();
}

#[test]
fn notifier_processes_send_whole_watcher_lists() {
    let config: fn(&mut presence::config::Config) = |config| {
        config.notifier_processes = 1;
        config.waitn_time = 1;
        config.notifier_poll_rate = 1;
        config.send_fast_notify = false;
    };
    let mut world = World::new(Setup { config, ..setup() });
    world.watch("w", "presence");
    world.send();
    world.watch("winfo", "presence.winfo");
    flagged_rows::serve(&world.server, &mut world.host, 0);
    let sent = world.notifies();
    let winfo: Vec<_> = sent.iter().filter(|sent| sent.call_id == "winfo").collect();
    assert_eq!(winfo.len(), 1, "{sent:?}");
    assert!(winfo[0].body.contains("state=\"full\"") && winfo[0].body.contains("sip:w@h"));
}

#[test]
fn a_refresh_at_the_same_server_wins_over_the_timer() {
    let mut world = World::new(setup());
    world.subscribe(Subscribe { expires: Some("10"), ..Subscribe::new("w") });
    world.pass(11);
    expired_rows::expire(&world.server, &mut world.host).unwrap();
    assert_eq!(world.subscribe(Subscribe::refresh("w")).code, 200);
    world.send();
    assert_eq!(world.seen(), ["w 2 active offline", "w 3 active offline"]);
    assert_eq!(calls(&world), ["w"]);
}

#[test]
fn who_is_politely_blocked_meanwhile_sees_nothing() {
    use presence::ports::{Database, Value};
    let (mut world, _) = stage();
    let mut database = world.host.database.clone().unwrap();
    let answer = world.subscribe(Subscribe {
        before_reply: Some(Box::new(move || {
            // Another server's rules::decide: status stays active.
            let set = [("reason", Value::text(b"polite-block"))];
            database.update("active_watchers", &[], &set).unwrap();
        })),
        ..Subscribe::refresh("w")
    });
    assert_eq!(answer.code, 200);
    assert_eq!(world.seen(), ["w 5 active"]);
}

#[test]
fn a_lost_answer_loses_no_turn() {
    let config: fn(&mut presence::config::Config) = |config| {
        config.notifier_processes = 1;
        config.waitn_time = 1;
        config.notifier_poll_rate = 1;
    };
    let mut world = World::new(Setup { config, ..setup() });
    world.watch("w", "presence");
    world.create("presence", "a");
    world.seen();
    world.host.database.clone().unwrap().lose_answer("update");
    for _ in 0..3 {
        flagged_rows::serve(&world.server, &mut world.host, 0);
        world.send();
    }
    assert_eq!(world.seen(), ["w 4 active a"]);
}

#[test]
fn a_change_between_reading_the_state_and_taking_the_flag_off_is_told() {
    let config: fn(&mut presence::config::Config) = |config| {
        config.notifier_processes = 1;
        config.waitn_time = 1;
        config.notifier_poll_rate = 1;
    };
    let mut world = World::new(Setup { config, ..setup() });
    world.watch("w", "presence");
    world.create("presence", "a");
    world.seen();
    // Another server; its flag is there already.
    let mut other = Some(world.beside(Setup { config, ..setup() }));
    world.host.database.clone().unwrap().before_statement(move |verb| {
        if verb == "update"
            && let Some(mut other) = other.take()
        {
            other.create("presence", "b");
            other.send();
        }
    });
    for _ in 0..3 {
        flagged_rows::serve(&world.server, &mut world.host, 0);
        world.send();
    }
    assert_eq!(world.seen(), ["w 3 active a", "w 4 active a+b"]);
}

#[test]
fn a_subscription_whose_first_answer_was_lost_is_new() {
    let mut world = World::new(setup());
    world.watch("looker", "presence.winfo");
    world.seen();
    world.host.database.as_ref().unwrap().lose_answer("insert");
    world.watch("w", "presence");
    world.host.database.as_ref().unwrap().lose_none();
    world.send();
    let notified: Vec<_> = world.notifies().into_iter().map(|n| n.call_id).collect();
    assert_eq!(notified, ["w", "looker"]);
}

#[test]
fn who_subscribes_during_a_long_walk_is_told_what_others_have_published() {
    let config: fn(&mut presence::config::Config) = |config| config.send_fast_notify = false;
    let mut world = World::new(Setup { config, ..setup() });
    let event = "message-summary";
    (0..40).for_each(|n| world.watch(&format!("w{n}"), event));
    let tag = world.create(event, "1");
    world.send();
    world.seen();
    // When the first portion is picked, with nothing published.
    let (mut other, mut process) = (world.beside(setup()), world.fork());
    let mut is_first = true;
    world.host.database.as_ref().unwrap().before_statement(move |verb| {
        if verb == "begin" && std::mem::take(&mut is_first) {
            other.create(event, "2");
            other.send();
            process.watch("n", event);
        }
    });
    world.remove(event, &tag);
    world.send();
    let seen = world.seen();
    assert!(seen.contains(&"n 2 active 2".to_owned()), "{seen:?}");
    world.assert_empty();
}

#[test]
fn what_is_deleted_silently_leaves_nothing_behind() {
    use crate::fakes::dialog;
    let config: fn(&mut presence::config::Config) = |config| config.force_delete = true;
    let mut world = World::new(Setup { config, ..setup() });
    world.watch("w", "dialog");
    let body = dialog("d", "terminated");
    let answer = world.publish(Publish {
        event: Some("dialog"),
        body: &body,
        expires: Some("10"),
        ..Publish::default()
    });
    assert_eq!(answer.code, 200);
    world.seen();
    world.pass(10);
    world.expire();
    assert_eq!(column(&world, "presentity", "etag"), [""; 0]);
    assert_eq!(world.seen(), [""; 0]);
    world.assert_empty();
}

#[test]
fn a_change_after_the_last_walk_is_told() {
    use presence::presence::publication::transition::FanOut;
    use presence::store::publications::RowsChanged;
    use presence::store::row_lanes::FanOutStep;
    let world = World::new(setup());
    let (store, key) = (&world.server.store, world.key("alice", PRESENCE));
    let change =
        RowsChanged { fan_out: FanOut::Watchers { urgent: true }, ..RowsChanged::default() };
    let lane = store.rows_changed(&key, change).unwrap().unwrap();
    assert_eq!(store.fan_out_step(lane, false), FanOutStep::Page(0));
    store.fan_out_read(lane, None);
    assert_eq!(store.fan_out_step(lane, false), FanOutStep::Done);
    // Before the owner says that it is done somebody publishes.
    assert!(store.rows_changed(&key, change).unwrap().is_none());
    assert!(store.finish(lane, true), "nobody is told of that");
}

#[test]
fn an_older_end_does_not_replace_a_refresh() {
    use presence::store::publications::RowsChanged;
    let mut world = World::new(setup());
    world.subscribe(Subscribe { expires: Some("10"), ..Subscribe::new("w") });
    world.pass(11);
    world.seen();
    // The timer reads the expired row; somebody has the lane.
    let key = world.key("alice", PRESENCE);
    let mut found = Vec::new();
    presence::service::subscriptions::each_watcher(&world.server, &mut world.host, &key, |_, w| {
        found.push(w)
    })
    .unwrap();
    let expired = presence::store::row_lanes::PendingNotify {
        subscription: found.remove(0),
        expires_at: world.now() - 1,
        ending: Some(presence::presence::subscription::Ending::Expired),
        claim: presence::store::records::RowClaim::Asked,
        notified: None,
        null_reason: false,
    };
    let lane = world.server.store.rows_changed(&key, RowsChanged::default()).unwrap().unwrap();
    assert_eq!(world.subscribe(Subscribe::refresh("w")).code, 200);
    world.server.store.queue_row(&key, &expired).unwrap();
    world.server.store.fan_out_step(lane, false);
    world.server.store.fan_out_read(lane, None);
    world.server.store.hand_over(lane);
    world.send();
    assert_eq!(world.seen(), ["w 3 active offline"]);
}

#[test]
fn an_end_that_another_server_has_taken_is_left_to_it() {
    use presence::ports::{Database, Value};
    use presence::store::records::RowClaim;
    let config: fn(&mut presence::config::Config) = |config| config.notifier_processes = 1;
    let mut world = World::new(Setup { config, ..setup() });
    world.watch("w", "presence");
    let key = world.key("alice", PRESENCE);
    let mut found = Vec::new();
    presence::service::subscriptions::each_watcher(&world.server, &mut world.host, &key, |_, w| {
        found.push(w)
    })
    .unwrap();
    let pending = presence::store::row_lanes::PendingNotify {
        subscription: found.remove(0),
        expires_at: world.now(),
        ending: Some(presence::presence::subscription::Ending::Unsubscribed),
        claim: RowClaim::NotifierSlot(0),
        notified: None,
        null_reason: false,
    };
    world.send();
    // Another server's notifier has taken the number; its NOTIFY is on the way.
    let mut database = world.host.database.clone().unwrap();
    let set = [
        ("local_cseq", Value::Int(2)),
        ("updated", Value::Int(-1)),
        ("reason", Value::text(b"timeout")),
    ];
    database.update("active_watchers", &[], &set).unwrap();
    let lane = world.server.store.queue_row(&key, &pending).unwrap().unwrap();
    world.server.store.hand_over(lane);
    world.seen();
    let before = database.statements();
    world.send_step();
    world.send_step();
    assert_eq!(
        (database.statements() - before, world.complaints(), world.seen()),
        // A claim, and two looks.
        (3, vec![], vec![])
    );
}

#[test]
fn a_change_costs_one_watcher_four_statements() {
    let (mut world, tag) = stage();
    let database = world.host.database.clone().unwrap();
    let before = database.statements();
    world.modify("presence", &tag, "c");
    // The publication's row; who watches; what is published; the number.
    assert_eq!((database.statements() - before, world.seen()), (4, vec!["w 5 active a+c".into()]));
}

#[test]
fn of_two_servers_that_see_an_end_one_tells_it() {
    for read_before in [true, false] {
        let mut world = World::new(setup());
        let mut other = world.beside(setup());
        world.subscribe(Subscribe { expires: Some("10"), ..Subscribe::new("w") });
        world.watch("winfo", "presence.winfo");
        world.send();
        world.seen();
        world.pass(11);
        if read_before {
            expired_rows::expire(&other.server, &mut other.host).unwrap();
        }
        // While the NOTIFY is on its way, its row is still there.
        world.host.during_notify.push_back(Box::new(move || {
            other.expire();
            other.assert_empty();
        }));
        world.expire();
        let seen = world.notifies();
        let ends = seen.iter().filter(|sent| sent.state.contains("terminated")).count();
        let notified = seen.iter().filter(|sent| sent.body.contains("terminated")).count();
        assert_eq!((ends, notified), (1, 1), "{read_before}: {seen:#?}");
        assert_eq!(calls(&world), ["winfo"]);
    }
}

#[test]
fn another_server_tells_an_end_for_one_that_was_killed() {
    for unsubscribes in [true, false] {
        let mut world = World::new(setup());
        world.subscribe(Subscribe { expires: Some("10"), ..Subscribe::new("w") });
        world.watch("winfo", "presence.winfo");
        world.send();
        world.seen();
        let mut victim = world.beside(setup());
        victim.host.room = Some(0);
        if unsubscribes {
            victim.subscribe(Subscribe::end("w"));
        } else {
            world.pass(11);
            expired_rows::expire(&victim.server, &mut victim.host).unwrap();
            victim.send_step();
        }
        world.seen();
        // It may still be at it.
        world.expire();
        assert_eq!(world.seen(), [""; 0], "{unsubscribes}");
        world.pass(12);
        world.expire();
        let seen = world.notifies();
        let ends: Vec<_> = seen.iter().filter(|sent| sent.call_id == "w").collect();
        assert!(ends.len() == 1 && ends[0].state == "terminated;reason=timeout", "{ends:?}");
        let notified =
            seen.iter().filter(|sent| sent.body.contains("status=\"terminated\"")).count();
        assert_eq!(notified, 1, "{unsubscribes}: {seen:#?}");
        assert_eq!(calls(&world), ["winfo"]);
    }
}

#[test]
fn an_end_that_waits_for_memory_is_told_once() {
    let mut world = World::new(setup());
    world.subscribe(Subscribe { expires: Some("10"), ..Subscribe::new("w") });
    world.watch("winfo", "presence.winfo");
    world.send();
    world.seen();
    world.pass(11);
    world.host.room = Some(0);
    expired_rows::expire(&world.server, &mut world.host).unwrap();
    world.send_step();
    world.host.room = None;
    world.send();
    let seen = world.notifies();
    let ends = seen.iter().filter(|sent| sent.state.contains("terminated")).count();
    let notified = seen.iter().filter(|sent| sent.body.contains("terminated")).count();
    assert_eq!((ends, notified), (1, 1), "{seen:#?}");
    assert_eq!(calls(&world), ["winfo"]);
}

#[test]
fn who_is_politely_blocked_is_not_told_of_changes() {
    use presence::ports::{Database, Value};
    for notifiers in [0, 1] {
        let config: fn(&mut presence::config::Config) = match notifiers {
            0 => |_| {},
            _ => |config| {
                config.notifier_processes = 1;
                config.waitn_time = 1;
                config.notifier_poll_rate = 1;
            },
        };
        let mut world = World::new(Setup { config, ..setup() });
        world.watch("blocked", "presence");
        let set = [("reason", Value::text(b"polite-block"))];
        world.host.database.clone().unwrap().update("active_watchers", &[], &set).unwrap();
        world.watch("w", "presence");
        world.seen();
        world.create("presence", "a");
        flagged_rows::serve(&world.server, &mut world.host, 0);
        world.send();
        assert_eq!(world.seen(), ["w 3 active a"], "{notifiers}");
        // It gets those of its own.
        world.subscribe(Subscribe::refresh("blocked"));
        assert_eq!(world.seen(), ["blocked 3 active"], "{notifiers}");
        world.assert_empty();
    }
}

#[test]
fn a_row_that_cannot_be_changed_holds_nobody() {
    let mut complaints = Vec::new();
    for notifiers in [0, 1] {
        let config: fn(&mut presence::config::Config) = match notifiers {
            0 => |_| {},
            _ => |config| {
                config.notifier_processes = 1;
                config.waitn_time = 1;
                config.notifier_poll_rate = 1;
            },
        };
        for bad in ["a", "m", "z"] {
            let mut world = World::new(Setup { config, ..setup() });
            for call in ["b", "k", "y", bad] {
                world.watch(call, "presence");
            }
            world.seen();
            world.host.database.as_ref().unwrap().fail_if(move |statement| {
                statement.verb == "update"
                    && statement.texts.contains(&bad.as_bytes())
                    && !statement.texts.contains(&&b"sip:alice@h"[..])
            });
            for step in ["1", "2"] {
                world.create("presence", step);
                flagged_rows::serve(&world.server, &mut world.host, 0);
                world.send();
            }
            let mut seen = world.notifies();
            seen.retain(|sent| sent.body.ends_with('2'));
            let mut notified: Vec<_> = seen.iter().map(|sent| sent.call_id.as_str()).collect();
            notified.sort_unstable();
            assert_eq!(notified, ["b", "k", "y"], "{notifiers} {bad}");
            complaints.extend(world.complaints());
            world.assert_empty();
        }
    }
    // Once in a while.
    assert!(complaints.iter().any(|line| line.contains("given up")), "{complaints:?}");
}

// One statement flags all; a row that the database does not let be changed makes it fail.
#[test]
fn a_row_that_cannot_be_flagged_holds_nobody() {
    let config = |config: &mut presence::config::Config| {
        config.notifier_processes = 1;
        config.waitn_time = 1;
        config.notifier_poll_rate = 1;
    };
    let mut world = World::new(Setup { config, ..setup() });
    for call in ["b", "m", "y"] {
        world.watch(call, "presence");
    }
    flagged_rows::serve(&world.server, &mut world.host, 0);
    world.seen();
    // With the presentity's URI among its conditions it meets all three.
    world.host.database.as_ref().unwrap().fail_if(|statement| {
        statement.verb == "update" && statement.texts.contains(&&b"sip:alice@h"[..])
    });
    world.create("presence", "1");
    world.send();
    flagged_rows::serve(&world.server, &mut world.host, 0);
    world.send();
    let mut notified: Vec<_> = world.notifies().into_iter().map(|sent| sent.call_id).collect();
    notified.sort_unstable();
    assert_eq!(notified, ["b", "m", "y"]);
    world.assert_empty();
}

// Somebody's transaction has the row, or there is no room for what is written: that
// passes, and is not the row's own fault.
#[test]
fn a_row_that_cannot_be_changed_now_is_told_later() {
    let mut world = World::new(setup());
    for call in ["b", "m", "y"] {
        world.watch(call, "presence");
    }
    world.seen();
    let database = world.host.database.clone().unwrap();
    database.explain(Verdict::Conflict);
    let mut left = 60;
    database.fail_if(move |statement| {
        let fails = statement.verb == "update" && statement.texts.contains(&&b"m"[..]) && left > 0;
        left -= i32::from(fails);
        fails
    });
    world.create("presence", "1");
    for _ in 0..10 {
        world.send();
    }
    let mut notified: Vec<_> = world.notifies().into_iter().map(|sent| sent.call_id).collect();
    notified.sort_unstable();
    assert_eq!(notified, ["b", "m", "y"]);
    assert!(world.complaints().iter().all(|line| !line.contains("given up")));
    world.assert_empty();
}

#[test]
fn watchers_of_watchers_see_no_older_state_of_another_server() {
    let mut world = World::new(setup());
    world.watch("winfo", "presence.winfo");
    world.send();
    world.seen();
    let mut other = world.beside(setup());
    // Before this server comes to tell that there is a watcher, it has gone.
    world.host.during_notify.push_back(Box::new(move || {
        assert_eq!(other.subscribe(Subscribe::end("w")).code, 200);
        other.send();
    }));
    world.watch("w", "presence");
    world.send();
    let sent = world.notifies();
    let newest = sent.iter().filter(|sent| sent.call_id == "winfo").max_by_key(|sent| sent.cseq);
    assert!(!newest.unwrap().body.contains("status=\"active\""), "{sent:#?}");
    assert!(sent.iter().any(|sent| sent.body.contains("status=\"terminated\"")), "{sent:#?}");
}

#[test]
fn watchers_of_watchers_are_told_of_one_without_the_others() {
    let mut world = World::new(setup());
    world.watch("winfo", "presence.winfo");
    world.watch("v", "presence");
    world.send();
    world.seen();
    world.watch("w", "presence");
    world.send();
    let sent = world.notifies();
    let notified: Vec<_> = sent.iter().filter(|sent| sent.call_id == "winfo").collect();
    assert!(notified.len() == 1 && notified[0].body.contains("sip:w@h<"), "{notified:?}");
    assert!(!notified[0].body.contains("sip:v@h"), "{notified:?}");
}

/// As the stock module writes its rows on SQLite.
#[test]
fn rows_without_a_reason_are_told_by_notifier_processes() {
    let config: fn(&mut presence::config::Config) = |config| config.notifier_processes = 1;
    let mut world = World::new(Setup { config, ..setup() });
    world.watch("w", "presence");
    let mut database = world.host.database.clone().unwrap();
    database.update("active_watchers", &[], &[("reason", Value::Null)]).unwrap();
    world.seen();
    world.create("presence", "a");
    for slot in 0..i64::from(notifier_slots::slots_each(&world.server)) {
        flagged_rows::serve(&world.server, &mut world.host, slot);
    }
    assert_eq!(world.seen(), ["w 3 active a"]);
}

#[test]
fn publications_are_listed_by_user_and_domain_wherever_they_are_kept() {
    use presence::presence::listing::Wanted;
    use presence::service::listing;
    for cache in [PublicationCache::Record, PublicationCache::Hybrid, PublicationCache::None] {
        let mut world = World::new(Setup { cache, ..setup() });
        for user in ["alice", "bob"] {
            world.publish(Publish { user, body: user, ..Publish::default() });
        }
        let mut listed = |user: Option<&[u8]>, domain: Option<&[u8]>| {
            let wanted = Wanted { user, host: domain, ..Wanted::default() };
            let mut all = Vec::new();
            let each = |_, one: listing::Published| {
                all.push(String::from_utf8(one.user).unwrap());
                true
            };
            listing::publications(&world.server, &mut world.host, &wanted, true, each).unwrap();
            all
        };
        assert_eq!(listed(None, Some(b"h")).len(), 2, "{cache:?}");
        assert_eq!(listed(Some(b"Bob"), None), ["bob"], "{cache:?}");
        assert_eq!(listed(None, Some(b"other")), [""; 0], "{cache:?}");
    }
}
