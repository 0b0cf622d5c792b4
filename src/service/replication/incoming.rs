//! What peers send: read, judged, applied, answered.

use crate::ports::{Host, Level};
use crate::presence::replication::header::{Parameters, Purpose};
use crate::presence::replication::json::{Malformed, Object};
use crate::presence::replication::message::Message;
use crate::presence::replication::stamp::{Stamp, node_of};
use crate::service::Server;
use crate::service::rate_limited_log::RateLimitedLog;
use crate::shm::Memory;
use crate::store::replication::{Replication, Wants, count};

use super::{publications, subscriptions};

/// Largest message that is read.
const MOST: usize = 4 << 20;

/// A message of a peer.
#[derive(Debug, Clone, Copy)]
pub struct Received<'a> {
    /// The message.
    pub message: &'a [u8],
    /// Its Content-Type; empty without.
    pub content_type: &'a [u8],
    /// The node that sends it: `sip:host:port`.
    pub from: &'a [u8],
    /// The host knows it as an active node.
    pub is_member: bool,
}

/// Who sends, and what is known of the change.
#[derive(Debug, Clone, Copy)]
pub struct From<'a> {
    /// The node: `sip:host:port`.
    pub uri: &'a [u8],
    /// What a server of ours says besides.
    pub ours: Option<Parameters>,
}

impl From<'_> {
    /// When the change was made, for `received` is its time in stock's message.
    pub fn stamp(&self, received: i64) -> Stamp {
        let coarse = Stamp::coarse(received, node_of(self.uri));
        self.ours.and_then(|ours| ours.stamp).unwrap_or(coarse)
    }

    /// It is what the peer has, not a change that was just made.
    pub fn is_stored(&self) -> bool {
        self.ours.is_some_and(|ours| ours.purpose == Purpose::Stored)
    }
}

/// Why a message is not applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unapplied {
    /// It is not what it should be, or a limit or package refuses it.
    Refused(&'static str),
    /// Something of ours has failed.
    Failed,
}

impl std::convert::From<Malformed> for Unapplied {
    fn from(malformed: Malformed) -> Unapplied {
        Unapplied::Refused(malformed.0)
    }
}

static STRANGERS: RateLimitedLog = RateLimitedLog::new();

/// Serves a message. Gives the code of the answer.
pub fn receive<M: Memory>(server: &Server<M>, host: &mut dyn Host, received: &Received<'_>) -> u16 {
    let Some(replication) = server.store.replication() else { return 200 };
    match handle(server, host, replication, received) {
        Ok(()) => 200,
        Err(Unapplied::Failed) => 500,
        Err(Unapplied::Refused(why)) => {
            count(&replication.counts.refused);
            complain(host, replication, received, why);
            400
        }
    }
}

/// One line for each peer and minute.
fn complain<M: Memory>(
    host: &mut dyn Host,
    replication: &Replication<M>,
    received: &Received<'_>,
    why: &str,
) {
    let uri = received.from.escape_ascii();
    let now = host.milliseconds();
    match replication.peers(|peers| peers.may_complain(received.from, now)) {
        Some(true) => host.log(
            Level::Warning,
            format_args!("a DMQ message of {uri} was refused: {why} (one line a minute)"),
        ),
        Some(false) => {}
        None => STRANGERS.log(
            host,
            Level::Warning,
            format_args!("a DMQ message of {uri}, which is no node, was refused: {why}"),
        ),
    }
}

fn handle<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    replication: &Replication<M>,
    received: &Received<'_>,
) -> Result<(), Unapplied> {
    let object = Object::parse(received.message, MOST)?;
    let message = Message::read(&object)?;
    let from = From { uri: received.from, ours: Parameters::read(received.content_type) };
    let now = host.milliseconds();
    let node = from.ours.map(|ours| ours.node).filter(|node| *node != replication.node);
    if (received.is_member || node.is_some())
        && replication.peers(|peers| peers.heard(from.uri, node, now))
    {
        host.wake_replicator();
    }
    if let Some(stamp) = from.ours.and_then(|ours| ours.stamp) {
        replication.seen(stamp.believed(now, true), now);
    }
    let dmq = &server.config.dmq;
    match message {
        Message::Nothing => Ok(()),
        Message::Publication(_) if !dmq.publications => Ok(()),
        Message::Publication(message) => {
            publications::apply(server, host, replication, &message, &from)
        }
        Message::Subscription(_) if !dmq.subscriptions => Ok(()),
        Message::Subscription(object) => subscriptions::apply(server, host, object, &from),
        Message::AskPublications => {
            asked(host, replication, &from, Wants { publications: true, subscriptions: false });
            Ok(())
        }
        Message::AskSubscriptions => {
            asked(host, replication, &from, Wants { publications: false, subscriptions: true });
            Ok(())
        }
    }
}

/// A stock server of 5.6 would double the publications that it has already, and
/// nothing tells it from a later one: who is no server of ours is answered, and no
/// more. For subscriptions none asks but those that replace what they have.
fn asked<M: Memory>(
    host: &mut dyn Host,
    replication: &Replication<M>,
    from: &From<'_>,
    wanted: Wants,
) {
    let is_back = match from.ours {
        Some(ours) if ours.node == replication.node => return,
        Some(ours) => ours.purpose == Purpose::Back,
        None if wanted.publications => return,
        None => true,
    };
    let now = host.milliseconds();
    replication.peers(|peers| peers.asked(from.uri, wanted, is_back, now));
    host.wake_replicator();
}
