//! PUBLISH (RFC 3903): judge, store, answer, notify.

use crate::error::Rejection;
use crate::ports::{Host, Incoming, PackageVerdict, Reply};
use crate::presence::content_type;
use crate::presence::dialog_info;
use crate::presence::entity_tag::EntityTag;
use crate::presence::event_package::{EventPackage, Kind, PackageId};
use crate::presence::expires::{self, PublicationKind};
use crate::presence::measures::Method;
use crate::presence::notify_headers::contact_uri;
use crate::presence::presentity::PresentityKey;
use crate::presence::publication::{Facts, RUID_PREFIX, Refused, Step, step};
use crate::presence::request::{PublishRequest, UriParts};
use crate::presence::text;
use crate::service::answer::{self, Asked, RequestOutcome};
use crate::service::notifier::{self, Budget};
use crate::service::publication_request::{Origin, PublicationRequest};
use crate::service::publications::Applied;
use crate::service::reopened;
use crate::service::replication::{Begun, ForPeers};
use crate::service::sphere::Watched;
use crate::service::{Arrival, Server, TrackedRequest, limits};
use crate::shm::Memory;
use crate::store::LaneRef;
use crate::store::publications::PublicationChange;
use crate::store::retransmissions::Answer;
use std::time::Instant;

/// Unix time at which priorities made of the time begin, as in stock.
const PRIORITY_BASE: i64 = 1_420_070_400;

/// What a PUBLISH led to.
struct Accepted<M: Memory> {
    package: PackageId,
    answer: Answer,
    lane: Option<LaneRef<M>>,
    sphere: Option<Watched>,
    /// The presentity that it has made a publication for.
    created: Option<PresentityKey>,
    /// What peers are told.
    for_peers: Option<ForPeers>,
}

/// Serves a PUBLISH.
pub fn handle<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    incoming: &mut dyn Incoming,
    request: &PublishRequest<'_>,
) -> RequestOutcome {
    let since = Instant::now();
    let (now, UriParts { user, host: domain }) = (host.now(), request.presentity);
    server.store.request_came(incoming.source(), (user, domain), now);
    let attempt = match TrackedRequest::begin(server, incoming, b"PUBLISH", request.id, now) {
        Arrival::New(attempt) => attempt,
        Arrival::InProgress => return answer::leave(server),
        Arrival::Answered(answer) => {
            return answer::repeat(server, incoming, &ok(server, request, &answer));
        }
    };
    match accept(server, host, incoming, request) {
        Ok(Ok(accepted)) => {
            let lane = accepted.lane.map(|lane| notifier::Owned::of_publish(server, lane, since));
            attempt.answered(server, &accepted.answer);
            let reply = ok(server, request, &accepted.answer);
            let of = (Method::Publish, accepted.package);
            let served = answer::accept(server, incoming, of, &reply);
            if !served.is_accepted() {
                attempt.refused(server);
            }
            match accepted.created.filter(|_| !served.is_accepted()) {
                // Peers have not heard of it.
                Some(key) => withdraw(server, host, key, &accepted.answer.entity_tag),
                None => {
                    accepted.for_peers.into_iter().for_each(|message| message.put(server, host))
                }
            }
            if let Some(lane) = lane {
                notifier::run_owned(lane, host, Budget::WORKER);
            }
            if let Some(sphere) = accepted.sphere {
                sphere.after(server, host);
            }
            served
        }
        // The package has answered itself.
        Ok(Err(package)) => {
            attempt.refused(server);
            answer::was_given(server, Method::Publish, package)
        }
        Err(rejection) => {
            attempt.refused(server);
            let (event, call_id) = (request.event, request.id.call_id);
            let asked = Asked { method: Method::Publish, event, call_id };
            answer::refuse(server, host, incoming, asked, rejection)
        }
    }
}

fn accept<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    incoming: &mut dyn Incoming,
    request: &PublishRequest<'_>,
) -> Result<Result<Accepted<M>, PackageId>, Rejection> {
    request.demands.of_publish(request.id.cseq)?;
    let (package_id, package, _) = server.package(request.event)?;
    if package.kind == Kind::WatcherInfo {
        return Err(server.bad_event());
    }
    let has_body = !request.body.is_empty();
    let kind = match (request.if_match, has_body) {
        (None, _) => PublicationKind::Initial,
        (Some(_), false) => PublicationKind::BodylessRefresh,
        (Some(_), true) => PublicationKind::Modification,
    };
    let requested = expires::parse(request.expires)?;
    let granted = server.publication_lifetimes(host.now()).publication(
        requested,
        package.default_expires,
        kind,
    )?;
    let step = step(request.if_match, has_body, granted)?;
    if has_body && !content_type::acceptable(request.content_type, &package.content_type) {
        return Err(unsupported_media(package));
    }
    let publishing = PublicationRequest {
        package_id,
        package,
        key: server.store.key(request.presentity.user, request.presentity.host, package_id),
        step,
        if_match: request.if_match,
        own_tag: None,
        expires: granted,
        for_ever: false,
        sender: request.sender,
        body: request.body,
        origin: Origin::Here { domain: request.presentity.host },
    };
    limits::check_document(server, &publishing)?;
    limits::check_publish_gap(server, host, &publishing)?;
    match incoming.check_publication(package_id) {
        PackageVerdict::Accepted => {}
        PackageVerdict::Refused { replied: true } => return Ok(Err(package_id)),
        PackageVerdict::Refused { replied: false } => return Err(unsupported_media(package)),
    }
    let accepted = publish(server, host, &publishing)?;
    limits::published(server, host, &publishing, &accepted.answer.entity_tag);
    let created = (step == Step::Create).then_some(publishing.key);
    Ok(Ok(Accepted { created, ..accepted }))
}

/// Nobody has been told the entity-tag of a new publication: it would stay until it
/// expires, beside the one that its publisher makes instead. (A change stays: its
/// publisher makes a new publication as after any lost reply.)
fn withdraw<M: Memory>(server: &Server<M>, host: &mut dyn Host, key: PresentityKey, tag: &[u8]) {
    let Some(package) = server.registry.get(key.package) else { return };
    // It is not shown closed.
    let silent = EventPackage { aggregates: false, ..package.clone() };
    let domain = key.host.clone();
    let removal = PublicationRequest {
        package_id: key.package,
        package: &silent,
        key,
        step: Step::Remove,
        if_match: Some(tag),
        own_tag: None,
        expires: 0,
        for_ever: false,
        sender: None,
        body: b"",
        origin: Origin::Here { domain: &domain },
    };
    match publish(server, host, &removal) {
        Ok(removed) => {
            if let Some(lane) = removed.lane {
                notifier::run(server, host, lane, Budget::WORKER);
            }
        }
        Err(refused) => {
            let rejection = Rejection::from(refused);
            let line = format_args!(
                "a publication whose 200 could not be sent stays until it expires: {}",
                rejection.reason
            );
            host.log(crate::ports::Level::Error, line);
        }
    }
}

/// 415 with what the package takes (RFC 3903 6 step 6).
fn unsupported_media(package: &EventPackage) -> Rejection {
    let mut headers = b"Accept: ".to_vec();
    headers.extend_from_slice(&package.content_type);
    headers.extend_from_slice(b"\r\n");
    Rejection { headers, ..Rejection::new(415, "Unsupported media type") }
}

/// Makes or changes a publication without a request, for a sibling or a peer, and
/// notifies the watchers.
pub fn publish_for_sibling<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    publishing: &PublicationRequest<'_>,
) -> Result<(), Refused> {
    let checked = limits::check_document(server, publishing).map_err(Refused::from);
    let accepted =
        checked.and_then(|()| publish(server, host, publishing)).inspect_err(|refused| {
            if let Refused::Request(rejection) = refused {
                let tag = publishing.own_tag.unwrap_or_default();
                limits::report(server, host, ("publication", tag), rejection);
            }
        })?;
    accepted.for_peers.into_iter().for_each(|message| message.put(server, host));
    if let Some(lane) = accepted.lane {
        notifier::run(server, host, lane, Budget::WORKER);
    }
    if let Some(sphere) = accepted.sphere {
        sphere.after(server, host);
    }
    Ok(())
}

fn publish<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    publishing: &PublicationRequest<'_>,
) -> Result<Accepted<M>, Refused> {
    let now = host.now();
    let has_body = !publishing.body.is_empty() && publishing.step != Step::Remove;
    let dialogs = (publishing.package.is_dialog() && has_body)
        .then(|| dialog_info::summary(publishing.body))
        .flatten();
    if publishing.package.is_shared_line() && has_body && dialogs.is_none() {
        return Err(unsupported_media(publishing.package).into());
    }
    let sphere = Watched::before(server, host, &publishing.key, publishing.package);
    let tag = next_tag(host, publishing);
    let ruid = next_ruid(host, publishing);
    let facts = dialogs.as_ref().map(Facts::of);
    let dialog_id = dialogs.and_then(|info| info.first_id).unwrap_or_default();
    let change = PublicationChange {
        step: publishing.step,
        if_match: publishing.if_match,
        entity_tag: &tag,
        ruid: &ruid,
        sender: publishing.sender,
        body: has_body.then_some(publishing.body),
        facts: if has_body { Some(facts.unwrap_or_default()) } else { None },
        dialog_id: &dialog_id,
        expires_at: (!publishing.for_ever).then(|| now + i64::from(publishing.expires)),
        now: match publishing.origin {
            Origin::Peer { received, .. } => received.min(now),
            Origin::Here { .. } => now,
        },
        priority: priority(server, host, now),
        judged_by: None,
    };
    let announced = server.config.expires_policy().announced(publishing.expires);
    let begun = Begun::new(server, host, publishing, &change);
    let applied = match server.publications().publish(server, host, publishing, &change) {
        Ok(Applied::Reopens(stored)) => reopened::apply(server, host, publishing, &change, stored),
        applied => applied,
    };
    let applied = applied.inspect_err(|_| {
        begun.iter().for_each(|begun| begun.failed(server, publishing, &change));
    })?;
    let made = match &applied {
        Applied::Made(made) => Some(&*made.ruid),
        Applied::Unchanged | Applied::Reopens(_) => None,
    };
    let for_peers = begun.and_then(|begun| begun.done(server, publishing, &change, made));
    let old_tag = || publishing.if_match.unwrap_or_default().to_vec();
    let (entity_tag, lane, sphere) = match (applied, publishing.step) {
        (Applied::Unchanged | Applied::Reopens(_), _) => (old_tag(), None, None),
        // A removal answers with the tag that has just died, as stock does.
        (Applied::Made(made), Step::Remove) => (old_tag(), made.lane, sphere),
        (Applied::Made(made), _) => (tag, made.lane, sphere),
    };
    let answer = Answer { code: 200, expires: announced, entity_tag };
    let package = publishing.package_id;
    Ok(Accepted { package, answer, lane, sphere, created: None, for_peers })
}

/// The `ruid` of a new publication; another one keeps what it has.
fn next_ruid(host: &mut dyn Host, publishing: &PublicationRequest<'_>) -> Vec<u8> {
    match (publishing.step, &publishing.origin) {
        (Step::Create, Origin::Peer { ruid, .. }) if !ruid.is_empty() => ruid.to_vec(),
        (Step::Create, _) => ruid(host),
        (Step::Refresh | Step::Modify | Step::Remove, _) => Vec::new(),
    }
}

/// The `priority` column: what the script has set, or what rises with time
/// (manual 3.30); 0 where scripts set nothing.
fn priority<M: Memory>(server: &Server<M>, host: &mut dyn Host, now: i64) -> i32 {
    let Some(root) = &server.config.xavp_cfg else { return 0 };
    let number = host.script_number(root, b"priority").unwrap_or(now - PRIORITY_BASE);
    i32::try_from(number).unwrap_or(if number < 0 { i32::MIN } else { i32::MAX })
}

fn next_tag(host: &mut dyn Host, publishing: &PublicationRequest<'_>) -> Vec<u8> {
    match (publishing.if_match, publishing.own_tag) {
        (_, Some(own)) => own.to_vec(),
        (Some(tag), None) if publishing.package.keeps_entity_tag => tag.to_vec(),
        (Some(tag), None) => match EntityTag::received(tag) {
            Some(known) => known.successor(host.random()).into_bytes(),
            None => tag.to_vec(),
        },
        (None, None) => EntityTag::mint(host.random(), 0).into_bytes(),
    }
}

/// A `ruid`: unique among all servers on one database.
fn ruid(host: &mut dyn Host) -> Vec<u8> {
    let mut ruid = RUID_PREFIX.to_vec();
    text::push_hexadecimal(&mut ruid, &host.random());
    ruid
}

/// The 200.
fn ok<M: Memory>(server: &Server<M>, request: &PublishRequest<'_>, answer: &Answer) -> Reply {
    let mut headers = Vec::with_capacity(128);
    headers.extend_from_slice(b"Expires: ");
    text::push_decimal(&mut headers, answer.expires);
    headers.extend_from_slice(b"\r\nSIP-ETag: ");
    headers.extend_from_slice(&answer.entity_tag);
    headers.extend_from_slice(b"\r\n");
    if let Some(address) = &server.config.server_address {
        headers.extend_from_slice(b"Contact: <");
        headers.extend_from_slice(&contact_uri(address, request.socket));
        headers.extend_from_slice(b">\r\n");
    }
    Reply { code: answer.code, reason: "OK", headers }
}
