//! Subscriptions over DMQ: each dialog has one owner, which alone notifies; another server
//! takes it over when the watcher comes there, or when the owner is gone.

use presence_kamailio_tests::cluster::{AGREE, Cluster, FakePeer, check_cseqs};
use presence_kamailio_tests::kamailio::Port;
use presence_kamailio_tests::network::Weather;
use presence_kamailio_tests::prelude::*;

const STOCK: &str = "B23 stock 5.6 does not replicate subscriptions";

fn with_subscriptions(config: Config) -> Config {
    config.presence("enable_subs_dmq", 1)
}

fn watch(cluster: &Cluster, at: usize) -> Watcher {
    let mut watcher = Watcher::udp(&cluster.nodes[at], "alice");
    watcher.subscribe(600);
    watcher.next_notify("the first");
    watcher
}

/// Waits until a node knows of so many subscriptions of other servers.
fn wait_replicas(cluster: &Cluster, at: usize, count: usize) {
    let summary = || cluster.nodes[at].rpc(&["presence.summary"]);
    if summary().is_err() {
        return std::thread::sleep(Duration::from_millis(1500));
    }
    let known = || {
        let text = summary().unwrap_or_default();
        let number = text.lines().find_map(|line| line.trim().strip_prefix("replicas: "));
        (number.and_then(|number| number.trim().parse().ok()) == Some(count)).then_some(())
    };
    if eventually(AGREE, known).is_none() {
        cluster.fail(&format!("node {at} has not {count} replicas: {:?}", summary()));
    }
}

/// The watcher's next request comes to the other server: 200, the state with a higher
/// CSeq, and from then on NOTIFYs from there only. At the end both know that it is over.
#[test]
fn b23_a_dialog_goes_on_at_another_server() {
    if !ours_only(STOCK) {
        return;
    }
    let cluster = Cluster::ours(2, with_subscriptions);
    let addresses = cluster.addresses();
    let mut watcher = watch(&cluster, 0);
    wait_replicas(&cluster, 1, 1);
    let mut phone = Publisher::udp(&cluster.nodes[0], "alice");
    phone.publish(bodies::open("alice"));
    let open = watcher.wait_notify("open", |n| n.body().contains(">open<"));
    cluster.network.weather(Weather::BAD);
    watcher.endpoint.turn_to(addresses[1]);
    assert_eq!(watcher.subscribe(900).number("Expires"), Some(900));
    let moved = watcher.wait_notify("from the other", |n| n.cseq > open.cseq);
    assert_eq!(moved.from, addresses[1]);
    cluster.network.heal();
    wait_replicas(&cluster, 0, 1);
    phone.modify(bodies::pidf("alice", "phone", "open", "later"));
    let later = watcher.wait_notify_for(AGREE, "the change", |n| n.body().contains("later"));
    assert_eq!(later.from, addresses[1]);
    watcher.endpoint.turn_to(addresses[0]);
    watcher.unsubscribe();
    let last = watcher.wait_notify("the last", |n| n.state == "terminated");
    assert!(last.cseq > later.cseq);
    wait_replicas(&cluster, 1, 0);
    for address in addresses {
        watcher.endpoint.turn_to(address);
        assert_eq!(watcher.try_subscribe(600).status(), Some(481), "{address}");
    }
    check_cseqs(&watcher);
    cluster.finish();
}

/// Two servers that do not hear each other, and a watcher that comes to both.
#[test]
fn b23_of_two_owners_one_yields() {
    if !ours_only(STOCK) {
        return;
    }
    let cluster = Cluster::ours(2, with_subscriptions);
    let addresses = cluster.addresses();
    let mut watcher = watch(&cluster, 0);
    wait_replicas(&cluster, 1, 1);
    cluster.network.cut_off(&[0]);
    watcher.endpoint.turn_to(addresses[1]);
    watcher.subscribe(900);
    // Both publish and notify.
    for node in &cluster.nodes {
        let mut phone = Publisher::udp(node, "alice");
        phone.publish(bodies::pidf("alice", &format!("at{}", node.address().port()), "open", ""));
    }
    watcher.wait_notify("both", |n| n.from == addresses[1] && n.body().contains(">open<"));
    watcher.wait_notify("both", |n| n.from == addresses[0] && n.body().contains(">open<"));
    cluster.network.heal();
    // Another request brings the two together before dmq's timers do.
    watcher.endpoint.turn_to(addresses[1]);
    watcher.subscribe(900);
    wait_replicas(&cluster, 0, 1);
    check_cseqs(&watcher);
    cluster.finish();
}

/// Everything is in memory, and the server is killed: the other one gives its dialogs back.
#[test]
fn b23_a_killed_server_has_its_dialogs_again() {
    if !ours_only(STOCK) {
        return;
    }
    let cluster = Cluster::ours(2, with_subscriptions);
    let watcher = watch(&cluster, 0);
    wait_replicas(&cluster, 1, 1);
    cluster.nodes[0].kill();
    cluster.start_again(0);
    cluster.wait_acquainted();
    let again = watcher.wait_notify_for(AGREE, "from the server that is back", |n| n.cseq > 255);
    assert_eq!(again.from, cluster.addresses()[0]);
    let mut phone = Publisher::udp(&cluster.nodes[1], "alice");
    phone.publish(bodies::open("alice"));
    let open = watcher.wait_notify_for(AGREE, "open", |n| n.body().contains(">open<"));
    assert_eq!(open.from, cluster.addresses()[0]);
    check_cseqs(&watcher);
    cluster.finish();
}

/// The server stays away: after the time of grace its dialogs are the other's.
#[test]
fn b23_dialogs_of_a_dead_server_are_taken_over() {
    if !ours_only(STOCK) {
        return;
    }
    let takes_over = |config| {
        with_subscriptions(config)
            .presence("default_socket", "udp:127.0.0.1:@PORT@")
            .presence("subs_takeover_dmq", 2)
            .parameter("tm", "fr_timer", 1500)
    };
    let cluster = Cluster::ours(2, takes_over);
    let mut watcher = watch(&cluster, 0);
    wait_replicas(&cluster, 1, 1);
    cluster.nodes[0].kill();
    let limit = Duration::from_secs(30);
    let taken = watcher.wait_notify_for(limit, "from the heir", |n| n.cseq > 255);
    assert_eq!(taken.from, cluster.addresses()[1]);
    watcher.endpoint.turn_to(cluster.addresses()[1]);
    watcher.subscribe(600);
    check_cseqs(&watcher);
    cluster.finish();
}

/// A message has 6.1's keys in their order; with `subs_recv_dmq` the time besides. What is
/// none is answered 400.
#[test]
fn b52_messages_are_as_stock_writes_them() {
    if !ours_only(STOCK) {
        return;
    }
    let keys = [
        "pres_uri",
        "contact",
        "local_contact",
        "watcher_domain",
        "watcher_user",
        "from_domain",
        "from_user",
        "to_domain",
        "to_user",
        "from_tag",
        "to_tag",
        "user_agent",
        "callid",
        "reason",
        "socket_info",
        "record_route",
        "event_id",
        "event",
        "local_cseq",
        "remote_cseq",
        "expires",
        "flags",
        "status",
        "version",
        "updated",
        "updated_winfo",
    ];
    for received in [0, 1] {
        let cluster = Cluster::ours(1, |config| {
            with_subscriptions(config).presence("subs_recv_dmq", received)
        });
        let peer = FakePeer::join(&cluster, 0);
        let watcher = watch(&cluster, 0);
        let body = peer.wait_body("the subscription", |body| body.contains("\"action\":3"));
        assert!(
            body.starts_with("{\"action\":3,\"subscription\":{\"pres_uri\":\"sip:alice@"),
            "{body}"
        );
        let places: Vec<Option<usize>> =
            keys.iter().map(|key| body.find(&format!("\"{key}\":"))).collect();
        assert!(places.iter().all(Option::is_some) && places.is_sorted(), "{places:?} {body}");
        assert_eq!(body.contains("\"recv\":"), received == 1, "{body}");
        assert!(body.contains(&format!("\"callid\":\"{}\"", watcher.call_id)), "{body}");
        // Another one's is kept; what is none is refused.
        let other = body.replace(&watcher.call_id, "another");
        assert_eq!(peer.send(&other).status(), Some(200));
        wait_replicas(&cluster, 0, 1);
        for (from, to) in [
            ("\"callid\":\"another\"", "\"callid\":7"),
            ("\"event\":\"presence\"", "\"event\":\"nothing\""),
            ("\"subscription\":{", "\"subscription\":[{"),
            ("\"expires\":", "\"expires\":-"),
        ] {
            assert_eq!(peer.send(other.replace(from, to)).status(), Some(400), "{to}");
        }
        cluster.finish();
    }
}

/// The two blocks of docs/cluster.md for a pair, with other addresses.
fn recipe(own: u16, other: u16) -> String {
    let page = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/cluster.md"));
    let (_, section) = page.split_once("### A pair").unwrap_or_else(|| panic!("no such section"));
    let block = |language: &str| {
        let (_, rest) = section.split_once(&format!("```{language}\n")).unwrap_or_default();
        rest.split("```").next().unwrap_or_default().to_owned()
    };
    let text = format!(
        "debug=2\nlog_stderror=yes\nchildren=2\ndisable_tcp=yes\nmpath=\"@MPATH@\"\n\
         listen=udp:127.0.0.1:@PORT@\nlisten=udp:10.0.0.1:5062\n{}{}\
         modparam(\"ctl\", \"binrpc\", \"unix:@FOLDER@/ctl.sock\")\n\
         modparam(\"presence\", \"publ_cache\", 2)\nmodparam(\"presence\", \"subs_db_mode\", 0)\n\
         modparam(\"presence_xml\", \"force_active\", 1)\n\
         request_route {{\n{}\n\
         if(method==\"OPTIONS\") {{ sl_send_reply(\"200\", \"Barrier\"); exit; }}\n\
         if(!t_newtran()) {{ exit; }}\n\
         if(method==\"PUBLISH\") {{ handle_publish(); }} else {{ handle_subscribe(); }}\n\
         t_release();\n}}\n",
        ["kex", "corex", "tm", "sl", "pv", "textops", "rr", "ctl"]
            .map(|module| format!("loadmodule \"{module}.so\"\n"))
            .concat(),
        block("kamailio"),
        block("kamailio,route"),
    );
    text.replace("10.0.0.1:5062", &format!("127.0.0.1:{own}"))
        .replace("10.0.0.2:5062", &format!("127.0.0.1:{other}"))
}

/// The recipe of the book, as it stands there.
#[test]
fn the_pair_of_the_book_replicates() {
    if !ours_only(STOCK) {
        return;
    }
    let ports = [Port::reserve(), Port::reserve()];
    let start = |own: usize| {
        let text = recipe(ports[own].number, ports[1 - own].number);
        Kamailio::start(Config::new(Storage::Memory).raw(&text))
    };
    let nodes = [start(0), start(1)];
    let mut watcher = Watcher::udp(&nodes[0], "alice");
    watcher.subscribe(600);
    let mut phone = Publisher::udp(&nodes[1], "alice");
    phone.publish(bodies::open("alice"));
    let limit = Duration::from_secs(20);
    let open = watcher.wait_notify_for(limit, "open", |n| n.body().contains(">open<"));
    watcher.endpoint.turn_to(nodes[1].address());
    let served = || (watcher.try_subscribe(600).status() == Some(200)).then_some(());
    assert!(eventually(limit, served).is_some(), "the other server does not know the dialog");
    let moved = watcher.wait_notify("from the other", |n| n.cseq > open.cseq);
    assert_eq!(moved.from, nodes[1].address());
    check_cseqs(&watcher);
    nodes.iter().for_each(Kamailio::finish);
}
