//! Nodes that replicate with the stock `dmq` module, and the network between them:
//! the cluster of the other tests, tried on the stock presence module.

use presence_kamailio_tests::cluster::{Cluster, FakePeer, Node};
use presence_kamailio_tests::network::Weather;
use presence_kamailio_tests::prelude::*;

/// A publication at one node is seen at the other, through a network that loses,
/// doubles and reorders; when it is cut, nothing arrives.
#[test]
fn a_stock_pair_replicates_publications() {
    let nodes = vec![Node::new(Target::Upstream), Node::new(Target::Upstream)];
    let cluster = Cluster::start(nodes, 7);
    let watcher = {
        let mut watcher = Watcher::udp(&cluster.nodes[1], "alice");
        watcher.subscribe(600);
        watcher
    };
    cluster.network.weather(Weather::BAD);
    let mut phone = Publisher::udp(&cluster.nodes[0], "alice");
    phone.publish(bodies::open("alice"));
    let limit = Duration::from_secs(10);
    watcher.wait_notify_for(limit, "open", |n| n.body().contains(">open<"));
    cluster.network.heal();
    cluster.network.cut_off(&[0]);
    let mut other = Publisher::udp(&cluster.nodes[0], "bob");
    other.publish(bodies::open("bob"));
    std::thread::sleep(Duration::from_millis(300));
    assert!(!cluster.shown(1, "bob").contains(">open<"));
    assert!(cluster.shown(0, "bob").contains(">open<"));
    cluster.network.heal();
    cluster.finish();
}

/// The peer that is none is told of publications, and believed.
#[test]
fn a_peer_of_the_tests_replicates_with_a_stock_node() {
    let cluster = Cluster::start(vec![Node::new(Target::Upstream)], 1);
    let peer = FakePeer::join(&cluster, 0);
    let mut phone = Publisher::udp(&cluster.nodes[0], "alice");
    phone.publish(bodies::open("alice"));
    let body = peer.wait_body("the publication", |body| body.contains("\"t_new\":1"));
    assert!(
        body.starts_with("{\"action\":1,\"presentity\":{\"domain\":\"example.test\""),
        "{body}"
    );
    let copy = body.replace("\"alice\"", "\"carol\"").replace("\"ruid\":\"", "\"ruid\":\"other-");
    assert_eq!(peer.send(&copy).status(), Some(200));
    assert!(cluster.shown(0, "carol").contains(">open<"));
    let no_event = copy.replace(",\"event\":\"presence\"", "");
    assert_eq!(peer.send(no_event).status(), Some(400));
    cluster.finish();
}
