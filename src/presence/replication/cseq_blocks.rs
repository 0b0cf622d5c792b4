//! Which CSeqs a server may use for the NOTIFYs of a dialog that others may take
//! over, perhaps while both are alive and do not hear each other: no number is ever
//! used by two of them (A7, B23).
//!
//! CSeqs come in blocks. The first block is that of the server which has made the
//! dialog; of all others those are a server's whose number, modulo the number of
//! slots, is its slot. Who owns a dialog tells the others how far it may go without
//! telling them again (`announced`); who takes the dialog over begins with its first
//! block that lies above that. So ordinary dialogs count from 2 upwards, as ever.

/// CSeqs in a block.
pub const BLOCK: u32 = 256;
/// Slots for servers, and one that is nobody's.
const SLOTS: u32 = 1024;
/// How much of a block is used when the next one is announced.
const ANNOUNCED_AT: u32 = BLOCK / 2;
/// How much of a block is used when the next one is begun: what was announced has had
/// the time of so many NOTIFYs to arrive.
const LEFT_AT: u32 = BLOCK / 4 * 3;
/// CSeqs are below 2^31 (RFC 3261 8.1.1.5).
const LAST_BLOCK: u32 = (1 << 31) / BLOCK - 1;

/// CSeqs after which it is the same server's turn again.
const ROUND: u32 = BLOCK * SLOTS;

/// A server's share of the CSeqs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot(u16);

impl Slot {
    /// The slot of a server among those that are known. Everybody who knows the same
    /// servers comes to the same result, in which no two have the same slot unless
    /// there are more of them than slots.
    pub fn of(own: u64, others: &[u64]) -> Slot {
        let mut all: Vec<u64> = others.iter().copied().chain([own]).collect();
        all.sort_unstable();
        all.dedup();
        let mut taken = [false; SLOTS as usize];
        let mut slot = 1;
        for server in all {
            slot = 1 + (mixed(server) % u64::from(SLOTS - 1)) as usize;
            for _ in 1..SLOTS {
                if !taken[slot] {
                    break;
                }
                slot = if slot + 1 < SLOTS as usize { slot + 1 } else { 1 };
            }
            taken[slot] = true;
            if server == own {
                break;
            }
        }
        Slot(slot as u16)
    }

    /// From a number that was kept; 0 and what is too large are nobody's.
    pub fn from_number(number: u32) -> Option<Slot> {
        let slot = u16::try_from(number).ok().filter(|slot| u32::from(*slot) < SLOTS);
        slot.filter(|slot| *slot > 0).map(Slot)
    }

    /// As a number.
    pub fn number(self) -> u32 {
        u32::from(self.0)
    }

    /// The CSeq before the first one of this server's first block above that CSeq.
    /// `None` when there is none: the dialog has to end.
    pub fn base_above(self, cseq: u32) -> Option<u32> {
        let after = cseq / BLOCK + 1;
        let ahead = (SLOTS + self.number() - after % SLOTS) % SLOTS;
        let block = after + ahead;
        (block <= LAST_BLOCK).then(|| block * BLOCK - 1)
    }

    /// As `base_above`, where another server has served the watcher meanwhile, of whose
    /// CSeqs nothing is known but that they begin above this one, too.
    pub fn base_beyond(self, cseq: u32) -> Option<u32> {
        self.base_above(cseq.saturating_add(ROUND))
    }

    /// How far the owner of a dialog, whose last NOTIFY had this CSeq, may go without
    /// telling the others.
    pub fn announced(self, used: u32) -> u32 {
        let end_of = |base: u32| (base + 1) | (BLOCK - 1);
        let this_end = used | (BLOCK - 1);
        match used % BLOCK < ANNOUNCED_AT {
            true => this_end,
            // A NOTIFY without a number to follow is the dialog's end.
            false => self.base_above(used).map_or(this_end, end_of),
        }
    }

    /// What has to be done when a NOTIFY with this CSeq has been numbered.
    pub fn step(self, used: u32) -> Step {
        match used % BLOCK {
            ANNOUNCED_AT => Step::Announce,
            LEFT_AT => self.base_above(used).map_or(Step::None, Step::Leave),
            _ => Step::None,
        }
    }
}

fn mixed(server: u64) -> u64 {
    let mixed = (server ^ server >> 31).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^ mixed >> 29
}

/// What a CSeq makes necessary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Nothing.
    None,
    /// The others have to know of the next block.
    Announce,
    /// The next NOTIFY comes after this number.
    Leave(u32),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_that_know_each_other_have_slots_of_their_own() {
        // So many that each slot is wanted by somebody.
        let all: Vec<u64> = (0..u64::from(SLOTS - 1)).map(|n| 7 + n * n).collect();
        let mut slots: Vec<u32> = all.iter().map(|own| Slot::of(*own, &all).number()).collect();
        slots.sort_unstable();
        assert_eq!(slots, (1..SLOTS).collect::<Vec<u32>>());
        // One more has some slot all the same.
        assert!(Slot::of(9, &all).number() > 0);
        assert_eq!(Slot::of(300, &[]), Slot::of(300, &[4, 5]));
    }

    #[test]
    fn a_number_that_was_kept_is_a_slot_again() {
        for number in [0, SLOTS, 1 << 20] {
            assert_eq!(Slot::from_number(number), None);
        }
        for number in [1, SLOTS - 1] {
            assert_eq!(Slot::from_number(number).map(Slot::number), Some(number));
        }
    }

    #[test]
    fn who_takes_over_begins_above_what_was_announced() {
        for slot in [1, 2, 77, 255].map(Slot) {
            for used in (1..3_000_000).step_by(333) {
                let announced = slot.announced(used);
                assert!(announced >= used);
                for other in [1, 3, 76, 78, 254].map(Slot) {
                    let Some(base) = other.base_above(announced) else { unreachable!() };
                    assert!(base >= announced, "{slot:?} {other:?} {used}");
                    assert_eq!((base + 1) % BLOCK, 0);
                    assert_eq!((base + 1) / BLOCK % SLOTS, other.number());
                    // Not further than once round.
                    assert!(base - announced <= (SLOTS + 1) * BLOCK);
                }
            }
        }
    }

    /// Whoever owns the dialog, and however often it changes hands, no number is used
    /// twice, and all rise.
    #[test]
    fn an_owner_never_goes_beyond_what_it_has_announced() {
        let slot = Slot(9);
        let (mut used, mut notified) = (1, slot.announced(1));
        for _ in 0..20_000 {
            used += 1;
            assert!(used <= notified, "{used} {notified}");
            // Always in the creator's block or an own one.
            assert!(used / BLOCK == 0 || used / BLOCK % SLOTS == 9, "{used}");
            match slot.step(used) {
                Step::None => {}
                Step::Announce => notified = slot.announced(used),
                Step::Leave(base) => {
                    assert!(base >= used && base < notified);
                    used = base;
                }
            }
        }
        assert!(used > 20_000);
    }

    #[test]
    fn there_is_an_end() {
        assert_eq!(Slot(1).base_above((1 << 31) - 1), None);
        let base = Slot(255).base_above(0).map(|base| base + 1);
        assert_eq!(base, Some(255 * BLOCK));
        let beyond = Slot(255).base_beyond(0).map(|base| base + 1);
        assert_eq!(beyond, Some(255 * BLOCK + ROUND));
        let last = (1u32 << 31) - 1;
        assert_eq!(Slot(3).announced(last), last);
        assert_eq!(Slot(3).step(last - BLOCK / 4 + 1), Step::None);
    }
}
