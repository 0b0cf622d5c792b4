//! What is remembered for operators and for nobody else, in shared memory of a
//! fixed size. Nothing here decides anything, and nothing takes a lock: who reads
//! while another process writes gets nothing, or what was there before.

use crate::error::Fault;
use crate::presence::cseq::CSeq;
use crate::presence::explain::{End, EndReason};
use crate::presence::notify_fate::{LatestNotify, NotifyFate};
use crate::presence::presentity::PresentityKey;
use crate::presence::subscription::{DialogId, Snapshot, Text};
use crate::presence::uri::identity;
use crate::shm::{KeyedHash, Memory};
use crate::store::Store;
use crate::store::sources::{Sent, Sources};
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};

/// Ends that are remembered: those that somebody may have to look into, and the others.
const ENDS: usize = 2048;
const ORDINARY_ENDS: usize = 1024;
/// Lanes that wait for another try.
const RETRIES: usize = 256;
/// Dialogs whose latest NOTIFY is remembered where subscriptions have no records.
pub const LATEST: usize = 4096;

/// All of it.
#[derive(Debug)]
pub struct Insight {
    /// Clients cannot choose names that share a place, for they do not know it.
    seed: u64,
    /// Who sends the most requests.
    sources: Sources,
    ends: Ring<ENDS>,
    ordinary_ends: Ring<ORDINARY_ENDS>,
    /// Counts ends: of two in one second one came later.
    order: AtomicU32,
    retries: [Entry; RETRIES],
    /// `LATEST` or none.
    latest: &'static [Entry],
}

/// What is known by a name; two numbers.
#[derive(Debug, Default)]
pub struct Entry {
    name: AtomicU64,
    values: [AtomicU64; 2],
}

impl Entry {
    fn set(&self, name: u64, values: [u64; 2]) {
        self.name.store(0, Ordering::Release);
        for (place, value) in self.values.iter().zip(values) {
            place.store(value, Ordering::Release);
        }
        self.name.store(name, Ordering::Release);
    }

    fn get(&self, name: u64) -> Option<[u64; 2]> {
        if self.name.load(Ordering::Acquire) != name {
            return None;
        }
        let [one, other] = &self.values;
        let values = [one.load(Ordering::Acquire), other.load(Ordering::Acquire)];
        (self.name.load(Ordering::Acquire) == name).then_some(values)
    }
}

/// The latest of many.
#[derive(Debug)]
struct Ring<const N: usize> {
    next: AtomicUsize,
    entries: [Entry; N],
}

impl<const N: usize> Ring<N> {
    fn new() -> Ring<N> {
        Ring { next: AtomicUsize::new(0), entries: std::array::from_fn(|_| Entry::default()) }
    }

    fn add(&self, name: u64, values: [u64; 2]) {
        let at = self.next.fetch_add(1, Ordering::Relaxed) % N;
        if let Some(entry) = self.entries.get(at) {
            entry.set(name, values);
        }
    }

    /// The latest of a name.
    fn find(&self, name: u64) -> Option<[u64; 2]> {
        let next = self.next.load(Ordering::Relaxed);
        let places = (1..=N).map(|back| next.wrapping_sub(back) % N);
        places.filter_map(|at| self.entries.get(at)?.get(name)).next()
    }
}

/// A lane that is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retry {
    /// What has failed.
    pub fault: Fault,
    /// Unix time of the first failure.
    pub since: i64,
    /// Unix time of the next try; `None`: it was given up until the next change.
    pub next: Option<i64>,
}

const FAULTS: [Fault; 6] = [
    Fault::SharedMemory,
    Fault::Database,
    Fault::Refused,
    Fault::Package,
    Fault::Host,
    Fault::TooLong,
];

impl Insight {
    /// Nothing yet. `latest` is `LATEST` entries where subscriptions are rows, else
    /// none.
    pub fn new(hash: &KeyedHash, latest: &'static [Entry]) -> Insight {
        Insight {
            seed: hash.hash(b"insight"),
            sources: Sources::default(),
            ends: Ring::new(),
            ordinary_ends: Ring::new(),
            order: AtomicU32::new(0),
            retries: std::array::from_fn(|_| Entry::default()),
            latest,
        }
    }
}

/// Two numbers of 32 bits in one.
fn pair(high: i64, low: u32) -> u64 {
    u64::from(u32::try_from(high).unwrap_or(u32::MAX)) << 32 | u64::from(low)
}

impl<M: Memory> Store<M> {
    /// A request has come from this address (its bytes; empty if that is not known),
    /// of this client.
    pub fn request_came(&self, address: &[u8], (user, host): (&[u8], &[u8]), now: i64) {
        let Insight { sources, seed, .. } = self.shared.insight;
        if !address.is_empty() {
            sources.addresses.count(&[address], *seed, now);
        }
        sources.clients.count(&[user, b"@", host], *seed, now);
    }

    /// What has been counted by `request_came`: the busiest addresses and clients.
    pub fn busiest(&self, most: usize, now: i64) -> [Vec<Sent>; 2] {
        let Insight { sources, seed, .. } = self.shared.insight;
        [&sources.addresses, &sources.clients].map(|senders| senders.busiest(most, *seed, now))
    }

    /// What a watcher and its presentity are called.
    fn watching_name(&self, key: &PresentityKey, user: &[u8], host: &[u8]) -> u64 {
        let watcher = identity(user, host, self.policy.user_case);
        let parts: [&[u8]; 3] = [&key.package.0.to_le_bytes(), &key.identity, &watcher];
        self.shared.hash.hash_parts(&parts).max(1)
    }

    /// A subscription has ended, or never began.
    pub fn remember_end(&self, subscription: &Snapshot, end: End) {
        let text = |field| subscription.text(field);
        let (user, host) = (text(Text::PresentityUser), text(Text::PresentityHost));
        let key = self.key(user, host, subscription.package);
        self.remember_end_of(&key, (text(Text::WatcherUser), text(Text::WatcherHost)), end);
    }

    /// The same of a watcher by its name.
    pub fn remember_end_of(&self, key: &PresentityKey, watcher: (&[u8], &[u8]), end: End) {
        let name = self.watching_name(key, watcher.0, watcher.1);
        let order = self.shared.insight.order.fetch_add(1, Ordering::Relaxed);
        let values = [pair(end.at, end.cseq.0), pair(i64::from(order), end.reason.to_bits())];
        match end.reason.is_ordinary() {
            true => self.shared.insight.ordinary_ends.add(name, values),
            false => self.shared.insight.ends.add(name, values),
        }
    }

    /// The last end that is remembered of a watcher's subscriptions.
    pub fn remembered_end(&self, key: &PresentityKey, watcher: (&[u8], &[u8])) -> Option<End> {
        let name = self.watching_name(key, watcher.0, watcher.1);
        let read = |[time, reason]: [u64; 2]| {
            let reason = EndReason::from_bits(reason as u32)?;
            Some(End { reason, at: (time >> 32) as i64, cseq: CSeq(time as u32) })
        };
        let insight = self.shared.insight;
        let found = [insight.ends.find(name), insight.ordinary_ends.find(name)];
        let next = insight.order.load(Ordering::Relaxed);
        let age = |[_, order]: &[u64; 2]| next.wrapping_sub((order >> 32) as u32);
        found.into_iter().flatten().min_by_key(age).and_then(read)
    }

    fn retry_place(&self, name: u64) -> Option<&Entry> {
        self.shared.insight.retries.get(name as usize % RETRIES)
    }

    /// A lane is tried again later, or `Retry::next` says that it is not; `None`: it has
    /// been served.
    pub fn remember_retry(&self, key: &PresentityKey, retry: Option<Retry>) {
        let name = self.presentity_hash(&key.identity, key.package).max(1);
        let Some(place) = self.retry_place(name) else { return };
        let known = place.get(name);
        match retry {
            Some(retry) => {
                let fault = FAULTS.iter().position(|fault| *fault == retry.fault).unwrap_or(0);
                let since = known.map_or(retry.since, |[since, _]| since as i64);
                let next = pair(retry.next.unwrap_or(0), fault as u32);
                place.set(name, [since.max(0) as u64, next]);
            }
            None if known.is_some() => place.set(0, [0, 0]),
            None => {}
        }
    }

    /// What is remembered of a lane that waits for another try.
    pub fn remembered_retry(&self, key: &PresentityKey) -> Option<Retry> {
        let name = self.presentity_hash(&key.identity, key.package).max(1);
        let [since, next] = self.retry_place(name)?.get(name)?;
        Some(Retry {
            fault: FAULTS.get(next as u32 as usize).copied()?,
            since: since as i64,
            next: Some((next >> 32) as i64).filter(|next| *next > 0),
        })
    }

    fn latest_place(&self, dialog: DialogId<'_>) -> Option<(u64, &Entry)> {
        let latest = self.shared.insight.latest;
        let name = self.dialog_hash(dialog).max(1);
        Some((name, latest.get(name as usize % latest.len().max(1))?))
    }

    /// What became of the latest NOTIFY of a subscription that is a row.
    pub fn remember_latest(&self, dialog: DialogId<'_>, cseq: CSeq, fate: NotifyFate, now: i64) {
        let Some((name, place)) = self.latest_place(dialog) else { return };
        let known = place.get(name).map(|[bits, _]| LatestNotify::from_bits(bits));
        let mut latest = known.unwrap_or_default();
        match fate {
            NotifyFate::Answered(code) => latest.answered(cseq, code, now),
            fate => latest.sent(cseq, fate, now),
        }
        place.set(name, [latest.to_bits(), 0]);
    }

    /// The same, remembered.
    pub fn remembered_latest(&self, dialog: DialogId<'_>) -> LatestNotify {
        let found = self.latest_place(dialog).and_then(|(name, place)| place.get(name));
        found.map(|[bits, _]| LatestNotify::from_bits(bits)).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_has_the_latest() {
        let ring = Ring::<4>::new();
        assert_eq!(ring.find(1), None);
        for n in 1..=9 {
            ring.add(n % 3 + 1, [n, n]);
        }
        assert_eq!([1, 2, 3].map(|name| ring.find(name)), [9, 7, 8].map(|n| Some([n, n])));
        (0..4).for_each(|_| ring.add(7, [0, 0]));
        assert_eq!(ring.find(1), None);
    }
}
