//! What the script does to a request before it hands it over (A16): NAT
//! functions, a new Request-URI, changed headers, a forced socket.

use presence_kamailio_tests::prelude::*;

/// What a script does, chosen by the header `X-Case`, and what comes of it.
struct Case {
    name: &'static str,
    script: &'static str,
    /// The Request-URI of the NOTIFYs and where they arrive; `@HERE@` is the
    /// watcher's address, `@CONTACT@` that of its Contact.
    target: &'static str,
    /// Text in the line that the script logs about the subscription.
    shows: &'static str,
}

/// A watcher behind NAT has a Contact that leads elsewhere.
const PLAIN: &str = "sip:watcher@@CONTACT@ at @CONTACT@";
const HERE: &str = "sip:watcher@@HERE@ at @HERE@";
/// tm takes the alias out, and sends there; a route leads there as well.
const ROUTED: &str = "sip:watcher@@CONTACT@ at @HERE@";

const CASES: &[Case] = &[
    Case { name: "nothing", script: "", target: PLAIN, shows: "to=alice" },
    // As in the NATDETECT route of the default configuration.
    Case {
        name: "default",
        script: r#"force_rport(); if(!nat_uac_test("64")) { set_contact_alias(); }"#,
        target: ROUTED,
        shows: ";alias=",
    },
    Case {
        name: "default-applied",
        script: "force_rport(); set_contact_alias(); msg_apply_changes();",
        target: ROUTED,
        shows: ";alias=",
    },
    // As older defaults and Kazoo have it.
    Case {
        name: "fixed",
        script: r#"if(nat_uac_test("16") || $ct =~ "X-NAT" || is_method("SUBSCRIBE")) { fix_nated_contact(); force_rport(); }"#,
        target: HERE,
        shows: "to=alice",
    },
    Case {
        name: "fixed-applied",
        script: "fix_nated_contact(); force_rport(); msg_apply_changes();",
        target: HERE,
        shows: "to=alice",
    },
    // As ivozprovider: lumps only, so nobody sees them before they are applied.
    Case {
        name: "added",
        script: "force_rport(); add_contact_alias();",
        target: PLAIN,
        shows: "to=alice",
    },
    Case {
        name: "added-applied",
        script: "force_rport(); add_contact_alias(); msg_apply_changes();",
        target: ROUTED,
        shows: ";alias=",
    },
    Case { name: "fix_contact", script: "fix_contact();", target: HERE, shows: "to=alice" },
    Case {
        name: "fix_contact-applied",
        script: "fix_contact(); msg_apply_changes();",
        target: HERE,
        shows: "to=alice",
    },
    // Reading is no change: the script has parsed the Contact before us.
    Case {
        name: "read",
        script: r#"$var(x) = $ct; $var(y) = $(hdr(Contact){nameaddr.uri}); nat_uac_test("1");"#,
        target: PLAIN,
        shows: "to=alice",
    },
    Case {
        name: "destination",
        script: r#"$du = "sip:127.0.0.1:9";"#,
        target: PLAIN,
        shows: "to=alice",
    },
    Case {
        name: "request-uri",
        script: r#"$ru = "sip:other@else.test";"#,
        target: PLAIN,
        shows: "uri=sip:other@else.test",
    },
    Case {
        name: "user",
        script: r#"$rU = "other";"#,
        target: PLAIN,
        shows: "uri=sip:other@example.test",
    },
    Case {
        name: "domain",
        script: r#"$rd = "else.test";"#,
        target: PLAIN,
        shows: "uri=sip:alice@else.test",
    },
    Case {
        name: "ruri-alias",
        script: r#"$ru = "sip:other@else.test;alias=127.0.0.1~9~1"; handle_ruri_alias();"#,
        target: PLAIN,
        shows: "uri=sip:other@else.test",
    },
    Case {
        name: "headers",
        script: r#"remove_hf("Expires"); append_hf("Expires: 77\r\n", "Event");"#,
        target: PLAIN,
        shows: "expires=600",
    },
    Case {
        name: "headers-applied",
        script: r#"remove_hf("Expires"); append_hf("Expires: 77\r\n", "Event"); msg_apply_changes();"#,
        target: PLAIN,
        shows: "expires=77",
    },
    Case {
        name: "to-applied",
        script: r#"subst('/^To: .*alice@/To: <sip:changed@/'); msg_apply_changes();"#,
        target: PLAIN,
        shows: "to=changed",
    },
    Case {
        name: "to",
        script: r#"subst('/^To: .*alice@/To: <sip:changed@/');"#,
        target: PLAIN,
        shows: "to=alice",
    },
    Case {
        name: "route-applied",
        script: r#"append_hf("Record-Route: <sip:@HERE@;lr>\r\n", "Via"); msg_apply_changes();"#,
        target: ROUTED,
        shows: "route=<sip:",
    },
];

fn script() -> String {
    let mut script = String::from("if(is_method(\"SUBSCRIBE\")) {\n");
    for Case { name, script: statements, .. } in CASES {
        let statements = statements.replace("@HERE@", "127.0.0.1:$sp");
        script += &format!("if($hdr(X-Case) == \"{name}\") {{ $var(n) = 0; {statements} }}\n");
    }
    script + "}\n"
}

const LOG: &str = r#"if(is_method("SUBSCRIBE")) {
    xlog("L_NOTICE", "SUBSCRIPTION $ci uri=$subs(uri) to=$subs(to_user) expires=$subs(expires) contact=$subs(contact) route=$subs(record_route)\n");
}"#;

fn config(storage: Storage) -> Config {
    let modules = ["textopsx", "siputils", "nathelper", "nat_traversal"];
    let config = modules.into_iter().fold(Config::new(storage), Config::module);
    config.after(LOG)
}

/// Where NOTIFYs of the dialog arrive: at the watcher's own socket, or at that
/// of its Contact.
fn arrived(kamailio: &Kamailio, places: [&Endpoint; 2], call_id: &str, number: usize) -> String {
    let found = eventually(Duration::from_secs(6), || {
        places.into_iter().find_map(|place| {
            let list = place.received();
            let mut own = list.iter().filter(|e| {
                e.message.method() == "NOTIFY"
                    && e.message.call_id() == call_id
                    && !e.retransmission
            });
            own.nth(number)
                .map(|entry| format!("{} at {}", entry.message.request_uri(), place.local()))
        })
    });
    found.unwrap_or_else(|| kamailio.fail(&format!("NOTIFY {number} of {call_id} has not come")))
}

fn run(kamailio: &Kamailio, case: &Case) {
    let Case { name, target, shows, .. } = case;
    let contact = Endpoint::udp(kamailio.address(), kamailio.trace(), "contact");
    let mut watcher = Watcher::udp(kamailio, "alice").named(name);
    watcher.contact = contact.contact("watcher");
    watcher.extra_headers.push(("X-Case".into(), (*name).into()));
    let here = watcher.endpoint.local();
    let target = target
        .replace("@HERE@", &here.to_string())
        .replace("@CONTACT@", &contact.local().to_string());
    // The first one and a refresh.
    for number in 0..2 {
        watcher.subscribe(600);
        let places = [&watcher.endpoint, &contact];
        let notify = arrived(kamailio, places, &watcher.call_id, number);
        assert_eq!(notify, target, "{name}, NOTIFY {number}");
        if number == 0 {
            let line = kamailio.wait_log(&format!("SUBSCRIPTION {}", watcher.call_id));
            assert!(line.contains(shows), "{name}: no {shows} in {line}");
        }
    }
}

#[test]
fn a16_what_the_script_has_changed_counts() {
    // Memory without a transaction; the others with one, before or after.
    for config in [
        config(Storage::Memory).stateless().before_subscribe(&script()),
        config(Storage::Default).before_subscribe(&script()),
        config(Storage::sqlite(3, 0)).before(&script()),
    ] {
        let kamailio = Kamailio::start(config);
        CASES.iter().for_each(|case| run(&kamailio, case));
        kamailio.finish();
    }
}

#[test]
fn a16_nat_functions_over_tcp() {
    for storage in [Storage::Memory, Storage::sqlite(3, 0)] {
        let kamailio = Kamailio::start(
            config(storage).tcp().global("tcp_clone_rcvbuf=yes").before_subscribe(&script()),
        );
        for name in ["fixed", "fixed-applied", "fix_contact"] {
            let mut watcher = Watcher::tcp(&kamailio, "alice").named(name);
            watcher.contact = "<sip:watcher@10.255.255.9:5060;transport=tcp>".into();
            watcher.extra_headers.push(("X-Case".into(), name.into()));
            watcher.subscribe(600);
            let target = format!("sip:watcher@{};transport=tcp", watcher.endpoint.local());
            let notify = watcher.next_notify("on the same connection");
            assert_eq!(notify.message.request_uri(), target, "{name}");
        }
        kamailio.finish();
    }
}

/// A browser's Contact leads nowhere; the alias leads back.
#[test]
fn a16_a_browser_is_reached_by_its_alias() {
    for storage in [Storage::Memory, Storage::sqlite(3, 0)] {
        let kamailio = Kamailio::start(config(storage).websocket().before_subscribe(
            "if(nat_uac_test(\"64\")) { force_rport(); set_contact_alias(); }\n",
        ));
        let mut watcher = Watcher::websocket(&kamailio, "alice");
        watcher.contact = "<sip:4f7a@df7jal23ls0d.invalid;transport=ws>".into();
        for what in ["initial", "refresh"] {
            watcher.subscribe(600);
            watcher.next_notify(what);
        }
        kamailio.finish();
    }
}

#[test]
fn a16_a_forced_socket_is_not_for_dialogs() {
    // Nor is it for replies: sl and tm send these back where they come from.
    for stateless in [true, false] {
        let config = Config::new(Storage::Memory)
            .global("listen=udp:127.0.0.2:@PORT@")
            .before("$fs = \"udp:127.0.0.2:@PORT@\";\n");
        let kamailio = Kamailio::start(if stateless { config.stateless() } else { config });
        let mut watcher = Watcher::udp(&kamailio, "alice");
        let reply = watcher.subscribe(600);
        let port = kamailio.address().port();
        let contact = format!("<sip:127.0.0.1:{port};transport=udp>");
        assert_eq!(reply.header("Contact"), Some(&*contact));
        let notify = watcher.next_notify("initial");
        assert_eq!(notify.from.ip().to_string(), "127.0.0.1");
        let call_id = watcher.call_id.clone();
        let from = watcher.endpoint.received().iter().find_map(|entry| {
            (entry.message.call_id() == call_id && entry.message.status().is_some())
                .then(|| entry.from.ip().to_string())
        });
        assert_eq!(from.as_deref(), Some("127.0.0.1"), "stateless: {stateless}");
        kamailio.finish();
    }
}

/// corex's function changes where the request came in: that counts.
#[test]
fn a16_a_receiving_socket_that_the_script_sets_is_the_dialog_s() {
    let kamailio = Kamailio::start(
        Config::new(Storage::Memory)
            .global("listen=udp:127.0.0.2:@PORT@")
            .before("set_recv_socket(\"udp:127.0.0.2:@PORT@\");\n"),
    );
    let mut watcher = Watcher::udp(&kamailio, "alice");
    let reply = watcher.subscribe(600);
    let contact = format!("<sip:127.0.0.2:{};transport=udp>", kamailio.address().port());
    assert_eq!(reply.header("Contact"), Some(&*contact));
    let notify = watcher.next_notify("initial");
    assert_eq!(notify.message.header("Contact"), Some(&*contact));
    assert_eq!(notify.from.ip().to_string(), "127.0.0.2");
    kamailio.finish();
}

both_storages! {
    fn a16_a_publish_is_what_the_script_has_made_of_it(storage) {
        let script = r#"
            if($hdr(X-Case) =~ "user") { $rU = "other"; }
            if($hdr(X-Case) =~ "body") { subst_body('/before/after/'); }
            if($hdr(X-Case) =~ "expires") { remove_hf("Expires"); append_hf("Expires: 77\r\n", "Event"); }
            if($hdr(X-Case) =~ "encoding") { remove_hf("Content-Encoding"); }
            if($hdr(X-Case) =~ "apply") { msg_apply_changes(); }
        "#;
        let config = Config::new(storage).module("textopsx").before_publish(script);
        let kamailio = Kamailio::start(config);
        for (case, presentity, note, expires) in [
            ("user", "other", "before", 3600),
            ("user apply", "other", "before", 3600),
            ("body", "alice", "before", 3600),
            ("body apply", "alice", "after", 3600),
            ("expires", "alice", "before", 3600),
            ("expires apply", "alice", "before", 77),
            ("user body expires encoding apply", "other", "after", 77),
        ] {
            let mut phone = Publisher::udp(&kamailio, "alice");
            let mut message = phone.message(Some(&bodies::pidf("alice", "phone", "open", "before")));
            message.push("X-Case", case);
            if case.contains("encoding") {
                message.push("Content-Encoding", "gzip");
            }
            let reply = phone.send(&message);
            assert_eq!((reply.status(), reply.number("Expires")), (Some(200), Some(expires)), "{case}");
            let body = Watcher::udp(&kamailio, presentity).fetch().body();
            assert!(body.contains(note), "{case}: {body}");
            phone.presentity = aor(presentity);
            phone.remove();
        }
        kamailio.finish();
    }

    fn a16_the_watcher_is_whom_the_script_says(storage) {
        let config = Config::new(storage)
            .before_subscribe("$var(uri) = \"sip:\" + $hdr(X-User) + \"@else.test\";\n")
            .subscribe_arguments("\"$var(uri)\"")
            .after(r#"xlog("L_NOTICE", "WATCHER $ci $subs(watcher_username)@$subs(watcher_domain)\n");"#);
        let kamailio = Kamailio::start(config);
        let mut watcher = Watcher::udp(&kamailio, "alice");
        watcher.extra_headers.push(("X-User".into(), "proven".into()));
        watcher.subscribe(600);
        kamailio.wait_log(&format!("WATCHER {} proven@else.test", watcher.call_id));
        kamailio.finish();
    }

    fn b48_to_names_the_presentity_where_the_request_uri_names_nobody(storage) {
        let kamailio = Kamailio::start(Config::new(storage).before_subscribe(
            r#"if($hdr(X-Case) == "stripped") { $ru = "sip:" + $rd; }"#,
        ));
        Publisher::udp(&kamailio, "alice").publish(bodies::open("alice"));
        let uri = format!("sip:{}", kamailio.address());
        let sees = differs("B48 a R-URI without user", false, true);
        for (uri, case, sees) in [(&*uri, "none", sees), (&aor("alice"), "stripped", false)] {
            let mut watcher = Watcher::udp(&kamailio, "alice");
            let mut message = watcher.message();
            message.start_line = format!("SUBSCRIBE {uri} SIP/2.0");
            message.push("X-Case", case);
            assert_eq!(watcher.send(&message).status(), Some(200));
            let body = watcher.next_notify("initial").body();
            assert_eq!(body.contains(">open<"), sees, "{case}: {body}");
            // In the dialog, too.
            watcher.subscribe(600);
            assert_eq!(watcher.next_notify("refresh").body().contains(">open<"), sees, "{case}");
        }
        // A PUBLISH is for its Request-URI alone, as with the stock module.
        let mut phone = Publisher::udp(&kamailio, "bob");
        let mut message = phone.message(Some(&bodies::open("bob")));
        message.start_line = format!("PUBLISH {uri} SIP/2.0");
        assert_eq!(phone.send(&message).status(), Some(200));
        assert!(!Watcher::udp(&kamailio, "bob").fetch().body().contains(">open<"));
        kamailio.finish();
    }

    fn server_address_gets_the_transport(storage) {
        let config = Config::new(storage).websocket();
        let kamailio = Kamailio::start(config.presence("server_address", "sip:pa@127.0.0.1:@PORT@"));
        let address = format!("sip:pa@{}", kamailio.address());
        for (mut watcher, contact) in [
            (Watcher::udp(&kamailio, "alice"), format!("<{address}>")),
            (Watcher::tcp(&kamailio, "alice"), format!("<{address};transport=tcp>")),
        ] {
            for what in ["initial", "refresh"] {
                let reply = watcher.subscribe(600);
                assert_eq!(reply.header("Contact"), Some(&*contact), "{what}");
                let notify = watcher.next_notify(what);
                assert_eq!(notify.message.header("Contact"), Some(&*contact), "{what}");
            }
        }
        // Stock changes its mind in NOTIFYs.
        let mut watcher = Watcher::websocket(&kamailio, "alice");
        let contact = format!("<{address};transport=ws>");
        let reply = watcher.subscribe(600);
        assert_eq!(reply.header("Contact"), Some(&*contact));
        let notified = format!("<{address};transport={}>", differs("B27 over WebSocket", "tcp", "ws"));
        let notify = watcher.next_notify("over WebSocket");
        assert_eq!(notify.message.header("Contact"), Some(&*notified));
        let mut phone = Publisher::udp(&kamailio, "alice");
        phone.endpoint = Endpoint::tcp(kamailio.address(), kamailio.trace(), "tcp-phone");
        let contact = phone.publish(bodies::open("alice")).header("Contact").map(str::to_owned);
        let ours = Some(format!("<{address};transport=tcp>"));
        assert_eq!(contact, differs("B27 Contact in the 200", None, ours));
        kamailio.finish();
    }
}
