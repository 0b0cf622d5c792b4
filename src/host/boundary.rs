//! Where C calls Rust. A panic must not cross into C (it would abort the
//! process, and Kamailio ends all processes when one dies), so the body of
//! every `extern "C"` function runs inside [`enter`].

use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe, PanicHookInfo};

use crate::host::log::{self, Level};

thread_local! {
    /// The entry point that this process is in, the innermost if they nest.
    static ENTRY: Cell<&'static str> = const { Cell::new("no entry point") };
}

/// Runs the body of the entry point `name`. If it panics, the panic is logged
/// with its location and the `fallback` is returned.
///
/// What the body was changing may be left half done: code that changes shared
/// state does so in steps that cannot panic.
pub fn enter<R>(name: &'static str, fallback: R, body: impl FnOnce() -> R) -> R {
    let outer = ENTRY.replace(name);
    let result = panic::catch_unwind(AssertUnwindSafe(|| {
        inject_fault(name);
        body()
    }));
    ENTRY.set(outer);
    result.unwrap_or_else(|payload| {
        // The hook has logged it. A payload whose drop panics must not get
        // out of here either.
        std::mem::forget(payload);
        fallback
    })
}

/// Replaces the default panic hook, which would write to standard error
/// without regard to Kamailio's logging. To be called once, at load.
///
/// The hook itself writes the line: a panic that cannot unwind (a failed check
/// of undefined behaviour in a debug build) ends the process right after it.
pub fn install_panic_hook() {
    panic::set_hook(Box::new(|info| {
        log::write(
            Level::Critical,
            file!(),
            line!(),
            format_args!("{}: {}; the call failed", ENTRY.get(), describe(info)),
        );
    }));
}

fn describe(info: &PanicHookInfo<'_>) -> String {
    let message = info
        .payload()
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| info.payload().downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message");
    match info.location() {
        Some(at) => format!("panic at {}:{}: {message}", at.file(), at.line()),
        None => format!("panic: {message}"),
    }
}

/// Tests set PRESENCE_PANIC_AT to the name of an entry point.
#[cfg(feature = "fault-injection")]
fn inject_fault(name: &str) {
    let wanted = std::env::var_os("PRESENCE_PANIC_AT");
    assert!(wanted.is_none_or(|wanted| wanted != name), "injected fault");
}

#[cfg(not(feature = "fault-injection"))]
fn inject_fault(_: &str) {}
