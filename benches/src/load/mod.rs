//! The load: many publishers and watchers played by one thread on one socket.
//!
//! A request sits in a [`Slot`] whose number is in its Via branch, and a dialog's
//! number is in its Call-ID, so replies and NOTIFYs find theirs without a search.

mod engine;
mod phase;
mod socket;
mod tally;
mod timers;
mod wire;

pub use phase::{Operation, Phase};
pub use tally::Tally;
pub use wire::Package;

use crate::Fallible;
use socket::Socket;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::SocketAddr;
use std::time::Instant;
use wire::Writer;

/// How many published states the time is kept of.
const STATES: usize = 1 << 16;

/// A watcher: one dialog at a time.
struct Watcher {
    presentity: u32,
    /// Counts its dialogs; part of the Call-ID.
    epoch: u32,
    /// Of our last SUBSCRIBE.
    cseq: u32,
    to_tag: Box<str>,
    /// The highest CSeq of a NOTIFY in this dialog.
    notified: u32,
    /// Via hashes of the last NOTIFYs, to tell a repeated one.
    vias: [u32; 2],
    /// The newest state seen.
    state: u32,
    /// The slot of the SUBSCRIBE whose NOTIFY is awaited.
    pending: Option<u32>,
    /// A request of its is on its way.
    is_busy: bool,
    alive: bool,
}

/// A publisher: one publication.
struct Source {
    presentity: u32,
    cseq: u32,
    etag: Box<str>,
    /// A request of its is on its way.
    is_busy: bool,
}

#[derive(Default)]
struct Presentity {
    /// Living subscriptions.
    watchers: u32,
    /// The last state that was accepted.
    state: u32,
    /// The slot of the PUBLISH whose NOTIFYs are awaited.
    pending: Option<u32>,
}

/// A request on its way.
struct Slot {
    /// Counts the requests in this slot; part of the branch.
    generation: u32,
    /// None when the slot is free.
    operation: Option<Operation>,
    bytes: Vec<u8>,
    started: Instant,
    /// Retransmissions so far.
    sent_again: u32,
    replied: bool,
    /// NOTIFYs to wait for.
    awaiting: u32,
    state: u32,
}

/// The parties of one run against one server.
pub struct Load {
    socket: Socket,
    writer: Writer,
    watchers: Vec<Watcher>,
    sources: Vec<Source>,
    presentities: Vec<Presentity>,
    slots: Vec<Slot>,
    free: Vec<u32>,
    active: usize,
    timers: BinaryHeap<Reverse<(Instant, u32, u32)>>,
    state: u32,
    published: Vec<Instant>,
    tally: Tally,
    awaits_notifies: bool,
    /// Expires of what is sent from now on.
    pub expires: u32,
    /// False for the floor, whose NOTIFYs all have one CSeq.
    pub checks_order: bool,
    out: Vec<u8>,
}

impl Load {
    /// Nobody yet; the socket is bound, so its port is known.
    pub fn new(package: Package) -> Fallible<Self> {
        let socket = Socket::bind()?;
        let writer = Writer { port: socket.port, package };
        Ok(Self {
            socket,
            writer,
            watchers: Vec::new(),
            sources: Vec::new(),
            presentities: Vec::new(),
            slots: Vec::new(),
            free: Vec::new(),
            active: 0,
            timers: BinaryHeap::new(),
            state: 0,
            published: vec![Instant::now(); STATES],
            tally: Tally::default(),
            awaits_notifies: true,
            expires: 3600,
            checks_order: true,
            out: Vec::with_capacity(4096),
        })
    }

    /// The port that NOTIFYs are sent to.
    pub fn port(&self) -> u16 {
        self.socket.port
    }

    /// Everything goes to this server.
    pub fn connect(&self, server: SocketAddr) -> Fallible<()> {
        self.socket.connect(server)
    }

    /// Adds watchers of `presentity(0), presentity(1), …`; their numbers.
    pub fn add_watchers(
        &mut self,
        count: u32,
        presentity: impl Fn(u32) -> u32,
    ) -> std::ops::Range<u32> {
        let first = self.watchers.len() as u32;
        for number in 0..count {
            let presentity = presentity(number);
            self.know(presentity);
            self.watchers.push(Watcher {
                presentity,
                epoch: 0,
                cseq: 0,
                to_tag: Box::default(),
                notified: 0,
                vias: [0; 2],
                state: 0,
                pending: None,
                is_busy: false,
                alive: false,
            });
        }
        first..first + count
    }

    /// Adds publishers for `presentity(0), presentity(1), …`; their numbers.
    pub fn add_sources(
        &mut self,
        count: u32,
        presentity: impl Fn(u32) -> u32,
    ) -> std::ops::Range<u32> {
        let first = self.sources.len() as u32;
        for number in 0..count {
            let presentity = presentity(number);
            self.know(presentity);
            self.sources.push(Source { presentity, cseq: 0, etag: Box::default(), is_busy: false });
        }
        first..first + count
    }

    fn know(&mut self, presentity: u32) {
        let wanted = presentity as usize + 1;
        if self.presentities.len() < wanted {
            self.presentities.resize_with(wanted, Presentity::default);
        }
    }

    /// How many watchers have a living dialog.
    pub fn living(&self) -> usize {
        self.watchers.iter().filter(|watcher| watcher.alive).count()
    }

    /// Those of `watchers` that have no living dialog.
    pub fn without_dialog(&self, watchers: std::ops::Range<u32>) -> Vec<u32> {
        watchers.filter(|number| !self.watchers[*number as usize].alive).collect()
    }

    /// How many living watchers have not seen the last accepted state of
    /// their presentity.
    pub fn behind(&self) -> usize {
        self.watchers
            .iter()
            .filter(|watcher| {
                watcher.alive
                    && watcher.state < self.presentities[watcher.presentity as usize].state
            })
            .count()
    }
}
