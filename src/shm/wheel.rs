//! Which elements are due.

mod timer;

use core::fmt;
use core::iter;

use allocator_api2::vec::Vec;

use super::allocator::HeapAllocator;
use super::arena::{Memory, OutOfMemory};
use super::heap::Heap;
use super::id::Id;
use super::list::{List, Nodes};

pub use self::timer::{InWheel, Timed, Timer};

type Bucket<T, L> = List<T, InWheel<L>>;

/// A hashed timing wheel with a bucket for each second.
///
/// Scheduling, moving and cancelling are O(1) and need no memory. An element
/// further away than one turn stays in its bucket, and is looked at once a
/// turn, until it is due. Times are Unix seconds; what is never due is not
/// scheduled.
///
/// As with a [`List`], the nodes must be the same each time, and an element
/// must be cancelled before it leaves them.
pub struct Wheel<T, L, M: Memory> {
    buckets: Vec<Bucket<T, L>, HeapAllocator<M>>,
    /// What was scheduled for a second whose bucket had been gone through.
    late: Bucket<T, L>,
    /// When it was made: timers count from there.
    start: i64,
    /// The second whose bucket is gone through next.
    cursor: i64,
    /// How many elements of that bucket are still to be looked at, if some
    /// have been.
    unseen: Option<usize>,
    /// The latest `now` since the clock was set back.
    latest: i64,
    len: usize,
}

/// Larger wheels make no sense: two turns must be cheap to go through.
const MAX_BUCKETS: usize = 1 << 16;
/// Times are kept this far from the ends of `i64`, to calculate freely.
const LAST_TIME: i64 = i64::MAX / 4;
/// So many seconds may `now` go back without everything being looked through:
/// processes that read the clock together get the lock in any order.
const JITTER: i64 = 5;

impl<T: Timed<L>, L, M: Memory> Wheel<T, L, M> {
    /// A wheel of `buckets` seconds, rounded up to a power of two, that starts
    /// at `now`.
    pub fn new(heap: &'static Heap<M>, buckets: usize, now: i64) -> Result<Self, OutOfMemory> {
        let count = buckets.clamp(1, MAX_BUCKETS).next_power_of_two();
        let mut buckets = Vec::new_in(HeapAllocator::new(heap));
        buckets.try_reserve_exact(count).map_err(|_| OutOfMemory)?;
        buckets.extend(iter::repeat_with(List::new).take(count));
        let now = within(now);
        let late = List::new();
        Ok(Self { buckets, late, start: now, cursor: now, unseen: None, latest: now, len: 0 })
    }

    /// The number of elements scheduled.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing is scheduled.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Schedules an element, or moves it if it is scheduled already. Says
    /// `false` if there is no such element.
    pub fn schedule(&mut self, nodes: &mut impl Nodes<T>, id: Id<T>, deadline: i64) -> bool {
        self.cancel(nodes, id);
        let late = self.is_past(deadline);
        let Some(timer) = nodes.node_mut(id).map(T::timer_mut) else { return false };
        timer.set(deadline.saturating_sub(self.start), late);
        let bucket = self.bucket_of_element(nodes, id);
        let linked = self.list(bucket).push_back(nodes, id);
        self.len += usize::from(linked);
        linked
    }

    /// Takes an element out. Says `false` if it is not scheduled.
    pub fn cancel(&mut self, nodes: &mut impl Nodes<T>, id: Id<T>) -> bool {
        let bucket = self.bucket_of_element(nodes, id);
        let unlinked = self.list(bucket).unlink(nodes, id);
        self.len -= usize::from(unlinked);
        unlinked
    }

    /// Takes out an element whose deadline is not after `now`; the earliest
    /// second first, as far as is known.
    ///
    /// Lowers `budget` by one for each element looked at, and gives up when it
    /// is 0: nothing is lost, and the next call goes on from there. The caller
    /// loops until `None`, and knows from `budget` whether there may be more.
    ///
    /// A clock that jumps ahead costs two turns of the wheel at most; one that
    /// is set back, a turn.
    pub fn pop_due(
        &mut self,
        nodes: &mut impl Nodes<T>,
        now: i64,
        budget: &mut usize,
    ) -> Option<Id<T>> {
        let now = within(now);
        self.follow_clock(now);
        while *budget > 0 {
            if let Some((id, deadline)) = self.first_late(nodes) {
                if deadline <= now {
                    *budget -= 1;
                    self.cancel(nodes, id);
                    return Some(id);
                }
                if !self.is_past(deadline) {
                    // The clock was set back since.
                    *budget -= 1;
                    self.schedule(nodes, id, deadline);
                    continue;
                }
            }
            if self.cursor > now {
                return None;
            }
            let Some(id) = self.next_unseen(nodes) else {
                self.cursor += 1;
                continue;
            };
            *budget -= 1;
            if self.deadline(nodes, id)? <= now {
                self.cancel(nodes, id);
                return Some(id);
            }
            let bucket = Some(self.bucket_of(self.cursor));
            let list = self.list(bucket);
            list.unlink(nodes, id);
            list.push_back(nodes, id);
        }
        None
    }

    /// When an element is due, if it is scheduled.
    fn deadline(&self, nodes: &impl Nodes<T>, id: Id<T>) -> Option<i64> {
        let since_start = nodes.node(id)?.timer().deadline()?;
        Some(self.start.saturating_add(since_start))
    }

    /// The bucket that an element is in or belongs into; `None` for the list of
    /// late ones, and for what is not scheduled.
    fn bucket_of_element(&self, nodes: &impl Nodes<T>, id: Id<T>) -> Option<u32> {
        let timer = nodes.node(id)?.timer();
        (!timer.is_late()).then(|| self.bucket_of(self.start + timer.seconds()))
    }

    /// Moves the cursor, when the clock has jumped, to where the rest of the way
    /// to `now` is short but still leads through every bucket.
    fn follow_clock(&mut self, now: i64) {
        let turn = self.buckets.len() as i64;
        let behind = now - self.cursor;
        if now < self.latest - JITTER {
            // What the cursor passed over or had yet to come to may be anywhere.
            (self.cursor, self.unseen, self.latest) = (now - turn + 1, None, now);
        } else if behind >= 2 * turn {
            (self.cursor, self.unseen) = (self.cursor + (behind / turn - 1) * turn, None);
        }
        self.latest = self.latest.max(now);
    }

    /// The first of the elements that came too late for their bucket.
    fn first_late(&self, nodes: &impl Nodes<T>) -> Option<(Id<T>, i64)> {
        let id = self.late.front()?;
        Some((id, self.deadline(nodes, id)?))
    }

    /// The first element of the cursor's bucket that was not looked at yet.
    fn next_unseen(&mut self, nodes: &impl Nodes<T>) -> Option<Id<T>> {
        let bucket = self.buckets.get(self.bucket_of(self.cursor) as usize)?;
        // Those looked at and kept are at the end; `unseen` is too large if
        // others were cancelled meanwhile, which costs a second look.
        let unseen = self.unseen.unwrap_or(bucket.len()).min(bucket.len());
        let id = bucket.front().filter(|&id| unseen > 0 && nodes.node(id).is_some());
        self.unseen = id.map(|_| unseen - 1);
        id
    }

    /// Whether the bucket of this second has been gone through, or is being.
    fn is_past(&self, deadline: i64) -> bool {
        deadline < self.cursor || (deadline == self.cursor && self.unseen.is_some())
    }

    fn bucket_of(&self, time: i64) -> u32 {
        // The count is a power of two below 2^32; right for negative times too.
        (time as u64 & (self.buckets.len() as u64 - 1)) as u32
    }

    fn list(&mut self, bucket: Option<u32>) -> &mut Bucket<T, L> {
        match bucket.and_then(|bucket| self.buckets.get_mut(bucket as usize)) {
            Some(list) => list,
            None => &mut self.late,
        }
    }
}

fn within(time: i64) -> i64 {
    time.clamp(-LAST_TIME, LAST_TIME)
}

impl<T, L, M: Memory> fmt::Debug for Wheel<T, L, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut wheel = f.debug_struct("Wheel");
        wheel.field("len", &self.len).field("cursor", &self.cursor).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
