//! Answers given lately, so that a request that reaches the module twice gets
//! the same answer and changes nothing (A9). A fixed table, allocated once:
//! under pressure the oldest answers go first.

use crate::presence::request::RequestId;
use crate::shm::{KeyedHash, Memory};
use lock_api::Mutex;

/// A request is retransmitted for at most 32 s (RFC 3261 timer F).
const MEMORY_SECONDS: i64 = 32;
/// Answers in one set of the table.
const WAYS: usize = 4;
/// Longest entity-tag that is kept; ours are shorter.
const MAX_TAG: usize = 64;

/// An answer that was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// SIP status code.
    pub code: u16,
    /// Value of Expires.
    pub expires: u32,
    /// Value of SIP-ETag (PUBLISH).
    pub entity_tag: Vec<u8>,
}

/// What is known of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// New: the caller handles it and then says `answered` or `forget`.
    New,
    /// Another process is handling it right now.
    InProgress,
    /// It was answered.
    Answered(Answer),
}

#[derive(Clone, Copy)]
struct Entry {
    hash: u64,
    check: u64,
    at: i64,
    expires: u32,
    code: u16,
    tag_len: u8,
    tag: [u8; MAX_TAG],
}

const FREE: Entry =
    Entry { hash: 0, check: 0, at: i64::MIN, expires: 0, code: 0, tag_len: 0, tag: [0; MAX_TAG] };

/// One set of the table.
#[derive(Clone, Copy)]
pub struct Set([Entry; WAYS]);

impl Set {
    /// A set without answers.
    pub const EMPTY: Set = Set([FREE; WAYS]);
}

/// The table of answers.
pub struct Retransmissions<M: Memory> {
    sets: &'static [Mutex<M::Lock, Set>],
    hash: &'static KeyedHash,
}

/// Names a request in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestKey {
    hash: u64,
    check: u64,
}

impl<M: Memory> Retransmissions<M> {
    /// A table over sets in shared memory; their number is a power of two.
    pub fn new(sets: &'static [Mutex<M::Lock, Set>], hash: &'static KeyedHash) -> Self {
        Retransmissions { sets, hash }
    }

    /// The key of a request: method, Call-ID, From tag, CSeq, top Via branch.
    pub fn key(&self, method: &[u8], id: RequestId<'_>) -> RequestKey {
        let cseq = id.cseq.0.to_le_bytes();
        let parts = [method, id.call_id, id.from_tag, &cseq, id.branch];
        RequestKey {
            hash: self.hash.hash_parts(&parts),
            check: self.hash.hash_parts(&[
                &b"check"[..],
                method,
                id.call_id,
                id.from_tag,
                &cseq,
                id.branch,
            ]),
        }
    }

    /// Looks a request up and claims it if it is new.
    pub fn claim(&self, key: RequestKey, now: i64) -> Seen {
        self.with(key, |set| {
            if let Some(entry) = set.0.iter().find(|e| key.is(e) && now - e.at < MEMORY_SECONDS) {
                if entry.code == 0 {
                    return Seen::InProgress;
                }
                return Seen::Answered(Answer {
                    code: entry.code,
                    expires: entry.expires,
                    entity_tag: entry
                        .tag
                        .get(..usize::from(entry.tag_len))
                        .unwrap_or_default()
                        .to_vec(),
                });
            }
            // What is left of the request itself first: it must not be there twice.
            let age = |e: &&mut Entry| if key.is(e) { i64::MIN } else { e.at };
            if let Some(oldest) = set.0.iter_mut().min_by_key(age) {
                *oldest = Entry { hash: key.hash, check: key.check, at: now, ..FREE };
            }
            Seen::New
        })
        .unwrap_or(Seen::New)
    }

    /// A claimed request was answered with success.
    pub fn answered(&self, key: RequestKey, answer: &Answer) {
        let _ = self.with(key, |set| {
            let Some(entry) = set.0.iter_mut().find(|e| key.is(e)) else { return };
            let Ok(tag_len) = u8::try_from(answer.entity_tag.len()) else {
                *entry = FREE;
                return;
            };
            match entry.tag.get_mut(..usize::from(tag_len)) {
                Some(tag) => tag.copy_from_slice(&answer.entity_tag),
                None => {
                    *entry = FREE;
                    return;
                }
            }
            entry.tag_len = tag_len;
            entry.code = answer.code;
            entry.expires = answer.expires;
        });
    }

    /// A claimed request was refused: a retransmission is judged anew.
    pub fn forget(&self, key: RequestKey) {
        let _ = self.with(key, |set| {
            if let Some(entry) = set.0.iter_mut().find(|e| key.is(e)) {
                *entry = FREE;
            }
        });
    }

    fn with<R>(&self, key: RequestKey, work: impl FnOnce(&mut Set) -> R) -> Option<R> {
        let set = self.sets.get(key.hash as usize & self.sets.len().saturating_sub(1))?;
        Some(work(&mut set.lock()))
    }
}

impl RequestKey {
    fn is(self, entry: &Entry) -> bool {
        entry.at != i64::MIN && entry.hash == self.hash && entry.check == self.check
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::presence::cseq::CSeq;
    use crate::shm::TestMemory;

    /// A table of one set: whatever is asked for competes for its places.
    fn table() -> Retransmissions<TestMemory> {
        let sets = vec![Mutex::new(Set::EMPTY)].leak();
        Retransmissions::new(sets, Box::leak(Box::new(KeyedHash::new([7; 16]))))
    }

    const FIRST: RequestId<'static> =
        RequestId { call_id: b"c", from_tag: b"f", cseq: CSeq(1), branch: b"b" };

    fn answer(entity_tag: &[u8]) -> Answer {
        Answer { code: 200, expires: 3600, entity_tag: entity_tag.to_vec() }
    }

    fn numbered(table: &Retransmissions<TestMemory>, cseq: u32) -> RequestKey {
        table.key(b"PUBLISH", RequestId { cseq: CSeq(cseq), ..FIRST })
    }

    #[test]
    fn an_answer_is_given_again_for_32_seconds() {
        let table = table();
        let key = numbered(&table, 1);
        assert_eq!(table.claim(key, 100), Seen::New);
        assert_eq!(table.claim(key, 100), Seen::InProgress);
        assert_eq!(table.claim(key, 131), Seen::InProgress);
        table.answered(key, &answer(b"tag"));
        assert_eq!(table.claim(key, 131), Seen::Answered(answer(b"tag")));
        assert_eq!(table.claim(key, 132), Seen::New);
        assert_eq!(table.claim(key, 132), Seen::InProgress, "the old answer is gone");
    }

    #[test]
    fn every_part_of_its_identity_tells_a_request_from_others() {
        let table = table();
        let first = table.key(b"PUBLISH", FIRST);
        assert_eq!(first, table.key(b"PUBLISH", FIRST));
        for other in [
            table.key(b"SUBSCRIBE", FIRST),
            table.key(b"PUBLISH", RequestId { call_id: b"x", ..FIRST }),
            table.key(b"PUBLISH", RequestId { from_tag: b"x", ..FIRST }),
            table.key(b"PUBLISH", RequestId { cseq: CSeq(2), ..FIRST }),
            table.key(b"PUBLISH", RequestId { branch: b"x", ..FIRST }),
        ] {
            assert!(first.hash != other.hash && first.check != other.check);
        }
        // One half alone may meet by chance.
        table.claim(first, 0);
        for other in [RequestKey { hash: 0, ..first }, RequestKey { check: 0, ..first }] {
            assert_eq!(table.claim(other, 0), Seen::New);
        }
    }

    #[test]
    fn what_was_refused_is_judged_anew() {
        let table = table();
        let (key, other) = (numbered(&table, 1), numbered(&table, 2));
        table.claim(key, 0);
        table.claim(other, 0);
        table.answered(other, &answer(b""));
        table.forget(key);
        assert_eq!(table.claim(key, 0), Seen::New);
        assert_eq!(table.claim(other, 0), Seen::Answered(answer(b"")));
    }

    #[test]
    fn a_tag_is_given_whole_or_not_at_all() {
        let table = table();
        for (length, is_kept) in [(1, true), (64, true), (65, false), (256, false), (300, false)] {
            let (key, answer) = (numbered(&table, length), answer(&vec![b't'; length as usize]));
            table.claim(key, 0);
            table.answered(key, &answer);
            let expected = if is_kept { Seen::Answered(answer) } else { Seen::New };
            assert_eq!(table.claim(key, 1), expected, "{length}");
            table.forget(key);
        }
    }

    #[test]
    fn under_pressure_the_oldest_answer_goes() {
        let table = table();
        let keys: Vec<_> = (0..5).map(|cseq| numbered(&table, cseq)).collect();
        for (key, now) in keys.iter().zip([12, 11, 13, 14, 15]) {
            assert_eq!(table.claim(*key, now), Seen::New);
            table.answered(*key, &answer(b""));
        }
        for n in [0, 2, 3, 4] {
            assert_eq!(table.claim(keys[n], 16), Seen::Answered(answer(b"")), "{n}");
        }
        assert_eq!(table.claim(keys[1], 16), Seen::New);
    }

    /// Also when the clock was put back, and another one is older.
    #[test]
    fn a_request_is_there_once() {
        let table = table();
        let keys: Vec<_> = (0..4).map(|cseq| numbered(&table, cseq)).collect();
        for (key, now) in keys.iter().zip([1, 0, 20, 21]) {
            table.claim(*key, now);
        }
        assert_eq!(table.claim(keys[0], 34), Seen::New);
        table.answered(keys[0], &answer(b""));
        assert_eq!(table.claim(keys[0], 34), Seen::Answered(answer(b"")));
    }
}
