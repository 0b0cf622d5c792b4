//! `update_presentity`: publications that siblings make without a request.

use std::ffi::c_int;
use std::time::Duration;

use crate::error::Rejection;
use crate::host::capi::authorization::serving;
use crate::host::log::{Printable, log_error};
use crate::host::state::KamailioServer;
use crate::host::worker::Worker;
use crate::host::{boundary, state, sys, text};
use crate::presence::publication::Refused;
use crate::service::sibling_publication::{self, SiblingPublication};

/// Looks, 2 ms apart, at a publication that another process is changing.
const PATIENCE: u32 = 50;

/// `update_presentity`: `is_new` makes a publication under the caller's own
/// entity-tag, or replaces the one that has it; without it the publication of
/// that tag is changed, refreshed (no body) or removed (`expires` not above 0).
/// `expires` below 0 with `replace` never ends. 0, also when nothing has that
/// tag; -1 on failure.
pub unsafe extern "C" fn update_presentity(
    event: *mut sys::_str,
    realm: *mut sys::_str,
    user: *mut sys::_str,
    etag: *mut sys::_str,
    sender: *mut sys::_str,
    body: *mut sys::_str,
    expires: c_int,
    is_new: c_int,
    replace: c_int,
) -> c_int {
    boundary::enter("update_presentity", -1, || {
        // SAFETY: the sibling passes strings that stay during the call, or NULL.
        let [event, realm, user, etag, sender, body] = unsafe {
            [event, realm, user, etag, sender, body]
                .map(|given| text::pointed(given).unwrap_or_default())
        };
        let (Some(server), Some(id)) = (state::server(), serving(event)) else {
            log_error!("a module publishes for the unknown event {}", Printable(event));
            return -1;
        };
        if realm.is_empty() || etag.is_empty() {
            log_error!(
                "a module publishes without {}",
                if etag.is_empty() { "tag" } else { "domain" }
            );
            return -1;
        }
        let given = SiblingPublication {
            package: id,
            user,
            domain: realm,
            entity_tag: etag,
            sender: (!sender.is_empty()).then_some(sender),
            body,
            expires: u32::try_from(expires).unwrap_or(0),
            for_ever: expires < 0 && replace != 0,
            is_new: is_new != 0,
        };
        publish(server, &given)
    })
}

/// As `update_presentity`. Tries again while somebody is changing the publication.
fn publish(server: &KamailioServer, given: &SiblingPublication<'_>) -> c_int {
    let (user, domain) = (Printable(given.user), Printable(given.domain));
    let mut host = Worker::default();
    for attempt in 0..PATIENCE {
        if attempt > 0 {
            std::thread::sleep(Duration::from_millis(2));
        }
        match sibling_publication::publish(server, &mut host, given) {
            Ok(()) => return 0,
            // Somebody is changing it right now; the last word counts.
            Err(Refused::EntityTag)
                if sibling_publication::has_tag(server, &mut host, given)
                    .is_ok_and(|there| there) => {}
            Err(Refused::EntityTag) => return 0,
            Err(refused) => {
                log_error!(
                    "publication of {user}@{domain} by a module failed: {}",
                    Rejection::from(refused).reason
                );
                return -1;
            }
        }
    }
    log_error!("publication of {user}@{domain} by a module: it is busy");
    -1
}
