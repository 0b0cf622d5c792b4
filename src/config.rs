//! The module's parameters, typed and checked. `Parameters` collects what the
//! configuration sets; `Parameters::validate` makes a `Config` of it, once,
//! when Kamailio starts.
//!
//! Section numbers are those of the module's manual; "older page" is the
//! documentation of the first releases.

mod log_facility;
mod order;
mod parameters;
#[cfg(test)]
mod tests;
mod validate;

pub use log_facility::LogFacility;
pub use order::{OrderColumn, OrderTerm, RetrieveOrder};
pub use parameters::{
    ConfigError, PARAMETERS, Parameter, ParameterDefault, ParameterRange, ParameterValue,
    Parameters,
};

use crate::presence::event_package::{EventPackage, Kind};
use crate::presence::expires::{ExpiresPolicy, MinExpiresAction};
use crate::presence::limits::Limits;
use crate::presence::uri::UserCase;

/// Where subscriptions live (`subs_db_mode`, 3.18).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum SubscriptionMode {
    /// In memory only.
    Memory = 0,
    /// In memory, and in the database before the request is answered.
    WriteThrough = 1,
    /// In memory, and in the database every `db_update_period`.
    #[default]
    WriteBack = 2,
    /// In the database only.
    DbOnly = 3,
}

/// Where publications live (`publ_cache`, 3.19).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum PublicationCache {
    /// In the database only.
    None = 0,
    /// In the database, with an index in memory.
    #[default]
    Hybrid = 1,
    /// In memory only.
    Record = 2,
}

/// Which of Kamailio's timers runs the periodic work (`timer_mode`, 3.37).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TimerMode {
    /// The core timer process.
    Core,
    /// The secondary timer process.
    #[default]
    Secondary,
}

/// Replication over DMQ (3.34 and Kamailio 6.1's manual).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DmqConfig {
    /// `enable_dmq` (3.34): replicate at all. Default off.
    pub enabled: bool,
    /// `enable_pres_dmq`: replicate publications. Default on.
    pub publications: bool,
    /// `enable_pres_sync_dmq`: fetch publications when joining. Default on.
    pub sync_publications: bool,
    /// `enable_subs_dmq`: replicate subscriptions. Default off.
    pub subscriptions: bool,
    /// `enable_subs_sync_dmq`: fetch subscriptions when joining. Default on.
    pub sync_subscriptions: bool,
    /// `skip_notify_dmq`: no NOTIFY for replicated publications. Default off.
    pub skip_notify: bool,
    /// `default_socket`: local socket for replicated subscriptions.
    pub default_socket: Option<Vec<u8>>,
    /// `subs_takeover_dmq` (ours): seconds that a server has to be gone before others
    /// take its subscriptions over without a request. Default 0: never.
    pub subscriptions_takeover: u32,
    /// `subs_recv_dmq` (ours): all peers know the time in messages of subscriptions.
    /// Default off.
    pub subscriptions_received: bool,
    /// `dmq_peer_id`: name of the peer. Default `presence`.
    pub peer_id: Vec<u8>,
}

/// All parameters, valid. Times are seconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// `db_url` (3.1): the database. Default none.
    pub db_url: Option<Vec<u8>>,
    /// `presentity_table` (3.2): publications. Default `presentity`.
    pub presentity_table: Vec<u8>,
    /// `active_watchers_table` (3.3): subscriptions. Default `active_watchers`.
    pub active_watchers_table: Vec<u8>,
    /// `watchers_table` (3.4): who may watch. Default `watchers`.
    pub watchers_table: Vec<u8>,
    /// `clean_period` (3.5): seconds between removals of what has expired.
    /// Default 100; `None` (0 or less) for never.
    pub clean_period: Option<u32>,
    /// `cseq_offset` (3.6): how far the CSeq of a request may lie below the
    /// last one. Default 0.
    pub cseq_offset: u32,
    /// `db_update_period` (3.7): seconds between flushes of subscriptions.
    /// Default 100; `None` (0 or less) for never.
    pub db_update_period: Option<u32>,
    /// `waitn_time` (3.8): longest a notifier process buffers a NOTIFY, in
    /// seconds. Default 5.
    pub waitn_time: u32,
    /// `notifier_poll_rate` (3.9): rounds of a notifier process per second.
    /// Default 10.
    pub notifier_poll_rate: u32,
    /// `notifier_processes` (3.10): default 1; 0 unless `subs_db_mode` is 3.
    pub notifier_processes: u32,
    /// `force_delete` (3.11): expired publications go without NOTIFY. Default
    /// off.
    pub force_delete: bool,
    /// `startup_mode` (3.12): publications that have expired are not used.
    /// Default on; off is for modules that publish with a very short lifetime.
    pub startup_mode: bool,
    /// `expires_offset` (3.13): subtracted, in seconds, from the lifetime told
    /// to a publisher. Default 0.
    pub expires_offset: u32,
    /// `max_expires` (3.14): longest lifetime in seconds. Default 3600.
    pub max_expires: u32,
    /// `min_expires` (3.15): shortest lifetime in seconds, at most
    /// `max_expires`. Default 0: none.
    pub min_expires: u32,
    /// `min_expires_action` (3.16): 1 refuse (default), 2 raise.
    pub min_expires_action: MinExpiresAction,
    /// `server_address` (3.17): our Contact URI. Default none: made of the
    /// receiving socket.
    pub server_address: Option<Vec<u8>>,
    /// `subs_db_mode` (3.18). Default 2, write-back.
    pub subs_db_mode: SubscriptionMode,
    /// `publ_cache` (3.19). Default 1, hybrid.
    pub publ_cache: PublicationCache,
    /// `subs_htable_size` (3.20), as a number of slots, a power of two. The
    /// parameter is the exponent. Default 512.
    pub subs_slots: u32,
    /// `pres_htable_size` (3.21), as a number of slots, a power of two. The
    /// parameter is the exponent. Default 512.
    pub publication_slots: u32,
    /// `send_fast_notify` (3.22): an initial NOTIFY is sent even if empty.
    /// Default on.
    pub send_fast_notify: bool,
    /// `enable_sphere_check` (3.23): spheres are read from publications.
    /// Default off.
    pub enable_sphere_check: bool,
    /// `timeout_rm_subs` (3.24): a NOTIFY that times out ends its
    /// subscription. Default on.
    pub timeout_rm_subs: bool,
    /// `fetch_rows` (3.25): rows fetched from the database in one step, at
    /// least 1. Default 500.
    pub fetch_rows: u32,
    /// `db_table_lock_type` (3.26): 1 (default) allows table locks.
    pub db_table_lock: bool,
    /// `local_log_level` (3.27): Kamailio's log level of the line per NOTIFY.
    /// Default 2, L_INFO.
    pub local_log_level: i32,
    /// `local_log_facility` (3.28). Default none: the core's.
    pub local_log_facility: Option<LogFacility>,
    /// `subs_remove_match` (3.29): accepted; dialogs are always matched by
    /// Call-ID and both tags. Default off.
    pub subs_remove_match: bool,
    /// `xavp_cfg` (3.30): XAVP through which the script sets attributes.
    /// Default none.
    pub xavp_cfg: Option<Vec<u8>>,
    /// `retrieve_order` (3.31) and `retrieve_order_by` (3.32): the order in
    /// which publications are composed. Default by `received_time`.
    pub retrieve_order: RetrieveOrder,
    /// `sip_uri_match` (3.33): 1 compares users without case. Default 0.
    pub sip_uri_match: UserCase,
    /// Replication over DMQ.
    pub dmq: DmqConfig,
    /// `pres_subs_mode` (3.35): `$subs` is available. Default on.
    pub pres_subs_mode: bool,
    /// `delete_same_subs` (3.36): a new subscription replaces one with the
    /// same presentity and Call-ID. Default off.
    pub delete_same_subs: bool,
    /// `timer_mode` (3.37): 0 core timer, 1 secondary timer (default).
    pub timer_mode: TimerMode,
    /// `subs_respond_200` (not in the manual): off answers a SUBSCRIBE to
    /// published state with 202 instead of 200. Default on.
    pub subs_respond_200: bool,
    /// `to_tag_pref` (older page): prefix of our To tags. Default none.
    pub to_tag_prefix: Option<Vec<u8>>,
    /// `totag_avpid` (older page): id of the AVP that receives the To tag.
    /// Default none (0).
    pub to_tag_avp: Option<i32>,
    /// `lock_set_size` (older page): lock shards, a power of two. Default 64.
    pub lock_shards: u32,
    /// `force_active` (older page): subscriptions are active without asking
    /// the package's rules. Default off.
    pub force_active: bool,
    /// `winfo_presentity_only` (ours): nobody but the presentity may watch its
    /// watchers. Default off, as in stock.
    pub winfo_presentity_only: bool,
    /// `publ_cache_bodies` (ours): kilobytes of published documents that are
    /// kept in memory beside their rows with `publ_cache` 1. Default 8192.
    pub publ_cache_bodies: u32,
    /// `heap_fragments` (ours): free fragments are left in Kamailio's heaps at
    /// start, so that its allocator finds one sooner. Default on.
    pub heap_fragments: bool,
    /// `max_publications` and the others (ours): what clients may pile up.
    pub limits: Limits,
}

impl Config {
    /// Of several publications of this package the last one in memory alone is
    /// shown: it merges none, nothing that has ended is shown before it is
    /// removed, and no other order was asked for.
    pub fn shows_newest(&self, package: Option<&EventPackage>) -> bool {
        self.startup_mode
            && self.retrieve_order == RetrieveOrder::by_received_time()
            && package
                .is_some_and(|package| package.kind == Kind::Publication && !package.aggregates)
    }

    /// Without a database to keep publications in, the module only lends its
    /// functions to other modules (3.1).
    pub fn library_mode(&self) -> bool {
        self.db_url.is_none() && self.publ_cache != PublicationCache::Record
    }

    /// Whether anything is stored in the database.
    pub fn needs_database(&self) -> bool {
        !self.library_mode()
            && (self.publ_cache != PublicationCache::Record
                || self.subs_db_mode != SubscriptionMode::Memory)
    }

    /// Where publications are looked up. With subscriptions in the database
    /// only, other servers write publications too: then no index is kept that
    /// could hide theirs (B42).
    pub fn publications(&self) -> PublicationCache {
        match (self.publ_cache, self.subs_db_mode) {
            (PublicationCache::Hybrid, SubscriptionMode::DbOnly) => PublicationCache::None,
            (cache, _) => cache,
        }
    }

    /// The limits on lifetimes.
    pub fn expires_policy(&self) -> ExpiresPolicy {
        ExpiresPolicy {
            max: self.max_expires,
            min: self.min_expires,
            action: self.min_expires_action,
            offset: self.expires_offset,
        }
    }
}
