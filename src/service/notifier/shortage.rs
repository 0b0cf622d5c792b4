//! NOTIFYs that the host has no memory for. They stay with their watchers: nobody
//! else waits for them, and after a while the document is left out, or they are
//! given up (A13).

use crate::ports::{Host, Level};
use crate::presence::cseq::CSeq;
use crate::presence::measures::{NotifyResult, StateShown};
use crate::presence::presentity::PresentityKey;
use crate::presence::subscription::{Snapshot, Text};
use crate::service::Server;
use crate::service::notifier::dialog::{keep_last, notify_again};
use crate::service::rate_limited_log::RateLimitedLog;
use crate::shm::Memory;
use crate::store::lanes::PlannedNotify;
use crate::store::row_lanes::PendingNotify;
use crate::store::{LaneRef, Token};

static SHORT: RateLimitedLog = RateLimitedLog::new();
static GIVEN_UP: RateLimitedLog = RateLimitedLog::new();

/// Unsent NOTIFYs of rows that are kept in one run; beyond that it ends.
const MOST_ROWS: usize = 256;

/// Attempts after which the host is not asked again in a run for as much.
const MOST_ATTEMPTS: usize = 4;

/// What the host seems to have memory for, in one run.
#[derive(Debug, Default)]
pub(super) struct HostMemory {
    /// What cannot be sent now never is.
    is_last: bool,
    /// Bytes of the smallest NOTIFY that there was no memory for.
    smallest: Option<usize>,
    attempts: usize,
}

impl HostMemory {
    pub fn is_last(&self) -> bool {
        self.is_last
    }

    /// There may be memory for a NOTIFY of so many bytes. (Each attempt of the host
    /// costs time and log lines.)
    pub fn may_fit(&self, bytes: usize) -> bool {
        self.attempts < MOST_ATTEMPTS || self.smallest.is_none_or(|smallest| bytes < smallest)
    }

    /// There was none.
    pub fn not_for(&mut self, host: &mut dyn Host, bytes: usize, watcher: &Snapshot) {
        if !self.may_fit(bytes) {
            return;
        }
        self.attempts += 1;
        self.smallest = Some(self.smallest.map_or(bytes, |smallest| smallest.min(bytes)));
        let call_id = watcher.text(Text::CallId).escape_ascii();
        let line = format_args!(
            "no memory for a NOTIFY of {bytes} bytes, which is tried again (Call-ID {call_id})"
        );
        SHORT.log(host, Level::Error, line);
    }
}

/// What one run for a lane could not send. It is pending again when the run is over,
/// also when a callback panics.
pub(super) struct Shortage<'a, M: Memory> {
    server: &'a Server<M>,
    lane: LaneRef<M>,
    pub host_memory: HostMemory,
    /// Whose watchers they are for, if there are any.
    key: Option<PresentityKey>,
    /// NOTIFYs of records, by token and CSeq.
    records: Vec<(Token, CSeq)>,
    /// NOTIFYs of rows.
    rows: Vec<PendingNotify>,
}

impl<'a, M: Memory> Shortage<'a, M> {
    /// Begins a run for this lane. After the last run nothing is tried
    /// again: rather no document than no NOTIFY.
    pub fn new(server: &'a Server<M>, lane: LaneRef<M>, is_last: bool) -> Shortage<'a, M> {
        let host_memory = HostMemory { is_last, ..HostMemory::default() };
        Shortage { server, lane, host_memory, key: None, records: Vec::new(), rows: Vec::new() }
    }

    /// So many unsent ones that the run has to end.
    pub fn is_full(&self) -> bool {
        self.rows.len() >= MOST_ROWS
    }

    /// A NOTIFY could not be sent. What it was to report is kept until it is.
    pub fn keep(&mut self, notify: &PlannedNotify) {
        if self.key.is_none() {
            self.key = self.server.store.lane_key(self.lane);
            self.server.store.keep_unsent(self.lane);
        }
        match notify.token {
            Some(Token::ROW) => keep_last(&mut self.rows, notify_again(notify)),
            Some(token) => self.records.push((token, notify.subscription.local_cseq)),
            None => {}
        }
    }

    /// What was not sent is pending again; after the last run it is not. Whether the lane
    /// is the caller's or not, it stays so. Gives the presentity, if there was
    /// anything.
    pub fn settle(&mut self, host: &mut dyn Host) -> Option<PresentityKey> {
        let key = self.key.take()?;
        let (records, rows) = (std::mem::take(&mut self.records), std::mem::take(&mut self.rows));
        let store = &self.server.store;
        if self.host_memory.is_last {
            store.given_up(self.lane, &records, host.now());
            let user = key.user.escape_ascii();
            let line = format_args!(
                "{} NOTIFYs for want of memory given up until the next change ({user}@{})",
                records.len() + rows.len(),
                key.host.escape_ascii(),
            );
            GIVEN_UP.log(host, Level::Error, line);
        } else {
            store.notify_again(&records);
            requeue(self.server, host, &key, rows.into_iter());
        }
        store.release_unsent(self.lane);
        Some(key)
    }
}

impl<M: Memory> Drop for Shortage<'_, M> {
    fn drop(&mut self) {
        let Some(key) = self.key.take() else { return };
        let store = &self.server.store;
        store.notify_again(&self.records);
        for pending in self.rows.drain(..) {
            if let Ok(Some(lane)) = store.queue_row(&key, &pending) {
                store.hand_over(lane);
            }
        }
        store.release_unsent(self.lane);
    }
}

/// Rows that were to be sent are pending again, as far as there is memory. A watcher for
/// whom there is none is notified at the presentity's next change.
pub(super) fn requeue<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    key: &PresentityKey,
    rows: impl Iterator<Item = PendingNotify>,
) {
    for pending in rows {
        match server.store.queue_row(key, &pending) {
            // Nobody had the lane any more.
            Ok(Some(lane)) => server.store.park(lane),
            Ok(None) => {}
            Err(fault) => {
                let shown = match pending.ending {
                    Some(_) => StateShown::Terminated,
                    None => StateShown::of(pending.subscription.status),
                };
                server.store.counters().notify(key.package, shown, NotifyResult::Unsent);
                let call_id = pending.subscription.text(Text::CallId).escape_ascii();
                let line = format_args!("NOTIFY given up: {fault} (Call-ID {call_id})");
                GIVEN_UP.log(host, Level::Error, line);
            }
        }
    }
}
