//! Parameters that no other file sets: each changes what a phone, an operator
//! or the database sees, or is refused with a line that names it.

use presence_kamailio_tests::bodies::open;
use presence_kamailio_tests::prelude::*;

/// The line of a server that does not start which names this.
fn refusal(config: Config, part: &str) -> String {
    let Err(log) = Kamailio::try_start(config) else { panic!("{part} is not refused") };
    let line = log
        .lines()
        .find(|line| (line.contains("ERROR") || line.contains("CRITICAL")) && line.contains(part));
    line.unwrap_or_else(|| panic!("no line names {part}:\n{log}")).to_owned()
}

#[test]
fn tables_can_have_other_names() {
    if !Storage::Default.survives_restart() {
        return;
    }
    let database = Database::create(Storage::Default.driver());
    let tables = ["presentity", "active_watchers", "watchers"];
    for table in tables {
        database.execute(&format!(
            "ALTER TABLE {table} RENAME TO our_{table}; \
             UPDATE version SET table_name='our_{table}' WHERE table_name='{table}';"
        ));
    }
    let config = || {
        Config::new(Storage::Default)
            .parameter("presence_xml", "force_active", 0)
            .parameter("presence_xml", "integrated_xcap_server", 1)
            .parameter("presence_xml", "db_url", "@DATABASE@")
            .database(&database)
            .presence("db_update_period", 1)
    };
    let named = tables.iter().fold(config(), |config, table| {
        config.presence(&format!("{table}_table"), format!("our_{table}"))
    });
    let kamailio = Kamailio::start(named);
    Publisher::udp(&kamailio, "alice").publish(open("alice"));
    let mut watcher = Watcher::udp(&kamailio, "alice");
    watcher.subscribe(600);
    watcher.next_notify("initial");
    for table in tables {
        let rows = eventually(Duration::from_secs(5), || {
            (database.count(&format!("our_{table}")) == 1).then_some(())
        });
        assert!(rows.is_some(), "our_{table}");
    }
    kamailio.finish();
    refusal(config(), "presentity");
}

#[test]
fn user_parts_are_compared_as_sip_uri_match_says() {
    for (sip_uri_match, told) in [(0, false), (1, true)] {
        let config = Config::new(Storage::Memory).presence("sip_uri_match", sip_uri_match);
        let kamailio = Kamailio::start(config);
        let mut watcher = Watcher::udp(&kamailio, "Alice");
        watcher.subscribe(600);
        watcher.next_notify("initial");
        Publisher::udp(&kamailio, "alice").publish(open("alice"));
        if told {
            watcher.wait_notify("open", |n| n.body().contains(">open<"));
        } else {
            watcher.no_more_notify(Duration::from_millis(200), "another user");
        }
        kamailio.finish();
    }
}

#[test]
fn b21_force_active_needs_no_rules() {
    if !ours_only("B21 the older page's parameters") {
        return;
    }
    for (force_active, state) in [(0, "pending"), (1, "active")] {
        let kamailio = Kamailio::start(
            Config::new(Storage::Default)
                .parameter("presence_xml", "force_active", 0)
                .parameter("presence_xml", "integrated_xcap_server", 1)
                .parameter("presence_xml", "db_url", "@DATABASE@")
                .presence("force_active", force_active),
        );
        Publisher::udp(&kamailio, "alice").publish(open("alice"));
        let mut watcher = Watcher::udp(&kamailio, "alice");
        watcher.subscribe(600);
        let notify = watcher.next_notify("initial");
        assert_eq!(notify.state, state);
        assert_eq!(notify.body().contains(">open<"), force_active == 1);
        kamailio.finish();
    }
}

both_storages! {
    fn either_timer_process_ends_what_has_expired(storage) {
        for timer_mode in [0, 1] {
            let kamailio = Kamailio::start(
                Config::new(storage)
                    .presence("timer_mode", timer_mode)
                    .presence("clean_period", 1)
                    .presence("db_update_period", 1),
            );
            let mut phone = Publisher::udp(&kamailio, "alice");
            phone.expires = Some(1);
            phone.publish(open("alice"));
            let mut watcher = Watcher::udp(&kamailio, "alice");
            watcher.subscribe(600);
            watcher.wait_notify_for(Duration::from_secs(6), "expired", |n| !n.body().contains(">open<"));
            kamailio.finish();
        }
    }

    fn the_line_for_each_notify_has_its_level(storage) {
        // The tests run with debug=2.
        for (level, lines) in [(2, 1), (1, 1), (3, 0)] {
            let config = Config::new(storage)
                .presence("local_log_level", level)
                .presence("local_log_facility", "LOG_LOCAL3");
            let kamailio = Kamailio::start(config);
            let mut watcher = Watcher::udp(&kamailio, "alice");
            watcher.subscribe(600);
            watcher.next_notify("initial");
            watcher.endpoint.barrier();
            let found = kamailio.log_lines(&format!("on behalf of {}", aor("alice")));
            assert_eq!(found.len(), lines, "local_log_level {level}: {found:?}");
            kamailio.finish();
        }
    }

    fn a_log_facility_that_does_not_exist_is_refused(storage) {
        let config = Config::new(storage).presence("local_log_facility", "LOG_NONSENSE");
        refusal(config, "facility");
    }
}

#[test]
fn startup_mode_0_shows_what_has_expired() {
    for (startup_mode, shown) in [(1, false), (0, true)] {
        let config = Config::new(Storage::Default)
            .presence("clean_period", 0)
            .presence("startup_mode", startup_mode);
        let kamailio = Kamailio::start(config);
        let mut phone = Publisher::udp(&kamailio, "alice");
        phone.expires = Some(1);
        phone.publish(open("alice"));
        std::thread::sleep(Duration::from_millis(2200));
        let mut watcher = Watcher::udp(&kamailio, "alice");
        let notify = watcher.fetch();
        assert_eq!(notify.body().contains(">open<"), shown, "startup_mode {startup_mode}");
        kamailio.finish();
    }
}

/// SQLite's driver gives a result at once; with drivers that page it this is
/// one row a page.
#[test]
fn all_rows_are_fetched_with_small_fetch_rows() {
    if !Storage::Default.survives_restart() {
        return;
    }
    let kamailio = Kamailio::start(Config::new(Storage::Default).presence("fetch_rows", 1));
    let mut watchers: Vec<Watcher> =
        ["bob", "carol", "dave"].map(|user| Watcher::udp(&kamailio, "alice").named(user)).into();
    for watcher in &mut watchers {
        watcher.subscribe(600);
        watcher.next_notify("initial");
    }
    kamailio.restart();
    for watcher in &mut watchers {
        assert_eq!(watcher.try_subscribe(600).status(), Some(200), "{}", watcher.call_id);
    }
    kamailio.finish();
}

both_storages! {
    fn parameters_without_effect_are_accepted(storage) {
        // Sizes, locks and matching that our store does not need (A2, A6,
        // B36), and the notifier processes of mode 3.
        let mut config = Config::new(storage);
        for (name, value) in [
            ("subs_htable_size", 2),
            ("pres_htable_size", 2),
            ("db_table_lock_type", 1),
            ("subs_remove_match", 1),
            ("waitn_time", 7),
            ("notifier_poll_rate", 3),
            ("notifier_processes", 2),
        ] {
            config = config.presence(name, value);
        }
        if target() == Target::Ours {
            config = config.presence("lock_set_size", 8);
        }
        let kamailio = Kamailio::start(config);
        let mut phone = Publisher::udp(&kamailio, "alice");
        phone.publish(open("alice"));
        let mut watcher = Watcher::udp(&kamailio, "alice");
        watcher.subscribe(600);
        watcher.wait_notify("open", |n| n.body().contains(">open<"));
        watcher.unsubscribe();
        assert_eq!(watcher.try_subscribe(600).status(), Some(481));
        kamailio.finish();
    }
}

#[test]
fn b30_a_text_of_another_kind_is_refused() {
    for (name, value, allowed) in [
        ("server_address", "10.0.0.1", "a SIP URI"),
        ("server_address", "<sip:10.0.0.1>", "a SIP URI"),
        ("xavp_cfg", "$xavp(pres)", "the name of an XAVP"),
        ("to_tag_pref", "a b", "a token"),
        ("presentity_table", "two words", "the name of a table"),
    ] {
        // Stock knows no to_tag_pref, and finds no such table.
        if matches!(name, "to_tag_pref" | "presentity_table") && !ours_only("B30, B21") {
            continue;
        }
        let config = Config::new(Storage::Memory).presence(name, value);
        if differs(&format!("B30 {name} is {value}"), false, true) {
            let line = refusal(config, name);
            assert!(line.contains(value) && line.contains(allowed), "{line}");
        } else {
            Kamailio::start(config).finish();
        }
    }
}

/// Kamailio 6.1's parameters, and ours beside them: known, and without effect where
/// nothing is replicated.
#[test]
fn parameters_of_replication_mean_nothing_without_it() {
    if !ours_only("parameters of newer releases") {
        return;
    }
    let mut config = Config::new(Storage::Memory);
    for (name, value) in [
        ("enable_dmq", 0),
        ("enable_pres_dmq", 1),
        ("enable_pres_sync_dmq", 1),
        ("enable_subs_dmq", 1),
        ("enable_subs_sync_dmq", 1),
        ("skip_notify_dmq", 1),
        ("subs_takeover_dmq", 30),
        ("subs_recv_dmq", 1),
    ] {
        config = config.presence(name, value);
    }
    let config = config.presence("dmq_peer_id", "presence");
    Kamailio::start(config.presence("default_socket", "udp:127.0.0.1:5060")).finish();
    let config = Config::new(Storage::Memory).presence("default_socket", "127.0.0.1:5060");
    let line = refusal(config, "default_socket");
    assert!(line.contains("a socket such as"), "{line}");
}

/// Subscriptions of a mode that stores them are there again when the operator
/// changes back from mode 0.
#[test]
fn b25_mode_0_leaves_stored_subscriptions_alone() {
    let database = Database::create(Driver::Sqlite);
    database.execute(
        "INSERT INTO active_watchers (presentity_uri, watcher_username, watcher_domain, to_user, \
         to_domain, from_user, from_domain, event, callid, to_tag, from_tag, local_cseq, remote_cseq, \
         contact, expires, status, version, socket_info, local_contact, updated, updated_winfo) VALUES ('sip:a@b', 'w', 'b', \
         'a', 'b', 'w', 'b', 'presence', 'kept', 't', 'f', 1, 1, 'sip:w@127.0.0.1:9', 2000000000, 1, 1, \
         'udp:127.0.0.1:5060', 'sip:127.0.0.1:5060', -1, -1);",
    );
    let config = Config::new(Storage::sqlite(0, 1)).database(&database);
    let kamailio = Kamailio::start(config);
    let mut watcher = Watcher::udp(&kamailio, "alice");
    watcher.subscribe(600);
    watcher.next_notify("initial");
    kamailio.finish();
    let rows = database.rows("active_watchers");
    assert_eq!(rows.len(), differs("B25", 0, 1), "{rows:?}");
}

#[test]
fn b30_replaced_values_are_warned_of_once() {
    let config = Config::new(Storage::Memory)
        .presence("max_expires", 0)
        .presence("expires_offset", -5)
        .ignore_log("replaced by");
    let kamailio = Kamailio::start(config);
    let mut watcher = Watcher::udp(&kamailio, "alice");
    assert_eq!(watcher.subscribe(7200).number("Expires"), Some(3600));
    for name in ["max_expires", "expires_offset"] {
        let lines = kamailio.log_lines(&format!("parameter {name}: "));
        assert_eq!(lines.len(), differs("B30", 0, 1), "{lines:?}");
        assert!(lines.iter().all(|line| line.contains("WARNING")), "{lines:?}");
    }
    kamailio.finish();
}

both_storages! {
    fn b33_only_living_subscriptions_count(storage) {
        let kamailio = Kamailio::start(Config::new(storage).presence("db_update_period", 0).before(
            "if(is_method(\"OPTIONS\")) { pres_has_subscribers(\"$ru\", \"presence\"); \
             xlog(\"L_NOTICE\", \"HAS $rc $ci\\n\"); }",
        ));
        let mut watcher = Watcher::udp(&kamailio, "alice");
        watcher.subscribe(1);
        watcher.next_notify("initial");
        let ask = |id: &str| {
            let mut message = Message::new(format!("OPTIONS {} SIP/2.0", aor("alice")));
            message
                .push("Via", watcher.endpoint.via())
                .push("From", format!("<{}>;tag={id}", aor("script")))
                .push("To", format!("<{}>", aor("alice")))
                .push("Call-ID", id)
                .push("CSeq", "1 OPTIONS")
                .push("Content-Length", "0");
            watcher.endpoint.send(&message.to_bytes());
            kamailio.wait_log(&format!(" {id}"))
        };
        assert!(ask("living").contains("HAS 1 "));
        std::thread::sleep(Duration::from_millis(2200));
        let expired = differs("B33", "HAS 1 ", "HAS -1 ");
        assert!(ask("expired").contains(expired));
        kamailio.finish();
    }
}

#[test]
fn heap_fragments_can_be_left_out() {
    if !ours_only("heap_fragments is a parameter of ours") {
        return;
    }
    let fragments = |on: i64| {
        let kamailio = Kamailio::start(Config::new(Storage::Memory).presence("heap_fragments", on));
        let text = kamailio.rpc_ok(&["core.shmmem"]);
        let mut words = text.split_whitespace().skip_while(|word| *word != "fragments:");
        let count: u32 = words.nth(1).and_then(|word| word.parse().ok()).unwrap_or_else(|| {
            kamailio.fail(&format!("no `fragments` in core.shmmem: {text}"));
        });
        let mut phone = Publisher::udp(&kamailio, "alice");
        phone.publish(bodies::pidf("alice", "phone", "open", ""));
        kamailio.finish();
        count
    };
    let (without, with) = (fragments(0), fragments(1));
    assert!(with > without + 500, "{with} fragments, {without} without");
}
