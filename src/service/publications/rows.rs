//! Publications that are rows of the database only (`publ_cache=0`): the rows
//! judge a change, for others may write them too. A change names the entity-tag
//! that it was judged by; if no row has it any more, somebody was faster.

use crate::error::{Fault, Rejection};
use crate::ports::{Compare, Condition, Host, Value};
use crate::presence::dialog_info;
use crate::presence::event_package::{EventPackage, PackageId};
use crate::presence::listing::{After, Wanted};
use crate::presence::presentity::PresentityKey;
use crate::presence::publication::transition::{
    self, Event, FanOut, Next, Outcome, Publish, is_same_dialog, transition,
};
use crate::presence::publication::{PublicationCopy, Refused, Step};
use crate::presence::uri;
use crate::service::durable::{catch_up, delete, single};
use crate::service::listing::Published;
use crate::service::overview::Kept;
use crate::service::paging::count as count_rows;
use crate::service::publication_request::{Origin, PublicationRequest};
use crate::service::{Server, check_widths, limits};
use crate::shm::Memory;
use crate::store::publications::{PublicationChange, RowsChanged};
use crate::store::rows::{
    PUBLICATION_COLUMNS, PublicationRow, publication_conditions, read_publication,
};
use crate::store::walk::Page;

use super::audience::{View, notify_watchers};
use super::expired_rows::expire;
use super::statements::{self, changes, exists, insert, new_row, replace, table, will_run_out};
use super::{Applied, Found, Made, Names, Publications, respell};

/// Publications in rows only.
pub struct Rows;

impl<M: Memory> Publications<M> for Rows {
    fn counted_rows(&self, now: i64) -> Vec<Vec<Condition>> {
        let expires = |compare, time| vec![("expires", compare, Value::Int(time))];
        // What the operator publishes for ever has no end.
        vec![expires(Compare::Greater, now), expires(Compare::Less, 0)]
    }

    fn publish(
        &self,
        server: &Server<M>,
        host: &mut dyn Host,
        publishing: &PublicationRequest<'_>,
        change: &PublicationChange<'_>,
    ) -> Result<Applied<M>, Refused> {
        match judge_spelled(server, host, publishing, change) {
            // What another node of the database's cluster has committed may not be
            // here yet.
            Err(Refused::EntityTag) if catch_up(host) => {
                judge_spelled(server, host, publishing, change)
            }
            judged => judged,
        }
    }

    fn expire(&self, server: &Server<M>, host: &mut dyn Host) -> Result<(), Fault> {
        expire(server, host)
    }

    fn end_orphaned(&self, server: &Server<M>, host: &mut dyn Host) -> Result<(), Fault> {
        expire(server, host)
    }

    fn has_tag(
        &self,
        server: &Server<M>,
        host: &mut dyn Host,
        key: &PresentityKey,
        tag: &[u8],
    ) -> Result<bool, Fault> {
        let package = server.registry.get(key.package).ok_or(Fault::Package)?;
        let (table, database) = (table(server)?, host.database().ok_or(Fault::Database)?);
        for key in key.spellings() {
            let row = publication_conditions(&key, &package.name, tag);
            if single(database, |database, _| exists(database, table, &row))? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn find(
        &self,
        server: &Server<M>,
        host: &mut dyn Host,
        key: &PresentityKey,
        names: Names<'_>,
    ) -> Result<Option<Found>, Fault> {
        statements::find(server, host, key, names)
    }

    fn current(
        &self,
        server: &Server<M>,
        host: &mut dyn Host,
        key: &PresentityKey,
        event: &[u8],
    ) -> Result<Vec<PublicationCopy>, Fault> {
        statements::read(server, host, key, event)
    }

    fn newest_here(
        &self,
        _server: &Server<M>,
        _key: &PresentityKey,
        _most: usize,
    ) -> Option<(Vec<PublicationCopy>, bool)> {
        None
    }

    fn complete(
        &self,
        server: &Server<M>,
        host: &mut dyn Host,
        key: &PresentityKey,
        event: &[u8],
        _known: Vec<PublicationCopy>,
    ) -> Result<Vec<PublicationCopy>, Fault> {
        statements::read(server, host, key, event)
    }

    fn newest(
        &self,
        server: &Server<M>,
        host: &mut dyn Host,
        key: &PresentityKey,
        event: &[u8],
        _known: &PublicationCopy,
    ) -> Result<Vec<PublicationCopy>, Fault> {
        statements::read(server, host, key, event)
    }

    fn are_complete(&self, _known: &[PublicationCopy]) -> bool {
        false
    }

    fn page(
        &self,
        server: &Server<M>,
        host: &mut dyn Host,
        wanted: (&Wanted<'_>, Option<PackageId>),
        after: Option<After>,
        amount: (bool, usize),
    ) -> Result<Page<Published>, Fault> {
        statements::page(server, host, wanted, after, amount)
    }

    fn kept(&self) -> Kept {
        Kept { mode: 0, are: "rows of the database only", outlive_server: true }
    }

    fn are_in_memory(&self) -> bool {
        false
    }

    fn follow(
        &self,
        _server: &Server<M>,
        _host: &mut dyn Host,
        _key: &PresentityKey,
        _package: &EventPackage,
    ) -> Result<(), Fault> {
        // The rows are looked at each time.
        Ok(())
    }

    fn follow_all(&self, _server: &Server<M>, _host: &mut dyn Host) -> Result<(), Fault> {
        Ok(())
    }
}

/// Rows may spell the user otherwise (B46), and those of the stock module the
/// domain (B19), which is made ours. Gives the key by which the row is found,
/// if that is why it was not.
fn otherwise_spelled<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    publishing: &PublicationRequest<'_>,
) -> Result<Option<PresentityKey>, Fault> {
    let Some(tag) = publishing.if_match else { return Ok(None) };
    let (table, database) = (table(server)?, host.database().ok_or(Fault::Database)?);
    for key in publishing.key.spellings() {
        let mut anywhere = publication_conditions(&key, &publishing.package.name, tag);
        anywhere.retain(|(column, ..)| *column != "domain");
        let found = single(database, |database, _| {
            let mut found = None;
            database.query(table, &anywhere, PUBLICATION_COLUMNS, None, &mut |columns| {
                let row = read_publication(columns);
                found =
                    row.filter(|row| uri::eq_ignore_case(&row.host, &key.host)).or(found.take());
            })?;
            Ok(found)
        })?;
        let Some(row) = found else { continue };
        respell(database, table, &row, &PresentityKey { user: row.user.clone(), ..key.clone() })?;
        return Ok(Some(key));
    }
    Ok(None)
}

/// As `judge`, in whichever spelling the row is.
fn judge_spelled<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    publishing: &PublicationRequest<'_>,
    change: &PublicationChange<'_>,
) -> Result<Applied<M>, Refused> {
    match judge(server, host, publishing, change) {
        Err(Refused::EntityTag) => {
            let Some(key) = otherwise_spelled(server, host, publishing)? else {
                return Err(Refused::EntityTag);
            };
            judge(server, host, &PublicationRequest { key, ..publishing.clone() }, change)
        }
        judged => judged,
    }
}

fn judge<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    publishing: &PublicationRequest<'_>,
    change: &PublicationChange<'_>,
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
    let ruid = match (server.store.replication(), publishing.step, &old) {
        (None, ..) => Vec::new(),
        (Some(_), Step::Create, _) => change.ruid.to_vec(),
        (Some(_), _, old) => old.as_ref().map(|old| old.ruid.clone()).unwrap_or_default(),
    };
    let made = if publishing.is_silent() { made.silently() } else { made };
    if made.fan_out == FanOut::None {
        return Ok(Applied::Made(Made { lane: None, ruid }));
    }
    let fan_out = RowsChanged {
        sender: change.sender.unwrap_or_default(),
        ended: old.as_ref().zip(made.ended),
        fan_out: made.fan_out,
    };
    Ok(Applied::Made(Made { lane: notify_watchers(server, host, &publishing.key, fan_out), ruid }))
}

/// What becomes of the publication that a request refers to, and its row if that
/// has to be looked at.
fn transition_of<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    publishing: &PublicationRequest<'_>,
    change: &PublicationChange<'_>,
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
    // Peers are notified its id, which only the row says.
    let is_notified = matches!(publishing.origin, Origin::Here { .. });
    let needs_row = is_notified && server.store.replication().is_some();
    if !needs_row && matches!(unread, Outcome::Change(made) if made.ended.is_none()) {
        return Ok((unread, None));
    }
    let tag = publishing.if_match.unwrap_or_default();
    let old = statements::one(server, host, key, &package.name, tag)?.ok_or(Refused::EntityTag)?;
    Ok((transition(&view.stored(package, &old), event, package, view.watchers), Some(old)))
}

fn create<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    publishing: &PublicationRequest<'_>,
    change: &PublicationChange<'_>,
) -> Result<(transition::PublicationTransition, Option<PublicationCopy>), Refused> {
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
        id => same_dialog(statements::read_rows(server, host, key, event)?, id),
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
            insert(database, table, &row, &own, change.ruid)?;
            limits::publication_row_counted(server, key, true);
        }
        Some(old) => {
            let spelled =
                PresentityKey { user: old.user.clone(), host: old.host.clone(), ..key.clone() };
            let old = publication_conditions(&spelled, event, &old.publication.entity_tag);
            replace(database, table, &old, &own, (&row, change.ruid))?;
        }
    }
    Ok((made, replaced.map(|row| row.publication)))
}

/// A presentity may have one publication more.
fn check_limit<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    publishing: &PublicationRequest<'_>,
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
                will_run_out(now),
            ];
            count += count_rows(database, table, &conditions, most - count)?;
        }
        Ok(count)
    })
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
    publishing: &PublicationRequest<'_>,
    change: &PublicationChange<'_>,
) -> Result<(), Refused> {
    let (key, event) = (&publishing.key, &publishing.package.name);
    let set = changes(change, publishing.body);
    check_widths(&server.widths.publications, &set)?;
    let row = publication_conditions(key, event, publishing.if_match.unwrap_or_default());
    let own = publication_conditions(key, event, change.entity_tag);
    let (table, database) = (table(server)?, host.database().ok_or(Fault::Database)?);
    statements::update(database, table, &row, &own, &set)
}

fn remove<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    publishing: &PublicationRequest<'_>,
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
