//! Subscriptions that several servers know over DMQ: one server owns each dialog and
//! sends its NOTIFYs; others take it over, and no CSeq is used twice.

use super::fakes::{Answered, Nodes, PRESENCE, Setup, Subscribe};
use std::collections::BTreeMap;

fn refresh(nodes: &mut Nodes, at: usize, call_id: &str, cseq: u32) -> Answered {
    let it = Subscribe { cseq: Some(cseq), ..Subscribe::refresh(call_id) };
    nodes.worlds[at].subscribe(it)
}

fn end(nodes: &mut Nodes, at: usize, call_id: &str, cseq: u32) -> Answered {
    nodes.worlds[at].subscribe(Subscribe { cseq: Some(cseq), ..Subscribe::end(call_id) })
}

/// A subscription to alice at one server.
fn watch(nodes: &mut Nodes, at: usize, call_id: &str) {
    let it = Subscribe { cseq: Some(1), ..Subscribe::new(call_id) };
    assert_eq!(nodes.worlds[at].subscribe(it).code, 200);
}

/// The servers that own a dialog of alice's.
fn owners(nodes: &mut Nodes, call_id: &str) -> Vec<usize> {
    use presence::presence::subscription::Text;
    let up: Vec<usize> = (0..nodes.worlds.len()).filter(|index| nodes.is_up(*index)).collect();
    up.into_iter()
        .filter(|index| {
            let world = &mut nodes.worlds[*index];
            let (key, mut found) = (world.key("alice", PRESENCE), false);
            presence::service::subscriptions::each_watcher(
                &world.server,
                &mut world.host,
                &key,
                |_, copy| found |= copy.text(Text::CallId) == call_id.as_bytes(),
            )
            .unwrap();
            found
        })
        .collect()
}

/// No dialog has a CSeq twice; gives those of each, in the order in which they left.
fn cseqs(nodes: &Nodes) -> BTreeMap<String, Vec<u32>> {
    let mut all: BTreeMap<String, Vec<u32>> = BTreeMap::new();
    for (index, sent) in &nodes.history {
        let list = all.entry(sent.call_id.clone()).or_default();
        assert!(!list.contains(&sent.cseq), "{} {} again, by {index}", sent.call_id, sent.cseq);
        list.push(sent.cseq);
    }
    all
}

fn last<'a>(nodes: &'a Nodes, call_id: &str) -> &'a super::fakes::Sent {
    let of = |(_, sent): &&(usize, super::fakes::Sent)| sent.call_id == call_id;
    let found = nodes.history.iter().filter(of).max_by_key(|(_, sent)| sent.cseq);
    &found.unwrap_or_else(|| panic!("no NOTIFY of {call_id}")).1
}

#[test]
fn a_watcher_that_comes_to_another_server_is_served_there() {
    let mut nodes = Nodes::in_memory(3);
    watch(&mut nodes, 0, "w");
    nodes.run(500);
    assert_eq!(owners(&mut nodes, "w"), [0]);
    let answer = refresh(&mut nodes, 1, "w", 2);
    assert_eq!((answer.code, answer.expires.as_str()), (200, "3600"));
    nodes.run(500);
    assert_eq!(owners(&mut nodes, "w"), [1]);
    let list = cseqs(&nodes).remove("w").unwrap();
    assert!(list.len() == 2 && list[1] > 255, "{list:?}");
    // Only the owner speaks.
    nodes.worlds[1].create("presence", "open");
    nodes.run(500);
    let after = nodes.history.iter().filter(|(_, sent)| sent.cseq > list[1]);
    assert!(after.clone().all(|(index, _)| *index == 1) && after.count() >= 1);
    // What the watcher has said already is out of order everywhere.
    for at in [0, 2] {
        assert_eq!(refresh(&mut nodes, at, "w", 2).code, 500, "{at}");
    }
    assert_eq!(end(&mut nodes, 2, "w", 3).code, 200);
    nodes.run(500);
    assert_eq!(owners(&mut nodes, "w"), [0usize; 0]);
    assert_eq!(last(&nodes, "w").state, "terminated;reason=timeout");
    for at in [0, 1, 2] {
        assert_eq!(refresh(&mut nodes, at, "w", 4).code, 481, "{at}");
    }
    cseqs(&nodes);
}

#[test]
fn of_two_owners_one_yields_after_the_partition() {
    let mut nodes = Nodes::in_memory(2);
    watch(&mut nodes, 0, "w");
    nodes.run(500);
    nodes.cut_off(0);
    assert_eq!(refresh(&mut nodes, 1, "w", 2).code, 200);
    nodes.run(3000);
    assert_eq!(owners(&mut nodes, "w"), [0, 1]);
    for at in [0, 1] {
        nodes.worlds[at].create("presence", "open");
    }
    nodes.run(1000);
    nodes.heal();
    nodes.run(10_000);
    assert_eq!(owners(&mut nodes, "w"), [1]);
    cseqs(&nodes);
}

#[test]
fn a_server_that_is_killed_has_its_dialogs_again_when_it_is_back() {
    let mut nodes = Nodes::in_memory(2);
    watch(&mut nodes, 0, "w");
    nodes.run(500);
    nodes.kill(0);
    nodes.run(3000);
    nodes.start(0);
    nodes.run(5000);
    assert_eq!(owners(&mut nodes, "w"), [0]);
    let list = cseqs(&nodes).remove("w").unwrap();
    assert!(list.last().is_some_and(|last| *last > 255), "{list:?}");
    assert_eq!(refresh(&mut nodes, 0, "w", 2).code, 200);
}

#[test]
fn who_is_gone_is_inherited_by_one() {
    let takes_over = |config: &mut presence::config::Config| {
        config.dmq.subscriptions_takeover = 5;
    };
    let setup = Setup { authorizes: false, config: takes_over, ..Setup::default() };
    let mut nodes = Nodes::new(3, setup, 1);
    let watchers: Vec<String> = (0..40).map(|n| format!("w{n}")).collect();
    watchers.iter().for_each(|call_id| watch(&mut nodes, 0, call_id));
    nodes.run(500);
    nodes.kill(0);
    nodes.run(3000);
    assert!(watchers.iter().all(|call_id| owners(&mut nodes, call_id).is_empty()));
    nodes.run(25_000);
    let mut shares = [0; 3];
    for call_id in &watchers {
        let owners = owners(&mut nodes, call_id);
        assert_eq!(owners.len(), 1, "{call_id}");
        shares[owners[0]] += 1;
    }
    assert!(shares[1] > 5 && shares[2] > 5, "{shares:?}");
    // Each was told, once.
    for (call_id, list) in cseqs(&nodes) {
        assert_eq!(list.len(), 2, "{call_id}: {list:?}");
    }
    // It comes back, and has none of them.
    nodes.start(0);
    nodes.run(10_000);
    assert!(watchers.iter().all(|call_id| owners(&mut nodes, call_id) != [0]));
    cseqs(&nodes);
}
