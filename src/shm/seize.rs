//! Locks whose holder is dead.

use lock_api::{Mutex, RawMutex};

/// How often a lock is tried before its holder is taken to be dead.
const TRIES: u32 = 1000;

/// Opens a lock, by force if it does not open by itself.
///
/// Only for the last process of a server that stops: nobody else is left who
/// could hold the lock or take it.
pub fn seize<R: RawMutex, T>(mutex: &Mutex<R, T>) {
    for _ in 0..TRIES {
        if mutex.try_lock().is_some() {
            return;
        }
        std::hint::spin_loop();
    }
    // SAFETY: the lock is held, for it could not be taken, and its holder is
    // gone: the caller is the only process left.
    unsafe { mutex.force_unlock() };
}
