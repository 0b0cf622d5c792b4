//! Messages of a DMQ peer that is hostile, or broken.

use presence_kamailio_tests::cluster::{Cluster, FakePeer, Node};
use presence_kamailio_tests::prelude::*;
use presence_kamailio_tests::rows::now;
use presence_kamailio_tests::target::target;

fn change(user: &str, etag: &str) -> String {
    let body = bodies::open("alice").replace('"', "\\\"").replace('\n', "\\n");
    format!(
        "{{\"action\":1,\"presentity\":{{\"domain\":\"example.test\",\"user\":\"{user}\",\"etag\":\
         \"{etag}\",\"expires\":600,\"recv\":{},\"event\":\"presence\"}},\"t_new\":1,\
         \"cur_etag\":\"\",\"ruid\":\"x-{etag}\",\"body\":\"{body}\"}}",
        now()
    )
}

/// Each of these is refused, nothing is stored, and the server lives. (Those that
/// end the stock module's server are for ours only.)
#[test]
fn b37_a_hostile_peer_is_answered_400() {
    let cluster = Cluster::start(vec![Node::new(target())], 1);
    let peer = FakePeer::join(&cluster, 0);
    let good = change("eve", "e.1");
    let mut hostile: Vec<String> = vec![
        "{\"action\":1,\"presentity\":null}".into(),
        "{\"action\":1,\"presentity\":\"x\"}".into(),
        good[..good.len() - 1].to_owned(),
        "[".repeat(20_000),
        good.replace(",\"event\":\"presence\"", ""),
        good.replace("\"presence\"", "\"nonsense\""),
    ];
    if ours_only("B37 hostile messages are refused") {
        hostile
            .extend(["[]", "[1]", "1", "\"x\"", "null", "{\"action\":\"1\"}"].map(str::to_owned));
        hostile.push("{\"action\":1,\"presentity\":[]}".into());
        for name in ["user", "etag", "event", "ruid", "cur_etag", "body", "domain"] {
            for value in ["7", "{}", "null", "[]"] {
                let from = good.find(&format!("\"{name}\":\"")).expect(name) + name.len() + 3;
                let text = &good[from + 1..];
                let end = match name {
                    "body" => text.len() - 2,
                    _ => text.find('"').expect(name),
                };
                hostile.push(format!("{}{value}{}", &good[..from], &text[end + 1..]));
            }
        }
        for value in ["\"600\"", "1e99", "99999999999999999999", "-7", "1.5", "null"] {
            hostile.push(good.replace("\"expires\":600", &format!("\"expires\":{value}")));
        }
        hostile.push(good.replace("\"user\":", "\"user\":\"bob\",\"user\":"));
        hostile.push(good.replace("eve", "e\\u0000ve"));
        hostile.push(good.replace("e.1", "e.1\\r\\nX: y"));
        hostile.push(format!("{good}x"));
        hostile.push(good.replace("<?xml", "<?no").replace("</presence>", ""));
    }
    for message in &hostile {
        let answer = peer.send(message);
        let code = answer.status();
        assert!(matches!(code, Some(400 | 500)), "{code:?} to {message:.300}");
        if target() == Target::Ours {
            assert_eq!(code, Some(400), "{message:.300}");
        }
    }
    assert!(!cluster.shown(0, "eve").contains(">open<"));
    assert_eq!(peer.send(&good).status(), Some(200));
    assert!(cluster.shown(0, "eve").contains(">open<"));
    if target() == Target::Ours {
        let lines = cluster.nodes[0].log_lines("(one line a minute)");
        assert_eq!(lines.len(), 1, "{lines:#?}");
    }
    cluster.finish();
}

/// Actions of later releases, and none at all, are answered and say nothing.
#[test]
fn unknown_actions_are_answered_200() {
    let cluster = Cluster::start(vec![Node::new(target())], 1);
    let peer = FakePeer::join(&cluster, 0);
    for message in ["{}", "{\"action\":0}", "{\"action\":9}", "{\"action\":2}"] {
        assert_eq!(peer.send(message).status(), Some(200), "{message}");
    }
    // It is no server of ours: what it has might be doubled by what we have.
    let phone_bodies = peer.bodies();
    assert!(phone_bodies.iter().all(|body| !body.contains("\"t_new\":1")), "{phone_bodies:?}");
    cluster.finish();
}
