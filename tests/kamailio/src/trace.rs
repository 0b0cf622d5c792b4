//! The record of everything sent and received in one test.

use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// How many messages of a trace are printed when a test fails.
const PRINTED: usize = 60;
/// How many messages are kept.
const KEPT: usize = 4000;

struct Entry {
    at: Duration,
    who: String,
    direction: &'static str,
    bytes: Vec<u8>,
}

struct Entries {
    list: Vec<Entry>,
    dropped: usize,
}

/// A shared, bounded record of SIP messages; clones are the same record.
#[derive(Clone)]
pub struct Trace {
    start: Instant,
    entries: Arc<Mutex<Entries>>,
}

impl Default for Trace {
    fn default() -> Self {
        Self::new()
    }
}

impl Trace {
    /// An empty record; its clock starts now.
    pub fn new() -> Self {
        Self {
            start: Instant::now(),
            entries: Arc::new(Mutex::new(Entries { list: Vec::new(), dropped: 0 })),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn add(&self, who: &str, direction: &'static str, bytes: &[u8]) {
        let at = self.start.elapsed();
        let mut entries = self.lock();
        if entries.list.len() >= KEPT {
            entries.list.drain(..KEPT / 2);
            entries.dropped += KEPT / 2;
        }
        entries.list.push(Entry { at, who: who.to_owned(), direction, bytes: bytes.to_vec() });
    }

    /// Records a message that `who` sent to Kamailio.
    pub fn sent(&self, who: &str, bytes: &[u8]) {
        self.add(who, "->", bytes);
    }

    /// Records a message that `who` received from Kamailio.
    pub fn received(&self, who: &str, bytes: &[u8]) {
        self.add(who, "<-", bytes);
    }

    /// The last messages as readable text.
    pub fn tail(&self) -> String {
        let entries = self.lock();
        let skipped = entries.list.len().saturating_sub(PRINTED);
        let mut text = String::new();
        if skipped + entries.dropped > 0 {
            let _ = writeln!(text, "({} earlier messages left out)", skipped + entries.dropped);
        }
        for entry in &entries.list[skipped..] {
            let _ = writeln!(
                text,
                "[{:8.3}] {} {} kamailio, {} bytes",
                entry.at.as_secs_f64(),
                entry.who,
                entry.direction,
                entry.bytes.len()
            );
            for line in String::from_utf8_lossy(&entry.bytes[..entry.bytes.len().min(3000)]).lines()
            {
                let _ = writeln!(text, "    {line}");
            }
        }
        text
    }
}
