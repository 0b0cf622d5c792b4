//! A dialog changes its owner: its watcher has come to this server, or the owner is gone
//! and this server is its heir, or was the owner before it started again.

use super::{outgoing, pack, replicated, slot};
use crate::error::Fault;
use crate::ports::{Host, Level};
use crate::presence::presentity::PresentityKey;
use crate::presence::renewal::Renewal;
use crate::presence::replication::cseq_blocks::Slot;
use crate::presence::replication::ownership::{Known, is_heir};
use crate::presence::replication::stamp::node_of;
use crate::presence::subscription::{DialogId, Snapshot, Text};
use crate::presence::transition::{CurrentSubscription, Event, Next, Phase, Refusal};
use crate::service::Server;
use crate::service::rate_limited_log::RateLimitedLog;
use crate::service::replication::outgoing::probe;
use crate::service::subscriptions::{self, AcceptedSubscription};
use crate::shm::Memory;
use crate::store::Token;
use crate::store::replication::{Mirrored, NodeUri, Peer, Replication};

static NOT_TAKEN: RateLimitedLog = RateLimitedLog::new();

/// Parts of the mirror that one tick looks through, and replicas under one lock.
const PARTS: usize = 8;
const PORTION: usize = 500;

/// A request has come in a dialog that this server does not know as its own. It gets it
/// from the mirror, if the request is in order: `Ok(Ok(()))`.
pub fn for_request<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    dialog: DialogId<'_>,
    renewal: &Renewal<'_>,
) -> Result<Result<(), Refusal>, Fault> {
    let Some(replication) = replicated(server) else { return Ok(Err(Refusal::Unknown)) };
    let Some(replica) = replication.mirrored(dialog).filter(|replica| !replica.known.is_over)
    else {
        return Ok(Err(Refusal::Unknown));
    };
    if replica.expires_at + i64::from(server.config.expires_offset) < host.now() {
        return Ok(Err(Refusal::Unknown));
    }
    let current = CurrentSubscription::of(&replica.subscription, Phase::Live, replica.expires_at);
    let event = Event::Subscribe(renewal);
    let block = || replica.subscription.block().to_vec();
    // What is out of order changes no owner.
    let verdict = current.handle(&event, block).map_err(|_| Fault::Host)?;
    if let Next::Refused(refusal) = verdict.next {
        return Ok(Err(refusal));
    }
    let key = subscriptions::key_of(server, &replica.subscription);
    let is_gap = super::is_gap(replica.subscription.remote_cseq, renewal.cseq);
    let taken = take(server, host, replication, (&replica, is_gap), &key)?;
    Ok(taken.map(drop).ok_or(Refusal::Unknown))
}

/// The replica's dialog is this server's, held until `release`. Its NOTIFYs have CSeqs
/// that nobody else has used or will use.
fn take<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    replication: &Replication<M>,
    (replica, is_gap): (&Mirrored, bool),
    key: &PresentityKey,
) -> Result<Option<Token>, Fault> {
    let (numbers, slot) = (replica.subscription.numbers(), slot(replication));
    let used = replica.used.max(numbers.cseq.0);
    let base = if is_gap { slot.base_beyond(used) } else { slot.base_above(used) };
    let Some(base) = base else { return Ok(None) };
    let mut subscription = replica.subscription.clone();
    subscription.set_numbers(numbers.after(base - numbers.cseq.0));
    let left = (replica.expires_at - host.now()).max(0);
    subscription.expires = u32::try_from(left).unwrap_or(u32::MAX);
    let token = server.store.adopt_subscription(key, &subscription, host.now())?;
    if token.is_some() {
        replication.unmirror(replica.dialog());
    }
    Ok(token)
}

/// A replica's dialog is this server's from now on, without a request. Its watcher is
/// told the state.
pub(super) fn adopt<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    replica: &Mirrored,
    key: &PresentityKey,
) -> Result<(), Fault> {
    let Some(replication) = replicated(server) else { return Ok(()) };
    let mut replica = replica.clone();
    if replica.known.owner != replication.address() {
        reach_from_here(server, &mut replica.subscription);
    }
    let Some(token) = take(server, host, replication, (&replica, false), key)? else {
        return Ok(());
    };
    if server.subscriptions().write(server, host, token).is_err() {
        let call_id = replica.dialog().call_id.escape_ascii();
        let line = format_args!("a dialog that was taken over has no row (Call-ID {call_id})");
        NOT_TAKEN.log(host, Level::Error, line);
    }
    if let Some(lane) = subscriptions::release(server, host, AcceptedSubscription::Record(token)) {
        server.store.hand_over(lane);
    }
    server.wake_senders(host);
    outgoing::put(server, host, replica.dialog());
    Ok(())
}

/// The sockets and the Contact of the server that was the owner are not here:
/// `default_socket` and `server_address` take their place.
fn reach_from_here<M: Memory>(server: &Server<M>, subscription: &mut Snapshot) {
    let config = &server.config;
    let places = [
        (Text::Socket, config.dmq.default_socket.as_deref()),
        (Text::LocalContact, config.server_address.as_deref()),
    ];
    for (field, value) in places {
        if let Some(value) = value {
            // What does not fit stays as it was.
            let _ = subscription.set_text(field, value);
        }
    }
}

/// What is to be done from time to time, about once a second: replicas that have run out
/// go, and with `subs_takeover_dmq` those of owners that are gone are taken over by their
/// heirs.
pub fn tick<M: Memory>(server: &Server<M>, host: &mut dyn Host) {
    let Some(replication) = replicated(server) else { return };
    share_numbers(replication);
    if server.config.dmq.subscriptions_takeover > 0 {
        listen(server, host, replication);
    }
    let first = host.now().unsigned_abs() as usize % replication.mirror_parts() * PARTS;
    for part in first..first + PARTS {
        look_through(server, host, replication, part % replication.mirror_parts());
    }
}

/// Who is not heard for a while is asked whether it is there.
fn listen<M: Memory>(server: &Server<M>, host: &mut dyn Host, replication: &Replication<M>) {
    let pause = u64::from(server.config.dmq.subscriptions_takeover / 3).clamp(1, 20);
    let now = host.milliseconds();
    let quiet: Vec<NodeUri> = replication.peers(|peers| {
        let is_quiet = |peer: &&Peer| {
            let seconds = now.saturating_sub(peer.heard) / 1000;
            peer.node.is_some()
                && peer.silent.is_none()
                && seconds >= pause
                && seconds.is_multiple_of(pause)
        };
        peers.iter().filter(is_quiet).map(|peer| peer.uri).collect()
    });
    for uri in quiet {
        if probe(host, replication, &uri).is_err() {
            // The host has given it up.
            replication.peers(|peers| peers.answered(uri.as_bytes(), false, false, now));
        }
    }
}

/// This server's slot among the servers that it knows.
fn share_numbers<M: Memory>(replication: &Replication<M>) {
    let others: Vec<u64> = replication.peers(|peers| peers.iter().filter_map(|p| p.node).collect());
    replication.set_slot(Slot::of(replication.node, &others).number());
}

fn look_through<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    replication: &'static Replication<M>,
    part: usize,
) {
    let (now, offset) = (host.now(), i64::from(server.config.expires_offset));
    // Its owner ends it; here it is known for longer than that takes.
    let is_past = |known: &Known, expires_at: i64| {
        expires_at + if known.is_over { 0 } else { offset + super::REMEMBERED } < now
    };
    let grace = u64::from(server.config.dmq.subscriptions_takeover) * 1000;
    let gone = (grace > 0).then(|| Gone::of(replication, host.milliseconds(), grace));
    let is_left = |known: &Known| gone.as_ref().is_some_and(|gone| gone.has_left(known.owner));
    let is_wanted = |known: &Known, expires_at: i64, _: u32| {
        is_past(known, expires_at) || (!known.is_over && expires_at > now && is_left(known))
    };
    let mut from = Some(0);
    while let Some(start) = from {
        let (found, next) = replication.mirrored_from(part, start, PORTION, is_wanted);
        from = next;
        for replica in found {
            let key = subscriptions::key_of(server, &replica.subscription);
            if is_past(&replica.known, replica.expires_at) {
                replication.unmirror(replica.dialog());
                if !replica.known.is_over {
                    super::incoming::ran_out(server, host, &key, &replica);
                }
            } else if gone.as_ref().is_some_and(|gone| gone.is_heir(replication, &replica))
                && let Err(fault) = adopt(server, host, &replica, &key)
            {
                let line = format_args!("a dialog of a server that is gone is not taken: {fault}");
                NOT_TAKEN.log(host, Level::Error, line);
            }
        }
    }
}

/// Who is there and who is not, of those whose dialogs others may have.
#[derive(Debug)]
pub(super) struct Gone {
    /// Addresses of servers of ours that answer.
    living: Vec<u64>,
    /// Addresses of those that do not, for long enough.
    gone: Vec<u64>,
}

impl Gone {
    /// Those who have not answered for so many milliseconds.
    pub fn of<M: Memory>(replication: &Replication<M>, now: u64, grace: u64) -> Gone {
        replication.peers(|peers| {
            let (mut living, mut gone) = (Vec::new(), Vec::new());
            for peer in peers.iter() {
                let address = node_of(peer.uri.as_bytes());
                match peer.silent {
                    Some(since) if now.saturating_sub(since) >= grace => gone.push(address),
                    None if peer.node.is_some() => living.push(address),
                    _ => {}
                }
            }
            Gone { living, gone }
        })
    }

    /// The owner of this address does not answer.
    pub fn has_left(&self, owner: u64) -> bool {
        self.gone.contains(&owner)
    }

    /// This server is the one of those left that takes the replica's dialog.
    fn is_heir<M: Memory>(&self, replication: &Replication<M>, replica: &Mirrored) -> bool {
        is_heir(node_of(&pack(replica.dialog())), replication.address(), &self.living)
    }
}
