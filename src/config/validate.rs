//! From what the configuration says to a `Config` that holds.
//!
//! Numbers out of range are replaced as the stock module replaces them, each
//! with one warning; a value that has no sensible replacement is refused. In
//! library mode nothing but the lifetimes is used, so nothing is refused.

use super::parameters::{
    ConfigError, ParameterDefault, ParameterRange, ParameterValue, Parameters, parameter,
};
use super::{Config, DmqConfig, LogFacility, PublicationCache, RetrieveOrder};
use super::{SubscriptionMode, TimerMode};
use crate::presence::expires::MinExpiresAction;
use crate::presence::limits::Limits;
use crate::presence::text::is_token;
use crate::presence::uri::{self, UserCase};

/// Largest exponent of a table's size: more slots than this have no use.
const MAX_SIZE_EXPONENT: i64 = 30;
/// Most lock shards.
const MAX_SHARDS: i64 = 1 << 12;

impl Parameters {
    /// The configuration, and warnings about values that were replaced, one
    /// line each. Fails with the first value that is refused.
    pub fn validate(&self) -> Result<(Config, Vec<String>), ConfigError> {
        let publ_cache = self.value("publ_cache");
        let library = matches!(self.value("db_url"), Some(ParameterValue::Text(url)) if url.is_empty())
            && publ_cache != Some(ParameterValue::Int(PublicationCache::Record as i64));
        let mut judge = Judge { given: self, library, warnings: Vec::new() };
        let config = judge.config()?;
        if config.needs_database() && config.db_url.is_none() {
            return Err(ConfigError::NoDatabase { subs_db_mode: config.subs_db_mode as u8 });
        }
        Ok((config, judge.warnings))
    }
}

struct Judge<'a> {
    given: &'a Parameters,
    library: bool,
    warnings: Vec<String>,
}

impl Judge<'_> {
    fn config(&mut self) -> Result<Config, ConfigError> {
        let (subs_db_mode, publ_cache) = (self.subs_db_mode()?, self.publ_cache()?);
        let min_expires_action = self.min_expires_action()?;
        let max_expires = self.max_expires();
        Ok(Config {
            db_url: self.optional("db_url"),
            presentity_table: self.table("presentity_table")?,
            active_watchers_table: self.table("active_watchers_table")?,
            watchers_table: self.table("watchers_table")?,
            clean_period: self.period("clean_period"),
            cseq_offset: self.at_least("cseq_offset"),
            db_update_period: self.period("db_update_period"),
            waitn_time: self.at_least("waitn_time"),
            notifier_poll_rate: self.at_least("notifier_poll_rate"),
            notifier_processes: self.notifier_processes(subs_db_mode),
            force_delete: self.int("force_delete") > 0,
            startup_mode: self.int("startup_mode") != 0,
            expires_offset: self.at_least("expires_offset"),
            max_expires,
            min_expires: self.min_expires(max_expires),
            min_expires_action,
            server_address: self.server_address()?,
            subs_db_mode,
            publ_cache,
            subs_slots: self.slots("subs_htable_size", 512),
            publication_slots: self.slots("pres_htable_size", 256),
            send_fast_notify: self.int("send_fast_notify") != 0,
            enable_sphere_check: self.int("enable_sphere_check") != 0,
            timeout_rm_subs: self.int("timeout_rm_subs") != 0,
            fetch_rows: self.at_least("fetch_rows"),
            db_table_lock: self.int("db_table_lock_type") == 1,
            local_log_level: i32::try_from(self.int("local_log_level")).unwrap_or(2),
            local_log_facility: self.log_facility()?,
            subs_remove_match: self.int("subs_remove_match") != 0,
            xavp_cfg: self.kind("xavp_cfg", "the name of an XAVP such as pres", is_name)?,
            retrieve_order: self.retrieve_order()?,
            sip_uri_match: match self.int("sip_uri_match") {
                1 => UserCase::Insensitive,
                _ => UserCase::Sensitive,
            },
            dmq: self.dmq()?,
            pres_subs_mode: self.int("pres_subs_mode") == 1,
            delete_same_subs: self.int("delete_same_subs") != 0,
            timer_mode: match self.int("timer_mode") {
                0 => TimerMode::Core,
                _ => TimerMode::Secondary,
            },
            subs_respond_200: self.int("subs_respond_200") != 0,
            to_tag_prefix: self.kind("to_tag_pref", "a token, as tags are", is_token)?,
            to_tag_avp: i32::try_from(self.int("totag_avpid")).ok().filter(|id| *id != 0),
            lock_shards: self.lock_shards(),
            force_active: self.int("force_active") != 0,
            winfo_presentity_only: self.int("winfo_presentity_only") != 0,
            publ_cache_bodies: self.at_least("publ_cache_bodies"),
            heap_fragments: self.int("heap_fragments") != 0,
            limits: self.limits(),
        })
    }

    fn limits(&mut self) -> Limits {
        Limits {
            publications: self.at_least("max_publications"),
            subscriptions: self.at_least("max_subscriptions"),
            of_watcher: self.of_watcher(),
            of_presentity: self.at_least("max_subscriptions_per_presentity"),
            document: self.at_least("max_document_size"),
            refresh_gap: self.at_least("min_refresh_gap"),
            publish_gap: self.at_least("min_publish_gap"),
        }
    }

    fn subs_db_mode(&mut self) -> Result<SubscriptionMode, ConfigError> {
        self.choice("subs_db_mode", "0 to 3", |mode| match mode {
            0 => Some(SubscriptionMode::Memory),
            1 => Some(SubscriptionMode::WriteThrough),
            2 => Some(SubscriptionMode::WriteBack),
            3 => Some(SubscriptionMode::DbOnly),
            _ => None,
        })
    }

    fn publ_cache(&mut self) -> Result<PublicationCache, ConfigError> {
        self.choice("publ_cache", "0 to 2", |cache| match cache {
            0 => Some(PublicationCache::None),
            1 => Some(PublicationCache::Hybrid),
            2 => Some(PublicationCache::Record),
            _ => None,
        })
    }

    fn min_expires_action(&mut self) -> Result<MinExpiresAction, ConfigError> {
        self.choice("min_expires_action", "1 or 2", |action| match action {
            1 => Some(MinExpiresAction::Reject),
            2 => Some(MinExpiresAction::Raise),
            _ => None,
        })
    }

    /// They serve flagged rows; where there are none there is nothing for them.
    fn notifier_processes(&self, subs_db_mode: SubscriptionMode) -> u32 {
        match subs_db_mode {
            SubscriptionMode::DbOnly => unsigned(self.int("notifier_processes").max(0)),
            _ => 0,
        }
    }

    fn server_address(&mut self) -> Result<Option<Vec<u8>>, ConfigError> {
        self.kind("server_address", "a SIP URI such as sip:10.0.0.1:5060", uri::is_sip)
    }

    fn int(&self, name: &str) -> i64 {
        match self.given.value(name) {
            Some(ParameterValue::Int(number)) => number,
            _ => 0,
        }
    }

    fn text(&self, name: &str) -> Vec<u8> {
        match self.given.value(name) {
            Some(ParameterValue::Text(text)) => text,
            _ => Vec::new(),
        }
    }

    fn optional(&self, name: &str) -> Option<Vec<u8>> {
        Some(self.text(name)).filter(|text| !text.is_empty())
    }

    /// 0 or less turns a periodic activity off.
    fn period(&self, name: &str) -> Option<u32> {
        Some(unsigned(self.int(name))).filter(|seconds| *seconds > 0)
    }

    fn replace(&mut self, name: &str, value: i64, by: u32, allowed: &str) -> u32 {
        self.warnings
            .push(format!("parameter {name}: {value} replaced by {by} (allowed: {allowed})"));
        by
    }

    /// What its row of the table asks for: so much or more, or the default.
    fn at_least(&mut self, name: &str) -> u32 {
        let value = self.int(name);
        match parameter(name).map(|parameter| (parameter.range, parameter.default)) {
            Some((ParameterRange::AtLeast(least), ParameterDefault::Int(default)))
                if value < least =>
            {
                self.replace(name, value, unsigned(default), &format!("{least} or more"))
            }
            _ => unsigned(value),
        }
    }

    fn of_watcher(&mut self) -> u32 {
        match self.int("max_subscriptions_per_watcher") {
            value if value >= 0 => unsigned(value),
            -1 => Limits::BY_MEMORY,
            value => {
                let name = "max_subscriptions_per_watcher";
                self.replace(name, value, Limits::BY_MEMORY, "0 or more")
            }
        }
    }

    fn max_expires(&mut self) -> u32 {
        match self.int("max_expires") {
            // The stock module reads a negative number as a huge one.
            value if value < 0 => self.replace("max_expires", value, u32::MAX, "1 or more"),
            _ => self.at_least("max_expires"),
        }
    }

    fn min_expires(&mut self, max: u32) -> u32 {
        let allowed = format!("0 to max_expires, {max}");
        match self.int("min_expires") {
            value if value < 0 => self.replace("min_expires", value, 0, &allowed),
            value if value > i64::from(max) => self.replace("min_expires", value, max, &allowed),
            value => unsigned(value),
        }
    }

    /// A power of two from its exponent; `otherwise` if that is below 1.
    fn slots(&mut self, name: &str, otherwise: u32) -> u32 {
        let allowed = "an exponent from 1 to 30";
        match self.int(name) {
            value if value < 1 => self.replace(name, value, otherwise, allowed),
            value if value > MAX_SIZE_EXPONENT => {
                self.replace(name, value, 1 << MAX_SIZE_EXPONENT, allowed)
            }
            value => 1 << value,
        }
    }

    fn lock_shards(&mut self) -> u32 {
        let allowed = "a power of two up to 4096";
        match self.int("lock_set_size") {
            value if value < 1 => self.replace("lock_set_size", value, 64, allowed),
            value => {
                let shards = unsigned(value.min(MAX_SHARDS)).next_power_of_two();
                if i64::from(shards) == value {
                    return shards;
                }
                self.replace("lock_set_size", value, shards, allowed)
            }
        }
    }

    /// One of a parameter's numbered values.
    fn choice<T: Default>(
        &mut self,
        name: &'static str,
        allowed: &'static str,
        choose: impl Fn(i64) -> Option<T>,
    ) -> Result<T, ConfigError> {
        let value = self.int(name);
        match choose(value) {
            Some(chosen) => Ok(chosen),
            None => {
                self.refuse(name, ParameterValue::Int(value), allowed)?;
                Ok(T::default())
            }
        }
    }

    /// Fails, or warns in library mode.
    fn refuse(
        &mut self,
        name: &'static str,
        value: ParameterValue,
        allowed: &'static str,
    ) -> Result<(), ConfigError> {
        if !self.library {
            return Err(ConfigError::Range { name, value, allowed });
        }
        self.warnings.push(format!("parameter {name}: {value} ignored (allowed: {allowed})"));
        Ok(())
    }

    /// A text that has to be of this kind; `None` if it is not set.
    fn kind(
        &mut self,
        name: &'static str,
        allowed: &'static str,
        is: fn(&[u8]) -> bool,
    ) -> Result<Option<Vec<u8>>, ConfigError> {
        let Some(text) = self.optional(name) else { return Ok(None) };
        if is(&text) {
            return Ok(Some(text));
        }
        self.refuse(name, ParameterValue::Text(text), allowed)?;
        Ok(None)
    }

    fn table(&mut self, name: &'static str) -> Result<Vec<u8>, ConfigError> {
        let table = self.text(name);
        if !is_table(&table) {
            self.refuse(name, ParameterValue::Text(table.clone()), "the name of a table")?;
        }
        Ok(table)
    }

    fn log_facility(&mut self) -> Result<Option<LogFacility>, ConfigError> {
        let name = self.text("local_log_facility");
        let facility = LogFacility::parse(&name);
        if facility.is_none() && !name.is_empty() {
            let allowed = "a syslog facility such as LOG_LOCAL0";
            self.refuse("local_log_facility", ParameterValue::Text(name), allowed)?;
        }
        Ok(facility)
    }

    fn retrieve_order(&mut self) -> Result<RetrieveOrder, ConfigError> {
        let used = self.int("retrieve_order") == 1;
        let text = self.text("retrieve_order_by");
        match RetrieveOrder::parse(&text) {
            Some(order) if used => return Ok(order),
            Some(_) => {}
            None => {
                let allowed = "columns of the presentity table except body, each with ASC or DESC, \
                               separated by commas";
                self.refuse("retrieve_order_by", ParameterValue::Text(text), allowed)?;
            }
        }
        Ok(RetrieveOrder::by_received_time())
    }

    fn dmq(&mut self) -> Result<DmqConfig, ConfigError> {
        let default_socket = self.optional("default_socket");
        if let Some(text) = default_socket.as_ref().filter(|text| !is_socket(text)) {
            let allowed = "a socket such as udp:10.0.0.1:5060";
            self.refuse("default_socket", ParameterValue::Text(text.clone()), allowed)?;
        }
        let peer_id = self.text("dmq_peer_id");
        if peer_id.is_empty() || !is_name(&peer_id) {
            let allowed = "a name of letters, digits, hyphens, dots and underscores";
            self.refuse("dmq_peer_id", ParameterValue::Text(peer_id.clone()), allowed)?;
        }
        Ok(DmqConfig {
            enabled: self.int("enable_dmq") > 0,
            publications: self.int("enable_pres_dmq") != 0,
            sync_publications: self.int("enable_pres_sync_dmq") != 0,
            subscriptions: self.int("enable_subs_dmq") != 0,
            sync_subscriptions: self.int("enable_subs_sync_dmq") != 0,
            skip_notify: self.int("skip_notify_dmq") != 0,
            default_socket,
            subscriptions_takeover: self.at_least("subs_takeover_dmq"),
            subscriptions_received: self.int("subs_recv_dmq") != 0,
            peer_id,
        })
    }
}

/// A number that is not negative; others become 0.
fn unsigned(number: i64) -> u32 {
    u32::try_from(number.max(0)).unwrap_or(u32::MAX)
}

/// A socket as Kamailio writes it: `proto:host:port`.
fn is_socket(text: &[u8]) -> bool {
    let mut parts = text.splitn(2, |byte| *byte == b':');
    let (Some(protocol), Some(place)) = (parts.next(), parts.next()) else { return false };
    let Some(at) = place.iter().rposition(|byte| *byte == b':') else { return false };
    let port = std::str::from_utf8(&place[at + 1..]).ok().and_then(|port| port.parse().ok());
    let known = [&b"udp"[..], b"tcp", b"tls", b"sctp", b"ws", b"wss"];
    known.iter().any(|name| name.eq_ignore_ascii_case(protocol))
        && at > 0
        && port.is_some_and(|port: u16| port > 0)
}

/// The name of an XAVP as scripts write it in `$xavp(name)`, not with the dollar.
fn is_name(text: &[u8]) -> bool {
    text.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.'))
}

/// The name of a table, maybe with its schema, maybe quoted. It goes into
/// statements as it is: nothing that ends a name or begins another one.
fn is_table(text: &[u8]) -> bool {
    let ends = |byte: &u8| matches!(byte, b'\'' | b';' | b',' | b'(' | b')' | b'=' | b'\\');
    !text.is_empty()
        && std::str::from_utf8(text).is_ok()
        && !text
            .iter()
            .any(|byte| byte.is_ascii_whitespace() || byte.is_ascii_control() || ends(byte))
}
