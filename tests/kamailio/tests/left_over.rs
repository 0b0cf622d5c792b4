//! Rows that ended while the server was down, or that other programs wrote, and
//! rows that are of no use here (B45).

use presence_kamailio_tests::prelude::*;
use presence_kamailio_tests::rows::now;

storages! {
    [
        default_mode: Storage::Default;
        write_through_postgres: Storage::on(Driver::Postgres, 1, 1, 0);
        write_back_mariadb: Storage::on(Driver::MariaDb, 2, 1, 0);
        database_only_postgres: Storage::on(Driver::Postgres, 3, 0, 0);
        database_only_mariadb_notifiers: Storage::on(Driver::MariaDb, 3, 0, 2);
    ]

    fn b45_subscriptions_that_ended_while_the_server_was_down(storage) {
        if !storage.has_subscription_rows() {
            return;
        }
        if storage.subs_db_mode() == 3 && !ours_only("D7 expired rows stay") {
            return;
        }
        let kamailio = Kamailio::start(Config::new(storage).presence("db_update_period", 2));
        let subscribed = |name: &str, event: &str| {
            let mut watcher = Watcher::udp(&kamailio, "alice").named(name).event(event);
            watcher.subscribe(600);
            watcher.next_notify("initial");
            watcher
        };
        let [recent, old, unknown, unreadable] = ["recent", "old", "unknown", "unreadable"]
            .map(|name| subscribed(name, "presence"));
        let guard = subscribed("guard", "presence.winfo");
        kamailio.stop_cleanly();
        let change = |watcher: &Watcher, set: &str| {
            let id = &watcher.call_id;
            kamailio.execute(&format!("UPDATE active_watchers SET {set} WHERE callid='{id}'"));
        };
        change(&recent, &format!("expires={}", now() - 60));
        change(&old, &format!("expires={}", now() - 5000));
        change(&unknown, &format!("expires={}, event='no-such-package'", now() - 5000));
        change(&unreadable, &format!("expires={}, local_cseq=-7", now() - 5000));
        let (before, told) = (recent.notifies().len(), guard.notifies().len());

        kamailio.start_again();
        kamailio.wait_no_row_of(&recent);
        kamailio.wait_no_row_of(&old);
        let ended = |watcher: &Watcher| {
            watcher.notifies().iter().filter(|n| n.state == "terminated").count()
        };
        if differs("B45 who ended is told", false, true) {
            let last = recent.wait_notify("the end", |n| n.state == "terminated");
            assert_eq!(last.subscription_state, "terminated;reason=timeout");
            guard.wait_notify("of the ended ones", |n| {
                let body = n.body();
                body.contains("recent@") && body.contains("old@")
            });
        }
        // More rounds of the timer pass.
        std::thread::sleep(Duration::from_millis(4500));
        let told_once = differs("B45 who ended is told", 0, 1);
        assert_eq!((ended(&recent), ended(&old)), (told_once, 0));
        assert_eq!(recent.notifies().len(), before + told_once);
        let timeouts: usize = guard.notifies()[told..]
            .iter()
            .map(|n| n.body().matches("event=\"timeout\"").count())
            .sum();
        let reported = differs("B45 who watches the watchers is told", 0, 2);
        // In mode 3 what was told of one watcher may be told again with the next.
        let reported = reported.max(timeouts * usize::from(storage.subs_db_mode() == 3));
        assert_eq!(timeouts, reported);
        let kept = |watcher: &Watcher| kamailio.row_of(watcher).is_some();
        let is_kept = differs("B45 rows that are of no use are kept", false, true);
        assert_eq!((kept(&unknown), kept(&unreadable)), (is_kept, is_kept));
        assert_eq!(kamailio.rpc_ok(&["presence.cleanup"]).trim(), "Reload OK");
        if is_kept {
            let line = kamailio.wait_log("of no use here");
            assert!(
                line.contains("2 rows of subscriptions are of no use here: 1 unreadable, 1 of"),
                "{line}"
            );
        }
        guard.assert_rising_cseq();
        kamailio.finish();
    }
}

storages! {
    [
        default_mode: Storage::Default;
        postgres: Storage::on(Driver::Postgres, 2, 1, 0);
        mariadb: Storage::on(Driver::MariaDb, 2, 0, 0);
    ]

    fn a_publication_of_another_program_goes_with_the_next_cleaning(storage) {
        if !storage.has_publication_rows() {
            return;
        }
        let kamailio = Kamailio::start(Config::new(storage).presence("clean_period", 1));
        let watcher = {
            let mut watcher = Watcher::udp(&kamailio, "alice");
            watcher.subscribe(600);
            watcher.next_notify("initial");
            watcher
        };
        kamailio.database().insert(
            "presentity",
            "username, domain, event, etag, expires, received_time, body, sender, priority, ruid",
            [("soon", now() + 2), ("later", now() + 600)].map(|(tag, end)| {
                let body = bodies::pidf("alice", tag, "open", "of another program");
                format!(
                    "'alice', '{DOMAIN}', 'presence', '{tag}', {end}, {}, '{body}', '', 0, '{tag}'",
                    now()
                )
            }),
        );
        let gone = eventually(Duration::from_secs(10), || {
            let rows = kamailio.rows("presentity");
            (rows.len() == 1 && rows[0]["etag"] == "later").then_some(())
        });
        if gone.is_none() {
            kamailio.fail(&format!("{:?}", kamailio.rows("presentity")));
        }
        // Stock tells nobody of rows that it has not counted itself.
        if differs("B45 whose end nobody knew of", false, true) {
            watcher.wait_notify("the end", |n| n.body().contains("closed"));
        }
        kamailio.finish();
    }
}
