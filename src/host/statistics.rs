//! Statistics of this module, in group `presence`, as the host's commands
//! (`stats.get_statistics`, `stats.fetch`, `cnt.get`), `$stat()` and its exporters
//! show them. Nothing is kept for them: what is asked for is read.

use std::cell::RefCell;
use std::ffi::{CString, c_long};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::error::Fault;
use crate::host::log::{Printable, log_error, log_warn};
use crate::host::state::KamailioServer;
use crate::host::worker::Worker;
use crate::host::{boundary, state, sys, worker};
use crate::presence::event_package::PackageId;
use crate::presence::measures::{Answer, Method, NotifyResult, Total};
use crate::service::census::{self, Census};
use crate::store::gauges::Gauge;
use crate::store::replication::Counts;

/// A statistic: its name, and how its value is read.
type Statistic = (&'static str, fn(&KamailioServer) -> u64);

const COUNT: usize = 44;

/// All of them but those of single packages. README's table says what they mean
/// (`tests/docs/statistics.rs` compares the names).
const STATISTICS: [Statistic; COUNT] = [
    ("active_subscriptions", |server| of_all(server, Gauge::Active)),
    ("pending_subscriptions", |server| of_all(server, Gauge::Pending)),
    ("publications", |server| of_all(server, Gauge::Publications)),
    ("presentities", |server| of_all(server, Gauge::Presentities)),
    ("publish_accepted", |server| requests(server, Method::Publish, Answer::Accepted)),
    ("publish_refused", |server| refused(server, Method::Publish)),
    ("publish_403", |server| requests(server, Method::Publish, Answer::Forbidden)),
    ("publish_412", |server| requests(server, Method::Publish, Answer::Conditional)),
    ("publish_423", |server| requests(server, Method::Publish, Answer::Interval)),
    ("publish_489", |server| requests(server, Method::Publish, Answer::Event)),
    ("publish_5xx", |server| requests(server, Method::Publish, Answer::Fault)),
    ("subscribe_accepted", |server| requests(server, Method::Subscribe, Answer::Accepted)),
    ("subscribe_refused", |server| refused(server, Method::Subscribe)),
    ("subscribe_403", |server| requests(server, Method::Subscribe, Answer::Forbidden)),
    ("subscribe_423", |server| requests(server, Method::Subscribe, Answer::Interval)),
    ("subscribe_481", |server| requests(server, Method::Subscribe, Answer::Unknown)),
    ("subscribe_489", |server| requests(server, Method::Subscribe, Answer::Event)),
    ("subscribe_5xx", |server| requests(server, Method::Subscribe, Answer::Fault)),
    ("requests_repeated", |server| total(server, Total::Repeated)),
    ("requests_unanswered", |server| total(server, Total::Unanswered)),
    ("refused_by_limit", |server| server.store.tally().refusals()),
    // The name of former versions.
    ("refused_by_limits", |server| server.store.tally().refusals()),
    ("notify_sent", |server| notifies(server, NotifyResult::Sent)),
    ("notify_2xx", |server| notifies(server, NotifyResult::Accepted)),
    ("notify_failed", |server| notifies(server, NotifyResult::Failed)),
    ("notify_timeout", |server| notifies(server, NotifyResult::TimedOut)),
    ("notify_unanswered", |server| server.store.counters().unanswered()),
    ("notify_unsent", |server| notifies(server, NotifyResult::Unsent)),
    ("notify_dropped", |server| notifies(server, NotifyResult::Dropped)),
    ("fanouts_waiting", |server| server.store.gauges().queued() + total(server, Total::Waiting)),
    ("oldest_fanout_ms", |server| server.store.longest_wait(worker::milliseconds())),
    ("rows_unwritten", |server| server.store.unwritten() as u64),
    ("db_statements", |server| server.store.counters().all_statements()),
    ("db_errors", |server| total(server, Total::DatabaseErrors)),
    ("db_retries", |server| total(server, Total::DatabaseRetries)),
    ("db_away", |_| u64::from(state::database_is_away())),
    ("memory_bytes", |_| state::memory().1 as u64),
    ("memory_used_bytes", |_| state::memory().0 as u64),
    ("dmq_in", |server| {
        replicated(server, |it| [Some(&it.applied), Some(&it.outdated), Some(&it.refused)])
    }),
    ("dmq_out", |server| replicated(server, |it| [Some(&it.sent), None, None])),
    ("dmq_refused", |server| replicated(server, |it| [Some(&it.refused), None, None])),
    ("dmq_outdated", |server| replicated(server, |it| [Some(&it.outdated), None, None])),
    ("dmq_unanswered", |server| replicated(server, |it| [Some(&it.unanswered), None, None])),
    ("dmq_overflowed", |server| replicated(server, |it| [Some(&it.overflowed), None, None])),
];

fn requests(server: &KamailioServer, method: Method, answer: Answer) -> u64 {
    server.store.counters().requests(method, answer)
}

fn notifies(server: &KamailioServer, notified: NotifyResult) -> u64 {
    server.store.counters().notifies(notified)
}

/// The sum of some of what replication counts, where there is any.
fn replicated(server: &KamailioServer, of: fn(&Counts) -> [Option<&AtomicU64>; 3]) -> u64 {
    let counts = server.store.replication().map(|replication| of(&replication.counts));
    counts.into_iter().flatten().flatten().map(|count| count.load(Ordering::Relaxed)).sum()
}

fn total(server: &KamailioServer, what: Total) -> u64 {
    server.store.counters().total(what)
}

fn refused(server: &KamailioServer, method: Method) -> u64 {
    server.store.counters().refused(method)
}

/// For so long what was counted in the database is the answer.
const COUNTED: Duration = Duration::from_secs(1);

thread_local! {
    /// What this process has counted last, and when; none if it could not.
    static CENSUS: RefCell<Option<(Instant, Option<Census>)>> = const { RefCell::new(None) };
}

/// Reads what was counted lately, or counts anew.
pub fn census<R>(server: &KamailioServer, read: impl FnOnce(&Census) -> R) -> Result<R, Fault> {
    if !census::counts_rows(server) {
        return census::take(server, &mut Worker::default()).map(|census| read(&census));
    }
    let is_new = |(at, _): &(Instant, _)| at.elapsed() < COUNTED;
    if !CENSUS.with_borrow(|known| known.as_ref().is_some_and(is_new)) {
        let taken = census::take(server, &mut Worker::default());
        let taken = taken.inspect_err(|fault| log_error!("rows cannot be counted: {fault}")).ok();
        CENSUS.set(Some((Instant::now(), taken)));
    }
    CENSUS.with_borrow(|known| {
        let census = known.as_ref().and_then(|(_, census)| census.as_ref());
        census.map(read).ok_or(Fault::Database)
    })
}

fn of_all(server: &KamailioServer, gauge: Gauge) -> u64 {
    census(server, |census| census.all(gauge)).unwrap_or(0)
}

/// Number `N` of the table, as the host asks for it.
unsafe extern "C" fn read<const N: usize>() -> c_long {
    let Some((name, value)) = STATISTICS.get(N) else { return 0 };
    boundary::enter(name, 0, || as_long(state::server().map_or(0, value)))
}

/// What there is of package `N`, by gauge: the first is its active subscriptions.
unsafe extern "C" fn read_package<const N: usize>() -> c_long {
    boundary::enter("package_statistic", 0, || {
        let package = PackageId((N / OF_PACKAGE.len()) as u16);
        let gauge = OF_PACKAGE.get(N % OF_PACKAGE.len()).map(|(_, gauge)| *gauge);
        let value = state::server()
            .zip(gauge)
            .and_then(|(server, gauge)| census(server, |census| census.of(package, gauge)).ok());
        as_long(value.unwrap_or(0))
    })
}

fn as_long(value: u64) -> c_long {
    c_long::try_from(value).unwrap_or(c_long::MAX)
}

type Reader = unsafe extern "C" fn() -> c_long;

/// What single packages have, by the names that statistics begin with.
const OF_PACKAGE: [(&str, Gauge); 3] = [
    ("active_subscriptions", Gauge::Active),
    ("pending_subscriptions", Gauge::Pending),
    ("publications", Gauge::Publications),
];

/// The host gives its functions no argument, so there is one for each statistic.
macro_rules! readers {
    ($function:ident: $($ten:literal)*) => {
        [$(
            $function::<{ $ten * 10 }>, $function::<{ $ten * 10 + 1 }>,
            $function::<{ $ten * 10 + 2 }>, $function::<{ $ten * 10 + 3 }>,
            $function::<{ $ten * 10 + 4 }>, $function::<{ $ten * 10 + 5 }>,
            $function::<{ $ten * 10 + 6 }>, $function::<{ $ten * 10 + 7 }>,
            $function::<{ $ten * 10 + 8 }>, $function::<{ $ten * 10 + 9 }>,
        )*]
    };
}

const READERS: [Reader; 50] = readers!(read: 0 1 2 3 4);
const PACKAGE_READERS: [Reader; 100] = readers!(read_package: 0 1 2 3 4 5 6 7 8 9);
const _: () = assert!(COUNT <= READERS.len());

/// Registers those of the whole server; to be called in mod_init.
pub fn register() -> Result<(), String> {
    for ((name, _), reader) in STATISTICS.iter().zip(READERS) {
        if !add(name, reader) {
            return Err(format!("statistic presence:{name} could not be registered"));
        }
    }
    Ok(())
}

/// Registers those of a package, before processes are forked. Packages beyond
/// those that there are functions for are in the sums only.
pub fn register_package(package: PackageId, name: &[u8]) {
    let first = usize::from(package.0) * OF_PACKAGE.len();
    let readers = PACKAGE_READERS.iter().skip(first);
    for ((what, _), reader) in OF_PACKAGE.iter().zip(readers) {
        if !add(&format!("{what}_{}", plain(name)), *reader) {
            log_warn!("there are no statistics of event package {}", Printable(name));
            return;
        }
    }
}

/// A package's name as exporters can have it: letters, digits and underscores.
fn plain(name: &[u8]) -> String {
    let plain = |byte: &u8| match byte.is_ascii_alphanumeric() {
        true => char::from(byte.to_ascii_lowercase()),
        false => '_',
    };
    name.iter().map(plain).collect()
}

fn add(name: &str, reader: Reader) -> bool {
    let Ok(name) = CString::new(name) else { return false };
    // SAFETY: the core copies the name and keeps the function, which stays while
    // the server runs.
    unsafe { sys::kshim_statistic(name.as_ptr().cast_mut(), Some(reader)) >= 0 }
}
