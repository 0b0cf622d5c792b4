//! Notification lanes: who sends a presentity's NOTIFYs, and in which order.
//!
//! One process at a time owns a presentity's lane. It copies the state
//! (`state`), composes documents without any lock, takes subscriptions that
//! have not been told of that state, with the CSeq of their next NOTIFY
//! (`take`), sends, and asks whether there is more (`finish`). Work that
//! arrives meanwhile is only marked, so a document is never older than one
//! sent before in the same dialog, and CSeqs leave in rising order.

use crate::presence::presentity::PresentityKey;
use crate::presence::publication::PublicationCopy;
use crate::presence::subscription::{Ending, Snapshot, Text, may_see};
use crate::shm::{Id, Memory};
use crate::store::dialogs::Places;
use crate::store::records::{
    Aside, Claim, Phase, Presentity, Publication, PublicationPhase, Seconds, Subscription, Watched,
};
use crate::store::shard::{Shard, later};
use crate::store::subscriptions::snapshot;
use crate::store::watcher_changes::{WatcherChanges, copy_changes};
use crate::store::{LaneRef, Store, Token};

/// CSeqs that a row reserves ahead of use (A7): after a crash the next NOTIFY
/// is higher than any sent. Renewed when half is used.
pub const CSEQ_RESERVE: u32 = 10_000;

/// An ended publication that some watchers have yet to see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Farewell {
    /// The round in which it ended.
    pub round: u32,
    /// It is to be shown closed; else as it is, for a last time.
    pub closing: bool,
    /// The publication.
    pub publication: PublicationCopy,
    /// Number of the document that tells of it, and perhaps of others.
    pub document: u32,
}

/// A presentity's state at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// Whose.
    pub key: PresentityKey,
    /// It counts the changes.
    pub round: u32,
    /// Living publications, oldest first.
    pub publications: Vec<PublicationCopy>,
    /// Ended ones, by round.
    pub farewells: Vec<Farewell>,
    /// Changes of the watchers that are reported on.
    pub watchers: WatcherChanges,
}

/// Which document a NOTIFY carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Document {
    /// None: the watcher may not see the state.
    None,
    /// The state itself.
    Newest,
    /// The state with the farewells from this one to before that one.
    Farewells(usize, usize),
    /// Of the watchers reported on those that have changed.
    Changed,
}

/// One NOTIFY to be sent.
#[derive(Debug)]
pub struct Send {
    /// The subscription, with this NOTIFY's CSeq and version.
    pub subscription: Snapshot,
    /// Names the subscription; `None` for one of which nothing is stored.
    pub token: Option<Token>,
    /// What it carries.
    pub document: Document,
    /// Round of the state that this watcher was told before.
    pub told: u32,
    /// It is the last one.
    pub ending: Option<Ending>,
    /// What has to be done about its row before it leaves.
    pub claim: Claim,
    /// Unix time of the subscription's end.
    pub expires_at: i64,
    /// Its row's `reason` is NULL.
    pub null_reason: bool,
}

/// What `take` found.
#[derive(Debug)]
pub struct Taken {
    /// The NOTIFYs, in the order in which they have to leave.
    pub sends: Vec<Send>,
    /// There are watchers that were not looked at yet.
    pub more: bool,
    /// What was composed is the newest state.
    pub is_latest: bool,
    /// Subscriptions whose rows reserve none of the CSeqs taken (A7): to be
    /// written before these leave.
    pub unreserved: Vec<Token>,
}

/// What the owner of a lane has composed.
#[derive(Debug, Clone, Copy)]
pub struct Composed<'a> {
    /// Round of the state.
    pub round: u32,
    /// The farewells that go with it.
    pub farewells: &'a [Farewell],
    /// The newest document is empty, and such are not sent to those who have
    /// just subscribed (`send_fast_notify=0`).
    pub skip_first: bool,
    /// For watcher information.
    pub watchers: Option<ComposedWatchers>,
}

/// What there is of watcher information.
#[derive(Debug, Clone, Copy)]
pub struct ComposedWatchers {
    /// Who was last told before this round gets all watchers, the others those
    /// that have changed.
    pub full_since: u32,
    /// The list of all watchers was made.
    pub has_all: bool,
}

impl<M: Memory> Store<M> {
    /// Copies the state of the presentity whose lane the caller owns.
    pub fn lane_state(&self, lane: LaneRef<M>) -> Option<State> {
        self.with(usize::from(lane.shard), |records| copy_state(records, lane.presentity, ALL))
            .ok()?
    }

    /// The same, but of what is not shown at this time nothing.
    pub fn lane_state_shown(&self, lane: LaneRef<M>, now: i64) -> Option<State> {
        self.with(usize::from(lane.shard), |records| {
            let package = records.presentities.get(lane.presentity)?.package;
            let newest_at = self.policy.shows_newest(package).then_some(now);
            copy_state(records, lane.presentity, Wanted { newest_at, farewells: true })
        })
        .ok()?
    }

    /// The state of any presentity without what is not shown at this time, and
    /// without farewells.
    pub fn state_shown(&self, key: &PresentityKey, now: i64) -> State {
        let newest_at = self.policy.shows_newest(key.package).then_some(now);
        self.copy_of(key, Wanted { newest_at, farewells: false })
    }

    /// Copies the state of any presentity; empty if there is none.
    pub fn state(&self, key: &PresentityKey) -> State {
        self.copy_of(key, ALL)
    }

    /// The same without farewells.
    pub fn living(&self, key: &PresentityKey) -> State {
        self.copy_of(key, Wanted { farewells: false, ..ALL })
    }

    fn copy_of(&self, key: &PresentityKey, wanted: Wanted) -> State {
        let hash = self.presentity_hash(&key.identity, key.package);
        self.with(self.shard_of(&key.identity), |records| {
            records.find(key, hash).and_then(|id| copy_state(records, id, wanted))
        })
        .ok()
        .flatten()
        .unwrap_or_else(|| State {
            key: key.clone(),
            round: 0,
            publications: Vec::new(),
            farewells: Vec::new(),
            watchers: WatcherChanges::default(),
        })
    }

    /// Takes subscriptions that have not been told of what was composed, up
    /// to `limit` NOTIFYs or a few times as many that need none.
    pub fn take(&self, lane: LaneRef<M>, composed: Composed<'_>, now: i64, limit: usize) -> Taken {
        let mut ended = Vec::new();
        let mut unreserved = Vec::new();
        let taken = self.with(usize::from(lane.shard), |records| {
            let mut sends = Vec::new();
            let mut visits = limit.saturating_mul(4);
            self.take_due(records, lane, composed, now, limit, &mut visits, &mut sends, &mut ended);
            // Those whose subscriptions are rows are all due one by one.
            if self.policy.rows_only() {
                let owner = records.presentities.get(lane.presentity);
                let is_latest = owner.is_some_and(|owner| owner.round == composed.round);
                let more = sends.len() >= limit;
                return Taken { sends, more, is_latest, unreserved: Vec::new() };
            }
            start_pass(records, lane.presentity, composed.round);
            let more = loop {
                if sends.len() >= limit || visits == 0 {
                    break true;
                }
                let Some(id) = next_in_pass(records, lane.presentity, composed.round) else {
                    break false;
                };
                visits -= 1;
                if wants_change(records, id, composed.round, now) {
                    let newest = records
                        .subscriptions
                        .get(id)
                        .map_or(Document::Newest, |record| composed.for_all(record.told));
                    self.take_one(records, lane, id, (composed, newest), now, &mut sends);
                }
                if let Some(record) = records.subscriptions.get_mut(id)
                    && later(composed.round, record.told)
                {
                    record.told = composed.round;
                }
            };
            // Now, or the next call would begin the walk again.
            close_pass(records, lane.presentity);
            if self.policy.keeps_rows() {
                let living = sends.iter().filter(|send| send.ending.is_none());
                let tokens = living.filter_map(|send| send.token);
                unreserved.extend(tokens.filter(|token| is_unreserved(records, *token)));
            }
            by_document(&mut sends);
            Taken { sends, more, is_latest: true, unreserved: Vec::new() }
        });
        for (places, token) in ended {
            self.forget(places, token);
        }
        let nothing =
            Taken { sends: Vec::new(), more: false, is_latest: true, unreserved: Vec::new() };
        Taken { unreserved, ..taken.unwrap_or(nothing) }
    }

    #[expect(clippy::too_many_arguments, reason = "one step of `take`, under its lock")]
    fn take_due(
        &self,
        records: &mut Shard<M>,
        lane: LaneRef<M>,
        composed: Composed<'_>,
        now: i64,
        limit: usize,
        visits: &mut usize,
        sends: &mut Vec<Send>,
        ended: &mut Vec<(Places, Token)>,
    ) {
        // Who subscribed while only changes were composed waits for the rest.
        let only_changes = composed.watchers.is_some_and(|watchers| !watchers.has_all);
        while sends.len() < limit && *visits > 0 {
            *visits -= 1;
            let Some(owner) = records.presentities.get_mut(lane.presentity) else { break };
            // Who subscribed after a change must not be shown the state before
            // it, for the change counts as told: it waits for the next round.
            let first = owner.due.front().and_then(|id| records.subscriptions.get(id));
            if first.is_some_and(|record| {
                record.in_flight
                    || later(record.told, composed.round)
                    || (only_changes && record.claim != Claim::Walk)
            }) {
                break;
            }
            let Some(id) = owner.due.pop_front(&mut records.subscriptions) else { break };
            let Some(record) = records.subscriptions.get_mut(id) else { continue };
            record.is_due = false;
            match record.phase {
                Phase::Held | Phase::Leaving | Phase::Gone => {}
                Phase::Live => {
                    let first = record.local_cseq <= 1;
                    let sees = may_see(record.status, record.text(Text::Reason));
                    if !(composed.skip_first && first && sees) {
                        let newest = match record.claim {
                            Claim::Walk => composed.for_all(record.told),
                            Claim::None | Claim::Asked | Claim::Rescue | Claim::Turn(_) => {
                                Document::Newest
                            }
                        };
                        self.take_one(records, lane, id, (composed, newest), now, sends);
                    }
                    if self.policy.rows_only() {
                        ended.extend(self.release_row(records, usize::from(lane.shard), id));
                        continue;
                    }
                    if let Some(record) = records.subscriptions.get_mut(id)
                        && later(composed.round, record.told)
                    {
                        record.told = composed.round;
                    }
                }
                Phase::Ending(_) if self.policy.rows_only() => {
                    let newest = Document::Newest;
                    self.take_one(records, lane, id, (composed, newest), now, sends);
                    ended.extend(self.release_row(records, usize::from(lane.shard), id));
                }
                Phase::Ending(_) => {
                    let newest = Document::Newest;
                    self.take_one(records, lane, id, (composed, newest), now, sends);
                    if let Some(record) = records.subscriptions.get_mut(id) {
                        record.phase = Phase::Leaving;
                    }
                }
            }
        }
    }

    /// The NOTIFYs that bring one subscription up to what was composed. `newest`
    /// is its form of the newest document.
    fn take_one(
        &self,
        records: &mut Shard<M>,
        lane: LaneRef<M>,
        id: Id<Subscription<M>>,
        (composed, newest): (Composed<'_>, Document),
        now: i64,
        sends: &mut Vec<Send>,
    ) {
        let token = match self.policy.rows_only() {
            true => Some(Token::ROW),
            false => self.token(usize::from(lane.shard), records, id),
        };
        let Some(owner) = records.presentities.get(lane.presentity) else { return };
        let watched = owner.watched(&records.words);
        let walk = owner.aside.and_then(|id| records.asides.get(id)).map_or(0, |a| a.rows.round);
        let rows_only = self.policy.rows_only();
        let Some(record) = records.subscriptions.get_mut(id) else { return };
        let ending = match record.phase {
            Phase::Ending(why) => Some(why),
            _ => None,
        };
        let sees = may_see(record.status, record.text(Text::Reason))
            && ending.is_none_or(Ending::shows_state);
        if sees && ending.is_none() {
            let up_to = |round| composed.farewells.partition_point(|f| !later(f.round, round));
            let mut at = up_to(record.told);
            // A walk over rows is about the changes up to its round; what ends
            // later is said by the next one, once.
            let end = if rows_only { up_to(walk).max(at) } else { composed.farewells.len() };
            let (mut told, mut covered) = (record.told, false);
            while let Some(first) = composed.farewells.get(at..end).and_then(<[_]>::first) {
                let rest = &composed.farewells[at..end];
                let next = at + rest.partition_point(|f| f.document <= first.document);
                let document = Document::Farewells(at, next);
                sends.push(next_notify(record, watched, token, document, None, now).after(told));
                let last = composed.farewells[next - 1].round;
                // The farewell of the newest round is the newest state.
                covered = last == composed.round;
                // Numbers in a row that are taken together are given back together.
                told = if rows_only { told } else { last };
                at = next;
            }
            if !covered {
                sends.push(next_notify(record, watched, token, newest, None, now).after(told));
            }
        } else {
            let document = if sees { newest } else { Document::None };
            sends.push(next_notify(record, watched, token, document, ending, now));
        }
        if self.policy.keeps_rows()
            && record.has_row
            && record.reserved_cseq < record.local_cseq.saturating_add(CSEQ_RESERVE / 2)
        {
            records.mark_dirty(id);
        }
    }
}

impl Send {
    /// The watcher was told of this round before.
    fn after(self, told: u32) -> Send {
        Send { told, ..self }
    }
}

/// Puts NOTIFYs with one document side by side, so that it need be made but
/// once. Those of a dialog stay in their order.
pub fn by_document(sends: &mut [Send]) {
    let place = |send: &Send| match send.document {
        Document::Farewells(from, to) => (to, from),
        Document::None | Document::Newest | Document::Changed => (usize::MAX, 0),
    };
    if !sends.is_sorted_by_key(place) {
        sends.sort_by_key(place);
    }
}

impl Composed<'_> {
    /// The newest document for those who are told because it has changed.
    fn for_all(&self, told: u32) -> Document {
        match self.watchers {
            Some(watchers) if !later(watchers.full_since, told) => Document::Changed,
            _ => Document::Newest,
        }
    }
}

fn next_notify<M: Memory>(
    record: &mut Subscription<M>,
    watched: Watched<'_>,
    token: Option<Token>,
    document: Document,
    ending: Option<Ending>,
    now: i64,
) -> Send {
    record.in_flight = true;
    record.set_numbers(record.numbers().next());
    Send {
        subscription: snapshot(record, watched, now),
        token,
        document,
        told: record.told,
        ending,
        claim: record.claim,
        expires_at: record.expires_at.get(),
        null_reason: record.null_reason,
    }
}

/// The watcher has to be told of a change: it has not been, may see it, and
/// did not make it itself.
fn wants_change<M: Memory>(
    records: &Shard<M>,
    id: Id<Subscription<M>>,
    round: u32,
    now: i64,
) -> bool {
    let Some(record) = records.subscriptions.get(id) else { return false };
    let Some(owner) = records.presentities.get(record.presentity) else { return false };
    later(round, record.told)
        && record.sees_changes(now)
        && !is_spared(records.aside(owner), record.text(Text::Contact), record.told)
}

/// All changes since the round that the watcher was told of are its own.
pub(super) fn is_spared<M: Memory>(aside: Option<&Aside<M>>, contact: &[u8], told: u32) -> bool {
    aside.is_some_and(|aside| {
        !aside.sender.is_empty()
            && contact == &*aside.sender
            && !later(aside.sender_since, told.wrapping_add(1))
    })
}

/// The row of a subscription does not reserve the CSeq of its latest NOTIFY.
fn is_unreserved<M: Memory>(records: &Shard<M>, token: Token) -> bool {
    Store::resolve(records, token)
        .and_then(|id| records.subscriptions.get(id))
        .is_some_and(|record| record.has_row && record.reserved_cseq < record.local_cseq)
}

/// Begins a walk over all watchers unless one is under way or all are told.
fn start_pass<M: Memory>(records: &mut Shard<M>, id: Id<Presentity<M>>, round: u32) {
    if let Some(record) = records.presentities.get_mut(id)
        && record.unvisited == 0
        && later(round, record.completed)
    {
        record.pass = !record.pass;
        record.unvisited = record.watchers.len() as u32;
        record.pass_round = round;
    }
}

/// The next watcher of the walk; it goes to the end of the list.
fn next_in_pass<M: Memory>(
    records: &mut Shard<M>,
    id: Id<Presentity<M>>,
    round: u32,
) -> Option<Id<Subscription<M>>> {
    let owner = records.presentities.get_mut(id)?;
    if owner.unvisited == 0 || later(owner.pass_round, round) {
        return None;
    }
    // Who shares the lane has it in hand, and looks again afterwards. It may
    // also have been told just now, as one that was due.
    let first = owner.watchers.front().and_then(|id| records.subscriptions.get(id));
    if first.is_some_and(|record| record.in_flight && later(round, record.told)) {
        return None;
    }
    let first = owner.watchers.pop_front(&mut records.subscriptions)?;
    owner.watchers.push_back(&mut records.subscriptions, first);
    owner.unvisited -= 1;
    if let Some(record) = records.subscriptions.get_mut(first) {
        record.pass = owner.pass;
    }
    Some(first)
}

/// A walk that has reached everybody: its round is complete.
pub(super) fn close_pass<M: Memory>(records: &mut Shard<M>, id: Id<Presentity<M>>) {
    if !records.may_be_watched(id) {
        records.everybody_told(id);
        return;
    }
    // The walk over rows is another one.
    if records.watchers_are_rows() {
        return;
    }
    let Some(record) = records.presentities.get_mut(id) else { return };
    if record.unvisited == 0 && later(record.pass_round, record.completed) {
        let round = record.pass_round;
        record.completed = round;
        records.drop_farewells(id, Some(round));
        records.drop_changes(id, Some(round));
    }
}

/// What of a state is copied.
#[derive(Clone, Copy)]
struct Wanted {
    /// Of the publications none but the newest that lives at this time.
    newest_at: Option<i64>,
    farewells: bool,
}

const ALL: Wanted = Wanted { newest_at: None, farewells: true };

fn copy_state<M: Memory>(
    records: &Shard<M>,
    id: Id<Presentity<M>>,
    wanted: Wanted,
) -> Option<State> {
    let owner = records.presentities.get(id)?;
    let is_state = |record: &Publication<M>| {
        matches!(record.phase, PublicationPhase::Live | PublicationPhase::Changing)
    };
    let copy = |record: &Publication<M>| copy_publication(records, record);
    let publications = match wanted.newest_at {
        None => {
            let all = owner.publications.iter(&records.publications);
            all.filter(|(_, record)| is_state(record)).map(|(_, record)| copy(record)).collect()
        }
        Some(now) => {
            let lives = |at: Seconds| at.get() >= now;
            let mut all = owner.publications.iter_back(&records.publications);
            let newest = all
                .find(|(_, record)| is_state(record) && record.expires_at.is_none_or(lives))
                .map(|(_, record)| copy(record));
            newest.into_iter().collect()
        }
    };
    let mut farewells: Vec<Farewell> = owner
        .farewells
        .iter(&records.publications)
        .take_while(|_| wanted.farewells)
        .map(|(_, record)| Farewell {
            round: record.round,
            closing: record.phase == PublicationPhase::Closing,
            publication: copy_publication(records, record),
            document: 0,
        })
        .collect();
    farewells.sort_by_key(|farewell| farewell.round.wrapping_sub(owner.completed));
    Some(State {
        key: records.key_of(id)?,
        round: owner.round,
        publications,
        farewells,
        watchers: copy_changes(records, owner),
    })
}

pub(super) fn copy_publication<M: Memory>(
    records: &Shard<M>,
    record: &Publication<M>,
) -> PublicationCopy {
    let block = record.block();
    PublicationCopy {
        entity_tag: block.entity_tag(),
        sender: block.sender().to_vec(),
        body: records.body(record).to_vec(),
        expires_at: record.expires_at.map(Seconds::get),
        received: record.received.get(),
        priority: record.priority,
        ruid: block.ruid(),
    }
}
