//! What became of a subscription's latest NOTIFY, in few bytes: each subscription
//! keeps it, for those who ask why a watcher sees what it sees.

use crate::presence::cseq::CSeq;

/// What became of a NOTIFY.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum NotifyFate {
    /// There has been none since the server was started.
    #[default]
    None,
    /// It was handed to the transaction layer; no answer has come yet.
    Sent,
    /// Its final answer; 408 also stands for none.
    Answered(u16),
    /// The script has dropped it.
    Dropped,
    /// It could not be built or routed.
    Unroutable,
    /// The watcher's connection is gone.
    ConnectionGone,
}

/// The latest NOTIFY of a subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LatestNotify {
    /// When it was sent: seconds of the Unix time.
    sent_at: u32,
    /// The low half of its CSeq.
    cseq: u16,
    /// What became of it; numbers from 100 on are codes of answers.
    fate: u16,
}

/// The first code of a final answer.
const FIRST_CODE: u16 = 100;

impl LatestNotify {
    /// A NOTIFY of this CSeq was sent, or was not. Its answer may have come already.
    pub fn sent(&mut self, CSeq(cseq): CSeq, fate: NotifyFate, now: i64) {
        let is_answered = self.cseq == cseq as u16 && self.fate >= FIRST_CODE;
        if !(is_answered && fate == NotifyFate::Sent) {
            self.fate = number(fate);
        }
        self.cseq = cseq as u16;
        self.sent_at = u32::try_from(now).unwrap_or(u32::MAX);
    }

    /// A NOTIFY of this CSeq was answered. That of an older one says nothing any
    /// more.
    pub fn answered(&mut self, CSeq(cseq): CSeq, code: u16, now: i64) {
        let is_older = (cseq as u16).wrapping_sub(self.cseq) > u16::MAX / 2;
        if is_older && self.fate != 0 {
            return;
        }
        if self.cseq != cseq as u16 || self.fate == 0 {
            // It comes sooner than the note that it was sent.
            self.sent_at = u32::try_from(now).unwrap_or(u32::MAX);
        }
        self.cseq = cseq as u16;
        self.fate = code.max(FIRST_CODE);
    }

    /// What became of it.
    pub fn fate(&self) -> NotifyFate {
        match self.fate {
            0 => NotifyFate::None,
            1 => NotifyFate::Sent,
            2 => NotifyFate::Dropped,
            3 => NotifyFate::Unroutable,
            4 => NotifyFate::ConnectionGone,
            code => NotifyFate::Answered(code),
        }
    }

    /// When it was sent; 0 if there was none.
    pub fn sent_at(&self) -> i64 {
        i64::from(self.sent_at)
    }

    /// As a number, and from one.
    pub fn to_bits(self) -> u64 {
        u64::from(self.sent_at) << 32 | u64::from(self.cseq) << 16 | u64::from(self.fate)
    }

    /// What `to_bits` has given.
    pub fn from_bits(bits: u64) -> LatestNotify {
        LatestNotify { sent_at: (bits >> 32) as u32, cseq: (bits >> 16) as u16, fate: bits as u16 }
    }
}

fn number(fate: NotifyFate) -> u16 {
    match fate {
        NotifyFate::None => 0,
        NotifyFate::Sent => 1,
        NotifyFate::Dropped => 2,
        NotifyFate::Unroutable => 3,
        NotifyFate::ConnectionGone => 4,
        NotifyFate::Answered(code) => code.max(FIRST_CODE),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_answer_may_come_before_the_note_that_the_notify_was_sent() {
        let mut latest = LatestNotify::default();
        assert_eq!((latest.fate(), latest.sent_at()), (NotifyFate::None, 0));
        latest.answered(CSeq(2), 200, 9);
        latest.sent(CSeq(2), NotifyFate::Sent, 10);
        assert_eq!((latest.fate(), latest.sent_at()), (NotifyFate::Answered(200), 10));
        latest.sent(CSeq(3), NotifyFate::Sent, 11);
        assert_eq!(latest.fate(), NotifyFate::Sent);
        // That of an older one says nothing about this one.
        latest.answered(CSeq(2), 481, 12);
        assert_eq!(latest.fate(), NotifyFate::Sent);
        latest.answered(CSeq(3), 500, 13);
        assert_eq!((latest.fate(), latest.sent_at()), (NotifyFate::Answered(500), 11));
        latest.sent(CSeq(4), NotifyFate::ConnectionGone, 14);
        assert_eq!(latest.fate(), NotifyFate::ConnectionGone);
    }

    #[test]
    fn it_is_small() {
        assert_eq!(size_of::<LatestNotify>(), 8);
    }

    proptest! {
        #[test]
        fn it_comes_back_from_its_bits(cseq: u32, code in 100u16..700, now in 0u32..) {
            let mut latest = LatestNotify::default();
            latest.sent(CSeq(cseq), NotifyFate::Sent, i64::from(now));
            prop_assert_eq!(LatestNotify::from_bits(latest.to_bits()), latest);
            latest.answered(CSeq(cseq), code, 0);
            prop_assert_eq!(LatestNotify::from_bits(latest.to_bits()), latest);
            prop_assert_eq!(latest.fate(), NotifyFate::Answered(code));
            prop_assert_eq!(latest.sent_at(), i64::from(now));
        }
    }
}
