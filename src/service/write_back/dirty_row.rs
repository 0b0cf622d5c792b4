//! The row of a subscription that lags behind, and the statements that write it.

use crate::error::Fault;
use crate::ports::{Assignment, Compare, Condition, Database, Host, Value};
use crate::service::Server;
use crate::service::durable::{durable, single};
use crate::shm::Memory;
use crate::store::rows::{dialog_conditions, dialog_of, subscription_changes, subscription_row};
use crate::store::write_back::{Dirty, RowChange};

/// A row that lags behind, with what its table has to be told.
pub(super) struct DirtyRow<'a> {
    pub dirty: &'a Dirty,
    /// What an old row is found by. Another process may have written a later
    /// request of this dialog.
    not_later: Vec<Condition>,
    /// All of a new row, else the columns that change.
    pub set: Vec<Assignment>,
}

impl<'a> DirtyRow<'a> {
    /// `None` where its package is unknown.
    pub fn of<M: Memory>(server: &Server<M>, dirty: &'a Dirty) -> Option<DirtyRow<'a>> {
        let subscription = &dirty.subscription;
        let mut set = match dirty.change {
            RowChange::Delete => Vec::new(),
            RowChange::Update => subscription_changes(subscription, dirty.expires_at),
            RowChange::Insert => {
                let event = server.registry.get(subscription.package)?;
                subscription_row(subscription, &event.name, dirty.expires_at, 0)
            }
        };
        server.widths.subscriptions.drop_unfit_optional(&mut set);
        let mut not_later = dialog_conditions(dialog_of(subscription));
        if let Ok(cseq) = i32::try_from(subscription.remote_cseq.0) {
            not_later.push(("remote_cseq", Compare::Less, Value::Int(i64::from(cseq) + 1)));
        }
        Some(DirtyRow { dirty, not_later, set })
    }

    fn key(&self) -> Vec<Condition> {
        dialog_conditions(dialog_of(&self.dirty.subscription))
    }
}

fn table<M: Memory>(server: &Server<M>) -> Result<&str, Fault> {
    std::str::from_utf8(&server.config.active_watchers_table).map_err(|_| Fault::Database)
}

/// What the table has is out of date, and must not come back after a restart.
pub(super) fn forget_row<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    row: &DirtyRow<'_>,
) -> Result<(), Fault> {
    if row.dirty.change != RowChange::Update {
        return Ok(());
    }
    let table = table(server)?;
    let database = host.database().ok_or(Fault::Database)?;
    single(database, |database, _| database.delete(table, &row.key()))
}

/// Attempts to write a batch with one statement for many rows. A server that
/// does not take it has its rows in those that follow, one by one.
const TOGETHER: u32 = 2;

/// Writes all rows, or none.
pub(super) fn write_together<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    rows: &[DirtyRow<'_>],
) -> Result<(), Fault> {
    let table = table(server)?;
    let (mut deletes, mut updates, mut inserts) = (Vec::new(), Vec::new(), Vec::new());
    for row in rows {
        match row.dirty.change {
            RowChange::Delete => deletes.push(&row.not_later[..]),
            RowChange::Update => updates.push((&row.not_later[..], &row.set[..])),
            RowChange::Insert => inserts.push(&row.set[..]),
        }
    }
    let database = host.database().ok_or(Fault::Database)?;
    let mut attempts = 0;
    durable(database, |database, _| {
        attempts += 1;
        if attempts > TOGETHER {
            return rows.iter().try_for_each(|row| write_row(database, table, row));
        }
        database.delete_rows(table, &deletes)?;
        database.update_rows(table, &updates)?;
        database.insert_rows(table, &inserts)
    })
}

/// Writes one row, not among others that would fail with it.
pub(super) fn write_alone<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    row: &DirtyRow<'_>,
) -> Result<(), Fault> {
    let table = table(server)?;
    let database = host.database().ok_or(Fault::Database)?;
    durable(database, |database, _| {
        // A row that should not be there may be in the way. Among others that
        // is found out by the failure.
        if row.dirty.change == RowChange::Insert {
            database.delete(table, &row.key())?;
        }
        write_row(database, table, row)
    })
}

fn write_row(database: &mut dyn Database, table: &str, row: &DirtyRow<'_>) -> Result<(), Fault> {
    match row.dirty.change {
        RowChange::Delete => database.delete(table, &row.not_later),
        RowChange::Update => database.update(table, &row.not_later, &row.set),
        RowChange::Insert => database.insert(table, &row.set),
    }
}
