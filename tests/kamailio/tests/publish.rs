//! PUBLISH: replies, entity-tags, Expires, body checks.

use presence_kamailio_tests::bodies::open;
use presence_kamailio_tests::prelude::*;

/// `(id, state)` of a dialog.
fn pair(id: &str, state: &str) -> (String, String) {
    (id.to_owned(), state.to_owned())
}

both_storages! {
    fn the_200_carries_expires_then_entity_tag(storage) {
        let kamailio = Kamailio::start(Config::new(storage));
        let mut phone = Publisher::udp(&kamailio, "alice");
        let reply = phone.publish(open("alice"));
        assert_eq!(reply.reason(), "OK");
        assert_eq!(reply.header("Expires"), Some("3600"));
        let names = reply.header_names();
        let expires = names.iter().position(|name| *name == "Expires");
        let etag = names.iter().position(|name| *name == "SIP-ETag");
        assert_eq!(expires.map(|at| at + 1), etag, "Expires then SIP-ETag in {names:?}");
        assert_eq!(reply.header("Contact"), None);
        assert!(reply.to_tag().is_some(), "a To tag");
        assert_eq!(kamailio.script_results(&phone.call_id, 1), [1]);
        kamailio.finish();
    }

    fn expires_is_capped_and_has_a_default(storage) {
        let kamailio = Kamailio::start(Config::new(storage).presence("max_expires", 1800));
        let mut phone = Publisher::udp(&kamailio, "alice");
        for (sent, granted) in [(Some(60), 60), (Some(1800), 1800), (Some(99999), 1800), (None, 1800)] {
            phone.expires = sent;
            let reply = phone.publish(open("alice"));
            assert_eq!(reply.number("Expires"), Some(granted), "for {sent:?}");
        }
        kamailio.finish();
    }

    fn without_expires_the_package_default_is_taken(storage) {
        let config = Config::new(storage).parameter("presence_xml", "default_expires", 777);
        let kamailio = Kamailio::start(config);
        let mut phone = Publisher::udp(&kamailio, "alice");
        phone.expires = None;
        assert_eq!(phone.publish(open("alice")).number("Expires"), Some(777));
        kamailio.finish();
    }
}

every_storage! {
    fn modify_renews_the_tag_and_tells_the_watcher(storage) {
        let kamailio = Kamailio::start(Config::new(storage));
        let mut watcher = Watcher::udp(&kamailio, "alice");
        watcher.subscribe(600);
        let mut phone = Publisher::udp(&kamailio, "alice");
        phone.publish(open("alice"));
        watcher.wait_notify("open", |n| n.body().contains(">open<"));
        let first = phone.tag();
        phone.modify(bodies::pidf("alice", "phone", "open", "lunch"));
        assert_ne!(phone.tag(), first, "a new entity-tag");
        watcher.wait_notify("the new note", |n| n.body().contains("lunch"));
        // The old tag is gone.
        let newest = phone.etag.replace(first);
        assert_eq!(phone.try_modify(open("alice")).status(), Some(412));
        phone.etag = newest;
        phone.modify(open("alice"));
        watcher.assert_rising_cseq();
        kamailio.finish();
    }
}

both_storages! {
    fn b7_a_refresh_without_body_extends_silently(storage) {
        let kamailio = Kamailio::start(Config::new(storage));
        let mut watcher = Watcher::udp(&kamailio, "alice");
        watcher.subscribe(600);
        let mut phone = Publisher::udp(&kamailio, "alice");
        phone.publish(open("alice"));
        watcher.wait_notify("open", |n| n.body().contains(">open<"));
        watcher.skip_notifies();
        let first = phone.tag();
        phone.expires = Some(1200);
        assert_eq!(phone.refresh().number("Expires"), Some(1200));
        assert_ne!(phone.tag(), first);
        if differs("B7 NOTIFY on a refresh that changes nothing", true, false) {
            watcher.next_notify("stock sends one");
        } else {
            watcher.no_more_notify(Duration::from_millis(200), "nothing changed");
        }
        // The state is still there, under the new tag only (stock with
        // publ_cache=2 forgets the body when a refresh brings none).
        let body = watcher.fetch().body();
        let kept = storage.has_publication_rows() || differs("B7 the body survives a refresh", false, true);
        assert_eq!(body.contains(">open<"), kept, "{body:?}");
        let newest = phone.etag.replace(first);
        assert_eq!(phone.try_refresh().status(), Some(412));
        phone.etag = newest;
        phone.refresh();
        kamailio.finish();
    }
}

every_storage! {
    fn remove_shows_closed_and_forgets_the_tag(storage) {
        let stock = "B40 stock's notifiers do not show what has been removed before they come by";
        if !storage.notify_delay().is_zero() && !ours_only(stock) {
            return;
        }
        let kamailio = Kamailio::start(Config::new(storage));
        let mut watcher = Watcher::udp(&kamailio, "alice");
        watcher.subscribe(600);
        let mut phone = Publisher::udp(&kamailio, "alice");
        phone.publish(open("alice"));
        let tag = phone.tag();
        let reply = phone.remove();
        assert_eq!(reply.number("Expires"), Some(0));
        assert!(reply.header("SIP-ETag").is_some(), "SIP-ETag in the 200 to a removal");
        let notify = watcher.wait_notify("closed", |n| n.body().contains(">closed<"));
        assert_eq!(notify.state, "active");
        phone.etag = Some(tag);
        assert_eq!(phone.try_refresh().status(), Some(412));
        assert_eq!(phone.try_remove().status(), Some(412));
        kamailio.finish();
    }
}

both_storages! {
    fn b32_an_entity_tag_nobody_issued_is_412(storage) {
        let kamailio = Kamailio::start(Config::new(storage));
        let mut phone = Publisher::udp(&kamailio, "alice");
        phone.publish(open("alice"));
        let tag = phone.tag();
        let mut stranger = Publisher::udp(&kamailio, "alice");
        for (unknown, upstream) in [
            ("a.1700000000.99.1.0", 412),
            ("nodots", 500),
            ("x.y", 500),
            ("ends.with.dot.", 412),
            ("a.1.2.3.99999999999999999999", 500),
        ] {
            let expected = differs("B32 unknown entity-tag", upstream, 412);
            stranger.etag = Some(unknown.into());
            let reply = stranger.try_modify(open("alice"));
            assert_eq!(reply.status(), Some(expected), "modify with {unknown}");
            stranger.etag = Some(unknown.into());
            let reply = stranger.try_refresh();
            assert_eq!(reply.status(), Some(expected), "refresh with {unknown}");
            // A removal needs no new tag.
            stranger.etag = Some(unknown.into());
            assert_eq!(stranger.try_remove().status(), Some(412), "remove with {unknown}");
        }
        let results = kamailio.script_results(&stranger.call_id, 15);
        let after_412 = differs("B32 handle_publish() after 412", 1, -1);
        assert_eq!(results[0], after_412);
        assert_eq!(results[2], after_412);
        // What is stored is untouched.
        phone.etag = Some(tag);
        phone.refresh();
        kamailio.finish();
    }

    fn a_tag_belongs_to_one_presentity_and_package(storage) {
        let kamailio = Kamailio::start(Config::new(storage));
        let mut phone = Publisher::udp(&kamailio, "alice");
        phone.publish(open("alice"));
        let mut other = Publisher::udp(&kamailio, "bob");
        other.etag = phone.etag.clone();
        assert_eq!(other.try_modify(open("bob")).status(), Some(412));
        let mut lamp = Publisher::udp(&kamailio, "alice").event("dialog");
        lamp.etag = phone.etag.clone();
        let body = bodies::dialog_info("alice", 0, &[("d1", "confirmed")]);
        assert_eq!(lamp.try_modify(body).status(), Some(412));
        phone.refresh();
        kamailio.finish();
    }

    fn b10_entity_tags_cannot_be_guessed(storage) {
        let kamailio = Kamailio::start(Config::new(storage));
        let mut heads = std::collections::BTreeSet::new();
        for _ in 0..4 {
            let mut phone = Publisher::udp(&kamailio, "alice");
            phone.publish(open("alice"));
            let first = phone.tag();
            phone.refresh();
            let second = phone.tag();
            for tag in [&first, &second] {
                assert!(tag.len() < 100, "{tag}");
                let (head, last) = tag.rsplit_once('.').expect("a '.' in the tag");
                assert!(last.parse::<u32>().is_ok_and(|n| n < 1 << 31), "last part of {tag}");
                heads.insert(head.to_owned());
            }
        }
        let guessable = heads.iter().all(|head| head.starts_with("a."));
        assert_eq!(guessable, differs("B10 tags of time, pid and counter", true, false));
        if !guessable {
            assert!(heads.iter().all(|head| head.len() >= 16), "enough random in {heads:?}");
            let prefixes: std::collections::BTreeSet<&str> =
                heads.iter().map(|head| &head[..8]).collect();
            assert!(prefixes.len() >= 4, "unrelated tags: {heads:?}");
        }
        kamailio.finish();
    }

    fn d15_a_tag_that_was_handed_out_exists(storage) {
        let kamailio = Kamailio::start(Config::new(storage));
        let mut lamp = Publisher::udp(&kamailio, "alice").event("dialog");
        lamp.publish(bodies::dialog_info("alice", 0, &[("d1", "confirmed")]));
        lamp.modify(bodies::dialog_info("alice", 1, &[("d1", "terminated")]));
        lamp.modify(bodies::dialog_info("alice", 2, &[("d1", "terminated")]));
        let reply = lamp.try_modify(bodies::dialog_info("alice", 3, &[("d1", "terminated")]));
        assert_eq!(reply.status(), Some(differs("B10 tag after `terminated`", 412, 200)));
        kamailio.finish();
    }

    fn b44_a_dialog_that_has_terminated_stays_so(storage) {
        let kamailio = Kamailio::start(Config::new(storage));
        let mut watcher = Watcher::udp(&kamailio, "alice").event("dialog");
        watcher.subscribe(600);
        let mut lamp = Publisher::udp(&kamailio, "alice").event("dialog");
        lamp.publish(bodies::dialog_info("alice", 0, &[("d1", "confirmed")]));
        lamp.modify(bodies::dialog_info("alice", 1, &[("d1", "terminated")]));
        watcher.wait_notify("terminated", |n| n.body().contains(">terminated<"));
        // What the network has delivered late.
        lamp.modify(bodies::dialog_info("alice", 2, &[("d1", "confirmed")]));
        let fetched = Watcher::udp(&kamailio, "alice").event("dialog").fetch();
        let states = bodies::dialogs(&fetched.body());
        assert!(states.iter().all(|(_, state)| state == "terminated"), "{states:?}");
        // One that is over does not keep the other.
        let both = [("d1", "early"), ("d2", "early")];
        let reply = lamp.try_modify(bodies::dialog_info("alice", 3, &both));
        assert_eq!(reply.status(), Some(differs("B10 tag after `terminated`", 412, 200)));
        let fetched = Watcher::udp(&kamailio, "alice").event("dialog").fetch();
        let mut states = bodies::dialogs(&fetched.body());
        states.sort();
        let list = [pair("d1", "terminated"), pair("d2", "early")];
        let expected = differs("B44 the other dialog changes", &list[..1], &list[..]);
        assert_eq!(states, expected);
        kamailio.finish();
    }

    fn b5_expires_that_is_no_number(storage) {
        let kamailio = Kamailio::start(Config::new(storage));
        let mut phone = Publisher::udp(&kamailio, "alice");
        phone.publish(open("alice"));
        for (value, upstream, ours) in [
            ("abc", (200, Some(0)), (400, None)),
            ("12x", (200, Some(12)), (400, None)),
            ("-5", (200, Some(0)), (400, None)),
            ("99999999999", (200, Some(0)), (200, Some(3600))),
            ("4294967295", (200, Some(3600)), (200, Some(3600))),
            ("4294967296", (200, Some(0)), (200, Some(3600))),
        ] {
            let mut other = Publisher::udp(&kamailio, "alice");
            let mut message = other.message(Some(&bodies::pidf("alice", "other", "open", "")));
            message.set("Expires", value);
            let reply = other.send(&message);
            let got = (reply.status().unwrap_or(0), reply.number("Expires"));
            assert_eq!(got, differs("B5 Expires", upstream, ours), "Expires: {value}");
        }
        // Garbage does not remove.
        let mut message = phone.message(None);
        message.set("Expires", "soon");
        let reply = phone.send(&message);
        assert_eq!(reply.status(), Some(differs("B5 Expires: soon", 200, 400)));
        let mut watcher = Watcher::udp(&kamailio, "alice");
        let body = watcher.fetch().body();
        assert_eq!(body.contains("phone"), differs("B5 garbage removes", false, true), "{body}");
        kamailio.finish();
    }

    fn b5_min_expires_for_publish(storage) {
        let kamailio = Kamailio::start(Config::new(storage).presence("min_expires", 60));
        let mut phone = Publisher::udp(&kamailio, "alice");
        phone.expires = Some(10);
        let reply = phone.try_publish(open("alice"));
        assert_eq!(reply.status(), Some(differs("B5 brief initial PUBLISH", 200, 423)));
        if reply.status() == Some(423) {
            assert_eq!(reply.reason(), "Interval Too Brief");
            assert_eq!(reply.number("Min-Expires"), Some(60));
        }
        phone.expires = Some(60);
        phone.publish(open("alice"));
        phone.expires = Some(10);
        let reply = phone.try_refresh();
        assert_eq!(reply.status(), Some(differs("B5 brief body-less refresh", 200, 423)));
        // A change of state and the end of state are never too brief.
        assert_eq!(phone.modify(open("alice")).number("Expires"), Some(10));
        phone.remove();
        kamailio.finish();
    }

    fn b5_min_expires_action_2_raises(storage) {
        let config =
            Config::new(storage).presence("min_expires", 60).presence("min_expires_action", 2);
        let kamailio = Kamailio::start(config);
        let mut phone = Publisher::udp(&kamailio, "alice");
        phone.expires = Some(10);
        let granted = phone.publish(open("alice")).number("Expires");
        assert_eq!(granted, Some(differs("B5 min_expires_action 2", 10, 60)));
        phone.remove();
        kamailio.finish();
    }

    fn b6_expires_offset_never_gives_less_than_one(storage) {
        let kamailio = Kamailio::start(Config::new(storage).presence("expires_offset", 10));
        let mut phone = Publisher::udp(&kamailio, "alice");
        for (sent, upstream, ours) in [(60, 50, 50), (11, 1, 1), (10, 0, 5), (5, -5, 2), (1, -9, 1)] {
            phone.expires = Some(sent);
            let granted = phone.publish(open("alice")).number("Expires");
            assert_eq!(granted, Some(differs("B6 expires_offset", upstream, ours)), "for {sent}");
            phone.etag = None;
        }
        kamailio.finish();
    }

    fn b8_content_type_is_checked(storage) {
        let kamailio = Kamailio::start(Config::new(storage));
        let mut phone = Publisher::udp(&kamailio, "alice");
        for good in [
            "application/pidf+xml",
            "Application/PIDF+XML",
            "application/pidf+xml;charset=UTF-8",
            "application/pidf+xml ; charset=\"UTF-8\"",
        ] {
            phone.content_type = good.into();
            phone.publish(open("alice"));
        }
        let mut message = phone.message(Some(&open("alice")));
        message.remove("Content-Type").remove("SIP-If-Match");
        assert_eq!(phone.send(&message).status(), Some(200), "none is taken as the package's");
        for bad in ["application/dialog-info+xml", "text/plain", "application/pidf+xml2"] {
            phone.content_type = bad.into();
            let reply = phone.try_publish(open("alice"));
            assert_eq!(reply.status(), Some(differs("B8 other Content-Type", 200, 415)), "{bad}");
            if reply.status() == Some(415) {
                assert_eq!(reply.header("Accept"), Some("application/pidf+xml"));
            }
        }
        kamailio.finish();
    }

    fn b8_a_refused_body_gets_one_final_reply(storage) {
        let kamailio = Kamailio::start(Config::new(storage).stateless());
        let mut phone = Publisher::udp(&kamailio, "alice");
        let message = phone.message(Some("<presence this is not XML"));
        let replies: Vec<u16> = phone
            .endpoint
            .exchange(&message.to_bytes(), Duration::ZERO)
            .iter()
            .filter_map(Message::status)
            .collect();
        assert_eq!(replies, differs("B8 refused body", vec![415, 500], vec![415]));
        assert_eq!(kamailio.script_results(&phone.call_id, 1), [-1]);
        kamailio.finish();
    }

    fn b27_server_address_is_the_contact(storage) {
        let address = "sip:presence@example.test:5099";
        let kamailio = Kamailio::start(Config::new(storage).presence("server_address", address));
        let mut phone = Publisher::udp(&kamailio, "alice");
        let reply = phone.publish(open("alice"));
        let contact = reply.header("Contact").map(str::to_owned);
        let expected = differs("B27 Contact in the 200", None, Some(format!("<{address}>")));
        assert_eq!(contact, expected);
        kamailio.finish();
    }

    fn b31_the_body_is_what_content_length_says(storage) {
        let kamailio = Kamailio::start(Config::new(storage));
        let mut phone = Publisher::udp(&kamailio, "alice");
        // Bytes after the body.
        let mut message = phone.message(Some(&open("alice")));
        message.body.extend_from_slice(b"<trailing garbage");
        assert_eq!(phone.send(&message).status(), Some(200));
        let mut watcher = Watcher::udp(&kamailio, "alice");
        let body = watcher.fetch().body();
        let clean = body.contains("phone") && !body.contains("garbage");
        assert_eq!(clean, differs("B31 bytes after the body dropped", false, true), "{body:?}");
        // A Content-Length beyond the datagram.
        let mut message = phone.message(Some(&open("alice")));
        message.remove("SIP-If-Match");
        let length = message.body.len() + 100;
        message.set("Content-Length", length.to_string());
        let expected = differs("B31 Content-Length beyond the datagram", 200, 400);
        assert_eq!(phone.send(&message).status(), Some(expected));
        // No Content-Length over UDP.
        let mut message = phone.message(Some(&open("alice")));
        message.remove("SIP-If-Match").remove("Content-Length");
        let expected = differs("B31 no Content-Length", 400, 200);
        assert_eq!(phone.send(&message).status(), Some(expected));
        // None and no body at all.
        let mut message = phone.message(None);
        message.remove("SIP-If-Match").remove("Content-Length");
        assert_eq!(phone.send(&message).status(), Some(400));
        kamailio.finish();
    }

    fn b31_mwi_without_content_length(storage) {
        let kamailio = Kamailio::start(Config::new(storage));
        let mut mailbox = Publisher::udp(&kamailio, "alice").event("message-summary");
        let mut message = mailbox.message(Some(&bodies::message_summary("alice", 1, 0)));
        message.remove("Content-Length");
        let expected = differs("B31 no Content-Length", 400, 200);
        assert_eq!(mailbox.send(&message).status(), Some(expected));
        kamailio.finish();
    }

    fn an_initial_publish_needs_a_body(storage) {
        let kamailio = Kamailio::start(Config::new(storage));
        let mut phone = Publisher::udp(&kamailio, "alice");
        assert_eq!(phone.try_refresh().status(), Some(400));
        assert_eq!(kamailio.script_results(&phone.call_id, 1), [-1]);
        kamailio.finish();
    }

    fn the_publishing_contact_is_not_told(storage) {
        // handle_publish(sender): a watcher whose Contact is the sender is left out.
        let config = Config::new(storage).publish_arguments("\"$hdr(X-Sender)\"");
        let kamailio = Kamailio::start(config);
        let mut own = Watcher::udp(&kamailio, "alice");
        own.subscribe(600);
        own.next_notify("the initial NOTIFY");
        let mut other = Watcher::udp(&kamailio, "alice");
        other.subscribe(600);
        let mut phone = Publisher::udp(&kamailio, "alice");
        let mut message = phone.message(Some(&open("alice")));
        let sender = own.contact.trim_matches(['<', '>']).to_owned();
        message.push("X-Sender", sender);
        assert_eq!(phone.send(&message).status(), Some(200));
        other.wait_notify("open", |n| n.body().contains(">open<"));
        own.no_more_notify(Duration::from_millis(150), "it is the sender");
        kamailio.finish();
    }

    fn b3_a_sender_that_is_no_uri_is_400(storage) {
        let config = Config::new(storage).publish_arguments("\"$hdr(X-Sender)\"");
        let kamailio = Kamailio::start(config);
        let mut phone = Publisher::udp(&kamailio, "alice");
        let mut message = phone.message(Some(&open("alice")));
        message.push("X-Sender", "not a uri");
        assert_eq!(phone.send(&message).status(), Some(400));
        let mut message = phone.message(Some(&open("alice")));
        message.push("X-Sender", format!("sip:{}@example.test", "x".repeat(300)));
        let reply = phone.send(&message).status().unwrap_or(0);
        let expected = differs("B3/B20 sender of 300 characters", &[500][..], &[200, 400][..]);
        assert!(expected.contains(&reply), "{reply} is not in {expected:?}");
        kamailio.finish();
    }
}
