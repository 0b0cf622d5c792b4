//! The numbers of NOTIFYs whose subscriptions are rows (`subs_db_mode=3`): each
//! is taken in the row by who has read the one before, so by one server only.

use crate::error::Fault;
use crate::ports::{Database, Host};
use crate::presence::subscription::{
    Ending, Snapshot, Text, has_expired, is_notified_of_changes, may_see,
};
use crate::service::Server;
use crate::service::durable::{Unmade, attempted, together};
use crate::service::notifier::dialog::{ClaimProgress, Dialog};
use crate::service::notifier_slots::may_change_together;
use crate::service::subscription_rows::{self as rows, ActiveWatcherRow, ClaimConditions};
use crate::shm::Memory;
use crate::store::lanes::Document;
use crate::store::records::RowClaim;
use crate::store::rows::dialog_of;

impl Dialog {
    /// Follows the row, which somebody has changed. What its watcher may see
    /// may be another thing now.
    fn renumber(&mut self, row: &ActiveWatcherRow) {
        let sees =
            |subscription: &Snapshot| may_see(subscription.status, subscription.text(Text::Reason));
        let saw = self.notifies.first().is_some_and(|first| sees(&first.subscription));
        let will_see = sees(&row.subscription);
        if saw != will_see {
            // One NOTIFY says how it is now.
            self.notifies.drain(..self.notifies.len() - 1);
        }
        self.used = row.subscription.numbers();
        for notify in &mut self.notifies {
            let package = notify.subscription.package;
            notify.subscription = row.subscription.clone();
            notify.subscription.package = package;
            notify.expires_at = row.expires_at;
            notify.null_reason = row.null_reason;
            if row.updated < 0 && matches!(notify.claim, RowClaim::NotifierSlot(_)) {
                // It was us who took the flag off.
                notify.claim = RowClaim::Asked;
            }
            match (saw, will_see) {
                (true, false) => notify.document = Document::None,
                (false, true) if notify.ending.is_none_or(Ending::shows_state) => {
                    notify.document = Document::Newest;
                }
                _ => {}
            }
        }
        self.count_on(self.used);
    }

    /// Leaves numbers out where the row may have gone back.
    fn raise<M: Memory>(&mut self, server: &Server<M>, outages: u32) {
        let Some(first) = self.notifies.first() else { return };
        let (dialog, used) = (dialog_of(&first.subscription), self.used);
        let floor = server.store.cseq_floor(dialog, used.cseq, outages);
        self.count_on(used.after(floor.since(used.cseq)));
    }

    /// The numbers have been claimed.
    fn has_claimed<M: Memory>(&mut self, server: &Server<M>, now: i64, outages: u32) {
        self.claimed(now);
        if let Some(first) = self.notifies.first() {
            let (dialog, last) = (dialog_of(&first.subscription), self.last().cseq);
            server.store.cseq_used(dialog, self.used.cseq, last, outages);
        }
    }

    /// Of an attempt perhaps only the answer was lost.
    fn may_have_been_claimed(&mut self, may: bool, now: i64) {
        if may {
            self.unsure = true;
            self.tried = Some(now);
        }
    }

    /// The row is as it was when it was read.
    fn is_as_read(&self, row: &ActiveWatcherRow) -> bool {
        self.notifies.first().is_some_and(|first| {
            let (read, now) = (&first.subscription, &row.subscription);
            now.local_cseq == self.used.cseq
                && now.remote_cseq == read.remote_cseq
                && now.status == read.status
                && now.text(Text::Reason) == read.text(Text::Reason)
                && row.expires_at == first.expires_at
        })
    }
}

/// Takes the CSeqs of all dialogs whose rows are as they were read. On a failure
/// some may be taken.
pub(super) fn claim<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    dialogs: &mut [Dialog],
) -> Result<(), Fault> {
    let (table, now) = (rows::table(server)?, host.now());
    let database = host.database().ok_or(Fault::Database)?;
    let outages = database.outages();
    dialogs.iter_mut().for_each(|dialog| dialog.raise(server, outages));
    let may_be_together = dialogs.len() > 1 && may_change_together(server);
    if may_be_together && claim_together(server, database, table, dialogs, (now, outages)) {
        return Ok(());
    }
    // One that cannot be changed must not hold the others.
    let mut in_a_row = 0;
    for dialog in dialogs.iter_mut() {
        // When two have failed the database is away: no pauses any more.
        let taken = match in_a_row {
            0 | 1 => attempted(database, |database, lost| {
                dialog.may_have_been_claimed(lost > 0, now);
                claim_dialog(database, table, dialog, now)
            }),
            _ => claim_dialog(database, table, dialog, now)
                .map_err(|fault| Unmade { fault, perhaps: true }),
        };
        match taken {
            Ok(ours) => {
                if ours {
                    dialog.has_claimed(server, now, outages);
                }
                dialog.is_away = false;
                in_a_row = 0;
            }
            Err(Unmade { fault, perhaps }) => {
                dialog.may_have_been_claimed(perhaps, now);
                dialog.is_away = fault == Fault::Database;
                in_a_row += 1;
            }
        }
    }
    // The last one may have failed by its own fault, or the database's.
    if in_a_row > 0 && !rows::can_change(database, table) {
        return Err(Fault::Database);
    }
    Ok(())
}

/// All in one transaction; false if that has failed.
fn claim_together<M: Memory>(
    server: &Server<M>,
    database: &mut dyn Database,
    table: &str,
    dialogs: &mut [Dialog],
    (now, outages): (i64, u32),
) -> bool {
    let (mut verdicts, mut is_lost) = (Vec::new(), false);
    let done = together(database, |database, lost| {
        is_lost = lost > 0;
        verdicts.clear();
        for dialog in dialogs.iter() {
            verdicts.push(claim_dialog(database, table, dialog, now)?);
        }
        Ok(())
    });
    for (at, dialog) in dialogs.iter_mut().enumerate() {
        let is_lost = done.map_or_else(|unmade| unmade.perhaps, |()| is_lost);
        dialog.may_have_been_claimed(is_lost, now);
        if done.is_ok() && verdicts.get(at) == Some(&true) {
            dialog.has_claimed(server, now, outages);
        }
    }
    done.is_ok()
}

fn claim_dialog(
    database: &mut dyn Database,
    table: &str,
    dialog: &Dialog,
    now: i64,
) -> Result<bool, Fault> {
    let Some(first) = dialog.notifies.first() else { return Ok(false) };
    let wanted = ClaimConditions {
        claim: first.claim,
        ends: dialog.ending().map(|ending| (ending, first.expires_at, now)),
        null_reason: first.null_reason,
    };
    let numbers = (dialog.used, dialog.last());
    rows::claim(database, table, &first.subscription, numbers, wanted)
}

/// Reads the rows of dialogs that have not got their numbers again, and finds
/// whose NOTIFY is needless by now. On a failure some have not been looked at.
pub(super) fn follow<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    dialogs: &mut [Dialog],
) -> Result<(), Fault> {
    let mut outcome = Ok(());
    for dialog in dialogs.iter_mut().filter(|dialog| dialog.claim_progress == ClaimProgress::NotYet)
    {
        let Some(first) = dialog.notifies.first() else {
            dialog.claim_progress = ClaimProgress::Needless;
            continue;
        };
        match rows::find(server, host, dialog_of(&first.subscription)) {
            Ok(None) => dialog.claim_progress = ClaimProgress::Needless,
            Ok(Some(row)) if is_needless(server, host, dialog, &row) => {
                dialog.claim_progress = ClaimProgress::Needless;
            }
            Ok(Some(row)) => {
                if dialog.is_away {
                    outcome = Err(Fault::Database);
                } else {
                    dialog.failures = if dialog.is_as_read(&row) { dialog.failures + 1 } else { 0 };
                }
                dialog.renumber(&row);
            }
            // By its own fault, or the database's.
            Err(_) if can_change(server, host) => dialog.failures += 1,
            Err(fault) => outcome = Err(fault),
        }
    }
    outcome
}

fn can_change<M: Memory>(server: &Server<M>, host: &mut dyn Host) -> bool {
    match (rows::table(server), host.database()) {
        (Ok(table), Some(database)) => rows::can_change(database, table),
        _ => false,
    }
}

/// The row is not as it was read: somebody has changed it, or has taken the
/// number, or it was us and only the answer was lost. Then a number is left out.
fn is_needless<M: Memory>(
    server: &Server<M>,
    host: &dyn Host,
    dialog: &Dialog,
    row: &ActiveWatcherRow,
) -> bool {
    let Some(first) = dialog.notifies.first() else { return true };
    let offset = i64::from(server.config.expires_offset);
    let runs = !has_expired(row.expires_at, host.now(), offset);
    // An attempt of ours would have written its own time.
    let is_ours = dialog.unsure && dialog.tried == Some(row.expires_at);
    let taken_by_another = !is_ours && row.has_ended() && row.expires_at != first.expires_at;
    match (dialog.ending(), first.claim) {
        // Another server's notifier process has sent it.
        (_, RowClaim::NotifierSlot(slot)) if row.updated != i64::from(slot) && !dialog.unsure => {
            true
        }
        // It was refreshed; or another server has taken its end, and tells it.
        (Some(Ending::Expired), _) => (runs && !row.has_ended()) || taken_by_another,
        (Some(_), _) => taken_by_another,
        (None, RowClaim::NotifierSlot(_) | RowClaim::Asked | RowClaim::Rescue | RowClaim::None) => {
            row.has_ended()
        }
        // Whoever has decided otherwise tells so.
        (None, RowClaim::FanOut) => {
            let subscription = &row.subscription;
            row.has_ended()
                || !is_notified_of_changes(subscription.status, subscription.text(Text::Reason))
        }
    }
}
