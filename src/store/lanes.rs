//! Notification lanes: who sends a presentity's NOTIFYs, and in which order.
//!
//! One process at a time owns a presentity's lane. It copies the state
//! (`lanes/state.rs`), composes documents without any lock, takes subscriptions that
//! have not been notified of that state, with the CSeq of their next NOTIFY
//! (`lanes/pick.rs`), sends, and asks whether there is more (`finish`). Work that
//! arrives meanwhile is only marked, so a document is never older than one
//! sent before in the same dialog, and CSeqs leave in rising order.

mod fan_out;
pub(super) mod pick;
mod state;

use crate::presence::measures::StateShown;
use crate::presence::state_version::StateVersion;
use crate::presence::subscription::{Ending, Snapshot};
use crate::store::Token;
use crate::store::records::RowClaim;

pub(super) use fan_out::{close_fan_out, forget_seen, is_excluded};
pub(super) use state::copy_publication;
pub use state::{FinalPublication, State};

/// CSeqs that a row reserves ahead of use (A7): after a crash the next NOTIFY
/// is higher than any sent. Renewed when half is used.
pub const CSEQ_RESERVE: u32 = 10_000;

/// Which document a NOTIFY carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Document {
    /// None: the watcher may not see the state.
    None,
    /// The state itself.
    Newest,
    /// The state with the final publications from this one to before that one.
    Finals(usize, usize),
    /// The watchers reported on that have changed.
    Changed,
}

/// One NOTIFY to be sent.
#[derive(Debug)]
pub struct PlannedNotify {
    /// The subscription, with this NOTIFY's CSeq and version.
    pub subscription: Snapshot,
    /// Names the subscription; `None` for one of which nothing is stored.
    pub token: Option<Token>,
    /// What it carries.
    pub document: Document,
    /// State version that this watcher was notified of before.
    pub notified: StateVersion,
    /// It is the last one.
    pub ending: Option<Ending>,
    /// What has to be done about its row before it leaves.
    pub claim: RowClaim,
    /// Unix time of the subscription's end.
    pub expires_at: i64,
    /// Its row's `reason` is NULL.
    pub null_reason: bool,
}

impl PlannedNotify {
    /// What it says of its subscription.
    pub fn shown(&self) -> StateShown {
        match self.ending {
            Some(_) => StateShown::Terminated,
            None => StateShown::of(self.subscription.status),
        }
    }
}

/// What `take` found.
#[derive(Debug)]
pub struct Taken {
    /// The NOTIFYs, in the order in which they have to leave.
    pub notifies: Vec<PlannedNotify>,
    /// There are watchers that were not looked at yet.
    pub more: bool,
    /// What was composed is the newest state.
    pub is_latest: bool,
    /// A fan-out over all watchers, of whom there are so many, begins with it.
    pub begins: Option<u32>,
    /// Subscriptions whose rows reserve none of the CSeqs taken (A7): to be
    /// written before these leave.
    pub unreserved: Vec<Token>,
}

/// What the owner of a lane has composed.
#[derive(Debug, Clone, Copy)]
pub struct Composed<'a> {
    /// Version of the state.
    pub state_version: StateVersion,
    /// The final publications that go with it.
    pub finals: &'a [FinalPublication],
    /// The newest document is empty, and such are not sent to those who have
    /// just subscribed (`send_fast_notify=0`).
    pub skip_first: bool,
    /// What there is of watcher information, for a package that reports it.
    pub watchers: Option<ComposedWatchers>,
}

/// What there is of watcher information.
#[derive(Debug, Clone, Copy)]
pub struct ComposedWatchers {
    /// Who was last notified before this state version gets all watchers, the others those
    /// that have changed.
    pub full_since: StateVersion,
    /// The list of all watchers was made.
    pub has_all: bool,
}

/// Puts NOTIFYs with one document side by side, so that it need be made but
/// once. Those of a dialog stay in their order.
pub fn by_document(notifies: &mut [PlannedNotify]) {
    let place = |notify: &PlannedNotify| match notify.document {
        Document::Finals(from, to) => (to, from),
        Document::None | Document::Newest | Document::Changed => (usize::MAX, 0),
    };
    if !notifies.is_sorted_by_key(place) {
        notifies.sort_by_key(place);
    }
}
