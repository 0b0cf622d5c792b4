//! The final answer to a NOTIFY, or its timeout.

use crate::ports::{Host, Level};
use crate::presence::subscription::ends_subscription;
use crate::service::Server;
use crate::shm::Memory;
use crate::store::Token;

/// Ends the subscription if the answer says that its watcher is gone. `code`
/// is 408 for a timeout.
pub fn handle<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    token: Token,
    code: u16,
    has_retry_after: bool,
) {
    let script_decides = server.config.xavp_cfg.is_some();
    if !ends_subscription(code, has_retry_after, server.config.timeout_rm_subs, script_decides) {
        return;
    }
    end(server, host, token, code);
}

/// Ends a subscription whose watcher is gone, or that the script gives up
/// (`delete_subscription` of `xavp_cfg`).
pub fn end<M: Memory>(server: &Server<M>, host: &mut dyn Host, token: Token, code: u16) {
    if server.store.remove_subscription(token) {
        host.log(Level::Debug, format_args!("subscription ended after {code} to its NOTIFY"));
    }
    server.wake_senders(host);
}
