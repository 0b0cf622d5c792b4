//! What is measured: a file for each kind of question.

mod database;
mod expiry;
mod fan_out;
mod flood;
mod flush;
mod footprint;
mod many;
mod notifiers;
mod scale;
mod single;

use crate::Fallible;
use crate::bench::Context;

/// A row of the table of goals.
pub struct Scenario {
    /// P1 to P13.
    pub id: &'static str,
    /// What it is about.
    pub title: &'static str,
    /// Whether Kamailio without a presence module can be measured too.
    pub has_floor: bool,
    /// Measures one variant once.
    pub run: fn(Context<'_>) -> Fallible<()>,
}

/// All scenarios.
pub static ALL: &[Scenario] = &[
    Scenario { id: "P1", title: "single operations in memory", has_floor: true, run: single::run },
    Scenario {
        id: "P2",
        title: "refresh among many subscriptions",
        has_floor: true,
        run: scale::refresh,
    },
    Scenario {
        id: "P3",
        title: "growth of all operations with the number of subscriptions",
        has_floor: false,
        run: scale::growth,
    },
    Scenario {
        id: "P4",
        title: "one presentity with many watchers",
        has_floor: true,
        run: fan_out::ladder,
    },
    Scenario {
        id: "P5",
        title: "refresh on a presentity with many watchers",
        has_floor: true,
        run: fan_out::hot_refresh,
    },
    Scenario {
        id: "P6",
        title: "PUBLISH on PostgreSQL and MariaDB",
        has_floor: false,
        run: database::servers,
    },
    Scenario {
        id: "P7",
        title: "PUBLISH on SQLite, four workers",
        has_floor: false,
        run: database::sqlite,
    },
    Scenario {
        id: "P8",
        title: "write-back to PostgreSQL, stop and restart",
        has_floor: false,
        run: flush::run,
    },
    Scenario {
        id: "P9",
        title: "many subscriptions expire at once",
        has_floor: false,
        run: expiry::run,
    },
    Scenario {
        id: "P10",
        title: "everything in the database, notifier processes",
        has_floor: false,
        run: notifiers::run,
    },
    Scenario {
        id: "P11",
        title: "shared memory per record",
        has_floor: false,
        run: footprint::run,
    },
    Scenario {
        id: "P12",
        title: "one presentity with very many publications",
        has_floor: false,
        run: many::run,
    },
    Scenario {
        id: "P13",
        title: "one source floods, its neighbours are served",
        has_floor: false,
        run: flood::run,
    },
];

/// The scenarios of these names, in the order of the list; all when none is named.
pub fn wanted(names: &[String]) -> Fallible<Vec<&'static Scenario>> {
    for name in names {
        if !ALL.iter().any(|scenario| scenario.id.eq_ignore_ascii_case(name)) {
            let known: Vec<&str> = ALL.iter().map(|scenario| scenario.id).collect();
            return Err(format!("no scenario {name}; there are {}", known.join(", ")));
        }
    }
    let named = |scenario: &&Scenario| {
        names.is_empty() || names.iter().any(|name| scenario.id.eq_ignore_ascii_case(name))
    };
    Ok(ALL.iter().filter(named).collect())
}
