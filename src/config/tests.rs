//! Every parameter: its default, and values that are accepted, replaced with
//! a warning, or refused.

use super::*;

enum Outcome {
    /// Taken; the field shows this.
    Is(&'static str),
    /// Replaced with one warning; the field shows this.
    Replaced(&'static str),
    /// Refused; the line contains this.
    Refused(&'static str),
}
use Outcome::{Is, Refused, Replaced};

#[derive(Clone, Copy)]
enum Given {
    I(i64),
    T(&'static str),
}
use Given::{I, T};

impl Given {
    fn value(self) -> ParameterValue {
        match self {
            I(number) => ParameterValue::Int(number),
            T(text) => ParameterValue::Text(text.into()),
        }
    }
}

struct Row {
    name: &'static str,
    shows: fn(&Config) -> String,
    default: &'static str,
    cases: &'static [(Given, Outcome)],
}

fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value).into_owned()
}

fn optional(value: &Option<Vec<u8>>) -> String {
    value.as_deref().map_or("-".to_owned(), text)
}

macro_rules! row {
    ($name:literal, |$c:ident| $shows:expr, $default:literal, [$($given:expr => $outcome:expr),* $(,)?]) => {
        Row { name: $name, shows: |$c| $shows, default: $default, cases: &[$(($given, $outcome)),*] }
    };
    ($name:literal, $field:ident, $default:literal, $cases:tt) => {
        row!($name, |c| format!("{:?}", c.$field), $default, $cases)
    };
}

#[rustfmt::skip]
const TABLE: &[Row] = &[
    row!("db_url", |c| optional(&c.db_url), "-", [T("text:///x") => Is("text:///x"), I(1) => Refused("a string")]),
    row!("presentity_table", |c| text(&c.presentity_table), "presentity",
        [T("p2") => Is("p2"), T("schema.p-2") => Is("schema.p-2"), T("") => Refused("the name of a table"),
         T("presentity; DROP") => Refused("the name of a table")]),
    row!("active_watchers_table", |c| text(&c.active_watchers_table), "active_watchers",
        [T("a2") => Is("a2"), T("") => Refused("the name of a table")]),
    row!("watchers_table", |c| text(&c.watchers_table), "watchers",
        [T("w2") => Is("w2"), T("") => Refused("the name of a table")]),
    row!("clean_period", clean_period, "Some(100)",
        [I(1) => Is("Some(1)"), I(0) => Is("None"), I(-5) => Is("None")]),
    row!("cseq_offset", cseq_offset, "0", [I(1) => Is("1"), I(-1) => Replaced("0")]),
    row!("db_update_period", db_update_period, "Some(100)",
        [I(7) => Is("Some(7)"), I(0) => Is("None"), I(-5) => Is("None")]),
    row!("waitn_time", waitn_time, "5", [I(10) => Is("10"), I(0) => Replaced("5"), I(-1) => Replaced("5")]),
    row!("notifier_poll_rate", notifier_poll_rate, "10",
        [I(20) => Is("20"), I(0) => Replaced("10"), I(-1) => Replaced("10")]),
    // Counts in mode 3 only.
    row!("notifier_processes", notifier_processes, "0", [I(4) => Is("0"), I(-1) => Is("0")]),
    row!("force_delete", force_delete, "false", [I(1) => Is("true"), I(2) => Is("true"), I(-1) => Is("false")]),
    row!("startup_mode", startup_mode, "true", [I(0) => Is("false"), I(1) => Is("true")]),
    row!("expires_offset", expires_offset, "0", [I(10) => Is("10"), I(-1) => Replaced("0")]),
    row!("max_expires", max_expires, "3600",
        [I(60) => Is("60"), T(" 60 ") => Is("60"), I(0) => Replaced("3600"), I(-1) => Replaced("4294967295"),
         T("1h") => Refused("\"1h\" is not a 32-bit integer"), I(1 << 31) => Refused("a 32-bit integer")]),
    row!("min_expires", min_expires, "0",
        [I(3600) => Is("3600"), I(3601) => Replaced("3600"), I(-1) => Replaced("0")]),
    row!("min_expires_action", min_expires_action, "Reject",
        [I(1) => Is("Reject"), I(2) => Is("Raise"), I(0) => Refused("0 is not allowed (allowed: 1 or 2)"),
         I(3) => Refused("1 or 2")]),
    row!("server_address", |c| optional(&c.server_address), "-", [T("sip:10.0.0.1") => Is("sip:10.0.0.1"), T("") => Is("-"),
         T("10.0.0.1") => Refused("parameter server_address: \"10.0.0.1\" is not allowed (allowed: a SIP URI"),
         T("<sip:10.0.0.1>") => Refused("a SIP URI")]),
    row!("subs_db_mode", subs_db_mode, "WriteBack",
        [I(0) => Is("Memory"), I(2) => Is("WriteBack"), I(1) => Is("WriteThrough"), I(3) => Is("DbOnly"),
         I(4) => Refused("parameter subs_db_mode: 4 is not allowed (allowed: 0 to 3)"), I(-1) => Refused("0 to 3")]),
    row!("publ_cache", publ_cache, "Hybrid",
        [I(1) => Is("Hybrid"), I(2) => Is("Record"), I(0) => Is("None"), I(3) => Refused("0 to 2"), I(-1) => Refused("0 to 2")]),
    row!("subs_htable_size", subs_slots, "512",
        [I(11) => Is("2048"), I(1) => Is("2"), I(0) => Replaced("512"), I(-1) => Replaced("512"), I(99) => Replaced("1073741824")]),
    row!("pres_htable_size", publication_slots, "512",
        [I(11) => Is("2048"), I(1) => Is("2"), I(0) => Replaced("256"), I(99) => Replaced("1073741824")]),
    row!("send_fast_notify", send_fast_notify, "true", [I(0) => Is("false"), I(1) => Is("true")]),
    row!("enable_sphere_check", enable_sphere_check, "false", [I(0) => Is("false"), I(1) => Is("true")]),
    row!("timeout_rm_subs", timeout_rm_subs, "true", [I(0) => Is("false"), I(1) => Is("true")]),
    row!("fetch_rows", fetch_rows, "500", [I(1000) => Is("1000"), I(0) => Replaced("500"), I(-1) => Replaced("500")]),
    row!("db_table_lock_type", db_table_lock, "true", [I(0) => Is("false"), I(1) => Is("true"), I(2) => Is("false")]),
    row!("local_log_level", local_log_level, "2", [I(3) => Is("3"), I(-1) => Is("-1")]),
    row!("local_log_facility", |c| c.local_log_facility.map_or("-", |f| f.name).to_owned(), "-",
        [T("LOG_LOCAL3") => Is("LOG_LOCAL3"), T("log_daemon") => Is("LOG_DAEMON"), T("LOCAL3") => Refused("LOG_LOCAL0")]),
    row!("subs_remove_match", subs_remove_match, "false", [I(1) => Is("true")]),
    row!("xavp_cfg", |c| optional(&c.xavp_cfg), "-", [T("") => Is("-"), T("pres") => Is("pres"),
         T("$xavp(pres)") => Refused("the name of an XAVP such as pres")]),
    row!("retrieve_order", |c| c.retrieve_order.to_string(), "received_time",
        [I(1) => Is("priority"), I(0) => Is("received_time"), I(2) => Is("received_time")]),
    // Checked even while retrieve_order does not use it.
    row!("retrieve_order_by", |c| c.retrieve_order.to_string(), "received_time",
        [T("priority desc") => Is("received_time"), T("1; DROP") => Refused("columns of the presentity table")]),
    row!("sip_uri_match", sip_uri_match, "Sensitive", [I(0) => Is("Sensitive"), I(1) => Is("Insensitive")]),
    row!("enable_dmq", |c| c.dmq.enabled.to_string(), "false",
        [I(0) => Is("false"), I(-1) => Is("false"), I(1) => Is("true")]),
    row!("pres_subs_mode", pres_subs_mode, "true", [I(0) => Is("false"), I(1) => Is("true")]),
    row!("delete_same_subs", delete_same_subs, "false", [I(1) => Is("true")]),
    row!("timer_mode", timer_mode, "Secondary", [I(0) => Is("Core"), I(1) => Is("Secondary")]),
    row!("subs_respond_200", subs_respond_200, "true", [I(0) => Is("false"), I(1) => Is("true")]),
    row!("to_tag_pref", |c| optional(&c.to_tag_prefix), "-", [T("") => Is("-"), T("10") => Is("10"), T("a b") => Refused("a token")]),
    row!("totag_avpid", to_tag_avp, "None", [I(0) => Is("None"), I(5) => Is("Some(5)")]),
    row!("lock_set_size", lock_shards, "64",
        [I(1) => Is("1"), I(128) => Is("128"), I(100) => Replaced("128"), I(0) => Replaced("64"),
         I(-1) => Replaced("64"), I(1 << 20) => Replaced("4096")]),
    row!("force_active", force_active, "false", [I(0) => Is("false"), I(1) => Is("true")]),
    row!("winfo_presentity_only", winfo_presentity_only, "false", [I(0) => Is("false"), I(1) => Is("true")]),
    row!("publ_cache_bodies", publ_cache_bodies, "8192", [I(0) => Is("0"), I(1) => Is("1"), I(-1) => Replaced("8192")]),
    row!("heap_fragments", heap_fragments, "true", [I(0) => Is("false"), I(1) => Is("true")]),
    row!("max_publications", |c| c.limits.publications.to_string(), "10000", [I(0) => Is("0"), I(-1) => Replaced("10000")]),
    row!("max_subscriptions", |c| c.limits.subscriptions.to_string(), "0", [I(9) => Is("9"), I(-1) => Replaced("0")]),
    row!("max_subscriptions_per_watcher", |c| c.limits.of_watcher.to_string(), "4294967295",
        [I(0) => Is("0"), I(7) => Is("7"), I(-1) => Is("4294967295"), I(-2) => Replaced("4294967295")]),
    row!("max_subscriptions_per_presentity", |c| c.limits.of_presentity.to_string(), "1000000",
        [I(0) => Is("0"), I(-1) => Replaced("1000000")]),
    row!("max_document_size", |c| c.limits.document.to_string(), "1048576", [I(0) => Is("0"), I(-1) => Replaced("1048576")]),
    row!("min_refresh_gap", |c| c.limits.refresh_gap.to_string(), "0", [I(500) => Is("500"), I(-1) => Replaced("0")]),
    row!("min_publish_gap", |c| c.limits.publish_gap.to_string(), "0", [I(20) => Is("20"), I(-1) => Replaced("0")]),
    row!("subs_takeover_dmq", |c| c.dmq.subscriptions_takeover.to_string(), "0",
        [I(0) => Is("0"), I(30) => Is("30"), I(-1) => Replaced("0")]),
    row!("subs_recv_dmq", |c| c.dmq.subscriptions_received.to_string(), "false",
        [I(0) => Is("false"), I(1) => Is("true")]),
    row!("enable_pres_dmq", |c| c.dmq.publications.to_string(), "true",
        [I(0) => Is("false"), I(1) => Is("true")]),
    row!("enable_pres_sync_dmq", |c| c.dmq.sync_publications.to_string(), "true",
        [I(0) => Is("false"), I(1) => Is("true")]),
    row!("enable_subs_dmq", |c| c.dmq.subscriptions.to_string(), "false",
        [I(0) => Is("false"), I(1) => Is("true")]),
    row!("enable_subs_sync_dmq", |c| c.dmq.sync_subscriptions.to_string(), "true",
        [I(0) => Is("false"), I(1) => Is("true")]),
    row!("skip_notify_dmq", |c| c.dmq.skip_notify.to_string(), "false",
        [I(0) => Is("false"), I(1) => Is("true")]),
    row!("default_socket", |c| optional(&c.dmq.default_socket), "-",
        [T("") => Is("-"), T("udp:10.0.0.1:5060") => Is("udp:10.0.0.1:5060"),
         T("10.0.0.1") => Refused("a socket such as"), T("udp:a:99999") => Refused("a socket such as")]),
    row!("dmq_peer_id", |c| text(&c.dmq.peer_id), "presence",
        [T("presence") => Is("presence"), T("other") => Is("other"), T("") => Refused("a name"),
         T("a b") => Refused("a name")]),
];

fn validate(settings: &[(&str, Given)]) -> Result<(Config, Vec<String>), ConfigError> {
    let mut parameters = Parameters::default();
    for (name, given) in settings {
        parameters.set(name, given.value())?;
    }
    parameters.validate()
}

fn valid(settings: &[(&str, Given)]) -> (Config, Vec<String>) {
    validate(settings).unwrap_or_else(|error| panic!("{error}"))
}

const DATABASE: (&str, Given) = ("db_url", T("sqlite:///x.db"));

#[test]
fn the_table_has_every_parameter_in_order() {
    let known: Vec<_> = PARAMETERS.iter().map(|parameter| parameter.name).collect();
    let tested: Vec<_> = TABLE.iter().map(|row| row.name).collect();
    assert_eq!(tested, known);
}

#[test]
fn every_parameter_has_its_default() {
    for settings in [&[][..], &[DATABASE]] {
        let (config, warnings) = valid(settings);
        assert!(warnings.is_empty(), "{warnings:?}");
        for row in TABLE.iter().filter(|row| row.name != "db_url") {
            assert_eq!((row.shows)(&config), row.default, "{}", row.name);
        }
    }
}

#[test]
fn every_value_is_taken_replaced_or_refused() {
    for row in TABLE {
        for (given, outcome) in row.cases {
            let case = format!("{}={}", row.name, given.value());
            match (validate(&[DATABASE, (row.name, *given)]), outcome) {
                (Ok((config, warnings)), Is(shown)) => {
                    assert_eq!((row.shows)(&config), *shown, "{case}");
                    assert!(warnings.is_empty(), "{case}: {warnings:?}");
                }
                (Ok((config, warnings)), Replaced(shown)) => {
                    assert_eq!((row.shows)(&config), *shown, "{case}");
                    let [warning] = warnings.as_slice() else { panic!("{case}: {warnings:?}") };
                    for part in [row.name, &given.value().to_string(), shown] {
                        assert!(warning.contains(part), "{case}: {warning}");
                    }
                }
                (Err(error), Refused(part)) => {
                    let line = error.to_string();
                    for part in [row.name, &given.value().to_string(), part] {
                        assert!(line.contains(part), "{case}: {line}");
                    }
                }
                (result, _) => panic!("{case}: {result:?}"),
            }
        }
    }
}

#[test]
fn integers_may_be_strings_and_the_last_setting_counts() {
    for row in TABLE {
        for (given, outcome) in row.cases {
            let (I(number), Is(shown)) = (given, outcome) else { continue };
            let mut parameters = Parameters::default();
            let url = ParameterValue::Text(b"sqlite:///x.db".to_vec());
            let set = parameters
                .set("db_url", url)
                .and_then(|()| parameters.set(row.name, ParameterValue::Int(1)))
                .and_then(|()| {
                    parameters.set(row.name, ParameterValue::Text(number.to_string().into_bytes()))
                });
            assert_eq!(set, Ok(()));
            let (config, _) = parameters.validate().unwrap_or_else(|error| panic!("{error}"));
            assert_eq!((row.shows)(&config), *shown, "{}={number}", row.name);
        }
    }
}

#[test]
fn an_unknown_parameter_is_refused() {
    let refused = validate(&[("db_ulr", T("x"))]);
    assert_eq!(refused, Err(ConfigError::Unknown { name: "db_ulr".to_owned() }));
}

#[test]
fn without_database_the_module_is_a_library_unless_publications_are_in_memory() {
    let (library, _) = valid(&[]);
    assert!(library.library_mode() && !library.needs_database());
    let (memory, _) = valid(&[("publ_cache", I(2)), ("subs_db_mode", I(0))]);
    assert!(!memory.library_mode() && !memory.needs_database());
    let (server, _) = valid(&[DATABASE]);
    assert!(!server.library_mode() && server.needs_database());
    let refused = validate(&[("publ_cache", I(2))]);
    assert_eq!(refused, Err(ConfigError::NoDatabase { subs_db_mode: 2 }));
}

#[test]
fn a_library_is_refused_nothing() {
    for row in TABLE.iter().filter(|row| row.name != "db_url") {
        for (given, outcome) in row.cases {
            let mut parameters = Parameters::default();
            if parameters.set(row.name, given.value()).is_ok() && matches!(outcome, Refused(_)) {
                assert!(parameters.validate().is_ok(), "{}={}", row.name, given.value());
            }
        }
    }
}

#[test]
fn publications_are_ordered_by_the_columns_when_asked() {
    let (config, _) = valid(&[
        DATABASE,
        ("retrieve_order", I(1)),
        ("retrieve_order_by", T("priority desc, received_time")),
    ]);
    assert_eq!(config.retrieve_order.to_string(), "priority DESC, received_time");
}

#[test]
fn the_minimum_follows_a_small_maximum() {
    let (config, warnings) = valid(&[DATABASE, ("max_expires", I(60)), ("min_expires", I(600))]);
    assert_eq!((config.min_expires, warnings.len()), (60, 1));
    let policy = config.expires_policy();
    assert_eq!((policy.max, policy.min, policy.offset), (60, 60, 0));
}
