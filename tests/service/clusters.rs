//! Databases on more than one machine: copies of them that lack the last changes,
//! nodes that are behind, COMMITs that are cut, conflicts.

use crate::fakes::{CutCommit, Publish, Setup, Subscribe, World};
use presence::config::{PublicationCache, SubscriptionMode};
use presence::ports::Verdict;
use presence::service::gone_back;
use std::collections::BTreeMap;

fn setup() -> Setup {
    Setup {
        mode: SubscriptionMode::DbOnly,
        cache: PublicationCache::None,
        authorizes: false,
        ..Setup::stored()
    }
}

/// By dialog the CSeqs that have left, each higher than the one before.
fn rising(world: &World) -> BTreeMap<String, Vec<u32>> {
    let mut cseqs = BTreeMap::<String, Vec<u32>>::new();
    for sent in world.notifies() {
        let of = cseqs.entry(sent.call_id).or_default();
        assert!(of.last().is_none_or(|last| *last < sent.cseq), "{of:?} {}", sent.cseq);
        of.push(sent.cseq);
    }
    cseqs
}

/// The newest document of each dialog.
fn newest(world: &World) -> BTreeMap<String, (u32, String)> {
    let sent = world.notifies().into_iter();
    sent.map(|sent| (sent.call_id.clone(), (sent.cseq, sent.body))).collect()
}

#[test]
fn a_standby_that_lacks_the_last_changes_loses_no_watcher() {
    for is_noticed in [true, false] {
        let mut world = World::new(setup());
        let database = world.host.database.clone().unwrap();
        for n in 0..10 {
            world.watch(&format!("w{n}"), "presence");
        }
        let mut tag = world.create("presence", "kept");
        let kept = tag.clone();
        let promote = database.copy();
        for n in 0..33 {
            tag = world.modify("presence", &tag, &format!("lost {n}"));
        }
        let before = newest(&world);
        assert!(before.values().all(|(_, body)| body == "lost 32"));
        promote(&database);
        if is_noticed {
            database.was_away();
            gone_back::notify_watchers(&world.server, &mut world.host);
            world.send();
            // What was lost is composed anew, and told once.
            let anew = newest(&world);
            assert_eq!(anew.len(), 10);
            for (call, (cseq, body)) in &anew {
                assert!(*cseq > before[call].0, "{call}: {cseq} after {}", before[call].0);
                assert_eq!(body, "kept");
            }
            gone_back::notify_watchers(&world.server, &mut world.host);
            world.send();
            assert_eq!(world.notifies().len(), 0);
        }
        let last = world.publish(Publish { tag: Some(&tag), body: "late", ..Publish::default() });
        assert_eq!(last.code, 412, "it is the lost one's entity-tag");
        let kept = world.modify("presence", &kept, "after");
        let after = newest(&world);
        assert_eq!(after.len(), 10);
        for (call, (cseq, body)) in &after {
            assert!(*cseq > before[call].0, "{call}: {cseq} after {}", before[call].0);
            assert_eq!(body, "after");
        }
        world.complaints();
        // Seen by a row or known before: nobody is notified for ever.
        gone_back::notify_watchers(&world.server, &mut world.host);
        world.send();
        assert_eq!(world.notifies().len(), 0);
        world.modify("presence", &kept, "on");
    }
}

// Of what it has used nothing is known here.
#[test]
fn what_another_server_has_used_is_left_out() {
    let mut world = World::new(setup());
    let database = world.host.database.clone().unwrap();
    world.watch("w", "presence");
    let tag = world.create("presence", "0");
    let promote = database.copy();
    let mut other = world.beside(setup());
    let mut tag_there = tag.clone();
    for n in 0..40 {
        tag_there = other.modify("presence", &tag_there, &format!("lost {n}"));
    }
    let before = newest(&world)["w"].0;
    promote(&database);
    database.was_away();
    let tag = world.modify("presence", &tag, "after");
    let after = newest(&world)["w"].0;
    assert!(after > before, "{after} after {before}");
    // Once.
    world.modify("presence", &tag, "on");
    assert_eq!(newest(&world)["w"].0, after + 1);
}

#[test]
fn an_outage_without_a_loss_tells_nobody_anything() {
    let mut world = World::new(setup());
    let database = world.host.database.clone().unwrap();
    for n in 0..3 {
        world.watch(&format!("w{n}"), "presence");
    }
    let tag = world.create("presence", "a");
    database.was_away();
    gone_back::notify_watchers(&world.server, &mut world.host);
    world.send();
    let notified = rising(&world);
    assert!(notified.values().all(|cseqs| cseqs.len() == 2), "{notified:?}");
    world.modify("presence", &tag, "b");
    assert_eq!(rising(&world).len(), 3);
    assert!(world.complaints().is_empty());
}

/// The transaction that took the numbers of several NOTIFYs gets no answer to its
/// COMMIT: whether it was carried out or not, none is used twice, and all are notified.
#[test]
fn a_commit_that_is_cut_uses_no_number_twice() {
    for cut in [CutCommit::Done, CutCommit::RolledBack] {
        let mut world = World::new(setup());
        let database = world.host.database.clone().unwrap();
        for n in 0..5 {
            world.watch(&format!("w{n}"), "presence");
        }
        let tag = world.create("presence", "a");
        database.cut_commit(cut);
        world.host.outside.log.lock().unwrap().clear();
        let tag = world.modify("presence", &tag, "b");
        world.send();
        world.modify("presence", &tag, "c");
        world.send();
        for (call, cseqs) in rising(&world) {
            assert!(cseqs.len() >= 2, "{cut:?} {call}: {cseqs:?}");
        }
    }
}

/// Nodes of a cluster find out when they commit: that takes more than a few attempts.
#[test]
fn a_request_outlasts_many_conflicts() {
    let mut world = World::new(setup());
    let database = world.host.database.clone().unwrap();
    world.watch("w", "presence");
    let tag = world.create("presence", "a");
    database.explain(Verdict::Conflict);
    for verb in ["update", "delete", "insert"] {
        let mut left = 12;
        database.fail_if(move |statement| {
            let fails = statement.verb == verb && left > 0;
            left -= i32::from(fails);
            fails
        });
        let code = match verb {
            "update" => world.subscribe(Subscribe::refresh("w")).code,
            "insert" => world.subscribe(Subscribe::new("x")).code,
            _ => {
                let end = Some("0");
                let end = Publish { tag: Some(&tag), expires: end, ..Publish::default() };
                world.publish(end).code
            }
        };
        assert_eq!(code, 200, "{verb}");
    }
    world.send();
    rising(&world);
}

/// A conflict is no lost answer: whose end another server has taken meanwhile is notified
/// by that one alone.
#[test]
fn an_end_that_two_servers_fight_for_is_told_once() {
    for seed in 0..8 {
        let mut world = World::new(setup());
        let mut other = world.beside(setup());
        let database = world.host.database.clone().unwrap();
        for n in 0..10 {
            let call = format!("w{n}");
            world.subscribe(Subscribe { expires: Some("10"), ..Subscribe::new(&call) });
        }
        world.notifies();
        world.pass(11);
        database.explain(Verdict::Conflict);
        let mut random: u64 = seed;
        database.fail_if(move |statement| {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            statement.verb == "update" && (random >> 33).is_multiple_of(6)
        });
        // Both have read the rows before one of them ends them.
        presence::service::expired_rows::expire(&world.server, &mut world.host).unwrap();
        presence::service::expired_rows::expire(&other.server, &mut other.host).unwrap();
        while world.send_step() | other.send_step() {}
        world.pass(20);
        world.expire();
        other.expire();
        let mut ends = BTreeMap::<String, u32>::new();
        for sent in world.notifies().into_iter().filter(|sent| sent.state.contains("terminated")) {
            *ends.entry(sent.call_id).or_default() += 1;
        }
        assert_eq!(ends.len(), 10, "{ends:?}");
        assert!(ends.values().all(|count| *count == 1), "{ends:?}");
    }
}

/// The same where the row is still there: a conflict is not taken for a lost answer.
#[test]
fn an_end_that_another_server_has_taken_meanwhile_is_its_own() {
    let mut world = World::new(setup());
    let mut other = world.beside(setup());
    let database = world.host.database.clone().unwrap();
    world.subscribe(Subscribe { expires: Some("10"), ..Subscribe::new("w") });
    world.notifies();
    world.pass(11);
    database.explain(Verdict::Conflict);
    presence::service::expired_rows::expire(&world.server, &mut world.host).unwrap();
    let (mut updates, mut deletes) = (0, 0);
    database.fail_if(move |statement| {
        updates += u32::from(statement.verb == "update");
        deletes += u32::from(statement.verb == "delete");
        (statement.verb == "update" && updates == 1) || (statement.verb == "delete" && deletes < 99)
    });
    // Between the attempts of the one the other tells the end; its row stays.
    let mut seen = 0;
    database.before_statement(move |verb| {
        seen += u32::from(verb == "update");
        if seen == 2 {
            seen += 1;
            other.expire();
        }
    });
    world.send();
    assert_eq!(world.seen(), ["w 3 terminated;reason=timeout"]);
}

/// A row that could not be deleted after the last NOTIFY is deleted by the timer,
/// which tells nobody again.
#[test]
fn an_end_whose_row_stays_is_told_once() {
    let mut world = World::new(setup());
    let database = world.host.database.clone().unwrap();
    for n in 0..3 {
        let call = format!("w{n}");
        world.subscribe(Subscribe { expires: Some("10"), ..Subscribe::new(&call) });
    }
    world.subscribe(Subscribe::end("w2"));
    world.notifies();
    world.pass(11);
    database.fail_if(|statement| statement.verb == "delete");
    world.expire();
    database.work_again();
    assert_eq!(world.notifies().len(), 2);
    assert_eq!(database.column("active_watchers", "callid"), ["w0", "w1"]);
    for _ in 0..3 {
        world.pass(15);
        world.expire();
    }
    assert_eq!(world.notifies().len(), 0);
    assert_eq!(database.column("active_watchers", "callid"), [""; 0]);
    world.complaints();
    world.assert_empty();
}

/// What another node has committed is not here yet: before a request is notified that it
/// means nothing, the node catches up.
#[test]
fn a_node_that_is_behind_is_asked_again() {
    let mut world = World::new(setup());
    let mut other = world.beside(setup());
    let behind = |world: &mut World| world.host.database.as_mut().unwrap().fall_behind();
    let caught_up = |world: &World| world.host.database.as_ref().unwrap().caught_up();
    behind(&mut other);
    world.watch("w", "presence");
    assert_eq!(other.subscribe(Subscribe::refresh("w")).code, 200);
    behind(&mut other);
    let tag = world.create("presence", "a");
    let tag = other.modify("presence", &tag, "b");
    behind(&mut world);
    let refreshed = Publish { tag: Some(&tag), ..Publish::default() };
    let tag = other.publish(refreshed).tag;
    let removal = Publish { tag: Some(&tag), expires: Some("0"), ..Publish::default() };
    assert_eq!(world.publish(removal).code, 200);
    assert_eq!((caught_up(&world), caught_up(&other)), (1, 2));
    // What is nowhere is refused all the same.
    behind(&mut other);
    assert_eq!(other.subscribe(Subscribe::refresh("nobody")).code, 481);
    let gone = Publish { tag: Some(&tag), body: "x", ..Publish::default() };
    assert_eq!(other.publish(gone).code, 412);
    world.send();
    other.send();
}
