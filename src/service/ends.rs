//! Subscriptions that are over: each end is said here, once, with its reason, when no
//! lock is held. It is remembered for those who ask, and the script may want to know.

use crate::ports::Host;
use crate::presence::cseq::CSeq;
use crate::presence::explain::{End, EndReason};
use crate::presence::presentity::PresentityKey;
use crate::presence::request::SubscribeRequest;
use crate::presence::subscription::Snapshot;
use crate::service::Server;
use crate::shm::Memory;

/// A subscription has ended. Its copy is that of its last NOTIFY, or of its end if
/// there was none.
pub fn ended<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    subscription: &Snapshot,
    reason: EndReason,
) {
    let end = End { reason, at: host.now(), cseq: subscription.local_cseq };
    server.store.remember_end(subscription, end);
    host.subscription_ended(subscription, reason);
}

/// A SUBSCRIBE has left nothing: it was a fetch, or the rules block the watcher.
pub(super) fn never_began<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    subscription: &Snapshot,
    reason: EndReason,
) {
    let end = End { reason, at: host.now(), cseq: subscription.local_cseq };
    server.store.remember_end(subscription, end);
}

/// A SUBSCRIBE was refused with this code.
pub(super) fn refused<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    request: &SubscribeRequest<'_>,
    code: u16,
) {
    let Ok((package, ..)) = server.package(request.event) else { return };
    let key: PresentityKey =
        server.store.key(request.presentity.user, request.presentity.host, package);
    let watcher = (request.watcher.user, request.watcher.host);
    let end = End { reason: EndReason::Refused(code), at: host.now(), cseq: CSeq::default() };
    server.store.remember_end_of(&key, watcher, end);
}
