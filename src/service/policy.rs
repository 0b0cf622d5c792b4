//! What the store has to know of the configuration, in its own terms: the one
//! place where parameters become the store's policies.

use crate::config::{Config, SubscriptionMode};
use crate::presence::event_package::Kind;
use crate::presence::registry::EventPackageRegistry;
use crate::service::publications::are_indexed;
use crate::store::shard::ShardPolicy;
use crate::store::{Policy, SubscriptionRows};

/// The policy of a store with these event packages.
pub fn store(config: &Config, registry: &EventPackageRegistry) -> Policy {
    let peer = |id| registry.get(id).filter(|package| package.kind == Kind::Publication)?.peer;
    Policy {
        user_case: config.sip_uri_match,
        rows: subscription_rows(config),
        replaces_same_call: config.delete_same_subs,
        limits: config.limits,
        watcher_info: registry.ids().map(peer).collect(),
        shows_newest: registry.ids().map(|id| config.shows_newest(registry.get(id))).collect(),
    }
}

/// The policy of one of `lock_shards` shards.
pub fn shard(config: &Config) -> ShardPolicy {
    let shards = config.lock_shards.max(1) as usize;
    ShardPolicy {
        user_case: config.sip_uri_match,
        watchers_are_rows: subscription_rows(config) == SubscriptionRows::Only,
        document_cache_bytes: match are_indexed(config) {
            true => config.publ_cache_bodies as usize * 1024 / shards,
            false => 0,
        },
    }
}

fn subscription_rows(config: &Config) -> SubscriptionRows {
    match config.subs_db_mode {
        SubscriptionMode::Memory => SubscriptionRows::None,
        SubscriptionMode::WriteThrough => SubscriptionRows::AtOnce,
        SubscriptionMode::WriteBack => SubscriptionRows::Later,
        SubscriptionMode::DbOnly => SubscriptionRows::Only,
    }
}
