//! Phases: a list of operations, and how fast they are started.

use super::{Load, Tally};
use crate::progress::Progress;
use std::time::{Duration, Instant};

/// One request, with what is expected of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// PUBLISH with a new document, by this source.
    Publish(u32),
    /// PUBLISH without a body, which extends the publication.
    RefreshPublication(u32),
    /// PUBLISH that removes the publication.
    RemovePublication(u32),
    /// SUBSCRIBE that makes a new dialog, by this watcher.
    Subscribe(u32),
    /// SUBSCRIBE in the dialog.
    Refresh(u32),
    /// SUBSCRIBE with Expires 0 in the dialog.
    Unsubscribe(u32),
    /// SUBSCRIBE in a dialog that the server does not know; 481 is expected.
    Unknown(u32),
}

/// How fast operations are started.
#[derive(Clone, Copy, Debug)]
pub enum Pace {
    /// So many are under way at any time.
    Window(usize),
    /// So many are started per second, whatever the answers; so many at once.
    Rate(f64, u32),
}

/// How a list of operations is run.
#[derive(Clone, Debug)]
pub struct Phase {
    /// For the progress line.
    pub name: String,
    /// How fast.
    pub pace: Pace,
    /// Whether an operation ends with its NOTIFYs only.
    pub await_notifies: bool,
    /// Starts nothing after this time, and ends well.
    pub stop_after: Duration,
    /// Gives up after this time.
    pub limit: Duration,
}

impl Phase {
    /// 32 under way, NOTIFYs awaited, given up after five minutes.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            pace: Pace::Window(32),
            await_notifies: true,
            stop_after: Duration::from_secs(3600),
            limit: Duration::from_secs(300),
        }
    }

    /// With so many under way.
    pub fn window(mut self, window: usize) -> Self {
        self.pace = Pace::Window(window);
        self
    }

    /// With so many started per second.
    pub fn rate(self, rate: f64) -> Self {
        self.bursts(rate, 1)
    }

    /// With so many started per second, so many of them at the same moment.
    pub fn bursts(mut self, rate: f64, together: u32) -> Self {
        self.pace = Pace::Rate(rate, together);
        self
    }

    /// Ends an operation with its reply.
    pub fn replies_only(mut self) -> Self {
        self.await_notifies = false;
        self
    }

    /// Starts nothing after this many seconds.
    pub fn stop_after(mut self, seconds: f64) -> Self {
        self.stop_after = Duration::from_secs_f64(seconds);
        self
    }

    /// Gives up after this many seconds.
    pub fn limit(mut self, seconds: f64) -> Self {
        self.limit = Duration::from_secs_f64(seconds);
        self
    }
}

/// CPU that this thread has used.
fn own_cpu() -> Duration {
    // SAFETY: an all-zero rusage is valid; the call fills it.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_THREAD, &raw mut usage);
        usage
    };
    let time = |value: libc::timeval| {
        Duration::from_secs(value.tv_sec as u64) + Duration::from_micros(value.tv_usec as u64)
    };
    time(usage.ru_utime) + time(usage.ru_stime)
}

impl Load {
    /// Runs the operations and says what they came to.
    pub fn run(&mut self, phase: &Phase, operations: impl IntoIterator<Item = Operation>) -> Tally {
        let mut operations = operations.into_iter();
        let mut next = operations.next();
        let begin = Instant::now();
        let cpu = own_cpu();
        let mut progress = Progress::new(&phase.name);
        self.tally = Tally::default();
        self.awaits_notifies = phase.await_notifies;
        loop {
            let now = Instant::now();
            let elapsed = now - begin;
            if elapsed > phase.stop_after {
                next = None;
            }
            while let Some(operation) = next.filter(|_| self.is_due(phase.pace, elapsed)) {
                next = operations.next();
                // A party waits for its answer before it sends another request:
                // one whose turn comes too early is passed over.
                if *self.busy(operation) {
                    self.tally.passed_over += 1;
                    break;
                }
                self.start(operation);
                if self.tally.started.is_multiple_of(8) {
                    self.receive_all();
                }
            }
            self.receive_all();
            self.fire_timers(now);
            if next.is_none() && self.active == 0 {
                break;
            }
            if elapsed > phase.limit {
                self.give_up();
                break;
            }
            progress
                .show(now, || format!("{} done, {} NOTIFYs", self.tally.done, self.tally.notifies));
            let elapsed = begin.elapsed();
            if next.is_some() && self.is_due(phase.pace, elapsed) {
                continue;
            }
            let mut pause = self.until_next_timer(now).min(Duration::from_millis(100));
            if let (Pace::Rate(rate, _), Some(_)) = (phase.pace, next) {
                let due = Duration::from_secs_f64(self.turns() as f64 / rate);
                pause = pause.min(due.saturating_sub(elapsed));
            }
            self.socket.wait(pause);
        }
        self.tally.wall = begin.elapsed();
        self.tally.own_cpu = own_cpu() - cpu;
        std::mem::take(&mut self.tally)
    }

    /// Operations whose turn has come.
    fn turns(&self) -> u64 {
        self.tally.started + self.tally.passed_over
    }

    fn is_due(&self, pace: Pace, elapsed: Duration) -> bool {
        match pace {
            Pace::Window(window) => self.active < window,
            Pace::Rate(rate, together) => {
                let bursts = self.turns() / u64::from(together);
                (bursts * u64::from(together)) as f64 <= rate * elapsed.as_secs_f64()
            }
        }
    }

    /// Answers NOTIFYs until `done` says so, at most for `limit`; `done` is
    /// asked every 50 ms with the counts so far.
    pub fn wait(&mut self, limit: Duration, mut done: impl FnMut(&Self, &Tally) -> bool) -> Tally {
        let begin = Instant::now();
        let cpu = own_cpu();
        let mut asked = begin;
        self.tally = Tally::default();
        loop {
            self.receive_all();
            let now = Instant::now();
            if now - asked >= Duration::from_millis(50) {
                asked = now;
                if done(self, &self.tally) {
                    break;
                }
            }
            if now - begin >= limit {
                break;
            }
            self.socket.wait(Duration::from_millis(50).min(limit - (now - begin)));
        }
        self.tally.wall = begin.elapsed();
        self.tally.own_cpu = own_cpu() - cpu;
        std::mem::take(&mut self.tally)
    }

    /// Answers NOTIFYs for so many seconds.
    pub fn idle(&mut self, seconds: f64) -> Tally {
        self.wait(Duration::from_secs_f64(seconds), |_, _| false)
    }
}
