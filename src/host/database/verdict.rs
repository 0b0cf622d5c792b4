//! Why statements fail, and whether the database is there at all: the API has
//! no error classes, so the database is asked. MySQL's says what was wrong with
//! the last statement; the others show by answering another one that they are
//! not away.

use std::time::Duration;

use crate::error::Fault;
use crate::host::database::{ANYTHING, Connection};
use crate::host::log::{log_error, log_info};
use crate::ports::{Database, Value, Verdict};
use crate::sql::{Dialect, Names, explain};
use crate::store::outage::{Access, Outage, PAUSE};

/// The last statement's errors, one is enough.
const ERRORS: &[u8] = b"SHOW ERRORS LIMIT 1";

/// An SQLite statement that took so long has waited for somebody's lock.
const WAITED: Duration = Duration::from_secs(1);

/// The machine's time in milliseconds, the same for all processes; never 0.
pub(super) fn milliseconds() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: fills the structure, which lives during the call.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    (seconds * 1000 + u64::try_from(time.tv_nsec).unwrap_or(0) / 1_000_000).max(1)
}

/// The database does not answer. Whoever finds out first tells it.
pub(super) fn is_away(outage: &Outage) {
    if outage.begins(milliseconds()) {
        log_error!("the database is away; it is asked every second whether it is back");
    }
}

pub(super) fn is_back(outage: &Outage) {
    if outage.ends() {
        log_info!("the database is back");
    }
}

impl Connection {
    /// To be called before a statement, and not in a transaction: fails at once
    /// while the database is known to be away.
    pub(super) fn check_access(&mut self) -> Result<(), Fault> {
        let Some(outage) = self.driver.outage else { return Ok(()) };
        if self.alone.is_some_and(|alone| alone.waits(outage)) {
            self.word = Some(Verdict::Away);
            return Err(Fault::Database);
        }
        match outage.access(self.alone.is_some_and(Alone::yields), milliseconds) {
            Access::Use => {
                let count = outage.count();
                // What this connection was connected to is gone: it is asked
                // something before it is trusted with a change.
                if self.outages != count {
                    self.failed = true;
                    self.may_have_new_session();
                }
                self.outages = count;
                Ok(())
            }
            Access::Probe => {
                self.may_have_new_session();
                let answers = self.probe();
                if answers.is_ok() {
                    is_back(outage);
                    self.outages = outage.count();
                } else {
                    outage.goes_on(milliseconds());
                    self.alone = Some(Alone::has_looked(self.alone, outage));
                    self.word = Some(Verdict::Away);
                }
                answers
            }
            Access::Avoid => {
                self.word = Some(Verdict::Away);
                Err(Fault::Database)
            }
        }
    }

    /// Asks the database something that cannot be wrong. A connection whose
    /// driver has connected again has told it so.
    pub(super) fn probe(&mut self) -> Result<(), Fault> {
        match self.driver.dialect() {
            Some(Dialect::Postgres) => {
                self.plain(ANYTHING)?;
                if self.prepared.is_used() {
                    self.ask_session()?;
                }
            }
            Some(_) => drop(self.plain(ANYTHING)?),
            None => self.probe_table()?,
        }
        self.failed = false;
        self.alone = None;
        Ok(())
    }

    /// What has no SQL that we know of is asked for a row of a table.
    fn probe_table(&mut self) -> Result<(), Fault> {
        let Some(table) = self.tables.first() else { return Ok(()) };
        let table = String::from_utf8_lossy(&table.name).into_owned();
        let nothing = [("id", crate::ports::Compare::Eq, Value::Int(-1))];
        self.probing = true;
        let asked = self.query(&table, &nothing, &["id"], None, &mut |_| {});
        self.probing = false;
        asked
    }

    /// Finds out why a statement has failed. Within a transaction PostgreSQL
    /// answers nothing more: there the rollback tells.
    pub(super) fn diagnose(&mut self) {
        if self.probing {
            return;
        }
        let verdict = match self.driver.dialect() {
            Some(Dialect::MySql) => self.ask_errors(),
            Some(Dialect::Sqlite) if self.started.elapsed() > WAITED => Verdict::Away,
            Some(Dialect::Sqlite) => self.ask_table(),
            Some(Dialect::Postgres) | None if self.in_transaction => Verdict::Unclear,
            Some(Dialect::Postgres) | None => self.ask_something(),
        };
        self.word = Some(verdict);
    }

    fn ask_errors(&mut self) -> Verdict {
        let (mut code, mut message) = (None, None);
        let asked = self.ask_plain(ERRORS, &mut |row| {
            code = row.get(1).and_then(Value::as_int);
            message = row.get(2).cloned();
        });
        match (asked, code) {
            (Err(_), _) => self.away(),
            (Ok(()), Some(code)) => match explain::mysql(code) {
                Verdict::Unclear => self.ask_table(),
                Verdict::Away => self.takes_nothing(),
                Verdict::Statement => {
                    self.refused(code, message.as_ref());
                    Verdict::Statement
                }
                Verdict::Conflict => Verdict::Conflict,
            },
            (Ok(()), None) => self.ask_what_happened(),
        }
    }

    /// There is no error to be seen: the driver has connected again, or, in the same
    /// session, a cluster has given up what conflicts with another node's change.
    fn ask_what_happened(&mut self) -> Verdict {
        match self.is_same_session() {
            Ok(true) => Verdict::Conflict,
            Ok(false) => Verdict::Unclear,
            Err(_) => self.away(),
        }
    }

    /// A table that is missing, or that we may not change, is not the fault of a
    /// request: then what changes nothing fails as well.
    fn ask_table(&mut self) -> Verdict {
        let quote = self.quote();
        let Some(table) = self.touched.filter(|_| !self.probing) else { return Verdict::Unclear };
        let names = Names { table, quote: &quote };
        self.probing = true;
        let takes = names.harmless().iter().all(|statement| self.plain(statement).is_ok());
        self.probing = false;
        if takes { Verdict::Unclear } else { self.takes_nothing() }
    }

    /// The database answers, but takes no changes of this table, or does not have it: it
    /// is left alone for a while, or each statement would fill the driver's log.
    fn takes_nothing(&mut self) -> Verdict {
        let (until, reads) = (milliseconds() + PAUSE, self.reading);
        self.closed = self.touched.map(|table| Closed { table, until, reads });
        Verdict::Away
    }

    /// To be called before a table is changed.
    pub(super) fn may_change(&mut self, table: &str) -> Result<(), Fault> {
        self.reading = false;
        self.is_closed(table, |_| true)
    }

    /// To be called before a table is read.
    pub(super) fn may_read(&mut self, table: &str) -> Result<(), Fault> {
        self.reading = true;
        self.is_closed(table, |closed| closed.reads)
    }

    fn is_closed(&mut self, table: &str, is_meant: impl Fn(Closed) -> bool) -> Result<(), Fault> {
        let closed = self.closed.filter(|closed| closed.table == table && is_meant(*closed));
        if closed.is_none_or(|closed| milliseconds() >= closed.until) {
            return Ok(());
        }
        self.word = Some(Verdict::Away);
        Err(Fault::Database)
    }

    /// Finds out what a transaction could not be asked.
    pub(super) fn diagnose_afterwards(&mut self) {
        if self.word == Some(Verdict::Unclear) && self.driver.dialect() == Some(Dialect::Postgres) {
            self.word = Some(self.ask_something());
        }
    }

    pub(super) fn ask_something(&mut self) -> Verdict {
        if self.probe().is_err() {
            return self.away();
        }
        match self.driver.dialect() {
            Some(Dialect::Postgres) if self.reads_only() == Ok(true) => self.takes_nothing(),
            Some(Dialect::Postgres) => self.ask_table(),
            _ => Verdict::Unclear,
        }
    }

    pub(super) fn away(&mut self) -> Verdict {
        if let Some(outage) = self.driver.outage {
            self.alone = Some(Alone::without(self.alone, outage));
        }
        Verdict::Away
    }
}

/// A table that took nothing a moment ago.
#[derive(Debug, Clone, Copy)]
pub(super) struct Closed {
    table: &'static str,
    /// Until when it is left alone (milliseconds).
    until: u64,
    /// It could not be read either.
    reads: bool,
}

/// A connection that does not find the database.
#[derive(Debug, Clone, Copy)]
pub(super) struct Alone {
    /// Outages when it told the others so.
    count: u32,
    /// When it tries again, if they have found it since (milliseconds).
    until: u64,
    /// How often it has looked in vain.
    looks: u8,
}

/// So often a connection looks before it lets others do so. (The first look of each
/// has the most lines in the driver's log.)
const LOOKS: u8 = 1;

impl Alone {
    /// The database does not answer here. If others have found it since they were
    /// told so from here, it is this connection alone that is without (the server has
    /// no room for it, for one), and that is no reason to stop them again.
    pub(super) fn without(before: Option<Alone>, outage: &Outage) -> Alone {
        let is_logged = before.is_some_and(|alone| alone.count == outage.count());
        if is_logged && !outage.is_on() {
            return Alone { count: outage.count(), until: milliseconds() + PAUSE, looks: 0 };
        }
        is_away(outage);
        Alone::has_logged(before, outage)
    }

    fn has_logged(before: Option<Alone>, outage: &Outage) -> Alone {
        let count = outage.count();
        let looks = before.filter(|alone| alone.count == count).map_or(0, |alone| alone.looks);
        Alone { count, until: 0, looks }
    }

    /// It has looked in vain.
    pub(super) fn has_looked(before: Option<Alone>, outage: &Outage) -> Alone {
        let alone = Alone::has_logged(before, outage);
        Alone { looks: alone.looks.saturating_add(1), ..alone }
    }

    /// Others are to look first.
    pub(super) fn yields(self) -> bool {
        self.looks >= LOOKS
    }

    /// It is not to be tried yet.
    pub(super) fn waits(self, outage: &Outage) -> bool {
        self.count == outage.count() && self.until > 0 && milliseconds() < self.until
    }
}
