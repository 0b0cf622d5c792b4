//! Tables in memory, with transactions and failures on demand.

use presence::error::Fault;
use presence::ports::{
    Assignment, Compare, Condition, Database, RowUpdate, Value, Verdict, Wanted,
};
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

type Row = BTreeMap<&'static str, Value>;
type Tables = HashMap<String, Vec<Row>>;

/// What becomes of a COMMIT whose answer does not come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CutCommit {
    /// It was carried out.
    Done,
    /// The transaction was rolled back.
    RolledBack,
}

/// A statement about to be executed, for those who decide whether it fails.
pub struct Statement<'a> {
    pub verb: &'static str,
    /// The text values in its conditions and assignments.
    pub texts: Vec<&'a [u8]>,
}

/// Unique keys of the stock tables.
const UNIQUE: [(&str, &[&str]); 2] = [
    ("active_watchers", &["callid", "to_tag", "from_tag"]),
    ("presentity", &["username", "domain", "event", "etag"]),
];

type Before = Box<dyn FnMut(&'static str) + Send>;
type Judge = Box<dyn FnMut(&Statement<'_>) -> bool + Send>;

#[derive(Default)]
struct Inner {
    tables: Tables,
    next_id: i64,
    /// Says which statements fail.
    fails: Option<Judge>,
    statements: usize,
    /// What it says of a failure while it is there.
    verdict: Option<Verdict>,
    /// Statements for many rows are refused.
    one_by_one: bool,
    /// A scan fails after so many rows; without it there are only pages.
    scans: Option<usize>,
    /// Comes before each statement that is not its own.
    before: Option<Before>,
    /// The answer of the next such statement is lost after it was executed.
    pub lose: Option<&'static str>,
    /// The next COMMIT is cut.
    cut: Option<CutCommit>,
    /// How often it was away.
    outages: u32,
}

/// One process's connection; clones share the tables.
#[derive(Clone, Default)]
pub struct FakeDatabase {
    inner: Arc<Mutex<Inner>>,
    /// Some process is in a transaction: the others wait.
    busy: Arc<AtomicBool>,
    in_transaction: bool,
    /// As in the transaction that is under way here: undone by a rollback.
    undo: Vec<(String, Vec<Row>)>,
    affected: u64,
    /// What this node of a cluster has, if it is behind the others.
    behind: Option<Tables>,
    /// How often it has caught up.
    caught_up: u32,
}

impl FakeDatabase {
    /// Lets the statements fail for which `judge` says so.
    pub fn fail_if(&self, judge: impl FnMut(&Statement<'_>) -> bool + Send + 'static) {
        self.lock().fails = Some(Box::new(judge));
    }

    /// Says this of failures.
    pub fn explain(&self, verdict: Verdict) {
        self.lock().verdict = Some(verdict);
    }

    /// Has `before` called with the verb of each statement to come, which may use
    /// the database itself.
    pub fn before_statement(&self, before: impl FnMut(&'static str) + Send + 'static) {
        self.lock().before = Some(Box::new(before));
    }

    fn announce(&self, verb: &'static str) {
        let before = self.lock().before.take();
        if let Some(mut before) = before {
            before(verb);
            self.lock().before = Some(before);
        }
    }

    /// Also ends the transaction of who panicked in one.
    pub fn work_again(&self) {
        self.busy.store(false, SeqCst);
        self.lock().fails = None;
    }

    /// One column of all rows of a table, as text.
    pub fn column(&self, table: &str, column: &str) -> Vec<String> {
        let inner = self.lock();
        let rows = inner.tables.get(table).map_or(&[][..], Vec::as_slice);
        rows.iter().map(|row| show(row.get(column).unwrap_or(&Value::Null))).collect()
    }

    /// Takes no statements for many rows.
    pub fn one_by_one(&self) {
        self.lock().one_by_one = true;
    }

    /// Gives whole tables in one go, but fails after `rows`.
    pub fn scan_only(&self, rows: usize) {
        self.lock().scans = Some(rows);
    }

    /// All that it has now.
    pub fn copy(&self) -> Box<dyn Fn(&FakeDatabase) + Send> {
        let tables = self.lock().tables.clone();
        // A copy of it takes its place.
        Box::new(move |database| database.lock().tables = tables.clone())
    }

    /// It was away, and is back.
    pub fn was_away(&self) {
        self.lock().outages += 1;
    }

    /// The next COMMIT gets no answer.
    pub fn cut_commit(&self, what: CutCommit) {
        self.lock().cut = Some(what);
    }

    /// This node applies nothing of the others until it is asked to catch up.
    pub fn fall_behind(&mut self) {
        let tables = self.lock().tables.clone();
        self.behind = Some(tables);
    }

    /// How often this node was asked to catch up.
    pub fn caught_up(&self) -> u32 {
        self.caught_up
    }

    /// Rows of a table that meet conditions, as this node sees it.
    fn seen(&self, table: &str, conditions: &[Condition]) -> Option<usize> {
        let rows = self.behind.as_ref()?.get(table).map_or(&[][..], Vec::as_slice);
        Some(rows.iter().filter(|row| meets(row, conditions)).count())
    }

    pub fn lose_answer(&self, verb: &'static str) {
        self.lock().lose = Some(verb);
    }

    /// No answer is lost any more.
    pub fn lose_none(&self) {
        self.lock().lose = None;
    }

    /// How many statements were executed.
    pub fn statements(&self) -> usize {
        self.lock().statements
    }

    fn takes_many(&self) -> Result<(), Fault> {
        if self.lock().one_by_one { Err(Fault::Database) } else { Ok(()) }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A test may have panicked in a statement.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs a statement on its table unless it is to fail.
    fn execute<R>(
        &mut self,
        verb: &'static str,
        table: &str,
        values: &[&Value],
        work: impl FnOnce(&mut Vec<Row>, &mut i64) -> R,
    ) -> Result<R, Fault> {
        if !self.in_transaction {
            self.announce(verb);
        }
        let alone = (!self.in_transaction).then(|| Exclusive::wait(&self.busy));
        let inner = self.inner.clone();
        let mut inner = inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.statements += 1;
        let texts = values.iter().map(|value| value.as_bytes()).collect();
        if inner.fails.as_mut().is_some_and(|fails| fails(&Statement { verb, texts })) {
            return Err(Fault::Database);
        }
        let Inner { tables, next_id, .. } = &mut *inner;
        let rows = tables.entry(table.to_owned()).or_default();
        if self.in_transaction && self.undo.iter().all(|(known, _)| known != table) {
            self.undo.push((table.to_owned(), rows.clone()));
        }
        let done = work(rows, next_id);
        let lost = inner.lose == Some(verb);
        if lost {
            inner.lose = None;
        }
        drop(alone);
        if lost {
            return Err(Fault::Database);
        }
        Ok(done)
    }
}

/// While it lives no other process changes anything.
struct Exclusive(Arc<AtomicBool>);

impl Exclusive {
    fn wait(busy: &Arc<AtomicBool>) -> Exclusive {
        while busy.swap(true, SeqCst) {
            std::thread::yield_now();
        }
        Exclusive(busy.clone())
    }
}

impl Drop for Exclusive {
    fn drop(&mut self) {
        self.0.store(false, SeqCst);
    }
}

fn show(value: &Value) -> String {
    match value {
        Value::Null => "NULL".to_owned(),
        Value::Int(n) => n.to_string(),
        Value::Text(text) | Value::Blob(text) => String::from_utf8_lossy(text).into_owned(),
    }
}

fn meets(row: &Row, conditions: &[Condition]) -> bool {
    conditions.iter().all(|(column, compare, value)| {
        let stored = row.get(column).unwrap_or(&Value::Null);
        match (compare, stored.as_int(), value.as_int()) {
            (Compare::Less, Some(a), Some(b)) => a < b,
            (Compare::Greater, Some(a), Some(b)) => a > b,
            (Compare::Less | Compare::Greater, ..) => false,
            (Compare::Eq, ..) => show(stored) == show(value),
            (Compare::Not, ..) => show(stored) != show(value) && *stored != Value::Null,
            (Compare::Is, ..) => stored == value,
        }
    })
}

fn values(conditions: &[Condition]) -> Vec<&Value> {
    conditions.iter().map(|(_, _, value)| value).collect()
}

impl Database for FakeDatabase {
    fn insert(&mut self, table: &str, row: &[Assignment]) -> Result<(), Fault> {
        let values: Vec<_> = row.iter().map(|(_, value)| value).collect();
        self.execute("insert", table, &values, |rows, next_id| {
            *next_id += 1;
            let mut new: Row = row.iter().cloned().collect();
            new.insert("id", Value::Int(*next_id));
            let key = UNIQUE.iter().find(|(of, _)| *of == table).map_or(&[][..], |(_, key)| key);
            let is_there = |old: &Row| key.iter().all(|column| old.get(column) == new.get(column));
            if !key.is_empty() && rows.iter().any(is_there) {
                return Err(Fault::Database);
            }
            rows.push(new);
            Ok(())
        })?
    }

    fn update(
        &mut self,
        table: &str,
        conditions: &[Condition],
        set: &[Assignment],
    ) -> Result<(), Fault> {
        if self.seen(table, conditions) == Some(0) {
            self.affected = 0;
            return Ok(());
        }
        self.affected = self.execute("update", table, &values(conditions), |rows, _| {
            let met = rows.iter_mut().filter(|row| meets(row, conditions));
            met.map(|row| row.extend(set.iter().cloned())).count() as u64
        })?;
        Ok(())
    }

    fn delete(&mut self, table: &str, conditions: &[Condition]) -> Result<(), Fault> {
        if self.seen(table, conditions) == Some(0) {
            self.affected = 0;
            return Ok(());
        }
        self.affected = self.execute("delete", table, &values(conditions), |rows, _| {
            let before = rows.len();
            rows.retain(|row| !meets(row, conditions));
            (before - rows.len()) as u64
        })?;
        Ok(())
    }

    fn query(
        &mut self,
        table: &str,
        conditions: &[Condition],
        columns: &[&'static str],
        order_by: Option<&str>,
        each: &mut dyn FnMut(&[Value]),
    ) -> Result<(), Fault> {
        let behind = self.behind.as_ref().map(|tables| tables.get(table).cloned());
        let found = self.execute("query", table, &values(conditions), |rows, _| {
            let behind = behind.map(Option::unwrap_or_default);
            let rows = behind.as_ref().unwrap_or(rows);
            let mut found: Vec<_> =
                rows.iter().filter(|row| meets(row, conditions)).cloned().collect();
            if order_by.is_some_and(|order| order.starts_with("received_time")) {
                found.sort_by_key(|row| row.get("received_time").and_then(Value::as_int));
            }
            found
        })?;
        for row in found {
            let of = |column: &&str| row.get(*column).cloned().unwrap_or(Value::Null);
            each(&columns.iter().map(of).collect::<Vec<_>>());
        }
        Ok(())
    }

    fn page(
        &mut self,
        table: &str,
        conditions: &[Condition],
        columns: &[&'static str],
        page: Wanted,
        each: &mut dyn FnMut(Vec<Value>),
    ) -> Result<(), Fault> {
        let mut left = page.most;
        self.query(table, conditions, columns, None, &mut |row| {
            if left > 0 {
                left -= 1;
                each(row.to_vec());
            }
        })
    }

    fn scan(
        &mut self,
        table: &str,
        conditions: &[Condition],
        columns: &[&'static str],
        _wanted: Wanted,
        each: &mut dyn FnMut(Vec<Value>),
    ) -> Result<bool, Fault> {
        let Some(most) = self.lock().scans else { return Ok(false) };
        let mut rows = Vec::new();
        self.query(table, conditions, columns, None, &mut |row| rows.push(row.to_vec()))?;
        let whole = rows.len() <= most;
        rows.into_iter().take(most).for_each(each);
        if whole { Ok(true) } else { Err(Fault::Database) }
    }

    fn insert_rows(&mut self, table: &str, rows: &[&[Assignment]]) -> Result<(), Fault> {
        self.takes_many()?;
        rows.iter().try_for_each(|row| self.insert(table, row))
    }

    fn update_rows(&mut self, table: &str, rows: &[RowUpdate<'_>]) -> Result<(), Fault> {
        self.takes_many()?;
        let key = |conditions: &[Condition]| -> Vec<Value> {
            let equal = conditions.iter().filter(|(_, compare, _)| *compare == Compare::Eq);
            equal.map(|(.., value)| value.clone()).collect()
        };
        for (at, (row, _)) in rows.iter().enumerate() {
            let others = &rows[..at];
            assert!(others.iter().all(|(other, _)| key(other) != key(row)), "a row twice");
        }
        rows.iter().try_for_each(|(conditions, set)| self.update(table, conditions, set))
    }

    fn begin(&mut self) -> Result<(), Fault> {
        self.announce("begin");
        let begin = Statement { verb: "begin", texts: Vec::new() };
        if self.lock().fails.as_mut().is_some_and(|fails| fails(&begin)) {
            return Err(Fault::Database);
        }
        std::mem::forget(Exclusive::wait(&self.busy));
        self.in_transaction = true;
        self.undo.clear();
        Ok(())
    }

    fn commit(&mut self) -> Result<(), Fault> {
        let cut = self.lock().cut.take();
        if cut == Some(CutCommit::RolledBack) {
            // Who has asked for it rolls back.
            return Err(Fault::Database);
        }
        self.undo.clear();
        if cut == Some(CutCommit::Done) {
            return Err(Fault::Database);
        }
        self.in_transaction = false;
        self.busy.store(false, SeqCst);
        Ok(())
    }

    fn rollback(&mut self) -> Result<(), Fault> {
        assert!(self.in_transaction, "there is nothing of ours to roll back");
        let undo: Vec<_> = self.undo.drain(..).rev().collect();
        let mut inner = self.lock();
        for (table, rows) in undo {
            inner.tables.insert(table, rows);
        }
        drop(inner);
        self.in_transaction = false;
        self.busy.store(false, SeqCst);
        Ok(())
    }

    /// A statement of its own to the judge.
    fn verdict(&mut self) -> Verdict {
        let probe = Statement { verb: "verdict", texts: Vec::new() };
        let mut inner = self.lock();
        match inner.fails.as_mut().is_some_and(|fails| fails(&probe)) {
            true => Verdict::Away,
            false => inner.verdict.unwrap_or(Verdict::Unclear),
        }
    }

    fn keeps_null_texts(&self) -> bool {
        true
    }

    fn outages(&mut self) -> u32 {
        self.lock().outages
    }

    fn catch_up(&mut self) -> bool {
        self.caught_up += 1;
        self.behind.take().is_some()
    }

    fn affected_rows(&mut self) -> Option<u64> {
        Some(self.affected)
    }
}
