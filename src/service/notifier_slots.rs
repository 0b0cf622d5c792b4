//! The slots of notifier processes (`waitn_time`, `notifier_poll_rate`,
//! `notifier_processes`; manual 3.8 to 3.10), each of which comes by once in
//! `waitn_time`. This is the one place that asks whether there are such processes.

use crate::config::Config;
use crate::error::Fault;
use crate::ports::Host;
use crate::presence::presentity::PresentityKey;
use crate::presence::subscription::DialogId;
use crate::service::Server;
use crate::service::subscription_rows as rows;
use crate::shm::Memory;

/// Turns of one process.
pub fn slots_each<M: Memory>(server: &Server<M>) -> u32 {
    let config = &server.config;
    config.waitn_time.saturating_mul(config.notifier_poll_rate).max(1)
}

fn all_slots<M: Memory>(server: &Server<M>) -> u64 {
    u64::from(slots_each(server)) * u64::from(processes(&server.config).max(1))
}

/// Notifier processes that there are.
pub fn processes(config: &Config) -> u32 {
    config.notifier_processes
}

fn are_there<M: Memory>(server: &Server<M>) -> bool {
    processes(&server.config) > 0
}

/// Changes that are not urgent wait for their slot.
pub(super) fn buffers_changes<M: Memory>(server: &Server<M>) -> bool {
    are_there(server)
}

/// Who has just subscribed is sent an empty document, too (B28).
pub(super) fn sends_empty<M: Memory>(server: &Server<M>) -> bool {
    are_there(server)
}

/// Several rows may be changed in one transaction. Notifier processes flag many rows
/// in one statement: beside those that could end in a deadlock.
pub(super) fn may_change_together<M: Memory>(server: &Server<M>) -> bool {
    !are_there(server)
}

/// Seconds that a NOTIFY may wait for its slot.
pub(super) fn longest_wait<M: Memory>(server: &Server<M>) -> i64 {
    if are_there(server) { i64::from(server.config.waitn_time) } else { 0 }
}

/// Rows of slots that there are no more get one that there is.
pub(super) fn adopt<M: Memory>(server: &Server<M>, host: &mut dyn Host) -> Result<(), Fault> {
    match are_there(server) {
        true => {
            rows::adopt_slots(server, host, i64::try_from(all_slots(server)).unwrap_or(i64::MAX))
        }
        false => Ok(()),
    }
}

/// The slot at which the watchers of a presentity are notified of a change.
pub fn slot_of<M: Memory>(server: &Server<M>, key: &PresentityKey) -> i64 {
    let parts: [&[u8]; 2] = [&key.package.0.to_le_bytes(), &key.identity];
    (server.store.hash().hash_parts(&parts) % all_slots(server)) as i64
}

/// The slot at which a dialog gets a NOTIFY of its own; `None` when it is sent
/// at once.
pub fn slot_of_dialog<M: Memory>(server: &Server<M>, dialog: DialogId<'_>) -> Option<i64> {
    let queued = are_there(server) && !server.config.send_fast_notify;
    let parts = [dialog.call_id, dialog.from_tag];
    queued.then(|| (server.store.hash().hash_parts(&parts) % all_slots(server)) as i64)
}
