//! Sends what a presentity's lane has to send.

use std::borrow::Cow;

use crate::config::PublicationCache;
use crate::error::Fault;
use crate::ports::{Host, Level, Notify, NotifyOutcome};
use crate::presence::event_package::{EventPackage, Kind};
use crate::presence::notify_headers::{self, SubscriptionState};
use crate::presence::subscription::{Ending, Snapshot, Status, Text, may_see};
use crate::service::compose::{Composition, compose, for_watcher};
use crate::service::seldom::Seldom;
use crate::service::{Server, notify_reply, row_notifier, write_back};
use crate::shm::Memory;
use crate::store::lanes::{Composed, ComposedWatchers, Document, Send, State};
use crate::store::records::Claim;
use crate::store::shard::PresentityKey;
use crate::store::{LaneRef, Token};

static POSTPONED: Seldom = Seldom::new();

/// NOTIFYs taken from the store in one go.
pub(super) const PORTION: usize = 32;

/// How much a process does for a lane before it leaves the rest to the sender
/// processes.
#[derive(Debug, Clone, Copy)]
pub struct Budget {
    pub(super) notifies: usize,
    rounds: usize,
    /// How many processes may share a long walk.
    shares: u8,
}

/// Processes that send what others hand over.
pub const SENDERS: u8 = 2;

impl Budget {
    /// A process that has SIP requests waiting.
    pub const WORKER: Budget = Budget { notifies: 128, rounds: 4, shares: 0 };
    /// A sender process: it lets other lanes have their turn.
    pub const SENDER: Budget = Budget { notifies: 1024, rounds: 16, shares: SENDERS };
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Run {
    /// Everything was sent, or the rest was handed over.
    Done,
    /// The state could not be composed; the lane was handed over, to be tried
    /// again after a pause.
    Failed,
}

/// A lane that the caller owns. It is given on to the senders when its owner
/// cannot finish, also when a callback panics.
pub struct Owned<'a, M: Memory> {
    server: &'a Server<M>,
    lane: Option<LaneRef<M>>,
}

impl<M: Memory> Drop for Owned<'_, M> {
    fn drop(&mut self) {
        if let Some(lane) = self.lane.take() {
            self.server.store.hand_over(lane);
        }
    }
}

impl<'a, M: Memory> Owned<'a, M> {
    /// A lane that the store has given.
    pub fn new(server: &'a Server<M>, lane: LaneRef<M>) -> Self {
        Owned { server, lane: Some(lane) }
    }
}

/// Sends for a lane that the caller owns, until there is no more to send or
/// the budget is used.
pub fn run<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    lane: LaneRef<M>,
    budget: Budget,
) -> Run {
    run_owned(Owned::new(server, lane), host, budget)
}

/// As `run`.
pub fn run_owned<M: Memory>(mut owned: Owned<'_, M>, host: &mut dyn Host, budget: Budget) -> Run {
    let (server, Some(lane)) = (owned.server, owned.lane) else { return Run::Done };
    let mut sent = 0;
    let mut outcome = Run::Done;
    for _ in 0..budget.rounds {
        let before = sent;
        let round = if server.store.policy.rows_only() { row_notifier::round } else { round };
        match round(server, host, lane, budget, &mut sent) {
            Ok(true) => {}
            Ok(false) => break,
            Err(fault) => {
                POSTPONED.log(host, Level::Error, format_args!("NOTIFY postponed: {fault}"));
                outcome = Run::Failed;
                break;
            }
        }
        if !server.store.finish(lane, sent > before) {
            owned.lane = None;
            server.wake_senders(host);
            return Run::Done;
        }
    }
    drop(owned);
    server.wake_senders(host);
    outcome
}

/// Composes the state once and sends it to whoever lacks it. False when the
/// budget is used.
fn round<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    lane: LaneRef<M>,
    budget: Budget,
    sent: &mut usize,
) -> Result<bool, Fault> {
    let Some(state) = server.store.lane_state_shown(lane, host.now()) else { return Ok(true) };
    let Some(package) = server.registry.get(state.key.package) else { return Ok(true) };
    let shares = if is_in_memory(server, package, &state) { budget.shares } else { 0 };
    let composition = compose(server, host, package, state)?;
    let composed = Composed {
        round: composition.round,
        farewells: composition.farewells(),
        skip_first: !server.config.send_fast_notify
            && package.peer.is_none()
            && composition.is_empty(),
        watchers: composition
            .watchers
            .as_ref()
            .map(|list| ComposedWatchers { full_since: list.full_since, has_all: list.has_all() }),
    };
    loop {
        let taken = server.store.take(lane, composed, host.now(), PORTION);
        let in_hand = InHand { server, lane, sends: &taken.sends };
        if taken.more {
            server.store.share(lane, shares);
            server.wake_senders(host);
        }
        write_back::reserve(server, host, &taken.unreserved);
        let full = taken.sends.iter().position(|send| {
            let delivery = deliver(host, package, &composition, send);
            if let (Delivery::Gone, Some(token)) = (delivery, send.token) {
                notify_reply::gone(server, host, token, &send.subscription);
            }
            delivery == Delivery::Postponed
        });
        drop(in_hand);
        if let Some(first) = full {
            server.store.not_sent(lane, taken.sends.get(first..).unwrap_or_default());
            return Err(Fault::SharedMemory);
        }
        // Watchers that need no NOTIFY cost time, too.
        *sent += taken.sends.len().max(usize::from(taken.more));
        if !taken.more {
            return Ok(true);
        }
        if *sent >= budget.notifies {
            return Ok(false);
        }
    }
}

/// All that the documents are made of was copied with the round. What is read
/// later may be newer, so that of two processes the one that composes the same
/// round first may send an older document.
fn is_in_memory<M: Memory>(server: &Server<M>, package: &EventPackage, state: &State) -> bool {
    package.kind == Kind::Publication
        && match server.config.publications() {
            PublicationCache::Record => true,
            PublicationCache::Hybrid => state.publications.iter().all(|p| !p.body.is_empty()),
            PublicationCache::None => false,
        }
}

/// NOTIFYs that were taken. Until they have been sent, nobody else sends one in
/// their dialogs; also when a callback panics the dialogs are free again.
struct InHand<'a, M: Memory> {
    server: &'a Server<M>,
    lane: LaneRef<M>,
    sends: &'a [Send],
}

impl<M: Memory> Drop for InHand<'_, M> {
    fn drop(&mut self) {
        let tokens = self.sends.iter().filter_map(|send| send.token);
        self.server.store.delivered(self.lane, tokens);
    }
}

/// Sends one NOTIFY outside any dialog's order: to a watcher that fetches, or
/// whose subscription is refused, and of whom nothing is stored.
pub fn send_once<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    key: &PresentityKey,
    package: &EventPackage,
    subscription: Snapshot,
    ending: Ending,
) -> Result<(), Fault> {
    let sees =
        ending.shows_state() && may_see(subscription.status, subscription.text(Text::Reason));
    let composition = match sees {
        true => {
            let mut state = server.store.state_shown(key, host.now());
            state.watchers.wants_full = true;
            compose(server, host, package, state)?
        }
        false => Composition::default(),
    };
    let document = if sees { Document::Newest } else { Document::None };
    let told = composition.round;
    let send = Send {
        subscription,
        token: None,
        document,
        told,
        ending: Some(ending),
        claim: Claim::None,
        expires_at: 0,
        null_reason: false,
    };
    match deliver(host, package, &composition, &send) {
        Delivery::Done | Delivery::Gone => Ok(()),
        Delivery::Postponed => Err(Fault::SharedMemory),
    }
}

/// What became of a NOTIFY.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub(super) enum Delivery {
    /// It was handed over, or cannot be sent at all.
    Done,
    /// Its watcher's connection is gone for good.
    Gone,
    /// There is no memory for it now: it is to be sent later.
    Postponed,
}

/// Builds and sends one NOTIFY. Whatever goes wrong concerns this watcher only
/// (A10), but for a lack of memory, which concerns all.
pub(super) fn deliver(
    host: &mut dyn Host,
    package: &EventPackage,
    composition: &Composition,
    send: &Send,
) -> Delivery {
    let subscription = &send.subscription;
    let body = for_watcher(host, package, composition, send).unwrap_or_else(|fault| {
        // Rather no document than one that the rules forbid.
        failed(host, subscription, format_args!("document left out: {fault}"));
        Cow::default()
    });
    let state = state_of(send);
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
    let over = send.ending.map(|why| over(subscription, why));
    let notify = Notify {
        subscription: over.as_ref().unwrap_or(subscription),
        cseq: subscription.local_cseq,
        headers: &headers,
        body: &body,
        token: send.token.filter(|_| send.ending.is_none()).map_or(0, Token::number),
    };
    match host.notify(&notify) {
        NotifyOutcome::Sent | NotifyOutcome::Dropped => {}
        NotifyOutcome::Failed => failed(host, subscription, format_args!("cannot be sent")),
        NotifyOutcome::Gone => return Delivery::Gone,
        NotifyOutcome::NoMemory => return Delivery::Postponed,
    }
    Delivery::Done
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

fn state_of(send: &Send) -> SubscriptionState {
    let subscription = &send.subscription;
    let expires = subscription.expires;
    match (send.ending, subscription.status) {
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
