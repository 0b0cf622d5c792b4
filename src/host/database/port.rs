//! The port `Database` on a connection of Kamailio's: rows by the driver's own
//! functions, or by SQL text where that serves many at once.

use std::ffi::c_int;
use std::ptr;

use crate::error::Fault;
use crate::host::database::{Connection, columns};
use crate::host::database_value::{self as value, Keys};
use crate::host::{sys, text};
use crate::ports::{
    Assignment, Condition, Database, Extent, Group, RowUpdate, Value, Verdict, Wanted,
};
use crate::sql::many::{self, Step};
use crate::sql::prepared as statements;
use crate::sql::{Dialect, Names};
use crate::store::outage::Outage;

fn operators(conditions: &[Condition]) -> Vec<sys::db_op_t> {
    conditions.iter().map(|(_, compare, _)| compare.sign().as_ptr()).collect()
}

fn condition_values(conditions: &[Condition]) -> Vec<sys::db_val_t> {
    conditions.iter().map(|(_, _, given)| value::lend(given)).collect()
}

impl Connection {
    /// Sends a query, of which the first page is read. Gives what the driver says.
    fn begin_query(
        &mut self,
        conditions: &[Condition],
        columns: &[&'static str],
        order_by: Option<&str>,
        result: &mut *mut sys::db1_res_t,
    ) -> Result<c_int, Fault> {
        let keys = Keys::new(conditions.iter().map(|(column, ..)| *column));
        let (operators, values) = (operators(conditions), condition_values(conditions));
        let wanted = Keys::new(columns.iter().copied());
        let mut order = order_by.map(|columns| text::lend(columns.as_bytes()));
        let order = order.as_mut().map_or(ptr::null_mut(), ptr::from_mut);
        let _hush = self.hush();
        let queried = if self.driver.fetches() {
            // SAFETY: arrays of the lengths given, which outlive the call. The
            // helper asks for pages where the driver has them.
            unsafe {
                sys::db_fetch_query(
                    &raw mut self.driver.functions,
                    self.driver.fetch_rows,
                    self.handle,
                    keys.as_ptr(),
                    operators.as_ptr(),
                    values.as_ptr(),
                    wanted.as_ptr(),
                    keys.count(),
                    wanted.count(),
                    order,
                    result,
                )
            }
        } else {
            let query = self.driver.functions.query.ok_or(Fault::Database)?;
            // SAFETY: the same arrays of the lengths given, which outlive the
            // call; `handle` is this driver's connection.
            unsafe {
                query(
                    self.handle,
                    keys.as_ptr(),
                    operators.as_ptr(),
                    values.as_ptr(),
                    wanted.as_ptr(),
                    keys.count(),
                    wanted.count(),
                    order,
                    result,
                )
            }
        };
        Ok(queried)
    }
}

impl Database for Connection {
    fn insert(&mut self, table: &str, row: &[Assignment]) -> Result<(), Fault> {
        columns::check(table, row)?;
        self.may_change(table)?;
        if let Some(done) = self.execute(table, |names| statements::insert(names, row)) {
            return done;
        }
        self.use_table(table)?;
        let insert = self.driver.functions.insert.ok_or(Fault::Database)?;
        let _guard = self.write_lock();
        let keys = Keys::new(row.iter().map(|(column, _)| *column));
        let values: Vec<_> = row.iter().map(|(_, given)| value::lend(given)).collect();
        let hush = self.hush();
        // SAFETY: as many keys as values, all of which outlive the call.
        let result = unsafe { insert(self.handle, keys.as_ptr(), values.as_ptr(), keys.count()) };
        drop(hush);
        self.check(result)
    }

    fn update(
        &mut self,
        table: &str,
        conditions: &[Condition],
        set: &[Assignment],
    ) -> Result<(), Fault> {
        columns::check(table, set)?;
        self.met_nothing = columns::meet_nothing(table, conditions);
        if self.met_nothing {
            return Ok(());
        }
        self.may_change(table)?;
        if let Some(done) = self.execute(table, |names| statements::update(names, conditions, set))
        {
            return done;
        }
        self.use_table(table)?;
        let update = self.driver.functions.update.ok_or(Fault::Database)?;
        let _guard = self.write_lock();
        let where_keys = Keys::new(conditions.iter().map(|(column, ..)| *column));
        let (operators, where_values) = (operators(conditions), condition_values(conditions));
        let keys = Keys::new(set.iter().map(|(column, _)| *column));
        let values: Vec<_> = set.iter().map(|(_, given)| value::lend(given)).collect();
        let hush = self.hush();
        // SAFETY: the two groups of arrays are each of the length given, and
        // outlive the call.
        let result = unsafe {
            update(
                self.handle,
                where_keys.as_ptr(),
                operators.as_ptr(),
                where_values.as_ptr(),
                keys.as_ptr(),
                values.as_ptr(),
                where_keys.count(),
                keys.count(),
            )
        };
        drop(hush);
        self.check(result)
    }

    fn delete(&mut self, table: &str, conditions: &[Condition]) -> Result<(), Fault> {
        self.met_nothing = columns::meet_nothing(table, conditions);
        if self.met_nothing {
            return Ok(());
        }
        self.may_change(table)?;
        if let Some(done) = self.execute(table, |names| statements::delete(names, conditions)) {
            return done;
        }
        self.use_table(table)?;
        let delete = self.driver.functions.delete.ok_or(Fault::Database)?;
        let _guard = self.write_lock();
        let keys = Keys::new(conditions.iter().map(|(column, ..)| *column));
        let (operators, values) = (operators(conditions), condition_values(conditions));
        let hush = self.hush();
        // SAFETY: three arrays of the length given, which outlive the call.
        let result = unsafe {
            delete(self.handle, keys.as_ptr(), operators.as_ptr(), values.as_ptr(), keys.count())
        };
        drop(hush);
        self.check(result)
    }

    fn query(
        &mut self,
        table: &str,
        conditions: &[Condition],
        columns: &[&'static str],
        order_by: Option<&str>,
        each: &mut dyn FnMut(&[Value]),
    ) -> Result<(), Fault> {
        if columns::meet_nothing(table, conditions) {
            return Ok(());
        }
        // This is a `text`, which PostgreSQL's driver takes for binary: it would
        // drop backslashes.
        if self.driver.dialect() == Some(Dialect::Postgres)
            && columns.contains(&"record_route")
            && let Some(rows) =
                self.query_packed(table, conditions, columns, order_by.unwrap_or("id"))
        {
            rows?.iter().for_each(|row| each(row));
            return Ok(());
        }
        self.may_read(table)?;
        self.use_table(table)?;
        let mut result = ptr::null_mut();
        let queried = self.begin_query(conditions, columns, order_by, &mut result)?;
        self.check(queried)?;
        loop {
            // SAFETY: the driver's result, not freed yet.
            let found = unsafe { value::rows(result, each) };
            if found == 0 || !self.driver.fetches() {
                break;
            }
            let hush = self.hush();
            // SAFETY: the driver's result, not freed yet; fetches the next page
            // into the same result. On an error the helper frees it and sets it
            // to NULL.
            let more = unsafe {
                sys::db_fetch_next(
                    &raw mut self.driver.functions,
                    self.driver.fetch_rows,
                    self.handle,
                    &raw mut result,
                )
            };
            drop(hush);
            match more {
                0 => break,
                n if n < 0 => return self.check(n),
                _ => {}
            }
        }
        self.free(result);
        Ok(())
    }

    fn page(
        &mut self,
        table: &str,
        conditions: &[Condition],
        columns: &[&'static str],
        wanted: Wanted,
        each: &mut dyn FnMut(Vec<Value>),
    ) -> Result<(), Fault> {
        // The API has no limit; its text for ORDER BY ends the statement.
        let order = match (self.driver.limits(), wanted.extent) {
            (false, _) => "id".to_owned(),
            (true, Extent::Most) => format!("id LIMIT {}", wanted.most),
            (true, Extent::Part) => format!("id + 0 LIMIT {}", wanted.most),
        };
        if wanted.is_text
            && let Some(rows) = self.query_packed(table, conditions, columns, &order)
        {
            rows?.into_iter().for_each(each);
            return Ok(());
        }
        self.query(table, conditions, columns, Some(&order), &mut |row| each(row.to_vec()))
    }

    fn scan(
        &mut self,
        table: &str,
        conditions: &[Condition],
        columns: &[&'static str],
        wanted: Wanted,
        each: &mut dyn FnMut(Vec<Value>),
    ) -> Result<bool, Fault> {
        if self.driver.dialect() != Some(Dialect::Postgres) {
            return Ok(false);
        }
        let select = self.select(table, conditions, columns, (wanted.is_text, "id"));
        let Some((select, packed)) = select else { return Ok(false) };
        self.touched = columns::ours(table);
        self.try_again()?;
        self.begin()?;
        let form = (packed, columns.len());
        let scanned = self.scan_cursor(&select, form, wanted.most, each);
        // Ends the transaction, in which nothing was changed, and the cursor.
        let ended = self.rollback();
        scanned.and(ended).map(|()| true)
    }

    fn groups(
        &mut self,
        table: &str,
        conditions: &[Condition],
        columns: &[&'static str],
        most: usize,
    ) -> Result<Option<Vec<Group>>, Fault> {
        if self.driver.dialect().is_none() {
            return Ok(None);
        }
        let quote = self.quote();
        let statement = Names { table, quote: &quote }.groups(columns, conditions, most);
        let Some(statement) = statement else { return Ok(None) };
        self.touched = columns::ours(table);
        self.may_read(table)?;
        self.try_again()?;
        let rows = self.ask_rows(&statement, None, columns.len() + 1)?;
        let group = |mut row: Vec<Value>| {
            let count = row.pop().and_then(|count| u64::try_from(count.as_int()?).ok())?;
            Some((row, count))
        };
        rows.into_iter().map(group).collect::<Option<Vec<_>>>().ok_or(Fault::Database).map(Some)
    }

    fn insert_rows(&mut self, table: &str, rows: &[&[Assignment]]) -> Result<(), Fault> {
        if self.driver.dialect().is_none() {
            return rows.iter().try_for_each(|row| self.insert(table, row));
        }
        self.may_change(table)?;
        self.touched = columns::ours(table);
        let quote = self.quote();
        many::insert(Names { table, quote: &quote }, rows, &mut |step| match step {
            Step::Statement(text) => self.send(text),
            Step::Row(row) => self.insert(table, row),
        })
    }

    fn update_rows(&mut self, table: &str, rows: &[RowUpdate<'_>]) -> Result<(), Fault> {
        if self.driver.dialect() != Some(Dialect::Postgres) {
            return rows.iter().try_for_each(|(key, set)| self.update(table, key, set));
        }
        self.may_change(table)?;
        self.touched = columns::ours(table);
        let quote = self.quote();
        many::update(Names { table, quote: &quote }, rows, &mut |step| match step {
            Step::Statement(text) => self.send(text),
            Step::Row((key, set)) => self.update(table, key, set),
        })
    }

    fn delete_rows(&mut self, table: &str, rows: &[&[Condition]]) -> Result<(), Fault> {
        if self.driver.dialect() != Some(Dialect::Postgres) {
            return rows.iter().try_for_each(|key| self.delete(table, key));
        }
        self.may_change(table)?;
        self.touched = columns::ours(table);
        let quote = self.quote();
        many::delete(Names { table, quote: &quote }, rows, &mut |step| match step {
            Step::Statement(text) => self.send(text),
            Step::Row(key) => self.delete(table, key),
        })
    }

    fn begin(&mut self) -> Result<(), Fault> {
        self.begin_transaction()
    }

    fn commit(&mut self) -> Result<(), Fault> {
        self.commit_transaction()
    }

    fn rollback(&mut self) -> Result<(), Fault> {
        self.roll_back()
    }

    fn verdict(&mut self) -> Verdict {
        let verdict = self.word.take().unwrap_or(Verdict::Unclear);
        self.explained(verdict);
        verdict
    }

    fn outages(&mut self) -> u32 {
        self.driver.outage.map_or(0, Outage::count)
    }

    fn look_for_outages(&mut self) {
        // Behind a pooler sessions change all the time.
        if self.driver.outage.is_some() && !self.driver.is_pooled() && self.try_again().is_ok() {
            let asked = self.ask_session();
            let _ = self.check(if asked.is_ok() { 0 } else { -1 });
        }
    }

    fn catch_up(&mut self) -> bool {
        !self.in_transaction
            && self.try_again().is_ok()
            && self.is_node()
            && self.wait_for_node().is_ok()
    }

    fn keeps_null_texts(&self) -> bool {
        // Its driver binds an empty `str` of C, which has no text, as NULL.
        self.driver.is_sqlite()
    }

    fn affected_rows(&mut self) -> Option<u64> {
        if self.met_nothing {
            return Some(0);
        }
        if self.driver.is_sqlite() {
            let changes = self.raw(b"SELECT changes()").ok().flatten();
            let changes = changes.and_then(|changes| u64::try_from(changes.as_int()?).ok());
            return Some(changes.unwrap_or(0));
        }
        if !self.driver.has(sys::db_cap_DB_CAP_AFFECTED_ROWS) {
            return None;
        }
        // SAFETY: the connection is open.
        let rows = unsafe { self.driver.functions.affected_rows?(self.handle) };
        match u64::try_from(rows) {
            Ok(rows) => Some(rows),
            // It may be SQLite's driver, which has no function for that.
            Err(_) if self.driver.is_cluster() => {
                let changes = self.plain(b"SELECT changes()").ok().flatten()?;
                u64::try_from(changes.as_int()?).ok()
            }
            // A driver that counts and fails has met none that we could rely on.
            Err(_) => Some(0),
        }
    }
}
