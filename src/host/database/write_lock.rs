//! The lock for writing to SQLite. The file takes one writer at a time;
//! the others try again after pauses that grow to a tenth of a second, and
//! whoever is unlucky waits so long that its request is sent again. Our
//! processes wait here instead, in short pauses.
//!
//! This lock only saves pauses; SQLite's own still judges who writes. It is
//! taken before that one and never in a transaction of ours, for its holder may
//! be waiting for SQLite's. Other programs, and transactions that a script has
//! begun, know nothing of it: so nobody waits long for it.

use std::cell::UnsafeCell;
use std::mem::MaybeUninit;
use std::time::{Duration, Instant};

use crate::host::memory::shm_allocate;

/// After so long SQLite's own waiting takes over. Far more than a few commits
/// take, far less than SQLite waits.
const PATIENCE: Duration = Duration::from_millis(500);

/// Who waits looks so often. To be woken would be a change of processes for
/// every row: on a busy machine that takes longer than to write it.
const PAUSE: Duration = Duration::from_millis(1);

/// A mutex in shared memory that survives the death of its holder.
#[repr(transparent)]
pub struct WriteLock(UnsafeCell<libc::pthread_mutex_t>);

// SAFETY: the mutex is process-shared, and touched by pthread's functions only.
unsafe impl Sync for WriteLock {}
// SAFETY: a mutex that is free belongs to no thread; pthread's functions alone
// touch it.
unsafe impl Send for WriteLock {}

impl WriteLock {
    /// A new one, for the processes that are forked later; lives as long as the
    /// server. `None` without memory.
    pub fn new() -> Option<&'static WriteLock> {
        let block = shm_allocate(size_of::<WriteLock>())?.cast::<WriteLock>();
        let mut kind = MaybeUninit::<libc::pthread_mutexattr_t>::uninit();
        // SAFETY: `kind` is initialised before it is used. The block has the
        // mutex's size; shm_malloc aligns to 8 bytes, which is a mutex's
        // alignment; nobody else has it, and it is never freed.
        unsafe {
            const { assert!(align_of::<WriteLock>() <= 8) };
            let attributes = kind.as_mut_ptr();
            let made = libc::pthread_mutexattr_init(attributes) == 0
                && libc::pthread_mutexattr_setpshared(attributes, libc::PTHREAD_PROCESS_SHARED)
                    == 0
                && libc::pthread_mutexattr_setrobust(attributes, libc::PTHREAD_MUTEX_ROBUST) == 0
                // A process that has it gets an error, and does not wait for itself.
                && libc::pthread_mutexattr_settype(attributes, libc::PTHREAD_MUTEX_ERRORCHECK)
                    == 0
                && libc::pthread_mutex_init(block.as_ptr().cast(), attributes) == 0;
            made.then_some(block.as_ref())
        }
    }

    /// Waits for the lock. Gives `None` if this process has it already, or if that took
    /// too long: the caller goes without.
    pub fn take(&'static self) -> Option<WriteGuard> {
        let since = Instant::now();
        loop {
            // SAFETY: the mutex was initialised by `new`.
            match unsafe { libc::pthread_mutex_trylock(self.0.get()) } {
                // `WriteGuard` is made only here: dropping one frees the lock.
                0 => return Some(WriteGuard(self)),
                // It guards nothing that could be half done: SQLite rolls back
                // what the dead process had begun.
                libc::EOWNERDEAD => {
                    // SAFETY: this process holds the mutex.
                    unsafe { libc::pthread_mutex_consistent(self.0.get()) };
                    return Some(WriteGuard(self));
                }
                libc::EBUSY if since.elapsed() < PATIENCE => std::thread::sleep(PAUSE),
                _ => return None,
            }
        }
    }
}

/// This process has the lock until this is dropped.
pub struct WriteGuard(&'static WriteLock);

impl Drop for WriteGuard {
    fn drop(&mut self) {
        // SAFETY: made only by `take`, in this process, which holds the mutex.
        unsafe { libc::pthread_mutex_unlock(self.0.0.get()) };
    }
}
