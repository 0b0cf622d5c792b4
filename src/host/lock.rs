//! Kamailio's lock, for data in shared memory. Locks of the standard library
//! and of parking_lot know only the threads of one process.

use std::cell::UnsafeCell;

use crate::host::sys;

/// A lock that works between processes; unlocked when all zero, so shared
/// tables need no pass to initialise it (build.rs asserts a kind of
/// `gen_lock_t` for which that is true).
#[repr(transparent)]
pub struct KamLock(UnsafeCell<sys::gen_lock_t>);

// SAFETY: gen_lock_t is made for concurrent use by several processes; it is
// accessed through Kamailio's lock functions only.
unsafe impl Sync for KamLock {}
// SAFETY: the lock word belongs to no thread.
unsafe impl Send for KamLock {}

// SAFETY: lock_get returns when this process holds the lock exclusively, until
// lock_release.
unsafe impl lock_api::RawMutex for KamLock {
    #[allow(clippy::declare_interior_mutable_const)]
    // SAFETY: gen_lock_t is one integer, and zero is the unlocked state of
    // futex locks and of fast locks.
    const INIT: KamLock = KamLock(UnsafeCell::new(unsafe { std::mem::zeroed() }));

    type GuardMarker = lock_api::GuardNoSend;

    fn lock(&self) {
        // SAFETY: the lock word is initialised and lives as long as `self`.
        unsafe { sys::kshim_lock(self.0.get()) }
    }

    fn try_lock(&self) -> bool {
        // SAFETY: as in `lock`; lock_try returns 0 when it got the lock.
        unsafe { sys::kshim_try_lock(self.0.get()) == 0 }
    }

    unsafe fn unlock(&self) {
        // SAFETY: the caller holds the lock.
        unsafe { sys::kshim_unlock(self.0.get()) }
    }
}

/// Runs `body` while holding a lock that is part of a structure of C.
///
/// # Safety
/// `lock` points to an initialised lock that this process does not hold.
pub unsafe fn with_raw<R>(lock: *mut sys::gen_lock_t, body: impl FnOnce() -> R) -> R {
    struct Release(*mut sys::gen_lock_t);
    impl Drop for Release {
        fn drop(&mut self) {
            // SAFETY: made only after the lock was taken; see below.
            unsafe { sys::kshim_unlock(self.0) }
        }
    }
    // SAFETY: whoever passes a lock of C's structures has found it initialised
    // (`lock_init`); this process does not hold it, so it does not wait for
    // itself.
    unsafe { sys::kshim_lock(lock) };
    let _release = Release(lock);
    body()
}
