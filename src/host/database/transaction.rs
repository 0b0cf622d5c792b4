//! Transactions of a connection: the driver's, and on SQLite, whose driver has
//! none, statements.

use std::ffi::c_int;
use std::time::Instant;

use crate::error::Fault;
use crate::host::database::Connection;
use crate::host::database::write_lock::WriteGuard;
use crate::host::sys;
use crate::ports::Verdict;

/// Marks a transaction: see [`Connection::commit_transaction`].
const MARK: &[u8] = b"SAVEPOINT presence";
const MARK_IS_THERE: &[u8] = b"RELEASE SAVEPOINT presence";

impl Connection {
    pub(super) fn begin_transaction(&mut self) -> Result<(), Fault> {
        self.try_again()?;
        if self.driver.is_sqlite() {
            self.write_guard = self.write_lock();
            self.in_transaction = true;
            let begun = self.raw(b"BEGIN IMMEDIATE");
            if begun.is_err() {
                self.ended();
            }
            // What follows waits for nobody.
            self.started = Instant::now();
            return begun.map(|_| ());
        }
        let Some(start) = self.driver.functions.start_transaction else { return Ok(()) };
        // A transaction that fails takes back what it has set.
        if self.driver.repeats_commits() || self.prepared.lacks_session() {
            self.mark_session()?;
        }
        let hush = self.hush();
        // SAFETY: the connection is open.
        let started = unsafe { start(self.handle, sys::db_locking_t_DB_LOCKING_NONE) };
        drop(hush);
        self.check(started)?;
        self.in_transaction = true;
        if self.driver.repeats_commits() {
            return Ok(());
        }
        let marked = self.raw(MARK).map(|_| ());
        if marked.is_err() {
            let _ = self.roll_back();
        }
        marked
    }

    /// Afterwards the session has its variable.
    fn mark_session(&mut self) -> Result<(), Fault> {
        let asked = self.ask_session();
        self.check(if asked.is_ok() { 0 } else { -1 })
    }

    /// Fails when the transaction is not the one that was begun: drivers connect
    /// again by themselves, and the statements so far are gone with the old
    /// connection, those since durable. (MySQL's driver repeats even a COMMIT on a new
    /// connection, where it means nothing. So there its session is asked for before
    /// and after.)
    pub(super) fn commit_transaction(&mut self) -> Result<(), Fault> {
        let repeats = self.driver.repeats_commits();
        let has_transactions = self.driver.functions.start_transaction.is_some();
        if !self.driver.is_sqlite() && has_transactions && !repeats {
            self.raw(MARK_IS_THERE)?;
        }
        self.transaction(b"COMMIT", self.driver.functions.end_transaction)?;
        self.ended();
        if repeats && has_transactions {
            let asked = self.is_same_session();
            self.check(if asked.is_ok() { 0 } else { -1 })?;
            if asked != Ok(true) {
                self.word = Some(Verdict::Unclear);
                return Err(Fault::Database);
            }
        }
        Ok(())
    }

    pub(super) fn roll_back(&mut self) -> Result<(), Fault> {
        let undone = self.transaction(b"ROLLBACK", self.driver.functions.abort_transaction);
        self.ended();
        match undone {
            Ok(()) => self.diagnose_afterwards(),
            Err(_) => self.diagnose(),
        }
        undone
    }

    /// Waits for the write lock, where there is one; not within a transaction,
    /// which has SQLite's lock already.
    pub(super) fn write_lock(&self) -> Option<WriteGuard> {
        if self.in_transaction { None } else { self.driver.write_lock() }
    }

    /// Rolls back a transaction that was left open, by a panic.
    pub fn leave_transaction(&mut self) {
        if self.in_transaction {
            let _ = self.roll_back();
        }
    }

    /// No transaction of ours is open any more: the write lock is free.
    fn ended(&mut self) {
        self.in_transaction = false;
        self.write_guard = None;
    }

    fn transaction(
        &mut self,
        statement: &[u8],
        function: Option<unsafe extern "C" fn(*mut sys::db1_con_t) -> c_int>,
    ) -> Result<(), Fault> {
        if self.driver.is_sqlite() {
            return self.raw(statement).map(|_| ());
        }
        match function {
            Some(function) => {
                let hush = self.hush();
                // SAFETY: the connection is open.
                let result = unsafe { function(self.handle) };
                drop(hush);
                self.check(result)
            }
            // A driver without transactions makes each statement durable.
            None => Ok(()),
        }
    }
}
