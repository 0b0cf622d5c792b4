//! Changing from the stock module to ours and back, on one database.

use presence_kamailio_tests::prelude::*;
use presence_kamailio_tests::rows::number;

storages! {
    [
        default_mode: Storage::Default;
        write_through: Storage::sqlite(1, 1);
        database_only_postgres: Storage::on(Driver::Postgres, 3, 0, 0);
        database_only_mariadb: Storage::on(Driver::MariaDb, 3, 0, 0);
    ]
    fn b39_an_operator_can_change_forth_and_back(storage) {
    if !ours_only("B39 needs both modules") || !storage.survives_restart() {
        return;
    }
    let config = Config::new(storage).with_module(Target::Upstream);
    let kamailio = Kamailio::start(config);
    let mut phone = Publisher::udp(&kamailio, "alice");
    phone.publish(bodies::pidf("alice", "phone", "open", "stock"));
    let mut watcher = Watcher::udp(&kamailio, "alice");
    watcher.subscribe(600);
    watcher.wait_notify("open", |n| n.body().contains(">open<"));
    for (module, state) in
        [(Target::Ours, "closed"), (Target::Upstream, "open"), (Target::Ours, "closed")]
    {
        kamailio.stop_cleanly();
        kamailio.start_again_with(module);
        watcher.skip_notifies();
        // The publication goes on by the entity-tag of the other module, and
        // the dialog by its numbers.
        phone.modify(bodies::pidf("alice", "phone", state, "moved"));
        let mark = format!(">{state}<");
        watcher.wait_notify(state, |n| n.body().contains(&mark) && n.body().contains("moved"));
        // Stock's query for the dialog fails ("transaction not in progress").
        let refuses = storage.driver() == Driver::Postgres && storage.cell().notifiers > 0;
        if module == Target::Ours || !refuses {
            watcher.skip_notifies();
            watcher.subscribe(600);
            watcher.next_notify("refresh");
        }
        if storage.subs_db_mode() == 3 {
            // Stock's notifiers store the number after they have sent it.
            let sent = watcher.last_notify().map_or(0, |n| i64::from(n.cseq));
            kamailio.wait_row_of(&watcher, |row| number(row, "local_cseq") + 1 >= sent);
        }
        // Stock sends its row's local_cseq + 2 after a start, for + 1 has been sent.
        watcher.assert_rising_cseq();
    }
    watcher.unsubscribe();
    watcher.wait_notify("final", |n| n.state == "terminated");
    kamailio.check_healthy();
}
}

#[test]
fn b19_rows_in_another_spelling_are_found() {
    let storage = Storage::Default;
    if !storage.survives_restart() {
        return;
    }
    let kamailio = Kamailio::start(Config::new(storage));
    let mut phone = Publisher::udp(&kamailio, "alice");
    phone.publish(bodies::pidf("alice", "phone", "open", ""));
    let mut watcher = Watcher::udp(&kamailio, "alice");
    watcher.subscribe(600);
    watcher.next_notify("initial");
    kamailio.stop_cleanly();
    kamailio.execute(
        "UPDATE presentity SET domain=upper(domain); \
         UPDATE active_watchers SET presentity_uri=replace(presentity_uri, to_domain, upper(to_domain));",
    );
    kamailio.start_again();
    if storage.subs_db_mode() == 3 {
        // Its row is found by the dialog, and is spelled our way from then on.
        watcher.subscribe(600);
    }
    let changed = phone.try_modify(bodies::pidf("alice", "phone", "closed", "")).status();
    assert_eq!(changed, Some(differs("B19", 412, 200)));
    if target() == Target::Ours {
        watcher.wait_notify("closed", |n| n.body().contains(">closed<"));
    }
    kamailio.check_healthy();
}

both_storages! {
    fn b19_the_domain_is_compared_without_case(storage) {
        let kamailio = Kamailio::start(Config::new(storage));
        let mut watcher = Watcher::udp(&kamailio, "alice");
        watcher.subscribe(600);
        watcher.next_notify("initial");
        for (spelling, told) in [("sip", true), ("sips", true), ("pres", true)] {
            let uri = format!("{spelling}:alice@{}", DOMAIN.to_ascii_uppercase());
            let mut phone = Publisher::udp(&kamailio, "alice");
            let mut message = phone.message(Some(&bodies::pidf("alice", spelling, "open", "")));
            message.start_line = format!("PUBLISH {uri} SIP/2.0");
            message.set("To", format!("<{uri}>"));
            let reply = phone.send(&message);
            // The core of Kamailio knows no pres: URIs.
            if spelling == "pres" && reply.status() != Some(200) {
                continue;
            }
            assert_eq!(reply.status(), Some(200), "{uri}");
            if differs("B19", false, told) {
                let id = format!("\"{spelling}\"");
                watcher.wait_notify(&uri, |n| n.body().contains(&id));
            } else {
                watcher.no_more_notify(Duration::from_millis(150), &uri);
            }
        }
        kamailio.finish();
    }
}

storages! {
    [
        default_mode: Storage::Default;
        index_and_rows: Storage::sqlite(1, 1);
        rows_only: Storage::sqlite(3, 0);
        rows_only_postgres: Storage::on(Driver::Postgres, 3, 0, 2);
        rows_only_mariadb: Storage::on(Driver::MariaDb, 3, 0, 0);
    ]
    /// A key that parks calls is published and watched in either spelling.
    fn b46_escaped_and_unescaped_users_are_one_presentity(storage) {
        let kamailio = Kamailio::start(Config::new(storage));
        let mut escaped = Watcher::udp(&kamailio, "park%2B5900");
        let mut plain = Watcher::udp(&kamailio, "park+5900");
        for watcher in [&mut escaped, &mut plain] {
            watcher.subscribe(600);
            watcher.next_notify("initial");
        }
        let mut phone = Publisher::udp(&kamailio, "park%2b5900");
        phone.publish(bodies::pidf("park", "phone", "open", "here"));
        if differs("B46 one presentity", false, true) {
            for watcher in [&escaped, &plain] {
                watcher.wait_notify("published", |n| n.body().contains(">open<"));
            }
        } else {
            plain.no_more_notify(Duration::from_millis(150), "another spelling");
        }
        if storage.has_publication_rows() {
            assert_eq!(kamailio.rows("presentity")[0]["username"], "park%2b5900", "as it was made");
        }
        // Its entity-tag holds in the other spelling.
        phone.presentity = aor("park+5900");
        let changed = phone.try_modify(bodies::pidf("park", "phone", "closed", ""));
        assert_eq!(changed.status(), Some(differs("B46 an entity-tag in another spelling", 412, 200)));
        if target() == Target::Ours {
            for watcher in [&escaped, &plain] {
                watcher.wait_notify("changed", |n| n.body().contains(">closed<"));
            }
            // A malformed escape is nobody else, and harms nobody.
            for user in ["park%zz", "park%2", "park%00"] {
                let mut odd = Publisher::udp(&kamailio, user);
                let reply = odd.try_publish(bodies::pidf("park", "odd", "open", ""));
                assert!(matches!(reply.status(), Some(200 | 400)), "{user}: {}", reply.start_line);
            }
        }
        kamailio.finish();
    }
}
