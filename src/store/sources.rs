//! Who sends the most requests: the addresses they come from, and the clients they
//! name. Tables of fixed size in shared memory that take no lock: who sends much
//! stays in them, who sends little goes first. Counts are of this minute and the
//! one before; under races a few requests more or less do not matter here.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Places in a table, and those that one name may have.
const PLACES: usize = 256;
const WAYS: usize = 8;
/// Eights of bytes of a name; what is longer is cut off.
const WORDS: usize = 6;
/// Seconds that are counted together.
const WINDOW: i64 = 60;

/// A name as it is kept: its bytes and, in the last of them, how many.
type Name = [u64; WORDS];

/// Bytes of a name that are kept.
pub const LONGEST: usize = WORDS * 8 - 1;

/// One sender.
#[derive(Debug, Default)]
struct Sender {
    hash: AtomicU64,
    name: [AtomicU64; WORDS],
    /// The window that is counted, and its requests.
    now: AtomicU64,
    /// The one before.
    before: AtomicU64,
}

/// Senders of one kind.
#[derive(Debug)]
pub struct Senders([Sender; PLACES]);

/// All tables.
#[derive(Debug, Default)]
pub struct Sources {
    /// By the address that a request has come from, in bytes.
    pub addresses: Senders,
    /// By user and host: the watcher of a SUBSCRIBE, the presentity of a PUBLISH.
    pub clients: Senders,
}

/// A sender and its requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    /// Its name.
    pub name: Vec<u8>,
    /// Requests in this minute.
    pub this_minute: u32,
    /// Requests in the minute before.
    pub last_minute: u32,
}

impl Default for Senders {
    fn default() -> Senders {
        Senders(std::array::from_fn(|_| Sender::default()))
    }
}

/// Names are told apart by all of their words; a sender can choose names, but not
/// the seed.
fn hash(name: &Name, seed: u64) -> u64 {
    const MIX: u64 = 0x9E37_79B9_7F4A_7C15;
    let mixed = name.iter().fold(seed, |sum, word| {
        let sum = (sum ^ word).wrapping_mul(MIX);
        sum ^ (sum >> 29)
    });
    (mixed ^ (mixed >> 32)).max(1)
}

fn packed(parts: &[&[u8]]) -> Name {
    let mut bytes = [0; WORDS * 8];
    let mut length = 0;
    for part in parts {
        let room = bytes.get_mut(length..LONGEST).unwrap_or_default();
        let taken = part.len().min(room.len());
        for (place, byte) in room.iter_mut().zip(*part) {
            *place = *byte;
        }
        length += taken;
    }
    bytes[LONGEST] = length as u8;
    let mut name = [0; WORDS];
    for (word, eight) in name.iter_mut().zip(bytes.as_chunks::<8>().0) {
        *word = u64::from_le_bytes(*eight);
    }
    name
}

fn unpacked(name: &Name) -> Vec<u8> {
    let bytes: Vec<u8> = name.iter().flat_map(|word| word.to_le_bytes()).collect();
    let length = bytes.last().copied().map_or(0, usize::from);
    bytes.get(..length).unwrap_or_default().to_vec()
}

fn window(now: i64) -> u64 {
    (now / WINDOW) as u64 & 0xFFFF_FFFF
}

/// Requests that were counted in this window.
fn count_in(word: u64, window: u64) -> u32 {
    if word >> 32 == window { word as u32 } else { 0 }
}

impl Senders {
    /// Counts a request of the sender whose name is made of these parts.
    pub fn count(&self, parts: &[&[u8]], seed: u64, now: i64) {
        let name = packed(parts);
        let (hash, window) = (hash(&name, seed), window(now));
        let ways = || (0..WAYS).filter_map(|n| self.0.get((hash as usize + n) % PLACES));
        if let Some(known) = ways().find(|sender| sender.hash.load(Relaxed) == hash) {
            known.count(window);
            return;
        }
        let least = |sender: &&Sender| count_in(sender.now.load(Relaxed), window);
        let Some(weakest) = ways().min_by_key(least) else { return };
        // Who sends more stays, and has to send more than all others that come by.
        if least(&weakest) > 0 {
            let less = |word: u64| (count_in(word, window) > 0).then(|| word - 1);
            let _ = weakest.now.fetch_update(Relaxed, Relaxed, less);
            return;
        }
        weakest.hash.store(0, Relaxed);
        weakest.now.store(window << 32 | 1, Relaxed);
        weakest.before.store(0, Relaxed);
        for (place, word) in weakest.name.iter().zip(name) {
            place.store(word, Relaxed);
        }
        weakest.hash.store(hash, Relaxed);
    }

    /// The senders of most requests, the busiest first.
    pub fn busiest(&self, most: usize, seed: u64, now: i64) -> Vec<Sent> {
        let window = window(now);
        let mut all: Vec<Sent> = self.0.iter().filter_map(|one| one.sent(seed, window)).collect();
        all.sort_by(|a, b| {
            let requests = |sent: &Sent| u64::from(sent.this_minute) + u64::from(sent.last_minute);
            requests(b).cmp(&requests(a)).then_with(|| a.name.cmp(&b.name))
        });
        all.truncate(most);
        all
    }
}

impl Sender {
    fn count(&self, window: u64) {
        let now = self.now.load(Relaxed);
        if now >> 32 == window {
            self.now.fetch_add(1, Relaxed);
        } else {
            self.before.store(now, Relaxed);
            self.now.store(window << 32 | 1, Relaxed);
        }
    }

    fn sent(&self, seed: u64, window: u64) -> Option<Sent> {
        let mut name = [0; WORDS];
        for (word, place) in name.iter_mut().zip(&self.name) {
            *word = place.load(Relaxed);
        }
        // Somebody may be changing it.
        if self.hash.load(Relaxed) != hash(&name, seed) {
            return None;
        }
        let (now, before) = (self.now.load(Relaxed), self.before.load(Relaxed));
        let last = window.wrapping_sub(1);
        let sent = Sent {
            name: unpacked(&name),
            this_minute: count_in(now, window),
            last_minute: count_in(before, last).max(count_in(now, last)),
        };
        (sent.this_minute > 0 || sent.last_minute > 0).then_some(sent)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail loudly")]
    use super::*;

    const SEED: u64 = 77;

    #[test]
    fn who_floods_is_found_among_very_many() {
        let senders = Senders::default();
        for n in 0..200_000u32 {
            senders.count(&[&n.to_be_bytes()], SEED, 1000);
            if n % 10 == 0 {
                senders.count(&[b"flood", b"er"], SEED, 1000);
            }
        }
        let busiest = senders.busiest(3, SEED, 1000);
        assert_eq!(busiest.first().unwrap().name, b"flooder");
        // Others wear it off a little.
        assert!(busiest.first().unwrap().this_minute > 15_000, "{busiest:?}");
    }

    #[test]
    fn minutes_are_counted_apart() {
        let senders = Senders::default();
        (0..5).for_each(|_| senders.count(&[b"a"], SEED, 60));
        (0..2).for_each(|_| senders.count(&[b"a"], SEED, 120));
        (0..6).for_each(|_| senders.count(&[b"b"], SEED, 121));
        let sent = |name: &[u8], this_minute, last_minute| Sent {
            name: name.to_vec(),
            this_minute,
            last_minute,
        };
        assert_eq!(senders.busiest(9, SEED, 130), [sent(b"a", 2, 5), sent(b"b", 6, 0)]);
        assert_eq!(senders.busiest(1, SEED, 130).len(), 1);
        assert_eq!(senders.busiest(9, SEED, 180), [sent(b"b", 0, 6), sent(b"a", 0, 2)]);
        assert_eq!(senders.busiest(9, SEED, 240), []);
    }

    #[test]
    fn long_names_are_cut_off() {
        let senders = Senders::default();
        senders.count(&[&[b'a'; 30], b"@", &[b'h'; 30]], SEED, 0);
        senders.count(&[], SEED, 0);
        let names: Vec<_> = senders.busiest(9, SEED, 0).into_iter().map(|sent| sent.name).collect();
        assert_eq!(names.iter().map(Vec::len).collect::<Vec<_>>(), [0, LONGEST]);
    }
}
