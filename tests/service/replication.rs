//! Publications of servers that tell each other: which change wins, what a server that
//! joins is sent, and that all agree in the end, whatever happens to messages.

use crate::fakes::{Nodes, PRESENCE, Publish, Random, Setup, Weather, World};
use presence::config::PublicationCache;
use presence::presence::listing::Wanted;
use presence::presence::replication::header::{Parameters, Purpose};
use presence::presence::replication::stamp::Stamp;
use presence::service::listing::publications;
use presence::service::replication::{Received, Replicator, receive};
use std::collections::BTreeSet;
use std::fmt::Write as _;

const PEER: &[u8] = b"sip:n9:5069";

fn world(cache: PublicationCache) -> World {
    let setup = match cache {
        PublicationCache::Record => Setup::default(),
        cache => Setup { cache, ..Setup::stored() },
    };
    World::new(Setup { node: Some(("sip:n0:5060", 1)), authorizes: false, ..setup })
}

fn caches() -> [PublicationCache; 3] {
    [PublicationCache::Record, PublicationCache::Hybrid, PublicationCache::None]
}

/// What has left for the peers: Content-Type and message.
fn left(world: &mut World) -> Vec<(String, String)> {
    let server = world.server.clone();
    world.host.outside.milliseconds.fetch_add(100, std::sync::atomic::Ordering::SeqCst);
    Replicator::default().step(&server, &mut world.host);
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let sent = std::mem::take(&mut *world.host.outside.dispatched.lock().unwrap());
    sent.into_iter().map(|one| (text(one.content_type), text(one.message))).collect()
}

fn messages(world: &mut World) -> Vec<String> {
    left(world).into_iter().map(|(_, message)| message).collect()
}

/// What a peer says of `alice`.
#[derive(Clone)]
struct Told<'a> {
    etag: &'a str,
    new: &'a str,
    is_new: u8,
    ruid: &'a str,
    expires: i32,
    body: &'a str,
    recv: i64,
    content_type: Vec<u8>,
}

impl Default for Told<'_> {
    fn default() -> Self {
        Told {
            etag: "a.1",
            new: "",
            is_new: 1,
            ruid: "r",
            expires: 600,
            body: "x",
            recv: 0,
            content_type: b"application/json".to_vec(),
        }
    }
}

fn tell(world: &mut World, told: &Told<'_>) -> u16 {
    let Told { etag, new, is_new, ruid, expires, body, recv, content_type } = told;
    let recv = if *recv == 0 { world.now() } else { *recv };
    let message = format!(
        "{{\"action\":1,\"presentity\":{{\"domain\":\"H\",\"user\":\"alice\",\"etag\":\"{etag}\",\
         \"expires\":{expires},\"recv\":{recv},\"event\":\"presence\"}},\"t_new\":{is_new},\
         \"cur_etag\":\"{new}\",\"ruid\":\"{ruid}\",\"body\":\"{body}\"}}"
    );
    let message = message.as_bytes();
    let received = Received { message, content_type, from: PEER, is_member: true };
    receive(&world.server, &mut world.host, &received)
}

/// The Content-Type of a change that a server of ours has made then.
fn ours(milliseconds: i64, purpose: Purpose) -> Vec<u8> {
    let milliseconds = milliseconds.unsigned_abs();
    let stamp = Some(Stamp { milliseconds, counter: 0, node: 9, is_coarse: false });
    Parameters { node: 9, stamp, purpose, owner: None }.content_type()
}

fn shown(world: &mut World) -> Vec<String> {
    let key = world.key("alice", PRESENCE);
    let server = world.server.clone();
    let all = server.publications().current(&server, &mut world.host, &key, b"presence").unwrap();
    all.into_iter().map(|one| String::from_utf8(one.body).unwrap()).collect()
}

#[test]
fn each_change_leaves_once_under_one_id() {
    for cache in caches() {
        let mut world = world(cache);
        let first = world.create("presence", "one");
        let new = messages(&mut world).pop().unwrap();
        let ruid = new.split("\"ruid\":\"").nth(1).unwrap().split('"').next().unwrap().to_owned();
        let second = world.modify("presence", &first, "two");
        let third = world.modify("presence", &second, "three");
        let refresh = Publish { tag: Some(&third), ..Publish::default() };
        let fourth = world.publish(refresh).tag;
        let changed = messages(&mut world);
        world.remove("presence", &fourth);
        let removed = messages(&mut world);
        assert!(new.contains(&format!("\"etag\":\"{first}\"")) && new.contains("\"t_new\":1"));
        // Three changes are one message, from the tag that peers know.
        assert_eq!((changed.len(), removed.len()), (1, 1), "{cache:?} {changed:?}");
        assert!(changed[0].contains(&format!("\"etag\":\"{first}\"")), "{changed:?}");
        assert!(changed[0].contains(&format!("\"cur_etag\":\"{fourth}\"")), "{changed:?}");
        assert!(changed[0].ends_with("\"body\":\"three\"}"), "{changed:?}");
        assert!(removed[0].contains(&format!("\"etag\":\"{fourth}\",\"expires\":0,")));
        for message in [&changed[0], &removed[0]] {
            assert!(message.contains(&format!("\"ruid\":\"{ruid}\"")), "{cache:?} {message}");
        }
        let short = world.create("presence", "short");
        world.remove("presence", &short);
        assert!(messages(&mut world).is_empty(), "nobody has heard of it");
    }
}

#[test]
fn what_a_peer_tells_is_kept_and_not_told_again() {
    for cache in caches() {
        let mut world = world(cache);
        world.watch("w", "presence");
        world.seen();
        assert_eq!(tell(&mut world, &Told::default()), 200);
        assert_eq!(world.seen(), ["w 3 active x"]);
        let change = Told { is_new: 0, new: "a.2", body: "y", ..Told::default() };
        assert_eq!(tell(&mut world, &change), 200);
        assert_eq!(world.seen(), ["w 4 active y"]);
        let end = Told { etag: "a.2", is_new: 0, expires: 0, body: "", ..Told::default() };
        assert_eq!(tell(&mut world, &end), 200);
        assert_eq!(world.seen(), ["w 5 active closed(y)"]);
        assert!(messages(&mut world).iter().all(|message| !message.contains("\"action\":1")));
        // What was removed does not come back, told by whichever name.
        for (etag, new, is_new) in [("a.1", "", 1), ("a.1", "a.2", 0), ("a.0", "a.1", 0)] {
            tell(&mut world, &Told { etag, new, is_new, ..Told::default() });
            assert!(shown(&mut world).is_empty(), "{cache:?} {etag} {new}");
        }
        // Without a lost message a peer would not know it by this tag: it is kept.
        let lost = Told { etag: "b.1", new: "b.2", is_new: 0, ruid: "q", ..Told::default() };
        assert_eq!(tell(&mut world, &lost), 200);
        assert_eq!(shown(&mut world), ["x"]);
    }
}

#[test]
fn a_publication_is_known_by_its_tags_when_its_id_changes() {
    for cache in caches() {
        let mut world = world(cache);
        tell(&mut world, &Told::default());
        for (etag, new, ruid, body) in [("a.1", "a.2", "s", "y"), ("a.2", "a.3", "t", "z")] {
            let change = Told { etag, new, ruid, body, is_new: 0, ..Told::default() };
            assert_eq!(tell(&mut world, &change), 200);
            assert_eq!(shown(&mut world), [body], "{cache:?}");
        }
        // Applied already: named by the tag after it.
        let again =
            Told { etag: "a.2", new: "a.3", ruid: "u", body: "z", is_new: 0, ..Told::default() };
        assert_eq!(tell(&mut world, &again), 200);
        assert_eq!(shown(&mut world), ["z"], "{cache:?}");
    }
}

#[test]
fn the_later_change_wins_however_messages_come() {
    for cache in caches() {
        let mut world = world(cache);
        let now = world.now() * 1000;
        let told = |at: i64, etag, new, body| Told {
            etag,
            new,
            body,
            is_new: u8::from(new.is_empty()),
            content_type: ours(now + at, Purpose::Change),
            ..Told::default()
        };
        tell(&mut world, &told(-50, "a.1", "", "one"));
        tell(&mut world, &told(-30, "a.2", "a.3", "three"));
        tell(&mut world, &told(-40, "a.1", "a.2", "two"));
        tell(&mut world, &told(-50, "a.1", "", "one"));
        assert_eq!(shown(&mut world), ["three"], "{cache:?}");
        // A change here is later than what was seen, though that came from a clock
        // that is ahead; and a peer's that is older does not undo it.
        tell(&mut world, &told(40_000, "a.3", "a.4", "ahead"));
        assert_eq!(shown(&mut world), ["ahead"]);
        world.modify("presence", "a.4", "here");
        tell(&mut world, &told(39_000, "a.4", "a.5", "late"));
        assert_eq!(shown(&mut world), ["here"], "{cache:?}");
        // A clock that is far ahead is not believed, and holds nothing.
        tell(&mut world, &told(9_000_000, "a.5", "a.6", "liar"));
        let sent = left(&mut world).into_iter().find(|(_, one)| one.contains("here")).unwrap().0;
        let stamp = Parameters::read(sent.as_bytes()).unwrap().stamp.unwrap();
        assert!(stamp.milliseconds < now.unsigned_abs() + 61_000, "{stamp:?}");
    }
}

#[test]
fn a_stock_server_whose_clock_is_wrong_freezes_nothing() {
    for cache in caches() {
        let mut world = world(cache);
        let tag = world.create("presence", "here");
        let ruid = {
            let key = world.key("alice", PRESENCE);
            let server = world.server.clone();
            let all = server.publications().current(&server, &mut world.host, &key, b"presence");
            String::from_utf8(all.unwrap()[0].ruid.clone()).unwrap()
        };
        let mut etag = tag;
        for (n, recv) in [(1, world.now() - 5000), (2, world.now() - 4000)] {
            let (new, body) = (format!("{}{n}", etag.clone()), format!("stock{n}"));
            let change = Told {
                etag: &etag,
                new: &new,
                body: &body,
                ruid: &ruid,
                is_new: 0,
                recv,
                ..Told::default()
            };
            assert_eq!(tell(&mut world, &change), 200);
            assert_eq!(shown(&mut world), [body], "{cache:?}");
            etag = new;
        }
        // What it has said before comes late.
        let late = Told {
            etag: &etag,
            new: "z.1",
            ruid: &ruid,
            is_new: 0,
            body: "late",
            recv: world.now() - 4500,
            ..Told::default()
        };
        tell(&mut world, &late);
        assert_eq!(shown(&mut world), ["stock2"], "{cache:?}");
        let changed = world.modify("presence", &etag, "back");
        assert_ne!(changed, etag);
        assert_eq!(shown(&mut world), ["back"]);
    }
}

#[test]
fn documents_of_peers_are_judged_like_published_ones() {
    for cache in caches() {
        let mut world = world(cache);
        let large = "x".repeat(2 << 20);
        assert_eq!(tell(&mut world, &Told { body: &large, ..Told::default() }), 400);
        world.host.refuses_documents = true;
        assert_eq!(tell(&mut world, &Told::default()), 400);
        world.host.refuses_documents = false;
        assert!(shown(&mut world).is_empty());
        let complaints = world.complaints();
        let lines = complaints.iter().filter(|line| line.starts_with("a DMQ message"));
        assert_eq!(lines.count(), 1, "one line a minute: {complaints:?}");
        assert_eq!(tell(&mut world, &Told::default()), 200);
    }
}

/// A server of ours that was away has what a stock server said before that.
#[test]
fn what_a_stock_server_said_long_ago_undoes_nothing() {
    for cache in caches() {
        let mut world = world(cache);
        // Its clock is ahead.
        let recv = world.now() + 30;
        tell(&mut world, &Told { recv, ..Told::default() });
        world.modify("presence", "a.1", "here");
        let stamp = Some(Stamp::coarse(recv, 5));
        let parameters = Parameters { node: 9, stamp, purpose: Purpose::Stored, owner: None };
        let content_type = parameters.content_type();
        assert_eq!(tell(&mut world, &Told { recv, content_type, ..Told::default() }), 200);
        assert_eq!(shown(&mut world), ["here"], "{cache:?}");
    }
}

/// Who is not known as removed to the others would bring it back.
#[test]
fn what_a_node_has_that_was_removed_is_removed_there() {
    let mut world = world(PublicationCache::Record);
    let now = world.now() * 1000;
    let content_type = ours(now - 2000, Purpose::Change);
    tell(&mut world, &Told { content_type: content_type.clone(), ..Told::default() });
    messages(&mut world);
    world.remove("presence", "a.1");
    messages(&mut world);
    // It has been away, and tells what it has.
    let content_type = ours(now - 2000, Purpose::Stored);
    tell(&mut world, &Told { content_type, ..Told::default() });
    assert!(shown(&mut world).is_empty());
    let answer = messages(&mut world);
    assert!(answer.iter().any(|one| one.contains("\"expires\":0,")), "{answer:?}");
}

/// A server that starts is sent all in portions, as it can take them.
#[test]
fn who_starts_is_sent_what_there_is() {
    let mut nodes = Nodes::in_memory(2);
    let users: Vec<String> = (0..400).map(|n| format!("user{n}")).collect();
    for user in &users {
        let publish = Publish { user, body: user, ..Publish::default() };
        assert_eq!(nodes.worlds[0].publish(publish).code, 200);
    }
    nodes.run(2000);
    assert_eq!(records(&mut nodes.worlds[1]), records(&mut nodes.worlds[0]));
    nodes.kill(1);
    nodes.start(1);
    nodes.weather = Weather { delay: 500, ..Weather::default() };
    let in_flight = |nodes: &Nodes| {
        let replication = nodes.worlds[0].server.store.replication().unwrap();
        replication.peers(|peers| peers.in_flight(Nodes::uri(1).as_bytes()))
    };
    let mut most = 0;
    for _ in 0..500 {
        nodes.run(20);
        most = most.max(in_flight(&nodes));
    }
    assert!((2..=64).contains(&most), "{most}");
    assert_eq!(in_flight(&nodes), 0);
    assert_eq!(records(&mut nodes.worlds[1]).len(), 400);
    assert_eq!(records(&mut nodes.worlds[1]), records(&mut nodes.worlds[0]));
}

/// All that a server has, but for what is its own business.
fn records(world: &mut World) -> BTreeSet<String> {
    let server = world.server.clone();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let mut all = BTreeSet::new();
    publications(&server, &mut world.host, &Wanted::default(), true, |_, one| {
        let it = one.publication;
        let (tag, ruid, body) = (text(&it.entity_tag), text(&it.ruid), text(&it.body));
        all.insert(format!("{} {tag} {ruid} {body}", text(&one.user)))
    })
    .unwrap();
    all
}

/// Phones publish, change, refresh and remove at whichever server they like, while
/// messages are lost, doubled and late, and servers are cut off, killed and started.
fn agree_after(seed: u64, cache: PublicationCache, steps: u32) -> Result<(), String> {
    let setup = match cache {
        PublicationCache::Record => Setup { authorizes: false, ..Setup::default() },
        cache => Setup { cache, authorizes: false, ..Setup::stored() },
    };
    let mut nodes = Nodes::new(3, setup, seed);
    let mut random = Random::new(seed);
    nodes.weather = Weather { lost: 10, doubled: 10, delay: 300 };
    let mut phones: Vec<(String, Option<String>)> =
        (0..6).map(|n| (format!("user{n}"), None)).collect();
    let mut history = String::new();
    for step in 0..steps {
        let (at, index) = (random.below(3) as usize, random.below(6) as usize);
        match random.below(60) {
            0 if !nodes.is_cut() => nodes.cut_off(at),
            1 => nodes.heal(),
            2 if nodes.is_up(at) && cache == PublicationCache::Record => {
                nodes.kill(at);
                nodes.run(3000);
                nodes.start(at);
            }
            _ => {}
        }
        let (user, tag) = &mut phones[index];
        let (body, what) = (format!("{user}-{step}"), random.below(10));
        let request = Publish {
            user,
            tag: tag.as_deref(),
            body: if what == 7 && tag.is_some() { "" } else { &body },
            expires: (what == 8).then_some("0").filter(|_| tag.is_some()),
            ..Publish::default()
        };
        let answer = nodes.worlds[at].publish(request);
        let _ = writeln!(history, "{step}: {user} at {at}: {what} -> {}", answer.code);
        match answer.code {
            200 if what == 8 && tag.is_some() => *tag = None,
            200 => *tag = Some(answer.tag),
            // Its server does not know it (yet): it is published anew.
            412 => *tag = None,
            code => return Err(format!("{code}\n{history}")),
        }
        nodes.run(random.below(200));
    }
    nodes.heal();
    nodes.run(30_000);
    let all: Vec<_> = nodes.worlds.iter_mut().map(records).collect();
    match all.iter().all(|one| *one == all[0]) {
        true => Ok(()),
        false => Err(format!("seed {seed}: {all:#?}\n{history}")),
    }
}

#[test]
fn all_agree_in_the_end() {
    let seeds = std::env::var("PRESENCE_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(6);
    for seed in 1..=seeds {
        for cache in caches() {
            // The shortest history that fails says most.
            if let Err(error) = agree_after(seed, cache, 120) {
                let short = (1..120).find_map(|steps| agree_after(seed, cache, steps).err());
                panic!("{cache:?}: {}", short.unwrap_or(error));
            }
        }
    }
}
