//! The final answer to a NOTIFY, or its timeout.

use crate::ports::{Host, Level};
use crate::presence::subscription::{Snapshot, ends_subscription};
use crate::service::{Server, subscriptions};
use crate::shm::Memory;
use crate::store::Token;

/// Ends the subscription if the answer says that its watcher is gone. `code`
/// is 408 for a timeout. `subscription` is that of the NOTIFY; where
/// subscriptions are rows, nothing else names it.
pub fn handle<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    token: Token,
    subscription: Option<&Snapshot>,
    code: u16,
    has_retry_after: bool,
) {
    let script_decides = server.config.xavp_cfg.is_some();
    if !ends_subscription(code, has_retry_after, server.config.timeout_rm_subs, script_decides) {
        return;
    }
    end(server, host, token, subscription, code);
}

/// Ends a subscription whose watcher is gone, or that the script gives up
/// (`delete_subscription` of `xavp_cfg`).
pub fn end<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    token: Token,
    subscription: Option<&Snapshot>,
    code: u16,
) {
    let ended = match (token, subscription) {
        (Token::ROW, Some(subscription)) => subscriptions::remove_row(server, host, subscription)
            .unwrap_or_else(|fault| {
                let line = format_args!("a subscription stays until it expires: {fault}");
                host.log(Level::Error, line);
                false
            }),
        (Token::ROW, None) => false,
        (token, _) => server.store.remove_subscription(token),
    };
    if ended {
        host.log(Level::Debug, format_args!("subscription ended after {code} to its NOTIFY"));
    }
    server.wake_senders(host);
}
