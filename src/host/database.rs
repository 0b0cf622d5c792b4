//! The database, through Kamailio's database API (srdb1).
//!
//! The API knows no error classes: a call fails, its driver has logged why, and
//! the database is asked (`verdict`). Transactions are the driver's; SQLite's
//! driver has none, so they are sent to it as statements.

mod columns;
mod driver;
mod hush;
pub mod measured;
mod port;
mod prepared;
mod session;
mod transaction;
mod verdict;
mod write_lock;

use std::ffi::{CStr, c_int};
use std::ptr;
use std::time::Instant;

use crate::error::Fault;
use crate::host::database_value as value;
use crate::host::{sys, text};
use crate::ports::{Condition, Value, Verdict};
use crate::sql::prepared::Prepared;
use crate::sql::{Dialect, Names, packed};

pub use driver::Driver;
use session::Session;
use write_lock::WriteGuard;

/// A table's name where the driver may keep a pointer to it.
struct Table {
    name: Vec<u8>,
    text: sys::_str,
}

/// This process's connection.
pub struct Connection {
    driver: Driver,
    handle: *mut sys::db1_con_t,
    // Boxed: the driver keeps pointers to them.
    #[allow(clippy::vec_box)]
    tables: Vec<Box<Table>>,
    current: Option<usize>,
    /// Its session with the server.
    session: Session,
    /// Until when the driver may say what is wrong.
    loud: Option<Instant>,
    /// Its server is a node of a cluster that may be behind others; `None`: not known.
    is_node: Option<bool>,
    /// The last statement has failed: see [`Connection::try_again`].
    failed: bool,
    /// Why, if nobody has asked yet.
    word: Option<Verdict>,
    /// It is being found out.
    probing: bool,
    /// Outages when this connection was last seen to work.
    outages: u32,
    /// It does not find the database, though it has told the others so.
    alone: Option<verdict::Alone>,
    /// A table that took nothing a moment ago.
    closed: Option<verdict::Closed>,
    /// The last statement was to read.
    reading: bool,
    /// The one of our tables that the last statement was about.
    touched: Option<&'static str>,
    /// The last change was not sent, for it could meet no row.
    met_nothing: bool,
    /// When the last statement was sent, on SQLite.
    started: Instant,
    /// A transaction of ours is open; on SQLite with the write lock, if it got
    /// that.
    in_transaction: bool,
    write_guard: Option<WriteGuard>,
    /// Statements that its session knows, and a number that tells them from
    /// those of another connection in the same session.
    prepared: Prepared,
    number: u32,
}

/// Succeeds wherever there is a server.
const ANYTHING: &[u8] = b"SELECT 1";

impl Connection {
    /// The driver that made it.
    pub fn driver(&self) -> &Driver {
        &self.driver
    }

    /// Checks a table's version as the `version` table has it.
    pub fn check_table(&mut self, table: &str, version: u32) -> Result<(), String> {
        // The check uses another table.
        self.current = None;
        let name = text::lend(table.as_bytes());
        // SAFETY: the connection is open; the name is read during the call.
        let result = unsafe {
            sys::db_check_table_version(
                &raw mut self.driver.functions,
                self.handle,
                &raw const name,
                version,
            )
        };
        if result < 0 {
            return Err(format!(
                "table {table} is missing or not of version {version}: create it with kamdbctl, or upgrade it"
            ));
        }
        Ok(())
    }

    /// A table of another schema, as the driver has to be given it: MySQL's puts
    /// the whole name between quotes.
    fn qualified(&self, schema: &str, table: &str) -> String {
        let quote = self.quote();
        format!("{schema}{quote}.{quote}{table}")
    }

    /// What the driver puts around names.
    fn quote(&self) -> String {
        // SAFETY: the connection is open; its quote is a constant of the driver.
        let quote = unsafe { self.handle.as_ref().map(|handle| handle.tquote) };
        let quote = quote.filter(|quote| !quote.is_null()).map(|quote| {
            // SAFETY: not null; C's text of the driver, never changed.
            unsafe { CStr::from_ptr(quote) }.to_string_lossy().into_owned()
        });
        quote.unwrap_or_default()
    }

    /// A statement whose answer says nothing.
    fn send(&mut self, statement: &[u8]) -> Result<(), Fault> {
        self.try_again()?;
        self.raw(statement).map(|_| ())
    }

    /// A SELECT of rows, each as one text if no column is binary (`is_text`) and
    /// that gains something: then with the dialect to read it by. `None` if a
    /// condition has to be left to the driver.
    fn select(
        &self,
        table: &str,
        conditions: &[Condition],
        columns: &[&'static str],
        (is_text, order): (bool, &str),
    ) -> Option<(Vec<u8>, Option<Dialect>)> {
        let quote = self.quote();
        let names = Names { table, quote: &quote };
        let packed = self.driver.dialect().filter(|_| is_text).and_then(|dialect| {
            packed::expression(dialect, names, columns).map(|what| (what, Some(dialect)))
        });
        let (what, packed) = packed.unwrap_or_else(|| (names.list(columns), None));
        Some((names.select(&what, conditions, order)?, packed))
    }

    /// Sends a statement that gives such rows. Fails if one is not of that form.
    fn ask_rows(
        &mut self,
        statement: &[u8],
        packed: Option<Dialect>,
        columns: usize,
    ) -> Result<Vec<Vec<Value>>, Fault> {
        let (mut rows, mut all) = (Vec::new(), true);
        self.ask(statement, &mut |row| {
            let read = match (packed, row) {
                (Some(dialect), [text]) => packed::read(dialect, text.as_bytes(), columns),
                (Some(_), _) => None,
                (None, row) => Some(row.to_vec()),
            };
            all &= read.is_some();
            rows.extend(read);
        })?;
        if all { Ok(rows) } else { Err(Fault::Database) }
    }

    /// Rows, each read as one text. `None` where they have to be read in the
    /// driver's way.
    fn query_packed(
        &mut self,
        table: &str,
        conditions: &[Condition],
        columns: &[&'static str],
        order: &str,
    ) -> Option<Result<Vec<Vec<Value>>, Fault>> {
        let (statement, packed) = self.select(table, conditions, columns, (true, order))?;
        packed?;
        self.touched = columns::ours(table);
        if let Err(fault) = self.may_read(table).and_then(|()| self.try_again()) {
            return Some(Err(fault));
        }
        self.word = None;
        let rows = self.ask_rows(&statement, packed, columns.len());
        // Has the statement failed, or is it their form?
        (rows.is_ok() || self.word.is_some()).then_some(rows)
    }

    /// The rows that a cursor gives. Unlike pages it is planned once: a server
    /// that knows nothing of a table yet may sort all of it for every page.
    fn scan_cursor(
        &mut self,
        select: &[u8],
        (packed, columns): (Option<Dialect>, usize),
        most: usize,
        each: &mut dyn FnMut(Vec<Value>),
    ) -> Result<(), Fault> {
        self.send(&[b"DECLARE presence NO SCROLL CURSOR FOR ", select].concat())?;
        let fetch = format!("FETCH FORWARD {most} FROM presence");
        loop {
            let rows = self.ask_rows(fetch.as_bytes(), packed, columns)?;
            if rows.is_empty() {
                return Ok(());
            }
            rows.into_iter().for_each(&mut *each);
        }
    }

    /// After a failure a statement without values comes first. A driver that
    /// has lost its server writes binary values the way that a server unknown
    /// to it might want them, connects again, and stores what it has written.
    fn try_again(&mut self) -> Result<(), Fault> {
        if self.in_transaction || self.probing {
            return Ok(());
        }
        self.check_access()?;
        if self.failed && self.driver.dialect().is_some() && self.probe().is_err() {
            self.word = Some(self.away());
            return Err(Fault::Database);
        }
        if self.driver.is_sqlite() {
            self.started = Instant::now();
        }
        Ok(())
    }

    /// Remembers a failure, and why.
    fn check(&mut self, result: c_int) -> Result<(), Fault> {
        if result >= 0 {
            return Ok(());
        }
        self.failed = true;
        if !self.probing {
            self.speaks();
        }
        self.diagnose();
        Err(Fault::Database)
    }

    fn use_table(&mut self, table: &str) -> Result<(), Fault> {
        self.touched = columns::ours(table);
        self.try_again()?;
        let is_ours = !self.driver.is_cluster();
        if is_ours && self.current.is_some_and(|at| self.tables[at].name == table.as_bytes()) {
            return Ok(());
        }
        let at = match self.tables.iter().position(|known| known.name == table.as_bytes()) {
            Some(at) => at,
            None => {
                let name = table.as_bytes().to_vec();
                let text = text::lend(&name);
                self.tables.push(Box::new(Table { name, text }));
                self.tables.len() - 1
            }
        };
        self.current = None;
        let select = self.driver.functions.use_table.ok_or(Fault::Database)?;
        // SAFETY: the driver keeps the pointer; the name stays at its place
        // until the connection is closed.
        if unsafe { select(self.handle, &raw const self.tables[at].text) } < 0 {
            return Err(Fault::Database);
        }
        self.current = Some(at);
        Ok(())
    }

    /// Sends a statement; gives the first value of its answer.
    fn raw(&mut self, statement: &[u8]) -> Result<Option<Value>, Fault> {
        let mut first = None;
        self.ask(statement, &mut |row| first = first.take().or(row.first().cloned()))?;
        Ok(first)
    }

    /// Sends a statement, and calls `each` for every row of its answer. A result
    /// is always asked for: SQLite's driver only prepares a statement whose
    /// result nobody wants.
    fn ask(&mut self, statement: &[u8], each: &mut dyn FnMut(&[Value])) -> Result<(), Fault> {
        let asked = self.ask_plain(statement, each);
        self.check(if asked.is_ok() { 0 } else { -1 })
    }

    /// Does what `raw` does; nobody asks why it fails.
    fn plain(&mut self, statement: &[u8]) -> Result<Option<Value>, Fault> {
        let mut first = None;
        self.ask_plain(statement, &mut |row| first = first.take().or(row.first().cloned()))?;
        Ok(first)
    }

    fn ask_plain(&mut self, statement: &[u8], each: &mut dyn FnMut(&[Value])) -> Result<(), Fault> {
        let query = self.driver.functions.raw_query.ok_or(Fault::Database)?;
        let statement = text::lend(statement);
        let mut result = ptr::null_mut();
        let _hush = self.hush();
        // SAFETY: the connection is open; statement and result live here.
        if unsafe { query(self.handle, &raw const statement, &raw mut result) } < 0 {
            return Err(Fault::Database);
        }
        // SAFETY: the driver's result, not freed yet.
        unsafe { value::rows(result, each) };
        self.free(result);
        Ok(())
    }

    fn free(&mut self, result: *mut sys::db1_res_t) {
        if let (false, Some(free)) = (result.is_null(), self.driver.functions.free_result) {
            // SAFETY: the result is this connection's and is not used again.
            unsafe { free(self.handle, result) };
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if let Some(close) = self.driver.functions.close {
            // SAFETY: the connection is open and is not used again.
            unsafe { close(self.handle) };
        }
    }
}
