//! SUBSCRIBE (RFC 6665): judge, store, answer, notify.

use crate::error::{Fault, Rejection};
use crate::ports::{Host, Incoming, PackageVerdict, Reply};
use crate::presence::cseq::CSeq;
use crate::presence::event_package::{EventPackage, Kind, PackageId};
use crate::presence::expires;
use crate::presence::explain::EndReason;
use crate::presence::measures::Method;
use crate::presence::notify_headers::contact_uri;
use crate::presence::presentity::PresentityKey;
use crate::presence::renewal::Renewal;
use crate::presence::request::{SubscribeRequest, UriParts};
use crate::presence::subscription::{Authorization, DialogId, Ending, Snapshot, Status, Text};
use crate::presence::transition::Refusal;
use crate::presence::winfo::WatcherNews;
use crate::presence::{text, uri};
use crate::service::answer::{self, Asked, RequestOutcome};
use crate::service::authorization::authorize;
use crate::service::notifier::{self, Budget};
use crate::service::subscriptions::{self, AcceptedSubscription};
use crate::service::{Arrival, Server, TrackedRequest, ends, limits, replication};
use crate::shm::Memory;
use crate::store::retransmissions::Answer;

/// What is to be done once the 2xx has left.
enum Afterwards {
    /// Notify the stored subscription.
    Release(AcceptedSubscription),
    /// Send one NOTIFY to a watcher of whom nothing is stored.
    Once { key: PresentityKey, subscription: Box<Snapshot>, ending: Ending },
}

/// A SUBSCRIBE that is in order.
struct Accepted {
    package: PackageId,
    expires: u32,
    afterwards: Afterwards,
}

/// Serves a SUBSCRIBE.
pub fn handle<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    incoming: &mut dyn Incoming,
    request: &SubscribeRequest<'_>,
) -> RequestOutcome {
    let (now, UriParts { user, host: domain }) = (host.now(), request.watcher);
    server.store.request_came(incoming.source(), (user, domain), now);
    let attempt = match TrackedRequest::begin(server, incoming, b"SUBSCRIBE", request.id, now) {
        Arrival::New(attempt) => attempt,
        Arrival::InProgress => return answer::leave(server),
        Arrival::Answered(answer) => {
            return answer::repeat(server, incoming, &ok(answer.code, answer.expires, request));
        }
    };
    match accept(server, host, incoming, request) {
        // The package has answered itself.
        Ok(Err(package)) => {
            attempt.refused(server);
            answer::was_given(server, Method::Subscribe, package)
        }
        Ok(Ok(accepted)) => {
            let code = success_code(server, accepted.package);
            let answer = Answer { code, expires: accepted.expires, entity_tag: Vec::new() };
            attempt.answered(server, &answer);
            let of = (Method::Subscribe, accepted.package);
            let reply = ok(code, accepted.expires, request);
            let served = answer::accept(server, incoming, of, &reply);
            if !served.is_accepted() {
                attempt.refused(server);
                unanswered(server, host, accepted);
            } else {
                afterwards(server, host, accepted);
            }
            served
        }
        Err(rejection) => {
            attempt.refused(server);
            ends::refused(server, host, request, rejection.code);
            let (event, call_id) = (request.event, request.id.call_id);
            let asked = Asked { method: Method::Subscribe, event, call_id };
            answer::refuse(server, host, incoming, asked, rejection)
        }
    }
}

fn accept<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    incoming: &mut dyn Incoming,
    request: &SubscribeRequest<'_>,
) -> Result<Result<Accepted, PackageId>, Rejection> {
    request.demands.of_subscribe(request.id.cseq)?;
    let (package_id, package, event) = server.package(request.event)?;
    let requested = expires::parse(request.expires)?;
    let policy = server.subscription_lifetimes(host.now());
    let expires = policy.subscription(requested, package.default_expires)?;
    // Who ends a subscription gets no more documents that matter.
    if (request.to_tag.is_none() || expires > 0)
        && let Err(rejection) = request.demands.documents(&package.content_type)
    {
        return Err(of_dialog(server, host, request, package_id)?.unwrap_or(rejection));
    }
    match incoming.check_subscription(package_id) {
        PackageVerdict::Accepted => {}
        PackageVerdict::Refused { replied: true } => return Ok(Err(package_id)),
        PackageVerdict::Refused { replied: false } => return Err(Fault::Package.into()),
    }
    let afterwards = match request.to_tag {
        Some(to_tag) => {
            let event_id = event.parameter(b"id");
            renew(server, host, incoming, request, to_tag, (package_id, event_id), expires)?
        }
        None => {
            initial(server, host, incoming, request, (package_id, package), event.id(), expires)?
        }
    };
    Ok(Ok(Accepted { package: package_id, expires, afterwards }))
}

/// 481 where a request that is to be refused names a dialog that there is not,
/// or not of this package: it is that which its watcher has to know.
fn of_dialog<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    request: &SubscribeRequest<'_>,
    package: PackageId,
) -> Result<Option<Rejection>, Fault> {
    let Some(to_tag) = request.to_tag else { return Ok(None) };
    let dialog = DialogId { call_id: request.id.call_id, from_tag: request.id.from_tag, to_tag };
    let known = subscriptions::find(server, host, dialog)?;
    let is_same = known.is_some_and(|subscription| subscription.package == package);
    Ok((!is_same).then(|| subscriptions::rejection(Refusal::Unknown)))
}

fn renew<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    incoming: &mut dyn Incoming,
    request: &SubscribeRequest<'_>,
    to_tag: &[u8],
    (package, event_id): (PackageId, Option<&[u8]>),
    expires: u32,
) -> Result<Afterwards, Rejection> {
    let dialog = DialogId { call_id: request.id.call_id, from_tag: request.id.from_tag, to_tag };
    let renewal = Renewal {
        package,
        event_id,
        cseq: request.id.cseq,
        cseq_offset: server.config.cseq_offset,
        expires,
        now: host.now(),
        contact: request.contact,
        socket: request.socket,
        local_contact: &request.local_contact,
        flags: request.flags,
    };
    if expires > 0 {
        let watcher = (request.watcher.user, request.watcher.host);
        limits::check_refresh_gap(server, host, dialog, watcher)?;
    }
    match subscriptions::renew(server, host, dialog, &renewal)? {
        Ok(stored) => {
            limits::refreshed(server, host, dialog);
            if incoming.shows_subscriptions()
                && let Some(subscription) = subscriptions::shown(server, host, &stored)
            {
                incoming.accepted(&subscription, false);
            }
            Ok(Afterwards::Release(stored))
        }
        Err(refusal) => Err(subscriptions::rejection(refusal)),
    }
}

fn initial<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    incoming: &mut dyn Incoming,
    request: &SubscribeRequest<'_>,
    (package_id, package): (PackageId, &EventPackage),
    event_id: &[u8],
    expires: u32,
) -> Result<Afterwards, Rejection> {
    let to_tag = incoming.reply_to_tag()?;
    let (user, presentity_host) = if package.is_shared_line() {
        (request.contact_user, request.from.host)
    } else {
        (request.presentity.user, request.presentity.host)
    };
    let key = server.store.key(user, presentity_host, package_id);
    if package.kind == Kind::WatcherInfo && server.config.winfo_presentity_only {
        let (user, domain) = (request.watcher.user, request.watcher.host);
        if server.store.key(user, domain, package_id).identity != key.identity {
            return Err(Rejection::new(403, "Forbidden"));
        }
    }
    let mut subscription = snapshot(request, package_id, &to_tag, &key, event_id, expires)?;
    let Authorization { status, reason } = authorize(server, host, package, &subscription)?;
    subscription.status = status;
    subscription.set_text(Text::Reason, &reason).map_err(|_| too_long())?;
    let is_blocked = status == Status::Terminated;
    if is_blocked || expires == 0 {
        let ended = subscriptions::fetch(server, host, &key, &subscription)?;
        incoming.accepted(&subscription, true);
        if let Some(ended) = ended {
            return Ok(Afterwards::Release(ended));
        }
        let ending = if is_blocked { Ending::Rejected } else { Ending::Unsubscribed };
        if is_blocked {
            server.store.watcher_row_changed(&key, &subscription, WatcherNews::rejected());
        }
        return Ok(Afterwards::Once { key, subscription: Box::new(subscription), ending });
    }
    incoming.accepted(&subscription, true);
    Ok(Afterwards::Release(subscriptions::insert(server, host, &key, &subscription)?))
}

fn too_long() -> Rejection {
    Rejection::new(400, "Header Fields Too Long")
}

fn snapshot(
    request: &SubscribeRequest<'_>,
    package: PackageId,
    to_tag: &[u8],
    key: &PresentityKey,
    event_id: &[u8],
    expires: u32,
) -> Result<Snapshot, Rejection> {
    let watcher = uri::user::stored(request.watcher.user);
    let block = text::pack::<Text>(|n| match Text::ALL[n] {
        Text::CallId => request.id.call_id,
        Text::FromTag => request.id.from_tag,
        Text::ToTag => to_tag,
        Text::PresentityUser => &key.user,
        Text::PresentityHost => &key.host,
        Text::ToUser => request.to.user,
        Text::ToHost => request.to.host,
        Text::FromUser => request.from.user,
        Text::FromHost => request.from.host,
        Text::WatcherUser => &watcher,
        Text::WatcherHost => request.watcher.host,
        Text::Contact => request.contact,
        Text::LocalContact => &request.local_contact,
        Text::RecordRoute => &request.record_route,
        Text::Socket => request.socket,
        Text::EventId => event_id,
        Text::UserAgent => request.user_agent,
        Text::Reason => b"",
    })
    .map_err(|_| too_long())?;
    let mut snapshot = Snapshot::new(package, block);
    if !snapshot.has_room() {
        return Err(too_long());
    }
    snapshot.remote_cseq = request.id.cseq;
    snapshot.local_cseq = CSeq(1);
    snapshot.expires = expires;
    snapshot.flags = request.flags;
    Ok(snapshot)
}

/// The 2xx could not be sent. Who asked for something new has got nothing; what there
/// was before has changed.
fn unanswered<M: Memory>(server: &Server<M>, host: &mut dyn Host, accepted: Accepted) {
    match &accepted.afterwards {
        Afterwards::Release(stored) if !subscriptions::withdraw(server, host, stored) => {
            afterwards(server, host, accepted);
        }
        Afterwards::Release(_) | Afterwards::Once { .. } => {}
    }
}

fn afterwards<M: Memory>(server: &Server<M>, host: &mut dyn Host, accepted: Accepted) {
    match accepted.afterwards {
        Afterwards::Release(stored) => {
            let token = stored.token();
            if let Some(lane) = subscriptions::release(server, host, stored) {
                notifier::run(server, host, lane, Budget::WORKER);
            }
            replication::subscriptions::changed(server, host, token);
        }
        Afterwards::Once { key, subscription, ending } => {
            let reason = match ending {
                Ending::Unsubscribed => EndReason::Fetch,
                ending => EndReason::Ended(ending),
            };
            ends::never_began(server, host, &subscription, reason);
            let Some(package) = server.registry.get(accepted.package) else { return };
            let call_id = subscription.text(Text::CallId).to_vec();
            if let Err(fault) =
                notifier::send_stateless(server, host, &key, package, *subscription, ending)
            {
                host.log(
                    crate::ports::Level::Error,
                    format_args!("NOTIFY not sent: {fault} (Call-ID {})", call_id.escape_ascii()),
                );
            }
        }
    }
    server.wake_senders(host);
}

/// 200, or as the older manuals have it 202 for published state (B1).
fn success_code<M: Memory>(server: &Server<M>, package: PackageId) -> u16 {
    let publishes = server.registry.get(package).is_some_and(|p| p.kind == Kind::Publication);
    if publishes && !server.config.subs_respond_200 { 202 } else { 200 }
}

/// The 2xx.
fn ok(code: u16, expires: u32, request: &SubscribeRequest<'_>) -> Reply {
    let mut headers = Vec::with_capacity(128);
    headers.extend_from_slice(b"Expires: ");
    text::push_decimal(&mut headers, expires);
    headers.extend_from_slice(b"\r\nContact: <");
    headers.extend_from_slice(&contact_uri(&request.local_contact, request.socket));
    headers.extend_from_slice(b">\r\n");
    Reply { code, reason: "OK", headers }
}
