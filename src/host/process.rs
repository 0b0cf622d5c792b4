//! Processes of our own, and how the others wake them. Kamailio has no work
//! queue: what a worker hands over is done by a process forked for it.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

use crate::host::{boundary, sys};

/// Wakes a process from another. Made before the fork, so that all share it.
#[derive(Debug)]
pub struct Wake(OwnedFd);

impl Wake {
    /// A new one, with nothing to do.
    pub fn new() -> io::Result<Wake> {
        // SAFETY: plain system call; no memory is involved.
        let fd = unsafe { libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor is new and nobody else closes it.
        Ok(Wake(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Makes the process that waits, or that waits next, go on. Never blocks.
    pub fn notify(&self) {
        let one = 1u64.to_ne_bytes();
        // SAFETY: writes eight readable bytes. If the counter is full the
        // waiter has been woken already.
        unsafe { libc::write(self.0.as_raw_fd(), one.as_ptr().cast(), one.len()) };
    }

    /// Waits for [`Wake::notify`] or until the time is over; true when woken.
    /// Notifications before or during the wait count as one.
    pub fn wait(&self, longest: Duration) -> bool {
        let mut poll = libc::pollfd { fd: self.0.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        let milliseconds = i32::try_from(longest.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: `poll` is one structure that lives during the call.
        if unsafe { libc::poll(&raw mut poll, 1, milliseconds) } <= 0 {
            // Time is over, or a signal that Kamailio handles came in.
            return false;
        }
        let mut counter = [0u8; 8];
        // SAFETY: the buffer has the eight bytes that an eventfd gives.
        unsafe { libc::read(self.0.as_raw_fd(), counter.as_mut_ptr().cast(), counter.len()) > 0 }
    }
}

/// Announces `count` processes that will be forked; to be called in mod_init,
/// where Kamailio sizes its process table.
pub fn reserve(count: u32) -> bool {
    let Ok(count) = i32::try_from(count) else { return false };
    // SAFETY: both only count, and mod_init is the time for it.
    unsafe {
        if sys::register_procs(count) < 0 {
            return false;
        }
        sys::cfg_register_child(count);
    }
    true
}

/// Forks a process that runs `step` for ever; to be called in child_init of
/// the main process. `step` waits by itself when there is nothing to do. The
/// module's own child_init runs in the new process first, with rank
/// PROC_TIMER.
pub fn spawn(name: &CStr, mut step: impl FnMut()) -> io::Result<()> {
    // SAFETY: the main process forks its children in child_init; the core
    // copies the name.
    let pid = unsafe { sys::fork_process(sys::PROC_TIMER, name.as_ptr().cast_mut(), 1) };
    if pid < 0 {
        return Err(io::Error::other("fork_process failed"));
    }
    if pid > 0 {
        return Ok(());
    }
    // SAFETY: as every forked process does, once, at its start.
    if unsafe { sys::cfg_child_init() } != 0 {
        return Err(io::Error::other("cfg_child_init failed"));
    }
    loop {
        // SAFETY: called between two steps, when no configuration is in use.
        unsafe { sys::kshim_cfg_update() };
        let completed = boundary::enter("process", false, || {
            step();
            true
        });
        if !completed {
            // A step that always panics must not take a whole processor.
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}
