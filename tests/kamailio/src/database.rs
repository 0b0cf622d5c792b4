//! The database beside a Kamailio: creating it and reading its rows.

use crate::config::Driver;
use crate::server::{self, Kind, Server};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// The distribution's db_text tables.
const TEXT_TABLES: &str = "/usr/share/kamailio/dbtext/kamailio";

/// A row as column name -> value as text (`NULL` for a null).
pub type Row = BTreeMap<String, String>;

/// A database with Kamailio's standard and presence tables; clones are the
/// same database. The last one to go drops it.
#[derive(Clone)]
pub struct Database(Arc<Inner>);

struct Inner {
    place: Place,
    _folder: Option<tempfile::TempDir>,
}

enum Place {
    Sqlite(PathBuf),
    Text(PathBuf),
    Server(Arc<Server>, String),
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Place::Server(server, name) = &self.place {
            server.drop_database(name);
        }
    }
}

impl Database {
    /// A database of this driver, in a folder of its own or on the shared server.
    pub fn create(driver: Driver) -> Self {
        let folder = tempfile::Builder::new()
            .prefix("presence-test-database-")
            .tempdir()
            .unwrap_or_else(|error| panic!("cannot create a temporary folder: {error}"));
        let place = Self::place(driver, folder.path());
        Self(Arc::new(Inner { place, _folder: Some(folder) }))
    }

    /// [`Database::create`] whose files, if it has any, are in `folder`.
    pub(crate) fn create_in(driver: Driver, folder: &Path) -> Self {
        Self(Arc::new(Inner { place: Self::place(driver, folder), _folder: None }))
    }

    /// A database on this server.
    pub fn on(server: &Arc<Server>) -> Self {
        let place = Place::Server(Arc::clone(server), server.create_database());
        Self(Arc::new(Inner { place, _folder: None }))
    }

    /// A database that the test may take away ([`Database::stop`]): on a server
    /// of its own.
    pub fn private(driver: Driver) -> Self {
        match driver {
            Driver::Postgres => Self::on(&Server::private(Kind::Postgres)),
            Driver::MariaDb => Self::on(&Server::private(Kind::MariaDb)),
            _ => Self::create(driver),
        }
    }

    fn place(driver: Driver, folder: &Path) -> Place {
        let on_server = |kind| {
            let server = Server::shared(kind);
            let name = server.create_database();
            Place::Server(server, name)
        };
        match driver {
            Driver::None => panic!("this storage has no database"),
            Driver::Sqlite => {
                let file = folder.join("presence.sqlite");
                create_sqlite(&file);
                Place::Sqlite(file)
            }
            Driver::DbText => {
                let tables = folder.join("dbtext");
                copy_tables(&tables);
                Place::Text(tables)
            }
            Driver::Postgres => on_server(Kind::Postgres),
            Driver::MariaDb => on_server(Kind::MariaDb),
        }
    }

    /// The value of `db_url`.
    pub fn url(&self) -> String {
        match &self.0.place {
            // An absolute path makes it four slashes.
            Place::Sqlite(file) => format!("sqlite:///{}", file.display()),
            Place::Text(folder) => format!("text://{}", folder.display()),
            Place::Server(server, name) => server.url(name),
        }
    }

    /// The rows that a SELECT gives.
    pub fn query(&self, sql: &str) -> Vec<Row> {
        self.try_query(sql).unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    /// [`Database::query`] of a database that may be away.
    pub fn try_query(&self, sql: &str) -> Result<Vec<Row>, String> {
        let sql = sql.trim_end().trim_end_matches(';');
        match &self.0.place {
            Place::Sqlite(file) => query_sqlite(file, sql).map_err(|error| error.to_string()),
            Place::Text(folder) => Ok(read_text_table(folder, sql)),
            Place::Server(server, name) => {
                let statement = match server.kind() {
                    Kind::Postgres => format!("SELECT row_to_json(r) FROM ({sql}) r;"),
                    Kind::MariaDb => format!("{sql};"),
                };
                let output = server.run(Some(name), &statement, true);
                if !output.status.success() {
                    return Err(String::from_utf8_lossy(&output.stderr).into_owned());
                }
                Ok(match server.kind() {
                    Kind::Postgres => read_json_rows(&output.stdout),
                    Kind::MariaDb => read_batch_rows(&output.stdout),
                })
            }
        }
    }

    /// All rows of a table, by age.
    pub fn rows(&self, table: &str) -> Vec<Row> {
        self.query(&format!("SELECT * FROM {table} ORDER BY id"))
    }

    /// The number of rows of a table.
    pub fn count(&self, table: &str) -> usize {
        let rows = self.query(&format!("SELECT count(*) AS number FROM {table}"));
        rows.first().and_then(|row| row["number"].parse().ok()).unwrap_or(0)
    }

    /// Runs statements that change something.
    pub fn execute(&self, sql: &str) {
        let done = match &self.0.place {
            Place::Sqlite(file) => open(file).execute_batch(sql).map_err(|error| error.to_string()),
            Place::Text(_) => Err("db_text knows no SQL".to_owned()),
            Place::Server(server, name) => {
                let output = server.run(Some(name), sql, false);
                if output.status.success() {
                    Ok(())
                } else {
                    Err(String::from_utf8_lossy(&output.stderr).into_owned())
                }
            }
        };
        let start: String = sql.chars().take(500).collect();
        done.unwrap_or_else(|error| panic!("{start}: {error}"));
    }

    /// Inserts rows given as lists of SQL values, many at a time.
    pub fn insert(&self, table: &str, columns: &str, rows: impl IntoIterator<Item = String>) {
        let mut rows = rows.into_iter().peekable();
        while rows.peek().is_some() {
            let mut script = String::from("BEGIN;\n");
            for _ in 0..20 {
                let portion: Vec<String> =
                    rows.by_ref().take(250).map(|row| format!("({row})")).collect();
                if !portion.is_empty() {
                    script += &format!(
                        "INSERT INTO {table} ({columns}) VALUES\n{};\n",
                        portion.join(",\n")
                    );
                }
            }
            self.execute(&(script + "COMMIT;\n"));
        }
    }

    /// Runs a statement of the server's administrator, who is not in this database.
    pub fn administer(&self, sql: &str) {
        let Place::Server(server, _) = &self.0.place else { panic!("there is no server") };
        server.must(None, sql);
    }

    /// Takes the database away until the guard is dropped: a server is stopped
    /// (it has to be this test's own, [`Database::private`]); an SQLite file is
    /// locked by somebody who does not let go.
    pub fn take_away(&self) -> Outage {
        match &self.0.place {
            Place::Sqlite(file) => {
                let connection = open(file);
                connection
                    .execute_batch("BEGIN EXCLUSIVE")
                    .unwrap_or_else(|error| panic!("BEGIN EXCLUSIVE: {error}"));
                Outage::Lock(connection)
            }
            Place::Text(_) => panic!("db_text has no outage"),
            Place::Server(server, _) => {
                server.stop();
                Outage::Stopped(Arc::clone(server))
            }
        }
    }
}

/// A database that is away; it comes back when this is dropped.
pub enum Outage {
    /// An SQLite file is locked.
    Lock(Connection),
    /// A server is stopped.
    Stopped(Arc<Server>),
}

impl Outage {
    /// Brings the database back.
    pub fn end(self) {}
}

impl Drop for Outage {
    fn drop(&mut self) {
        match self {
            Outage::Lock(connection) => {
                let _ = connection.execute_batch("ROLLBACK");
            }
            Outage::Stopped(server) => server.start(),
        }
    }
}

/// The journal mode is WAL, so a test that reads does not make Kamailio's
/// writers fail with "database is locked".
fn create_sqlite(file: &Path) {
    let connection = Connection::open(file)
        .unwrap_or_else(|error| panic!("cannot create {}: {error}", file.display()));
    let tables =
        server::schema(Path::new("/usr/share/kamailio/db_sqlite"), "kamailio-sqlite-modules");
    let script =
        format!("PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF; BEGIN;\n{tables}COMMIT;");
    connection
        .execute_batch(&script)
        .unwrap_or_else(|error| panic!("cannot create the tables in {}: {error}", file.display()));
}

fn open(file: &Path) -> Connection {
    let connection = Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_WRITE)
        .unwrap_or_else(|error| panic!("cannot open {}: {error}", file.display()));
    connection
        .busy_timeout(Duration::from_secs(3))
        .unwrap_or_else(|error| panic!("busy_timeout: {error}"));
    connection
}

fn query_sqlite(file: &Path, sql: &str) -> rusqlite::Result<Vec<Row>> {
    let connection = open(file);
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
}

/// One JSON object a line; what starts with `\x` is a BYTEA.
fn read_json_rows(bytes: &[u8]) -> Vec<Row> {
    let object = |line: &str| -> Option<Row> {
        let serde_json::Value::Object(map) = serde_json::from_str(line).ok()? else { return None };
        let text = |value: serde_json::Value| match value {
            serde_json::Value::Null => "NULL".to_owned(),
            serde_json::Value::String(text) => {
                text.strip_prefix("\\x").and_then(hex).unwrap_or(text)
            }
            other => other.to_string(),
        };
        Some(map.into_iter().map(|(name, value)| (name, text(value))).collect())
    };
    let text = String::from_utf8_lossy(bytes);
    text.lines()
        .map(|line| object(line).unwrap_or_else(|| panic!("not a row of psql's: {line}")))
        .collect()
}

fn hex(digits: &str) -> Option<String> {
    let bytes: Option<Vec<u8>> = digits
        .as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
        .collect();
    Some(String::from_utf8_lossy(&bytes?).into_owned())
}

/// The `--batch` output of MariaDB's client: names, then rows, with tabs between.
fn read_batch_rows(bytes: &[u8]) -> Vec<Row> {
    let text = String::from_utf8_lossy(bytes);
    let mut lines = text.lines();
    let names: Vec<&str> = lines.next().map_or(Vec::new(), |line| line.split('\t').collect());
    lines
        .map(|line| {
            names
                .iter()
                .map(|name| (*name).to_owned())
                .zip(line.split('\t').map(unescape))
                .collect()
        })
        .collect()
}

fn unescape(text: &str) -> String {
    let mut result = String::with_capacity(text.len());
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        result.push(match letter {
            '\\' => match letters.next() {
                Some('n') => '\n',
                Some('t') => '\t',
                Some('0') => '\0',
                other => other.unwrap_or('\\'),
            },
            letter => letter,
        });
    }
    result
}

fn copy_tables(to: &Path) {
    let copy = || -> std::io::Result<()> {
        std::fs::create_dir(to)?;
        for entry in std::fs::read_dir(TEXT_TABLES)? {
            let entry = entry?;
            std::fs::copy(entry.path(), to.join(entry.file_name()))?;
        }
        Ok(())
    };
    copy().unwrap_or_else(|error| panic!("cannot copy {TEXT_TABLES}: {error} (package kamailio)"));
}

/// A table of db_text as it is on disk: the driver writes it when Kamailio
/// stops. Only `SELECT * FROM table …` is understood.
fn read_text_table(folder: &Path, sql: &str) -> Vec<Row> {
    let name = sql
        .strip_prefix("SELECT * FROM ")
        .and_then(|rest| rest.split(' ').next())
        .unwrap_or_else(|| panic!("db_text knows no SQL: {sql}"));
    let file = folder.join(name);
    let text = std::fs::read_to_string(&file)
        .unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let mut lines = text.lines();
    let names: Vec<&str> = lines
        .next()
        .unwrap_or("")
        .split(' ')
        .map(|column| column.split('(').next().unwrap_or(""))
        .collect();
    let rows = lines.filter(|line| !line.is_empty()).map(|line| {
        let (mut cells, mut escaped) = (vec![String::new()], false);
        for letter in line.chars() {
            let Some(cell) = cells.last_mut() else { break };
            match (letter, escaped) {
                ('\\', false) => escaped = true,
                (':', false) => cells.push(String::new()),
                (letter, was) => {
                    cell.push(match (letter, was) {
                        ('n', true) => '\n',
                        ('r', true) => '\r',
                        ('t', true) => '\t',
                        ('0', true) => '\0',
                        (letter, _) => letter,
                    });
                    escaped = false;
                }
            }
        }
        names.iter().map(|name| (*name).to_owned()).zip(cells).collect()
    });
    rows.collect()
}
