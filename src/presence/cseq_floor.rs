//! From where a dialog counts on when its row may have gone back: a standby that
//! lacks the last changes has taken the database's place, or somebody has restored
//! it. A watcher drops a NOTIFY whose CSeq it has seen.

use crate::presence::cseq::CSeq;

/// CSeqs that are left out where other servers may have used some of which the row
/// knows nothing any more: far more than an asynchronous standby lacks of one dialog.
pub const LEFT_OUT: u32 = 1000;

/// None are left out beyond this one: the numbers of a dialog end at 2^31.
const MOST: CSeq = CSeq(1 << 30);

/// The last CSeq that this server has used in a dialog.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Used {
    /// The number.
    pub cseq: CSeq,
    /// It was used before the database was last away or exchanged.
    pub is_before: bool,
}

impl Used {
    /// The row is older than that: the database has gone back.
    pub fn has_lost(self, row: CSeq) -> bool {
        row < self.cseq
    }
}

/// The CSeq behind which the dialog goes on. `row`: the last one that the row knows;
/// `was_away`: the database has been away or exchanged since the start.
pub fn floor(row: CSeq, used: Option<Used>, was_away: bool) -> CSeq {
    let known = used.map_or(row, |used| row.max(used.cseq));
    // What was used here since then, others have seen in the row.
    let is_sure = match used {
        None => !was_away,
        Some(used) => !used.is_before && !used.has_lost(row),
    };
    if is_sure || known >= MOST { known } else { known.saturating_add(LEFT_OUT) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn used(cseq: u32) -> Option<Used> {
        Some(Used { cseq: CSeq(cseq), is_before: false })
    }

    fn floor(row: u32, used: Option<Used>, was_away: bool) -> u32 {
        super::floor(CSeq(row), used, was_away).0
    }

    #[test]
    fn an_ordinary_dialog_has_no_gaps() {
        assert_eq!(floor(1, None, false), 1);
        assert_eq!(floor(7, used(7), false), 7);
        // Another server has gone on.
        assert_eq!(floor(9, used(7), false), 9);
        assert_eq!(floor(9, used(9), true), 9, "seen since the database was away");
    }

    #[test]
    fn what_was_used_is_never_used_again() {
        for (row, known, was_away) in [(100, 133, false), (100, 133, true)] {
            assert_eq!(floor(row, used(known), was_away), known + LEFT_OUT);
        }
        // Of what another server has used nothing is known here.
        assert_eq!(floor(100, None, true), 100 + LEFT_OUT);
        let before = Some(Used { cseq: CSeq(100), is_before: true });
        assert_eq!(floor(100, before, true), 100 + LEFT_OUT);
    }

    #[test]
    fn the_numbers_do_not_run_out() {
        let most = MOST.0;
        assert_eq!(floor(most, None, true), most);
        assert_eq!(floor(5, used(most + 3), true), most + 3);
        let mut cseq = 1;
        for _ in 0..2_000_000 {
            cseq = floor(cseq, None, true);
        }
        assert!((most..most + LEFT_OUT).contains(&cseq));
    }
}
