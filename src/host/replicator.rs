//! `PRESENCE REPLICATOR`: the process that talks to other servers over DMQ. What
//! the others have for it lies in shared memory.

use std::io;
use std::time::Duration;

use crate::host::state::{REPLICATOR, server};
use crate::host::worker::Worker;
use crate::host::{boundary, process};
use crate::service::replication::Replicator;

/// Pause after a panic.
const PAUSE: Duration = Duration::from_millis(500);

/// Starts it.
pub fn start() -> io::Result<()> {
    let (mut replicator, mut next) = (Replicator::default(), Duration::ZERO);
    process::spawn(c"PRESENCE REPLICATOR", move || {
        let (Some(server), Some(wake)) = (server(), REPLICATOR.get()) else { return };
        if next > Duration::ZERO {
            wake.wait(next);
        }
        let step = || replicator.step(server, &mut Worker::default());
        next = boundary::enter("replicator", PAUSE, step);
    })
}
