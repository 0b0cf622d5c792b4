//! What the configuration file sets, before it is judged. `PARAMETERS` is the one
//! table of the parameters: the build makes the shim's list of it, validation
//! takes defaults and smallest values from it, and tests compare the manual and
//! the table of tests with it. It names nothing else of the crate, because the
//! build compiles it, too.

use std::fmt;

/// A value as `modparam` passes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ParameterValue {
    /// An integer.
    Int(i64),
    /// A string.
    Text(Vec<u8>),
}

impl fmt::Display for ParameterValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ParameterValue::Int(number) => write!(f, "{number}"),
            ParameterValue::Text(text) => write!(f, "\"{}\"", text.escape_ascii()),
        }
    }
}

/// The type of a parameter and its value when it is not set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ParameterDefault {
    /// An integer.
    Int(i64),
    /// A string; empty means not set.
    Text(&'static str),
}

/// A parameter that the module has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parameter {
    /// Its name in the configuration.
    pub name: &'static str,
    /// Its type and default.
    pub default: ParameterDefault,
    /// Which values it may have.
    pub range: ParameterRange,
}

/// Which values a parameter may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ParameterRange {
    /// Off or on.
    Switch,
    /// This number or more. A smaller one is replaced by the default, with a
    /// warning.
    AtLeast(i64),
    /// `validate.rs` judges.
    Judged,
}

const fn int(name: &'static str, default: i64) -> Parameter {
    let range = ParameterRange::Judged;
    Parameter { name, default: ParameterDefault::Int(default), range }
}

const fn switch(name: &'static str, default: i64) -> Parameter {
    Parameter { range: ParameterRange::Switch, ..int(name, default) }
}

const fn at_least(name: &'static str, least: i64, default: i64) -> Parameter {
    Parameter { range: ParameterRange::AtLeast(least), ..int(name, default) }
}

const fn text(name: &'static str, default: &'static str) -> Parameter {
    let range = ParameterRange::Judged;
    Parameter { name, default: ParameterDefault::Text(default), range }
}

/// The parameter of this name.
pub fn parameter(name: &str) -> Option<&'static Parameter> {
    PARAMETERS.iter().find(|parameter| parameter.name == name)
}

/// Every parameter: the manual's in its order, then those it does not have.
pub const PARAMETERS: &[Parameter] = &[
    text("db_url", ""),
    text("presentity_table", "presentity"),
    text("active_watchers_table", "active_watchers"),
    text("watchers_table", "watchers"),
    int("clean_period", 100),
    at_least("cseq_offset", 0, 0),
    int("db_update_period", 100),
    at_least("waitn_time", 1, 5),
    at_least("notifier_poll_rate", 1, 10),
    int("notifier_processes", 1),
    switch("force_delete", 0),
    switch("startup_mode", 1),
    at_least("expires_offset", 0, 0),
    at_least("max_expires", 1, 3600),
    int("min_expires", 0),
    int("min_expires_action", 1),
    text("server_address", ""),
    int("subs_db_mode", 2),
    int("publ_cache", 1),
    int("subs_htable_size", 9),
    int("pres_htable_size", 9),
    switch("send_fast_notify", 1),
    switch("enable_sphere_check", 0),
    switch("timeout_rm_subs", 1),
    at_least("fetch_rows", 1, 500),
    switch("db_table_lock_type", 1),
    int("local_log_level", 2),
    text("local_log_facility", ""),
    switch("subs_remove_match", 0),
    text("xavp_cfg", ""),
    switch("retrieve_order", 0),
    text("retrieve_order_by", "priority"),
    switch("sip_uri_match", 0),
    int("enable_dmq", 0),
    switch("pres_subs_mode", 1),
    switch("delete_same_subs", 0),
    switch("timer_mode", 1),
    switch("subs_respond_200", 1),
    // Older page.
    text("to_tag_pref", ""),
    int("totag_avpid", 0),
    int("lock_set_size", 64),
    switch("force_active", 0),
    // Ours.
    switch("winfo_presentity_only", 0),
    at_least("publ_cache_bodies", 0, 8192),
    switch("heap_fragments", 1),
    at_least("max_publications", 0, 10_000),
    at_least("max_subscriptions", 0, 0),
    at_least("max_subscriptions_per_watcher", -1, -1),
    at_least("max_subscriptions_per_presentity", 0, 1_000_000),
    at_least("max_document_size", 0, 1 << 20),
    at_least("min_refresh_gap", 0, 0),
    at_least("min_publish_gap", 0, 0),
    at_least("subs_takeover_dmq", 0, 0),
    switch("subs_recv_dmq", 0),
    // Kamailio 6.1 and later.
    switch("enable_pres_dmq", 1),
    switch("enable_pres_sync_dmq", 1),
    int("enable_subs_dmq", 0),
    switch("enable_subs_sync_dmq", 1),
    int("skip_notify_dmq", 0),
    text("default_socket", ""),
    text("dmq_peer_id", "presence"),
];

/// Why the module does not start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConfigError {
    /// There is no parameter of this name.
    Unknown {
        /// The name.
        name: String,
    },
    /// The value is of another type.
    Type {
        /// The parameter.
        name: &'static str,
        /// What it was set to.
        value: ParameterValue,
        /// What it wants.
        wanted: &'static str,
    },
    /// The value is not allowed.
    Range {
        /// The parameter.
        name: &'static str,
        /// What it was set to.
        value: ParameterValue,
        /// What is allowed.
        allowed: &'static str,
    },
    /// `db_url` is not set, and subscriptions are to be stored.
    NoDatabase {
        /// `subs_db_mode`.
        subs_db_mode: u8,
    },
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConfigError::Unknown { name } => write!(f, "there is no parameter {name}"),
            ConfigError::Type { name, value, wanted } => {
                write!(f, "parameter {name}: {value} is not {wanted}")
            }
            ConfigError::Range { name, value, allowed } => {
                write!(f, "parameter {name}: {value} is not allowed (allowed: {allowed})")
            }
            ConfigError::NoDatabase { subs_db_mode } => write!(
                f,
                "parameter db_url: not set (needed by subs_db_mode {subs_db_mode}; \
                 without a database use subs_db_mode 0 with publ_cache 2)"
            ),
        }
    }
}

impl std::error::Error for ConfigError {}

/// The parameters that the configuration sets.
#[derive(Debug, Clone, Default)]
pub struct Parameters {
    /// Position in `PARAMETERS` and value; the last one of a position counts.
    given: Vec<(usize, ParameterValue)>,
}

impl Parameters {
    /// Sets a parameter; a second setting replaces the first. An integer may
    /// be given as a decimal string. Fails if there is no such parameter or
    /// the value is not of its type (integers have 32 bits, as in the core).
    pub fn set(&mut self, name: &str, value: ParameterValue) -> Result<(), ConfigError> {
        let Some((position, parameter)) =
            PARAMETERS.iter().enumerate().find(|(_, parameter)| parameter.name == name)
        else {
            return Err(ConfigError::Unknown { name: name.to_owned() });
        };
        let name = parameter.name;
        let value = match (parameter.default, value) {
            (ParameterDefault::Int(_), value) => match integer(&value) {
                Some(number) => ParameterValue::Int(i64::from(number)),
                None => return Err(ConfigError::Type { name, value, wanted: "a 32-bit integer" }),
            },
            (ParameterDefault::Text(_), value @ ParameterValue::Text(_)) => value,
            (ParameterDefault::Text(_), value) => {
                return Err(ConfigError::Type { name, value, wanted: "a string" });
            }
        };
        self.given.push((position, value));
        Ok(())
    }

    /// The value of a parameter, given or default. `None` only for a name that
    /// is not in `PARAMETERS`.
    pub(super) fn value(&self, name: &str) -> Option<ParameterValue> {
        let position = PARAMETERS.iter().position(|parameter| parameter.name == name)?;
        let given = self.given.iter().rev().find(|(at, _)| *at == position);
        Some(match (given, PARAMETERS.get(position)?.default) {
            (Some((_, value)), _) => value.clone(),
            (None, ParameterDefault::Int(number)) => ParameterValue::Int(number),
            (None, ParameterDefault::Text(text)) => ParameterValue::Text(text.into()),
        })
    }
}

fn integer(value: &ParameterValue) -> Option<i32> {
    match value {
        ParameterValue::Int(number) => i32::try_from(*number).ok(),
        ParameterValue::Text(text) => std::str::from_utf8(text).ok()?.trim().parse().ok(),
    }
}
