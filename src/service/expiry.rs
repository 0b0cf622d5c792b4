//! What the timers do: end what has run out, purge, flush.

use crate::ports::{Compare, Host, Level, Value};
use crate::service::{Server, publication_rows, write_back};
use crate::shm::Memory;

/// Records ended per shard and lock.
const BATCH: usize = 256;
/// Seconds after which a publication whose row cannot be deleted is retried.
const RETRY: i64 = 5;
/// Pending watchers are forgotten after this many seconds (B17).
const PENDING_WATCHERS: i64 = 24 * 3600;

/// Ends publications that have expired (`clean_period`).
pub fn publications<M: Memory>(server: &Server<M>, host: &mut dyn Host) {
    let quietly = server.config.force_delete;
    for shard in 0..server.store.shards() {
        loop {
            let expired = server.store.claim_expired(shard, host.now(), BATCH);
            let last = expired.is_empty();
            for publication in expired {
                let Some(package) = server.registry.get(publication.key.package) else { continue };
                let farewell = package.aggregates && !quietly;
                let body = if server.publications_in_database() {
                    match publication_rows::remove(
                        server,
                        host,
                        &publication.key,
                        &package.name,
                        &publication.stored.entity_tag,
                        farewell && publication.has_watchers,
                    ) {
                        Ok(body) => body,
                        Err(_) => {
                            server.store.keep_expired(publication, host.now(), RETRY);
                            continue;
                        }
                    }
                } else {
                    None
                };
                server.store.remove_expired(publication, farewell, body.as_deref(), quietly);
            }
            if last {
                break;
            }
        }
    }
    server.wake_senders(host);
}

/// Ends subscriptions that have expired (`db_update_period`).
pub fn subscriptions<M: Memory>(server: &Server<M>, host: &mut dyn Host) {
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
    if server.store.policy.writes_back {
        write_back::flush(server, host, false);
    }
}

/// Forgets watchers that have been pending for a day and have not come back.
pub fn watchers<M: Memory>(server: &Server<M>, host: &mut dyn Host) {
    let before = host.now() - PENDING_WATCHERS;
    let Ok(table) = std::str::from_utf8(&server.config.watchers_table) else { return };
    let Some(database) = host.database() else { return };
    let conditions = [
        ("inserted_time", Compare::Less, Value::Int(before)),
        ("status", Compare::Eq, Value::Int(2)),
    ];
    if database.delete(table, &conditions).is_err() {
        host.log(Level::Warning, format_args!("pending watchers could not be purged"));
    }
}
