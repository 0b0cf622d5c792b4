//! The numbers of NOTIFYs whose subscriptions are rows (`subs_db_mode=3`): each
//! is taken in the row by who has read the one before, so by one server only.

use crate::error::Fault;
use crate::ports::{Database, Host};
use crate::presence::presentity::PresentityKey;
use crate::presence::subscription::{Ending, Snapshot, Status, Text, is_told_of_changes, may_see};
use crate::service::durable::{durable, single};
use crate::service::subscription_rows::{self as rows, Claimed, ENDED, Row};
use crate::service::{Server, watcher_info};
use crate::shm::Memory;
use crate::store::lanes::{Document, Send};
use crate::store::records::Claim;
use crate::store::row_lanes::DueRow;
use crate::store::rows::dialog_of;

/// A row that can be read, but not be changed, is tried so often.
const MAX_FAILURES: u8 = 3;

/// The NOTIFYs of one dialog, which leave together.
pub(super) struct Group {
    pub(super) sends: Vec<Send>,
    pub(super) state: Taken,
    /// An attempt to take its numbers has failed: perhaps only the answer was
    /// lost.
    unsure: bool,
    /// The numbers could not be taken, though nobody else has taken them.
    failures: u8,
    /// The last attempt has met the database away, or others who held the row: that
    /// is not the row's own fault.
    is_away: bool,
    /// Unix time at which they were.
    taken_at: i64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Taken {
    NotYet,
    Ours,
    /// Nothing is to be sent any more.
    Needless,
}

impl Group {
    fn new(first: Send) -> Group {
        // One that fetches has no row.
        let state = if first.claim == Claim::None { Taken::Ours } else { Taken::NotYet };
        let (unsure, is_away) = (false, false);
        Group { sends: vec![first], state, unsure, failures: 0, is_away, taken_at: 0 }
    }

    pub(super) fn ending(&self) -> Option<Ending> {
        self.sends.last().and_then(|last| last.ending)
    }

    /// Some of its NOTIFYs carry a document.
    pub(super) fn shows_state(&self) -> bool {
        self.sends.iter().any(|send| send.document != Document::None)
    }

    /// There is no use in trying again.
    pub(super) fn is_hopeless(&self) -> bool {
        self.state == Taken::NotYet && self.failures >= MAX_FAILURES
    }

    pub(super) fn call_id(&self) -> &[u8] {
        self.sends.first().map_or(b"", |first| first.subscription.text(Text::CallId))
    }

    /// Those who watch the watchers are told of an end that nobody has told
    /// them of, or perhaps nobody.
    pub(super) fn tell_watchers_of<M: Memory>(&self, server: &Server<M>, key: &PresentityKey) {
        let Some((last, ending)) = self.sends.last().and_then(|last| Some((last, last.ending?)))
        else {
            return;
        };
        if ending == Ending::Expired || last.claim == Claim::Rescue {
            watcher_info::row_ended(server, key, &last.subscription, ending);
        }
    }

    /// CSeq and version that were used last.
    fn used(&self) -> (u32, u32) {
        self.sends.first().map_or((0, 0), |first| {
            let subscription = &first.subscription;
            (subscription.local_cseq.wrapping_sub(1), subscription.version.wrapping_sub(1))
        })
    }

    /// Follows the row, which somebody has changed. What its watcher may see
    /// may be another thing now.
    fn renumber(&mut self, row: &Row) {
        let sees =
            |subscription: &Snapshot| may_see(subscription.status, subscription.text(Text::Reason));
        let saw = self.sends.first().is_some_and(|first| sees(&first.subscription));
        let will_see = sees(&row.subscription);
        if saw != will_see {
            // One NOTIFY says how it is now.
            self.sends.drain(..self.sends.len() - 1);
        }
        let mut next = row.subscription.clone();
        for send in &mut self.sends {
            next.local_cseq = next.local_cseq.wrapping_add(1);
            next.version = next.version.wrapping_add(1);
            next.package = send.subscription.package;
            send.subscription = next.clone();
            send.expires_at = row.expires_at;
            send.null_reason = row.null_reason;
            if row.updated < 0 && matches!(send.claim, Claim::Turn(_)) {
                // It was us who took the flag off.
                send.claim = Claim::Asked;
            }
            match (saw, will_see) {
                (true, false) => send.document = Document::None,
                (false, true) if send.ending.is_none_or(Ending::shows_state) => {
                    send.document = Document::Newest;
                }
                _ => {}
            }
        }
    }

    /// The row is as it was when it was read.
    fn is_as_read(&self, row: &Row) -> bool {
        self.sends.first().is_some_and(|first| {
            let (read, now) = (&first.subscription, &row.subscription);
            now.local_cseq == read.local_cseq.wrapping_sub(1)
                && now.remote_cseq == read.remote_cseq
                && now.status == read.status
                && now.text(Text::Reason) == read.text(Text::Reason)
                && row.expires_at == first.expires_at
        })
    }

    /// As something that awaits its NOTIFY again.
    pub(super) fn due(self) -> Option<DueRow> {
        let (ours, (cseq, version)) = (self.state == Taken::Ours, self.used());
        let last = self.sends.into_iter().next_back()?;
        let (mut subscription, mut ending) = (last.subscription, last.ending);
        let (mut expires_at, mut null_reason) = (last.expires_at, last.null_reason);
        if !ours {
            (subscription.local_cseq, subscription.version) = (cseq, version);
        } else if ending.is_some() {
            // As the row is now.
            expires_at = self.taken_at;
        }
        if ours && ending == Some(Ending::Expired) {
            (subscription.status, null_reason) = (Status::Terminated, false);
            let _ = subscription.set_text(Text::Reason, ENDED);
            // Those who watch the watchers know.
            ending = Some(Ending::Unsubscribed);
        }
        let claim = match last.claim {
            Claim::Turn(_) if ours || self.unsure => Claim::Asked,
            Claim::Rescue if ours => Claim::Asked,
            claim => claim,
        };
        let told = Some(last.told);
        Some(DueRow { subscription, expires_at, ending, claim, told, null_reason })
    }
}

/// The NOTIFYs by dialog, in an order that is the same on all servers: two of
/// them must not wait for each other's rows.
pub(super) fn groups(sends: Vec<Send>) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for send in sends {
        match groups.last_mut() {
            Some(group)
                if group.sends.last().is_some_and(|last| {
                    dialog_of(&last.subscription) == dialog_of(&send.subscription)
                }) =>
            {
                group.sends.push(send);
            }
            _ => groups.push(Group::new(send)),
        }
    }
    groups.sort_by(|a, b| name(a).cmp(&name(b)));
    groups
}

fn name(group: &Group) -> [&[u8]; 3] {
    group.sends.first().map_or([b"", b"", b""], |first| {
        [Text::CallId, Text::FromTag, Text::ToTag].map(|field| first.subscription.text(field))
    })
}

/// Takes the CSeqs of all groups whose rows are as they were read. On a failure
/// some may be taken.
pub(super) fn claim<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    groups: &mut [Group],
) -> Result<(), Fault> {
    let (table, now) = (rows::table(server)?, host.now());
    let database = host.database().ok_or(Fault::Database)?;
    // Notifier processes flag many rows in one statement. Beside those a
    // transaction over several rows could end in a deadlock.
    let together = server.config.notifier_processes == 0 && groups.len() > 1;
    if together && claim_together(database, table, groups, now) {
        return Ok(());
    }
    // One that cannot be changed must not hold the others.
    let mut in_a_row = 0;
    for group in groups.iter_mut() {
        // When two have failed the database is away: no pauses any more.
        let taken = match in_a_row {
            0 | 1 => single(database, |database, attempt| {
                group.unsure |= attempt > 0;
                claim_group(database, table, group, now)
            }),
            _ => claim_group(database, table, group, now),
        };
        match taken {
            Ok(ours) => {
                group.taken(ours, now);
                group.is_away = false;
                in_a_row = 0;
            }
            Err(fault) => {
                group.unsure = true;
                group.is_away = fault == Fault::Database;
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
fn claim_together(
    database: &mut dyn Database,
    table: &str,
    groups: &mut [Group],
    now: i64,
) -> bool {
    let (mut verdicts, mut attempts) = (Vec::new(), 0);
    let done = durable(database, |database| {
        attempts += 1;
        verdicts.clear();
        for group in groups.iter() {
            verdicts.push(claim_group(database, table, group, now)?);
        }
        Ok(())
    });
    for (at, group) in groups.iter_mut().enumerate() {
        group.unsure |= attempts > 1 || done.is_err();
        if done.is_ok() {
            group.taken(verdicts.get(at).copied().unwrap_or(false), now);
        }
    }
    done.is_ok()
}

impl Group {
    fn taken(&mut self, ours: bool, now: i64) {
        if ours {
            (self.state, self.taken_at) = (Taken::Ours, now);
        }
    }
}

fn claim_group(
    database: &mut dyn Database,
    table: &str,
    group: &Group,
    now: i64,
) -> Result<bool, Fault> {
    let Some(first) = group.sends.first() else { return Ok(false) };
    let count = u32::try_from(group.sends.len()).unwrap_or(1);
    let wanted = Claimed {
        claim: first.claim,
        ends: group.ending().map(|ending| (ending, first.expires_at, now)),
        null_reason: first.null_reason,
    };
    rows::claim(database, table, &first.subscription, group.used(), count, wanted)
}

/// Reads the rows of groups that have not got their numbers again, and finds
/// whose NOTIFY is needless by now. On a failure some have not been looked at.
pub(super) fn follow<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    groups: &mut [Group],
) -> Result<(), Fault> {
    let mut outcome = Ok(());
    for group in groups.iter_mut().filter(|group| group.state == Taken::NotYet) {
        let Some(first) = group.sends.first() else {
            group.state = Taken::Needless;
            continue;
        };
        match rows::find(server, host, dialog_of(&first.subscription)) {
            Ok(None) => group.state = Taken::Needless,
            Ok(Some(row)) if is_needless(server, host, group, &row) => {
                group.state = Taken::Needless;
            }
            Ok(Some(row)) => {
                if group.is_away {
                    outcome = Err(Fault::Database);
                } else {
                    group.failures = if group.is_as_read(&row) { group.failures + 1 } else { 0 };
                }
                group.renumber(&row);
            }
            // By its own fault, or the database's.
            Err(_) if can_change(server, host) => group.failures += 1,
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
fn is_needless<M: Memory>(server: &Server<M>, host: &dyn Host, group: &Group, row: &Row) -> bool {
    let Some(first) = group.sends.first() else { return true };
    let runs = row.expires_at >= host.now() - i64::from(server.config.expires_offset);
    let taken_by_another = !group.unsure && row.has_ended() && row.expires_at != first.expires_at;
    match (group.ending(), first.claim) {
        // Another server's notifier process has sent it.
        (_, Claim::Turn(turn)) if row.updated != i64::from(turn) && !group.unsure => true,
        // It was refreshed; or another server has taken its end, and tells it.
        (Some(Ending::Expired), _) => (runs && !row.has_ended()) || taken_by_another,
        (Some(_), _) => taken_by_another,
        (None, Claim::Turn(_) | Claim::Asked | Claim::Rescue | Claim::None) => row.has_ended(),
        // Whoever has decided otherwise tells so.
        (None, Claim::Walk) => {
            let subscription = &row.subscription;
            row.has_ended()
                || !is_told_of_changes(subscription.status, subscription.text(Text::Reason))
        }
    }
}
