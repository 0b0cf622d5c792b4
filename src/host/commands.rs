//! The script functions, from Kamailio's message to the service.

use crate::error::Rejection;
use crate::host::log::log_error;
use crate::host::message::Message;
use crate::host::module;
use crate::host::reply::Request;
use crate::host::worker::Worker;
use crate::service::{self, Served, publish, subscribe};

const SUCCESS: i32 = 1;
const FAILURE: i32 = -1;

/// `handle_publish([sender_uri])`.
pub fn handle_publish(message: Message<'_>, sender: Option<&[u8]>) -> i32 {
    let Some(server) = module::server() else { return not_running() };
    let mut host = Worker::default();
    let mut incoming = Request::new(message);
    result(match message.publish(sender) {
        Ok(request) => publish::handle(server, &mut host, &mut incoming, &request),
        Err(rejection) => {
            service::refuse(&mut host, &mut incoming, "PUBLISH", message.call_id(), rejection)
        }
    })
}

/// `handle_subscribe([watcher_uri])`.
pub fn handle_subscribe(message: Message<'_>, watcher: Option<&[u8]>) -> i32 {
    let Some(server) = module::server() else { return not_running() };
    let mut host = Worker::default();
    let mut incoming = Request::new(message);
    let address = server.config.server_address.as_deref().unwrap_or_default();
    result(match message.subscribe(watcher, address) {
        Ok(request) => subscribe::handle(server, &mut host, &mut incoming, &request),
        Err(rejection) => {
            service::refuse(&mut host, &mut incoming, "SUBSCRIBE", message.call_id(), rejection)
        }
    })
}

/// Answers a request whose handling broke off, so that its sender need not
/// wait for a time-out.
pub fn answer_failure(message: Message<'_>) {
    let mut incoming = Request::resume(message);
    if !incoming.answered() {
        let rejection = Rejection::new(500, "Server Internal Error");
        let mut host = Worker::default();
        let _ = service::refuse(&mut host, &mut incoming, "request", message.call_id(), rejection);
    }
}

fn result(served: Served) -> i32 {
    match served {
        Served::Yes => SUCCESS,
        Served::No => FAILURE,
    }
}

fn not_running() -> i32 {
    log_error!("the presence server is not running");
    FAILURE
}
