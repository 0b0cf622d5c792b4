//! Sends what a presentity's lane has to send, in five steps: those who lack the
//! newest version of its state are picked, their NOTIFYs numbered, the documents
//! composed, each NOTIFY delivered, and settled (`portion`). Where numbers are kept
//! is a matter of `number`, where watchers are kept of the store and `watchers`.

mod claims;
mod deliver;
mod dialog;
mod in_flight;
mod notified_state;
mod number;
pub mod retry_queue;
mod shortage;
mod stateless;
mod watchers;

pub use stateless::send_stateless;

use crate::error::Fault;
use crate::ports::{Host, Level};
use crate::service::notifier::in_flight::InFlight;
use crate::service::notifier::notified_state::NotifiedState;
use crate::service::notifier::number::ATTEMPTS;
use crate::service::notifier::shortage::Shortage;
use crate::service::rate_limited_log::RateLimitedLog;
use crate::service::subscriptions::Numbering;
use crate::service::{Server, replication, write_back};
use crate::shm::Memory;
use crate::store::LaneRef;
use crate::store::waits::Since;
use std::time::{Duration, Instant};

static POSTPONED: RateLimitedLog = RateLimitedLog::new();

/// NOTIFYs taken from the store in one go.
const PORTION: usize = 32;

/// How much a process does for a lane before it leaves the rest to the sender
/// processes.
#[derive(Debug, Clone, Copy)]
pub struct Budget {
    notifies: usize,
    versions: usize,
    /// How many processes may share a long fan-out.
    shares: u8,
}

/// Processes that send what others hand over.
pub const SENDERS: u8 = 2;

impl Budget {
    /// A process that has SIP requests waiting.
    pub const WORKER: Budget = Budget { notifies: 128, versions: 4, shares: 0 };
    /// A sender process: it has other lanes to serve, too.
    pub const SENDER: Budget = Budget { notifies: 1024, versions: 16, shares: SENDERS };
}

/// What a run has left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Remaining {
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
    /// When the PUBLISH came that is to be notified, if it is one.
    since: Option<Instant>,
}

impl<M: Memory> Drop for Owned<'_, M> {
    fn drop(&mut self) {
        if let Some(lane) = self.lane.take() {
            self.server.store.hand_over_since(lane, since(self.server, self.since));
        }
    }
}

/// When what is to be notified began, for those who go on with it.
fn since<M: Memory>(server: &Server<M>, published: Option<Instant>) -> Since {
    let ago = published.map(|since| u64::try_from(since.elapsed().as_millis()).unwrap_or(0));
    server.store.since(ago.unwrap_or(0), published.is_some())
}

impl<'a, M: Memory> Owned<'a, M> {
    /// A lane that the store has given.
    pub fn new(server: &'a Server<M>, lane: LaneRef<M>) -> Self {
        Owned { server, lane: Some(lane), since: None }
    }

    /// The same, to report a PUBLISH that came then.
    pub fn of_publish(server: &'a Server<M>, lane: LaneRef<M>, since: Instant) -> Self {
        Owned { server, lane: Some(lane), since: Some(since) }
    }

    /// Which it is; `None` when it was left.
    fn lane(&self) -> Option<LaneRef<M>> {
        self.lane
    }

    /// Leaves it as it is: the caller comes back to it.
    fn park(&mut self) {
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

/// Sends for a lane whose ownership is passed on.
pub fn run_owned<M: Memory>(mut owned: Owned<'_, M>, host: &mut dyn Host, budget: Budget) {
    let (server, Some(lane)) = (owned.server, owned.lane) else { return };
    let mut shortage = Shortage::new(server, lane, false);
    if let Err(fault) = send_versions(&mut owned, host, budget, &mut shortage) {
        POSTPONED.log(host, Level::Error, format_args!("NOTIFY postponed: {fault}"));
    }
    if let Some(key) = shortage.settle(host)
        && owned.lane.is_none()
    {
        owned.lane = server.store.lane_of(&key);
    }
    drop(owned);
    server.wake_senders(host);
}

/// Sends one state version after the other. The lane is left when there is no more to send; what there
/// is no memory for does not count.
fn send_versions<M: Memory>(
    owned: &mut Owned<'_, M>,
    host: &mut dyn Host,
    budget: Budget,
    shortage: &mut Shortage<'_, M>,
) -> Result<Remaining, Fault> {
    let (server, Some(lane)) = (owned.server, owned.lane) else { return Ok(Remaining::Nothing) };
    let now = host.milliseconds();
    server.store.set_clock(now);
    if owned.since.is_none() && budget.shares > 0 {
        let since = server.store.waits_since(lane).filter(|since| since.published);
        let ago = since.map(|since| Duration::from_millis(since.age(now)));
        owned.since = ago.and_then(|ago| Instant::now().checked_sub(ago));
    }
    let mut sent = 0;
    for _ in 0..budget.versions {
        let before = sent;
        if !notify_watchers(server, host, (lane, owned.since, budget), &mut sent, shortage)? {
            // With too many unsent it is no use to go on.
            return Ok(if shortage.is_full() { Remaining::Nothing } else { Remaining::Work });
        }
        if !server.store.finish(lane, sent > before) {
            owned.lane = None;
            return Ok(Remaining::Nothing);
        }
    }
    Ok(Remaining::Work)
}

/// Tells whoever lacks it the newest version of the state. False when the budget is
/// used.
fn notify_watchers<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    (lane, since, budget): (LaneRef<M>, Option<Instant>, Budget),
    sent: &mut usize,
    shortage: &mut Shortage<'_, M>,
) -> Result<bool, Fault> {
    let numbering = server.subscriptions().numbering();
    let mut known = None;
    loop {
        let state = match known.take() {
            Some(state) => Some(state),
            None => NotifiedState::copy(server, host, lane, numbering)?,
        };
        let Some(mut state) = state else { return Ok(true) };
        let mut in_flight = InFlight::new(server, lane, since);
        let picked = pick(host, &mut in_flight, &state, (numbering, budget));
        // Watchers that need no NOTIFY cost time, too.
        *sent += picked.notifies.max(usize::from(picked.more));
        let done = portion(host, &mut in_flight, &mut state, shortage);
        in_flight.give_back(host);
        done?;
        if picked.more {
            known = Some(state).filter(|state| state.serves_next(picked.is_latest));
        } else if numbering.fetch(server, host, lane)? {
            *sent += 1;
        } else {
            return Ok(true);
        }
        if shortage.is_full() || *sent >= budget.notifies {
            return Ok(false);
        }
    }
}

/// What was picked.
struct Picked {
    notifies: usize,
    /// There may be others.
    more: bool,
    /// The state has not changed since its version was copied.
    is_latest: bool,
}

/// The first step: takes a portion of those in hand who lack the version.
fn pick<M: Memory>(
    host: &mut dyn Host,
    in_flight: &mut InFlight<'_, M>,
    state: &NotifiedState<'_>,
    (numbering, budget): (Numbering, Budget),
) -> Picked {
    let (server, lane) = (in_flight.server, in_flight.lane);
    let taken = numbering.pick(server, lane, (state.composed(), host.now()), PORTION);
    let picked =
        Picked { notifies: taken.notifies.len(), more: taken.more, is_latest: taken.is_latest };
    if let Some(watchers) = taken.begins {
        server.store.counters().fan_out(state.package_id, u64::from(watchers));
    }
    replication::subscriptions::numbered(server, host, &taken.notifies);
    in_flight.take(numbering, taken.notifies);
    if picked.more {
        let shares = if state.may_be_shared() { budget.shares } else { 0 };
        server.store.share(lane, shares, since(server, in_flight.since));
        server.wake_senders(host);
    }
    write_back::reserve(server, host, &taken.unreserved);
    picked
}

/// The other steps: numbers, composes, delivers and settles what was picked. Those
/// whose numbers others have taken meanwhile are tried again.
fn portion<M: Memory>(
    host: &mut dyn Host,
    in_flight: &mut InFlight<'_, M>,
    state: &mut NotifiedState<'_>,
    shortage: &mut Shortage<'_, M>,
) -> Result<(), Fault> {
    for _ in 0..ATTEMPTS {
        // The rows were read before, and the numbers are claimed after that.
        let read = state.read(in_flight.server, host, in_flight.shows_state())?;
        let seen = in_flight.serves_flags().then(|| state.fingerprint(&read));
        let numbered = in_flight.number(host);
        let flagged = in_flight.flagged();
        if !in_flight.numbered.is_empty() {
            let made;
            let composition = match state.documents() {
                Some(composition) => composition,
                None => {
                    made = state.compose(in_flight.server, host, read)?;
                    &made
                }
            };
            in_flight.deliver(host, state.package, composition, shortage);
            in_flight.settle(host);
        }
        // A change that came after the state was read has found the flags still
        // there, and they are off now.
        if let Some(seen) = seen
            && !flagged.is_empty()
            && state.differs(in_flight.server, host, seen)
        {
            in_flight.repeat(host, flagged);
        }
        numbered?;
        if !in_flight.follow(host)? {
            break;
        }
    }
    Ok(())
}
