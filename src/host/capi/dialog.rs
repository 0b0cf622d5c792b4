//! `extract_sdialog_info`: what a SUBSCRIBE says, for siblings that keep
//! subscriptions of their own. It works in library mode, too.

use std::ffi::c_int;

use crate::host::log::{Printable, log_debug, log_error};
use crate::host::memory::PkgBlock;
use crate::host::message::Message;
use crate::host::{boundary, packages, reply, state, sys, text};
use crate::presence::expires::{self, ExpiresPolicy};
use crate::presence::request::SubscribeRequest;
use crate::presence::uri::presentity_uri;

/// Fills `subs`, whose `event` the caller has set: 0, or -1. Strings point
/// into the message, but for `record_route`, the `local_contact` that we made
/// and the `pres_uri` of a shared line, which are in pkg memory and the
/// caller's to free; a new To tag is in a buffer of sl or tm.
pub unsafe extern "C" fn extract_sdialog_info(
    subs: *mut sys::subs_t,
    msg: *mut sys::sip_msg,
    max_expires: c_int,
    to_tag_generated: *mut c_int,
    contact: sys::_str,
    watcher_user: sys::_str,
    watcher_domain: sys::_str,
) -> c_int {
    boundary::enter("extract_sdialog_info", -1, || {
        // SAFETY: the sibling passes its own structure, the request that is
        // being routed, and a place for the flag.
        let (subs, message, generated) =
            unsafe { (subs.as_mut(), Message::new(msg), to_tag_generated.as_mut()) };
        let (Some(subs), Some(message), Some(generated)) = (subs, message, generated) else {
            return -1;
        };
        subs.watcher_user = watcher_user;
        subs.watcher_domain = watcher_domain;
        match fill(subs, message, max_expires, generated, contact) {
            Ok(()) => 0,
            Err(reason) => {
                log_error!("SUBSCRIBE {}: {reason}", Printable(message.call_id()));
                -1
            }
        }
    })
}

fn fill(
    subs: &mut sys::subs_t,
    message: Message<'_>,
    max_expires: c_int,
    generated: &mut c_int,
    contact: sys::_str,
) -> Result<(), &'static str> {
    // SAFETY: the event that the caller has set is one of ours.
    let event = unsafe { subs.event.as_ref() }.ok_or("no event package given")?;
    // SAFETY: the caller's string stays during the call.
    let given = unsafe { text::bytes(contact) };
    let request = message.subscribe(None, given).map_err(|rejection| rejection.reason)?;
    let requested = expires::parse(request.expires).map_err(|rejection| rejection.reason)?;
    let granted = policy(max_expires).subscription(requested, event.default_expires);
    subs.expires = granted.map_err(|rejection| rejection.reason)?;

    // Allocate first: the caller frees nothing that it was not given.
    // SAFETY: the event is NULL or one of our structures in shared memory, which
    // are never freed.
    let shared_line = unsafe { packages::is_shared_line(subs.event) }
        .then(|| presentity_uri(request.contact_user, request.from.host));
    let initial = request.to_tag.is_none();
    let route = (initial && !request.record_route.is_empty()).then_some(&request.record_route);
    let made_contact = given.is_empty().then_some(&request.local_contact);
    let tag = match request.to_tag {
        Some(tag) => text::lend(tag),
        None => reply::to_tag(message).map_err(|_| "no To tag can be made")?,
    };
    let mut pkg = Vec::new();
    let mut owned = |bytes: Option<&Vec<u8>>| -> Result<sys::_str, &'static str> {
        let Some(bytes) = bytes else { return Ok(sys::_str::default()) };
        let block = PkgBlock::copy(bytes).ok_or("out of pkg memory")?;
        let place = sys::_str { s: block.as_ptr().cast(), len: text::lend(bytes).len };
        pkg.push(block);
        Ok(place)
    };
    let (uri, route, made) = (owned(shared_line.as_ref())?, owned(route)?, owned(made_contact)?);
    pkg.into_iter().for_each(|block| {
        block.into_raw();
    });

    *generated = c_int::from(initial);
    if shared_line.is_some() {
        subs.pres_uri = uri;
    }
    lend(subs, &request);
    subs.to_tag = tag;
    subs.record_route = route;
    subs.local_contact = if given.is_empty() { made } else { contact };
    log_debug!("SUBSCRIBE {} read for another module", Printable(request.id.call_id));
    Ok(())
}

/// What the request itself has, which stays during the caller's call.
fn lend(subs: &mut sys::subs_t, request: &SubscribeRequest<'_>) {
    subs.to_user = text::lend(request.to.user);
    subs.to_domain = text::lend(request.to.host);
    subs.from_user = text::lend(request.from.user);
    subs.from_domain = text::lend(request.from.host);
    subs.from_tag = text::lend(request.id.from_tag);
    subs.callid = text::lend(request.id.call_id);
    subs.remote_cseq = request.id.cseq.0;
    subs.contact = text::lend(request.contact);
    subs.sockinfo_str = text::lend(request.socket);
    subs.version = 1;
    if !request.user_agent.is_empty() {
        subs.user_agent = text::lend(request.user_agent);
    }
    subs.flags = request.flags;
}

/// Our limits, but for the longest lifetime, which is the caller's.
fn policy(max_expires: c_int) -> ExpiresPolicy {
    let max = u32::try_from(max_expires).unwrap_or(u32::MAX);
    let (min, action) =
        state::config().map_or_else(Default::default, |c| (c.min_expires, c.min_expires_action));
    ExpiresPolicy { max, min, action, offset: 0 }
}
