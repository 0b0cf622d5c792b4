//! Publications that are rows only: what the lane of their presentity has to
//! know of a change.

use crate::error::Fault;
use crate::presence::presentity::PresentityKey;
use crate::presence::publication::PublicationCopy;
use crate::presence::publication::transition::{FanOut, FinalForm, Watchers};
use crate::shm::Memory;
use crate::store::{LaneRef, Store};

/// Those who watch a presentity whose publications are rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Audience {
    /// Whether there are any.
    pub watchers: Watchers,
    /// Some of those who watch here have not been notified of the latest change.
    pub has_unnotified: bool,
}

/// What has become of the publications of a presentity.
#[derive(Debug, Clone, Copy)]
pub struct RowsChanged<'a> {
    /// Watcher URI of who changed it; empty for nobody to be excluded.
    pub sender: &'a [u8],
    /// A publication, with the document that its row had, that stays as a final
    /// one.
    pub ended: Option<(&'a PublicationCopy, FinalForm)>,
    /// Who is notified.
    pub fan_out: FanOut,
}

impl Default for RowsChanged<'_> {
    /// Somebody has changed something.
    fn default() -> Self {
        RowsChanged { sender: b"", ended: None, fan_out: FanOut::Watchers { urgent: false } }
    }
}

impl<M: Memory> Store<M> {
    /// Rows of publications have changed: whoever watches is to be notified. Gives
    /// the lane when the caller is the one to do so.
    pub fn rows_changed(
        &self,
        key: &PresentityKey,
        change: RowsChanged<'_>,
    ) -> Result<Option<LaneRef<M>>, Fault> {
        let hash = self.presentity_hash(&key.identity, key.package);
        let shard = self.shard_of(&key.identity);
        self.with(shard, |records| {
            let Some(presentity) = self.watched(records, key, hash)? else { return Ok(None) };
            if let Some((publication, shown)) =
                change.ended.filter(|_| records.may_be_watched(presentity))
            {
                // Without memory the watchers see the newer state at once.
                let _ = records.keep_row(presentity, publication, shown);
            }
            records.publications_changed(presentity, change.fan_out, change.sender);
            let lane = records.take_lane(presentity);
            if !lane {
                self.drop_if_idle(records, presentity);
            }
            Ok(lane.then_some(LaneRef { shard: shard as u16, presentity }))
        })?
    }

    /// Who watches a presentity, as far as is known here.
    pub fn audience(&self, key: &PresentityKey) -> Audience {
        let hash = self.presentity_hash(&key.identity, key.package);
        let none =
            |any| Audience { watchers: Watchers { any, backlogged: false }, has_unnotified: false };
        self.with(self.shard_of(&key.identity), |records| {
            let found = records.find(key, hash);
            let Some((id, owner)) = found.and_then(|id| Some((id, records.presentities.get(id)?)))
            else {
                return none(records.reads_watchers());
            };
            let has_unnotified = owner.completed != owner.state_version;
            Audience { watchers: records.watchers_of(id), has_unnotified }
        })
        .unwrap_or(none(true))
    }
}
