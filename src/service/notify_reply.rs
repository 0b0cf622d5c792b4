//! The final answer to a NOTIFY, or its timeout.

use crate::ports::{Host, Level};
use crate::presence::cseq::CSeq;
use crate::presence::event_package::PackageId;
use crate::presence::explain::EndReason;
use crate::presence::measures::{NotifyResult, StateShown};
use crate::presence::notify_fate::NotifyFate;
use crate::presence::subscription::{Snapshot, Text, ends_subscription};
use crate::service::rate_limited_log::RateLimitedLog;
use crate::service::{Server, ends, subscriptions};
use crate::shm::Memory;
use crate::store::Token;
use crate::store::rows::dialog_of;

static GONE: RateLimitedLog = RateLimitedLog::new();

/// Counts the final answer to a NOTIFY of this package and state; `received` is false
/// for one that the host has made itself.
pub fn count<M: Memory>(
    server: &Server<M>,
    package: PackageId,
    shown: StateShown,
    (code, received): (u16, bool),
) {
    server.store.counters().notify(package, shown, NotifyResult::answered(code, received));
}

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
    end_at(server, host, (token, subscription), None, EndReason::NotifyAnswered(code));
}

/// Remembers the final answer to the NOTIFY of this CSeq, whatever it leads to.
pub fn remember<M: Memory>(
    server: &Server<M>,
    host: &dyn Host,
    (token, subscription): (Token, Option<&Snapshot>),
    (cseq, code): (CSeq, u16),
) {
    let store = &server.store;
    match (token, subscription) {
        (Token::ROW, Some(row)) => {
            let fate = NotifyFate::Answered(code);
            store.remember_latest(dialog_of(row), cseq, fate, host.now());
        }
        (Token::ROW, None) => {}
        (token, _) => store.answered(token, cseq, code, host.now()),
    }
}

/// A NOTIFY could not be sent because the watcher's connection is gone, and only the
/// watcher could open another one. As if nobody had answered (B50). One that has
/// come over a new connection meanwhile has another Contact, and stays.
pub fn gone<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    token: Token,
    subscription: &Snapshot,
) {
    let ends = server.config.timeout_rm_subs;
    let what = if ends { "the subscription ends" } else { "its NOTIFYs are not sent" };
    let line = format_args!(
        "the connection of {} is gone: {what} (Call-ID {})",
        subscription.text(Text::Contact).escape_ascii(),
        subscription.text(Text::CallId).escape_ascii()
    );
    match ends {
        true => host.log(Level::Warning, line),
        // Each change finds it gone.
        false => GONE.log(host, Level::Warning, line),
    }
    if ends {
        let contact = Some(subscription.text(Text::Contact));
        end_at(server, host, (token, Some(subscription)), contact, EndReason::ConnectionGone);
    }
}

/// Ends a subscription that the script gives up (`delete_subscription` of `xavp_cfg`).
pub fn end<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    token: Token,
    subscription: Option<&Snapshot>,
) {
    end_at(server, host, (token, subscription), None, EndReason::Script);
}

/// Ends a subscription; with `contact` only as long as the watcher is to be reached
/// there.
fn end_at<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    (token, subscription): (Token, Option<&Snapshot>),
    contact: Option<&[u8]>,
    reason: EndReason,
) {
    // The record goes with its end.
    let copy = match token {
        Token::ROW => subscription.cloned(),
        token => server.store.subscription(token, host.now()),
    };
    let removed = subscriptions::remove(server, host, (token, subscription), contact);
    let ended = removed.unwrap_or_else(|fault| {
        let line = format_args!("a subscription stays until it expires: {fault}");
        host.log(Level::Error, line);
        false
    });
    if ended {
        host.log(Level::Debug, format_args!("subscription ended: {reason}"));
        if let Some(copy) = copy {
            ends::ended(server, host, &copy, reason);
        }
    }
    server.wake_senders(host);
}
