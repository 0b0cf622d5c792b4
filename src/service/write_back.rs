//! Writes subscriptions to the database: back (`subs_db_mode=2`), or through
//! before their requests are answered (`subs_db_mode=1`).

use crate::error::{Fault, Rejection};
use crate::ports::{Compare, Database, Host, Level, Value};
use crate::presence::subscription::Text;
use crate::service::durable::durable;
use crate::service::seldom::Seldom;
use crate::service::{Server, check_widths};
use crate::shm::Memory;
use crate::store::Token;
use crate::store::rows::{dialog_conditions, dialog_of, subscription_changes, subscription_row};
use crate::store::write_back::{Dirty, RowChange};

static TOO_LONG: Seldom = Seldom::new();

/// Rows in one transaction.
const BATCH: usize = 200;

/// Writes all rows that lag behind. At shutdown (`last`) they reserve nothing
/// more.
/// Gives the number of rows that could not be written.
pub fn flush<M: Memory>(server: &Server<M>, host: &mut dyn Host, last: bool) -> usize {
    let mut failed = 0;
    for shard in 0..server.store.shards() {
        // Rows that fail are put back: they wait for the next flush, so that
        // a database that is away does not hold this one up. So does what
        // changes meanwhile.
        let mut left = server.store.count_dirty(shard);
        while left > 0 {
            let mut rows = server.store.take_dirty(shard, BATCH.min(left), host.now(), last);
            if rows.is_empty() {
                break;
            }
            left -= rows.len();
            rows.retain(|row| fits(server, host, row));
            let bad = write(server, host, &rows, last);
            failed += bad;
            if bad > 0 {
                break;
            }
        }
    }
    if failed > 0 {
        host.log(
            Level::Error,
            format_args!("{failed} subscriptions could not be written and are tried again"),
        );
    }
    failed
}

/// A row that its table cannot take stays unwritten; the log says so (B20).
fn fits<M: Memory>(server: &Server<M>, host: &mut dyn Host, row: &Dirty) -> bool {
    let changes = match row.change {
        RowChange::Delete => return true,
        RowChange::Update => subscription_changes(&row.subscription, row.expires_at),
        RowChange::Insert => subscription_row(&row.subscription, b"", row.expires_at, 0),
    };
    let Some(column) = server.widths.subscriptions.too_long(&changes) else { return true };
    let call_id = row.subscription.text(Text::CallId).escape_ascii();
    let line = format_args!(
        "a subscription is kept in memory only: its {column} is longer than the column (Call-ID {call_id})"
    );
    TOO_LONG.log(host, Level::Warning, line);
    server.store.row_unwritable(row);
    false
}

/// Writes the row of one subscription before its request is answered
/// (`subs_db_mode=1`).
pub fn write_through<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    token: Token,
) -> Result<(), Rejection> {
    let Some(row) = server.store.take_row(token, host.now()) else { return Ok(()) };
    if row.change != RowChange::Delete {
        let all = subscription_row(&row.subscription, b"", row.expires_at, 0);
        if let Err(rejection) = check_widths(&server.widths.subscriptions, &all) {
            server.store.row_failed(&row);
            return Err(rejection);
        }
    }
    let written = host
        .database()
        .ok_or(Fault::Database)
        .and_then(|database| durable(database, |database| write_row(server, database, &row, true)));
    match written {
        Ok(()) => server.store.row_written(&row),
        Err(_) => server.store.row_failed(&row),
    }
    Ok(written?)
}

/// Makes rows reserve CSeqs before those are used (A7). While the database is
/// away NOTIFYs leave all the same; the rows follow with the next flush.
pub fn reserve<M: Memory>(server: &Server<M>, host: &mut dyn Host, tokens: &[Token]) {
    if tokens.is_empty() {
        return;
    }
    let now = host.now();
    let rows: Vec<_> =
        tokens.iter().filter_map(|token| server.store.take_row(*token, now)).collect();
    write(server, host, &rows, false);
}

/// Writes a batch; gives the number of rows that failed.
fn write<M: Memory>(server: &Server<M>, host: &mut dyn Host, rows: &[Dirty], last: bool) -> usize {
    let whole = match host.database() {
        Some(database) => durable(database, |database| {
            rows.iter().try_for_each(|row| write_row(server, database, row, false))
        }),
        None => Err(Fault::Database),
    };
    if whole.is_ok() {
        // At the end nothing is freed any more: a process may have died with
        // the allocator's lock in hand.
        if !last {
            rows.iter().for_each(|row| server.store.row_written(row));
        }
        return 0;
    }
    // One bad row must not hold up the others.
    let mut failed = Vec::new();
    let mut untried = rows.iter();
    while failed.len() < MAX_FAILURES
        && let Some(row) = untried.next()
    {
        let written = host.database().ok_or(Fault::Database).and_then(|database| {
            durable(database, |database| write_row(server, database, row, true))
        });
        match written {
            Ok(()) if last => {}
            Ok(()) => server.store.row_written(row),
            Err(_) => failed.push(row),
        }
    }
    // Those that were not tried come first the next time.
    let lag = failed.len() + untried.len();
    untried.chain(failed).for_each(|row| server.store.row_failed(row));
    lag
}

/// After so many bad rows in a batch the database itself is taken to be away.
const MAX_FAILURES: usize = 3;

/// Writes one row; `alone`, not among others that would fail with it.
fn write_row<M: Memory>(
    server: &Server<M>,
    database: &mut dyn Database,
    row: &Dirty,
    alone: bool,
) -> Result<(), Fault> {
    let table =
        std::str::from_utf8(&server.config.active_watchers_table).map_err(|_| Fault::Database)?;
    let key = dialog_conditions(dialog_of(&row.subscription));
    // Another process may have written a later request of this dialog.
    let mut not_later = key.clone();
    if let Ok(cseq) = i32::try_from(row.subscription.remote_cseq) {
        not_later.push(("remote_cseq", Compare::Less, Value::Int(i64::from(cseq) + 1)));
    }
    match row.change {
        RowChange::Delete => database.delete(table, &not_later),
        RowChange::Update => {
            let changes = subscription_changes(&row.subscription, row.expires_at);
            database.update(table, &not_later, &changes)
        }
        RowChange::Insert => {
            let event = server.registry.get(row.subscription.package).ok_or(Fault::Database)?;
            let new = subscription_row(&row.subscription, &event.name, row.expires_at, 0);
            // A row that should not be there may be in the way. Among others
            // that is found out by the failure.
            if alone {
                database.delete(table, &key)?;
            }
            database.insert(table, &new)
        }
    }
}
