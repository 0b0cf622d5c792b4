//! One presentity with very many publications (P12): what a step costs does not
//! follow their number.

use crate::fakes::{DIALOG, MWI, PRESENCE, Setup, World};
use presence::presence::event_package::PackageId;
use presence::presence::presentity::PresentityKey;
use presence::presence::publication::{Facts, Step};
use presence::store::publications::{Begun, PublicationChange};

/// Processor time of this thread in microseconds.
fn spent() -> i64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the clock writes to the structure that is given.
    assert_eq!(unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) }, 0);
    time.tv_sec * 1_000_000 + time.tv_nsec / 1000
}

fn cost(work: impl FnOnce()) -> i64 {
    let before = spent();
    work();
    spent() - before
}

/// The least of several: other load does not count.
fn least(mut work: impl FnMut()) -> i64 {
    (0..5).map(|_| cost(&mut work)).min().unwrap()
}

fn restore(world: &World, key: &PresentityKey, n: u32) {
    let (tag, id) = (format!("a{n}"), format!("d{n}"));
    let change = PublicationChange {
        step: Step::Create,
        if_match: None,
        entity_tag: tag.as_bytes(),
        ruid: tag.as_bytes(),
        sender: None,
        body: Some(b"document"),
        facts: Some(Facts::default()),
        dialog_id: if key.package == DIALOG { id.as_bytes() } else { b"" },
        expires_at: Some(world.now() + 3600),
        // As after many changes: in no order.
        now: world.now() - i64::from(n.wrapping_mul(0x9E37_79B9) >> 20),
        priority: 0,
        judged_by: None,
    };
    world.server.store.restore_publication(key, &change).unwrap();
}

#[test]
fn a_start_is_linear_in_the_publications_of_one_presentity() {
    for package in [PRESENCE, DIALOG] {
        let apart = World::default();
        let spread = cost(|| {
            (0..12_000).for_each(|n| restore(&apart, &apart.key(&format!("u{n}"), package), n));
            apart.server.store.put_all_in_order();
        });
        let world = World::default();
        let key = world.key("alice", package);
        let together = cost(|| {
            (0..12_000).for_each(|n| restore(&world, &key, n));
            world.server.store.put_all_in_order();
        });
        assert!(together < 3 * spread + 50_000, "{together} against {spread} us");
    }
}

/// Creates, changes and removes some publications.
fn cycle(world: &World, key: &PresentityKey, package: PackageId) {
    let store = &world.server.store;
    let event = world.server.registry.get(package).unwrap();
    let step = |step, old: Option<&[u8]>, tag: &[u8], id: &[u8]| {
        let change = PublicationChange {
            step,
            if_match: old,
            entity_tag: tag,
            ruid: b"r",
            sender: None,
            body: Some(b"document"),
            facts: (step != Step::Refresh).then(Facts::default),
            dialog_id: if package == DIALOG { id } else { b"" },
            expires_at: Some(world.now() + 3600),
            now: world.now(),
            priority: 0,
            judged_by: None,
        };
        let Ok(Begun::Pending(pending)) = store.begin_publication(key, event, &change) else {
            panic!("refused");
        };
        store.commit_publication(pending, event.aggregates, None, None);
    };
    for _ in 0..200 {
        step(Step::Create, None, b"new.1", b"x");
        // Replaces the one before.
        if package == DIALOG {
            step(Step::Create, None, b"new.2", b"x");
        } else {
            step(Step::Refresh, Some(b"new.1"), b"new.2", b"");
        }
        step(Step::Modify, Some(b"new.2"), b"new.3", b"y");
        step(Step::Refresh, Some(b"new.3"), b"new.4", b"");
        step(Step::Remove, Some(b"new.4"), b"", b"");
    }
}

#[test]
fn a_publish_does_not_walk_the_publications_of_its_presentity() {
    for package in [PRESENCE, DIALOG, MWI] {
        let take = |count| {
            let world = World::new(Setup {
                config: |config| config.limits.publications = 0,
                ..Setup::default()
            });
            let key = world.key("alice", package);
            (0..count).for_each(|n| restore(&world, &key, n));
            cycle(&world, &key, package);
            least(|| cycle(&world, &key, package))
        };
        let (few, many) = (take(10), take(10_000));
        assert!(many < 4 * few + 2000, "{many} against {few} us");
    }
}

#[test]
fn a_sphere_is_looked_for_in_the_newest_first() {
    let sphere = "<presence xmlns:r='urn:ietf:params:xml:ns:pidf:rpid'><r:sphere>work</r:sphere>\
                  </presence>";
    let take = |count| {
        let config = |config: &mut presence::config::Config| {
            config.enable_sphere_check = true;
            config.limits.publications = 0;
        };
        let mut world = World::new(Setup { config, ..Setup::default() });
        let key = world.key("alice", PRESENCE);
        (0..count).for_each(|n| restore(&world, &key, n));
        let mut tag = world.create("presence", sphere);
        least(|| {
            for _ in 0..20 {
                tag = world.modify("presence", &tag, sphere);
            }
        })
    };
    let (few, many) = (take(10), take(10_000));
    assert!(many < 4 * few + 2000, "{many} against {few} us");
}
