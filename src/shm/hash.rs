//! The hash for tables in shared memory.

use core::fmt;
use core::hash::Hasher;

use siphasher::sip::SipHasher13;

/// SipHash-1-3 under a key that lies beside the tables.
///
/// All processes must agree on the hash, so the key cannot come from the usual
/// per-process sources; and it must be random, for what is hashed comes from
/// the network.
#[derive(Clone, Copy)]
pub struct KeyedHash {
    key: [u8; 16],
}

impl KeyedHash {
    /// A hash under `key`, which the caller takes from the system's randomness.
    pub const fn new(key: [u8; 16]) -> Self {
        Self { key }
    }

    /// The hash of `bytes`.
    pub fn hash(&self, bytes: &[u8]) -> u64 {
        self.hash_parts(&[bytes])
    }

    /// The hash of several byte strings; where one ends and the next begins
    /// makes a difference.
    pub fn hash_parts(&self, parts: &[&[u8]]) -> u64 {
        let mut hasher = SipHasher13::new_with_key(&self.key);
        for part in parts {
            hasher.write_u64(part.len() as u64);
            hasher.write(part);
        }
        hasher.finish()
    }
}

impl fmt::Debug for KeyedHash {
    /// Keeps the key to itself.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyedHash")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_and_boundaries_matter() {
        let hash = KeyedHash::new([7; 16]);
        assert_eq!(hash.hash(b"alice"), KeyedHash::new([7; 16]).hash(b"alice"));
        assert_ne!(hash.hash(b"alice"), KeyedHash::new([8; 16]).hash(b"alice"));
        assert_ne!(hash.hash_parts(&[b"ab", b"c"]), hash.hash_parts(&[b"a", b"bc"]));
        assert_ne!(hash.hash_parts(&[b""]), hash.hash_parts(&[]));
        assert_eq!(hash.hash_parts(&[b"alice"]), hash.hash(b"alice"));
    }
}
