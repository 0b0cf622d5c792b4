//! The database as the service uses it: each statement is timed, and counted if it
//! fails.

use std::time::Instant;

use crate::error::Fault;
use crate::host::database::Connection;
use crate::host::state;
use crate::ports::{Assignment, Condition, Database, Group, RowUpdate, Value, Verdict, Wanted};
use crate::presence::measures::{Statement, Total};

/// A connection whose statements are counted.
pub struct Measured(pub Connection);

/// Runs a statement and counts it. Nothing is counted before the server is there.
fn measured<T>(kind: Statement, run: impl FnOnce() -> Result<T, Fault>) -> Result<T, Fault> {
    let Some(server) = state::server() else { return run() };
    let counters = server.store.counters();
    let start = Instant::now();
    let done = run();
    counters.statement(kind, u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX));
    if done.is_err() {
        counters.count(Total::DatabaseErrors);
    }
    done
}

impl Database for Measured {
    fn insert(&mut self, table: &str, row: &[Assignment]) -> Result<(), Fault> {
        measured(Statement::Insert, || self.0.insert(table, row))
    }

    fn update(
        &mut self,
        table: &str,
        conditions: &[Condition],
        set: &[Assignment],
    ) -> Result<(), Fault> {
        measured(Statement::Update, || self.0.update(table, conditions, set))
    }

    fn delete(&mut self, table: &str, conditions: &[Condition]) -> Result<(), Fault> {
        measured(Statement::Delete, || self.0.delete(table, conditions))
    }

    fn query(
        &mut self,
        table: &str,
        conditions: &[Condition],
        columns: &[&'static str],
        order_by: Option<&str>,
        each: &mut dyn FnMut(&[Value]),
    ) -> Result<(), Fault> {
        measured(Statement::Select, || self.0.query(table, conditions, columns, order_by, each))
    }

    fn page(
        &mut self,
        table: &str,
        conditions: &[Condition],
        columns: &[&'static str],
        wanted: Wanted,
        each: &mut dyn FnMut(Vec<Value>),
    ) -> Result<(), Fault> {
        measured(Statement::Select, || self.0.page(table, conditions, columns, wanted, each))
    }

    fn scan(
        &mut self,
        table: &str,
        conditions: &[Condition],
        columns: &[&'static str],
        wanted: Wanted,
        each: &mut dyn FnMut(Vec<Value>),
    ) -> Result<bool, Fault> {
        measured(Statement::Select, || self.0.scan(table, conditions, columns, wanted, each))
    }

    fn groups(
        &mut self,
        table: &str,
        conditions: &[Condition],
        columns: &[&'static str],
        most: usize,
    ) -> Result<Option<Vec<Group>>, Fault> {
        measured(Statement::Select, || self.0.groups(table, conditions, columns, most))
    }

    fn insert_rows(&mut self, table: &str, rows: &[&[Assignment]]) -> Result<(), Fault> {
        measured(Statement::Insert, || self.0.insert_rows(table, rows))
    }

    fn update_rows(&mut self, table: &str, rows: &[RowUpdate<'_>]) -> Result<(), Fault> {
        measured(Statement::Update, || self.0.update_rows(table, rows))
    }

    fn delete_rows(&mut self, table: &str, rows: &[&[Condition]]) -> Result<(), Fault> {
        measured(Statement::Delete, || self.0.delete_rows(table, rows))
    }

    fn begin(&mut self) -> Result<(), Fault> {
        measured(Statement::Transaction, || self.0.begin())
    }

    fn commit(&mut self) -> Result<(), Fault> {
        measured(Statement::Transaction, || self.0.commit())
    }

    fn rollback(&mut self) -> Result<(), Fault> {
        measured(Statement::Transaction, || self.0.rollback())
    }

    fn repeats(&mut self) {
        if let Some(server) = state::server() {
            server.store.counters().count(Total::DatabaseRetries);
        }
    }

    fn verdict(&mut self) -> Verdict {
        self.0.verdict()
    }

    fn affected_rows(&mut self) -> Option<u64> {
        self.0.affected_rows()
    }

    fn outages(&mut self) -> u32 {
        self.0.outages()
    }

    fn look_for_outages(&mut self) {
        self.0.look_for_outages();
    }

    fn catch_up(&mut self) -> bool {
        self.0.catch_up()
    }

    fn keeps_null_texts(&self) -> bool {
        self.0.keeps_null_texts()
    }
}
