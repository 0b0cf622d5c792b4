//! Sends what a presentity's lane has to send, in five steps: those who lack the
//! newest version of its state are picked, their NOTIFYs numbered, the documents
//! composed, each NOTIFY delivered, and settled (`portion`). Where numbers are kept
//! is a matter of `number`, where watchers are kept of the store and `watchers`.

mod claims;
mod deliver;
mod in_hand;
mod number;
mod once;
mod shortage;
mod version;
pub mod waiting;
mod watchers;

pub use once::send_once;

use crate::error::Fault;
use crate::ports::{Host, Level};
use crate::service::notifier::in_hand::InHand;
use crate::service::notifier::number::{ATTEMPTS, Numbering};
use crate::service::notifier::shortage::Shortage;
use crate::service::notifier::version::Version;
use crate::service::seldom::Seldom;
use crate::service::{Server, write_back};
use crate::shm::Memory;
use crate::store::LaneRef;

static POSTPONED: Seldom = Seldom::new();

/// NOTIFYs taken from the store in one go.
const PORTION: usize = 32;

/// How much a process does for a lane before it leaves the rest to the sender
/// processes.
#[derive(Debug, Clone, Copy)]
pub struct Budget {
    notifies: usize,
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
enum Left {
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

/// As `run`.
pub fn run_owned<M: Memory>(mut owned: Owned<'_, M>, host: &mut dyn Host, budget: Budget) {
    let (server, Some(lane)) = (owned.server, owned.lane) else { return };
    let mut shortage = Shortage::new(server, lane, false);
    if let Err(fault) = rounds(&mut owned, host, budget, &mut shortage) {
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

/// The rounds of a run. The lane is left when there is no more to send; what there
/// is no memory for does not count.
fn rounds<M: Memory>(
    owned: &mut Owned<'_, M>,
    host: &mut dyn Host,
    budget: Budget,
    shortage: &mut Shortage<'_, M>,
) -> Result<Left, Fault> {
    let (server, Some(lane)) = (owned.server, owned.lane) else { return Ok(Left::Nothing) };
    let mut sent = 0;
    for _ in 0..budget.rounds {
        let before = sent;
        if !tell(server, host, (lane, budget), &mut sent, shortage)? {
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

/// Tells whoever lacks it the newest version of the state. False when the budget is
/// used.
fn tell<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    (lane, budget): (LaneRef<M>, Budget),
    sent: &mut usize,
    shortage: &mut Shortage<'_, M>,
) -> Result<bool, Fault> {
    let numbering = Numbering::of(server);
    let mut known = None;
    loop {
        let version = match known.take() {
            Some(version) => Some(version),
            None => Version::copy(server, host, lane, numbering)?,
        };
        let Some(mut version) = version else { return Ok(true) };
        let mut hand = InHand::new(server, lane);
        let picked = pick(host, &mut hand, &version, (numbering, budget));
        // Watchers that need no NOTIFY cost time, too.
        *sent += picked.notifies.max(usize::from(picked.more));
        let done = portion(host, &mut hand, &mut version, shortage);
        hand.give_back(host);
        done?;
        if picked.more {
            known = Some(version).filter(|version| version.serves_next(picked.is_latest));
        } else if watchers::fetch(server, host, lane)? {
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
    hand: &mut InHand<'_, M>,
    version: &Version<'_>,
    (numbering, budget): (Numbering, Budget),
) -> Picked {
    let (server, lane) = (hand.server, hand.lane);
    let taken = server.store.take(lane, version.composed(), host.now(), PORTION);
    let picked =
        Picked { notifies: taken.sends.len(), more: taken.more, is_latest: taken.is_latest };
    hand.take(numbering, taken.sends);
    if picked.more {
        server.store.share(lane, if version.may_be_shared() { budget.shares } else { 0 });
        server.wake_senders(host);
    }
    write_back::reserve(server, host, &taken.unreserved);
    picked
}

/// The other steps: numbers, composes, delivers and settles what is in hand. Those
/// whose numbers others have taken meanwhile are tried again.
fn portion<M: Memory>(
    host: &mut dyn Host,
    hand: &mut InHand<'_, M>,
    version: &mut Version<'_>,
    shortage: &mut Shortage<'_, M>,
) -> Result<(), Fault> {
    for _ in 0..ATTEMPTS {
        // The rows were read before, and the numbers are claimed after that.
        let read = version.read(hand.server, host, hand.shows_state())?;
        let seen = hand.serves_flags().then(|| version.fingerprint(&read));
        let numbered = hand.number(host);
        let flagged = hand.flagged();
        if !hand.numbered.is_empty() {
            let made;
            let composition = match version.documents() {
                Some(composition) => composition,
                None => {
                    made = version.compose(hand.server, host, read)?;
                    &made
                }
            };
            hand.deliver(host, version.package, composition, shortage);
            hand.settle(host);
        }
        // A change that came after the state was read has found the flags still
        // there, and they are off now.
        if let Some(seen) = seen
            && !flagged.is_empty()
            && version.differs(hand.server, host, seen)
        {
            hand.repeat(host, flagged);
        }
        numbered?;
        if !hand.follow(host)? {
            break;
        }
    }
    Ok(())
}
