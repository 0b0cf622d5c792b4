//! Writes subscriptions to the database: back (`subs_db_mode=2`), or through
//! before their requests are answered (`subs_db_mode=1`).

mod batch;
mod dirty_row;
mod sweep;

use std::time::{Duration, Instant};

use crate::error::{Fault, Rejection};
use crate::ports::{Host, Level};
use crate::service::rate_limited_log::RateLimitedLog;
use crate::service::{Server, check_widths};
use crate::shm::Memory;
use crate::store::Token;
use crate::store::records::Lag;

use batch::Batch;
use dirty_row::{DirtyRow, write_alone};
use sweep::Sweep;

static UNWRITTEN: RateLimitedLog = RateLimitedLog::new();

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
    Batch::default().write(server, host, &fresh, false);
}
