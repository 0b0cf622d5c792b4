//! Periodic work, run by one of Kamailio's timer processes (`timer_mode`).

use std::ffi::{c_uint, c_void};
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::config::{Config, TimerMode};
use crate::host::memory::ShmArena;
use crate::host::worker::Worker;
use crate::host::{boundary, state, sys};
use crate::service::expiry;
use crate::shm::place;

/// Registers the timers that the configuration asks for; to be called in
/// mod_init.
pub fn register(config: &Config) -> Result<(), String> {
    let turn = place(ShmArena, AtomicBool::new(false)).map_err(|_| "out of shared memory")?;
    TURN.set(turn).map_err(|_| "initialised twice")?;
    for (period, timer) in
        [(config.clean_period, on_clean as TimerFunction), (config.db_update_period, on_update)]
    {
        let Some(period) = period else { continue };
        let period = i32::try_from(period).unwrap_or(i32::MAX);
        // SAFETY: mod_init is the time to register; the functions stay.
        let registered = unsafe {
            match config.timer_mode {
                TimerMode::Core => sys::register_timer(Some(timer), ptr::null_mut(), period as _),
                TimerMode::Secondary => sys::sr_wtimer_add(Some(timer), ptr::null_mut(), period),
            }
        };
        if registered < 0 {
            return Err("a timer could not be registered".into());
        }
    }
    Ok(())
}

type TimerFunction = unsafe extern "C" fn(c_uint, *mut c_void);

/// Every `clean_period`: publications and pending watchers.
unsafe extern "C" fn on_clean(_ticks: c_uint, _parameter: *mut c_void) {
    boundary::enter("clean_timer", (), clean);
}

/// Every `db_update_period`: subscriptions and their rows.
unsafe extern "C" fn on_update(_ticks: c_uint, _parameter: *mut c_void) {
    boundary::enter("update_timer", (), update);
}

fn clean() {
    let Some(server) = state::server() else { return };
    let mut host = Worker::default();
    expiry::publications(server, &mut host);
    if server.config.needs_database() {
        expiry::watchers(server, &mut host);
    }
}

/// Writes back, unless another process is doing so: two of them could write the
/// states of one subscription in the wrong order.
fn update() {
    let Some(server) = state::server() else { return };
    if let Some(_turn) = Turn::take() {
        expiry::update(server, &mut Worker::default());
    }
}

/// A process is writing back; in shared memory.
static TURN: OnceLock<&'static AtomicBool> = OnceLock::new();

struct Turn(&'static AtomicBool);

impl Turn {
    fn take() -> Option<Turn> {
        let taken = TURN.get()?;
        let free =
            taken.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).is_ok();
        free.then(|| Turn(taken))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

/// How often, 10 ms apart, the operator's command looks whether the timer is
/// done.
const PATIENCE: u32 = 3000;

/// What all timers do, at once (`presence.cleanup`).
pub fn everything() {
    clean();
    let Some(server) = state::server() else { return };
    for _ in 0..PATIENCE {
        if let Some(_turn) = Turn::take() {
            expiry::update(server, &mut Worker::default());
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}
