//! Kamailios that replicate to each other with the stock `dmq` module, over a network
//! that may be bad; a peer that is none; and what has to hold of all of them.

use crate::agents::Watcher;
use crate::bodies;
use crate::config::{Config, Storage};
use crate::endpoint::{Answer, Endpoint};
use crate::kamailio::{Kamailio, eventually};
use crate::network::Network;
use crate::sip::{Message, unique};
use crate::target::Target;
use crate::trace::Trace;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

/// How long nodes may take to know each other, or to agree.
pub const AGREE: Duration = Duration::from_secs(15);

/// One node as a test wants it.
pub struct Node {
    /// The module that it loads.
    pub module: Target,
    /// The rest of its configuration.
    pub config: Config,
}

impl Node {
    /// A node that replicates publications: everything in memory, two workers.
    pub fn new(module: Target) -> Self {
        let config = Config::new(Storage::Memory)
            .children(2)
            .presence("enable_dmq", 1)
            .presence("clean_period", 1)
            .presence("db_update_period", 1);
        Self { module, config }
    }

    /// Another configuration.
    pub fn with(mut self, change: impl FnOnce(Config) -> Config) -> Self {
        self.config = change(self.config);
        self
    }
}

/// Running nodes. `nodes` may be killed and started again one by one.
pub struct Cluster {
    /// The nodes, in the order in which they were given.
    pub nodes: Vec<Kamailio>,
    /// What is between them.
    pub network: Network,
    includes: tempfile::TempDir,
}

impl Cluster {
    /// Starts the nodes and waits until all know each other.
    pub fn start(nodes: Vec<Node>, seed: u64) -> Self {
        let network = Network::new(nodes.len(), seed);
        let includes = tempfile::tempdir().unwrap_or_else(|error| panic!("no folder: {error}"));
        let mut cluster = Self { nodes: Vec::new(), network, includes };
        for (index, node) in nodes.into_iter().enumerate() {
            cluster.write_addresses(index);
            let config = cluster.complete(index, node);
            cluster.nodes.push(Kamailio::start(config));
        }
        cluster.wait_acquainted();
        cluster
    }

    /// As many nodes of ours.
    pub fn ours(nodes: usize, change: impl Fn(Config) -> Config) -> Self {
        let node = || Node::new(Target::Ours).with(&change);
        Self::start((0..nodes).map(|_| node()).collect(), 1)
    }

    fn complete(&self, index: usize, node: Node) -> Config {
        let (own, advertised) = (self.network.own(index), self.network.advertised(index));
        node.config
            .with_module(node.module)
            .module("dmq")
            .global(&format!("listen=udp:127.0.0.1:{own} advertise 127.0.0.1:{advertised}"))
            .parameter("dmq", "server_address", format!("sip:127.0.0.1:{advertised}"))
            .parameter("dmq", "server_socket", format!("udp:127.0.0.1:{own}"))
            .parameter("dmq", "ping_interval", 5)
            .before("if(method==\"KDMQ\") { dmq_handle_message(); exit; }\n")
            .route(&format!("include_file \"{}\"", self.include(index)))
    }

    fn include(&self, index: usize) -> String {
        self.includes.path().join(format!("node{index}.cfg")).display().to_string()
    }

    /// Whom a node asks when it starts: those that run. (Who is asked in vain is
    /// marked as absent five seconds later, even if it has come meanwhile.)
    fn write_addresses(&self, index: usize) {
        let mut text = String::new();
        for (other, node) in self.nodes.iter().enumerate() {
            if other != index && node.is_alive() {
                let port = self.network.advertised(other);
                let _ = writeln!(
                    text,
                    "modparam(\"dmq\", \"notification_address\", \"sip:127.0.0.1:{port}\")"
                );
            }
        }
        std::fs::write(self.include(index), text)
            .unwrap_or_else(|error| panic!("cannot write a node's addresses: {error}"));
    }

    /// Starts a node again that was killed or stopped.
    pub fn start_again(&self, index: usize) {
        self.write_addresses(index);
        self.nodes[index].start_again();
    }

    /// The same with another module.
    pub fn start_again_with(&self, index: usize, module: Target) {
        self.write_addresses(index);
        self.nodes[index].start_again_with(module);
    }

    /// Where phones find the nodes.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.nodes.iter().map(Kamailio::address).collect()
    }

    /// Waits until each node that runs has all others that run as active nodes.
    pub fn wait_acquainted(&self) {
        let alive: Vec<usize> =
            (0..self.nodes.len()).filter(|index| self.nodes[*index].is_alive()).collect();
        for index in &alive {
            let others = alive.iter().filter(|other| *other != index);
            let wanted: BTreeSet<u16> = others.map(|o| self.network.advertised(*o)).collect();
            let known = || active_ports(&self.nodes[*index]).is_superset(&wanted).then_some(());
            if eventually(AGREE, known).is_none() {
                let list = self.nodes[*index].rpc(&["dmq.list_nodes"]);
                self.fail(&format!("node {index} does not know the others: {list:?}"));
            }
        }
    }

    /// Waits until this node has no active peer at this index any more.
    pub fn wait_missed(&self, index: usize, gone: usize) {
        let port = self.network.advertised(gone);
        let missed = || (!active_ports(&self.nodes[index]).contains(&port)).then_some(());
        if eventually(Duration::from_secs(25), missed).is_none() {
            self.fail(&format!("node {index} still has node {gone}"));
        }
    }

    /// The publications of a node of ours, without what is its own business.
    pub fn publications(&self, index: usize) -> BTreeSet<String> {
        let text = self.nodes[index].rpc_ok(&["presence.presentity_list", "full"]);
        records(&text)
            .into_iter()
            .map(|record| {
                let get = |name: &str| record.get(name).cloned().unwrap_or_default();
                let names = ["user", "domain", "event", "etag", "ruid", "body"];
                names.map(get).join("|")
            })
            .collect()
    }

    /// The subscriptions to a presentity at a node of ours: those of its own and replicas.
    pub fn subscriptions(&self, index: usize, uri: &str) -> Vec<BTreeMap<String, String>> {
        records(&self.nodes[index].rpc_ok(&["presence.watcher_list", "full", uri]))
    }

    /// Waits until all nodes of ours that run have the same publications, record by
    /// record, and gives their number.
    pub fn wait_same_publications(&self, ours: &[usize]) -> usize {
        let mut last = Vec::new();
        let agreed = eventually(AGREE, || {
            last = ours.iter().map(|index| self.publications(*index)).collect();
            last.windows(2).all(|pair| pair[0] == pair[1]).then(|| last[0].len())
        });
        agreed.unwrap_or_else(|| {
            let all: BTreeSet<&String> = last.iter().flatten().collect();
            let mut text = String::from("the nodes do not agree. Who has what:\n");
            for record in
                all.iter().filter(|record| !last.iter().all(|list| list.contains(record.as_str())))
            {
                let who: Vec<usize> =
                    (0..last.len()).filter(|n| last[*n].contains(*record)).collect();
                let _ = writeln!(text, "  nodes {who:?}: {record}");
            }
            self.fail(&text)
        })
    }

    /// What a node shows to somebody who asks once.
    pub fn shown(&self, index: usize, user: &str) -> String {
        let mut watcher = Watcher::udp(&self.nodes[index], user).named("checker");
        watcher.fetch().body()
    }

    /// Ends all nodes that run, which have to be healthy.
    pub fn finish(&self) {
        for node in self.nodes.iter().filter(|node| node.is_alive()) {
            node.finish();
        }
    }

    /// Fails the test with what all nodes have to say.
    pub fn fail(&self, message: &str) -> ! {
        let reports: Vec<String> = self.nodes.iter().map(Kamailio::report).collect();
        panic!("{message}\n{}", reports.join("\n"))
    }
}

/// The ports of the nodes that this one takes for active.
fn active_ports(node: &Kamailio) -> BTreeSet<u16> {
    let text = node.rpc(&["dmq.list_nodes"]).unwrap_or_default();
    records(&text)
        .into_iter()
        .filter(|record| record.get("status").is_some_and(|status| status == "active"))
        .filter_map(|record| record.get("port")?.parse().ok())
        .collect()
}

/// The records of kamcmd's output: `{`, lines `name: value`, `}`. A value may have
/// several lines.
fn records(text: &str) -> Vec<BTreeMap<String, String>> {
    let mut all = Vec::new();
    let mut record: BTreeMap<String, String> = BTreeMap::new();
    let mut last = String::new();
    for line in text.lines() {
        match line.trim_end() {
            "{" => record.clear(),
            "}" => all.push(std::mem::take(&mut record)),
            _ => match line.strip_prefix('\t').and_then(|field| field.split_once(": ")) {
                Some((name, value)) => {
                    last = name.to_owned();
                    record.insert(name.to_owned(), value.to_owned());
                }
                None => {
                    if let Some(value) = record.get_mut(&last) {
                        value.push('\n');
                        value.push_str(line);
                    }
                }
            },
        }
    }
    all
}

/// What has to hold of everything that one dialog's watcher has got: no CSeq twice
/// (retransmissions aside), wherever it came from.
pub fn check_cseqs(watcher: &Watcher) {
    let mut seen: BTreeMap<u32, (SocketAddr, String)> = BTreeMap::new();
    for notify in watcher.notifies() {
        if let Some((from, body)) = seen.get(&notify.cseq) {
            panic!(
                "{}: CSeq {} twice: from {from}: {body}\nand from {}: {}\n{}",
                watcher.watcher,
                notify.cseq,
                notify.from,
                notify.body(),
                watcher.endpoint.trace().tail()
            );
        }
        seen.insert(notify.cseq, (notify.from, notify.body()));
    }
}

/// What the watcher was told last, by CSeq: each tuple that is open, with its note.
pub fn told(watcher: &Watcher) -> BTreeMap<String, String> {
    let last = watcher.notifies().into_iter().max_by_key(|notify| notify.cseq);
    let tuples = last.map_or(Vec::new(), |notify| bodies::tuples(&notify.body()));
    let open = tuples.into_iter().filter(|tuple| tuple.basic == "open");
    open.map(|tuple| (tuple.id, tuple.note)).collect()
}

/// Waits until the watcher's last NOTIFY shows this.
pub fn wait_told(cluster: &Cluster, watcher: &Watcher, expected: &BTreeMap<String, String>) {
    if eventually(AGREE, || (told(watcher) == *expected).then_some(())).is_none() {
        let (is, who) = (told(watcher), &watcher.watcher);
        cluster.fail(&format!("{who} was told {is:?}, and not {expected:?}"));
    }
}

/// A DMQ node that is none: it announces itself, answers what it is sent, and keeps it.
pub struct FakePeer {
    /// Its socket, which speaks to the node.
    pub endpoint: Endpoint,
}

impl FakePeer {
    /// A peer of this node of a cluster; returns when the node knows it.
    pub fn join(cluster: &Cluster, index: usize) -> Self {
        let own = SocketAddr::from(([127, 0, 0, 1], cluster.network.own(index)));
        let peer = Self::new(own, cluster.nodes[index].trace());
        peer.announce("active");
        let known = || active_ports(&cluster.nodes[index]).contains(&peer.port()).then_some(());
        if eventually(AGREE, known).is_none() {
            cluster.fail("the node does not know the peer");
        }
        peer
    }

    fn new(node: SocketAddr, trace: Trace) -> Self {
        let endpoint = Endpoint::udp(node, trace, "peer");
        endpoint.answer_with(|_| Answer::Code(200));
        Self { endpoint }
    }

    /// The port of its address.
    pub fn port(&self) -> u16 {
        self.endpoint.local().port()
    }

    /// Tells the node its state as a DMQ node.
    pub fn announce(&self, status: &str) -> Message {
        let body = format!("sip:{};status={status}\r\n", self.endpoint.local());
        self.kdmq("notification_peer", "text/plain", body.as_bytes())
    }

    /// Sends a body to the peer `presence`; gives the answer.
    pub fn send(&self, json: impl AsRef<[u8]>) -> Message {
        self.kdmq("presence", "application/json", json.as_ref())
    }

    fn kdmq(&self, peer: &str, content_type: &str, body: &[u8]) -> Message {
        let local = self.endpoint.local();
        let mut message = Message::new(format!("KDMQ sip:{peer}@127.0.0.1 SIP/2.0"));
        message
            .push("Via", self.endpoint.via())
            .push("To", format!("<sip:{peer}@127.0.0.1>"))
            .push("From", format!("<sip:{peer}@{local}>;tag={}", unique("p")))
            .push("CSeq", "10 KDMQ")
            .push("Call-ID", unique("kdmq-"))
            .push("Max-Forwards", "1")
            .push("Content-Type", content_type);
        message.set_body(body);
        self.endpoint.request(&message)
    }

    /// The bodies that were sent to it for `presence`, retransmissions left out.
    pub fn bodies(&self) -> Vec<String> {
        let received = self.endpoint.received();
        let all = received.iter().filter(|entry| {
            !entry.retransmission
                && entry.message.method() == "KDMQ"
                && entry.message.request_uri().starts_with("sip:presence@")
        });
        all.map(|entry| entry.message.body_text()).collect()
    }

    /// Waits for a body that fits.
    pub fn wait_body(&self, what: &str, fits: impl Fn(&str) -> bool) -> String {
        let find = || self.bodies().into_iter().find(|body| fits(body));
        eventually(AGREE, find)
            .unwrap_or_else(|| panic!("no message: {what}\n{}", self.endpoint.trace().tail()))
    }
}
