//! What NOTIFYs write into the rows of their subscriptions: numbers, flags and
//! ends.

use super::{ENDED, of_presentity, page, table};
use crate::error::Fault;
use crate::ports::{Assignment, Compare, Condition, Database, Host, Value};
use crate::presence::event_package::EventPackage;
use crate::presence::presentity::PresentityKey;
use crate::presence::subscription::{DialogId, Ending, NotifyNumbers, Snapshot, Status, Text};
use crate::service::Server;
use crate::service::durable::single;
use crate::shm::Memory;
use crate::store::records::RowClaim;
use crate::store::rows::{NOT_FLAGGED, dialog_conditions, dialog_of, stored_cseq, unsigned};

/// Leaves what is new about a presentity to the notifier processes, of this
/// server or of another one. `excluded`: the Contact of who made the change.
pub fn flag_watchers<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    key: &PresentityKey,
    package: &EventPackage,
    (slot, excluded): (i64, &[u8]),
) -> Result<(), Fault> {
    let mut more = vec![
        ("status", Compare::Eq, Value::Int(Status::Active as i64)),
        ("updated", Compare::Not, Value::Int(slot)),
        ("expires", Compare::Greater, Value::Int(host.now())),
    ];
    if !excluded.is_empty() {
        more.push(("contact", Compare::Not, Value::text(excluded)));
    }
    // As `is_notified_of_changes`.
    let mut no_reason = vec![(Compare::Eq, Value::text(b""))];
    if host.database().is_some_and(|database| database.keeps_null_texts()) {
        no_reason.push((Compare::Is, Value::Null));
    }
    for (compare, value) in no_reason {
        let notified = [&more[..], &[("reason", compare, value)]].concat();
        for conditions in of_presentity(key, package, &notified) {
            flag(server, host, &conditions, slot)?;
        }
    }
    Ok(())
}

/// Rows read in one go that are flagged one by one.
const FLAGGED_PAGE: usize = 1000;

/// Flags all rows that meet the conditions, in one statement; if the database refuses
/// that, one by one: a row at fault does not keep the others from their NOTIFYs.
fn flag<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    conditions: &[Condition],
    slot: i64,
) -> Result<(), Fault> {
    let flagged = [("updated", Value::Int(slot))];
    match change(server, host, conditions, &flagged) {
        Err(Fault::Refused) => {}
        done => return done,
    }
    let mut after = 0;
    loop {
        let page = page(server, host, conditions, after, FLAGGED_PAGE)?;
        for row in page.rows {
            let one = [("id", Compare::Eq, Value::Int(row.id))];
            match change(server, host, &one, &flagged) {
                Ok(()) | Err(Fault::Refused) => {}
                Err(fault) => return Err(fault),
            }
        }
        match page.last {
            Some(last) => after = last,
            None => return Ok(()),
        }
    }
}

fn change<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    conditions: &[Condition],
    changes: &[Assignment],
) -> Result<(), Fault> {
    let table = table(server)?;
    let database = host.database().ok_or(Fault::Database)?;
    single(database, |database, _| database.update(table, conditions, changes))
}

/// Rows of a slot that this server does not have (it was larger when they were
/// flagged) get one that it has.
pub fn adopt_slots<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    slots: i64,
) -> Result<(), Fault> {
    let conditions = [("updated", Compare::Greater, Value::Int(slots - 1))];
    flag(server, host, &conditions, 0)
}

/// Takes the CSeqs of a dialog from the one after `used`, which its row has, up to
/// `last`; none if the row is not as it was read. A last NOTIFY marks it as ended, so that another server
/// sends it should this one be killed before.
pub fn claim(
    database: &mut dyn Database,
    table: &str,
    subscription: &Snapshot,
    (used, last): (NotifyNumbers, NotifyNumbers),
    wanted: ClaimConditions,
) -> Result<bool, Fault> {
    let mut conditions = dialog_conditions(dialog_of(subscription));
    conditions.push(("local_cseq", Compare::Eq, stored_cseq(used.cseq)));
    conditions.push(("remote_cseq", Compare::Eq, unsigned(subscription.remote_cseq.0)));
    conditions.push(("status", Compare::Eq, Value::Int(subscription.status as i64)));
    if !wanted.null_reason {
        conditions.push(("reason", Compare::Eq, Value::text(subscription.text(Text::Reason))));
    }
    if let Some((_, expires_at, _)) = wanted.ends {
        // One that was refreshed lives on; an end is taken once.
        conditions.push(("expires", Compare::Eq, Value::Int(expires_at)));
    }
    if let RowClaim::NotifierSlot(slot) = wanted.claim {
        conditions.push(("updated", Compare::Eq, Value::Int(i64::from(slot))));
    }
    let mut changes =
        vec![("local_cseq", stored_cseq(last.cseq)), ("version", unsigned(last.version))];
    // A flag that is not ours stays: it may stand for a change that came after
    // the state was read.
    if wanted.ends.is_some() || matches!(wanted.claim, RowClaim::NotifierSlot(_)) {
        changes.push(("updated", Value::Int(NOT_FLAGGED)));
    }
    if let Some((ending, _, now)) = wanted.ends {
        // From now on it is ours to tell, for a while.
        changes.push(("expires", Value::Int(now)));
        // A refresh that comes after the last NOTIFY is too late (B14).
        if ending == Ending::Expired {
            changes.push(("status", Value::Int(Status::Terminated as i64)));
            changes.push(("reason", Value::text(ENDED)));
        }
    }
    database.update(table, &conditions, &changes)?;
    Ok(database.affected_rows() != Some(0))
}

/// What a claim depends on, besides the row's numbers.
#[derive(Debug, Clone, Copy)]
pub struct ClaimConditions {
    /// Who asks for the NOTIFY.
    pub claim: RowClaim,
    /// It is the last one: why, the row's `expires` as it was read, and the
    /// time.
    pub ends: Option<(Ending, i64, i64)>,
    /// The row's `reason` is NULL, which nothing equals.
    pub null_reason: bool,
}

/// The table can be changed: a statement that fails all the same does so by its
/// own fault. (A server that only reads refuses also what meets no row.)
pub fn can_change(database: &mut dyn Database, table: &str) -> bool {
    let nobody = DialogId { call_id: b"", from_tag: b"", to_tag: b"" };
    let nothing = [("updated", Value::Int(NOT_FLAGGED))];
    database.update(table, &dialog_conditions(nobody), &nothing).is_ok()
}

/// Deletes the row of a dialog whose last NOTIFY has left, unless somebody has
/// touched it since.
pub fn delete_ended(
    database: &mut dyn Database,
    table: &str,
    subscription: &Snapshot,
) -> Result<(), Fault> {
    let mut row = dialog_conditions(dialog_of(subscription));
    row.push(("local_cseq", Compare::Eq, stored_cseq(subscription.local_cseq)));
    row.push(("remote_cseq", Compare::Eq, unsigned(subscription.remote_cseq.0)));
    database.delete(table, &row)
}
