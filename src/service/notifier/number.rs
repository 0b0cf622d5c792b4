//! Where the watchers come from that are notified, and how their NOTIFYs get their CSeqs:
//! the one place that knows where these are kept.

use crate::error::Fault;
use crate::ports::{Host, Level};
use crate::presence::subscription::Ending;
use crate::service::notifier::dialog::{ClaimProgress, Dialog, by_dialog, name};
use crate::service::notifier::in_flight::InFlight;
use crate::service::notifier::{claims, watchers};
use crate::service::rate_limited_log::RateLimitedLog;
use crate::service::subscriptions::Numbering;
use crate::service::{Server, watcher_info};
use crate::shm::Memory;
use crate::store::LaneRef;
use crate::store::lanes::{Composed, PlannedNotify, Taken, by_document};
use crate::store::records::RowClaim;

static GIVEN_UP: RateLimitedLog = RateLimitedLog::new();

/// How often another CSeq is tried because others keep taking them.
pub(super) const ATTEMPTS: usize = 16;

impl Numbering {
    /// Picks up to `most` of those who lack what was composed.
    pub(super) fn pick<M: Memory>(
        self,
        server: &Server<M>,
        lane: LaneRef<M>,
        (composed, now): (Composed<'_>, i64),
        most: usize,
    ) -> Taken {
        match self {
            Numbering::Reserved => server.store.take(lane, composed, now, most),
            Numbering::Claimed => server.store.take_rows(lane, composed, now, most),
        }
    }

    /// Fetches watchers who have to be notified and could not be picked; false if there
    /// are no more.
    pub(super) fn fetch<M: Memory>(
        self,
        server: &Server<M>,
        host: &mut dyn Host,
        lane: LaneRef<M>,
    ) -> Result<bool, Fault> {
        match self {
            // Memory has all of them.
            Numbering::Reserved => Ok(false),
            Numbering::Claimed => watchers::fetch(server, host, lane),
        }
    }

    /// A document that is made before its NOTIFY has a number is not older than
    /// those with lower ones: nobody else takes numbers meanwhile.
    pub(super) fn composes_first(self) -> bool {
        self == Numbering::Reserved
    }
}

impl<M: Memory> InFlight<'_, M> {
    /// Takes in hand what was picked: with its numbers, where these are reserved.
    pub fn take(&mut self, numbering: Numbering, notifies: Vec<PlannedNotify>) {
        match numbering {
            Numbering::Reserved => self.numbered = notifies,
            Numbering::Claimed => self.open = by_dialog(notifies),
        }
    }

    /// Some of those that have no numbers yet show the state.
    pub fn shows_state(&self) -> bool {
        self.open.iter().any(Dialog::shows_state)
    }

    /// Claims the numbers of those that have none. On a failure some may have got
    /// them all the same.
    pub fn number(&mut self, host: &mut dyn Host) -> Result<(), Fault> {
        self.move_numbered();
        let claimed = match self.open.is_empty() {
            true => Ok(()),
            false => claims::claim(self.server, host, &mut self.open),
        };
        self.move_numbered();
        by_document(&mut self.numbered);
        claimed
    }

    /// Moves those that have their numbers to where they are sent from.
    fn move_numbered(&mut self) {
        for dialog in
            self.open.extract_if(.., |dialog| dialog.claim_progress == ClaimProgress::Done)
        {
            notify_winfo(self.server, self.lane, &dialog);
            self.numbered.extend(dialog.notifies);
        }
    }

    /// Looks at the rows of those that have got no numbers. True if some are to be
    /// tried again.
    pub fn follow(&mut self, host: &mut dyn Host) -> Result<bool, Fault> {
        let followed = claims::follow(self.server, host, &mut self.open);
        self.give_up(host);
        followed.map(|()| !self.open.is_empty())
    }

    /// Leaves out those whose NOTIFY is needless, and those whose row is at fault:
    /// they must not hold the others.
    pub fn give_up(&mut self, host: &mut dyn Host) {
        for hopeless in self.open.extract_if(.., |dialog| dialog.is_hopeless()) {
            let call_id = name(&hopeless)[0].escape_ascii();
            let line =
                format_args!("NOTIFY given up: its row cannot be changed (Call-ID {call_id})");
            GIVEN_UP.log(host, Level::Error, line);
        }
        self.open.retain(|dialog| dialog.claim_progress != ClaimProgress::Needless);
    }
}

/// Those who watch the watchers are notified of an end that nobody has notified them of, or
/// perhaps nobody.
fn notify_winfo<M: Memory>(server: &Server<M>, lane: LaneRef<M>, dialog: &Dialog) {
    let last = dialog.notifies.last().and_then(|last| Some((last, last.ending?)));
    let Some((last, ending)) = last else { return };
    if (ending == Ending::Expired || last.claim == RowClaim::Rescue)
        && let Some(key) = server.store.lane_key(lane)
    {
        watcher_info::row_ended(server, &key, &last.subscription, ending);
    }
}
