//! A sweep over the shards for rows that lag behind.

use crate::ports::Host;
use crate::service::Server;
use crate::shm::Memory;
use crate::store::records::Lag;
use crate::store::write_back::Dirty;

use super::batch::{Batch, Written};

/// Rows in one transaction.
const BATCH: usize = 200;

/// Of those that were refused so few are taken together.
const REFUSED_BATCH: usize = 10;

/// A sweep over the shards for rows that lag behind in one way. Of each shard it
/// takes no more than lag when it comes there.
pub(super) struct Sweep<'a> {
    lag: Lag,
    pub shard: usize,
    /// Shards that were not looked at yet, this one included.
    shards: usize,
    /// Rows of this shard that are to be taken; `None` before it is looked at.
    left: Option<usize>,
    /// Rows of each shard that are to be taken at most; empty: all.
    pub known: &'a [usize],
    /// The database has taken some row: those that it refuses are at fault
    /// themselves.
    pub has_written: bool,
}

impl<'a> Sweep<'a> {
    pub fn new<M: Memory>(server: &Server<M>, lag: Lag, first: usize) -> Sweep<'a> {
        let shards = server.store.shards();
        Sweep {
            lag,
            shard: first % shards.max(1),
            shards,
            left: None,
            known: &[],
            has_written: false,
        }
    }

    pub fn is_over(&self) -> bool {
        self.shards == 0
    }

    /// Takes a batch, of more than one shard if need be. Of each in one go: no
    /// subscription may be twice in a batch, whose deletes, updates and inserts
    /// are sorted.
    fn take<M: Memory>(&mut self, server: &Server<M>, now: i64, last: bool) -> Vec<Dirty> {
        let mut rows = Vec::new();
        let most = if self.lag == Lag::Refused { REFUSED_BATCH } else { BATCH };
        while !self.is_over() && rows.len() < most {
            let place = (self.shard, self.lag);
            let left = self.left.unwrap_or_else(|| {
                let all = server.store.count_dirty(self.shard, self.lag);
                self.known.get(self.shard).map_or(all, |known| all.min(*known))
            });
            let room = most - rows.len();
            if left > 0 {
                rows.extend(server.store.take_dirty(place, room.min(left), now, last));
            }
            if left > room {
                self.left = Some(left - room);
            } else {
                self.shard = (self.shard + 1) % server.store.shards().max(1);
                (self.shards, self.left) = (self.shards - 1, None);
            }
        }
        rows
    }

    /// Writes a batch.
    pub fn write<M: Memory>(
        &mut self,
        server: &Server<M>,
        host: &mut dyn Host,
        last: bool,
    ) -> Written {
        let rows = self.take(server, host.now(), last);
        let has_written = self.has_written;
        let mut batch = Batch { last, has_written, ..Batch::default() };
        batch.write(server, host, &rows, self.lag == Lag::Refused);
        self.has_written = batch.has_written;
        batch.written
    }
}
