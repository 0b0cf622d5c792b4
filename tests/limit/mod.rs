//! A time limit for each test: a test that goes on for longer fails by name.
//!
//! What waits or loops calls [`check`], which fails the test of its thread once
//! the time is up. Code that never calls it is met by a watchdog a little
//! later, which names the test and ends the program: a thread cannot be ended.

use std::cell::RefCell;
use std::sync::{Mutex, MutexGuard, Once, PoisonError};
use std::time::{Duration, Instant};

/// How long a test may take unless it says otherwise.
pub const USUAL: Duration = Duration::from_secs(180);
/// How much later than the test itself the watchdog acts.
const GRACE: Duration = Duration::from_secs(30);

/// A thread with a time limit.
struct Limited {
    id: std::thread::ThreadId,
    name: String,
    begun: Instant,
    limit: Duration,
}

static ALL: Mutex<Vec<Limited>> = Mutex::new(Vec::new());

fn all() -> MutexGuard<'static, Vec<Limited>> {
    ALL.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes its thread off the list when the thread ends.
struct Entry;

impl Drop for Entry {
    fn drop(&mut self) {
        forget(std::thread::current().id());
    }
}

thread_local! {
    static ENTRY: RefCell<Option<Entry>> = const { RefCell::new(None) };
}

fn forget(id: std::thread::ThreadId) {
    all().retain(|limited| limited.id != id);
}

/// The test of this thread begins now, with the usual limit.
pub fn begin() {
    allow(USUAL);
}

/// The test of this thread begins now and may take this long.
pub fn allow(limit: Duration) {
    static WATCHDOG: Once = Once::new();
    WATCHDOG.call_once(|| {
        // Without a thread for it the tests still check themselves.
        let _ = std::thread::Builder::new().name("watchdog".to_owned()).spawn(watch);
    });
    let thread = std::thread::current();
    ENTRY.with_borrow_mut(|entry| *entry = Some(Entry));
    forget(thread.id());
    let name = thread.name().unwrap_or("a thread of a test").to_owned();
    all().push(Limited { id: thread.id(), name, begun: Instant::now(), limit });
}

/// Fails the test of this thread if its time is up. Begins to count in a
/// thread that has not been limited yet.
pub fn check() {
    let id = std::thread::current().id();
    let state = all()
        .iter()
        .find(|limited| limited.id == id)
        .map(|limited| (limited.begun.elapsed() > limited.limit, limited.limit));
    match state {
        None => begin(),
        // A test that is failing already cleans up.
        Some((true, limit)) if !std::thread::panicking() => {
            panic!("the test has taken longer than its limit of {limit:?}")
        }
        Some(_) => {}
    }
}

fn watch() {
    loop {
        std::thread::sleep(Duration::from_secs(1));
        let late: Vec<_> = all()
            .iter()
            .filter(|limited| limited.begun.elapsed() > limited.limit + GRACE)
            .map(|limited| format!("{} ({:?})", limited.name, limited.begun.elapsed()))
            .collect();
        if !late.is_empty() {
            eprintln!("hung, so the program of tests ends: {}", late.join(", "));
            std::process::exit(101);
        }
    }
}

#[test]
fn a_test_that_takes_too_long_fails() {
    let test = std::thread::spawn(|| {
        allow(Duration::from_millis(1));
        std::thread::sleep(Duration::from_millis(5));
        check();
    });
    assert!(test.join().is_err());
}
