//! What one client may pile up: limits, dialog ids, floods.

use presence_kamailio_tests::prelude::*;

/// Where subscriptions are kept in each of the ways.
macro_rules! every_mode {
    ($($scenarios:tt)*) => {
        presence_kamailio_tests::storages! {
            [
                memory: Storage::Memory;
                write_back: Storage::Default;
                write_through: Storage::on(Driver::Sqlite, 1, 1, 0);
                rows: Storage::on(Driver::Sqlite, 3, 0, 0);
            ]
            $($scenarios)*
        }
    };
}

every_mode! {
    /// sl makes To tags of the Via branch and the Call-ID, so two SUBSCRIBEs may
    /// have one dialog id.
    fn b2_one_dialog_id_is_one_subscription(storage) {
        let kamailio = Kamailio::start(Config::new(storage).stateless());
        let mut watcher = Watcher::udp(&kamailio, "alice");
        let first = watcher.message();
        let branch = first.header("Via").unwrap_or_default().to_owned();
        assert_eq!(watcher.send(&first).status(), Some(200));
        let tag = watcher.to_tag.clone();
        let notify = watcher.next_notify("initial");
        for (presentity, event) in [("bob", "presence"), ("carol", "presence"), ("alice", "dialog")] {
            watcher.to_tag = None;
            (watcher.presentity, watcher.event) = (aor(presentity), event.into());
            let mut again = watcher.message();
            again.set("Via", branch.clone());
            let reply = watcher.endpoint.request(&again);
            assert_eq!(reply.to_tag(), tag.as_deref(), "the same dialog id");
            let accepted = reply.status() == Some(200);
            if !storage.has_subscription_rows() {
                assert_eq!(accepted, differs("B2 one dialog id is one subscription", true, false));
            } else if ours_only("stock's rows refuse it, or are replaced") {
                assert_eq!(reply.status(), Some(481));
            }
        }
        // The first one lives.
        (watcher.presentity, watcher.event, watcher.to_tag) = (aor("alice"), "presence".into(), tag);
        if ours_only("stock may know another one now") {
            watcher.subscribe(600);
            watcher.wait_notify("the refresh", |n| n.cseq > notify.cseq && n.state == "active");
        }
        kamailio.finish();
    }

    /// A client that has forgotten its To tag can still end what it started.
    fn delete_same_subs_ends_without_a_to_tag(storage) {
        let kamailio = Kamailio::start(Config::new(storage).presence("delete_same_subs", 1));
        let mut watcher = Watcher::udp(&kamailio, "alice");
        watcher.subscribe(600);
        watcher.wait_notify("initial", |_| true);
        let tag = watcher.to_tag.take();
        watcher.subscribe(0);
        watcher.wait_notify("its end", |n| n.state == "terminated");
        (watcher.to_tag, watcher.cseq) = (tag, watcher.cseq + 1);
        let refresh = watcher.try_subscribe(600).status();
        let gone = refresh == Some(481);
        assert_eq!(gone, differs("B36 an end without To tag", false, true), "{refresh:?}");
        kamailio.finish();
    }
}
