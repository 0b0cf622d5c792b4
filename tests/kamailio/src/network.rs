//! The network between the nodes of a cluster: a UDP proxy that loses, delays,
//! doubles and reorders datagrams, and cuts nodes off from each other.
//!
//! Each node has an address of its own here, which it advertises. What comes in on
//! the address of node `b` from the true address of node `a` is forwarded to the true
//! address of `b` from the address of `a`: a node sees nothing but advertised
//! addresses. What happens to a datagram depends on the seed and on how many there
//! were on its way before, not on the clock.

use crate::kamailio::Port;
use std::collections::BinaryHeap;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How the network treats datagrams, in percent of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Weather {
    /// Lost.
    pub lost: u32,
    /// Delivered twice.
    pub doubled: u32,
    /// Held back so that later ones overtake them.
    pub overtaken: u32,
    /// What the others are delayed by, at most.
    pub delay: Duration,
}

impl Weather {
    /// Some of everything, as much as tm's retransmissions get over in time.
    pub const BAD: Weather =
        Weather { lost: 10, doubled: 10, overtaken: 20, delay: Duration::from_millis(20) };
}

/// How long what is overtaken is held back.
const HELD_BACK: Duration = Duration::from_millis(60);

/// Numbers that look random and are the same for the same seed.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// Begins anew.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number below `bound`, which is not 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % bound
    }

    /// True in so many of a hundred cases.
    pub fn percent(&mut self, share: u32) -> bool {
        self.below(100) < u64::from(share)
    }
}

struct Rules {
    weather: Weather,
    /// Nobody hears the other side: `(from, to)`.
    cut: Vec<(usize, usize)>,
    /// For each way between two nodes.
    random: Vec<Vec<Random>>,
    stop: bool,
}

/// A datagram that is on its way. The heap gives the earliest first.
struct Flight {
    at: Instant,
    from: usize,
    to: usize,
    bytes: Vec<u8>,
}

impl PartialEq for Flight {
    fn eq(&self, other: &Self) -> bool {
        self.at == other.at
    }
}
impl Eq for Flight {}
impl PartialOrd for Flight {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Flight {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        other.at.cmp(&self.at)
    }
}

/// A node's two addresses.
struct Place {
    /// Where others think it is: a socket of ours.
    socket: UdpSocket,
    /// Where it is.
    node: SocketAddr,
}

/// The running proxy.
pub struct Network {
    rules: Arc<Mutex<Rules>>,
    thread: Option<JoinHandle<()>>,
    advertised: Vec<Port>,
    own: Vec<Port>,
}

impl Network {
    /// A network of so many nodes without faults.
    pub fn new(nodes: usize, seed: u64) -> Self {
        let ports = || (0..nodes).map(|_| Port::reserve()).collect::<Vec<_>>();
        let (advertised, own) = (ports(), ports());
        let way = |from: usize, to: usize| Random::new(seed + (from * nodes + to) as u64);
        let row = |from| (0..nodes).map(|to| way(from, to)).collect();
        let rules = Arc::new(Mutex::new(Rules {
            weather: Weather::default(),
            cut: Vec::new(),
            random: (0..nodes).map(row).collect(),
            stop: false,
        }));
        let places = advertised.iter().zip(&own).map(|(advertised, own)| place(advertised, own));
        let (places, for_thread) = (places.collect::<Vec<_>>(), Arc::clone(&rules));
        let thread = std::thread::spawn(move || forward(&places, &for_thread));
        Self { rules, thread: Some(thread), advertised, own }
    }

    fn rules(&self) -> MutexGuard<'_, Rules> {
        self.rules.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// The port that others send to.
    pub fn advertised(&self, node: usize) -> u16 {
        self.advertised[node].number
    }

    /// The port that the node listens on for its peers.
    pub fn own(&self, node: usize) -> u16 {
        self.own[node].number
    }

    /// Treats datagrams like this from now on.
    pub fn weather(&self, weather: Weather) {
        self.rules().weather = weather;
    }

    /// These nodes and all others do not hear each other any more.
    pub fn cut_off(&self, group: &[usize]) {
        let nodes = self.own.len();
        let ways = (0..nodes).flat_map(|from| (0..nodes).map(move |to| (from, to)));
        let apart = ways.filter(|(from, to)| group.contains(from) != group.contains(to));
        self.rules().cut.extend(apart);
    }

    /// Nothing is cut, lost or delayed any more.
    pub fn heal(&self) {
        let mut rules = self.rules();
        rules.cut.clear();
        rules.weather = Weather::default();
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.rules().stop = true;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn place(advertised: &Port, own: &Port) -> Place {
    let socket = UdpSocket::bind(("127.0.0.1", advertised.number))
        .unwrap_or_else(|error| panic!("cannot bind the network's socket: {error}"));
    let _ = socket.set_nonblocking(true);
    Place { socket, node: SocketAddr::from(([127, 0, 0, 1], own.number)) }
}

/// The proxy's thread.
fn forward(places: &[Place], rules: &Mutex<Rules>) {
    let mut flights: BinaryHeap<Flight> = BinaryHeap::new();
    let mut buffer = vec![0; 65536];
    loop {
        let now = Instant::now();
        while flights.peek().is_some_and(|flight| flight.at <= now) {
            if let Some(flight) = flights.pop() {
                let (from, to) = (&places[flight.from], &places[flight.to]);
                let _ = from.socket.send_to(&flight.bytes, to.node);
            }
        }
        let patience = flights.peek().map_or(50, |flight| {
            flight.at.saturating_duration_since(now).as_millis().min(50) as i32 + 1
        });
        wait_readable(places, patience);
        let mut rules = rules.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if rules.stop {
            return;
        }
        for (to, place) in places.iter().enumerate() {
            while let Ok((length, source)) = place.socket.recv_from(&mut buffer) {
                let from = places.iter().position(|place| place.node == source);
                // Somebody else's, or a node that speaks to itself.
                let Some(from) = from.filter(|from| *from != to) else { continue };
                for delay in rules.fate(from, to) {
                    let bytes = buffer[..length].to_vec();
                    flights.push(Flight { at: Instant::now() + delay, from, to, bytes });
                }
            }
        }
    }
}

fn wait_readable(places: &[Place], milliseconds: i32) {
    let mut waits: Vec<libc::pollfd> = places
        .iter()
        .map(|place| libc::pollfd {
            fd: place.socket.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        })
        .collect();
    // SAFETY: an array of that many entries, whose descriptors are open.
    unsafe { libc::poll(waits.as_mut_ptr(), waits.len() as libc::nfds_t, milliseconds) };
}

impl Rules {
    /// After how long it arrives: never, once or twice.
    fn fate(&mut self, from: usize, to: usize) -> Vec<Duration> {
        if self.cut.contains(&(from, to)) {
            return Vec::new();
        }
        let (weather, random) = (self.weather, &mut self.random[from][to]);
        if weather == Weather::default() {
            return vec![Duration::ZERO];
        }
        if random.percent(weather.lost) {
            return Vec::new();
        }
        let most = weather.delay.as_micros() as u64 + 1;
        let held = if random.percent(weather.overtaken) { HELD_BACK } else { Duration::ZERO };
        let first = held + Duration::from_micros(random.below(most));
        match random.percent(weather.doubled) {
            true => vec![first, first + HELD_BACK],
            false => vec![first],
        }
    }
}
