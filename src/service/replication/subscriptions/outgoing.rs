//! What is notified to other servers of subscriptions: changes, in their newest state when
//! they leave, and to those who ask everything, in portions.

use super::{announced, pack, replicated, slot, takeover, unpack};
use crate::ports::Host;
use crate::presence::cseq::CSeq;
use crate::presence::event_package::PackageId;
use crate::presence::replication::header::Owner;
use crate::presence::replication::ownership::Known;
use crate::presence::replication::stamp::node_of;
use crate::presence::replication::subscription_message::SubscriptionMessage;
use crate::presence::subscription::{DialogId, Snapshot};
use crate::service::Server;
use crate::service::replication::outgoing::Stored;
use crate::shm::Memory;
use crate::store::replication::{Class, Mirrored, NodeUri, Peers, Replication};

/// Records that are looked at under one lock.
const PORTION: usize = 50;

/// The others are to be notified of a dialog.
pub(super) fn put<M: Memory>(server: &Server<M>, host: &mut dyn Host, dialog: DialogId<'_>) {
    let Some(replication) = replicated(server) else { return };
    let packed = pack(dialog);
    let key = replication.key(b"dialog", [&packed, b""]);
    if replication.put(key, Class::Subscription, &packed, |_, new| Some(new.to_vec())) {
        host.wake_replicator();
    }
}

/// The message about a dialog that `put` has put, as it is now, whatever the order of
/// the puts; `None` if there is nothing for this server to say.
pub fn compose<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    packed: &[u8],
) -> Option<Stored> {
    let replication = replicated(server)?;
    let dialog = unpack(packed)?;
    let token = server.store.find_dialog(dialog).ok()?;
    let own = token.and_then(|token| server.store.own_subscription(token, host.now()));
    if let Some((subscription, expires_at)) = own {
        let subscription = announced(slot(replication), subscription);
        return tell(server, host, replication, subscription, expires_at, None);
    }
    // What has ended, or how far others have counted, for those who do not know.
    of_replica(server, host, replication, replication.mirrored(dialog)?)
}

/// What there is to say of a dialog that another server owns, or that has ended.
fn of_replica<M: Memory>(
    server: &Server<M>,
    host: &dyn Host,
    replication: &Replication<M>,
    replica: Mirrored,
) -> Option<Stored> {
    let Mirrored { mut subscription, expires_at, known, used } = replica;
    if known.is_over {
        return tell(server, host, replication, subscription, 0, owner(replication, &known));
    }
    if used <= known.claim.local_cseq {
        return None;
    }
    // It claims the dialog in vain, and shows the owner how far it has to go.
    subscription.remote_cseq = CSeq(subscription.remote_cseq.0.checked_sub(1)?);
    subscription.local_cseq = CSeq(used);
    tell(server, host, replication, subscription, expires_at, None)
}

/// Whose it is, if not this server's.
fn owner<M: Memory>(replication: &Replication<M>, known: &Known) -> Option<Owner> {
    let owner = Owner { address: known.owner, node: known.claim.node };
    let own = Owner { address: replication.address(), node: replication.node };
    (owner != own).then_some(owner)
}

fn tell<M: Memory>(
    server: &Server<M>,
    host: &dyn Host,
    replication: &Replication<M>,
    subscription: Snapshot,
    expires_at: i64,
    owner: Option<Owner>,
) -> Option<Stored> {
    let now = host.now();
    // Stock takes a time that is past for a lifetime.
    if expires_at != 0 && expires_at <= now {
        return None;
    }
    let event = event(server, subscription.package)?;
    let received = server.config.dmq.subscriptions_received.then_some(now);
    let message = SubscriptionMessage::write(&subscription, event, expires_at, received);
    // Of what others have said only they know when.
    let stamp = owner.is_none().then(|| replication.stamp(host.milliseconds()));
    Some(Stored { message, stamp, owner })
}

fn event<M: Memory>(server: &Server<M>, package: PackageId) -> Option<&[u8]> {
    server.registry.get(package).map(|package| package.name.as_slice())
}

/// How far a node has been sent what there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cursor {
    /// Shards first, then parts of the mirror.
    part: usize,
    from: u32,
}

/// Gives some more of what there is for a node that has asked for everything; false
/// when that was all. A server of ours is also notified of ends, and of what is kept for
/// owners that are gone, or for itself: it may have been away.
pub fn portion<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    cursor: &mut Cursor,
    to: &NodeUri,
    each: &mut dyn FnMut(Stored),
) -> bool {
    let Some(replication) = replicated(server) else { return false };
    let (shards, now) = (server.store.shards(), host.now());
    let Cursor { part, from } = *cursor;
    let is_ours = || {
        let node = |peers: &mut Peers| peers.get(to.as_bytes()).and_then(|peer| peer.node);
        replication.peers(node).is_some()
    };
    let next = if part < shards {
        let (own, next) = server.store.own_subscriptions_from(part, from, PORTION, now);
        let slot = slot(replication);
        for (subscription, expires_at) in own {
            let subscription = announced(slot, subscription);
            tell(server, host, replication, subscription, expires_at, None)
                .into_iter()
                .for_each(&mut *each);
        }
        next
    } else if is_ours() && part - shards < replication.mirror_parts() {
        let (asker, at) = (node_of(to.as_bytes()), host.milliseconds());
        let gone = takeover::Gone::of(replication, at, 0);
        let is_wanted = |known: &Known, expires_at: i64, used: u32| {
            let is_kept = known.owner == asker || gone.has_left(known.owner);
            let is_behind = used > known.claim.local_cseq;
            expires_at > now && (known.is_over || is_kept || is_behind)
        };
        let (kept, next) = replication.mirrored_from(part - shards, from, PORTION, is_wanted);
        for replica in kept {
            let known = replica.known;
            if !known.is_over && (known.owner == asker || gone.has_left(known.owner)) {
                let Mirrored { mut subscription, expires_at, used, .. } = replica;
                subscription.local_cseq = CSeq(used);
                let owner = owner(replication, &known);
                let message = tell(server, host, replication, subscription, expires_at, owner);
                message.into_iter().for_each(&mut *each);
            } else {
                of_replica(server, host, replication, replica).into_iter().for_each(&mut *each);
            }
        }
        next
    } else {
        return false;
    };
    *cursor = next.map_or(Cursor { part: part + 1, from: 0 }, |from| Cursor { part, from });
    true
}
