//! What is remembered for operators and for nobody else, in shared memory of a
//! fixed size. Nothing here decides anything, and nothing takes a lock.

use crate::shm::{KeyedHash, Memory};
use crate::store::Store;
use crate::store::sources::{Sent, Sources};

/// All of it.
#[derive(Debug)]
pub struct Insight {
    /// Clients cannot choose names that share a place, for they do not know it.
    seed: u64,
    /// Who sends the most requests.
    sources: Sources,
}

impl Insight {
    /// Nothing yet.
    pub fn new(hash: &KeyedHash) -> Insight {
        Insight { seed: hash.hash(b"insight"), sources: Sources::default() }
    }
}

impl<M: Memory> Store<M> {
    /// A request has come from this address (its bytes; empty if that is not known),
    /// of this client.
    pub fn request_came(&self, address: &[u8], (user, host): (&[u8], &[u8]), now: i64) {
        let Insight { sources, seed } = self.shared.insight;
        if !address.is_empty() {
            sources.addresses.count(&[address], *seed, now);
        }
        sources.clients.count(&[user, b"@", host], *seed, now);
    }

    /// What has been counted by `request_came`: the busiest addresses and clients.
    pub fn busiest(&self, most: usize, now: i64) -> [Vec<Sent>; 2] {
        let Insight { sources, seed } = self.shared.insight;
        [&sources.addresses, &sources.clients].map(|senders| senders.busiest(most, *seed, now))
    }
}
