//! Rows that are flagged with a notifier slot: the notifier process whose slot it is
//! sends their NOTIFYs.

use crate::error::Fault;
use crate::ports::{Compare, Host, Level, Value};
use crate::service::Server;
use crate::service::notifier::{self, Budget, Owned};
use crate::service::rate_limited_log::RateLimitedLog;
use crate::service::subscription_rows as rows;
use crate::service::subscriptions::key_of;
use crate::shm::Memory;
use crate::store::records::RowClaim;

static UNREADABLE: RateLimitedLog = RateLimitedLog::new();
static UNQUEUED: RateLimitedLog = RateLimitedLog::new();

/// Flagged rows read in one go.
const PAGE: usize = 250;

/// Serves the rows of one slot.
pub fn serve<M: Memory>(server: &Server<M>, host: &mut dyn Host, slot: i64) {
    if let Err(fault) = try_serve(server, host, slot) {
        UNREADABLE.log(
            host,
            Level::Error,
            format_args!("subscriptions flagged for a NOTIFY cannot be read: {fault}"),
        );
    }
    server.wake_senders(host);
}

fn try_serve<M: Memory>(server: &Server<M>, host: &mut dyn Host, slot: i64) -> Result<(), Fault> {
    let mut after = 0;
    loop {
        let conditions = vec![("updated", Compare::Eq, Value::Int(slot))];
        let page = rows::page(server, host, &conditions, after, PAGE)?;
        let (now, offset) = (host.now(), i64::from(server.config.expires_offset));
        // Should something fail, they are left to the senders.
        let mut lanes = Vec::new();
        for row in page.rows {
            let key = key_of(server, &row.subscription);
            let ending = row.ending(now, offset);
            let claim = RowClaim::NotifierSlot(i32::try_from(slot).unwrap_or(i32::MAX));
            match server.store.queue_row(&key, &row.into_pending(ending, claim)) {
                Ok(lane) => lanes.extend(lane.map(|lane| Owned::new(server, lane))),
                // It stays flagged, for the next time round.
                Err(fault) => UNQUEUED.log(
                    host,
                    Level::Error,
                    format_args!("a NOTIFY has to wait for another turn: {fault}"),
                ),
            }
        }
        for lane in lanes {
            notifier::run_owned(lane, host, Budget::SENDER);
        }
        match page.last {
            Some(last) => after = last,
            None => return Ok(()),
        }
    }
}
