//! A database that has gone back: after it was away another copy may be in its place,
//! which lacks the last changes. Watchers were notified of what their rows do not
//! know any more; they are notified of what is so now.

use crate::error::Fault;
use crate::ports::{Compare, Host, Level, Value};
use crate::presence::subscription::DialogId;
use crate::service::paging::Pages;
use crate::service::rate_limited_log::RateLimitedLog;
use crate::service::subscriptions::key_of;
use crate::service::{Server, subscription_rows as rows};
use crate::shm::Memory;
use crate::store::records::RowClaim;
use crate::store::rows::used_cseq;

static UNQUEUED: RateLimitedLog = RateLimitedLog::new();

/// Rows looked at in one go.
const PAGE: usize = 1000;

/// Looks, once after each time that the database was away, whether rows are older
/// than what was notified from them. Their watchers have a pending NOTIFY then; the caller
/// serves the lanes.
pub fn notify_watchers<M: Memory>(server: &Server<M>, host: &mut dyn Host) {
    if !server.subscriptions().is_shared() {
        // What is in memory counts, and rows follow it.
        return;
    }
    let Some(outages) = host.database().map(|database| database.outages()) else { return };
    if !server.store.begin_to_look_back(outages) {
        return;
    }
    match look(server, host) {
        Ok(0) => {}
        Ok(count) => host.log(
            Level::Warning,
            format_args!(
                "the database has lost changes: {count} watchers had been told of them, and are \
                 told what it has now"
            ),
        ),
        // The next time.
        Err(_) => server.store.look_back_again(outages),
    }
}

fn look<M: Memory>(server: &Server<M>, host: &mut dyn Host) -> Result<usize, Fault> {
    let (table, mut pages, mut count) = (rows::table(server)?, Pages::new(PAGE, true), 0);
    let living = [("expires", Compare::Greater, Value::Int(host.now()))];
    loop {
        let database = host.database().ok_or(Fault::Database)?;
        let columns = ["callid", "from_tag", "to_tag", "local_cseq"];
        let Some(page) = pages.next(database, table, &living, &columns)? else { return Ok(count) };
        for (_, row) in &page {
            let [call_id, from_tag, to_tag, cseq] = row.as_slice() else { continue };
            let dialog = DialogId {
                call_id: call_id.as_bytes(),
                from_tag: from_tag.as_bytes(),
                to_tag: to_tag.as_bytes(),
            };
            let Some(cseq) = used_cseq(cseq) else { continue };
            if server.store.has_gone_back(dialog, cseq) {
                count += usize::from(queue_notify(server, host, dialog)?);
            }
        }
    }
}

/// The watcher of a dialog gets a NOTIFY. False if its subscription has ended.
fn queue_notify<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    dialog: DialogId<'_>,
) -> Result<bool, Fault> {
    let row = rows::find(server, host, dialog)?.filter(|row| !row.has_ended());
    let Some(row) = row else { return Ok(false) };
    let key = key_of(server, &row.subscription);
    match server.store.queue_row(&key, &row.into_pending(None, RowClaim::Asked)) {
        Ok(lane) => lane.into_iter().for_each(|lane| server.store.hand_over(lane)),
        Err(fault) => {
            let line = format_args!("a watcher is told of what was lost later: {fault}");
            UNQUEUED.log(host, Level::Error, line);
        }
    }
    Ok(true)
}
