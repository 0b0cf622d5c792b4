//! The default mode's database (SQLite), restarts, and expiry by the timers.

use presence_kamailio_tests::bodies::open;
use presence_kamailio_tests::prelude::*;
use presence_kamailio_tests::rows::{now, number};

storages! {
    [
        default_mode: Storage::Default;
        write_back_mariadb: Storage::on(Driver::MariaDb, 2, 1, 0);
        write_through_sqlite: Storage::sqlite(1, 1);
        write_through_postgres: Storage::on(Driver::Postgres, 1, 0, 0);
        write_through_mariadb: Storage::on(Driver::MariaDb, 1, 2, 0);
        database_only_sqlite: Storage::sqlite(3, 0);
        database_only_postgres: Storage::on(Driver::Postgres, 3, 0, 0);
        database_only_mariadb_notifiers: Storage::on(Driver::MariaDb, 3, 0, 2);
    ]

    // Mode 2 writes it when it flushes; 1 and 3 have written it when the 2xx is sent.
    fn b38_the_row_of_a_subscription(storage) {
        if !storage.has_subscription_rows() {
            return;
        }
        let kamailio = Kamailio::start(
            Config::new(storage)
                .presence("db_update_period", 1)
                .before_subscribe("setbflag(3);"),
        );
        let at_once = storage.subs_db_mode() != 2;
        let row_of = |watcher: &Watcher, fits: &dyn Fn(&Row) -> bool| {
            if at_once {
                let row = kamailio.row_of(watcher).filter(fits);
                row.unwrap_or_else(|| kamailio.fail("the row is not there with the 2xx"))
            } else {
                kamailio.wait_row_of(watcher, fits)
            }
        };
        let mut watcher = Watcher::udp(&kamailio, "alice").named("bob");
        watcher.extra_headers.push(("User-Agent".into(), "Test phone 1.0".into()));
        watcher
            .extra_headers
            .push(("Record-Route".into(), format!("<sip:{};lr>", watcher.endpoint.local())));
        watcher.subscribe(600);
        let row = row_of(&watcher, &|_| true);
        let socket = format!("udp:{}", kamailio.address());
        // Stock's write-back leaves `flags` out.
        let flags = if at_once { "8" } else { differs("B38 flags are written", "0", "8") };
        for (column, value) in [
            ("presentity_uri", aor("alice").as_str()),
            ("watcher_username", "bob"),
            ("watcher_domain", DOMAIN),
            ("from_user", "bob"),
            ("from_domain", DOMAIN),
            ("to_user", "alice"),
            ("to_domain", DOMAIN),
            ("event", "presence"),
            ("from_tag", &watcher.from_tag),
            ("to_tag", watcher.to_tag.as_deref().unwrap_or("?")),
            ("remote_cseq", "1"),
            ("contact", watcher.contact.trim_matches(['<', '>'])),
            ("record_route", &format!("<sip:{};lr>", watcher.endpoint.local())),
            ("status", "1"),
            ("socket_info", &socket),
            ("local_contact", &format!("sip:{};transport=udp", kamailio.address())),
            ("user_agent", "Test phone 1.0"),
            ("flags", flags),
        ] {
            assert_eq!(row[column], value, "{column} of {row:?}");
        }
        assert!((now() + 590..=now() + 600).contains(&number(&row, "expires")), "{row:?}");
        watcher.next_notify("initial");
        let row = row_of(&watcher, &|_| true);
        // The row never leads back: stock continues with local_cseq + 2 after a
        // restart, and so does the database-only mode; what is reserved in the
        // others must be right for any reader.
        let next = if storage.subs_db_mode() == 3 { 2 } else { differs("A7 local_cseq", 2, 1) };
        let sent = watcher.last_notify().map_or(0, |n| n.cseq);
        if storage.subs_db_mode() != 1 || differs("A7 stock writes no counters", false, true) {
            assert!(number(&row, "local_cseq") + next > i64::from(sent), "{row:?}");
        }
        // A refresh is written too.
        watcher.extra_headers.clear();
        watcher.contact = watcher.endpoint.contact("moved");
        watcher.subscribe(1200);
        let row = row_of(&watcher, &|row| row["remote_cseq"] == "2");
        assert!((now() + 1190..=now() + 1200).contains(&number(&row, "expires")), "{row:?}");
        assert_eq!(row["contact"], watcher.contact.trim_matches(['<', '>']));
        assert_eq!(kamailio.rows("active_watchers").len(), 1);
        watcher.unsubscribe();
        // A notifier process deletes it with the final NOTIFY; so does the
        // database-only mode, where the row is what gives that its CSeq.
        let deleted = storage.subs_db_mode() != 3 || differs("A8 the row goes", true, false);
        if at_once && storage.notify_delay().is_zero() && deleted {
            assert_eq!(kamailio.row_of(&watcher), None, "the row is still there with the 2xx");
        }
        kamailio.wait_no_row_of(&watcher);
        kamailio.finish();
    }
}

#[test]
fn a_publication_is_in_the_database_when_the_200_is_sent() {
    if !Storage::Default.has_publication_rows() {
        return;
    }
    let kamailio = Kamailio::start(Config::new(Storage::Default));
    let mut phone = Publisher::udp(&kamailio, "alice");
    phone.expires = Some(600);
    let reply = phone.publish(open("alice"));
    assert_eq!(reply.number("Expires"), Some(600));
    let rows = kamailio.rows("presentity");
    assert_eq!(rows.len(), 1, "{rows:?}");
    let row = &rows[0];
    for (column, value) in [
        ("username", "alice"),
        ("domain", DOMAIN),
        ("event", "presence"),
        ("etag", phone.tag().as_str()),
        ("body", open("alice").as_str()),
        ("sender", ""),
    ] {
        assert_eq!(row[column], value, "{column} of {row:?}");
    }
    assert!((now() + 590..=now() + 600).contains(&number(row, "expires")), "{row:?}");
    assert!((now() - 5..=now()).contains(&number(row, "received_time")), "{row:?}");
    assert_ne!(row["ruid"], "NULL");
    let ruid = row["ruid"].clone();
    phone.modify(bodies::pidf("alice", "phone", "open", "second"));
    let rows = kamailio.rows("presentity");
    assert_eq!(rows.len(), 1, "{rows:?}");
    assert_eq!(rows[0]["etag"], phone.tag());
    assert!(rows[0]["body"].contains("second"));
    assert_eq!(rows[0]["ruid"], ruid);
    phone.refresh();
    assert!(kamailio.rows("presentity")[0]["body"].contains("second"), "a refresh keeps the body");
    phone.remove();
    let gone =
        eventually(Duration::from_secs(2), || kamailio.rows("presentity").is_empty().then_some(()));
    assert!(gone.is_some(), "{:?}", kamailio.rows("presentity"));
    kamailio.finish();
}

#[test]
fn restart_restores_subscriptions_and_publications() {
    if !Storage::Default.survives_restart() {
        return;
    }
    let kamailio = Kamailio::start(Config::new(Storage::Default));
    let mut watcher = Watcher::udp(&kamailio, "alice");
    watcher
        .extra_headers
        .push(("Record-Route".into(), format!("<sip:{};lr>", watcher.endpoint.local())));
    watcher.subscribe(600);
    watcher.extra_headers.clear();
    let mut phone = Publisher::udp(&kamailio, "alice");
    phone.publish(open("alice"));
    watcher.wait_notify("open", |n| n.body().contains(">open<"));
    let mut gone = Watcher::udp(&kamailio, "alice");
    gone.subscribe(600);
    gone.unsubscribe();
    gone.wait_notify("final", |n| n.state == "terminated");

    kamailio.restart();

    phone.modify(bodies::pidf("alice", "phone", "open", "after the restart"));
    let notify =
        watcher.wait_notify("after the restart", |n| n.body().contains("after the restart"));
    assert_eq!(notify.message.header("Route").map(|r| r.contains(";lr")), Some(true));
    watcher.assert_rising_cseq();
    let reply = watcher.subscribe(300);
    assert_eq!(reply.number("Expires"), Some(300));
    watcher.wait_notify("refresh", |n| n.cseq > notify.cseq);
    let low = watcher.cseq;
    watcher.cseq = 0;
    let status = watcher.try_subscribe(300).status();
    assert_eq!(status, Some(differs("B4 CSeq too low", 400, 500)), "remote CSeq is restored");
    watcher.cseq = low;
    watcher.unsubscribe();
    watcher.wait_notify("final", |n| n.state == "terminated");
    watcher.assert_rising_cseq();
    let count = gone.notifies().len();
    phone.remove();
    phone.endpoint.barrier();
    assert_eq!(gone.notifies().len(), count, "what had ended stays ended");
    kamailio.finish();
}

#[test]
fn an_entity_tag_survives_a_restart() {
    if !Storage::Default.has_publication_rows() {
        return;
    }
    let kamailio = Kamailio::start(Config::new(Storage::Default));
    let mut phone = Publisher::udp(&kamailio, "alice");
    phone.publish(open("alice"));
    kamailio.restart();
    let mut watcher = Watcher::udp(&kamailio, "alice");
    assert!(watcher.fetch().body().contains(">open<"));
    let before = phone.tag();
    phone.refresh();
    assert_ne!(phone.tag(), before);
    phone.remove();
    assert!(!watcher.fetch().body().contains(">open<"));
    kamailio.finish();
}

#[test]
fn a7_cseq_rises_after_a_crash() {
    if !Storage::Default.survives_restart() {
        return;
    }
    let kamailio = Kamailio::start(Config::new(Storage::Default).presence("db_update_period", 2));
    let mut watcher = Watcher::udp(&kamailio, "alice");
    watcher.subscribe(600);
    let mut phone = Publisher::udp(&kamailio, "alice");
    phone.publish(open("alice"));
    kamailio.wait_row_of(&watcher, |_| true);
    for round in 0..20 {
        phone.modify(bodies::pidf("alice", "phone", "open", &format!("round {round}")));
    }
    watcher.wait_notify("the last round", |n| n.body().contains("round 19"));
    let highest = watcher.last_notify().map_or(0, |n| n.cseq);
    kamailio.kill();
    kamailio.start_again();
    watcher.skip_notifies();
    phone.modify(bodies::pidf("alice", "phone", "open", "after the crash"));
    let notify = watcher.next_notify("after the crash");
    let rises = notify.cseq > highest;
    assert_eq!(
        rises,
        differs("A7/D29 CSeq after a crash", false, true),
        "{} after {highest}",
        notify.cseq
    );
    kamailio.check_healthy();
}

#[test]
fn a7_mode_1_loses_no_accepted_subscription() {
    let storage = Storage::sqlite(1, 1);
    let kamailio = Kamailio::start(Config::new(storage));
    let mut watcher = Watcher::udp(&kamailio, "alice");
    watcher.subscribe(600);
    watcher.next_notify("initial");
    kamailio.kill();
    kamailio.start_again();
    let mut phone = Publisher::udp(&kamailio, "alice");
    phone.publish(open("alice"));
    let notify = watcher.next_notify("after the crash");
    assert!(notify.body().contains(">open<"));
    // Stock uses the CSeq of the initial NOTIFY again.
    assert_eq!(notify.cseq > 2, differs("A7 CSeq after a crash", false, true), "{}", notify.cseq);
    watcher.unsubscribe();
    let last = watcher.next_notify("final");
    assert!(last.cseq > notify.cseq);
    assert_eq!(kamailio.rows("active_watchers").len(), 0);
    kamailio.check_healthy();
}

#[test]
fn what_expires_while_the_server_is_down_is_not_restored() {
    let kamailio = Kamailio::start(Config::new(Storage::Default));
    let mut watcher = Watcher::udp(&kamailio, "alice");
    watcher.subscribe(1);
    watcher.next_notify("initial");
    let mut phone = Publisher::udp(&kamailio, "alice");
    phone.expires = Some(1);
    phone.publish(open("alice"));
    kamailio.stop_cleanly();
    let end = now() + 2;
    eventually(Duration::from_secs(4), || (now() > end).then_some(()));
    kamailio.start_again();
    // A row is there until a timer has ended it: it may still be refreshed (B14).
    let waits = Storage::Default.subs_db_mode() == 3;
    assert_eq!(watcher.try_subscribe(600).status(), Some(if waits { 200 } else { 481 }));
    let mut other = Watcher::udp(&kamailio, "alice");
    assert!(!other.fetch().body().contains(">open<"));
    kamailio.finish();
}

#[test]
fn every_publ_cache_and_memory_mode_works() {
    for subs_db_mode in [0, 1, 2] {
        for publ_cache in [0, 1, 2] {
            let storage = Storage::sqlite(subs_db_mode, publ_cache);
            let kamailio = Kamailio::start(Config::new(storage));
            let mut watcher = Watcher::udp(&kamailio, "alice");
            watcher.subscribe(600);
            let mut phone = Publisher::udp(&kamailio, "alice");
            phone.publish(open("alice"));
            watcher.wait_notify("open", |n| n.body().contains(">open<"));
            phone.remove();
            watcher.wait_notify("closed", |n| n.body().contains(">closed<"));
            watcher.unsubscribe();
            watcher.wait_notify("final", |n| n.state == "terminated");
            watcher.assert_rising_cseq();
            assert_eq!(watcher.try_subscribe(600).status(), Some(481), "{storage:?}");
            kamailio.finish();
        }
    }
}

every_storage! {
    fn b12_an_expired_publication_is_shown_closed_once(storage) {
        let kamailio = Kamailio::start(Config::new(storage).presence("clean_period", 1));
        let mut watcher = Watcher::udp(&kamailio, "alice");
        watcher.subscribe(600);
        let mut desk = Publisher::udp(&kamailio, "alice");
        desk.publish(bodies::pidf("alice", "desk", "open", ""));
        let mut mobile = Publisher::udp(&kamailio, "alice");
        mobile.expires = Some(storage.shortest_life());
        mobile.publish(bodies::pidf("alice", "mobile", "open", ""));
        let both = watcher.wait_notify("both", |n| n.body().contains("mobile"));
        let notify = watcher.wait_notify("mobile expired", |n| n.cseq > both.cseq);
        let mut list = bodies::tuples(&notify.body());
        list.sort_by(|a, b| a.id.cmp(&b.id));
        let list: Vec<(&str, &str)> = list.iter().map(|t| (t.id.as_str(), t.basic.as_str())).collect();
        let expected = differs(
            "B12 an expired publication is shown closed",
            vec![("desk", "open")],
            vec![("desk", "open"), ("mobile", "closed")],
        );
        assert_eq!(list, expected);
        // Stock may meet its own timer: "database is locked".
        let gone = mobile.try_refresh().status().unwrap_or(0);
        let expected = differs("D17", &[412, 500][..], &[412][..]);
        assert!(expected.contains(&gone), "{gone}");
        let alone = bodies::pidf("alice", "desk", "open", "alone");
        if target() == Target::Upstream {
            let done = eventually(Duration::from_secs(3), || {
                (desk.try_modify(&alone).status() == Some(200)).then_some(())
            });
            assert!(done.is_some(), "the database stays locked");
        } else {
            desk.modify(alone);
        }
        let notify = watcher.wait_notify("desk alone", |n| n.body().contains("alone"));
        assert!(!notify.body().contains("mobile"), "{}", notify.body());
        let closed = watcher.notifies().iter().filter(|n| n.body().contains(">closed<")).count();
        assert_eq!(closed, differs("B12 shown closed once", 0, 1));
        watcher.assert_rising_cseq();
        kamailio.finish();
    }
}

both_storages! {
    fn b12_the_last_publication_expires(storage) {
        let kamailio = Kamailio::start(Config::new(storage).presence("clean_period", 1));
        let mut watcher = Watcher::udp(&kamailio, "alice");
        watcher.subscribe(600);
        let mut phone = Publisher::udp(&kamailio, "alice");
        phone.expires = Some(storage.shortest_life());
        phone.publish(open("alice"));
        let open = watcher.wait_notify("open", |n| n.body().contains(">open<"));
        let notify = watcher.wait_notify("the expiry", |n| n.cseq > open.cseq);
        let states: Vec<String> =
            bodies::tuples(&notify.body()).into_iter().map(|tuple| tuple.basic).collect();
        assert_eq!(states, differs("B12 the last one expires", vec![], vec!["closed"]));
        assert_eq!(notify.state, "active");
        if storage.has_publication_rows() {
            let gone = eventually(Duration::from_secs(3), || {
                kamailio.rows("presentity").is_empty().then_some(())
            });
            assert!(gone.is_some(), "{:?}", kamailio.rows("presentity"));
        } else {
            let list = kamailio.rpc_ok(&["presence.presentity_list"]);
            assert!(!list.contains("alice"), "{list}");
        }
        kamailio.finish();
    }
}

every_storage! {
    fn b12_the_remaining_mailbox_state_is_sent(storage) {
        let kamailio = Kamailio::start(Config::new(storage).presence("clean_period", 1));
        let mut watcher = Watcher::udp(&kamailio, "alice").event("message-summary");
        watcher.subscribe(600);
        let mut old = Publisher::udp(&kamailio, "alice").event("message-summary");
        old.publish(bodies::message_summary("alice", 1, 0));
        let mut new = Publisher::udp(&kamailio, "alice").event("message-summary");
        new.expires = Some(storage.shortest_life());
        new.publish(bodies::message_summary("alice", 2, 0));
        let notify = watcher.wait_notify("2/0", |n| n.body().contains("2/0"));
        let notify = watcher.wait_notify("the state that remains", |n| n.cseq > notify.cseq);
        let remains = notify.body().contains("1/0");
        assert!(remains, "{:?}", notify.body());
        kamailio.finish();
    }
}

both_storages! {
    fn force_delete_forgets_silently(storage) {
        let config = Config::new(storage).presence("clean_period", 1).presence("force_delete", 1);
        let kamailio = Kamailio::start(config);
        let mut watcher = Watcher::udp(&kamailio, "alice");
        watcher.subscribe(600);
        let mut phone = Publisher::udp(&kamailio, "alice");
        phone.expires = Some(storage.shortest_life());
        phone.publish(open("alice"));
        watcher.wait_notify("open", |n| n.body().contains(">open<"));
        watcher.skip_notifies();
        let gone = eventually(Duration::from_secs(5), || {
            let left = if storage.has_publication_rows() {
                kamailio.rows("presentity").len()
            } else {
                kamailio.rpc_ok(&["presence.presentity_list"]).matches("alice").count()
            };
            (left == 0).then_some(())
        });
        assert!(gone.is_some(), "the publication is still there");
        watcher.no_more_notify(Duration::from_millis(100), "force_delete is silent");
        kamailio.finish();
    }
}

every_storage! {
    fn b14_an_expired_subscription_is_ended_once(storage) {
        let stays = storage.subs_db_mode() == 3 && storage.notify_delay().is_zero();
        if stays && !ours_only("D7 expired rows stay") {
            return;
        }
        let kamailio = Kamailio::start(Config::new(storage).presence("db_update_period", 1));
        let mut watcher = Watcher::udp(&kamailio, "alice").named("bob");
        watcher.subscribe(1);
        watcher.next_notify("initial");
        let guard = (storage.has_database() || ours_only("D2 winfo without a database")).then(|| {
            let mut guard = Watcher::udp(&kamailio, "alice").event("presence.winfo").named("alice");
            guard.subscribe(600);
            guard.next_notify("initial winfo");
            guard
        });
        let last = watcher.wait_notify("the end", |n| n.state == "terminated");
        assert_eq!(last.subscription_state, "terminated;reason=timeout");
        assert_eq!(last.body(), "");
        assert_eq!(watcher.try_subscribe(600).status(), Some(481));
        if storage.has_readable_tables() {
            kamailio.wait_no_row_of(&watcher);
        }
        if let Some(guard) = guard {
            if differs("B14 winfo of an expiry", false, true) {
                guard.wait_notify("bob's subscription expired", |n| {
                    let list = bodies::watchers(&n.body());
                    list.iter().all(|w| w.uri != aor("bob") || w.status == "terminated")
                });
            } else {
                guard.no_more_notify(Duration::from_millis(50), "stock is silent");
            }
        }
        // Once: another round of the timer passes.
        std::thread::sleep(Duration::from_millis(1100));
        let ends = watcher.notifies().iter().filter(|n| n.state == "terminated").count();
        assert_eq!(ends, 1);
        watcher.assert_rising_cseq();
        kamailio.finish();
    }
}

both_storages! {
    fn b14_a_late_refresh_is_accepted(storage) {
        // The timer comes by too late to notice the expiry.
        let kamailio = Kamailio::start(Config::new(storage).presence("db_update_period", 1000));
        let mut watcher = Watcher::udp(&kamailio, "alice");
        watcher.subscribe(1);
        watcher.next_notify("initial");
        let end = now() + 1;
        eventually(Duration::from_secs(4), || (now() > end).then_some(()));
        watcher.subscribe(600);
        let notify = watcher.next_notify("refresh");
        assert!(notify.lasts(600), "{}", notify.subscription_state);
        Publisher::udp(&kamailio, "alice").publish(open("alice"));
        watcher.wait_notify("open", |n| n.body().contains(">open<"));
        kamailio.finish();
    }

    fn an_expired_subscription_is_not_told_of_changes(storage) {
        let kamailio = Kamailio::start(Config::new(storage).presence("db_update_period", 1000));
        let mut watcher = Watcher::udp(&kamailio, "alice");
        watcher.subscribe(1);
        watcher.next_notify("initial");
        let end = now() + 1;
        eventually(Duration::from_secs(4), || (now() > end).then_some(()));
        Publisher::udp(&kamailio, "alice").publish(open("alice"));
        let told = watcher.find_notify(Duration::from_millis(200), |n| {
            n.state == "active" && n.body().contains(">open<")
        });
        assert!(told.is_none(), "an expired subscription is told: {told:?}");
        kamailio.finish();
    }

    fn b14_expires_offset_delays_the_end(storage) {
        let config =
            Config::new(storage).presence("db_update_period", 1).presence("expires_offset", 2);
        let kamailio = Kamailio::start(config);
        let mut watcher = Watcher::udp(&kamailio, "alice");
        watcher.subscribe(1);
        let first = watcher.next_notify("initial");
        let last = watcher.wait_notify_for(Duration::from_secs(8), "the end", |n| {
            n.state == "terminated" && n.cseq > first.cseq
        });
        assert_eq!(last.reason(), "timeout");
        let lived = last.at - first.at;
        assert!(lived > Duration::from_secs(2), "only {lived:?}");
        kamailio.finish();
    }
}

#[test]
fn b12_an_expired_dialog_publication_does_not_leave_the_lamp_busy() {
    for storage in [Storage::Memory, Storage::Default] {
        let kamailio = Kamailio::start(Config::new(storage).presence("clean_period", 1));
        let mut watcher = Watcher::udp(&kamailio, "alice").event("dialog");
        watcher.subscribe(600);
        let mut lamp = Publisher::udp(&kamailio, "alice").event("dialog");
        lamp.expires = Some(1);
        lamp.publish(bodies::dialog_info("alice", 0, &[("d1", "confirmed")]));
        let busy = watcher.wait_notify("confirmed", |n| n.body().contains(">confirmed<"));
        let notify = watcher.wait_notify("the expiry", |n| n.cseq > busy.cseq);
        assert!(!notify.body().contains(">confirmed<"), "{}", notify.body());
        kamailio.finish();
    }
}

storages! {
    [
        sqlite: Storage::sqlite(1, 0);
        postgres: Storage::on(Driver::Postgres, 1, 0, 0);
        mariadb: Storage::on(Driver::MariaDb, 1, 1, 0);
    ]

    fn b20_a_value_longer_than_its_column_is_refused(storage) {
        let database = Database::create(storage.driver());
        if storage.enforces_lengths() {
            // The operator has made room for one of them.
            let widen = match storage.driver() {
                Driver::MariaDb => "MODIFY from_tag VARCHAR(400) NOT NULL",
                _ => "ALTER COLUMN from_tag TYPE VARCHAR(400)",
            };
            database.execute(&format!("ALTER TABLE active_watchers {widen};"));
        }
        let kamailio = Kamailio::start(Config::new(storage).database(&database));
        let refused = if storage.enforces_lengths() { differs("B20", 500, 400) } else { 200 };
        let long = "x".repeat(300);
        let mut watcher = Watcher::udp(&kamailio, "alice");
        watcher.call_id = long.clone();
        assert_eq!(watcher.try_subscribe(600).status(), Some(refused), "Call-ID");
        let mut watcher = Watcher::udp(&kamailio, "alice");
        watcher.from_tag = long.clone();
        assert_eq!(watcher.try_subscribe(600).status(), Some(200), "From tag");
        watcher.next_notify("initial");
        let mut phone = Publisher::udp(&kamailio, &long);
        assert_eq!(phone.try_publish(open("alice")).status(), Some(refused), "presentity");
        let mut phone = Publisher::udp(&kamailio, "alice");
        phone.publish(open("alice"));
        watcher.wait_notify("open", |n| n.body().contains(">open<"));
        kamailio.finish();
    }
}
