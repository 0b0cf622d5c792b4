//! PUBLISH with publications in memory.

use crate::fakes::{Answered, Event, Publish, Setup, Subscribe, World, dialog};
use presence::ports::PackageVerdict;

/// Does something in another process while the next NOTIFY is being sent.
fn meanwhile(world: &mut World, work: impl FnOnce(&mut World) + Send + 'static) {
    let mut other = world.fork();
    world.host.during_notify.push_back(Box::new(move || work(&mut other)));
}

fn refused(world: &mut World, publish: Publish<'_>, code: u16) -> Answered {
    let before = world.documents("alice", crate::fakes::PRESENCE);
    let answer = world.publish(publish);
    assert_eq!((answer.code, answer.served.is_accepted()), (code, false), "{answer:?}");
    assert_eq!(world.documents("alice", crate::fakes::PRESENCE), before);
    assert_eq!(world.seen(), [""; 0]);
    answer
}

#[test]
fn a_publication_lives_and_ends() {
    let mut world = World::default();
    world.watch("w", "presence");
    assert_eq!(world.seen(), ["w 2 active offline"]);
    let tag = world.create("presence", "a");
    assert_eq!(world.seen(), ["w 3 active a"]);
    let tag = world.modify("presence", &tag, "b");
    assert_eq!(world.seen(), ["w 4 active b"]);
    let answer = world.publish(Publish { tag: Some(&tag), ..Publish::default() });
    assert_eq!((answer.code, &*answer.expires), (200, "3600"));
    assert_ne!(answer.tag, tag);
    assert_eq!(world.seen(), [""; 0], "a refresh changes nothing (B7)");
    let other = world.create("presence", "c");
    assert_eq!(world.seen(), ["w 5 active b+c"]);
    world.remove("presence", &answer.tag);
    assert_eq!(world.seen(), ["w 6 active closed(b)+c"]);
    world.remove("presence", &other);
    assert_eq!(world.seen(), ["w 7 active closed(c)"]);
    world.create("presence", "d");
    assert_eq!(world.seen(), ["w 8 active d"], "closing is shown once");
}

#[test]
fn the_reply_leaves_before_the_notify() {
    let mut world = World::default();
    world.watch("w", "presence");
    world.events();
    world.create("presence", "a");
    let events = world.events();
    assert!(matches!(&events[..], [Event::Reply(200), Event::Notify(_)]), "{events:?}");
}

#[test]
fn a_package_that_does_not_aggregate_shows_the_newest() {
    let mut world = World::default();
    let first = world.create("message-summary", "a");
    let second = world.create("message-summary", "b");
    world.watch("w", "message-summary");
    assert_eq!(world.seen(), ["w 2 active b"]);
    let second = world.publish(Publish {
        event: Some("message-summary"),
        tag: Some(&second),
        ..Publish::default()
    });
    // Neither does a refresh of an older one change what is shown.
    let refresh =
        Publish { event: Some("message-summary"), tag: Some(&first), ..Publish::default() };
    let first = world.publish(refresh).tag;
    world.subscribe(Subscribe {
        event: Some("message-summary"),
        expires: Some("0"),
        ..Subscribe::new("fetch")
    });
    assert_eq!(world.seen(), ["fetch 1 terminated;reason=timeout b"]);
    world.remove("message-summary", &second.tag);
    assert_eq!(world.seen(), ["w 3 active a"]);
    world.remove("message-summary", &first);
    assert_eq!(world.seen(), ["w 4 active"]);
}

#[test]
fn unknown_tags_are_refused_and_change_nothing() {
    let mut world = World::default();
    let old = world.create("presence", "a");
    let tag = world.modify("presence", &old, "b");
    for unknown in ["x", "a.1.2.3.4", &old] {
        for (body, expires) in [("c", None), ("", None), ("", Some("0"))] {
            let tag = Some(unknown);
            refused(&mut world, Publish { tag, body, expires, ..Publish::default() }, 412);
        }
    }
    refused(&mut world, Publish { user: "bob", tag: Some(&tag), ..Publish::default() }, 412);
    let event = Some("message-summary");
    refused(&mut world, Publish { event, tag: Some(&tag), body: "c", ..Publish::default() }, 412);
    world.remove("presence", &tag);
    refused(&mut world, Publish { tag: Some(&tag), ..Publish::default() }, 412);
    world.expire();
    world.assert_empty();
}

#[test]
fn the_first_tag_that_comes_is_the_only_one_of_concurrent_updates() {
    let setup = Setup { mode: presence::config::SubscriptionMode::Memory, ..Setup::stored() };
    let mut world = World::new(setup.clone());
    let tag = world.create("presence", "a");
    // While the row is being updated somebody else uses the same tag.
    let mut other = world.fork();
    let same = tag.clone();
    let mut once = Some(move || {
        let publish = Publish { tag: Some(&same), body: "c", ..Publish::default() };
        assert_eq!(other.publish(publish).code, 412);
    });
    setup.database.unwrap().fail_if(move |statement| {
        if statement.verb == "update"
            && let Some(once) = once.take()
        {
            // Not under the fake's own lock.
            std::thread::spawn(once).join().unwrap();
        }
        false
    });
    let tag = world.modify("presence", &tag, "b");
    world.remove("presence", &tag);
    world.assert_empty();
}

#[test]
fn malformed_requests_are_refused() {
    let mut world = World::default();
    let tag = world.create("presence", "a");
    let body = "b";
    let bad = |publish| Publish { body: "b", ..publish };
    refused(&mut world, Publish::default(), 400);
    refused(&mut world, bad(Publish { expires: Some("x"), ..Publish::default() }), 400);
    refused(&mut world, bad(Publish { event: Some(";x"), ..Publish::default() }), 400);
    for event in [None, Some(""), Some("foo"), Some("presence.winfo"), Some("dialog;ma")] {
        let answer = refused(&mut world, bad(Publish { event, ..Publish::default() }), 489);
        let allowed = "Allow-Events: dialog;sla, dialog, message-summary, presence.winfo, presence";
        assert!(answer.headers.contains(allowed), "{answer:?}");
    }
    let content_type = Some("text/plain");
    for tag in [None, Some(&*tag)] {
        let publish = Publish { tag, content_type, body, ..Publish::default() };
        let answer = refused(&mut world, publish, 415);
        assert_eq!(answer.headers, "Accept: application/pidf+xml\r\n");
    }
    let verdict = PackageVerdict::Refused { replied: false };
    refused(&mut world, bad(Publish { verdict, ..Publish::default() }), 415);
    let verdict = PackageVerdict::Refused { replied: true };
    refused(&mut world, bad(Publish { verdict, ..Publish::default() }), 0);
    world.remove("presence", &tag);
}

#[test]
fn lifetimes_follow_the_policy() {
    let mut world = World::new(Setup {
        config: |config| (config.min_expires, config.expires_offset) = (60, 10),
        ..Setup::default()
    });
    let body = "a";
    for (expires, announced) in [(None, "3590"), (Some("99999999999"), "3590"), (Some("60"), "50")]
    {
        let answer = world.publish(Publish { expires, body, ..Publish::default() });
        assert_eq!((answer.code, &*answer.expires), (200, announced));
    }
    let expires = Some("59");
    let answer = refused(&mut world, Publish { expires, body, ..Publish::default() }, 423);
    assert_eq!(answer.headers, "Min-Expires: 60\r\n");
    let tag = world.create("presence", "b");
    let tag = Some(&*tag);
    refused(&mut world, Publish { tag, expires, ..Publish::default() }, 423);
    // A change of state is never too brief (B5), and never told 0 (B6).
    let answer = world.publish(Publish { tag, expires: Some("8"), body, ..Publish::default() });
    assert_eq!((answer.code, &*answer.expires), (200, "4"));
}

#[test]
fn a_new_publication_of_a_dialog_replaces_the_old_one() {
    let mut world = World::default();
    world.watch("w", "dialog");
    let old = world.create("dialog", &dialog("x", "early"));
    world.create("dialog", &dialog("y", "early"));
    world.seen();
    let new = world.create("dialog", &dialog("x", "confirmed"));
    assert_eq!(world.seen(), ["w 5 active y:early+x:confirmed"]);
    let body = &*dialog("x", "terminated");
    let event = Some("dialog");
    let gone = Publish { event, tag: Some(&old), body, ..Publish::default() };
    assert_eq!(world.publish(gone).code, 412);
    // The tag handed out for a final state exists (D15).
    let tag = world.modify("dialog", &new, body);
    let tag = world.modify("dialog", &tag, &dialog("x", "early"));
    world.remove("dialog", &tag);
    let expected = [
        "w 6 active y:early+x:terminated",
        // It is over, whatever comes late (B44).
        "w 7 active y:early+x:terminated",
        "w 8 active closed(x:terminated)+y:early",
    ];
    assert_eq!(world.seen(), expected);
}

#[test]
fn only_its_owner_clears_a_shared_line() {
    let mut world = World::default();
    let event = Some("dialog;sla");
    world.watch("a", "dialog;sla");
    world.watch("b", "dialog;sla");
    world.seen();
    let (busy, idle) = (dialog("x", "early"), dialog("", ""));
    let by = |sender, tag, body| Publish { event, sender, tag, body, ..Publish::default() };
    let (a, b) = (Some("sip:a@h"), Some("sip:b@h"));
    let tag = world.publish(by(a, None, &busy)).tag;
    assert_eq!(world.seen(), ["b 3 active x:early"], "the owner is spared");
    let answer = world.publish(by(b, Some(&tag), &idle));
    assert_eq!((answer.code, &answer.tag), (200, &tag));
    assert_eq!(world.seen(), [""; 0]);
    world.subscribe(Subscribe { event, ..Subscribe::refresh("a") });
    assert_eq!(world.seen(), ["a 3 active idle"], "the owner sees an empty document");
    world.subscribe(Subscribe { event, ..Subscribe::refresh("b") });
    assert_eq!(world.seen(), ["b 4 active x:early"]);
    let answer = world.publish(by(a, Some(&tag), &idle));
    assert_eq!((answer.code, &answer.tag), (200, &tag), "the package keeps the tag");
    assert_eq!(world.seen(), ["b 5 active idle"]);
    assert_eq!(world.publish(by(a, Some(&tag), "no dialog-info")).code, 415);
}

#[test]
fn a_sender_is_not_told_of_what_it_did_itself() {
    let mut world = World::default();
    world.watch("a", "presence");
    world.watch("b", "presence");
    world.seen();
    let sender = Some("sip:a@h");
    let tag = world.publish(Publish { sender, body: "1", ..Publish::default() }).tag;
    assert_eq!(world.seen(), ["b 3 active 1"]);
    world.publish(Publish { sender, tag: Some(&tag), expires: Some("0"), ..Publish::default() });
    assert_eq!(world.seen(), ["b 4 active closed(1)"]);
    world.create("presence", "2");
    assert_eq!(world.seen(), ["a 3 active 2", "b 5 active 2"]);
}

#[test]
fn a_sender_is_told_of_rounds_that_others_had_a_part_in() {
    let mut world = World::default();
    world.watch("a", "presence");
    world.watch("b", "presence");
    world.seen();
    // While the first NOTIFY is under way both publish: one state version for two.
    meanwhile(&mut world, |other| {
        other.create("presence", "by b");
        let sender = Some("sip:a@h");
        other.publish(Publish { sender, body: "by a", ..Publish::default() });
    });
    world.create("presence", "0");
    let seen = world.seen();
    assert_eq!(seen.iter().filter(|line| line.starts_with("a ")).count(), 2, "{seen:?}");
    assert!(seen.contains(&"a 4 active 0+by b+by a".to_owned()), "{seen:?}");
    // Two state versions, both its own: it is excluded.
    meanwhile(&mut world, |other| {
        let sender = Some("sip:a@h");
        other.publish(Publish { sender, body: "2", ..Publish::default() });
    });
    world.publish(Publish { sender: Some("sip:a@h"), body: "1", ..Publish::default() });
    let seen = world.seen();
    assert!(seen.iter().all(|line| line.starts_with("b ")), "{seen:?}");
}

#[test]
fn a_final_state_is_not_lost_while_the_lane_is_busy() {
    for replace in [false, true] {
        let mut world = World::default();
        world.watch("a", "dialog");
        world.watch("b", "dialog");
        let tag = world.create("dialog", &dialog("x", "early"));
        world.seen();
        meanwhile(&mut world, move |other| {
            let tag = other.modify("dialog", &tag, &dialog("x", "terminated"));
            match replace {
                true => other.create("dialog", &dialog("x", "trying")),
                false => other.modify("dialog", &tag, &dialog("y", "trying")),
            };
        });
        world.create("dialog", &dialog("z", "early"));
        let seen = world.seen();
        for watcher in ["a ", "b "] {
            let of: Vec<_> = seen.iter().filter(|line| line.starts_with(watcher)).collect();
            let ended = of.iter().filter(|line| line.contains("x:terminated")).count();
            assert_eq!(ended, 1, "{seen:?}");
            assert!(of.last().unwrap().ends_with("trying"), "{seen:?}");
        }
    }
}

#[test]
fn removals_while_the_lane_is_busy_are_shown_closed_together() {
    let mut world = World::default();
    world.watch("w", "presence");
    let (a, b) = (world.create("presence", "a"), world.create("presence", "b"));
    world.seen();
    meanwhile(&mut world, move |other| {
        other.remove("presence", &a);
        other.remove("presence", &b);
        other.watch("late", "presence");
    });
    world.create("presence", "c");
    let expected = ["w 5 active a+b+c", "w 6 active closed(a)+closed(b)+c", "late 2 active c"];
    assert_eq!(world.seen(), expected);
}

#[test]
fn who_subscribes_after_a_change_is_not_shown_the_state_before_it() {
    let mut world = World::default();
    // More than are taken in one go.
    for n in 0..40 {
        world.watch(&format!("w{n}"), "presence");
    }
    world.seen();
    meanwhile(&mut world, |other| {
        other.create("presence", "2");
        other.watch("late", "presence");
    });
    world.create("presence", "1");
    let seen = world.seen();
    let late: Vec<_> = seen.iter().filter(|line| line.starts_with("late")).collect();
    assert_eq!(late, ["late 2 active 1+2"], "{seen:?}");
}

#[test]
fn a_panic_between_claim_and_commit_leaves_everything_as_it_was() {
    for verb in ["insert", "update", "delete"] {
        let mut world = World::new(Setup::stored());
        let tag = world.create("presence", "a");
        let usage = world.usage();
        let database = world.host.database.clone().unwrap();
        database.fail_if(move |statement| {
            if statement.verb == verb {
                std::panic::resume_unwind(Box::new(verb));
            }
            false
        });
        let mut other = world.fork();
        let tag_there = tag.clone();
        let doomed = move || match verb {
            "insert" => drop(other.create("presence", "b")),
            "update" => drop(other.modify("presence", &tag_there, "b")),
            _ => {
                other.pass(3600);
                presence::service::expiry::publications(&other.server, &mut other.host);
            }
        };
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(doomed)).unwrap_err();
        database.work_again();
        assert_eq!(world.usage(), usage);
        world.pass(10);
        world.modify("presence", &tag, "c");
        world.pass(4000);
        world.expire();
        world.assert_empty();
    }
}

#[test]
fn a_panic_in_the_reply_does_not_keep_the_lane() {
    let mut world = World::default();
    world.watch("w", "presence");
    world.seen();
    let mut other = world.fork();
    let before_reply: Box<dyn FnOnce() + Send> =
        Box::new(|| std::panic::resume_unwind(Box::new(())));
    let publish = Publish { body: "a", before_reply: Some(before_reply), ..Publish::default() };
    let doomed = std::panic::AssertUnwindSafe(move || drop(other.publish(publish)));
    std::panic::catch_unwind(doomed).unwrap_err();
    world.send();
    world.create("presence", "b");
    assert_eq!(world.seen(), ["w 3 active a", "w 4 active a+b"]);
}

#[test]
fn an_expired_publication_is_shown_closed_by_the_senders() {
    let mut world = World::default();
    world.watch("w", "presence");
    world.publish(Publish { body: "a", expires: Some("10"), ..Publish::default() });
    world.publish(Publish { body: "b", expires: Some("20"), ..Publish::default() });
    world.seen();
    world.pass(10);
    world.expire();
    assert_eq!(world.seen(), ["w 5 active closed(a)+b"]);
    world.pass(10);
    world.expire();
    assert_eq!(world.seen(), ["w 6 active closed(b)"]);
    world.expire();
    assert_eq!(world.seen(), [""; 0]);
    assert_ne!(world.host.outside.woken.load(std::sync::atomic::Ordering::SeqCst), 0);
}

#[test]
fn a_publication_for_no_time_is_shown_and_closed() {
    let mut world = World::default();
    world.watch("w", "presence");
    let answer = world.publish(Publish { body: "a", expires: Some("0"), ..Publish::default() });
    assert_eq!((answer.code, &*answer.expires), (200, "0"));
    world.expire();
    assert_eq!(world.seen(), ["w 2 active offline", "w 3 active a", "w 4 active closed(a)"]);
}

#[test]
fn forced_deletion_is_silent() {
    let mut world =
        World::new(Setup { config: |config| config.force_delete = true, ..Setup::default() });
    world.watch("w", "presence");
    world.publish(Publish { body: "a", expires: Some("10"), ..Publish::default() });
    world.seen();
    world.pass(10);
    world.expire();
    assert_eq!(world.seen(), [""; 0]);
    world.subscribe(Subscribe::refresh("w"));
    world.create("presence", "b");
    assert_eq!(world.seen(), ["w 4 active offline", "w 5 active b"]);
}

#[test]
fn a_bad_document_does_not_poison_the_others() {
    let mut world = World::default();
    world.watch("w", "presence");
    world.create("presence", "a");
    world.seen();
    let bad = world.create("presence", "poison");
    assert_eq!(world.seen(), ["w 4 active a"]);
    assert_eq!(world.complaints().len(), 1);
    world.create("presence", "b");
    world.remove("presence", &bad);
    assert_eq!(world.seen(), ["w 5 active a+b", "w 6 active a+b"]);
}

#[test]
fn a_retransmission_gets_the_same_answer_and_changes_nothing() {
    let mut world = World::default();
    world.watch("w", "presence");
    let first = |cseq| Publish { body: "a", cseq: Some(cseq), ..Publish::default() };
    let answer = world.publish(first(1));
    world.seen();
    world.pass(31);
    assert_eq!(world.publish(first(1)), answer);
    let (tag, cseq) = (Some(&*answer.tag), Some(2));
    let change = || Publish { tag, cseq, body: "b", ..Publish::default() };
    let changed = world.publish(change());
    assert_eq!(world.publish(change()), changed);
    assert_eq!(world.seen(), ["w 4 active b"]);
    // One that was refused is judged anew.
    let verdict = PackageVerdict::Refused { replied: false };
    assert_eq!(world.publish(Publish { verdict, ..first(3) }).code, 415);
    assert_eq!(world.publish(first(3)).code, 200);
    // While another process is at it, there is nothing to say.
    let mut other = world.fork();
    let before_reply: Box<dyn FnOnce() + Send> = Box::new(move || {
        let answer = other.publish(Publish { body: "a", cseq: Some(4), ..Publish::default() });
        assert_eq!((answer.code, answer.served.is_accepted()), (200, true), "{answer:?}");
    });
    world.publish(Publish { before_reply: Some(before_reply), ..first(4) });
    assert_eq!(world.documents("alice", crate::fakes::PRESENCE), ["b", "a", "a"]);
    // After 32 s it is a new request, and so is what follows it.
    world.pass(33);
    let again = world.publish(first(4));
    assert_ne!(again.tag, answer.tag);
    assert_eq!(world.publish(first(4)), again);
}
