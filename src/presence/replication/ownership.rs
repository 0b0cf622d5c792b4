//! Which server owns a dialog. One does, and it alone sends NOTIFYs. There is no
//! clock in it: what counts is what the watcher has seen. A server that has served a
//! later SUBSCRIBE of the dialog owns it; where the last SUBSCRIBE is the same one, the
//! server whose NOTIFYs have the higher CSeqs, which is the one that has taken over.

use std::cmp::Ordering;

/// What a server claims of a dialog. The greatest claim holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct DialogClaim {
    /// CSeq of the last SUBSCRIBE that it has served.
    pub remote_cseq: u32,
    /// CSeq up to which its NOTIFYs may go.
    pub local_cseq: u32,
    /// The server, as it calls itself since its start: so no two claims are equal.
    pub node: u64,
}

/// A dialog as one server knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    /// The greatest claim to it.
    pub claim: DialogClaim,
    /// Where its owner is to be found: the hash of its address.
    pub owner: u64,
    /// When the owner has said so, by its own count; 0 where it gives none.
    pub said: u64,
    /// It has ended.
    pub is_over: bool,
}

/// What a message about a dialog means to who hears it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Judgment {
    /// It is news.
    News,
    /// It is known already, or older than what is known.
    Old,
    /// Its sender does not know that the dialog is another one's: it has to be told.
    Mistaken,
}

/// What is to be thought of what somebody says of a dialog, who owns it or has heard
/// of it from its owner.
pub fn judge(known: Option<&Known>, new: &Known) -> Judgment {
    let Some(known) = known else { return Judgment::News };
    if (known.owner, known.claim.node) == (new.owner, new.claim.node) {
        // The same server, whose messages may overtake each other.
        let later = match (known.said, new.said) {
            (0, _) | (_, 0) => by_progress(known, new),
            (before, now) => now.cmp(&before),
        };
        return if later == Ordering::Greater { Judgment::News } else { Judgment::Old };
    }
    match new.claim.cmp(&known.claim) {
        Ordering::Greater => Judgment::News,
        Ordering::Equal => Judgment::Old,
        Ordering::Less => Judgment::Mistaken,
    }
}

/// Without a count of the server's: it does not go back. What does not go on is taken
/// as it arrives, unless it brings back what has ended.
fn by_progress(known: &Known, new: &Known) -> Ordering {
    let progress = |known: &Known| (known.claim.remote_cseq, known.claim.local_cseq);
    match progress(new).cmp(&progress(known)) {
        Ordering::Equal if known.is_over => Ordering::Less,
        Ordering::Equal => Ordering::Greater,
        other => other,
    }
}

/// Whether this server is the one of all that are left which takes over a dialog
/// whose owner is gone. All that know the same servers agree; each gets its share.
pub fn is_heir(dialog: u64, own: u64, others: &[u64]) -> bool {
    let weight = |server: u64| {
        let mixed = (dialog ^ server).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        ((mixed ^ mixed >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9), server)
    };
    others.iter().all(|other| *other == own || weight(*other) < weight(own))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(remote_cseq: u32, local_cseq: u32, node: u64, said: u64) -> Known {
        let claim = DialogClaim { remote_cseq, local_cseq, node };
        Known { claim, owner: node * 10, said, is_over: false }
    }

    #[test]
    fn what_nobody_knows_is_news() {
        assert_eq!(judge(None, &known(1, 1023, 1, 5)), Judgment::News);
    }

    #[test]
    fn an_owners_messages_may_arrive_in_any_order() {
        let (first, second) = (known(1, 1023, 1, 5), known(1, 1023, 1, 6));
        assert_eq!(judge(Some(&first), &second), Judgment::News);
        assert_eq!(judge(Some(&second), &first), Judgment::Old);
        assert_eq!(judge(Some(&second), &second), Judgment::Old);
        // One that keeps no count, as the stock module.
        let (first, second) = (known(1, 7, 1, 0), known(2, 9, 1, 0));
        assert_eq!(judge(Some(&first), &second), Judgment::News);
        assert_eq!(judge(Some(&second), &first), Judgment::Old);
        assert_eq!(judge(Some(&first), &first), Judgment::News);
        let over = Known { is_over: true, ..first };
        assert_eq!(judge(Some(&over), &first), Judgment::Old);
        assert_eq!(judge(Some(&over), &second), Judgment::News);
        assert_eq!(judge(Some(&first), &over), Judgment::News);
    }

    #[test]
    fn of_two_owners_exactly_one_yields() {
        let claims = [
            known(1, 1023, 1, 0),
            known(1, 5119, 2, 0),
            known(2, 1023, 3, 0),
            known(2, 1023, 4, 9),
            known(3, 0, 5, 1),
        ];
        for (one, first) in claims.iter().enumerate() {
            for second in &claims[one + 1..] {
                assert_eq!(judge(Some(first), second), Judgment::News);
                assert_eq!(judge(Some(second), first), Judgment::Mistaken);
            }
        }
    }

    #[test]
    fn what_was_ended_by_its_owner_comes_back_only_for_a_later_subscribe() {
        let over = Known { is_over: true, ..known(4, 1023, 1, 8) };
        assert_eq!(judge(Some(&over), &known(3, 9215, 2, 9)), Judgment::Mistaken);
        assert_eq!(judge(Some(&over), &known(5, 9215, 2, 9)), Judgment::News);
    }

    #[test]
    fn each_dialog_has_one_heir_and_each_server_inherits() {
        let servers = [3u64, 99, 1 << 40];
        let mut shares = [0; 3];
        for dialog in 0..3000u64 {
            let dialog = dialog.wrapping_mul(0x2545_f491_4f6c_dd1d);
            let heirs = servers.map(|own| is_heir(dialog, own, &servers));
            assert_eq!(heirs.iter().filter(|heir| **heir).count(), 1);
            heirs.iter().zip(&mut shares).for_each(|(heir, share)| *share += u32::from(*heir));
        }
        assert!(shares.iter().all(|share| (700..1300).contains(share)), "{shares:?}");
        assert!(is_heir(5, 1, &[]));
    }
}
