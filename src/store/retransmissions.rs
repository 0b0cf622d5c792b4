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
        let cseq = id.cseq.to_le_bytes();
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
