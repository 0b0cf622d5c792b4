//! The records that live in shared memory, one kind per slab. All of a
//! presentity's records lie in one shard, under that shard's lock.

use crate::presence::cseq::CSeq;
use crate::presence::event_package::PackageId;
use crate::presence::notify_fate::LatestNotify;
use crate::presence::publication::Facts;
use crate::presence::state_version::StateVersion;
use crate::presence::subscription::{
    NotifyNumbers, Status, Text, is_notified_of_changes, is_within_its_time,
};
use crate::presence::transition::Phase;
use crate::shm::{
    Blob, Id, Interned, Interner, Linked, Links, List, Memory, QueueLink, Queueable, ShortBlob,
    Slab, Timed, Timer, Uncounted, Unkeyed,
};
use crate::store::publication_block::Block;
use crate::store::subscription_block::{self, Owner};
use crate::store::watcher_changes::{Changed, WatcherChange};
use std::num::NonZeroU32;

/// A Unix time from 1970 to 2106; what is outside counts as its nearest end.
/// Four bytes, as is `Option<Seconds>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Seconds(NonZeroU32);

impl Seconds {
    /// The start of 1970.
    pub const ZERO: Seconds = Seconds(NonZeroU32::MIN);

    /// As a number of seconds.
    pub fn get(self) -> i64 {
        i64::from(self.0.get()) - 1
    }
}

impl From<i64> for Seconds {
    fn from(time: i64) -> Seconds {
        let counted = time.clamp(0, i64::from(u32::MAX) - 1) as u32;
        Seconds(NonZeroU32::MIN.saturating_add(counted))
    }
}

/// List membership: the subscriptions to a presentity.
#[derive(Debug)]
pub struct Watching;
/// List membership: subscriptions that await a NOTIFY of their own.
#[derive(Debug)]
pub struct NotifyPending;
/// List membership: waiting in the expiry wheel.
#[derive(Debug)]
pub struct Expiring;
/// List membership: to be written to the database.
#[derive(Debug)]
pub struct Dirty;
/// List membership: the publications of a presentity, or its final publications.
#[derive(Debug)]
pub struct Published;
/// List membership: documents that are kept beside their rows.
#[derive(Debug)]
pub struct Cached;
/// Queue membership: presentities whose lane was handed over.
#[derive(Debug)]
pub struct Queued;

/// Who sends a presentity's NOTIFYs at the moment: the number of owners, and
/// whether it is queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Lane(u8);

/// The bit of a lane that says that it is queued.
const QUEUED: u8 = 0x80;

impl Lane {
    /// The next one with work takes it.
    pub fn is_free(self) -> bool {
        self == Lane::default()
    }

    /// Processes that compose and send: mostly one, more for a fan-out over very
    /// many watchers, which they take in portions.
    pub fn owners(self) -> u8 {
        self.0 & !QUEUED
    }

    /// It waits in the queue of the sender processes.
    pub fn is_queued(self) -> bool {
        self.0 & QUEUED != 0
    }

    /// There is one more owner; `false` if there are too many.
    pub fn enter(&mut self) -> bool {
        let room = self.owners() < !QUEUED;
        self.0 += u8::from(room);
        room
    }

    /// There is one owner less.
    pub fn leave(&mut self) {
        self.0 -= u8::from(self.owners() > 0);
    }

    /// It waits in the queue, or does not any more.
    pub fn set_queued(&mut self, queued: bool) {
        self.0 = self.owners() | if queued { QUEUED } else { 0 };
    }
}

/// How far the watchers of a presentity whose subscriptions are rows of the
/// database have been notified (`subs_db_mode=3`).
#[derive(Debug, Clone, Copy, Default)]
pub struct RowFanOut {
    /// A fan-out over the rows is under way.
    pub running: bool,
    /// Every watcher has been notified of this state version when the fan-out ends.
    pub state_version: StateVersion,
    /// `id` of the last row that the fan-out has seen.
    pub cursor: i64,
    /// There is a change that must not be left to the notifier processes.
    pub urgent: bool,
}

/// State and watchers of one URI in one event package.
pub struct Presentity<M: Memory> {
    /// User, as first spelled.
    pub user: ShortBlob<M>,
    /// Host, in lower case; the shard interns it.
    pub host: Id<Interned<M>>,
    /// The event package.
    pub package: PackageId,
    /// Who sends its NOTIFYs.
    pub lane: Lane,
    /// Mark that the fan-out under way, or the last one, gives to the watchers that
    /// it visits. It changes with each fan-out, which visits all of them.
    pub fan_out_mark: bool,
    /// Its subscriptions; those served longest ago come first.
    pub watchers: List<Subscription<M>, Watching>,
    /// Its subscriptions that await a NOTIFY of their own.
    pub pending_notifies: List<Subscription<M>, NotifyPending, Uncounted>,
    /// Its publications that have not ended, oldest first.
    pub publications: List<Publication<M>, Published, Uncounted>,
    /// Ended ones that some watchers have yet to see, in the order in which they
    /// ended.
    pub finals: List<Publication<M>, Published, Uncounted>,
    /// What these take, in KiB.
    pub finals_kib: u16,
    /// Its publications are in the shard's index of publications.
    pub is_indexed: bool,
    /// Counts accepted changes of the state.
    pub state_version: StateVersion,
    /// All watchers have been notified of this state version.
    pub completed: StateVersion,
    /// Watchers that the fan-out has not reached yet.
    pub unvisited: u32,
    /// State version that every watcher has been notified of when the fan-out ends.
    pub fan_out_version: StateVersion,
    /// What few presentities have.
    pub extra: Option<Id<PresentityExtra<M>>>,
    /// Place in the hand-over queue.
    pub queued: QueueLink<Presentity<M>>,
}

/// What few presentities have.
pub struct PresentityExtra<M: Memory> {
    /// Changes of the watchers reported on that some have yet to see.
    pub changes: List<WatcherChange<M>, Changed>,
    /// Who was last notified before this state version gets all watchers.
    pub full_since: StateVersion,
    /// There may be somebody who was last notified before `full_since`.
    pub needs_full_winfo: bool,
    /// Runs that have NOTIFYs which did not leave.
    pub unsent: u16,
    /// Some watchers may not have been notified of what has ended before `completed`.
    pub keeps_finals: bool,
    /// The fan-out over rows, where the watchers are rows.
    pub rows: RowFanOut,
    /// Since this state version all changes came from `sender`.
    pub sender_since: StateVersion,
    /// Publisher of the latest change (a watcher URI), or empty.
    pub sender: Blob<M>,
}

impl<M: Memory> PresentityExtra<M> {
    /// Has nothing yet.
    pub fn new() -> PresentityExtra<M> {
        PresentityExtra {
            changes: List::new(),
            full_since: StateVersion::default(),
            needs_full_winfo: false,
            unsent: 0,
            keeps_finals: false,
            rows: RowFanOut::default(),
            sender_since: StateVersion::default(),
            sender: Blob::default(),
        }
    }
}

impl<M: Memory> Default for PresentityExtra<M> {
    fn default() -> Self {
        PresentityExtra::new()
    }
}

/// What a copy of a subscription takes from its presentity.
#[derive(Debug, Clone, Copy, Default)]
pub struct Watched<'a> {
    /// The event package.
    pub package: PackageId,
    /// User and host.
    pub owner: Owner<'a>,
}

/// Publications, which nobody names but their presentity.
pub type Publications<M> = Slab<Publication<M>, M, Unkeyed>;

impl<M: Memory> Presentity<M> {
    /// A presentity without state or watchers.
    pub fn new(user: ShortBlob<M>, host: Id<Interned<M>>, package: PackageId) -> Presentity<M> {
        Presentity {
            user,
            host,
            package,
            lane: Lane::default(),
            fan_out_mark: false,
            watchers: List::new(),
            pending_notifies: List::new(),
            publications: List::new(),
            finals: List::new(),
            finals_kib: 0,
            is_indexed: false,
            state_version: StateVersion::default(),
            completed: StateVersion::default(),
            unvisited: 0,
            fan_out_version: StateVersion::default(),
            extra: None,
            queued: QueueLink::new(),
        }
    }

    /// What its subscriptions take from it.
    pub fn watched<'a>(&'a self, hosts: &'a Interner<M>) -> Watched<'a> {
        let owner = Owner { user: &self.user, host: hosts.get(self.host) };
        Watched { package: self.package, owner }
    }

    /// Its publications that have not ended, oldest first.
    pub fn living<'a>(
        &self,
        publications: &'a Publications<M>,
    ) -> impl Iterator<Item = (Id<Publication<M>>, &'a Publication<M>)> {
        self.publications.iter(publications)
    }
}

/// How a subscription's row differs from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lag {
    /// Not at all, or it is in a writer's hand.
    None,
    /// Some columns are out of date: they follow with the timer.
    Changed,
    /// The database has refused it: it is tried again by the timer, after all
    /// others.
    Refused,
    /// It is missing, or its subscription is over: a crash would lose the one,
    /// and bring the other back (B49).
    Urgent,
}

/// What a NOTIFY has to do about its subscription's row before it leaves
/// (`subs_db_mode=3`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowClaim {
    /// Nothing: the record in memory counts.
    None,
    /// Take a CSeq in the row.
    Asked,
    /// Take a CSeq in the row, and notify those who watch the watchers: whoever has
    /// ended the row may not have come to do so.
    Rescue,
    /// Take a CSeq in the row; the NOTIFY reports a change that others are notified of, too.
    FanOut,
    /// Take a CSeq in the row while it is flagged for this slot.
    NotifierSlot(i32),
}

/// One subscription (dialog usage, RFC 6665 4.2.1).
pub struct Subscription<M: Memory> {
    /// What it watches.
    pub presentity: Id<Presentity<M>>,
    /// Its strings (`subscription_block`).
    pub text: Blob<M>,
    /// When it ends.
    pub expires_at: Seconds,
    /// Highest CSeq received.
    pub remote_cseq: CSeq,
    /// CSeq of the latest NOTIFY.
    pub local_cseq: CSeq,
    /// `local_cseq` up to which the database has reserved numbers.
    pub reserved_cseq: CSeq,
    /// Document version of the latest NOTIFY.
    pub version: u32,
    /// Branch flags for the script.
    pub flags: u32,
    /// State version that its watcher was last notified of.
    pub notified: StateVersion,
    /// Mark of the fan-out that last visited it.
    pub fan_out_mark: bool,
    /// Its state.
    pub status: Status,
    /// Where it is in its life.
    pub phase: Phase,
    /// A NOTIFY of it is being sent: the next one has to wait.
    pub in_flight: bool,
    /// It is in its presentity's list `pending_notifies`.
    pub has_pending_notify: bool,
    /// Which list of its shard waits for its row to be written.
    pub lag: Lag,
    /// It has a row in the database.
    pub has_row: bool,
    /// It may have one: only the answer to the INSERT may have been lost.
    pub row_in_doubt: bool,
    /// How often in succession the database has refused its row.
    pub refusals: u8,
    /// What its next NOTIFY has to do about the row.
    pub claim: RowClaim,
    /// Its row's `reason` is NULL (rows of the stock module).
    pub null_reason: bool,
    /// What became of its latest NOTIFY.
    pub latest: LatestNotify,
    /// Place among the watchers.
    pub watching: Links<Subscription<M>>,
    /// Place among those with a pending NOTIFY.
    pub pending_notify: Links<Subscription<M>>,
    /// Place in the expiry wheel.
    pub expiring: Timer<Subscription<M>>,
    /// Place among those to be written.
    pub dirty: Links<Subscription<M>>,
}

impl<M: Memory> Subscription<M> {
    /// One of its strings that are its own; users and hosts may be those of
    /// the presentity (`Shard::text`).
    pub fn text(&self, field: Text) -> &[u8] {
        subscription_block::get(&self.text, field, Owner::default())
    }

    /// CSeq and document version of its latest NOTIFY.
    pub fn numbers(&self) -> NotifyNumbers {
        NotifyNumbers { cseq: self.local_cseq, version: self.version }
    }

    /// Sets both.
    pub fn set_numbers(&mut self, numbers: NotifyNumbers) {
        (self.local_cseq, self.version) = (numbers.cseq, numbers.version);
    }

    /// It may see published state as it changes.
    pub fn sees_changes(&self, now: i64) -> bool {
        self.phase == Phase::Live
            && is_notified_of_changes(self.status, self.text(Text::Reason))
            && is_within_its_time(self.expires_at.get(), now)
    }
}

/// Where a publication is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PublicationPhase {
    /// Being created; invisible.
    Reserved,
    /// Part of the state.
    Live,
    /// Part of the state, and a request is changing it.
    Changing,
    /// Ended; to be shown closed.
    Closing,
    /// Replaced before everybody had seen its final state.
    Superseded,
}

impl PublicationPhase {
    /// It has ended, and some watchers have yet to see that.
    pub fn is_final_publication(self) -> bool {
        matches!(self, PublicationPhase::Closing | PublicationPhase::Superseded)
    }
}

/// One publication (RFC 3903).
pub struct Publication<M: Memory> {
    /// Whose state it is.
    pub presentity: Id<Presentity<M>>,
    /// Its strings and, where no database keeps it, its document.
    pub block: Blob<M>,
    /// Its document, where a database keeps it and memory, too.
    pub document: Option<Id<Document<M>>>,
    /// When it ends; `None` for hard state.
    pub expires_at: Option<Seconds>,
    /// The latest change (`received_time`).
    pub received: Seconds,
    /// Order among publications (`priority` column).
    pub priority: i32,
    /// State version of the latest change.
    pub state_version: StateVersion,
    /// What is known of the document.
    pub facts: Facts,
    /// Where it is in its life.
    pub phase: PublicationPhase,
    /// Place among the presentity's publications, or its final publications.
    pub published: Links<Publication<M>>,
    /// Place in the expiry wheel.
    pub expiring: Timer<Publication<M>>,
}

/// The document of a publication that the database keeps as well.
pub struct Document<M: Memory> {
    /// Whose it is.
    pub publication: Id<Publication<M>>,
    /// The bytes.
    pub body: Blob<M>,
    /// Place among those that may go when there is no room.
    pub cached: Links<Document<M>>,
}

impl<M: Memory> Publication<M> {
    /// Hard state that is in no list yet.
    pub fn new(presentity: Id<Presentity<M>>, block: Blob<M>, phase: PublicationPhase) -> Self {
        Publication {
            presentity,
            block,
            document: None,
            expires_at: None,
            received: Seconds::ZERO,
            priority: 0,
            state_version: StateVersion::default(),
            facts: Facts::default(),
            phase,
            published: Links::new(),
            expiring: Timer::new(),
        }
    }

    /// Its strings, and its document if it is here.
    pub fn block(&self) -> Block<'_> {
        Block::new(&self.block)
    }
}

/// `Linked` for a record type: which member serves which list.
macro_rules! linked {
    ($record:ident: $($tag:ident => $member:ident),+) => {
        $(impl<M: Memory> Linked<$tag> for $record<M> {
            fn links(&self) -> &Links<Self> { &self.$member }
            fn links_mut(&mut self) -> &mut Links<Self> { &mut self.$member }
        })+
    };
}

impl<M: Memory> Queueable<Queued> for Presentity<M> {
    fn queue_link(&self) -> &QueueLink<Self> {
        &self.queued
    }
    fn queue_link_mut(&mut self) -> &mut QueueLink<Self> {
        &mut self.queued
    }
}

linked!(Subscription: Watching => watching, NotifyPending => pending_notify, Dirty => dirty);
linked!(Publication: Published => published);
linked!(Document: Cached => cached);

/// `Timed` for a record type that expires.
macro_rules! timed {
    ($($record:ident),+) => {
        $(impl<M: Memory> Timed<Expiring> for $record<M> {
            fn timer(&self) -> &Timer<Self> { &self.expiring }
            fn timer_mut(&mut self) -> &mut Timer<Self> { &mut self.expiring }
        })+
    };
}

timed!(Subscription, Publication);
