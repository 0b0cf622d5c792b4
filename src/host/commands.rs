//! The script functions, from Kamailio's message to the service.

use crate::error::Rejection;
use crate::host::log::{Printable, log_error};
use crate::host::message::{Message, parts};
use crate::host::reply::Request;
use crate::host::state::{self, KamailioServer};
use crate::host::variables;
use crate::host::worker::Worker;
use crate::host::{boundary, script, sys};
use crate::ports::Incoming;
use crate::presence::measures::Method;
use crate::presence::request::{SubscribeRequest, UriParts};
use crate::presence::subscription::DialogId;
use crate::service::answer::{self, Asked, RequestOutcome};
use crate::service::refresh::{self, Refresh, Refusal};
use crate::service::{publish, subscribe, subscriptions, watchers};

const SUCCESS: i32 = 1;
const FAILURE: i32 = -1;

/// `handle_publish([sender_uri])`.
pub fn handle_publish(message: Message<'_>, sender: Option<&[u8]>) -> i32 {
    let Some(server) = state::server() else { return not_running() };
    let mut host = Worker::default();
    let mut incoming = Request::new(message);
    result(match message.publish(sender) {
        Ok(request) => publish::handle(server, &mut host, &mut incoming, &request),
        Err(rejection) => {
            let asked = asked(message, Method::Publish);
            answer::refuse(server, &mut host, &mut incoming, asked, rejection)
        }
    })
}

/// `handle_subscribe([watcher_uri])`.
pub fn handle_subscribe(message: Message<'_>, watcher: Option<&[u8]>) -> i32 {
    let Some(server) = state::server() else { return not_running() };
    // The script's parameter may be a value of `$subs`: what it points into
    // stays until the end.
    let _former = variables::set_subscription(None);
    let mut host = Worker::default();
    let address = server.config.server_address.as_deref().unwrap_or_default();
    match message.subscribe(watcher, address) {
        Ok(request) => {
            let mut incoming = match request.to_tag {
                Some(_) => Request::new(message),
                None => Request::establishing(message),
            };
            let served = subscribe::handle(server, &mut host, &mut incoming, &request);
            drop(host);
            if served.is_accepted() {
                set_script_variables(server, &mut incoming, &request);
            }
            result(served)
        }
        Err(rejection) => {
            let mut incoming = Request::new(message);
            let asked = asked(message, Method::Subscribe);
            result(answer::refuse(server, &mut host, &mut incoming, asked, rejection))
        }
    }
}

/// What the script is told of an accepted SUBSCRIBE: the To tag
/// (`totag_avpid`) and, of one that was answered before, the subscription.
fn set_script_variables(
    server: &KamailioServer,
    incoming: &mut Request<'_>,
    request: &SubscribeRequest<'_>,
) {
    let avp = server.config.to_tag_avp;
    let again = server.config.pres_subs_mode && !variables::shows_subscription();
    if avp.is_none() && !again {
        return;
    }
    let to_tag = match request.to_tag {
        Some(tag) => tag.to_vec(),
        None => incoming.reply_to_tag().unwrap_or_default(),
    };
    if let Some(id) = avp {
        script::set_avp(id, &to_tag);
    }
    if again {
        let dialog = DialogId {
            call_id: request.id.call_id,
            from_tag: request.id.from_tag,
            to_tag: &to_tag,
        };
        let known = subscriptions::find(server, &mut Worker::default(), dialog);
        if let Ok(Some(subscription)) = known {
            incoming.accepted(&subscription, false);
        }
    }
}

/// Number of a polite block: active, but nothing is shown.
const POLITE_BLOCK: i32 = 5;

/// `pres_auth_status(watcher, presentity)`.
pub fn auth_status(watcher: &[u8], presentity: &[u8]) -> i32 {
    let Some(server) = state::server() else { return not_running() };
    let (Some(watcher), Some(presentity)) = (uri(watcher), uri(presentity)) else {
        return FAILURE;
    };
    match watchers::auth_status(server, &mut Worker::default(), watcher, presentity) {
        Ok((_, true)) => POLITE_BLOCK,
        Ok((status, false)) => status as i32,
        Err(fault) => {
            log_error!("pres_auth_status: {fault}");
            FAILURE
        }
    }
}

/// `pres_has_subscribers(uri, event)`.
pub fn has_subscribers(presentity: &[u8], event: &[u8]) -> i32 {
    let Some(server) = state::server() else { return not_running() };
    let Some((package, _)) = refresh::package(server, event) else {
        log_error!("pres_has_subscribers: event {} is not registered", Printable(event));
        return FAILURE;
    };
    let Some(presentity) = uri(presentity) else { return FAILURE };
    let key = server.store.key(presentity.user, presentity.host, package);
    match subscriptions::has_subscribers(server, &mut Worker::default(), &key) {
        Ok(true) => SUCCESS,
        Ok(false) => FAILURE,
        Err(fault) => {
            log_error!("pres_has_subscribers: {fault}");
            FAILURE
        }
    }
}

/// `pres_update_watchers(uri, event)`.
pub fn update_watchers(presentity: &[u8], event: &[u8]) -> i32 {
    if refresh(presentity, event, Refresh::Authorization) { SUCCESS } else { FAILURE }
}

/// `pres_refresh_watchers(uri, event, type[, file_uri, filename])`.
pub fn refresh_watchers(
    presentity: &[u8],
    event: &[u8],
    kind: i64,
    file: Option<(&[u8], &[u8])>,
) -> i32 {
    let what = match (kind, file) {
        (2, Some((file, name))) if !file.is_empty() && !name.is_empty() => {
            Refresh::HardState { file, name }
        }
        (2, _) | (_, Some(_)) => {
            log_error!("pres_refresh_watchers: file_uri and filename belong to type 2, not {kind}");
            return FAILURE;
        }
        (0, None) => Refresh::Authorization,
        (_, None) => Refresh::State,
    };
    if refresh(presentity, event, what) { SUCCESS } else { FAILURE }
}

/// Refreshes watchers; says in the log why not.
pub fn refresh(presentity: &[u8], event: &[u8], what: Refresh<'_>) -> bool {
    let Some(server) = state::server() else {
        not_running();
        return false;
    };
    let Some(parts) = uri(presentity) else { return false };
    match refresh::refresh(server, &mut Worker::default(), parts, event, what) {
        Ok(()) => true,
        // Nothing is wrong with a presentity that has no rules.
        Err(Refusal::Rules) => false,
        Err(refusal) => {
            log_error!("watchers of {} not refreshed: {refusal}", Printable(presentity));
            false
        }
    }
}

fn uri(text: &[u8]) -> Option<UriParts<'_>> {
    let parts = parts(text);
    if parts.is_none() {
        log_error!("{} is no URI", Printable(text));
    }
    parts
}

/// Answers a request whose handling broke off, so that its sender need not
/// wait for a time-out.
pub fn answer_failure(message: Message<'_>, method: Method) {
    let mut incoming = Request::resume(message);
    if let Some(server) = state::server()
        && !incoming.answered()
    {
        let rejection = Rejection::new(500, "Server Internal Error");
        let (asked, mut host) = (asked(message, method), Worker::default());
        let _ = answer::refuse(server, &mut host, &mut incoming, asked, rejection);
    }
}

/// A request that was not read, or not served to its end.
fn asked(message: Message<'_>, method: Method) -> Asked<'_> {
    Asked { method, event: None, call_id: message.call_id() }
}

fn result(served: RequestOutcome) -> i32 {
    if served.is_accepted() { SUCCESS } else { FAILURE }
}

fn not_running() -> i32 {
    log_error!("the presence server is not running");
    FAILURE
}

/// Serves the request in hand. After a panic it is answered with 500, unless
/// it was answered before.
///
/// # Safety
/// `msg` is NULL or the request being routed.
pub unsafe fn serve(
    (name, method): (&'static str, Method),
    msg: *mut sys::sip_msg,
    body: impl FnOnce(Message<'_>) -> i32,
) -> i32 {
    // SAFETY: the shim passes what the script's function was called with: NULL,
    // or the request being routed, which stays during this call.
    let Some(message) = (unsafe { Message::new(msg) }) else { return -1 };
    let served = boundary::enter(name, None, || Some(body(message)));
    served.unwrap_or_else(|| {
        boundary::enter("answer_failure", (), || answer_failure(message, method));
        -1
    })
}
