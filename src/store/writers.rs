//! Who writes subscriptions' rows. One process at a time: two of them could
//! write the states of one subscription in the wrong order.

use crate::shm::Memory;
use crate::store::Store;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};

/// What the writing processes know of each other; in shared memory.
#[derive(Debug, Default)]
pub struct Writers {
    /// One of them is writing.
    busy: AtomicBool,
    /// When new and ended subscriptions are written next (milliseconds of the
    /// Unix time).
    next: AtomicI64,
    /// Shard with which they go on.
    shard: AtomicUsize,
    /// One of them has looked for what the last run has left.
    looked: AtomicBool,
}

/// The caller is the one who writes.
#[derive(Debug)]
pub struct Writing<'a>(&'a Writers);

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        self.0.busy.store(false, Ordering::Release);
    }
}

impl<M: Memory> Store<M> {
    /// Makes the caller the one who writes, unless another process is.
    pub fn begin_writing(&self) -> Option<Writing<'_>> {
        let writers = self.shared.writers;
        let begun =
            writers.busy.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed);
        // `then_some` would make the value first, and drop it: that ends the writing of another.
        begun.is_ok().then(|| Writing(writers))
    }

    /// Somebody has to look for what the last run has left.
    pub fn is_new(&self) -> bool {
        !self.shared.writers.looked.load(Ordering::Relaxed)
    }

    /// Makes the caller the one who looks for it; true once.
    pub fn begin_to_look(&self) -> bool {
        self.is_new() && !self.shared.writers.looked.swap(true, Ordering::AcqRel)
    }

    /// It is time to write new and ended subscriptions (milliseconds of the Unix
    /// time). A clock that was set back counts from where it is now.
    pub fn is_time_to_write(&self, now: i64, longest_pause: i64) -> bool {
        let next = self.shared.writers.next.load(Ordering::Relaxed);
        now >= next || next - now > longest_pause
    }

    /// Names the time after which new and ended subscriptions are written again,
    /// and the shard to begin with.
    pub fn write_again(&self, at: i64, shard: usize) {
        self.shared.writers.next.store(at, Ordering::Relaxed);
        self.shared.writers.shard.store(shard, Ordering::Relaxed);
    }

    /// The shard to begin with.
    pub fn first_to_write(&self) -> usize {
        self.shared.writers.shard.load(Ordering::Relaxed)
    }
}
