//! What the columns of our tables take, asked for at start. A value that its
//! column cannot have never reaches the driver, which would log it and whose
//! server might give up a whole transaction.

use crate::error::Fault;
use crate::host::database::Connection;
use crate::host::state;
use crate::ports::{Assignment, Compare, Condition, Database, Value};
use crate::sql::Dialect;
use crate::sql::columns::{self, Charset};
use crate::store::widths::{Column, Widths};

const POSTGRES: &[&str] = &["column_name", "character_maximum_length", "data_type"];
const MYSQL: &[&str] =
    &["column_name", "character_maximum_length", "column_type", "character_set_name"];

/// Columns with a time: drivers of which nothing is known have 32 bits for it.
const TIMES: [&str; 3] = ["expires", "received_time", "inserted_time"];

/// What one of our tables takes, once that is known.
fn of(table: &str) -> Option<&'static Widths> {
    let server = state::server()?;
    let (config, widths) = (&server.config, &server.widths);
    let known = [
        (&config.presentity_table, &widths.publications),
        (&config.active_watchers_table, &widths.subscriptions),
        (&config.watchers_table, &widths.watchers),
    ];
    known.into_iter().find(|(name, _)| name[..] == *table.as_bytes()).map(|(_, widths)| widths)
}

/// The name of one of our tables, if it is one.
pub(super) fn ours(table: &str) -> Option<&'static str> {
    let config = &state::server()?.config;
    let tables = [&config.presentity_table, &config.active_watchers_table, &config.watchers_table];
    let name = tables.into_iter().find(|name| name[..] == *table.as_bytes())?;
    std::str::from_utf8(name).ok()
}

/// Fails if a row cannot be stored, whatever else is in the table.
pub(super) fn check(table: &str, row: &[Assignment]) -> Result<(), Fault> {
    match of(table).and_then(|widths| widths.unfit(row)) {
        Some(_) => Err(Fault::Refused),
        None => Ok(()),
    }
}

/// No row of the table can meet the conditions.
pub(super) fn meet_nothing(table: &str, conditions: &[Condition]) -> bool {
    of(table).is_some_and(|widths| widths.meet_nothing(conditions))
}

impl Connection {
    /// What a table's columns take; where that cannot be read nothing is known.
    pub fn widths(&mut self, table: &str) -> Widths {
        let columns = match self.driver.dialect() {
            Some(Dialect::Sqlite) => self.sqlite_columns(table),
            Some(dialect) => self.server_columns(dialect, table),
            None => Ok(times()),
        };
        columns.map_or_else(|_| Widths::default(), Widths::new)
    }

    /// Types count for its driver, not for SQLite itself.
    fn sqlite_columns(&mut self, table: &str) -> Result<Vec<Column>, Fault> {
        let name = table.replace('\'', "''");
        let statement = format!("SELECT name, type FROM pragma_table_info('{name}')");
        let mut found = Vec::new();
        self.ask(statement.as_bytes(), &mut |row| {
            if let [name, declared] = row {
                let range = columns::range(Dialect::Sqlite, declared.as_bytes());
                found.push(Column { name: text(name), range, ..Column::default() });
            }
        })?;
        Ok(found)
    }

    fn server_columns(&mut self, dialect: Dialect, table: &str) -> Result<Vec<Column>, Fault> {
        let is_mysql = dialect == Dialect::MySql;
        let client = self.raw(match is_mysql {
            true => b"SELECT @@character_set_client",
            false => b"SHOW client_encoding",
        });
        let server = if is_mysql { Ok(None) } else { self.raw(b"SHOW server_encoding") };
        let (client, server) = (word(client), word(server));
        let mut conditions = vec![("table_name", Compare::Eq, Value::text(table.as_bytes()))];
        if let Some(schema) = self.driver.schema() {
            conditions.push(("table_schema", Compare::Eq, Value::text(schema)));
        }
        let catalogue = self.qualified("information_schema", "columns");
        let wanted = if is_mysql { MYSQL } else { POSTGRES };
        let mut found = Vec::new();
        self.query(&catalogue, &conditions, wanted, None, &mut |row| {
            let (Some([name, width, declared]), set) = (row.get(..3), row.get(3)) else { return };
            let range = columns::range(dialect, declared.as_bytes());
            let is_text = range.is_none() && declared.as_bytes() != b"bytea";
            let charset = match set {
                _ if !is_text => Charset::Unknown,
                Some(set) => columns::mysql(&client, set.as_bytes()),
                None => columns::postgres(&client, &server),
            };
            let width = width.as_int().and_then(|width| usize::try_from(width).ok());
            found.push(Column { name: text(name), width, charset, range });
        })?;
        Ok(found)
    }
}

fn times() -> Vec<Column> {
    let range = Some((i64::from(i32::MIN), i64::from(i32::MAX)));
    let time = |name: &str| Column { name: name.to_owned(), range, ..Column::default() };
    TIMES.into_iter().map(time).collect()
}

fn text(value: &Value) -> String {
    String::from_utf8_lossy(value.as_bytes()).into_owned()
}

fn word(answer: Result<Option<Value>, Fault>) -> Vec<u8> {
    answer.ok().flatten().map(|value| value.as_bytes().to_vec()).unwrap_or_default()
}
