//! Publications that are rows of the database only (`publ_cache=0`): the rows
//! judge a change, for others may write them too. A change names the entity-tag
//! that it was judged by; if no row has it any more, somebody was faster.

use crate::error::{Fault, Rejection};
use crate::ports::{Compare, Condition, Database, Host, Value};
use crate::presence::dialog_info;
use crate::presence::presentity::PresentityKey;
use crate::presence::publication::{
    Facts, PublicationCopy, Step, leaves_shared_line_alone, too_many_ends, unknown_entity_tag,
};
use crate::presence::uri;
use crate::service::durable::single;
use crate::service::paging::{Pages, count as count_rows};
use crate::service::publication_rows::{self as rows, changes, exists, new_row, table};
use crate::service::publish::Applied;
use crate::service::publishing::{Publishing, facts_of};
use crate::service::{Server, check_widths, expiry, limits};
use crate::shm::Memory;
use crate::store::LaneRef;
use crate::store::publications::Change;
use crate::store::row_lanes::{EndedRow, RowsChanged};
use crate::store::rows::{
    PUBLICATION_COLUMNS, PublicationRow, publication_conditions, read_publication,
};

/// Expired rows read in one go.
const PAGE: usize = 250;

/// A publication that is not as it was, as its watchers have to see it once
/// more.
struct Ended {
    publication: PublicationCopy,
    closing: bool,
}

/// Judges a change by the rows, and makes it.
pub fn apply<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    publishing: &Publishing<'_>,
    change: &Change<'_>,
) -> Result<Applied<M>, Rejection> {
    match judge(server, host, publishing, change) {
        Err(rejection) if rejection.code == 412 => {
            let Some(key) = respell(server, host, publishing)? else { return Err(rejection) };
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
) -> Result<Option<PresentityKey>, Rejection> {
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
) -> Result<bool, Rejection> {
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
) -> Result<Applied<M>, Rejection> {
    let key = &publishing.key;
    let tag = publishing.if_match.unwrap_or_default();
    if publishing.step != Step::Refresh && server.store.has_many_farewells(key) {
        return Err(too_many_ends());
    }
    let ended = match publishing.step {
        Step::Create => create(server, host, publishing, change)?,
        Step::Refresh | Step::Modify => {
            let concerns = Concerns::of(server, publishing, change);
            let old = concerns.read(server, host, publishing)?;
            if let Some(old) = &old {
                if concerns.shared_line && leaves_alone(old, change) {
                    return Ok(Applied::Unchanged);
                }
                if concerns.reopening && may_reopen(old, change) {
                    return Ok(Applied::Reopens(old.body.clone()));
                }
            }
            update(server, host, publishing, change, tag)?;
            if publishing.step == Step::Refresh {
                return Ok(Applied::Made(None));
            }
            let unseen = may_be_unseen(server, host, key);
            old.filter(|old| concerns.farewell && facts_of(&old.body).is_final && unseen(old))
                .map(|publication| Ended { publication, closing: false })
        }
        Step::Remove => remove(server, host, publishing, tag)?,
    };
    let is_final = change.facts.is_some_and(|facts| facts.is_final);
    let told = RowsChanged {
        sender: change.sender.unwrap_or_default(),
        ended: ended
            .as_ref()
            .map(|ended| EndedRow { publication: &ended.publication, closing: ended.closing }),
        urgent: is_final || publishing.step == Step::Remove,
    };
    Ok(Applied::Made(tell(server, host, key, told)))
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
) -> Result<Option<Ended>, Rejection> {
    let (key, event) = (&publishing.key, &publishing.package.name);
    let table = table(server)?;
    let row = new_row(key, event, change, publishing.body);
    check_widths(&server.widths.publications, &row)?;
    let own = publication_conditions(key, event, change.entity_tag);
    if publishing.own_tag.is_some() {
        let database = host.database().ok_or(Fault::Database)?;
        if single(database, |database, _| exists(database, table, &own))? {
            return Err(unknown_entity_tag());
        }
    }
    let replaced = match change.dialog_id {
        [] => None,
        id => same_dialog(rows::read_rows(server, host, key, event)?, id),
    };
    if replaced.is_none() {
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
        })?;
    }
    let database = host.database().ok_or(Fault::Database)?;
    match &replaced {
        None => single(database, |database, _| insert(database, table, &row, &own))?,
        Some(old) => {
            let spelled =
                PresentityKey { user: old.user.clone(), host: old.host.clone(), ..key.clone() };
            let old = publication_conditions(&spelled, event, &old.publication.entity_tag);
            rows::replace(database, table, &old, &own, &row)?;
        }
    }
    if replaced.is_none() {
        limits::publication_row_counted(server, key, true);
    }
    let unseen = may_be_unseen(server, host, key);
    Ok(replaced
        .map(|row| row.publication)
        .filter(|old| facts_of(&old.body).is_final && unseen(old))
        .map(|publication| Ended { publication, closing: false }))
}

/// Seconds in which another server may still be telling its watchers.
const TELLING: i64 = 10;

/// Says whether some may not have seen a publication: here the lane knows, of
/// other servers nothing is known.
fn may_be_unseen<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    key: &PresentityKey,
) -> impl Fn(&PublicationCopy) -> bool + use<M> {
    let behind = server.store.is_behind(key);
    let since = server.store.policy.rows_only().then(|| host.now() - TELLING);
    move |publication| behind || since.is_some_and(|since| publication.received >= since)
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
            .is_some_and(|first| first == id)
    })
}

/// Why the stored publication has to be looked at before it is changed.
#[derive(Debug, Clone, Copy)]
struct Concerns {
    /// It may be the state of somebody else's part of a shared line.
    shared_line: bool,
    /// A dialog of it may come back to life (B44).
    reopening: bool,
    /// It may be a final state that some have not seen.
    farewell: bool,
}

impl Concerns {
    fn of<M: Memory>(
        server: &Server<M>,
        publishing: &Publishing<'_>,
        change: &Change<'_>,
    ) -> Concerns {
        let package = publishing.package;
        let facts = change.facts.filter(|_| publishing.step == Step::Modify);
        let any = Facts { has_terminated: true, ..Facts::default() };
        Concerns {
            shared_line: package.is_shared_line() && facts.is_some(),
            reopening: package.keeps_terminated()
                && change.judged_by.is_none()
                && facts.is_some_and(|facts| facts.may_reopen(any)),
            farewell: package.is_dialog()
                && facts.is_some()
                && (server.store.policy.rows_only() || server.store.is_behind(&publishing.key)),
        }
    }

    /// The stored publication, if there is a reason to look at it.
    fn read<M: Memory>(
        self,
        server: &Server<M>,
        host: &mut dyn Host,
        publishing: &Publishing<'_>,
    ) -> Result<Option<PublicationCopy>, Rejection> {
        match self {
            Concerns { shared_line: false, reopening: false, farewell: false } => Ok(None),
            _ => stored(server, host, publishing).map(Some),
        }
    }
}

/// A state of a shared line without dialogs that is not its owner's.
fn leaves_alone(old: &PublicationCopy, change: &Change<'_>) -> bool {
    change.facts.is_some_and(|facts| {
        leaves_shared_line_alone(facts_of(&old.body), &old.sender, facts, change.sender)
    })
}

fn may_reopen(old: &PublicationCopy, change: &Change<'_>) -> bool {
    change.facts.is_some_and(|facts| facts.may_reopen(facts_of(&old.body)))
}

/// The publication that a request refers to.
fn stored<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    publishing: &Publishing<'_>,
) -> Result<PublicationCopy, Rejection> {
    let (key, event) = (&publishing.key, &publishing.package.name);
    let tag = publishing.if_match.unwrap_or_default();
    rows::one(server, host, key, event, tag)?.ok_or_else(unknown_entity_tag)
}

fn update<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    publishing: &Publishing<'_>,
    change: &Change<'_>,
    tag: &[u8],
) -> Result<(), Rejection> {
    let (key, event) = (&publishing.key, &publishing.package.name);
    let row = publication_conditions(key, event, tag);
    rows::update(server, host, &row, change, publishing, &changes(change, publishing.body))
}

fn remove<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    publishing: &Publishing<'_>,
    tag: &[u8],
) -> Result<Option<Ended>, Rejection> {
    let (key, package) = (&publishing.key, publishing.package);
    let shown = package.aggregates && server.store.may_be_watched(key);
    let behind = package.is_dialog() && server.store.is_behind(key);
    let old = if shown || behind { Some(stored(server, host, publishing)?) } else { None };
    let table = table(server)?;
    let row = publication_conditions(key, &package.name, tag);
    let database = host.database().ok_or(Fault::Database)?;
    if !delete(database, table, &row)? {
        return Err(unknown_entity_tag());
    }
    limits::publication_row_counted(server, key, false);
    Ok(old.and_then(|publication| ended(package.aggregates, publication)))
}

/// Deletes a row; false if somebody else has.
fn delete(database: &mut dyn Database, table: &str, row: &[Condition]) -> Result<bool, Fault> {
    single(database, |database, attempt| {
        database.delete(table, row)?;
        // A repeated one may find that the first one has done it.
        Ok(attempt > 0 || database.affected_rows() != Some(0))
    })
}

fn ended(aggregates: bool, publication: PublicationCopy) -> Option<Ended> {
    let shown = aggregates || facts_of(&publication.body).is_final;
    (shown && !publication.body.is_empty()).then_some(Ended { publication, closing: aggregates })
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
    let package = crate::presence::event_package::Event::parse(&event)
        .and_then(|event| server.registry.exact(&event));
    let key = server.store.key(&user, &domain, package.unwrap_or_default());
    if server.store.has_many_farewells(&key) {
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
    let package = package.and_then(|id| server.registry.get(id));
    let Some(package) = package.filter(|_| deleted && !server.config.force_delete) else {
        return Ok(());
    };
    let ended = ended(package.aggregates, publication);
    let change = RowsChanged {
        sender: b"",
        ended: ended
            .as_ref()
            .map(|ended| EndedRow { publication: &ended.publication, closing: ended.closing }),
        urgent: true,
    };
    if let Some(lane) = tell(server, host, &key, change) {
        server.store.hand_over(lane);
    }
    Ok(())
}
