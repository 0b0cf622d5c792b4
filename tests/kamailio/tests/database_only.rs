//! `subs_db_mode=3`: nothing is kept in memory. What is special about it; that
//! it does all that the other modes do is shown by `every_storage!` and by the
//! suite with `PRESENCE_STORAGE=postgres/3/0/2`.

use presence_kamailio_tests::bodies::open;
use presence_kamailio_tests::prelude::*;
use presence_kamailio_tests::rows::{now, number};

/// NOTIFYs come within `waitn_time` (1 s), the poll and a busy machine.
const WITHIN: Duration = Duration::from_millis(1900);

/// Stock sends an expired subscription's last NOTIFY again and again.
fn never_deletes(storage: Storage) -> bool {
    storage.cell().notifiers == 0 && differs("D7 expired rows stay", true, false)
}

/// True where stock refuses every SUBSCRIBE in a dialog: "transaction not in
/// progress" (kamailio issue 2739).
fn refresh_fails(storage: Storage) -> bool {
    storage.driver() == Driver::Postgres
        && storage.cell().notifiers > 0
        && !ours_only("B40 a refresh with notifiers gets 500 on PostgreSQL")
}

/// A row of a dialog of `watcher` that another server has accepted.
fn insert_dialog(kamailio: &Kamailio, watcher: &Watcher, updated: i64) {
    let contact = watcher.contact.trim_matches(['<', '>']);
    kamailio.database().insert(
        "active_watchers",
        "presentity_uri, watcher_username, watcher_domain, to_user, to_domain, from_user, \
         from_domain, event, event_id, callid, to_tag, from_tag, local_cseq, remote_cseq, contact, \
         record_route, expires, status, reason, version, socket_info, local_contact, updated, \
         updated_winfo, flags, user_agent",
        [format!(
            "'{}', 'watcher', '{DOMAIN}', 'alice', '{DOMAIN}', 'watcher', '{DOMAIN}', 'presence', \
             '', '{}', 'elsewhere', '{}', 40, 1, '{contact}', '', {}, 1, '', 40, 'udp:{}', 'sip:{}', \
             {updated}, -1, 0, ''",
            aor("alice"),
            watcher.call_id,
            watcher.from_tag,
            now() + 600,
            kamailio.address(),
            kamailio.address()
        )],
    );
}

storages! {
    [
        sqlite: Storage::sqlite(3, 0);
        postgres: Storage::on(Driver::Postgres, 3, 0, 0);
        postgres_notifiers: Storage::on(Driver::Postgres, 3, 0, 2);
        mariadb: Storage::on(Driver::MariaDb, 3, 1, 0);
        mariadb_notifiers: Storage::on(Driver::MariaDb, 3, 0, 2);
    ]

    fn d7_an_expired_subscription_is_told_once_and_deleted(storage) {
        let kamailio = Kamailio::start(Config::new(storage).presence("db_update_period", 1));
        let mut watcher = Watcher::udp(&kamailio, "alice");
        watcher.subscribe(1);
        let first = watcher.next_notify("initial");
        let last = watcher.wait_notify_for(Duration::from_secs(8), "the end", |n| {
            n.state == "terminated" && n.cseq > first.cseq
        });
        assert_eq!(last.subscription_state, "terminated;reason=timeout");
        assert_eq!(last.body(), "");
        let stays = never_deletes(storage);
        if !stays {
            kamailio.wait_no_row_of(&watcher);
        }
        // More rounds of the timer pass.
        std::thread::sleep(Duration::from_millis(2200));
        let ends = watcher.notifies().iter().filter(|n| n.state == "terminated").count();
        assert_eq!(ends > 1, stays, "told {ends} times");
        assert_eq!(kamailio.row_of(&watcher).is_some(), stays);
        if !refresh_fails(storage) {
            assert_eq!(watcher.try_subscribe(600).status() == Some(481), !stays);
        }
        kamailio.check_healthy();
    }

    // One that another server has written, and that this one finds.
    fn d7_expired_rows_found_at_start_are_ended(storage) {
        if !ours_only("D7 expired rows stay") {
            return;
        }
        let kamailio = Kamailio::start(Config::new(storage).presence("db_update_period", 1));
        let mut watcher = Watcher::udp(&kamailio, "alice");
        watcher.to_tag = Some("elsewhere".into());
        kamailio.stop_cleanly();
        insert_dialog(&kamailio, &watcher, -1);
        kamailio.execute(&format!("UPDATE active_watchers SET expires={}", now() - 60));
        kamailio.start_again();
        let last = watcher.wait_notify("the end", |_| true);
        assert_eq!(last.subscription_state, "terminated;reason=timeout");
        assert!(last.cseq > 40, "CSeq {}", last.cseq);
        kamailio.wait_no_row_of(&watcher);
        assert_eq!(watcher.try_subscribe(600).status(), Some(481));
        assert_eq!(watcher.notifies().len(), 1);
        kamailio.finish();
    }

    fn a_row_that_another_server_wrote_is_served(storage) {
        if refresh_fails(storage) {
            return;
        }
        let kamailio = Kamailio::start(Config::new(storage));
        let mut watcher = Watcher::udp(&kamailio, "alice");
        watcher.to_tag = Some("elsewhere".into());
        watcher.remote_target = Some(format!("sip:{}", kamailio.address()));
        watcher.cseq = 1;
        insert_dialog(&kamailio, &watcher, -1);
        Publisher::udp(&kamailio, "alice").publish(open("alice"));
        let notify = watcher.next_notify("the publication");
        assert!(notify.body().contains(">open<"), "{}", notify.body());
        // Stock's rows have local_cseq one below what has been sent.
        assert!(notify.cseq > 41, "CSeq {}", notify.cseq);
        assert_eq!(watcher.subscribe(300).number("Expires"), Some(300));
        watcher.next_notify("refresh");
        let row = kamailio.row_of(&watcher).unwrap_or_default();
        assert!((now() + 290..=now() + 300).contains(&number(&row, "expires")), "{row:?}");
        watcher.unsubscribe();
        let last = watcher.next_notify("final");
        assert_eq!(last.reason(), "timeout");
        if storage.notify_delay().is_zero() || ours_only("D6 stock's notifiers use a CSeq twice") {
            watcher.assert_rising_cseq();
        }
        kamailio.wait_no_row_of(&watcher);
        kamailio.finish();
    }

    fn a_publication_that_another_server_wrote_counts(storage) {
        if storage.publ_cache() == 1 && !ours_only("B42 the index hides rows of others") {
            return;
        }
        let kamailio = Kamailio::start(Config::new(storage));
        let body = bodies::pidf("alice", "elsewhere", "open", "by another");
        kamailio.database().insert(
            "presentity",
            "username, domain, event, etag, expires, received_time, body, sender, priority, ruid",
            [format!(
                "'alice', '{DOMAIN}', 'presence', 'a.1.1', {}, {}, '{body}', '', 0, 'r-1'",
                now() + 600,
                now()
            )],
        );
        let mut phone = Publisher::udp(&kamailio, "alice");
        phone.etag = Some("a.1.1".into());
        phone.modify(bodies::pidf("alice", "elsewhere", "open", "taken over"));
        assert!(Watcher::udp(&kamailio, "alice").fetch().body().contains("taken over"));
        kamailio.finish();
    }

    fn b40_a_refresh_works_and_keeps_the_row(storage) {
        if refresh_fails(storage) {
            return;
        }
        let kamailio = Kamailio::start(Config::new(storage));
        let mut watcher = Watcher::udp(&kamailio, "alice");
        watcher.subscribe(600);
        watcher.next_notify("initial");
        let id = kamailio.row_of(&watcher).map(|row| row["id"].clone());
        for expires in [700, 800, 900] {
            watcher.subscribe(expires);
            watcher.next_notify("refresh");
        }
        let row = kamailio.row_of(&watcher).unwrap_or_default();
        assert_eq!(row.get("id").cloned(), id, "the same row");
        assert_eq!(row["remote_cseq"], "4");
        assert!((now() + 890..=now() + 900).contains(&number(&row, "expires")), "{row:?}");
        watcher.assert_rising_cseq();
        kamailio.finish();
    }

    // No NOTIFY that is waiting is lost, none is sent twice.
    fn b40_changes_in_a_row_end_with_the_newest_state(storage) {
        // Stock's 200 leaves before the commit: the next PUBLISH with its tag
        // may get 412 from another worker, or find SQLite locked.
        if !ours_only("D17 the 200 before the commit") {
            return;
        }
        let kamailio = Kamailio::start(Config::new(storage).children(2));
        let mut watcher = Watcher::udp(&kamailio, "alice");
        watcher.subscribe(600);
        let mut phone = Publisher::udp(&kamailio, "alice");
        phone.publish(open("alice"));
        for round in 0..10 {
            phone.modify(bodies::pidf("alice", "phone", "open", &format!("round {round}")));
        }
        watcher.wait_notify("the newest", |n| n.body().contains("round 9"));
        std::thread::sleep(Duration::from_millis(300) + storage.notify_delay());
        // At most one for each of 12 requests, and the newest is the last.
        let list = watcher.notifies();
        assert!(list.len() <= 12, "{} NOTIFYs", list.len());
        let last = list.last().map_or_else(String::new, Notify::body);
        assert!(last.contains("round 9"), "{last}");
        if !storage.notify_delay().is_zero() {
            // They were put together.
            assert!(watcher.notifies().len() < 10, "{}", watcher.notifies().len());
        }
        watcher.assert_rising_cseq();
        phone.remove();
        watcher.wait_notify("closed", |n| n.body().contains(">closed<"));
        // What was kept for that NOTIFY goes.
        let gone = eventually(Duration::from_secs(4), || {
            kamailio.rows("presentity").is_empty().then_some(())
        });
        assert!(gone.is_some(), "{:?}", kamailio.rows("presentity"));
        kamailio.finish();
    }
}

storages! {
    [
        sqlite_notifiers: Storage::sqlite(3, 0).with_notifiers(2);
        postgres_notifiers: Storage::on(Driver::Postgres, 3, 0, 2);
        mariadb_notifiers: Storage::on(Driver::MariaDb, 3, 1, 2);
    ]

    fn b40_notifies_leave_within_waitn_time(storage) {
        let locked = storage.driver() == Driver::Sqlite && !ours_only("D17 database is locked");
        if locked || refresh_fails(storage) {
            return;
        }
        let kamailio = Kamailio::start(Config::new(storage));
        let mut watchers: Vec<Watcher> =
            (0..6).map(|n| Watcher::udp(&kamailio, "alice").named(&format!("w{n}"))).collect();
        for watcher in &mut watchers {
            watcher.subscribe(600);
        }
        let mut phone = Publisher::udp(&kamailio, "alice");
        phone.publish(open("alice"));
        for round in 0..3 {
            let note = format!("round {round}");
            let start = Instant::now();
            phone.modify(bodies::pidf("alice", "phone", "open", &note));
            for watcher in &watchers {
                let notify = watcher.wait_notify(&note, |n| n.body().contains(&note));
                assert!(notify.at - start < WITHIN, "{:?}", notify.at - start);
            }
        }
        for watcher in &mut watchers {
            let start = Instant::now();
            watcher.unsubscribe();
            let last = watcher.wait_notify("final", |n| n.state == "terminated");
            assert!(last.at - start < WITHIN, "{:?}", last.at - start);
            assert!(last.body().contains("round 2"), "{:?}", last.body());
            watcher.assert_rising_cseq();
        }
        kamailio.finish();
    }

    // send_fast_notify=0: the notifier processes send everything.
    fn b40_without_fast_notify_the_same_is_sent(storage) {
        if storage.driver() == Driver::Sqlite && !ours_only("D17 database is locked") {
            return;
        }
        let kamailio = Kamailio::start(Config::new(storage).presence("send_fast_notify", 0));
        let mut phone = Publisher::udp(&kamailio, "alice");
        phone.publish(open("alice"));
        let mut guard = Watcher::udp(&kamailio, "alice").event("presence.winfo").named("alice");
        guard.subscribe(600);
        guard.next_notify("initial winfo");
        let mut watcher = Watcher::udp(&kamailio, "alice").named("bob");
        let start = Instant::now();
        watcher.subscribe(600);
        let first = watcher.next_notify("initial");
        assert!(first.at - start < WITHIN, "{:?}", first.at - start);
        assert_eq!(first.state, "active");
        assert!(first.body().contains(">open<"), "{}", first.body());
        guard.wait_notify("bob in winfo", |n| n.body().contains(&aor("bob")));
        // D8: stock tells nothing in the NOTIFYs of an unsubscribe and a fetch.
        let told = differs("D8 state in the last NOTIFY", false, true);
        watcher.unsubscribe();
        let last = watcher.next_notify("final");
        assert_eq!(last.subscription_state, "terminated;reason=timeout");
        assert_eq!(last.body().contains(">open<"), told, "{}", last.body());
        kamailio.wait_no_row_of(&watcher);
        assert_eq!(watcher.try_subscribe(600).status(), Some(481));
        let fetched = watcher.fetch();
        assert_eq!(fetched.subscription_state, "terminated;reason=timeout");
        assert_eq!(fetched.body().contains(">open<"), told, "{}", fetched.body());
        kamailio.wait_no_row_of(&watcher);
        watcher.assert_rising_cseq();
        kamailio.finish();
    }

    // The manual's and stock's way to say that a dialog is to be told.
    fn b40_a_row_is_told_when_its_updated_is_set(storage) {
        // Then stock cannot write what it has told, and tells it again.
        if storage.driver() == Driver::Sqlite && !ours_only("D17 database is locked") {
            return;
        }
        let kamailio = Kamailio::start(Config::new(storage));
        Publisher::udp(&kamailio, "alice").publish(open("alice"));
        let mut watcher = Watcher::udp(&kamailio, "alice");
        watcher.subscribe(600);
        watcher.next_notify("initial");
        // Nothing waits.
        let row = kamailio.wait_row_of(&watcher, |row| row["updated"] == "-1");
        assert_eq!(row["updated"], "-1", "{row:?}");
        watcher.skip_notifies();
        watcher.no_more_notify(Duration::ZERO, "nothing has changed");
        // waitn_time 1, poll rate 10, 2 processes: slots 0 to 19.
        for slot in [0, 7, 19] {
            let id = &watcher.call_id;
            kamailio.execute(&format!(
                "UPDATE active_watchers SET updated={slot} WHERE callid='{id}'"
            ));
            let notify = watcher.next_notify("what another server asked for");
            assert!(notify.body().contains(">open<"), "slot {slot}: {}", notify.body());
            kamailio.wait_row_of(&watcher, |row| row["updated"] == "-1");
        }
        watcher.no_more_notify(Duration::ZERO, "each was told once");
        watcher.assert_rising_cseq();
        kamailio.finish();
    }

    // With and without notifier processes: waiting for them does not hold back
    // a final state that goes with the dialog.
    fn b12_an_expired_publication_is_shown_closed_once(storage) {
        if storage.driver() == Driver::Sqlite && !ours_only("D17 database is locked") {
            return;
        }
        let kamailio = Kamailio::start(Config::new(storage).presence("clean_period", 1));
        let mut watcher = Watcher::udp(&kamailio, "alice").event("dialog");
        watcher.subscribe(600);
        let mut lamp = Publisher::udp(&kamailio, "alice").event("dialog");
        lamp.expires = Some(3);
        lamp.publish(bodies::dialog_info("alice", 0, &[("d1", "confirmed")]));
        let busy = watcher.wait_notify("busy", |n| n.body().contains(">confirmed<"));
        let over = watcher
            .wait_notify_for(Duration::from_secs(8), "over", |n| n.cseq > busy.cseq);
        assert!(!over.body().contains(">confirmed<"), "{}", over.body());
        if differs("B12 the lamp is told the end", false, true) {
            assert!(over.body().contains(">terminated<"), "{}", over.body());
            watcher.skip_notifies();
            watcher.no_more_notify(Duration::from_millis(1200), "told once");
        }
        let gone = eventually(Duration::from_secs(4), || {
            kamailio.rows("presentity").is_empty().then_some(())
        });
        assert!(gone.is_some(), "{:?}", kamailio.rows("presentity"));
        kamailio.finish();
    }
}

storages! {
    [
        write_back: Storage::on(Driver::DbText, 2, 1, 0);
        database_only: Storage::on(Driver::DbText, 3, 0, 5);
    ]

    // What operators of Kazoo run is the second.
    fn db_text_serves_a_phone_and_a_watcher(storage) {
        let config = Config::new(storage)
            .presence("clean_period", 30)
            .presence("expires_offset", 60)
            .presence("min_expires", 300)
            .presence("min_expires_action", 1)
            .presence("sip_uri_match", 1)
            .presence("send_fast_notify", 1);
        let kamailio = Kamailio::start(config);
        let mut watcher = Watcher::udp(&kamailio, "alice").event("dialog");
        assert_eq!(watcher.try_subscribe(60).status(), Some(423));
        watcher.new_dialog();
        watcher.subscribe(600);
        watcher.next_notify("initial");
        let mut lamp = Publisher::udp(&kamailio, "alice").event("dialog");
        lamp.publish(bodies::dialog_info("alice", 0, &[("d1", "confirmed")]));
        watcher.wait_notify("confirmed", |n| n.body().contains(">confirmed<"));
        lamp.modify(bodies::dialog_info("alice", 1, &[("d1", "terminated")]));
        watcher.wait_notify("terminated", |n| n.body().contains(">terminated<"));
        watcher.subscribe(900);
        watcher.unsubscribe();
        watcher.wait_notify("final", |n| n.state == "terminated");
        watcher.assert_rising_cseq();
        let mut other = Watcher::udp(&kamailio, "alice").event("dialog");
        other.subscribe(600);
        other.wait_notify("initial", |_| true);
        kamailio.finish();
        // db_text writes its files at the end.
        let rows = kamailio.rows("active_watchers");
        let ids: Vec<&str> = rows.iter().map(|row| row["callid"].as_str()).collect();
        let all = vec![other.call_id.as_str()];
        let lost = storage.subs_db_mode() == 2;
        let stock = if lost { vec![] } else { all.clone() };
        assert_eq!(ids, differs("A7 the write-back at the end", stock, all), "{rows:?}");
    }
}
