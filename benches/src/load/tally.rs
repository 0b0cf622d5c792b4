//! What one phase of load came to.

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

/// Latencies in microseconds.
#[derive(Clone, Default)]
pub struct Latencies(Vec<u32>);

impl Latencies {
    /// Adds one.
    pub fn add(&mut self, latency: Duration) {
        self.0.push(latency.as_micros().min(u128::from(u32::MAX)) as u32);
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The value that `share` (0 to 1) of all do not exceed, in milliseconds.
    pub fn quantile(&mut self, share: f64) -> f64 {
        if self.0.is_empty() {
            return f64::NAN;
        }
        let last = self.0.len() - 1;
        let at = ((last as f64) * share).round() as usize;
        let (_, value, _) = self.0.select_nth_unstable(at.min(last));
        f64::from(*value) / 1000.0
    }

    fn json(&mut self) -> Value {
        json!({
            "count": self.count(),
            "p50_ms": self.quantile(0.5),
            "p99_ms": self.quantile(0.99),
            "max_ms": self.quantile(1.0),
        })
    }
}

/// Counts of one phase.
#[derive(Clone, Default)]
pub struct Tally {
    /// Requests started.
    pub started: u64,
    /// Those that were passed over, as their party still waited for an answer.
    pub passed_over: u64,
    /// Requests that came to their expected end (reply, and NOTIFYs if awaited).
    pub done: u64,
    /// Final replies by status.
    pub statuses: BTreeMap<u16, u64>,
    /// Replies that were not the expected ones.
    pub refused: u64,
    /// Requests without a final reply after 64 T1, or when the phase ended.
    pub timeouts: u64,
    /// Requests that were answered, but whose NOTIFYs did not all come in time.
    pub incomplete: u64,
    /// Requests sent again.
    pub retransmissions: u64,
    /// NOTIFYs, without retransmissions.
    pub notifies: u64,
    /// Of those, how many ended their dialog.
    pub terminated: u64,
    /// NOTIFYs that came again.
    pub repeated: u64,
    /// Two different NOTIFYs with one CSeq in one dialog.
    pub cseq_reused: u64,
    /// NOTIFYs whose CSeq was below one seen before.
    pub cseq_backwards: u64,
    /// NOTIFYs with an older state on a higher CSeq.
    pub older_state: u64,
    /// NOTIFYs awaited that did not come.
    pub lost: u64,
    /// NOTIFYs of dialogs that nobody knows.
    pub strays: u64,
    /// Request to final reply.
    pub reply: Latencies,
    /// Request (SUBSCRIBE, or the PUBLISH whose state it carries) to NOTIFY.
    pub notify: Latencies,
    /// How long the phase took.
    pub wall: Duration,
    /// CPU of this program meanwhile.
    pub own_cpu: Duration,
    /// True when the phase was given up.
    pub gave_up: bool,
}

impl Tally {
    /// Adds the counts of another phase.
    pub fn absorb(&mut self, other: Tally) {
        for (status, count) in other.statuses {
            *self.statuses.entry(status).or_default() += count;
        }
        for (sum, count) in [
            (&mut self.started, other.started),
            (&mut self.passed_over, other.passed_over),
            (&mut self.done, other.done),
            (&mut self.refused, other.refused),
            (&mut self.timeouts, other.timeouts),
            (&mut self.incomplete, other.incomplete),
            (&mut self.retransmissions, other.retransmissions),
            (&mut self.notifies, other.notifies),
            (&mut self.terminated, other.terminated),
            (&mut self.repeated, other.repeated),
            (&mut self.cseq_reused, other.cseq_reused),
            (&mut self.cseq_backwards, other.cseq_backwards),
            (&mut self.older_state, other.older_state),
            (&mut self.lost, other.lost),
            (&mut self.strays, other.strays),
        ] {
            *sum += count;
        }
        self.reply.0.extend(other.reply.0);
        self.notify.0.extend(other.notify.0);
        self.wall += other.wall;
        self.own_cpu += other.own_cpu;
        self.gave_up |= other.gave_up;
    }

    /// All that is wrong in words; empty when nothing is.
    pub fn complaints(&self) -> String {
        let named = [
            (self.refused, "refused"),
            (self.passed_over, "passed over, as a request of the same party was on its way"),
            (self.timeouts, "timed out"),
            (self.lost, "NOTIFYs lost"),
            (self.cseq_reused, "CSeqs reused"),
            (self.cseq_backwards, "CSeqs backwards"),
            (self.older_state, "older states"),
            (self.retransmissions, "retransmissions"),
        ];
        let mut text: Vec<String> = named
            .iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, name)| format!("{count} {name}"))
            .collect();
        if self.refused > 0 {
            let statuses: Vec<String> =
                self.statuses.iter().map(|(status, count)| format!("{count} x {status}")).collect();
            text.push(format!("answers: {}", statuses.join(" ")));
        }
        if self.gave_up {
            text.push(format!(
                "given up after {:.0} s with {} of {}",
                self.wall.as_secs_f64(),
                self.done,
                self.started
            ));
        }
        text.join(", ")
    }

    /// All counts.
    pub fn json(&mut self) -> Value {
        let statuses: BTreeMap<String, u64> =
            self.statuses.iter().map(|(status, count)| (status.to_string(), *count)).collect();
        json!({
            "started": self.started,
            "passed_over": self.passed_over,
            "done": self.done,
            "statuses": statuses,
            "refused": self.refused,
            "timeouts": self.timeouts,
            "incomplete": self.incomplete,
            "retransmissions": self.retransmissions,
            "notifies": self.notifies,
            "terminated": self.terminated,
            "repeated": self.repeated,
            "cseq_reused": self.cseq_reused,
            "cseq_backwards": self.cseq_backwards,
            "older_state": self.older_state,
            "lost": self.lost,
            "strays": self.strays,
            "reply": self.reply.json(),
            "notify": self.notify.json(),
            "wall_s": self.wall.as_secs_f64(),
            "own_cpu_s": self.own_cpu.as_secs_f64(),
            "gave_up": self.gave_up,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_the_sorted_list() {
        let mut latencies = Latencies::default();
        for millis in [5, 1, 4, 2, 3] {
            latencies.add(Duration::from_millis(millis));
        }
        assert_eq!(latencies.quantile(0.5), 3.0);
        assert_eq!(latencies.quantile(1.0), 5.0);
        assert!(Latencies::default().quantile(0.5).is_nan());
    }
}
