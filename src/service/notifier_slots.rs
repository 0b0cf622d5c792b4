//! The slots of notifier processes (`waitn_time`, `notifier_poll_rate`,
//! `notifier_processes`; manual 3.8 to 3.10). Rows flagged with a slot are
//! served when it comes by, which each does once in `waitn_time`.

use crate::error::Fault;
use crate::ports::{Compare, Host, Level, Value};
use crate::presence::presentity::PresentityKey;
use crate::presence::subscription::{DialogId, Text};
use crate::service::Server;
use crate::service::notifier::{self, Budget, Owned};
use crate::service::rate_limited_log::RateLimitedLog;
use crate::service::subscription_rows as rows;
use crate::shm::Memory;
use crate::store::records::RowClaim;

pub use crate::service::expired_rows::expire;

static UNREADABLE: RateLimitedLog = RateLimitedLog::new();
pub(super) static UNQUEUED: RateLimitedLog = RateLimitedLog::new();

/// Flagged rows read in one go.
const PAGE: usize = 250;

/// Turns of one process.
pub fn slots_each<M: Memory>(server: &Server<M>) -> u32 {
    let config = &server.config;
    config.waitn_time.saturating_mul(config.notifier_poll_rate).max(1)
}

pub(super) fn all_slots<M: Memory>(server: &Server<M>) -> u64 {
    u64::from(slots_each(server)) * u64::from(server.config.notifier_processes.max(1))
}

/// The slot at which the watchers of a presentity are notified of a change.
pub fn slot_of<M: Memory>(server: &Server<M>, key: &PresentityKey) -> i64 {
    let parts: [&[u8]; 2] = [&key.package.0.to_le_bytes(), &key.identity];
    (server.store.hash().hash_parts(&parts) % all_slots(server)) as i64
}

/// The slot at which a dialog gets a NOTIFY of its own; `None` when it is sent
/// at once.
pub fn slot_of_dialog<M: Memory>(server: &Server<M>, dialog: DialogId<'_>) -> Option<i64> {
    let queued = server.config.notifier_processes > 0 && !server.config.send_fast_notify;
    let parts = [dialog.call_id, dialog.from_tag];
    queued.then(|| (server.store.hash().hash_parts(&parts) % all_slots(server)) as i64)
}

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
            let key = key_of(server, &row);
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

/// The presentity that a row's subscription is to.
pub fn key_of<M: Memory>(server: &Server<M>, row: &rows::ActiveWatcherRow) -> PresentityKey {
    let subscription = &row.subscription;
    server.store.key(
        subscription.text(Text::PresentityUser),
        subscription.text(Text::PresentityHost),
        subscription.package,
    )
}
