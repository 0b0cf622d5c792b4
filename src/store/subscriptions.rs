//! Subscriptions: found by dialog in one probe, kept with their presentity.

mod update;

use crate::error::Fault;
use crate::presence::cseq::CSeq;
use crate::presence::limits::{Limit, Limits};
use crate::presence::notify_fate::LatestNotify;
use crate::presence::presentity::PresentityKey;
use crate::presence::subscription::{DialogId, Snapshot, Text, seconds_left};
use crate::presence::transition::Phase;
use crate::presence::uri::identity;
use crate::presence::winfo::WatcherNews;
use crate::shm::{HashIndex, Id, Links, Memory, Timer};
use crate::store::dialogs::{is_dialog, watches};
use crate::store::records::{Lag, Presentity, RowClaim, Seconds, Subscription, Watched};
use crate::store::shard::Shard;
use crate::store::subscription_block::{expand, shrink};
use crate::store::{LaneRef, Store, Token};

/// CSeq of a dialog before its first NOTIFY, as the stock module counts.
pub(super) const FIRST_CSEQ: CSeq = CSeq(1);

/// What became of a subscription that was to be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Inserted {
    /// It is stored.
    New(Token),
    /// The presentity has a subscription of this dialog, which stays as it is.
    Known(Token),
    /// The dialog is that of a subscription to something else: one dialog id is
    /// one subscription.
    Taken,
    /// There are too many.
    Full(Limit),
}

impl Inserted {
    /// Names the subscription that the presentity has.
    pub fn token(self) -> Option<Token> {
        match self {
            Inserted::New(token) | Inserted::Known(token) => Some(token),
            Inserted::Taken | Inserted::Full(_) => None,
        }
    }
}

impl<M: Memory> Store<M> {
    /// Stores a new subscription, held back until `release`: its 2xx has to
    /// leave before its first NOTIFY. One whose dialog is known stays as it is.
    pub fn insert_subscription(
        &self,
        key: &PresentityKey,
        snapshot: &Snapshot,
        now: i64,
    ) -> Result<Inserted, Fault> {
        self.insert_replacing(key, snapshot, now, &mut Vec::new())
    }

    /// Does what `insert_subscription` does. `replaced` gets those whose place it has
    /// taken.
    pub fn insert_replacing(
        &self,
        key: &PresentityKey,
        snapshot: &Snapshot,
        now: i64,
        replaced: &mut Vec<Snapshot>,
    ) -> Result<Inserted, Fault> {
        let limits = &self.policy.limits;
        let mut inserted = self.add(key, snapshot, now, (Phase::AwaitingResponse, limits))?;
        if matches!(inserted, Inserted::Full(_))
            && self.policy.replaces_same_call
            && self.replaces_one(key, snapshot)
        {
            inserted = self.add(key, snapshot, now, (Phase::AwaitingResponse, &Limits::NONE))?;
        }
        if let Inserted::New(token) = inserted
            && self.policy.replaces_same_call
        {
            *replaced = self.replace_same_call(key, snapshot, token, now);
        }
        Ok(inserted)
    }

    /// Takes over a subscription that the database has kept.
    pub fn restore_subscription(
        &self,
        key: &PresentityKey,
        snapshot: &Snapshot,
        now: i64,
    ) -> Result<Token, Fault> {
        self.add(key, snapshot, now, (Phase::Live, &Limits::NONE))?.token().ok_or(Fault::Host)
    }

    pub(super) fn add(
        &self,
        key: &PresentityKey,
        snapshot: &Snapshot,
        now: i64,
        how: (Phase, &Limits),
    ) -> Result<Inserted, Fault> {
        // Half of the hash is kept, so some of those found may be of other dialogs.
        let mut others = Vec::new();
        loop {
            let stranger = match self.try_add(key, snapshot, now, how, &others)? {
                Added::Done(inserted) => return Ok(inserted),
                Added::Met(stranger) => stranger,
            };
            let is_same = self.with(stranger.shard(), |records| {
                is_dialog(records, stranger, dialog_of(snapshot))
            })?;
            if is_same {
                return Ok(Inserted::Taken);
            }
            others.push(stranger);
        }
    }

    /// `others` are known to be of other dialogs.
    fn try_add(
        &self,
        key: &PresentityKey,
        snapshot: &Snapshot,
        now: i64,
        (phase, limits): (Phase, &Limits),
        others: &[Token],
    ) -> Result<Added, Fault> {
        let shard = self.shard_of(&key.identity);
        let hash = self.presentity_hash(&key.identity, key.package);
        let dialog = self.dialog_hash(dialog_of(snapshot));
        let dialogs = self.dialogs(dialog)?;
        self.with(shard, |records| {
            // The first request has come again, later than answers are kept, or
            // one with the same Call-ID and Via, of which the host makes the To
            // tag: two records of one dialog would use each CSeq twice.
            let known = dialogs.lock().find(dialog, |token| {
                token.shard() == shard
                    && is_dialog(records, token, dialog_of(snapshot))
                    && watches(records, token, key)
            });
            if let Some(token) = known {
                return Ok(Added::Done(Inserted::Known(token)));
            }
            let is_stranger = |token| !others.contains(&token);
            if let Some(token) = dialogs.lock().find(dialog, is_stranger) {
                return Ok(Added::Met(token));
            }
            let presentity = self.find_or_create(records, key, hash)?;
            let made = match self.make(records, presentity, (snapshot, now), (phase, limits)) {
                Ok(Ok(id)) => Ok(id),
                Ok(Err(limit)) => {
                    self.drop_if_idle(records, presentity);
                    return Ok(Added::Done(Inserted::Full(limit)));
                }
                Err(fault) => Err(fault),
            };
            let added = made.and_then(|id| {
                if comes_from_row(phase) && self.policy.reports_watchers(key.package) {
                    require_full_winfo(records, presentity, id);
                }
                let token = self.token(shard, records, id).ok_or(Fault::Host)?;
                let entered = enter(&mut dialogs.lock(), dialog, token, is_stranger);
                match entered {
                    // One that has a row needs no other one before its first
                    // NOTIFY, and one that is over none at all.
                    Ok(Added::Done(_)) if phase == Phase::AwaitingResponse => {
                        records.row_begins(id);
                    }
                    Ok(Added::Done(_)) => {}
                    Ok(Added::Met(_)) | Err(_) => forget_record(records, id),
                }
                entered
            });
            if !matches!(added, Ok(Added::Done(_))) {
                self.drop_if_idle(records, presentity);
            }
            added
        })?
    }

    /// Counts a new subscription, and makes its record.
    fn make(
        &self,
        records: &mut Shard<M>,
        presentity: Id<Presentity<M>>,
        (snapshot, now): (&Snapshot, i64),
        (phase, limits): (Phase, &Limits),
    ) -> Result<Result<Id<Subscription<M>>, Limit>, Fault> {
        let counts = phase.lives();
        let watcher = (self.watcher_of(snapshot), snapshot.status);
        if counts && let Err(limit) = records.count_in(presentity, watcher, limits)? {
            return Ok(Err(limit));
        }
        let made = add_record(records, presentity, snapshot, now, phase);
        if made.is_err() && counts {
            records.give_back_count(presentity, watcher);
        }
        made.map(Ok)
    }

    /// What is counted of a presentity: subscriptions that live, and publications.
    pub fn counts(&self, key: &PresentityKey) -> (u32, u32) {
        let hash = self.presentity_hash(&key.identity, key.package);
        self.with(self.shard_of(&key.identity), |records| {
            let id = records.find(key, hash)?;
            let owner = records.presentities.get(id)?;
            let lives = |(_, record): &(_, &Subscription<M>)| record.phase.lives();
            let living = owner.watchers.iter(&records.subscriptions).filter(lives).count();
            Some((living as u32, records.published(id)))
        })
        .ok()
        .flatten()
        .unwrap_or_default()
    }

    /// Subscriptions of a watcher that live, where watchers are counted.
    pub fn subscriptions_of(&self, user: &[u8], host: &[u8]) -> u32 {
        let tally = self.shared.tally;
        tally.of_watcher(tally.watcher(&identity(user, host, self.policy.user_case)))
    }

    /// The hash of a subscription's watcher.
    pub(super) fn watcher_of(&self, snapshot: &Snapshot) -> u64 {
        let (user, host) = (snapshot.text(Text::WatcherUser), snapshot.text(Text::WatcherHost));
        self.shared.tally.watcher(&identity(user, host, self.policy.user_case))
    }

    /// The subscription's 2xx has left: it is to be sent a NOTIFY of its own.
    /// Gives the lane when the caller is the one to send it.
    pub fn release_subscription(&self, token: Token) -> Option<LaneRef<M>> {
        self.with(token.shard(), |records| {
            let id = Self::resolve(records, token)?;
            let record = records.subscriptions.get_mut(id)?;
            let begins = record.phase == Phase::AwaitingResponse;
            match record.phase {
                Phase::AwaitingResponse => record.phase = Phase::Live,
                Phase::Live | Phase::Ending(_) => {}
                Phase::Leaving | Phase::Gone => return None,
            }
            let (presentity, status) = (record.presentity, record.status);
            let expires_at = record.expires_at.get();
            if begins {
                records.subscription_expiry.schedule(&mut records.subscriptions, id, expires_at);
                self.watcher_changed(records, id, WatcherNews::began(status));
            }
            records.mark_notify_pending(id);
            records
                .take_lane(presentity)
                .then_some(LaneRef { shard: token.shard() as u16, presentity })
        })
        .ok()
        .flatten()
    }

    /// A copy of a subscription.
    pub fn subscription(&self, token: Token, now: i64) -> Option<Snapshot> {
        self.with(token.shard(), |records| {
            let record = records.subscriptions.get(Self::resolve(records, token)?)?;
            if record.phase == Phase::Gone {
                // Its presentity may be another one by now.
                return None;
            }
            Some(snapshot(record, records.watched(record.presentity), now))
        })
        .ok()
        .flatten()
    }

    /// Copies of all subscriptions to a presentity that are not over.
    pub fn watchers(&self, key: &PresentityKey, now: i64) -> Vec<Snapshot> {
        let hash = self.presentity_hash(&key.identity, key.package);
        self.with(self.shard_of(&key.identity), |records| {
            let owner = records.find(key, hash).and_then(|id| records.presentities.get(id));
            owner.map(|owner| {
                owner
                    .watchers
                    .iter(&records.subscriptions)
                    .filter(|(_, record)| {
                        matches!(record.phase, Phase::AwaitingResponse | Phase::Live)
                    })
                    .map(|(_, record)| snapshot(record, owner.watched(&records.hosts), now))
                    .collect()
            })
        })
        .ok()
        .flatten()
        .unwrap_or_default()
    }
}

/// What one attempt to store a subscription led to.
enum Added {
    Done(Inserted),
    /// The index has somebody else there, who may be of the same dialog.
    Met(Token),
}

/// Enters a subscription into the index, unless it has somebody else there: another
/// shard may have got one of this dialog meanwhile.
fn enter<M: Memory>(
    index: &mut HashIndex<Token, M>,
    dialog: u64,
    token: Token,
    is_stranger: impl Fn(Token) -> bool,
) -> Result<Added, Fault> {
    if let Some(stranger) = index.find(dialog, is_stranger) {
        return Ok(Added::Met(stranger));
    }
    index.insert(dialog, token)?;
    Ok(Added::Done(Inserted::New(token)))
}

/// A record that does not get into the index. A row that it came from stays as it is.
fn forget_record<M: Memory>(records: &mut Shard<M>, id: Id<Subscription<M>>) {
    if let Some(record) = records.subscriptions.get_mut(id) {
        record.has_row = false;
    }
    records.retire_subscription(id);
}

/// One that lives was read from its row.
fn comes_from_row(phase: Phase) -> bool {
    phase == Phase::Live
}

fn add_record<M: Memory>(
    records: &mut Shard<M>,
    presentity: Id<Presentity<M>>,
    snapshot: &Snapshot,
    now: i64,
    phase: Phase,
) -> Result<Id<Subscription<M>>, Fault> {
    let id = new_record(records, presentity, snapshot)?;
    let expires_at = now + i64::from(snapshot.expires);
    if let Some(record) = records.subscriptions.get_mut(id) {
        record.expires_at = expires_at.into();
        record.phase = phase;
        record.has_row = comes_from_row(phase);
    }
    records.subscription_expiry.schedule(&mut records.subscriptions, id, expires_at);
    Ok(id)
}

/// A record of a subscription, with its presentity; nothing is scheduled.
pub(super) fn new_record<M: Memory>(
    records: &mut Shard<M>,
    presentity: Id<Presentity<M>>,
    snapshot: &Snapshot,
) -> Result<Id<Subscription<M>>, Fault> {
    let (state_version, fan_out_mark) = records
        .presentities
        .get(presentity)
        .map(|owner| (owner.state_version, owner.fan_out_mark))
        .unwrap_or_default();
    let record = Subscription {
        presentity,
        text: records.blob(&shrink(snapshot.block(), records.watched(presentity).owner))?,
        expires_at: Seconds::ZERO,
        remote_cseq: snapshot.remote_cseq,
        local_cseq: snapshot.local_cseq.max(FIRST_CSEQ),
        reserved_cseq: snapshot.local_cseq,
        version: snapshot.version,
        flags: snapshot.flags,
        notified: state_version,
        fan_out_mark,
        status: snapshot.status,
        phase: Phase::Live,
        in_flight: false,
        has_pending_notify: false,
        lag: Lag::None,
        has_row: false,
        row_in_doubt: false,
        refusals: 0,
        claim: RowClaim::None,
        null_reason: false,
        latest: LatestNotify::default(),
        watching: Links::new(),
        pending_notify: Links::new(),
        expiring: Timer::new(),
        dirty: Links::new(),
    };
    let id = records.subscriptions.insert(record).map_err(|_| Fault::SharedMemory)?;
    if let Some(owner) = records.presentities.get_mut(presentity) {
        owner.watchers.push_back(&mut records.subscriptions, id);
    }
    Ok(id)
}

/// What was reported to somebody who watches watchers before the restart is not known:
/// the next document lists all of them, not only those that have changed.
fn require_full_winfo<M: Memory>(
    records: &mut Shard<M>,
    presentity: Id<Presentity<M>>,
    id: Id<Subscription<M>>,
) {
    let (Some(owner), Some(record)) =
        (records.presentities.get_mut(presentity), records.subscriptions.get_mut(id))
    else {
        return;
    };
    let state_version = owner.state_version;
    record.notified = state_version.before();
    records.wants_full_since(presentity, state_version);
}

/// A copy of a record. `expires` counts from `now`.
pub(super) fn snapshot<M: Memory>(
    record: &Subscription<M>,
    watched: Watched<'_>,
    now: i64,
) -> Snapshot {
    let mut copy = Snapshot::new(watched.package, expand(&record.text, watched.owner));
    copy.remote_cseq = record.remote_cseq;
    copy.local_cseq = record.local_cseq;
    copy.version = record.version;
    copy.expires = seconds_left(record.expires_at.get(), now);
    copy.status = record.status;
    copy.flags = record.flags;
    copy
}

pub(super) fn dialog_of_record<M: Memory>(record: &Subscription<M>) -> DialogId<'_> {
    DialogId {
        call_id: record.text(Text::CallId),
        from_tag: record.text(Text::FromTag),
        to_tag: record.text(Text::ToTag),
    }
}

fn dialog_of(snapshot: &Snapshot) -> DialogId<'_> {
    DialogId {
        call_id: snapshot.text(Text::CallId),
        from_tag: snapshot.text(Text::FromTag),
        to_tag: snapshot.text(Text::ToTag),
    }
}
