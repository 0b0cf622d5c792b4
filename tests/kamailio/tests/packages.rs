//! What the event packages make of published state: presence, dialog, dialog;sla,
//! message-summary, presence.winfo.

use presence_kamailio_tests::prelude::*;

/// `(tuple id, basic)` of a PIDF document in document order.
fn tuples(notify: &Notify) -> Vec<(String, String)> {
    bodies::tuples(&notify.body()).into_iter().map(|t| (t.id, t.basic)).collect()
}

fn pair(id: &str, state: &str) -> (String, String) {
    (id.to_owned(), state.to_owned())
}

both_storages! {
    fn presence_of_several_phones_is_aggregated(storage) {
        let kamailio = Kamailio::start(Config::new(storage));
        let mut watcher = Watcher::udp(&kamailio, "alice");
        watcher.subscribe(600);
        let mut desk = Publisher::udp(&kamailio, "alice");
        desk.publish(bodies::pidf("alice", "desk", "open", "here"));
        let mut mobile = Publisher::udp(&kamailio, "alice");
        mobile.publish(bodies::pidf("alice", "mobile", "open", "away"));
        let both = watcher.wait_notify("both phones", |n| {
            n.body().contains("desk") && n.body().contains("mobile")
        });
        assert_eq!(tuples(&both).len(), 2, "{}", both.body());
        mobile.modify(bodies::pidf("alice", "mobile", "closed", ""));
        let notify = watcher.wait_notify("mobile closed", |n| n.body().contains(">closed<"));
        let mut list = tuples(&notify);
        list.sort();
        assert_eq!(list, [pair("desk", "open"), pair("mobile", "closed")]);
        // A removed publication is shown closed once, then not at all.
        watcher.skip_notifies();
        desk.remove();
        let notify = watcher.next_notify("desk removed");
        let mut list = tuples(&notify);
        list.sort();
        assert_eq!(list, [pair("desk", "closed"), pair("mobile", "closed")]);
        mobile.modify(bodies::pidf("alice", "mobile", "open", ""));
        let notify = watcher.next_notify("mobile open again");
        assert_eq!(tuples(&notify), [pair("mobile", "open")]);
        mobile.remove();
        let notify = watcher.next_notify("all removed");
        assert_eq!(tuples(&notify), [pair("mobile", "closed")]);
        assert_eq!(notify.state, "active");
        watcher.assert_rising_cseq();
        kamailio.finish();
    }

    fn b11_aggregation_order_is_that_of_the_database(storage) {
        let kamailio = Kamailio::start(Config::new(storage));
        let mut phones = Vec::new();
        for name in ["one", "two", "three"] {
            let mut phone = Publisher::udp(&kamailio, "alice");
            phone.publish(bodies::pidf("alice", name, "open", ""));
            phones.push(phone);
        }
        let mut watcher = Watcher::udp(&kamailio, "alice");
        let ids: Vec<String> =
            tuples(&watcher.fetch()).into_iter().map(|(id, _)| id).collect();
        // presence_xml takes the last (newest) as base and appends the earlier ones, newest first.
        let by_age = ["three", "two", "one"];
        let upstream = if storage.has_publication_rows() { by_age } else { ["one", "two", "three"] };
        assert_eq!(ids, differs("B11 order of publications", upstream, by_age));
        kamailio.finish();
    }

    fn b9_a_bad_document_does_not_poison_others(storage) {
        let kamailio = Kamailio::start(Config::new(storage));
        let mut watcher = Watcher::udp(&kamailio, "alice");
        watcher.subscribe(600);
        let mut desk = Publisher::udp(&kamailio, "alice");
        desk.publish(bodies::pidf("alice", "desk", "open", ""));
        watcher.wait_notify("desk open", |n| n.body().contains("desk"));
        let mut poison = Publisher::udp(&kamailio, "alice");
        poison.publish("<?xml version=\"1.0\"?><weather><rain/></weather>");
        let mut mobile = Publisher::udp(&kamailio, "alice");
        mobile.publish(bodies::pidf("alice", "mobile", "open", ""));
        let mut other = Watcher::udp(&kamailio, "alice");
        let body = other.fetch().body();
        let good = body.contains("desk") && body.contains("mobile") && !body.contains("weather");
        assert_eq!(good, differs("B9 poisoned aggregation", false, true), "{body:?}");
        if good {
            assert_eq!(bodies::tuples(&body).len(), 2);
            watcher.wait_notify("both good ones", |n| {
                n.body().contains("desk") && n.body().contains("mobile")
            });
            assert!(
                watcher.notifies().iter().all(|n| !n.body().contains("weather")),
                "nobody is sent the bad document"
            );
        }
        kamailio.finish();
    }

    fn presence_of_nobody_is_empty(storage) {
        let kamailio = Kamailio::start(Config::new(storage));
        let mut watcher = Watcher::udp(&kamailio, "alice");
        watcher.subscribe(600);
        let notify = watcher.next_notify("initial");
        assert_eq!(notify.body(), "");
        assert_eq!(notify.message.header("Content-Type"), None);
        assert_eq!(notify.state, "active");
        kamailio.finish();
    }

    fn the_siblings_dummy_document_is_sent(storage) {
        let kamailio = Kamailio::start(
            Config::new(storage).parameter("presence_xml", "force_dummy_presence", 1));
        let mut watcher = Watcher::udp(&kamailio, "alice");
        watcher.subscribe(600);
        let notify = watcher.next_notify("initial");
        assert_eq!(tuples(&notify).len(), 1, "{}", notify.body());
        assert_eq!(tuples(&notify)[0].1, "open", "presence_xml's dummy says open");
        kamailio.finish();
    }
}

every_storage! {
    fn dialog_info_versions_count_per_watcher(storage) {
        let kamailio = Kamailio::start(Config::new(storage));
        let mut early = Watcher::udp(&kamailio, "alice").event("dialog");
        early.subscribe(600);
        let mut lamp = Publisher::udp(&kamailio, "alice").event("dialog");
        lamp.publish(bodies::dialog_info("alice", 40, &[("d1", "early")]));
        early.wait_notify("early", |n| n.body().contains(">early<"));
        let mut late = Watcher::udp(&kamailio, "alice").event("dialog");
        late.subscribe(600);
        late.wait_notify("early", |n| n.body().contains(">early<"));
        lamp.modify(bodies::dialog_info("alice", 41, &[("d1", "confirmed")]));
        early.wait_notify("confirmed", |n| n.body().contains(">confirmed<"));
        late.wait_notify("confirmed", |n| n.body().contains(">confirmed<"));
        for watcher in [&early, &late] {
            let list = watcher.notifies();
            let with_body: Vec<&Notify> =
                list.iter().filter(|n| !n.message.body.is_empty()).collect();
            let versions: Vec<u32> =
                with_body.iter().map(|n| bodies::version(&n.body())).collect();
            assert!(versions.len() >= 2, "{versions:?}");
            assert!(versions.windows(2).all(|v| v[1] == v[0] + 1), "by one: {versions:?}");
            watcher.assert_rising_cseq();
        }
        kamailio.finish();
    }
}

both_storages! {
    fn dialog_info_of_two_phones_is_aggregated(storage) {
        let kamailio = Kamailio::start(Config::new(storage));
        let mut watcher = Watcher::udp(&kamailio, "alice").event("dialog");
        watcher.subscribe(600);
        let mut desk = Publisher::udp(&kamailio, "alice").event("dialog");
        desk.publish(bodies::dialog_info("alice", 0, &[("d1", "confirmed")]));
        let mut mobile = Publisher::udp(&kamailio, "alice").event("dialog");
        mobile.publish(bodies::dialog_info("alice", 0, &[("d2", "early")]));
        let notify = watcher.wait_notify("both", |n| {
            n.body().contains("d1") && n.body().contains("d2")
        });
        let mut list = bodies::dialogs(&notify.body());
        list.sort();
        assert_eq!(list, [pair("d1", "confirmed"), pair("d2", "early")]);
        desk.modify(bodies::dialog_info("alice", 1, &[("d1", "terminated")]));
        watcher.wait_notify("d1 terminated", |n| {
            let mut list = bodies::dialogs(&n.body());
            list.sort();
            list == [pair("d1", "terminated"), pair("d2", "early")]
        });
        watcher.assert_rising_cseq();
        kamailio.finish();
    }

    fn a_dialog_published_again_replaces_the_old_publication(storage) {
        // The first dialog's id identifies the publication (stock: database only).
        let kamailio = Kamailio::start(Config::new(storage));
        let mut first = Publisher::udp(&kamailio, "alice").event("dialog");
        first.publish(bodies::dialog_info("alice", 0, &[("d1", "early")]));
        let mut second = Publisher::udp(&kamailio, "alice").event("dialog");
        second.publish(bodies::dialog_info("alice", 0, &[("d1", "confirmed")]));
        let mut watcher = Watcher::udp(&kamailio, "alice").event("dialog");
        let notify = watcher.fetch();
        assert_eq!(bodies::dialogs(&notify.body()), [pair("d1", "confirmed")]);
        assert_eq!(first.try_refresh().status(), Some(412), "the first one is gone");
        kamailio.finish();
    }

    fn dialog_sla_hides_the_sender_from_itself(storage) {
        // presence_xml registers dialog;sla unless disable_bla is set.
        let config = Config::new(storage)
            .parameter("presence_xml", "disable_bla", 0)
            .publish_arguments("\"$hdr(X-Sender)\"");
        let kamailio = Kamailio::start(config);
        let mut own = Watcher::udp(&kamailio, "line").event("dialog;sla");
        let mut other = Watcher::udp(&kamailio, "line").event("dialog;sla");
        // The shared line is the Contact's user at the watcher's domain.
        own.contact = own.endpoint.contact("line");
        other.contact = other.endpoint.contact("line");
        own.subscribe(600);
        other.subscribe(600);
        own.skip_notifies();
        let mut phone = Publisher::udp(&kamailio, "line").event("dialog;sla");
        let sender = own.contact.trim_matches(['<', '>']).to_owned();
        let mut message =
            phone.message(Some(&bodies::dialog_info("line", 0, &[("d1", "confirmed")])));
        message.push("X-Sender", sender);
        assert_eq!(phone.send(&message).status(), Some(200));
        let notify = other.wait_notify("confirmed", |n| n.body().contains(">confirmed<"));
        assert_eq!(notify.message.header("Event"), Some("dialog;sla"));
        // Asked again, the sender's own appearance is left out.
        own.subscribe(600);
        let last = own.wait_notify("the NOTIFY of the refresh", |n| n.cseq >= 3);
        assert!(!last.body().contains("confirmed"), "{}", last.body());
        assert!(bodies::dialogs(&last.body()).is_empty(), "{}", last.body());
        assert!(own.notifies().iter().all(|n| !n.body().contains("confirmed")));
        kamailio.finish();
    }

    fn sla_tags_do_not_change(storage) {
        let config = Config::new(storage).parameter("presence_xml", "disable_bla", 0);
        let kamailio = Kamailio::start(config);
        let mut phone = Publisher::udp(&kamailio, "line").event("dialog;sla");
        phone.publish(bodies::dialog_info("line", 0, &[("d1", "early")]));
        let tag = phone.tag();
        phone.modify(bodies::dialog_info("line", 1, &[("d1", "confirmed")]));
        assert_eq!(phone.tag(), tag, "etag_not_new");
        let reply = phone.try_refresh();
        let expected = differs("D14 SLA refresh without body", 500, 200);
        assert_eq!(reply.status(), Some(expected));
        let reply = phone.try_remove();
        assert_eq!(reply.status(), Some(differs("D14 SLA removal", 500, 200)));
        kamailio.finish();
    }
}

every_storage! {
    fn message_summary_reaches_old_and_new_watchers(storage) {
        let kamailio = Kamailio::start(Config::new(storage));
        let mut watcher = Watcher::udp(&kamailio, "alice").event("message-summary");
        watcher.subscribe(600);
        let mut mailbox = Publisher::udp(&kamailio, "alice").event("message-summary");
        let body = bodies::message_summary("alice", 3, 1);
        mailbox.publish(&body);
        let notify = watcher.wait_notify("3/1", |n| n.body().contains("3/1"));
        assert_eq!(notify.body(), body);
        assert_eq!(notify.message.header("Content-Type"), Some(bodies::MESSAGE_SUMMARY));
        assert_eq!(notify.message.header("Event"), Some("message-summary"));
        let mut late = Watcher::udp(&kamailio, "alice").event("message-summary");
        assert_eq!(late.fetch().body(), body);
        mailbox.modify(bodies::message_summary("alice", 0, 4));
        watcher.wait_notify("0/4", |n| n.body().contains("0/4"));
        kamailio.finish();
    }
}

both_storages! {
    fn b7_d14_a_mailbox_refresh_does_not_clear_the_lamp(storage) {
        let kamailio = Kamailio::start(Config::new(storage));
        let mut watcher = Watcher::udp(&kamailio, "alice").event("message-summary");
        watcher.subscribe(600);
        let mut mailbox = Publisher::udp(&kamailio, "alice").event("message-summary");
        mailbox.publish(bodies::message_summary("alice", 3, 1));
        watcher.wait_notify("3/1", |n| n.body().contains("3/1"));
        watcher.skip_notifies();
        mailbox.refresh();
        if differs("B7/D14 NOTIFY on a mailbox refresh", true, false) {
            let notify = watcher.next_notify("stock sends an empty one");
            assert_eq!(notify.body(), "");
        } else {
            watcher.no_more_notify(Duration::from_millis(200), "nothing changed");
        }
        kamailio.finish();
    }

    fn b11_b12_the_newest_mailbox_state_counts(storage) {
        let kamailio = Kamailio::start(Config::new(storage));
        let mut old = Publisher::udp(&kamailio, "alice").event("message-summary");
        old.publish(bodies::message_summary("alice", 1, 0));
        let mut new = Publisher::udp(&kamailio, "alice").event("message-summary");
        new.publish(bodies::message_summary("alice", 2, 0));
        let mut watcher = Watcher::udp(&kamailio, "alice").event("message-summary");
        watcher.subscribe(600);
        let body = watcher.next_notify("initial").body();
        let upstream = if storage.has_publication_rows() { "2/0" } else { "1/0" };
        let expected = differs("B11 the newest alone", upstream, "2/0");
        assert!(body.contains(expected), "{body:?}");
        // Removing the newest brings the older back.
        new.remove();
        let body = watcher.next_notify("the newest removed").body();
        let expected = differs("B12 state after removal", "", "1/0");
        assert_eq!(body.contains("1/0"), expected == "1/0", "{body:?}");
        kamailio.finish();
    }

    fn b8_a_mailbox_body_that_is_refused(storage) {
        let kamailio = Kamailio::start(Config::new(storage).stateless());
        let mut mailbox = Publisher::udp(&kamailio, "alice").event("message-summary");
        let message = mailbox.message(Some("Messages-Waiting: perhaps\r\n"));
        let replies: Vec<u16> = mailbox
            .endpoint
            .exchange(&message.to_bytes(), Duration::ZERO)
            .iter()
            .filter_map(Message::status)
            .collect();
        assert_eq!(replies, [differs("B8 refused body", 500, 415)]);
        kamailio.finish();
    }

    fn b12_a_removed_dialog_publication(storage) {
        let kamailio = Kamailio::start(Config::new(storage));
        let mut watcher = Watcher::udp(&kamailio, "alice").event("dialog");
        watcher.subscribe(600);
        let mut desk = Publisher::udp(&kamailio, "alice").event("dialog");
        desk.publish(bodies::dialog_info("alice", 0, &[("d1", "confirmed")]));
        let mut mobile = Publisher::udp(&kamailio, "alice").event("dialog");
        mobile.publish(bodies::dialog_info("alice", 0, &[("d2", "confirmed")]));
        watcher.wait_notify("both", |n| bodies::dialogs(&n.body()).len() == 2);
        watcher.skip_notifies();
        desk.remove();
        let notify = watcher.next_notify("desk removed");
        let list = bodies::dialogs(&notify.body());
        assert!(list.contains(&pair("d2", "confirmed")), "{list:?}");
        // presence_dialoginfo takes no notice of off_index: in stock the lamp stays busy.
        let busy = list.contains(&pair("d1", "confirmed"));
        assert_eq!(busy, differs("B12 a removed dialog is still shown", true, false), "{list:?}");
        mobile.remove();
        let notify = watcher.next_notify("mobile removed");
        let list = bodies::dialogs(&notify.body());
        let busy = list.contains(&pair("d2", "confirmed"));
        assert_eq!(busy, differs("B12 a removed dialog is still shown", true, false), "{list:?}");
        kamailio.finish();
    }

    fn b12_the_last_mailbox_publication_is_removed(storage) {
        let kamailio = Kamailio::start(Config::new(storage));
        let mut watcher = Watcher::udp(&kamailio, "alice").event("message-summary");
        watcher.subscribe(600);
        let mut mailbox = Publisher::udp(&kamailio, "alice").event("message-summary");
        mailbox.publish(bodies::message_summary("alice", 3, 1));
        watcher.wait_notify("3/1", |n| n.body().contains("3/1"));
        watcher.skip_notifies();
        mailbox.remove();
        // presence_mwi can make no document of its own.
        let notify = watcher.next_notify("removed");
        assert_eq!(notify.body(), "");
        assert_eq!(notify.state, "active");
        kamailio.finish();
    }
}
