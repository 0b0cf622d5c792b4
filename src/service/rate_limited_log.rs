//! Log lines that would come by the thousand.

use crate::ports::{Host, Level};
use std::fmt;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

/// Seconds between two lines of a kind, in one process.
const PAUSE: i64 = 10;

/// A kind of log line that a lasting condition (a database that is away, a
/// document that cannot be read) would repeat at every change.
#[derive(Debug)]
pub struct RateLimitedLog {
    last: AtomicI64,
    kept_back: AtomicU64,
}

impl RateLimitedLog {
    /// No line of this kind has been written yet.
    pub const fn new() -> RateLimitedLog {
        RateLimitedLog { last: AtomicI64::new(i64::MIN), kept_back: AtomicU64::new(0) }
    }

    /// Writes the line; within the pause for debugging only. The next one says
    /// how many there were meanwhile.
    pub fn log(&self, host: &mut dyn Host, level: Level, line: fmt::Arguments<'_>) {
        let now = host.now();
        if now.saturating_sub(self.last.load(Ordering::Relaxed)) < PAUSE {
            self.kept_back.fetch_add(1, Ordering::Relaxed);
            host.log(Level::Debug, line);
            return;
        }
        self.last.store(now, Ordering::Relaxed);
        match self.kept_back.swap(0, Ordering::Relaxed) {
            0 => host.log(level, line),
            more => host.log(level, format_args!("{line} (and {more} more of this kind before)")),
        }
    }
}
