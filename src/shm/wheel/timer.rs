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

/// An element's place in a wheel, and when it is due; 24 bytes.
pub struct Timer<T> {
    links: Links<T>,
    /// The bucket that the element is in, or [`LATE`].
    bucket: u32,
    deadline: i64,
}

/// Not a bucket: the list of what came too late for its bucket.
const LATE: u32 = u32::MAX;

impl<T> Timer<T> {
    /// The timer of an element that is not scheduled.
    pub const fn new() -> Self {
        Self { links: Links::new(), bucket: LATE, deadline: 0 }
    }

    /// When the element is due, if it is scheduled.
    pub fn deadline(&self) -> Option<i64> {
        self.links.is_linked().then_some(self.deadline)
    }

    /// The bucket, or `None` for the list of late ones.
    pub(super) fn bucket(&self) -> Option<u32> {
        (self.bucket != LATE).then_some(self.bucket)
    }

    pub(super) fn set(&mut self, deadline: i64, bucket: Option<u32>) {
        self.deadline = deadline;
        self.bucket = bucket.unwrap_or(LATE);
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
