//! Writes subscriptions to the database: back (`subs_db_mode=2`), or through
//! before their requests are answered (`subs_db_mode=1`).

use std::time::{Duration, Instant};

use crate::error::{Fault, Rejection};
use crate::ports::{Assignment, Compare, Condition, Database, Host, Level, Value};
use crate::presence::subscription::Text;
use crate::service::durable::{durable, single};
use crate::service::rate_limited_log::RateLimitedLog;
use crate::service::{Server, check_widths};
use crate::shm::Memory;
use crate::store::Token;
use crate::store::records::Lag;
use crate::store::rows::{dialog_conditions, dialog_of, subscription_changes, subscription_row};
use crate::store::write_back::{Dirty, RowChange};

static UNFIT: RateLimitedLog = RateLimitedLog::new();
static REFUSED: RateLimitedLog = RateLimitedLog::new();
static UNWRITTEN: RateLimitedLog = RateLimitedLog::new();

/// Rows in one transaction.
const BATCH: usize = 200;

/// Batches that a sender process writes before it looks at its lanes again.
const PORTION: usize = 10;

/// Milliseconds between two writes of new and ended subscriptions: short of a
/// second (B49), long enough for batches.
const PROMPT: i64 = 500;

/// Milliseconds after which a write is tried again that has failed.
const PAUSE: i64 = 5000;

/// How often, 2 ms apart, the flush looks whether it is its turn. Others write
/// a batch and let go.
const PATIENCE: u32 = 15_000;

/// Writes all rows that lag behind. At shutdown (`last`) they reserve nothing
/// more.
/// Gives the number of rows that could not be written.
pub fn flush<M: Memory>(server: &Server<M>, host: &mut dyn Host, last: bool) -> usize {
    let mut failed = false;
    let mut has_written = false;
    // Those that this flush finds out are not tried again by it.
    let known: Vec<_> = (0..server.store.shards())
        .map(|shard| server.store.count_dirty(shard, Lag::Refused))
        .collect();
    for lag in [Lag::Urgent, Lag::Changed, Lag::Refused] {
        let mut sweep = Sweep::new(server, lag, 0);
        sweep.has_written = has_written;
        sweep.known = if lag == Lag::Refused { &known } else { &[] };
        let (since, longest) = (Instant::now(), if last { LAST_REFUSED } else { REFUSED_TIME });
        // What fails is put back and waits for the next flush; so does what
        // changes meanwhile.
        while !sweep.is_over() && (lag != Lag::Refused || since.elapsed() < longest) {
            let written = exclusively(server, last, || sweep.write(server, host, last));
            failed |= written.is_none_or(|written| written.failed > 0);
            if written.is_none_or(|written| written.is_away) {
                break;
            }
        }
        has_written |= sweep.has_written;
    }
    let lags = [Lag::Urgent, Lag::Changed, Lag::Refused];
    let unwritten = lags.into_iter().map(|lag| lagging(server, lag)).sum();
    if failed {
        let line =
            format_args!("{unwritten} subscriptions could not be written and are tried again");
        host.log(Level::Error, line);
    }
    if failed { unwritten } else { lagging(server, Lag::Refused) }
}

/// Rows that were refused are tried again for so long in one flush; they may be
/// many. At shutdown a little longer.
const REFUSED_TIME: Duration = Duration::from_millis(100);
const LAST_REFUSED: Duration = Duration::from_secs(5);

/// Of them so few are taken together.
const REFUSED_BATCH: usize = 10;

/// After so many refusals a row waits until its subscription changes.
const REFUSALS: u8 = 8;

/// Rows that lag behind in this way.
fn lagging<M: Memory>(server: &Server<M>, lag: Lag) -> usize {
    (0..server.store.shards()).map(|shard| server.store.count_dirty(shard, lag)).sum()
}

/// New and ended subscriptions are written at once, that is within a second
/// (B49).
pub fn is_prompt<M: Memory>(server: &Server<M>) -> bool {
    server.subscriptions().is_prompt(&server.config)
}

/// Writes new and ended subscriptions if it is time for it and nobody else is
/// writing; `now` in milliseconds of the Unix time. A portion of them: true if
/// there are more.
pub fn prompt<M: Memory>(server: &Server<M>, host: &mut dyn Host, now: i64) -> bool {
    if !is_prompt(server) || !server.store.is_time_to_write(now, PAUSE) {
        return false;
    }
    let Some(_writing) = server.store.begin_writing() else { return false };
    let mut sweep = Sweep::new(server, Lag::Urgent, server.store.first_to_write());
    for _ in 0..PORTION {
        if sweep.is_over() {
            break;
        }
        let written = sweep.write(server, host, false);
        if written.failed > 0 {
            let bad = written.failed;
            let line = format_args!("{bad} subscriptions could not be written and are tried again");
            UNWRITTEN.log(host, Level::Error, line);
        }
        if written.is_away {
            server.store.write_again(now + PAUSE, sweep.shard);
            return false;
        }
    }
    let more = !sweep.is_over();
    server.store.write_again(if more { now } else { now + PROMPT }, sweep.shard);
    more
}

/// Writes all new and ended subscriptions. Fails if nothing can be written.
pub fn write_urgent<M: Memory>(server: &Server<M>, host: &mut dyn Host) -> Result<(), Fault> {
    let mut sweep = Sweep::new(server, Lag::Urgent, 0);
    while !sweep.is_over() {
        let written = exclusively(server, false, || sweep.write(server, host, false));
        if written.is_none_or(|written| written.is_away) {
            return Err(Fault::Database);
        }
    }
    Ok(())
}

/// Does one step of writing when no other process does. At the very end all
/// others are gone, and one may have died in it. `None` if it does not come to
/// that.
fn exclusively<M: Memory, T>(
    server: &Server<M>,
    last: bool,
    step: impl FnOnce() -> T,
) -> Option<T> {
    if last {
        return Some(step());
    }
    for _ in 0..PATIENCE {
        if let Some(_writing) = server.store.begin_writing() {
            return Some(step());
        }
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    None
}

/// What became of a batch.
#[derive(Clone, Copy, Default)]
struct Written {
    /// Rows that could not be written, but for those that were refused.
    failed: usize,
    /// The database is away: the others would fail, too.
    is_away: bool,
}

/// A sweep over the shards for rows that lag behind in one way. Of each shard it
/// takes no more than lag when it comes there.
struct Sweep<'a> {
    lag: Lag,
    shard: usize,
    /// Shards that were not looked at yet, this one included.
    shards: usize,
    /// Rows of this shard that are to be taken; `None` before it is looked at.
    left: Option<usize>,
    /// Rows of each shard that are to be taken at most; empty: all.
    known: &'a [usize],
    /// The database has taken some row: those that it refuses are at fault
    /// themselves.
    has_written: bool,
}

impl<'a> Sweep<'a> {
    fn new<M: Memory>(server: &Server<M>, lag: Lag, first: usize) -> Sweep<'a> {
        let shards = server.store.shards();
        Sweep {
            lag,
            shard: first % shards.max(1),
            shards,
            left: None,
            known: &[],
            has_written: false,
        }
    }

    fn is_over(&self) -> bool {
        self.shards == 0
    }

    /// Takes a batch, of more than one shard if need be. Of each in one go: no
    /// subscription may be twice in a batch, whose deletes, updates and inserts
    /// are sorted.
    fn take<M: Memory>(&mut self, server: &Server<M>, now: i64, last: bool) -> Vec<Dirty> {
        let mut rows = Vec::new();
        let most = if self.lag == Lag::Refused { REFUSED_BATCH } else { BATCH };
        while !self.is_over() && rows.len() < most {
            let place = (self.shard, self.lag);
            let left = self.left.unwrap_or_else(|| {
                let all = server.store.count_dirty(self.shard, self.lag);
                self.known.get(self.shard).map_or(all, |known| all.min(*known))
            });
            let room = most - rows.len();
            if left > 0 {
                rows.extend(server.store.take_dirty(place, room.min(left), now, last));
            }
            if left > room {
                self.left = Some(left - room);
            } else {
                self.shard = (self.shard + 1) % server.store.shards().max(1);
                (self.shards, self.left) = (self.shards - 1, None);
            }
        }
        rows
    }

    /// Writes a batch.
    fn write<M: Memory>(&mut self, server: &Server<M>, host: &mut dyn Host, last: bool) -> Written {
        let rows = self.take(server, host.now(), last);
        let has_written = self.has_written;
        let mut batch = Batch { last, has_written, written: Written::default() };
        batch.write(server, host, &rows, self.lag == Lag::Refused);
        self.has_written = batch.has_written;
        batch.written
    }
}

/// A row that lags behind, with what its table has to be told.
struct DirtyRow<'a> {
    dirty: &'a Dirty,
    /// What an old row is found by. Another process may have written a later
    /// request of this dialog.
    not_later: Vec<Condition>,
    /// All of a new row, else the columns that change.
    set: Vec<Assignment>,
}

impl<'a> DirtyRow<'a> {
    /// `None` where its package is unknown.
    fn of<M: Memory>(server: &Server<M>, dirty: &'a Dirty) -> Option<DirtyRow<'a>> {
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
        if let Ok(cseq) = i32::try_from(subscription.remote_cseq) {
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

/// What the table has is out of date, and must not come back after a restart.
fn forget_row<M: Memory>(
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

/// Writes the row of one subscription before its request is answered
/// (`subs_db_mode=1`).
pub fn write_through<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    token: Token,
) -> Result<(), Rejection> {
    let Some(dirty) = server.store.take_row(token, host.now()) else { return Ok(()) };
    let Some(row) = DirtyRow::of(server, &dirty) else {
        server.store.row_failed(&dirty);
        return Err(Fault::Database.into());
    };
    if let Err(rejection) = check_widths(&server.widths.subscriptions, &row.set) {
        server.store.row_failed(&dirty);
        return Err(rejection);
    }
    let written = write_alone(server, host, &row);
    match written {
        Ok(()) => server.store.row_written(&dirty),
        Err(_) => server.store.row_failed(&dirty),
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
    // A watcher's NOTIFYs of one portion lie together, and share one row.
    let mut tokens = tokens.to_vec();
    tokens.dedup();
    let rows: Vec<_> =
        tokens.into_iter().filter_map(|token| server.store.take_row(token, now)).collect();
    // What was refused before is left to the next flush.
    let (fresh, refused): (Vec<_>, Vec<_>) = rows.into_iter().partition(|row| row.refusals == 0);
    refused.iter().for_each(|row| server.store.row_failed(row));
    let mut batch = Batch { last: false, has_written: false, written: Written::default() };
    batch.write(server, host, &fresh, false);
}

/// Rows that are written together.
struct Batch {
    last: bool,
    has_written: bool,
    written: Written,
}

impl Batch {
    /// Writes rows: together, or `each` alone.
    fn write<M: Memory>(
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

/// Attempts to write a batch with one statement for many rows. A server that
/// does not take it has its rows in those that follow, one by one.
const TOGETHER: u32 = 2;

/// Writes all rows, or none.
fn write_together<M: Memory>(
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
fn write_alone<M: Memory>(
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
