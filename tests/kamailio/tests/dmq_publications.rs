//! Publications that servers tell each other over DMQ: two of ours, and ours with the
//! stock module on either side.

use presence_kamailio_tests::cluster::{Cluster, FakePeer, Node};
use presence_kamailio_tests::config::Config;
use presence_kamailio_tests::prelude::*;
use presence_kamailio_tests::rows::now;
use presence_kamailio_tests::target::target;

const LIMIT: Duration = Duration::from_secs(10);

/// Who publishes and who hears of it.
fn pairs() -> Vec<[Target; 2]> {
    match target() {
        Target::Ours => vec![
            [Target::Ours, Target::Ours],
            [Target::Ours, Target::Upstream],
            [Target::Upstream, Target::Ours],
        ],
        Target::Upstream => vec![[Target::Upstream, Target::Upstream]],
    }
}

fn node(module: Target, storage: Storage) -> Node {
    let config = Config::new(storage)
        .children(2)
        .presence("enable_dmq", 1)
        .presence("clean_period", 1)
        .presence("db_update_period", 1);
    Node { module, config }
}

fn note(text: &str) -> String {
    bodies::pidf("alice", "phone", "open", text)
}

fn wait_shown(cluster: &Cluster, index: usize, user: &str, what: &str) {
    let shows = || cluster.shown(index, user).contains(what).then_some(());
    if eventually(LIMIT, shows).is_none() {
        let shown = cluster.shown(index, user);
        cluster.fail(&format!("node {index} shows no {what} of {user}:\n{shown}"));
    }
}

/// The life of a publication at one node, as the other one shows it.
fn publish_and_remove(pair: [Target; 2], storage: Storage) {
    let cluster = Cluster::start(pair.map(|module| node(module, storage)).into(), 3);
    let mut watcher = Watcher::udp(&cluster.nodes[1], "alice");
    watcher.subscribe(600);
    let mut phone = Publisher::udp(&cluster.nodes[0], "alice");
    phone.publish(note("first"));
    watcher.wait_notify_for(LIMIT, "the new one", |n| n.body().contains("first"));
    for text in ["second", "third"] {
        phone.modify(note(text));
        watcher.wait_notify_for(LIMIT, text, |n| n.body().contains(text));
    }
    // Stock's documents in memory do not outlive a refresh (B51).
    let keeps = pair[1] == Target::Ours || storage.has_publication_rows();
    if keeps && (pair[0] == Target::Ours || storage.has_publication_rows()) {
        phone.refresh();
        phone.modify(note("fourth"));
        watcher.wait_notify_for(LIMIT, "fourth", |n| n.body().contains("fourth"));
        phone.refresh();
        std::thread::sleep(Duration::from_millis(200));
        assert!(cluster.shown(1, "alice").contains("fourth"), "{pair:?} {storage:?}");
    }
    if target() == Target::Ours {
        for (index, name) in [(0, "dmq_out"), (1, "dmq_in")] {
            if pair[index] == Target::Ours {
                let count =
                    cluster.nodes[index].rpc_ok(&["stats.fetch", &format!("presence:{name}")]);
                let count = count.split(": ").nth(1).and_then(|n| n.split_whitespace().next());
                assert!(count.is_some_and(|n| n.parse::<u32>().is_ok_and(|n| n >= 3)), "{count:?}");
            }
        }
    }
    phone.remove();
    let ended = || {
        let last = watcher.last_notify().is_some_and(|n| !n.body().contains(">open<"));
        (last && !cluster.shown(1, "alice").contains(">open<")).then_some(())
    };
    if eventually(LIMIT, ended).is_none() {
        cluster.fail(&format!("it does not end: {pair:?} {storage:?}"));
    }
    watcher.assert_rising_cseq();
    cluster.finish();
}

#[test]
fn what_is_published_here_is_shown_there() {
    for pair in pairs() {
        publish_and_remove(pair, Storage::Memory);
    }
}

#[test]
fn what_is_published_here_is_shown_there_from_rows() {
    for pair in pairs() {
        publish_and_remove(pair, Storage::sqlite(2, 1));
    }
    publish_and_remove([target(); 2], Storage::sqlite(0, 0));
}

/// The message is stock's: its members, their order, what they say, and one id for a
/// publication's life.
#[test]
fn b52_messages_are_as_stock_writes_them() {
    for storage in [Storage::Memory, Storage::sqlite(2, 1), Storage::sqlite(0, 0)] {
        let cluster = Cluster::start(vec![node(target(), storage)], 3);
        let peer = FakePeer::join(&cluster, 0);
        let mut phone = Publisher::udp(&cluster.nodes[0], "alice");
        phone.publish(note("first"));
        let tags = [phone.tag()];
        let first = peer.wait_body("new", |body| body.contains("first"));
        phone.modify(note("second"));
        let tags = [tags[0].clone(), phone.tag()];
        let second = peer.wait_body("changed", |body| body.contains("second"));
        phone.remove();
        let last = peer.wait_body("removed", |body| body.contains("\"expires\":0,"));
        let start = |etag: &str, expires: u32| {
            format!(
                "{{\"action\":1,\"presentity\":{{\"domain\":\"example.test\",\"user\":\"alice\",\
                 \"etag\":\"{etag}\",\"expires\":{expires},\"recv\":"
            )
        };
        assert!(first.starts_with(&start(&tags[0], 3600)), "{first}");
        assert!(second.starts_with(&start(&tags[0], 3600)), "{second}");
        assert!(last.starts_with(&start(&tags[1], 0)), "{last}");
        let ruid = |body: &str| body.split("\"ruid\":\"").nth(1).map(|rest| rest[..20].to_owned());
        assert!(
            first.contains("\"event\":\"presence\"},\"t_new\":1,\"cur_etag\":\"\",\"ruid\":\"")
        );
        let cur_etag = format!("\"t_new\":0,\"cur_etag\":\"{}\",\"ruid\":\"", tags[1]);
        assert!(second.contains(&cur_etag), "{second}");
        assert!(last.contains("\"t_new\":0,\"cur_etag\":\"\",\"ruid\":\""), "{last}");
        assert!(last.ends_with(",\"body\":\"\"}"), "{last}");
        let same = ruid(&first) == ruid(&second) && ruid(&second) == ruid(&last);
        let stays = match target() {
            Target::Upstream => storage.has_publication_rows(),
            Target::Ours => true,
        };
        assert_eq!(same, stays, "{first}\n{second}\n{last}");
        let document = note("first").replace('"', "\\\"").replace('\n', "\\n");
        assert!(first.ends_with(&format!("\"body\":\"{document}\"}}")), "{first}");
        cluster.finish();
    }
}

/// What a stock node sends that keeps its publications in memory: each change has
/// another id, and the tag before it is what names the publication.
#[test]
fn b52_a_publication_is_known_by_its_tags_when_its_id_changes() {
    let cluster = Cluster::start(vec![node(target(), Storage::Memory)], 3);
    let peer = FakePeer::join(&cluster, 0);
    let message = |etag: &str, new: &str, is_new: u8, ruid: &str, expires: u32, body: &str| {
        format!(
            "{{\"action\":1,\"presentity\":{{\"domain\":\"example.test\",\"user\":\"alice\",\"etag\":\
             \"{etag}\",\"expires\":{expires},\"recv\":{},\"event\":\"presence\"}},\"t_new\":{is_new},\
             \"cur_etag\":\"{new}\",\"ruid\":\"{ruid}\",\"body\":\"{}\"}}",
            now(),
            body.replace('"', "\\\"").replace('\n', "\\n")
        )
    };
    for (etag, new, is_new, ruid, text) in [
        ("a.1.2.3.0", "", 1, "one", "first"),
        ("a.1.2.3.0", "a.1.2.3.1", 0, "two", "second"),
        ("a.1.2.3.1", "a.1.2.3.2", 0, "three", "third"),
    ] {
        let answer = peer.send(message(etag, new, is_new, ruid, 600, &note(text)));
        assert_eq!(answer.status(), Some(200));
        wait_shown(&cluster, 0, "alice", text);
        assert_eq!(cluster.shown(0, "alice").matches("<tuple").count(), 1);
    }
    assert_eq!(peer.send(message("a.1.2.3.2", "", 0, "four", 0, "")).status(), Some(200));
    assert!(!cluster.shown(0, "alice").contains(">open<"));
    // What comes late, or twice, makes nothing new.
    if ours_only("B52 what has been removed does not come back") {
        for (etag, new, is_new) in [("a.1.2.3.0", "", 1), ("a.1.2.3.1", "a.1.2.3.2", 0)] {
            peer.send(message(etag, new, is_new, "four", 600, &note("late")));
            assert!(!cluster.shown(0, "alice").contains("late"), "{etag}");
        }
    }
    cluster.finish();
}
