//! The storages that there are, and what may be seen of each.

use super::conforms;
use crate::fakes::Setup;
use presence::config::{Config, PublicationCache, SubscriptionMode};

/// Where subscriptions and publications are kept, and who notifies.
///
/// | seen from outside | where | decision |
/// |---|---|---|
/// | subscriptions are gone after a crash | `subs_db_mode=0` | A7 |
/// | publications are gone after a crash | `publ_cache=2` | A7 |
/// | who waits for a decision is forgotten | without a database | D2 |
/// | watchers are notified of a change a little later | notifier processes | B40 |
#[derive(Debug, Clone, Copy)]
pub struct Storage {
    pub mode: SubscriptionMode,
    pub cache: PublicationCache,
    /// Notifier processes tell watchers of changes.
    pub notifiers: bool,
    /// And send the NOTIFYs that follow a SUBSCRIBE (`send_fast_notify=0`).
    pub queues_own: bool,
}

impl Storage {
    const fn new(mode: SubscriptionMode, cache: PublicationCache) -> Storage {
        Storage { mode, cache, notifiers: false, queues_own: false }
    }

    const fn notifiers(self) -> Storage {
        Storage { notifiers: true, ..self }
    }

    const fn queues_own(self) -> Storage {
        Storage { notifiers: true, queues_own: true, ..self }
    }

    pub fn setup(self) -> Setup {
        let config: fn(&mut Config) = match (self.notifiers, self.queues_own) {
            (false, _) => |config| config.notifier_processes = 0,
            (true, false) => |config| {
                (config.notifier_processes, config.waitn_time) = (1, 1);
                config.notifier_poll_rate = 2;
            },
            (true, true) => |config| {
                (config.notifier_processes, config.waitn_time) = (1, 1);
                config.notifier_poll_rate = 2;
                config.send_fast_notify = false;
            },
        };
        let base = if self.has_database() { Setup::stored() } else { Setup::default() };
        Setup { mode: self.mode, cache: self.cache, config, ..base }
    }

    /// Turns of all notifier processes.
    pub fn slots(self) -> i64 {
        2
    }

    pub fn has_database(self) -> bool {
        self.mode != SubscriptionMode::Memory || self.cache != PublicationCache::Record
    }

    pub fn keeps_subscriptions(self) -> bool {
        self.mode != SubscriptionMode::Memory
    }

    pub fn keeps_publications(self) -> bool {
        self.cache != PublicationCache::Record
    }
}

/// Random sequences for each storage; more with `PRESENCE_CASES`.
pub fn cases() -> u32 {
    let wanted = std::env::var("PRESENCE_CASES").ok().and_then(|number| number.parse().ok());
    wanted.unwrap_or(60)
}

macro_rules! storages {
    ($($name:ident: $storage:expr;)*) => {$(
        #[test]
        fn $name() {
            conforms($storage);
        }
    )*};
}

use PublicationCache::{Hybrid, None as NoCache, Record};
use SubscriptionMode::{DbOnly, Memory, WriteBack, WriteThrough};

storages! {
    memory: Storage::new(Memory, Record);
    memory_publications_indexed: Storage::new(Memory, Hybrid);
    memory_publications_in_rows: Storage::new(Memory, NoCache);
    write_through_publications_in_memory: Storage::new(WriteThrough, Record);
    write_through: Storage::new(WriteThrough, Hybrid);
    write_through_publications_in_rows: Storage::new(WriteThrough, NoCache);
    write_back_publications_in_memory: Storage::new(WriteBack, Record);
    write_back: Storage::new(WriteBack, Hybrid);
    write_back_publications_in_rows: Storage::new(WriteBack, NoCache);
    rows_publications_in_memory: Storage::new(DbOnly, Record);
    rows_publications_indexed: Storage::new(DbOnly, Hybrid);
    rows: Storage::new(DbOnly, NoCache);
    rows_notifiers_publications_in_memory: Storage::new(DbOnly, Record).notifiers();
    rows_notifiers_publications_indexed: Storage::new(DbOnly, Hybrid).notifiers();
    rows_notifiers: Storage::new(DbOnly, NoCache).notifiers();
    rows_queued_publications_in_memory: Storage::new(DbOnly, Record).queues_own();
    rows_queued_publications_indexed: Storage::new(DbOnly, Hybrid).queues_own();
    rows_queued: Storage::new(DbOnly, NoCache).queues_own();
}
