//! Whether the database is away, known to all processes: each that found out by
//! itself would wait for it, and its driver would log every statement.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Milliseconds between two looks at a database that is away.
pub const PAUSE: u64 = 1000;

/// Milliseconds in which others may look first.
const PRECEDENCE: u64 = 250;

/// Milliseconds that a look may take: a server that is cut off does not refuse a
/// connection, and who waits for it must not be followed by all the others. Should
/// who looks die meanwhile, another one looks then.
const LOOK: u64 = 30_000;

/// Milliseconds between two processes that say why it does not answer.
const SILENCE: u64 = 10_000;

/// In shared memory; without a lock.
#[derive(Debug, Default)]
pub struct Outage {
    /// When somebody may look next; 0 while the database is there.
    next: AtomicU64,
    /// Outages so far.
    count: AtomicU32,
    /// When the last one began.
    began: AtomicU64,
    /// When one was found out about that nobody had noticed.
    exchanged: AtomicU64,
    /// When a process last said why the database does not answer.
    spoken: AtomicU64,
}

/// What a process may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Access {
    /// Use the database.
    Use,
    /// Look whether it is back; nobody else does.
    Probe,
    /// Go without.
    Avoid,
}

impl Outage {
    /// The database is there.
    pub const fn new() -> Outage {
        Outage {
            next: AtomicU64::new(0),
            count: AtomicU32::new(0),
            began: AtomicU64::new(0),
            exchanged: AtomicU64::new(0),
            spoken: AtomicU64::new(0),
        }
    }

    /// To be asked before a statement; `now` is the machine's time in
    /// milliseconds, which never goes back. Who has looked in vain often enough
    /// (`yields`) lets another one look first: it may be the only one without.
    pub fn access(&self, yields: bool, now: impl FnOnce() -> u64) -> Access {
        let next = self.next.load(Ordering::Acquire);
        if next == 0 {
            return Access::Use;
        }
        let now = now();
        let looks = now >= next + if yields { PRECEDENCE } else { 0 }
            && self
                .next
                .compare_exchange(next, now + LOOK, Ordering::AcqRel, Ordering::Relaxed)
                .is_ok();
        if looks { Access::Probe } else { Access::Avoid }
    }

    /// Who has looked has not found it: the next look is after the pause.
    pub fn goes_on(&self, now: u64) {
        let after = |next: u64| (next != 0).then_some(now + PAUSE);
        let _ = self.next.fetch_update(Ordering::AcqRel, Ordering::Relaxed, after);
    }

    /// It is known to be away.
    pub fn is_on(&self) -> bool {
        self.next.load(Ordering::Acquire) != 0
    }

    /// For how many milliseconds it has been known to be away; `None` if it is not.
    pub fn lasts(&self, now: u64) -> Option<u64> {
        self.is_on().then(|| now.saturating_sub(self.began.load(Ordering::Relaxed)))
    }

    /// The database is away; true for the one who says it first.
    pub fn begins(&self, now: u64) -> bool {
        let first =
            self.next.compare_exchange(0, now + PAUSE, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        if first {
            self.began.store(now, Ordering::Relaxed);
            self.count.fetch_add(1, Ordering::Release);
        }
        first
    }

    /// It is back; true for the one who says it first.
    pub fn ends(&self) -> bool {
        self.next.swap(0, Ordering::AcqRel) != 0
    }

    /// The database was away, and nobody has noticed: another connection has taken the
    /// place of one by itself. That counts once for all who find it out together.
    pub fn exchanged(&self, now: u64) {
        if is_first(&self.exchanged, now, PAUSE) {
            self.count.fetch_add(1, Ordering::Release);
        }
    }

    /// True for the process that may say why the database does not answer.
    pub fn speaks(&self, now: u64) -> bool {
        is_first(&self.spoken, now, SILENCE)
    }

    /// Outages so far: a connection from before the last one is broken.
    pub fn count(&self) -> u32 {
        self.count.load(Ordering::Acquire)
    }
}

/// True for one caller in so many milliseconds.
fn is_first(last: &AtomicU64, now: u64, pause: u64) -> bool {
    let before = last.load(Ordering::Relaxed);
    let is_over = before == 0 || now.saturating_sub(before) >= pause;
    is_over && last.compare_exchange(before, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    #[test]
    fn one_looks_each_second() {
        let outage = Outage::new();
        assert_eq!((outage.access(false, || 5), outage.count()), (Access::Use, 0));
        assert_eq!(outage.lasts(5000), None);
        assert!(outage.begins(5000) && !outage.begins(5001));
        assert_eq!(outage.lasts(5300), Some(300));
        assert_eq!(outage.count(), 1);
        assert_eq!(outage.access(false, || 5999), Access::Avoid);
        assert_eq!(outage.access(false, || 6000), Access::Probe);
        assert_eq!(outage.access(false, || 6000), Access::Avoid);
        outage.goes_on(6100);
        assert_eq!(outage.access(false, || 7000), Access::Avoid);
        assert_eq!(outage.access(false, || 7100), Access::Probe);
        outage.goes_on(7100);
        assert_eq!(outage.access(true, || 8349), Access::Avoid);
        assert_eq!(outage.access(true, || 8350), Access::Probe);
        assert!(outage.is_on() && outage.ends() && !outage.ends() && !outage.is_on());
        assert_eq!(outage.access(false, || 7100), Access::Use);
        // Somebody else has found it meanwhile.
        outage.goes_on(7100);
        assert_eq!(outage.access(false, || 7100), Access::Use);
        assert!(outage.begins(7000));
        assert_eq!(outage.count(), 2);
    }

    #[test]
    fn what_several_find_out_counts_once() {
        let outage = Outage::new();
        (0..9).for_each(|n| outage.exchanged(5000 + n));
        assert_eq!(outage.count(), 1);
        outage.exchanged(6000);
        assert_eq!(outage.count(), 2);
        assert!(outage.speaks(5) && !outage.speaks(10_004) && outage.speaks(10_005));
    }

    // A server that is cut off lets whoever connects wait.
    #[test]
    fn nobody_else_looks_while_one_is_waiting() {
        let outage = Outage::new();
        assert!(outage.begins(1));
        assert_eq!(outage.access(false, || 1001), Access::Probe);
        assert!((1001..31_001).all(|now| outage.access(false, || now) == Access::Avoid));
        // That one will not come back.
        assert_eq!(outage.access(false, || 31_001), Access::Probe);
    }

    #[test]
    fn many_processes_look_no_more_than_one() {
        let outage = Outage::new();
        let (firsts, looks) = (AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    firsts.fetch_add(usize::from(outage.begins(1)), Ordering::SeqCst);
                    for now in 0..20_000 {
                        let looking = outage.access(false, || now) == Access::Probe;
                        if looking {
                            outage.goes_on(now);
                        }
                        looks.fetch_add(usize::from(looking), Ordering::SeqCst);
                    }
                });
            }
        });
        assert_eq!(firsts.into_inner(), 1);
        assert!(looks.into_inner() <= 20);
    }
}
