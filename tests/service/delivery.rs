//! NOTIFYs that cannot be sent: what one watcher lacks stays with it (A10, A13).

use crate::fakes::{PRESENCE, Setup, World};
use presence::config::{PublicationCache, SubscriptionMode};
use presence::ports::NotifyOutcome;

/// Subscriptions in memory, with rows, and as rows only.
pub fn modes() -> [Setup; 3] {
    let rows = Setup {
        mode: SubscriptionMode::DbOnly,
        cache: PublicationCache::None,
        authorizes: false,
        ..Setup::stored()
    };
    [Setup::default(), Setup::stored(), rows]
}

#[test]
fn nothing_that_becomes_of_a_notify_stops_the_others() {
    use NotifyOutcome::*;
    for setup in modes() {
        for (outcome, stays) in [(Dropped, true), (Failed, true), (Gone, false)] {
            let mut world = World::new(setup.clone());
            for watcher in ["first", "bad", "last"] {
                world.watch(watcher, "presence");
            }
            world.watch("looker", "presence.winfo");
            world.send();
            world.seen();
            world.host.outcomes.insert("bad".into(), outcome);
            let tag = world.create("presence", "a");
            world.modify("presence", &tag, "b");
            world.send();
            let told = world.notifies();
            let count = |call_id: &str| told.iter().filter(|n| n.call_id == call_id).count();
            assert_eq!((count("first"), count("last")), (2, 2), "{outcome:?}");
            assert_eq!(world.watchers("alice", PRESENCE), if stays { 3 } else { 2 });
            assert_eq!(count("looker"), usize::from(!stays), "{outcome:?}");
        }
    }
}

#[test]
fn a_watcher_that_is_gone_stays_where_time_outs_do_not_end_it() {
    for setup in modes() {
        let setup = Setup { config: |config| config.timeout_rm_subs = false, ..setup };
        let mut world = World::new(setup);
        world.watch("gone", "presence");
        world.seen();
        world.host.outcomes.insert("gone".into(), NotifyOutcome::Gone);
        let tag = world.create("presence", "a");
        world.send();
        assert_eq!(world.watchers("alice", PRESENCE), 1);
        world.host.outcomes.clear();
        world.modify("presence", &tag, "b");
        world.send();
        assert_eq!(world.notifies().last().map(|n| n.body.clone()), Some("b".into()));
    }
}
