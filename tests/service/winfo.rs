//! Watcher information follows the watchers.

use crate::fakes::{Subscribe, World};

/// The documents sent to `winfo` since the last time.
fn documents(world: &mut World) -> Vec<String> {
    world.send();
    let sent = world.notifies();
    sent.into_iter().filter(|sent| sent.call_id == "winfo").map(|sent| sent.body).collect()
}

#[test]
fn every_change_of_the_watchers_is_told() {
    let mut world = World::default();
    world.watch("winfo", "presence.winfo");
    let document = documents(&mut world).concat();
    assert!(document.contains("version=\"0\" state=\"full\""), "{document}");
    assert!(document.contains("resource=\"sip:alice@h\" package=\"presence\"/>"), "{document}");
    world.watch("w", "presence");
    let notified = documents(&mut world);
    assert_eq!(notified.len(), 1);
    assert!(notified[0].contains("version=\"1\""), "{notified:?}");
    assert!(notified[0].contains("event=\"subscribe\" status=\"active\">sip:w@h<"), "{notified:?}");
    world.subscribe(Subscribe { watcher: "pending", ..Subscribe::new("p") });
    let notified = documents(&mut world);
    assert!(
        notified[0].contains("event=\"subscribe\" status=\"pending\">sip:pending@h<"),
        "{notified:?}"
    );
    world.subscribe(Subscribe::refresh("w"));
    assert_eq!(documents(&mut world), [""; 0], "a refresh changes nothing (B16)");
    world.create("presence", "a");
    assert_eq!(documents(&mut world), [""; 0]);
    world.subscribe(Subscribe::end("w"));
    let notified = documents(&mut world);
    assert_eq!(notified.len(), 1);
    assert!(
        notified[0].contains("event=\"timeout\" status=\"terminated\">sip:w@h<"),
        "{notified:?}"
    );
    world.pass(3601);
    world.subscribe(Subscribe { event: Some("presence.winfo"), ..Subscribe::refresh("winfo") });
    let notified = documents(&mut world);
    assert!(
        notified.len() == 1 && !notified[0].contains("sip:w@h"),
        "its end is told once: {notified:?}"
    );
    world.expire();
    let notified = documents(&mut world);
    assert_eq!(notified.len(), 1);
    assert!(notified[0].contains("status=\"waiting\">sip:pending@h<"), "{notified:?}");
}

#[test]
fn ids_tell_watchers_apart_and_no_secrets() {
    let mut world = World::default();
    world.watch("w", "presence");
    world.subscribe(Subscribe { watcher: "w", ..Subscribe::new("v") });
    world.watch("winfo", "presence.winfo");
    let document = documents(&mut world).concat();
    let ids: Vec<_> = document.split("id=\"").skip(1).map(|rest| &rest[..16]).collect();
    assert_eq!(ids.len(), 2);
    assert_ne!(ids[0], ids[1]);
    let guess = presence::presence::winfo::watcher_id(b"w", b"ft", b"tt-w", [0; 16]);
    assert!(!ids.contains(&&*guess), "the key must not be known");
}
