//! Keeps the driver's lines out of the log where ours say it once: while the database
//! is away each statement of each process would make some ten of them.

use std::ffi::c_int;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::host::database::{Connection, verdict};
use crate::host::log::{self, Level, Printable, log_warn};
use crate::host::sys;
use crate::ports::{Value, Verdict};

/// After a failure that the database does not explain its driver may say for so long
/// why the statement fails, which is tried again.
const LOUD: Duration = Duration::from_millis(500);

/// Milliseconds between two lines about statements that the database refuses.
const PAUSE: u64 = 10_000;

static REFUSED: AtomicU64 = AtomicU64::new(0);

/// Until this is dropped the process writes no lines but critical ones.
pub(super) struct Hush(c_int);

impl Hush {
    /// Nothing is kept back of who debugs.
    pub fn begin() -> Option<Hush> {
        if log::enabled(Level::Debug) {
            return None;
        }
        // SAFETY: sets the process's own log level.
        Some(Hush(unsafe { sys::kshim_hush() }))
    }
}

impl Drop for Hush {
    fn drop(&mut self) {
        // SAFETY: sets the process's own log level to what it was.
        unsafe { sys::kshim_unhush(self.0) };
    }
}

impl Connection {
    /// To be held while the driver carries out a statement. One that the database does
    /// not explain is repeated: then the driver says why.
    pub(super) fn hush(&self) -> Option<Hush> {
        let is_loud = self.loud.is_some_and(|until| Instant::now() < until);
        if is_loud || self.driver.dialect().is_none() { None } else { Hush::begin() }
    }

    /// Why a statement has failed is known, or not.
    pub(super) fn explained(&mut self, verdict: Verdict) {
        self.loud = (verdict == Verdict::Unclear).then(|| Instant::now() + LOUD);
    }

    /// Of all processes one lets its driver say why the database does not answer.
    pub(super) fn speaks(&mut self) {
        let now = verdict::milliseconds();
        if self.driver.outage.is_some_and(|outage| outage.speaks(now)) {
            self.loud = Some(Instant::now() + LOUD);
        }
    }

    /// The database has said what is wrong with a statement.
    pub(super) fn refused(&self, code: i64, message: Option<&Value>) {
        let now = verdict::milliseconds();
        let last = REFUSED.load(Ordering::Relaxed);
        if last != 0 && now < last + PAUSE {
            return;
        }
        REFUSED.store(now, Ordering::Relaxed);
        let message = message.map_or(&b""[..], Value::as_bytes);
        let table = self.touched.unwrap_or("a table");
        log_warn!(
            "the database refuses a statement about {table}: {} ({code})",
            Printable(message)
        );
    }
}
