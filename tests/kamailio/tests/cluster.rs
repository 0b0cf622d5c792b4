//! db_cluster in front of a driver: a `cluster://` URL works as with the stock
//! module where no transactions are needed.

use presence_kamailio_tests::prelude::*;

fn config(storage: Storage) -> Config {
    Config::new(storage)
        .module("db_cluster")
        .parameter("db_cluster", "connection", "con1=>@DATABASE@")
        .parameter("db_cluster", "cluster", "k1=>con1=9s9s")
        .presence("db_url", "cluster://k1")
        .presence("db_update_period", 1)
}

storages! {
    [
        memory_sqlite: Storage::sqlite(0, 1);
        write_through_sqlite: Storage::sqlite(1, 1);
        write_back_sqlite: Storage::sqlite(2, 1);
        write_back_postgres: Storage::on(Driver::Postgres, 2, 1, 0);
        write_back_mariadb: Storage::on(Driver::MariaDb, 2, 1, 0);
    ]

    fn a_cluster_url_works(storage) {
        // It asks db_cluster for results in steps, which SQLite's driver cannot give.
        if storage.driver() == Driver::Sqlite && !ours_only("D17 stock does not start") {
            return;
        }
        let kamailio = Kamailio::start(config(storage));
        let mut phone = Publisher::udp(&kamailio, "alice");
        phone.publish(bodies::open("alice"));
        let mut watcher = Watcher::udp(&kamailio, "alice");
        watcher.subscribe(600);
        watcher.wait_notify("open", |n| n.body().contains(">open<"));
        phone.refresh();
        if storage.has_subscription_rows() {
            kamailio.wait_row_of(&watcher, |_| true);
            kamailio.restart();
            phone.modify(bodies::pidf("alice", "phone", "closed", ""));
            watcher.wait_notify("closed", |n| n.body().contains(">closed<"));
            watcher.unsubscribe();
            kamailio.wait_no_row_of(&watcher);
        }
        phone.remove();
        kamailio.finish();
    }
}

#[test]
fn database_only_over_a_cluster_is_refused() {
    if !ours_only("A8 stock works without transactions, and without a promise") {
        return;
    }
    let config = config(Storage::sqlite(3, 0));
    let Err(log) = Kamailio::try_start(config) else { panic!("it starts") };
    let says = |line: &str| line.contains("ERROR: presence") && line.contains("cluster");
    assert!(log.lines().any(says), "{log}");
    assert!(!log.contains("signal 11") && !log.contains("SIGSEGV"), "{log}");
}
