//! `PRESENCE SENDER`: the processes that send what others hand over, and that
//! write new and ended subscriptions within a second (B49).

use std::io;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::host::process::Wake;
use crate::host::state::{Kamailio, KamailioServer, WAKE, server};
use crate::host::worker::Worker;
use crate::host::{boundary, process};
use crate::service::notifier::retry_queue::RetryQueue;
use crate::service::{gone_back, orphaned_rows, write_back};

/// A sender looks for work at least this often, also when nobody wakes it.
const IDLE: Duration = Duration::from_secs(5);
/// The same where rows have to be written within a second.
const IDLE_PROMPT: Duration = Duration::from_millis(250);
/// Pause after a panic.
const PAUSE: Duration = Duration::from_millis(500);

/// Starts a sender process: it waits for lanes that were handed over and sends what
/// they have to send.
pub fn start() -> io::Result<()> {
    let start = Instant::now();
    let mut retry_queue = None;
    process::spawn(c"PRESENCE SENDER", move || {
        if let (Some(server), Some(wake)) = (server(), WAKE.get()) {
            let retry_queue = retry_queue.get_or_insert_with(|| RetryQueue::new(server));
            step(server, wake, retry_queue, start);
        }
    })
}

fn step(
    server: &'static KamailioServer,
    wake: &Wake,
    retry_queue: &mut RetryQueue<'static, Kamailio>,
    start: Instant,
) {
    let prompt = write_back::is_prompt(server) || server.store.is_new();
    let idle = if prompt { IDLE_PROMPT } else { IDLE };
    let next = retry_queue.next().map_or(idle, |next| next.saturating_sub(start.elapsed()));
    wake.wait(next.min(idle));
    let mut host = Worker::default();
    if server.store.begin_to_look() {
        boundary::enter("sender_start", (), || orphaned_rows::at_start(server, &mut host));
    }
    boundary::enter("sender_gone_back", (), || gone_back::notify_watchers(server, &mut host));
    // One lane of each shard in turn: a lane with a hundred thousand watchers
    // comes back to its queue and must not keep the others waiting.
    let (mut busy, mut failed) = (true, false);
    let mut unwritten = write(server, &mut host);
    while busy && !failed {
        busy = false;
        // A boundary for each: a lane whose documents make a callback panic must
        // not keep those after it from being served.
        let mut serve = |work: &mut dyn FnMut(&mut Worker) -> bool| {
            let done = boundary::enter("sender", None, || Some(work(&mut host)));
            failed |= done.is_none();
            busy |= done.unwrap_or(true);
            if done != Some(false) {
                unwritten = write(server, &mut host);
            }
        };
        for shard in 0..server.store.shards() {
            serve(&mut |host| {
                let lane = server.store.take_over(shard);
                let is_some = lane.is_some();
                lane.into_iter().for_each(|lane| retry_queue.serve(host, lane, start.elapsed()));
                is_some
            });
        }
        serve(&mut |host| retry_queue.serve_next(host, start.elapsed()));
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
