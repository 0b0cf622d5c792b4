//! What other servers tell of subscriptions: kept as replicas, or a reason to leave a
//! dialog to somebody else, or to correct who is mistaken.

use super::{announced, known_of, outgoing, replicated, slot, takeover};
use crate::error::Fault;
use crate::ports::Host;
use crate::presence::event_package::Event;
use crate::presence::presentity::PresentityKey;
use crate::presence::replication::json::Object;
use crate::presence::replication::ownership::{DialogClaim, Judgment, Known, judge};
use crate::presence::replication::stamp::{Stamp, node_of};
use crate::presence::replication::subscription_message::SubscriptionMessage;
use crate::presence::subscription::{Ending, Text};
use crate::presence::winfo::WatcherNews;
use crate::service::Server;
use crate::service::replication::incoming::{From, Unapplied};
use crate::service::subscriptions::key_of;
use crate::shm::Memory;
use crate::store::Token;
use crate::store::replication::{Mirrored, Replication, count};

/// A peer tells of a subscription.
pub fn apply<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    subscription: &Object,
    from: &From<'_>,
) -> Result<(), Unapplied> {
    let message = SubscriptionMessage::read(subscription)?;
    let Some(replication) = replicated(server) else { return Ok(()) };
    let package = Event::parse(&message.event).and_then(|event| server.registry.exact(&event));
    let package = package.ok_or(Unapplied::Refused("its event package is not known here"))?;
    let Some(mut new) = mirrored(server, host, replication, &message, from) else {
        return Ok(());
    };
    new.subscription.package = package;
    let key = key_of(server, &new.subscription);
    let token = server.store.find_dialog(new.dialog()).map_err(|_| Unapplied::Failed)?;
    let applied = match token {
        Some(token) => contested(server, host, replication, (token, &key), &new),
        None => heard(server, host, replication, &key, &new),
    };
    match applied {
        Ok(word) => {
            count(match word {
                Judgment::News => &replication.counts.applied,
                Judgment::Old | Judgment::Mistaken => &replication.counts.outdated,
            });
            Ok(())
        }
        Err(_) => Err(Unapplied::Failed),
    }
}

/// What a message says, as it would be kept; `None` if it is about the past.
fn mirrored<M: Memory>(
    server: &Server<M>,
    host: &dyn Host,
    replication: &Replication<M>,
    message: &SubscriptionMessage,
    from: &From<'_>,
) -> Option<Mirrored> {
    let (now, sender) = (host.now(), node_of(from.uri));
    let relayed = from.ours.and_then(|ours| ours.owner);
    let (owner, node) = match (relayed, from.ours) {
        (Some(owner), _) => (owner.address, owner.node),
        (None, Some(ours)) => (sender, ours.node),
        (None, None) => (sender, sender),
    };
    if relayed.is_none() && node == replication.node {
        // Our own word.
        return None;
    }
    // No clock of another server makes a subscription last longer than ours would.
    let longest = now + i64::from(server.config.max_expires) + super::REMEMBERED;
    let expires_at = match message.expires {
        0 => longest,
        // What stock takes for a lifetime: no server says so on purpose.
        at if at <= now => return None,
        at => at.min(longest),
    };
    let stamp = from.ours.filter(|_| relayed.is_none()).and_then(|ours| ours.stamp);
    let known = Known {
        claim: DialogClaim {
            remote_cseq: message.remote_cseq,
            local_cseq: message.local_cseq,
            node,
        },
        owner,
        said: stamp.map_or(0, Stamp::time),
        is_over: message.expires == 0,
    };
    let used = message.local_cseq;
    Some(Mirrored { subscription: message.snapshot(), expires_at, known, used })
}

/// Somebody tells of a dialog that is ours.
fn contested<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    replication: &'static Replication<M>,
    (token, key): (Token, &PresentityKey),
    new: &Mirrored,
) -> Result<Judgment, Fault> {
    let Some((own, _)) = server.store.own_subscription(token, host.now()) else {
        // Its end is on its way.
        return Ok(Judgment::Old);
    };
    let slot = slot(replication);
    let own = known_of(replication, &announced(slot, own));
    if (new.known.owner, new.known.claim.node) == (own.owner, own.claim.node) {
        // Somebody has kept what we have said.
        return Ok(Judgment::Old);
    }
    if judge(Some(&own), &new.known) != Judgment::News {
        if new.used > own.claim.local_cseq
            && let Some(base) = slot.base_above(new.used)
        {
            // The watcher has seen higher numbers than ours.
            if let Some(lane) = server.store.outrun(token, base) {
                server.store.hand_over(lane);
            }
            server.wake_senders(host);
        }
        outgoing::put(server, host, new.dialog());
        return Ok(Judgment::Mistaken);
    }
    // The replica first: no request may find the dialog nowhere.
    let _ = replication.mirror(new, key)?;
    let claim = new.known.claim;
    let is_lower = |remote_cseq, local_cseq| {
        let node = replication.node;
        DialogClaim { remote_cseq, local_cseq: slot.announced(local_cseq), node } < claim
    };
    if let Some(used) = server.store.yield_subscription(token, is_lower)? {
        tell_used(server, host, replication, new, slot.announced(used));
        if new.known.is_over {
            watcher_news(server, host, key, new, Some(Change::Ended));
        }
        return Ok(Judgment::News);
    }
    if server.store.own_subscription(token, host.now()).is_some() {
        // A request has come meanwhile.
        replication.unmirror(new.dialog());
        outgoing::put(server, host, new.dialog());
    }
    Ok(Judgment::Mistaken)
}

/// The owner of a dialog has to know that others have used higher CSeqs than it has.
fn tell_used<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    replication: &Replication<M>,
    new: &Mirrored,
    used: u32,
) {
    replication.note_used(new.dialog(), used);
    if used > new.known.claim.local_cseq && !new.known.is_over {
        outgoing::put(server, host, new.dialog());
    }
}

/// Somebody tells of a dialog that is not ours.
fn heard<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    replication: &'static Replication<M>,
    key: &PresentityKey,
    new: &Mirrored,
) -> Result<Judgment, Fault> {
    let put = replication.mirror(new, key)?;
    let before = put.before.as_ref();
    match put.word {
        Judgment::News => {
            tell_used(server, host, replication, new, put.used);
            watcher_news(server, host, key, new, change(before, new));
            // Kept for us while we were away.
            if new.known.owner == replication.address() && !new.known.is_over {
                let kept = Mirrored { used: put.used, ..new.clone() };
                takeover::adopt(server, host, &kept, key)?;
            }
        }
        Judgment::Old | Judgment::Mistaken => {
            // Who does not know of an end would bring it back. (Owners that live answer
            // for themselves.)
            let is_ended = before.is_some_and(|before| before.known.is_over);
            let is_behind = before.is_some_and(|b| put.used > b.known.claim.local_cseq);
            if (is_ended || is_behind) && !new.known.is_over {
                outgoing::put(server, host, new.dialog());
            }
        }
    }
    Ok(put.word)
}

/// What those who watch the watchers have to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    Began,
    Ended,
}

fn change(before: Option<&Mirrored>, new: &Mirrored) -> Option<Change> {
    let lived = before.filter(|before| !before.known.is_over);
    let is_same = lived.is_some_and(|before| before.subscription.status == new.subscription.status);
    match (lived.is_some(), new.known.is_over) {
        (true, true) => Some(Change::Ended),
        (false, true) => None,
        (_, false) => (!is_same).then_some(Change::Began),
    }
}

/// Those here who watch the watchers of `key` are notified of one at another server.
fn watcher_news<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    key: &PresentityKey,
    watcher: &Mirrored,
    change: Option<Change>,
) {
    let subscription = &watcher.subscription;
    let reason = subscription.text(Text::Reason);
    let news = match change {
        None => return,
        Some(Change::Began) => WatcherNews::began(subscription.status),
        Some(Change::Ended) if reason.is_empty() => {
            WatcherNews::ended(subscription.status, Ending::Expired)
        }
        Some(Change::Ended) => WatcherNews::ended(subscription.status, Ending::from_reason(reason)),
    };
    server.store.watcher_row_changed(key, subscription, news);
    server.wake_senders(host);
}

/// A replica has run out, and its owner has not said so.
pub(super) fn ran_out<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    key: &PresentityKey,
    replica: &Mirrored,
) {
    let news = WatcherNews::ended(replica.subscription.status, Ending::Expired);
    server.store.watcher_row_changed(key, &replica.subscription, news);
    server.wake_senders(host);
}
