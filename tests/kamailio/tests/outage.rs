//! The database goes away for some seconds under load and comes back: clear
//! answers meanwhile, the log says so once in a while, nothing that was
//! accepted is lost, and everything works again without a restart.

use presence_kamailio_tests::prelude::*;
use presence_kamailio_tests::trace::Trace;
use std::net::SocketAddr;

/// How long the database is away.
const AWAY: Duration = Duration::from_secs(3);
/// How long an answer may take meanwhile.
const ANSWER: Duration = Duration::from_secs(12);
/// How long the server may take to be well afterwards.
const RECOVERY: Duration = Duration::from_secs(15);
/// Lines of ours that tell of one outage: for each kind of work one, repeated
/// seldom, by each of a handful of processes. There are hundreds of requests.
const LINES: usize = 40;

/// A dialog document: its package asks no rules, so nothing but the storage
/// mode says whether a request needs the database.
fn busy(user: &str, dialog: &str) -> String {
    bodies::dialog_info(user, 0, &[(dialog, "confirmed")])
}

#[derive(Default)]
struct Load {
    /// Status of each PUBLISH and SUBSCRIBE.
    publish: Vec<u16>,
    subscribe: Vec<u16>,
    /// What was answered with 200.
    watchers: Vec<Watcher>,
    published: Vec<String>,
}

/// The one final reply to a request.
fn answer(endpoint: &Endpoint, message: &Message) -> Message {
    let reply = endpoint.try_request(message, ANSWER).unwrap_or_else(|| {
        panic!("no answer within {ANSWER:?} to {}\n{}", message.start_line, endpoint.trace().tail())
    });
    let finals = |entries: &[presence_kamailio_tests::endpoint::Received]| {
        let ours = entries.iter().filter(|entry| {
            entry.message.call_id() == message.call_id()
                && entry.message.header("CSeq") == message.header("CSeq")
                && entry.message.status().is_some_and(|code| code >= 200)
        });
        ours.count()
    };
    assert_eq!(finals(&endpoint.received()), 1, "one final reply to {}", message.start_line);
    reply
}

/// New publications and new subscriptions, one after the other, until `end`.
fn load(server: SocketAddr, trace: &Trace, name: &str, end: Instant) -> Load {
    let mut load = Load::default();
    let mut round = 0;
    while Instant::now() < end {
        round += 1;
        let user = format!("{name}{round}");
        let mut phone = Publisher::with(server, trace.clone(), &user).event("dialog");
        let message = phone.message(Some(&busy(&user, "during")));
        let code = answer(&phone.endpoint, &message).status().unwrap_or(0);
        load.publish.push(code);
        if code == 200 {
            load.published.push(user.clone());
        }
        let mut watcher = Watcher::with(server, trace.clone(), "alice").event("dialog");
        let message = watcher.message();
        let reply = answer(&watcher.endpoint, &message);
        load.subscribe.push(reply.status().unwrap_or(0));
        if reply.status() == Some(200) {
            watcher.to_tag = reply.to_tag().map(str::to_owned);
            watcher.remote_target = Some(format!("sip:{server}"));
            load.watchers.push(watcher);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    load
}

/// True when each is a 200 or an error of the server's.
fn are_clear(codes: &[u16]) -> bool {
    codes.iter().all(|code| matches!(code, 200 | 500..=599))
}

storages! {
    [
        memory_sqlite: Storage::sqlite(0, 1);
        write_back_sqlite: Storage::sqlite(2, 1);
        write_through_sqlite: Storage::sqlite(1, 0);
        database_only_sqlite: Storage::sqlite(3, 0);
        memory_postgres: Storage::on(Driver::Postgres, 0, 2, 0);
        write_back_postgres: Storage::on(Driver::Postgres, 2, 1, 0);
        write_back_memory_postgres: Storage::on(Driver::Postgres, 2, 2, 0);
        write_through_postgres: Storage::on(Driver::Postgres, 1, 0, 0);
        database_only_postgres: Storage::on(Driver::Postgres, 3, 0, 0);
        database_only_postgres_notifiers: Storage::on(Driver::Postgres, 3, 0, 2);
        write_back_mariadb: Storage::on(Driver::MariaDb, 2, 1, 0);
        write_through_mariadb: Storage::on(Driver::MariaDb, 1, 1, 0);
        database_only_mariadb: Storage::on(Driver::MariaDb, 3, 0, 0);
        database_only_mariadb_notifiers: Storage::on(Driver::MariaDb, 3, 0, 2);
    ]

    fn a3_the_database_goes_and_comes_back(storage) {
        let stock = "A6 stock floods the log, and accepts what it has not stored";
        if !ours_only(stock) || !long_test_of(storage) {
            return;
        }
        let database = Database::private(storage.driver());
        let config = Config::new(storage)
            .database(&database)
            .children(4)
            .shared_memory(64)
            .presence("db_update_period", 1)
            .presence("clean_period", 1);
        let kamailio = Kamailio::start(config);
        kamailio.wait_all_processes();
        let (server, trace) = (kamailio.address(), kamailio.trace());
        let mut early = Watcher::udp(&kamailio, "alice").event("dialog");
        early.subscribe(600);
        let mut lamp = Publisher::udp(&kamailio, "alice").event("dialog");
        lamp.publish(busy("alice", "before"));
        early.wait_notify("before", |n| n.body().contains("\"before\""));
        if storage.subs_db_mode() == 2 {
            kamailio.wait_row_of(&early, |_| true);
        }
        let mark = kamailio.log().len();

        let outage = database.take_away();
        let end = Instant::now() + AWAY;
        let loads: Vec<Load> = std::thread::scope(|scope| {
            let threads: Vec<_> = ["a", "b", "c"]
                .map(|name| {
                    let trace = trace.clone();
                    scope.spawn(move || load(server, &trace, name, end))
                })
                .into_iter()
                .collect();
            std::thread::sleep(AWAY);
            outage.end();
            threads
                .into_iter()
                .map(|t| t.join().unwrap_or_else(|_| panic!("the load failed; see above")))
                .collect()
        });

        let publish: Vec<u16> = loads.iter().flat_map(|load| load.publish.clone()).collect();
        let subscribe: Vec<u16> = loads.iter().flat_map(|load| load.subscribe.clone()).collect();
        assert!(are_clear(&publish) && are_clear(&subscribe), "{publish:?} {subscribe:?}");
        // What is kept in memory goes on. What needs the database says that it
        // is away; who meets a locked file may wait until the lock is gone.
        for (codes, in_memory) in
            [(&publish, storage.publ_cache() == 2), (&subscribe, matches!(storage.subs_db_mode(), 0 | 2))]
        {
            assert!(!codes.is_empty());
            let refused = codes.iter().filter(|code| **code != 200).count();
            if in_memory {
                assert_eq!(refused, 0, "{codes:?}");
            } else if storage.driver() != Driver::Sqlite {
                assert!(refused > 0, "{codes:?}");
            }
        }
        // Our lines are few, and there is one.
        let log = kamailio.log()[mark..].to_owned();
        let of_ours = |line: &&str| {
            line.contains(" presence [") && (line.contains("ERROR") || line.contains("WARNING"))
        };
        let lines: Vec<&str> = log.lines().filter(of_ours).collect();
        assert!(lines.len() <= LINES, "{} lines:\n{}", lines.len(), lines.join("\n"));
        let refused = publish.iter().chain(&subscribe).any(|code| *code != 200);
        if refused && lines.is_empty() {
            kamailio.fail("nothing in the log says that the database was away");
        }
        assert!(kamailio.is_alive());

        // Everything works again.
        let recovered = eventually(RECOVERY, || {
            let mut probe = Publisher::udp(&kamailio, "probe").event("dialog");
            let published = probe.try_publish(busy("probe", "probe")).status() == Some(200);
            let mut watcher = Watcher::udp(&kamailio, "probe").event("dialog");
            (published && watcher.try_subscribe(600).status() == Some(200)).then_some(())
        });
        if recovered.is_none() {
            kamailio.fail(&format!("still not well {RECOVERY:?} after the outage"));
        }
        // The publication from before, by its tag; everybody accepted is told.
        lamp.modify(busy("alice", "after"));
        let watchers = loads.iter().flat_map(|load| &load.watchers).chain([&early]);
        for watcher in watchers {
            watcher.wait_notify_for(RECOVERY, "after the outage", |n| n.body().contains("\"after\""));
            watcher.assert_rising_cseq();
        }
        for user in loads.iter().flat_map(|load| &load.published) {
            let shown = Watcher::udp(&kamailio, user).event("dialog").fetch().body();
            assert!(shown.contains("\"during\""), "{user} was accepted: {shown:?}");
        }
        // Dialogs accepted during the outage are whole.
        for watcher in loads.into_iter().flat_map(|load| load.watchers).take(5) {
            let mut watcher = watcher;
            watcher.subscribe(600);
            watcher.unsubscribe();
            watcher.wait_notify("final", |n| n.state == "terminated");
            if storage.has_subscription_rows() {
                kamailio.wait_no_row_of(&watcher);
            }
        }
        // And survive the end of the process, in the modes that promise it.
        if storage.survives_restart() {
            kamailio.restart();
            early.skip_notifies();
            lamp.modify(busy("alice", "restarted"));
            early.wait_notify("restarted", |n| n.body().contains("\"restarted\""));
            early.assert_rising_cseq();
        }
        let status = kamailio.stop_cleanly();
        assert!(status.success(), "{status}");
    }
}

storages! {
    [
        sqlite: Storage::Default;
        postgres: Storage::on(Driver::Postgres, 2, 1, 0);
        database_only_mariadb: Storage::on(Driver::MariaDb, 3, 0, 0);
    ]

    // A driver whose connection is broken when it quotes a document may quote
    // it otherwise than the new connection understands (PostgreSQL: `\012`).
    fn the_first_document_after_an_outage_is_stored_whole(storage) {
        if !storage.has_publication_rows() {
            return;
        }
        let database = Database::private(storage.driver());
        let kamailio = Kamailio::start(Config::new(storage).database(&database));
        kamailio.wait_all_processes();
        Publisher::udp(&kamailio, "alice").publish(bodies::open("alice"));
        let outage = database.take_away();
        let mut phone = Publisher::udp(&kamailio, "bob");
        if storage.driver() != Driver::Sqlite {
            assert_eq!(phone.try_publish(bodies::open("bob")).status(), Some(500));
        }
        outage.end();
        let body = bodies::open("bob");
        let accepted = eventually(Duration::from_secs(10), || {
            (phone.try_publish(&body).status() == Some(200)).then_some(())
        });
        assert!(accepted.is_some(), "still refused");
        let rows = database.query("SELECT * FROM presentity WHERE username='bob'");
        assert_eq!(rows.len(), 1, "{rows:?}");
        assert_eq!(rows[0]["body"], body);
        kamailio.check_healthy();
    }

    // What has not been stored may be lost; the end must come all the same. A
    // locked file is waited for.
    fn a_stop_while_the_database_is_away_ends(storage) {
        if !storage.has_readable_tables() {
            return;
        }
        let database = Database::private(storage.driver());
        let kamailio = Kamailio::start(Config::new(storage).database(&database));
        kamailio.wait_all_processes();
        let mut watcher = Watcher::udp(&kamailio, "alice");
        watcher.subscribe(600);
        watcher.next_notify("initial");
        let mut outage = Some(database.take_away());
        std::thread::scope(|scope| {
            if storage.driver() == Driver::Sqlite {
                let outage = outage.take();
                scope.spawn(move || {
                    std::thread::sleep(Duration::from_secs(3));
                    drop(outage);
                });
            }
            kamailio.stop_cleanly();
        });
        drop(outage);
        if storage.driver() == Driver::Sqlite && storage.has_subscription_rows() {
            let written = kamailio.row_of(&watcher).is_some();
            assert_eq!(written, differs("D17 a row is written when the lock is gone", false, true));
        }
        kamailio.start_again();
        let mut other = Watcher::udp(&kamailio, "alice");
        other.subscribe(600);
        other.next_notify("initial");
        kamailio.finish();
    }

    // A server whose database is away does not start half.
    fn a_start_without_the_database_is_refused(storage) {
        if storage.driver() == Driver::Sqlite || !storage.has_readable_tables() {
            return;
        }
        let database = Database::private(storage.driver());
        let outage = database.take_away();
        let Err(log) = Kamailio::try_start(Config::new(storage).database(&database)) else {
            panic!("it starts without its database")
        };
        outage.end();
        assert!(log.lines().any(|line| line.contains("ERROR: presence")), "{log}");
        Kamailio::start(Config::new(storage).database(&database)).finish();
    }
}

storages! {
    [
        postgres: Storage::on(Driver::Postgres, 2, 1, 0);
        write_through_postgres: Storage::on(Driver::Postgres, 1, 0, 0);
        database_only_mariadb_notifiers: Storage::on(Driver::MariaDb, 3, 0, 2);
    ]

    // One publisher and one subscriber ask all the time. All lines count, the
    // drivers' too; stock writes some 170 in six seconds.
    fn a6_an_outage_has_few_lines(storage) {
        if !storage.has_readable_tables() || storage.driver() == Driver::Sqlite {
            return;
        }
        let database = Database::private(storage.driver());
        let config = Config::new(storage).database(&database).children(4)
            .presence("db_update_period", 1).presence("clean_period", 1);
        let kamailio = Kamailio::start(config);
        kamailio.wait_all_processes();
        let mut phone = Publisher::udp(&kamailio, "alice").event("dialog");
        phone.publish(busy("alice", "before"));
        let mut early = Watcher::udp(&kamailio, "alice").event("dialog");
        early.subscribe(600);
        early.next_notify("initial");
        let mark = kamailio.log().len();
        let outage = database.take_away();
        let end = Instant::now() + Duration::from_secs(6);
        let (mut refused, mut slowest) = (0, Duration::ZERO);
        while Instant::now() < end {
            let since = Instant::now();
            let message = phone.message(Some(&busy("alice", "during")));
            refused += usize::from(answer(&phone.endpoint, &message).status() != Some(200));
            slowest = slowest.max(since.elapsed());
            std::thread::sleep(Duration::from_millis(100));
        }
        outage.end();
        let since = Instant::now();
        let recovered = eventually(RECOVERY, || {
            let mut probe = Publisher::udp(&kamailio, "probe").event("dialog");
            (probe.try_publish(busy("probe", "probe")).status() == Some(200)).then(|| since.elapsed())
        });
        let log = kamailio.log()[mark..].to_owned();
        let lines = log.lines().filter(|line| !line.contains("SCRIPT-RESULT")).count();
        eprintln!("{lines} lines, {refused} refused, slowest {slowest:?}, back after {recovered:?}");
        let most = differs("A6 all drivers' lines of six seconds", usize::MAX, 50);
        assert!(lines <= most, "{lines} lines:\n{log}");
        let wait = differs("A6 well again", RECOVERY, Duration::from_secs(3));
        assert!(recovered.is_some_and(|time| time <= wait), "{recovered:?}");
        if target() == Target::Ours {
            assert!(slowest < Duration::from_secs(2), "{slowest:?}");
            phone.modify(busy("alice", "after"));
            early.wait_notify_for(RECOVERY, "after", |n| n.body().contains("\"after\""));
        }
    }
}

storages! {
    [postgres: Storage::on(Driver::Postgres, 2, 0, 0);]

    // The server is there, but has no place for one process that was thrown out.
    fn a13_a_connection_that_cannot_be_had_stops_nobody_else(storage) {
        if !ours_only("A13 stock asks each time") {
            return;
        }
        let database = Database::private(storage.driver());
        let config = Config::new(storage).database(&database).children(4).ignore_log("ERROR");
        let kamailio = Kamailio::start(config);
        kamailio.wait_all_processes();
        let mut phone = Publisher::udp(&kamailio, "alice").event("dialog");
        phone.publish(busy("alice", "before"));
        for _ in 0..40 {
            phone.modify(busy("alice", "before"));
        }
        // Who asked last is one of the workers.
        kamailio.execute(
            "UPDATE pg_database SET datallowconn = false WHERE datname = current_database();
             SELECT pg_terminate_backend(pid) FROM pg_stat_activity
             WHERE datname = current_database() AND pid <> pg_backend_pid()
             ORDER BY query_start DESC LIMIT 1;",
        );
        let (mut good, mut worst, mut last) = (0, Duration::ZERO, Instant::now());
        for round in 0..200 {
            let mut phone = Publisher::udp(&kamailio, &format!("u{round}")).event("dialog");
            let message = phone.message(Some(&busy("u", "d")));
            if answer(&phone.endpoint, &message).status() == Some(200) {
                good += 1;
                worst = worst.max(last.elapsed());
                last = Instant::now();
            }
            std::thread::sleep(Duration::from_millis(40));
        }
        database.administer("UPDATE pg_database SET datallowconn = true;");
        eprintln!("{good} of 200 served, longest gap {worst:?}");
        assert!(good >= 80, "{good} of 200; {worst:?}\n{}", kamailio.log());
        let all_again = eventually(RECOVERY, || {
            let mut served = (0..12).map(|n| {
                let mut probe = Publisher::udp(&kamailio, &format!("again{n}")).event("dialog");
                probe.try_publish(busy("again", "probe")).status()
            });
            served.all(|code| code == Some(200)).then_some(())
        });
        assert!(all_again.is_some());
        kamailio.finish();
    }
}
