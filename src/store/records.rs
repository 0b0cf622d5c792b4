//! The records that live in shared memory, one kind per slab. All of a
//! presentity's records lie in one shard, under that shard's lock.

use crate::presence::event_package::PackageId;
use crate::presence::publication::{self, Facts};
use crate::presence::subscription::{self, Ending, Status};
use crate::presence::text::{Packed, fields};
use crate::shm::{Blob, Id, Linked, Links, List, Memory, Timed, Timer};
use crate::store::watcher_changes::{Changed, WatcherChange};

fields! {
    /// The text of a presentity.
    PresentityText {
        /// What tells it from others (`uri::identity`).
        Identity,
        /// User, as first spelled.
        User,
        /// Host, in lower case.
        Host,
    }
}

/// List membership: the subscriptions to a presentity.
#[derive(Debug)]
pub struct Watching;
/// List membership: subscriptions that await a NOTIFY of their own.
#[derive(Debug)]
pub struct Due;
/// List membership: waiting in the expiry wheel.
#[derive(Debug)]
pub struct Expiring;
/// List membership: to be written to the database.
#[derive(Debug)]
pub struct Dirty;
/// List membership: the publications of a presentity, or its farewells.
#[derive(Debug)]
pub struct Published;
/// List membership: publications whose documents are kept beside their rows.
#[derive(Debug)]
pub struct Kept;
/// List membership: presentities whose lane was handed over.
#[derive(Debug)]
pub struct Queued;

/// Who sends a presentity's NOTIFYs at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Lane {
    /// Processes that compose and send: mostly one, more for a walk over very
    /// many watchers, which they take in portions.
    pub owners: u8,
    /// It waits in the queue of the sender processes.
    pub queued: bool,
}

impl Lane {
    /// The next one with work takes it.
    pub fn is_free(self) -> bool {
        self == Lane::default()
    }
}

/// How far the watchers of a presentity whose subscriptions are rows of the
/// database have been told (`subs_db_mode=3`).
#[derive(Debug, Clone, Copy, Default)]
pub struct RowPass {
    /// A walk over the rows is under way.
    pub running: bool,
    /// Every watcher has been told of this round when the walk ends.
    pub round: u32,
    /// `id` of the last row that the walk has seen.
    pub cursor: i64,
    /// There is a change that must not be left to the notifier processes.
    pub urgent: bool,
}

/// State and watchers of one URI in one event package.
pub struct Presentity<M: Memory> {
    /// Packed `PresentityText`.
    pub text: Blob<M>,
    /// The event package.
    pub package: PackageId,
    /// Who sends its NOTIFYs.
    pub lane: Lane,
    /// Its subscriptions; those served longest ago come first.
    pub watchers: List<Subscription<M>, Watching>,
    /// Its subscriptions that await a NOTIFY of their own.
    pub due: List<Subscription<M>, Due>,
    /// Its publications, oldest first.
    pub publications: List<Publication<M>, Published>,
    /// Ended publications that some watchers have yet to see a last time.
    pub farewells: List<Publication<M>, Published>,
    /// Changes of the watchers reported on that some have yet to see.
    pub changes: List<WatcherChange<M>, Changed>,
    /// Who was last told before this round gets all watchers.
    pub full_since: u32,
    /// There may be somebody who was last told before `full_since`.
    pub owes_full: bool,
    /// Counts accepted changes of the state.
    pub round: u32,
    /// All watchers have been told of this round.
    pub completed: u32,
    /// The walk over `watchers` that is under way, if `unvisited` > 0.
    pub pass: u32,
    /// Watchers that this walk has not reached yet.
    pub unvisited: u32,
    /// Round that every watcher has been told of when the walk ends.
    pub pass_round: u32,
    /// The walk over rows, where the watchers are rows.
    pub rows: RowPass,
    /// Since this round all changes came from `sender`.
    pub sender_since: u32,
    /// Publisher of the latest change (a watcher URI), or empty.
    pub sender: Blob<M>,
    /// Place in the hand-over queue.
    pub queued: Links<Presentity<M>>,
}

impl<M: Memory> Presentity<M> {
    /// A presentity without state or watchers.
    pub fn new(text: Blob<M>, package: PackageId) -> Presentity<M> {
        Presentity {
            text,
            package,
            lane: Lane::default(),
            watchers: List::new(),
            due: List::new(),
            publications: List::new(),
            farewells: List::new(),
            changes: List::new(),
            full_since: 0,
            owes_full: false,
            round: 0,
            completed: 0,
            pass: 0,
            unvisited: 0,
            pass_round: 0,
            rows: RowPass::default(),
            sender_since: 0,
            sender: Blob::default(),
            queued: Links::new(),
        }
    }

    /// One of its strings.
    pub fn text(&self, field: PresentityText) -> &[u8] {
        Packed::new(&self.text).get(field)
    }

    /// Nothing refers to it any more.
    pub fn is_idle(&self) -> bool {
        self.lane.is_free()
            && self.watchers.is_empty()
            && self.publications.is_empty()
            && self.farewells.is_empty()
            && self.changes.is_empty()
    }
}

/// Where a subscription is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Accepted; no NOTIFY may leave before its 2xx has.
    Held,
    /// In use.
    Live,
    /// Ended: its last NOTIFY is due.
    Ending(Ending),
    /// Over; the record waits only for its row to be deleted.
    Gone,
}

/// What a NOTIFY has to do about its subscription's row before it leaves
/// (`subs_db_mode=3`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// Nothing: the record in memory counts.
    None,
    /// Take a CSeq in the row.
    Asked,
    /// Take a CSeq in the row; it tells of a change that others are told, too.
    Walk,
    /// Take a CSeq in the row while it is flagged for this turn.
    Turn(i32),
}

/// One subscription (dialog usage, RFC 6665 4.2.1).
pub struct Subscription<M: Memory> {
    /// What it watches.
    pub presentity: Id<Presentity<M>>,
    /// Packed `subscription::Text`.
    pub text: Blob<M>,
    /// Unix time at which it ends.
    pub expires_at: i64,
    /// Highest CSeq received.
    pub remote_cseq: u32,
    /// CSeq of the latest NOTIFY.
    pub local_cseq: u32,
    /// `local_cseq` up to which the database has reserved numbers.
    pub reserved_cseq: u32,
    /// Document version of the latest NOTIFY.
    pub version: u32,
    /// Branch flags for the script.
    pub flags: u32,
    /// Round of the state it was last told.
    pub told: u32,
    /// The walk that last visited it.
    pub pass: u32,
    /// Its state.
    pub status: Status,
    /// Where it is in its life.
    pub phase: Phase,
    /// A NOTIFY of it is being sent: the next one has to wait.
    pub in_flight: bool,
    /// It is in its presentity's `due` list.
    pub is_due: bool,
    /// It is in its shard's `dirty` list.
    pub is_dirty: bool,
    /// It has a row in the database.
    pub has_row: bool,
    /// What its next NOTIFY has to do about the row.
    pub claim: Claim,
    /// Its row's `reason` is NULL (rows of the stock module).
    pub null_reason: bool,
    /// Place among the watchers.
    pub watching: Links<Subscription<M>>,
    /// Place among those due.
    pub due: Links<Subscription<M>>,
    /// Place in the expiry wheel.
    pub expiring: Timer<Subscription<M>>,
    /// Place among those to be written.
    pub dirty: Links<Subscription<M>>,
}

impl<M: Memory> Subscription<M> {
    /// One of its strings.
    pub fn text(&self, field: subscription::Text) -> &[u8] {
        Packed::new(&self.text).get(field)
    }

    /// It may see published state as it changes.
    pub fn sees_changes(&self, now: i64) -> bool {
        self.phase == Phase::Live
            && self.status == Status::Active
            && self.expires_at > now
            && self.text(subscription::Text::Reason).is_empty()
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

/// One publication (RFC 3903).
pub struct Publication<M: Memory> {
    /// Whose state it is.
    pub presentity: Id<Presentity<M>>,
    /// Packed `publication::Text`.
    pub text: Blob<M>,
    /// The document; empty where the database keeps it.
    pub body: Blob<M>,
    /// Unix time at which it ends; `None` for hard state.
    pub expires_at: Option<i64>,
    /// Unix time of the latest change (`received_time`).
    pub received: i64,
    /// Order among publications (`priority` column).
    pub priority: i32,
    /// Round of the latest change.
    pub round: u32,
    /// What is known of the document.
    pub facts: Facts,
    /// Where it is in its life.
    pub phase: PublicationPhase,
    /// The document is kept in memory beside its row.
    pub is_kept: bool,
    /// Place among the presentity's publications.
    pub published: Links<Publication<M>>,
    /// Place among those whose documents are kept.
    pub kept: Links<Publication<M>>,
    /// Place in the expiry wheel.
    pub expiring: Timer<Publication<M>>,
}

impl<M: Memory> Publication<M> {
    /// Hard state that is in no list yet.
    pub fn new(
        presentity: Id<Presentity<M>>,
        text: Blob<M>,
        body: Blob<M>,
        phase: PublicationPhase,
    ) -> Self {
        Publication {
            presentity,
            text,
            body,
            expires_at: None,
            received: 0,
            priority: 0,
            round: 0,
            facts: Facts::default(),
            phase,
            is_kept: false,
            published: Links::new(),
            kept: Links::new(),
            expiring: Timer::new(),
        }
    }

    /// One of its strings.
    pub fn text(&self, field: publication::Text) -> &[u8] {
        Packed::new(&self.text).get(field)
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

linked!(Presentity: Queued => queued);
linked!(Subscription: Watching => watching, Due => due, Dirty => dirty);
linked!(Publication: Published => published, Kept => kept);

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
