//! Dialogs that come from other servers and go to them: what a server has to do with
//! its own record when one that shares its dialogs tells of it.

use crate::error::Fault;
use crate::presence::limits::Limits;
use crate::presence::presentity::PresentityKey;
use crate::presence::subscription::Snapshot;
use crate::presence::transition::Phase;
use crate::shm::{Id, Memory};
use crate::store::records::Subscription;
use crate::store::shard::Shard;
use crate::store::subscriptions::snapshot;
use crate::store::{LaneRef, Store, Token};

impl<M: Memory> Store<M> {
    /// Takes over a subscription of another server, held back until `release`. It was
    /// accepted once, so no limit says no. `None` if there is another one of its dialog.
    pub fn adopt_subscription(
        &self,
        key: &PresentityKey,
        subscription: &Snapshot,
        now: i64,
    ) -> Result<Option<Token>, Fault> {
        Ok(self.add(key, subscription, now, (Phase::AwaitingResponse, &Limits::NONE))?.token())
    }

    /// A subscription that lives and the Unix time of its end.
    pub fn own_subscription(&self, token: Token, now: i64) -> Option<(Snapshot, i64)> {
        self.with(token.shard(), |records| {
            own(records, records.subscriptions.get(Self::resolve(records, token)?)?, now)
        })
        .ok()
        .flatten()
    }

    /// Up to so many subscriptions of one shard that live, from a place on, and where the
    /// next ones begin, if there may be some.
    pub fn own_subscriptions_from(
        &self,
        shard: usize,
        from: u32,
        most: usize,
        now: i64,
    ) -> (Vec<(Snapshot, i64)>, Option<u32>) {
        self.with(shard, |records| {
            let mut all = records.subscriptions.iter_from(from);
            let mut next = from;
            let portion = all.by_ref().take(most).filter_map(|(id, record)| {
                next = id.index() + 1;
                own(records, record, now)
            });
            let portion = portion.collect();
            (portion, all.next().map(|_| next))
        })
        .unwrap_or_default()
    }

    /// Another server owns the dialog: its subscription here goes without a word, if
    /// `is_lower` says so of the CSeqs of its last SUBSCRIBE and its last NOTIFY. Gives the
    /// latter.
    pub fn yield_subscription(
        &self,
        token: Token,
        is_lower: impl FnOnce(u32, u32) -> bool,
    ) -> Result<Option<u32>, Fault> {
        let yielded = self.with(token.shard(), |records| {
            let id = Self::resolve(records, token)?;
            let record = records.subscriptions.get(id)?;
            if record.phase.is_over() || !is_lower(record.remote_cseq.0, record.local_cseq.0) {
                return None;
            }
            let (presentity, used) = (record.presentity, record.local_cseq.0);
            let places = self.places(records, record);
            records.retire_subscription(id);
            if records.presentities.get(presentity).is_some_and(|p| p.watchers.is_empty()) {
                records.mark_all_notified(presentity);
            }
            self.drop_if_idle(records, presentity);
            Some((places, used))
        })?;
        if let Some((places, _)) = yielded {
            self.forget(places, token);
        }
        Ok(yielded.map(|(_, used)| used))
    }

    /// The next NOTIFY of a subscription has a CSeq above this one, and is due now: its
    /// watcher has taken no notice of those below. Gives the lane if it is the caller's.
    pub fn outrun(&self, token: Token, base: u32) -> Option<LaneRef<M>> {
        self.raise_cseq(token, base);
        self.with(token.shard(), |records| {
            let id = Self::resolve(records, token)?;
            let record = records.subscriptions.get(id)?;
            if record.phase != Phase::Live {
                return None;
            }
            let presentity = record.presentity;
            records.mark_notify_pending(id);
            records
                .take_lane(presentity)
                .then_some(LaneRef { shard: token.shard() as u16, presentity })
        })
        .ok()
        .flatten()
    }

    /// The next NOTIFY of a subscription has a CSeq above this one.
    pub fn raise_cseq(&self, token: Token, base: u32) {
        let _ = self.with(token.shard(), |records| {
            let id: Id<Subscription<M>> = Self::resolve(records, token)?;
            let record = records.subscriptions.get_mut(id)?;
            let ahead = base.saturating_sub(record.local_cseq.0);
            record.set_numbers(record.numbers().after(ahead));
            Some(())
        });
    }
}

fn own<M: Memory>(
    records: &Shard<M>,
    record: &Subscription<M>,
    now: i64,
) -> Option<(Snapshot, i64)> {
    let lives = record.phase.lives();
    lives.then(|| {
        (snapshot(record, records.watched(record.presentity), now), record.expires_at.get())
    })
}
