//! SUBSCRIBE: dialogs, Expires, Event, authorisation, watcher information.

use presence_kamailio_tests::prelude::*;

/// A Kamailio whose presence rules come from the xcap table, and a helper to fill it.
fn with_rules(storage: Storage) -> Kamailio {
    let config = Config::new(storage)
        .parameter("presence_xml", "force_active", 0)
        .parameter("presence_xml", "integrated_xcap_server", 1)
        .presence("db_update_period", 1);
    let config = config.parameter("presence_xml", "db_url", "@DATABASE@");
    Kamailio::start(config)
}

/// Stores pres-rules of `alice`: (watcher, sub-handling).
fn store_rules(kamailio: &Kamailio, rules: &[(&str, &str)]) {
    let document = bodies::pres_rules(rules);
    kamailio.execute(
        &format!(
            "DELETE FROM xcap; INSERT INTO xcap (username, domain, doc, doc_type, etag, source, doc_uri, port) \
             VALUES ('alice', '{DOMAIN}', '{document}', 2, 'e1', 0, 'rules', 0);"
        ),
    );
}

both_storages! {
    fn a1_the_200_leaves_before_the_first_notify(storage) {
        let kamailio = Kamailio::start(Config::new(storage).children(4));
        for _ in 0..10 {
            let mut watcher = Watcher::udp(&kamailio, "alice");
            let reply = watcher.subscribe(600);
            assert_eq!(reply.status(), Some(200));
            assert_eq!(reply.reason(), "OK");
            let notify = watcher.next_notify("initial");
            let received = watcher.endpoint.received();
            let reply_at = received.iter().position(|entry| entry.message.status() == Some(200));
            assert!(reply_at.is_some_and(|at| at < notify.order), "200 before NOTIFY");
            assert_eq!(notify.message.from_tag(), watcher.to_tag.as_deref());
            assert_eq!(notify.message.to_tag(), Some(watcher.from_tag.as_str()));
        }
        kamailio.finish();
    }

    fn the_200_carries_expires_then_contact(storage) {
        let kamailio = Kamailio::start(Config::new(storage));
        let mut watcher = Watcher::udp(&kamailio, "alice");
        let reply = watcher.subscribe(600);
        let names = reply.header_names();
        assert_eq!(
            names,
            ["Via", "From", "To", "Call-ID", "CSeq", "Expires", "Contact", "Server", "Content-Length"]
        );
        assert_eq!(reply.header("Expires"), Some("600"));
        let contact = format!("<sip:127.0.0.1:{};transport=udp>", kamailio.address().port());
        assert_eq!(reply.header("Contact"), Some(contact.as_str()));
        assert_eq!(kamailio.script_results(&watcher.call_id, 1), [1]);
        kamailio.finish();
    }

    fn server_address_is_the_contact(storage) {
        let address = "sip:presence@127.0.0.1:5099";
        let kamailio = Kamailio::start(Config::new(storage).presence("server_address", address));
        let mut watcher = Watcher::udp(&kamailio, "alice");
        let reply = watcher.subscribe(600);
        assert_eq!(reply.header("Contact"), Some(format!("<{address}>").as_str()));
        let notify = watcher.next_notify("initial");
        assert_eq!(notify.message.header("Contact"), Some(format!("<{address}>").as_str()));
        kamailio.finish();
    }

    fn expires_is_capped_and_has_a_default(storage) {
        let kamailio = Kamailio::start(Config::new(storage).presence("max_expires", 1000));
        let mut watcher = Watcher::udp(&kamailio, "alice");
        assert_eq!(watcher.subscribe(99999).number("Expires"), Some(1000));
        assert_eq!(watcher.subscribe(50).number("Expires"), Some(50));
        watcher.new_dialog();
        let mut message = watcher.message();
        message.remove("Expires");
        assert_eq!(watcher.send(&message).number("Expires"), Some(1000), "3600, capped");
        kamailio.finish();
    }

    fn b5_expires_that_is_no_number(storage) {
        let kamailio = Kamailio::start(Config::new(storage));
        let mut watcher = Watcher::udp(&kamailio, "alice");
        for (value, upstream, ours) in [
            ("abc", (200, Some(0)), (400, None)),
            ("12x", (200, Some(12)), (400, None)),
            ("4294967296", (200, Some(0)), (200, Some(3600))),
            ("99999999999999", (200, Some(0)), (200, Some(3600))),
        ] {
            watcher.new_dialog();
            let mut message = watcher.message();
            message.set("Expires", value);
            let reply = watcher.send(&message);
            let got = (reply.status().unwrap_or(0), reply.number("Expires"));
            assert_eq!(got, differs("B5 Expires", upstream, ours), "Expires: {value}");
        }
        // Garbage does not end a subscription.
        watcher.new_dialog();
        watcher.subscribe(600);
        let mut message = watcher.message();
        message.set("Expires", "never");
        assert_eq!(watcher.send(&message).status(), Some(differs("B5", 200, 400)));
        let still = watcher.try_subscribe(600).status();
        assert_eq!(still, Some(differs("B5 garbage unsubscribes", 481, 200)));
        kamailio.finish();
    }

    fn min_expires_gives_423_or_raises(storage) {
        let kamailio = Kamailio::start(Config::new(storage).presence("min_expires", 60));
        let mut watcher = Watcher::udp(&kamailio, "alice");
        let reply = watcher.try_subscribe(10);
        assert_eq!(reply.status(), Some(423));
        assert_eq!(reply.reason(), "Interval Too Brief");
        assert_eq!(reply.number("Min-Expires"), Some(60));
        watcher.new_dialog();
        watcher.subscribe(60);
        assert_eq!(watcher.try_subscribe(59).status(), Some(423), "a refresh too");
        assert_eq!(watcher.unsubscribe().number("Expires"), Some(0), "0 is never too brief");
        watcher.fetch();
        kamailio.finish();

        let config =
            Config::new(storage).presence("min_expires", 60).presence("min_expires_action", 2);
        let kamailio = Kamailio::start(config);
        let mut watcher = Watcher::udp(&kamailio, "alice");
        assert_eq!(watcher.subscribe(10).number("Expires"), Some(60));
        kamailio.finish();
    }
}

every_storage! {
    fn refresh_keeps_the_dialog_and_sends_state(storage) {
        let kamailio = Kamailio::start(Config::new(storage));
        let mut phone = Publisher::udp(&kamailio, "alice");
        phone.publish(bodies::pidf("alice", "phone", "open", ""));
        let mut watcher = Watcher::udp(&kamailio, "alice");
        watcher.subscribe(600);
        let tag = watcher.to_tag.clone();
        let first = watcher.next_notify("initial");
        assert_eq!(watcher.subscribe(300).number("Expires"), Some(300));
        assert_eq!(watcher.to_tag, tag);
        let second = watcher.next_notify("refresh");
        let number = storage.first_cseq();
        assert_eq!((first.cseq, second.cseq), (number, number + 1));
        assert!(second.lasts(300), "{}", second.subscription_state);
        assert!(second.body().contains(">open<"));
        kamailio.finish();
    }

    fn b13_unsubscribe_sends_a_final_state(storage) {
        let kamailio = Kamailio::start(Config::new(storage));
        let mut phone = Publisher::udp(&kamailio, "alice");
        phone.publish(bodies::pidf("alice", "phone", "open", ""));
        let mut watcher = Watcher::udp(&kamailio, "alice");
        watcher.subscribe(600);
        watcher.next_notify("initial");
        assert_eq!(watcher.unsubscribe().number("Expires"), Some(0));
        let last = watcher.next_notify("final");
        assert_eq!(last.subscription_state, "terminated;reason=timeout");
        assert!(last.body().contains(">open<"), "{}", last.body());
        assert_eq!(last.cseq, storage.first_cseq() + 1);
        // The dialog is gone.
        let reply = watcher.try_subscribe(600);
        assert_eq!(reply.status(), Some(481));
        assert_eq!(reply.reason(), "Subscription does not exist");
        phone.modify(bodies::pidf("alice", "phone", "closed", ""));
        watcher.no_more_notify(Duration::from_millis(150), "the subscription ended");
        kamailio.finish();
    }

    fn b13_fetch_gives_one_notify_and_stores_nothing(storage) {
        let kamailio = Kamailio::start(Config::new(storage).presence("db_update_period", 1));
        let mut phone = Publisher::udp(&kamailio, "alice");
        phone.publish(bodies::pidf("alice", "phone", "open", ""));
        let mut watcher = Watcher::udp(&kamailio, "alice");
        let notify = watcher.fetch();
        assert_eq!(notify.subscription_state, "terminated;reason=timeout");
        assert!(notify.body().contains(">open<"));
        assert_eq!(notify.cseq, 1);
        phone.modify(bodies::pidf("alice", "phone", "closed", ""));
        watcher.no_more_notify(Duration::from_millis(150), "a fetch is no subscription");
        assert_eq!(watcher.try_subscribe(600).status(), Some(481));
        kamailio.finish();
    }
}

both_storages! {
    fn an_unknown_dialog_is_481(storage) {
        let kamailio = Kamailio::start(Config::new(storage));
        let mut watcher = Watcher::udp(&kamailio, "alice");
        watcher.subscribe(600);
        let good = watcher.to_tag.clone();
        watcher.to_tag = Some("nobody".into());
        assert_eq!(watcher.try_subscribe(600).status(), Some(481), "other To tag");
        watcher.to_tag = good.clone();
        let from_tag = std::mem::replace(&mut watcher.from_tag, "other".into());
        assert_eq!(watcher.try_subscribe(600).status(), Some(481), "other From tag");
        watcher.from_tag = from_tag;
        let call_id = std::mem::replace(&mut watcher.call_id, "other-call-id".into());
        assert_eq!(watcher.try_subscribe(600).status(), Some(481), "other Call-ID");
        watcher.call_id = call_id;
        watcher.to_tag = good;
        watcher.subscribe(600);
        kamailio.finish();
    }

    fn b4_a_lower_cseq_is_refused(storage) {
        let kamailio = Kamailio::start(Config::new(storage));
        let mut watcher = Watcher::udp(&kamailio, "alice");
        watcher.cseq = 10;
        watcher.subscribe(600);
        watcher.subscribe(600);
        assert_eq!(watcher.cseq, 12);
        let expected = differs("B4 CSeq too low", 400, 500);
        for low in [12, 11, 3, 0] {
            let mut message = watcher.message();
            watcher.cseq = 12;
            message.set("CSeq", format!("{low} SUBSCRIBE"));
            let reply = watcher.endpoint.request(&message);
            assert_eq!(reply.status(), Some(expected), "CSeq {low} after 12");
            if expected == 500 {
                assert_eq!(reply.reason(), "Server Internal Error");
            }
        }
        watcher.subscribe(600);
        watcher.assert_rising_cseq();
        kamailio.finish();
    }

    fn cseq_offset_allows_lower_numbers(storage) {
        let kamailio = Kamailio::start(Config::new(storage).presence("cseq_offset", 1));
        let mut watcher = Watcher::udp(&kamailio, "alice");
        watcher.cseq = 9;
        watcher.subscribe(600);
        watcher.cseq = 9;
        watcher.subscribe(600); // 10 again
        watcher.cseq = 8;
        let expected = differs("B4 CSeq too low", 400, 500);
        assert_eq!(watcher.try_subscribe(600).status(), Some(expected), "9 after 10");
        kamailio.finish();
    }

    fn b1_subs_respond_200_off(storage) {
        let kamailio = Kamailio::start(Config::new(storage).presence("subs_respond_200", 0));
        let mut watcher = Watcher::udp(&kamailio, "alice");
        let reply = watcher.subscribe(600);
        assert_eq!(reply.status(), Some(202));
        assert_eq!(reply.reason(), "OK");
        assert_eq!(watcher.subscribe(600).status(), Some(202));
        assert_eq!(watcher.unsubscribe().status(), Some(202));
        if storage.has_database() || ours_only("D2 winfo without a database crashes stock") {
            let mut guard = Watcher::udp(&kamailio, "alice").event("presence.winfo");
            assert_eq!(guard.subscribe(600).status(), Some(200));
        }
        kamailio.finish();
    }

    fn b2_event_parameters(storage) {
        let kamailio = Kamailio::start(Config::new(storage));
        let accepted = differs("B2 Event with parameters", false, true);
        for (event, echo) in [
            ("presence;id=7", "presence;id=7"),
            ("presence;id=abc-DEF", "presence;id=abc-DEF"),
            ("dialog;call-id=x;from-tag=y;to-tag=z", "dialog"),
            ("presence;unknown=1;id=8", "presence;id=8"),
        ] {
            let base = event.split(';').next().unwrap_or(event);
            let mut watcher = Watcher::udp(&kamailio, "alice").event(base);
            watcher.event = event.into();
            let reply = watcher.try_subscribe(600);
            if !accepted {
                assert_eq!(reply.status(), Some(489), "{event}");
                assert!(reply.header("Allow-Events").is_some());
                continue;
            }
            assert_eq!(reply.status(), Some(200), "{event}");
            let notify = watcher.next_notify("initial");
            assert_eq!(notify.message.header("Event"), Some(echo));
            // Within the dialog: the same id, or none, but no other.
            watcher.subscribe(600);
            watcher.event = base.into();
            watcher.subscribe(600);
            if event.contains("id=7") {
                let notify = watcher.wait_notify("refresh", |n| n.cseq == storage.first_cseq() + 2);
                assert_eq!(notify.message.header("Event"), Some(echo), "the id stays");
                watcher.event = "presence;id=9".into();
                assert_eq!(watcher.try_subscribe(600).status(), Some(481), "another id");
                watcher.event = event.into();
                watcher.subscribe(600);
            }
        }
        kamailio.finish();
    }

    fn b2_a_dialog_belongs_to_one_package(storage) {
        let kamailio = Kamailio::start(Config::new(storage));
        let mut watcher = Watcher::udp(&kamailio, "alice");
        watcher.subscribe(600);
        watcher.event = "message-summary".into();
        let reply = watcher.try_subscribe(600).status();
        assert_eq!(reply, Some(differs("B2 another package in the dialog", 500, 481)));
        kamailio.finish();
    }

    fn b2_sla_is_preferred_and_needs_its_package(storage) {
        let kamailio =
            Kamailio::start(Config::new(storage).parameter("presence_xml", "disable_bla", 0));
        let mut watcher = Watcher::udp(&kamailio, "line").event("dialog;sla");
        watcher.contact = watcher.endpoint.contact("line");
        watcher.subscribe(600);
        let notify = watcher.next_notify("initial");
        assert_eq!(notify.message.header("Event"), Some("dialog;sla"));
        let mut watcher = Watcher::udp(&kamailio, "line").event("dialog;ma");
        assert_eq!(watcher.try_subscribe(600).status(), Some(489));
        kamailio.finish();

        let kamailio =
            Kamailio::start(Config::new(storage).parameter("presence_xml", "disable_bla", 1));
        let mut watcher = Watcher::udp(&kamailio, "line").event("dialog;sla");
        assert_eq!(watcher.try_subscribe(600).status(), Some(489));
        kamailio.finish();
    }

    fn package_names_are_compared_without_case(storage) {
        let kamailio = Kamailio::start(Config::new(storage));
        let mut watcher = Watcher::udp(&kamailio, "alice").event("Presence");
        watcher.subscribe(600);
        let notify = watcher.next_notify("initial");
        assert_eq!(notify.message.header("Event"), Some("presence"), "the registered name");
        kamailio.finish();
    }

    fn b28_send_fast_notify_off(storage) {
        let kamailio = Kamailio::start(Config::new(storage).presence("send_fast_notify", 0));
        // presence has a winfo peer: it gets its initial NOTIFY all the same.
        let mut presence = Watcher::udp(&kamailio, "alice");
        presence.subscribe(600);
        presence.next_notify("initial");
        // An empty initial NOTIFY of dialog is suppressed.
        let mut early = Watcher::udp(&kamailio, "alice").event("dialog");
        early.subscribe(600);
        if storage.notify_delay().is_zero() {
            early.no_more_notify(Duration::from_millis(150), "it would be empty");
        }
        let mut lamp = Publisher::udp(&kamailio, "alice").event("dialog");
        lamp.publish(bodies::dialog_info("alice", 0, &[("d1", "confirmed")]));
        early.wait_notify("confirmed", |n| n.body().contains(">confirmed<"));
        // One with state is sent.
        let mut late = Watcher::udp(&kamailio, "alice").event("dialog");
        late.subscribe(600);
        if differs("B28 initial NOTIFY with state", false, true) {
            late.wait_notify("confirmed", |n| n.body().contains(">confirmed<"));
        } else {
            late.no_more_notify(Duration::from_millis(150), "stock suppresses it");
        }
        // The final one always.
        early.unsubscribe();
        early.wait_notify("final", |n| n.state == "terminated");
        kamailio.finish();
    }

    fn the_watcher_argument_is_the_watcher(storage) {
        let config = Config::new(storage).subscribe_arguments("\"$hdr(X-Watcher)\"");
        let kamailio = Kamailio::start(config.after(
            "xlog(\"L_NOTICE\", \"WATCHER $subs(watcher_username)@$subs(watcher_domain) $subs(uri) $subs(event)\\n\");"));
        let mut watcher = Watcher::udp(&kamailio, "alice");
        watcher.extra_headers.push(("X-Watcher".into(), "sip:carol@example.test".into()));
        watcher.subscribe(600);
        kamailio.wait_log("WATCHER carol@example.test sip:alice@example.test presence");
        // B3: an argument that is no URI.
        watcher.new_dialog();
        watcher.extra_headers = vec![("X-Watcher".into(), "nobody".into())];
        let message = watcher.message();
        let replies = watcher.endpoint.exchange(&message.to_bytes(), Duration::ZERO);
        let codes: Vec<u16> = replies.iter().filter_map(Message::status).collect();
        assert_eq!(codes, differs("B3 watcher URI that is none", vec![], vec![400]));
        kamailio.finish();
    }

    fn b36_removal_needs_the_whole_dialog_id(storage) {
        // Two dialogs with one To tag: sl makes it from the top Via and the Call-ID.
        let kamailio = Kamailio::start(Config::new(storage).stateless());
        let mut first = Watcher::udp(&kamailio, "alice");
        let mut message = first.message();
        let via = message.header("Via").map(str::to_owned).unwrap_or_default();
        first.send(&message);
        let mut second = Watcher::udp(&kamailio, "alice");
        second.call_id = first.call_id.clone();
        message = second.message();
        message.set("Via", via); // rport leads the reply to the second
        second.send(&message);
        assert_eq!(first.to_tag, second.to_tag, "one To tag, two dialogs");
        first.wait_notify("initial", |_| true);
        second.wait_notify("initial", |_| true);
        first.skip_notifies();
        second.skip_notifies();
        // The older one leaves; stock removes the newer, which it meets first.
        first.unsubscribe();
        first.wait_notify("final", |n| n.state == "terminated");
        let mut phone = Publisher::udp(&kamailio, "alice");
        phone.publish(bodies::pidf("alice", "phone", "open", ""));
        phone.endpoint.barrier();
        let patience = Duration::from_millis(300) + storage.notify_delay();
        let told = second.find_notify(patience, |n| n.body().contains(">open<"));
        assert_eq!(told.is_some(), differs("B36 the right dialog is removed", false, true));
        kamailio.finish();
    }

    fn delete_same_subs_replaces_the_older(storage) {
        let kamailio = Kamailio::start(Config::new(storage).presence("delete_same_subs", 1));
        let mut watcher = Watcher::udp(&kamailio, "alice");
        watcher.subscribe(600);
        let call_id = watcher.call_id.clone();
        let old_tag = watcher.to_tag.clone();
        watcher.new_dialog();
        watcher.call_id = call_id;
        watcher.subscribe(600);
        assert_ne!(watcher.to_tag, old_tag);
        let mut phone = Publisher::udp(&kamailio, "alice");
        phone.publish(bodies::pidf("alice", "phone", "open", ""));
        watcher.wait_notify("open", |n| n.body().contains(">open<"));
        phone.endpoint.barrier();
        std::thread::sleep(Duration::from_millis(50));
        let told: Vec<Notify> =
            watcher.notifies().into_iter().filter(|n| n.body().contains(">open<")).collect();
        assert_eq!(told.len(), 1, "one subscription is left");
        kamailio.finish();
    }
}

#[test]
fn b29_a_blocked_watcher_leaves_no_subscription() {
    let kamailio = with_rules(Storage::Default);
    store_rules(&kamailio, &[("watcher", "block")]);
    let mut phone = Publisher::udp(&kamailio, "alice");
    phone.publish(bodies::pidf("alice", "phone", "open", ""));
    let mut watcher = Watcher::udp(&kamailio, "alice");
    assert_eq!(watcher.subscribe(600).status(), Some(200));
    let notify = watcher.next_notify("rejected");
    assert_eq!(notify.subscription_state, "terminated;reason=rejected");
    assert_eq!(notify.body(), "");
    let refresh = watcher.try_subscribe(600).status();
    assert_eq!(refresh, Some(differs("B29 refresh of a blocked watcher", 200, 481)));
    phone.modify(bodies::pidf("alice", "phone", "open", "secret"));
    phone.endpoint.barrier();
    assert!(
        watcher.notifies().iter().all(|n| n.body().is_empty()),
        "a blocked watcher sees nothing"
    );
    // A row of a later watcher tells that a flush has come by; the one after
    // it, that this flush was complete.
    let later = if Storage::Default.has_subscription_rows() { 2 } else { 0 };
    for name in ["second", "third"].into_iter().take(later) {
        let mut other = Watcher::udp(&kamailio, "bob").named(name);
        // Stock may meet its own timer (D17, "database is locked").
        let tries = differs("D17", 20, 1);
        let accepted = (0..tries).any(|_| {
            other.new_dialog();
            other.try_subscribe(600).status() == Some(200)
        });
        assert!(accepted, "{name} is not accepted");
        eventually(Duration::from_secs(4), || {
            let rows = kamailio.rows("active_watchers");
            rows.iter().any(|row| row["watcher_username"] == name).then_some(())
        })
        .unwrap_or_else(|| kamailio.fail("no flush within 4 s"));
    }
    let rows = kamailio.rows("active_watchers");
    let stored = rows.iter().any(|row| row["watcher_username"] == "watcher");
    assert_eq!(stored, differs("B29 row of a blocked watcher", true, false));
    let rows = kamailio.rows("watchers");
    assert!(
        rows.iter().any(|row| row["watcher_username"] == "watcher" && row["status"] == "3"),
        "the watchers row stays: {rows:?}"
    );
    kamailio.finish();
}

#[test]
fn rules_decide_what_a_watcher_sees() {
    let kamailio = with_rules(Storage::Default);
    store_rules(&kamailio, &[("friend", "allow")]);
    let mut phone = Publisher::udp(&kamailio, "alice");
    phone.publish(bodies::pidf("alice", "phone", "open", ""));
    let mut friend = Watcher::udp(&kamailio, "alice").named("friend");
    friend.subscribe(600);
    let notify = friend.next_notify("initial");
    assert!(notify.lasts(600), "{}", notify.subscription_state);
    assert!(notify.body().contains(">open<"), "{}", notify.body());
    let mut stranger = Watcher::udp(&kamailio, "alice").named("stranger");
    stranger.subscribe(600);
    let notify = stranger.next_notify("initial");
    assert_eq!(notify.subscription_state, "pending;expires=600");
    assert_eq!(notify.body(), "");
    // The rules change: the stranger is let in.
    store_rules(&kamailio, &[("friend", "allow"), ("stranger", "allow")]);
    kamailio.rpc_ok(&["presence.refreshWatchers", &aor("alice"), "presence", "0"]);
    let notify = stranger.next_notify("approved");
    assert_eq!(notify.state, "active");
    assert!(notify.body().contains(">open<"), "{}", notify.body());
    // And the friend is thrown out.
    store_rules(&kamailio, &[("friend", "block"), ("stranger", "allow")]);
    kamailio.rpc_ok(&["presence.refreshWatchers", &aor("alice"), "presence", "0"]);
    let notify = friend.wait_notify("rejected", |n| n.state == "terminated");
    assert_eq!(notify.reason(), "rejected");
    assert_eq!(notify.body(), "");
    assert_eq!(friend.try_subscribe(600).status(), Some(481));
    kamailio.finish();
}

#[test]
fn b13_unsubscribe_of_a_pending_watcher_shows_nothing() {
    let kamailio = with_rules(Storage::Default);
    store_rules(&kamailio, &[("friend", "allow")]);
    let mut phone = Publisher::udp(&kamailio, "alice");
    phone.publish(bodies::pidf("alice", "phone", "open", ""));
    let mut stranger = Watcher::udp(&kamailio, "alice").named("stranger");
    stranger.subscribe(600);
    stranger.next_notify("pending");
    stranger.unsubscribe();
    let notify = stranger.next_notify("final");
    assert_eq!(notify.subscription_state, "terminated;reason=timeout");
    assert_eq!(notify.body(), "");
    let notify = stranger.fetch();
    assert_eq!(notify.state, "terminated");
    assert_eq!(notify.body(), "");
    kamailio.finish();
}

every_storage! {
    fn winfo_tells_of_watchers(storage) {
        let empty = "B40 partial watcher information of stock's notifiers is empty";
        if !storage.notify_delay().is_zero() && !ours_only(empty) {
            return;
        }
        if !storage.has_database() && !ours_only("D2 winfo without a database crashes stock") {
            return;
        }
        let kamailio = Kamailio::start(Config::new(storage));
        let mut guard = Watcher::udp(&kamailio, "alice").event("presence.winfo").named("alice");
        guard.subscribe(600);
        let first = guard.next_notify("initial winfo");
        assert_eq!(first.message.header("Event"), Some("presence.winfo"));
        assert_eq!(first.message.header("Content-Type"), Some("application/watcherinfo+xml"));
        assert!(first.body().contains("state=\"full\""), "{}", first.body());
        assert_eq!(bodies::watchers(&first.body()), []);
        assert_eq!(bodies::version(&first.body()), differs("B16 first winfo version", 1, 0));
        let mut watcher = Watcher::udp(&kamailio, "alice").named("bob");
        watcher.subscribe(600);
        let second = guard.next_notify("bob watches");
        assert!(second.body().contains("state=\"partial\""), "{}", second.body());
        let list = bodies::watchers(&second.body());
        assert_eq!(list.len(), 1);
        assert_eq!(list[0].uri, aor("bob"));
        assert_eq!(list[0].status, "active");
        assert_eq!(list[0].event, "subscribe");
        let leaks = list[0].id == watcher.call_id;
        assert_eq!(leaks, differs("B16 watcher id is the Call-ID", true, false));
        assert_eq!(bodies::version(&second.body()), bodies::version(&first.body()) + 1);
        watcher.unsubscribe();
        let third = guard.next_notify("bob is gone");
        let list = bodies::watchers(&third.body());
        let reported = list.iter().any(|w| w.uri == aor("bob") && w.status == "terminated");
        assert_eq!(reported, differs("B16 an ended watcher is reported", false, true), "{list:?}");
        guard.assert_rising_cseq();
        kamailio.finish();
    }
}

both_storages! {
    fn b41_a_watcher_removed_by_a_failed_notify_is_reported(storage) {
        if !storage.has_database() && !ours_only("D2 winfo without a database crashes stock") {
            return;
        }
        let kamailio = Kamailio::start(Config::new(storage));
        let mut watcher = Watcher::udp(&kamailio, "alice").named("bob");
        watcher.subscribe(600);
        watcher.next_notify("initial");
        let mut guard = Watcher::udp(&kamailio, "alice").event("presence.winfo").named("alice");
        guard.subscribe(600);
        let first = guard.next_notify("initial winfo");
        assert_eq!(bodies::watchers(&first.body()).len(), 1);
        watcher.answer(Answer::Code(481));
        let mut phone = Publisher::udp(&kamailio, "alice");
        phone.publish(bodies::pidf("alice", "phone", "open", ""));
        watcher.next_notify("answered with 481");
        if differs("B41 winfo after a failed NOTIFY", false, true) {
            // The last word about bob: where watchers are rows, the guard may have
            // been told twice that he has come.
            guard.wait_notify("bob is gone", |n| {
                let list = bodies::watchers(&n.body());
                let is_gone = list.iter().all(|w| w.uri != aor("bob") || w.status == "terminated");
                is_gone && n.cseq > first.cseq
            });
            let news = guard.last_notify().map(|n| bodies::watchers(&n.body()));
            assert!(news.iter().flatten().all(|w| w.status == "terminated"), "{news:?}");
        } else {
            watcher.endpoint.barrier();
            guard.no_more_notify(Duration::from_millis(150), "stock is silent");
        }
        kamailio.finish();
    }

    fn b41_a_watcher_replaced_by_delete_same_subs_is_reported(storage) {
        if !storage.has_database() && !ours_only("D2 winfo without a database crashes stock") {
            return;
        }
        let kamailio = Kamailio::start(Config::new(storage).presence("delete_same_subs", 1));
        let mut guard = Watcher::udp(&kamailio, "alice").event("presence.winfo").named("alice");
        guard.subscribe(600);
        let mut watcher = Watcher::udp(&kamailio, "alice").named("bob");
        watcher.subscribe(600);
        let bob_active = |n: &Notify| {
            bodies::watchers(&n.body()).iter().any(|w| w.uri == aor("bob") && w.status == "active")
        };
        let first = guard.wait_notify("bob watches", bob_active);
        let call_id = watcher.call_id.clone();
        watcher.new_dialog();
        watcher.call_id = call_id;
        watcher.subscribe(600);
        guard.wait_notify("bob watches again", |n| n.cseq > first.cseq && bob_active(n));
        let ended = guard.find_notify(Duration::from_millis(300), |n| {
            bodies::watchers(&n.body()).iter().any(|w| w.uri == aor("bob") && w.status == "terminated")
        });
        let expected = differs("B41 the replaced watcher is reported", false, true);
        assert_eq!(ended.is_some(), expected);
        kamailio.finish();
    }
}
