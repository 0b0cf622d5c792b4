//! The other nodes, as far as messages have told: who is a server of ours, who
//! has missed something, who has to be asked for what it has or has asked us.

use std::fmt;

/// Nodes that are known; more are served, but not told what they have missed.
const MOST: usize = 64;
/// Milliseconds between two attempts to reach a node that has missed something.
const PROBE: u64 = 3000;
/// Milliseconds for which it is tried.
const PATIENCE: u64 = 600_000;
/// Milliseconds until something is tried again at a node that the host does not know.
const RETRY: u64 = 500;
/// Milliseconds between two questions to a node that has changed what is not known.
const ASK_AGAIN: u64 = 10_000;
/// Milliseconds between two times that a node is sent all since it cannot apply a
/// change.
const FAILED_AGAIN: u64 = 60_000;
/// Milliseconds between two log lines about one node.
const LINE_PAUSE: u64 = 60_000;
/// Milliseconds within which a node that has asked becomes known to the host.
const ARRIVAL: u64 = 60_000;

/// `sip:host:port`, with a transport that is not UDP.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct NodeUri {
    text: [u8; 96],
    length: u8,
}

impl NodeUri {
    /// No node.
    pub const EMPTY: NodeUri = NodeUri { text: [0; 96], length: 0 };

    /// `None` if it is too long.
    pub fn new(uri: &[u8]) -> Option<NodeUri> {
        let mut text = [0; 96];
        text.get_mut(..uri.len())?.copy_from_slice(uri);
        Some(NodeUri { text, length: u8::try_from(uri.len()).ok()? })
    }

    /// Its text.
    pub fn as_bytes(&self) -> &[u8] {
        self.text.get(..usize::from(self.length)).unwrap_or_default()
    }
}

impl fmt::Debug for NodeUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.as_bytes().escape_ascii())
    }
}

/// What a node wants of us, and we of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Wants {
    /// It has asked for publications, or has missed some.
    pub publications: bool,
    /// It has asked for subscriptions, or has missed some.
    pub subscriptions: bool,
}

impl Wants {
    /// What either wants.
    pub fn and(self, other: Wants) -> Wants {
        Wants {
            publications: self.publications || other.publications,
            subscriptions: self.subscriptions || other.subscriptions,
        }
    }
}

/// A node.
#[derive(Debug, Clone, Copy)]
pub struct Peer {
    /// Its address.
    pub uri: NodeUri,
    /// Its number, if it is a server of ours; another one is another start.
    pub node: Option<u64>,
    /// When it was last heard (milliseconds of the Unix time).
    pub heard: u64,
    /// Since when it does not answer.
    pub silent: Option<u64>,
    /// It has missed something.
    missed_something: bool,
    /// It has to be asked for what it has; whether it has asked us first.
    asks: Option<bool>,
    /// What it is to be sent.
    wanted: Wants,
    wanted_at: u64,
    probed: u64,
    /// When it was asked last; not before when it is asked, and sent anything, again.
    asked: u64,
    ask_at: u64,
    not_before: u64,
    /// When it was sent all for what it had answered.
    failed: Option<u64>,
    /// When a log line was about it.
    complained: Option<u64>,
    /// Messages of what we have that it has not answered.
    pub in_flight: u32,
}

/// All that are known.
#[derive(Debug)]
pub struct Peers {
    all: [Option<Peer>; MOST],
}

impl Default for Peers {
    fn default() -> Peers {
        Peers { all: [None; MOST] }
    }
}

impl Peers {
    /// All that are known.
    pub fn iter(&self) -> impl Iterator<Item = &Peer> {
        self.all.iter().flatten()
    }

    fn iter_mut(&mut self) -> impl Iterator<Item = &mut Peer> {
        self.all.iter_mut().flatten()
    }

    /// The node of this address.
    pub fn get(&self, uri: &[u8]) -> Option<&Peer> {
        self.iter().find(|peer| peer.uri.as_bytes() == uri)
    }

    fn get_mut(&mut self, uri: &[u8]) -> Option<&mut Peer> {
        self.iter_mut().find(|peer| peer.uri.as_bytes() == uri)
    }

    /// The node of this address, made known if there is room: that of one that
    /// has not been heard for longest is taken.
    fn entry(&mut self, uri: &[u8], now: u64) -> Option<&mut Peer> {
        if self.get(uri).is_some() {
            return self.get_mut(uri);
        }
        let place = match self.all.iter().position(Option::is_none) {
            Some(place) => place,
            None => {
                let heard = |peer: &Option<Peer>| peer.map_or(0, |peer| peer.heard);
                let (place, _) = self.all.iter().enumerate().min_by_key(|(_, one)| heard(one))?;
                place
            }
        };
        let peer = Peer {
            uri: NodeUri::new(uri)?,
            node: None,
            heard: now,
            silent: None,
            missed_something: false,
            asks: None,
            wanted: Wants::default(),
            wanted_at: 0,
            probed: 0,
            asked: 0,
            ask_at: 0,
            not_before: 0,
            failed: None,
            complained: None,
            in_flight: 0,
        };
        Some(self.all.get_mut(place)?.insert(peer))
    }

    /// A message of a node has come; with the number of one of ours. True if it is
    /// to be asked for what it has: it is new, or has started again.
    pub fn heard(&mut self, uri: &[u8], node: Option<u64>, now: u64) -> bool {
        let Some(peer) = self.entry(uri, now) else { return false };
        (peer.heard, peer.silent) = (now, None);
        let is_new = node.is_some() && peer.node != node;
        if is_new {
            (peer.asks, peer.in_flight, peer.ask_at) = (peer.asks.or(Some(false)), 0, 0);
        }
        peer.node = node.or(peer.node);
        is_new || peer.missed_something
    }

    /// A node has asked for what we have. It is asked back, unless that is what it
    /// does.
    pub fn asked(&mut self, uri: &[u8], wanted: Wants, is_back: bool, now: u64) {
        let Some(peer) = self.entry(uri, now) else { return };
        (peer.wanted, peer.wanted_at) = (peer.wanted.and(wanted), now);
        (peer.asks, peer.ask_at) = ((!is_back).then_some(true), 0);
    }

    /// A node has changed something that is not known here: it is asked for all,
    /// now and then. True if it is to be.
    pub fn missed(&mut self, uri: &[u8], now: u64) -> bool {
        let Some(peer) = self.get_mut(uri).filter(|peer| peer.asks.is_none()) else { return false };
        peer.asks = Some(true);
        peer.ask_at = (peer.asked + ASK_AGAIN).clamp(now, now + ASK_AGAIN);
        peer.ask_at <= now
    }

    /// There may be a log line about a node; one a minute. `None` if it is not known.
    pub fn may_complain(&mut self, uri: &[u8], now: u64) -> Option<bool> {
        let peer = self.get_mut(uri)?;
        let is_time = peer.complained.is_none_or(|last| now.saturating_sub(last) >= LINE_PAUSE);
        if is_time {
            peer.complained = Some(now);
        }
        Some(is_time)
    }

    /// A message to a node was answered, or was not.
    pub fn answered(&mut self, uri: &[u8], is_good: bool, of_stored: bool, now: u64) -> bool {
        let Some(peer) = self.entry(uri, now) else { return false };
        if of_stored {
            peer.in_flight = peer.in_flight.saturating_sub(1);
        }
        match is_good {
            true => {
                (peer.heard, peer.silent) = (now, None);
                peer.missed_something
            }
            false => {
                peer.silent = peer.silent.or(Some(now));
                peer.missed_something = true;
                false
            }
        }
    }

    /// A node has answered that it could not do what a message says. It is sent all
    /// for a change, now and then; not for what that sends: the same might fail again.
    pub fn failed(&mut self, uri: &[u8], of_stored: bool, now: u64) -> bool {
        let Some(peer) = self.entry(uri, now) else { return false };
        (peer.heard, peer.silent) = (now, None);
        if of_stored {
            peer.in_flight = peer.in_flight.saturating_sub(1);
        } else if peer.failed.is_none_or(|last| now.saturating_sub(last) >= FAILED_AGAIN) {
            (peer.missed_something, peer.failed) = (true, Some(now));
        }
        peer.missed_something
    }

    /// What has changed could not be kept: all have missed it.
    pub fn all_behind(&mut self) {
        self.iter_mut().for_each(|peer| peer.missed_something = true);
    }

    /// The next node that has to be asked for what it has, and whether it has asked
    /// first. It counts as asked.
    pub fn next_to_ask(&mut self, now: u64) -> Option<(NodeUri, bool)> {
        let peer = self
            .iter_mut()
            .find(|peer| peer.node.is_some() && peer.asks.is_some() && peer.ask_at <= now)?;
        (peer.asked, peer.ask_at) = (now, 0);
        Some((peer.uri, peer.asks.take()?))
    }

    /// It could not be asked, for the host does not know it (yet): again later.
    pub fn ask_again(&mut self, uri: &[u8], is_back: bool, now: u64) {
        if let Some(peer) = self.get_mut(uri)
            && now.saturating_sub(peer.heard) < ARRIVAL
        {
            (peer.asks, peer.ask_at) = (Some(is_back), now + RETRY);
        }
    }

    /// The next node of ours that has to be sent what we have. It counts as sent.
    pub fn next_to_send(&mut self, now: u64) -> Option<(NodeUri, Wants)> {
        for peer in self.iter_mut().filter(|peer| peer.not_before <= now) {
            if peer.node.is_some() && peer.missed_something && peer.silent.is_none() {
                (peer.missed_something, peer.wanted_at) = (false, now);
                peer.wanted = Wants { publications: true, subscriptions: true };
            }
            // A stock server would double the publications that it has.
            peer.wanted.publications &= peer.node.is_some();
            if peer.wanted != Wants::default() {
                return Some((peer.uri, std::mem::take(&mut peer.wanted)));
            }
        }
        None
    }

    /// The host does not know the node (yet): what it wants is tried again, for a
    /// while.
    pub fn send_again(&mut self, uri: &[u8], wanted: Wants, now: u64) {
        if let Some(peer) = self.get_mut(uri)
            && now.saturating_sub(peer.wanted_at) < ARRIVAL
        {
            (peer.wanted, peer.not_before) = (peer.wanted.and(wanted), now + RETRY);
        }
    }

    /// A message of what we have could not be sent to a node.
    pub fn unsent_stored(&mut self, uri: &[u8]) {
        if let Some(peer) = self.get_mut(uri) {
            peer.in_flight = peer.in_flight.saturating_sub(1);
        }
    }

    /// The next node of ours that has missed something and does not answer, to be
    /// tried.
    pub fn next_to_probe(&mut self, now: u64) -> Option<NodeUri> {
        let peer = self.iter_mut().find(|peer| {
            let silent = peer.silent.filter(|_| peer.missed_something && peer.node.is_some());
            silent.is_some_and(|silent| now.saturating_sub(silent) < PATIENCE)
                && now.saturating_sub(peer.probed) >= PROBE
        })?;
        peer.probed = now;
        Some(peer.uri)
    }

    /// So many messages more are under way to a node.
    pub fn sent_stored(&mut self, uri: &[u8]) {
        if let Some(peer) = self.get_mut(uri) {
            peer.in_flight += 1;
        }
    }

    /// Messages of what we have that a node has not answered yet.
    pub fn in_flight(&self, uri: &[u8]) -> u32 {
        self.get(uri).map_or(0, |peer| peer.in_flight)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Wants = Wants { publications: true, subscriptions: true };
    const A: &[u8] = b"sip:127.0.0.1:5060";

    fn uri(text: &[u8]) -> Option<NodeUri> {
        NodeUri::new(text)
    }

    #[test]
    fn a_server_of_ours_is_asked_once_for_each_of_its_starts() {
        let mut peers = Peers::default();
        assert!(!peers.heard(A, None, 1));
        assert_eq!(peers.next_to_ask(9), None);
        assert!(peers.heard(A, Some(7), 2));
        assert_eq!(peers.next_to_ask(9).map(|(_, back)| back), Some(false));
        assert!(!peers.heard(A, Some(7), 3) && peers.next_to_ask(9).is_none());
        assert!(peers.heard(A, Some(8), 4));
        assert!(peers.next_to_ask(9).is_some());
    }

    #[test]
    fn who_asks_is_sent_all_and_asked_back() {
        let mut peers = Peers::default();
        peers.heard(A, Some(7), 1);
        peers.next_to_ask(9);
        let some = Wants { publications: true, subscriptions: false };
        peers.asked(A, some, false, 2);
        assert_eq!(peers.next_to_send(2), uri(A).map(|uri| (uri, some)));
        assert_eq!(peers.next_to_send(2), None);
        assert_eq!(peers.next_to_ask(9).map(|(_, back)| back), Some(true));
        peers.asked(A, ALL, true, 3);
        assert_eq!(peers.next_to_ask(9), None);
        // A stock server is not sent what would be doubled there.
        const STOCK: &[u8] = b"sip:127.0.0.2:5060";
        peers.asked(STOCK, ALL, true, 3);
        assert_eq!(peers.next_to_send(3), uri(A).map(|uri| (uri, ALL)));
        let some = Wants { publications: false, subscriptions: true };
        assert_eq!(peers.next_to_send(3), uri(STOCK).map(|uri| (uri, some)));
        assert_eq!(peers.next_to_send(3), None);
    }

    #[test]
    fn who_has_missed_something_is_sent_all_when_it_is_back() {
        let mut peers = Peers::default();
        peers.heard(A, Some(7), 1);
        assert!(!peers.answered(A, false, false, 10));
        assert_eq!(peers.next_to_send(10), None);
        assert_eq!(peers.next_to_probe(PROBE), uri(A));
        assert_eq!(peers.next_to_probe(PROBE + 1), None);
        assert_eq!(peers.next_to_probe(2 * PROBE), uri(A));
        assert!(peers.answered(A, true, false, 2 * PROBE + 1));
        assert_eq!(peers.next_to_send(2 * PROBE + 1), uri(A).map(|uri| (uri, ALL)));
        assert_eq!(peers.next_to_probe(9 * PROBE), None);
        peers.answered(A, false, false, 9 * PROBE);
        assert_eq!(peers.next_to_probe(9 * PROBE + PATIENCE), None);
    }

    /// What a node cannot apply must not be sent for ever.
    #[test]
    fn who_fails_is_sent_all_now_and_then() {
        let mut peers = Peers::default();
        peers.heard(A, Some(7), 1);
        peers.next_to_ask(1);
        assert!(peers.failed(A, false, 10));
        assert_eq!(peers.next_to_send(10), uri(A).map(|uri| (uri, ALL)));
        assert!(!peers.failed(A, true, 20) && !peers.failed(A, false, 30));
        assert_eq!(peers.next_to_send(30), None);
        assert!(peers.failed(A, false, 10 + FAILED_AGAIN));
        assert!(peers.next_to_send(10 + FAILED_AGAIN).is_some());
    }

    #[test]
    fn there_is_room_for_some() {
        let mut peers = Peers::default();
        for n in 0..2 * MOST {
            peers.heard(format!("sip:10.0.0.{n}:5060").as_bytes(), None, n as u64);
        }
        assert_eq!(peers.iter().count(), MOST);
        assert!(!peers.heard(&[b'x'; 97], None, 1));
    }
}
