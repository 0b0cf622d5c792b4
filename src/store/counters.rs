//! What has happened since the start, counted. Each process adds to cache lines of
//! its own in shared memory, so that no two of them meet; who reads adds them up.

use crate::presence::event_package::PackageId;
use crate::presence::measures::{
    Answer, Method, NotifyResult, SIZES, StateShown, Statement, TIMES, Total, class,
};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Counters of one process: a cache line of them.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct Line([AtomicU64; PER_LINE]);

const PER_LINE: usize = 8;

/// A class more than there are ends, and the sum of all values.
const TIME_CELLS: usize = TIMES.len() + 2;
const SIZE_CELLS: usize = SIZES.len() + 2;

/// Where things are counted in a process's slot: what has no package first, then a
/// block for each package, and one for requests of none that there is.
const STATEMENTS: usize = Total::ALL.len();
const PACKAGES: usize = STATEMENTS + Statement::ALL.len() * TIME_CELLS;

/// The same in a package's block.
const ANSWERS: usize = 0;
const NOTIFIES: usize = ANSWERS + Method::ALL.len() * Answer::ALL.len();
const LATENCY: usize = NOTIFIES + StateShown::ALL.len() * NotifyResult::ALL.len();
const FAN_OUT: usize = LATENCY + TIME_CELLS;
const BLOCK: usize = FAN_OUT + SIZE_CELLS;

/// Lines that the slot of one process takes with so many packages.
const fn lines_each(packages: usize) -> usize {
    (PACKAGES + (packages + 1) * BLOCK).div_ceil(PER_LINE)
}

/// Lines for so many processes and packages.
pub const fn lines(processes: usize, packages: usize) -> usize {
    processes * lines_each(packages)
}

/// All counters; each process has a copy, with its own slot, of what is shared.
#[derive(Debug)]
pub struct Counters {
    lines: &'static [Line],
    packages: usize,
    /// First line of this process.
    own: AtomicUsize,
}

/// A histogram, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Histogram {
    /// How many values there were up to the end of each class, and in all.
    pub up_to: Vec<u64>,
    /// Their sum.
    pub sum: u64,
}

impl Counters {
    /// Over as many lines as `lines` says, all zero.
    pub fn new(lines: &'static [Line], packages: usize) -> Counters {
        Counters { lines, packages, own: AtomicUsize::new(0) }
    }

    /// The caller is this process. Of more processes than there are slots some
    /// share one; nothing is lost by it.
    pub fn enter(&self, process: usize) {
        let each = lines_each(self.packages);
        let slots = (self.lines.len() / each).max(1);
        self.own.store(process % slots * each, Ordering::Relaxed);
    }

    fn add(&self, cell: usize, count: u64) {
        let line = self.lines.get(self.own.load(Ordering::Relaxed) + cell / PER_LINE);
        if let Some(counter) = line.and_then(|line| line.0.get(cell % PER_LINE)) {
            counter.fetch_add(count, Ordering::Relaxed);
        }
    }

    fn observe(&self, cell: usize, ends: &[u64], value: u64) {
        self.add(cell + class(ends, value), 1);
        self.add(cell + ends.len() + 1, value);
    }

    fn block(&self, package: Option<PackageId>) -> usize {
        let package = package.map_or(self.packages, |package| usize::from(package.0));
        PACKAGES + package.min(self.packages) * BLOCK
    }

    /// Something without a label.
    pub fn count(&self, what: Total) {
        self.add(what as usize, 1);
    }

    /// One less of what counts up and down.
    pub fn count_back(&self, what: Total) {
        self.add(what as usize, u64::MAX);
    }

    /// A request was answered.
    pub fn answered(&self, method: Method, package: Option<PackageId>, answer: Answer) {
        self.add(self.block(package) + answers(method, answer), 1);
    }

    /// Something became of a NOTIFY.
    pub fn notify(&self, package: PackageId, shown: StateShown, notified: NotifyResult) {
        self.add(self.block(Some(package)) + notifies(shown, notified), 1);
    }

    /// A NOTIFY left so many microseconds after the PUBLISH that it tells of came.
    pub fn told_after(&self, package: PackageId, time: u64) {
        self.observe(self.block(Some(package)) + LATENCY, &TIMES, time);
    }

    /// A change is notified to so many watchers.
    pub fn fan_out(&self, package: PackageId, watchers: u64) {
        self.observe(self.block(Some(package)) + FAN_OUT, &SIZES, watchers);
    }

    /// A statement took so many microseconds.
    pub fn statement(&self, kind: Statement, time: u64) {
        self.observe(STATEMENTS + kind as usize * TIME_CELLS, &TIMES, time);
    }

    /// What all processes have counted there. What one counts up and another down
    /// wraps, and comes right in the sum.
    fn sum(&self, cell: usize) -> u64 {
        let slots = self.lines.chunks_exact(lines_each(self.packages));
        let counter = |slot: &[Line]| {
            let counter = slot.get(cell / PER_LINE)?.0.get(cell % PER_LINE)?;
            Some(counter.load(Ordering::Relaxed))
        };
        slots.filter_map(counter).fold(0, u64::wrapping_add)
    }

    fn histogram(&self, cell: usize, ends: usize) -> Histogram {
        let mut count = 0;
        let up_to = (0..=ends).map(|class| {
            count += self.sum(cell + class);
            count
        });
        Histogram { up_to: up_to.collect(), sum: self.sum(cell + ends + 1) }
    }

    /// How often it has happened.
    pub fn total(&self, what: Total) -> u64 {
        self.sum(what as usize)
    }

    /// Packages that have a block; the last one stands for all that there are not.
    fn blocks(&self) -> Range<usize> {
        0..self.packages + 1
    }

    /// Requests of any package with this answer.
    pub fn requests(&self, method: Method, answer: Answer) -> u64 {
        let cell = answers(method, answer);
        self.blocks().map(|n| self.sum(PACKAGES + n * BLOCK + cell)).sum()
    }

    /// The same of one package; `None` for those that name none that there is.
    pub fn requests_of(&self, package: Option<PackageId>, method: Method, answer: Answer) -> u64 {
        self.sum(self.block(package) + answers(method, answer))
    }

    /// Requests that were refused, in whichever way.
    pub fn refused(&self, method: Method) -> u64 {
        let refusals = Answer::ALL.into_iter().filter(|answer| *answer != Answer::Accepted);
        refusals.map(|answer| self.requests(method, answer)).sum()
    }

    /// NOTIFYs of any package and state.
    pub fn notifies(&self, notified: NotifyResult) -> u64 {
        let cells = StateShown::ALL.map(|shown| notifies(shown, notified));
        let all = self.blocks().flat_map(|n| cells.map(|cell| PACKAGES + n * BLOCK + cell));
        all.map(|cell| self.sum(cell)).sum()
    }

    /// The same of one package and state.
    pub fn notifies_of(
        &self,
        package: PackageId,
        shown: StateShown,
        notified: NotifyResult,
    ) -> u64 {
        self.sum(self.block(Some(package)) + notifies(shown, notified))
    }

    /// NOTIFYs that have left, and whose outcome is not known yet.
    pub fn unanswered(&self) -> u64 {
        let done = [NotifyResult::Accepted, NotifyResult::Failed, NotifyResult::TimedOut]
            .map(|notified| self.notifies(notified));
        self.notifies(NotifyResult::Sent).saturating_sub(done.into_iter().sum())
    }

    /// Times from PUBLISH to NOTIFY, in microseconds.
    pub fn latencies(&self, package: PackageId) -> Histogram {
        self.histogram(self.block(Some(package)) + LATENCY, TIMES.len())
    }

    /// Watchers that changes are notified to.
    pub fn fan_outs(&self, package: PackageId) -> Histogram {
        self.histogram(self.block(Some(package)) + FAN_OUT, SIZES.len())
    }

    /// Statements of any kind.
    pub fn all_statements(&self) -> u64 {
        let count = |kind| self.statements(kind).up_to.last().copied().unwrap_or(0);
        Statement::ALL.into_iter().map(count).sum()
    }

    /// Times of statements, in microseconds.
    pub fn statements(&self, kind: Statement) -> Histogram {
        self.histogram(STATEMENTS + kind as usize * TIME_CELLS, TIMES.len())
    }
}

const fn answers(method: Method, answer: Answer) -> usize {
    ANSWERS + method as usize * Answer::ALL.len() + answer as usize
}

const fn notifies(shown: StateShown, notified: NotifyResult) -> usize {
    NOTIFIES + shown as usize * NotifyResult::ALL.len() + notified as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counters(processes: usize) -> Counters {
        let lines = (0..lines(processes, 2)).map(|_| Line::default()).collect::<Vec<_>>();
        Counters::new(lines.leak(), 2)
    }

    /// Another process has its own slot, and sees the same lines.
    fn fork(of: &Counters, process: usize) -> Counters {
        let forked = Counters::new(of.lines, of.packages);
        forked.enter(process);
        forked
    }

    #[test]
    fn processes_count_apart_and_are_read_together() {
        let first = counters(3);
        let all: Vec<_> = (0..5).map(|n| fork(&first, n)).collect();
        for (n, process) in all.iter().enumerate() {
            let package = PackageId(n as u16 % 2);
            process.answered(Method::Publish, Some(package), Answer::Accepted);
            process.notify(package, StateShown::Pending, NotifyResult::Sent);
        }
        all[4].answered(Method::Subscribe, None, Answer::Event);
        assert_eq!(first.requests(Method::Publish, Answer::Accepted), 5);
        assert_eq!(first.requests(Method::Subscribe, Answer::Accepted), 0);
        let of = |n| first.requests_of(Some(PackageId(n)), Method::Publish, Answer::Accepted);
        assert_eq!([of(0), of(1)], [3, 2]);
        assert_eq!((first.refused(Method::Publish), first.refused(Method::Subscribe)), (0, 1));
        assert_eq!((first.notifies(NotifyResult::Sent), first.unanswered()), (5, 5));
        assert_eq!(first.notifies_of(PackageId(1), StateShown::Pending, NotifyResult::Sent), 2);
        assert_eq!(first.notifies_of(PackageId(1), StateShown::Active, NotifyResult::Sent), 0);
    }

    #[test]
    fn what_one_counts_up_another_counts_down() {
        let first = counters(2);
        let other = fork(&first, 1);
        first.count(Total::Waiting);
        first.count(Total::Waiting);
        other.count_back(Total::Waiting);
        assert_eq!(first.total(Total::Waiting), 1);
        other.count_back(Total::Waiting);
        assert_eq!(first.total(Total::Waiting), 0);
    }

    #[test]
    fn histograms_add_up() {
        let first = counters(2);
        let other = fork(&first, 1);
        [1, 3, 1_000_000].into_iter().for_each(|n| first.fan_out(PackageId(0), n));
        other.fan_out(PackageId(0), 3);
        let Histogram { up_to, sum } = first.fan_outs(PackageId(0));
        assert_eq!(sum, 1_000_007);
        assert_eq!(up_to, [1, 1, 3, 3, 3, 3, 3, 3, 3, 3, 3, 4]);
        assert_eq!(first.fan_outs(PackageId(1)).up_to.last(), Some(&0));
        assert_eq!(first.latencies(PackageId(0)).up_to.last(), Some(&0));
    }

    // No two cells are one: each is counted alone and all others stay.
    #[test]
    fn cells_are_apart() {
        let counters = counters(1);
        Total::ALL.into_iter().for_each(|total| counters.count(total));
        Statement::ALL.into_iter().for_each(|kind| counters.statement(kind, 7));
        for package in [Some(PackageId(0)), Some(PackageId(1)), None] {
            for method in Method::ALL {
                Answer::ALL.into_iter().for_each(|a| counters.answered(method, package, a));
            }
            let Some(package) = package else { continue };
            for shown in StateShown::ALL {
                NotifyResult::ALL
                    .into_iter()
                    .for_each(|notified| counters.notify(package, shown, notified));
            }
            counters.told_after(package, 7);
            counters.fan_out(package, 7);
        }
        assert!(Total::ALL.into_iter().all(|total| counters.total(total) == 1));
        assert!(Statement::ALL.into_iter().all(|kind| counters.statements(kind).sum == 7));
        for method in Method::ALL {
            assert!(Answer::ALL.into_iter().all(|a| counters.requests(method, a) == 3));
        }
        assert!(NotifyResult::ALL.into_iter().all(|notified| counters.notifies(notified) == 6));
        for package in [PackageId(0), PackageId(1)] {
            assert_eq!((counters.latencies(package).sum, counters.fan_outs(package).sum), (7, 7));
        }
    }
}
