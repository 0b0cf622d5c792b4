//! Rules for siblings: who is judged anew, and how.

use std::ffi::c_int;

use crate::host::log::{Printable, log_error};
use crate::host::worker::Worker;
use crate::host::{boundary, packages, state, sys, text};
use crate::presence::event_package::{Event, PackageId};
use crate::presence::request::UriParts;
use crate::presence::uri;
use crate::service::refresh::{self, Refresh};
use crate::service::watchers;

/// Status of `pres_auth_status` for a watcher that is blocked politely.
const POLITE_BLOCK: c_int = 5;

/// `update_watchers_status`: the presentity's rules are `rules` now. `event`
/// may be a stub with nothing but a name. 0, or -1.
pub unsafe extern "C" fn update_watchers_status(
    presentity: *mut sys::_str,
    event: *mut sys::pres_ev_t,
    rules: *mut sys::_str,
) -> c_int {
    boundary::enter("update_watchers_status", -1, || {
        // SAFETY: the sibling passes strings that stay during the call, or
        // NULL, and a structure of ours or of its own.
        let (presentity, rules, id) = unsafe {
            (text::pointed(presentity), text::pointed(rules), packages::package_of(event))
        };
        let (Some(server), Some(presentity)) = (state::server(), presentity) else { return -1 };
        let Some(id) = id else {
            log_error!("watchers of {}: no such event package", Printable(presentity));
            return -1;
        };
        let (user, domain) = uri::split(presentity);
        let rules = rules.filter(|rules| !rules.is_empty());
        let mut host = Worker::default();
        match watchers::update_watchers(server, &mut host, id, user, domain, rules) {
            Ok(_) => 0,
            Err(fault) => {
                log_error!("watchers of {} keep their states: {fault}", Printable(presentity));
                -1
            }
        }
    })
}

/// `pres_auth_status`: what the presentity's rules say about a watcher: the
/// number of its status, 5 for a polite block, -1 on failure.
pub unsafe extern "C" fn pres_auth_status(
    _msg: *mut sys::sip_msg,
    watcher: sys::_str,
    presentity: sys::_str,
) -> c_int {
    boundary::enter("api_auth_status", -1, || {
        // SAFETY: the sibling passes strings that stay during the call.
        let (watcher, presentity) = unsafe { (text::bytes(watcher), text::bytes(presentity)) };
        let Some(server) = state::server() else { return -1 };
        let mut host = Worker::default();
        match watchers::auth_status(server, &mut host, parts(watcher), parts(presentity)) {
            Ok((_, true)) => POLITE_BLOCK,
            Ok((status, false)) => status as c_int,
            Err(fault) => {
                log_error!("rules of {} cannot be applied: {fault}", Printable(presentity));
                -1
            }
        }
    })
}

/// `pres_refresh_watchers`: type 0 applies the rules again, any other one
/// sends everybody the state again. 0, or -1.
pub unsafe extern "C" fn pres_refresh_watchers(
    presentity: *mut sys::_str,
    event: *mut sys::_str,
    kind: c_int,
) -> c_int {
    boundary::enter("api_refresh_watchers", -1, || {
        // SAFETY: the sibling passes strings that stay during the call.
        let (presentity, event) = unsafe { (text::pointed(presentity), text::pointed(event)) };
        let (Some(server), Some(presentity), Some(event)) = (state::server(), presentity, event)
        else {
            return -1;
        };
        let what = if kind == 0 { Refresh::Authorization } else { Refresh::State };
        let mut host = Worker::default();
        match refresh::refresh(server, &mut host, parts(presentity), event, what) {
            Ok(()) => 0,
            Err(reason) => {
                log_error!("watchers of {} were not refreshed: {reason}", Printable(presentity));
                -1
            }
        }
    })
}

/// The package of an Event value that a sibling passed.
pub(super) fn serving(name: &[u8]) -> Option<PackageId> {
    state::server()?.registry.serving(&Event::parse(name)?)
}

fn parts(uri: &[u8]) -> UriParts<'_> {
    let (user, host) = uri::split(uri);
    UriParts { user, host }
}
