//! Who may watch (B17), spheres (B35), and who is told of the watchers (B16).

use presence_kamailio_tests::prelude::*;

fn config(storage: Storage) -> Config {
    Config::new(storage)
        .parameter("presence_xml", "force_active", 0)
        .parameter("presence_xml", "integrated_xcap_server", 1)
        .parameter("presence_xml", "db_url", "@DATABASE@")
}

/// Stores alice's rules: (watcher, sphere or empty, sub-handling).
fn store_rules(kamailio: &Kamailio, rules: &[(&str, &str, &str)]) {
    let mut document = String::from(
        "<?xml version=\"1.0\"?><cr:ruleset xmlns:cr=\"urn:ietf:params:xml:ns:common-policy\" \
         xmlns:pr=\"urn:ietf:params:xml:ns:pres-rules\">",
    );
    for (index, (watcher, sphere, handling)) in rules.iter().enumerate() {
        let sphere = match *sphere {
            "" => String::new(),
            sphere => format!("<cr:sphere>{sphere}</cr:sphere>"),
        };
        document += &format!(
            "<cr:rule id=\"r{index}\"><cr:conditions><cr:identity><cr:one id=\"{}\"/>\
             </cr:identity>{sphere}</cr:conditions><cr:actions><pr:sub-handling>{handling}\
             </pr:sub-handling></cr:actions><cr:transformations><pr:provide-services>\
             <pr:all-services/></pr:provide-services><pr:provide-persons><pr:all-persons/>\
             </pr:provide-persons><pr:provide-all-attributes/></cr:transformations></cr:rule>",
            aor(watcher)
        );
    }
    document += "</cr:ruleset>";
    kamailio.execute(&format!(
        "DELETE FROM xcap; INSERT INTO xcap (username, domain, doc, doc_type, etag, source, \
             doc_uri, port) VALUES ('alice', '{DOMAIN}', '{document}', 2, 'e1', 0, 'rules', 0);"
    ));
}

fn update(kamailio: &Kamailio) {
    kamailio.rpc_ok(&["presence.updateWatchers", &aor("alice"), "presence"]);
}

/// `(user, status, event)` of a watcherinfo document, by user.
fn watchers(notify: &Notify) -> Vec<(String, String, String)> {
    let mut list: Vec<_> = bodies::watchers(&notify.body())
        .into_iter()
        .map(|w| (w.uri[4..].split('@').next().unwrap_or("").to_owned(), w.status, w.event))
        .collect();
    list.sort();
    list
}

fn entry(user: &str, status: &str, event: &str) -> (String, String, String) {
    (user.into(), status.into(), event.into())
}

/// Several processes, and a watcher approved by hand.
#[test]
fn b17_who_is_approved_by_hand_stays_approved() {
    if !ours_only("B17 a rule update ends what was approved by hand") {
        return;
    }
    let kamailio = Kamailio::start(config(Storage::Default));
    store_rules(&kamailio, &[("dave", "", "allow")]);
    let mut bob = Watcher::udp(&kamailio, "alice").named("bob");
    bob.subscribe(600);
    assert_eq!(bob.next_notify("pending").state, "pending");
    let row = &kamailio.rows("watchers")[0];
    assert_eq!((row["status"].as_str(), row["watcher_username"].as_str()), ("2", "bob"));
    kamailio.execute("UPDATE watchers SET status=1");
    update(&kamailio);
    assert_eq!(bob.next_notify("approved by hand").state, "active");
    store_rules(&kamailio, &[("erin", "", "allow")]);
    update(&kamailio);
    bob.no_more_notify(Duration::from_millis(300), "the rules do not name bob");
    let mut again = Watcher::udp(&kamailio, "alice").named("bob");
    again.subscribe(600);
    assert_eq!(again.next_notify("still approved").state, "active");
    // An explicit rule wins.
    store_rules(&kamailio, &[("bob", "", "block")]);
    update(&kamailio);
    let over = bob.next_notify("blocked by a rule");
    assert_eq!((over.state.as_str(), over.reason()), ("terminated", "rejected"));
    kamailio.finish();
}

/// Who was rejected by hand does not come back in another spelling of its
/// domain.
#[test]
fn b19_who_is_rejected_by_hand_stays_rejected_in_any_spelling() {
    let kamailio = Kamailio::start(config(Storage::Default));
    store_rules(&kamailio, &[("dave", "", "allow")]);
    let row_for = |presentity: &str, user: &str, domain: &str| {
        kamailio.execute(&format!(
            "INSERT INTO watchers (presentity_uri, watcher_username, watcher_domain, event, \
             status, reason, inserted_time) VALUES ('{presentity}', '{user}', '{domain}', \
             'presence', 3, 'rejected', {})",
            i32::MAX
        ));
    };
    let row = |user: &str, domain: &str| row_for(&aor("alice"), user, domain);
    let capitals = DOMAIN.to_ascii_uppercase();
    row("evil", DOMAIN);
    row("other", &capitals);
    for (user, domain) in [("evil", capitals.as_str()), ("other", DOMAIN)] {
        let name = format!("sip:{user}@{domain}");
        let mut watcher = Watcher::udp(&kamailio, "alice").named(&name);
        watcher.subscribe(600);
        let state = watcher.next_notify("initial").state;
        assert_eq!(state, differs("B19 a rejected watcher", "pending", "terminated"), "{name}");
    }
    let rows = kamailio.rows("watchers").len();
    assert_eq!(rows, differs("B19 rows of one watcher", 4, 2));
    // The presentity's domain as stock has written it.
    let alice = format!("sip:alice@{capitals}");
    row_for(&alice, "third", DOMAIN);
    let mut watcher = Watcher::udp(&kamailio, &alice).named("third");
    watcher.subscribe(600);
    assert_eq!(watcher.next_notify("initial").state, "terminated");
    // A new one is written in lower case.
    let mut new = Watcher::udp(&kamailio, "alice").named(&format!("sip:new@{capitals}"));
    new.subscribe(600);
    let rows = kamailio.rows("watchers");
    let domain = rows.iter().find(|row| row["watcher_username"] == "new");
    let domain = domain.map(|row| row["watcher_domain"].as_str());
    assert_eq!(domain, Some(differs("B19 domain as written", capitals.as_str(), DOMAIN)));
    kamailio.finish();
}

/// Rows of those who do not watch go after a day: the pending ones and those
/// that the rules would make again.
#[test]
fn b17_old_rows_are_purged() {
    let kamailio = Kamailio::start(config(Storage::Default).presence("clean_period", 1));
    store_rules(&kamailio, &[("ruled", "", "allow"), ("blocked", "", "block")]);
    let old = 1_000_000;
    for (user, status, reason, inserted) in [
        ("ruled", 1, "''", old),
        ("blocked", 3, "'rejected'", old),
        ("byhand", 1, "NULL", old),
        ("waits", 2, "NULL", old),
        ("young", 2, "NULL", i32::MAX),
    ] {
        kamailio.execute(
            &format!(
                "INSERT INTO watchers (presentity_uri, watcher_username, watcher_domain, event, status, \
             reason, inserted_time) VALUES ('{}', '{user}', '{DOMAIN}', 'presence', {status}, \
             {reason}, {inserted})",
                aor("alice")
            ),
        );
    }
    let left = || -> Vec<String> {
        let mut users: Vec<String> =
            kamailio.rows("watchers").iter().map(|row| row["watcher_username"].clone()).collect();
        users.sort();
        users
    };
    let expected = differs(
        "B17 rows that the rules would make again",
        vec!["blocked", "byhand", "ruled", "young"],
        vec!["byhand", "young"],
    );
    let settled = eventually(Duration::from_secs(5), || (left() == expected).then_some(()));
    assert!(settled.is_some(), "{:?}", left());
    kamailio.finish();
}

/// A pidf document with a sphere.
fn in_sphere(sphere: &str) -> String {
    bodies::pidf("alice", "desk", "open", "here").replace(
        "</presence>",
        &format!(
            "<dm:person xmlns:dm=\"urn:ietf:params:xml:ns:pidf:data-model\" id=\"p1\">\
             <rpid:sphere xmlns:rpid=\"urn:ietf:params:xml:ns:pidf:rpid\">{sphere}</rpid:sphere>\
             </dm:person></presence>"
        ),
    )
}

/// The sphere counts from the first PUBLISH on, and rules are looked at again
/// when it changes; publications in the database and in memory.
#[test]
fn b35_rules_may_hold_in_one_sphere() {
    if !ours_only("D3 spheres are not read from an initial PUBLISH") {
        return;
    }
    for publ_cache in [1, 2] {
        let storage = Storage::sqlite(2, publ_cache);
        let kamailio = Kamailio::start(config(storage).presence("enable_sphere_check", 1));
        store_rules(&kamailio, &[("bob", "work", "allow")]);
        let mut phone = Publisher::udp(&kamailio, "alice");
        phone.publish(in_sphere("work"));
        let mut bob = Watcher::udp(&kamailio, "alice").named("bob");
        bob.subscribe(600);
        let first = bob.next_notify("at work");
        assert_eq!(first.state, "active", "publ_cache {publ_cache}");
        assert!(first.body().contains("here"));
        phone.modify(in_sphere("home"));
        bob.wait_notify("not at home", |n| n.state == "terminated");
        // D3: a PUBLISH without Content-Type.
        let mut message = phone.message(Some(&in_sphere("work")));
        message.remove("Content-Type");
        assert_eq!(phone.send(&message).status(), Some(200));
        kamailio.finish();
    }
}

/// Watcher information: full when asked for, then what changes, versions by one.
#[test]
fn b16_winfo_tells_what_happened() {
    if !ours_only("D24 events and endings are not told") {
        return;
    }
    let kamailio = Kamailio::start(config(Storage::Default).presence("db_update_period", 1));
    store_rules(&kamailio, &[("carol", "", "allow"), ("mallory", "", "block")]);
    let mut winfo = Watcher::udp(&kamailio, "alice").named("alice").event("presence.winfo");
    winfo.subscribe(600);
    let first = winfo.next_notify("full");
    assert!(first.body().contains("state=\"full\""), "{}", first.body());
    let mut bob = Watcher::udp(&kamailio, "alice").named("bob");
    bob.subscribe(600);
    let told = winfo.next_notify("bob");
    assert!(told.body().contains("state=\"partial\""), "{}", told.body());
    assert_eq!(watchers(&told), [entry("bob", "pending", "subscribe")]);
    let mut carol = Watcher::udp(&kamailio, "alice").named("carol");
    carol.subscribe(2);
    assert_eq!(
        watchers(&winfo.next_notify("carol")),
        [entry("carol", "active", "subscribe")],
        "only what has changed"
    );
    bob.subscribe(600);
    let mut mallory = Watcher::udp(&kamailio, "alice").named("mallory");
    mallory.subscribe(600);
    assert_eq!(
        watchers(&winfo.next_notify("mallory; nothing about bob's refresh")),
        [entry("mallory", "terminated", "rejected")]
    );
    store_rules(&kamailio, &[("carol", "", "allow"), ("bob", "", "allow")]);
    update(&kamailio);
    assert_eq!(watchers(&winfo.next_notify("approved")), [entry("bob", "active", "approved")]);
    assert_eq!(
        watchers(&winfo.next_notify("carol ran out")),
        [entry("carol", "terminated", "timeout")]
    );
    bob.unsubscribe();
    let whole = winfo.next_notify("bob went: full (older page)");
    assert!(whole.body().contains("state=\"full\""), "{}", whole.body());
    assert!(watchers(&whole).contains(&entry("bob", "terminated", "timeout")));
    let versions: Vec<u32> = winfo.notifies().iter().map(|n| bodies::version(&n.body())).collect();
    assert_eq!(versions, (0..versions.len() as u32).collect::<Vec<_>>());
    // Somebody waits for a decision who has no subscription.
    let mut dave = Watcher::udp(&kamailio, "alice").named("dave");
    dave.subscribe(600);
    winfo.next_notify("dave");
    dave.unsubscribe();
    let gone = winfo.next_notify("dave went");
    assert!(watchers(&gone).contains(&entry("dave", "waiting", "timeout")), "{}", gone.body());
    winfo.subscribe(600);
    let full = winfo.next_notify("full again");
    assert_eq!(watchers(&full), [entry("dave", "waiting", "timeout")]);
    winfo.assert_rising_cseq();
    kamailio.finish();
}

/// After a restart the next document is full.
#[test]
fn b16_winfo_is_full_after_a_restart() {
    if !ours_only("D24 versions") || !Storage::Default.survives_restart() {
        return;
    }
    let kamailio = Kamailio::start(Config::new(Storage::Default));
    let mut winfo = Watcher::udp(&kamailio, "alice").named("alice").event("presence.winfo");
    winfo.subscribe(600);
    winfo.next_notify("full");
    let mut bob = Watcher::udp(&kamailio, "alice").named("bob");
    bob.subscribe(600);
    let before = bodies::version(&winfo.next_notify("bob").body());
    kamailio.restart();
    let mut carol = Watcher::udp(&kamailio, "alice").named("carol");
    carol.subscribe(600);
    let after = winfo.next_notify("after the restart");
    // Rows of the database alone lose no version, so nothing has to be told again.
    let goes_on = Storage::Default.subs_db_mode() == 3;
    let state = if goes_on { "state=\"partial\"" } else { "state=\"full\"" };
    assert!(after.body().contains(state), "{}", after.body());
    assert_eq!(watchers(&after).len(), if goes_on { 1 } else { 2 });
    let version = bodies::version(&after.body());
    assert!(version > before && (!goes_on || version == before + 1), "{}", after.body());
    kamailio.finish();
}

both_storages! {
    fn winfo_can_be_for_the_presentity_only(storage) {
        if !ours_only("the parameter is ours") {
            return;
        }
        let kamailio = Kamailio::start(Config::new(storage).presence("winfo_presentity_only", 1));
        let mut other = Watcher::udp(&kamailio, "alice").named("bob").event("presence.winfo");
        assert_eq!(other.try_subscribe(600).status(), Some(403));
        let mut own = Watcher::udp(&kamailio, "alice").named("alice").event("presence.winfo");
        own.subscribe(600);
        own.next_notify("full");
        let mut presence = Watcher::udp(&kamailio, "alice").named("bob");
        presence.subscribe(600);
        own.next_notify("bob");
        kamailio.finish();
    }

    fn d2_thousands_of_watchers_in_one_document(storage) {
        if !ours_only("D1, D2, and one NOTIFY per document") {
            return;
        }
        let kamailio = Kamailio::start(
            Config::new(storage).children(2).global("tcp_rd_buf_size=1048576").tcp(),
        );
        let mut crowd = Watcher::udp(&kamailio, "alice");
        for n in 0..1000 {
            crowd.new_dialog();
            crowd.watcher = aor(&format!("w{n}"));
            crowd.subscribe(600);
        }
        let mut winfo = Watcher::tcp(&kamailio, "alice").named("alice").event("presence.winfo");
        winfo.subscribe(600);
        let notify = winfo.wait_notify_for(Duration::from_secs(10), "all", |n| {
            bodies::watchers(&n.body()).len() == 1000
        });
        let mut ids: Vec<String> =
            bodies::watchers(&notify.body()).into_iter().map(|w| w.id).collect();
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), 1000, "unique ids");
        kamailio.finish();
    }
}
