//! Servers of ours that start, stop, or lose sight of each other: whoever joins gets
//! what there is, and what was removed meanwhile does not come back.

use presence_kamailio_tests::cluster::{Cluster, FakePeer, Node};
use presence_kamailio_tests::prelude::*;

const LIMIT: Duration = Duration::from_secs(10);

fn note(user: &str, text: &str) -> String {
    bodies::pidf(user, "phone", "open", text)
}

fn publish(cluster: &Cluster, index: usize, users: std::ops::Range<u32>) -> Vec<Publisher> {
    let publish = |n: u32| {
        let user = format!("user{n}");
        let mut phone = Publisher::udp(&cluster.nodes[index], &user);
        phone.publish(note(&user, "first"));
        phone
    };
    users.map(publish).collect()
}

#[test]
fn who_starts_gets_what_there_is() {
    if !ours_only("B23 a node that starts is sent what there is") {
        return;
    }
    let cluster = Cluster::ours(2, |config| config);
    let mut phones = publish(&cluster, 0, 0..40);
    assert_eq!(cluster.wait_same_publications(&[0, 1]), 40);
    cluster.nodes[1].kill();
    phones[0].modify(note("user0", "second"));
    phones[1].remove();
    phones[2].refresh();
    let _more = publish(&cluster, 0, 40..50);
    cluster.start_again(1);
    cluster.wait_acquainted();
    assert_eq!(cluster.wait_same_publications(&[0, 1]), 49);
    assert!(cluster.shown(1, "user0").contains("second"));
    cluster.finish();
}

/// Both have changed something while they could not hear each other.
#[test]
fn who_was_cut_off_agrees_again() {
    if !ours_only("B23 nodes agree after a partition") {
        return;
    }
    let cluster = Cluster::ours(2, |config| config.parameter("tm", "fr_timer", 1000));
    let (mut here, mut there) = (publish(&cluster, 0, 0..10), publish(&cluster, 1, 10..20));
    assert_eq!(cluster.wait_same_publications(&[0, 1]), 20);
    cluster.network.cut_off(&[1]);
    for (phones, first) in [(&mut here, 0), (&mut there, 10)] {
        phones[0].modify(note(&format!("user{first}"), "second"));
        phones[1].remove();
    }
    let (_new, _other) = (publish(&cluster, 0, 20..25), publish(&cluster, 1, 25..30));
    // Both have noticed.
    std::thread::sleep(Duration::from_millis(1500));
    cluster.network.heal();
    assert_eq!(cluster.wait_same_publications(&[0, 1]), 28);
    for index in [0, 1] {
        assert!(cluster.shown(index, "user10").contains("second"));
    }
    cluster.finish();
}

#[test]
fn publications_may_stay_at_home() {
    if !ours_only("B23 parameters of 6.1 and later") {
        return;
    }
    let silent = |config: Config| config.presence("dmq_peer_id", "other");
    let home = |config: Config| silent(config).presence("enable_pres_dmq", 0);
    let cluster = Cluster::start(
        vec![Node::new(Target::Ours).with(home), Node::new(Target::Ours).with(silent)],
        1,
    );
    let peers = [FakePeer::join(&cluster, 0), FakePeer::join(&cluster, 1)];
    let (_here, _there) = (publish(&cluster, 0, 0..1), publish(&cluster, 1, 1..2));
    let to_other = |peer: &FakePeer| {
        let received = peer.endpoint.received();
        let all = received.iter().filter(|one| one.message.request_uri().contains("other@"));
        all.filter(|one| one.message.body_text().contains("first")).count()
    };
    // The one is told, under the other name; the other one tells nothing, and does
    // not listen.
    let told = eventually(LIMIT, || (to_other(&peers[1]) == 1).then_some(()));
    assert!(told.is_some());
    assert_eq!(to_other(&peers[0]), 0);
    assert!(peers.iter().all(|peer| peer.bodies().is_empty()));
    assert!(!cluster.shown(0, "user1").contains("first"));
    cluster.finish();
}

#[test]
fn peers_may_be_heard_silently() {
    if !ours_only("B23 parameters of 6.1 and later") {
        return;
    }
    let cluster = Cluster::ours(2, |config| config.presence("skip_notify_dmq", 1));
    let mut watcher = Watcher::udp(&cluster.nodes[1], "user0");
    watcher.subscribe(600);
    watcher.wait_notify_for(LIMIT, "the first", |_| true);
    watcher.skip_notifies();
    let mut phones = publish(&cluster, 0, 0..1);
    let shows = |text: &str| cluster.shown(1, "user0").contains(text).then_some(());
    assert!(eventually(LIMIT, || shows("first")).is_some());
    phones[0].modify(note("user0", "second"));
    assert!(eventually(LIMIT, || shows("second")).is_some());
    watcher.no_more_notify(Duration::from_millis(300), "peers are heard silently");
    cluster.finish();
}
