//! The operator's commands, through kamcmd and through JSON-RPC.

use presence_kamailio_tests::prelude::*;
use serde_json::{Value, json};

fn fault(kamailio: &Kamailio, method: &str, parameters: Value) -> String {
    let reply = kamailio.json_rpc(method, &parameters);
    let error = &reply["error"];
    assert_eq!(error["code"], 500, "{method} {parameters}: {reply}");
    error["message"].as_str().unwrap_or_default().to_owned()
}

fn result(kamailio: &Kamailio, method: &str, parameters: Value) -> Value {
    let reply = kamailio.json_rpc(method, &parameters);
    assert!(reply.get("error").is_none(), "{method} {parameters}: {reply}");
    reply["result"].clone()
}

fn names(record: &Value) -> Vec<String> {
    record.as_object().map(|map| map.keys().cloned().collect()).unwrap_or_default()
}

fn same(mut one: Vec<String>, other: &[&str]) -> bool {
    one.sort();
    let mut other: Vec<&str> = other.to_vec();
    other.sort();
    one == other
}

const BASIC: &[&str] = &["user", "domain", "event", "etag", "sender", "expires"];
const FULL: &[&str] = &[
    "user",
    "domain",
    "event",
    "etag",
    "sender",
    "expires",
    "received_time",
    "priority",
    "ruid",
    "body",
    "hashid",
];

both_storages! {
    fn presentity_list_has_every_publication(storage) {
        let kamailio =
            Kamailio::start(Config::new(storage).jsonrpcs().publish_arguments("\"$fu\""));
        let mut phone = Publisher::udp(&kamailio, "alice");
        phone.publish(bodies::pidf("alice", "phone", "open", "hello"));
        let mut mail = Publisher::udp(&kamailio, "bob").event("message-summary");
        mail.publish(bodies::message_summary("bob", 1, 0));
        let list = result(&kamailio, "presence.presentity_list", json!([]));
        let list = list.as_array().cloned().unwrap_or_default();
        // B24: stock lists only what it keeps in memory.
        let expected = if storage.publ_cache() == 2 { 2 } else { differs("B24", 0, 2) };
        assert_eq!(list.len(), expected, "{list:?}");
        if expected > 0 {
            let alice = list.iter().find(|record| record["user"] == "alice");
            let alice = alice.unwrap_or_else(|| panic!("{list:?}"));
            assert!(same(names(alice), BASIC), "{alice}");
            assert_eq!(alice["domain"], DOMAIN);
            assert_eq!(alice["event"], "presence");
            assert_eq!(alice["etag"], phone.tag());
            assert_eq!(alice["sender"], aor("alice"));
            assert!(alice["expires"].as_i64().is_some_and(|at| at > 1_600_000_000), "{alice}");
            let full = result(&kamailio, "presence.presentity_list", json!(["full"]));
            let alice = full.as_array().and_then(|all| all.iter().find(|one| one["user"] == "alice"));
            let alice = alice.cloned().unwrap_or_default();
            assert!(same(names(&alice), FULL), "{alice}");
            assert!(alice["body"].as_str().is_some_and(|body| body.contains("hello")), "{alice}");
            assert!(alice["ruid"].as_str().is_some_and(|ruid| ruid.starts_with("pres-")), "{alice}");
            assert_eq!(alice["priority"], 0);
            let text = kamailio.rpc_ok(&["presence.presentity_list"]);
            assert!(text.contains(&phone.tag()) && text.contains(&mail.tag()), "{text}");
            assert!(!text.contains("body:"), "{text}");
        }
        phone.remove();
        mail.remove();
        let list = result(&kamailio, "presence.presentity_list", json!([]));
        assert_eq!(list, json!([]));
        kamailio.finish();
    }

    fn presentity_list_full_shows_a_uri_without_user(storage) {
        let kamailio = Kamailio::start(Config::new(storage).jsonrpcs());
        let mut phone = Publisher::udp(&kamailio, "alice");
        phone.presentity = format!("sip:{DOMAIN}");
        phone.publish(bodies::pidf("alice", "phone", "open", ""));
        let full = result(&kamailio, "presence.presentity_list", json!(["full"]));
        if ours_only("B24 in every storage") {
            assert_eq!((&full[0]["user"], &full[0]["domain"]), (&json!(""), &json!(DOMAIN)), "{full}");
        }
        kamailio.finish();
    }

    fn presentity_show_filters(storage) {
        if !ours_only("B24 a newer release's command") { return; }
        let kamailio = Kamailio::start(Config::new(storage).jsonrpcs());
        for user in ["alice", "bob"] {
            Publisher::udp(&kamailio, user).publish(bodies::pidf(user, "phone", "open", ""));
        }
        let count = |parameters: Value| {
            let list = result(&kamailio, "presence.presentity_show", parameters);
            list.as_array().map_or(0, Vec::len)
        };
        assert_eq!(count(json!(["basic", "*", "*"])), 2);
        assert_eq!(count(json!(["basic", "ALICE", "*"])), 1);
        assert_eq!(count(json!(["full", "alice", DOMAIN])), 1);
        assert_eq!(count(json!(["full", "alice", "elsewhere.org"])), 0);
        assert_eq!(count(json!(["full", "*", DOMAIN])), 2);
        let full = result(&kamailio, "presence.presentity_show", json!(["full", "bob", "*"]));
        assert!(same(names(&full[0]), FULL), "{full}");
        let show = |parameters| fault(&kamailio, "presence.presentity_show", parameters);
        assert_eq!(show(json!(["odd", "*", "*"])), "Unknown output mode");
        assert!(kamailio.rpc(&["presence.presentity_show", "basic"]).is_err());
        kamailio.finish();
    }

    fn watcher_list_shows_subscriptions(storage) {
        if !ours_only("B24 a newer release's command") { return; }
        let kamailio = Kamailio::start(Config::new(storage).jsonrpcs());
        let mut watcher = Watcher::udp(&kamailio, "alice").named("bob");
        watcher.extra_headers.push(("User-Agent".into(), "Test phone 1.0".into()));
        watcher.subscribe(600);
        watcher.next_notify("initial");
        let mut mail = Watcher::udp(&kamailio, "alice").event("message-summary");
        mail.subscribe(600);
        mail.next_notify("initial");
        let list = |mode: &str, uri: &str| {
            result(&kamailio, "presence.watcher_list", json!([mode, uri]))
                .as_array()
                .cloned()
                .unwrap_or_default()
        };
        let basic = list("basic", &aor("Alice"));
        assert_eq!(basic.len(), 2, "{basic:?}");
        let bob = basic.iter().find(|one| one["watcher_user"] == "bob").cloned();
        let bob = bob.unwrap_or_default();
        let fields = [
            "pres_uri", "to_user", "to_domain", "from_user", "from_domain", "watcher_user",
            "watcher_domain", "contact", "event_id", "callid", "user_agent", "expires", "status",
            "version", "flags", "event",
        ];
        assert!(same(names(&bob), &fields), "{bob}");
        assert_eq!(bob["pres_uri"], aor("alice"));
        assert_eq!(bob["callid"], watcher.call_id);
        assert_eq!(bob["user_agent"], "Test phone 1.0");
        assert_eq!(bob["status"], 1);
        assert_eq!(bob["version"], 1);
        let full = list("full", &aor("alice"));
        let bob = full.iter().find(|one| one["watcher_user"] == "bob").cloned();
        let bob = bob.unwrap_or_default();
        assert_eq!(names(&bob).len(), fields.len() + 12, "{bob}");
        assert_eq!(bob["to_tag"].as_str(), watcher.to_tag.as_deref());
        assert_eq!(bob["from_tag"], watcher.from_tag);
        assert_eq!(bob["remote_cseq"], 1);
        assert_eq!(bob["local_cseq"], 1);
        assert_eq!(bob["socket"], format!("udp:{}", kamailio.address()));
        assert!(list("basic", &aor("nobody")).is_empty());
        let watchers = |parameters| fault(&kamailio, "presence.watcher_list", parameters);
        assert_eq!(watchers(json!(["odd", aor("alice")])), "Unknown output mode");
        assert!(kamailio.rpc(&["presence.watcher_list", "basic"]).is_err());
        kamailio.finish();
    }

    fn refresh_watchers_and_its_faults(storage) {
        let kamailio = Kamailio::start(Config::new(storage).jsonrpcs());
        let mut phone = Publisher::udp(&kamailio, "alice");
        phone.publish(bodies::pidf("alice", "phone", "open", ""));
        let mut watcher = Watcher::udp(&kamailio, "alice");
        watcher.subscribe(600);
        watcher.next_notify("initial");
        let alice = aor("alice");
        kamailio.rpc_ok(&["presence.refreshWatchers", &alice, "presence", "1"]);
        assert!(watcher.next_notify("again").body().contains(">open<"));
        result(&kamailio, "presence.refreshWatchers", json!([alice, "presence", 1]));
        watcher.next_notify("again");
        let refresh = |parameters| fault(&kamailio, "presence.refreshWatchers", parameters);
        assert_eq!(refresh(json!(["", "presence", 1])), "Empty presentity URI");
        assert_eq!(refresh(json!([alice, "", 1])), "Empty event parameter");
        assert_eq!(refresh(json!([alice, "presence", 2])), "No file uri or name parameters");
        assert_eq!(refresh(json!([alice, "presence", 2, "", "n"])), "Empty file uri parameter");
        assert_eq!(refresh(json!([alice, "presence", 2, "f", ""])), "Empty file name parameter");
        assert_eq!(refresh(json!([alice, "nonsense", 1])), "Execution failed");
        assert_eq!(refresh(json!([alice, "message-summary", 0])), "Execution failed");
        let text = kamailio.rpc(&["presence.refreshWatchers", &alice]);
        assert!(text.is_err(), "{text:?}");
        let update = |parameters| fault(&kamailio, "presence.updateWatchers", parameters);
        assert_eq!(update(json!(["", "presence"])), "Empty presentity URI");
        assert_eq!(update(json!([alice, ""])), "Empty event parameter");
        assert_eq!(update(json!([alice, "nonsense"])), "Processing error");
        assert_eq!(update(json!([alice, "presence"])), "Processing error");
        watcher.no_more_notify(Duration::from_millis(150), "all were refused");
        kamailio.finish();
    }

    fn cleanup_ends_what_has_run_out(storage) {
        let kamailio = Kamailio::start(
            Config::new(storage)
                .jsonrpcs()
                .presence("clean_period", 0)
                .presence("db_update_period", 0),
        );
        let mut phone = Publisher::udp(&kamailio, "alice");
        phone.expires = Some(1);
        phone.publish(bodies::pidf("alice", "phone", "open", ""));
        let mut watcher = Watcher::udp(&kamailio, "alice");
        watcher.subscribe(600);
        watcher.next_notify("initial");
        let mut brief = Watcher::udp(&kamailio, "alice");
        brief.subscribe(1);
        brief.next_notify("initial");
        std::thread::sleep(Duration::from_millis(2200));
        watcher.no_more_notify(Duration::from_millis(100), "no timer runs");
        let text = kamailio.rpc_ok(&["presence.cleanup"]);
        assert!(text.contains("Reload OK"), "{text}");
        watcher.wait_notify("expired", |n| !n.body().contains(">open<"));
        // D4: stock frees records without telling their watchers.
        if target() == Target::Ours {
            let last = brief.wait_notify("its end", |n| n.state == "terminated");
            assert_eq!(last.reason(), "timeout");
        }
        assert_eq!(brief.try_subscribe(600).status(), Some(481));
        assert_eq!(result(&kamailio, "presence.cleanup", json!([])), "Reload OK");
        if storage.has_database() {
            assert!(kamailio.rows("presentity").is_empty());
        }
        kamailio.finish();
    }
}

#[test]
fn cleanup_while_the_server_is_busy() {
    if !ours_only("D4 stock frees records that others use") {
        return;
    }
    let kamailio = Kamailio::start(
        Config::new(Storage::Default)
            .children(4)
            .shared_memory(128)
            .presence("clean_period", 1)
            .presence("db_update_period", 1),
    );
    let end = Instant::now() + Duration::from_secs(4);
    let (server, trace) = (kamailio.address(), kamailio.trace());
    std::thread::scope(|scope| {
        for n in 0..3 {
            let trace = trace.clone();
            scope.spawn(move || {
                while Instant::now() < end {
                    let endpoint =
                        Endpoint::udp(server, trace.clone(), &format!("busy-watcher-{n}"));
                    let mut watcher = Watcher::on(endpoint, "alice");
                    // In time for the next one, whenever the second ends.
                    watcher.subscribe(2 + n);
                    watcher.subscribe(600);
                    if n != 0 {
                        watcher.unsubscribe();
                    }
                    std::thread::sleep(Duration::from_millis(10));
                }
            });
        }
        while Instant::now() < end {
            assert!(kamailio.rpc_ok(&["presence.cleanup"]).contains("Reload OK"));
        }
    });
    // Each row is one dialog's, and each living dialog has one.
    kamailio.rpc_ok(&["presence.cleanup"]);
    if !Storage::Default.has_subscription_rows() {
        return kamailio.finish();
    }
    let rows = kamailio.rows("active_watchers");
    let (mut listed, mut after) = (0, None);
    loop {
        // A long list comes in pieces.
        let go_on = after.map(|place| format!("after={place}"));
        let user = aor("alice");
        let words = ["presence.watcher_list", "basic", &user];
        let text = kamailio.rpc_ok(&words.into_iter().chain(go_on.as_deref()).collect::<Vec<_>>());
        listed += text.matches("callid:").count();
        let place = text.lines().filter_map(|line| line.trim().strip_prefix("after:")).next_back();
        match place {
            Some(place) => after = Some(place.trim().to_owned()),
            None => break,
        }
    }
    assert_eq!(rows.len(), listed);
    assert!(!rows.is_empty());
    kamailio.finish();
}

#[test]
fn publish_cache_sync_follows_the_table() {
    let storage = Storage::Default;
    // Without an index there is nothing to follow.
    let indexed = storage.publ_cache() == 1 && storage.subs_db_mode() != 3;
    if !ours_only("B24 a newer release's command") || !indexed {
        return;
    }
    let kamailio = Kamailio::start(Config::new(storage).jsonrpcs());
    let mut phone = Publisher::udp(&kamailio, "alice");
    phone.publish(bodies::pidf("alice", "phone", "open", ""));
    let mut watcher = Watcher::udp(&kamailio, "alice");
    watcher.subscribe(600);
    watcher.next_notify("initial");
    let body = bodies::pidf("alice", "byhand", "open", "by hand");
    kamailio.execute(
        &format!(
            "INSERT INTO presentity (username, domain, event, etag, expires, received_time, body, sender, priority, ruid) \
             VALUES ('alice', 'EXAMPLE.ORG', 'presence', 'hand.1', 2000000000, 1, '{body}', '', 0, 'hand-1');"
        )
        .replace("EXAMPLE.ORG", &DOMAIN.to_ascii_uppercase()),
    );
    assert_eq!(result(&kamailio, "presence.publish_cache_sync", json!([])), "OK");
    watcher.wait_notify("the new row", |n| n.body().contains("by hand"));
    // B19: the spelling is ours now, and the entity-tag works.
    assert!(kamailio.rows("presentity").iter().all(|row| row["domain"] == DOMAIN));
    let mut other = Publisher::udp(&kamailio, "alice");
    other.etag = Some("hand.1".into());
    other.refresh();
    kamailio.execute("DELETE FROM presentity WHERE ruid<>'hand-1';");
    assert!(kamailio.rpc_ok(&["presence.publish_cache_sync"]).contains("OK"));
    watcher.wait_notify("without the row", |n| {
        n.body().contains("by hand") && !n.body().contains("\"phone\"")
    });
    assert_eq!(phone.try_refresh().status(), Some(412));
    // Nothing has changed: nobody is told.
    watcher.skip_notifies();
    kamailio.rpc_ok(&["presence.publish_cache_sync"]);
    watcher.no_more_notify(Duration::from_millis(150), "nothing has changed");
    kamailio.finish();
}

#[test]
fn publish_cache_sync_without_a_table() {
    if !ours_only("B24 a newer release's command") {
        return;
    }
    let kamailio = Kamailio::start(Config::new(Storage::Memory).jsonrpcs());
    assert_eq!(
        fault(&kamailio, "presence.publish_cache_sync", json!([])),
        "Failed to sync presinity table with the publish cache."
    );
    kamailio.finish();
}

/// Rules that are stored in the table count when the command says so.
#[test]
fn update_watchers_asks_for_the_rules_again() {
    let kamailio = Kamailio::start(
        Config::new(Storage::Default)
            .parameter("presence_xml", "force_active", 0)
            .parameter("presence_xml", "integrated_xcap_server", 1)
            .parameter("presence_xml", "db_url", "@DATABASE@"),
    );
    let mut phone = Publisher::udp(&kamailio, "alice");
    phone.publish(bodies::pidf("alice", "phone", "open", ""));
    let mut watcher = Watcher::udp(&kamailio, "alice").named("bob");
    watcher.subscribe(600);
    assert_eq!(watcher.next_notify("initial").state, "pending");
    let rules = format!(
        "<?xml version=\"1.0\"?><cr:ruleset xmlns:cr=\"urn:ietf:params:xml:ns:common-policy\" \
         xmlns:pr=\"urn:ietf:params:xml:ns:pres-rules\"><cr:rule id=\"r\"><cr:conditions>\
         <cr:identity><cr:one id=\"{}\"/></cr:identity></cr:conditions><cr:actions>\
         <pr:sub-handling>allow</pr:sub-handling></cr:actions><cr:transformations>\
         <pr:provide-services><pr:all-services/></pr:provide-services>\
         <pr:provide-all-attributes/></cr:transformations></cr:rule></cr:ruleset>",
        aor("bob")
    );
    kamailio.execute(&format!(
        "INSERT INTO xcap (username, domain, doc, doc_type, etag, source, doc_uri, port) \
             VALUES ('alice', '{DOMAIN}', '{rules}', 2, 'e1', 0, 'rules', 0)"
    ));
    watcher.no_more_notify(Duration::from_millis(150), "nobody has said so");
    let text = kamailio.rpc_ok(&["presence.updateWatchers", &aor("alice"), "presence"]);
    assert_eq!(text.trim(), "");
    let notify = watcher.next_notify("approved");
    assert_eq!(notify.state, "active");
    assert!(notify.body().contains(">open<"), "{}", notify.body());
    kamailio.rpc_ok(&["presence.updateWatchers", &aor("alice"), "presence"]);
    watcher.no_more_notify(Duration::from_millis(150), "nothing has changed");
    kamailio.finish();
}
