//! The database module that `db_url` names.

use std::cell::Cell;
use std::ffi::c_int;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Instant;

use crate::error::Fault;
use crate::host::database::Connection;
use crate::host::database::hush::Hush;
use crate::host::database::session::Session;
use crate::host::database::verdict::{self, Alone};
use crate::host::database::write_lock::{WriteGuard, WriteLock};
use crate::host::log::Printable;
use crate::host::memory::ShmArena;
use crate::host::state::random;
use crate::host::{sys, text};
use crate::shm::place;
use crate::sql::Dialect;
use crate::sql::prepared::Prepared;
use crate::store::outage::{Access, Outage};

/// Connections that this process has opened.
static CONNECTIONS: AtomicU32 = AtomicU32::new(0);

thread_local! {
    /// The last connection that this process has asked for was not to be had.
    static UNCONNECTED: Cell<Option<Alone>> = const { Cell::new(None) };
}

/// How long SQLite waits for another process's transaction.
const SQLITE_BUSY_TIMEOUT: &[u8] = b"PRAGMA busy_timeout=5000";

/// A database module that is bound; opens connections.
#[derive(Clone)]
pub struct Driver {
    pub(super) functions: sys::db_func_t,
    url: Vec<u8>,
    pub(super) fetch_rows: c_int,
    write_lock: Option<&'static WriteLock>,
    /// Whether the database is away; `None` where it is a file.
    pub(super) outage: Option<&'static Outage>,
    /// What all processes have to know of it once one does.
    pub(super) shared: Option<&'static Shared>,
    /// Tells our sessions from those of others.
    pub(super) random: [u8; 16],
}

/// What is known of a database; in shared memory.
#[derive(Debug, Default)]
pub(super) struct Shared {
    /// A pooler gives each transaction another session.
    pub pooled: AtomicBool,
    /// It was said that what is read may be old.
    pub warned_of_reads: AtomicBool,
}

impl Driver {
    /// The database is known to be away.
    pub fn is_away(&self) -> bool {
        self.outage.is_some_and(Outage::is_on)
    }

    /// For how many milliseconds the database has been known to be away; `None` if
    /// it is not.
    pub fn away_for(&self) -> Option<u64> {
        self.outage?.lasts(super::verdict::milliseconds())
    }

    /// Binds the module that the URL names and checks that it can do what we
    /// need. `fetch_rows` is the page size of long results.
    pub fn bind(url: &[u8], fetch_rows: i64) -> Result<Driver, String> {
        let mut terminated = url.to_vec();
        terminated.push(0);
        let mut driver = Driver {
            functions: sys::db_func_t::default(),
            url: terminated,
            fetch_rows: c_int::try_from(fetch_rows).unwrap_or(c_int::MAX).max(1),
            write_lock: None,
            outage: None,
            shared: place(ShmArena, Shared::default()).ok(),
            random: random(),
        };
        let name = driver.url();
        // SAFETY: reads the URL and fills the structure.
        if unsafe { sys::db_bind_mod(&raw const name, &raw mut driver.functions) } != 0 {
            return Err(format!(
                "no database module for db_url {}: load the driver's module before presence",
                Printable(scheme(url))
            ));
        }
        let needed = sys::db_cap_DB_CAP_QUERY
            | sys::db_cap_DB_CAP_INSERT
            | sys::db_cap_DB_CAP_DELETE
            | sys::db_cap_DB_CAP_UPDATE;
        if driver.functions.cap & needed != needed {
            return Err(format!(
                "the database module for {} cannot query, insert, update and delete",
                Printable(scheme(url))
            ));
        }
        if driver.is_sqlite() {
            driver.write_lock = WriteLock::new();
        } else {
            driver.outage = place(ShmArena, Outage::new()).ok();
        }
        Ok(driver)
    }

    /// Waits until no other process of ours writes, where only one can; not for
    /// long.
    pub(super) fn write_lock(&self) -> Option<WriteGuard> {
        self.write_lock.and_then(WriteLock::take)
    }

    /// Whether an update or delete tells how many rows it met.
    pub fn counts_rows(&self) -> bool {
        self.has(sys::db_cap_DB_CAP_AFFECTED_ROWS) || self.is_sqlite()
    }

    /// db_cluster: some other driver, or several, of which it does not tell. All
    /// modules of a process share its connections, with the table that was
    /// chosen last.
    pub fn is_cluster(&self) -> bool {
        self.name() == b"cluster"
    }

    /// Results can be fetched in steps. db_cluster says so for all of its drivers.
    pub(super) fn fetches(&self) -> bool {
        !self.is_cluster()
    }

    /// Its servers know LIMIT.
    pub(super) fn limits(&self) -> bool {
        self.is_cluster() || self.dialect().is_some()
    }

    /// SQLite: one writer at a time, no column widths.
    pub fn is_sqlite(&self) -> bool {
        self.dialect() == Some(Dialect::Sqlite)
    }

    /// The SQL that it sends; `None` for one that is no SQL server's.
    pub fn dialect(&self) -> Option<Dialect> {
        match self.name() {
            b"sqlite" => Some(Dialect::Sqlite),
            b"mysql" => Some(Dialect::MySql),
            b"postgres" | b"postgresql" => Some(Dialect::Postgres),
            _ => None,
        }
    }

    /// A value longer than its column is refused, or cut off.
    pub fn enforces_widths(&self) -> bool {
        matches!(self.dialect(), Some(Dialect::MySql | Dialect::Postgres))
    }

    /// A COMMIT may succeed that came too late: in another session.
    pub fn repeats_commits(&self) -> bool {
        self.dialect() == Some(Dialect::MySql)
    }

    /// The database that the URL names, where tables of all databases are
    /// listed together (MySQL).
    pub fn schema(&self) -> Option<&[u8]> {
        let url = self.url.strip_suffix(b"\0").unwrap_or(&self.url);
        let name = url.rsplit(|byte| *byte == b'/').next().filter(|name| !name.is_empty());
        name.filter(|_| self.name() == b"mysql")
    }

    /// Name of the driver, such as `mysql` or `postgres`.
    pub fn name(&self) -> &[u8] {
        scheme(&self.url)
    }

    /// Opens a connection. To be closed (dropped) before a fork. `own` asks
    /// for one that no other module of this process shares, where the driver
    /// can do that.
    pub fn open(&self, own: bool) -> Result<Connection, Fault> {
        let waits = |outage| UNCONNECTED.get().is_some_and(|alone| alone.waits(outage));
        let yields = UNCONNECTED.get().is_some_and(Alone::yields);
        let access = match self.outage {
            Some(outage) if waits(outage) => Access::Avoid,
            Some(outage) => outage.access(yields, verdict::milliseconds),
            None => Access::Use,
        };
        if access == Access::Avoid {
            return Err(Fault::Database);
        }
        let handle = self.handle(own);
        match self.outage {
            Some(outage) if handle.is_null() => {
                outage.goes_on(verdict::milliseconds());
                UNCONNECTED.set(Some(match access {
                    Access::Probe => Alone::has_looked(UNCONNECTED.get(), outage),
                    _ => Alone::without(UNCONNECTED.get(), outage),
                }));
            }
            Some(outage) => {
                verdict::is_back(outage);
                UNCONNECTED.set(None);
            }
            None => {}
        }
        if handle.is_null() {
            return Err(Fault::Database);
        }
        let mut connection = Connection {
            driver: self.clone(),
            handle,
            tables: Vec::new(),
            current: None,
            session: Session::default(),
            loud: None,
            is_node: None,
            failed: false,
            word: None,
            probing: false,
            met_nothing: false,
            outages: self.outage.map_or(0, Outage::count),
            alone: None,
            closed: None,
            reading: false,
            touched: None,
            started: Instant::now(),
            in_transaction: false,
            write_guard: None,
            prepared: if self.is_pooled() { Prepared::never() } else { Prepared::default() },
            number: CONNECTIONS.fetch_add(1, Ordering::Relaxed),
        };
        if self.is_sqlite() {
            connection.raw(SQLITE_BUSY_TIMEOUT)?;
        }
        Ok(connection)
    }

    /// A new handle of the driver, or NULL.
    fn handle(&self, own: bool) -> *mut sys::db1_con_t {
        let url = self.url();
        // One process lets the driver say why there is none.
        let now = verdict::milliseconds();
        let is_known = self.outage.is_some_and(|outage| outage.count() > 0 && !outage.speaks(now));
        let _hush = if is_known { Hush::begin() } else { None };
        match (self.functions.init2, self.functions.init) {
            // SAFETY: reads the URL; the driver keeps a copy of its own.
            (Some(init2), _) if own => unsafe {
                init2(&raw const url, sys::db_pooling_t_DB_POOLING_NONE)
            },
            // SAFETY: reads the URL; the driver keeps a copy of its own.
            (_, Some(init)) => unsafe { init(&raw const url) },
            _ => ptr::null_mut(),
        }
    }

    fn url(&self) -> sys::_str {
        text::lend(self.url.strip_suffix(b"\0").unwrap_or(&self.url))
    }

    pub(super) fn has(&self, capability: sys::db_cap) -> bool {
        self.functions.cap & capability != 0
    }
}

/// What stands before the first `:` of a URL, without the `db_` of a module name.
fn scheme(url: &[u8]) -> &[u8] {
    let name = url.split(|byte| *byte == b':').next().unwrap_or_default();
    name.strip_prefix(b"db_").unwrap_or(name)
}
