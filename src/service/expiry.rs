//! What the timers do: end what has run out, purge, flush.

use crate::config::PublicationCache;
use crate::error::Fault;
use crate::ports::{Host, Level};
use crate::service::seldom::Seldom;
use crate::service::{
    Server, expired_rows, left_over, publication_rows, unindexed, watchers, write_back,
};
use crate::shm::Memory;
use crate::store::Store;
use crate::store::publications::Expired;

/// Watchers could not be told of a change that was stored.
pub(super) static UNTOLD: Seldom = Seldom::new();

// What a database that is away makes the timers say at each run.
static UNDELETED: Seldom = Seldom::new();
static UNENDED: Seldom = Seldom::new();
static UNPURGED: Seldom = Seldom::new();

/// Records ended per shard and lock.
const BATCH: usize = 256;
/// Seconds after which a publication whose row cannot be deleted is retried.
const RETRY: i64 = 5;
/// Watchers without a subscription are forgotten after this many seconds (B17).
const WATCHERS_KEPT: i64 = 24 * 3600;

/// Publications that were claimed, the next one last. What is not dealt with is
/// given back, also when a callback panics; those that were not tried come
/// first the next time.
struct Claimed<'a, M: Memory> {
    store: &'a Store<M>,
    now: i64,
    expired: Vec<Expired<M>>,
}

impl<M: Memory> Drop for Claimed<'_, M> {
    fn drop(&mut self) {
        if let Some(in_hand) = self.expired.pop() {
            self.store.keep_expired(in_hand, self.now, RETRY);
        }
        for untried in self.expired.drain(..) {
            self.store.keep_expired(untried, self.now, 0);
        }
    }
}

/// Ends publications that have expired (`clean_period`).
pub fn publications<M: Memory>(server: &Server<M>, host: &mut dyn Host) {
    if server.config.publications() == PublicationCache::None {
        if unindexed::expire(server, host).is_err() {
            undeleted(host);
        }
        server.wake_senders(host);
        return;
    }
    // One time for all: what is to be retried later is not retried now.
    let now = host.now();
    let (mut failed, mut is_away) = (false, false);
    for shard in 0..server.store.shards() {
        let mut more = true;
        while more && !is_away {
            let quietly = server.config.force_delete;
            let (expired, rest) =
                server.store.claim_expired(shard, (now, BATCH), &server.registry, quietly);
            more = rest;
            let mut claimed = Claimed { store: &server.store, now, expired };
            claimed.expired.reverse();
            while !is_away && let Some(publication) = claimed.expired.last() {
                let ended = end(server, host, publication);
                let Some(publication) = claimed.expired.pop() else { break };
                match ended {
                    Ok(document) => server.store.remove_expired(publication, document.as_deref()),
                    // The row's own fault is no reason to keep the others waiting.
                    Err(fault) => {
                        failed = true;
                        is_away = fault == Fault::Database;
                        server.store.keep_expired(publication, now, RETRY);
                    }
                }
            }
        }
    }
    let swept = if is_away { Err(Fault::Database) } else { sweep_publications(server, host) };
    if failed || swept.is_err() {
        undeleted(host);
    }
    server.wake_senders(host);
}

/// Ends publications that are expired rows without a record. Those with one were
/// just dealt with.
fn sweep_publications<M: Memory>(server: &Server<M>, host: &mut dyn Host) -> Result<(), Fault> {
    match server.publications_in_database() {
        true => left_over::publications(server, host),
        false => Ok(()),
    }
}

fn undeleted(host: &mut dyn Host) {
    let line = format_args!("expired publications cannot be deleted and are tried again");
    UNDELETED.log(host, Level::Error, line);
}

/// Deletes the row of an expired publication. Gives the document that it had, if
/// watchers have to see that.
fn end<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    expired: &Expired<M>,
) -> Result<Option<Vec<u8>>, Fault> {
    if !server.publications_in_database() {
        return Ok(None);
    }
    let package = server.registry.get(expired.stored.key.package).ok_or(Fault::Package)?;
    let (key, tag) = (&expired.stored.key, &expired.stored.entity_tag);
    let shown = expired.change.ended.is_some();
    publication_rows::remove(server, host, key, &package.name, tag, shown)
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
