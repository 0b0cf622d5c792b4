//! Where the watchers come from that are notified, and how their NOTIFYs get their CSeqs:
//! the one place that knows where these are kept.

use crate::error::Fault;
use crate::ports::{Host, Level};
use crate::presence::subscription::{Ending, NotifyNumbers, Status, Text};
use crate::service::notifier::in_flight::InFlight;
use crate::service::notifier::{claims, watchers};
use crate::service::rate_limited_log::RateLimitedLog;
use crate::service::subscription_rows::ENDED;
use crate::service::{Server, watcher_info};
use crate::shm::Memory;
use crate::store::LaneRef;
use crate::store::lanes::{Composed, Document, PlannedNotify, Taken, by_document};
use crate::store::records::RowClaim;
use crate::store::row_lanes::PendingNotify;
use crate::store::rows::dialog_of;

static GIVEN_UP: RateLimitedLog = RateLimitedLog::new();

/// How often another CSeq is tried because others keep taking them.
pub(super) const ATTEMPTS: usize = 16;

/// A row that can be read, but not be changed, is tried so often.
const MAX_FAILURES: u8 = 3;

/// Where the numbers of a dialog are kept. (How subscriptions are kept says which:
/// `subscriptions::Storage`.)
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::service) enum Numbering {
    /// In memory: who picks a watcher has its number. A row, if there is one,
    /// reserves some ahead (A7).
    Reserved,
    /// In the dialog's row, which several servers change. Each number is claimed
    /// there, and the state is read after the row and before the claim.
    Claimed,
}

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

/// Whether a dialog has got the numbers of its NOTIFYs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ClaimProgress {
    NotYet,
    Done,
    /// Nothing is to be sent any more.
    Needless,
}

/// The NOTIFYs of one dialog whose numbers have to be claimed. They leave together.
pub(super) struct Dialog {
    /// At least one.
    pub notifies: Vec<PlannedNotify>,
    /// The numbers that were used last, as its row says.
    pub used: NotifyNumbers,
    pub claim_progress: ClaimProgress,
    /// An attempt has failed: perhaps only the answer was lost.
    pub unsure: bool,
    /// Attempts that have failed though nobody else has changed the row.
    pub failures: u8,
    /// The last attempt has met the database away, or others who held the row: that
    /// is not the row's own fault.
    pub is_away: bool,
    /// Unix time that an attempt, of which only the answer may have been lost, has
    /// written as that of its end.
    pub tried: Option<i64>,
}

impl Dialog {
    fn new(first: PlannedNotify) -> Dialog {
        // One that fetches has no row.
        let claim_progress = match first.claim {
            RowClaim::None => ClaimProgress::Done,
            _ => ClaimProgress::NotYet,
        };
        let used = first.subscription.numbers().before();
        let (unsure, failures, is_away, tried) = (false, 0, false, None);
        Dialog { notifies: vec![first], used, claim_progress, unsure, failures, is_away, tried }
    }

    pub fn ending(&self) -> Option<Ending> {
        self.notifies.last().and_then(|last| last.ending)
    }

    /// Some of its NOTIFYs carry a document.
    fn shows_state(&self) -> bool {
        self.notifies.iter().any(|notify| notify.document != Document::None)
    }

    /// There is no use in trying again.
    fn is_hopeless(&self) -> bool {
        self.claim_progress == ClaimProgress::NotYet && self.failures >= MAX_FAILURES
    }

    /// The numbers of its NOTIFYs are those behind `last`.
    pub fn count_on(&mut self, last: NotifyNumbers) {
        let mut numbers = last;
        for notify in &mut self.notifies {
            numbers = numbers.next();
            notify.subscription.set_numbers(numbers);
        }
    }

    /// The numbers that its last NOTIFY has.
    pub fn last(&self) -> NotifyNumbers {
        self.notifies.last().map_or(self.used, |last| last.subscription.numbers())
    }

    /// The numbers have been claimed.
    pub fn claimed(&mut self, now: i64) {
        self.claim_progress = ClaimProgress::Done;
        if self.ending().is_some() {
            // The row says so.
            self.notifies.iter_mut().for_each(|notify| notify.expires_at = now);
        }
    }

    /// As something that awaits its NOTIFY again.
    pub fn into_pending(self) -> Option<PendingNotify> {
        let used = self.used;
        let last = self.notifies.last()?;
        let mut pending = notify_again(last);
        if self.claim_progress != ClaimProgress::Done {
            pending.subscription = last.subscription.clone();
            pending.subscription.set_numbers(used);
            (pending.ending, pending.null_reason) = (last.ending, last.null_reason);
            pending.claim = match last.claim {
                RowClaim::NotifierSlot(_) if self.unsure => RowClaim::Asked,
                claim => claim,
            };
        }
        Some(pending)
    }
}

/// The NOTIFYs of rows by dialog, in an order that is the same on all servers: two of
/// them must not wait for each other's rows.
fn by_dialog(notifies: Vec<PlannedNotify>) -> Vec<Dialog> {
    let mut dialogs: Vec<Dialog> = Vec::new();
    for notify in notifies {
        match dialogs.last_mut() {
            Some(dialog)
                if dialog.notifies.last().is_some_and(|last| {
                    dialog_of(&last.subscription) == dialog_of(&notify.subscription)
                }) =>
            {
                dialog.notifies.push(notify);
            }
            _ => dialogs.push(Dialog::new(notify)),
        }
    }
    dialogs.sort_by(|a, b| name(a).cmp(&name(b)));
    dialogs
}

fn name(dialog: &Dialog) -> [&[u8]; 3] {
    dialog.notifies.first().map_or([b"", b"", b""], |first| {
        [Text::CallId, Text::FromTag, Text::ToTag].map(|field| first.subscription.text(field))
    })
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

/// A NOTIFY that has its number and did not leave, as something that awaits another
/// one. Its row is as the claim has made it.
pub(super) fn notify_again(notify: &PlannedNotify) -> PendingNotify {
    let mut pending = PendingNotify {
        subscription: notify.subscription.clone(),
        expires_at: notify.expires_at,
        ending: notify.ending,
        claim: match notify.claim {
            RowClaim::NotifierSlot(_) | RowClaim::Rescue => RowClaim::Asked,
            claim => claim,
        },
        notified: Some(notify.notified),
        null_reason: notify.null_reason,
    };
    if pending.ending == Some(Ending::Expired) {
        (pending.subscription.status, pending.null_reason) = (Status::Terminated, false);
        let _ = pending.subscription.set_text(Text::Reason, ENDED);
        // Those who watch the watchers know.
        pending.ending = Some(Ending::Unsubscribed);
    }
    pending
}

/// Adds one that awaits a NOTIFY again. Of a dialog's several the last one counts, and
/// all that its watcher has not been notified of.
pub(super) fn keep_last(rows: &mut Vec<PendingNotify>, pending: PendingNotify) {
    let is_same = |known: &&mut PendingNotify| {
        dialog_of(&known.subscription) == dialog_of(&pending.subscription)
    };
    match rows.iter_mut().find(is_same) {
        Some(known) => {
            let notified = match (known.notified, pending.notified) {
                (Some(before), Some(notified)) if notified.is_after(before) => Some(before),
                (_, notified) => notified,
            };
            *known = PendingNotify { notified, ..pending };
        }
        None => rows.push(pending),
    }
}
