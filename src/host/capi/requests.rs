//! Requests that a sibling hands to us instead of the script.

use std::ffi::{c_char, c_int};

use crate::host::commands::serve;
use crate::host::{commands, sys, text};
use crate::presence::measures::Method;
use crate::presence::uri::presentity_uri;

/// `handle_publish`: `sender` is the evaluated form of the script function's
/// parameter, or NULL.
pub unsafe extern "C" fn handle_publish(
    msg: *mut sys::sip_msg,
    sender: *mut c_char,
    _unused: *mut c_char,
) -> c_int {
    // SAFETY: the sibling passes the request being routed, and NULL or a
    // parameter as Kamailio's fixup functions make them.
    unsafe {
        serve(("api_handle_publish", Method::Publish), msg, |message| {
            if sender.is_null() {
                return commands::handle_publish(message, None);
            }
            let mut value = sys::_str::default();
            let got = sys::get_str_fparam(&raw mut value, msg, sender.cast());
            // What cannot be evaluated is refused as an empty URI is.
            let uri = if got < 0 { &b""[..] } else { text::bytes(value) };
            commands::handle_publish(message, Some(uri))
        })
    }
}

/// `handle_subscribe0`: the watcher is who From says.
pub unsafe extern "C" fn handle_subscribe0(msg: *mut sys::sip_msg) -> c_int {
    // SAFETY: the sibling passes the request being routed.
    unsafe {
        serve(("api_handle_subscribe0", Method::Subscribe), msg, |message| {
            commands::handle_subscribe(message, None)
        })
    }
}

/// `handle_subscribe`: the watcher is `user` at `domain`.
pub unsafe extern "C" fn handle_subscribe(
    msg: *mut sys::sip_msg,
    user: sys::_str,
    domain: sys::_str,
) -> c_int {
    // SAFETY: the sibling passes the request being routed and two strings that
    // stay during the call.
    unsafe {
        serve(("api_handle_subscribe", Method::Subscribe), msg, |message| {
            let uri = presentity_uri(text::bytes(user), text::bytes(domain));
            commands::handle_subscribe(message, Some(&uri))
        })
    }
}
