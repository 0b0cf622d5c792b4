//! Servers that replicate to each other, over a network that loses, doubles, delays and
//! reorders messages, and cuts servers off. All of it depends on the seed alone.

use super::host::{Dispatched, Event, Sent};
use super::world::{Setup, World};
use presence::service::replication::{Received, Replicator, receive};
use std::sync::atomic::Ordering::SeqCst;

/// Numbers that look random.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % bound
    }

    pub fn percent(&mut self, share: u64) -> bool {
        self.below(100) < share
    }
}

/// What happens to messages, in percent of them; the delay in milliseconds.
#[derive(Debug, Clone, Copy, Default)]
pub struct Weather {
    pub lost: u64,
    pub doubled: u64,
    pub delay: u64,
}

struct Flight {
    due: u64,
    from: usize,
    to: usize,
    dispatched: Dispatched,
}

const URIS: [&str; 4] = ["sip:n0:5060", "sip:n1:5061", "sip:n2:5062", "sip:n3:5063"];

/// Milliseconds after which a message that was lost counts as not answered.
const TIMEOUT: u64 = 2000;
/// Milliseconds between two looks of the replicators.
const STEP: u64 = 20;

/// The servers.
pub struct Nodes {
    pub worlds: Vec<World>,
    replicators: Vec<Replicator>,
    setup: Setup,
    flights: Vec<Flight>,
    /// Messages whose sender is to learn that nobody has answered.
    unanswered: Vec<Flight>,
    pub weather: Weather,
    cut: Vec<(usize, usize)>,
    down: Vec<usize>,
    random: Random,
    /// Milliseconds since the start.
    at: u64,
    starts: u32,
    /// All NOTIFYs that have left, and the server that has sent each.
    pub history: Vec<(usize, Sent)>,
}

impl Nodes {
    pub fn new(count: usize, setup: Setup, seed: u64) -> Nodes {
        let mut nodes = Nodes {
            worlds: Vec::new(),
            replicators: Vec::new(),
            setup,
            flights: Vec::new(),
            unanswered: Vec::new(),
            weather: Weather::default(),
            cut: Vec::new(),
            down: Vec::new(),
            random: Random::new(seed),
            at: 0,
            starts: 0,
            history: Vec::new(),
        };
        for index in 0..count {
            let world = nodes.world(index);
            nodes.worlds.push(world);
            nodes.replicators.push(Replicator::default());
        }
        (0..count).for_each(|index| nodes.ask(index));
        nodes.run(1000);
        nodes
    }

    /// So many servers that keep everything in memory.
    pub fn in_memory(count: usize) -> Nodes {
        Nodes::new(count, Setup { authorizes: false, ..Setup::default() }, 1)
    }

    fn world(&mut self, index: usize) -> World {
        self.starts += 1;
        let node = Some((URIS[index], self.starts));
        let mut world = World::new(Setup { node, ..self.setup.clone() });
        // A restart is no other time, and its requests are no retransmissions.
        world.skip_requests(self.at as u32 + 1_000_000 * index as u32);
        world.pass((self.at / 1000) as i64);
        world.host.outside.milliseconds.store(self.at % 1000, SeqCst);
        world
    }

    /// What dmq does when a node has come: its peers are told to ask.
    fn ask(&self, index: usize) {
        self.worlds[index].server.store.replication().unwrap().ask_all();
    }

    pub fn uri(index: usize) -> &'static str {
        URIS[index]
    }

    /// The server is killed, and forgets what it had in memory.
    pub fn kill(&mut self, index: usize) {
        self.collect();
        self.down.push(index);
        self.flights.retain(|flight| flight.from != index);
        self.unanswered.retain(|flight| flight.from != index);
    }

    /// It starts again.
    pub fn start(&mut self, index: usize) {
        self.down.retain(|down| *down != index);
        self.worlds[index] = self.world(index);
        self.replicators[index] = Replicator::default();
        self.ask(index);
    }

    pub fn is_up(&self, index: usize) -> bool {
        !self.down.contains(&index)
    }

    /// The server hears none of the others any more, nor they it.
    pub fn cut_off(&mut self, index: usize) {
        for other in (0..self.worlds.len()).filter(|other| *other != index) {
            self.cut.extend([(index, other), (other, index)]);
        }
    }

    pub fn is_cut(&self) -> bool {
        !self.cut.is_empty()
    }

    /// All hear each other, and nothing is lost any more.
    pub fn heal(&mut self) {
        self.cut.clear();
        self.weather = Weather::default();
    }

    /// Lets so many milliseconds go by.
    pub fn run(&mut self, milliseconds: u64) {
        let end = self.at + milliseconds;
        while self.at < end {
            self.step();
        }
    }

    fn step(&mut self) {
        let before = self.at / 1000;
        self.at += STEP;
        for index in 0..self.worlds.len() {
            if !self.is_up(index) {
                continue;
            }
            let world = &mut self.worlds[index];
            world.host.outside.milliseconds.store(self.at % 1000, SeqCst);
            if self.at / 1000 != before {
                world.pass(1);
                world.expire();
            }
            let server = world.server.clone();
            self.replicators[index].step(&server, &mut world.host);
            world.send();
            let sent = std::mem::take(&mut *world.host.outside.dispatched.lock().unwrap());
            sent.into_iter().for_each(|dispatched| self.send(index, dispatched));
        }
        self.deliver();
        self.collect();
    }

    fn send(&mut self, from: usize, dispatched: Dispatched) {
        for to in (0..self.worlds.len()).filter(|to| *to != from) {
            if dispatched.to.as_ref().is_some_and(|uri| uri != URIS[to]) {
                continue;
            }
            let copies = 1 + usize::from(self.random.percent(self.weather.doubled));
            let is_lost = self.cut.contains(&(from, to)) || self.random.percent(self.weather.lost);
            for copy in 0..copies {
                let delay = self.random.below(self.weather.delay + 1) + copy as u64 * 100;
                let dispatched = dispatched.clone();
                match is_lost {
                    true if copy == 0 => {
                        let due = self.at + TIMEOUT;
                        self.unanswered.push(Flight { due, from, to, dispatched });
                    }
                    true => {}
                    false => {
                        self.flights.push(Flight { due: self.at + delay, from, to, dispatched });
                    }
                }
            }
        }
    }

    fn deliver(&mut self) {
        let at = self.at;
        let (mut due, later): (Vec<_>, Vec<_>) =
            self.flights.drain(..).partition(|flight| flight.due <= at);
        self.flights = later;
        due.sort_by_key(|flight| flight.due);
        for flight in due {
            if !self.is_up(flight.to) || self.cut.contains(&(flight.from, flight.to)) {
                self.unanswered.push(Flight { due: at + TIMEOUT, ..flight });
                continue;
            }
            let world = &mut self.worlds[flight.to];
            let received = Received {
                message: &flight.dispatched.message,
                content_type: &flight.dispatched.content_type,
                from: URIS[flight.from].as_bytes(),
                is_member: true,
            };
            let code = receive(&world.server, &mut world.host, &received);
            self.answer(&flight, code == 200);
        }
        let (due, later): (Vec<_>, Vec<_>) =
            self.unanswered.drain(..).partition(|flight| flight.due <= at);
        self.unanswered = later;
        due.iter().for_each(|flight| self.answer(flight, false));
    }

    fn answer(&mut self, flight: &Flight, is_good: bool) {
        if !self.is_up(flight.from) {
            return;
        }
        let world = &self.worlds[flight.from];
        let now = world.now().unsigned_abs() * 1000 + self.at % 1000;
        let replication = world.server.store.replication().unwrap();
        let uri = URIS[flight.to].as_bytes();
        let is_stored = flight.dispatched.is_stored;
        replication.peers(|peers| peers.answered(uri, is_good, is_stored, now));
    }

    /// Keeps what has left since the last time.
    fn collect(&mut self) {
        for (index, world) in self.worlds.iter().enumerate() {
            for event in world.events() {
                if let Event::Notify(sent) = event {
                    self.history.push((index, sent));
                }
            }
        }
    }
}
