//! Who is the same (B19, B46): escapes of a user and case of a domain make no
//! difference, wherever subscriptions and publications are kept.

use crate::fakes::{PRESENCE, Publish, Setup, Subscribe, World};
use presence::config::{PublicationCache, SubscriptionMode};
use presence::ports::{Database, Value};
use presence::presence::listing::Wanted;
use presence::presence::uri::{self, UserCase};
use presence::service::{listing, subscriptions, watchers};

const MODES: [(SubscriptionMode, PublicationCache); 5] = [
    (SubscriptionMode::Memory, PublicationCache::Record),
    (SubscriptionMode::WriteBack, PublicationCache::Hybrid),
    (SubscriptionMode::WriteThrough, PublicationCache::None),
    (SubscriptionMode::DbOnly, PublicationCache::Hybrid),
    (SubscriptionMode::DbOnly, PublicationCache::None),
];

fn each_mode(mut test: impl FnMut(World)) {
    for (mode, cache) in MODES {
        for user_case in [UserCase::Sensitive, UserCase::Insensitive] {
            let setup = Setup { mode, cache, user_case, authorizes: false, ..Setup::stored() };
            let database = Setup::stored().database.filter(|_| cache != PublicationCache::Record);
            test(World::new(Setup { database, ..setup }));
        }
    }
}

fn column(world: &World, table: &str, column: &str) -> Vec<String> {
    world.host.database.as_ref().map(|rows| rows.column(table, column)).unwrap_or_default()
}

fn publish(world: &mut World, user: &str, tag: Option<&str>, body: &str) -> String {
    let answer = world.publish(Publish { user, tag, body, ..Publish::default() });
    assert_eq!(answer.code, 200, "{user}");
    answer.tag
}

const SPELLINGS: [&str; 4] = ["park+5900", "park%2B5900", "park%2b5900", "p%61rk+5900"];

#[test]
fn escaped_and_unescaped_users_are_one_presentity() {
    each_mode(|mut world| {
        for (n, user) in SPELLINGS.into_iter().enumerate() {
            let call = format!("w{n}");
            let answer = world.subscribe(Subscribe { user, ..Subscribe::new(&call) });
            assert_eq!(answer.code, 200);
        }
        world.seen();
        let all = |world: &World, document: &str| {
            let mut seen = world.seen();
            seen.sort();
            let text = seen.join(", ");
            assert_eq!(seen.len(), SPELLINGS.len(), "{document}: {text}");
            assert!(seen.iter().all(|one| one.ends_with(&format!(" {document}"))), "{text}");
        };
        let mut tag = publish(&mut world, "park%2B5900", None, "a");
        all(&world, "a");
        // It goes on by its tag, and an end is an end, in whichever spelling.
        for user in SPELLINGS {
            tag = publish(&mut world, user, Some(&tag), "b");
            all(&world, "b");
        }
        if world.host.database.is_some() {
            assert_eq!(column(&world, "presentity", "etag"), [&*tag]);
            assert_eq!(column(&world, "presentity", "username"), ["park%2B5900"], "as it was made");
        }
        let other = publish(&mut world, "park+5900", None, "c");
        all(&world, "b+c");
        for (user, tag, left) in
            [("p%61rk%2b5900", &tag, "closed(b)+c"), ("park%2B5900", &other, "closed(c)")]
        {
            let gone = Publish { user, tag: Some(tag), expires: Some("0"), ..Publish::default() };
            assert_eq!(world.publish(gone).code, 200);
            all(&world, left);
        }
        assert_eq!(column(&world, "presentity", "etag"), [""; 0]);
    });
}

#[test]
fn rows_are_spelled_as_in_the_request_that_made_them() {
    each_mode(|mut world| {
        if world.host.database.is_none() {
            return;
        }
        let tags = ["park%2B1", "park+1"].map(|user| publish(&mut world, user, None, "a"));
        world.subscribe(Subscribe { user: "park%2b1", ..Subscribe::new("w") });
        assert_eq!(column(&world, "presentity", "username"), ["park%2B1", "park+1"]);
        if world.server.config.subs_db_mode != SubscriptionMode::WriteBack {
            assert_eq!(column(&world, "active_watchers", "presentity_uri"), ["sip:park%2b1@h"]);
        }
        // Each is found by its own row when it runs out.
        let [first, second] = &tags;
        publish(&mut world, "park+1", Some(first), "b");
        publish(&mut world, "park%2B1", Some(second), "c");
        assert_eq!(column(&world, "presentity", "username"), ["park%2B1", "park+1"]);
        world.pass(4000);
        world.expire();
        assert_eq!(column(&world, "presentity", "username"), [""; 0]);
    });
}

#[test]
fn others_are_others() {
    each_mode(|mut world| {
        for (n, user) in ["a%2525", "a%zz", "a%2", "a%00", "a"].into_iter().enumerate() {
            world.subscribe(Subscribe { user, ..Subscribe::new(&format!("w{n}")) });
        }
        world.seen();
        for user in ["a%25", "a%25zz", "a%252", "a%2500", "a%", "b"] {
            publish(&mut world, user, None, "x");
            assert_eq!(world.seen(), [""; 0], "{user}");
        }
        for (user, watcher) in [("a%25%32%35", "w0"), ("a%zz", "w1"), ("a%2", "w2"), ("a%00", "w3")]
        {
            publish(&mut world, user, None, "x");
            let seen = world.seen();
            assert!(matches!(&seen[..], [one] if one.starts_with(watcher)), "{user}: {seen:?}");
        }
    });
}

#[test]
fn subscribers_are_found_and_replaced_in_any_spelling() {
    for (mode, cache) in MODES {
        let database = Setup::stored().database.filter(|_| cache != PublicationCache::Record);
        let setup = Setup { mode, cache, database, same_call: true, ..Setup::stored() };
        let mut world = World::new(Setup { authorizes: false, ..setup });
        world.subscribe(Subscribe { user: "park%2B1", ..Subscribe::new("w") });
        let key = world.key("park+1", PRESENCE);
        let has = subscriptions::has_subscribers(&world.server, &mut world.host, &key);
        assert_eq!(has, Ok(true));
        for uri in ["sip:park+1@h", "sip:PARK%2b1@H", "sips:park%2B1@h:5061;x"] {
            let (user, host) = uri::split(uri.as_bytes());
            let wanted = Wanted { user: Some(user), host: Some(host), ..Wanted::default() };
            let (server, mut count) = (&world.server, 0);
            let each = |_, _| {
                count += 1;
                true
            };
            listing::subscriptions(server, &mut world.host, &wanted, each).unwrap();
            assert_eq!(count, 1, "{uri}");
        }
        publish(&mut world, "park%2B1", None, "x");
        let read =
            world.server.publications().current(&world.server, &mut world.host, &key, b"presence");
        assert_eq!(read.unwrap().len(), 1);
    }
}

/// A row of the `watchers` table, as stock or an operator has written it.
fn decided(world: &mut World, user: &str, domain: &str, reason: Option<&str>) {
    let reason = reason.map_or(Value::Null, |reason| Value::text(reason.as_bytes()));
    let row = [
        ("presentity_uri", Value::text(b"sip:alice@h")),
        ("watcher_username", Value::text(user.as_bytes())),
        ("watcher_domain", Value::text(domain.as_bytes())),
        ("event", Value::text(b"presence")),
        ("status", Value::Int(3)),
        ("reason", reason),
        ("inserted_time", Value::Int(1)),
    ];
    world.host.database.as_mut().unwrap().insert("watchers", &row).unwrap();
}

fn terminated_at_once(world: &mut World, watcher: &str, host: &str, call: &str) -> bool {
    let it = Subscribe { watcher, watcher_host: host, ..Subscribe::new(call) };
    assert_eq!(world.subscribe(it).code, 200);
    world.seen().iter().all(|one| one.contains("terminated"))
}

#[test]
fn who_was_rejected_stays_so_in_any_spelling() {
    for (row_host, request_host) in
        [("ex.org", "EX.org"), ("EX.org", "ex.org"), ("Ex.org", "eX.ORG"), ("ex.org", "ex.org")]
    {
        for mode in [SubscriptionMode::WriteBack, SubscriptionMode::DbOnly] {
            let mut world = World::new(Setup { mode, ..Setup::stored() });
            // The fake rules leave `pending` to others.
            decided(&mut world, "pending", row_host, Some("rejected"));
            // A namesake elsewhere is somebody else.
            decided(&mut world, "pending", "other.org", None);
            let rejected = terminated_at_once(&mut world, "pending", request_host, "w");
            assert!(rejected, "{row_host} {request_host}");
            assert_eq!(column(&world, "watchers", "watcher_domain"), [row_host, "other.org"]);
            assert!(!terminated_at_once(&mut world, "pending", "third.org", "x"));
        }
    }
}

#[test]
fn rows_of_watchers_get_our_spelling_when_they_are_written() {
    let mut world = World::new(Setup::stored());
    decided(&mut world, "w", "EX.org", Some("timeout"));
    // Who was put off may ask again; the rules say active.
    assert!(!terminated_at_once(&mut world, "w", "Ex.Org", "w"));
    assert_eq!(column(&world, "watchers", "watcher_domain"), ["ex.org"]);
    assert_eq!(column(&world, "watchers", "status"), ["1"]);
    assert!(!terminated_at_once(&mut world, "new", "EX.org", "n"));
    assert_eq!(column(&world, "watchers", "watcher_domain"), ["ex.org", "ex.org"]);
    // Escaped, too.
    decided(&mut world, "a+b", "h", Some("rejected"));
    decided(&mut world, "pending", "h", Some("rejected"));
    assert!(terminated_at_once(&mut world, "p%65nding", "H", "p"));
    assert_eq!(column(&world, "watchers", "watcher_username").len(), 4);
}

/// A row in the request's own spelling is had with one statement, though `+` can be
/// written in three ways, in both users.
#[test]
fn who_is_known_in_the_same_spelling_is_looked_for_once() {
    let statements = |presentity: &str, watcher: &str| {
        let mut world = World::new(Setup::stored());
        let database = world.host.database.clone().unwrap();
        let mut subscribe = |call: &str| {
            let before = database.statements();
            let it = Subscribe { user: presentity, watcher, ..Subscribe::new(call) };
            assert_eq!(world.subscribe(it).code, 200);
            database.statements() - before
        };
        (subscribe("first"), subscribe("again"))
    };
    let plain = statements("alice", "bob");
    let numbers = statements("+4930", "+4940");
    assert_eq!(numbers.1, plain.1);
    assert_eq!(numbers.0, plain.0 + 8);
}

#[test]
fn a_decision_reaches_a_watcher_in_any_spelling() {
    let mut world = World::new(Setup::stored());
    world.subscribe(Subscribe {
        watcher: "pending",
        watcher_host: "EX.org",
        ..Subscribe::new("w")
    });
    assert_eq!(column(&world, "watchers", "watcher_domain"), ["ex.org"]);
    world.seen();
    // Approved by hand.
    let approved = [
        ("status", Value::Int(1)),
        ("reason", Value::Null),
        ("watcher_domain", Value::text(b"eX.org")),
    ];
    world.host.database.as_mut().unwrap().update("watchers", &[], &approved).unwrap();
    let notified = watchers::update_watchers(
        &world.server,
        &mut world.host,
        PRESENCE,
        b"alice",
        b"h",
        Some(b"rules"),
    );
    assert_eq!(notified, Ok(1));
    let seen = world.seen();
    assert!(matches!(&seen[..], [one] if one.contains(" active")), "{seen:?}");
}
