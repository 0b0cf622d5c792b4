//! The operator's commands, `presence.*`. Field names, their order and the
//! texts of faults are the stock module's.

mod call;
mod explain;
mod lists;
mod overview;

use std::ffi::{CStr, c_char, c_uint, c_void};
use std::ptr;

use crate::host::worker::Worker;
use crate::host::{boundary, commands, metrics, state, sys, text, timers};
use crate::service::refresh::Refresh;
pub use call::Call;

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
command!(on_list, "presence.presentity_list", lists::presentity_list);
command!(on_show, "presence.presentity_show", lists::presentity_show);
command!(on_watchers, "presence.watcher_list", lists::watcher_list);
command!(on_subscription, "presence.subscription_show", lists::subscription_show);
command!(on_summary, "presence.summary", overview::summary);
command!(on_top, "presence.top", overview::top);
command!(on_explain, "presence.explain", explain::explain);
command!(on_metrics, "presence.metrics", metrics::command);
command!(on_sync, "presence.publish_cache_sync", publish_cache_sync);

const COMMANDS: [(&CStr, &CStr, Command, u32); 12] = [
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
        c"presence.subscription_show",
        c"Show the subscriptions of a Call-ID",
        on_subscription,
        ARRAY,
    ),
    (
        c"presence.summary",
        c"Show how much there is, and what a restart would lose now",
        on_summary,
        0,
    ),
    (
        c"presence.top",
        c"Show the busiest watchers, presentities or sources",
        on_top,
        ARRAY,
    ),
    (c"presence.metrics", c"Show the metrics in Prometheus's text format", on_metrics, 0),
    (
        c"presence.explain",
        c"Explain what a watcher sees of a presentity",
        on_explain,
        0,
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
