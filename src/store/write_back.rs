//! Subscriptions whose database row lags behind: taken in batches, written by
//! the service without a lock, then confirmed or put back.

use crate::presence::cseq::CSeq;
use crate::presence::subscription::Snapshot;
use crate::presence::transition::Phase;
use crate::shm::{Id, Memory};
use crate::store::Store;
use crate::store::Token;
use crate::store::lanes::CSEQ_RESERVE;
use crate::store::records::{Lag, Subscription};
use crate::store::shard::Shard;
use crate::store::subscriptions::snapshot;

/// What has to be done to a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowChange {
    /// There is none yet.
    Insert,
    /// It is out of date.
    Update,
    /// Its subscription is over.
    Delete,
}

/// A subscription whose row is being written.
#[derive(Debug)]
pub struct Dirty {
    token: Token,
    /// What to do.
    pub change: RowChange,
    /// The subscription as the row is to say; CSeq and version are those that
    /// the row reserves.
    pub subscription: Snapshot,
    /// Unix time of its end.
    pub expires_at: i64,
    /// How often in succession the database has refused it: those that it
    /// refuses are not written among others, which they would keep from it.
    pub refusals: u8,
}

impl<M: Memory> Store<M> {
    /// How many rows of a shard lag behind in this way.
    pub fn count_dirty(&self, shard: usize, lag: Lag) -> usize {
        self.with(shard, |records| match lag {
            Lag::Urgent => records.urgent.len(),
            Lag::Changed => records.changed.len(),
            Lag::Refused => records.refused.len(),
            Lag::None => 0,
        })
        .unwrap_or_default()
    }

    /// Takes up to `budget` rows of one shard that lag behind in this way. At
    /// shutdown (`last`) no CSeqs are reserved: none will be used.
    pub fn take_dirty(
        &self,
        (shard, lag): (usize, Lag),
        budget: usize,
        now: i64,
        last: bool,
    ) -> Vec<Dirty> {
        let reserve = if last { 0 } else { CSEQ_RESERVE };
        self.with(shard, |records| {
            let mut taken = Vec::new();
            while taken.len() < budget {
                let first = match lag {
                    Lag::Urgent => records.urgent.front(),
                    Lag::Changed => records.changed.front(),
                    Lag::Refused => records.refused.front(),
                    Lag::None => None,
                };
                let Some(id) = first else { break };
                records.take_off(id);
                let Some(token) = self.token(shard, records, id) else { continue };
                taken.extend(row_of(records, id, token, now, reserve));
            }
            taken
        })
        .unwrap_or_default()
    }

    /// Takes the row of one subscription.
    pub fn take_row(&self, token: Token, now: i64) -> Option<Dirty> {
        self.with(token.shard(), |records| {
            let id = Self::resolve(records, token)?;
            row_of(records, id, token, now, CSEQ_RESERVE)
        })
        .ok()
        .flatten()
    }

    /// The row has been written.
    pub fn row_written(&self, row: &Dirty) {
        if row.refusals > 0 {
            self.count_refusals(row, |_| 0);
        }
        if row.change == RowChange::Delete {
            let _ = self.with(row.token.shard(), |records| {
                if let Some(id) = gone(records, row.token) {
                    records.subscriptions.remove(id);
                    return;
                }
                let Some(id) = Self::resolve(records, row.token) else { return };
                let Some(record) = records.subscriptions.get_mut(id) else { return };
                match record.phase {
                    Phase::Gone => {}
                    Phase::Ending(_) | Phase::Leaving => record.has_row = false,
                    // Refreshed before its last NOTIFY: it needs a row again.
                    Phase::AwaitingResponse | Phase::Live => {
                        record.has_row = false;
                        records.mark_dirty(id);
                    }
                }
            });
        }
    }

    /// The database has refused the row while it took others: it is taken again
    /// next time, after the others.
    pub fn row_refused(&self, row: &Dirty) {
        self.count_refusals(row, |refusals| refusals.saturating_add(1));
        self.row_failed(row);
    }

    fn count_refusals(&self, row: &Dirty, count: impl FnOnce(u8) -> u8) {
        let _ = self.with(row.token.shard(), |records| {
            if let Some(id) = Self::resolve(records, row.token)
                && let Some(record) = records.subscriptions.get_mut(id)
            {
                record.refusals = count(record.refusals);
            }
        });
    }

    /// The row cannot be written as it is: not before the subscription changes.
    pub fn row_unwritable(&self, row: &Dirty) {
        let _ = self.with(row.token.shard(), |records| {
            if let Some(id) = Self::resolve(records, row.token)
                && let Some(record) = records.subscriptions.get_mut(id)
            {
                record.has_row = false;
                record.reserved_cseq = CSeq::default();
                record.refusals = 0;
            }
        });
    }

    /// A new subscription could not be stored or answered: nothing is left of it. A row
    /// that was written is to be deleted. False for one that is older than the request,
    /// which stays.
    pub fn withdraw(&self, token: Token, is_written: bool) -> bool {
        let places = self.with(token.shard(), |records| {
            let id = Self::resolve(records, token)?;
            let record = records.subscriptions.get_mut(id)?;
            if record.phase != Phase::AwaitingResponse {
                return None;
            }
            record.has_row &= is_written;
            let presentity = record.presentity;
            let places = self.places(records, records.subscriptions.get(id)?);
            records.retire_subscription(id);
            self.drop_if_idle(records, presentity);
            Some(places)
        });
        match places {
            Ok(Some(places)) => {
                self.forget(places, token);
                true
            }
            _ => false,
        }
    }

    /// The row could not be written: it is taken again next time.
    pub fn row_failed(&self, row: &Dirty) {
        let _ = self.with(row.token.shard(), |records| {
            let Some(id) = Self::resolve(records, row.token) else { return };
            if let Some(record) = records.subscriptions.get_mut(id)
                && record.phase != Phase::Gone
            {
                record.reserved_cseq = CSeq::default();
                match row.change {
                    RowChange::Insert => {
                        record.has_row = false;
                        record.row_in_doubt = true;
                    }
                    RowChange::Delete => record.has_row = true,
                    RowChange::Update => {}
                }
            }
            records.mark_dirty(id);
        });
    }
}

/// What is to be done to the row of a subscription, which counts as done from
/// here on.
fn row_of<M: Memory>(
    records: &mut Shard<M>,
    id: Id<Subscription<M>>,
    token: Token,
    now: i64,
    reserve: u32,
) -> Option<Dirty> {
    records.take_off(id);
    let record = records.subscriptions.get_mut(id)?;
    let change = match (record.phase, record.has_row) {
        (Phase::Gone | Phase::Leaving | Phase::Ending(_), _) => RowChange::Delete,
        (_, true) => RowChange::Update,
        (_, false) => RowChange::Insert,
    };
    // Without its presentity only the row's key matters.
    let owner = records.presentities.get(record.presentity);
    let watched = owner.map(|owner| owner.watched(&records.hosts));
    let mut subscription = snapshot(record, watched.unwrap_or_default(), now);
    subscription.local_cseq = subscription.local_cseq.wrapping_add(reserve);
    subscription.version = subscription.version.wrapping_add(reserve);
    // A row that is being deleted counts as there until it is known to be gone.
    if change != RowChange::Delete {
        record.reserved_cseq = subscription.local_cseq;
        // From here on a removal has to delete the row, also while the INSERT
        // is under way.
        record.has_row = true;
        record.row_in_doubt = false;
    }
    let (expires_at, refusals) = (record.expires_at.get(), record.refusals);
    Some(Dirty { token, change, subscription, expires_at, refusals })
}

fn gone<M: Memory>(records: &Shard<M>, token: Token) -> Option<Id<Subscription<M>>> {
    let id = Store::resolve(records, token)?;
    records
        .subscriptions
        .get(id)
        .filter(|record| record.phase == Phase::Gone && record.lag == Lag::None)?;
    Some(id)
}
