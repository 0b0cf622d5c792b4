//! Publications that are rows of the database only (`publ_cache=0`): the rows
//! judge a change, for others may write them too. A change names the entity-tag
//! that it was judged by; if no row has it any more, somebody was faster.

use crate::error::{Fault, Rejection};
use crate::ports::{Compare, Condition, Database, Host, Value};
use crate::presence::dialog_info;
use crate::presence::event_package::{Event as EventName, EventPackage};
use crate::presence::presentity::PresentityKey;
use crate::presence::publication::PublicationCopy;
use crate::presence::publication::transition::{
    self, Event, Next, Outcome, Publish, Stored, Told, Watchers, is_same_dialog, transition,
};
use crate::presence::publication::{Facts, Refused, Step};
use crate::presence::uri;
use crate::service::durable::single;
use crate::service::paging::{Pages, count as count_rows};
use crate::service::publication_rows::{self as rows, changes, exists, new_row, table};
use crate::service::publish::Applied;
use crate::service::publishing::{Publishing, facts_of};
use crate::service::{Server, check_widths, expiry, limits};
use crate::shm::Memory;
use crate::store::LaneRef;
use crate::store::publications::{Audience, Change, RowsChanged};
use crate::store::rows::{
    PUBLICATION_COLUMNS, PublicationRow, publication_conditions, read_publication,
};

/// Expired rows read in one go.
const PAGE: usize = 250;

/// Judges a change by the rows, and makes it.
pub fn apply<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    publishing: &Publishing<'_>,
    change: &Change<'_>,
) -> Result<Applied<M>, Refused> {
    match judge(server, host, publishing, change) {
        Err(Refused::EntityTag) => {
            let Some(key) = respell(server, host, publishing)? else {
                return Err(Refused::EntityTag);
            };
            judge(server, host, &Publishing { key, ..publishing.clone() }, change)
        }
        judged => judged,
    }
}

/// Rows may spell the user otherwise (B46), and those of the stock module the
/// domain (B19), which is made ours. Gives the key by which the row is found,
/// if that is why it was not.
fn respell<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    publishing: &Publishing<'_>,
) -> Result<Option<PresentityKey>, Refused> {
    let Some(tag) = publishing.if_match else { return Ok(None) };
    for key in publishing.key.spellings() {
        if is_there(server, host, &key, &publishing.package.name, tag)? {
            return Ok(Some(key));
        }
    }
    Ok(None)
}

/// There is a row of this user, at the host in whatever spelling: then in ours
/// from now on.
fn is_there<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    key: &PresentityKey,
    event: &[u8],
    tag: &[u8],
) -> Result<bool, Refused> {
    let table = table(server)?;
    let mut row = publication_conditions(key, event, tag);
    row.retain(|(column, ..)| *column != "domain");
    let database = host.database().ok_or(Fault::Database)?;
    let spelled = single(database, |database, _| {
        let mut spelled = None;
        database.query(table, &row, &["domain"], None, &mut |columns| {
            let domain = columns.first().map(Value::as_bytes).unwrap_or_default();
            if uri::eq_ignore_case(domain, &key.host) {
                spelled = Some(domain.to_vec());
            }
        })?;
        Ok(spelled)
    })?;
    let Some(spelled) = spelled else { return Ok(false) };
    if spelled != key.host {
        row.push(("domain", Compare::Eq, Value::Text(spelled)));
        single(database, |database, _| {
            database.update(table, &row, &[("domain", Value::text(&key.host))])
        })?;
    }
    Ok(true)
}

fn judge<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    publishing: &Publishing<'_>,
    change: &Change<'_>,
) -> Result<Applied<M>, Refused> {
    let (made, old) = match publishing.step {
        Step::Create => create(server, host, publishing, change)?,
        Step::Refresh | Step::Modify | Step::Remove => {
            let (outcome, old) = transition_of(server, host, publishing, change)?;
            let made = match outcome {
                Outcome::Change(made) => made,
                Outcome::Unchanged => return Ok(Applied::Unchanged),
                Outcome::Reopens => {
                    return Ok(Applied::Reopens(old.ok_or(Refused::EntityTag)?.body));
                }
                Outcome::TooManyEnds => return Err(Refused::TooManyEnds),
            };
            match made.next {
                Next::Gone => remove(server, host, publishing)?,
                Next::Newest | Next::Refreshed => update(server, host, publishing, change)?,
            }
            (made, old)
        }
    };
    if made.told == Told::Nobody {
        return Ok(Applied::Made(None));
    }
    let told = RowsChanged {
        sender: change.sender.unwrap_or_default(),
        ended: old.as_ref().zip(made.ended),
        told: made.told,
    };
    Ok(Applied::Made(tell(server, host, &publishing.key, told)))
}

/// What becomes of the publication that a request refers to, and its row if that
/// has to be looked at.
fn transition_of<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    publishing: &Publishing<'_>,
    change: &Change<'_>,
) -> Result<(Outcome, Option<PublicationCopy>), Refused> {
    let (key, package) = (&publishing.key, publishing.package);
    let event = Event::Publish(Publish {
        step: publishing.step,
        facts: change.facts,
        sender: change.sender,
        is_judged: change.judged_by.is_some(),
    });
    let view = View::of(server, host, key);
    let unread = transition(&view.unread(package), event, package, view.watchers);
    if matches!(unread, Outcome::Change(made) if made.ended.is_none()) {
        return Ok((unread, None));
    }
    let tag = publishing.if_match.unwrap_or_default();
    let old = rows::one(server, host, key, &package.name, tag)?.ok_or(Refused::EntityTag)?;
    Ok((transition(&view.stored(package, &old), event, package, view.watchers), Some(old)))
}

/// What is known of those who watch a presentity: here the lane knows, of other
/// servers nothing is known.
#[derive(Debug, Clone, Copy)]
struct View {
    watchers: Watchers,
    is_behind: bool,
    /// Other servers may still be telling their watchers of what was published
    /// since.
    since: Option<i64>,
}

/// Seconds in which another server may still be telling its watchers.
const TELLING: i64 = 10;

impl View {
    fn of<M: Memory>(server: &Server<M>, host: &mut dyn Host, key: &PresentityKey) -> View {
        let Audience { watchers, is_behind } = server.store.audience(key);
        let since = server.store.policy.rows_only().then(|| host.now() - TELLING);
        View { watchers, is_behind, since }
    }

    /// A publication whose row has not been read.
    fn unread(self, package: &EventPackage) -> Stored<'static> {
        Stored::unread(package, self.is_behind || self.since.is_some())
    }

    fn stored<'a>(self, package: &EventPackage, row: &'a PublicationCopy) -> Stored<'a> {
        let is_recent = self.since.is_some_and(|since| row.received >= since);
        Stored {
            facts: if package.is_dialog() { facts_of(&row.body) } else { Facts::default() },
            sender: Some(&row.sender),
            has_document: !row.body.is_empty(),
            unseen: self.is_behind || is_recent,
        }
    }
}

/// The change is stored: whoever watches is to be told.
pub fn tell<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    key: &PresentityKey,
    change: RowsChanged<'_>,
) -> Option<LaneRef<M>> {
    server.store.rows_changed(key, change).unwrap_or_else(|fault| {
        expiry::UNTOLD.log(
            host,
            crate::ports::Level::Error,
            format_args!("watchers are told with the next change: {fault}"),
        );
        None
    })
}

fn create<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    publishing: &Publishing<'_>,
    change: &Change<'_>,
) -> Result<(transition::Change, Option<PublicationCopy>), Refused> {
    let (key, package) = (&publishing.key, publishing.package);
    let event = &package.name;
    let table = table(server)?;
    let row = new_row(key, event, change, publishing.body);
    check_widths(&server.widths.publications, &row)?;
    let own = publication_conditions(key, event, change.entity_tag);
    let tag_in_use = match publishing.own_tag {
        None => false,
        Some(_) => {
            let database = host.database().ok_or(Fault::Database)?;
            single(database, |database, _| exists(database, table, &own))?
        }
    };
    let replaced = match change.dialog_id {
        [] => None,
        id => same_dialog(rows::read_rows(server, host, key, event)?, id),
    };
    let view = View::of(server, host, key);
    let old = replaced.as_ref().map(|row| view.stored(package, &row.publication));
    let made = transition::create(change.facts, tag_in_use, old.as_ref(), view.watchers)?;
    if replaced.is_none() {
        check_limit(server, host, publishing)?;
    }
    let database = host.database().ok_or(Fault::Database)?;
    match &replaced {
        None => {
            single(database, |database, _| insert(database, table, &row, &own))?;
            limits::publication_row_counted(server, key, true);
        }
        Some(old) => {
            let spelled =
                PresentityKey { user: old.user.clone(), host: old.host.clone(), ..key.clone() };
            let old = publication_conditions(&spelled, event, &old.publication.entity_tag);
            rows::replace(database, table, &old, &own, &row)?;
        }
    }
    Ok((made, replaced.map(|row| row.publication)))
}

/// A presentity may have one publication more.
fn check_limit<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    publishing: &Publishing<'_>,
) -> Result<(), Rejection> {
    let (key, event) = (&publishing.key, &publishing.package.name);
    let table = table(server)?;
    limits::check_publication_rows(server, host, publishing, |host, most| {
        let (now, mut count) = (host.now(), 0);
        let database = host.database().ok_or(Fault::Database)?;
        for key in key.spellings() {
            let conditions = [
                ("username", Compare::Eq, Value::text(&key.user)),
                ("domain", Compare::Eq, Value::text(&key.host)),
                ("event", Compare::Eq, Value::text(event)),
                ("expires", Compare::Greater, Value::Int(now)),
            ];
            count += count_rows(database, table, &conditions, most - count)?;
        }
        Ok(count)
    })
}

/// Adds a row; it may be there already if only the answer was lost.
fn insert(
    database: &mut dyn Database,
    table: &str,
    row: &[crate::ports::Assignment],
    own: &[Condition],
) -> Result<(), Fault> {
    match database.insert(table, row) {
        Ok(()) => Ok(()),
        Err(fault) => match exists(database, table, own) {
            Ok(true) => Ok(()),
            _ => Err(fault),
        },
    }
}

fn same_dialog(rows: Vec<PublicationRow>, id: &[u8]) -> Option<PublicationRow> {
    rows.into_iter().find(|row| {
        dialog_info::summary(&row.publication.body)
            .and_then(|info| info.first_id)
            .is_some_and(|first| is_same_dialog(id, &first))
    })
}

fn update<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    publishing: &Publishing<'_>,
    change: &Change<'_>,
) -> Result<(), Refused> {
    let (key, event) = (&publishing.key, &publishing.package.name);
    let row = publication_conditions(key, event, publishing.if_match.unwrap_or_default());
    rows::update(server, host, &row, change, publishing, &changes(change, publishing.body))
}

fn remove<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    publishing: &Publishing<'_>,
) -> Result<(), Refused> {
    let (key, package) = (&publishing.key, publishing.package);
    let table = table(server)?;
    let row = publication_conditions(key, &package.name, publishing.if_match.unwrap_or_default());
    let database = host.database().ok_or(Fault::Database)?;
    if !delete(database, table, &row)? {
        return Err(Refused::EntityTag);
    }
    limits::publication_row_counted(server, key, false);
    Ok(())
}

/// Deletes a row; false if somebody else has.
fn delete(database: &mut dyn Database, table: &str, row: &[Condition]) -> Result<bool, Fault> {
    single(database, |database, attempt| {
        database.delete(table, row)?;
        // A repeated one may find that the first one has done it.
        Ok(attempt > 0 || database.affected_rows() != Some(0))
    })
}

/// Ends publications that have expired. The row's own end is named when it is
/// deleted: of several servers one deletes it and tells the watchers, and one
/// that was refreshed lives on.
pub fn expire<M: Memory>(server: &Server<M>, host: &mut dyn Host) -> Result<(), Fault> {
    let table = table(server)?;
    let (mut pages, mut refused) = (Pages::new(PAGE, false), false);
    loop {
        let conditions = [
            ("expires", Compare::Less, Value::Int(host.now() + 1)),
            ("expires", Compare::Greater, Value::Int(0)),
        ];
        let database = host.database().ok_or(Fault::Database)?;
        let page = pages.next(database, table, &conditions, PUBLICATION_COLUMNS)?;
        let Some(page) = page else { break };
        for row in page.iter().filter_map(|(_, columns)| read_publication(columns)) {
            match end_expired(server, host, table, row) {
                // Its own fault is no reason to keep the others waiting.
                Err(Fault::Refused) => refused = true,
                ended => ended?,
            }
        }
        server.wake_senders(host);
    }
    if refused { Err(Fault::Refused) } else { Ok(()) }
}

/// Ends a publication that has expired, unless somebody has touched its row.
pub(super) fn end_expired<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    table: &str,
    row: PublicationRow,
) -> Result<(), Fault> {
    let PublicationRow { user, host: domain, event, publication } = row;
    let package = EventName::parse(&event).and_then(|event| server.registry.exact(&event));
    let key = server.store.key(&user, &domain, package.unwrap_or_default());
    let package = package.and_then(|id| server.registry.get(id));
    let view = View::of(server, host, &key);
    let clock = Event::Clock { force_delete: server.config.force_delete };
    let outcome = package.map(|package| {
        transition(&view.stored(package, &publication), clock, package, view.watchers)
    });
    if outcome == Some(Outcome::TooManyEnds) {
        // The next time.
        return Ok(());
    }
    // As the row spells it.
    let spelled = PresentityKey { user, host: domain, ..key.clone() };
    let mut conditions = publication_conditions(&spelled, &event, &publication.entity_tag);
    let at = publication.expires_at.unwrap_or_default();
    conditions.push(("expires", Compare::Eq, Value::Int(at)));
    let database = host.database().ok_or(Fault::Database)?;
    let deleted = delete(database, table, &conditions)?;
    if let (true, Some(Outcome::Change(made))) = (deleted, outcome) {
        let ended = made.ended.map(|shown| (&publication, shown));
        let change = RowsChanged { sender: b"", ended, told: made.told };
        if let Some(lane) = tell(server, host, &key, change) {
            server.store.hand_over(lane);
        }
    }
    Ok(())
}
