//! Log lines that would come by the thousand.

use crate::ports::{Host, Level};
use std::fmt;
use std::sync::atomic::{AtomicI64, Ordering};

/// Seconds between two lines of a kind, in one process.
const PAUSE: i64 = 10;

/// A kind of log line that a lasting condition (a database that is away, a
/// document that cannot be read) would repeat at every change.
#[derive(Debug)]
pub struct Seldom(AtomicI64);

impl Seldom {
    /// No line of this kind has been written yet.
    pub const fn new() -> Seldom {
        Seldom(AtomicI64::new(i64::MIN))
    }

    /// Writes the line; within the pause for debugging only.
    pub fn log(&self, host: &mut dyn Host, level: Level, line: fmt::Arguments<'_>) {
        let now = host.now();
        let due = now.saturating_sub(self.0.load(Ordering::Relaxed)) >= PAUSE;
        if due {
            self.0.store(now, Ordering::Relaxed);
        }
        host.log(if due { level } else { Level::Debug }, line);
    }
}
