//! Kamailio's log.

use std::ffi::CString;
use std::fmt;
use std::sync::atomic::{AtomicI32, Ordering};

use crate::host::sys;

/// Severity, with Kamailio's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub enum Level {
    /// Something is broken that should not be able to break (L_CRIT2: L_CRIT
    /// lines have no level name in Kamailio 5.6).
    Critical = -3,
    /// A request or a task failed.
    Error = -1,
    /// Worth the operator's attention; the server copes.
    Warning = 0,
    /// Normal but significant.
    Notice = 1,
    /// For information.
    Info = 2,
    /// For debugging.
    Debug = 3,
}

/// Whether lines of this level are written at all (core parameter `debug`, or
/// the module's own level set at run time).
pub fn enabled(level: Level) -> bool {
    enabled_number(level as i32)
}

fn enabled_number(level: i32) -> bool {
    // SAFETY: reads the core's debug level, which exists before any module is loaded.
    unsafe { sys::kshim_log_enabled(level) != 0 }
}

/// Writes one line. Nothing is formatted when the level is not enabled.
pub fn write(level: Level, file: &str, line: u32, message: fmt::Arguments<'_>) {
    if enabled(level) {
        emit(None, level as i32, file, line, message);
    }
}

fn emit(facility: Option<i32>, level: i32, file: &str, line: u32, message: fmt::Arguments<'_>) {
    let name = file.rsplit('/').next().unwrap_or(file);
    let Ok(place) = CString::new(format!("presence [{name}:{line}]: ")) else { return };
    let text = message.to_string();
    let length = i32::try_from(text.len()).unwrap_or(i32::MAX);
    match facility {
        // SAFETY: both strings outlive the call; `text` is read up to `length`.
        Some(facility) => unsafe {
            sys::kshim_log_facility(facility, level, place.as_ptr(), text.as_ptr().cast(), length);
        },
        // SAFETY: both strings outlive the call; `text` is read up to `length`.
        None => unsafe {
            sys::kshim_log(level, place.as_ptr(), text.as_ptr().cast(), length);
        },
    }
}

const NO_FACILITY: i32 = i32::MIN;
static LOCAL_LEVEL: AtomicI32 = AtomicI32::new(Level::Info as i32);
static LOCAL_FACILITY: AtomicI32 = AtomicI32::new(NO_FACILITY);

/// Level and facility of the line written for each NOTIFY (`local_log_level`,
/// `local_log_facility`). False if there is no facility of that name.
pub fn set_local(level: i32, facility: &[u8]) -> bool {
    LOCAL_LEVEL.store(level, Ordering::Relaxed);
    if facility.is_empty() {
        return true;
    }
    let Ok(name) = CString::new(facility) else { return false };
    // SAFETY: compares the terminated string with a table of names; does not write to it.
    let number = unsafe { sys::str2facility(name.as_ptr().cast_mut()) };
    if number == -1 {
        return false;
    }
    LOCAL_FACILITY.store(number, Ordering::Relaxed);
    true
}

/// Whether there is a line for each NOTIFY.
pub fn local_enabled() -> bool {
    enabled_number(LOCAL_LEVEL.load(Ordering::Relaxed))
}

/// Writes the line for a NOTIFY, if there is one.
pub fn write_local(file: &str, line: u32, message: fmt::Arguments<'_>) {
    if !local_enabled() {
        return;
    }
    let level = LOCAL_LEVEL.load(Ordering::Relaxed);
    let facility = match LOCAL_FACILITY.load(Ordering::Relaxed) {
        NO_FACILITY => None,
        number => Some(number),
    };
    emit(facility, level, file, line, message);
}

/// Bytes from a message in a log line: what is not printable is escaped, so
/// that nobody writes log lines of their own.
#[derive(Debug, Clone, Copy)]
pub struct Printable<'a>(pub &'a [u8]);

impl fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.escape_ascii())
    }
}

macro_rules! log_line {
    ($level:ident, $($message:tt)+) => {
        $crate::host::log::write(
            $crate::host::log::Level::$level,
            file!(),
            line!(),
            format_args!($($message)+),
        )
    };
}
// Not every level has a user in every build.
#[allow(unused_macros)]
macro_rules! log_error { ($($m:tt)+) => { $crate::host::log::log_line!(Error, $($m)+) }; }
#[allow(unused_macros)]
macro_rules! log_warn { ($($m:tt)+) => { $crate::host::log::log_line!(Warning, $($m)+) }; }
#[allow(unused_macros)]
macro_rules! log_notice { ($($m:tt)+) => { $crate::host::log::log_line!(Notice, $($m)+) }; }
#[allow(unused_macros)]
macro_rules! log_info { ($($m:tt)+) => { $crate::host::log::log_line!(Info, $($m)+) }; }
#[allow(unused_macros)]
macro_rules! log_debug { ($($m:tt)+) => { $crate::host::log::log_line!(Debug, $($m)+) }; }
#[allow(unused_imports)]
pub(crate) use {log_debug, log_error, log_info, log_line, log_notice, log_warn};
