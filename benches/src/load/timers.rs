//! Retransmissions and time limits of requests.

use super::Load;
use std::cmp::Reverse;
use std::time::{Duration, Instant};

/// T1 of RFC 3261.
pub(super) const T1: Duration = Duration::from_millis(500);
/// T2: no retransmission comes later than this after the last.
const T2: Duration = Duration::from_secs(4);
/// Timer F: when a request has failed.
const TIMER_F: Duration = Duration::from_secs(32);
/// How long after the reply NOTIFYs may come.
const PATIENCE: Duration = Duration::from_secs(60);

impl Load {
    /// How long nothing is due.
    pub(super) fn until_next_timer(&self, now: Instant) -> Duration {
        self.timers.peek().map_or(T2, |Reverse((at, ..))| at.saturating_duration_since(now))
    }

    /// Sends again what is due, and ends what has failed.
    pub(super) fn fire_timers(&mut self, now: Instant) {
        while let Some(&Reverse((at, number, generation))) = self.timers.peek() {
            if at > now {
                return;
            }
            self.timers.pop();
            let slot = &mut self.slots[number as usize];
            if slot.generation != generation || slot.operation.is_none() {
                continue;
            }
            let age = now - slot.started;
            if slot.replied {
                if age >= PATIENCE {
                    self.fail(number);
                } else {
                    self.timers.push(Reverse((slot.started + PATIENCE, number, generation)));
                }
            } else if age >= TIMER_F {
                self.fail(number);
            } else {
                slot.sent_again += 1;
                self.tally.retransmissions += 1;
                self.socket.send(&slot.bytes);
                let wait = (T1 * (1 << slot.sent_again.min(3))).min(T2);
                let next = (now + wait).min(slot.started + TIMER_F);
                self.timers.push(Reverse((next, number, generation)));
            }
        }
    }

    fn fail(&mut self, number: u32) {
        let slot = &self.slots[number as usize];
        if slot.replied {
            self.tally.incomplete += 1;
        } else {
            self.tally.timeouts += 1;
        }
        self.tally.lost += u64::from(slot.awaiting);
        self.end(number);
    }

    /// Ends all that is under way.
    pub(super) fn give_up(&mut self) {
        for number in 0..self.slots.len() as u32 {
            if self.slots[number as usize].operation.is_some() {
                self.fail(number);
            }
        }
        self.tally.gave_up = true;
    }
}
