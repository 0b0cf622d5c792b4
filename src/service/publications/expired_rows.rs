//! Publications in rows only that have expired.

use crate::error::Fault;
use crate::ports::{Compare, Host, Value};
use crate::presence::event_package::Event as EventName;
use crate::presence::presentity::PresentityKey;
use crate::presence::publication::transition::{Event, Outcome, transition};
use crate::service::Server;
use crate::service::durable::delete;
use crate::service::paging::Pages;
use crate::shm::Memory;
use crate::store::publications::RowsChanged;
use crate::store::rows::{
    PUBLICATION_COLUMNS, PublicationRow, publication_conditions, read_publication,
};

use super::audience::{View, notify_watchers};
use super::statements::{have_run_out, table};

/// Expired rows read in one go.
const PAGE: usize = 250;

/// Ends publications that have expired. The row's own end is named when it is
/// deleted: of several servers one deletes it and notifies the watchers, and one
/// that was refreshed lives on.
pub(super) fn expire<M: Memory>(server: &Server<M>, host: &mut dyn Host) -> Result<(), Fault> {
    let table = table(server)?;
    let (mut pages, mut refused) = (Pages::new(PAGE, false), false);
    loop {
        let conditions = have_run_out(host.now());
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
        let change = RowsChanged { sender: b"", ended, fan_out: made.fan_out };
        if let Some(lane) = notify_watchers(server, host, &key, change) {
            server.store.hand_over(lane);
        }
    }
    Ok(())
}
