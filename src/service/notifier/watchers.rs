//! Where the watchers of a change come from that are not in memory: pages of rows.

use crate::error::Fault;
use crate::ports::{Compare, Host, Value};
use crate::presence::event_package::EventPackage;
use crate::presence::presentity::PresentityKey;
use crate::presence::subscription::{Status, Text, is_told_of_changes};
use crate::service::Server;
use crate::service::subscription_rows as rows;
use crate::service::turns::turn_of;
use crate::shm::Memory;
use crate::store::LaneRef;
use crate::store::records::Claim;
use crate::store::row_lanes::{DueRow, WalkStep};

/// Rows of watchers read in one go.
const PAGE: usize = 1000;

/// Where a walk stands that has read all rows: its watchers are being told.
const READ_ALL: i64 = i64::MAX;

/// Fetches watchers who have to be told of a change; false if there are no more.
pub(super) fn fetch<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    lane: LaneRef<M>,
) -> Result<bool, Fault> {
    let step = server.store.walk(lane, server.config.notifier_processes > 0);
    if step == WalkStep::Done {
        return Ok(false);
    }
    let Some(key) = server.store.lane_key(lane) else { return Ok(false) };
    let Some(package) = server.registry.get(key.package) else { return Ok(false) };
    let seen = match step {
        WalkStep::Done => return Ok(false),
        WalkStep::Leave(spared) => {
            let turn = turn_of(server, &key);
            rows::flag_watchers(server, host, &key, package, (turn, &spared))?;
            None
        }
        // Their ended publications have been kept until now.
        WalkStep::Page(READ_ALL) => None,
        WalkStep::Page(after) => {
            Some(load(server, host, lane, &key, package, after)?.unwrap_or(READ_ALL))
        }
    };
    server.store.walked(lane, seen);
    Ok(true)
}

/// Puts a page of watchers on the list of those to be notified. Gives where
/// the walk goes on, or that it has seen all.
fn load<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    lane: LaneRef<M>,
    key: &PresentityKey,
    package: &EventPackage,
    after: i64,
) -> Result<Option<i64>, Fault> {
    let now = host.now();
    let living = [
        ("status", Compare::Eq, Value::Int(Status::Active as i64)),
        ("expires", Compare::Greater, Value::Int(now)),
    ];
    let lists = rows::of_presentity(key, package, &living);
    let page = rows::page_of_any(server, host, &lists, after, PAGE)?;
    let mut last = page.last;
    let mut ids = Vec::with_capacity(page.rows.len());
    let mut due: Vec<DueRow> = Vec::with_capacity(page.rows.len());
    for row in page.rows {
        let subscription = &row.subscription;
        if is_told_of_changes(subscription.status, subscription.text(Text::Reason)) {
            ids.push(row.id);
            due.push(row.due(None, Claim::Walk));
        }
    }
    let queued = server.store.queue_page(lane, &due);
    if queued < due.len() {
        // The rest when these have made room.
        last = Some(queued.checked_sub(1).and_then(|n| ids.get(n).copied()).unwrap_or(after));
        if queued == 0 {
            return Err(Fault::SharedMemory);
        }
    }
    Ok(last)
}
