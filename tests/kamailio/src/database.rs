//! The database beside a Kamailio: creating it and reading its rows.

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

/// Folder of the distribution's SQLite schema.
const SCHEMA: &str = "/usr/share/kamailio/db_sqlite";

/// A row as column name -> value as text (`NULL` for a null).
pub type Row = BTreeMap<String, String>;

/// Creates a SQLite database with Kamailio's standard and presence tables.
///
/// The journal mode is WAL, so a test that reads does not make Kamailio's
/// writers fail with "database is locked".
pub fn create_sqlite(file: &Path) {
    let connection = Connection::open(file)
        .unwrap_or_else(|error| panic!("cannot create {}: {error}", file.display()));
    let mut script = String::from("PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF; BEGIN;\n");
    for name in ["standard-create.sql", "presence-create.sql", "rls-create.sql"] {
        let path = format!("{SCHEMA}/{name}");
        script += &std::fs::read_to_string(&path).unwrap_or_else(|error| {
            panic!("cannot read {path}: {error} (package kamailio-sqlite-modules)")
        });
    }
    script += "COMMIT;";
    connection
        .execute_batch(&script)
        .unwrap_or_else(|error| panic!("cannot create the tables in {}: {error}", file.display()));
}

fn open(file: &Path, flags: OpenFlags) -> Connection {
    let connection = Connection::open_with_flags(file, flags)
        .unwrap_or_else(|error| panic!("cannot open {}: {error}", file.display()));
    connection
        .busy_timeout(Duration::from_secs(3))
        .unwrap_or_else(|error| panic!("busy_timeout: {error}"));
    connection
}

/// The rows that a SELECT gives.
pub fn query(file: &Path, sql: &str) -> Vec<Row> {
    let run = || -> rusqlite::Result<Vec<Row>> {
        let connection = open(file, OpenFlags::SQLITE_OPEN_READ_WRITE);
        let mut statement = connection.prepare(sql)?;
        let names: Vec<String> = statement.column_names().into_iter().map(str::to_owned).collect();
        let rows = statement.query_map([], |row| {
            let mut map = Row::new();
            for (index, name) in names.iter().enumerate() {
                let value = match row.get_ref(index)? {
                    ValueRef::Null => "NULL".to_owned(),
                    ValueRef::Integer(number) => number.to_string(),
                    ValueRef::Real(number) => number.to_string(),
                    ValueRef::Text(bytes) | ValueRef::Blob(bytes) => {
                        String::from_utf8_lossy(bytes).into_owned()
                    }
                };
                map.insert(name.clone(), value);
            }
            Ok(map)
        })?;
        rows.collect()
    };
    run().unwrap_or_else(|error| panic!("{sql}: {error}"))
}

/// Runs statements that change something.
pub fn execute(file: &Path, sql: &str) {
    open(file, OpenFlags::SQLITE_OPEN_READ_WRITE)
        .execute_batch(sql)
        .unwrap_or_else(|error| panic!("{sql}: {error}"));
}
