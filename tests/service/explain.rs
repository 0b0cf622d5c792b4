//! Why a watcher sees what it sees: causes are injected, verdicts are read.

use crate::fakes::{Publish, Setup, Subscribe, World};
use presence::config::{PublicationCache, SubscriptionMode};
use presence::ports::{Database, NotifyOutcome, Value, Verdict as Statement};
use presence::presence::explain::{Verdict, WaitsFor};
use presence::presence::request::UriParts;
use presence::presence::subscription::DialogId;
use presence::service::explain::{Explanation, Shown, explain};
use presence::service::notifier::retry_queue::RetryQueue;
use presence::service::{expiry, flagged_rows, notifier_slots, notify_reply, watchers, write_back};
use presence::store::Token;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

fn ask(world: &mut World, watcher: &str, event: &str) -> Explanation {
    let watcher = UriParts { user: watcher.as_bytes(), host: b"H" };
    let alice = UriParts { user: b"alice", host: b"h" };
    explain(&world.server, &mut world.host, watcher, alice, event.as_bytes()).unwrap()
}

/// The verdict about `w`'s view of `alice`.
#[track_caller]
fn says(world: &mut World, watcher: &str, expected: &str) {
    let explanation = ask(world, watcher, "presence");
    let words = explanation.verdict.to_string();
    assert!(words.contains(expected), "{words}\nexpected: {expected}\n{explanation:?}");
}

/// The last NOTIFY of a dialog is answered.
fn answer(world: &mut World, call_id: &str, code: u16) {
    let (call, tag) = (call_id.to_owned(), format!("tt-{call_id}"));
    let dialog = DialogId { call_id: call.as_bytes(), from_tag: b"ft", to_tag: tag.as_bytes() };
    let (server, host) = (world.server.clone(), &mut world.host);
    let copy = presence::service::subscriptions::find(&server, host, dialog).unwrap().unwrap();
    let token = server.store.find_dialog(dialog).unwrap().unwrap_or(Token::ROW);
    let shown = Some(&copy);
    notify_reply::remember(&server, host, (token, shown), (copy.local_cseq, code));
    notify_reply::handle(&server, host, token, shown, code, false);
}

fn with(config: fn(&mut presence::config::Config)) -> World {
    World::new(Setup { config, ..Setup::default() })
}

/// Both memory and rows, without notifier processes.
fn each_mode(test: impl Fn(World)) {
    for (mode, cache) in [
        (SubscriptionMode::Memory, PublicationCache::Record),
        (SubscriptionMode::WriteThrough, PublicationCache::Hybrid),
        (SubscriptionMode::WriteBack, PublicationCache::Hybrid),
        (SubscriptionMode::DbOnly, PublicationCache::None),
    ] {
        let config: fn(&mut presence::config::Config) = |config| config.notifier_processes = 0;
        test(World::new(Setup { mode, cache, config, ..Setup::stored() }));
    }
}

#[test]
fn nobody_has_subscribed() {
    each_mode(|mut world| {
        says(&mut world, "w", "no subscription: this watcher has not subscribed");
        // Others do not count.
        world.watch("other", "presence");
        says(&mut world, "w", "has not subscribed");
        says(&mut world, "blocked", "no subscription: the rules block this watcher");
    });
}

#[test]
fn all_is_in_order() {
    each_mode(|mut world| {
        world.create("presence", "a");
        world.watch("w", "presence");
        says(&mut world, "w", "has not been answered yet");
        answer(&mut world, "w", 200);
        says(
            &mut world,
            "w",
            "in order: the last NOTIFY, sent at 2027-01-15T08:00:00Z, was answered 200",
        );
        world.pass(5);
        world.create("presence", "b");
        says(&mut world, "w", "sent at 2027-01-15T08:00:05Z, has not been answered yet");
        answer(&mut world, "w", 202);
        says(&mut world, "w", "was answered 202");
        let explanation = ask(&mut world, "w", "presence");
        assert_eq!((explanation.count, explanation.publications.len()), (1, 2));
    });
}

#[test]
fn nothing_is_published() {
    each_mode(|mut world| {
        world.watch("w", "presence");
        answer(&mut world, "w", 200);
        says(&mut world, "w", "presentity has no publication");
    });
}

#[test]
fn a_notify_was_refused() {
    each_mode(|mut world| {
        world.create("presence", "a");
        world.watch("w", "presence");
        answer(&mut world, "w", 500);
        says(&mut world, "w", "was answered 500: the watcher has refused it");
        answer(&mut world, "w", 481);
        says(
            &mut world,
            "w",
            "subscription ended at 2027-01-15T08:00:00Z: a NOTIFY was answered 481",
        );
        // A new one is not over.
        world.subscribe(Subscribe { watcher: "w", ..Subscribe::new("again") });
        says(&mut world, "w", "has not been answered yet");
        answer(&mut world, "again", 408);
        says(&mut world, "w", "a NOTIFY was not answered (408)");
    });
}

#[test]
fn a_timeout_may_leave_the_subscription() {
    let mut world = with(|config| config.timeout_rm_subs = false);
    world.create("presence", "a");
    world.watch("w", "presence");
    answer(&mut world, "w", 408);
    says(&mut world, "w", "was never answered (408)");
}

#[test]
fn a_subscription_has_ended() {
    each_mode(|mut world| {
        world.watch("w", "presence");
        world.subscribe(Subscribe::end("w"));
        says(&mut world, "w", "the watcher has unsubscribed");
        world.subscribe(Subscribe { expires: Some("60"), ..Subscribe::new("brief") });
        world.pass(61);
        says(&mut world, "brief", "expired at 2027-01-15T08:01:00Z: the next timer ends it");
        world.expire();
        says(&mut world, "brief", "subscription ended at 2027-01-15T08:01:01Z: expired");
        world.subscribe(Subscribe::new("blocked"));
        says(&mut world, "blocked", "rejected: the rules block this watcher");
        world.subscribe(Subscribe { expires: Some("0"), ..Subscribe::new("fetcher") });
        says(&mut world, "fetcher", "it was a fetch");
        world.subscribe(Subscribe::refresh("unknown"));
        says(&mut world, "unknown", "the SUBSCRIBE was refused with 481");
        world.subscribe(Subscribe { expires: Some("x"), ..Subscribe::new("wrong") });
        says(&mut world, "wrong", "the SUBSCRIBE was refused with 400");
    });
}

#[test]
fn the_script_or_another_subscription_has_ended_it() {
    let mut world = World::new(Setup { same_call: true, ..Setup::default() });
    world.watch("w", "presence");
    let dialog = DialogId { call_id: b"w", from_tag: b"ft", to_tag: b"tt-w" };
    let token = world.server.store.find_dialog(dialog).unwrap().unwrap();
    notify_reply::end(&world.server, &mut world.host, token, None);
    says(&mut world, "w", "the script has ended it");
    for (mode, cache) in [
        (SubscriptionMode::Memory, PublicationCache::Record),
        (SubscriptionMode::DbOnly, PublicationCache::None),
    ] {
        let mut world = World::new(Setup { same_call: true, mode, cache, ..Setup::stored() });
        world.watch("call", "presence");
        world.subscribe(Subscribe {
            watcher: "another",
            from_tag: "new",
            to_tag: Some("new"),
            ..Subscribe::new("call")
        });
        says(&mut world, "call", "subscribed anew in the same call");
        assert_eq!(ask(&mut world, "another", "presence").count, 1);
    }
}

#[test]
fn a_decision_is_missing_or_old() {
    each_mode(|mut world| {
        world.create("presence", "a");
        world.subscribe(Subscribe::new("pending"));
        says(&mut world, "pending", "pending: no rule names this watcher");
        assert!(world.host.database.is_none() || ask(&mut world, "pending", "presence").count == 1);
        world.host.outside.rules_fail.store(true, SeqCst);
        says(&mut world, "pending", "pending, and the rules cannot be read now");
        world.host.outside.rules_fail.store(false, SeqCst);
        world.subscribe(Subscribe::new("polite"));
        says(&mut world, "polite", "politely blocked");
    });
}

#[test]
fn what_is_decided_by_hand_waits_for_the_next_look() {
    let mut world = World::new(Setup::stored());
    world.subscribe(Subscribe::new("pending"));
    let mut database = world.host.database.clone().unwrap();
    database
        .update("watchers", &[], &[("status", Value::Int(1)), ("reason", Value::Null)])
        .unwrap();
    says(&mut world, "pending", "pending, though it would be active if it was judged now");
    let explanation = ask(&mut world, "pending", "presence");
    let decided = explanation.facts.decider.unwrap().to_string();
    assert_eq!(decided, "the table watchers, by hand: active");
    let (server, host) = (&world.server, &mut world.host);
    watchers::update_watchers(server, host, crate::fakes::PRESENCE, b"alice", b"h", Some(b"rules"))
        .unwrap();
    says(&mut world, "pending", "has not been answered yet");
}

#[test]
fn a_notify_could_not_be_sent() {
    each_mode(|mut world| {
        for (watcher, outcome) in [
            ("nowhere", NotifyOutcome::Failed),
            ("dropped", NotifyOutcome::Dropped),
            ("gone", NotifyOutcome::Gone),
        ] {
            world.host.outcomes.insert(watcher.into(), outcome);
            world.watch(watcher, "presence");
        }
        says(&mut world, "nowhere", "could not be sent: its Contact or route cannot be reached");
        says(&mut world, "dropped", "the script has dropped the last NOTIFY");
        says(&mut world, "gone", "the watcher's connection was gone when a NOTIFY was to be sent");
    });
    let mut world = with(|config| config.timeout_rm_subs = false);
    world.host.outcomes.insert("gone".into(), NotifyOutcome::Gone);
    world.watch("gone", "presence");
    says(&mut world, "gone", "the watcher's connection is gone, and timeout_rm_subs is off");
}

#[test]
fn the_watcher_is_the_publisher() {
    each_mode(|mut world| {
        world.watch("w", "presence");
        answer(&mut world, "w", 200);
        let sender = Some("sip:w@h");
        world.publish(Publish { body: "mine", sender, ..Publish::default() });
        if world.host.database.is_none() || ask(&mut world, "w", "presence").row != "written" {
            says(&mut world, "w", "suppressed: the watcher is the publisher");
        }
    });
}

#[test]
fn the_2xx_has_not_left() {
    let mut world = World::default();
    let mut other = world.fork();
    let seen = Arc::new(std::sync::Mutex::new(String::new()));
    let words = seen.clone();
    let before_reply: Box<dyn FnOnce() + Send> = Box::new(move || {
        *words.lock().unwrap() = ask(&mut other, "w", "presence").verdict.to_string();
    });
    let subscribe = Subscribe { before_reply: Some(before_reply), ..Subscribe::new("w") };
    world.subscribe(subscribe);
    let words = seen.lock().unwrap().clone();
    assert!(words.contains("no NOTIFY may leave before the 2xx has left"), "{words}");
}

#[test]
fn a_notify_is_being_sent() {
    let mut world = World::default();
    let mut other = world.fork();
    let seen = Arc::new(std::sync::Mutex::new(String::new()));
    let words = seen.clone();
    world.host.during_notify.push_back(Box::new(move || {
        *words.lock().unwrap() = ask(&mut other, "w", "presence").verdict.to_string();
    }));
    world.watch("w", "presence");
    let words = seen.lock().unwrap().clone();
    assert!(words.contains("it is being sent at this moment"), "{words}");
}

#[test]
fn memory_for_a_notify_is_missing() {
    each_mode(|mut world| {
        world.create("presence", "a");
        world.host.room = Some(0);
        world.watch("w", "presence");
        says(&mut world, "w", "waits: ");
        let server = world.server.clone();
        let mut queue = RetryQueue::new(&server);
        for shard in 0..server.store.shards() {
            while let Some(lane) = server.store.take_over(shard) {
                queue.serve(&mut world.host, lane, Duration::ZERO);
            }
        }
        says(
            &mut world,
            "w",
            "waits: no shared memory for a NOTIFY: raise -m since 2027-01-15T08:00:00Z, tried again at",
        );
        world.pass(1);
        world.host.room = None;
        assert!(queue.serve_next(&mut world.host, Duration::from_secs(60)));
        says(&mut world, "w", "has not been answered yet");
    });
}

/// The sender processes, once.
fn serve(world: &mut World) {
    let server = world.server.clone();
    let mut queue = RetryQueue::new(&server);
    for shard in 0..server.store.shards() {
        while let Some(lane) = server.store.take_over(shard) {
            queue.serve(&mut world.host, lane, Duration::ZERO);
        }
    }
    // It goes on with the lanes that it keeps.
    std::mem::forget(queue);
}

#[test]
fn the_database_is_away() {
    let setup = Setup { cache: PublicationCache::Hybrid, ..Setup::stored() };
    let mut world = World::new(setup);
    world.watch("w", "presence");
    answer(&mut world, "w", 200);
    let database = world.host.database.clone().unwrap();
    // Documents are read from their rows.
    database.fail_if(|statement| statement.verb == "query");
    database.explain(Statement::Away);
    world.create("presence", "a");
    says(&mut world, "w", "waits: ");
    serve(&mut world);
    says(&mut world, "w", "waits: database away since 2027-01-15T08:00:00Z, tried again at");
    let explanation = ask(&mut world, "w", "presence");
    assert!(
        matches!(explanation.verdict, Verdict::Waits(waiting) if waiting.what == WaitsFor::Database)
    );
}

#[test]
fn rules_cannot_be_read_for_a_document() {
    let mut world = World::new(Setup { restricts: true, ..Setup::default() });
    world.watch("w", "presence");
    answer(&mut world, "w", 200);
    world.host.outside.rules_fail.store(true, SeqCst);
    world.create("presence", "a");
    serve(&mut world);
    let explanation = ask(&mut world, "w", "presence");
    assert!(
        matches!(explanation.verdict, Verdict::Waits(waiting) if waiting.what == WaitsFor::Package),
        "{explanation:?}"
    );
}

#[test]
fn a_sender_has_yet_to_take_it() {
    let mut world = World::default();
    for n in 0..400 {
        world.subscribe(Subscribe::new(&format!("w{n}")));
    }
    world.create("presence", "a");
    let server = world.server.clone();
    let waiting: Vec<_> = (0..400)
        .filter_map(|n| match ask(&mut world, &format!("w{n}"), "presence").verdict {
            Verdict::Waits(waiting) => Some(waiting.what),
            _ => None,
        })
        .collect();
    // A worker notifies a part of them, and leaves the rest.
    assert!(
        !waiting.is_empty() && waiting.iter().all(|what| *what == WaitsFor::Sender),
        "{waiting:?}"
    );
    assert!(server.store.shards() > 0);
    world.send();
    says(&mut world, "w399", "has not been answered yet");
}

#[test]
fn an_end_is_yet_to_be_told() {
    let mut world = World::default();
    world.subscribe(Subscribe { expires: Some("60"), ..Subscribe::new("w") });
    world.pass(61);
    expiry::subscriptions(&world.server, &mut world.host);
    says(
        &mut world,
        "w",
        "ended: expired: it was not refreshed; its last NOTIFY waits: a sender process has yet to take it",
    );
}

#[test]
fn the_first_notify_would_be_empty() {
    let mut world = with(|config| config.send_fast_notify = false);
    world.subscribe(Subscribe { event: Some("message-summary"), ..Subscribe::new("w") });
    let explanation = ask(&mut world, "w", "message-summary");
    assert_eq!(explanation.verdict, Verdict::EmptyFirst, "{explanation:?}");
}

#[test]
fn publications_may_have_expired_or_not_be_the_newest() {
    each_mode(|mut world| {
        world.watch("w", "presence");
        answer(&mut world, "w", 200);
        world.publish(Publish { body: "a", expires: Some("60"), ..Publish::default() });
        answer(&mut world, "w", 200);
        world.pass(61);
        says(&mut world, "w", "no publication that lives: all have expired");
        world.subscribe(Subscribe { event: Some("message-summary"), ..Subscribe::new("mail") });
        world.create("message-summary", "one");
        world.pass(1);
        world.create("message-summary", "two");
        let shown: Vec<Shown> = ask(&mut world, "mail", "message-summary")
            .publications
            .into_iter()
            .map(|(_, shown)| shown)
            .collect();
        assert_eq!(shown, [Shown::Yes, Shown::NotNewest]);
    });
}

#[test]
fn a_row_says_how_it_is() {
    let mut world = World::new(Setup::stored());
    world.watch("w", "presence");
    assert_eq!(ask(&mut world, "w", "presence").row, "not written yet");
    write_back::flush(&world.server, &mut world.host, false);
    assert_eq!(ask(&mut world, "w", "presence").row, "written");
    // Of another server: it is not in this one's memory.
    let mut other = world.beside(Setup::stored());
    says(&mut other, "w", "only in the table: another server or program has written the row");
}

#[test]
fn a_notifier_process_has_yet_to_come() {
    let config: fn(&mut presence::config::Config) = |config| {
        config.notifier_processes = 1;
        config.send_fast_notify = false;
    };
    let setup = Setup {
        mode: SubscriptionMode::DbOnly,
        cache: PublicationCache::None,
        config,
        ..Setup::stored()
    };
    let mut world = World::new(setup);
    world.watch("w", "presence");
    says(&mut world, "w", "waits: a notifier process comes by within");
    for slot in 0..i64::from(notifier_slots::slots_each(&world.server)) {
        flagged_rows::serve(&world.server, &mut world.host, slot);
    }
    says(&mut world, "w", "has not been answered yet");
}

#[test]
fn of_very_many_watchers_one_is_found() {
    let mut world = World::default();
    for n in 0..700 {
        world.subscribe(Subscribe::new(&format!("w{n}")));
    }
    world.send();
    for watcher in ["w0", "w345", "w699"] {
        assert_eq!(ask(&mut world, watcher, "presence").count, 1, "{watcher}");
    }
    says(&mut world, "w700", "has not subscribed");
}

#[test]
fn a_package_that_is_not_there_is_refused() {
    let mut world = World::default();
    let watcher = UriParts { user: b"w", host: b"h" };
    let asked = explain(&world.server, &mut world.host, watcher, watcher, b"nonsense");
    assert!(matches!(asked, Err(presence::service::listing::Refused::Event)));
}

#[test]
fn of_two_ends_in_one_second_the_later_one_counts() {
    let mut world = World::default();
    world.watch("w", "presence");
    answer(&mut world, "w", 481);
    world.subscribe(Subscribe { watcher: "w", ..Subscribe::new("again") });
    world.subscribe(Subscribe { watcher: "w", ..Subscribe::end("again") });
    says(&mut world, "w", "the watcher has unsubscribed");
    world.subscribe(Subscribe { watcher: "w", ..Subscribe::new("third") });
    answer(&mut world, "third", 481);
    says(&mut world, "w", "a NOTIFY was answered 481");
}
