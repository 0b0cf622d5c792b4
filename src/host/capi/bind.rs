//! `bind_presence`: the functions that sibling modules get.

use crate::host::capi::{
    authorization, db_timer, dialog, documents, events, publication, requests, shtable,
};
use crate::host::memory::{Received, Release};
use crate::host::{boundary, sys};

/// Fills a sibling's structure. Every member is set: siblings call them
/// without asking.
pub fn fill(api: &mut sys::presence_api) {
    *api = sys::presence_api {
        add_event: Some(events::add_event),
        contains_event: Some(events::contains_event),
        search_event: Some(events::search_event),
        get_event_list: Some(events::get_event_list),
        update_watchers_status: Some(authorization::update_watchers_status),
        new_shtable: Some(shtable::new_shtable),
        destroy_shtable: Some(shtable::destroy_shtable),
        insert_shtable: Some(shtable::insert_shtable),
        search_shtable: Some(shtable::search_shtable),
        delete_shtable: Some(shtable::delete_shtable),
        update_shtable: Some(shtable::update_shtable),
        mem_copy_subs: Some(shtable::mem_copy_subs),
        update_db_subs_timer: Some(db_timer::update_db_subs_timer),
        extract_sdialog_info: Some(dialog::extract_sdialog_info),
        get_sphere: Some(documents::get_sphere),
        get_presentity: Some(documents::get_presentity),
        free_presentity: Some(free_presentity),
        pres_auth_status: Some(authorization::pres_auth_status),
        handle_publish: Some(requests::handle_publish),
        handle_subscribe0: Some(requests::handle_subscribe0),
        handle_subscribe: Some(requests::handle_subscribe),
        update_presentity: Some(publication::update_presentity),
        pres_refresh_watchers: Some(authorization::pres_refresh_watchers),
    };
}

/// `free_presentity`: frees what `get_presentity` gave. Whose allocator the
/// document is from follows from the package: a merged one is its module's,
/// any other one is ours, in pkg memory.
unsafe extern "C" fn free_presentity(document: *mut sys::_str, event: *mut sys::pres_ev_t) {
    boundary::enter("free_presentity", (), || {
        // SAFETY: a sibling passes the package that it passed to get_presentity.
        let release = match unsafe { event.as_ref() } {
            Some(event) if event.agg_nbody.is_some() => Release::With(event.free_body),
            _ => Release::Pkg,
        };
        // SAFETY: the document is the caller's, from get_presentity.
        drop(unsafe { Received::take(document, release) });
    });
}
