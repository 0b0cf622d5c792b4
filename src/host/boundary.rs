//! Where C calls Rust. A panic must not cross into C (it would abort the
//! process, and Kamailio ends all processes when one dies), so the body of
//! every `extern "C"` function runs inside [`enter`].

use std::cell::{Cell, RefCell};
use std::panic::{self, AssertUnwindSafe, PanicHookInfo};

use crate::host::log::{self, Level};

thread_local! {
    /// How many entries deep this process is.
    static DEPTH: Cell<u32> = const { Cell::new(0) };
    /// What the panic hook saw; logged by the entry that catches the panic.
    static LAST: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Runs the body of the entry point `name`. If it panics, the panic is logged
/// with its location and the `fallback` is returned.
///
/// What the body was changing may be left half done: code that changes shared
/// state does so in steps that cannot panic.
pub fn enter<R>(name: &'static str, fallback: R, body: impl FnOnce() -> R) -> R {
    DEPTH.with(|depth| depth.set(depth.get() + 1));
    let result = panic::catch_unwind(AssertUnwindSafe(|| {
        inject_fault(name);
        body()
    }));
    DEPTH.with(|depth| depth.set(depth.get().saturating_sub(1)));
    result.unwrap_or_else(|payload| {
        // A payload whose drop panics must not get out of here either.
        std::mem::forget(payload);
        let what = LAST.with(|last| last.take()).unwrap_or_else(|| "panic".to_owned());
        log::write(
            Level::Critical,
            file!(),
            line!(),
            format_args!("{name}: {what}; the call failed"),
        );
        fallback
    })
}

/// Replaces the default panic hook, which would write to standard error
/// without regard to Kamailio's logging. To be called once, at load.
pub fn install_panic_hook() {
    panic::set_hook(Box::new(|info| {
        let text = describe(info);
        if DEPTH.with(Cell::get) > 0 {
            LAST.with(|last| {
                // A second panic while the first unwinds: keep the first.
                if let Ok(mut last) = last.try_borrow_mut() {
                    last.get_or_insert(text);
                }
            });
        } else {
            log::write(Level::Critical, file!(), line!(), format_args!("{text}"));
        }
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
