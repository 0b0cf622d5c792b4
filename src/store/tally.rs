//! How much there is of what clients may pile up (`presence::limits`): counts
//! that all processes share, kept in step by the shards. What is remembered of
//! single offenders lies in tables of fixed size.

use crate::error::Fault;
use crate::presence::limits::{Limit, Limits};
use crate::shm::{HashIndex, KeyedHash, Memory};
use crate::store::gauges::Gauges;
use lock_api::Mutex;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Counts of one part of the watchers, by the hash of their identity. Of the
/// hash 38 bits or more count; should two watchers share them, their
/// subscriptions count as those of one.
pub type WatcherCounts<M> = Mutex<<M as Memory>::Lock, HashIndex<NonZeroU32, M>>;

/// Seconds between two log lines about one offender.
const LINE_PAUSE: u32 = 60;
/// Offenders whose lines are remembered, and places that one may have.
const LINES: usize = 1024;
const WAYS: usize = 8;

/// Requests whose time is remembered, so that the next one of the same dialog
/// or publication does not come too soon. Under pressure the older are
/// forgotten, and nobody is refused for it.
pub const TIMES: usize = 1 << 14;

/// Rows that a server has added, by the hash of what they are counted for.
/// Names that share a place count together: what it says is looked up in the
/// table before anybody is refused.
#[derive(Debug, Default)]
pub struct RowCount {
    count: AtomicU32,
    /// Who was found to have no room, and until when that holds.
    full: AtomicU64,
}

/// Places for counts of rows.
pub const ROW_COUNTS: usize = 1 << 13;

/// Seconds for which what the table said of somebody without room holds.
const FULL_FOR: u32 = 10;

/// Whether there is room for one more row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Room {
    /// There is.
    Yes,
    /// Perhaps not: the rows have to be counted.
    Ask,
    /// They were counted lately: there is none.
    No,
}

/// What is counted.
pub struct Tally<M: Memory> {
    watchers: &'static [WatcherCounts<M>],
    hash: &'static KeyedHash,
    subscriptions: AtomicU32,
    refused: AtomicU64,
    lines: [AtomicU64; LINES],
    times: &'static [AtomicU64],
    rows: &'static [RowCount],
    gauges: Gauges,
}

/// What lies in tables of its own; those for limits that are off are empty.
pub struct Tables<M: Memory> {
    /// A power of two.
    pub watchers: &'static [WatcherCounts<M>],
    /// `TIMES`.
    pub times: &'static [AtomicU64],
    /// `ROW_COUNTS`.
    pub rows: &'static [RowCount],
}

impl<M: Memory> Tally<M> {
    /// Nothing is counted yet.
    pub fn new(tables: Tables<M>, hash: &'static KeyedHash) -> Tally<M> {
        let Tables { watchers, times, rows } = tables;
        Tally {
            watchers,
            rows,
            hash,
            subscriptions: AtomicU32::new(0),
            refused: AtomicU64::new(0),
            lines: [const { AtomicU64::new(0) }; LINES],
            times,
            gauges: Gauges::default(),
        }
    }

    /// How much there is of each package.
    pub fn gauges(&self) -> &Gauges {
        &self.gauges
    }

    /// Subscriptions that live.
    pub fn subscriptions(&self) -> u32 {
        self.subscriptions.load(Ordering::Relaxed)
    }

    /// The hash of a watcher's identity.
    pub(super) fn watcher(&self, identity: &[u8]) -> u64 {
        self.hash.hash_parts(&[b"watcher", identity])
    }

    /// Subscriptions of a watcher that live; 0 where single watchers are not
    /// counted.
    pub(super) fn of_watcher(&self, watcher: u64) -> u32 {
        let counts = self.counts(watcher).map(|counts| counts.lock().find(watcher, |_| true));
        counts.flatten().map_or(0, NonZeroU32::get)
    }

    /// Counts one more, unless a limit says no.
    pub(super) fn enter(&self, watcher: u64, limits: &Limits) -> Result<Result<(), Limit>, Fault> {
        let all = |count| {
            let has_room = limits.has_room(Limit::Subscriptions, count);
            has_room.then(|| count.saturating_add(1))
        };
        let order = Ordering::Relaxed;
        if self.subscriptions.fetch_update(order, order, all).is_err() {
            return Ok(Err(Limit::Subscriptions));
        }
        let entered = self.enter_watcher(watcher, limits);
        if !matches!(entered, Ok(Ok(()))) {
            self.one_less();
        }
        entered
    }

    fn enter_watcher(&self, watcher: u64, limits: &Limits) -> Result<Result<(), Limit>, Fault> {
        let Some(counts) = self.counts(watcher) else { return Ok(Ok(())) };
        let mut counts = counts.lock();
        match counts.find(watcher, |_| true) {
            Some(count) if !limits.has_room(Limit::OfWatcher, count.get()) => {
                return Ok(Err(Limit::OfWatcher));
            }
            Some(count) => {
                counts.replace(watcher, count.saturating_add(1), |_| true);
            }
            None => counts.insert(watcher, NonZeroU32::MIN)?,
        }
        Ok(Ok(()))
    }

    /// Counts one less.
    pub(super) fn leave(&self, watcher: u64) {
        self.one_less();
        let Some(counts) = self.counts(watcher) else { return };
        let mut counts = counts.lock();
        let Some(count) = counts.find(watcher, |_| true) else { return };
        match NonZeroU32::new(count.get() - 1) {
            Some(left) => counts.replace(watcher, left, |_| true),
            None => counts.remove(watcher, |_| true),
        };
    }

    fn one_less(&self) {
        let order = Ordering::Relaxed;
        let _ = self.subscriptions.fetch_update(order, order, |count| count.checked_sub(1));
    }

    fn counts(&self, watcher: u64) -> Option<&WatcherCounts<M>> {
        self.watchers.get(watcher as usize & self.watchers.len().saturating_sub(1))
    }

    /// Counts a request that was refused by a limit, and says whether this is to
    /// have a log line: one for each offender and minute. Under pressure fewer.
    pub fn refused(&self, offender: &[&[u8]], now: i64) -> bool {
        self.refused.fetch_add(1, Ordering::Relaxed);
        let hash = self.hash.hash_parts(offender);
        let (name, now) = (hash >> 32, now as u32);
        let is_old = |line: u64| line == 0 || now.wrapping_sub(line as u32) >= LINE_PAUSE;
        let places = (0..WAYS).filter_map(|n| self.lines.get((hash as usize + n) % LINES));
        let seen = places.map(|place| (place, place.load(Ordering::Relaxed)));
        let mut free = None;
        for (place, line) in seen {
            match is_old(line) {
                false if line >> 32 == name => return false,
                true if free.is_none() => free = Some((place, line)),
                _ => {}
            }
        }
        let Some((place, line)) = free else { return false };
        let order = Ordering::Relaxed;
        place.compare_exchange(line, name << 32 | u64::from(now), order, order).is_ok()
    }

    /// Requests refused by a limit since the start.
    pub fn refusals(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// The last request of this name was less than `gap` ago, in milliseconds.
    pub fn is_too_soon(&self, name: &[&[u8]], gap: u32, now: u64) -> bool {
        let hash = self.hash.hash_parts(name);
        let Some(time) = self.time(hash) else { return false };
        let known = time.load(Ordering::Relaxed);
        // A clock that was put back refuses nobody.
        known >> 32 == hash >> 32 && (now as u32).wrapping_sub(known as u32) < gap
    }

    /// A request of this name was accepted.
    pub fn remember(&self, name: &[&[u8]], now: u64) {
        let hash = self.hash.hash_parts(name);
        if let Some(time) = self.time(hash) {
            time.store(hash >> 32 << 32 | u64::from(now as u32), Ordering::Relaxed);
        }
    }

    /// Whether there is room for one more row of this name.
    pub fn room(&self, name: &[&[u8]], has_room: impl Fn(u32) -> bool, now: i64) -> Room {
        let hash = self.hash.hash_parts(name);
        let Some(row) = self.row(hash) else { return Room::Yes };
        if has_room(row.count.load(Ordering::Relaxed)) {
            return Room::Yes;
        }
        let full = row.full.load(Ordering::Relaxed);
        let is_known = full >> 32 == hash >> 32 && now < i64::from(full as u32);
        if is_known { Room::No } else { Room::Ask }
    }

    /// The table has so many rows of this name.
    pub fn rows_counted(&self, name: &[&[u8]], count: u32, is_full: bool, now: i64) {
        let hash = self.hash.hash_parts(name);
        let Some(row) = self.row(hash) else { return };
        row.count.store(count, Ordering::Relaxed);
        let until = (now as u32).saturating_add(FULL_FOR);
        let full = if is_full { hash >> 32 << 32 | u64::from(until) } else { 0 };
        row.full.store(full, Ordering::Relaxed);
    }

    /// A row of this name was added.
    pub fn row_added(&self, name: &[&[u8]]) {
        if let Some(row) = self.row(self.hash.hash_parts(name)) {
            row.count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A row of this name is gone. Those that others remove are missed until
    /// rows are counted.
    pub fn row_gone(&self, name: &[&[u8]]) {
        if let Some(row) = self.row(self.hash.hash_parts(name)) {
            let order = Ordering::Relaxed;
            let _ = row.count.fetch_update(order, order, |count| count.checked_sub(1));
            row.full.store(0, order);
        }
    }

    fn row(&self, hash: u64) -> Option<&RowCount> {
        self.rows.get(hash as usize & self.rows.len().saturating_sub(1))
    }

    fn time(&self, hash: u64) -> Option<&AtomicU64> {
        self.times.get(hash as usize & self.times.len().saturating_sub(1))
    }
}

#[cfg(test)]
mod tests;
