//! Stock sibling modules on top of the module under test, each with a flow
//! from end to end.

use presence_kamailio_tests::prelude::*;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;

/// The tables of rls, in the files of db_text: rls needs REPLACE, which the
/// driver of SQLite has not. `entries` are the members of the list `friends`.
fn rls_tables(entries: &[&str]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap_or_else(|error| panic!("folder: {error}"));
    for table in ["version", "rls_presentity", "rls_watchers"] {
        let from = format!("/usr/share/kamailio/dbtext/kamailio/{table}");
        std::fs::copy(&from, folder.path().join(table))
            .unwrap_or_else(|error| panic!("{from}: {error}"));
    }
    let entries: String =
        entries.iter().map(|user| format!("<entry uri='{}'/>", aor(user))).collect();
    let list = format!(
        "<rls-services xmlns='urn:ietf:params:xml:ns:rls-services'><service uri='{}'><list>\
         {entries}</list><packages><package>presence</package></packages></service></rls-services>",
        aor("friends")
    );
    let rows = format!(
        "id(int,auto) username(string) domain(string) doc(string) doc_type(int) etag(string) \
         source(int) doc_uri(string) port(int) \n0:watcher:{DOMAIN}:{}:8:e1:0:index:0\n",
        list.replace(':', "\\:")
    );
    std::fs::write(folder.path().join("xcap"), rows)
        .unwrap_or_else(|error| panic!("xcap: {error}"));
    folder
}

/// rls, which subscribes to the members of a list through ourselves and keeps
/// its own subscriptions in a table that the presence module gives it.
fn with_rls(tables: &tempfile::TempDir) -> Config {
    let database = format!("text://{}", tables.path().display());
    Config::new(Storage::Default)
        .module("db_text")
        .module("pua")
        .siblings(&["presence_xml", "rls"])
        .parameter("presence_xml", "force_active", 1)
        .parameter("pua", "db_url", "@DATABASE@")
        .parameter("rls", "db_url", database.as_str())
        .parameter("rls", "xcap_db_url", database.as_str())
        .parameter("rls", "rlpres_db_url", database.as_str())
        .parameter("rls", "integrated_xcap_server", 1)
        .parameter("rls", "server_address", "sip:127.0.0.1:@PORT@")
        .parameter("rls", "outbound_proxy", "sip:127.0.0.1:@PORT@")
        .parameter("rls", "to_presence_code", 5)
        .parameter("rls", "waitn_time", 1)
        .parameter("rls", "clean_period", 1)
        .before("if(method==\"NOTIFY\") { rls_handle_notify(); exit; }\n")
        .before_subscribe("rls_handle_subscribe(); if($rc != 5) { exit; }\n")
}

/// The rows of `rls_watchers`, as db_text has dumped them.
fn rls_rows(tables: &tempfile::TempDir) -> Vec<String> {
    let text = std::fs::read_to_string(tables.path().join("rls_watchers"))
        .unwrap_or_else(|error| panic!("rls_watchers: {error}"));
    text.lines().skip(1).map(str::to_owned).collect()
}

#[test]
fn rls_serves_a_resource_list() {
    let tables = rls_tables(&["bob", "carol"]);
    let kamailio = Kamailio::start(with_rls(&tables));
    let mut phone = Publisher::udp(&kamailio, "bob");
    phone.publish(bodies::pidf("bob", "desk", "open", "at work"));
    let mut watcher = Watcher::udp(&kamailio, "friends");
    watcher.accept = "application/pidf+xml,application/rlmi+xml,multipart/related".into();
    watcher.extra_headers.push(("Supported".into(), "eventlist".into()));
    let reply = watcher.subscribe(600);
    assert_eq!(reply.status(), Some(200), "{}", reply.start_line);
    let wait = Duration::from_secs(15);
    let notify = watcher.wait_notify_for(wait, "RLMI with bob's state", |n| {
        n.body().contains("rlmi") && n.body().contains("at work")
    });
    let content_type = notify.message.header("Content-Type").unwrap_or("");
    assert!(content_type.contains("multipart/related"), "{content_type}");
    assert_eq!(notify.message.from_tag(), watcher.to_tag.as_deref(), "one To tag (B36)");
    phone.modify(bodies::pidf("bob", "desk", "closed", "gone home"));
    watcher.wait_notify_for(wait, "bob's new state", |n| n.body().contains("gone home"));
    let reply = watcher.subscribe(600);
    assert_eq!(reply.status(), Some(200), "a refresh: {}", reply.start_line);
    watcher.assert_rising_cseq();
    // Let the timer of rls write, through our update_db_subs_timer.
    std::thread::sleep(Duration::from_millis(1500));
    kamailio.rpc_ok(&["db_text.dump"]);
    kamailio.finish();
    let rows = rls_rows(&tables);
    assert_eq!(rows.len(), differs("D22 rows of rls_watchers", 0, 1), "{rows:?}");
    for row in &rows {
        assert!(row.contains(&watcher.call_id) && row.contains("friends"), "{row}");
    }
}

/// rls judges the requests that it serves itself: what we refuse (B47) is not
/// refused for it. What it leaves to us we judge.
#[test]
fn b47_rls_judges_its_own_requests() {
    let tables = rls_tables(&["bob"]);
    let kamailio = Kamailio::start(with_rls(&tables));
    let demands: [(&str, &str, u16, u16); 5] = [
        ("Require", "eventlist", 200, 200),
        ("Require", "eventlist, recipient-list-subscribe", 200, 420),
        ("Accept", "application/rlmi+xml, multipart/related", 200, 200),
        ("Contact", "<sip:second@127.0.0.1:9>", 200, 400),
        ("Content-Encoding", "gzip", 200, 415),
    ];
    for (name, value, list, single) in demands {
        for (user, code) in [("friends", list), ("bob", differs("B47", 200, single))] {
            let mut watcher = Watcher::udp(&kamailio, user);
            watcher.extra_headers.push(("Supported".into(), "eventlist".into()));
            let mut message = watcher.message();
            if name == "Accept" {
                message.set(name, value);
            } else {
                message.push(name, value);
            }
            assert_eq!(watcher.send(&message).status(), Some(code), "{user}, {name}: {value}");
        }
    }
    kamailio.finish();
}

/// The end of an rls subscription is told once, and its row goes.
#[test]
fn rls_subscriptions_expire() {
    let tables = rls_tables(&["bob"]);
    let kamailio = Kamailio::start(with_rls(&tables));
    let mut watcher = Watcher::udp(&kamailio, "friends");
    watcher.extra_headers.push(("Supported".into(), "eventlist".into()));
    watcher.subscribe(3);
    let wait = Duration::from_secs(12);
    let over = watcher.wait_notify_for(wait, "the end", |n| n.state == "terminated");
    assert_eq!(over.reason(), "timeout");
    std::thread::sleep(Duration::from_millis(2500));
    let ends = watcher.notifies().iter().filter(|n| n.state == "terminated").count();
    assert_eq!(ends, 1, "told once");
    kamailio.rpc_ok(&["db_text.dump"]);
    kamailio.finish();
    assert_eq!(rls_rows(&tables), [""; 0]);
}

both_storages! {
    fn pua_publishes_to_ourselves(storage) {
        // pua_rpc wants a transport that could answer later.
        let kamailio = Kamailio::start(with_pua(storage).jsonrpcs().module("pua_rpc"));
        let mut watcher = Watcher::udp(&kamailio, "alice");
        watcher.subscribe(600);
        let proxy = format!("sip:127.0.0.1:{}", kamailio.address().port());
        let body = bodies::pidf("alice", "pua", "open", "by rpc").replace('\n', "");
        let arguments = serde_json::json!([
            aor("alice"), "3600", "presence", "application/pidf+xml", "pua1", ".", proxy, ".", body,
        ]);
        kamailio.json_rpc("pua.send_publish", &arguments);
        watcher.wait_notify("what pua published", |n| n.body().contains("by rpc"));
        kamailio.finish();
    }

    fn pua_json_publishes_with_its_own_tag(storage) {
        if storage.has_database() && !ours_only("needs a driver with REPLACE, SQLite's has none") {
            return;
        }
        let kamailio = Kamailio::start(
            Config::new(storage)
                .module("json")
                .siblings(&["presence_xml", "presence_mwi", "presence_dialoginfo", "pua_json"])
                .parameter("presence_xml", "force_active", 1)
                .presence("min_expires", 600)
                .before(
                    "if(method==\"MESSAGE\") { pua_json_publish(\"$rb\"); \
                     sl_send_reply(\"200\", \"OK\"); exit; }\n",
                ),
        );
        let mut watcher = Watcher::udp(&kamailio, "alice").event("dialog");
        watcher.subscribe(600);
        watcher.next_notify("initial");
        let publish = |state: &str, expires: u32| {
            let json = format!(
                "{{\"Event-Name\":\"update\",\"Event-Package\":\"dialog\",\"Call-ID\":\"call-1\",\
                 \"From\":\"{alice}\",\"From-User\":\"alice\",\"From-Realm\":\"{DOMAIN}\",\
                 \"From-URI\":\"{alice}\",\"To\":\"{bob}\",\"To-User\":\"bob\",\"To-Realm\":\"{DOMAIN}\",\
                 \"To-URI\":\"{bob}\",\"Direction\":\"initiator\",\"To-Tag\":\"t1\",\"From-Tag\":\"f1\",\
                 \"State\":\"{state}\",\"Expires\":{expires}}}",
                alice = aor("alice"), bob = aor("bob"),
            );
            let mut message = Message::new(format!("MESSAGE {} SIP/2.0", aor("bridge")));
            let call_id = presence_kamailio_tests::sip::unique("json");
            message
                .push("Via", watcher.endpoint.via())
                .push("From", format!("<{}>;tag=j", aor("bridge")))
                .push("To", format!("<{}>", aor("bridge")))
                .push("Call-ID", call_id)
                .push("CSeq", "1 MESSAGE")
                .push("Content-Type", "application/json")
                .set_body(json);
            assert_eq!(watcher.endpoint.request(&message).status(), Some(200));
        };
        publish("early", 60);
        watcher.wait_notify("early", |n| n.body().contains(">early<"));
        publish("confirmed", 60);
        let notify = watcher.wait_notify("confirmed", |n| n.body().contains(">confirmed<"));
        assert_eq!(bodies::dialogs(&notify.body()).len(), 1, "one publication, replaced");
        if storage.has_publication_rows() {
            let rows = kamailio.rows("presentity");
            assert_eq!(rows.len(), 1, "{rows:?}");
            assert_eq!(rows[0]["etag"], "call-1", "the sibling's own tag (B10)");
        }
        publish("terminated", 10);
        let last = watcher.wait_notify("terminated", |n| n.body().contains(">terminated<"));
        assert_eq!(bodies::dialogs(&last.body()).len(), 1);
        kamailio.finish();
    }

    fn a_package_of_its_own_for_conferences_profiles_and_registrations(storage) {
        let siblings = ["presence_xml", "presence_conference", "presence_profile", "presence_reginfo"];
        let kamailio = Kamailio::start(
            Config::new(storage).siblings(&siblings).parameter("presence_xml", "force_active", 1),
        );
        let conference = format!(
            "<?xml version=\"1.0\"?><conference-info xmlns=\"urn:ietf:params:xml:ns:conference-info\" \
             entity=\"{}\" state=\"full\" version=\"1\"><conference-description><subject>Tea</subject>\
             </conference-description></conference-info>",
            aor("room")
        );
        let registration = format!(
            "<?xml version=\"1.0\"?><reginfo xmlns=\"urn:ietf:params:xml:ns:reginfo\" version=\"0\" \
             state=\"full\"><registration aor=\"{}\" id=\"r1\" state=\"active\"/></reginfo>",
            aor("room")
        );
        let profile = "<?xml version=\"1.0\"?><profile><colour>green</colour></profile>";
        for (event, content_type, body, mark) in [
            ("conference", "application/conference-info+xml", conference.as_str(), "Tea"),
            ("reg", "application/reginfo+xml", registration.as_str(), "registration"),
            ("ua-profile", "text/xml", profile, "green"),
        ] {
            let mut watcher = Watcher::udp(&kamailio, "room").event(event);
            watcher.accept = content_type.into();
            watcher.subscribe(600);
            let mut publisher = Publisher::udp(&kamailio, "room").event(event);
            publisher.content_type = content_type.into();
            publisher.publish(body);
            let notify = watcher.wait_notify(event, |n| n.body().contains(mark));
            assert_eq!(notify.message.header("Content-Type"), Some(content_type));
            assert_eq!(notify.message.header("Event"), Some(event));
        }
        kamailio.finish();
    }
}

/// pua, which sends its requests to ourselves; it does not run without a
/// database, so that of `Storage::Memory` is for pua alone.
fn with_pua(storage: Storage) -> Config {
    let storage = match storage {
        Storage::Memory => Storage::sqlite(0, 2),
        other => other,
    };
    Config::new(storage)
        .module("siputils")
        .module("pua")
        .parameter("pua", "outbound_proxy", "sip:127.0.0.1:@PORT@")
        .parameter("pua", "db_url", "@DATABASE@")
}

/// usrloc and registrar without a least lifetime of a registration.
fn with_registrar(config: Config) -> Config {
    config.module("usrloc").module("registrar").parameter("registrar", "min_expires", 0).parameter(
        "usrloc",
        "timer_interval",
        1,
    )
}

/// Registers `contact` for `user`, by the account `from`; must be answered with 200.
fn register(endpoint: &Endpoint, from: &str, user: &str, cseq: u32, expires: u32) {
    let mut message = Message::new(format!("REGISTER sip:{DOMAIN} SIP/2.0"));
    message
        .push("Via", endpoint.via())
        .push("Max-Forwards", "70")
        .push("From", format!("<{}>;tag=r", aor(from)))
        .push("To", format!("<{}>", aor(user)))
        .push("Call-ID", format!("reg-{from}-{user}"))
        .push("CSeq", format!("{cseq} REGISTER"))
        .push("Contact", endpoint.contact(user))
        .push("Expires", expires.to_string())
        .push("Content-Length", "0");
    let reply = endpoint.request(&message);
    assert_eq!(reply.status(), Some(200), "{}", reply.start_line);
}

/// A message within a call: `method`, its CSeq, and the route set of `route`.
fn call(
    endpoint: &Endpoint,
    callee: &str,
    request: (&str, u32),
    reply: Option<&Message>,
) -> Message {
    let (method, cseq) = request;
    let mut message = Message::new(format!("{method} {callee} SIP/2.0"));
    message
        .push("Via", endpoint.via())
        .push("Max-Forwards", "70")
        .push("From", format!("<{}>;tag=caller", aor("alice")))
        .push("Call-ID", format!("call-{}", endpoint.local().port()))
        .push("CSeq", format!("{cseq} {method}"))
        .push("Contact", endpoint.contact("alice"));
    let to = reply.and_then(|reply| reply.header("To")).map(str::to_owned);
    message.push("To", to.unwrap_or_else(|| format!("<{}>", aor("bob"))));
    for route in reply.map(|reply| reply.all("Record-Route")).unwrap_or_default() {
        message.push("Route", route);
    }
    message.push("Content-Length", "0");
    message
}

/// Makes a reply to an INVITE one of a dialog: To tag and route set.
fn tagged(reply: &mut Message, invite: &Message) {
    reply.set("To", format!("<{}>;tag=callee", aor("bob")));
    for route in invite.all("Record-Route") {
        reply.push("Record-Route", route);
    }
}

/// The states of the calls in a NOTIFY.
fn states(notify: &Notify) -> Vec<String> {
    bodies::dialogs(&notify.body()).into_iter().map(|(_, state)| state).collect()
}

both_storages! {
    fn pua_usrloc_publishes_registrations(storage) {
        let kamailio = Kamailio::start(
            with_registrar(with_pua(storage))
                .module("pua_usrloc")
                .parameter("pua_usrloc", "default_domain", DOMAIN)
                .parameter("pua_usrloc", "branch_flag", 5)
                .before(
                    "if(method==\"REGISTER\") { pua_set_publish(); save(\"location\"); exit; }\n",
                ),
        );
        let phone = Endpoint::udp(kamailio.address(), kamailio.trace(), "phone");
        let wait = Duration::from_secs(15);
        // One registration is taken back, the other runs out.
        for (user, lifetime) in [("alice", 600), ("bob", 3)] {
            let mut watcher = Watcher::udp(&kamailio, user);
            watcher.subscribe(600);
            let first = watcher.next_notify("nobody has registered");
            assert!(!first.body().contains("open"), "{}", first.body());
            register(&phone, user, user, 1, lifetime);
            let open = watcher.wait_notify_for(wait, "registered", |n| n.body().contains("open"));
            let entity = format!("entity=\"{}\"", aor(user).trim_start_matches("sip:"));
            assert!(open.body().contains(&entity), "{}", open.body());
            // The reply to the PUBLISH has come to pua.
            phone.barrier();
            if lifetime > 10 {
                register(&phone, user, user, 2, lifetime);
                phone.barrier();
                register(&phone, user, user, 3, 0);
            }
            // alice has refreshed, bob has not.
            let mark = match (storage, user) {
                (Storage::Memory, "alice") => differs("B7 a refresh empties it", "", "closed"),
                _ => "closed",
            };
            let over = watcher.wait_notify_for(wait, "not registered any more", |n| {
                n.order > open.order && n.body().contains(mark) && !n.body().contains(">open<")
            });
            assert_eq!(over.state, "active");
            watcher.assert_rising_cseq();
        }
        kamailio.finish();
    }

    fn pua_dialoginfo_publishes_the_states_of_a_call(storage) {
        let kamailio = Kamailio::start(
            with_pua(storage)
                .module("dialog")
                .module("pua_dialoginfo")
                // It publishes for our own domain only.
                .global("alias=\"example.test\"")
                .parameter("pua_dialoginfo", "caller_confirmed", 0)
                .before(
                    "if(method!=\"PUBLISH\" && method!=\"SUBSCRIBE\" && method!=\"OPTIONS\") {
                       if(has_totag()) { loose_route(); t_relay(); exit; }
                       record_route(); dlg_manage(); t_relay(); exit; }\n",
                ),
        );
        let wait = Duration::from_secs(10);
        let mut watchers = Vec::new();
        for user in ["alice", "bob"] {
            let mut watcher = Watcher::udp(&kamailio, user).event("dialog");
            watcher.subscribe(600);
            watcher.next_notify("no call");
            watchers.push(watcher);
        }
        let see = |state: &str| {
            for watcher in &watchers {
                watcher.wait_notify_for(wait, state, |n| states(n) == [state]);
                // The reply to the PUBLISH has come to pua.
                watcher.endpoint.barrier();
            }
        };
        let caller = Endpoint::udp(kamailio.address(), kamailio.trace(), "caller");
        let callee = Endpoint::udp(kamailio.address(), kamailio.trace(), "callee");
        callee.answer_with(|request| match request.method() {
            "BYE" => Answer::Code(200),
            _ => Answer::Silence,
        });
        let contact = callee.contact("bob");
        let target = contact.trim_matches(['<', '>']);
        caller.send(&call(&caller, target, ("INVITE", 1), None).to_bytes());
        let invite = callee.wait(wait, |received| {
            received.iter().find(|entry| entry.message.method() == "INVITE").cloned()
        });
        let invite = invite.unwrap_or_else(|| kamailio.fail("no INVITE")).message;
        let mut ringing = invite.reply(180, "Ringing");
        tagged(&mut ringing, &invite);
        ringing.push("Contact", contact.as_str());
        callee.send(&ringing.to_bytes());
        see("early");
        let mut answer = invite.reply(200, "OK");
        tagged(&mut answer, &invite);
        answer.push("Contact", contact.as_str());
        callee.send(&answer.to_bytes());
        let answered = caller.wait(wait, |received| {
            received.iter().find(|entry| entry.message.status() == Some(200)).cloned()
        });
        let answered = answered.unwrap_or_else(|| kamailio.fail("no 200")).message;
        caller.send(&call(&caller, target, ("ACK", 1), Some(&answered)).to_bytes());
        see("confirmed");
        let reply = caller.request(&call(&caller, target, ("BYE", 2), Some(&answered)));
        assert_eq!(reply.status(), Some(200), "{}", reply.start_line);
        see("terminated");
        for watcher in &watchers {
            watcher.assert_rising_cseq();
        }
        kamailio.finish();
    }

    fn pua_dialoginfo_tells_of_a_call_that_is_refused(storage) {
        let kamailio = Kamailio::start(
            with_pua(storage)
                .module("dialog")
                .module("pua_dialoginfo")
                // It publishes for our own domain only.
                .global("alias=\"example.test\"")
                .before(
                    "if(method==\"INVITE\") { record_route(); dlg_manage(); t_relay(); exit; }
                     if(method==\"ACK\") { t_relay(); exit; }\n",
                ),
        );
        let mut watcher = Watcher::udp(&kamailio, "alice").event("dialog");
        watcher.subscribe(600);
        watcher.next_notify("no call");
        let caller = Endpoint::udp(kamailio.address(), kamailio.trace(), "caller");
        let callee = Endpoint::udp(kamailio.address(), kamailio.trace(), "callee");
        callee.answer_with(|request| match request.method() {
            "INVITE" => Answer::Delayed(Duration::from_millis(700), 404),
            _ => Answer::Silence,
        });
        let contact = callee.contact("bob");
        let target = contact.trim_matches(['<', '>']);
        let reply = caller.request(&call(&caller, target, ("INVITE", 1), None));
        assert_eq!(reply.status(), Some(404), "{}", reply.start_line);
        let wait = Duration::from_secs(10);
        let over = watcher.wait_notify_for(wait, "the end", |n| states(n) == ["terminated"]);
        // Notifier processes tell of what has happened within a second once.
        if storage.notify_delay().is_zero() {
            let trying = watcher.wait_notify("the beginning", |n| states(n) == ["Trying"]);
            assert!(trying.order < over.order);
        }
        kamailio.finish();
    }

    /// A phone with a private account registers a shared line: pua_bla
    /// subscribes to the phone's account and publishes what it is told for the line.
    fn pua_bla_subscribes_and_publishes_for_a_shared_line(storage) {
        let kamailio = Kamailio::start(
            with_registrar(with_pua(storage))
                .module("pua_bla")
                // The Contact of presence is not the phone's.
                .parameter("pua", "check_remote_contact", 0)
                .parameter("presence_xml", "disable_bla", 0)
                .parameter("pua_bla", "default_domain", DOMAIN)
                .parameter("pua_bla", "header_name", "Sender")
                .parameter("pua_bla", "server_address", "sip:private@127.0.0.1:@PORT@")
                .parameter("pua_bla", "outbound_proxy", "sip:127.0.0.1:@PORT@")
                .before(
                    "if(method==\"REGISTER\") { bla_set_flag(); save(\"location\"); exit; }
                     if(method==\"NOTIFY\") { sl_send_reply(\"200\", \"OK\");
                       xlog(\"L_NOTICE\", \"BLA-NOTIFY $hdr(Subscription-State)\\n\");
                       if($cl > 0) { bla_handle_notify(); } exit; }\n",
                ),
        );
        let mut line = Watcher::udp(&kamailio, "line").event("dialog;sla");
        // The user of the Contact says whose line is meant.
        line.contact = line.endpoint.contact("line");
        line.subscribe(600);
        line.next_notify("the line is free");
        let phone = Endpoint::udp(kamailio.address(), kamailio.trace(), "phone");
        register(&phone, "private", "line", 1, 600);
        kamailio.wait_log("BLA-NOTIFY active;expires=");
        let accepted = kamailio.log_lines("SCRIPT-RESULT SUBSCRIBE 1");
        assert_eq!(accepted.len(), 2, "pua_bla's too: {accepted:?}");
        let mut publisher = Publisher::udp(&kamailio, "private").event("dialog;sla");
        publisher.publish(bodies::dialog_info("private", 0, &[("c1", "confirmed")]));
        let wait = Duration::from_secs(10);
        let notify =
            line.wait_notify_for(wait, "the line is used", |n| states(n) == ["confirmed"]);
        assert_eq!(notify.message.header("Event"), Some("dialog;sla"));
        // The registration ends, and with it the subscription of pua_bla.
        phone.barrier();
        register(&phone, "private", "line", 2, 0);
        kamailio.wait_log("BLA-NOTIFY terminated;reason=timeout");
        kamailio.finish();
    }
}

/// Sends one HTTP request over TCP; the status line.
fn http(kamailio: &Kamailio, method: &str, path: &str, content_type: &str, body: &str) -> String {
    let port = kamailio.address().port();
    let mut stream = TcpStream::connect(kamailio.address())
        .unwrap_or_else(|error| kamailio.fail(&format!("tcp: {error}")));
    let _ = stream.set_read_timeout(Some(Duration::from_secs(3)));
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nVia: SIP/2.0/TCP 127.0.0.1\r\n\
         Content-Type: {content_type}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    if let Err(error) = stream.write_all(request.as_bytes()) {
        kamailio.fail(&format!("http: {error}"));
    }
    let mut bytes = Vec::new();
    let mut chunk = [0; 4096];
    while !bytes.windows(4).any(|w| w == b"\r\n\r\n") {
        match stream.read(&mut chunk) {
            Ok(0) | Err(_) => break,
            Ok(count) => bytes.extend_from_slice(&chunk[..count]),
        }
    }
    String::from_utf8_lossy(&bytes).lines().next().unwrap_or("").to_owned()
}

/// A client puts its rules on the stock XCAP server: a watcher that was pending
/// becomes active and sees the state, and one that was not named stays pending.
#[test]
fn rules_put_over_xcap_approve_a_pending_watcher() {
    let kamailio = Kamailio::start(
        Config::new(Storage::Default)
            .tcp()
            .global("tcp_accept_no_cl=yes")
            .module("xhttp")
            .siblings(&["presence_xml", "xcap_server"])
            .parameter("presence_xml", "force_active", 0)
            .parameter("presence_xml", "integrated_xcap_server", 1)
            .parameter("presence_xml", "db_url", "@DATABASE@")
            .parameter("xcap_server", "db_url", "@DATABASE@")
            .route(
                "event_route[xhttp:request] {\n  set_reply_close();\n  $xcapuri(u=>data) = $hu;\n  \
                 xcaps_put(\"$xcapuri(u=>xuid)\", \"$hu\", \"$rb\");\n  \
                 pres_update_watchers(\"$xcapuri(u=>xuid)\", \"presence\");\n  exit;\n}",
            ),
    );
    let mut phone = Publisher::udp(&kamailio, "alice");
    phone.publish(bodies::pidf("alice", "desk", "open", "private"));
    let mut bob = Watcher::udp(&kamailio, "alice").named("bob");
    let mut carol = Watcher::udp(&kamailio, "alice").named("carol");
    for watcher in [&mut bob, &mut carol] {
        watcher.subscribe(600);
        let first = watcher.next_notify("pending");
        assert_eq!((first.state.as_str(), first.body().as_str()), ("pending", ""));
    }
    let put = |list: &[(&str, &str)]| {
        let path = format!("/xcap-root/pres-rules/users/{}/index", aor("alice"));
        let status =
            http(&kamailio, "PUT", &path, "application/auth-policy+xml", &bodies::pres_rules(list));
        assert!(status.contains("200") || status.contains("201"), "{status}");
    };
    put(&[("bob", "allow")]);
    let approved = bob.next_notify("approved");
    assert_eq!(approved.state, "active");
    assert!(approved.body().contains("private"), "{}", approved.body());
    carol.no_more_notify(Duration::from_millis(300), "nothing has changed for carol");
    // Rules that block end the subscription.
    put(&[("bob", "block")]);
    let over = bob.next_notify("blocked");
    assert_eq!((over.state.as_str(), over.reason()), ("terminated", "rejected"));
    assert_eq!(over.body(), "");
    let reply = bob.try_subscribe(600);
    assert_eq!(reply.status(), Some(481), "{}", reply.start_line);
    put(&[("carol", "polite-block")]);
    let polite = carol.next_notify("politely blocked");
    assert_eq!((polite.state.as_str(), polite.body().as_str()), ("active", ""));
    put(&[("carol", "allow")]);
    let seen = carol.next_notify("allowed");
    assert!(seen.body().contains("private"));
    // A rule that is taken away deactivates.
    put(&[("dave", "allow")]);
    let over = carol.next_notify("not named any more");
    assert_eq!(
        (over.state.as_str(), over.reason()),
        ("terminated", "probation"),
        "presence_xml's default"
    );
    bob.assert_rising_cseq();
    carol.assert_rising_cseq();
    kamailio.finish();
}
