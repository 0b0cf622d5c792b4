//! Sends what a presentity's lane has to send.

use std::borrow::Cow;

use crate::config::PublicationCache;
use crate::error::Fault;
use crate::ports::{Host, Level, Notify, NotifyOutcome};
use crate::presence::event_package::{EventPackage, Kind};
use crate::presence::notify_headers::{self, SubscriptionState};
use crate::presence::presentity::PresentityKey;
use crate::presence::subscription::{Ending, Snapshot, Status, Text, may_see};
use crate::service::compose::{Composition, compose, for_watcher};
use crate::service::seldom::Seldom;
use crate::service::shortage::Shortage;
use crate::service::{Server, notify_reply, row_notifier, write_back};
use crate::shm::Memory;
use crate::store::lanes::{Composed, ComposedWatchers, Document, Send, State};
use crate::store::records::Claim;
use crate::store::row_lanes::DueRow;
use crate::store::{LaneRef, Token};

pub(super) static POSTPONED: Seldom = Seldom::new();
static LEFT_OUT: Seldom = Seldom::new();

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

/// What a run has left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Left {
    /// Everybody was seen to.
    Nothing,
    /// The budget was used.
    Work,
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

    /// Which it is; `None` when it was left.
    pub(super) fn lane(&self) -> Option<LaneRef<M>> {
        self.lane
    }

    /// Leaves it as it is: the caller comes back to it.
    pub(super) fn park(&mut self) {
        if let Some(lane) = self.lane.take() {
            self.server.store.park(lane);
        }
    }
}

/// Sends for a lane that the caller owns, until there is no more to send or the
/// budget is used. What cannot be sent or composed is left to the sender processes.
pub fn run<M: Memory>(server: &Server<M>, host: &mut dyn Host, lane: LaneRef<M>, budget: Budget) {
    run_owned(Owned::new(server, lane), host, budget);
}

/// As `run`.
pub fn run_owned<M: Memory>(mut owned: Owned<'_, M>, host: &mut dyn Host, budget: Budget) {
    let (server, Some(lane)) = (owned.server, owned.lane) else { return };
    let mut shortage = Shortage::default();
    if let Err(fault) = rounds(&mut owned, host, budget, &mut shortage) {
        POSTPONED.log(host, Level::Error, format_args!("NOTIFY postponed: {fault}"));
    }
    if let Some(key) = shortage.settle(server, host, lane)
        && owned.lane.is_none()
    {
        owned.lane = server.store.lane_of(&key);
    }
    drop(owned);
    server.wake_senders(host);
}

/// The rounds of a run. The lane is left when there is no more to send; what there
/// is no memory for does not count.
pub(super) fn rounds<M: Memory>(
    owned: &mut Owned<'_, M>,
    host: &mut dyn Host,
    budget: Budget,
    shortage: &mut Shortage,
) -> Result<Left, Fault> {
    let (server, Some(lane)) = (owned.server, owned.lane) else { return Ok(Left::Nothing) };
    let round = if server.store.policy.rows_only() { row_notifier::round } else { round };
    let mut sent = 0;
    for _ in 0..budget.rounds {
        let before = sent;
        if !round(server, host, lane, budget, &mut sent, shortage)? {
            // With too many unsent it is no use to go on.
            return Ok(if shortage.is_full() { Left::Nothing } else { Left::Work });
        }
        if !server.store.finish(lane, sent > before) {
            owned.lane = None;
            return Ok(Left::Nothing);
        }
    }
    Ok(Left::Work)
}

/// Composes the state once and sends it to whoever lacks it. False when the
/// budget is used.
fn round<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    lane: LaneRef<M>,
    budget: Budget,
    sent: &mut usize,
    shortage: &mut Shortage,
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
        let mut in_hand = InHand { server, lane, sends: &taken.sends, done: 0, unsent: Vec::new() };
        if taken.more {
            server.store.share(lane, shares);
            server.wake_senders(host);
        }
        write_back::reserve(server, host, &taken.unreserved);
        for (n, send) in taken.sends.iter().enumerate() {
            in_hand.done = n + 1;
            match deliver(host, package, &composition, send, shortage) {
                Delivery::Done => {}
                Delivery::Gone => {
                    if let Some(token) = send.token.filter(|_| send.ending.is_none()) {
                        notify_reply::gone(server, host, token, &send.subscription);
                    }
                }
                Delivery::Postponed => {
                    in_hand.unsent.push(n);
                    shortage.keep(server, lane, send);
                }
            }
        }
        drop(in_hand);
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
/// their dialogs; also when a callback panics the dialogs are free again, and
/// those whose turn had not come are due.
struct InHand<'a, M: Memory> {
    server: &'a Server<M>,
    lane: LaneRef<M>,
    sends: &'a [Send],
    /// So many were tried.
    done: usize,
    /// Those of them that there was no memory for.
    unsent: Vec<usize>,
}

impl<M: Memory> Drop for InHand<'_, M> {
    fn drop(&mut self) {
        let store = &self.server.store;
        let (tried, untried) = self.sends.split_at(self.done.min(self.sends.len()));
        let sent = tried.iter().enumerate().filter(|(n, _)| !self.unsent.contains(n));
        store.delivered(self.lane, sent.filter_map(|(_, send)| send.token));
        let unsent = self.unsent.iter().filter_map(|n| tried.get(*n));
        store.not_sent(self.lane, unsent.chain(untried));
        if !untried.is_empty() {
            let number = |send: &Send| Some((send.token?, send.subscription.local_cseq));
            let again: Vec<_> = untried.iter().filter_map(number).collect();
            store.due_again(&again);
        }
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
    match deliver(host, package, &composition, &send, &mut Shortage::default()) {
        Delivery::Done | Delivery::Gone => Ok(()),
        Delivery::Postponed => later(server, host, key, send, ending),
    }
}

/// There is no memory for such a NOTIFY: its subscription is stored until it has
/// left.
fn later<M: Memory>(
    server: &Server<M>,
    host: &dyn Host,
    key: &PresentityKey,
    send: Send,
    ending: Ending,
) -> Result<(), Fault> {
    let due = DueRow {
        subscription: send.subscription,
        expires_at: host.now(),
        ending: Some(ending),
        claim: Claim::None,
        told: None,
        null_reason: false,
    };
    if let Some(lane) = server.store.queue_row(key, &due)? {
        server.store.hand_over(lane);
    }
    Ok(())
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
/// (A10). Where there was no memory for a smaller one the host is not asked.
pub(super) fn deliver(
    host: &mut dyn Host,
    package: &EventPackage,
    composition: &Composition,
    send: &Send,
    shortage: &mut Shortage,
) -> Delivery {
    let subscription = &send.subscription;
    let body = for_watcher(host, package, composition, send).unwrap_or_else(|fault| {
        // Rather no document than one that the rules forbid.
        failed(host, subscription, format_args!("document left out: {fault}"));
        Cow::default()
    });
    let size = body.len() + subscription.block().len();
    let mut outcome = match shortage.may_fit(size) {
        true => hand_to(host, package, send, &body),
        false => NotifyOutcome::NoMemory,
    };
    let leave_out = match outcome {
        NotifyOutcome::TooLarge => true,
        NotifyOutcome::NoMemory => shortage.is_last(),
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
        outcome = hand_to(host, package, send, b"");
    }
    match outcome {
        NotifyOutcome::Sent | NotifyOutcome::Dropped => {}
        NotifyOutcome::Failed | NotifyOutcome::TooLarge => {
            failed(host, subscription, format_args!("cannot be sent"));
        }
        NotifyOutcome::Gone => return Delivery::Gone,
        NotifyOutcome::NoMemory => {
            shortage.not_for(host, size, subscription);
            return Delivery::Postponed;
        }
    }
    Delivery::Done
}

fn hand_to(host: &mut dyn Host, package: &EventPackage, send: &Send, body: &[u8]) -> NotifyOutcome {
    let subscription = &send.subscription;
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
    host.notify(&Notify {
        subscription: over.as_ref().unwrap_or(subscription),
        cseq: subscription.local_cseq,
        headers: &headers,
        body,
        token: send.token.filter(|_| send.ending.is_none()).map_or(0, Token::number),
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
