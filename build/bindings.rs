//! Rust declarations of what the host layer uses of Kamailio's headers.

use std::path::Path;

use crate::source::Kamailio;

/// Structures; those they refer to come along.
const TYPES: &[&str] = &[
    "sip_msg",
    "sip_uri",
    "hdr_field",
    "to_body",
    "cseq_body",
    "via_body",
    "contact_body",
    "contact",
    "rr_t",
    "event_t",
    "param_t",
    "lump_rpl",
    "receive_info",
    "socket_info",
    "dest_info",
    "flag_t",
    "presence_api_t",
    "pres_ev_t",
    "subs_t",
    "shtable_t",
    "subs_entry_t",
    "presentity_t",
    "tm_binds",
    "uac_req_t",
    "dlg_t",
    "tmcb_params",
    "cell",
    "retr_buf",
    "sl_api_t",
    "sl_cbp_t",
    "sl_cbelem_t",
    "db_func_t",
    "db1_con_t",
    "db1_res_t",
    "db_val_t",
    "db_row_t",
    "db_key_t",
    "db_op_t",
    "db_cap",
    "db_locking_t",
    "db_pooling_t",
    "sip_protos",
    "gen_lock_t",
    "fparam_t",
    "pv_.*",
    "rpc_.*",
    "rpc_t",
    "sr_kemi.*",
    "sr_xavp.*",
    "sr_xval.*",
    "counter_.*",
    "dmq_.*",
    "peer_.*",
    "modparam_t",
];

/// Functions of the executable, of libsrdb1 and of the shim.
const FUNCTIONS: &[&str] = &[
    "kshim_.*",
    "parse_headers",
    "parse_sip_msg_uri",
    "parse_uri",
    "parse_from_header",
    "parse_to_header",
    "parse_contact",
    "parse_rr",
    "parse_rr_body",
    "free_rr",
    "event_parser",
    "get_body",
    "add_lump_rpl2",
    "unlink_lump_rpl",
    "free_lump_rpl",
    "getbflagsval",
    "lookup_local_socket",
    "str2facility",
    "sip_msg_.*",
    "build_sip_msg_from_buf",
    "free_sip_msg",
    "faked_msg_.*",
    "db_bind_mod",
    "db_check_table_version",
    "db_fetch_query",
    "db_fetch_query_lock",
    "db_fetch_next",
    "register_procs",
    "get_max_procs",
    "cfg_register_child",
    "cfg_child_init",
    "fork_process",
    "my_pid",
    "register_timer",
    "sr_wtimer_add",
    "register_basic_timers",
    "fork_basic_utimer",
    "rpc_register_array",
    "find_export",
    "find_module_by_name",
    "find_param_export",
    "route_.*",
    "run_top_route",
    "set_route_type",
    "get_route_type",
    "xavp_.*",
    "sruid_.*",
    "pv_.*",
    "core_hash",
    "faked_.*",
    "sr_kemi_.*",
    "register_module_rpcs",
    "inc_msg_no",
    "get_str_fparam",
];

/// Constants.
const VARIABLES: &[&str] = &[
    "PROC_.*",
    "PROTO_.*",
    "L_.*",
    "HDR_.*",
    "TMCB_.*",
    "SLCB_.*",
    "DB_CAP_.*",
    "DB_LOCKING_.*",
    "DB_POOLING_.*",
    "LUMP_RPL_.*",
    "WINFO_TYPE",
    "PUBL_TYPE",
    ".*_STATUS",
    ".*_MEM_TYPE",
    "REMOTE_TYPE",
    "LOCAL_TYPE",
    ".*DB_FLAG",
    "event_rt",
    "AF_INET6",
    "PV_.*",
    "RPC_.*",
    "RET_ARRAY",
    ".*_ROUTE",
    "DEFAULT_.*",
    "process_no",
    "PARAM_STR",
    "T_NULL_CELL",
    "T_UNDEFINED",
    "_ksr_contact_salias",
];

/// Writes `bindings.rs` to the output folder.
pub fn generate(root: &Path, out: &Path, kamailio: &Kamailio) -> Result<(), String> {
    let header = root.join("kamailio-shim/bind.h");
    let mut builder = bindgen::Builder::default()
        .header(header.display().to_string())
        .clang_args(kamailio.compiler_arguments())
        .clang_arg(format!("-I{}", root.join("kamailio-shim").display()))
        .derive_default(true)
        .derive_debug(false)
        .generate_comments(false)
        .use_core()
        .rust_target(bindgen::RustTarget::stable(85, 0).map_err(|e| e.to_string())?);
    for name in TYPES {
        builder = builder.allowlist_type(name);
    }
    for name in FUNCTIONS {
        builder = builder.allowlist_function(name);
    }
    for name in VARIABLES {
        builder = builder.allowlist_var(name);
    }
    builder
        .generate()
        .map_err(|e| format!("bindgen cannot read Kamailio's headers ({e}): apt-get install libclang-dev libxml2-dev"))?
        .write_to_file(out.join("bindings.rs"))
        .map_err(|e| format!("{}: {e}", out.display()))
}
