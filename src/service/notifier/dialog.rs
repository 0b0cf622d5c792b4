//! The NOTIFYs of a dialog whose numbers are in its row: until they have theirs, and
//! when they have to leave again.

use crate::presence::subscription::{Ending, NotifyNumbers, Status, Text};
use crate::service::subscription_rows::ENDED;
use crate::store::lanes::{Document, PlannedNotify};
use crate::store::records::RowClaim;
use crate::store::row_lanes::PendingNotify;
use crate::store::rows::dialog_of;

/// A row that can be read, but not be changed, is tried so often.
const MAX_FAILURES: u8 = 3;

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
    pub fn shows_state(&self) -> bool {
        self.notifies.iter().any(|notify| notify.document != Document::None)
    }

    /// There is no use in trying again.
    pub fn is_hopeless(&self) -> bool {
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
pub(super) fn by_dialog(notifies: Vec<PlannedNotify>) -> Vec<Dialog> {
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

/// Call-ID and tags.
pub(super) fn name(dialog: &Dialog) -> [&[u8]; 3] {
    dialog.notifies.first().map_or([b"", b"", b""], |first| {
        [Text::CallId, Text::FromTag, Text::ToTag].map(|field| first.subscription.text(field))
    })
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
