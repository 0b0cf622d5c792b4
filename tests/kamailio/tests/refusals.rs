//! What a column cannot have, or the database refuses for a reason of its own,
//! stays with the request that brought it: a clear answer at once, nothing in
//! the driver's log that need not be there, and everybody else's rows are
//! written.

use presence_kamailio_tests::prelude::*;
use presence_kamailio_tests::rows::{now, number};

/// Stands for the bytes in messages, which are text.
const HERE: &str = "BYTES-HERE";

/// No UTF-8, an overlong form, a surrogate, and four bytes that are UTF-8.
const ODD: [&[u8]; 4] = [b"\xff\xfe", b"a\xc0\x80", b"\xed\xa0\x80", "\u{1f600}".as_bytes()];

/// Longest time for an answer: nobody sleeps.
const SOON: Duration = Duration::from_millis(500);

fn with_bytes(message: &Message, bytes: &[u8]) -> Vec<u8> {
    let (mut text, mut sent) = (&message.to_bytes()[..], Vec::new());
    while let Some(at) = text.windows(HERE.len()).position(|part| part == HERE.as_bytes()) {
        sent.extend_from_slice(&text[..at]);
        sent.extend_from_slice(bytes);
        text = &text[at + HERE.len()..];
    }
    sent.extend_from_slice(text);
    sent
}

/// The status of the one final reply.
fn status(kamailio: &Kamailio, endpoint: &Endpoint, bytes: &[u8]) -> u16 {
    let since = Instant::now();
    let replies = endpoint.exchange(bytes, Duration::ZERO);
    let codes: Vec<u16> =
        replies.iter().filter_map(Message::status).filter(|c| *c >= 200).collect();
    assert!(since.elapsed() < SOON, "{:?} for {codes:?}", since.elapsed());
    match codes[..] {
        [code] => code,
        _ => kamailio.fail(&format!("{codes:?} to {}", String::from_utf8_lossy(bytes))),
    }
}

/// Puts bytes that a column cannot have into a watcher's requests.
type Spoil<'a> = &'a dyn Fn(&mut Watcher);

/// SUBSCRIBEs with odd bytes in each text that gets into a row.
fn odd_watchers(kamailio: &Kamailio) -> Vec<(&'static str, Watcher)> {
    let presentity = format!("alice{HERE}");
    let change: [(&'static str, Spoil<'_>); 7] = [
        ("From", &|w| *w = Watcher::udp(kamailio, "alice").named(HERE)),
        ("From tag", &|w| w.from_tag += HERE),
        ("Call-ID", &|w| w.call_id += HERE),
        ("Contact", &|w| w.contact = w.endpoint.contact(HERE)),
        ("Event id", &|w| {
            *w = Watcher::udp(kamailio, "alice").event(&format!("presence;id={HERE}"))
        }),
        ("Record-Route", &|w| {
            let route = format!("<sip:{HERE}@{};lr>", w.endpoint.local());
            w.extra_headers.push(("Record-Route".into(), route));
        }),
        ("User-Agent", &|w| w.extra_headers.push(("User-Agent".into(), format!("x{HERE}")))),
    ];
    let mut all = vec![("presentity", Watcher::udp(kamailio, &presentity))];
    for (what, change) in change {
        let mut watcher = Watcher::udp(kamailio, "alice");
        change(&mut watcher);
        all.push((what, watcher));
    }
    all
}

/// The distribution's tables have what the server has by default.
fn database(storage: Storage) -> Database {
    let database = Database::create(storage.driver());
    if storage.driver() == Driver::MariaDb {
        for table in ["active_watchers", "presentity", "watchers"] {
            database.execute(&format!("ALTER TABLE {table} CONVERT TO CHARACTER SET utf8mb3;"));
        }
    }
    database
}

storages! {
    [
        write_back_sqlite: Storage::sqlite(2, 1);
        write_back_postgres: Storage::on(Driver::Postgres, 2, 1, 0);
        write_back_mariadb: Storage::on(Driver::MariaDb, 2, 1, 0);
        write_through_postgres: Storage::on(Driver::Postgres, 1, 0, 0);
        database_only_postgres: Storage::on(Driver::Postgres, 3, 0, 0);
        database_only_mariadb: Storage::on(Driver::MariaDb, 3, 0, 0);
    ]

    fn b20_bytes_that_a_column_cannot_have(storage) {
        if !ours_only("B20 stock leaves it to the server, and sends 500") {
            return;
        }
        let config = Config::new(storage).database(&database(storage)).presence("db_update_period", 1);
        let kamailio = Kamailio::start(config);
        let takes_all = !storage.enforces_lengths();
        for odd in ODD {
            let fits = takes_all || storage.is_postgres() && std::str::from_utf8(odd).is_ok();
            for (what, mut watcher) in odd_watchers(&kamailio) {
                let message = watcher.message();
                let code = status(&kamailio, &watcher.endpoint, &with_bytes(&message, odd));
                // A table that is written later does not stand in the way, nor
                // does what is only there for information.
                let must_fit = storage.subs_db_mode() != 2 && what != "User-Agent";
                match (fits, must_fit) {
                    (false, true) => assert_eq!(code, 400, "{what} {odd:?}"),
                    _ => assert!(code == 200 || code == 400, "{what} {odd:?}: {code}"),
                }
                // Neither is one that asks for a dialog which cannot be there.
                watcher.to_tag = Some(format!("t{HERE}"));
                let message = watcher.message();
                let code = status(&kamailio, &watcher.endpoint, &with_bytes(&message, odd));
                assert!((400..500).contains(&code), "{what} {odd:?} in a dialog: {code}");
            }
            let mut phone = Publisher::udp(&kamailio, &format!("bob{HERE}"));
            let message = phone.message(Some(&bodies::open("bob")));
            let code = status(&kamailio, &phone.endpoint, &with_bytes(&message, odd));
            assert_eq!(code, if fits { 200 } else { 400 }, "PUBLISH {odd:?}");
            // A document may have any characters.
            if let Ok(text) = std::str::from_utf8(odd) {
                let mut phone = Publisher::udp(&kamailio, "carol");
                let body = bodies::pidf("carol", "phone", "open", text);
                phone.publish(&body);
                let stored = kamailio.rows("presentity");
                assert!(stored.iter().any(|row| row["body"] == body), "{stored:?}");
            }
            let mut phone = Publisher::udp(&kamailio, "carol");
            phone.etag = Some(format!("a.{HERE}"));
            let message = phone.message(Some(&bodies::open("carol")));
            let code = status(&kamailio, &phone.endpoint, &with_bytes(&message, odd));
            assert_eq!(code, 412, "an entity-tag with {odd:?}");
        }
        // Everybody else is served and stored.
        let mut good: Vec<_> =
            (0..20).map(|n| Watcher::udp(&kamailio, "alice").named(&format!("good{n}"))).collect();
        for watcher in &mut good {
            watcher.subscribe(600);
            watcher.next_notify("initial");
        }
        for watcher in &good {
            kamailio.wait_row_of(watcher, |_| true);
        }
        kamailio.finish();
    }

    // Times that a column of 32 bits cannot have are not granted.
    fn b20_lifetimes_end_where_the_columns_end(storage) {
        if !ours_only("B20 stock stores a time that has come around") {
            return;
        }
        let config = Config::new(storage)
            .presence("max_expires", i64::from(i32::MAX))
            .presence("db_update_period", 1);
        let kamailio = Kamailio::start(config);
        let most = i64::from(i32::MAX) - now();
        let mut watcher = Watcher::udp(&kamailio, "alice");
        let mut message = watcher.message();
        message.set("Expires", "4294967295");
        let granted = watcher.send(&message).number("Expires").unwrap_or(0);
        assert!((most - 100..=most).contains(&granted), "{granted} {most}");
        let row = kamailio.wait_row_of(&watcher, |_| true);
        assert!((i64::from(i32::MAX) - 100..=i64::from(i32::MAX)).contains(&number(&row, "expires")));
        let mut phone = Publisher::udp(&kamailio, "alice");
        phone.expires = Some(u32::MAX);
        let granted = phone.publish(bodies::open("alice")).number("Expires").unwrap_or(0);
        assert!((most - 100..=most).contains(&granted), "{granted} {most}");
        watcher.wait_notify("open", |n| n.body().contains(">open<"));
        kamailio.restart();
        watcher.subscribe(600);
        watcher.wait_notify("after the restart", |n| n.body().contains(">open<"));
        kamailio.finish();
    }

    // The whole table is not there for us: that is nobody's fault who asks.
    fn a13_a_table_that_must_not_be_changed_is_the_servers_fault(storage) {
        if !ours_only("A13 stock says 500 to all and 200 to some") || storage.subs_db_mode() == 2 {
            return;
        }
        let config = Config::new(storage).ignore_log("ERROR").ignore_log("PQresultStatus");
        let kamailio = Kamailio::start(config);
        let mut early = Watcher::udp(&kamailio, "alice").event("dialog");
        early.subscribe(600);
        early.next_notify("initial");
        let mut phone = Publisher::udp(&kamailio, "alice").event("dialog");
        let mark = kamailio.log().len();
        kamailio.execute("ALTER TABLE presentity RENAME TO hidden;");
        for _ in 0..30 {
            let since = Instant::now();
            let code = phone.try_publish(bodies::dialog_info("alice", 0, &[("d", "early")])).status();
            assert_eq!(code, Some(500));
            assert!(since.elapsed() < SOON, "{:?}", since.elapsed());
        }
        // Each process asks the driver once a second.
        let log = kamailio.log()[mark..].to_owned();
        let of_drivers = log.lines().filter(|line| line.contains(" db_") || line.contains("<core>"));
        let lines = of_drivers.count();
        assert!(lines <= 120, "{lines} lines of the drivers\n{log}");
        kamailio.execute("ALTER TABLE hidden RENAME TO presentity;");
        let body = bodies::dialog_info("alice", 0, &[("d", "confirmed")]);
        let accepted = eventually(Duration::from_secs(5), || {
            (phone.try_publish(&body).status() == Some(200)).then_some(())
        });
        assert!(accepted.is_some());
        early.wait_notify("confirmed", |n| n.body().contains("confirmed"));
        kamailio.finish();
    }

    // For reasons that nobody could know: a constraint of the operator's.
    fn b20_what_the_database_refuses(storage) {
        if !ours_only("B20 stock sends 500") || storage.subs_db_mode() == 2 {
            return;
        }
        let config = Config::new(storage).ignore_log("driver error").ignore_log("PQsendQuery")
            .ignore_log("execution aborted").ignore_log("PQresultStatus").ignore_log("bad");
        let kamailio = Kamailio::start(config);
        kamailio.execute(
            "ALTER TABLE active_watchers ADD CONSTRAINT bad CHECK (watcher_username <> 'w3');",
        );
        for n in 0..30 {
            let mut watcher = Watcher::udp(&kamailio, "alice").named(&format!("w{}", n % 6));
            let since = Instant::now();
            let code = watcher.try_subscribe(600).status();
            assert_eq!(code, Some(if n % 6 == 3 { 400 } else { 200 }));
            assert!(since.elapsed() < SOON, "{:?}", since.elapsed());
        }
        assert_eq!(kamailio.rows("active_watchers").len(), 25);
        kamailio.finish();
    }
}
