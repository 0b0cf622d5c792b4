//! SUBSCRIBE, and how subscriptions end.

use crate::fakes::{Event, MWI, PRESENCE, Publish, SLA, Setup, Subscribe, World};
use presence::config::{PublicationCache, SubscriptionMode};
use presence::ports::PackageVerdict;
use presence::presence::demands::Demands;
use presence::service::{notify_reply, write_back};
use presence::store::Token;

#[test]
fn a_subscription_lives_and_ends() {
    let mut world = World::default();
    world.create("presence", "a");
    let answer = world.subscribe(Subscribe::new("w"));
    assert_eq!((answer.code, answer.reason, &*answer.expires), (200, "OK", "3600"));
    assert_eq!(answer.headers, "Expires: 3600\r\nContact: <sip:server>\r\n");
    let sent = world.notifies();
    assert_eq!(
        sent[0].headers,
        "Max-Forwards: 70\r\nEvent: presence\r\nContact: <sip:server>\r\n\
         Subscription-State: active;expires=3600\r\nContent-Type: application/pidf+xml\r\n"
    );
    assert_eq!((sent.len(), &*sent[0].brief()), (1, "w 2 active a"));
    let moved = Subscribe { expires: Some("60"), contact_host: "new", ..Subscribe::refresh("w") };
    assert_eq!(world.subscribe(moved).expires, "60");
    let sent = world.notifies();
    assert_eq!((&*sent[0].brief(), &*sent[0].contact), ("w 3 active a", "sip:w@new"));
    assert!(sent[0].headers.contains("active;expires=60\r\n"));
    let answer = world.subscribe(Subscribe::end("w"));
    assert_eq!((answer.code, &*answer.expires), (200, "0"));
    assert_eq!(world.seen(), ["w 4 terminated;reason=timeout a"], "with the state (B13)");
    assert_eq!(world.subscribe(Subscribe::refresh("w")).code, 481);
    assert_eq!(world.watchers("alice", PRESENCE), 0);
}

#[test]
fn everything_goes_when_all_is_over() {
    let mut world = World::default();
    let tag = world.create("presence", "a");
    world.watch("w", "presence");
    world.watch("x", "presence.winfo");
    world.watch("y", "message-summary");
    world.subscribe(Subscribe { expires: Some("0"), user: "bob", ..Subscribe::new("fetch") });
    world.remove("presence", &tag);
    world.subscribe(Subscribe::end("w"));
    world.pass(4000);
    world.expire();
    world.assert_empty();
}

#[test]
fn a_fetch_stores_nothing() {
    let mut world = World::default();
    world.create("presence", "a");
    let fetch = |watcher| Subscribe { watcher, expires: Some("0"), ..Subscribe::new("f") };
    for (watcher, seen) in [
        ("w", "f 1 terminated;reason=timeout a"),
        ("pending", "f 1 terminated;reason=timeout"),
        ("polite", "f 1 terminated;reason=timeout"),
        ("blocked", "f 1 terminated;reason=rejected"),
    ] {
        assert_eq!(world.subscribe(fetch(watcher)).code, 200);
        assert_eq!(world.seen(), [seen]);
    }
    assert_eq!(world.watchers("alice", PRESENCE), 0);
}

#[test]
fn a_subscription_that_runs_out_is_told_so_once() {
    let mut world =
        World::new(Setup { config: |config| config.expires_offset = 5, ..Setup::default() });
    world.create("presence", "a");
    world.subscribe(Subscribe { expires: Some("10"), ..Subscribe::new("w") });
    world.seen();
    world.pass(15);
    world.expire();
    world.create("presence", "b");
    assert_eq!(world.seen(), [""; 0], "its end is delayed, and its last second is not over");
    world.pass(1);
    world.expire();
    world.expire();
    assert_eq!(world.seen(), ["w 3 terminated;reason=timeout"]);
    assert_eq!(world.subscribe(Subscribe::refresh("w")).code, 481);
}

#[test]
fn a_late_refresh_is_accepted_until_the_watcher_is_told() {
    let mut world = World::default();
    world.subscribe(Subscribe { expires: Some("10"), ..Subscribe::new("w") });
    world.watch("winfo", "presence.winfo");
    world.seen();
    world.pass(11);
    // The timer has run, the sender processes have not.
    presence::service::expiry::subscriptions(&world.server, &mut world.host);
    assert_eq!(world.watchers("alice", PRESENCE), 0);
    assert_eq!(world.subscribe(Subscribe::refresh("w")).code, 200);
    world.send();
    let seen = world.seen();
    assert!(seen.iter().all(|line| !line.contains("terminated")), "{seen:?}");
    let winfo = seen.iter().rfind(|line| line.starts_with("winfo")).unwrap();
    assert!(winfo.contains("sip:w@h"), "its watchers know that it lives: {winfo}");
    world.create("presence", "a");
    assert!(world.seen().iter().any(|line| line.ends_with("active a")));
}

#[test]
fn requests_that_do_not_fit_are_refused() {
    let mut world =
        World::new(Setup { config: |config| config.min_expires = 60, ..Setup::default() });
    let cseq = Some(10);
    world.subscribe(Subscribe { cseq, ..Subscribe::new("w") });
    world.seen();
    let w = |cseq| Subscribe { cseq: Some(cseq), ..Subscribe::refresh("w") };
    for (code, request) in [
        (481, Subscribe::refresh("other")),
        (481, Subscribe { event: Some("message-summary"), ..w(11) }),
        (481, Subscribe { event: Some("presence;id=7"), ..w(11) }),
        (500, w(9)),
        (500, Subscribe { expires: Some("0"), ..w(9) }),
        (423, Subscribe { expires: Some("59"), ..w(11) }),
        (423, Subscribe { expires: Some("59"), ..Subscribe::new("x") }),
        (400, Subscribe { expires: Some("-1"), ..w(11) }),
        (400, Subscribe { event: Some("presence;=x"), ..w(11) }),
        (489, Subscribe { event: Some("x"), ..Subscribe::new("x") }),
        (489, Subscribe { event: None, ..Subscribe::new("x") }),
        (489, Subscribe { event: Some("dialog;ma"), ..Subscribe::new("x") }),
        (500, Subscribe { verdict: PackageVerdict::Refused { replied: false }, ..w(11) }),
        (0, Subscribe { verdict: PackageVerdict::Refused { replied: true }, ..w(11) }),
    ] {
        let answer = world.subscribe(request);
        assert_eq!((answer.code, answer.served.is_accepted()), (code, false), "{answer:?}");
        assert_eq!(answer.code == 489, answer.headers.contains("Allow-Events: "));
        assert_eq!(answer.code == 423, answer.headers == "Min-Expires: 60\r\n");
    }
    assert_eq!(world.seen(), [""; 0]);
    assert_eq!(world.subscribe(w(11)).code, 200);
    assert_eq!(world.seen(), ["w 3 active offline"]);
}

#[test]
fn cseq_may_be_as_low_as_the_offset_says() {
    let mut world =
        World::new(Setup { config: |config| config.cseq_offset = 2, ..Setup::default() });
    let w = |cseq| Subscribe { cseq: Some(cseq), ..Subscribe::refresh("w") };
    world.subscribe(Subscribe { in_dialog: false, ..w(10) });
    assert_eq!(world.subscribe(w(9)).code, 200);
    assert_eq!(world.subscribe(w(8)).code, 500, "it counts from the highest");
}

#[test]
fn the_event_id_is_echoed() {
    let mut world = World::default();
    let event = Some("presence; id=7;x=y");
    world.subscribe(Subscribe { event, ..Subscribe::new("w") });
    assert!(world.notifies()[0].headers.contains("\r\nEvent: presence;id=7\r\n"));
    assert_eq!(world.subscribe(Subscribe { event, ..Subscribe::refresh("w") }).code, 200);
    assert_eq!(world.subscribe(Subscribe::refresh("w")).code, 200, "a missing id is accepted");
    let other = Some("presence;id=8");
    assert_eq!(world.subscribe(Subscribe { event: other, ..Subscribe::refresh("w") }).code, 481);
}

#[test]
fn the_shared_line_package_is_the_more_specific_one() {
    let mut world = World::default();
    world.watch("w", "dialog;id=1;sla");
    assert!(world.notifies()[0].headers.contains("\r\nEvent: dialog;sla;id=1\r\n"));
    assert_eq!(world.watchers("alice", SLA), 1);
}

#[test]
fn a_blocked_watcher_is_told_and_forgotten() {
    let mut world = World::default();
    world.create("presence", "a");
    let answer = world.subscribe(Subscribe { watcher: "blocked", ..Subscribe::new("w") });
    assert_eq!(answer.code, 200);
    assert_eq!(world.seen(), ["w 1 terminated;reason=rejected"]);
    assert_eq!(world.watchers("alice", PRESENCE), 0);
    assert_eq!(world.subscribe(Subscribe::refresh("w")).code, 481);
}

#[test]
fn a_blocked_watcher_is_told_even_if_nothing_can_be_composed() {
    let mut world = World::new(Setup::stored());
    world.create("presence", "a");
    world.host.database.as_ref().unwrap().fail_if(|statement| {
        statement.verb == "query"
            && statement.texts.contains(&&b"presence"[..])
            && !statement.texts.contains(&&b"blocked"[..])
    });
    world.subscribe(Subscribe { watcher: "blocked", ..Subscribe::new("w") });
    assert_eq!(world.seen(), ["w 1 terminated;reason=rejected"]);
}

#[test]
fn who_may_not_see_gets_no_document() {
    let mut world = World::default();
    let tag = world.create("presence", "a");
    world.subscribe(Subscribe { watcher: "pending", ..Subscribe::new("w") });
    world.subscribe(Subscribe { watcher: "polite", ..Subscribe::new("p") });
    world.remove("presence", &tag);
    world.create("presence", "b");
    for call in ["w", "p"] {
        world.subscribe(Subscribe::refresh(call));
        world.subscribe(Subscribe::end(call));
    }
    let expected = [
        "w 2 pending",
        "p 2 active",
        "w 3 pending",
        "w 4 terminated;reason=timeout",
        "p 3 active",
        "p 4 terminated;reason=timeout",
    ];
    assert_eq!(world.seen(), expected);
}

#[test]
fn an_empty_first_notify_can_be_left_out() {
    let mut world =
        World::new(Setup { config: |config| config.send_fast_notify = false, ..Setup::default() });
    world.watch("w", "message-summary");
    world.watch("p", "presence");
    assert_eq!(world.seen(), ["p 2 active offline"], "presence has a winfo peer (B28)");
    world.create("message-summary", "1");
    world.watch("v", "message-summary");
    assert_eq!(world.seen(), ["w 2 active 1", "v 2 active 1"]);
    let mut world =
        World::new(Setup { config: |config| config.send_fast_notify = false, ..Setup::default() });
    world.watch("w", "message-summary");
    let end = Subscribe { event: Some("message-summary"), ..Subscribe::end("w") };
    world.subscribe(end);
    assert_eq!(world.seen(), ["w 2 terminated;reason=timeout"], "the last one never is");
    assert_eq!(world.watchers("alice", MWI), 0);
}

#[test]
fn no_notify_leaves_before_the_2xx() {
    let mut world = World::default();
    world.watch("v", "presence");
    world.events();
    let mut other = world.fork();
    let before_reply: Box<dyn FnOnce() + Send> = Box::new(move || {
        let tag = other.create("presence", "a");
        other.modify("presence", &tag, "b");
        other.send();
        // However long the reply takes.
        other.pass(20);
        other.expire();
    });
    let expires = Some("10");
    world.subscribe(Subscribe { expires, before_reply: Some(before_reply), ..Subscribe::new("w") });
    let events = world.events();
    let of_w = |event: &Event| match event {
        Event::Notify(sent) => sent.call_id == "w",
        Event::Reply(_) => false,
    };
    let first = events.iter().position(of_w).unwrap();
    assert!(events[..first].ends_with(&[Event::Reply(200)]), "{events:?}");
    let Event::Notify(sent) = &events[first] else { unreachable!() };
    assert_eq!(sent.brief(), "w 2 active b");
}

#[test]
fn unsubscribing_waits_for_its_2xx_too() {
    let mut world = World::default();
    world.watch("w", "presence");
    world.events();
    let mut other = world.fork();
    let before_reply: Box<dyn FnOnce() + Send> = Box::new(move || {
        other.create("presence", "a");
        other.expire();
    });
    world.subscribe(Subscribe { before_reply: Some(before_reply), ..Subscribe::end("w") });
    let events = world.events();
    assert_eq!(&events[..2], [Event::Reply(200), Event::Reply(200)], "{events:?}");
    let Event::Notify(sent) = &events[2] else { panic!("{events:?}") };
    assert_eq!(sent.brief(), "w 3 terminated;reason=timeout a");
}

#[test]
fn a_subscription_whose_reply_never_leaves_does_not_stay() {
    let mut world = World::default();
    for request in [Subscribe::new("w"), Subscribe::end("v")] {
        if request.in_dialog {
            world.watch("v", "presence");
        }
        let mut other = world.fork();
        let before_reply: Box<dyn FnOnce() + Send> = Box::new(|| panic!("as a bug would"));
        let request = Subscribe { before_reply: Some(before_reply), ..request };
        let doomed = std::panic::AssertUnwindSafe(move || drop(other.subscribe(request)));
        std::panic::catch_unwind(doomed).unwrap_err();
    }
    world.pass(4000);
    world.expire();
    world.assert_empty();
}

#[test]
fn a_retransmission_gets_the_same_answer_and_changes_nothing() {
    let mut world = World::default();
    for request in [Subscribe::new, Subscribe::refresh, Subscribe::end] {
        world.pass(1);
        let first = world.subscribe(Subscribe { cseq: Some(world.now() as u32), ..request("w") });
        let seen = world.seen();
        assert_eq!((first.code, seen.len()), (200, 1));
        let again = world.subscribe(Subscribe { cseq: Some(world.now() as u32), ..request("w") });
        assert_eq!((again, world.seen().len()), (first, 0));
    }
    world.assert_empty();
}

#[test]
fn a_dialog_is_stored_once_even_if_its_first_request_comes_again_late() {
    let mut world = World::default();
    let first = || Subscribe { cseq: Some(1), ..Subscribe::new("w") };
    world.subscribe(first());
    world.pass(40);
    assert_eq!(world.subscribe(first()).code, 200);
    assert_eq!(world.watchers("alice", PRESENCE), 1);
    world.create("presence", "a");
    assert_eq!(world.seen(), ["w 2 active offline", "w 3 active offline", "w 4 active a"]);
    world.subscribe(Subscribe { cseq: Some(2), ..Subscribe::end("w") });
    assert_eq!(world.watchers("alice", PRESENCE), 0);
}

/// The host makes the To tag of Call-ID and Via, branch included: a watcher that
/// always sends the same ones gets the same dialog again.
#[test]
fn a_watcher_that_has_forgotten_its_to_tag_goes_on() {
    let stored = |mode| Setup { mode, ..Setup::stored() };
    for (setup, has_rows) in [
        (Setup::default(), false),
        (stored(SubscriptionMode::WriteBack), false),
        (stored(SubscriptionMode::WriteThrough), true),
        (stored(SubscriptionMode::DbOnly), true),
    ] {
        let mut world = World::new(setup);
        world.subscribe(Subscribe { cseq: Some(1), ..Subscribe::new("w") });
        world.notifies();
        world.pass(500);
        let again = Subscribe { cseq: Some(5), contact_host: "new", ..Subscribe::new("w") };
        assert_eq!(world.subscribe(again).code, 200);
        let sent = world.notifies();
        assert_eq!(sent.len(), 1);
        let mode = world.server.config.subs_db_mode;
        assert_eq!((&*sent[0].contact, sent[0].cseq), ("sip:w@new", 3), "{mode:?}");
        assert!(sent[0].headers.contains("active;expires=3600"), "{}", sent[0].headers);
        if has_rows {
            let database = world.host.database.as_ref().unwrap();
            assert_eq!(database.column("active_watchers", "contact"), ["sip:w@new"]);
            assert_eq!(database.column("active_watchers", "remote_cseq"), ["5"]);
        }
        // An older one changes nothing.
        world.subscribe(Subscribe { cseq: Some(4), ..Subscribe::new("w") });
        assert_eq!(world.notifies()[0].contact, "sip:w@new");
        world.subscribe(Subscribe { cseq: Some(6), ..Subscribe::end("w") });
        assert!(world.notifies()[0].state.starts_with("terminated"));
        world.expire();
        world.send();
        write_back::flush(&world.server, &mut world.host, false);
        world.assert_empty();
    }
}

fn all_modes() -> [Setup; 4] {
    let stored = |mode| Setup { mode, ..Setup::stored() };
    [
        Setup::default(),
        stored(SubscriptionMode::WriteBack),
        stored(SubscriptionMode::WriteThrough),
        stored(SubscriptionMode::DbOnly),
    ]
}

/// The host makes To tags of Call-ID and branch, so a client can have two
/// SUBSCRIBEs with one dialog id. The first one's subscription stays as it is.
#[test]
fn a_dialog_id_is_one_subscription() {
    for setup in all_modes() {
        let mut world = World::new(setup);
        let mode = world.server.config.subs_db_mode;
        world.subscribe(Subscribe { cseq: Some(10), ..Subscribe::new("w") });
        world.seen();
        let again = |cseq| Subscribe { cseq: Some(cseq), ..Subscribe::new("w") };
        let users: Vec<String> = (0..50).map(|n| format!("u{n}")).collect();
        for (n, user) in (11..).zip(&users) {
            assert_eq!(world.subscribe(Subscribe { user, ..again(n) }).code, 481, "{mode:?}");
        }
        for (n, request) in (100..).zip([
            Subscribe { event: Some("message-summary"), ..again(0) },
            Subscribe { event: Some("presence;id=2"), ..again(0) },
            Subscribe { user: "bob", expires: Some("0"), ..again(0) },
            Subscribe { user: "bob", watcher: "blocked", ..again(0) },
        ]) {
            let answer = world.subscribe(Subscribe { cseq: Some(n), ..request });
            assert_eq!(answer.code, 481, "{mode:?} {n}");
        }
        assert_eq!(world.seen(), [""; 0], "{mode:?}");
        assert_eq!(
            world.subscribe(Subscribe { cseq: Some(11), ..Subscribe::refresh("w") }).code,
            200
        );
        assert_eq!(world.seen(), ["w 3 active offline"], "{mode:?}");
        // The same without its To tag, and no time: it ends what there is.
        assert_eq!(world.subscribe(Subscribe { expires: Some("0"), ..again(12) }).code, 200);
        assert_eq!(world.seen(), ["w 4 terminated;reason=timeout offline"], "{mode:?}");
        world.expire();
        write_back::flush(&world.server, &mut world.host, false);
        world.assert_empty();
    }
}

/// Presentities lie in many shards: who asks first for a dialog id has it.
#[test]
fn racing_requests_share_no_dialog_id() {
    let world = World::new(Setup { shards: 16, ..Setup::default() });
    let accepted: usize = std::thread::scope(|scope| {
        let racers: Vec<_> = (0..4)
            .map(|racer| {
                let mut world = world.fork();
                scope.spawn(move || {
                    let user = format!("u{racer}");
                    let calls: Vec<String> = (0..200).map(|n| format!("c{n}")).collect();
                    let mut answers = calls.iter().map(|call| {
                        let request = Subscribe {
                            user: &user,
                            cseq: Some(racer + 1),
                            ..Subscribe::new(call)
                        };
                        world.subscribe(request).code
                    });
                    answers.by_ref().filter(|code| *code == 200).count()
                })
            })
            .collect();
        racers.into_iter().map(|racer| racer.join().unwrap()).sum()
    });
    assert_eq!(accepted, 200);
}

/// `delete_same_subs`: a client that has forgotten its To tag can still end what
/// it started, and nobody else's.
#[test]
fn an_end_without_a_to_tag_ends_what_its_call_started() {
    for setup in all_modes() {
        let config = |config: &mut presence::config::Config| config.delete_same_subs = true;
        let mut world = World::new(Setup { same_call: true, config, ..setup });
        let mode = world.server.config.subs_db_mode;
        world.watch("w", "presence");
        world.watch("other", "presence");
        world.seen();
        let end = |user| Subscribe { user, expires: Some("0"), ..Subscribe::new("w") };
        let other_branch = Some("tt-branch");
        for (user, from_tag, left) in [("alice", "x", 2), ("bob", "ft", 2), ("alice", "ft", 1)] {
            let request = Subscribe { from_tag, to_tag: other_branch, ..end(user) };
            assert_eq!(world.subscribe(request).code, 200, "{mode:?}");
            assert_eq!(world.seen(), ["w 1 terminated;reason=timeout offline"], "{mode:?}");
            assert_eq!(world.watchers("alice", PRESENCE), left, "{mode:?}");
        }
        assert_eq!(world.subscribe(Subscribe::refresh("w")).code, 481);
        assert_eq!(world.subscribe(Subscribe::refresh("other")).code, 200);
    }
}

/// The index keeps one entry of the call, however often it comes.
#[test]
fn the_call_of_a_subscription_is_indexed_once() {
    let mut world = World::new(Setup { same_call: true, ..Setup::default() });
    for cseq in 1..300 {
        world.subscribe(Subscribe { cseq: Some(cseq), ..Subscribe::new("w") });
        let other = Subscribe { from_tag: "b", user: "bob", ..Subscribe::new("w") };
        world.subscribe(Subscribe { cseq: Some(cseq), ..other });
    }
    for (user, from_tag) in [("alice", "ft"), ("bob", "b")] {
        world.subscribe(Subscribe { cseq: Some(400), user, from_tag, ..Subscribe::end("w") });
    }
    world.expire();
    world.assert_empty();
}

#[test]
fn a_call_can_have_one_subscription() {
    let mut world = World::new(Setup { same_call: true, ..Setup::default() });
    world.watch("v", "presence");
    for from_tag in ["1", "2", "3"] {
        world.subscribe(Subscribe { from_tag, ..Subscribe::new("w") });
    }
    assert_eq!(world.watchers("alice", PRESENCE), 2);
    world.seen();
    world.create("presence", "a");
    assert_eq!(world.seen(), ["v 3 active a", "w 3 active a"]);
    assert_eq!(world.subscribe(Subscribe { from_tag: "2", ..Subscribe::refresh("w") }).code, 481);
}

#[test]
fn an_answer_can_end_a_subscription() {
    let mut world = World::default();
    world.watch("winfo", "presence.winfo");
    for (code, left) in [(200, 1), (500, 1), (408, 0), (481, 0)] {
        let call = format!("w{code}");
        world.watch(&call, "presence");
        world.send();
        let sent = world.notifies();
        let sent = sent.iter().find(|sent| sent.call_id == call).unwrap();
        let token = Token::from_number(sent.token).unwrap();
        for _ in 0..2 {
            notify_reply::handle(&world.server, &mut world.host, token, None, code, false);
        }
        assert_eq!(world.watchers("alice", PRESENCE), left);
        world.send();
        let winfo = world.seen().concat();
        assert_eq!(winfo.contains("status=\"terminated\""), left == 0, "{winfo}");
        world.subscribe(Subscribe::end(&call));
        world.events();
    }
}

#[test]
fn a_stale_token_ends_nothing() {
    let mut world = World::default();
    world.watch("w", "presence");
    let token = Token::from_number(world.notifies()[0].token).unwrap();
    world.subscribe(Subscribe::end("w"));
    world.watch("v", "presence");
    world.seen();
    notify_reply::handle(&world.server, &mut world.host, token, None, 481, false);
    assert_eq!(world.watchers("alice", PRESENCE), 1);
    assert!(world.server.store.release_subscription(token).is_none());
}

#[test]
fn a_failing_package_is_tried_again_by_the_senders() {
    let mut world = World::new(Setup { database: Some(Default::default()), ..Setup::stored() });
    world.create("presence", "a");
    let database = world.host.database.clone().unwrap();
    world.watch("w", "presence");
    world.seen();
    database.fail_if(|statement| statement.verb == "query");
    assert_eq!(world.publish(Publish { body: "b", ..Publish::default() }).code, 200);
    world.send_step();
    assert_eq!(world.seen(), [""; 0]);
    database.work_again();
    world.send();
    assert_eq!(world.seen(), ["w 3 active a+b"]);
}

#[test]
fn watchers_who_need_nothing_do_not_keep_the_lane_busy() {
    // About as many as are looked at in one go.
    for watchers in 120..136 {
        let mut world = World::default();
        for n in 0..watchers {
            world.subscribe(Subscribe { watcher: "pending", ..Subscribe::new(&format!("w{n}")) });
        }
        world.create("presence", "a");
        world.seen();
        world.send();
        world.watch("w", "presence");
        assert_eq!(world.seen(), ["w 2 active a"]);
    }
}

#[test]
fn a_large_audience_is_served_by_the_senders() {
    let mut world = World::default();
    let watchers = 700;
    for n in 0..watchers {
        let watcher = if n % 2 == 0 { "pending" } else { "w" };
        world.subscribe(Subscribe { watcher, ..Subscribe::new(&format!("w{n}")) });
    }
    world.seen();
    world.create("presence", "a");
    let at_once = world.seen().len();
    assert!(at_once <= 160, "a worker is kept from its requests: {at_once}");
    world.send();
    assert_eq!(at_once + world.seen().len(), watchers / 2);
}

#[test]
fn nobody_is_too_long_to_be_blocked() {
    use presence::presence::subscription::{Authorization, Status};
    use presence::service::subscriptions::{self, WatcherRef};
    let mut world = World::default();
    let mut host = "h".repeat(32_767);
    while world.subscribe(Subscribe { contact_host: &host, ..Subscribe::new("w") }).code != 200 {
        host.pop();
    }
    world.create("presence", "a");
    world.send();
    world.events();
    let key = world.key("alice", crate::fakes::PRESENCE);
    let mut token = None;
    world.server.store.each_watcher(&key, world.now(), |t, _| token = Some(t));
    let no = Authorization { status: Status::Terminated, reason: b"rejected".to_vec() };
    let watching = WatcherRef::Record(token.unwrap());
    let done = subscriptions::decide(&world.server, &mut world.host, &key, &watching, &no);
    world.create("presence", "secret");
    world.send();
    assert_eq!(
        done,
        Ok(true),
        "and it goes on to see {:?}",
        world.notifies().iter().map(|s| s.body.clone()).collect::<Vec<_>>()
    );
}

#[test]
fn b47_demands_that_cannot_be_met_are_refused() {
    let values = |list: &'static [&'static str]| list.iter().map(|v| v.as_bytes()).collect();
    let mut world = World::default();
    world.watch("w", "presence");
    for (code, headers, demands) in [
        (420, "Unsupported: x\r\n", Demands { require: values(&["x"]), ..Demands::default() }),
        (
            415,
            "Accept-Encoding: identity\r\n",
            Demands { content_encoding: values(&["gzip"]), ..Demands::default() },
        ),
        (406, "", Demands { accept: values(&["text/plain"]), ..Demands::default() }),
        (400, "", Demands { second_contact: true, ..Demands::default() }),
    ] {
        for it in [Subscribe::new("other"), Subscribe::refresh("w")] {
            let answer = world.subscribe(Subscribe { demands: demands.clone(), ..it });
            assert_eq!((answer.code, &*answer.headers), (code, headers));
        }
        // Contact and Accept of a PUBLISH mean nothing.
        let answer = world.publish(Publish { body: "a", demands, ..Publish::default() });
        assert_eq!(answer.code, if matches!(code, 400 | 406) { 200 } else { code });
    }
    let late = Subscribe { cseq: Some(1 << 31), ..Subscribe::refresh("w") };
    assert_eq!(world.subscribe(late).code, 400);
    let late = Publish { body: "a", cseq: Some(u32::MAX), ..Publish::default() };
    assert_eq!(world.publish(late).code, 400);
    // Whoever has no such dialog has to know that first.
    let bad = || Demands { accept: values(&["text/plain"]), ..Demands::default() };
    let other = Subscribe { event: Some("message-summary"), ..Subscribe::refresh("w") };
    for it in [Subscribe::refresh("nobody"), other] {
        assert_eq!(world.subscribe(Subscribe { demands: bad(), ..it }).code, 481);
    }
    // Winfo has a type of its own; who leaves is let go.
    let accept = || Demands { accept: values(&["application/pidf+xml"]), ..Demands::default() };
    let winfo =
        |demands| Subscribe { event: Some("presence.winfo"), demands, ..Subscribe::new("i") };
    assert_eq!(world.subscribe(winfo(accept())).code, 406);
    let end = Subscribe {
        demands: Demands { accept: values(&["text/plain"]), ..accept() },
        ..Subscribe::end("w")
    };
    assert_eq!(world.subscribe(end).code, 200);
}

#[test]
fn a_contact_that_is_too_long_is_the_request_s_fault() {
    for mode in [SubscriptionMode::Memory, SubscriptionMode::DbOnly] {
        let mut world = match mode {
            SubscriptionMode::Memory => World::default(),
            _ => World::new(Setup {
                database: Some(Default::default()),
                cache: PublicationCache::None,
                mode,
                ..Setup::default()
            }),
        };
        world.watch("w", "presence");
        let long = "h".repeat(20_000);
        for it in [Subscribe::new("other"), Subscribe::refresh("w")] {
            let answer = world.subscribe(Subscribe { contact_host: &long, ..it });
            assert_eq!((answer.code, answer.reason), (400, "Header Fields Too Long"), "{mode:?}");
        }
        assert_eq!(world.subscribe(Subscribe::refresh("w")).code, 200, "{mode:?}");
    }
}
