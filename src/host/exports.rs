//! The Rust functions that the C shim calls: Kamailio's entry points. Each one
//! is a boundary and hands over. `include/presence_ffi.h` is generated from
//! this file.

use std::ffi::{c_char, c_int, c_long};

use crate::host::commands::serve;
use crate::host::log::log_error;
use crate::host::{boundary, capi, commands, metrics, module, params, sys, text, variables};
use crate::presence::measures::Method;

/// The module was loaded; nothing is configured yet.
#[unsafe(no_mangle)]
pub extern "C" fn presence_load() -> c_int {
    boundary::install_panic_hook();
    boundary::enter("load", -1, || 0)
}

/// A parameter from the configuration file: text, or a number if `content` is
/// NULL. 0, or -1 to refuse it.
///
/// # Safety
/// `name` is a terminated string; `content` is NULL or points to a valid `str`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn presence_set_parameter(
    name: *const c_char,
    content: *const sys::_str,
    number: c_long,
) -> c_int {
    boundary::enter("set_parameter", -1, || {
        // SAFETY: the shim passes a string literal, and the core's `str` or NULL.
        if unsafe { params::set(name, content, number) } { 0 } else { -1 }
    })
}

/// All parameters are set: prepares everything that the processes share.
#[unsafe(no_mangle)]
pub extern "C" fn presence_mod_init() -> c_int {
    boundary::enter("mod_init", -1, || report(module::mod_init()))
}

/// A process was forked.
#[unsafe(no_mangle)]
pub extern "C" fn presence_child_init(rank: c_int) -> c_int {
    boundary::enter("child_init", -1, || report(module::child_init(rank)))
}

/// The server stops.
#[unsafe(no_mangle)]
pub extern "C" fn presence_destroy() {
    boundary::enter("destroy", (), module::destroy);
}

/// Whether the script may use our functions: 0, or -1 to refuse the script.
#[unsafe(no_mangle)]
pub extern "C" fn presence_script_usable() -> c_int {
    boundary::enter("fixup", -1, || report(module::script_usable()))
}

/// Script function handle_publish; `sender` is NULL without a parameter.
///
/// # Safety
/// `msg` is the request being routed; `sender` is NULL or a valid `str`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn presence_handle_publish(
    msg: *mut sys::sip_msg,
    sender: *const sys::_str,
) -> c_int {
    // SAFETY: the core routes this request and keeps it, and the shim the
    // evaluated parameter, during this call.
    unsafe {
        serve(("handle_publish", Method::Publish), msg, |message| {
            commands::handle_publish(message, text::pointed(sender))
        })
    }
}

/// Script function handle_subscribe; `watcher` is NULL without a parameter.
///
/// # Safety
/// `msg` is the request being routed; `watcher` is NULL or a valid `str`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn presence_handle_subscribe(
    msg: *mut sys::sip_msg,
    watcher: *const sys::_str,
) -> c_int {
    // SAFETY: the core routes this request and keeps it, and the shim the
    // evaluated parameter, during this call.
    unsafe {
        serve(("handle_subscribe", Method::Subscribe), msg, |message| {
            commands::handle_subscribe(message, text::pointed(watcher))
        })
    }
}

/// Script function pres_auth_status: the watcher's status, 5 for a polite
/// block, or -1.
///
/// # Safety
/// `watcher` and `presentity` are valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn presence_auth_status(
    _msg: *mut sys::sip_msg,
    watcher: *const sys::_str,
    presentity: *const sys::_str,
) -> c_int {
    boundary::enter("pres_auth_status", -1, || {
        // SAFETY: the shim has both evaluated on its stack; the core keeps their
        // texts during this call.
        let (watcher, presentity) = unsafe { (value(watcher), value(presentity)) };
        commands::auth_status(watcher, presentity)
    })
}

/// Script function pres_has_subscribers: 1 or -1.
///
/// # Safety
/// `uri` and `event` are valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn presence_has_subscribers(
    _msg: *mut sys::sip_msg,
    uri: *const sys::_str,
    event: *const sys::_str,
) -> c_int {
    boundary::enter("pres_has_subscribers", -1, || {
        // SAFETY: the shim has both evaluated on its stack; the core keeps their
        // texts during this call.
        let (uri, event) = unsafe { (value(uri), value(event)) };
        commands::has_subscribers(uri, event)
    })
}

/// Script function pres_update_watchers: 1 or -1.
///
/// # Safety
/// `uri` and `event` are valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn presence_update_watchers(
    _msg: *mut sys::sip_msg,
    uri: *const sys::_str,
    event: *const sys::_str,
) -> c_int {
    boundary::enter("pres_update_watchers", -1, || {
        // SAFETY: the shim has both evaluated on its stack; the core keeps their
        // texts during this call.
        let (uri, event) = unsafe { (value(uri), value(event)) };
        commands::update_watchers(uri, event)
    })
}

/// Script function pres_refresh_watchers with three parameters: 1 or -1.
///
/// # Safety
/// `uri` and `event` are valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn presence_refresh_watchers(
    _msg: *mut sys::sip_msg,
    uri: *const sys::_str,
    event: *const sys::_str,
    kind: c_int,
) -> c_int {
    boundary::enter("pres_refresh_watchers", -1, || {
        // SAFETY: the shim has both evaluated on its stack; the core keeps their
        // texts during this call.
        let (uri, event) = unsafe { (value(uri), value(event)) };
        commands::refresh_watchers(uri, event, i64::from(kind), None)
    })
}

/// Script function pres_refresh_watchers with five parameters: 1 or -1.
///
/// # Safety
/// `uri`, `event`, `file` and `name` are valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn presence_refresh_watchers_file(
    _msg: *mut sys::sip_msg,
    uri: *const sys::_str,
    event: *const sys::_str,
    kind: c_int,
    file: *const sys::_str,
    name: *const sys::_str,
) -> c_int {
    boundary::enter("pres_refresh_watchers", -1, || {
        // SAFETY: the shim has all four evaluated on its stack; the core keeps
        // their texts during this call.
        let (uri, event, file, name) =
            unsafe { (value(uri), value(event), value(file), value(name)) };
        commands::refresh_watchers(uri, event, i64::from(kind), Some((file, name)))
    })
}

/// The name in `$subs(name)`: 0, or -1 if there is no such attribute.
///
/// # Safety
/// `spec` is the variable being made, `name` a valid `str`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn presence_variable_subs_name(
    spec: *mut sys::_pv_spec,
    name: *mut sys::_str,
) -> c_int {
    boundary::enter("$subs", -1, || {
        // SAFETY: the script's parser passes the variable that it is making, and
        // its name.
        unsafe { variables::subs_name(spec, name) }
    })
}

/// The value of `$subs(name)`.
///
/// # Safety
/// The core calls it as the getter of a pseudo-variable: all three pointers are valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn presence_variable_subs(
    msg: *mut sys::sip_msg,
    param: *mut sys::_pv_param,
    value: *mut sys::_pv_value,
) -> c_int {
    boundary::enter("$subs", -1, || {
        // SAFETY: the core passes the message in hand, our parameter and the
        // place of the value.
        unsafe { variables::subs(msg, param, value) }
    })
}

/// What is inside `$presence(name)`: 0, or -1 if there is no such thing.
///
/// # Safety
/// `spec` is the variable being made, `name` a valid `str`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn presence_variable_presence_name(
    spec: *mut sys::_pv_spec,
    name: *mut sys::_str,
) -> c_int {
    boundary::enter("$presence", -1, || {
        // SAFETY: the script's parser passes the variable that it is making, and
        // its name.
        unsafe { metrics::variable_name(spec, name) }
    })
}

/// The value of `$presence(name)`.
///
/// # Safety
/// The core calls it as the getter of a pseudo-variable: all three pointers are valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn presence_variable_presence(
    msg: *mut sys::sip_msg,
    param: *mut sys::_pv_param,
    value: *mut sys::_pv_value,
) -> c_int {
    boundary::enter("$presence", -1, || {
        // SAFETY: the core passes the message in hand, our parameter and the
        // place of the value.
        unsafe { metrics::variable(msg, param, value) }
    })
}

/// The variable in `$notify_reply(variable)`: 0, or -1 if it is none.
///
/// # Safety
/// `spec` is the variable being made, `name` a valid `str`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn presence_variable_reply_name(
    spec: *mut sys::_pv_spec,
    name: *mut sys::_str,
) -> c_int {
    boundary::enter("$notify_reply", -1, || {
        // SAFETY: the script's parser passes the variable that it is making, and
        // its name.
        unsafe { variables::reply_name(spec, name) }
    })
}

/// The value of `$notify_reply(variable)`.
///
/// # Safety
/// The core calls it as the getter of a pseudo-variable: all three pointers are valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn presence_variable_reply(
    msg: *mut sys::sip_msg,
    param: *mut sys::_pv_param,
    value: *mut sys::_pv_value,
) -> c_int {
    boundary::enter("$notify_reply", -1, || {
        // SAFETY: the core passes the message in hand, our parameter and the
        // place of the value.
        unsafe { variables::reply(msg, param, value) }
    })
}

/// Gives a sibling module our functions.
///
/// # Safety
/// `api` is NULL or points to a `presence_api_t`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn presence_bind(api: *mut sys::presence_api) -> c_int {
    boundary::enter("bind_presence", -1, || {
        // SAFETY: a sibling passes its own `presence_api_t`, of the version that
        // it was built with, or NULL.
        match unsafe { api.as_mut() } {
            Some(api) => {
                capi::bind::fill(api);
                0
            }
            None => {
                log_error!("bind_presence: no structure to fill");
                -1
            }
        }
    })
}

/// A script function's parameter; empty for none.
///
/// # Safety
/// `text` is NULL or a `str` that stays for `'a`.
unsafe fn value<'a>(text: *const sys::_str) -> &'a [u8] {
    // SAFETY: a `str` that the shim has evaluated; its text is the core's and
    // stays during the command.
    unsafe { text::pointed(text) }.unwrap_or_default()
}

fn report(result: Result<(), String>) -> c_int {
    match result {
        Ok(()) => 0,
        Err(reason) => {
            log_error!("{reason}");
            -1
        }
    }
}
