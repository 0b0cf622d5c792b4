//! How NOTIFYs get their CSeqs. This is the one place that knows where the numbers
//! of a dialog are kept.

use crate::error::Fault;
use crate::ports::{Host, Level};
use crate::presence::subscription::{Ending, NotifyNumbers, Status, Text};
use crate::service::notifier::claims;
use crate::service::notifier::in_hand::InHand;
use crate::service::seldom::Seldom;
use crate::service::subscription_rows::ENDED;
use crate::service::{Server, watcher_info};
use crate::shm::Memory;
use crate::store::LaneRef;
use crate::store::lanes::{Document, Send, by_document};
use crate::store::records::Claim;
use crate::store::row_lanes::DueRow;
use crate::store::rows::dialog_of;
use crate::store::shard::later;

static GIVEN_UP: Seldom = Seldom::new();

/// How often another CSeq is tried because others keep taking them.
pub(super) const ATTEMPTS: usize = 16;

/// A row that can be read, but not be changed, is tried so often.
const MAX_FAILURES: u8 = 3;

/// Where the numbers of a dialog are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Numbering {
    /// In memory: who picks a watcher has its number. A row, if there is one,
    /// reserves some ahead (A7).
    Reserved,
    /// In the dialog's row, which several servers change. Each number is claimed
    /// there, and the state is read after the row and before the claim.
    Claimed,
}

impl Numbering {
    /// That of this server.
    pub fn of<M: Memory>(server: &Server<M>) -> Numbering {
        match server.store.policy.rows_only() {
            true => Numbering::Claimed,
            false => Numbering::Reserved,
        }
    }

    /// A document that is made before its NOTIFY has a number is not older than
    /// those with lower ones: nobody else takes numbers meanwhile.
    pub fn composes_first(self) -> bool {
        self == Numbering::Reserved
    }
}

/// Whether a dialog has got the numbers of its NOTIFYs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Claiming {
    NotYet,
    Done,
    /// Nothing is to be sent any more.
    Needless,
}

/// The NOTIFYs of one dialog whose numbers have to be claimed. They leave together.
pub(super) struct Dialog {
    /// At least one.
    pub sends: Vec<Send>,
    pub claiming: Claiming,
    /// An attempt has failed: perhaps only the answer was lost.
    pub unsure: bool,
    /// Attempts that have failed though nobody else has changed the row.
    pub failures: u8,
    /// The last attempt has met the database away, or others who held the row: that
    /// is not the row's own fault.
    pub is_away: bool,
}

impl Dialog {
    fn new(first: Send) -> Dialog {
        // One that fetches has no row.
        let claiming = match first.claim {
            Claim::None => Claiming::Done,
            _ => Claiming::NotYet,
        };
        Dialog { sends: vec![first], claiming, unsure: false, failures: 0, is_away: false }
    }

    pub fn ending(&self) -> Option<Ending> {
        self.sends.last().and_then(|last| last.ending)
    }

    /// Some of its NOTIFYs carry a document.
    fn shows_state(&self) -> bool {
        self.sends.iter().any(|send| send.document != Document::None)
    }

    /// There is no use in trying again.
    fn is_hopeless(&self) -> bool {
        self.claiming == Claiming::NotYet && self.failures >= MAX_FAILURES
    }

    /// The numbers that were used last.
    pub fn used(&self) -> NotifyNumbers {
        let first = self.sends.first().map(|first| first.subscription.numbers());
        first.unwrap_or_default().before()
    }

    /// The numbers have been claimed.
    pub fn claimed(&mut self, now: i64) {
        self.claiming = Claiming::Done;
        if self.ending().is_some() {
            // The row says so.
            self.sends.iter_mut().for_each(|send| send.expires_at = now);
        }
    }

    /// As something that awaits its NOTIFY again.
    pub fn due(self) -> Option<DueRow> {
        let used = self.used();
        let last = self.sends.last()?;
        let mut due = due_again(last);
        if self.claiming != Claiming::Done {
            due.subscription = last.subscription.clone();
            due.subscription.set_numbers(used);
            (due.ending, due.null_reason) = (last.ending, last.null_reason);
            due.claim = match last.claim {
                Claim::Turn(_) if self.unsure => Claim::Asked,
                claim => claim,
            };
        }
        Some(due)
    }
}

/// The NOTIFYs of rows by dialog, in an order that is the same on all servers: two of
/// them must not wait for each other's rows.
fn by_dialog(sends: Vec<Send>) -> Vec<Dialog> {
    let mut dialogs: Vec<Dialog> = Vec::new();
    for send in sends {
        match dialogs.last_mut() {
            Some(dialog)
                if dialog.sends.last().is_some_and(|last| {
                    dialog_of(&last.subscription) == dialog_of(&send.subscription)
                }) =>
            {
                dialog.sends.push(send);
            }
            _ => dialogs.push(Dialog::new(send)),
        }
    }
    dialogs.sort_by(|a, b| name(a).cmp(&name(b)));
    dialogs
}

fn name(dialog: &Dialog) -> [&[u8]; 3] {
    dialog.sends.first().map_or([b"", b"", b""], |first| {
        [Text::CallId, Text::FromTag, Text::ToTag].map(|field| first.subscription.text(field))
    })
}

impl<M: Memory> InHand<'_, M> {
    /// Takes in hand what was picked: with its numbers, where these are reserved.
    pub fn take(&mut self, numbering: Numbering, sends: Vec<Send>) {
        match numbering {
            Numbering::Reserved => self.numbered = sends,
            Numbering::Claimed => self.open = by_dialog(sends),
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
        for dialog in self.open.extract_if(.., |dialog| dialog.claiming == Claiming::Done) {
            tell_watchers_of(self.server, self.lane, &dialog);
            self.numbered.extend(dialog.sends);
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
        self.open.retain(|dialog| dialog.claiming != Claiming::Needless);
    }
}

/// Those who watch the watchers are told of an end that nobody has told them of, or
/// perhaps nobody.
fn tell_watchers_of<M: Memory>(server: &Server<M>, lane: LaneRef<M>, dialog: &Dialog) {
    let last = dialog.sends.last().and_then(|last| Some((last, last.ending?)));
    let Some((last, ending)) = last else { return };
    if (ending == Ending::Expired || last.claim == Claim::Rescue)
        && let Some(key) = server.store.lane_key(lane)
    {
        watcher_info::row_ended(server, &key, &last.subscription, ending);
    }
}

/// A NOTIFY that has its number and did not leave, as something that awaits another
/// one. Its row is as the claim has made it.
pub(super) fn due_again(send: &Send) -> DueRow {
    let mut due = DueRow {
        subscription: send.subscription.clone(),
        expires_at: send.expires_at,
        ending: send.ending,
        claim: match send.claim {
            Claim::Turn(_) | Claim::Rescue => Claim::Asked,
            claim => claim,
        },
        told: Some(send.told),
        null_reason: send.null_reason,
    };
    if due.ending == Some(Ending::Expired) {
        (due.subscription.status, due.null_reason) = (Status::Terminated, false);
        let _ = due.subscription.set_text(Text::Reason, ENDED);
        // Those who watch the watchers know.
        due.ending = Some(Ending::Unsubscribed);
    }
    due
}

/// Adds one that awaits a NOTIFY again. Of a dialog's several the last one counts, and
/// all that its watcher has not been told of.
pub(super) fn keep_last(rows: &mut Vec<DueRow>, due: DueRow) {
    let is_same =
        |known: &&mut DueRow| dialog_of(&known.subscription) == dialog_of(&due.subscription);
    match rows.iter_mut().find(is_same) {
        Some(known) => {
            let told = match (known.told, due.told) {
                (Some(before), Some(told)) if later(told, before) => Some(before),
                (_, told) => told,
            };
            *known = DueRow { told, ..due };
        }
        None => rows.push(due),
    }
}
