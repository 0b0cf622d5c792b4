//! NOTIFY: wire format, failures and their isolation, TCP, routes, changed Contacts.

use presence_kamailio_tests::bodies::open;
use presence_kamailio_tests::prelude::*;

both_storages! {
    fn b43_wire_format(storage) {
        let kamailio = Kamailio::start(Config::new(storage));
        let port = kamailio.address().port();
        let mut watcher = Watcher::udp(&kamailio, "alice");
        let mut message = watcher.message();
        let from = format!("\"The Watcher\" <sip:watcher@{DOMAIN};x=y>;tag={}", watcher.from_tag);
        message.set("From", from).set("To", format!("\"Alice\" <sip:alice@{DOMAIN}>"));
        watcher.send(&message);
        let first = watcher.next_notify("initial");
        let to_tag = watcher.to_tag.clone().unwrap_or_default();
        let contact = watcher.contact.trim_matches(['<', '>']).to_owned();
        assert_eq!(first.message.start_line, format!("NOTIFY {contact} SIP/2.0"));
        let expected = [
            "Via", "To", "From", "CSeq", "Call-ID", "Content-Length", "User-Agent",
            "Max-Forwards", "Event", "Contact", "Subscription-State",
        ];
        assert_eq!(first.message.header_names(), expected);
        let header = |name: &str| first.message.header(name).unwrap_or("").to_owned();
        assert!(header("Via").starts_with(&format!("SIP/2.0/UDP 127.0.0.1:{port};branch=z9hG4bK")));
        assert_eq!(header("To"), format!("<sip:watcher@{DOMAIN}>;tag={}", watcher.from_tag));
        assert_eq!(header("From"), format!("<sip:alice@{DOMAIN}>;tag={to_tag}"));
        assert_eq!(header("CSeq"), "2 NOTIFY");
        assert_eq!(header("Call-ID"), watcher.call_id);
        assert_eq!(header("Content-Length"), "0");
        assert!(header("User-Agent").starts_with("kamailio (5."), "{}", header("User-Agent"));
        assert_eq!(header("Max-Forwards"), "70");
        assert_eq!(header("Event"), "presence");
        assert_eq!(header("Contact"), format!("<sip:127.0.0.1:{port};transport=udp>"));
        assert!(first.lasts(600), "{}", first.subscription_state);
        // With a body there is a Content-Type, at the end.
        let mut phone = Publisher::udp(&kamailio, "alice");
        phone.publish(open("alice"));
        let second = watcher.next_notify("open");
        let mut with_body = expected.to_vec();
        with_body.push("Content-Type");
        assert_eq!(second.message.header_names(), with_body);
        assert_eq!(second.message.header("CSeq"), Some("3 NOTIFY"));
        assert_eq!(second.message.header("Content-Type"), Some("application/pidf+xml"));
        let length = second.message.body.len() as i64;
        assert_eq!(second.message.number("Content-Length"), Some(length));
        let state = second.state_parameter("expires").and_then(|n| n.parse::<u32>().ok());
        assert!(state.is_some_and(|n| (595..=600).contains(&n)), "{}", second.subscription_state);
        watcher.unsubscribe();
        let last = watcher.next_notify("final");
        assert_eq!(last.subscription_state, "terminated;reason=timeout");
        assert_eq!(last.message.header("CSeq"), Some("4 NOTIFY"));
        kamailio.finish();
    }

    fn every_watcher_is_told_once_per_change(storage) {
        let workers = differs("A1 order with several workers (D6)", 1, 4);
        let kamailio = Kamailio::start(Config::new(storage).children(workers));
        let mut watchers: Vec<Watcher> = (0..8)
            .map(|n| Watcher::udp(&kamailio, "alice").named(&format!("watcher{n}")))
            .collect();
        for watcher in &mut watchers {
            watcher.subscribe(600);
            watcher.next_notify("initial");
        }
        let mut phone = Publisher::udp(&kamailio, "alice");
        for round in 0..5 {
            let body = bodies::pidf("alice", "phone", "open", &format!("round-{round}"));
            if round == 0 { phone.publish(body) } else { phone.modify(body) };
        }
        for watcher in &mut watchers {
            watcher.wait_notify("the last round", |n| n.body().contains("round-4"));
            watcher.assert_rising_cseq();
            let list = watcher.notifies();
            assert!(list.len() <= 6, "at most one NOTIFY a change: {}", list.len());
        }
        // In database-only mode a walk may show a change that has a walk of its own.
        kamailio.script_results(&phone.call_id, 5);
        // Another presentity and another package are not theirs.
        Publisher::udp(&kamailio, "bob").publish(open("bob"));
        let mut lamp = Publisher::udp(&kamailio, "alice").event("dialog");
        lamp.publish(bodies::dialog_info("alice", 0, &[("d1", "confirmed")]));
        for watcher in &mut watchers {
            watcher.skip_notifies();
            watcher.no_more_notify(Duration::from_millis(20), "not its business");
        }
        kamailio.finish();
    }

    fn an_unanswered_notify_is_retransmitted(storage) {
        let kamailio = Kamailio::start(Config::new(storage));
        let mut watcher = Watcher::udp(&kamailio, "alice");
        let mut count = 0;
        watcher.endpoint.answer_with(move |_| {
            count += 1;
            if count == 1 { Answer::Silence } else { Answer::Code(200) }
        });
        watcher.subscribe(600);
        watcher.wait_notify("a retransmission", |n| n.retransmissions == 1);
        assert_eq!(watcher.notifies().len(), 1);
        watcher.subscribe(600);
        kamailio.finish();
    }

    fn b15_answers_that_end_the_subscription(storage) {
        let kamailio = Kamailio::start(Config::new(storage));
        let new_ones = differs("B15 more final answers end it", false, true);
        let gone = differs("B50 the connection behind an edge proxy is gone", false, true);
        for code in [404, 481, 405, 410, 416, 430, 480, 484, 485, 489, 501, 604] {
            let ends = match code {
                404 | 481 => true,
                430 => gone,
                _ => new_ones,
            };
            let mut watcher = Watcher::udp(&kamailio, &format!("user{code}"));
            watcher.answer(Answer::Code(code));
            watcher.subscribe(600);
            watcher.next_notify("answered with the code");
            watcher.endpoint.barrier();
            let status = watcher.try_subscribe(600).status();
            assert_eq!(status, Some(if ends { 481 } else { 200 }), "after {code}");
        }
        kamailio.finish();
    }

    fn b15_answers_that_keep_the_subscription(storage) {
        let kamailio = Kamailio::start(Config::new(storage));
        let with_retry = Answer::With(480, "Retry-After", "5");
        let answers = [401, 407, 403, 482, 483, 486, 500, 503, 600, 603].map(Answer::Code);
        for (index, answer) in answers.into_iter().chain([with_retry]).enumerate() {
            let mut watcher = Watcher::udp(&kamailio, &format!("user{index}"));
            watcher.answer(answer);
            watcher.subscribe(600);
            watcher.next_notify("answered with the code");
            watcher.endpoint.barrier();
            assert_eq!(watcher.try_subscribe(600).status(), Some(200), "after {answer:?}");
        }
        kamailio.finish();
    }

    fn b15_a_timeout_ends_the_subscription_unless_told_otherwise(storage) {
        for (remove, after) in [(1, 481), (0, 200)] {
            let config = Config::new(storage)
                .parameter("tm", "fr_timer", 400)
                .presence("timeout_rm_subs", remove)
                .route("event_route[presence:notify-reply] { xlog(\"L_NOTICE\", \"NOTIFY-REPLY $notify_reply($rs)\\n\"); }");
            let kamailio = Kamailio::start(config);
            let mut watcher = Watcher::udp(&kamailio, "alice");
            watcher.answer(Answer::Silence);
            watcher.subscribe(600);
            kamailio.wait_log("NOTIFY-REPLY 408");
            watcher.answer(Answer::Code(200));
            if after == 200 {
                // The removal, if there were one, comes right after the route.
                std::thread::sleep(Duration::from_millis(100));
                assert_eq!(watcher.try_subscribe(600).status(), Some(200));
            } else {
                let gone = eventually(Duration::from_secs(2), || {
                    (watcher.try_subscribe(600).status() == Some(481)).then_some(())
                });
                assert!(gone.is_some(), "the subscription is still there");
            }
            kamailio.finish();
        }
    }

    fn b15_with_xavp_cfg_the_script_decides(storage) {
        let config = Config::new(storage).presence("xavp_cfg", "pres").route(
            "event_route[presence:notify-reply] {
               xlog(\"L_NOTICE\", \"NOTIFY-REPLY $notify_reply($rs) $subs(callid)\\n\");
               if($notify_reply($rs) == 500) { $xavp(pres=>delete_subscription) = 1; }
             }",
        );
        let kamailio = Kamailio::start(config);
        for (code, after) in [(500, 481), (410, 200), (200, 200)] {
            let mut watcher = Watcher::udp(&kamailio, &format!("user{code}"));
            watcher.answer(Answer::Code(code));
            watcher.subscribe(600);
            watcher.next_notify("answered with the code");
            kamailio.wait_log(&format!("NOTIFY-REPLY {code} {}", watcher.call_id));
            watcher.endpoint.barrier();
            assert_eq!(watcher.try_subscribe(600).status(), Some(after), "after {code}");
        }
        kamailio.finish();
    }

    fn a10_an_unreachable_watcher_does_not_stop_the_others(storage) {
        let kamailio = Kamailio::start(Config::new(storage));
        let mut good = Vec::new();
        let mut bad = Vec::new();
        let contacts = [
            "<sip:x@127.0.0.1:9>",
            "<sip:x@127.0.0.1:99999>",
            "<tel:+4930123456>",
            "<sip:x@127.0.0.1:5060;transport=tcp>",
            "<sip:x@[::1]:5060>",
            "<sip:x@no-such-host.invalid>",
            "<sip:>",
            "<nonsense>",
        ];
        for (index, contact) in contacts.iter().enumerate() {
            let mut watcher = Watcher::udp(&kamailio, "alice").named(&format!("good{index}"));
            watcher.subscribe(600);
            good.push(watcher);
            let mut watcher = Watcher::udp(&kamailio, "alice").named(&format!("bad{index}"));
            watcher.contact = (*contact).into();
            // Whether it is accepted is another question: one final reply.
            watcher.try_subscribe(600);
            bad.push(watcher);
        }
        let mut phone = Publisher::udp(&kamailio, "alice");
        phone.publish(open("alice"));
        for watcher in &good {
            watcher.wait_notify("open", |n| n.body().contains(">open<"));
        }
        phone.modify(bodies::pidf("alice", "phone", "open", "second"));
        for watcher in &good {
            watcher.wait_notify("the second state", |n| n.body().contains("second"));
            watcher.assert_rising_cseq();
        }
        // The same through the RPC command.
        let last = |watcher: &Watcher| watcher.last_notify().map_or(0, |n| n.cseq);
        let before: Vec<u32> = good.iter().map(last).collect();
        let wait = Duration::from_millis(300) + storage.notify_delay();
        let result = kamailio.rpc(&["presence.refreshWatchers", &aor("alice"), "presence", "1"]);
        let told = good
            .iter()
            .zip(before)
            .filter(|(watcher, before)| {
                watcher.find_notify(wait, |n| n.cseq > *before).is_some()
            })
            .count();
        let all = differs("A10 refreshWatchers goes on after a failure", false, true);
        assert_eq!(told == good.len(), all, "{told} of {} told; {result:?}", good.len());
        kamailio.finish();
    }

    fn a_changed_contact_is_used(storage) {
        let kamailio = Kamailio::start(Config::new(storage));
        let mut watcher = Watcher::udp(&kamailio, "alice");
        watcher.subscribe(600);
        watcher.next_notify("initial");
        let moved = Endpoint::udp(kamailio.address(), kamailio.trace(), "moved");
        watcher.contact = moved.contact("watcher");
        watcher.subscribe(600);
        let call_id = watcher.call_id.clone();
        let arrived = moved.wait(Duration::from_secs(3), |list| {
            list.iter().find(|e| e.message.call_id() == call_id).map(|e| e.message.clone())
        });
        let notify = arrived.unwrap_or_else(|| kamailio.fail("no NOTIFY at the new Contact"));
        assert_eq!(notify.request_uri(), moved.contact("watcher").trim_matches(['<', '>']));
        assert_eq!(notify.cseq(), 3);
        kamailio.finish();
    }

    fn d10_a_contact_that_is_a_prefix_of_the_old_one(storage) {
        let kamailio = Kamailio::start(Config::new(storage));
        let mut watcher = Watcher::udp(&kamailio, "alice");
        let plain = format!("sip:watcher@{}", watcher.endpoint.local());
        watcher.contact = format!("<{plain};ob>");
        watcher.subscribe(600);
        let notify = watcher.next_notify("initial");
        assert_eq!(notify.message.request_uri(), format!("{plain};ob"));
        watcher.contact = format!("<{plain}>");
        watcher.subscribe(600);
        watcher.next_notify("refresh");
        let mut phone = Publisher::udp(&kamailio, "alice");
        phone.publish(open("alice"));
        let notify = watcher.next_notify("open");
        let expected = differs("D10 Contact compared by prefix", format!("{plain};ob"), plain);
        assert_eq!(notify.message.request_uri(), expected);
        kamailio.finish();
    }

    fn contact_parameters_are_kept_in_the_request_uri(storage) {
        let kamailio = Kamailio::start(Config::new(storage));
        let mut watcher = Watcher::udp(&kamailio, "alice");
        let uri = format!(
            "sip:watcher@{};line=4f7a;pn-prid=a%2Fb:c",
            watcher.endpoint.local()
        );
        watcher.contact = format!("\"W\" <{uri}>;expires=5;+sip.instance=\"<urn:uuid:1>\"");
        watcher.subscribe(600);
        assert_eq!(watcher.next_notify("initial").message.request_uri(), uri);
        kamailio.finish();
    }

    fn the_route_set_is_kept(storage) {
        let kamailio = Kamailio::start(Config::new(storage));
        let proxy = Endpoint::udp(kamailio.address(), kamailio.trace(), "proxy");
        let mut watcher = Watcher::udp(&kamailio, "alice");
        let near = format!("<sip:{};lr>", proxy.local());
        let far = "<sip:far.example.test;lr;ftag=1>".to_owned();
        let mut message = watcher.message();
        message.push("Record-Route", near.as_str()).push("Record-Route", far.as_str());
        let reply = watcher.send(&message);
        assert_eq!(reply.status(), Some(200));
        assert_eq!(reply.all("Record-Route"), [near.as_str(), far.as_str()], "copied to the 200");
        let call_id = watcher.call_id.clone();
        let arrived = |cseq: u32| {
            proxy
                .wait(Duration::from_secs(3), |list| {
                    list.iter()
                        .map(|entry| &entry.message)
                        .find(|m| m.call_id() == call_id && m.cseq() == cseq)
                        .cloned()
                })
                .unwrap_or_else(|| kamailio.fail("no NOTIFY at the first route"))
        };
        let contact = format!("sip:watcher@{}", watcher.endpoint.local());
        let check = |notify: &Message| {
            assert_eq!(notify.request_uri(), contact, "the R-URI is the Contact");
            let routes: Vec<String> = notify
                .all("Route")
                .iter()
                .flat_map(|value| value.split(','))
                .map(|value| value.trim().to_owned())
                .collect();
            assert_eq!(routes, [near.clone(), far.clone()]);
        };
        check(&arrived(2));
        let names = arrived(2).header_names().join(" ");
        assert!(names.starts_with("Via To From CSeq Call-ID Route Content-Length User-Agent"), "{names}");
        // A refresh without Record-Route changes nothing.
        let mut message = watcher.message();
        message.set("Expires", "300");
        assert_eq!(watcher.send(&message).status(), Some(200));
        check(&arrived(3));
        Publisher::udp(&kamailio, "alice").publish(open("alice"));
        check(&arrived(4));
        kamailio.finish();
    }

    fn a_watcher_on_tcp(storage) {
        let kamailio = Kamailio::start(Config::new(storage).tcp());
        let port = kamailio.address().port();
        let mut watcher = Watcher::tcp(&kamailio, "alice");
        let reply = watcher.subscribe(600);
        let contact = format!("<sip:127.0.0.1:{port};transport=tcp>");
        assert_eq!(reply.header("Contact"), Some(contact.as_str()));
        let first = watcher.next_notify("initial, on the same connection");
        assert_eq!(first.message.header("Contact"), Some(contact.as_str()));
        assert!(first.message.header("Via").is_some_and(|via| via.starts_with("SIP/2.0/TCP ")));
        // A publisher on UDP; a document larger than a datagram should be.
        let mut phone = Publisher::udp(&kamailio, "alice");
        let long = "long note ".repeat(2000);
        phone.publish(bodies::pidf("alice", "phone", "open", &long));
        let notify = watcher.wait_notify("the long note", |n| n.body().contains(&*long));
        assert_eq!(notify.cseq, storage.first_cseq() + 1);
        watcher.unsubscribe();
        watcher.wait_notify("final", |n| n.state == "terminated");
        assert!(!watcher.endpoint.is_closed());
        kamailio.finish();
    }

    fn a10_a_closed_tcp_connection_does_not_stop_the_others(storage) {
        let kamailio = Kamailio::start(Config::new(storage).tcp());
        let mut gone = Watcher::tcp(&kamailio, "alice").named("gone");
        gone.subscribe(600);
        gone.next_notify("initial");
        let mut stays = Watcher::udp(&kamailio, "alice");
        stays.subscribe(600);
        drop(gone);
        let mut phone = Publisher::udp(&kamailio, "alice");
        phone.publish(open("alice"));
        stays.wait_notify("open", |n| n.body().contains(">open<"));
        phone.modify(bodies::pidf("alice", "phone", "open", "second"));
        stays.wait_notify("the second state", |n| n.body().contains("second"));
        kamailio.finish();
    }

    fn publish_over_tcp(storage) {
        let kamailio = Kamailio::start(Config::new(storage).tcp());
        let mut watcher = Watcher::udp(&kamailio, "alice");
        watcher.subscribe(600);
        let mut phone = Publisher::udp(&kamailio, "alice");
        phone.endpoint = Endpoint::tcp(kamailio.address(), kamailio.trace(), "tcp-phone");
        phone.publish(open("alice"));
        watcher.wait_notify("open", |n| n.body().contains(">open<"));
        phone.remove();
        watcher.wait_notify("closed", |n| n.body().contains(">closed<"));
        kamailio.finish();
    }
}
