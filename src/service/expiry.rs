//! What the timers do: end what has run out, purge, flush.

use crate::ports::{Host, Level};
use crate::service::rate_limited_log::RateLimitedLog;
use crate::service::{Server, watchers};
use crate::shm::Memory;

/// Watchers could not be told of a change that was stored.
pub(super) static UNNOTIFIED: RateLimitedLog = RateLimitedLog::new();

// What a database that is away makes the timers say at each run.
static UNDELETED: RateLimitedLog = RateLimitedLog::new();
static UNPURGED: RateLimitedLog = RateLimitedLog::new();

/// Watchers without a subscription are forgotten after this many seconds (B17).
const WATCHERS_KEPT: i64 = 24 * 3600;

/// Ends publications that have expired (`clean_period`).
pub fn publications<M: Memory>(server: &Server<M>, host: &mut dyn Host) {
    if server.publications().expire(server, host).is_err() {
        undeleted(host);
    }
    server.wake_senders(host);
}

fn undeleted(host: &mut dyn Host) {
    let line = format_args!("expired publications cannot be deleted and are tried again");
    UNDELETED.log(host, Level::Error, line);
}

/// Ends subscriptions that have expired (`db_update_period`).
pub fn subscriptions<M: Memory>(server: &Server<M>, host: &mut dyn Host) {
    server.subscriptions().expire(server, host);
}

/// The update timer: ends subscriptions, then writes back what has changed.
pub fn update<M: Memory>(server: &Server<M>, host: &mut dyn Host) {
    let storage = server.subscriptions();
    storage.expire(server, host);
    storage.flush(server, host);
}

/// Says how many rows of subscriptions are of no use here (`presence.cleanup`).
pub fn report_unusable_rows<M: Memory>(server: &Server<M>, host: &mut dyn Host) {
    server.subscriptions().report_unusable_rows(server, host);
}

/// Forgets watchers without a subscription after a day: the pending ones and
/// those that the rules would make again.
pub fn watchers<M: Memory>(server: &Server<M>, host: &mut dyn Host) {
    let before = host.now() - WATCHERS_KEPT;
    if host.database().is_some() && watchers::purge::purge(server, host, before).is_err() {
        UNPURGED.log(host, Level::Warning, format_args!("old watchers could not be purged"));
    }
}
