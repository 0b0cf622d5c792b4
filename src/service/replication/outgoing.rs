//! The one process that talks to the peers: it hands over what waits in the
//! outbox, asks those that were not asked yet for what they have, and sends what
//! this server has to those that want it, in portions that they can take.

use std::collections::VecDeque;
use std::time::Duration;

use crate::error::Fault;
use crate::ports::{Dispatch, Host, Level};
use crate::presence::event_package::Event;
use crate::presence::listing::{After, Wanted};
use crate::presence::replication::header::{Owner, Parameters, Purpose};
use crate::presence::replication::message::{SYNC_PUBLICATIONS, SYNC_SUBSCRIPTIONS, question};
use crate::presence::replication::stamp::Stamp;
use crate::presence::replication::update::Update;
use crate::service::Server;
use crate::service::listing::Published;
use crate::service::rate_limited_log::RateLimitedLog;
use crate::shm::Memory;
use crate::store::replication::{Class, NodeUri, Outgoing, Replication, Wants, count};

use super::subscriptions;

/// Changes that are taken at once.
const BATCH: usize = 64;
/// Batches before something else has its turn.
const BATCHES: usize = 16;
/// Messages of what we have that a node may have unanswered.
const IN_FLIGHT: u32 = 64;
/// Publications that are read at once.
const PAGE: usize = 32;
/// Messages that are sent before changes have their turn again.
const PORTION: usize = 16;
/// Milliseconds after which a node that answers nothing is given up.
const STALLED: u64 = 120_000;
/// A message that does not fit into a datagram.
const DATAGRAM: usize = 60_000;
/// Until the next look where something is under way.
const SOON: Duration = Duration::from_millis(10);
/// The same otherwise; a wake ends it.
const IDLE: Duration = Duration::from_millis(1000);

static UNSENT: RateLimitedLog = RateLimitedLog::new();

/// What a node is sent.
struct Job {
    to: NodeUri,
    wanted: Wants,
    /// What it is to be sent once more behind that.
    again: Wants,
    /// When it has answered last.
    moved: u64,
    /// Where the next publications are, unless these were all.
    after: Option<Option<After>>,
    publications: VecDeque<Published>,
    /// How far subscriptions are.
    subscriptions: subscriptions::Cursor,
    messages: VecDeque<Stored>,
}

/// A message of what we have.
pub struct Stored {
    /// The message.
    pub message: Vec<u8>,
    /// When it was changed last.
    pub stamp: Option<Stamp>,
    /// Whose it is, if not ours.
    pub owner: Option<Owner>,
}

/// The process's own state.
#[derive(Default)]
pub struct Replicator {
    jobs: Vec<Job>,
    part: usize,
    ticked: i64,
}

impl Replicator {
    /// Does what there is to be done now. Gives the time until the next look.
    pub fn step<M: Memory>(&mut self, server: &Server<M>, host: &mut dyn Host) -> Duration {
        let Some(replication) = server.store.replication() else { return IDLE };
        if replication.take_ask() {
            ask(server, host, replication, None, false);
        }
        let is_more = send_changes(server, host, replication);
        self.questions(server, host, replication);
        self.jobs(server, host, replication);
        let now = host.now();
        if now != self.ticked {
            self.ticked = now;
            self.part = replication.sweep(self.part, now);
            subscriptions::tick(server, host);
        }
        match is_more {
            true => Duration::ZERO,
            false if replication.waiting() > 0 || !self.jobs.is_empty() => SOON,
            false => IDLE,
        }
    }

    /// Asks who has to be asked, and tries those that have missed something.
    fn questions<M: Memory>(
        &mut self,
        server: &Server<M>,
        host: &mut dyn Host,
        replication: &Replication<M>,
    ) {
        let now = host.milliseconds();
        while let Some((uri, is_back)) = replication.peers(|peers| peers.next_to_ask(now)) {
            if !ask(server, host, replication, Some(&uri), is_back) {
                replication.peers(|peers| peers.ask_again(uri.as_bytes(), is_back, now));
                break;
            }
        }
        if let Some(uri) = replication.peers(|peers| peers.next_to_probe(now)) {
            let _ = probe(host, replication, &uri);
        }
    }

    fn jobs<M: Memory>(
        &mut self,
        server: &Server<M>,
        host: &mut dyn Host,
        replication: &Replication<M>,
    ) {
        let now = host.milliseconds();
        while let Some((to, wanted)) = replication.peers(|peers| peers.next_to_send(now)) {
            match self.jobs.iter_mut().find(|job| job.to == to) {
                // What it has missed since is sent once more, behind this.
                Some(job) => job.again = job.again.and(wanted),
                None => self.jobs.push(Job::new(to, wanted)),
            }
        }
        self.jobs.retain_mut(|job| match job.portion(server, host, replication) {
            Ok(true) if job.again != Wants::default() => {
                *job = Job::new(job.to, job.again);
                true
            }
            Ok(is_done) => !is_done,
            Err(_) => {
                let wanted = job.wanted.and(job.again);
                replication.peers(|peers| peers.send_again(job.to.as_bytes(), wanted, now));
                false
            }
        });
    }
}

impl Job {
    fn new(to: NodeUri, wanted: Wants) -> Job {
        Job {
            to,
            wanted,
            again: Wants::default(),
            moved: 0,
            after: Some(None),
            publications: VecDeque::new(),
            subscriptions: subscriptions::Cursor::default(),
            messages: VecDeque::new(),
        }
    }

    /// Sends some more. True when all has been sent.
    fn portion<M: Memory>(
        &mut self,
        server: &Server<M>,
        host: &mut dyn Host,
        replication: &Replication<M>,
    ) -> Result<bool, Fault> {
        for _ in 0..PORTION {
            let now = host.milliseconds();
            if replication.peers(|peers| peers.in_flight(self.to.as_bytes())) >= IN_FLIGHT {
                // Each is answered, or given up by the host long before that.
                if now.saturating_sub(self.moved) > STALLED {
                    return Err(Fault::Host);
                }
                return Ok(false);
            }
            self.moved = now;
            let Some(stored) = self.next(server, host, replication) else { return Ok(true) };
            let owner = stored.owner;
            let parameters =
                Parameters { owner, ..parameters(replication, stored.stamp, Purpose::Stored) };
            // Before it is sent: the answer may be there first.
            replication.peers(|peers| peers.sent_stored(self.to.as_bytes()));
            let sent = dispatch(host, Some(&self.to), &stored.message, &parameters, true);
            if sent.is_err() {
                replication.peers(|peers| peers.unsent_stored(self.to.as_bytes()));
                if stored.message.len() < DATAGRAM {
                    return Err(Fault::Host);
                }
                complain(host, "a record is too large to be sent to other servers");
            }
        }
        Ok(false)
    }

    fn next<M: Memory>(
        &mut self,
        server: &Server<M>,
        host: &mut dyn Host,
        replication: &Replication<M>,
    ) -> Option<Stored> {
        loop {
            if let Some(stored) = self.messages.pop_front() {
                return Some(stored);
            }
            if let Some(published) = self.publications.pop_front() {
                let now = host.now();
                self.messages.extend(of_publication(server, replication, published, now));
                continue;
            }
            let wants = self.wanted.publications && server.config.dmq.publications;
            if let Some(after) = self.after.filter(|_| wants) {
                let (found, next) = page(server, host, after);
                self.publications = found.into();
                self.after = next.map(Some);
                continue;
            }
            let wants = self.wanted.subscriptions && server.config.dmq.subscriptions;
            if !wants {
                return None;
            }
            let (all, cursor) = (&mut self.messages, &mut self.subscriptions);
            self.wanted.subscriptions =
                subscriptions::portion(server, host, cursor, &self.to, &mut |one| {
                    all.push_back(one);
                });
        }
    }
}

/// Some publications from a place on, and the place behind them; `None` after the
/// last one. What cannot be read now is left out: a node that asks again is sent it.
fn page<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    after: Option<After>,
) -> (Vec<Published>, Option<After>) {
    let all = (&Wanted::default(), None);
    let amount = (true, PAGE);
    let Ok(page) = server.publications().page(server, host, all, after, amount) else {
        complain(host, "publications cannot be read for another server");
        return (Vec::new(), None);
    };
    let mut found: Vec<Published> = page.found.into_iter().map(|(_, one)| one).collect();
    found.sort_by_key(|one| one.publication.received);
    (found, page.next)
}

/// What a node is sent of a publication that is here.
fn of_publication<M: Memory>(
    server: &Server<M>,
    replication: &Replication<M>,
    published: Published,
    now: i64,
) -> Option<Stored> {
    let Published { user, host, event, publication: copy } = published;
    let package = server.registry.exact(&Event::parse(&event)?)?;
    let key = server.store.key(&user, &host, package);
    let known = replication.known(replication.tag_key(&key, &copy.entity_tag), now);
    let stamp = match known {
        Some(known) => known.stamp,
        None => Stamp { is_coarse: false, ..Stamp::coarse(copy.received, replication.node) },
    };
    let update = Update {
        stamp,
        received: copy.received,
        expires_at: copy.expires_at,
        is_new: true,
        domain: host,
        user,
        event,
        new_etag: copy.entity_tag,
        sender: copy.sender,
        ruid: copy.ruid,
        body: copy.body,
        ..Update::default()
    };
    Some(Stored { message: update.message(now)?.write(), stamp: Some(stamp), owner: None })
}

/// Hands over what waits. True if there is more.
fn send_changes<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    replication: &Replication<M>,
) -> bool {
    for _ in 0..BATCHES {
        let taken = replication.take(host.milliseconds(), BATCH);
        let is_all = taken.len() < BATCH;
        for outgoing in taken {
            send_change(server, host, replication, &outgoing);
        }
        if is_all {
            return false;
        }
    }
    true
}

fn send_change<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    replication: &Replication<M>,
    outgoing: &Outgoing,
) {
    let (message, parameters) = match outgoing.class {
        Class::Publication => {
            let update = Update::unpack(&outgoing.payload);
            let Some(message) = update.message(host.now()) else { return };
            (message.write(), parameters(replication, Some(update.stamp), Purpose::Change))
        }
        Class::Subscription => {
            let Some(stored) = subscriptions::compose(server, host, &outgoing.payload) else {
                return;
            };
            let parameters = parameters(replication, stored.stamp, Purpose::Change);
            (stored.message, Parameters { owner: stored.owner, ..parameters })
        }
    };
    if dispatch(host, None, &message, &parameters, false).is_ok() {
        count(&replication.counts.sent);
    } else if message.len() < DATAGRAM {
        complain(host, "a change could not be sent: other servers of this module get all later");
        replication.peers(|peers| peers.all_behind());
    } else {
        complain(host, "a change is too large to be sent to other servers");
    }
}

fn complain(host: &mut dyn Host, line: &str) {
    UNSENT.log(host, Level::Error, format_args!("DMQ: {line}"));
}

fn parameters<M: Memory>(
    replication: &Replication<M>,
    stamp: Option<Stamp>,
    purpose: Purpose,
) -> Parameters {
    Parameters { node: replication.node, stamp, purpose, owner: None }
}

/// Sends a node a message that says nothing, to see whether it answers.
pub(super) fn probe<M: Memory>(
    host: &mut dyn Host,
    replication: &Replication<M>,
    to: &NodeUri,
) -> Result<(), Fault> {
    let parameters = parameters(replication, None, Purpose::Change);
    dispatch(host, Some(to), &question(0), &parameters, false)
}

/// Asks a node, or all, for what it has. False if it is not known to the host.
fn ask<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    replication: &Replication<M>,
    to: Option<&NodeUri>,
    is_back: bool,
) -> bool {
    let dmq = &server.config.dmq;
    let purpose = if is_back { Purpose::Back } else { Purpose::Change };
    let parameters = parameters(replication, None, purpose);
    let questions = [
        (dmq.publications && dmq.sync_publications, SYNC_PUBLICATIONS),
        (dmq.subscriptions && dmq.sync_subscriptions, SYNC_SUBSCRIPTIONS),
    ];
    let questions = questions.into_iter().filter(|(is_asked, _)| *is_asked);
    questions.fold(true, |all, (_, action)| {
        all & dispatch(host, to, &question(action), &parameters, false).is_ok()
    })
}

fn dispatch(
    host: &mut dyn Host,
    to: Option<&NodeUri>,
    message: &[u8],
    parameters: &Parameters,
    is_stored: bool,
) -> Result<(), Fault> {
    let content_type = parameters.content_type();
    let to = to.map(NodeUri::as_bytes);
    host.dispatch(&Dispatch { to, message, content_type: &content_type, is_stored })
}
