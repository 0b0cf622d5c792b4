//! What the manual, its older page and Kamailio 6.1 promise, item by item, with
//! the test that proves it. The tests here compare the table with the sources
//! and the other tests, so that neither can go on without the other.

use Kind::*;
use Proof::*;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    /// modparam
    Parameter,
    /// Script function, with its number of parameters; a type of it behind `#`.
    Function,
    /// Function of scripts in Lua, Python, JavaScript.
    Kemi,
    /// Pseudo-variable.
    Variable,
    /// Attribute of `$subs`.
    Attribute,
    /// RPC command.
    Rpc,
    /// Event route, ours or one that sees our requests.
    Event,
    /// Attribute of the XAVP that `xavp_cfg` names.
    Xavp,
    /// Member of `presence_api_t`.
    Api,
    /// What a package may bring along in `pres_ev_t`.
    Package,
}

#[derive(Clone, Copy, Debug)]
enum Proof {
    /// A behaviour test in this folder. It runs on both modules, unless the
    /// item also names a decision.
    Test(&'static str),
    /// A test of the core, without Kamailio.
    Core(&'static str),
    /// Stock has no such thing, or does otherwise: a row of the
    /// difference table in `docs/differences.md`, or a parameter of ours in the manual.
    Decision(&'static str),
}

type Item = (Kind, &'static str, &'static [Proof]);

const SUBS: &[Proof] = &[Test("events::subs_shows_the_subscription_in_three_places")];
const LUA: &[Proof] = &[Test("surface::all_functions_in_a_lua_script")];
const API_STATE: &[Proof] = &[Test("api::state_is_published_read_and_removed")];
const API_TABLE: &[Proof] = &[Test("api::the_table_of_siblings_works_and_leaves_nothing")];
const API_EVENTS: &[Proof] = &[
    Test("api::events_are_registered_and_found"),
    Test("api::many_long_event_names_are_all_listed"),
];
const API_REQUESTS: &[Proof] =
    &[Test("api::requests_can_be_handed_over"), Test("api::a_publish_can_be_handed_over")];
const NO_EFFECT: Proof = Test("parameters::parameters_without_effect_are_accepted");
const VALUES: Proof = Core("src/config/tests.rs::every_value_is_taken_replaced_or_refused");

#[rustfmt::skip]
const ITEMS: &[Item] = &[
    // 3.1 to 3.37
    (Parameter, "db_url", &[Test("storage::restart_restores_subscriptions_and_publications")]),
    (Parameter, "presentity_table", &[Test("parameters::tables_can_have_other_names")]),
    (Parameter, "active_watchers_table", &[Test("parameters::tables_can_have_other_names")]),
    (Parameter, "watchers_table", &[Test("parameters::tables_can_have_other_names")]),
    (Parameter, "clean_period", &[Test("storage::b12_an_expired_publication_is_shown_closed_once"), Test("rpc::cleanup_ends_what_has_run_out")]),
    (Parameter, "cseq_offset", &[Test("subscribe::cseq_offset_allows_lower_numbers")]),
    (Parameter, "db_update_period", &[Test("storage::b38_the_row_of_a_subscription"), Test("rpc::cleanup_ends_what_has_run_out")]),
    (Parameter, "waitn_time", &[NO_EFFECT, Test("database_only::b40_notifies_leave_within_waitn_time")]),
    (Parameter, "notifier_poll_rate", &[NO_EFFECT, Test("database_only::b40_a_row_is_told_when_its_updated_is_set")]),
    (Parameter, "notifier_processes", &[NO_EFFECT, Test("database_only::b40_a_row_is_told_when_its_updated_is_set")]),
    (Parameter, "force_delete", &[Test("storage::force_delete_forgets_silently")]),
    (Parameter, "startup_mode", &[Test("parameters::startup_mode_0_shows_what_has_expired")]),
    (Parameter, "expires_offset", &[Test("publish::b6_expires_offset_never_gives_less_than_one"), Test("storage::b14_expires_offset_delays_the_end")]),
    (Parameter, "max_expires", &[Test("publish::expires_is_capped_and_has_a_default"), Test("subscribe::expires_is_capped_and_has_a_default")]),
    (Parameter, "min_expires", &[Test("publish::b5_min_expires_for_publish"), Test("subscribe::min_expires_gives_423_or_raises")]),
    (Parameter, "min_expires_action", &[Test("publish::b5_min_expires_action_2_raises"), Test("subscribe::min_expires_gives_423_or_raises")]),
    (Parameter, "server_address", &[Test("subscribe::server_address_is_the_contact"), Test("script_changes::server_address_gets_the_transport"), Test("publish::b27_server_address_is_the_contact")]),
    (Parameter, "subs_db_mode", &[Test("storage::every_publ_cache_and_memory_mode_works"), Test("storage::b38_the_row_of_a_subscription")]),
    (Parameter, "publ_cache", &[Test("storage::every_publ_cache_and_memory_mode_works"), Test("database_only::a_publication_that_another_server_wrote_counts")]),
    (Parameter, "subs_htable_size", &[NO_EFFECT]),
    (Parameter, "pres_htable_size", &[NO_EFFECT]),
    (Parameter, "send_fast_notify", &[Test("subscribe::b28_send_fast_notify_off")]),
    (Parameter, "enable_sphere_check", &[Test("authorization::b35_rules_may_hold_in_one_sphere"), Decision("B35")]),
    (Parameter, "timeout_rm_subs", &[Test("notify::b15_a_timeout_ends_the_subscription_unless_told_otherwise")]),
    (Parameter, "fetch_rows", &[Test("parameters::all_rows_are_fetched_with_small_fetch_rows")]),
    (Parameter, "db_table_lock_type", &[NO_EFFECT]),
    (Parameter, "local_log_level", &[Test("parameters::the_line_for_each_notify_has_its_level")]),
    (Parameter, "local_log_facility", &[Test("parameters::a_log_facility_that_does_not_exist_is_refused"), VALUES]),
    (Parameter, "subs_remove_match", &[NO_EFFECT, Test("subscribe::b36_removal_needs_the_whole_dialog_id")]),
    (Parameter, "xavp_cfg", &[Test("events::xavp_priority_orders_publications"), Test("notify::b15_with_xavp_cfg_the_script_decides")]),
    (Parameter, "retrieve_order", &[Test("events::xavp_priority_orders_publications")]),
    (Parameter, "retrieve_order_by", &[Test("events::xavp_priority_orders_publications"), VALUES]),
    (Parameter, "sip_uri_match", &[Test("parameters::user_parts_are_compared_as_sip_uri_match_says")]),
    (Parameter, "enable_dmq", &[Test("dmq_publications::what_is_published_here_is_shown_there")]),
    (Parameter, "pres_subs_mode", &[Test("events::subs_is_null_after_an_early_refusal_and_without_pres_subs_mode")]),
    (Parameter, "delete_same_subs", &[Test("subscribe::delete_same_subs_replaces_the_older"), Test("limits::delete_same_subs_ends_without_a_to_tag")]),
    (Parameter, "timer_mode", &[Test("parameters::either_timer_process_ends_what_has_expired")]),
    // In the module, not in the manual.
    (Parameter, "subs_respond_200", &[Test("subscribe::b1_subs_respond_200_off")]),
    // Older page.
    (Parameter, "to_tag_pref", &[Test("surface::to_tags_of_our_own"), Decision("B21")]),
    (Parameter, "totag_avpid", &[Test("surface::to_tags_of_our_own"), Decision("B21")]),
    (Parameter, "lock_set_size", &[NO_EFFECT, VALUES, Decision("B21")]),
    (Parameter, "force_active", &[Test("parameters::b21_force_active_needs_no_rules"), Decision("B21")]),
    // Ours.
    (Parameter, "publ_cache_bodies", &[Test("surface::documents_may_be_kept_in_memory"), Decision("publ_cache_bodies")]),
    (Parameter, "heap_fragments", &[Test("parameters::heap_fragments_can_be_left_out"), Decision("heap_fragments")]),
    (Parameter, "winfo_presentity_only", &[Test("authorization::winfo_can_be_for_the_presentity_only"), Decision("winfo_presentity_only")]),
    (Parameter, "max_publications", &[Test("limits::what_is_too_much_is_refused"), VALUES, Decision("max_publications")]),
    (Parameter, "max_subscriptions", &[Test("limits::what_is_too_much_is_refused"), VALUES, Decision("max_subscriptions")]),
    (Parameter, "max_subscriptions_per_watcher", &[Test("limits::what_is_too_much_is_refused"), Test("limits::a_looping_client_is_bounded"), VALUES, Decision("max_subscriptions_per_watcher")]),
    (Parameter, "max_subscriptions_per_presentity", &[Test("limits::what_is_too_much_is_refused"), VALUES, Decision("max_subscriptions_per_presentity")]),
    (Parameter, "max_document_size", &[Test("limits::what_is_too_much_is_refused"), VALUES, Decision("max_document_size")]),
    (Parameter, "min_refresh_gap", &[Test("limits::gaps_are_kept"), VALUES, Decision("min_refresh_gap")]),
    (Parameter, "min_publish_gap", &[Test("limits::gaps_are_kept"), VALUES, Decision("min_publish_gap")]),
    // Kamailio 6.1 and later.
    (Parameter, "subs_takeover_dmq", &[Test("dmq_subscriptions::b23_dialogs_of_a_dead_server_are_taken_over"), VALUES, Decision("B23")]),
    (Parameter, "subs_recv_dmq", &[Test("dmq_subscriptions::b52_messages_are_as_stock_writes_them"), VALUES, Decision("B52")]),
    (Parameter, "enable_pres_dmq", &[Test("dmq_joining::publications_may_stay_at_home"), VALUES, Decision("B23")]),
    (Parameter, "enable_pres_sync_dmq", &[Test("dmq_joining::who_starts_gets_what_there_is"), VALUES, Decision("B23")]),
    (Parameter, "enable_subs_dmq", &[Test("dmq_subscriptions::b23_a_dialog_goes_on_at_another_server"), VALUES, Decision("B23")]),
    (Parameter, "enable_subs_sync_dmq", &[Test("dmq_subscriptions::b23_a_killed_server_has_its_dialogs_again"), VALUES, Decision("B23")]),
    (Parameter, "skip_notify_dmq", &[Test("dmq_joining::peers_may_be_heard_silently"), VALUES, Decision("B23")]),
    (Parameter, "default_socket", &[Test("dmq_subscriptions::b23_dialogs_of_a_dead_server_are_taken_over"), VALUES, Decision("B23")]),
    (Parameter, "dmq_peer_id", &[Test("dmq_joining::publications_may_stay_at_home"), VALUES, Decision("B23")]),

    // 4.1 to 4.6
    (Function, "handle_publish/0", &[Test("publish::the_200_carries_expires_then_entity_tag")]),
    (Function, "handle_publish/1", &[Test("publish::the_publishing_contact_is_not_told"), Test("publish::b3_a_sender_that_is_no_uri_is_400")]),
    (Function, "handle_subscribe/0", &[Test("subscribe::the_200_carries_expires_then_contact")]),
    (Function, "handle_subscribe/1", &[Test("subscribe::the_watcher_argument_is_the_watcher")]),
    (Function, "pres_auth_status/2", &[Test("surface::auth_status_tells_what_the_rules_say")]),
    (Function, "pres_has_subscribers/2", &[Test("surface::has_subscribers_counts_this_presentity_and_package")]),
    (Function, "pres_update_watchers/2", &[Test("surface::update_watchers_applies_changed_rules")]),
    (Function, "pres_refresh_watchers/3", &[Test("surface::refresh_type_1_tells_the_state_again")]),
    (Function, "pres_refresh_watchers/3#0", &[Test("surface::update_watchers_applies_changed_rules")]),
    (Function, "pres_refresh_watchers/3#1", &[Test("surface::refresh_type_1_reads_rows_changed_by_hand"), Test("surface::refresh_type_1_of_watcher_information")]),
    (Function, "pres_refresh_watchers/5", &[Test("surface::refresh_type_1_tells_the_state_again"), Test("surface::b34_hard_state_is_shown_until_it_is_removed"), Decision("B34")]),
    (Function, "pres_refresh_watchers/5#2", &[Test("surface::b34_hard_state_is_shown_until_it_is_removed"), Decision("B34")]),
    // Routes in which each may be called, and values of variables as parameters.
    (Function, "#routes", &[Test("surface::functions_know_their_routes")]),
    (Function, "#variables", &[Test("surface::values_of_subs_are_parameters")]),
    // For siblings, not for the script.
    (Function, "bind_presence/1", API_EVENTS),
    (Kemi, "handle_publish", LUA),
    (Kemi, "handle_publish_uri", LUA),
    (Kemi, "handle_subscribe", LUA),
    (Kemi, "handle_subscribe_uri", LUA),
    (Kemi, "pres_auth_status", LUA),
    (Kemi, "pres_has_subscribers", LUA),
    (Kemi, "pres_update_watchers", LUA),
    (Kemi, "pres_refresh_watchers", LUA),
    (Kemi, "pres_refresh_watchers_file", LUA),

    // 5.1 to 5.4, and those of newer releases.
    (Rpc, "presence.cleanup", &[Test("rpc::cleanup_ends_what_has_run_out"), Test("rpc::cleanup_while_the_server_is_busy")]),
    (Rpc, "presence.refreshWatchers", &[Test("rpc::refresh_watchers_and_its_faults")]),
    (Rpc, "presence.updateWatchers", &[Test("rpc::refresh_watchers_and_its_faults"), Test("rpc::update_watchers_asks_for_the_rules_again"), Test("authorization::b17_who_is_approved_by_hand_stays_approved")]),
    (Rpc, "presence.presentity_list", &[Test("rpc::presentity_list_has_every_publication"), Test("operate::the_commands_of_the_manual_answer")]),
    (Rpc, "presence.presentity_show", &[Test("rpc::presentity_show_filters"), Decision("B24")]),
    (Rpc, "presence.watcher_list", &[Test("rpc::watcher_list_shows_subscriptions"), Test("operate::a_list_that_is_longer_than_an_answer_comes_in_pieces"), Test("operate::wrong_arguments_get_a_usage_text"), Decision("B24")]),
    (Rpc, "presence.subscription_show", &[Test("operate::the_commands_of_the_manual_answer"), Decision("B24")]),
    (Rpc, "presence.summary", &[Test("operate::the_commands_of_the_manual_answer"), Decision("B24")]),
    (Rpc, "presence.top", &[Test("operate::the_commands_of_the_manual_answer"), Test("operate::who_floods_is_named_with_its_address"), Decision("B24")]),
    (Rpc, "presence.explain", &[Test("operate::the_commands_of_the_manual_answer"), Test("operate::explain_tells_of_real_causes"), Core("tests/service/explain.rs::all_is_in_order"), Core("src/presence/explain/tests.rs::each_cause_has_its_verdict"), Decision("B24")]),
    (Rpc, "presence.metrics", &[Test("statistics::metrics_are_shown_by_command_and_variable"), Decision("B24")]),
    (Rpc, "presence.publish_cache_sync", &[Test("rpc::publish_cache_sync_follows_the_table"), Test("rpc::publish_cache_sync_without_a_table"), Decision("B24")]),

    // 6.1, 6.2
    (Variable, "subs", SUBS),
    (Variable, "presence", &[Test("statistics::metrics_are_shown_by_command_and_variable"), Decision("B24")]),
    (Variable, "notify_reply", &[Test("events::every_final_reply_runs_the_event_route")]),
    (Attribute, "uri", SUBS),
    (Attribute, "pres_uri", SUBS),
    (Attribute, "to_user", SUBS),
    (Attribute, "to_domain", SUBS),
    (Attribute, "from_user", SUBS),
    (Attribute, "from_domain", SUBS),
    (Attribute, "watcher_username", SUBS),
    (Attribute, "watcher_domain", SUBS),
    (Attribute, "event", SUBS),
    (Attribute, "event_id", SUBS),
    (Attribute, "to_tag", SUBS),
    (Attribute, "from_tag", SUBS),
    (Attribute, "callid", SUBS),
    (Attribute, "remote_cseq", SUBS),
    (Attribute, "local_cseq", SUBS),
    (Attribute, "contact", SUBS),
    (Attribute, "local_contact", SUBS),
    (Attribute, "record_route", SUBS),
    (Attribute, "expires", SUBS),
    (Attribute, "status", SUBS),
    (Attribute, "reason", SUBS),
    (Attribute, "version", SUBS),
    (Attribute, "flags", SUBS),
    (Attribute, "user_agent", SUBS),
    // In the module, not in the manual.
    (Attribute, "sockinfo", SUBS),

    // 7.1
    (Event, "presence:notify-reply", &[Test("events::every_final_reply_runs_the_event_route")]),
    (Event, "tm:local-request", &[Test("events::subs_shows_the_subscription_in_three_places"), Test("events::a_dropped_notify_leaks_nothing_of_ours")]),
    (Xavp, "priority", &[Test("events::xavp_priority_orders_publications")]),
    (Xavp, "delete_subscription", &[Test("events::delete_subscription_ends_it_after_the_event_route")]),

    // Developer guide; the last six members are in bind_presence.h only.
    (Api, "add_event", API_EVENTS),
    (Api, "contains_event", API_EVENTS),
    (Api, "search_event", API_EVENTS),
    (Api, "get_event_list", API_EVENTS),
    (Api, "update_watchers_status", API_STATE),
    (Api, "new_shtable", API_TABLE),
    (Api, "destroy_shtable", API_TABLE),
    (Api, "insert_shtable", API_TABLE),
    (Api, "search_shtable", API_TABLE),
    (Api, "delete_shtable", API_TABLE),
    (Api, "update_shtable", API_TABLE),
    (Api, "mem_copy_subs", API_TABLE),
    (Api, "update_db_subs_timer", &[Test("api::the_table_of_siblings_works_and_leaves_nothing"), Test("siblings::rls_serves_a_resource_list")]),
    (Api, "extract_sdialog_info", &[Test("api::a_subscribe_is_read_for_a_sibling"), Test("api::b26_library_mode_reads_subscribe_requests")]),
    (Api, "get_sphere", &[Test("api::state_is_published_read_and_removed"), Test("authorization::b35_rules_may_hold_in_one_sphere")]),
    (Api, "get_presentity", API_STATE),
    (Api, "free_presentity", API_STATE),
    (Api, "pres_auth_status", API_STATE),
    (Api, "handle_publish", API_REQUESTS),
    (Api, "handle_subscribe0", API_REQUESTS),
    (Api, "handle_subscribe", API_REQUESTS),
    (Api, "update_presentity", API_STATE),
    (Api, "pres_refresh_watchers", API_STATE),

    // What pres_ev_t brings, with the sibling whose flow needs it.
    (Package, "content_type", &[Test("publish::b8_content_type_is_checked")]),
    (Package, "default_expires", &[Test("publish::without_expires_the_package_default_is_taken")]),
    (Package, "type", &[Test("subscribe::winfo_tells_of_watchers")]),
    (Package, "etag_not_new", &[Test("packages::sla_tags_do_not_change")]),
    (Package, "req_auth", &[Test("subscribe::rules_decide_what_a_watcher_sees")]),
    (Package, "get_rules_doc", &[Test("subscribe::rules_decide_what_a_watcher_sees")]),
    (Package, "get_auth_status", &[Test("subscribe::rules_decide_what_a_watcher_sees"), Test("subscribe::b29_a_blocked_watcher_leaves_no_subscription")]),
    (Package, "apply_auth_nbody", &[Test("subscribe::rules_decide_what_a_watcher_sees"), Test("siblings::rules_put_over_xcap_approve_a_pending_watcher")]),
    (Package, "agg_nbody", &[Test("packages::presence_of_several_phones_is_aggregated"), Test("packages::dialog_info_of_two_phones_is_aggregated")]),
    (Package, "free_body", &[Test("robustness::memory_is_given_back")]),
    (Package, "aux_body_processing", &[Test("packages::dialog_info_versions_count_per_watcher")]),
    (Package, "aux_free_body", &[Test("packages::dialog_info_versions_count_per_watcher")]),
    (Package, "evs_publ_handl", &[Test("publish::b8_a_refused_body_gets_one_final_reply"), Test("packages::b8_a_mailbox_body_that_is_refused")]),
    (Package, "wipeer", &[Test("subscribe::winfo_tells_of_watchers")]),
];

fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn read(path: &str) -> String {
    std::fs::read_to_string(repository().join(path))
        .unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The text between two marks.
fn between<'a>(text: &'a str, start: &str, end: &str) -> &'a str {
    let (_, rest) = text.split_once(start).unwrap_or_else(|| panic!("no `{start}`"));
    rest.split_once(end).unwrap_or_else(|| panic!("no `{end}` after `{start}`")).0
}

/// What stands behind each `start` up to the next `end`.
fn all<'a>(text: &'a str, start: &str, end: &str) -> Vec<&'a str> {
    text.split(start).skip(1).filter_map(|rest| Some(rest.split_once(end)?.0)).collect()
}

/// The table has exactly these items of the kind.
fn compare<'a>(kind: Kind, source: impl IntoIterator<Item = &'a str>) {
    let source: BTreeSet<&str> = source.into_iter().collect();
    assert!(!source.is_empty(), "{kind:?}: nothing found in the sources");
    let table: BTreeSet<&str> = ITEMS
        .iter()
        .filter(|(of, name, _)| *of == kind && !name.contains('#'))
        .map(|(_, name, _)| *name)
        .collect();
    let missing: Vec<_> = source.difference(&table).collect();
    let gone: Vec<_> = table.difference(&source).collect();
    assert!(missing.is_empty(), "{kind:?}: not in the table: {missing:?}");
    assert!(gone.is_empty(), "{kind:?}: in the table only: {gone:?}");
}

/// The behaviour tests: `file::name` and body.
fn tests() -> BTreeMap<String, String> {
    let folder = repository().join("tests/kamailio/tests");
    let mut found = BTreeMap::new();
    for entry in folder.read_dir().unwrap_or_else(|error| panic!("{error}")).flatten() {
        let path = entry.path();
        let Some(file) = path.file_stem().and_then(|name| name.to_str()) else { continue };
        let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{file}: {error}"));
        let mut before = "";
        let mut lines = text.lines();
        while let Some(line) = lines.next() {
            let start = line.trim_start();
            let signature = start.strip_prefix("fn ").filter(|rest| {
                before == "#[test]" || (line.len() > start.len() && rest.contains("(storage)"))
            });
            if let Some((name, _)) = signature.and_then(|rest| rest.split_once('(')) {
                let end = format!("{}}}", &line[..line.len() - start.len()]);
                let body: Vec<&str> = lines.by_ref().take_while(|line| **line != end).collect();
                found.insert(format!("{file}::{name}"), body.join("\n"));
            }
            before = start;
        }
    }
    found
}

#[test]
fn every_parameter_is_in_the_table_and_can_be_set() {
    let text = read("src/config/parameters.rs");
    let list = between(&text, "PARAMETERS: &[Parameter] = &[", "];");
    let known: Vec<&str> = all(list, "(\"", "\"");
    compare(Parameter, known.iter().copied());
    // The operator knows those of the manual.
    let manual = read("docs/manual.md");
    let list = between(&manual, "## Parameters\n", "\n## ");
    compare(Parameter, all(list, "\n### `", "`"));
}

#[test]
fn every_function_and_variable_is_in_the_table() {
    let shim = read("kamailio-shim/shim.c");
    let list = between(&shim, "cmd_export_t commands[] = {", "};");
    let functions: Vec<String> = all(list, "{\"", "}")
        .into_iter()
        .map(|row| {
            let mut cells = row.split(',').map(|cell| cell.trim().trim_matches('"'));
            let (name, count) = (cells.next().unwrap_or(""), cells.nth(1).unwrap_or(""));
            format!("{name}/{count}")
        })
        .collect();
    compare(Function, functions.iter().map(String::as_str));
    compare(Kemi, all(between(&shim, "sr_kemi_t script_functions[] = {", "};"), "KEMI(\"", "\""));
    compare(Variable, all(&shim, "VARIABLE(\"", "\""));
    let variables = read("src/host/variables.rs");
    let list = between(&variables, "const ATTRIBUTES", "];");
    compare(Attribute, all(list, "(b\"", "\""));
}

#[test]
fn every_rpc_command_event_and_api_member_is_in_the_table() {
    let rpc = read("src/host/rpc.rs");
    let list = between(&rpc, "const COMMANDS", "\n];");
    let names: Vec<String> =
        all(list, "\"presence.", "\"").iter().map(|name| format!("presence.{name}")).collect();
    compare(Rpc, names.iter().map(String::as_str));
    let bind = read("src/host/capi/bind.rs");
    let list = between(&bind, "sys::presence_api {", "};");
    compare(Api, list.lines().filter_map(|line| Some(line.split_once(':')?.0.trim())));
    let event = read("src/host/reply_event.rs");
    let tm = read("src/host/tm.rs");
    // Our own route by its name in the code; tm's, which runs without us, by
    // the comment on what its verdict means.
    let own = all(&event, "name = c\"", "\"");
    compare(Event, own.into_iter().chain(all(&tm, "event_route[", "]")));
    let (answer, publish) = (read("src/host/module.rs"), read("src/service/publish.rs"));
    let mut names = all(&answer, "xavp_number(root, b\"", "\"");
    names.extend(all(&publish, "script_number(root, b\"", "\""));
    compare(Xavp, names);
}

#[test]
fn every_proof_exists() {
    let tests = tests();
    let differences = read("docs/differences.md");
    let manual = read("docs/manual.md");
    let mut wrong = Vec::new();
    for (kind, name, proofs) in ITEMS {
        let mut wrongly = |what: String| wrong.push(format!("{kind:?} {name}: {what}"));
        if proofs.is_empty() {
            wrongly("no proof".into());
        }
        let (mut both, mut excused) = (false, false);
        for proof in *proofs {
            match proof {
                Test(test) => match tests.get(*test) {
                    Some(body) => both |= !body.trim_start().starts_with("if !ours_only("),
                    None => wrongly(format!("there is no test {test}")),
                },
                Core(test) => {
                    let (path, function) = test.split_once("::").unwrap_or((test, ""));
                    if !read(path).contains(&format!("fn {function}(")) {
                        wrongly(format!("there is no test {test}"));
                    }
                }
                Decision(number) => {
                    excused = true;
                    if !differences.lines().any(|line| line.starts_with(&format!("| {number} |")))
                        && !manual.contains(&format!("\n### `{number}`\n"))
                    {
                        wrongly(format!("docs/differences.md has no row {number}"));
                    }
                }
            }
        }
        if !both && !excused {
            wrongly("no test runs on both modules, and no decision says why".into());
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn no_item_is_listed_twice() {
    let mut seen = BTreeSet::new();
    for (kind, name, _) in ITEMS {
        assert!(seen.insert((kind, name)), "{kind:?} {name}");
    }
}

/// An operator finds everything in the manual, or, of commands, in a page that it
/// names.
#[test]
fn the_manual_has_every_item() {
    let manual = read("docs/manual.md");
    let pages = ["operate", "cluster", "monitoring"].map(|page| read(&format!("docs/{page}.md")));
    let mut missing = Vec::new();
    for (kind, name, _) in ITEMS {
        let name = name.split(['/', '#']).next().unwrap_or_default();
        let is_there = match kind {
            // What a package brings is the business of whoever writes one.
            Package => true,
            Function if name.is_empty() || name == "bind_presence" => true,
            Parameter => manual.contains(&format!("\n### `{name}`\n")),
            Function => manual.contains(&format!("\n### `{name}(")),
            Kemi => manual.contains(&format!("`KSR.presence.{name}(")),
            Variable => manual.contains(&format!("\n### `${name}(")),
            Attribute | Api => manual.contains(&format!("`{name}`")),
            Rpc => manual.contains(name) || pages.iter().any(|page| page.contains(name)),
            Event => manual.contains(&format!("\n### `event_route[{name}]`")),
            Xavp => manual.contains(&format!("=>{name})`")),
        };
        if !is_there {
            missing.push(format!("{kind:?} {name}"));
        }
    }
    assert!(missing.is_empty(), "docs/manual.md lacks {missing:?}");
}

/// Tests that the difference table names exist.
#[test]
fn tests_of_the_difference_table_exist() {
    let tests = tests();
    let differences = read("docs/differences.md");
    let list = between(&differences, "# Differences from the stock module", "\n## ");
    let mut wrong = Vec::new();
    for row in list.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| no.")) {
        let Some(cell) = row.trim_end().trim_end_matches('|').rsplit('|').next() else { continue };
        let mut file = "";
        let mut any = false;
        for name in cell.split('`').skip(1).step_by(2) {
            if name.starts_with("tests/") || name.starts_with("src/") {
                any |= repository().join(name).exists();
            } else if let Some((of, _)) = name.split_once("::") {
                file = of;
                any = true;
                if !tests.contains_key(name) {
                    wrong.push(name.to_owned());
                }
            } else if !name.starts_with('…') && !tests.contains_key(&format!("{file}::{name}")) {
                let whole = repository().join(format!("tests/kamailio/tests/{name}.rs")).exists();
                any |= whole;
                if !whole {
                    wrong.push(name.to_owned());
                }
            }
        }
        if !any {
            wrong.push(format!("no test in: {row}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
