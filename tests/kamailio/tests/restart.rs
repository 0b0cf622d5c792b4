//! Kill -9 under load, in every mode that stores something, on every database:
//! what was accepted is there afterwards, and no number goes back. And starting
//! with tens of thousands of rows.

use presence_kamailio_tests::prelude::*;
use presence_kamailio_tests::rows::now;
use presence_kamailio_tests::trace::Trace;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

const USERS: usize = 3;

/// For an answer. Who waits for SQLite's lock is not always served in turn.
const PATIENCE: Duration = Duration::from_secs(3);
const DB_UPDATE_PERIOD: u64 = 1;

fn user(index: usize) -> String {
    format!("user{}", index % USERS)
}

fn state(user: &str, note: &str) -> String {
    bodies::pidf(user, "phone", "open", note)
}

/// What one publisher knows when the server is gone.
struct Published {
    phone: Publisher,
    user: String,
    /// Number of the last state that was answered with 200.
    accepted: usize,
}

/// Publishes until the server does not answer any more.
fn publish_until_the_crash(
    server: SocketAddr,
    trace: Trace,
    index: usize,
    (stop, progress): (&AtomicBool, &AtomicUsize),
) -> Published {
    let user = user(index);
    let mut phone = Publisher::with(server, trace, &user);
    let mut accepted = 0;
    while !stop.load(Ordering::Relaxed) {
        let message = phone.message(Some(&state(&user, &format!("state {}", accepted + 1))));
        let Some(reply) = phone.endpoint.try_request(&message, PATIENCE) else {
            break;
        };
        assert_eq!(reply.status(), Some(200), "{}", reply.start_line);
        phone.etag = reply.header("SIP-ETag").map(str::to_owned);
        accepted += 1;
        progress.fetch_max(accepted, Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(3));
    }
    Published { phone, user, accepted }
}

/// Subscribes again and again until the server does not answer any more; the
/// watchers that were accepted, each with the time.
fn subscribe_until_the_crash(
    server: SocketAddr,
    trace: &Trace,
    index: usize,
    (stop, progress): (&AtomicBool, &AtomicUsize),
) -> Vec<(Watcher, Instant)> {
    let mut accepted = Vec::new();
    while accepted.len() < 25 && !stop.load(Ordering::Relaxed) {
        let name = user(index + accepted.len());
        let mut watcher = Watcher::with(server, trace.clone(), &name).named(&format!("w{index}"));
        let message = watcher.message();
        let Some(reply) = watcher.endpoint.try_request(&message, PATIENCE) else {
            break;
        };
        assert_eq!(reply.status(), Some(200), "{}", reply.start_line);
        watcher.to_tag = reply.to_tag().map(str::to_owned);
        watcher.remote_target = Some(format!("sip:{server}"));
        accepted.push((watcher, Instant::now()));
        progress.store(accepted.len(), Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(15));
    }
    accepted
}

/// One crash at a random time.
fn crash(storage: Storage) {
    let config = Config::new(storage)
        .children(4)
        .shared_memory(256)
        .parameter("tm", "wt_timer", 1000)
        .presence("db_update_period", DB_UPDATE_PERIOD as i64);
    let kamailio = Kamailio::start(config);
    let (server, trace) = (kamailio.address(), kamailio.trace());
    let mut guard = Watcher::udp(&kamailio, &user(0)).named("guard").event("presence.winfo");
    guard.subscribe(3600);
    let guard_since = Instant::now();
    let stop = AtomicBool::new(false);
    let random = u64::from(std::process::id()) ^ now() as u64 ^ u64::from(server.port()) << 3;
    // What each publisher, and each subscriber, has had accepted.
    let published_so_far: Vec<AtomicUsize> = (0..USERS).map(|_| AtomicUsize::new(0)).collect();
    let subscribed_so_far: Vec<AtomicUsize> = (0..2).map(|_| AtomicUsize::new(0)).collect();
    let moment = Duration::from_millis(1200 + random * 7919 % 1300);
    let (published, watchers, crashed) = std::thread::scope(|scope| {
        let publishers: Vec<_> = (0..USERS)
            .map(|index| {
                let (trace, state) = (trace.clone(), (&stop, &published_so_far[index]));
                scope.spawn(move || publish_until_the_crash(server, trace, index, state))
            })
            .collect();
        let subscribers: Vec<_> = (0..2)
            .map(|index| {
                let (trace, state) = (&trace, (&stop, &subscribed_so_far[index]));
                scope.spawn(move || subscribe_until_the_crash(server, trace, index, state))
            })
            .collect();
        std::thread::sleep(moment);
        // A busy machine gets more time, so that there is something to lose.
        let at_least = |so_far: &[AtomicUsize], count| {
            so_far.iter().all(|so_far| so_far.load(Ordering::Relaxed) >= count)
        };
        eventually(Duration::from_secs(10), || {
            (at_least(&published_so_far, 4) && at_least(&subscribed_so_far, 6)).then_some(())
        });
        kamailio.kill();
        let crashed = Instant::now();
        stop.store(true, Ordering::Relaxed);
        let published: Vec<Published> = publishers.into_iter().map(joined).collect();
        let watchers: Vec<(Watcher, Instant)> = subscribers.into_iter().flat_map(joined).collect();
        (published, watchers, crashed)
    });
    assert!(published.iter().all(|p| p.accepted > 3) && watchers.len() > 10, "too little load");
    let highest = |watcher: &Watcher| watcher.notifies().iter().map(|n| n.cseq).max().unwrap_or(0);
    let before: Vec<u32> = watchers.iter().map(|(watcher, _)| highest(watcher)).collect();
    let guard_before = highest(&guard);
    let winfo_version = |watcher: &Watcher, after: u32| {
        let list = watcher.notifies();
        let list = list.iter().filter(|n| n.cseq > after && !n.body().is_empty());
        list.map(|n| bodies::version(&n.body())).collect::<Vec<u32>>()
    };
    let version_before = winfo_version(&guard, 0).into_iter().max();

    kamailio.start_again();

    if storage.has_publication_rows() {
        for one in &published {
            let shown = Watcher::udp(&kamailio, &one.user).fetch().body();
            let tuples = bodies::tuples(&shown);
            let number = tuples.first().and_then(|t| t.note.strip_prefix("state ")?.parse().ok());
            // The one without an answer may have been stored or not.
            if !number.is_some_and(|n: usize| n == one.accepted || n == one.accepted + 1) {
                kamailio.fail(&format!("{} was accepted, {shown:?} is there", one.accepted));
            }
        }
    }
    // Everybody hears of the next change, with a CSeq that has not been used.
    for one in published {
        let mut phone = one.phone;
        let body = state(&one.user, "after the crash");
        if phone.try_modify(&body).status() != Some(200) {
            phone.publish(&body);
        }
    }
    let mut lost = Vec::new();
    for ((watcher, since), before) in watchers.iter().zip(before) {
        let found = watcher.find_notify(Duration::from_secs(5), |n| {
            n.body().contains("after the crash") && n.state == "active"
        });
        let Some(notify) = found else {
            lost.push(crashed - *since);
            continue;
        };
        assert!(notify.cseq > before, "CSeq {} after {before}", notify.cseq);
        watcher.assert_rising_cseq();
    }
    // Mode 2 may lose those of the last period (and of the flush itself).
    let excused = match storage.subs_db_mode() {
        2 => Duration::from_millis(DB_UPDATE_PERIOD * 1000 + 700),
        _ => Duration::ZERO,
    };
    lost.retain(|age| *age > excused);
    if !lost.is_empty() {
        kamailio.fail(&format!("lost, this long before the crash: {lost:?}"));
    }
    if crashed - guard_since > excused {
        let mut late = Watcher::udp(&kamailio, &user(0)).named("late");
        late.subscribe(600);
        let notify = guard.wait_notify("winfo after the crash", |n| {
            n.cseq > guard_before && n.body().contains("late@")
        });
        let versions = winfo_version(&guard, guard_before);
        if let (Some(old), Some(new)) = (version_before, versions.into_iter().min()) {
            assert!(new > old, "winfo version {new} after {old}");
        }
        assert!(notify.cseq > guard_before);
        guard.assert_rising_cseq();
    }
    kamailio.finish();
}

fn joined<T>(thread: std::thread::ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|_| panic!("a thread of the load panicked; its message is above"))
}

storages! {
    [
        write_through_sqlite: Storage::sqlite(1, 1);
        write_through_postgres: Storage::on(Driver::Postgres, 1, 0, 0);
        write_through_mariadb: Storage::on(Driver::MariaDb, 1, 1, 0);
        write_back_sqlite: Storage::sqlite(2, 1);
        write_back_postgres: Storage::on(Driver::Postgres, 2, 0, 0);
        write_back_mariadb: Storage::on(Driver::MariaDb, 2, 1, 0);
        database_only_sqlite: Storage::sqlite(3, 0);
        database_only_postgres: Storage::on(Driver::Postgres, 3, 0, 0);
        database_only_postgres_notifiers: Storage::on(Driver::Postgres, 3, 0, 2);
        database_only_mariadb: Storage::on(Driver::MariaDb, 3, 0, 0);
        database_only_mariadb_notifiers: Storage::on(Driver::MariaDb, 3, 0, 2);
    ]

    fn a7_nothing_accepted_is_lost_by_kill_9(storage) {
        let stock = "A7 CSeqs go back after a crash; D17 database is locked";
        if !ours_only(stock) || !long_test_of(storage) {
            return;
        }
        for _ in 0..rounds("PRESENCE_RESTART_RUNS", 1) {
            crash(storage);
        }
    }
}

/// What a watcher knows of its subscription when the server is gone.
struct Known {
    watcher: Watcher,
    /// When its last request was answered.
    answered: Instant,
    ended: bool,
}

/// Sends the next SUBSCRIBE; false if the server does not answer any more.
fn ask(watcher: &mut Watcher, server: SocketAddr, expires: u32) -> bool {
    let mut message = watcher.message();
    message.set("Expires", expires.to_string());
    let Some(reply) = watcher.endpoint.try_request(&message, PATIENCE) else { return false };
    assert_eq!(reply.status(), Some(200), "{}", reply.start_line);
    watcher.to_tag = reply.to_tag().map(str::to_owned);
    watcher.remote_target = Some(format!("sip:{server}"));
    true
}

/// Subscribes until told to stop, and ends every fourth subscription at once, as
/// many later.
fn come_and_go(server: SocketAddr, trace: &Trace, index: usize, stop: &AtomicBool) -> Vec<Known> {
    let mut known: Vec<Known> = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let name = user(known.len());
        let mut watcher = Watcher::with(server, trace.clone(), &name).named(&format!("w{index}"));
        if !ask(&mut watcher, server, 600) {
            break;
        }
        known.push(Known { watcher, answered: Instant::now(), ended: false });
        // Some are written before they end, some are not.
        let age = if known.len().is_multiple_of(4) { 1 } else { 40 };
        if known.len().is_multiple_of(2)
            && let Some(place) = known.len().checked_sub(age)
            && let Some(old) = known.get_mut(place).filter(|old| !old.ended)
        {
            old.ended = true;
            // What becomes of a request without an answer is not known.
            let answered = ask(&mut old.watcher, server, 0);
            old.answered = Instant::now();
            if !answered {
                break;
            }
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    known
}

storages! {
    [
        default_mode: Storage::Default;
        postgres: Storage::on(Driver::Postgres, 2, 1, 0);
        mariadb: Storage::on(Driver::MariaDb, 2, 1, 0);
    ]

    // With the default db_update_period, which is far away.
    fn b49_kill_9_loses_a_second(storage) {
        if storage.subs_db_mode() != 2 {
            return;
        }
        // Then stock answers some requests with 500.
        if storage.driver() == Driver::Sqlite && !ours_only("D17 database is locked") {
            return;
        }
        let config = Config::new(storage).children(4).shared_memory(256);
        let kamailio = Kamailio::start(config);
        let (server, trace) = (kamailio.address(), kamailio.trace());
        let stop = AtomicBool::new(false);
        let (known, crashed) = std::thread::scope(|scope| {
            let load: Vec<_> = (0..2)
                .map(|index| {
                    let (trace, stop) = (&trace, &stop);
                    scope.spawn(move || come_and_go(server, trace, index, stop))
                })
                .collect();
            std::thread::sleep(Duration::from_millis(3000));
            let crashed = Instant::now();
            kamailio.kill();
            stop.store(true, Ordering::Relaxed);
            let known: Vec<Known> = load.into_iter().flat_map(joined).collect();
            (known, crashed)
        });
        let rows = kamailio.rows("active_watchers");
        let stored = |known: &Known| {
            rows.iter().any(|row| row.get("callid") == Some(&known.watcher.call_id))
        };
        // Half a second more for a busy machine.
        let old = known.iter().filter(|known| {
            crashed.saturating_duration_since(known.answered) > Duration::from_millis(1500)
        });
        let (ended, living): (Vec<&Known>, Vec<&Known>) = old.partition(|known| known.ended);
        assert!(ended.len() >= 5 && living.len() >= 20, "{} {}", ended.len(), living.len());
        let lost = living.iter().filter(|known| !stored(known)).count();
        let lost_by_stock = differs("B49 what kill -9 loses", living.len(), 0);
        assert_eq!(lost, lost_by_stock, "of {}", living.len());
        let come_back = ended.iter().filter(|known| stored(known)).count();
        assert_eq!(come_back, 0, "of {}", ended.len());

        kamailio.start_again();
        let before: Vec<usize> = ended.iter().map(|known| known.watcher.notifies().len()).collect();
        for index in 0..USERS {
            Publisher::udp(&kamailio, &user(index)).publish(state(&user(index), "afterwards"));
        }
        if lost == 0 {
            for known in &living {
                known.watcher.wait_notify("afterwards", |n| n.body().contains("afterwards"));
            }
        }
        let after: Vec<usize> = ended.iter().map(|known| known.watcher.notifies().len()).collect();
        assert_eq!(after, before, "who has ended its subscription hears nothing");
        kamailio.finish();
    }
}

storages! {
    [
        default_mode: Storage::Default;
        write_through_postgres: Storage::on(Driver::Postgres, 1, 0, 0);
        write_back_mariadb: Storage::on(Driver::MariaDb, 2, 1, 0);
        database_only_postgres: Storage::on(Driver::Postgres, 3, 0, 0);
        database_only_mariadb_notifiers: Storage::on(Driver::MariaDb, 3, 0, 2);
    ]

    // As $subs shows them in a NOTIFY after the restart.
    fn b38_flags_and_user_agent_are_restored(storage) {
        if !storage.has_subscription_rows() {
            return;
        }
        let config = Config::new(storage).before_subscribe("setbflag(3);").route(
            "event_route[tm:local-request] { if(is_method(\"NOTIFY\")) { \
             xlog(\"L_NOTICE\", \"RESTORED $subs(flags) $subs(user_agent) .\\n\"); } }",
        );
        let kamailio = Kamailio::start(config);
        let mut watcher = Watcher::udp(&kamailio, "alice");
        watcher.extra_headers.push(("User-Agent".into(), "Test phone 1.0".into()));
        watcher.subscribe(600);
        watcher.next_notify("initial");
        kamailio.restart();
        let mark = kamailio.log_lines("RESTORED").len();
        Publisher::udp(&kamailio, "alice").publish(bodies::open("alice"));
        watcher.wait_notify("open", |n| n.body().contains(">open<"));
        let line = kamailio.log_lines("RESTORED").into_iter().nth(mark);
        let line = line.unwrap_or_else(|| kamailio.fail("no line of the event route"));
        let shown = line.split_once("RESTORED ").map_or("", |(_, rest)| rest.trim());
        let lost = if storage.subs_db_mode() == 3 { "8 Test phone 1.0 ." } else { "0  ." };
        assert_eq!(shown, differs("B38 flags and user_agent", lost, "8 Test phone 1.0 ."));
        kamailio.finish();
    }
}

const MANY: u32 = 30_000;

storages! {
    [
        write_back_sqlite: Storage::sqlite(2, 1);
        write_back_postgres: Storage::on(Driver::Postgres, 2, 1, 0);
        write_back_mariadb: Storage::on(Driver::MariaDb, 2, 1, 0);
        write_through_sqlite: Storage::sqlite(1, 0);
        write_through_postgres: Storage::on(Driver::Postgres, 1, 1, 0);
        write_through_mariadb: Storage::on(Driver::MariaDb, 1, 1, 0);
        database_only_postgres: Storage::on(Driver::Postgres, 3, 0, 0);
        database_only_mariadb: Storage::on(Driver::MariaDb, 3, 1, 0);
    ]

    // With the default private memory (-M 8).
    fn thirty_thousand_rows_are_loaded_at_start(storage) {
        if !long_test_of(storage) {
            return;
        }
        let at_once = storage.driver() == Driver::Sqlite && storage.subs_db_mode() != 3;
        if at_once && !ours_only("stock reads all rows of SQLite at once: no private memory") {
            return;
        }
        let database = Database::create(storage.driver());
        let until = now() + 3600;
        database.insert(
            "active_watchers",
            "presentity_uri, watcher_username, watcher_domain, to_user, to_domain, from_user, \
             from_domain, event, callid, to_tag, from_tag, local_cseq, remote_cseq, contact, \
             record_route, expires, status, reason, version, socket_info, local_contact, updated, \
             updated_winfo, flags, user_agent",
            (0..MANY).map(|n| {
                let user = format!("user{}", n / 3);
                format!(
                    "'{}', 'w{n}', '{DOMAIN}', '{user}', '{DOMAIN}', 'w{n}', '{DOMAIN}', 'presence', \
                     'many-{n}', 't{n}', 'f{n}', 7, 1, 'sip:w{n}@127.0.0.1:9', '', {until}, 1, '', 7, \
                     '', 'sip:127.0.0.1:9', -1, -1, 0, 'A telephone of the many, {n}'",
                    aor(&user)
                )
            }),
        );
        let body = bodies::pidf("many", "phone", "open", "from the table");
        database.insert(
            "presentity",
            "username, domain, event, etag, expires, received_time, body, sender, priority, ruid",
            (0..MANY).map(|n| {
                format!(
                    "'user{n}', '{DOMAIN}', 'presence', 'a.{n}.1', {until}, {}, '{body}', '', {n}, 'r-{n}'",
                    now()
                )
            }),
        );
        let config = Config::new(storage).database(&database).shared_memory(256);
        let kamailio = Kamailio::start(config);
        // The last publication is there, and its tag works.
        let last = format!("user{}", MANY - 1);
        let shown = Watcher::udp(&kamailio, &last).fetch().body();
        assert_eq!(shown.contains("from the table"), storage.has_publication_rows(), "{shown:?}");
        let mut phone = Publisher::udp(&kamailio, &last);
        phone.etag = Some(format!("a.{}.1", MANY - 1));
        phone.refresh();
        // The last subscription is there, and its numbers go on: it is taken
        // over by a watcher of ours.
        let n = MANY - 1;
        let mut watcher = Watcher::udp(&kamailio, &format!("user{}", n / 3));
        watcher.call_id = format!("many-{n}");
        watcher.from_tag = format!("f{n}");
        watcher.to_tag = Some(format!("t{n}"));
        watcher.remote_target = Some(format!("sip:{}", kamailio.address()));
        watcher.cseq = 5;
        watcher.subscribe(600);
        let notify = watcher.next_notify("of the row");
        assert!(notify.cseq > 7, "CSeq {}", notify.cseq);
        watcher.unsubscribe();
        watcher.wait_notify("final", |n| n.state == "terminated");
        if storage.has_subscription_rows() && storage.subs_db_mode() != 2 {
            kamailio.wait_no_row_of(&watcher);
            assert_eq!(database.count("active_watchers"), MANY as usize - 1);
        }
        assert_eq!(database.count("presentity"), MANY as usize);
        kamailio.finish();
    }
}
