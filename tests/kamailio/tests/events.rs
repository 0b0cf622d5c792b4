//! `$subs`, `$notify_reply`, the event routes around a NOTIFY, and what the
//! script decides there.

use presence_kamailio_tests::prelude::*;

/// All attributes of `$subs` in one log line, after a word.
fn show(word: &str) -> String {
    let names = [
        "uri",
        "pres_uri",
        "to_user",
        "to_domain",
        "from_user",
        "from_domain",
        "watcher_username",
        "watcher_domain",
        "event",
        "event_id",
        "to_tag",
        "from_tag",
        "callid",
        "remote_cseq",
        "local_cseq",
        "contact",
        "local_contact",
        "record_route",
        "expires",
        "status",
        "reason",
        "version",
        "flags",
        "user_agent",
        "sockinfo",
    ];
    let values: Vec<String> = names.iter().map(|name| format!("{name}=$subs({name})")).collect();
    format!("xlog(\"L_NOTICE\", \"{word} {} END\\n\");", values.join(" | "))
}

fn value<'a>(line: &'a str, name: &str) -> &'a str {
    let start = format!("{name}=");
    line.split("| ")
        .flat_map(|part| {
            part.split_once(&start).filter(|(before, _)| before.is_empty() || before.ends_with(' '))
        })
        .map(|(_, value)| value.trim_end_matches(" END").trim())
        .next()
        .unwrap_or_else(|| panic!("no {name} in {line}"))
}

fn nth_line(kamailio: &Kamailio, word: &str, n: usize) -> String {
    let word = format!("{word} uri=");
    eventually(Duration::from_secs(5), || kamailio.log_lines(&word).get(n).cloned())
        .unwrap_or_else(|| kamailio.fail(&format!("no line {n} with {word}")))
}

fn scripted(storage: Storage) -> Config {
    Config::new(storage)
        .before_subscribe("setbflag(3);\n")
        .after(&format!("if(is_method(\"SUBSCRIBE\")) {{ {} }}", show("AFTER")))
        .route(&format!("event_route[tm:local-request] {{ if(is_method(\"NOTIFY\")) {{ {} }} }}", show("LOCAL")))
        .route(&format!(
            "event_route[presence:notify-reply] {{ {} xlog(\"L_NOTICE\", \
             \"REPLY $notify_reply($rs) $notify_reply($rr) from $rm $ci to $notify_reply($hdr(X-Answer))\\n\"); }}",
            show("ANSWER")
        ))
}

both_storages! {
    fn the_route_for_replies_may_come_back_to_us(storage) {
        let route = format!(
            "event_route[sl:local-response] {{ if(is_method(\"PUBLISH\")) {{\n\
             if(pres_refresh_watchers(\"{}\", \"presence\", \"1\"))\n\
             xlog(\"L_NOTICE\", \"REFRESHED\\n\"); }} }}",
            aor("alice")
        );
        let kamailio = Kamailio::start(Config::new(storage).stateless().route(&route));
        let mut watcher = Watcher::udp(&kamailio, "alice");
        watcher.subscribe(600);
        watcher.next_notify("initial");
        Publisher::udp(&kamailio, "alice").publish(bodies::pidf("alice", "phone", "open", "hello"));
        watcher.wait_notify("state", |notify| notify.body().contains("hello"));
        kamailio.wait_log("REFRESHED");
        assert_eq!(kamailio.log_lines("REFRESHED").len(), 1);
        kamailio.finish();
    }

    fn subs_shows_the_subscription_in_three_places(storage) {
        let kamailio = Kamailio::start(scripted(storage));
        let mut phone = Publisher::udp(&kamailio, "alice");
        phone.publish(bodies::pidf("alice", "phone", "open", ""));
        let mut watcher = Watcher::udp(&kamailio, "alice").named("bob");
        watcher.event = format!("presence{}", differs("B2 an id in Event", "", ";id=7"));
        watcher.extra_headers.push(("User-Agent".into(), "Test phone 1.0".into()));
        watcher.extra_headers.push((
            "Record-Route".into(),
            format!("<sip:{};lr>", watcher.endpoint.local()),
        ));
        watcher.subscribe(600);
        watcher.next_notify("initial");
        let socket = format!("udp:{}", kamailio.address());
        let contact = watcher.contact.trim_matches(['<', '>']).to_owned();
        let local = format!("sip:{};transport=udp", kamailio.address());
        let tag = watcher.to_tag.clone().unwrap_or_default();
        for (word, local_cseq) in [("AFTER", "0"), ("LOCAL", "1"), ("ANSWER", "1")] {
            let line = nth_line(&kamailio, word, 0);
            for (name, expected) in [
                ("uri", aor("alice").as_str()),
                ("pres_uri", aor("alice").as_str()),
                ("to_user", "alice"),
                ("to_domain", DOMAIN),
                ("from_user", "bob"),
                ("from_domain", DOMAIN),
                ("watcher_username", "bob"),
                ("watcher_domain", DOMAIN),
                ("event", "presence"),
                ("event_id", differs("B2", "", "7")),
                ("to_tag", &tag),
                ("from_tag", &watcher.from_tag),
                ("callid", &watcher.call_id),
                ("remote_cseq", "1"),
                ("local_cseq", local_cseq),
                ("contact", &contact),
                ("local_contact", &local),
                ("record_route", &format!("<sip:{};lr>", watcher.endpoint.local())),
                ("expires", "600"),
                ("status", "1"),
                ("reason", ""),
                ("version", "1"),
                ("flags", "8"),
                ("user_agent", "Test phone 1.0"),
                ("sockinfo", &socket),
            ] {
                assert_eq!(value(&line, name), expected, "{name} in {word}: {line}");
            }
        }
        // A refresh.
        watcher.subscribe(300);
        watcher.next_notify("refresh");
        for (word, cseq) in [("AFTER", "2"), ("LOCAL", "2"), ("ANSWER", "2")] {
            let line = nth_line(&kamailio, word, 1);
            assert_eq!(value(&line, "expires"), "300", "{line}");
            assert_eq!(value(&line, "remote_cseq"), "2", "{line}");
            assert_eq!(value(&line, "local_cseq"), cseq, "{word} {line}");
            assert_eq!(value(&line, "version"), "2", "{word} {line}");
        }
        // A change.
        phone.modify(bodies::pidf("alice", "phone", "closed", ""));
        watcher.next_notify("change");
        let line = nth_line(&kamailio, "ANSWER", 2);
        assert_eq!(value(&line, "local_cseq"), "3");
        // The end.
        watcher.unsubscribe();
        watcher.next_notify("final");
        for word in ["LOCAL", "ANSWER"] {
            let line = nth_line(&kamailio, word, 3);
            assert_eq!(value(&line, "expires"), "0", "{line}");
            assert_eq!(value(&line, "status"), "3", "{line}");
            assert_eq!(value(&line, "reason"), "timeout", "{line}");
            assert_eq!(value(&line, "callid"), watcher.call_id, "{line}");
        }
        kamailio.finish();
    }

    fn subs_is_null_after_an_early_refusal_and_without_pres_subs_mode(storage) {
        let null = "if($subs(uri)==$null) { xlog(\"L_NOTICE\", \"NONE $ci\\n\"); } \
                    else { xlog(\"L_NOTICE\", \"SOME $ci\\n\"); }";
        let kamailio = Kamailio::start(Config::new(storage).after(null));
        let mut watcher = Watcher::udp(&kamailio, "alice");
        watcher.subscribe(600);
        kamailio.wait_log(&format!("SOME {}", watcher.call_id));
        let mut stranger = Watcher::udp(&kamailio, "alice");
        stranger.event = "nonsense".into();
        assert_eq!(stranger.try_subscribe(600).status(), Some(489));
        kamailio.wait_log(&format!("NONE {}", stranger.call_id));
        kamailio.finish();

        let kamailio =
            Kamailio::start(Config::new(storage).after(null).presence("pres_subs_mode", 0));
        let mut watcher = Watcher::udp(&kamailio, "alice");
        watcher.subscribe(600);
        kamailio.wait_log(&format!("NONE {}", watcher.call_id));
        kamailio.finish();
    }

    fn every_final_reply_runs_the_event_route(storage) {
        let kamailio = Kamailio::start(scripted(storage).parameter("tm", "fr_timer", 1000));
        for (code, reason) in [(200, "OK"), (202, "Accepted"), (404, "Not Found"), (500, "Server Internal Error"), (603, "Answer")] {
            let mut watcher = Watcher::udp(&kamailio, "alice");
            watcher.answer(Answer::Code(code));
            watcher.subscribe(600);
            watcher.next_notify("initial");
            let line = kamailio.wait_log(&format!("REPLY {code} "));
            let text = format!("REPLY {code} {reason} from NOTIFY {}", watcher.call_id);
            assert!(line.contains(&text), "{line}");
        }
        // A fetch's NOTIFY too, although nothing is stored.
        let mut watcher = Watcher::udp(&kamailio, "alice");
        watcher.fetch();
        let line = eventually(Duration::from_secs(5), || {
            kamailio.log_lines("ANSWER uri=").into_iter().find(|line| line.contains(&watcher.call_id))
        });
        let line = line.unwrap_or_else(|| kamailio.fail("no event for the fetch"));
        assert_eq!(value(&line, "status"), "3", "{line}");
        // Nobody answers.
        let mut silent = Watcher::udp(&kamailio, "alice");
        silent.answer(Answer::Silence);
        silent.subscribe(600);
        let line = kamailio.wait_log("REPLY 408 TIMEOUT");
        assert!(line.contains(&silent.call_id), "{line}");
        // The row goes after the event route; too soon for another time-out.
        let ended = eventually(Duration::from_millis(500), || {
            (silent.try_subscribe(600).status() == Some(481)).then_some(())
        });
        assert!(ended.is_some(), "the time-out ends it");
        kamailio.finish();
    }

    fn delete_subscription_ends_it_after_the_event_route(storage) {
        let kamailio = Kamailio::start(
            Config::new(storage).presence("xavp_cfg", "pres").route(
                "event_route[presence:notify-reply] {
                   if($notify_reply($rs)==500) { $xavp(pres=>delete_subscription) = 1; }
                   else if($notify_reply($rs)==503) { $xavp(pres=>delete_subscription) = 0; }
                   xlog(\"L_NOTICE\", \"DECIDED $notify_reply($rs) $ci\\n\"); }",
            ),
        );
        for (code, expected) in [(500, 481), (503, 200), (489, 200), (200, 200)] {
            let mut watcher = Watcher::udp(&kamailio, "alice");
            watcher.answer(Answer::Code(code));
            watcher.subscribe(600);
            watcher.next_notify("initial");
            kamailio.wait_log(&format!("DECIDED {code} {}", watcher.call_id));
            watcher.answer(Answer::Code(200));
            let status = eventually(Duration::from_secs(2), || {
                let status = watcher.try_subscribe(600).status();
                (status == Some(expected)).then_some(status)
            });
            assert!(status.is_some(), "after {code}");
        }
        kamailio.finish();
    }

    fn a_dropped_notify_leaks_nothing_of_ours(storage) {
        // tm 5.6 itself keeps the text of a request that the route drops, so
        // the growth is compared with what it is when nothing is kept for the
        // event route.
        let grown = |route: &str| {
            let kamailio = Kamailio::start(
                Config::new(storage)
                    .parameter("tm", "wt_timer", 500)
                    .route("event_route[tm:local-request] { if($subs(to_user)==\"dropped\") { drop; } }")
                    .route(route),
            );
            let mut phone = Publisher::udp(&kamailio, "dropped");
            phone.publish(bodies::pidf("dropped", "phone", "open", ""));
            let mut watcher = Watcher::udp(&kamailio, "dropped");
            watcher.subscribe(600);
            let mut change = |count: usize| {
                for _ in 0..count {
                    phone.modify(bodies::pidf("dropped", "phone", "closed", ""));
                }
            };
            change(20);
            std::thread::sleep(Duration::from_millis(2500));
            let before = kamailio.shm_used();
            change(200);
            std::thread::sleep(Duration::from_millis(2500));
            let grown = kamailio.shm_used().saturating_sub(before);
            watcher.no_more_notify(Duration::from_millis(100), "all were dropped");
            assert!(kamailio.log_lines("EVENT dropped").is_empty());
            assert_eq!(watcher.try_subscribe(600).status(), Some(200), "it goes on");
            kamailio.finish();
            grown
        };
        let with = grown(
            "event_route[presence:notify-reply] { xlog(\"L_NOTICE\", \"EVENT $subs(to_user)\\n\"); }",
        );
        let without = grown("");
        eprintln!("{with} bytes with the event route, {without} without");
        assert!(with < without + 20_000, "{with} and {without} bytes for 200 NOTIFYs");
        // Stock keeps a copy of the subscription for each, route or not.
        let each = without / 200;
        assert!(each < differs("a dropped NOTIFY", 2000, 1000), "{each} bytes each");
    }

    fn xavp_priority_orders_publications(storage) {
        let kamailio = Kamailio::start(
            Config::new(storage)
                .presence("xavp_cfg", "pres")
                .presence("retrieve_order", 1)
                .presence("retrieve_order_by", "priority")
                .siblings(&["presence_mwi"])
                .before_publish(
                    "if($hdr(X-Priority)!=$null) { $xavp(pres=>priority) = $(hdr(X-Priority){s.int}); }",
                ),
        );
        // message-summary does not merge: the last in order is shown.
        for (new, priority) in [(1, "100"), (2, "300"), (3, "200")] {
            let mut phone = Publisher::udp(&kamailio, "alice").event("message-summary");
            let mut message = phone.message(Some(&bodies::message_summary("alice", new, 0)));
            message.push("X-Priority", priority);
            assert_eq!(phone.send(&message).status(), Some(200));
        }
        let mut watcher = Watcher::udp(&kamailio, "alice").event("message-summary");
        let notify = watcher.fetch();
        let shown = notify.body();
        // In stock memory the order of a list that is not merged is lost.
        let upstream = if storage.publ_cache() == 2 { "" } else { "2/0" };
        let expected = differs("D11", upstream, "2/0");
        assert!(shown.contains(expected), "{shown}");
        if storage.has_publication_rows() {
            let mut priorities: Vec<String> =
                kamailio.rows("presentity").iter().map(|row| row["priority"].clone()).collect();
            priorities.sort();
            assert_eq!(priorities, ["100", "200", "300"]);
            // Without the attribute it rises with time.
            let mut phone = Publisher::udp(&kamailio, "carol").event("message-summary");
            phone.publish(bodies::message_summary("carol", 1, 0));
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
            let wanted = now.map_or(0, |now| now.as_secs()) as i64 - 1_420_070_400;
            let rows = kamailio.rows("presentity");
            let row = rows.iter().find(|row| row["username"] == "carol");
            let got: i64 = row.and_then(|row| row["priority"].parse().ok()).unwrap_or(0);
            assert!((wanted - got).abs() < 5, "{got}, not {wanted}");
        }
        kamailio.finish();
    }
}

#[test]
fn unknown_attributes_are_refused_at_start() {
    for (name, part) in [("$subs(nonsense)", "subs"), ("$notify_reply(nonsense)", "notify_reply")] {
        let config =
            Config::new(Storage::Memory).after(&format!("xlog(\"L_NOTICE\", \"{name}\\n\");"));
        let error = Kamailio::try_start(config).err().unwrap_or_else(|| panic!("{name} starts"));
        assert!(error.contains(part), "{error}");
    }
}
