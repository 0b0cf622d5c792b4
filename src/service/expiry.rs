//! What the timers do: end what has run out, purge, flush.

use crate::ports::{Host, Level};
use crate::service::seldom::Seldom;
use crate::service::{Server, expired_rows, left_over, watchers, write_back};
use crate::shm::Memory;

/// Watchers could not be told of a change that was stored.
pub(super) static UNTOLD: Seldom = Seldom::new();

// What a database that is away makes the timers say at each run.
static UNDELETED: Seldom = Seldom::new();
static UNENDED: Seldom = Seldom::new();
static UNPURGED: Seldom = Seldom::new();

/// Records ended per shard and lock.
const BATCH: usize = 256;
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
    if server.store.policy.rows_only() {
        if let Err(fault) = expired_rows::expire(server, host) {
            let line = format_args!("expired subscriptions are ended the next time: {fault}");
            UNENDED.log(host, Level::Error, line);
        }
        return;
    }
    let offset = i64::from(server.config.expires_offset);
    for shard in 0..server.store.shards() {
        while server.store.expire_subscriptions(shard, host.now(), offset, BATCH) {
            server.wake_senders(host);
        }
        server.wake_senders(host);
    }
}

/// The update timer: ends subscriptions, then writes back what has changed.
pub fn update<M: Memory>(server: &Server<M>, host: &mut dyn Host) {
    subscriptions(server, host);
    if !server.store.policy.keeps_rows() {
        return;
    }
    write_back::flush(server, host, false);
    if left_over::subscriptions(server, host).is_err() {
        let line = format_args!("expired subscriptions cannot be deleted from the table");
        UNENDED.log(host, Level::Error, line);
    }
}

/// Forgets watchers without a subscription after a day: the pending ones and
/// those that the rules would make again.
pub fn watchers<M: Memory>(server: &Server<M>, host: &mut dyn Host) {
    let before = host.now() - WATCHERS_KEPT;
    if host.database().is_some() && watchers::purge(server, host, before).is_err() {
        UNPURGED.log(host, Level::Warning, format_args!("old watchers could not be purged"));
    }
}
