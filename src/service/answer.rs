//! The answer to a request: given, counted and, if it is a refusal, logged here and
//! nowhere else. Only what is done here makes a [`RequestOutcome`], which every request
//! has to end with; so none is missed in the counts.

use crate::error::Rejection;
use crate::ports::{Host, Incoming, Level, Reply};
use crate::presence::event_package::{Event, PackageId};
use crate::presence::measures::{Answer, Method, Total};
use crate::service::rate_limited_log::RateLimitedLog;
use crate::service::{Server, limits};
use crate::shm::Memory;

static FAULTS: RateLimitedLog = RateLimitedLog::new();

/// What the script function returns for a request: it was served, or an error
/// reply was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub struct RequestOutcome(bool);

impl RequestOutcome {
    /// It was accepted, now or before, and the reply says so.
    pub fn is_accepted(self) -> bool {
        self.0
    }
}

/// A request, as counts and the log name it.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// What it asks for.
    pub method: Method,
    /// Value of its Event header.
    pub event: Option<&'a [u8]>,
    /// Its Call-ID.
    pub call_id: &'a [u8],
}

impl Asked<'_> {
    /// The package that it names, if there is one.
    fn package<M: Memory>(&self, server: &Server<M>) -> Option<PackageId> {
        server.registry.serving(&Event::parse(self.event?.trim_ascii())?)
    }
}

/// Accepts a request. One whose reply cannot be sent is not accepted.
pub fn accept<M: Memory>(
    server: &Server<M>,
    incoming: &mut dyn Incoming,
    (method, package): (Method, PackageId),
    reply: &Reply,
) -> RequestOutcome {
    let counters = server.store.counters();
    let sent = incoming.reply(reply).is_ok();
    match sent {
        true => counters.answered(method, Some(package), Answer::of(reply.code)),
        false => counters.count(Total::Unanswered),
    }
    RequestOutcome(sent)
}

/// Answers a request that has come again as it was answered before.
pub fn repeat<M: Memory>(
    server: &Server<M>,
    incoming: &mut dyn Incoming,
    reply: &Reply,
) -> RequestOutcome {
    server.store.counters().count(Total::Repeated);
    RequestOutcome(incoming.reply(reply).is_ok())
}

/// Leaves a request that has come again to whoever is at it.
pub fn leave<M: Memory>(server: &Server<M>) -> RequestOutcome {
    server.store.counters().count(Total::Repeated);
    RequestOutcome(true)
}

/// A sibling has refused the request, and has said so itself.
pub fn was_given<M: Memory>(
    server: &Server<M>,
    method: Method,
    package: PackageId,
) -> RequestOutcome {
    server.store.counters().answered(method, Some(package), Answer::Other);
    RequestOutcome(false)
}

/// Refuses a request, and says so in the log once.
pub fn refuse<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    incoming: &mut dyn Incoming,
    asked: Asked<'_>,
    rejection: Rejection,
) -> RequestOutcome {
    let counters = server.store.counters();
    counters.answered(asked.method, asked.package(server), Answer::of(rejection.code));
    limits::report(server, host, (asked.method.name(), asked.call_id), &rejection);
    let level = match rejection.code {
        _ if rejection.is_fault => Level::Error,
        // `limits::report` writes one line for many.
        _ if rejection.exceeded.is_some() => Level::Debug,
        412 | 481 | 423 => Level::Debug,
        _ => Level::Info,
    };
    let reply =
        Reply { code: rejection.code, reason: rejection.reason, headers: rejection.headers };
    let sent = incoming.reply(&reply).is_ok();
    if !sent {
        counters.count(Total::Unanswered);
    }
    if host.logs(level) {
        let failed = if sent { "" } else { ", and the reply could not be sent" };
        let (method, call_id) = (asked.method.name(), asked.call_id.escape_ascii());
        let Reply { code, reason, .. } = reply;
        let line = format_args!("{method} refused: {code} {reason}{failed} (Call-ID {call_id})");
        // A database that is away refuses thousands.
        match rejection.is_fault {
            true => FAULTS.log(host, level, line),
            false => host.log(level, line),
        }
    }
    RequestOutcome(false)
}
