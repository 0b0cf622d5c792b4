//! Database servers of a run: a private one for each measurement, with the
//! fixtures of the behaviour tests.

use crate::Fallible;
use crate::processes;
use crate::setup::Storage;
use presence_kamailio_tests::config::Driver;
use presence_kamailio_tests::database::Database;
use presence_kamailio_tests::server::{Kind, Server};
use std::sync::Arc;

/// Which database.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    /// PostgreSQL 15.
    Postgres,
    /// MariaDB 10.11.
    MariaDb,
    /// A file.
    Sqlite,
}

/// A database with Kamailio's tables.
pub struct Store {
    engine: Engine,
    database: Database,
    server: Option<Arc<Server>>,
}

impl Engine {
    /// For rows of the table.
    pub fn name(self) -> &'static str {
        match self {
            Engine::Postgres => "PostgreSQL",
            Engine::MariaDb => "MariaDB",
            Engine::Sqlite => "SQLite",
        }
    }

    fn driver(self) -> &'static str {
        match self {
            Engine::Postgres => "db_postgres",
            Engine::MariaDb => "db_mysql",
            Engine::Sqlite => "db_sqlite",
        }
    }
}

impl Store {
    /// Starts a server, if it takes one, and makes the tables.
    pub fn new(engine: Engine) -> Self {
        let kind = match engine {
            Engine::Postgres => Kind::Postgres,
            Engine::MariaDb => Kind::MariaDb,
            Engine::Sqlite => {
                return Self { engine, database: Database::create(Driver::Sqlite), server: None };
            }
        };
        let server = Server::private(kind);
        Self { engine, database: Database::on(&server), server: Some(server) }
    }

    /// What Kamailio is told.
    pub fn storage(&self, subs_db_mode: u8, publ_cache: u8) -> Storage {
        let database = Some((self.engine.driver(), self.database.url()));
        Storage { subs_db_mode, publ_cache, database }
    }

    /// The server's processes now: PostgreSQL has one for each connection.
    pub fn processes(&self) -> Vec<i32> {
        let name = match self.engine {
            Engine::Postgres => "postgres",
            Engine::MariaDb => "mariadbd",
            Engine::Sqlite => return Vec::new(),
        };
        let own = std::process::id() as i32;
        let children = processes::family(own).into_iter().filter(|child| *child != own);
        children
            .filter(|child| {
                let comm = std::fs::read_to_string(format!("/proc/{child}/comm"));
                comm.is_ok_and(|comm| comm.trim() == name)
            })
            .flat_map(processes::family)
            .collect()
    }

    /// Runs SQL.
    pub fn execute(&self, sql: &str) {
        self.database.execute(sql);
    }

    /// The number of rows of a table.
    pub fn count(&self, table: &str) -> usize {
        self.database.count(table)
    }

    /// Counts the client's requests to the server while `work` runs: what is
    /// sent and waited for, be it one statement or several. `None` for SQLite.
    pub fn round_trips<T>(&self, work: impl FnOnce() -> T) -> Fallible<(T, Option<u64>)> {
        match (self.engine, &self.server) {
            (Engine::Postgres, Some(server)) => {
                let count = || {
                    let log = server.log();
                    log.matches("LOG:  statement: ").count() + log.matches("LOG:  execute ").count()
                };
                self.database
                    .execute("ALTER SYSTEM SET log_statement = 'all';\nSELECT pg_reload_conf();\n");
                std::thread::sleep(std::time::Duration::from_millis(300));
                let before = count();
                let result = work();
                let after = count();
                self.database
                    .execute("ALTER SYSTEM RESET log_statement;\nSELECT pg_reload_conf();\n");
                Ok((result, Some((after - before) as u64)))
            }
            (Engine::MariaDb, _) => {
                let first = self.questions()?;
                // What asking costs by itself.
                let before = self.questions()?;
                let result = work();
                let after = self.questions()?;
                Ok((result, Some(after.saturating_sub(before).saturating_sub(before - first))))
            }
            _ => Ok((work(), None)),
        }
    }

    fn questions(&self) -> Fallible<u64> {
        let rows = self.database.query("SHOW GLOBAL STATUS LIKE 'Questions'");
        rows.first()
            .and_then(|row| row.get("Value")?.parse().ok())
            .ok_or_else(|| "MariaDB does not say how many questions it was asked".to_owned())
    }
}
