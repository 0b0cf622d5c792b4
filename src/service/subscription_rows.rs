//! Subscriptions that are rows of the database only (`subs_db_mode=3`). Several
//! servers may work on one table: nothing is locked, every change names the
//! state that it was judged by, and one that meets no row is judged again (A8).

mod presentity;

pub use presentity::{has_subscribers, of_presentity, of_uri, of_watcher, page_of_any, watchers};

use crate::error::{Fault, Rejection};
use crate::ports::{Assignment, Compare, Condition, Database, Extent, Host, Value, Wanted};
use crate::presence::event_package::{Event, EventPackage, PackageId};
use crate::presence::presentity::PresentityKey;
use crate::presence::registry::EventPackageRegistry;
use crate::presence::subscription::{
    Authorization, Current, DialogId, Ending, InDialog, NotifyNumbers, Snapshot, Status, Text,
    in_dialog,
};
use crate::presence::text::TooLong;
use crate::presence::uri;
use crate::service::durable::single;
use crate::service::paging::{Place, count as count_rows, page as page_of};
use crate::service::{Server, check_widths};
use crate::shm::Memory;
use crate::store::records::Claim;
use crate::store::renewal::Renewal;
use crate::store::row_lanes::DueRow;
use crate::store::rows::{
    NOT_FLAGGED, SUBSCRIPTION_COLUMNS, dialog_conditions, dialog_of, presentity_uri,
    read_subscription, subscription_row, unsigned,
};

/// How often a change is judged again because somebody else made one first.
const ATTEMPTS: usize = 8;

/// Rows read to see whether there is one.
const FEW: usize = 8;

/// `reason` of a row whose watcher has unsubscribed, or which has run out (then
/// its status is terminated): only its last NOTIFY is missing.
pub(super) const ENDED: &[u8] = b"timeout";

/// A row, read. CSeq and version are the last ones used.
#[derive(Debug, Clone)]
pub struct Row {
    /// Its `id`.
    pub id: i64,
    /// The subscription.
    pub subscription: Snapshot,
    /// Unix time of its end.
    pub expires_at: i64,
    /// The turn that it is flagged for; negative for none.
    pub updated: i64,
    /// Its `reason` is NULL, not empty.
    pub null_reason: bool,
}

impl Row {
    /// It has been ended; only its last NOTIFY is missing.
    pub fn has_ended(&self) -> bool {
        self.subscription.status == Status::Terminated
            || self.subscription.text(Text::Reason) == ENDED
    }

    /// Why its last NOTIFY is sent, if it is its turn.
    pub fn ending(&self, now: i64, offset: i64) -> Option<Ending> {
        match self.subscription.status {
            Status::Terminated => Some(match self.subscription.text(Text::Reason) {
                ENDED => Ending::Expired,
                reason => Ending::from_reason(reason),
            }),
            _ if self.has_ended() => Some(Ending::Unsubscribed),
            _ => (self.expires_at < now - offset).then_some(Ending::Expired),
        }
    }

    /// As something that awaits a NOTIFY.
    pub fn due(self, ending: Option<Ending>, claim: Claim) -> DueRow {
        DueRow {
            subscription: self.subscription,
            expires_at: self.expires_at,
            ending,
            claim,
            told: None,
            null_reason: self.null_reason,
        }
    }
}

/// Columns that make a `Row`, but for its `id`: those of a subscription, then
/// the flag.
pub(super) fn columns() -> Vec<&'static str> {
    let mut all = SUBSCRIPTION_COLUMNS.to_vec();
    all.push("updated");
    all
}

/// The name of the table.
pub(super) fn table<M: Memory>(server: &Server<M>) -> Result<&str, Fault> {
    std::str::from_utf8(&server.config.active_watchers_table).map_err(|_| Fault::Database)
}

/// The package of a row; `None` if its module is not loaded.
fn package_of(registry: &EventPackageRegistry, event: &[u8]) -> Option<PackageId> {
    registry.exact(&Event::parse(event)?)
}

pub(super) fn read(
    registry: &EventPackageRegistry,
    id: i64,
    columns: &[Value],
    now: i64,
) -> Option<Row> {
    let (updated, columns) = columns.split_last()?;
    let reason = SUBSCRIPTION_COLUMNS.iter().position(|column| *column == "reason")?;
    let null_reason = *columns.get(reason)? == Value::Null;
    let row = read_subscription(columns, now)?;
    let mut subscription = row.snapshot;
    subscription.package = package_of(registry, &row.event)?;
    // The number in the row counts the dialog's, and tm's counts once more.
    subscription.local_cseq = subscription.local_cseq.saturating_add(1);
    let updated = updated.as_int().unwrap_or(NOT_FLAGGED);
    Some(Row { id, subscription, expires_at: row.expires_at, updated, null_reason })
}

/// What the row has of a CSeq that was the last one used.
fn stored_cseq(used: u32) -> Value {
    Value::Int(i64::from(used.saturating_sub(1)))
}

fn rows<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    conditions: &[Condition],
) -> Result<Vec<Row>, Fault> {
    let (table, now, mut wanted) = (table(server)?, host.now(), columns());
    wanted.push("id");
    let database = host.database().ok_or(Fault::Database)?;
    single(database, |database, _| {
        let mut found = Vec::new();
        database.query(table, conditions, &wanted, None, &mut |row| {
            if let Some((id, row)) = row.split_last()
                && let Some(id) = id.as_int()
            {
                found.extend(read(&server.registry, id, row, now));
            }
        })?;
        Ok(found)
    })
}

/// A page of rows and where the next one begins.
pub struct Page {
    /// Those that can be read.
    pub rows: Vec<Row>,
    /// `id` of the last row of the page, readable or not; `None` if no other
    /// page follows.
    pub last: Option<i64>,
}

/// Rows that meet the conditions with an `id` greater than `after`.
pub fn page<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    conditions: &[Condition],
    after: i64,
    most: usize,
) -> Result<Page, Fault> {
    let (table, now) = (table(server)?, host.now());
    let database = host.database().ok_or(Fault::Database)?;
    let mut rows = Vec::new();
    let place = Place { after, page: Wanted { most, extent: Extent::Part, is_text: true } };
    let last = page_of(database, table, conditions, &columns(), place, &mut |id, row| {
        rows.extend(read(&server.registry, id, row, now));
    })?;
    Ok(Page { rows, last })
}

/// Counts rows of subscriptions that have not ended, up to `most`.
pub fn count<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    lists: Vec<Vec<Condition>>,
    most: u32,
) -> Result<u32, Fault> {
    let (table, now) = (table(server)?, host.now());
    let database = host.database().ok_or(Fault::Database)?;
    let mut count = 0;
    for mut conditions in lists {
        conditions.push(("expires", Compare::Greater, Value::Int(now)));
        count += count_rows(database, table, &conditions, most - count)?;
    }
    Ok(count)
}

/// What finds the rows of a watcher in all packages, in each spelling of its user.
pub fn of_this_watcher(subscription: &Snapshot) -> Vec<Vec<Condition>> {
    let host = subscription.text(Text::WatcherHost).to_ascii_lowercase();
    let users = uri::user::spellings(subscription.text(Text::WatcherUser));
    users
        .into_iter()
        .map(|user| {
            vec![
                ("watcher_username", Compare::Eq, Value::Text(user)),
                ("watcher_domain", Compare::Eq, Value::text(&host)),
            ]
        })
        .collect()
}

/// The row of a dialog.
pub fn find<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    dialog: DialogId<'_>,
) -> Result<Option<Row>, Fault> {
    Ok(rows(server, host, &dialog_conditions(dialog))?.into_iter().next())
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
    server.widths.subscriptions.spare(&mut row);
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

/// Judges an in-dialog SUBSCRIBE by the dialog's row and, if it is in order,
/// applies it. `flag` names the turn of the notifier process that is to send
/// the NOTIFY, if one is.
pub fn renew<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    dialog: DialogId<'_>,
    renewal: &Renewal<'_>,
    flag: Option<i64>,
) -> Result<(InDialog, Option<Row>), Rejection> {
    let key = dialog_conditions(dialog);
    for _ in 0..ATTEMPTS {
        let found = find(server, host, dialog)?;
        let verdict = in_dialog(
            found.as_ref().map(|row| current(row, renewal.event_id)),
            renewal.package,
            renewal.cseq,
            renewal.cseq_offset,
            renewal.expires,
        );
        let (InDialog::Refresh | InDialog::End, Some(mut row)) = (verdict, found) else {
            return Ok((verdict, None));
        };
        let before = row.subscription.remote_cseq;
        let changes = apply(&mut row, renewal, verdict, flag).map_err(Fault::from)?;
        check_widths(&server.widths.subscriptions, &changes)?;
        let mut conditions = key.clone();
        conditions.push(("remote_cseq", Compare::Eq, unsigned(before)));
        if change(server, host, &conditions, &changes)? || is_so(server, host, &row)? {
            return Ok((verdict, Some(row)));
        }
    }
    Err(Fault::Database.into())
}

/// The row says already what it was to say: a server that counts changes meets
/// none then, and so does an attempt after one whose answer was lost.
fn is_so<M: Memory>(server: &Server<M>, host: &mut dyn Host, wanted: &Row) -> Result<bool, Fault> {
    let found = find(server, host, dialog_of(&wanted.subscription))?;
    Ok(found.is_some_and(|row| {
        row.expires_at == wanted.expires_at
            && row.subscription.remote_cseq == wanted.subscription.remote_cseq
    }))
}

fn current(row: &Row, event_id: Option<&[u8]>) -> Current {
    Current {
        package: row.subscription.package,
        same_event_id: event_id.is_none_or(|id| id == row.subscription.text(Text::EventId)),
        remote_cseq: row.subscription.remote_cseq,
        ending: row.has_ended(),
    }
}

/// The row as the request makes it, and the columns that change.
fn apply(
    row: &mut Row,
    renewal: &Renewal<'_>,
    verdict: InDialog,
    flag: Option<i64>,
) -> Result<Vec<Assignment>, TooLong> {
    let subscription = &mut row.subscription;
    for (field, value) in [
        (Text::Contact, renewal.contact),
        (Text::Socket, renewal.socket),
        (Text::LocalContact, renewal.local_contact),
    ] {
        if subscription.text(field) != value {
            subscription.set_text(field, value)?;
        }
    }
    if !subscription.has_room() {
        return Err(TooLong);
    }
    subscription.remote_cseq = renewal.cseq.max(subscription.remote_cseq);
    subscription.flags = renewal.flags;
    subscription.expires = renewal.expires;
    row.expires_at = renewal.now + i64::from(renewal.expires);
    let text = |field| Value::text(subscription.text(field));
    let mut changes = vec![
        // Rows of the stock module may spell the host otherwise (B19).
        ("presentity_uri", Value::Text(presentity_uri(subscription))),
        ("expires", Value::Int(row.expires_at)),
        ("remote_cseq", unsigned(subscription.remote_cseq)),
        ("contact", text(Text::Contact)),
        ("local_contact", text(Text::LocalContact)),
        ("socket_info", text(Text::Socket)),
        ("flags", unsigned(subscription.flags)),
    ];
    if verdict == InDialog::End {
        if subscription.text(Text::Reason).is_empty() {
            changes.push(("reason", Value::text(ENDED)));
            subscription.set_text(Text::Reason, ENDED)?;
            row.null_reason = false;
        } else if flag.is_some() {
            // Who is politely blocked: the notifier process has to see that it
            // has ended, and that it is shown nothing.
            changes.push(("reason", Value::text(ENDED)));
            changes.push(("status", Value::Int(Status::Pending as i64)));
        }
    }
    if let Some(flag) = flag {
        changes.push(("updated", Value::Int(flag)));
    }
    Ok(changes)
}

/// Changes a row; false if there is none like that.
fn change<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    conditions: &[Condition],
    changes: &[Assignment],
) -> Result<bool, Fault> {
    let table = table(server)?;
    let database = host.database().ok_or(Fault::Database)?;
    single(database, |database, _| {
        database.update(table, conditions, changes)?;
        // A driver that cannot count has no other servers beside it.
        Ok(database.affected_rows() != Some(0))
    })
}

/// Gives a subscription the state that the rules say. False if it has changed
/// meanwhile, or is gone.
pub fn decide<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    row: &Row,
    decision: &Authorization,
    (flag, now): (Option<i64>, i64),
) -> Result<bool, Fault> {
    let dialog = dialog_of(&row.subscription);
    let mut conditions = dialog_conditions(dialog);
    conditions.push(("status", Compare::Eq, Value::Int(row.subscription.status as i64)));
    if !row.null_reason {
        conditions.push(("reason", Compare::Eq, Value::text(row.subscription.text(Text::Reason))));
    }
    let mut changes = vec![
        ("status", Value::Int(decision.status as i64)),
        ("reason", Value::text(&decision.reason)),
    ];
    if decision.status == Status::Terminated {
        // Should this server not come to tell it, the timer of another does.
        changes.push(("expires", Value::Int(now)));
    }
    changes.extend(flag.map(|flag| ("updated", Value::Int(flag))));
    if change(server, host, &conditions, &changes)? {
        return Ok(true);
    }
    Ok(find(server, host, dialog)?.is_some_and(|row| {
        row.subscription.status == decision.status
            && row.subscription.text(Text::Reason) == decision.reason
    }))
}

/// Deletes the row of a dialog; false if somebody else has.
pub fn delete<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    dialog: DialogId<'_>,
    contact: Option<&[u8]>,
) -> Result<bool, Fault> {
    let table = table(server)?;
    let mut row = dialog_conditions(dialog);
    row.extend(contact.map(|contact| ("contact", Compare::Eq, Value::text(contact))));
    let database = host.database().ok_or(Fault::Database)?;
    single(database, |database, _| {
        database.delete(table, &row)?;
        Ok(database.affected_rows() != Some(0))
    })
}

/// Other dialogs of the same call with the same presentity are gone: a client
/// that has restarted has forgotten them (`delete_same_subs`). Gives those. With
/// `from_tag` only those of one client.
pub fn replace_same_call<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    subscription: &Snapshot,
    from_tag: Option<&[u8]>,
) -> Result<Vec<Snapshot>, Fault> {
    let (user, domain) =
        (subscription.text(Text::PresentityUser), subscription.text(Text::PresentityHost));
    let mut gone = Vec::new();
    for uri in uri::spellings(user, &domain.to_ascii_lowercase()) {
        let mut conditions = vec![
            ("presentity_uri", Compare::Eq, Value::Text(uri)),
            ("callid", Compare::Eq, Value::text(subscription.text(Text::CallId))),
        ];
        conditions.extend(from_tag.map(|tag| ("from_tag", Compare::Eq, Value::text(tag))));
        for row in rows(server, host, &conditions)? {
            let other = dialog_of(&row.subscription) != dialog_of(subscription)
                && row.subscription.package == subscription.package;
            if other && delete(server, host, dialog_of(&row.subscription), None)? {
                gone.push(row.subscription);
            }
        }
    }
    Ok(gone)
}

/// There is another dialog of the same call with the same presentity.
pub fn has_same_call<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    subscription: &Snapshot,
) -> Result<bool, Fault> {
    let (user, domain) =
        (subscription.text(Text::PresentityUser), subscription.text(Text::PresentityHost));
    for uri in uri::spellings(user, &domain.to_ascii_lowercase()) {
        let conditions = [
            ("presentity_uri", Compare::Eq, Value::Text(uri)),
            ("callid", Compare::Eq, Value::text(subscription.text(Text::CallId))),
        ];
        let found = rows(server, host, &conditions)?;
        if found
            .iter()
            .any(|row| row.subscription.package == subscription.package && !row.has_ended())
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Leaves what is new about a presentity to the notifier processes, of this
/// server or of another one. `spared`: the Contact of who made the change.
pub fn flag_watchers<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    key: &PresentityKey,
    package: &EventPackage,
    (turn, spared): (i64, &[u8]),
) -> Result<(), Fault> {
    let mut more = vec![
        ("status", Compare::Eq, Value::Int(Status::Active as i64)),
        ("updated", Compare::Not, Value::Int(turn)),
        ("expires", Compare::Greater, Value::Int(host.now())),
    ];
    if !spared.is_empty() {
        more.push(("contact", Compare::Not, Value::text(spared)));
    }
    // As `is_told_of_changes`.
    let mut no_reason = vec![(Compare::Eq, Value::text(b""))];
    if host.database().is_some_and(|database| database.keeps_null_texts()) {
        no_reason.push((Compare::Is, Value::Null));
    }
    for (compare, value) in no_reason {
        let told = [&more[..], &[("reason", compare, value)]].concat();
        for conditions in of_presentity(key, package, &told) {
            flag(server, host, &conditions, turn)?;
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
    turn: i64,
) -> Result<(), Fault> {
    let flagged = [("updated", Value::Int(turn))];
    match change(server, host, conditions, &flagged) {
        Err(Fault::Refused) => {}
        done => return done.map(|_| ()),
    }
    let mut after = 0;
    loop {
        let page = page(server, host, conditions, after, FLAGGED_PAGE)?;
        for row in page.rows {
            let one = [("id", Compare::Eq, Value::Int(row.id))];
            match change(server, host, &one, &flagged) {
                Ok(_) | Err(Fault::Refused) => {}
                Err(fault) => return Err(fault),
            }
        }
        match page.last {
            Some(last) => after = last,
            None => return Ok(()),
        }
    }
}

/// Rows of a turn that this server does not have (it was larger when they were
/// flagged) get one that it has.
pub fn adopt_turns<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    turns: i64,
) -> Result<(), Fault> {
    let conditions = [("updated", Compare::Greater, Value::Int(turns - 1))];
    flag(server, host, &conditions, 0)
}

/// Takes `count` CSeqs of a dialog, the ones after `used`; none if the row is
/// not as it was read. A last NOTIFY marks it as ended, so that another server
/// sends it should this one be killed before.
pub fn claim(
    database: &mut dyn Database,
    table: &str,
    subscription: &Snapshot,
    used: NotifyNumbers,
    count: u32,
    wanted: Claimed,
) -> Result<bool, Fault> {
    let mut conditions = dialog_conditions(dialog_of(subscription));
    conditions.push(("local_cseq", Compare::Eq, stored_cseq(used.cseq)));
    conditions.push(("remote_cseq", Compare::Eq, unsigned(subscription.remote_cseq)));
    conditions.push(("status", Compare::Eq, Value::Int(subscription.status as i64)));
    if !wanted.null_reason {
        conditions.push(("reason", Compare::Eq, Value::text(subscription.text(Text::Reason))));
    }
    if let Some((_, expires_at, _)) = wanted.ends {
        // One that was refreshed lives on; an end is taken once.
        conditions.push(("expires", Compare::Eq, Value::Int(expires_at)));
    }
    if let Claim::Turn(turn) = wanted.claim {
        conditions.push(("updated", Compare::Eq, Value::Int(i64::from(turn))));
    }
    let mut changes = vec![
        ("local_cseq", stored_cseq(used.after(count).cseq)),
        ("version", unsigned(used.after(count).version)),
        ("updated", Value::Int(NOT_FLAGGED)),
    ];
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
pub struct Claimed {
    /// Who asks for the NOTIFY.
    pub claim: Claim,
    /// It is the last one: why, the row's `expires` as it was read, and the
    /// time.
    pub ends: Option<(Ending, i64, i64)>,
    /// The row's `reason` is NULL, which nothing equals.
    pub null_reason: bool,
}

/// The table can be changed: a statement that fails all the same does so by its
/// own fault. (A server that only reads refuses also what meets no row.)
pub(super) fn can_change(database: &mut dyn Database, table: &str) -> bool {
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
    row.push(("remote_cseq", Compare::Eq, unsigned(subscription.remote_cseq)));
    database.delete(table, &row)
}
