//! Support library of the behaviour tests: each test runs a real Kamailio with
//! either the stock `presence.so` or ours, speaks raw SIP to it over loopback
//! and looks at the replies, the NOTIFYs, the log and the database.
//!
//! ```text
//! PRESENCE_UNDER_TEST=upstream cargo test     # the stock module of the distribution
//! PRESENCE_UNDER_TEST=ours     cargo test     # target/kamailio/presence.so (default)
//! ```
//!
//! A typical test:
//!
//! ```no_run
//! use presence_kamailio_tests::prelude::*;
//!
//! let kamailio = Kamailio::start(Config::new(Storage::Memory));
//! let mut watcher = Watcher::udp(&kamailio, "alice");
//! watcher.subscribe(600);
//! let mut phone = Publisher::udp(&kamailio, "alice");
//! phone.publish(bodies::pidf("alice", "phone", "open", ""));
//! watcher.wait_notify("alice online", |n| n.body().contains("open"));
//! kamailio.finish();
//! ```
//!
//! When a test panics, the [`kamailio::Kamailio`] it started prints the tail of
//! its log and of the SIP trace, and keeps its folder.

pub mod agents;
pub mod bodies;
pub mod cluster;
pub mod config;
pub mod database;
pub mod endpoint;
pub mod kamailio;
#[path = "../../limit/mod.rs"]
pub mod limit;
pub mod network;
pub mod nodes;
pub mod rows;
pub mod server;
pub mod sip;
pub mod target;
pub mod trace;
pub mod websocket;

/// Everything that a test file usually needs.
pub mod prelude {
    pub use crate::agents::{Notify, Publisher, Watcher};
    pub use crate::bodies;
    pub use crate::both_storages;
    pub use crate::config::{Config, Driver, Storage, long_test_of, rounds};
    pub use crate::database::{Database, Row};
    pub use crate::endpoint::{Answer, Endpoint};
    pub use crate::kamailio::{Kamailio, eventually};
    pub use crate::sip::{DOMAIN, Message, aor};
    pub use crate::target::{Target, differs, ours_only, target};
    pub use crate::{every_storage, storages};
    pub use std::time::{Duration, Instant};
}

/// Makes two tests of one scenario: `name::memory` (`subs_db_mode` 0,
/// `publ_cache` 2, no database) and `name::default_mode` (`subs_db_mode` 2,
/// `publ_cache` 1, SQLite; or what `PRESENCE_STORAGE` says).
///
/// ```ignore
/// both_storages! {
///     fn publish_is_answered(storage) { ... }
/// }
/// ```
#[macro_export]
macro_rules! both_storages {
    ($($scenarios:tt)*) => {
        $crate::storages! { [memory: Storage::Memory; default_mode: Storage::Default;] $($scenarios)* }
    };
}

/// As [`both_storages!`], and a test for each cell of storage modes and drivers
/// that is run every time; all the others are run by `PRESENCE_STORAGE`.
#[macro_export]
macro_rules! every_storage {
    ($($scenarios:tt)*) => {
        $crate::storages! {
            [
                memory: Storage::Memory;
                default_mode: Storage::Default;
                write_through_postgres: Storage::on(Driver::Postgres, 1, 0, 0);
                write_back_postgres: Storage::on(Driver::Postgres, 2, 1, 0);
                write_back_mariadb: Storage::on(Driver::MariaDb, 2, 1, 0);
                database_only_postgres: Storage::on(Driver::Postgres, 3, 0, 0);
                database_only_mariadb_notifiers: Storage::on(Driver::MariaDb, 3, 0, 2);
            ]
            $($scenarios)*
        }
    };
}

/// A test of each scenario for each of the named storages.
#[macro_export]
macro_rules! storages {
    ($cells:tt $($(#[$meta:meta])* fn $name:ident($storage:ident) $body:block)*) => {$(
        $(#[$meta])*
        mod $name {
            #[allow(unused_imports)]
            use super::*;
            #[allow(unused_imports)]
            use $crate::config::{Driver, Storage};
            fn scenario($storage: Storage) $body
            $crate::storage_tests! { $cells }
        }
    )*};
}

/// The tests of [`storages!`].
#[doc(hidden)]
#[macro_export]
macro_rules! storage_tests {
    ([$($test:ident: $cell:expr;)*]) => {$(
        #[test]
        fn $test() {
            if $crate::config::is_wanted($cell) { scenario($cell) }
        }
    )*};
}
