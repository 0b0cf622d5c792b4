//! Since when lanes wait for a sender process. A table of fixed size, without a
//! lock: where it is full or two lanes share a place, the one that came first is
//! remembered.

use crate::shm::{Id, Memory};
use crate::store::records::Presentity;
use crate::store::shard::Shard;
use crate::store::{LaneRef, Store};
use std::sync::atomic::{AtomicU64, Ordering};

/// Lanes that are remembered.
pub const WAITS: usize = 1024;

/// The lane, whether a PUBLISH began it, and the time in milliseconds (of 32 bits).
#[derive(Debug, Default)]
pub struct Wait(AtomicU64);

const PUBLISHED: u64 = 1 << 32;

/// What a lane is called in the table; never 0.
fn name<M: Memory>(records: &Shard<M>, presentity: Id<Presentity<M>>) -> u64 {
    let hash = ((records.number as u64) << 32 | u64::from(presentity.index()))
        .wrapping_mul(0x9E37_79B9_7F4A_7C15);
    hash >> 33 | 1 << 30
}

fn is_of(wait: u64, name: u64) -> bool {
    wait >> 33 == name
}

impl<M: Memory> Store<M> {
    fn wait(&self, name: u64) -> Option<&AtomicU64> {
        let waits = self.shared.waits;
        waits.get(name as usize % waits.len().max(1)).map(|wait| &wait.0)
    }

    /// A lane waits from now on, unless it does already.
    pub(super) fn begins_to_wait(
        &self,
        records: &Shard<M>,
        presentity: Id<Presentity<M>>,
        since: Since,
    ) {
        let name = name(records, presentity);
        let time = u64::from(since.milliseconds) | if since.published { PUBLISHED } else { 0 };
        if let Some(wait) = self.wait(name)
            && wait.load(Ordering::Relaxed) == 0
        {
            wait.store(name << 33 | time, Ordering::Relaxed);
        }
    }

    /// It waits no more.
    pub(super) fn waits_no_more(&self, records: &Shard<M>, presentity: Id<Presentity<M>>) {
        let name = name(records, presentity);
        if let Some(wait) = self.wait(name)
            && is_of(wait.load(Ordering::Relaxed), name)
        {
            wait.store(0, Ordering::Relaxed);
        }
    }

    /// Since when a lane waits, if it does and that is known.
    pub fn waits_since(&self, lane: LaneRef<M>) -> Option<Since> {
        let name = self.with(usize::from(lane.shard), |records| name(records, lane.presentity));
        let name = name.ok()?;
        let wait = self.wait(name)?.load(Ordering::Relaxed);
        is_of(wait, name).then_some(Since::of(wait))
    }

    /// Something began so many milliseconds ago, as far as this process knows the time.
    pub fn since(&self, ago: u64, published: bool) -> Since {
        Since::new(self.clock.load(Ordering::Relaxed).wrapping_sub(ago), published)
    }

    pub(super) fn starting_now(&self) -> Since {
        self.since(0, false)
    }

    /// For how many milliseconds the lane has waited that has waited longest.
    pub fn longest_wait(&self, now: u64) -> u64 {
        let waits = self.shared.waits.iter().map(|wait| wait.0.load(Ordering::Relaxed));
        let since = waits.filter(|wait| *wait != 0).map(|wait| Since::of(wait).age(now));
        since.max().unwrap_or(0)
    }
}

/// When something began, in milliseconds of 32 bits, and whether a PUBLISH did it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Since {
    milliseconds: u32,
    /// A PUBLISH is what is notified.
    pub published: bool,
}

impl Since {
    /// From now on; `now` in milliseconds of the Unix time.
    pub fn new(now: u64, published: bool) -> Since {
        Since { milliseconds: now as u32, published }
    }

    fn of(wait: u64) -> Since {
        Since { milliseconds: wait as u32, published: wait & PUBLISHED != 0 }
    }

    /// How many milliseconds ago. A clock that was set back counts from now.
    pub fn age(self, now: u64) -> u64 {
        let age = (now as u32).wrapping_sub(self.milliseconds);
        u64::from(age).min(if age > u32::MAX / 2 { 0 } else { u64::MAX })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_survive_wraps_and_clocks_that_are_set_back() {
        let since = |at| Since::new(at, true);
        assert_eq!(since(1_000).age(1_250), 250);
        assert_eq!(since(1_000).age(900), 0);
        assert_eq!(since(0xFFFF_FFF0).age(0x1_0000_0010), 32);
    }
}
