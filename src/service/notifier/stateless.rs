//! A NOTIFY of which nothing is stored: to a watcher that fetches, or whose
//! subscription is refused.

use crate::error::Fault;
use crate::ports::Host;
use crate::presence::event_package::EventPackage;
use crate::presence::measures::{NotifyResult, StateShown};
use crate::presence::presentity::PresentityKey;
use crate::presence::subscription::{Ending, Snapshot, Text, may_see};
use crate::service::Server;
use crate::service::compose::{Composition, compose};
use crate::service::notifier::deliver::{count, deliver};
use crate::service::notifier::dialog::notify_again;
use crate::service::notifier::shortage::HostMemory;
use crate::shm::Memory;
use crate::store::lanes::{Document, PlannedNotify};
use crate::store::records::RowClaim;

/// Sends one NOTIFY outside any dialog's order: to a watcher that fetches, or
/// whose subscription is refused, and of whom nothing is stored.
pub fn send_stateless<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    key: &PresentityKey,
    package: &EventPackage,
    subscription: Snapshot,
    ending: Ending,
) -> Result<(), Fault> {
    once(server, host, key, package, subscription, ending).inspect_err(|_| {
        server.store.counters().notify(key.package, StateShown::Terminated, NotifyResult::Unsent);
    })
}

fn once<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    key: &PresentityKey,
    package: &EventPackage,
    subscription: Snapshot,
    ending: Ending,
) -> Result<(), Fault> {
    let sees =
        ending.shows_state() && may_see(subscription.status, subscription.text(Text::Reason));
    let composition = match sees {
        true => {
            let mut state = server.store.state_shown(key, host.now());
            state.watchers.wants_full = true;
            compose(server, host, package, state)?
        }
        false => Composition::default(),
    };
    let document = if sees { Document::Newest } else { Document::None };
    let notified = composition.state_version;
    let notify = PlannedNotify {
        subscription,
        token: None,
        document,
        notified,
        ending: Some(ending),
        claim: RowClaim::None,
        expires_at: host.now(),
        null_reason: false,
    };
    let delivery = deliver(host, package, &composition, &notify, &mut HostMemory::default());
    count(server.store.counters(), &notify, delivery);
    match delivery.is_postponed() {
        false => Ok(()),
        true => later(server, key, &notify),
    }
}

/// There is no memory for such a NOTIFY: its subscription is stored until it has
/// left.
fn later<M: Memory>(
    server: &Server<M>,
    key: &PresentityKey,
    notify: &PlannedNotify,
) -> Result<(), Fault> {
    let mut pending = notify_again(notify);
    // Of changes it has seen what it is shown.
    pending.notified = None;
    if let Some(lane) = server.store.queue_row(key, &pending)? {
        server.store.hand_over(lane);
    }
    Ok(())
}
