//! Locks whose holder is dead.

use lock_api::{Mutex, RawMutex};

/// How often a lock is tried before its holder is taken to be dead.
const TRIES: u32 = 1000;

/// Opens a lock, by force if it does not open by itself. What it protects may
/// be half changed.
///
/// # Safety
/// No other thread or process is left that could hold the lock or take it.
pub unsafe fn force_unlock<R: RawMutex, T>(mutex: &Mutex<R, T>) {
    for _ in 0..TRIES {
        if mutex.try_lock().is_some() {
            return;
        }
        core::hint::spin_loop();
    }
    // SAFETY: the lock is held, for it could not be taken, and its holder is
    // gone (the caller's promise).
    unsafe { mutex.force_unlock() };
}
