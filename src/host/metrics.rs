//! The metrics as an operator's command and as a variable of the script have them.

use std::cell::RefCell;
use std::ffi::c_int;

use crate::host::log::{Printable, log_error};
use crate::host::rpc::Call;
use crate::host::worker::Worker;
use crate::host::{state, statistics, sys, text};
use crate::service::metrics::{self, Resources};

thread_local! {
    /// What `$presence(metrics)` gave last: the script's value points into it.
    static SHOWN: RefCell<String> = const { RefCell::new(String::new()) };
}

/// The metrics in Prometheus's text format; `None` in library mode, or when rows cannot
/// be counted.
fn exposition() -> Option<String> {
    let server = state::server()?;
    let resources =
        Resources { memory: state::memory(), database_is_away: state::database_is_away() };
    let host = Worker::default();
    statistics::census(server, |census| metrics::text(server, &host, census, resources)).ok()
}

/// `presence.metrics`.
pub fn command(call: &Call) {
    match exposition() {
        Some(text) => call.text(text.as_bytes()),
        None => call.fault(c"Execution failed"),
    }
}

/// Reads what is inside a `$presence` in the script.
///
/// # Safety
/// `spec` is the variable being made, `name` a valid `str`.
pub unsafe fn variable_name(spec: *mut sys::_pv_spec, name: *const sys::_str) -> c_int {
    // SAFETY: the script's parser passes the variable it is making, and its name
    // as a `str` that stays during the call.
    let (Some(spec), Some(name)) = (unsafe { spec.as_mut() }, unsafe { text::pointed(name) })
    else {
        return -1;
    };
    if name != b"metrics" {
        log_error!("$presence({}): there is only $presence(metrics)", Printable(name));
        return -1;
    }
    spec.pvp.pvn.type_ = sys::PV_NAME_OTHER as c_int;
    0
}

/// The value of `$presence(metrics)`; null where there is none.
///
/// # Safety
/// The core calls it as the getter of a pseudo-variable: all three pointers are valid.
pub unsafe fn variable(
    msg: *mut sys::sip_msg,
    param: *mut sys::_pv_param,
    value: *mut sys::_pv_value,
) -> c_int {
    let Some(text) = exposition() else {
        // SAFETY: the core passes the place of a value; `pv_get_null` only writes
        // to it.
        return unsafe { sys::pv_get_null(msg, param, value) };
    };
    SHOWN.set(text);
    SHOWN.with_borrow(|text| {
        let mut lent = text::lend(text.as_bytes());
        // SAFETY: the core passes the place of a value. The value points into SHOWN,
        // which stays until the script asks again.
        unsafe { sys::pv_get_strval(msg, param, value, &raw mut lent) }
    })
}
