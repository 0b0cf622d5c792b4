//! The CSeqs that this server has used last in dialogs whose rows count them
//! (`subs_db_mode=3`), should a row go back (`presence/cseq_floor.rs`).
//!
//! A table of fixed size without locks. A dialog has a few places by its hash; in one
//! there are bits of the hash, the CSeq, and how often the database had been away.
//! Where all are taken another dialog is forgotten, which then has its row alone;
//! where two dialogs share the bits, one of them leaves numbers out.

use crate::presence::cseq::CSeq;
use crate::presence::cseq_floor::{self, Used};
use crate::presence::subscription::DialogId;
use crate::shm::Memory;
use crate::store::Store;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

/// Places of a dialog.
const PLACES: usize = 4;

/// Makes the hash of a dialog that of its end.
const END: u64 = 0xe4d0_0000_0000_0e4d;

/// Of free shared memory one part in so many is taken for the table.
const PART: usize = 64;
const FEWEST: usize = 1 << 10;
const MOST: usize = 1 << 20;

/// Places in a table, for so many bytes of free shared memory.
pub fn places(free: usize) -> usize {
    let wanted = (free / PART / size_of::<AtomicU64>()).clamp(FEWEST, MOST);
    // A power of two, not more than that.
    1 << wanted.ilog2()
}

/// In shared memory.
#[derive(Debug)]
pub struct CseqFloors {
    /// Empty where rows do not count.
    places: &'static [AtomicU64],
    /// How often rows were seen that had gone back.
    went_back: AtomicU32,
    /// As many losses had been looked into.
    looked: AtomicU32,
}

/// One entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    tag: u32,
    losses: u8,
    cseq: CSeq,
}

impl Entry {
    fn pack(self) -> u64 {
        u64::from(self.tag) << 40 | u64::from(self.losses) << 32 | u64::from(self.cseq.0)
    }

    /// `None` for a place that nobody has.
    fn unpack(packed: u64) -> Option<Entry> {
        let tag = (packed >> 40) as u32;
        (tag != 0).then_some(Entry { tag, losses: (packed >> 32) as u8, cseq: CSeq(packed as u32) })
    }
}

impl CseqFloors {
    /// Over empty places; their number is a power of two, or none.
    pub fn new(places: &'static [AtomicU64]) -> CseqFloors {
        CseqFloors { places, went_back: AtomicU32::new(0), looked: AtomicU32::new(0) }
    }

    /// How often something may have been lost. `outages`: as the database counts.
    fn losses(&self, outages: u32) -> u32 {
        outages.wrapping_add(self.went_back.load(Relaxed))
    }

    /// The tag of a hash, and its places.
    fn of(&self, hash: u64) -> (u32, &[AtomicU64]) {
        let tag = (hash >> 40).max(1) as u32;
        let groups = self.places.len() / PLACES;
        let at = hash as usize & groups.wrapping_sub(1);
        let places = self.places.get(at * PLACES..(at + 1) * PLACES).unwrap_or_default();
        (tag, places)
    }

    fn find(&self, hash: u64) -> Option<Entry> {
        let (tag, places) = self.of(hash);
        places
            .iter()
            .filter_map(|place| Entry::unpack(place.load(Relaxed)))
            .find(|entry| entry.tag == tag)
    }

    fn used(&self, hash: u64, losses: u32) -> Option<Used> {
        let entry = self.find(hash)?;
        Some(Used { cseq: entry.cseq, is_before: entry.losses != losses as u8 })
    }

    fn keep(&self, hash: u64, cseq: CSeq, losses: u32) {
        let (tag, places) = self.of(hash);
        let entry = Entry { tag, losses: losses as u8, cseq };
        let is = |packed: u64, wanted: Option<u32>| Entry::unpack(packed).map(|e| e.tag) == wanted;
        let place = |wanted| places.iter().find(|place| is(place.load(Relaxed), wanted));
        // Any of them has to go.
        let victim = || places.get(cseq.0 as usize % PLACES);
        if let Some(place) = place(Some(tag)).or_else(|| place(None)).or_else(victim) {
            place.store(entry.pack(), Relaxed);
        }
    }
}

impl<M: Memory> Store<M> {
    /// The CSeq behind which a dialog goes on, whose row knows `row` as the last one.
    /// `outages`: as the database counts.
    pub fn cseq_floor(&self, dialog: DialogId<'_>, row: CSeq, outages: u32) -> CSeq {
        let floors = self.shared.floors;
        let losses = floors.losses(outages);
        let used = floors.used(self.dialog_hash(dialog), losses);
        cseq_floor::floor(row, used, losses != 0)
    }

    /// The CSeqs up to `cseq` were taken in a row that knew `row`.
    pub fn cseq_used(&self, dialog: DialogId<'_>, row: CSeq, cseq: CSeq, outages: u32) {
        let (floors, hash) = (self.shared.floors, self.dialog_hash(dialog));
        let used = floors.used(hash, floors.losses(outages));
        if used.is_some_and(|used| used.has_lost(row) && !used.is_before) {
            // The first one to see it.
            floors.went_back.fetch_add(1, Relaxed);
        }
        floors.keep(hash, cseq, floors.losses(outages));
    }

    /// The row of a dialog, which knows `row` as the last CSeq, is older than what its
    /// watcher was notified by us.
    pub fn has_gone_back(&self, dialog: DialogId<'_>, row: CSeq) -> bool {
        let entry = self.shared.floors.find(self.dialog_hash(dialog));
        entry.is_some_and(|entry| row < entry.cseq)
    }

    /// The last NOTIFY of a dialog has left, with this CSeq, and its row is still there.
    pub fn end_was_reported(&self, dialog: DialogId<'_>, cseq: CSeq) {
        let floors = self.shared.floors;
        floors.keep(self.dialog_hash(dialog) ^ END, cseq, 0);
    }

    /// That was so for this row, which knows `row` as the last CSeq.
    pub fn is_end_reported(&self, dialog: DialogId<'_>, row: CSeq) -> bool {
        let entry = self.shared.floors.find(self.dialog_hash(dialog) ^ END);
        entry.is_some_and(|entry| entry.cseq == row)
    }

    /// Something may have been lost since the last call that has said so; one caller
    /// is given that.
    pub fn begin_to_look_back(&self, outages: u32) -> bool {
        let floors = self.shared.floors;
        let losses = floors.losses(outages);
        !floors.places.is_empty() && floors.looked.swap(losses, Relaxed) != losses
    }

    /// What was lost could not be looked into.
    pub fn look_back_again(&self, outages: u32) {
        let floors = self.shared.floors;
        floors.looked.store(floors.losses(outages).wrapping_sub(1), Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(places: usize) -> CseqFloors {
        let places: Vec<AtomicU64> = (0..places).map(|_| AtomicU64::new(0)).collect();
        CseqFloors::new(places.leak())
    }

    fn hash(n: u64) -> u64 {
        n.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1 << 45
    }

    #[test]
    fn a_dialog_is_found_again() {
        let floors = table(1024);
        for n in 0..100 {
            floors.keep(hash(n), CSeq(n as u32 + 5), 1);
        }
        for n in 0..100 {
            let used = floors.used(hash(n), 1);
            assert_eq!(used, Some(Used { cseq: CSeq(n as u32 + 5), is_before: false }));
            assert!(floors.used(hash(n), 2).is_some_and(|used| used.is_before));
        }
        floors.keep(hash(7), CSeq(90), 2);
        assert_eq!(floors.used(hash(7), 2), Some(Used { cseq: CSeq(90), is_before: false }));
        assert_eq!(floors.used(hash(5000), 2), None);
    }

    #[test]
    fn its_size_has_a_bound() {
        let floors = table(16);
        for n in 0..10_000 {
            floors.keep(hash(n), CSeq(n as u32 + 1), 0);
            assert_eq!(floors.find(hash(n)).map(|entry| entry.cseq), Some(CSeq(n as u32 + 1)));
        }
        let known = (0..10_000).filter(|n| floors.find(hash(*n)).is_some()).count();
        assert!((1..=16).contains(&known), "{known}");
        let none = table(0);
        none.keep(1, CSeq(2), 3);
        assert_eq!(none.find(1), None);
        assert_eq!((places(0), places(64 << 20), places(usize::MAX)), (1024, 1 << 17, 1 << 20));
    }
}
