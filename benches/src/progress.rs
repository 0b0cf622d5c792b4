//! A line of progress on stderr.

use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

/// Shows how far a phase is: each second in one line on a terminal, every 15
/// seconds in lines of their own otherwise.
pub struct Progress {
    name: String,
    begin: Instant,
    next: Instant,
    interval: Duration,
    terminal: bool,
    shown: bool,
}

impl Progress {
    /// Nothing is shown for a phase that ends at once.
    pub fn new(name: &str) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let interval = Duration::from_secs(if terminal { 1 } else { 15 });
        let begin = Instant::now();
        Self {
            name: name.to_owned(),
            begin,
            next: begin + interval,
            interval,
            terminal,
            shown: false,
        }
    }

    /// Shows `text` when it is time.
    pub fn show(&mut self, now: Instant, text: impl FnOnce() -> String) {
        if now < self.next {
            return;
        }
        self.next = now + self.interval;
        self.shown = true;
        let line =
            format!("    {} {:.0} s: {}", self.name, (now - self.begin).as_secs_f64(), text());
        let mut stderr = std::io::stderr().lock();
        let _ = if self.terminal {
            write!(stderr, "\r{line}\x1b[K").and_then(|()| stderr.flush())
        } else {
            writeln!(stderr, "{line}")
        };
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.terminal && self.shown {
            eprint!("\r\x1b[K");
        }
    }
}
