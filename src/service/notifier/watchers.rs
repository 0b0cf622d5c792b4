//! Where the watchers of a change come from that are not in memory: pages of rows.

use crate::error::Fault;
use crate::ports::{Compare, Host, Value};
use crate::presence::event_package::EventPackage;
use crate::presence::presentity::PresentityKey;
use crate::presence::subscription::{Status, Text, is_notified_of_changes};
use crate::service::Server;
use crate::service::notifier_slots::{buffers_changes, slot_of};
use crate::service::subscription_rows as rows;
use crate::shm::Memory;
use crate::store::LaneRef;
use crate::store::records::RowClaim;
use crate::store::row_lanes::{FanOutStep, PendingNotify};

/// Rows of watchers read in one go.
const PAGE: usize = 1000;

/// Where a fan-out stands that has read all rows: its watchers are being notified.
const READ_ALL: i64 = i64::MAX;

/// Fetches watchers who have to be notified of a change; false if there are no more.
pub(super) fn fetch<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    lane: LaneRef<M>,
) -> Result<bool, Fault> {
    let step = server.store.fan_out_step(lane, buffers_changes(server));
    if step == FanOutStep::Done {
        return Ok(false);
    }
    let Some(key) = server.store.lane_key(lane) else { return Ok(false) };
    let Some(package) = server.registry.get(key.package) else { return Ok(false) };
    let seen = match step {
        FanOutStep::Done => return Ok(false),
        FanOutStep::Leave(excluded) => {
            let slot = slot_of(server, &key);
            rows::flag_watchers(server, host, &key, package, (slot, &excluded))?;
            None
        }
        // Their ended publications have been kept until now.
        FanOutStep::Page(READ_ALL) => None,
        FanOutStep::Page(after) => {
            Some(load(server, host, lane, &key, package, after)?.unwrap_or(READ_ALL))
        }
    };
    server.store.fan_out_read(lane, seen);
    Ok(true)
}

/// Puts a page of watchers on the list of those to be notified. Gives where
/// the fan-out goes on, or that it has seen all.
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
    let mut pending: Vec<PendingNotify> = Vec::with_capacity(page.rows.len());
    for row in page.rows {
        let subscription = &row.subscription;
        if is_notified_of_changes(subscription.status, subscription.text(Text::Reason)) {
            ids.push(row.id);
            pending.push(row.into_pending(None, RowClaim::FanOut));
        }
    }
    let queued = server.store.queue_page(lane, &pending);
    if queued < pending.len() {
        // The rest when these have made room.
        last = Some(queued.checked_sub(1).and_then(|n| ids.get(n).copied()).unwrap_or(after));
        if queued == 0 {
            return Err(Fault::SharedMemory);
        }
    }
    Ok(last)
}
