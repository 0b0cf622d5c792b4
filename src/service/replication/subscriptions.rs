//! Subscriptions that several servers know: their owner tells of them, the others keep
//! a replica, and one of these takes the dialog over when its watcher comes there, or
//! when the owner is gone. Who owns one is `presence::replication::ownership`'s to say,
//! which CSeqs it may use `cseq_blocks`'s. Where subscriptions are rows
//! (`subs_db_mode=3`) all servers have them, and there is nothing to tell.

mod incoming;
mod outgoing;
mod takeover;

pub use incoming::apply;
pub use outgoing::{Cursor, compose, portion};
pub use takeover::{for_request, tick};

use crate::config::Config;
use crate::ports::Host;
use crate::presence::cseq::CSeq;
use crate::presence::presentity::PresentityKey;
use crate::presence::replication::cseq_blocks::{Slot, Step};
use crate::presence::replication::ownership::{DialogClaim, Known};
use crate::presence::subscription::{DialogId, Snapshot};
use crate::service::Server;
use crate::service::subscriptions::key_of;
use crate::shm::Memory;
use crate::store::lanes::PlannedNotify;
use crate::store::replication::{Mirrored, Replication};
use crate::store::rows::dialog_of;
use crate::store::{Store, Token};

/// What is replicated with; `None` if subscriptions are not.
fn replicated<M: Memory>(server: &Server<M>) -> Option<&'static Replication<M>> {
    let replication = server.store.replication()?;
    let is_on = server.config.dmq.subscriptions && !server.subscriptions().is_shared();
    is_on.then_some(replication)
}

/// This server's share of the CSeqs.
fn slot<M: Memory>(replication: &Replication<M>) -> Slot {
    Slot::from_number(replication.slot()).unwrap_or_else(|| Slot::of(replication.node, &[]))
}

/// The CSeq that the last NOTIFY of a dialog counts as having had which was restored from
/// its row: where others may have taken the dialog over meanwhile, the one before the
/// first that is this server's alone.
pub fn restored<M: Memory>(store: &Store<M>, config: &Config, cseq: CSeq) -> CSeq {
    let replication = store.replication().filter(|_| config.dmq.subscriptions);
    replication.and_then(|replication| slot(replication).base_above(cseq.0)).map_or(cseq, CSeq)
}

/// A subscription of ours as others have to know it: with the CSeq up to which its
/// NOTIFYs may go, and the version that goes with that.
fn announced(slot: Slot, mut subscription: Snapshot) -> Snapshot {
    let numbers = subscription.numbers();
    let ahead = slot.announced(numbers.cseq.0).saturating_sub(numbers.cseq.0);
    subscription.set_numbers(numbers.after(ahead));
    subscription
}

/// What this server says of a subscription that it owns.
fn known_of<M: Memory>(replication: &Replication<M>, announced: &Snapshot) -> Known {
    Known {
        claim: DialogClaim {
            remote_cseq: announced.remote_cseq.0,
            local_cseq: announced.local_cseq.0,
            node: replication.node,
        },
        owner: replication.address(),
        said: 0,
        is_over: false,
    }
}

/// A subscription of ours that lives, and when it ends; `None` where nobody is told.
pub fn own<M: Memory>(
    server: &Server<M>,
    host: &dyn Host,
    token: Token,
) -> Option<(Snapshot, i64)> {
    replicated(server)?;
    server.store.own_subscription(token, host.now())
}

/// The same of a dialog.
pub fn own_of<M: Memory>(
    server: &Server<M>,
    host: &dyn Host,
    dialog: DialogId<'_>,
) -> Option<Snapshot> {
    replicated(server)?;
    let token = server.store.find_dialog(dialog).ok()??;
    Some(server.store.own_subscription(token, host.now())?.0)
}

/// A SUBSCRIBE with this CSeq was served in the dialog of a subscription of ours. If it is
/// not the next one, another server may have served some that this one has not heard of,
/// and used higher CSeqs than ours: the next ones are above those. (Or it was challenged:
/// CSeqs last for thousands of that.)
pub fn served<M: Memory>(server: &Server<M>, before: &Snapshot, token: Token, cseq: CSeq) {
    if let Some(replication) = replicated(server)
        && is_gap(before.remote_cseq, cseq)
    {
        let slot = slot(replication);
        if let Some(base) = slot.base_beyond(slot.announced(before.local_cseq.0)) {
            server.store.raise_cseq(token, base);
        }
    }
}

/// There were requests between these two.
fn is_gap(before: CSeq, cseq: CSeq) -> bool {
    cseq > before.saturating_add(1)
}

/// A subscription of ours has changed: the others are notified, after the request.
pub fn changed<M: Memory>(server: &Server<M>, host: &mut dyn Host, token: Token) {
    if let Some((subscription, _)) = own(server, host, token) {
        outgoing::put(server, host, dialog_of(&subscription));
    }
}

/// The subscriptions to a presentity that other servers own.
pub fn each_replica<M: Memory>(
    server: &Server<M>,
    key: &PresentityKey,
    each: impl FnMut(Snapshot),
) {
    let replicas = replicated(server).map(|replication| replication.mirrored_watchers(key));
    replicas.into_iter().flatten().map(|replica| replica.subscription).for_each(each);
}

/// NOTIFYs have been numbered. The others are notified of ends, and of the numbers that come
/// next, long before they are used.
pub fn numbered<M: Memory>(server: &Server<M>, host: &mut dyn Host, notifies: &[PlannedNotify]) {
    let Some(replication) = replicated(server) else { return };
    let slot = slot(replication);
    for notify in notifies {
        if notify.ending.is_some() {
            ended(server, host, &notify.subscription, notify.expires_at);
            continue;
        }
        match slot.step(notify.subscription.local_cseq.0) {
            Step::None => {}
            Step::Announce => outgoing::put(server, host, dialog_of(&notify.subscription)),
            Step::Leave(base) => {
                if let Some(token) = notify.token {
                    server.store.raise_cseq(token, base);
                }
            }
        }
    }
}

/// A subscription of ours is over. That it is has to be known for as long as somebody
/// may still say that it lives.
pub fn ended<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    subscription: &Snapshot,
    expires_at: i64,
) {
    let Some(replication) = replicated(server) else { return };
    let subscription = announced(slot(replication), subscription.clone());
    let known = Known { is_over: true, ..known_of(replication, &subscription) };
    let key = key_of(server, &subscription);
    let known_until = host.now().max(expires_at) + REMEMBERED;
    let used = subscription.local_cseq.0;
    let over = Mirrored { subscription, expires_at: known_until, known, used };
    // Without memory for it the others see it run out.
    if replication.mirror(&over, &key).is_ok() {
        outgoing::put(server, host, over.dialog());
    }
}

/// Seconds for which an end is known after the time at which the subscription would have
/// run out.
const REMEMBERED: i64 = 120;

/// A dialog's three texts in one.
fn pack(dialog: DialogId<'_>) -> Vec<u8> {
    [dialog.call_id, dialog.from_tag, dialog.to_tag].join(&0)
}

/// The dialog that `pack` has packed.
fn unpack(packed: &[u8]) -> Option<DialogId<'_>> {
    let mut parts = packed.split(|byte| *byte == 0);
    let (call_id, from_tag, to_tag) = (parts.next()?, parts.next()?, parts.next()?);
    Some(DialogId { call_id, from_tag, to_tag })
}
