//! Walks over all records, for operators who look at them: in pages, with the
//! shard's lock held for one page at a time, so that no request waits for more
//! than that. A record that is there all the time is met once.

use crate::presence::event_package::PackageId;
use crate::presence::listing::{After, Wanted};
use crate::presence::presentity::PresentityKey;
use crate::presence::publication::PublicationCopy;
use crate::presence::subscription::{Status, Text};
use crate::presence::transition::Phase;
use crate::presence::uri::identity;
use crate::shm::{Id, Memory};
use crate::store::Store;
use crate::store::lanes::copy_publication;
use crate::store::listing::Listed;
use crate::store::records::{PublicationPhase, Subscription};
use crate::store::shard::Shard;
use crate::store::subscriptions::snapshot;
use std::collections::HashMap;

/// Places for records that are looked at under one lock.
pub const PAGE: u32 = 256;

/// Where a walk is: a shard, and the place in it from which on to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Place {
    /// Number of the shard.
    pub shard: u32,
    /// The first place to be looked at.
    pub index: u32,
}

impl Place {
    /// Where a list goes on; `None` for one of rows.
    pub fn of(after: After) -> Option<Place> {
        match after {
            After::Record { shard, index } => Some(Place { shard, index }),
            After::Row(_) => None,
        }
    }

    /// Behind the record of this id.
    fn behind<T>(shard: u32, id: Id<T>) -> After {
        After::Record { shard, index: id.index() + 1 }
    }
}

/// What one page has.
#[derive(Debug)]
pub struct Page<T> {
    /// What was found, each with where a list goes on behind it.
    pub found: Vec<(After, T)>,
    /// Where the next page begins; `None` after the last one.
    pub next: Option<After>,
}

impl<T> Page<T> {
    /// Nothing, and nothing after it.
    pub const NONE: Page<T> = Page { found: Vec::new(), next: None };
}

/// How many records there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Count {
    /// Subscriptions that are active.
    pub active: u64,
    /// Subscriptions that await a decision.
    pub pending: u64,
    /// Subscriptions that have ended; their last NOTIFY is to be sent.
    pub ending: u64,
    /// Publications that live.
    pub publications: u64,
    /// Presentities with publications or watchers.
    pub presentities: u64,
}

/// Looks at a page of records; `each` says whether to go on behind one. Gives the
/// place to go on at, `None` at the end.
fn look<'a, T: 'a>(
    records: impl Iterator<Item = (Id<T>, &'a T)>,
    start: u32,
    mut each: impl FnMut(Id<T>, &T) -> bool,
) -> Option<u32> {
    let end = start.saturating_add(PAGE);
    for (id, record) in records {
        if id.index() >= end {
            return Some(id.index());
        }
        if !each(id, record) {
            return Some(id.index() + 1);
        }
    }
    None
}

impl<M: Memory> Store<M> {
    /// One page of the walk, from `at` on; gives where the next one begins.
    fn step(
        &self,
        at: Place,
        page: impl FnOnce(&mut Shard<M>, u32) -> Option<u32>,
    ) -> Option<Place> {
        let next = self.with(at.shard as usize, |records| page(records, at.index)).ok()?;
        match next {
            Some(index) => Some(Place { index, ..at }),
            None => {
                let shard = at.shard + 1;
                ((shard as usize) < self.shards()).then_some(Place { shard, index: 0 })
            }
        }
    }

    /// Looks at a page of subscriptions.
    pub(super) fn each_subscription(
        &self,
        at: Place,
        mut each: impl FnMut(&Shard<M>, &Subscription<M>),
    ) -> Option<Place> {
        self.step(at, |records, start| {
            look(records.subscriptions.iter_from(start), start, |_, record| {
                each(records, record);
                true
            })
        })
    }

    /// Some of the subscriptions that are asked for, up to `most`, from `at` on.
    pub fn subscriptions_page(
        &self,
        at: Place,
        (wanted, package): (&Wanted<'_>, Option<PackageId>),
        now: i64,
        most: usize,
    ) -> Page<Listed> {
        let mut found = Vec::new();
        let next = self.step(at, |records, start| {
            look(records.subscriptions.iter_from(start), start, |id, record| {
                if is_wanted(records, record, wanted, package) {
                    let watched = records.watched(record.presentity);
                    let listed = Listed {
                        subscription: snapshot(record, watched, now),
                        expires_at: record.expires_at.get(),
                    };
                    found.push((Place::behind(at.shard, id), listed));
                }
                found.len() < most
            })
        });
        Page { found, next: next.map(After::from) }
    }

    /// Some of the publications that are asked for, up to `most`, from `at` on.
    /// Those whose documents the database keeps come without; so do all unless
    /// `documents`.
    pub fn publications_page(
        &self,
        at: Place,
        (wanted, package): (&Wanted<'_>, Option<PackageId>),
        documents: bool,
        most: usize,
    ) -> Page<(PresentityKey, PublicationCopy)> {
        let mut found = Vec::new();
        let next = self.step(at, |records, start| {
            look(records.publications.iter_from(start), start, |id, record| {
                let watched = records.watched(record.presentity);
                let lives =
                    matches!(record.phase, PublicationPhase::Live | PublicationPhase::Changing);
                let is_one = lives
                    && package.is_none_or(|package| watched.package == package)
                    && wanted.is_of(watched.owner.user, watched.owner.host)
                    && wanted
                        .like
                        .as_ref()
                        .is_none_or(|like| like.fits(watched.owner.user, watched.owner.host));
                if let (true, Some(key)) = (is_one, records.key_of(record.presentity)) {
                    let user = match record.block().user() {
                        b"" => key.user.clone(),
                        user => user.to_vec(),
                    };
                    let mut copy = copy_publication(records, record);
                    if !documents {
                        copy.body = Vec::new();
                    }
                    found
                        .push((Place::behind(at.shard, id), (PresentityKey { user, ..key }, copy)));
                }
                found.len() < most
            })
        });
        Page { found, next: next.map(After::from) }
    }

    /// Counts a page of subscriptions by package.
    pub fn count_subscriptions(&self, at: Place, counts: &mut [Count]) -> Option<Place> {
        self.step(at, |records, start| {
            look(records.subscriptions.iter_from(start), start, |_, record| {
                let package = records.watched(record.presentity).package;
                if let Some(count) = counts.get_mut(usize::from(package.0)) {
                    match (record.phase, record.status) {
                        (Phase::AwaitingResponse | Phase::Live, Status::Active) => {
                            count.active += 1
                        }
                        (Phase::AwaitingResponse | Phase::Live, _) => count.pending += 1,
                        (Phase::Ending(_) | Phase::Leaving, _) => count.ending += 1,
                        // Only its row is yet to be deleted.
                        (Phase::Gone, _) => {}
                    }
                }
                true
            })
        })
    }

    /// Counts a page of publications by package.
    pub fn count_publications(&self, at: Place, counts: &mut [Count]) -> Option<Place> {
        self.step(at, |records, start| {
            look(records.publications.iter_from(start), start, |_, record| {
                let package = records.watched(record.presentity).package;
                let lives =
                    matches!(record.phase, PublicationPhase::Live | PublicationPhase::Changing);
                if let (true, Some(count)) = (lives, counts.get_mut(usize::from(package.0))) {
                    count.publications += 1;
                }
                true
            })
        })
    }

    /// Counts a page of presentities by package.
    pub fn count_presentities(&self, at: Place, counts: &mut [Count]) -> Option<Place> {
        self.step(at, |records, start| {
            look(records.presentities.iter_from(start), start, |_, record| {
                if let Some(count) = counts.get_mut(usize::from(record.package.0)) {
                    count.presentities += 1;
                }
                true
            })
        })
    }

    /// Counts a page of living subscriptions by their watchers, each by the hash of
    /// who that is and with the place of one of its subscriptions.
    pub fn count_watchers(
        &self,
        at: Place,
        counts: &mut HashMap<u64, (u32, Place)>,
    ) -> Option<Place> {
        self.step(at, |records, start| {
            look(records.subscriptions.iter_from(start), start, |id, record| {
                if record.phase.lives() {
                    let [user, host] = watcher(records, record);
                    let name = identity(user, host, self.policy.user_case);
                    let place = Place { shard: at.shard, index: id.index() };
                    counts.entry(self.hash().hash(&name)).or_insert((0, place)).0 += 1;
                }
                true
            })
        })
    }

    /// User and host of the watcher whose subscription is at this place.
    pub fn watcher_at(&self, at: Place) -> Option<(Vec<u8>, Vec<u8>)> {
        self.with(at.shard as usize, |records| {
            let record = records.subscriptions.get(Id::from_index(at.index)?)?;
            let [user, host] = watcher(records, record);
            Some((user.to_vec(), host.to_vec()))
        })
        .ok()?
    }

    /// A page of presentities with the number of their watchers. `each` says
    /// whether one of so many is of interest.
    pub fn watched_page(
        &self,
        at: Place,
        mut each: impl FnMut(u32) -> bool,
        found: &mut Vec<(u32, PresentityKey)>,
    ) -> Option<Place> {
        self.step(at, |records, start| {
            look(records.presentities.iter_from(start), start, |id, record| {
                let count = u32::try_from(record.watchers.len()).unwrap_or(u32::MAX);
                if count > 0 && each(count) {
                    found.extend(records.key_of(id).map(|key| (count, key)));
                }
                true
            })
        })
    }
}

impl From<Place> for After {
    fn from(Place { shard, index }: Place) -> After {
        After::Record { shard, index }
    }
}

/// User and host of a subscription's watcher.
fn watcher<'a, M: Memory>(records: &'a Shard<M>, record: &'a Subscription<M>) -> [&'a [u8]; 2] {
    [Text::WatcherUser, Text::WatcherHost].map(|field| records.text(record, field))
}

fn is_wanted<M: Memory>(
    records: &Shard<M>,
    record: &Subscription<M>,
    wanted: &Wanted<'_>,
    package: Option<PackageId>,
) -> bool {
    if !record.phase.lives()
        || wanted.call_id.is_some_and(|call_id| record.text(Text::CallId) != call_id)
    {
        return false;
    }
    let watched = records.watched(record.presentity);
    package.is_none_or(|package| watched.package == package)
        && wanted.is_of(watched.owner.user, watched.owner.host)
        && wanted.like.as_ref().is_none_or(|like| {
            let [user, host] = watcher(records, record);
            like.fits(user, host)
        })
}
