//! What the store and the shared memory have to know of the configuration, in their own
//! terms: the one place where parameters become policies.

use crate::config::Config;
use crate::presence::event_package::Kind;
use crate::presence::registry::EventPackageRegistry;
use crate::service::publications::{are_indexed, judged_by_rows};
use crate::service::subscriptions::keeping;
use crate::store::Policy;
use crate::store::shard::ShardPolicy;

/// The policy of a store with these event packages.
pub fn store(config: &Config, registry: &EventPackageRegistry) -> Policy {
    let peer = |id| registry.get(id).filter(|package| package.kind == Kind::Publication)?.peer;
    Policy {
        user_case: config.sip_uri_match,
        replaces_same_call: config.delete_same_subs,
        limits: config.limits,
        watcher_info: registry.ids().map(peer).collect(),
        shows_newest: registry.ids().map(|id| config.shows_newest(registry.get(id))).collect(),
    }
}

/// The policy of one of `lock_shards` shards.
pub fn shard(config: &Config) -> ShardPolicy {
    let (shards, subscriptions) = (config.lock_shards.max(1) as usize, keeping(config));
    ShardPolicy {
        user_case: config.sip_uri_match,
        knows_watchers: subscriptions.has_records,
        rows_follow: subscriptions.rows_follow(),
        new_rows_wait: subscriptions.new_rows_wait,
        document_cache_bytes: match are_indexed(config) {
            true => config.publ_cache_bodies as usize * 1024 / shards,
            false => 0,
        },
    }
}

/// Some rows are judged by, and counted for limits: the database has to tell how many
/// a change meets.
pub fn rows_judge(config: &Config) -> bool {
    keeping(config).is_shared() || judged_by_rows(config)
}
