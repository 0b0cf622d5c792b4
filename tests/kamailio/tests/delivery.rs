//! NOTIFYs that cannot be sent: what one watcher lacks stays with it.

use presence_kamailio_tests::bodies::open;
use presence_kamailio_tests::prelude::*;
use presence_kamailio_tests::storages;

/// Long enough for the notice of a closed connection to reach the server's table.
fn closed(kamailio: &Kamailio, watcher: Watcher) {
    let port = watcher.endpoint.local().port();
    drop(watcher);
    // Kamailio answers a new connection after it has read the end of the old one.
    drop(Endpoint::tcp(kamailio.address(), kamailio.trace(), "after"));
    std::thread::sleep(Duration::from_millis(300));
    eprintln!("the connection from port {port} is closed");
}

/// Watcher information needs a database with the stock module.
fn has_watcher_information(storage: Storage) -> bool {
    storage.has_database() || ours_only("D2 no watcher information without a database")
}

/// One watcher's connection is closed, another one stays. Gives whether those who
/// watch the watchers are told that the first has ended.
fn one_goes(kamailio: &Kamailio, mut gone: Watcher) -> bool {
    let mut stays = Watcher::udp(kamailio, "alice").named("stays");
    let mut looker = Watcher::udp(kamailio, "alice").named("looker").event("presence.winfo");
    gone.subscribe(600);
    gone.next_notify("initial");
    stays.subscribe(600);
    stays.next_notify("initial");
    looker.subscribe(600);
    looker.wait_notify("both", |n| n.body().contains("gone") && n.body().contains("stays"));
    closed(kamailio, gone);
    let mut phone = Publisher::udp(kamailio, "alice");
    phone.publish(open("alice"));
    stays.wait_notify("open", |n| n.body().contains(">open<"));
    for round in ["second", "third"] {
        phone.modify(bodies::pidf("alice", "phone", "open", round));
        stays.wait_notify(round, |n| n.body().contains(round));
    }
    stays.assert_rising_cseq();
    let told = looker.find_notify(Duration::from_secs(2), |n| {
        let body = n.body();
        body.contains("terminated") && body.contains("gone") && !body.contains("stays")
    });
    told.is_some()
}

storages! {
    [
        memory: Storage::Memory;
        default_mode: Storage::Default;
        database_only: Storage::sqlite(3, 0);
        database_only_notifiers: Storage::on(Driver::Postgres, 3, 0, 2);
    ]

    fn b50_a_dead_websocket_ends_its_subscription_alone(storage) {
        if !has_watcher_information(storage) {
            return;
        }
        let kamailio = Kamailio::start(Config::new(storage).websocket());
        let gone = Watcher::websocket(&kamailio, "alice").named("gone");
        let call_id = gone.call_id.clone();
        let told = one_goes(&kamailio, gone);
        let ends = differs("B50 a WebSocket that is gone ends its subscription", false, true);
        assert_eq!(told, ends, "those who watch the watchers");
        if ends {
            let lines = kamailio.log_lines("the subscription ends");
            assert!(lines.len() == 1 && lines[0].contains(&call_id), "{lines:?}");
        }
        if ends && storage.has_subscription_rows() && storage.subs_db_mode() == 3 {
            let rows = kamailio.rows("active_watchers");
            assert_eq!(rows.len(), 2, "{rows:?}");
        }
        kamailio.finish();
    }

    fn b50_a_closed_connection_behind_an_alias_ends_its_subscription(storage) {
        if !has_watcher_information(storage) {
            return;
        }
        let kamailio = Kamailio::start(Config::new(storage).tcp());
        let mut gone = Watcher::tcp(&kamailio, "alice").named("gone");
        gone.contact = format!("<sip:x@192.0.2.9;transport=tcp;{}>", gone.endpoint.alias());
        let told = one_goes(&kamailio, gone);
        let ends = differs("B50 after the time-out of a transaction", false, true);
        assert_eq!(told, ends, "those who watch the watchers");
        kamailio.finish();
    }
}

#[test]
fn b50_with_timeout_rm_subs_0_the_subscription_stays() {
    let config = Config::new(Storage::Default).websocket().presence("timeout_rm_subs", 0);
    let kamailio = Kamailio::start(config);
    assert!(!one_goes(&kamailio, Watcher::websocket(&kamailio, "alice").named("gone")));
    let mut looker = Watcher::udp(&kamailio, "alice").event("presence.winfo");
    looker.subscribe(600);
    looker.wait_notify("it is still there", |n| n.body().contains("gone"));
    if target() == Target::Ours {
        assert_eq!(kamailio.log_lines("its NOTIFYs are not sent").len(), 1);
    }
    kamailio.finish();
}

/// A document that is mostly a note of so many bytes.
fn long(user: &str, device: &str, bytes: usize) -> String {
    bodies::pidf(user, device, "open", &format!("{device}-{}", "x".repeat(bytes)))
}

storages! {
    [
        memory: Storage::Memory;
        default_mode: Storage::Default;
        database_only: Storage::sqlite(3, 0);
    ]

    fn a13_a_document_that_fits_no_datagram_is_left_out(storage) {
        let config = Config::new(storage).tcp().parameter("tm", "fr_timer", 1500);
        let kamailio = Kamailio::start(config);
        let mut udp = Watcher::udp(&kamailio, "alice").named("udp");
        udp.subscribe(600);
        udp.next_notify("initial");
        let mut tcp = Watcher::tcp(&kamailio, "alice").named("tcp");
        tcp.subscribe(600);
        tcp.next_notify("initial");
        Publisher::udp(&kamailio, "alice").publish(long("alice", "desk", 40_000));
        udp.wait_notify("it fits", |n| n.body().contains("desk-x"));
        let mut mobile = Publisher::udp(&kamailio, "alice");
        mobile.publish(long("alice", "mobile", 40_000));
        tcp.wait_notify("both", |n| n.body().contains("desk-x") && n.body().contains("mobile-x"));
        let empty = udp.find_notify(Duration::from_secs(1), |n| n.cseq > 3 && n.body().is_empty());
        let left_out = differs("A13 a document for which there is no room", false, true);
        assert_eq!(empty.is_some(), left_out);
        // The watcher is there as before.
        std::thread::sleep(Duration::from_secs(2));
        assert_eq!(udp.try_subscribe(600).status(), Some(200));
        if left_out {
            assert_eq!(kamailio.log_lines("is left out: there is no room").len(), 1);
            mobile.remove();
            udp.wait_notify("it fits again", |n| n.body().contains("desk-x") && n.cseq > 4);
        }
        kamailio.finish();
    }

    fn a13_want_of_memory_delays_only_what_needs_so_much(storage) {
        if !ours_only("A13 without memory for a NOTIFY it is lost") {
            return;
        }
        let config = Config::new(storage)
            .tcp()
            .shared_memory(9)
            .private_memory(16)
            .parameter("tm", "wt_timer", 800)
            .global("tcp_conn_wq_max=4000000\ntcp_wq_max=20000000");
        let kamailio = Kamailio::start(config);
        let mut small = Watcher::udp(&kamailio, "bob").named("small");
        small.subscribe(600);
        small.next_notify("initial");
        for n in 0..16 {
            let document = long("alice", &format!("p{n}"), 50_000);
            Publisher::udp(&kamailio, "alice").publish(document);
        }
        let mut large: Vec<_> = (0..8)
            .map(|n| Watcher::tcp(&kamailio, "alice").named(&format!("large{n}")))
            .collect();
        for watcher in &mut large {
            watcher.subscribe(600);
        }
        Publisher::udp(&kamailio, "bob").publish(open("bob"));
        let begin = Instant::now();
        small.wait_notify("at once", |n| n.body().contains(">open<"));
        assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());
        for watcher in &large {
            let all = |n: &Notify| (0..16).all(|p| n.body().contains(&format!("p{p}-x")));
            watcher.wait_notify_for(Duration::from_secs(30), "the whole document", all);
        }
        eprintln!("all have it after {:?}", begin.elapsed());
        assert!(!kamailio.log_lines("no memory for a NOTIFY").is_empty(), "there was enough");
        assert_eq!(kamailio.log_lines("given up").len(), 0);
        kamailio.finish();
    }
}

/// Together they do not fit a process's private memory (8 MB), into which the
/// driver takes a result. (Stock sends a NOTIFY without a document.)
#[test]
fn documents_that_are_large_together_are_told() {
    let config = Config::new(Storage::Default).shared_memory(128).tcp();
    let config = config.global("tcp_conn_wq_max=40000000").global("tcp_wq_max=40000000");
    let lines = ["private memory", "error while storing", "full db", "worker.rs", "more pkg"];
    let kamailio = Kamailio::start(lines.into_iter().fold(config, Config::ignore_log));
    let note = "x".repeat(40_000);
    let mut phones: Vec<_> = (0..300).map(|_| Publisher::udp(&kamailio, "alice")).collect();
    for (n, phone) in phones.iter_mut().enumerate() {
        phone.publish(bodies::pidf("alice", &format!("p{n}"), "open", &note));
    }
    let mut watcher = Watcher::tcp(&kamailio, "alice");
    watcher.subscribe(600);
    let bytes = watcher.next_notify("the first").body().len();
    assert_eq!(bytes > 12_000_000, differs("A13 12 MB", false, true), "{bytes}");
    kamailio.finish();
}
