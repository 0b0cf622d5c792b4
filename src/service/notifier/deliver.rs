//! Builds a NOTIFY for one watcher and hands it to the host.

use std::borrow::Cow;

use crate::ports::{Host, Level, Notify, NotifyOutcome};
use crate::presence::event_package::EventPackage;
use crate::presence::measures::NotifyResult;
use crate::presence::notify_fate::NotifyFate;
use crate::presence::notify_headers::{self, SubscriptionState};
use crate::presence::subscription::{Ending, Snapshot, Status, Text};
use crate::service::compose::{Composition, for_watcher};
use crate::service::notifier::shortage::HostMemory;
use crate::service::rate_limited_log::RateLimitedLog;
use crate::store::Token;
use crate::store::counters::Counters;
use crate::store::lanes::PlannedNotify;

static LEFT_OUT: RateLimitedLog = RateLimitedLog::new();

/// What became of a NOTIFY.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub(super) enum Delivery {
    /// It was handed to the network.
    Sent,
    /// The script has dropped it.
    Dropped,
    /// It cannot be sent at all.
    Failed,
    /// Its watcher's connection is gone for good.
    Gone,
    /// There is no memory for it now: it is to be sent later, or given up if this was
    /// the last attempt.
    Postponed { given_up: bool },
}

impl Delivery {
    /// It is over, well or not: the next NOTIFY of its dialog may leave.
    pub fn is_done(self) -> bool {
        matches!(self, Delivery::Sent | Delivery::Dropped | Delivery::Failed)
    }

    /// There was no memory for it.
    pub fn is_postponed(self) -> bool {
        matches!(self, Delivery::Postponed { .. })
    }

    /// What it counts as; one that is to be tried again does not count yet.
    fn notified(self) -> Option<NotifyResult> {
        match self {
            Delivery::Sent => Some(NotifyResult::Sent),
            Delivery::Dropped => Some(NotifyResult::Dropped),
            Delivery::Failed | Delivery::Gone => Some(NotifyResult::Unsent),
            Delivery::Postponed { given_up } => given_up.then_some(NotifyResult::Unsent),
        }
    }
}

/// Counts what became of a NOTIFY: to be called once for each.
pub(super) fn count(counters: &Counters, notify: &PlannedNotify, delivery: Delivery) {
    if let Some(notified) = delivery.notified() {
        counters.notify(notify.subscription.package, notify.shown(), notified);
    }
}

impl Delivery {
    /// What is remembered of it.
    pub fn fate(self) -> NotifyFate {
        match self {
            Delivery::Sent => NotifyFate::Sent,
            Delivery::Dropped => NotifyFate::Dropped,
            Delivery::Failed => NotifyFate::Unroutable,
            Delivery::Gone => NotifyFate::ConnectionGone,
            Delivery::Postponed { .. } => NotifyFate::None,
        }
    }
}

/// Builds and sends one NOTIFY. Whatever goes wrong concerns this watcher only
/// (A10). Where there was no memory for a smaller one the host is not asked.
pub(super) fn deliver(
    host: &mut dyn Host,
    package: &EventPackage,
    composition: &Composition<'_>,
    notify: &PlannedNotify,
    host_memory: &mut HostMemory,
) -> Delivery {
    let subscription = &notify.subscription;
    let body = for_watcher(host, package, composition, notify).unwrap_or_else(|fault| {
        // Rather no document than one that the rules forbid.
        failed(host, subscription, format_args!("document left out: {fault}"));
        Cow::default()
    });
    let size = body.len() + subscription.block().len();
    let mut outcome = match host_memory.may_fit(size) {
        true => hand_to(host, package, notify, &body),
        false => NotifyOutcome::NoMemory,
    };
    let leave_out = match outcome {
        NotifyOutcome::TooLarge => true,
        NotifyOutcome::NoMemory => host_memory.is_last(),
        _ => false,
    };
    if leave_out && !body.is_empty() {
        let line = format_args!(
            "NOTIFY to {}: the document of {} bytes is left out: there is no room for it (Call-ID {})",
            subscription.text(Text::Contact).escape_ascii(),
            body.len(),
            subscription.text(Text::CallId).escape_ascii()
        );
        LEFT_OUT.log(host, Level::Error, line);
        outcome = hand_to(host, package, notify, b"");
    }
    match outcome {
        NotifyOutcome::Sent => Delivery::Sent,
        NotifyOutcome::Dropped => Delivery::Dropped,
        NotifyOutcome::Failed | NotifyOutcome::TooLarge => {
            failed(host, subscription, format_args!("cannot be sent"));
            Delivery::Failed
        }
        NotifyOutcome::Gone => Delivery::Gone,
        NotifyOutcome::NoMemory => {
            host_memory.not_for(host, size, subscription);
            Delivery::Postponed { given_up: host_memory.is_last() }
        }
    }
}

fn hand_to(
    host: &mut dyn Host,
    package: &EventPackage,
    notify: &PlannedNotify,
    body: &[u8],
) -> NotifyOutcome {
    let subscription = &notify.subscription;
    let state = state_of(notify);
    let mut headers = Vec::with_capacity(256);
    let contact = notify_headers::contact_uri(
        subscription.text(Text::LocalContact),
        subscription.text(Text::Socket),
    );
    notify_headers::headers(
        &mut headers,
        &package.name,
        subscription.text(Text::EventId),
        &contact,
        &state,
        (!body.is_empty()).then_some(&package.content_type),
    );
    let over = notify.ending.map(|why| over(subscription, why));
    host.notify(&Notify {
        subscription: over.as_ref().unwrap_or(subscription),
        cseq: subscription.local_cseq,
        headers: &headers,
        body,
        token: notify.token.filter(|_| notify.ending.is_none()).map_or(0, Token::number),
    })
}

/// A subscription as its last NOTIFY shows it.
fn over(subscription: &Snapshot, why: Ending) -> Snapshot {
    let mut over = subscription.clone();
    over.status = Status::Terminated;
    over.expires = 0;
    // A reason that does not fit is left as it was.
    let _ = over.set_text(Text::Reason, why.reason());
    over
}

fn state_of(notify: &PlannedNotify) -> SubscriptionState {
    let subscription = &notify.subscription;
    let expires = subscription.expires;
    match (notify.ending, subscription.status) {
        (Some(why), _) => SubscriptionState::Terminated { reason: why.reason().to_vec() },
        (None, Status::Active) => SubscriptionState::Active { expires },
        (None, Status::Pending | Status::Waiting) => SubscriptionState::Pending { expires },
        (None, Status::Terminated) => {
            SubscriptionState::Terminated { reason: subscription.text(Text::Reason).to_vec() }
        }
    }
}

fn failed(host: &mut dyn Host, subscription: &Snapshot, what: std::fmt::Arguments<'_>) {
    host.log(
        Level::Error,
        format_args!(
            "NOTIFY to {}: {what} (Call-ID {})",
            subscription.text(Text::Contact).escape_ascii(),
            subscription.text(Text::CallId).escape_ascii()
        ),
    );
}
