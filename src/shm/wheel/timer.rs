//! What an element of a wheel carries.

use core::fmt;
use core::marker::PhantomData;

use crate::shm::list::{Linked, Links};

/// An element that can be in one wheel of kind `L`; see [`Linked`] for kinds.
pub trait Timed<L>: Sized {
    /// The timer of this kind.
    fn timer(&self) -> &Timer<Self>;
    /// The timer of this kind, to be changed.
    fn timer_mut(&mut self) -> &mut Timer<Self>;
}

/// An element's place in a wheel, and when it is due; 12 bytes.
pub struct Timer<T> {
    links: Links<T>,
    /// Twice the seconds from [`Timer::RANGE`] before the wheel's start to the
    /// deadline, and 1 more if it came too late for its bucket.
    at: u32,
}

/// The greatest number of seconds that a timer counts: never.
const NEVER: u32 = u32::MAX >> 1;

impl<T> Timer<T> {
    /// Deadlines are exact so many seconds before and after the wheel's start:
    /// 34 years. What is due earlier is due then; what is due later, never.
    pub(super) const RANGE: i64 = 1 << 30;

    /// The timer of an element that is not scheduled.
    pub const fn new() -> Self {
        Self { links: Links::new(), at: 0 }
    }

    /// When the element is due, in seconds since the wheel's start.
    pub(super) fn seconds(&self) -> i64 {
        i64::from(self.at >> 1) - Self::RANGE
    }

    /// The same, if it is scheduled; what is beyond the range is long past, or
    /// never due.
    pub(super) fn deadline(&self) -> Option<i64> {
        let seconds = match self.at >> 1 {
            0 => i64::MIN,
            NEVER => i64::MAX,
            _ => self.seconds(),
        };
        self.links.is_linked().then_some(seconds)
    }

    /// Whether it came too late for its bucket.
    pub(super) fn is_late(&self) -> bool {
        self.at & 1 == 1
    }

    /// Remembers a deadline in seconds since the wheel's start.
    pub(super) fn set(&mut self, deadline: i64, late: bool) {
        let counted = deadline.saturating_add(Self::RANGE).clamp(0, NEVER.into());
        self.at = (counted as u32) << 1 | u32::from(late);
    }
}

impl<T> Default for Timer<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> fmt::Debug for Timer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Timer").field(&self.deadline()).finish()
    }
}

/// The kind of the lists that a wheel of kind `L` consists of.
pub struct InWheel<L>(PhantomData<fn() -> L>);

impl<T: Timed<L>, L> Linked<InWheel<L>> for T {
    fn links(&self) -> &Links<Self> {
        &self.timer().links
    }

    fn links_mut(&mut self) -> &mut Links<Self> {
        &mut self.timer_mut().links
    }
}
