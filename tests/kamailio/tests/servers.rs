//! Several Kamailios on one database (`subs_db_mode` 3, `publ_cache` 0): each
//! serves every dialog and every publication, one of them tells of a change,
//! and the others go on when one is killed.

use presence_kamailio_tests::prelude::*;
use presence_kamailio_tests::trace::Trace;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Barrier;

const SERVERS: usize = 3;
const PUBLISHERS: usize = 6;
const CHANGES: u32 = 8;

struct Cluster {
    servers: Vec<Kamailio>,
    database: Database,
}

impl Cluster {
    fn start(storage: Storage) -> Self {
        let database = Database::create(storage.driver());
        let servers = (0..SERVERS).map(|_| {
            let config = Config::new(storage)
                .database(&database)
                .children(4)
                .shared_memory(64)
                .presence("db_update_period", 1)
                .presence("clean_period", 1);
            Kamailio::start(config)
        });
        Self { servers: servers.collect(), database }
    }

    fn addresses(&self) -> Vec<SocketAddr> {
        self.servers.iter().map(Kamailio::address).collect()
    }

    /// A watcher of alice that subscribes through server `through`.
    fn watcher(&self, through: usize, name: &str) -> Watcher {
        let mut watcher = Watcher::udp(&self.servers[through], "alice").named(name);
        watcher.subscribe(3600);
        watcher
    }

    /// Waits until so many subscriptions are stored.
    fn wait_rows(&self, count: usize) {
        let table = || self.database.count("active_watchers");
        if eventually(Duration::from_secs(5), || (table() == count).then_some(())).is_none() {
            self.fail(&format!("{} subscriptions are stored, not {count}", table()));
        }
    }

    fn finish(&self) {
        for server in &self.servers {
            if server.is_alive() {
                server.finish();
            }
        }
    }

    fn fail(&self, message: &str) -> ! {
        let reports: Vec<String> = self.servers.iter().map(Kamailio::report).collect();
        panic!("{message}\n{}", reports.join("\n"))
    }
}

/// One part of alice's state, changed through one server after the other.
fn change(servers: &[SocketAddr], trace: Trace, index: usize, start: &Barrier) -> Vec<String> {
    let mut phone = Publisher::with(servers[index % servers.len()], trace, "alice");
    let mut wrong = Vec::new();
    start.wait();
    for round in 1..=CHANGES {
        phone.endpoint.turn_to(servers[(index + round as usize) % servers.len()]);
        let body = bodies::pidf("alice", &format!("p{index}"), "open", &round.to_string());
        let reply = if round == 1 { phone.try_publish(body) } else { phone.try_modify(body) };
        if reply.status() != Some(200) {
            wrong.push(format!("publisher {index}, change {round}: {}", reply.start_line));
        }
    }
    wrong
}

/// All publishers at once; every PUBLISH has to get its 200.
fn race(cluster: &Cluster, servers: &[SocketAddr], trace: &Trace) {
    let start = Barrier::new(PUBLISHERS);
    let wrong: Vec<String> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..PUBLISHERS)
            .map(|index| {
                let (trace, start) = (trace.clone(), &start);
                scope.spawn(move || change(servers, trace, index, start))
            })
            .collect();
        threads
            .into_iter()
            .flat_map(|t| t.join().unwrap_or_else(|_| vec!["a publisher panicked".into()]))
            .collect()
    });
    if !wrong.is_empty() {
        cluster.fail(&format!("not every PUBLISH got a 200:\n{}", wrong.join("\n")));
    }
}

/// No CSeq twice, and each NOTIFY from the address that its Via and Contact
/// name. (The datagrams of two servers may overtake each other: order of
/// arrival is no order of CSeqs here.)
fn check_numbers_and_senders(cluster: &Cluster, watcher: &Watcher, senders: &[SocketAddr]) {
    let mut seen: BTreeMap<u32, String> = BTreeMap::new();
    for notify in watcher.notifies() {
        let twice = seen.insert(notify.cseq, notify.body());
        if let Some(other) = twice
            && differs("A8 a CSeq is used once", false, true)
        {
            cluster.fail(&format!("CSeq {} twice: {other}\n{}", notify.cseq, notify.body()));
        }
        let via = notify.message.header("Via").unwrap_or("").to_owned();
        if !senders.contains(&notify.from) || !via.contains(&notify.from.to_string()) {
            cluster.fail(&format!("from {}, but Via: {via}", notify.from));
        }
    }
}

/// A higher CSeq never shows an older state: no publisher's number (the note of
/// its tuple) goes down, and none goes away.
fn check_order(cluster: &Cluster, watcher: &Watcher) {
    let mut list = watcher.notifies();
    list.sort_by_key(|notify| notify.cseq);
    let mut newest: BTreeMap<String, (u32, u32)> = BTreeMap::new();
    for notify in &list {
        let tuples = bodies::tuples(&notify.body());
        let shown: BTreeMap<String, u32> = tuples
            .into_iter()
            .filter(|tuple| tuple.id.starts_with('p'))
            .filter_map(|tuple| Some((tuple.id, tuple.note.parse().ok()?)))
            .collect();
        for (id, (number, cseq)) in &newest {
            let now = shown.get(id).copied().unwrap_or_default();
            if now < *number {
                let cseqs = format!("{cseq} shows {number}, {} shows {now}", notify.cseq);
                cluster.fail(&format!("{}, {id}: CSeq {cseqs}", watcher.watcher));
            }
        }
        newest.extend(shown.into_iter().map(|(id, number)| (id, (number, notify.cseq))));
    }
}

/// The state in the NOTIFY with the highest CSeq: for each open part its number.
fn newest(watcher: &Watcher) -> BTreeMap<String, String> {
    let last = watcher.notifies().into_iter().max_by_key(|n| n.cseq);
    let tuples = last.map_or(Vec::new(), |n| bodies::tuples(&n.body()));
    let open = tuples.into_iter().filter(|tuple| tuple.basic == "open");
    open.map(|tuple| (tuple.id, tuple.note)).collect()
}

/// Waits until the watcher's newest state is everybody's last change.
fn wait_everybodys_last(cluster: &Cluster, watcher: &Watcher) {
    let done = eventually(Duration::from_secs(15), || {
        let state = newest(watcher);
        let all = state.len() == PUBLISHERS && state.values().all(|n| *n == CHANGES.to_string());
        all.then_some(())
    });
    if done.is_none() {
        cluster.fail(&format!("{} ends with {:?}", watcher.watcher, newest(watcher)));
    }
}

storages! {
    [
        postgres: Storage::on(Driver::Postgres, 3, 0, 0);
        postgres_notifiers: Storage::on(Driver::Postgres, 3, 0, 2);
        mariadb: Storage::on(Driver::MariaDb, 3, 0, 0);
        mariadb_notifiers: Storage::on(Driver::MariaDb, 3, 0, 2);
    ]

    fn a8_racing_publishers_and_watchers_on_three_servers(storage) {
        let stock = "A8 stock uses CSeqs twice, and answers 412 before its commit";
        if !ours_only(stock) || !long_test_of(storage) {
            return;
        }
        for _ in 0..rounds("PRESENCE_SERVERS_RUNS", 1) {
            let cluster = Cluster::start(storage);
            let watchers: Vec<Watcher> =
                (0..6).map(|n| cluster.watcher(n % SERVERS, &format!("w{n}"))).collect();
            race(&cluster, &cluster.addresses(), &cluster.servers[0].trace());
            for watcher in &watchers {
                wait_everybodys_last(&cluster, watcher);
                check_numbers_and_senders(&cluster, watcher, &cluster.addresses());
                check_order(&cluster, watcher);
            }
            cluster.finish();
        }
    }

    fn a8_the_others_go_on_when_one_is_killed(storage) {
        let stock = "A8 stock uses CSeqs twice, and answers 412 before its commit";
        if !ours_only(stock) || !long_test_of(storage) {
            return;
        }
        for _ in 0..rounds("PRESENCE_SERVERS_RUNS", 1) {
            let cluster = Cluster::start(storage);
            let addresses = cluster.addresses();
            let mut watchers: Vec<Watcher> =
                (0..6).map(|n| cluster.watcher(n % SERVERS, &format!("w{n}"))).collect();
            // The victim is busy when it goes; its publishers do not care for
            // answers, for some never come.
            let (victim, trace) = (addresses[0], cluster.servers[0].trace());
            std::thread::scope(|scope| {
                for index in 0..2 {
                    let trace = trace.clone();
                    scope.spawn(move || {
                        let mut phone = Publisher::with(victim, trace, "alice");
                        phone.expires = Some(5);
                        for round in 0..40 {
                            let id = format!("v{index}");
                            let body = bodies::pidf("alice", &id, "open", &round.to_string());
                            let message = phone.message(Some(&body));
                            let patience = Duration::from_millis(300);
                            match phone.endpoint.try_request(&message, patience) {
                                Some(reply) => phone.etag = reply.header("SIP-ETag").map(str::to_owned),
                                None => return,
                            }
                        }
                    });
                }
                std::thread::sleep(Duration::from_millis(250));
                cluster.servers[0].kill();
            });
            race(&cluster, &addresses[1..], &trace);
            for watcher in &watchers {
                // What the victim had published expires; then the rest is there.
                wait_everybodys_last(&cluster, watcher);
                check_numbers_and_senders(&cluster, watcher, &addresses);
                check_order(&cluster, watcher);
            }
            // Dialogs of the victim live on at another.
            for watcher in &mut watchers {
                watcher.endpoint.turn_to(addresses[1]);
                assert_eq!(watcher.subscribe(1800).number("Expires"), Some(1800));
                watcher.unsubscribe();
                watcher.wait_notify("final", |n| n.state == "terminated");
                check_numbers_and_senders(&cluster, watcher, &addresses);
            }
            cluster.wait_rows(0);
            cluster.finish();
        }
    }

    fn a8_one_change_is_told_by_one_server(storage) {
        if !ours_only("A8 stock answers 412 before its commit; B12") || !long_test_of(storage) {
            return;
        }
        let cluster = Cluster::start(storage);
        let mut watchers: Vec<Watcher> =
            (0..3).map(|n| cluster.watcher(n, &format!("w{n}"))).collect();
        let mut phone = Publisher::udp(&cluster.servers[0], "alice");
        phone.publish(bodies::open("alice"));
        for watcher in &watchers {
            watcher.wait_notify("open", |n| n.body().contains(">open<"));
        }
        for (round, address) in cluster.addresses().into_iter().cycle().take(6).enumerate() {
            let note = format!("change {round}");
            phone.endpoint.turn_to(address);
            phone.modify(bodies::pidf("alice", "phone", "open", &note));
            for watcher in &mut watchers {
                watcher.wait_notify(&note, |n| n.body().contains(&note));
                watcher.skip_notifies();
            }
            for watcher in &mut watchers {
                watcher.no_more_notify(Duration::from_millis(100), "another server's NOTIFY");
            }
        }
        // The end of a publication, which every server's timer sees.
        let mut brief = Publisher::udp(&cluster.servers[1], "alice");
        brief.expires = Some(4);
        brief.publish(bodies::pidf("alice", "brief", "open", ""));
        for watcher in &mut watchers {
            let shown = watcher.wait_notify("brief", |n| n.body().contains("\"brief\""));
            let over = watcher.wait_notify_for(Duration::from_secs(8), "its end", |n| {
                n.cseq > shown.cseq
            });
            let closed = bodies::tuples(&over.body()).iter().any(|t| t.id == "brief" && t.basic == "closed");
            assert!(closed, "{}", over.body());
        }
        std::thread::sleep(Duration::from_millis(1500));
        for watcher in &watchers {
            let list = watcher.notifies();
            let ends = list.iter().filter(|n| n.body().contains(">closed<")).count();
            assert_eq!(ends, 1);
            check_numbers_and_senders(&cluster, watcher, &cluster.addresses());
        }
        cluster.finish();
    }

    fn a8_a_dialog_goes_on_at_another_server(storage) {
        let stock = "B40 with notifiers stock answers 500 to a refresh on PostgreSQL, and now and \
                     then fails on MariaDB";
        if storage.cell().notifiers > 0 && !ours_only(stock) {
            return;
        }
        let cluster = Cluster::start(storage);
        let addresses = cluster.addresses();
        let mut watcher = cluster.watcher(0, "bob");
        watcher.next_notify("initial");
        let mut phone = Publisher::udp(&cluster.servers[2], "alice");
        phone.publish(bodies::open("alice"));
        watcher.wait_notify("open", |n| n.body().contains(">open<"));
        watcher.endpoint.turn_to(addresses[1]);
        assert_eq!(watcher.subscribe(900).number("Expires"), Some(900));
        // Its entity-tag is good everywhere.
        phone.endpoint.turn_to(addresses[0]);
        phone.modify(bodies::pidf("alice", "phone", "open", "moved"));
        let moved = watcher.wait_notify("moved", |n| n.body().contains("moved"));
        watcher.endpoint.turn_to(addresses[2]);
        watcher.unsubscribe();
        let last = watcher.wait_notify("final", |n| n.state == "terminated");
        // A8: stock may use a CSeq twice.
        assert!(last.cseq > moved.cseq || target() == Target::Upstream);
        for address in addresses.iter().copied() {
            watcher.endpoint.turn_to(address);
            assert_eq!(watcher.try_subscribe(600).status(), Some(481), "{address}");
        }
        phone.endpoint.turn_to(addresses[1]);
        phone.remove();
        phone.etag = None;
        check_numbers_and_senders(&cluster, &watcher, &addresses);
        cluster.wait_rows(0);
        cluster.finish();
    }

    // Every server's timer sees it; one ends it.
    fn a8_an_expired_subscription_is_ended_once(storage) {
        let stock = "D7 each stock server sends the end, again and again";
        if !ours_only(stock) || !long_test_of(storage) {
            return;
        }
        let cluster = Cluster::start(storage);
        let mut guard = Watcher::udp(&cluster.servers[2], "alice").event("presence.winfo").named("g");
        guard.subscribe(600);
        let mut watchers: Vec<Watcher> =
            (0..20).map(|n| Watcher::udp(&cluster.servers[n % SERVERS], "alice").named(&format!("w{n}"))).collect();
        for watcher in &mut watchers {
            watcher.subscribe(2);
        }
        for watcher in &watchers {
            let last = watcher.wait_notify_for(Duration::from_secs(8), "the end", |n| {
                n.state == "terminated"
            });
            assert_eq!(last.reason(), "timeout");
        }
        std::thread::sleep(Duration::from_millis(2200));
        for watcher in &watchers {
            let ends = watcher.notifies().iter().filter(|n| n.state == "terminated").count();
            assert_eq!(ends, 1, "{}", watcher.watcher);
            check_numbers_and_senders(&cluster, watcher, &cluster.addresses());
            // The guard is told that each has gone, by one document.
            let gone: usize = guard
                .notifies()
                .iter()
                .flat_map(|n| bodies::watchers(&n.body()))
                .filter(|w| w.uri == watcher.watcher && w.status == "terminated")
                .count();
            assert_eq!(gone, 1, "{}", watcher.watcher);
        }
        cluster.wait_rows(1);
        cluster.finish();
    }
}
