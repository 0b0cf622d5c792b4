//! Databases on more than one machine (`subs_db_mode=3`; docs/cluster.md): one that has
//! gone back, a standby that is promoted, Galera nodes, a pooler.

use presence_kamailio_tests::nodes::{self, Pooler};
use presence_kamailio_tests::prelude::*;
use presence_kamailio_tests::server::{Kind, Server};

fn document(n: u32) -> String {
    bodies::pidf("alice", "phone", "open", &format!("change {n}"))
}

/// Waits until each watcher has been told this, by a CSeq that is higher than all before.
fn wait_told(watchers: &[Watcher], what: &str) {
    for watcher in watchers {
        let found = eventually(Duration::from_secs(15), || {
            let last = watcher.notifies().into_iter().max_by_key(|notify| notify.cseq)?;
            last.body().contains(what).then_some(())
        });
        let seen: Vec<_> = watcher.notifies().iter().map(|n| n.cseq).collect();
        assert!(found.is_some(), "{}: not told {what:?}; CSeqs {seen:?}", watcher.watcher);
        watcher.assert_rising_cseq();
    }
}

fn watchers(kamailio: &Kamailio, count: usize) -> Vec<Watcher> {
    (0..count)
        .map(|n| {
            let mut watcher = Watcher::udp(kamailio, "alice").named(&format!("w{n}"));
            watcher.subscribe(3600);
            watcher
        })
        .collect()
}

storages! {
    [
        postgres: Storage::on(Driver::Postgres, 3, 0, 0);
        mariadb: Storage::on(Driver::MariaDb, 3, 0, 0);
    ]

    // As a standby that lacks the last changes, when it is promoted.
    fn a8_a_database_that_has_gone_back(storage) {
        if !ours_only("A8 stock uses CSeqs again, and watchers drop its NOTIFYs") {
            return;
        }
        let config = Config::new(storage).presence("db_update_period", 1).presence("clean_period", 1);
        let kamailio = Kamailio::start(config.ignore_log("the database has lost changes"));
        let watchers = watchers(&kamailio, 3);
        let mut phone = Publisher::udp(&kamailio, "alice");
        phone.publish(document(0));
        wait_told(&watchers, "change 0");
        let tables = ["active_watchers", "presentity"];
        for table in tables {
            kamailio.execute(&format!("CREATE TABLE old_{table} AS SELECT * FROM {table};"));
        }
        let kept = phone.etag.clone();
        for n in 1..=12 {
            phone.modify(document(n));
        }
        wait_told(&watchers, "change 12");
        for table in tables {
            kamailio.execute(&format!(
                "BEGIN; DELETE FROM {table}; INSERT INTO {table} SELECT * FROM old_{table}; COMMIT;"
            ));
        }
        // Its entity-tag was lost; somebody else's change is not.
        assert_eq!(phone.try_modify(document(34)).status(), Some(412));
        phone.etag = kept;
        phone.modify(document(35));
        wait_told(&watchers, "change 35");
        kamailio.finish();
    }
}

#[test]
fn a8_an_asynchronous_standby_is_promoted() {
    if !nodes::wanted(&[]) || !ours_only("A8 stock uses CSeqs again") {
        return;
    }
    let storage = Storage::on(Driver::Postgres, 3, 0, 0);
    let primary = Server::private(Kind::Postgres);
    let database = Database::on(&primary);
    let standby = primary.standby();
    // The recipe of docs/cluster.md.
    let hosts = format!(
        "host='127.0.0.1,127.0.0.1';port='{},{}';target_session_attrs=read-write;connect_timeout=2",
        primary.port(),
        standby.port()
    );
    let config = Config::new(storage)
        .database(&database)
        .children(4)
        .parameter("db_postgres", "con_param", hosts.as_str())
        .presence("db_update_period", 1)
        .presence("clean_period", 1)
        .ignore_log("ERROR")
        .ignore_log("WARNING");
    let kamailio = Kamailio::start(config);
    kamailio.wait_all_processes();
    let watchers = watchers(&kamailio, 10);
    let mut phone = Publisher::udp(&kamailio, "alice");
    phone.publish(document(0));
    wait_told(&watchers, "change 0");
    std::thread::sleep(Duration::from_millis(500));
    // Nothing more reaches it.
    standby.must(None, "ALTER SYSTEM SET primary_conninfo = ''");
    standby.must(None, "SELECT pg_reload_conf()");
    std::thread::sleep(Duration::from_millis(500));
    for n in 1..=33 {
        phone.modify(document(n));
    }
    wait_told(&watchers, "change 33");
    let mark = kamailio.log().len();
    primary.kill();
    standby.must(None, "SELECT pg_promote()");
    // What was lost is told anew.
    wait_told(&watchers, "change 0");
    let mut other = Publisher::udp(&kamailio, "alice");
    let published = eventually(Duration::from_secs(10), || {
        let body = bodies::pidf("alice", "desk", "open", "afterwards");
        (other.try_publish(body).status() == Some(200)).then_some(())
    });
    assert!(published.is_some());
    wait_told(&watchers, "afterwards");
    let log = kamailio.log()[mark..].to_owned();
    let lines = log.lines().filter(|line| !line.contains("SCRIPT-RESULT")).count();
    assert!(lines < 50, "{lines} lines:\n{log}");
    assert!(log.contains("the database has lost changes"), "{log}");
    kamailio.finish();
}

#[test]
fn a8_a_pooler_in_transaction_mode() {
    if !nodes::wanted(nodes::POOLER_NEEDS) || !ours_only("A8 stock works without transactions") {
        return;
    }
    let server = Server::private(Kind::Postgres);
    let database = Database::on(&server);
    let pooler = Pooler::start(&server);
    let url = database.url().replace(&server.port().to_string(), &pooler.port().to_string());
    let storage = Storage::on(Driver::Postgres, 3, 0, 0);
    let config = Config::new(storage).database(&database).children(4).presence("db_url", url);
    let kamailio = Kamailio::start(config);
    kamailio.wait_all_processes();
    let watchers = watchers(&kamailio, 5);
    let mut phones: Vec<_> = (0..4).map(|_| Publisher::udp(&kamailio, "alice")).collect();
    for round in 0..10 {
        for (n, phone) in phones.iter_mut().enumerate() {
            let body = bodies::pidf("alice", &format!("p{n}"), "open", &format!("round {round}"));
            if round == 0 {
                phone.publish(body)
            } else {
                phone.modify(body)
            };
        }
    }
    wait_told(&watchers, "round 9");
    assert!(kamailio.log().contains("a pooler gives each transaction another session"));
    kamailio.finish();
}

/// Two nodes, a server on each; publishers and watchers that change the server after
/// each answer.
#[test]
fn a8_galera_with_several_writers() {
    if !nodes::wanted(nodes::GALERA_NEEDS) || !ours_only("A8 stock uses CSeqs twice") {
        return;
    }
    let cluster = nodes::galera(2);
    let (first, second) = (&cluster[0].0, &cluster[1].0);
    let database = Database::on(first);
    let storage = Storage::on(Driver::MariaDb, 3, 0, 0);
    let servers: Vec<_> = [first, second]
        .into_iter()
        .map(|node| {
            let url = database.url().replace(&first.port().to_string(), &node.port().to_string());
            let config = Config::new(storage).database(&database).children(4).shared_memory(64);
            let config = config.presence("db_update_period", 1).presence("clean_period", 1);
            Kamailio::start(config.presence("db_url", url).ignore_log("ERROR"))
        })
        .collect();
    let addresses: Vec<_> = servers.iter().map(Kamailio::address).collect();
    let watchers = watchers(&servers[0], 4);
    let wrong: Vec<String> = std::thread::scope(|scope| {
        let publisher = |index: usize| {
            let (trace, addresses) = (servers[0].trace(), &addresses);
            scope.spawn(move || {
                let mut phone = Publisher::with(addresses[index % 2], trace, "alice");
                let mut wrong = Vec::new();
                for round in 0..12 {
                    phone.endpoint.turn_to(addresses[(index + round) % 2]);
                    let note = format!("round {round}");
                    let body = bodies::pidf("alice", &format!("p{index}"), "open", &note);
                    let reply =
                        if round == 0 { phone.try_publish(body) } else { phone.try_modify(body) };
                    if reply.status() != Some(200) {
                        wrong.push(format!("publisher {index}, {note}: {}", reply.start_line));
                    }
                }
                wrong
            })
        };
        let watcher = |index: usize| {
            let (trace, addresses) = (servers[0].trace(), &addresses);
            scope.spawn(move || {
                let mut watcher = Watcher::with(addresses[0], trace, "alice");
                watcher.subscribe(600);
                let mut wrong = Vec::new();
                for round in 0..12 {
                    watcher.endpoint.turn_to(addresses[(index + round) % 2]);
                    let reply = watcher.try_subscribe(600);
                    if reply.status() != Some(200) {
                        wrong.push(format!("watcher {index}, {round}: {}", reply.start_line));
                    }
                }
                wrong
            })
        };
        let all: Vec<_> = (0..4).map(publisher).chain((0..4).map(watcher)).collect();
        all.into_iter().flat_map(|one| one.join().unwrap_or_default()).collect()
    });
    assert!(wrong.is_empty(), "{}\n{}", wrong.join("\n"), servers[0].report());
    for watcher in &watchers {
        let last = eventually(Duration::from_secs(15), || {
            let last = watcher.notifies().into_iter().max_by_key(|notify| notify.cseq)?;
            let tuples = bodies::tuples(&last.body());
            let newest = tuples.iter().filter(|tuple| tuple.note == "round 11").count();
            (newest == 4).then_some(())
        });
        assert!(last.is_some(), "{} is not told the last state", watcher.watcher);
        let mut cseqs: Vec<_> = watcher.notifies().iter().map(|n| n.cseq).collect();
        cseqs.sort_unstable();
        assert!(cseqs.windows(2).all(|pair| pair[0] < pair[1]), "{cseqs:?}");
    }
    // Ends are told once.
    let mut brief: Vec<_> =
        (0..10).map(|n| Watcher::udp(&servers[n % 2], "alice").named(&format!("b{n}"))).collect();
    brief.iter_mut().for_each(|watcher| {
        watcher.subscribe(2);
    });
    for watcher in &brief {
        let end = |n: &presence_kamailio_tests::agents::Notify| n.state == "terminated";
        watcher.wait_notify_for(Duration::from_secs(15), "the end", end);
    }
    std::thread::sleep(Duration::from_secs(2));
    for watcher in &brief {
        let ends = watcher.notifies().iter().filter(|n| n.state == "terminated").count();
        assert_eq!(ends, 1, "{}", watcher.watcher);
    }
    servers.iter().for_each(Kamailio::finish);
}
