//! One order per presentity (A1): several processes at once.

use crate::fakes::{PRESENCE, Publish, Sent, Setup, Subscribe, World};
use presence::config::{PublicationCache, SubscriptionMode};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

const PUBLISHERS: usize = 2;
const CYCLES: usize = 3;

/// Publishes documents `<publisher>.<count>` that rise, and removes the
/// publication after every third.
fn publisher(world: &mut World, publisher: usize) {
    let mut count = 0;
    let mut body = || {
        count += 1;
        format!("{publisher}.{count}")
    };
    for _ in 0..CYCLES {
        let tag = world.create("presence", &body());
        let tag = world.modify("presence", &tag, &body());
        let tag = world.publish(Publish { tag: Some(&tag), ..Publish::default() }).tag;
        let tag = world.modify("presence", &tag, &body());
        world.remove("presence", &tag);
    }
    world.create("presence", &body());
}

/// Comes and goes.
fn fickle(world: &mut World, thread: usize) {
    for n in 0..6 {
        let call = format!("fickle{thread}.{n}");
        world.watch(&call, "presence");
        world.subscribe(Subscribe::refresh(&call));
        match n % 3 {
            0 => drop(world.subscribe(Subscribe::end(&call))),
            1 => {
                drop(world.subscribe(Subscribe { expires: Some("1"), ..Subscribe::refresh(&call) }))
            }
            _ => {}
        }
    }
}

/// The publications that a document names: whether they are shown closed, whose
/// they are, and their counts.
fn counts(body: &str) -> impl Iterator<Item = (bool, usize, usize)> {
    body.split('+').filter_map(|part| {
        let closed = part.strip_prefix("closed(").map(|part| part.trim_end_matches(')'));
        let (publisher, count) = closed.unwrap_or(part).split_once('.')?;
        Some((closed.is_some(), publisher.parse().ok()?, count.parse().ok()?))
    })
}

/// Checks what one watcher has seen.
fn check_dialog(call: &str, sent: &[&Sent]) {
    let mut newest = BTreeMap::new();
    for (n, notify) in sent.iter().enumerate() {
        let history = || sent[..=n].iter().map(|s| s.brief()).collect::<Vec<_>>();
        assert_eq!(notify.cseq as usize, n + 2, "CSeqs rise by one: {:#?}", history());
        for (closed, publisher, count) in counts(&notify.body) {
            let known = newest.entry((closed, publisher)).or_insert(0);
            assert!(count >= *known, "older state: {:#?}", history());
            *known = count;
        }
        let last = n + 1 == sent.len();
        assert!(last || !notify.state.starts_with("term"), "after the end: {:#?}", history());
    }
    if call.starts_with("steady") {
        let all: Vec<_> = sent.iter().map(|s| &*s.body).collect();
        for publisher in 0..PUBLISHERS {
            for cycle in 1..=CYCLES {
                let closed = format!("closed({publisher}.{})", cycle * 3);
                let times = all.iter().filter(|body| body.contains(&closed)).count();
                assert_eq!(times, 1, "{closed} for {call} in {all:#?}");
            }
        }
    }
}

/// `steady` watchers stay, and `senders` processes send what is handed over.
fn race(setup: Setup, steady: usize, senders: usize) {
    let mut world = World::new(setup);
    for n in 0..steady {
        world.watch(&format!("steady{n}"), "presence");
    }
    world.watch("winfo", "presence.winfo");
    let running = Arc::new(AtomicUsize::new(PUBLISHERS + 1));
    let mut threads = Vec::new();
    let mut start = |work: Box<dyn FnOnce(&mut World) + Send>| {
        let (mut world, running) = (world.fork(), running.clone());
        // As if it were another process with its own numbers.
        world.host.yields = true;
        threads.push(std::thread::spawn(move || {
            work(&mut world);
            running.fetch_sub(1, SeqCst);
        }));
    };
    for n in 0..PUBLISHERS {
        start(Box::new(move |world| publisher(world, n)));
    }
    start(Box::new(|world| fickle(world, 0)));
    for sender in 0..senders {
        let running = running.clone();
        start(Box::new(move |world| {
            // It is not one of those that are waited for.
            let end = world.now() + 1000;
            while running.load(SeqCst) > 0 {
                world.pass(i64::from(sender == 0 && world.now() < end));
                match sender {
                    0 => world.expire(),
                    _ => drop(world.send_step()),
                }
                std::thread::yield_now();
            }
            running.fetch_add(1, SeqCst);
        }));
    }
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    world.pass(2);
    world.expire();
    let sent = world.notifies();
    let mut dialogs = BTreeMap::<&str, Vec<&Sent>>::new();
    for notify in sent.iter().filter(|sent| sent.call_id != "winfo") {
        dialogs.entry(&notify.call_id).or_default().push(notify);
    }
    for (call, sent) in &dialogs {
        check_dialog(call, sent);
    }
    // Everybody who is left has been told the newest state.
    world.subscribe(Subscribe { expires: Some("0"), ..Subscribe::new("fetch") });
    let document = world.notifies()[0].body.clone();
    let ended = |sent: &[&Sent]| sent.last().unwrap().state.starts_with("term");
    let living: Vec<_> = dialogs.values().filter(|sent| !ended(sent)).collect();
    assert_eq!(living.len(), world.watchers("alice", PRESENCE));
    for sent in &living {
        assert_eq!(sent.last().unwrap().body, document, "{sent:#?}");
    }
    assert_eq!(dialogs.len() - living.len(), 4, "four of six have ended");
    let state = world.server.store.state(&world.key("alice", PRESENCE));
    assert_eq!(state.finals, []);
    // All lanes are free: the next change is sent by who makes it.
    world.create("presence", "9");
    world.send();
    assert_eq!(world.seen().len(), living.len());
    for n in 0..steady {
        world.subscribe(Subscribe::end(&format!("steady{n}")));
    }
    world.pass(10_000);
    world.expire();
    world.assert_empty();
}

#[test]
fn no_watcher_sees_an_older_state_after_a_newer_one() {
    for _ in 0..60 {
        race(Setup { shards: 1, ..Setup::default() }, 3, 1);
    }
}

#[test]
fn nor_with_publications_in_the_database() {
    for _ in 0..20 {
        race(Setup { mode: SubscriptionMode::Memory, shards: 4, ..Setup::stored() }, 3, 1);
    }
}

#[test]
fn nor_without_an_index() {
    for _ in 0..20 {
        let setup = Setup {
            mode: SubscriptionMode::Memory,
            cache: PublicationCache::None,
            shards: 4,
            ..Setup::stored()
        };
        race(setup, 3, 1);
    }
}

#[test]
fn nor_with_everything_in_the_database_only() {
    for _ in 0..20 {
        let setup = Setup {
            mode: SubscriptionMode::DbOnly,
            cache: PublicationCache::None,
            shards: 4,
            ..Setup::stored()
        };
        race(setup, 3, 1);
    }
}

#[test]
fn nor_when_two_processes_share_a_walk() {
    for _ in 0..20 {
        race(Setup { shards: 1, ..Setup::default() }, 400, 3);
    }
}

/// Two processes that compose one state version may read the rows at different times.
#[test]
fn a_walk_with_documents_of_rows_is_not_shared() {
    for (cache, shared) in [(PublicationCache::None, false), (PublicationCache::Record, true)] {
        let mode = SubscriptionMode::Memory;
        let mut world = World::new(Setup { mode, cache, shards: 1, ..Setup::stored() });
        for n in 0..400 {
            world.watch(&format!("w{n}"), "presence");
        }
        world.send();
        world.create("presence", "a");
        let mut second = world.fork();
        for _ in 0..40 {
            world.host.during_notify.push_back(Box::new(|| {}));
        }
        let joined = Arc::new(AtomicUsize::new(0));
        let seen = joined.clone();
        world.host.during_notify.push_back(Box::new(move || {
            seen.store(usize::from(second.send_step()), SeqCst);
        }));
        world.send();
        assert_eq!(joined.load(SeqCst) == 1, shared, "{cache:?}");
    }
}
