//! Rows change. What `presence::transition` says becomes of a subscription is
//! written by a statement that names what it was judged by; one that meets no row
//! is judged again (A8), unless only its answer was lost.

use super::{ActiveWatcherRow, ENDED, find, table};
use crate::error::{Fault, Rejection};
use crate::ports::{Assignment, Compare, Condition, Database, Host, Value};
use crate::presence::renewal::Renewed;
use crate::presence::subscription::{Authorization, DialogId, Snapshot, Status, Text};
use crate::presence::text::TooLong;
use crate::presence::transition::{Event, Next, Phase, Transition};
use crate::service::durable::{self, single};
use crate::service::{Server, check_widths};
use crate::shm::Memory;
use crate::store::rows::{
    dialog_conditions, dialog_of, presentity_uri, stored_cseq, subscription_row, unsigned,
};

/// How often a change is judged again because somebody else made one first.
const ATTEMPTS: usize = 8;

/// Something happens to a subscription, whose row was read. Gives what that leads
/// to, and the row as it is then. `flag` names the slot of the notifier process
/// that is to send the NOTIFY, if one is; `fits` says whether the columns take
/// what changes.
pub fn update<'e, M: Memory, E: From<Fault>>(
    server: &Server<M>,
    host: &mut dyn Host,
    mut found: Option<ActiveWatcherRow>,
    event: &Event<'e>,
    flag: Option<i64>,
    fits: impl Fn(&[Assignment]) -> Result<(), E>,
) -> Result<(Transition<'e>, Option<ActiveWatcherRow>), E> {
    for _ in 0..ATTEMPTS {
        let Some(row) = found else { return Ok((Transition::of_nobody(event), None)) };
        let handled = row.current().handle(event, || row.subscription.block().to_vec());
        let mut transition = handled.map_err(Fault::from)?;
        if !transition.is_change() {
            return Ok((transition, Some(row)));
        }
        let change =
            TransitionWrite::new(row, event, &mut transition, flag).map_err(Fault::from)?;
        fits(&change.columns)?;
        if change.write(server, host)? {
            return Ok((transition, Some(change.row)));
        }
        found = find(server, host, dialog_of(&change.row.subscription))?;
        if found.as_ref().is_some_and(|row| change.is_in(row)) {
            return Ok((transition, Some(change.row)));
        }
    }
    Err(Fault::Database.into())
}

/// What is written of one transition.
struct TransitionWrite {
    /// The row as it is then.
    row: ActiveWatcherRow,
    /// What it was judged by.
    conditions: Vec<Condition>,
    /// The columns that change; none if it is deleted.
    columns: Vec<Assignment>,
}

impl TransitionWrite {
    fn new(
        row: ActiveWatcherRow,
        event: &Event<'_>,
        transition: &mut Transition<'_>,
        flag: Option<i64>,
    ) -> Result<TransitionWrite, TooLong> {
        let conditions = dialog_conditions(dialog_of(&row.subscription));
        let mut change = TransitionWrite { row, conditions, columns: Vec::new() };
        let text = transition.text.take();
        match transition.next {
            Next::Renewed(renewed, phase) => change.renew(renewed, phase, text, flag)?,
            Next::Decided(decision, phase) => change.decide(decision, phase, text, event),
            Next::Removed => {
                change.judged_by_state();
                if let Event::NotifyAnswer(Some(contact)) = event {
                    change.judged_by("contact", Value::text(contact));
                }
            }
            // A NOTIFY does, when it takes its number.
            Next::Expired | Next::Unchanged | Next::Refused(_) => {}
        }
        if let Some(flag) = flag.filter(|_| !change.columns.is_empty()) {
            change.columns.push(("updated", Value::Int(flag)));
        }
        Ok(change)
    }

    fn judged_by(&mut self, column: &'static str, value: Value) {
        self.conditions.push((column, Compare::Eq, value));
    }

    /// They say whether it has ended.
    fn judged_by_state(&mut self) {
        self.judged_by("status", Value::Int(self.row.subscription.status as i64));
        if !self.row.null_reason {
            let reason = Value::text(self.row.subscription.text(Text::Reason));
            self.judged_by("reason", reason);
        }
    }

    fn renew(
        &mut self,
        renewed: Renewed,
        phase: Phase,
        text: Option<Vec<u8>>,
        flag: Option<i64>,
    ) -> Result<(), TooLong> {
        self.judged_by("remote_cseq", unsigned(self.row.subscription.remote_cseq.0));
        let subscription = &mut self.row.subscription;
        text.into_iter().for_each(|text| subscription.set_block(text));
        subscription.remote_cseq = renewed.remote_cseq;
        subscription.flags = renewed.flags;
        subscription.expires = renewed.expires;
        self.row.expires_at = renewed.expires_at;
        let text = |field| Value::text(subscription.text(field));
        self.columns.extend([
            // Rows of the stock module may spell the host otherwise (B19).
            ("presentity_uri", Value::Text(presentity_uri(subscription))),
            ("expires", Value::Int(self.row.expires_at)),
            ("remote_cseq", unsigned(subscription.remote_cseq.0)),
            ("contact", text(Text::Contact)),
            ("local_contact", text(Text::LocalContact)),
            ("socket_info", text(Text::Socket)),
            ("flags", unsigned(subscription.flags)),
        ]);
        if phase.lives() {
            return Ok(());
        }
        if subscription.text(Text::Reason).is_empty() {
            self.columns.push(("reason", Value::text(ENDED)));
            subscription.set_text(Text::Reason, ENDED)?;
            self.row.null_reason = false;
        } else if flag.is_some() {
            // Who is politely blocked: the notifier process has to see that it
            // has ended, and that it is shown nothing.
            self.columns.push(("reason", Value::text(ENDED)));
            self.columns.push(("status", Value::Int(Status::Pending as i64)));
        }
        Ok(())
    }

    fn decide(
        &mut self,
        decision: &Authorization,
        phase: Phase,
        text: Option<Vec<u8>>,
        event: &Event<'_>,
    ) {
        self.judged_by_state();
        self.columns.push(("status", Value::Int(decision.status as i64)));
        self.columns.push(("reason", Value::text(&decision.reason)));
        let subscription = &mut self.row.subscription;
        text.into_iter().for_each(|text| subscription.set_block(text));
        subscription.status = decision.status;
        self.row.null_reason = false;
        if let (false, Event::Decision(_, now)) = (phase.lives(), event) {
            // Should this server not come to tell it, the timer of another does.
            self.columns.push(("expires", Value::Int(*now)));
            self.row.expires_at = *now;
        }
    }

    /// Writes it; false if there is no row as it was judged by.
    fn write<M: Memory>(&self, server: &Server<M>, host: &mut dyn Host) -> Result<bool, Fault> {
        if self.columns.is_empty() {
            return delete_where(server, host, &self.conditions);
        }
        let table = table(server)?;
        let database = host.database().ok_or(Fault::Database)?;
        single(database, |database, _| {
            database.update(table, &self.conditions, &self.columns)?;
            // A driver that cannot count has no other servers beside it.
            Ok(database.affected_rows() != Some(0))
        })
    }

    /// The row says already what it was to say: a server that counts changes meets
    /// none then, and so does an attempt after one whose answer was lost. A row that
    /// is there was not deleted.
    fn is_in(&self, row: &ActiveWatcherRow) -> bool {
        let is = &row.subscription;
        !self.columns.is_empty()
            && self.columns.iter().all(|(column, value)| match *column {
                "expires" => *value == Value::Int(row.expires_at),
                "remote_cseq" => *value == unsigned(is.remote_cseq.0),
                "status" => *value == Value::Int(is.status as i64),
                "reason" => value.as_bytes() == is.text(Text::Reason),
                _ => true,
            })
    }
}

/// Adds the row of a new subscription; false if its dialog has one. `updated`
/// flags it.
pub fn insert<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    subscription: &Snapshot,
    expires_at: i64,
    updated: i64,
) -> Result<bool, Rejection> {
    let table = table(server)?;
    let package = server.registry.get(subscription.package).ok_or(Fault::Package)?;
    let mut row = subscription_row(subscription, &package.name, expires_at, updated);
    set(&mut row, "local_cseq", stored_cseq(subscription.local_cseq));
    server.widths.subscriptions.drop_unfit_optional(&mut row);
    check_widths(&server.widths.subscriptions, &row)?;
    let key = dialog_conditions(dialog_of(subscription));
    let database = host.database().ok_or(Fault::Database)?;
    let is_new = single(database, |database, _| match database.insert(table, &row) {
        Ok(()) => Ok(true),
        // The request has come again, later than answers are kept, or only
        // the answer of the first attempt was lost.
        Err(fault) => match exists(database, table, &key)? {
            true => Ok(false),
            false => Err(fault),
        },
    })?;
    Ok(is_new)
}

fn exists(database: &mut dyn Database, table: &str, row: &[Condition]) -> Result<bool, Fault> {
    let mut found = false;
    database.query(table, row, &["status"], None, &mut |_| found = true)?;
    Ok(found)
}

fn set(row: &mut [Assignment], column: &str, value: Value) {
    if let Some(assignment) = row.iter_mut().find(|(name, _)| *name == column) {
        assignment.1 = value;
    }
}

/// Deletes the row of a dialog; false if somebody else has.
pub fn delete<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    dialog: DialogId<'_>,
) -> Result<bool, Fault> {
    delete_where(server, host, &dialog_conditions(dialog))
}

fn delete_where<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    conditions: &[Condition],
) -> Result<bool, Fault> {
    let table = table(server)?;
    let database = host.database().ok_or(Fault::Database)?;
    durable::delete(database, table, conditions)
}
