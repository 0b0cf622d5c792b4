//! Copies of a presentity's state.

use crate::presence::presentity::PresentityKey;
use crate::presence::publication::{PublicationCopy, is_shown};
use crate::presence::state_version::StateVersion;
use crate::shm::{Id, Memory};
use crate::store::records::{Presentity, Publication, PublicationPhase, Seconds};
use crate::store::shard::Shard;
use crate::store::watcher_changes::{WatcherChanges, copy_changes};
use crate::store::{LaneRef, Store};

/// An ended publication that some watchers have yet to see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FinalPublication {
    /// The state version in which it ended.
    pub state_version: StateVersion,
    /// It is to be shown closed; else as it is, for a last time.
    pub closing: bool,
    /// The publication.
    pub publication: PublicationCopy,
    /// Number of the document that reports it, and perhaps of others.
    pub document: u32,
}

/// A presentity's state at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// Whose it is.
    pub key: PresentityKey,
    /// Its version.
    pub state_version: StateVersion,
    /// Living publications, oldest first.
    pub publications: Vec<PublicationCopy>,
    /// Ended ones, by state version.
    pub finals: Vec<FinalPublication>,
    /// Changes of the watchers that are reported on.
    pub watchers: WatcherChanges,
}

impl<M: Memory> Store<M> {
    /// Copies the state of the presentity whose lane the caller owns.
    pub fn lane_state(&self, lane: LaneRef<M>) -> Option<State> {
        self.with(usize::from(lane.shard), |records| copy_state(records, lane.presentity, ALL))
            .ok()?
    }

    /// Copies the state of the lane without what is not shown at this time.
    pub fn lane_state_shown(&self, lane: LaneRef<M>, now: i64) -> Option<State> {
        self.with(usize::from(lane.shard), |records| {
            let package = records.presentities.get(lane.presentity)?.package;
            let newest_at = self.policy.shows_newest(package).then_some(now);
            copy_state(records, lane.presentity, Wanted { newest_at, finals: true })
        })
        .ok()?
    }

    /// The state of any presentity without what is not shown at this time, and
    /// without final publications.
    pub fn state_shown(&self, key: &PresentityKey, now: i64) -> State {
        let newest_at = self.policy.shows_newest(key.package).then_some(now);
        self.copy_of(key, Wanted { newest_at, finals: false })
    }

    /// Copies the state of any presentity; empty if there is none.
    pub fn state(&self, key: &PresentityKey) -> State {
        self.copy_of(key, ALL)
    }

    /// Copies the state of any presentity without its final publications.
    pub fn living(&self, key: &PresentityKey) -> State {
        self.copy_of(key, Wanted { finals: false, ..ALL })
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
            state_version: StateVersion::default(),
            publications: Vec::new(),
            finals: Vec::new(),
            watchers: WatcherChanges::default(),
        })
    }
}

/// What of a state is copied.
#[derive(Clone, Copy)]
struct Wanted {
    /// Only the newest publication that lives at this time is copied.
    newest_at: Option<i64>,
    finals: bool,
}

const ALL: Wanted = Wanted { newest_at: None, finals: true };

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
            let lives =
                |record: &Publication<M>| is_shown(record.expires_at.map(Seconds::get), now);
            let mut all = owner.publications.iter_back(&records.publications);
            let newest = all
                .find(|(_, record)| is_state(record) && lives(record))
                .map(|(_, record)| copy(record));
            newest.into_iter().collect()
        }
    };
    let mut finals: Vec<FinalPublication> = owner
        .finals
        .iter(&records.publications)
        .take_while(|_| wanted.finals)
        .map(|(_, record)| FinalPublication {
            state_version: record.state_version,
            closing: record.phase == PublicationPhase::Closing,
            publication: copy_publication(records, record),
            document: 0,
        })
        .collect();
    finals.sort_by_key(|ended| ended.state_version.since(owner.state_version));
    Some(State {
        key: records.key_of(id)?,
        state_version: owner.state_version,
        publications,
        finals,
        watchers: copy_changes(records, owner),
    })
}

pub(in crate::store) fn copy_publication<M: Memory>(
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
