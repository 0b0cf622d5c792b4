//! Periodic work, run by one of Kamailio's timer processes (`timer_mode`).

use std::ffi::{c_uint, c_void};
use std::ptr;

use crate::config::{Config, TimerMode};
use crate::host::worker::Worker;
use crate::host::{boundary, state, sys};
use crate::service::expiry;

/// Registers the timers that the configuration asks for; to be called in
/// mod_init.
pub fn register(config: &Config) -> Result<(), String> {
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

fn update() {
    let Some(server) = state::server() else { return };
    expiry::update(server, &mut Worker::default());
}

/// What all timers do, at once (`presence.cleanup`).
pub fn everything() {
    clean();
    update();
    let Some(server) = state::server() else { return };
    expiry::report_unusable_rows(server, &mut Worker::default());
}
