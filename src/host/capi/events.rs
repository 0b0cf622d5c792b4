//! Registration and search of event packages (`add_event` and its kin).
//!
//! Registered structures lie in shared memory and are never freed: siblings
//! keep pointers to them.

use std::ffi::c_int;
use std::ptr;

use crate::host::log::{Printable, log_debug, log_error};
use crate::host::{boundary, memory, packages, sys, text};
use crate::presence::event_package::{Event, EventPackage, Kind, PackageId};
use crate::presence::registry::RegistryError;

/// `add_event`: 0, also when the package is known already; -1 if refused.
pub unsafe extern "C" fn add_event(event: *mut sys::pres_ev_t) -> c_int {
    boundary::enter("add_event", -1, || {
        // SAFETY: a sibling passes a structure of its own, complete or zeroed.
        let Some(event) = (unsafe { event.as_ref() }) else { return -1 };
        // SAFETY: its strings live during the call.
        let name = unsafe { text::bytes(event.name) };
        match add(event, name) {
            Ok(id) => {
                log_debug!("event package {} is number {}", Printable(name), id.0);
                0
            }
            Err(reason) => {
                log_error!("event package {} is refused: {reason}", Printable(name));
                -1
            }
        }
    })
}

/// Makes a package known by name only, for stored rows whose module may not be
/// loaded. Nothing is served by it until a module completes it.
pub fn placeholder(name: &[u8]) -> Result<PackageId, &'static str> {
    add(&sys::pres_ev_t::default(), name)
}

fn add(given: &sys::pres_ev_t, name: &[u8]) -> Result<PackageId, &'static str> {
    let mut package = EventPackage::named(name).ok_or("its name is not that of an event")?;
    // SAFETY: the sibling's string lives during the call.
    let content_type = unsafe { text::bytes(given.content_type) };
    let is_placeholder = content_type.is_empty();
    if is_placeholder && !given.name.s.is_null() {
        return Err("it has no content type");
    }
    if given.req_auth != 0 && (given.get_auth_status.is_none() || given.get_rules_doc.is_none()) {
        return Err("authorization without get_auth_status and get_rules_doc");
    }
    let known = packages::registered(|known| {
        let id = known.registry.exact(&package.event)?;
        Some((id, known.registry.get(id).is_some_and(|known| !known.content_type.is_empty())))
    });
    if let Some((id, complete)) = known
        && (complete || is_placeholder)
    {
        return Ok(id);
    }
    package.content_type = content_type.to_vec();
    package.default_expires = given.default_expires;
    package.keeps_entity_tag = given.etag_not_new != 0;
    package.requires_authorization = given.req_auth != 0;
    package.aggregates = given.agg_nbody.is_some();
    package.personalises = given.aux_body_processing.is_some();
    package.restricts = given.apply_auth_nbody.is_some();
    let kind = package.kind;
    // Allocate first: the registry must not know what siblings cannot see.
    let shared_type = match content_type {
        [] => sys::_str::default(),
        content_type => shared(content_type).ok_or("out of shared memory")?,
    };
    let event = match known {
        Some((id, _)) => packages::structure_of(id),
        None => new_event(&package.name)?,
    };
    let id = packages::registered(|known| known.registry.add(package)).map_err(|e| match e {
        RegistryError::Name => "its name is not that of an event",
        RegistryError::NameTooLong => "its name is too long",
        RegistryError::Full => "there are too many",
    })?;
    // SAFETY: `event` is our own structure in shared memory; modules register
    // before the fork, so nobody reads it now.
    unsafe { complete(&mut *event, given, shared_type, kind) };
    if !is_placeholder {
        packages::count(id, name);
    }
    link(event, id);
    Ok(id)
}

/// Siblings find a package in the list of all of them, and by its peer.
fn link(event: *mut sys::pres_ev_t, id: PackageId) {
    packages::registered(|known| {
        if known.events.len() == usize::from(id.0) {
            // The newest is first in the list, as siblings may walk it.
            let newest = known.events.last().copied().unwrap_or(ptr::null_mut());
            // SAFETY: `event` is our own structure in shared memory; modules
            // register before the fork, so nobody reads it now.
            unsafe { (*event).next = newest };
            known.events.push(event);
        }
        let peer = known.registry.get(id).and_then(|package| package.peer);
        if let Some(peer) = peer.and_then(|peer| known.events.get(usize::from(peer.0)).copied()) {
            // SAFETY: both are our own structures; see above.
            unsafe {
                (*event).wipeer = peer;
                (*peer).wipeer = event;
            }
        }
    });
}

fn complete(
    event: &mut sys::pres_ev_t,
    given: &sys::pres_ev_t,
    content_type: sys::_str,
    kind: Kind,
) {
    event.content_type = content_type;
    // The caller's type does not count, only the name does.
    event.type_ = match kind {
        Kind::WatcherInfo => sys::WINFO_TYPE,
        Kind::Publication => sys::PUBL_TYPE,
    } as c_int;
    event.default_expires = given.default_expires;
    event.etag_not_new = given.etag_not_new;
    event.req_auth = given.req_auth;
    event.get_rules_doc = given.get_rules_doc;
    event.get_pidf_doc = given.get_pidf_doc;
    event.apply_auth_nbody = given.apply_auth_nbody;
    event.get_auth_status = given.get_auth_status;
    event.agg_nbody = given.agg_nbody;
    event.evs_publ_handl = given.evs_publ_handl;
    event.evs_subs_handl = given.evs_subs_handl;
    event.free_body = given.free_body;
    event.aux_body_processing = given.aux_body_processing;
    event.aux_free_body = given.aux_free_body;
}

fn shared(bytes: &[u8]) -> Option<sys::_str> {
    let copy = memory::shm_copy(bytes)?;
    Some(sys::_str { s: copy.as_ptr().cast(), len: text::lend(bytes).len })
}

fn shared_zeroed<T>(count: usize) -> Option<*mut T> {
    let size = size_of::<T>().checked_mul(count)?;
    let block = memory::shm_allocate(size)?.as_ptr();
    // SAFETY: the block is new and has `size` bytes; shared blocks are aligned
    // to 8, as these structures need.
    unsafe { block.write_bytes(0, size) };
    Some(block.cast())
}

/// A structure with the name and its parsed form, both in shared memory.
fn new_event(name: &[u8]) -> Result<*mut sys::pres_ev_t, &'static str> {
    const NO_MEMORY: &str = "out of shared memory";
    let name = shared(name).ok_or(NO_MEMORY)?;
    let mut parsed = sys::event_t::default();
    // SAFETY: reads the name. The parsed parts point into it, the parameters
    // are a list in pkg memory.
    if unsafe { sys::event_parser(name.s, name.len, &raw mut parsed) } < 0 {
        return Err("its name cannot be parsed");
    }
    let moved = share_parameters(&mut parsed);
    let event = shared_zeroed::<sys::pres_ev_t>(1);
    let evp = shared_zeroed::<sys::event_t>(1);
    let (true, Some(event), Some(evp)) = (moved, event, evp) else { return Err(NO_MEMORY) };
    // SAFETY: both blocks are new.
    unsafe {
        evp.write(parsed);
        (*event).name = name;
        (*event).evp = evp;
    }
    Ok(event)
}

/// Moves the list of parameters from pkg to shared memory, and the hooks that
/// point into it with it (siblings test those for `sla`).
fn share_parameters(parsed: &mut sys::event_t) -> bool {
    let mut old = parsed.params.list;
    let mut link: *mut *mut sys::param_t = &raw mut parsed.params.list;
    let hooks = (&raw mut parsed.params.hooks).cast::<*mut sys::param_t>();
    let hook_count = size_of::<sys::param_hooks_t>() / size_of::<*mut sys::param_t>();
    let mut moved = true;
    // SAFETY: the list is the parser's and ours alone; `link` points to the
    // place of the pointer that leads to the next copy. The hooks are a union
    // of structures of nothing but pointers to parameters.
    unsafe {
        while !old.is_null() {
            let next = (*old).next;
            match shared_zeroed::<sys::param_t>(1) {
                Some(new) => {
                    new.write(*old);
                    (*new).next = ptr::null_mut();
                    for at in 0..hook_count {
                        if *hooks.add(at) == old {
                            *hooks.add(at) = new;
                        }
                    }
                    *link = new;
                    link = &raw mut (*new).next;
                }
                None => moved = false,
            }
            sys::kshim_pkg_free(old.cast());
            old = next;
        }
        *link = ptr::null_mut();
    }
    moved
}

/// `contains_event`: parses a name and searches. What is parsed is left in
/// `parsed` if that is given; its parameters are then the caller's to free,
/// also when nothing was found.
pub unsafe extern "C" fn contains_event(
    name: *mut sys::_str,
    parsed: *mut sys::event_t,
) -> *mut sys::pres_ev_t {
    boundary::enter("contains_event", ptr::null_mut(), || {
        let mut own = sys::event_t::default();
        let target = if parsed.is_null() { &raw mut own } else { parsed };
        // SAFETY: the caller passes a valid `str`, and a place for the result.
        unsafe {
            target.write(sys::event_t::default());
            let Some(name) = name.as_ref() else { return ptr::null_mut() };
            if sys::event_parser(name.s, name.len, target) < 0 {
                return ptr::null_mut();
            }
        }
        // SAFETY: just parsed.
        let found = find(&unsafe { event_of(&*target) });
        let mut parameter = own.params.list;
        while !parameter.is_null() {
            // SAFETY: our own list in pkg memory, not used again.
            unsafe {
                let next = (*parameter).next;
                sys::kshim_pkg_free(parameter.cast());
                parameter = next;
            }
        }
        found
    })
}

/// `search_event`: the package that serves a parsed event.
pub unsafe extern "C" fn search_event(event: *mut sys::event_t) -> *mut sys::pres_ev_t {
    boundary::enter("search_event", ptr::null_mut(), || {
        // SAFETY: a sibling passes a parsed event, which stays during the call.
        match unsafe { event.as_ref() } {
            // SAFETY: the sibling's event was filled by the core's parser; its
            // text stays during the call.
            Some(event) => find(&unsafe { event_of(event) }),
            None => ptr::null_mut(),
        }
    })
}

fn find(event: &Event) -> *mut sys::pres_ev_t {
    packages::registered(|known| known.registry.serving(event))
        .map_or(ptr::null_mut(), packages::structure_of)
}

/// A parsed event as the registry knows it.
///
/// # Safety
/// `event` was filled by the core's parser and its text still exists.
unsafe fn event_of(event: &sys::event_t) -> Event {
    // SAFETY: the core's parser points into the text that it was given, which
    // still exists.
    let name = unsafe { text::bytes(event.name) }.to_vec();
    let mut parameters = Vec::new();
    let mut parameter = event.params.list;
    // SAFETY: the parser's list of parameters ends with NULL; its elements are in
    // pkg memory.
    while let Some(one) = unsafe { parameter.as_ref() } {
        // SAFETY: name and body point into the parsed text.
        parameters
            .push(unsafe { (text::bytes(one.name).to_vec(), text::bytes(one.body).to_vec()) });
        parameter = one.next;
    }
    Event { name, parameters }
}

/// `get_event_list`: the names for Allow-Events, as a `str` and its bytes in
/// pkg memory for the caller to free; NULL if there are none.
pub unsafe extern "C" fn get_event_list(list: *mut *mut sys::_str) -> c_int {
    boundary::enter("get_event_list", -1, || {
        let names = packages::registered(|known| known.registry.allow_events());
        let result = match names.as_slice() {
            [] => Some(ptr::null_mut()),
            names => memory::pkg_text(names),
        };
        let (Some(result), false) = (result, list.is_null()) else { return -1 };
        // SAFETY: the caller passes a place for the result.
        unsafe { list.write(result) };
        0
    })
}
