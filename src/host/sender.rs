//! `PRESENCE SENDER`: the processes that send what others hand over, and that
//! write new and ended subscriptions within a second (B49).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::host::boundary;
use crate::host::state::{KamailioServer, WAKE, server};
use crate::host::worker::Worker;
use crate::service::notifier::{self, Budget, Run};
use crate::service::write_back;

/// A sender looks for work at least this often, also when nobody wakes it.
const IDLE: Duration = Duration::from_secs(5);
/// The same where rows have to be written within a second.
const IDLE_PROMPT: Duration = Duration::from_millis(250);
/// Pause after a state that could not be composed.
const PAUSE: Duration = Duration::from_millis(500);

/// One step: waits for lanes that were handed over and sends what they have to
/// send.
pub fn step() {
    let (Some(server), Some(wake)) = (server(), WAKE.get()) else { return };
    wake.wait(if write_back::is_prompt(server) { IDLE_PROMPT } else { IDLE });
    let mut host = Worker::default();
    // One lane of each shard in turn: a lane with a hundred thousand watchers
    // comes back to its queue and must not keep the others waiting.
    let (mut busy, mut failed) = (true, false);
    let mut unwritten = write(server, &mut host);
    while busy && !failed {
        busy = false;
        for shard in 0..server.store.shards() {
            let Some(lane) = server.store.take_over(shard) else { continue };
            busy = true;
            // A boundary for each: a lane whose documents make a callback
            // panic must not keep the shards after it from being served.
            let run = boundary::enter("sender", Run::Failed, || {
                notifier::run(server, &mut host, lane, Budget::SENDER)
            });
            failed |= run == Run::Failed;
            unwritten = write(server, &mut host);
        }
    }
    if failed {
        std::thread::sleep(PAUSE);
    }
    if failed || unwritten {
        wake.notify();
    }
}

/// Writes new and ended subscriptions if it is time for it. True if there are
/// more.
fn write(server: &KamailioServer, host: &mut Worker) -> bool {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    let now = i64::try_from(now).unwrap_or(i64::MAX);
    boundary::enter("sender_rows", false, || write_back::prompt(server, host, now))
}
