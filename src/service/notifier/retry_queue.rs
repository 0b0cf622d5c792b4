//! Lanes of a sender process that wait because something was not to be had: memory
//! for NOTIFYs, the database, a package's rules. They wait one by one, with growing
//! pauses, and no other lane waits with them (A13).

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use crate::error::Fault;
use crate::ports::{Host, Level};
use crate::presence::event_package::PackageId;
use crate::presence::measures::Total;
use crate::presence::presentity::PresentityKey;
use crate::service::Server;
use crate::service::notifier::shortage::Shortage;
use crate::service::notifier::{Budget, Owned, POSTPONED, Remaining, send_versions};
use crate::service::rate_limited_log::RateLimitedLog;
use crate::shm::Memory;
use crate::store::LaneRef;
use crate::store::insight::Retry;

static GIVEN_UP: RateLimitedLog = RateLimitedLog::new();

/// The first pause; each one is twice as long as the one before, up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// A database that is back is to be noticed sooner.
const LONGEST_WITHOUT_DATABASE: Duration = Duration::from_secs(2);

/// Attempts for want of memory, in about a minute; in the last one documents are
/// left out.
const ATTEMPTS: u32 = 9;

/// Attempts where it is not the database or memory that is missing (a package cannot
/// be asked, rows cannot be read), in about ten minutes.
const OTHER_ATTEMPTS: u32 = 25;

/// The lanes that one sender process comes back to.
pub struct RetryQueue<'a, M: Memory> {
    server: &'a Server<M>,
    /// By the time of the next attempt.
    entries: BTreeMap<(Duration, u64), Entry<'a, M>>,
    /// Presentities in it whose lanes are not ours meanwhile.
    unsent: HashSet<(PackageId, Vec<u8>)>,
    number: u64,
}

/// A lane and how often it has failed.
enum Entry<'a, M: Memory> {
    /// Nothing can be composed: the lane stays ours.
    Owned(Owned<'a, M>, u32),
    /// Some watchers cannot be notified. The lane is free, for the others.
    Unsent(PresentityKey, u32),
}

impl<'a, M: Memory> RetryQueue<'a, M> {
    /// None yet.
    pub fn new(server: &'a Server<M>) -> Self {
        RetryQueue { server, entries: BTreeMap::new(), unsent: HashSet::new(), number: 0 }
    }

    /// Serves a lane that was handed over. `now` counts from any start.
    pub fn serve(&mut self, host: &mut dyn Host, lane: LaneRef<M>, now: Duration) {
        self.run(host, Owned::new(self.server, lane), false, 0, now);
    }

    /// Tries the next one whose time has come; false if there is none.
    pub fn serve_next(&mut self, host: &mut dyn Host, now: Duration) -> bool {
        let Some(first) = self.entries.first_entry().filter(|entry| entry.key().0 <= now) else {
            return false;
        };
        let entry = first.remove();
        self.server.store.counters().count_back(Total::Waiting);
        match entry {
            Entry::Owned(owned, failures) => {
                self.run(host, owned, false, failures, now);
            }
            Entry::Unsent(key, failures) => {
                self.unsent.remove(&name(&key));
                // Who has the lane now tries them as well.
                if let Some(lane) = self.server.store.lane_of(&key) {
                    let is_last = failures + 1 >= ATTEMPTS;
                    self.run(host, Owned::new(self.server, lane), is_last, failures, now);
                }
            }
        }
        true
    }

    /// When the next attempt is to be made.
    pub fn next(&self) -> Option<Duration> {
        self.entries.first_key_value().map(|((at, _), _)| *at)
    }

    fn run(
        &mut self,
        host: &mut dyn Host,
        mut owned: Owned<'a, M>,
        is_last: bool,
        failures: u32,
        now: Duration,
    ) {
        let Some(lane) = owned.lane() else { return };
        // One that has failed before is remembered.
        let key = (failures > 0).then(|| self.server.store.lane_key(lane)).flatten();
        let mut shortage = Shortage::new(self.server, lane, is_last);
        let left = send_versions(&mut owned, host, Budget::SENDER, &mut shortage);
        let unsent_of = shortage.settle(host);
        match (left, unsent_of) {
            (Ok(Remaining::Nothing), Some(key)) if !is_last => {
                owned.park();
                remember(self.server, host, &key, (Fault::SharedMemory, Some(pause(failures))));
                if self.unsent.insert(name(&key)) {
                    self.put(Entry::Unsent(key, failures + 1), pause(failures), now);
                }
            }
            // The rest is for whoever comes next.
            (Ok(Remaining::Nothing | Remaining::Work), unsent) => {
                if let Some(key) = unsent.or(key) {
                    let given_up = is_last.then_some((Fault::SharedMemory, None));
                    match given_up {
                        Some(given_up) => remember(self.server, host, &key, given_up),
                        None => self.server.store.remember_retry(&key, None),
                    }
                }
            }
            (Err(fault), _) => self.failed(host, owned, fault, failures, now),
        }
        self.server.wake_senders(host);
    }

    fn failed(
        &mut self,
        host: &mut dyn Host,
        mut owned: Owned<'a, M>,
        fault: Fault,
        failures: u32,
        now: Duration,
    ) {
        POSTPONED.log(host, Level::Error, format_args!("NOTIFY postponed: {fault}"));
        let is_transient = matches!(fault, Fault::Database | Fault::SharedMemory);
        if !is_transient && failures + 1 >= OTHER_ATTEMPTS {
            let line = format_args!("NOTIFYs given up until the next change: {fault}");
            GIVEN_UP.log(host, Level::Error, line);
            if let Some(key) = owned.lane().and_then(|lane| self.server.store.lane_key(lane)) {
                remember(self.server, host, &key, (fault, None));
            }
            owned.park();
            return;
        }
        let longest = match fault {
            Fault::Database => LONGEST_WITHOUT_DATABASE,
            _ => LONGEST_PAUSE,
        };
        let pause = pause(failures).min(longest);
        if let Some(key) = owned.lane().and_then(|lane| self.server.store.lane_key(lane)) {
            remember(self.server, host, &key, (fault, Some(pause)));
        }
        self.put(Entry::Owned(owned, failures + 1), pause, now);
    }

    fn put(&mut self, entry: Entry<'a, M>, pause: Duration, now: Duration) {
        self.number += 1;
        self.server.store.counters().count(Total::Waiting);
        self.entries.insert((now + pause, self.number), entry);
    }
}

/// Why a lane waits, and for how long; without a pause it was given up.
fn remember<M: Memory>(
    server: &Server<M>,
    host: &dyn Host,
    key: &PresentityKey,
    (fault, pause): (Fault, Option<Duration>),
) {
    let since = host.now();
    let seconds = |pause: Duration| i64::try_from(pause.as_millis().div_ceil(1000)).unwrap_or(0);
    let next = pause.map(|pause| since + seconds(pause));
    server.store.remember_retry(key, Some(Retry { fault, since, next }));
}

fn name(key: &PresentityKey) -> (PackageId, Vec<u8>) {
    (key.package, key.identity.clone())
}

fn pause(failures: u32) -> Duration {
    FIRST_PAUSE.saturating_mul(1 << failures.min(16)).min(LONGEST_PAUSE)
}
