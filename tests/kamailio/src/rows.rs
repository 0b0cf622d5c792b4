//! What tests look at in rows.

use crate::agents::Watcher;
use crate::database::Row;
use crate::kamailio::{Kamailio, eventually};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How long a row may take to be written or to go.
const PATIENCE: Duration = Duration::from_secs(6);

/// The time as the rows have it.
pub fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs() as i64)
}

/// The number in a column.
pub fn number(row: &Row, column: &str) -> i64 {
    row[column].parse().unwrap_or_else(|_| panic!("{column} of {row:?} is no number"))
}

impl Kamailio {
    /// The `active_watchers` row of a watcher's dialog, if there is one now.
    pub fn row_of(&self, watcher: &Watcher) -> Option<Row> {
        let id = &watcher.call_id;
        let rows =
            self.database().query(&format!("SELECT * FROM active_watchers WHERE callid='{id}'"));
        assert!(rows.len() < 2, "two rows of one dialog: {rows:?}");
        rows.into_iter().next()
    }

    /// The `active_watchers` row of a watcher's dialog, once it fits.
    pub fn wait_row_of(&self, watcher: &Watcher, fits: impl Fn(&Row) -> bool) -> Row {
        eventually(PATIENCE, || self.row_of(watcher).filter(|row| fits(row))).unwrap_or_else(|| {
            self.fail(&format!("no such active_watchers row in {:?}", self.rows("active_watchers")))
        })
    }

    /// Waits until no row of the watcher's dialog is left.
    pub fn wait_no_row_of(&self, watcher: &Watcher) {
        if eventually(PATIENCE, || self.row_of(watcher).is_none().then_some(())).is_none() {
            self.fail(&format!("still in {:?}", self.rows("active_watchers")));
        }
    }
}
