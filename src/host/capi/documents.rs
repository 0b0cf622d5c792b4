//! Published state for siblings: `get_presentity` and `get_sphere`.

use std::ffi::c_char;
use std::ptr;

use crate::host::log::{Printable, log_error};
use crate::host::memory::{self, PkgBlock};
use crate::host::worker::Worker;
use crate::host::{boundary, packages, state, sys, text};
use crate::presence::event_package::Kind;
use crate::presence::uri;
use crate::service::{compose, sphere};

/// `get_presentity`: the document that watchers of `presentity` get, or NULL.
/// To be freed with `free_presentity`, so a document of a package that merges
/// is in the memory of that package's module.
pub unsafe extern "C" fn get_presentity(
    presentity: sys::_str,
    event: *mut sys::pres_ev_t,
    etag: *mut sys::_str,
    contact: *mut sys::_str,
) -> *mut sys::_str {
    boundary::enter("get_presentity", ptr::null_mut(), || {
        // SAFETY: the sibling passes strings that stay during the call, or
        // NULL, and a package that it got from us.
        let (presentity, etag, contact, id) = unsafe {
            (
                text::bytes(presentity),
                text::pointed(etag),
                text::pointed(contact),
                packages::package_of(event),
            )
        };
        let (Some(server), Some(id)) = (state::server(), id) else { return ptr::null_mut() };
        let Some(package) = server.registry.get(id) else { return ptr::null_mut() };
        if package.kind == Kind::WatcherInfo {
            return ptr::null_mut();
        }
        let (user, domain) = uri::split(presentity);
        let key = server.store.key(user, domain, id);
        let document = {
            let mut host = Worker::default();
            compose::current(server, &mut host, &key, package, etag, contact)
        };
        match document {
            Ok(document) if document.is_empty() => ptr::null_mut(),
            Ok(document) if package.aggregates => packages::merged(id, user, domain, &document),
            Ok(document) => memory::pkg_text(&document).unwrap_or(ptr::null_mut()),
            Err(fault) => {
                log_error!("state of {} cannot be read: {fault}", Printable(presentity));
                ptr::null_mut()
            }
        }
    })
}

/// `get_sphere`: the presentity's sphere as a C string in pkg memory that the
/// caller frees, or NULL.
pub unsafe extern "C" fn get_sphere(presentity: *mut sys::_str) -> *mut c_char {
    boundary::enter("get_sphere", ptr::null_mut(), || {
        // SAFETY: the sibling passes a string that stays during the call.
        let presentity = unsafe { text::pointed(presentity) }.unwrap_or_default();
        let Some(server) = state::server() else { return ptr::null_mut() };
        let (user, domain) = uri::split(presentity);
        let found = sphere::of(server, &mut Worker::default(), user, domain);
        let block = found.and_then(|sphere| PkgBlock::copy(&sphere));
        block.map_or(ptr::null_mut(), |block| block.into_raw().cast())
    })
}
