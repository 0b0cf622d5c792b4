//! How much there is now, by package: subscriptions, publications, presentities;
//! and lanes that wait. The shards keep it, each under its own lock, in step with
//! its lists; several shards share a stripe of counts, all processes a stripe.

use crate::presence::event_package::PackageId;
use crate::presence::subscription::Status;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

/// What there is of a package.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gauge {
    /// Subscriptions that may see the state.
    Active,
    /// Those that wait for a decision.
    Pending,
    /// Publications that have not ended.
    Publications,
    /// Presentities with publications, watchers or something to tell.
    Presentities,
}

impl Gauge {
    /// All of them.
    pub const ALL: [Gauge; 4] =
        [Gauge::Active, Gauge::Pending, Gauge::Publications, Gauge::Presentities];

    /// Where a subscription that lives is counted.
    pub const fn of(status: Status) -> Gauge {
        match status {
            Status::Active | Status::Terminated => Gauge::Active,
            Status::Pending | Status::Waiting => Gauge::Pending,
        }
    }
}

/// Packages that are counted apart; the last place is that of all others.
const PACKAGES: usize = 32;
/// So many parts keep shards out of each other's way.
const STRIPES: usize = 16;

/// The counts of some shards.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct Stripe {
    counts: [[AtomicU32; Gauge::ALL.len()]; PACKAGES],
    queued: AtomicU32,
}

impl Stripe {
    fn place(&self, package: PackageId, gauge: Gauge) -> Option<&AtomicU32> {
        self.counts.get(usize::from(package.0).min(PACKAGES - 1))?.get(gauge as usize)
    }

    /// One more.
    pub fn more(&self, package: PackageId, gauge: Gauge) {
        if let Some(count) = self.place(package, gauge) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// One less.
    pub fn less(&self, package: PackageId, gauge: Gauge) {
        if let Some(count) = self.place(package, gauge) {
            count.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// A lane was queued.
    pub fn queued(&self) {
        self.queued.fetch_add(1, Ordering::Relaxed);
    }

    /// A lane was taken off the queue.
    pub fn taken(&self) {
        self.queued.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The counts of all shards.
#[derive(Debug, Default)]
pub struct Gauges {
    stripes: [Stripe; STRIPES],
    joined: AtomicUsize,
}

impl Gauges {
    /// A number and a stripe for the next shard.
    pub fn join(&self) -> (usize, &Stripe) {
        let number = self.joined.fetch_add(1, Ordering::Relaxed);
        // The remainder is one of them.
        (number, self.stripes.get(number % STRIPES).unwrap_or(&self.stripes[0]))
    }

    /// How much there is of a package.
    pub fn of(&self, package: PackageId, gauge: Gauge) -> u64 {
        let counts = self.stripes.iter().filter_map(|stripe| stripe.place(package, gauge));
        counts.map(|count| u64::from(count.load(Ordering::Relaxed))).sum()
    }

    /// How much there is of all packages.
    pub fn all(&self, gauge: Gauge) -> u64 {
        (0..PACKAGES as u16).map(|n| self.of(PackageId(n), gauge)).sum()
    }

    /// Lanes that wait for a sender process.
    pub fn queued(&self) -> u64 {
        let counts = self.stripes.iter().map(|stripe| stripe.queued.load(Ordering::Relaxed));
        counts.map(u64::from).sum()
    }
}
