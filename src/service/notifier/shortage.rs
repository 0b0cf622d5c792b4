//! NOTIFYs that the host has no memory for. They stay with their watchers: nobody
//! else waits for them, and after a while the document is left out, or they are
//! given up (A13).

use crate::ports::{Host, Level};
use crate::presence::presentity::PresentityKey;
use crate::presence::subscription::{Snapshot, Text};
use crate::service::Server;
use crate::service::notifier::number::{due_again, keep_last};
use crate::service::seldom::Seldom;
use crate::shm::Memory;
use crate::store::lanes::Send;
use crate::store::row_lanes::DueRow;
use crate::store::{LaneRef, Token};

static SHORT: Seldom = Seldom::new();
static GIVEN_UP: Seldom = Seldom::new();

/// Unsent NOTIFYs of rows that are kept in one run; beyond that it ends.
const MOST_ROWS: usize = 256;

/// Attempts after which the host is not asked again in a run for as much.
const MOST_ATTEMPTS: usize = 4;

/// What one run for a lane could not send.
#[derive(Debug, Default)]
pub struct Shortage {
    /// What cannot be sent now never is.
    is_last: bool,
    /// Bytes of the smallest NOTIFY that there was no memory for.
    smallest: Option<usize>,
    attempts: usize,
    /// Whose watchers they are for.
    key: Option<PresentityKey>,
    /// NOTIFYs of records, by token and CSeq.
    records: Vec<(Token, u32)>,
    /// NOTIFYs of rows.
    rows: Vec<DueRow>,
}

impl Shortage {
    /// A run after which nothing is tried again: rather no document than no NOTIFY.
    pub(super) fn last() -> Shortage {
        Shortage { is_last: true, ..Shortage::default() }
    }

    pub(super) fn is_last(&self) -> bool {
        self.is_last
    }

    /// So many unsent ones that the run has to end.
    pub(super) fn is_full(&self) -> bool {
        self.rows.len() >= MOST_ROWS
    }

    /// There may be memory for a NOTIFY of so many bytes. (Each attempt of the host
    /// costs time and log lines.)
    pub(super) fn may_fit(&self, bytes: usize) -> bool {
        self.attempts < MOST_ATTEMPTS || self.smallest.is_none_or(|smallest| bytes < smallest)
    }

    /// There was none.
    pub(super) fn not_for(&mut self, host: &mut dyn Host, bytes: usize, watcher: &Snapshot) {
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

    /// A NOTIFY in the lane that the caller owns.
    pub(super) fn keep<M: Memory>(&mut self, server: &Server<M>, lane: LaneRef<M>, send: &Send) {
        match send.token {
            Some(Token::ROW) => keep_last(&mut self.rows, due_again(send)),
            Some(token) => self.records.push((token, send.subscription.local_cseq)),
            None => {}
        }
        if self.key.is_none() {
            self.key = server.store.lane_key(lane);
        }
    }

    /// What was not sent is due again; after the last run it is not. Whether the lane
    /// is the caller's or not, it stays so. Gives the presentity, if there was
    /// anything.
    pub(super) fn settle<M: Memory>(
        &mut self,
        server: &Server<M>,
        host: &mut dyn Host,
        lane: LaneRef<M>,
    ) -> Option<PresentityKey> {
        let (records, rows) = (std::mem::take(&mut self.records), std::mem::take(&mut self.rows));
        let key = self.key.take()?;
        if self.is_last {
            server.store.given_up(lane, &records);
            let user = key.user.escape_ascii();
            let line = format_args!(
                "{} NOTIFYs for want of memory given up until the next change ({user}@{})",
                records.len() + rows.len(),
                key.host.escape_ascii(),
            );
            GIVEN_UP.log(host, Level::Error, line);
            return Some(key);
        }
        server.store.due_again(&records);
        requeue(server, host, &key, rows.into_iter());
        Some(key)
    }
}

/// Rows that were to be sent are due again, as far as there is memory. A watcher for
/// whom there is none is told at the presentity's next change.
pub(super) fn requeue<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    key: &PresentityKey,
    rows: impl Iterator<Item = DueRow>,
) {
    for due in rows {
        match server.store.queue_row(key, &due) {
            // Nobody had the lane any more.
            Ok(Some(lane)) => server.store.park(lane),
            Ok(None) => {}
            Err(fault) => {
                let call_id = due.subscription.text(Text::CallId).escape_ascii();
                let line = format_args!("NOTIFY given up: {fault} (Call-ID {call_id})");
                GIVEN_UP.log(host, Level::Error, line);
            }
        }
    }
}
