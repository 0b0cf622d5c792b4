//! What clients may send gets into the tables and back as it was, by the
//! statements for many rows too, and a row that the database refuses does not
//! keep others from it.

use presence_kamailio_tests::prelude::*;
use presence_kamailio_tests::rows::number;

/// Pieces of values that an SQL server, or a driver, may read in another way.
const ODD: &[&str] = &[
    "plain",
    "it's",
    "''",
    r"back\slash\",
    r"\'",
    r"\x00\000\u0000%00",
    "');DROP`TABLE`active_watchers;--",
    "\"quoted\"",
    "?1$1:a@b%s{}<>[]",
    "NULL",
    "0x41",
];

/// Columns that say something else after a restart, or whenever they like.
const MOVING: &[&str] = &["id", "local_cseq", "version", "expires", "updated", "updated_winfo"];

fn watchers(kamailio: &Kamailio) -> Vec<Watcher> {
    let watcher_of = |(at, odd): (usize, &&str)| {
        let mut watcher = Watcher::udp(kamailio, "alice").named(&format!("w{at}"));
        watcher.call_id += odd;
        watcher.extra_headers = vec![
            ("User-Agent".into(), format!("{odd} T\u{e9}l\u{e9} {odd}")),
            ("Record-Route".into(), format!("<sip:{};lr>", watcher.endpoint.local())),
        ];
        watcher
    };
    let mut all: Vec<_> = ODD.iter().enumerate().map(watcher_of).collect();
    for (at, watcher) in all.iter_mut().enumerate() {
        match at {
            // Nothing of it is odd: it is written with others in one statement.
            0 | 1 => watcher.extra_headers.truncate(0),
            2 => watcher.from_tag += "'`%*~!+",
            3 => watcher.extra_headers[0].1 = "x".repeat(120),
            4 => {
                let host = watcher.endpoint.local();
                let route = format!(r#""a\\b\"c, 'd'" <sip:{host};lr>"#);
                watcher.extra_headers[1].1 = route;
            }
            _ => watcher.contact = watcher.endpoint.contact("o'bri%5Cen"),
        }
    }
    all
}

/// The rows by watcher, without what moves.
fn rows(kamailio: &Kamailio) -> Vec<Row> {
    let mut rows = kamailio.rows("active_watchers");
    rows.sort_by_key(|row| row["watcher_username"].clone());
    rows.iter_mut().for_each(|row| MOVING.iter().for_each(|column| drop(row.remove(*column))));
    rows
}

fn wait_rows(kamailio: &Kamailio, what: &str, fits: impl Fn(&[Row]) -> bool) -> Vec<Row> {
    let rows_that_fit = || Some(rows(kamailio)).filter(|rows| fits(rows));
    eventually(Duration::from_secs(10), rows_that_fit)
        .unwrap_or_else(|| kamailio.fail(&format!("{what}: {:?}", rows(kamailio))))
}

fn start(storage: Storage) -> Kamailio {
    Kamailio::start(Config::new(storage).presence("db_update_period", 1))
}

storages! {
    [
        write_back_sqlite: Storage::sqlite(2, 1);
        write_back_postgres: Storage::on(Driver::Postgres, 2, 1, 0);
        write_back_mariadb: Storage::on(Driver::MariaDb, 2, 1, 0);
    ]

    fn storage_keeps_odd_values(storage) {
        if !ours_only("A7 what stock has written does not always come back") {
            return;
        }
        let kamailio = start(storage);
        let mut all = watchers(&kamailio);
        for watcher in &mut all {
            watcher.subscribe(600);
            watcher.next_notify("initial");
        }
        let written = wait_rows(&kamailio, "all are written", |rows| rows.len() == ODD.len());
        for watcher in &all {
            let found = written.iter().find(|row| row["callid"] == watcher.call_id);
            let row = found.unwrap_or_else(|| panic!("{}: {written:?}", watcher.call_id));
            assert_eq!(row["from_tag"], watcher.from_tag);
            assert_eq!(row["to_tag"], watcher.to_tag.as_deref().unwrap_or("?"));
            assert_eq!(row["contact"], watcher.contact.trim_matches(['<', '>']));
            if let [(_, agent), (_, route)] = &watcher.extra_headers[..] {
                assert_eq!((&row["user_agent"], &row["record_route"]), (agent, route));
            }
        }
        // Changed rows are written in another way than new ones.
        for watcher in &mut all {
            watcher.extra_headers.clear();
            watcher.subscribe(1200);
        }
        let refreshed = |rows: &[Row]| {
            rows.len() == ODD.len() && rows.iter().all(|row| row["remote_cseq"] == "2")
        };
        let changed = wait_rows(&kamailio, "all are refreshed", refreshed);
        kamailio.restart();
        // All are known, with the routes and Contacts they had: rows that are
        // written again show what was read.
        for watcher in &mut all {
            watcher.subscribe(600);
        }
        let refreshed = |rows: &[Row]| {
            rows.len() == ODD.len() && rows.iter().all(|row| row["remote_cseq"] == "3")
        };
        let again = wait_rows(&kamailio, "all are refreshed again", refreshed);
        for (before, after) in changed.iter().zip(&again) {
            for (column, value) in before.iter().filter(|(column, _)| *column != "remote_cseq") {
                assert_eq!(&after[column], value, "{column} of {}", before["callid"]);
            }
        }
        for watcher in &mut all {
            watcher.unsubscribe();
            watcher.wait_notify("final", |n| n.state == "terminated");
            watcher.assert_rising_cseq();
        }
        wait_rows(&kamailio, "all are deleted", |rows| rows.is_empty());
        kamailio.finish();
    }

    fn storage_goes_on_past_a_bad_row(storage) {
        if !ours_only("A6 a row that fails is written later") {
            return;
        }
        let kamailio = start(storage);
        let (refuse, take) = match storage.driver() {
            Driver::Sqlite => (
                "CREATE TRIGGER bad BEFORE INSERT ON active_watchers
                 WHEN NEW.watcher_username = 'w3' BEGIN SELECT RAISE(ABORT, 'bad'); END;",
                "DROP TRIGGER bad;",
            ),
            _ => (
                "ALTER TABLE active_watchers ADD CONSTRAINT bad CHECK (watcher_username <> 'w3');",
                "ALTER TABLE active_watchers DROP CONSTRAINT bad;",
            ),
        };
        kamailio.execute(refuse);
        let mut all: Vec<_> = (0..8)
            .map(|at| Watcher::udp(&kamailio, "alice").named(&format!("w{at}")))
            .collect();
        for watcher in &mut all {
            watcher.subscribe(600);
        }
        let written = wait_rows(&kamailio, "all but one are written", |rows| rows.len() == 7);
        assert!(written.iter().all(|row| row["watcher_username"] != "w3"), "{written:?}");
        // Those that are there follow their subscriptions meanwhile.
        for watcher in &mut all {
            watcher.subscribe(1200);
        }
        let refreshed = |rows: &[Row]| rows.len() == 7 && rows.iter().all(|row| number(row, "remote_cseq") == 2);
        wait_rows(&kamailio, "all but one are refreshed", refreshed);
        kamailio.execute(take);
        let all_of_them = |rows: &[Row]| rows.len() == 8 && rows.iter().all(|row| number(row, "remote_cseq") == 2);
        wait_rows(&kamailio, "the last one is written", all_of_them);
        for watcher in &mut all {
            watcher.unsubscribe();
        }
        wait_rows(&kamailio, "all are deleted", |rows| rows.is_empty());
        kamailio.finish();
    }
}

storages! {
    [
        postgres: Storage::on(Driver::Postgres, 3, 0, 0);
        postgres_notifiers: Storage::on(Driver::Postgres, 3, 0, 2);
    ]

    fn storage_routes_of_rows_keep_their_backslashes(storage) {
        if !ours_only("A7 what stock has written does not always come back") {
            return;
        }
        let kamailio = start(storage);
        let mut watcher = Watcher::udp(&kamailio, "alice").event("dialog");
        let route = format!(r#""a\\b\"c, 'd'" <sip:{};lr>"#, watcher.endpoint.local());
        watcher.extra_headers = vec![("Record-Route".into(), route.clone())];
        watcher.subscribe(600);
        let is_routed = |n: &Notify| n.message.header("Route") == Some(route.as_str());
        watcher.wait_notify("initial", is_routed);
        watcher.extra_headers.clear();
        watcher.subscribe(600);
        let mut phone = Publisher::udp(&kamailio, "alice").event("dialog");
        phone.publish(bodies::dialog_info("alice", 0, &[("d", "confirmed")]));
        watcher.wait_notify("a change", |n| n.body().contains("confirmed"));
        watcher.unsubscribe();
        watcher.wait_notify("final", |n| n.state == "terminated");
        for notify in watcher.notifies() {
            assert_eq!(notify.message.header("Route"), Some(route.as_str()), "{}", notify.state);
        }
        kamailio.finish();
    }
}
