//! Rows that are written together, and what becomes of those that cannot be.

use crate::error::Fault;
use crate::ports::{Host, Level};
use crate::presence::subscription::Text;
use crate::service::Server;
use crate::service::rate_limited_log::RateLimitedLog;
use crate::shm::Memory;
use crate::store::write_back::{Dirty, RowChange};

use super::dirty_row::{DirtyRow, forget_row, write_alone, write_together};

static UNFIT: RateLimitedLog = RateLimitedLog::new();
static REFUSED: RateLimitedLog = RateLimitedLog::new();

/// After so many refusals a row waits until its subscription changes.
const REFUSALS: u8 = 8;

/// What became of a batch.
#[derive(Clone, Copy, Default)]
pub(super) struct Written {
    /// Rows that could not be written, but for those that were refused.
    pub failed: usize,
    /// The database is away: the others would fail, too.
    pub is_away: bool,
}

/// Rows that are written together.
#[derive(Default)]
pub(super) struct Batch {
    /// At shutdown.
    pub last: bool,
    /// The database has taken some row: those that it refuses are at fault
    /// themselves.
    pub has_written: bool,
    /// What became of them.
    pub written: Written,
}

impl Batch {
    /// Writes rows: together, or `each` alone.
    pub fn write<M: Memory>(
        &mut self,
        server: &Server<M>,
        host: &mut dyn Host,
        rows: &[Dirty],
        each: bool,
    ) {
        let rows: Vec<_> = rows.iter().filter_map(|dirty| self.row(server, host, dirty)).collect();
        if rows.is_empty() {
            return;
        }
        let together = if each { Err(Fault::Refused) } else { write_together(server, host, &rows) };
        match together {
            Ok(()) => rows.iter().for_each(|row| self.written(server, row)),
            // One bad row must not hold up the others.
            Err(fault) => self.write_each(server, host, &rows, fault),
        }
    }

    /// Writes each row of a batch alone; together they have failed with `fault`.
    fn write_each<M: Memory>(
        &mut self,
        server: &Server<M>,
        host: &mut dyn Host,
        rows: &[DirtyRow<'_>],
        fault: Fault,
    ) {
        self.written.is_away |= fault == Fault::Database;
        let mut refused = Vec::new();
        for row in rows {
            let written = match self.written.is_away {
                true => Err(Fault::Database),
                false => write_alone(server, host, row),
            };
            match written {
                Ok(()) => self.written(server, row),
                Err(Fault::Refused) => refused.push(row),
                Err(_) => {
                    self.written.is_away = true;
                    self.written.failed += 1;
                    server.store.row_failed(row.dirty);
                }
            }
        }
        for row in refused {
            self.refuse(server, host, row);
        }
    }

    /// What is to be written of a row; `None` where nothing is.
    fn row<'a, M: Memory>(
        &mut self,
        server: &Server<M>,
        host: &mut dyn Host,
        dirty: &'a Dirty,
    ) -> Option<DirtyRow<'a>> {
        let Some(row) = DirtyRow::of(server, dirty) else {
            server.store.row_failed(dirty);
            self.written.failed += 1;
            return None;
        };
        fits(server, host, &row).then_some(row)
    }

    fn written<M: Memory>(&mut self, server: &Server<M>, row: &DirtyRow<'_>) {
        self.has_written = true;
        // At the end nothing is freed any more: a process may have died with
        // the allocator's lock in hand.
        if !self.last {
            server.store.row_written(row.dirty);
        }
    }

    /// The row is at fault if the database takes others. It is tried again some
    /// times, after the others: what stands against it may pass.
    fn refuse<M: Memory>(&mut self, server: &Server<M>, host: &mut dyn Host, row: &DirtyRow<'_>) {
        let dirty = row.dirty;
        let for_good = self.has_written
            && dirty.refusals >= REFUSALS
            // One that is over has nothing else to wait for.
            && dirty.change != RowChange::Delete;
        let call_id = dirty.subscription.text(Text::CallId).escape_ascii();
        let again = if for_good { "until it changes" } else { "and tried again after the others" };
        let line = format_args!(
            "a subscription is kept in memory only, {again}: the database refuses its row (Call-ID {call_id})"
        );
        REFUSED.log(host, Level::Warning, line);
        if for_good {
            let _ = forget_row(server, host, row);
            server.store.row_unwritable(dirty);
        } else {
            server.store.row_refused(dirty);
        }
    }
}

/// A row that its table cannot take stays unwritten; the log says so (B20).
fn fits<M: Memory>(server: &Server<M>, host: &mut dyn Host, row: &DirtyRow<'_>) -> bool {
    let Some((column, why)) = server.widths.subscriptions.unfit(&row.set) else { return true };
    let dirty = row.dirty;
    let call_id = dirty.subscription.text(Text::CallId).escape_ascii();
    let line = format_args!(
        "a subscription is kept in memory only: its {column} {} (Call-ID {call_id})",
        why.reason()
    );
    UNFIT.log(host, Level::Warning, line);
    match forget_row(server, host, row) {
        Ok(()) | Err(Fault::Refused) => server.store.row_unwritable(dirty),
        Err(_) => server.store.row_failed(dirty),
    }
    false
}
