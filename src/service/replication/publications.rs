//! A peer's change of a publication. It is found by its id, then by the tag before
//! the change, then by the one after it; it wins if it is the later one; and it is
//! judged like a published one before it is kept.

use std::time::Duration;

use crate::ports::{Host, PackageVerdict};
use crate::presence::entity_tag::EntityTag;
use crate::presence::event_package::{Event, EventPackage, Kind};
use crate::presence::presentity::PresentityKey;
use crate::presence::publication::{Refused, Step};
use crate::presence::replication::publication_message::PublicationMessage;
use crate::presence::replication::stamp::Stamp;
use crate::presence::replication::update::Update;
use crate::service::Server;
use crate::service::publication_request::{Origin, PublicationRequest};
use crate::service::publications::{Found, Names};
use crate::service::publish::publish_for_sibling;
use crate::shm::Memory;
use crate::store::replication::{Known, Replication, count};

use super::incoming::{From, Unapplied};
use super::{ForPeers, gone_until, known_until};

/// Looks, 2 ms apart, at a publication that a request is changing.
const ATTEMPTS: u32 = 50;

/// A change and all that it is judged by.
struct Arrived<'a> {
    package: &'a EventPackage,
    key: PresentityKey,
    message: &'a PublicationMessage<'a>,
    stamp: Stamp,
    is_stored: bool,
}

/// What becomes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// It is made, on what there is or as a new publication.
    Make,
    /// What is known here is newer, or the same.
    Outdated,
    /// The publication was removed later than the peer knows.
    Removed,
    /// It changes something that is not known here, and does not bring it along.
    Missed,
}

/// Applies a message.
pub(super) fn apply<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    replication: &Replication<M>,
    message: &PublicationMessage<'_>,
    from: &From<'_>,
) -> Result<(), Unapplied> {
    let event = Event::parse(message.event).ok_or(Unapplied::Refused("the event is malformed"))?;
    let id = server.registry.exact(&event);
    let known = id.and_then(|id| Some((id, server.registry.get(id)?)));
    // Placeholders for stored rows are not registered.
    let (id, package) = known
        .filter(|(_, package)| {
            !package.content_type.is_empty() && package.kind == Kind::Publication
        })
        .ok_or(Unapplied::Refused("the event is not registered"))?;
    let (is_stored, now) = (from.is_stored(), host.milliseconds());
    let stamp = from.stamp(message.received).believed(now, is_stored);
    // What is changed here from now on is later.
    replication.seen(stamp, now);
    let arrived = Arrived {
        package,
        key: server.store.key(message.user, message.domain, id),
        message,
        stamp,
        is_stored,
    };
    if !message.body.is_empty() && !message.is_removal() {
        match host.check_document(id, message.body) {
            PackageVerdict::Accepted => {}
            PackageVerdict::Refused { .. } => {
                return Err(Unapplied::Refused("the package refuses the document"));
            }
        }
    }
    for attempt in 0..ATTEMPTS {
        if attempt > 0 {
            std::thread::sleep(Duration::from_millis(2));
        }
        match make(server, host, replication, &arrived) {
            Ok(Verdict::Make) => {
                count(&replication.counts.applied);
                return Ok(());
            }
            Ok(verdict) => {
                count(&replication.counts.outdated);
                answer(server, host, replication, &arrived, from, verdict);
                return Ok(());
            }
            // A request is changing it: the later change counts.
            Err(Refused::EntityTag) => {}
            Err(Refused::Request(rejection)) if !rejection.is_fault => {
                return Err(Unapplied::Refused(rejection.reason));
            }
            Err(_) => return Err(Unapplied::Failed),
        }
    }
    Err(Unapplied::Failed)
}

/// The peer has what was removed here, or we lack what it has.
fn answer<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    replication: &Replication<M>,
    arrived: &Arrived<'_>,
    from: &From<'_>,
    verdict: Verdict,
) {
    let message = arrived.message;
    match verdict {
        Verdict::Removed if from.is_stored() => {
            let now = host.now();
            let Some(known) = tombstone(replication, arrived, now) else { return };
            let update = Update {
                stamp: known.stamp,
                received: now,
                expires_at: Some(now),
                is_gone: true,
                domain: message.domain.to_vec(),
                user: message.user.to_vec(),
                event: message.event.to_vec(),
                etag: message.tag().to_vec(),
                new_etag: message.tag().to_vec(),
                ruid: message.ruid.to_vec(),
                ..Update::default()
            };
            let key = replication.ruid_key(message.ruid);
            ForPeers { key, update }.put(server, host);
        }
        Verdict::Missed if from.ours.is_some() => {
            let now = host.milliseconds();
            if replication.peers(|peers| peers.missed(from.uri, now)) {
                host.wake_replicator();
            }
        }
        _ => {}
    }
}

/// The publication was removed here.
fn tombstone<M: Memory>(
    replication: &Replication<M>,
    arrived: &Arrived<'_>,
    now: i64,
) -> Option<Known> {
    let message = arrived.message;
    let tags = [message.etag, message.new_etag].into_iter().filter(|tag| !tag.is_empty());
    let tags = tags.map(|tag| replication.tag_key(&arrived.key, tag));
    let ruid = (!message.ruid.is_empty()).then(|| replication.ruid_key(message.ruid));
    let known = ruid.into_iter().chain(tags).filter_map(|key| replication.known(key, now));
    known.filter(|known| known.is_gone).max_by_key(|known| known.stamp.time())
}

fn judge<M: Memory>(
    replication: &Replication<M>,
    arrived: &Arrived<'_>,
    found: Option<&Found>,
    now: i64,
) -> Verdict {
    let Arrived { message, stamp, .. } = arrived;
    let Some(found) = found else {
        let gone = tombstone(replication, arrived, now);
        return match gone {
            Some(gone) if !stamp.beats(gone.stamp) || gone.stamp == *stamp => Verdict::Removed,
            // What a stock server makes of what it has removed itself is late.
            Some(gone) if stamp.is_coarse && gone.stamp.node == stamp.node => Verdict::Removed,
            _ if message.is_removal() => Verdict::Make,
            _ if message.body.is_empty() => Verdict::Missed,
            _ => Verdict::Make,
        };
    };
    // A stock server says "new" once, and so again for hard state, and for what a
    // sibling replaces.
    let is_late = message.is_new
        && !arrived.is_stored
        && stamp.is_coarse
        && message.expires.is_some()
        && found.entity_tag != message.tag();
    if is_late || (message.is_new && message.is_removal()) {
        return Verdict::Outdated;
    }
    // What a refresh leaves as it is has to be what it was at its server. (Stock is
    // believed: it does not tell the document again.)
    let is_chained = found.entity_tag == message.etag || found.entity_tag == message.tag();
    let is_refresh = message.body.is_empty() && !message.is_removal();
    let known = replication.known(replication.tag_key(&arrived.key, &found.entity_tag), now);
    let stored = match known {
        Some(known) => known.stamp,
        None => Stamp::coarse(found.received, replication.node),
    };
    if arrived.is_stored {
        // It is the same, or what a stock server has said long ago.
        let is_same = found.entity_tag == message.tag() && EntityTag::is_minted(message.tag());
        let is_older = stamp.is_coarse && stamp.milliseconds / 1000 <= stored.milliseconds / 1000;
        if is_same || is_older {
            return Verdict::Outdated;
        }
    }
    let is_tie = stamp.is_coarse && stored.is_coarse && stamp.node == stored.node;
    if is_tie && stamp.milliseconds == stored.milliseconds {
        // Within one second its tags tell which one came first.
        return match EntityTag::precedes(message.tag(), &found.entity_tag) {
            true => Verdict::Outdated,
            false => Verdict::Make,
        };
    }
    match stamp.beats(stored) {
        false => Verdict::Outdated,
        true if is_refresh && !is_chained && !stamp.is_coarse => Verdict::Missed,
        true => Verdict::Make,
    }
}

/// What a message asks for; `None` for nothing.
fn step_of(message: &PublicationMessage<'_>, is_known: bool) -> Option<Step> {
    match (is_known, message.is_removal(), message.body.is_empty()) {
        (false, true, _) => None,
        (true, true, _) => Some(Step::Remove),
        (false, false, _) => Some(Step::Create),
        (true, false, true) => Some(Step::Refresh),
        (true, false, false) => Some(Step::Modify),
    }
}

/// What a message asks for, of the publication that was found.
fn request<'a, M: Memory>(
    server: &Server<M>,
    arrived: &'a Arrived<'_>,
    found: Option<&'a Found>,
    step: Step,
    now: i64,
) -> PublicationRequest<'a> {
    let Arrived { package, key, message, stamp, .. } = arrived;
    let policy = server.publication_lifetimes(now);
    PublicationRequest {
        package_id: key.package,
        package,
        key: key.clone(),
        step,
        if_match: found.map(|found| &*found.entity_tag),
        own_tag: Some(message.tag()),
        expires: policy.capped(message.expires, package.default_expires),
        for_ever: message.expires.is_none(),
        sender: message.sender,
        body: if step == Step::Remove { b"" } else { message.body },
        origin: Origin::Peer {
            ruid: message.ruid,
            received: i64::try_from(stamp.milliseconds / 1000).unwrap_or(now),
            is_silent: server.config.dmq.skip_notify,
        },
    }
}

fn make<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    replication: &Replication<M>,
    arrived: &Arrived<'_>,
) -> Result<Verdict, Refused> {
    let Arrived { key, message, stamp, .. } = arrived;
    let names = Names { ruid: message.ruid, tags: [message.etag, message.new_etag] };
    let found = server.publications().find(server, host, key, names)?;
    let now = host.now();
    let verdict = judge(replication, arrived, found.as_ref(), now);
    if verdict != Verdict::Make {
        return Ok(verdict);
    }
    let keep = |tag: &[u8], is_gone, until| {
        let known = Known { stamp: *stamp, is_gone };
        replication.keep(replication.tag_key(key, tag), known, until, now);
    };
    if message.is_removal() {
        // Before it is gone: nothing may make it again.
        keep(message.etag, true, gone_until(server, now));
        if !message.ruid.is_empty() {
            let known = Known { stamp: *stamp, is_gone: true };
            let key = replication.ruid_key(message.ruid);
            replication.keep(key, known, gone_until(server, now), now);
        }
    }
    let Some(step) = step_of(message, found.is_some()) else { return Ok(Verdict::Make) };
    let publishing = request(server, arrived, found.as_ref(), step, now);
    if step == Step::Remove {
        publish_for_sibling(server, host, &publishing)?;
        return Ok(Verdict::Make);
    }
    let old = publishing.if_match.unwrap_or_default();
    let expires_at = message.expires.map(|expires| now + i64::from(expires));
    keep(message.tag(), false, known_until(server, expires_at, now));
    let made = publish_for_sibling(server, host, &publishing);
    let forgotten = if made.is_ok() { old } else { message.tag() };
    if old != message.tag() && !forgotten.is_empty() {
        replication.forget(replication.tag_key(key, forgotten));
    }
    if made.is_ok() && arrived.is_stored {
        // They come in any order; the newest one is to stand last.
        server.store.put_in_order(key);
    }
    made.map(|()| Verdict::Make)
}
