//! Lists, sums and the busiest: wherever things are kept, at any size, and with no
//! lock held for more than a page.

use crate::fakes::{MWI, PRESENCE, Publish, Setup, Subscribe, World};
use presence::config::{PublicationCache, SubscriptionMode};
use presence::ports::Database;
use presence::presence::listing::{After, Carrier, Like, Piece, Wanted};
use presence::presence::subscription::Text;
use presence::service::listing::{self, Refused};
use presence::service::overview::{self, Lost, Unwritten};
use presence::store::listing::Listed;
use presence::store::walk::{Count, PAGE, Place};
use std::collections::BTreeSet;

const MODES: [(SubscriptionMode, PublicationCache); 5] = [
    (SubscriptionMode::Memory, PublicationCache::Record),
    (SubscriptionMode::WriteThrough, PublicationCache::Hybrid),
    (SubscriptionMode::WriteBack, PublicationCache::Hybrid),
    (SubscriptionMode::WriteBack, PublicationCache::None),
    (SubscriptionMode::DbOnly, PublicationCache::None),
];

fn each_mode(test: impl Fn(World, SubscriptionMode)) {
    for (mode, cache) in MODES {
        test(World::new(Setup { mode, cache, authorizes: false, ..Setup::stored() }), mode);
    }
}

/// The Call-IDs of one piece of a list, and where the next one begins.
fn piece(world: &mut World, wanted: &Wanted<'_>, limit: usize) -> (Vec<String>, Option<After>) {
    let mut piece = Piece::new(Carrier::Json, Some(limit));
    let (mut found, mut last, mut after) = (Vec::new(), None, None);
    let each = |place, listed: Listed| {
        if !piece.takes(1, found.is_empty()) {
            after = last;
            return false;
        }
        found.push(String::from_utf8(listed.subscription.text(Text::CallId).to_vec()).unwrap());
        last = Some(place);
        true
    };
    listing::subscriptions(&world.server, &mut world.host, wanted, each).unwrap();
    (found, after)
}

fn all(world: &mut World, wanted: &Wanted<'_>, limit: usize) -> Vec<String> {
    let (mut all, mut wanted) = (Vec::new(), wanted.clone());
    loop {
        let (found, after) = piece(world, &wanted, limit);
        assert!(!found.is_empty() || all.is_empty(), "an empty piece");
        all.extend(found);
        match after {
            None => return all,
            after => wanted.after = after,
        }
    }
}

fn of_alice() -> Wanted<'static> {
    Wanted { user: Some(b"ALICE"), host: Some(b"H"), ..Wanted::default() }
}

#[test]
fn a_list_in_pieces_is_the_whole_list_once() {
    each_mode(|mut world, mode| {
        for n in 0..40 {
            let call_id = format!("w{n}");
            let event = Some(if n % 4 == 0 { "message-summary" } else { "presence" });
            world.subscribe(Subscribe { event, ..Subscribe::new(&call_id) });
        }
        world.subscribe(Subscribe { user: "bob", ..Subscribe::new("other") });
        let expected: BTreeSet<String> = (0..40).map(|n| format!("w{n}")).collect();
        for limit in [1, 7, 39, 40, 41, 1000] {
            let found = all(&mut world, &of_alice(), limit);
            assert_eq!(found.len(), 40, "{mode:?} {limit}");
            assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), expected, "{mode:?} {limit}");
        }
        let mails = Wanted { event: Some(b"message-summary"), ..of_alice() };
        assert_eq!(all(&mut world, &mails, 3).len(), 10, "{mode:?}");
        let like = Wanted { like: Some(Like::new(b"w1*@h")), ..of_alice() };
        assert_eq!(all(&mut world, &like, 3).len(), 11, "{mode:?}");
        let call = Wanted { call_id: Some(b"w17"), ..Wanted::default() };
        assert_eq!(all(&mut world, &call, 3), ["w17"], "{mode:?}");
        world.subscribe(Subscribe::end("w17"));
        assert_eq!(all(&mut world, &call, 3), [""; 0], "{mode:?}");
    });
}

/// What is there all the time is listed once, whatever comes and goes.
#[test]
fn a_list_may_change_between_its_pieces() {
    each_mode(|mut world, mode| {
        for n in 0..30 {
            world.subscribe(Subscribe::new(&format!("w{n}")));
        }
        let (mut found, mut wanted) = (Vec::new(), of_alice());
        for round in 0.. {
            let (piece, after) = piece(&mut world, &wanted, 5);
            found.extend(piece);
            let Some(after) = after else { break };
            wanted.after = Some(after);
            // The last one that was listed ends, and others come.
            if let Some(last) = found.last() {
                world.subscribe(Subscribe::end(last));
            }
            world.subscribe(Subscribe::new(&format!("new{round}")));
        }
        let old: Vec<_> = found.iter().filter(|name| name.starts_with('w')).collect();
        assert_eq!(old.len(), 30, "{mode:?} {found:?}");
        assert_eq!(found.iter().collect::<BTreeSet<_>>().len(), found.len(), "{mode:?} {found:?}");
    });
}

#[test]
fn publications_are_listed_in_pieces() {
    each_mode(|mut world, mode| {
        for n in 0..20 {
            let (user, body) = (format!("u{n}"), format!("body{n}"));
            world.publish(Publish { user: &user, body: &body, ..Publish::default() });
        }
        world.create("message-summary", "mail");
        let mut list = |wanted: &Wanted<'_>, documents, most: usize| {
            let (mut found, mut last) = (Vec::new(), None);
            let each = |place, one: listing::Published| {
                let body = String::from_utf8(one.publication.body).unwrap();
                found.push((String::from_utf8(one.user).unwrap(), body));
                last = Some(place);
                found.len() < most
            };
            let (server, host) = (&world.server, &mut world.host);
            listing::publications(server, host, wanted, documents, each).map(|()| (found, last))
        };
        let everything = Wanted::default();
        assert_eq!(list(&everything, false, 100).unwrap().0.len(), 21, "{mode:?}");
        let presence = Wanted { event: Some(b"presence"), ..Wanted::default() };
        let (first, last) = list(&presence, true, 8).unwrap();
        let (rest, _) = list(&Wanted { after: last, ..presence.clone() }, true, 100).unwrap();
        assert_eq!((first.len(), rest.len()), (8, 12), "{mode:?}");
        for (user, body) in first.iter().chain(&rest) {
            assert_eq!(body.strip_prefix("body"), user.strip_prefix('u'), "{mode:?}");
        }
        let like = Wanted { like: Some(Like::new(b"U1")), ..Wanted::default() };
        assert_eq!(list(&like, false, 100).unwrap().0.len(), 11, "{mode:?}");
        let unknown = Wanted { event: Some(b"unknown"), ..Wanted::default() };
        assert_eq!(list(&unknown, false, 1), Err(Refused::Event));
        // `after` of the other kind of list.
        let other = match last {
            Some(After::Row(_)) => After::Record { shard: 0, index: 0 },
            _ => After::Row(3),
        };
        let wrong = Wanted { after: Some(other), ..Wanted::default() };
        assert_eq!(list(&wrong, false, 1), Err(Refused::After), "{mode:?}");
    });
}

/// A million entries are a matter of more pages, not of longer ones.
#[test]
fn a_page_is_bounded() {
    let mut world = World::default();
    for n in 0..2000 {
        world.subscribe(Subscribe::new(&format!("w{n}")));
    }
    let store = &world.server.store;
    let mut counts = [Count::default(); 8];
    let (mut at, mut pages, mut before) = (Some(Place::default()), 0, 0);
    while let Some(place) = at {
        at = store.count_subscriptions(place, &mut counts);
        let all: u64 = counts.iter().map(|count| count.active + count.pending).sum();
        assert!(all - before <= u64::from(PAGE));
        (before, pages) = (all, pages + 1);
    }
    assert_eq!(before, 2000);
    assert!(pages >= 2000 / PAGE as usize, "{pages}");
    // One page looks at no more for a list that finds nothing.
    let nothing = Wanted { call_id: Some(b"none"), ..Wanted::default() };
    let page = store.subscriptions_page(Place::default(), (&nothing, None), world.now(), 10);
    assert!(page.found.is_empty() && page.next.is_some());
    // Nor are more entries than wanted copied under the lock.
    let everything = Wanted::default();
    let page = store.subscriptions_page(Place::default(), (&everything, None), world.now(), 10);
    assert_eq!(page.found.len(), 10);
}

#[test]
fn a_summary_counts_by_package() {
    each_mode(|mut world, mode| {
        for n in 0..5 {
            world.subscribe(Subscribe::new(&format!("w{n}")));
        }
        world.watch("mail", "message-summary");
        world.create("presence", "a");
        world.create("message-summary", "m");
        world.publish(Publish { user: "bob", body: "b", ..Publish::default() });
        let summary = overview::summary(&world.server, &mut world.host).unwrap();
        assert_eq!((summary.all.active, summary.all.publications), (6, 3), "{mode:?}");
        let of = |package: presence::presence::event_package::PackageId| {
            summary.packages[usize::from(package.0)].clone()
        };
        assert_eq!(of(PRESENCE).0, b"presence");
        assert_eq!((of(PRESENCE).1.active, of(PRESENCE).1.publications), (5, 2), "{mode:?}");
        assert_eq!((of(MWI).1.active, of(MWI).1.publications), (1, 1), "{mode:?}");
    });
}

#[test]
fn a_summary_says_what_a_restart_would_lose() {
    each_mode(|mut world, mode| {
        world.watch("w", "presence");
        world.create("presence", "a");
        let mut lost = || {
            let summary = overview::summary(&world.server, &mut world.host).unwrap();
            (summary.lost, summary.unwritten)
        };
        let (subscriptions_by_stop, subscriptions_by_kill, publications) = match mode {
            SubscriptionMode::Memory => (1, 1, 1),
            SubscriptionMode::WriteBack => (0, 1, 0),
            SubscriptionMode::WriteThrough | SubscriptionMode::DbOnly => (0, 0, 0),
        };
        let expected = Lost { subscriptions_by_stop, subscriptions_by_kill, publications };
        let urgent = usize::from(mode == SubscriptionMode::WriteBack);
        let unwritten = Unwritten { urgent, ..Unwritten::default() };
        assert_eq!(lost(), (expected, unwritten), "{mode:?}");
        presence::service::write_back::flush(&world.server, &mut world.host, false);
        let summary = overview::summary(&world.server, &mut world.host).unwrap();
        assert_eq!(summary.unwritten, Unwritten::default());
        let by_kill = u64::from(mode == SubscriptionMode::Memory);
        assert_eq!(summary.lost.subscriptions_by_kill, by_kill, "{mode:?}");
    });
}

#[test]
fn the_busiest_come_first() {
    each_mode(|mut world, mode| {
        for n in 0..30u32 {
            let (call_id, user) = (format!("c{n}"), format!("u{}", n % 7));
            let watcher = if n < 12 { "proxy" } else { call_id.as_str() };
            let subscribe = Subscribe { watcher, user: &user, ..Subscribe::new(&call_id) };
            world.subscribe(subscribe);
        }
        for n in 0..9 {
            let call_id = format!("fan{n}");
            world.subscribe(Subscribe { user: "star", ..Subscribe::new(&call_id) });
        }
        let (server, host) = (&world.server, &mut world.host);
        let watchers = overview::top_watchers(server, host, 3).unwrap();
        assert_eq!(watchers.len(), 3, "{mode:?}");
        assert_eq!(watchers[0], (b"proxy".to_vec(), b"h".to_vec(), 12), "{mode:?}");
        assert_eq!(watchers[1].2, 1, "{mode:?}");
        let presentities = overview::top_presentities(server, host, 2).unwrap();
        let star = (b"sip:star@h".to_vec(), b"presence".to_vec(), 9);
        assert_eq!((presentities.len(), &presentities[0]), (2, &star), "{mode:?}");
        assert_eq!(presentities[1].2, 5, "{mode:?}");
        let [addresses, clients] = overview::top_sources(server, host, 1);
        assert_eq!(addresses, []);
        assert_eq!((&clients[0].name[..], clients[0].this_minute), (&b"proxy@h"[..], 12));
    });
}

#[test]
fn who_floods_is_seen_though_all_is_refused() {
    let mut world = World::default();
    for _ in 0..50 {
        assert_eq!(world.publish(Publish { user: "flood", ..Publish::default() }).code, 400);
    }
    world.create("presence", "a");
    let [_, clients] = overview::top_sources(&world.server, &mut world.host, 5);
    assert_eq!((&clients[0].name[..], clients[0].this_minute), (&b"flood@h"[..], 50));
    world.pass(60);
    let [_, clients] = overview::top_sources(&world.server, &mut world.host, 5);
    assert_eq!((clients[0].this_minute, clients[0].last_minute), (0, 50));
}

/// In rows with a database that counts for us the result is the same.
#[test]
fn what_the_database_cannot_count_is_counted_here() {
    let setup = Setup {
        mode: SubscriptionMode::DbOnly,
        cache: PublicationCache::None,
        authorizes: false,
        ..Setup::stored()
    };
    let mut world = World::new(setup);
    for n in 0..3 {
        world.subscribe(Subscribe::new(&format!("w{n}")));
    }
    let mut database = world.host.database.clone().unwrap();
    let groups = database.groups("active_watchers", &[], &["event"], 5);
    assert_eq!(groups, Ok(None));
    let summary = overview::summary(&world.server, &mut world.host).unwrap();
    assert_eq!(summary.all.active, 3);
    // Who has run out counts no more.
    world.pass(4000);
    let summary = overview::summary(&world.server, &mut world.host).unwrap();
    assert_eq!(summary.all.active, 0);
}
