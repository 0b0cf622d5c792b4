//! The rows of the three tables and the values they stand for. Columns are
//! the stock module's (schema versions 5, 12 and 3).

use std::borrow::Cow;

use crate::ports::{Assignment, Compare, Condition, Value};
use crate::presence::cseq::CSeq;
use crate::presence::event_package::PackageId;
use crate::presence::presentity::PresentityKey;
use crate::presence::publication::PublicationCopy;
use crate::presence::subscription::{DialogId, Snapshot, Status, Text, seconds_left};
use crate::presence::text;
use crate::presence::uri;

/// Columns of `active_watchers` that make a subscription, in reading order.
pub const SUBSCRIPTION_COLUMNS: &[&str] = &[
    "presentity_uri",
    "expires",
    "event",
    "event_id",
    "to_user",
    "to_domain",
    "watcher_username",
    "watcher_domain",
    "callid",
    "to_tag",
    "from_tag",
    "socket_info",
    "local_contact",
    "contact",
    "record_route",
    "reason",
    "from_user",
    "from_domain",
    "user_agent",
    "local_cseq",
    "remote_cseq",
    "version",
    "status",
    "flags",
];

/// A row of `active_watchers`, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubscriptionRow {
    /// The `event` column: a package name.
    pub event: Vec<u8>,
    /// The subscription; its package is not filled in.
    pub snapshot: Snapshot,
    /// Unix time of its end.
    pub expires_at: i64,
}

/// A number of 32 bits for a column, which is signed everywhere: those beyond
/// its range are stored as negative ones.
pub fn unsigned(number: u32) -> Value {
    Value::Int(i64::from(number as i32))
}

/// What `unsigned` has stored, or a driver that knows unsigned columns.
fn read_unsigned(value: &Value) -> Option<u32> {
    let number = value.as_int()?;
    u32::try_from(number).ok().or(i32::try_from(number).ok().map(|number| number as u32))
}

/// What the row has of a CSeq that was the last one used.
pub fn stored_cseq(used: CSeq) -> Value {
    Value::Int(i64::from(used.saturating_sub(1).0))
}

/// The last CSeq used, of what a row has.
pub fn used_cseq(stored: &Value) -> Option<CSeq> {
    read_unsigned(stored).map(|cseq| CSeq(cseq).saturating_add(1))
}

/// User and host of a URI that a row has.
fn stored_parts(uri: &Value) -> (Cow<'_, [u8]>, &[u8]) {
    let (user, host) = uri::split(uri.as_bytes());
    (uri::user::stored(user), host)
}

/// Reads a row of `SUBSCRIPTION_COLUMNS`; `None` if it is not of that form.
pub fn read_subscription(row: &[Value], now: i64) -> Option<SubscriptionRow> {
    let [
        presentity,
        expires,
        event,
        event_id,
        to_user,
        to_host,
        watcher_user,
        watcher_host,
        call_id,
        to_tag,
        from_tag,
        socket,
        local_contact,
        contact,
        record_route,
        reason,
        from_user,
        from_host,
        user_agent,
        local_cseq,
        remote_cseq,
        version,
        status,
        flags,
    ] = row
    else {
        return None;
    };
    let (user, host) = stored_parts(presentity);
    let block = text::pack::<Text>(|n| match Text::ALL[n] {
        Text::CallId => call_id.as_bytes(),
        Text::FromTag => from_tag.as_bytes(),
        Text::ToTag => to_tag.as_bytes(),
        Text::PresentityUser => &user,
        Text::PresentityHost => host,
        Text::ToUser => to_user.as_bytes(),
        Text::ToHost => to_host.as_bytes(),
        Text::FromUser => from_user.as_bytes(),
        Text::FromHost => from_host.as_bytes(),
        Text::WatcherUser => watcher_user.as_bytes(),
        Text::WatcherHost => watcher_host.as_bytes(),
        Text::Contact => contact.as_bytes(),
        Text::LocalContact => local_contact.as_bytes(),
        Text::RecordRoute => record_route.as_bytes(),
        Text::Socket => socket.as_bytes(),
        Text::EventId => event_id.as_bytes(),
        Text::UserAgent => user_agent.as_bytes(),
        Text::Reason => reason.as_bytes(),
    });
    let (mut snapshot, expires_at) = (Snapshot::new(PackageId(0), block.ok()?), expires.as_int()?);
    snapshot.local_cseq = CSeq(local_cseq.as_int().and_then(|n| u32::try_from(n).ok())?);
    snapshot.remote_cseq = CSeq(read_unsigned(remote_cseq)?);
    snapshot.version = read_unsigned(version).unwrap_or_default();
    snapshot.status = Status::from_number(status.as_int()?);
    snapshot.flags = read_unsigned(flags).unwrap_or_default();
    snapshot.expires = seconds_left(expires_at, now);
    Some(SubscriptionRow { event: event.as_bytes().to_vec(), snapshot, expires_at })
}

/// `updated` and `updated_winfo` of a row whose watcher has been told of
/// everything; other values name the slot of a notifier process.
pub const NOT_FLAGGED: i64 = -1;

/// All columns of a subscription's row. `updated` goes into the columns that
/// flag rows for notifier processes.
pub fn subscription_row(
    snapshot: &Snapshot,
    event: &[u8],
    expires_at: i64,
    updated: i64,
) -> Vec<Assignment> {
    let text = |field| Value::text(snapshot.text(field));
    let mut row = vec![
        ("callid", text(Text::CallId)),
        ("to_tag", text(Text::ToTag)),
        ("from_tag", text(Text::FromTag)),
        ("to_user", text(Text::ToUser)),
        ("to_domain", text(Text::ToHost)),
        ("watcher_username", text(Text::WatcherUser)),
        ("watcher_domain", text(Text::WatcherHost)),
        ("from_user", text(Text::FromUser)),
        ("from_domain", text(Text::FromHost)),
        ("event", Value::text(event)),
        ("event_id", text(Text::EventId)),
        ("updated", Value::Int(updated)),
        ("updated_winfo", Value::Int(NOT_FLAGGED.min(updated))),
    ];
    row.extend(subscription_changes(snapshot, expires_at));
    row
}

/// The columns of a subscription's row that change in its life.
pub fn subscription_changes(snapshot: &Snapshot, expires_at: i64) -> Vec<Assignment> {
    let text = |field| Value::text(snapshot.text(field));
    vec![
        // Rows of the stock module may spell the host otherwise (B19).
        ("presentity_uri", Value::Text(presentity_uri(snapshot))),
        ("expires", Value::Int(expires_at)),
        ("status", Value::Int(snapshot.status as i64)),
        ("reason", text(Text::Reason)),
        ("remote_cseq", unsigned(snapshot.remote_cseq.0)),
        ("local_cseq", Value::Int(i64::from(snapshot.local_cseq.0))),
        ("version", unsigned(snapshot.version)),
        ("contact", text(Text::Contact)),
        ("local_contact", text(Text::LocalContact)),
        ("record_route", text(Text::RecordRoute)),
        ("socket_info", text(Text::Socket)),
        ("flags", unsigned(snapshot.flags)),
        ("user_agent", text(Text::UserAgent)),
    ]
}

/// The row of a dialog.
pub fn dialog_conditions(dialog: DialogId<'_>) -> Vec<Condition> {
    vec![
        ("callid", Compare::Eq, Value::text(dialog.call_id)),
        ("to_tag", Compare::Eq, Value::text(dialog.to_tag)),
        ("from_tag", Compare::Eq, Value::text(dialog.from_tag)),
    ]
}

/// The dialog of a snapshot.
pub fn dialog_of(snapshot: &Snapshot) -> DialogId<'_> {
    DialogId {
        call_id: snapshot.text(Text::CallId),
        from_tag: snapshot.text(Text::FromTag),
        to_tag: snapshot.text(Text::ToTag),
    }
}

/// The presentity URI of a subscription, host in lower case (B19).
pub fn presentity_uri(snapshot: &Snapshot) -> Vec<u8> {
    uri::presentity_uri(
        snapshot.text(Text::PresentityUser),
        &snapshot.text(Text::PresentityHost).to_ascii_lowercase(),
    )
}

/// Columns of `presentity` that make a publication, in reading order.
pub const PUBLICATION_COLUMNS: &[&str] = &[
    "username",
    "domain",
    "event",
    "etag",
    "expires",
    "received_time",
    "priority",
    "sender",
    "ruid",
    "body",
];

/// A row of `presentity`, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicationRow {
    /// User of the presentity.
    pub user: Vec<u8>,
    /// Host of the presentity.
    pub host: Vec<u8>,
    /// The `event` column: a package name.
    pub event: Vec<u8>,
    /// The publication, body included.
    pub publication: PublicationCopy,
}

/// Reads a row of `PUBLICATION_COLUMNS`; `None` if it is not of that form.
pub fn read_publication(row: &[Value]) -> Option<PublicationRow> {
    let [user, host, event, etag, expires, received, priority, sender, ruid, body] = row else {
        return None;
    };
    let expires = expires.as_int()?;
    Some(PublicationRow {
        user: user.as_bytes().to_vec(),
        host: host.as_bytes().to_vec(),
        event: event.as_bytes().to_vec(),
        publication: PublicationCopy {
            entity_tag: etag.as_bytes().to_vec(),
            sender: sender.as_bytes().to_vec(),
            body: body.as_bytes().to_vec(),
            // Hard state (pidf manipulation) has no end: -1 in the table.
            expires_at: (expires >= 0).then_some(expires),
            received: received.as_int().unwrap_or_default(),
            priority: priority.as_int().and_then(|n| i32::try_from(n).ok()).unwrap_or_default(),
            ruid: ruid.as_bytes().to_vec(),
        },
    })
}

/// The rows of a presentity in one package.
pub fn presentity_conditions(key: &PresentityKey, event: &[u8]) -> Vec<Condition> {
    vec![
        ("domain", Compare::Eq, Value::text(&key.host)),
        ("username", Compare::Eq, Value::text(&key.user)),
        ("event", Compare::Eq, Value::text(event)),
    ]
}

/// The row of one publication.
pub fn publication_conditions(key: &PresentityKey, event: &[u8], tag: &[u8]) -> Vec<Condition> {
    let mut conditions = presentity_conditions(key, event);
    conditions.push(("etag", Compare::Eq, Value::text(tag)));
    conditions
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_row_names_every_column_once() {
        let block = text::pack::<Text>(|_| b"x").unwrap();
        let row = subscription_row(&Snapshot::new(PackageId(0), block), b"presence", 1, 0);
        let mut names: Vec<_> = row.iter().map(|(column, _)| *column).collect();
        names.sort_unstable();
        let all = names.len();
        // SQLite takes a column twice, PostgreSQL and MySQL do not.
        names.dedup();
        assert_eq!(names.len(), all);
        for column in SUBSCRIPTION_COLUMNS {
            assert!(names.contains(column), "{column}");
        }
    }
}
