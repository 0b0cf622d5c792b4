//! What one client may pile up: limits, dialog ids, floods.

use presence_kamailio_tests::prelude::*;

/// Where subscriptions are kept in each of the ways.
macro_rules! every_mode {
    ($($scenarios:tt)*) => {
        presence_kamailio_tests::storages! {
            [
                memory: Storage::Memory;
                write_back: Storage::Default;
                write_through: Storage::on(Driver::Sqlite, 1, 1, 0);
                rows: Storage::on(Driver::Sqlite, 3, 0, 0);
            ]
            $($scenarios)*
        }
    };
}

every_mode! {
    /// sl makes To tags of the Via branch and the Call-ID, so two SUBSCRIBEs may
    /// have one dialog id.
    fn b2_one_dialog_id_is_one_subscription(storage) {
        let kamailio = Kamailio::start(Config::new(storage).stateless());
        let mut watcher = Watcher::udp(&kamailio, "alice");
        let first = watcher.message();
        let branch = first.header("Via").unwrap_or_default().to_owned();
        assert_eq!(watcher.send(&first).status(), Some(200));
        let tag = watcher.to_tag.clone();
        let notify = watcher.next_notify("initial");
        for (presentity, event) in [("bob", "presence"), ("carol", "presence"), ("alice", "dialog")] {
            watcher.to_tag = None;
            (watcher.presentity, watcher.event) = (aor(presentity), event.into());
            watcher.accept = "application/pidf+xml, application/dialog-info+xml".into();
            let mut again = watcher.message();
            again.set("Via", branch.clone());
            let reply = watcher.endpoint.request(&again);
            assert_eq!(reply.to_tag(), tag.as_deref(), "the same dialog id");
            let accepted = reply.status() == Some(200);
            if !storage.has_subscription_rows() {
                assert_eq!(accepted, differs("B2 one dialog id is one subscription", true, false));
            } else if ours_only("stock's rows refuse it, or are replaced") {
                assert_eq!(reply.status(), Some(481));
            }
        }
        // The first one lives.
        (watcher.presentity, watcher.event, watcher.to_tag) = (aor("alice"), "presence".into(), tag);
        if ours_only("stock may know another one now") {
            watcher.subscribe(600);
            watcher.wait_notify("the refresh", |n| n.cseq > notify.cseq && n.state == "active");
        }
        kamailio.finish();
    }

    /// A client that has forgotten its To tag can still end what it started.
    fn delete_same_subs_ends_without_a_to_tag(storage) {
        let kamailio = Kamailio::start(Config::new(storage).presence("delete_same_subs", 1));
        let mut watcher = Watcher::udp(&kamailio, "alice");
        watcher.subscribe(600);
        watcher.wait_notify("initial", |_| true);
        let tag = watcher.to_tag.take();
        watcher.subscribe(0);
        watcher.wait_notify("its end", |n| n.state == "terminated");
        (watcher.to_tag, watcher.cseq) = (tag, watcher.cseq + 1);
        let refresh = watcher.try_subscribe(600).status();
        let gone = refresh == Some(481);
        assert_eq!(gone, differs("B36 an end without To tag", false, true), "{refresh:?}");
        kamailio.finish();
    }

    fn what_is_too_much_is_refused(storage) {
        if !ours_only("A14 stock has no limits") {
            return;
        }
        let config = Config::new(storage)
            .presence("max_publications", 2)
            .presence("max_subscriptions", 4)
            .presence("max_subscriptions_per_watcher", 2)
            .presence("max_subscriptions_per_presentity", 3)
            .presence("max_document_size", 2000);
        let kamailio = Kamailio::start(config.ignore_log("refused: "));
        let publishers: Vec<Publisher> = (0..3)
            .map(|n| {
                let mut phone = Publisher::udp(&kamailio, "alice");
                let reply = phone.try_publish(bodies::pidf("alice", &format!("p{n}"), "open", ""));
                assert_refused(&reply, n == 2, "max_publications");
                phone
            })
            .collect();
        let note = "x".repeat(2000);
        let mut large = Publisher::udp(&kamailio, "bob");
        let reply = large.try_publish(bodies::pidf("bob", "p", "open", &note));
        assert_eq!(reply.status(), Some(413));
        drop(publishers);

        let watch = |presentity: &str, watcher: &str| {
            let mut watcher = Watcher::udp(&kamailio, presentity).named(watcher);
            let reply = watcher.try_subscribe(600);
            (watcher, reply)
        };
        let (mut first, reply) = watch("alice", "w1");
        assert_refused(&reply, false, "the first");
        let kept: Vec<_> = [
            ("bob", "w1", false, "two"),
            ("carol", "w1", true, "max_subscriptions_per_watcher"),
            ("alice", "w2", false, "another watcher"),
            ("alice", "w3", false, "a third"),
            ("alice", "w4", true, "max_subscriptions_per_presentity"),
            ("dave", "w4", true, "max_subscriptions"),
        ]
        .into_iter()
        .map(|(presentity, name, refused, why)| {
            let (watcher, reply) = watch(presentity, name);
            assert_refused(&reply, refused, why);
            watcher
        })
        .collect();
        // Who is in stays in, and an end makes room.
        first.subscribe(600);
        first.unsubscribe();
        assert_refused(&watch("alice", "w4").1, false, "there is room again");
        assert_refused(&watch("alice", "w1").1, true, "max_subscriptions");
        drop(kept);
        let log = kamailio.log();
        for parameter in ["max_publications", "max_subscriptions_per_watcher", "max_document_size"] {
            let lines = log.lines().filter(|line| line.contains(&format!("{parameter} reached by")));
            assert_eq!(lines.count(), 1, "{parameter}");
        }
        kamailio.finish();
    }

    fn gaps_are_kept(storage) {
        if !ours_only("A14 stock has no limits") {
            return;
        }
        let config = Config::new(storage)
            .presence("min_refresh_gap", 60_000)
            .presence("min_publish_gap", 60_000);
        let kamailio = Kamailio::start(config.ignore_log("refused: "));
        let mut phone = Publisher::udp(&kamailio, "alice");
        phone.publish(bodies::pidf("alice", "phone", "open", ""));
        let reply = phone.try_modify(bodies::pidf("alice", "phone", "closed", ""));
        assert_eq!((reply.status(), reply.header("Retry-After")), (Some(503), Some("60")));
        let mut watcher = Watcher::udp(&kamailio, "alice");
        watcher.subscribe(600);
        watcher.subscribe(600);
        let reply = watcher.try_subscribe(600);
        assert_eq!((reply.status(), reply.header("Retry-After")), (Some(503), Some("60")));
        watcher.unsubscribe();
        phone.remove();
        kamailio.finish();
    }
}

#[track_caller]
fn assert_refused(reply: &Message, refused: bool, why: &str) {
    let expected = if refused { (Some(503), Some("60")) } else { (Some(200), None) };
    assert_eq!((reply.status(), reply.header("Retry-After")), expected, "{why}");
}

/// As baresip 1.0 does with message-summary: it forgets its dialog and begins a
/// new one, for ever: it stays within its share.
#[test]
fn a_looping_client_is_bounded() {
    if !ours_only("A14 stock has no limits") {
        return;
    }
    let config =
        Config::new(Storage::Memory).presence("max_subscriptions_per_watcher", 300).stateless();
    let kamailio = Kamailio::start(config.ignore_log("refused: "));
    let mut looping = Watcher::udp(&kamailio, "alice").event("message-summary");
    looping.answer(Answer::Code(200));
    let mut refused = 0;
    for _ in 0..400 {
        looping.new_dialog();
        let request = looping.message();
        refused += u32::from(looping.endpoint.request(&request).status() == Some(503));
    }
    assert_eq!(refused, 100);
    let counted = kamailio.rpc_ok(&["stats.fetch", "presence:refused_by_limits"]);
    assert!(counted.contains(" 100"), "{counted}");
    let mut other = Watcher::udp(&kamailio, "bob").named("other");
    other.subscribe(600);
    other.wait_notify("others are served", |n| n.state == "active");
    kamailio.finish();
}

/// The script of the example: `pike` in front, no transactions.
fn as_in_the_example(storage: Storage) -> Config {
    Config::new(storage)
        .stateless()
        .module("pike")
        .parameter("pike", "sampling_time_unit", 2)
        .parameter("pike", "reqs_density_per_unit", 200)
        .parameter("pike", "remove_latency", 4)
        .before("if(src_ip != myself && !pike_check_req()) exit;")
        .ignore_log("pike")
}

/// A new PUBLISH, always another one.
fn flooding_publish(port: u16, number: u32) -> String {
    let body = "Messages-Waiting: yes\r\nVoice-Message: 1/0 (0/0)\r\n";
    format!(
        "PUBLISH sip:flood@{DOMAIN} SIP/2.0\r\n\
         Via: SIP/2.0/UDP 127.0.0.2:{port};branch=z9hG4bKf{number}\r\nMax-Forwards: 70\r\n\
         From: <sip:flood@{DOMAIN}>;tag=f{number}\r\nTo: <sip:flood@{DOMAIN}>\r\n\
         Call-ID: flood{number}\r\nCSeq: 1 PUBLISH\r\nEvent: message-summary\r\nExpires: 600\r\n\
         Content-Type: application/simple-message-summary\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// One source sends as fast as it can for two seconds; all others are served.
#[test]
fn a_flood_does_not_starve_its_neighbours() {
    if !ours_only("A9 stock needs transactions") {
        return;
    }
    let kamailio = Kamailio::start(as_in_the_example(Storage::Memory).shared_memory(64));
    let mut watcher = Watcher::udp(&kamailio, "alice");
    watcher.subscribe(600);
    let mut phone = Publisher::udp(&kamailio, "alice");
    phone.publish(bodies::pidf("alice", "phone", "open", "0"));
    let server = kamailio.address();
    let (sent, answered) = std::thread::scope(|scope| {
        let flood = scope.spawn(move || {
            let socket = std::net::UdpSocket::bind("127.0.0.2:0").unwrap();
            socket.set_nonblocking(true).unwrap();
            socket.connect(server).unwrap();
            let port = socket.local_addr().unwrap().port();
            let (begin, mut sent, mut answered) = (std::time::Instant::now(), 0, 0);
            let mut reply = [0; 2048];
            while begin.elapsed() < Duration::from_secs(2) {
                for _ in 0..20 {
                    let _ = socket.send(flooding_publish(port, sent).as_bytes());
                    sent += 1;
                }
                while socket.recv(&mut reply).is_ok() {
                    answered += 1;
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            (sent, answered)
        });
        for number in 0..100 {
            phone.modify(bodies::pidf("alice", "phone", "open", &number.to_string()));
            watcher.subscribe(600);
            std::thread::sleep(Duration::from_millis(10));
        }
        flood.join().unwrap()
    });
    assert!(sent > 1000, "{sent} sent is no flood");
    assert!(answered <= sent / 2, "{answered} of {sent} reached the module");
    watcher.wait_notify("the last state", |n| n.body().contains(">99<"));
    kamailio.finish();
}

/// Without transactions the module itself takes care of what comes again: over
/// UDP when the reply was lost, and on a TCP connection.
#[test]
fn the_example_needs_no_transactions() {
    if !ours_only("A9 stock needs transactions") {
        return;
    }
    let kamailio = Kamailio::start(as_in_the_example(Storage::Default).tcp().children(2));
    for tcp in [false, true] {
        let mut watcher = match tcp {
            true => Watcher::tcp(&kamailio, "alice"),
            false => Watcher::udp(&kamailio, "alice"),
        };
        for expires in [600, 500, 0] {
            let mut request = watcher.message();
            request.set("Expires", expires.to_string());
            let reply = watcher.send(&request);
            assert_eq!(reply.status(), Some(200));
            // The reply was lost: the same request, the same answer.
            let again = watcher.endpoint.request(&request);
            assert_eq!((again.status(), again.to_tag()), (Some(200), reply.to_tag()));
            // Before the next request, or one NOTIFY may do for both.
            watcher.next_notify("of the request");
        }
        let ended = watcher.wait_notify("its end", |n| n.state == "terminated");
        watcher.endpoint.barrier();
        let told = watcher.notifies();
        assert_eq!(told.len(), 3, "one NOTIFY for each request");
        assert_eq!(told.last().map(|n| n.cseq), Some(ended.cseq));
    }
    let mut phone = Publisher::udp(&kamailio, "alice");
    let request = phone.message(Some(&bodies::pidf("alice", "phone", "open", "")));
    let reply = phone.send(&request);
    let again = phone.endpoint.request(&request);
    assert_eq!(again.header("SIP-ETag"), reply.header("SIP-ETag"));
    kamailio.finish();
}
