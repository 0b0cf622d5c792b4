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
/// MySQL's driver repeats even a COMMIT on a new connection, where it means
/// nothing.
const SESSION: &[u8] = b"SELECT CONNECTION_ID()";

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
        // SAFETY: the connection is open.
        let started = unsafe { start(self.handle, sys::db_locking_t_DB_LOCKING_NONE) };
        self.check(started)?;
        self.in_transaction = true;
        let marked = self.mark_transaction();
        if marked.is_err() {
            let _ = self.roll_back();
        }
        marked
    }

    /// Fails when the transaction is not the one that was begun: drivers connect
    /// again by themselves, and the statements so far are gone with the old
    /// connection, those since durable.
    pub(super) fn commit_transaction(&mut self) -> Result<(), Fault> {
        let numbered = self.driver.numbers_sessions();
        let has_transactions = self.driver.functions.start_transaction.is_some();
        if !self.driver.is_sqlite() && has_transactions && !numbered {
            self.raw(MARK_IS_THERE)?;
        }
        self.transaction(b"COMMIT", self.driver.functions.end_transaction)?;
        self.ended();
        if numbered && self.raw(SESSION)? != self.session {
            self.word = Some(Verdict::Unclear);
            return Err(Fault::Database);
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

    /// Remembers what tells whether the transaction is still the same at its end.
    fn mark_transaction(&mut self) -> Result<(), Fault> {
        if self.driver.numbers_sessions() {
            self.session = self.raw(SESSION)?;
            return Ok(());
        }
        self.raw(MARK).map(|_| ())
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
                // SAFETY: the connection is open.
                let result = unsafe { function(self.handle) };
                self.check(result)
            }
            // A driver without transactions makes each statement durable.
            None => Ok(()),
        }
    }
}
