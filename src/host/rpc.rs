//! The operator's commands, `presence.*`. Field names, their order and the
//! texts of faults are the stock module's.

mod call;

use std::ffi::{CStr, c_char, c_uint, c_void};
use std::ptr;

use crate::host::log::log_error;
use crate::host::worker::Worker;
use crate::host::{boundary, commands, state, sys, text, timers};
use crate::presence::subscription::Text;
use crate::presence::uri::presentity_uri;
use crate::service::listing::{self, Published};
use crate::service::refresh::Refresh;
use crate::service::subscriptions;
use crate::store::listing::Listed;
use call::{Call, Record, Value};

/// The reply is an array (`RET_ARRAY`, by another name from 6.0).
const ARRAY: u32 = 1;

type Command = unsafe extern "C" fn(*mut sys::rpc, *mut c_void);

/// A command as the core calls it: behind the boundary.
macro_rules! command {
    ($name:ident, $entry:literal, $serve:path) => {
        unsafe extern "C" fn $name(rpc: *mut sys::rpc, context: *mut c_void) {
            let call = Call { rpc, context };
            let served = boundary::enter($entry, false, || {
                $serve(&call);
                true
            });
            if !served {
                boundary::enter("rpc_failure", (), || call.fault(c"Internal error"));
            }
        }
    };
}

command!(on_cleanup, "presence.cleanup", cleanup);
command!(on_refresh, "presence.refreshWatchers", refresh_watchers);
command!(on_update, "presence.updateWatchers", update_watchers);
command!(on_list, "presence.presentity_list", presentity_list);
command!(on_show, "presence.presentity_show", presentity_show);
command!(on_watchers, "presence.watcher_list", watcher_list);
command!(on_sync, "presence.publish_cache_sync", publish_cache_sync);

const COMMANDS: [(&CStr, &CStr, Command, u32); 7] = [
    (
        c"presence.cleanup",
        c"Manually triggers the cleanup functions for the active_watchers, presentity, and watchers tables.",
        on_cleanup,
        0,
    ),
    (c"presence.refreshWatchers", c"Trigger refresh of watchers", on_refresh, 0),
    (c"presence.updateWatchers", c"Trigger update of watchers", on_update, 0),
    (
        c"presence.presentity_list",
        c"List the presentity records",
        on_list,
        ARRAY,
    ),
    (
        c"presence.presentity_show",
        c"Show the presentity records for a specific user",
        on_show,
        ARRAY,
    ),
    (
        c"presence.watcher_list",
        c"Show the watcher records for a specific presentity user",
        on_watchers,
        ARRAY,
    ),
    (
        c"presence.publish_cache_sync",
        c"Syncs changes made to presentity table with the publish cache.",
        on_sync,
        0,
    ),
];

/// Registers the commands; to be called in mod_init.
pub fn register() -> Result<(), String> {
    let mut table: Vec<sys::rpc_export> = COMMANDS
        .iter()
        .map(|(name, describe, function, flags)| sys::rpc_export {
            name: name.as_ptr(),
            function: Some(*function),
            // A list that ends with NULL; the core keeps it.
            doc_str: Box::leak(Box::new([describe.as_ptr(), ptr::null::<c_char>()])).as_mut_ptr(),
            flags: *flags,
        })
        .collect();
    table.push(sys::rpc_export::default());
    // SAFETY: the core keeps pointers into the table, which stays for ever.
    if unsafe { sys::rpc_register_array(table.leak().as_mut_ptr()) } != 0 {
        return Err("the RPC commands could not be registered".into());
    }
    Ok(())
}

fn cleanup(call: &Call) {
    timers::everything();
    call.print(c"Reload OK");
}

fn refresh_watchers(call: &Call) {
    let (mut uri, mut event, mut file, mut name) =
        (sys::_str::default(), sys::_str::default(), sys::_str::default(), sys::_str::default());
    let mut kind: c_uint = 0;
    // SAFETY: the core passes its functions; each place is of the type that
    // the format says.
    let count = unsafe {
        match (*call.rpc).scan {
            Some(scan) => scan(
                call.context,
                c"SSu*SS".as_ptr().cast_mut(),
                &raw mut uri,
                &raw mut event,
                &raw mut kind,
                &raw mut file,
                &raw mut name,
            ),
            None => 0,
        }
    };
    // SAFETY: the parameters stay until the reply is sent.
    let (uri, event, file, name) =
        unsafe { (text::bytes(uri), text::bytes(event), text::bytes(file), text::bytes(name)) };
    match (count, kind) {
        (..3, _) => return call.fault(c"Not enough parameters"),
        _ if uri.is_empty() => return call.fault(c"Empty presentity URI"),
        _ if event.is_empty() => return call.fault(c"Empty event parameter"),
        (..5, 2) => return call.fault(c"No file uri or name parameters"),
        (_, 2) if file.is_empty() => return call.fault(c"Empty file uri parameter"),
        (_, 2) if name.is_empty() => return call.fault(c"Empty file name parameter"),
        _ => {}
    }
    let what = match kind {
        0 => Refresh::Authorization,
        2 => Refresh::HardState { file, name },
        _ => Refresh::State,
    };
    if !commands::refresh(uri, event, what) {
        call.fault(c"Execution failed");
    }
}

fn update_watchers(call: &Call) {
    let (count, [uri, event]) = call.texts(c"SS");
    // SAFETY: the parameters stay until the reply is sent.
    let (uri, event) = unsafe { (text::bytes(uri), text::bytes(event)) };
    if count < 2 {
        call.fault(c"Not enough parameters");
    } else if uri.is_empty() {
        call.fault(c"Empty presentity URI");
    } else if event.is_empty() {
        call.fault(c"Empty event parameter");
    } else if commands::update_watchers(uri, event) < 0 {
        call.fault(c"Processing error");
    }
}

fn presentity_list(call: &Call) {
    let (count, [mode]) = call.texts(c"*S");
    // SAFETY: the parameter stays until the reply is sent.
    let full = count > 0 && unsafe { text::bytes(mode) } == b"full";
    list(call, full, None, None);
}

fn presentity_show(call: &Call) {
    let (count, [mode, user, domain]) = call.texts(c"SSS");
    if count < 3 {
        return call.fault(c"Not enough parameters");
    }
    // SAFETY: the parameters stay until the reply is sent.
    let (mode, user, domain) =
        unsafe { (text::bytes(mode), text::bytes(user), text::bytes(domain)) };
    let Some(full) = output_mode(call, mode) else { return };
    list(call, full, wanted(user), wanted(domain));
}

fn wanted(given: &[u8]) -> Option<&[u8]> {
    (!given.is_empty() && given != b"*").then_some(given)
}

fn output_mode(call: &Call, mode: &[u8]) -> Option<bool> {
    match mode {
        b"full" => Some(true),
        b"basic" => Some(false),
        _ => {
            call.fault(c"Unknown output mode");
            None
        }
    }
}

fn list(call: &Call, full: bool, user: Option<&[u8]>, domain: Option<&[u8]>) {
    // A library has no publications.
    let Some(server) = state::server() else { return };
    match listing::publications(server, &mut Worker::default(), user, domain) {
        Ok(all) => {
            for published in &all {
                let Some(record) = call.record() else { return };
                if !add_publication(&record, published, full) {
                    return;
                }
            }
        }
        Err(fault) => {
            log_error!("presence.presentity_list: {fault}");
            call.fault(c"Execution failed");
        }
    }
}

fn add_publication(record: &Record<'_>, published: &Published, full: bool) -> bool {
    let publication = &published.publication;
    let basic = record.add(&[
        (c"user", Value::Text(&published.user)),
        (c"domain", Value::Text(&published.host)),
        (c"event", Value::Text(&published.event)),
        (c"etag", Value::Text(&publication.entity_tag)),
        (c"sender", Value::Text(&publication.sender)),
        (c"expires", Value::Signed(publication.expires_at.unwrap_or(-1))),
    ]);
    if !basic || !full {
        return basic;
    }
    let (mut user, mut domain) = (text::lend(&published.user), text::lend(&published.host));
    // SAFETY: both texts are only read.
    let hash = unsafe { sys::kshim_hash_case(&raw mut user, &raw mut domain) };
    record.add(&[
        (c"received_time", Value::Signed(publication.received)),
        (c"priority", Value::Signed(i64::from(publication.priority))),
        (c"ruid", Value::Text(&publication.ruid)),
        (c"body", Value::Text(&publication.body)),
        (c"hashid", Value::Signed(i64::from(i32::from_ne_bytes(hash.to_ne_bytes())))),
    ])
}

fn watcher_list(call: &Call) {
    let (count, [mode, uri]) = call.texts(c"SS");
    if count < 2 {
        return call.fault(c"Not enough parameters");
    }
    // SAFETY: the parameters stay until the reply is sent.
    let (mode, uri) = unsafe { (text::bytes(mode), text::bytes(uri)) };
    let Some(full) = output_mode(call, mode) else { return };
    let Some(server) = state::server() else { return };
    let Ok(all) = subscriptions::list(server, &mut Worker::default(), uri) else {
        return call.fault(c"Execution failed");
    };
    for listed in all {
        let Some(record) = call.record() else { return };
        if !add_subscription(&record, &listed, full) {
            return;
        }
    }
}

fn add_subscription(record: &Record<'_>, listed: &Listed, full: bool) -> bool {
    let subscription = &listed.subscription;
    let text = |field| Value::Text(subscription.text(field));
    let uri = presentity_uri(
        subscription.text(Text::PresentityUser),
        subscription.text(Text::PresentityHost),
    );
    let basic = record.add(&[
        (c"pres_uri", Value::Text(&uri)),
        (c"to_user", text(Text::ToUser)),
        (c"to_domain", text(Text::ToHost)),
        (c"from_user", text(Text::FromUser)),
        (c"from_domain", text(Text::FromHost)),
        (c"watcher_user", text(Text::WatcherUser)),
        (c"watcher_domain", text(Text::WatcherHost)),
        (c"contact", text(Text::Contact)),
        (c"event_id", text(Text::EventId)),
        (c"callid", text(Text::CallId)),
        (c"user_agent", text(Text::UserAgent)),
        (c"expires", Value::Unsigned(u32::try_from(listed.expires_at).unwrap_or(u32::MAX))),
        (c"status", Value::Unsigned(subscription.status as u32)),
        (c"version", Value::Signed(i64::from(subscription.version))),
        (c"flags", Value::Unsigned(subscription.flags)),
    ]);
    if !basic || !full {
        return basic;
    }
    // The stock module counts the CSeq before the latest NOTIFY's. What it
    // keeps in the last four fields is internal, and 0 in its memory.
    record.add(&[
        (c"reason", text(Text::Reason)),
        (c"to_tag", text(Text::ToTag)),
        (c"from_tag", text(Text::FromTag)),
        (c"socket", text(Text::Socket)),
        (c"local_contact", text(Text::LocalContact)),
        (c"record_route", text(Text::RecordRoute)),
        (c"auth_rules", Value::Text(b"")),
        (c"remote_cseq", Value::Unsigned(subscription.remote_cseq)),
        (c"local_cseq", Value::Unsigned(subscription.local_cseq.saturating_sub(1))),
        (c"recv_event", Value::Signed(0)),
        (c"updated", Value::Signed(0)),
        (c"updated_winfo", Value::Signed(0)),
    ])
}

fn publish_cache_sync(call: &Call) {
    let synced = state::server().is_some_and(|server| {
        server.publications().follow_all(server, &mut Worker::default()).is_ok()
    });
    if synced {
        call.print(c"OK");
    } else {
        call.fault(c"Failed to sync presinity table with the publish cache.");
    }
}
