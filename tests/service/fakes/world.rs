//! A server with its surroundings, and requests in short form.

use super::database::FakeDatabase;
use super::host::{Event, FakeHost, FakeIncoming, Outside, Sent};
use super::limit;
use lock_api::Mutex;
use presence::config::{Config, Parameters, PublicationCache, SubscriptionMode};
use presence::ports::{PackageVerdict, Reply};
use presence::presence::cseq::CSeq;
use presence::presence::demands::Demands;
use presence::presence::event_package::{EventPackage, PackageId};
use presence::presence::presentity::PresentityKey;
use presence::presence::registry::EventPackageRegistry;
use presence::presence::request::{PublishRequest, RequestId, SubscribeRequest, UriParts};
use presence::presence::uri::UserCase;
use presence::service::answer::RequestOutcome;
use presence::service::notifier::{self, Budget};
use presence::service::{Server, expiry, policy, publish, subscribe, subscriptions};
use presence::shm::{
    HashIndex, Heap, HeapArena, HeapUsage, KeyedHash, Memory, PagePool, place, place_slice,
};
use presence::store::Shared;
use presence::store::counters::{Counters, Line, lines};
use presence::store::cseq_floors::CseqFloors;
use presence::store::gauges::Gauge;
use presence::store::insight::{Entry, Insight, LATEST};
use presence::store::replication::{Bounds, Replication};
use presence::store::retransmissions::{Retransmissions, Set};
use presence::store::shard::{SHARDS_PER_HEAP, Shard, ShardPolicy};
use presence::store::tally::{ROW_COUNTS, RowCount, TIMES, Tables, Tally};
use presence::store::waits::{WAITS, Wait};
use presence::store::writers::Writers;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

/// The process's heap and `parking_lot`'s lock.
pub struct FakeMemory;

impl Memory for FakeMemory {
    type Arena = HeapArena;
    type Lock = parking_lot::RawMutex;
}

pub const PRESENCE: PackageId = PackageId(0);
pub const WINFO: PackageId = PackageId(1);
pub const MWI: PackageId = PackageId(2);
pub const DIALOG: PackageId = PackageId(3);
pub const SLA: PackageId = PackageId(4);

/// A dialog-info document with one dialog, or with none.
pub fn dialog(id: &str, state: &str) -> String {
    match id {
        "" => "<dialog-info></dialog-info>".to_owned(),
        id => {
            format!(
                "<dialog-info><dialog id=\"{id}\"><state>{state}</state></dialog></dialog-info>"
            )
        }
    }
}

/// A document as tests read it: of dialog information only `id:state`.
pub fn label(body: &[u8]) -> String {
    let body = String::from_utf8_lossy(body).into_owned();
    if !body.contains("<dialog-info") {
        return body;
    }
    let between = |a: &str, b: &str| {
        body.split(a).nth(1).and_then(|rest| rest.split(b).next()).unwrap_or_default().to_owned()
    };
    match body.contains("<dialog ") {
        true => format!("{}:{}", between("id=\"", "\""), between("<state>", "<")),
        false => "idle".to_owned(),
    }
}

fn registry(requires_authorization: bool, restricts: bool) -> EventPackageRegistry {
    let mut registry = EventPackageRegistry::default();
    for (name, content_type, aggregates) in [
        ("presence", "application/pidf+xml", true),
        ("presence.winfo", "application/watcherinfo+xml", false),
        ("message-summary", "application/simple-message-summary", false),
        ("dialog", "application/dialog-info+xml", true),
        ("dialog;sla", "application/dialog-info+xml", false),
    ] {
        let mut package = EventPackage::named(name.as_bytes()).unwrap();
        package.content_type = content_type.as_bytes().to_vec();
        package.default_expires = 3600;
        package.aggregates = aggregates;
        package.keeps_entity_tag = package.is_shared_line();
        package.restricts = restricts && package.is_presence();
        package.requires_authorization = requires_authorization && package.is_presence();
        registry.add(package).unwrap();
    }
    registry
}

/// How a server is set up.
#[derive(Clone)]
pub struct Setup {
    pub database: Option<FakeDatabase>,
    pub cache: PublicationCache,
    pub mode: SubscriptionMode,
    pub shards: usize,
    pub authorizes: bool,
    /// Rules reduce documents.
    pub restricts: bool,
    pub user_case: UserCase,
    pub same_call: bool,
    /// Bytes of documents kept beside their rows, in each shard.
    pub document_cache_bytes: usize,
    pub config: fn(&mut Config),
    /// Replicates, and has this address; the number is that of its start.
    pub node: Option<(&'static str, u32)>,
}

impl Default for Setup {
    fn default() -> Setup {
        Setup {
            database: None,
            cache: PublicationCache::Record,
            mode: SubscriptionMode::Memory,
            shards: 2,
            authorizes: true,
            restricts: false,
            user_case: UserCase::Sensitive,
            same_call: false,
            document_cache_bytes: 0,
            config: |_| {},
            node: None,
        }
    }
}

impl Setup {
    /// Everything is kept in a database.
    pub fn stored() -> Setup {
        Setup {
            database: Some(FakeDatabase::default()),
            cache: PublicationCache::Hybrid,
            mode: SubscriptionMode::WriteBack,
            ..Setup::default()
        }
    }
}

/// What a server that replicates shares; its number is the one of its address and of
/// its start.
fn node(
    arena: HeapArena,
    heap: &'static Heap<FakeMemory>,
    hash: &'static KeyedHash,
    uri: &str,
    start: u32,
) -> &'static Replication<FakeMemory> {
    let mut random = [0; 16];
    let last = uri.as_bytes().last_chunk::<4>().unwrap();
    random[..4].copy_from_slice(&start.to_le_bytes());
    random[4..8].copy_from_slice(last);
    let bounds = Bounds::of(256 << 20);
    Replication::new(arena, heap, hash, (random, uri.as_bytes()), bounds).unwrap()
}

/// What the shared memory is used for: chunks, and what is in them.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct InUse {
    bytes: usize,
    slot_bytes: usize,
    runs: usize,
}

/// One process of a server.
pub struct World {
    pub server: Arc<Server<FakeMemory>>,
    pub host: FakeHost,
    pub arena: HeapArena,
    pub pool: &'static PagePool<FakeMemory>,
    heaps: &'static [Heap<FakeMemory>],
    index_heap: &'static Heap<FakeMemory>,
    idle: InUse,
    cseq: u32,
}

impl Default for World {
    fn default() -> World {
        World::new(Setup::default())
    }
}

impl World {
    pub fn new(setup: Setup) -> World {
        limit::begin();
        let now = 1_800_000_000;
        let (mut config, _) = Parameters::default().validate().unwrap();
        config.publ_cache = setup.cache;
        config.subs_db_mode = setup.mode;
        config.sip_uri_match = setup.user_case;
        config.delete_same_subs = setup.same_call;
        config.dmq.enabled = setup.node.is_some();
        config.dmq.subscriptions = true;
        (setup.config)(&mut config);
        let arena = HeapArena::new();
        let pool = place(arena, PagePool::new(arena, 0).unwrap()).unwrap();
        let hash = place(arena, KeyedHash::new([7; 16])).unwrap();
        let heaps =
            place_slice(arena, setup.shards.div_ceil(SHARDS_PER_HEAP), |_| Ok(Heap::new(pool)));
        let heaps = heaps.unwrap();
        let index_heap = place(arena, Heap::new(pool)).unwrap();
        let policy = ShardPolicy {
            document_cache_bytes: setup.document_cache_bytes,
            ..policy::shard(&config)
        };
        let watchers =
            place_slice(arena, setup.shards, |_| Ok(Mutex::new(HashIndex::new(index_heap))));
        let times = place_slice(arena, TIMES, |_| Ok(AtomicU64::new(0))).unwrap();
        let rows = place_slice(arena, ROW_COUNTS, |_| Ok(RowCount::default())).unwrap();
        let tables = Tables { watchers: watchers.unwrap(), times, rows };
        let tally: &'static Tally<_> = place(arena, Tally::new(tables, hash)).unwrap();
        let shards = place_slice(arena, setup.shards, |n| {
            Ok(Mutex::new(Shard::new(&heaps[n / SHARDS_PER_HEAP], (*hash, tally), now, policy)?))
        });
        let dialogs =
            place_slice(arena, setup.shards, |_| Ok(Mutex::new(HashIndex::new(index_heap))));
        let sets = place_slice(arena, 64, |_| Ok(Mutex::new(Set::EMPTY))).unwrap();
        let floors = place_slice(arena, 1024, |_| Ok(AtomicU64::new(0))).unwrap();
        let latest = place_slice(arena, LATEST, |_| Ok(Entry::default())).unwrap();
        let registry = registry(setup.authorizes, setup.restricts);
        let shared = Shared {
            shards: shards.unwrap(),
            dialogs: dialogs.unwrap(),
            hash,
            tally,
            retransmissions: place(arena, Retransmissions::new(sets, hash)).unwrap(),
            wake: place(arena, AtomicBool::new(false)).unwrap(),
            writers: place(arena, Writers::default()).unwrap(),
            floors: place(arena, CseqFloors::new(floors)).unwrap(),
            insight: place(arena, Insight::new(hash, latest)).unwrap(),
            replication: setup.node.map(|(uri, start)| node(arena, index_heap, hash, uri, start)),
            waits: place_slice(arena, WAITS, |_| Ok(Wait::default())).unwrap(),
        };
        let packages = registry.count();
        let lines = place_slice(arena, lines(1, packages), |_| Ok(Line::default())).unwrap();
        let counters = Counters::new(lines, packages);
        let outside = Arc::new(Outside::default());
        outside.now.store(now, SeqCst);
        let server = Server::new(config, registry, shared, counters, Default::default());
        let server = Arc::new(server);
        let host = FakeHost::new(outside, setup.database);
        let idle = InUse::default();
        let mut world = World { server, host, arena, pool, heaps, index_heap, idle, cseq: 0 };
        world.idle = world.in_use();
        world
    }

    /// Another server on the same database, to the same watchers.
    pub fn beside(&self, setup: Setup) -> World {
        let mut other = World::new(Setup { database: self.host.database.clone(), ..setup });
        other.host.outside = self.host.outside.clone();
        other.cseq = 1_000_000 * (1 + self.host.outside.forks.fetch_add(1, SeqCst));
        other
    }

    /// Another process of the same server.
    pub fn fork(&self) -> World {
        let host = FakeHost::new(self.host.outside.clone(), self.host.database.clone());
        // Its requests must not be taken for retransmissions of others.
        let cseq = 1_000_000 * (1 + host.outside.forks.fetch_add(1, SeqCst));
        World { server: self.server.clone(), host, cseq, ..*self }
    }

    pub fn key(&self, user: &str, package: PackageId) -> PresentityKey {
        self.server.store.key(user.as_bytes(), b"h", package)
    }

    pub fn now(&self) -> i64 {
        self.host.outside.now.load(SeqCst)
    }

    /// Lets time pass.
    pub fn pass(&self, seconds: i64) {
        self.host.outside.now.fetch_add(seconds, SeqCst);
    }

    /// The next request without a CSeq of its own has one above this.
    pub fn skip_requests(&mut self, count: u32) {
        self.cseq += count;
    }

    /// Runs the timers, then the sender processes.
    pub fn expire(&mut self) {
        expiry::publications(&self.server, &mut self.host);
        expiry::subscriptions(&self.server, &mut self.host);
        self.send();
    }

    /// Does what the sender processes do, until nothing is left.
    pub fn send(&mut self) {
        for _ in 0..1000 {
            if !self.send_step() {
                return;
            }
        }
        panic!("the sender processes are never done");
    }

    /// Serves each lane that was handed over once.
    pub fn send_step(&mut self) -> bool {
        let mut any = false;
        for shard in 0..self.server.store.shards() {
            if let Some(lane) = self.server.store.take_over(shard) {
                any = true;
                notifier::run(&self.server, &mut self.host, lane, Budget::SENDER);
            }
        }
        any
    }

    /// What has left since the last time.
    pub fn events(&self) -> Vec<Event> {
        std::mem::take(&mut self.host.outside.log.lock().unwrap())
    }

    /// The NOTIFYs that have left since the last time.
    pub fn notifies(&self) -> Vec<Sent> {
        let notify = |event| match event {
            Event::Notify(sent) => Some(sent),
            Event::Reply(_) => None,
        };
        self.events().into_iter().filter_map(notify).collect()
    }

    /// The NOTIFYs in brief.
    pub fn seen(&self) -> Vec<String> {
        self.notifies().iter().map(Sent::brief).collect()
    }

    pub fn complaints(&self) -> Vec<String> {
        std::mem::take(&mut self.host.outside.complaints.lock().unwrap())
    }

    /// What the heaps have handed out, and pages taken.
    pub fn usage(&self) -> (Vec<HeapUsage>, HeapUsage) {
        (self.heaps.iter().map(Heap::usage).collect(), self.index_heap.usage())
    }

    fn in_use(&self) -> InUse {
        let heaps = self.heaps.iter().chain([self.index_heap]).map(Heap::usage);
        heaps.fold(InUse { bytes: self.arena.live_bytes(), ..InUse::default() }, |sum, heap| {
            let (slot_bytes, runs) = (sum.slot_bytes + heap.slot_bytes, sum.runs + heap.runs);
            InUse { slot_bytes, runs, ..sum }
        })
    }

    /// Nothing is stored any more, and all memory has gone back.
    #[track_caller]
    pub fn assert_empty(&self) {
        assert_eq!(self.in_use(), self.idle, "{:?}", self.usage());
        let gauges = self.server.store.gauges();
        assert_eq!(Gauge::ALL.map(|gauge| gauges.all(gauge)), [0; 4]);
        assert_eq!(gauges.queued(), 0);
    }

    /// The documents of a presentity's publications.
    pub fn documents(&self, user: &str, package: PackageId) -> Vec<String> {
        let state = self.server.store.state(&self.key(user, package));
        state.publications.iter().map(|publication| label(&publication.body)).collect()
    }

    pub fn watchers(&mut self, user: &str, package: PackageId) -> usize {
        let (key, mut count) = (self.key(user, package), 0);
        subscriptions::each_watcher(&self.server, &mut self.host, &key, |_, _| count += 1).unwrap();
        count
    }

    pub fn publish(&mut self, it: Publish<'_>) -> Answered {
        self.cseq += 1;
        let request = PublishRequest {
            id: RequestId {
                call_id: b"publisher",
                from_tag: b"p",
                cseq: CSeq(it.cseq.unwrap_or(self.cseq)),
                branch: b"z9hG4bK",
            },
            presentity: UriParts { user: it.user.as_bytes(), host: b"h" },
            event: it.event.map(str::as_bytes),
            expires: it.expires.map(str::as_bytes),
            if_match: it.tag.map(str::as_bytes),
            content_type: it.content_type.map(str::as_bytes),
            body: it.body.as_bytes(),
            sender: it.sender.map(str::as_bytes),
            socket: b"udp:127.0.0.1:5060",
            demands: it.demands,
        };
        let mut incoming = self.incoming(b"", it.verdict, it.before_reply);
        let served = publish::handle(&self.server, &mut self.host, &mut incoming, &request);
        Answered::new(served, incoming.replies)
    }

    pub fn subscribe(&mut self, it: Subscribe<'_>) -> Answered {
        self.cseq += 1;
        let own_tag = format!("tt-{}", it.call_id);
        let to_tag = it.to_tag.unwrap_or(&own_tag);
        let uri = |user: &'static str| UriParts { user: user.as_bytes(), host: b"h" };
        let contact = format!("sip:{}@{}", it.call_id, it.contact_host);
        let request = SubscribeRequest {
            id: RequestId {
                call_id: it.call_id.as_bytes(),
                from_tag: it.from_tag.as_bytes(),
                cseq: CSeq(it.cseq.unwrap_or(self.cseq)),
                branch: b"z9hG4bK",
            },
            presentity: UriParts { user: it.user.as_bytes(), host: b"h" },
            to: uri("to"),
            to_tag: it.in_dialog.then_some(to_tag.as_bytes()),
            from: uri("from"),
            watcher: UriParts { user: it.watcher.as_bytes(), host: it.watcher_host.as_bytes() },
            event: it.event.map(str::as_bytes),
            expires: it.expires.map(str::as_bytes),
            contact: contact.as_bytes(),
            demands: it.demands,
            contact_user: it.user.as_bytes(),
            record_route: Vec::new(),
            socket: b"udp:127.0.0.1:5060",
            local_contact: b"sip:server".to_vec(),
            user_agent: b"",
            flags: 0,
        };
        let mut incoming = self.incoming(to_tag.as_bytes(), it.verdict, it.before_reply);
        let served = subscribe::handle(&self.server, &mut self.host, &mut incoming, &request);
        Answered::new(served, incoming.replies)
    }

    fn incoming(
        &self,
        to_tag: &[u8],
        verdict: PackageVerdict,
        before_reply: Option<Box<dyn FnOnce() + Send>>,
    ) -> FakeIncoming {
        FakeIncoming {
            outside: self.host.outside.clone(),
            in_transaction: false,
            to_tag: to_tag.to_vec(),
            verdict,
            before_reply,
            replies: Vec::new(),
        }
    }

    /// A new subscription of `alice` by a watcher of that name.
    pub fn watch(&mut self, watcher: &str, event: &str) {
        let call_id = watcher;
        let answer = self.subscribe(Subscribe { event: Some(event), ..Subscribe::new(call_id) });
        assert_eq!(answer.code, 200);
    }

    /// A new publication for `alice`; gives its entity-tag.
    pub fn create(&mut self, event: &str, body: &str) -> String {
        let answer = self.publish(Publish { event: Some(event), body, ..Publish::default() });
        assert_eq!(answer.code, 200);
        answer.tag
    }

    /// Publishes another document; gives the new entity-tag.
    pub fn modify(&mut self, event: &str, tag: &str, body: &str) -> String {
        let change = Publish { event: Some(event), tag: Some(tag), body, ..Publish::default() };
        let answer = self.publish(change);
        assert_eq!(answer.code, 200);
        answer.tag
    }

    /// Ends a publication.
    pub fn remove(&mut self, event: &str, tag: &str) {
        let expires = Some("0");
        let removal = Publish { event: Some(event), tag: Some(tag), expires, ..Publish::default() };
        assert_eq!(self.publish(removal).code, 200);
    }
}

/// A PUBLISH; by default one for `alice`'s presence, without a body.
pub struct Publish<'a> {
    pub user: &'a str,
    pub event: Option<&'a str>,
    pub tag: Option<&'a str>,
    pub body: &'a str,
    pub expires: Option<&'a str>,
    pub content_type: Option<&'a str>,
    pub sender: Option<&'a str>,
    pub cseq: Option<u32>,
    pub demands: Demands<'a>,
    pub verdict: PackageVerdict,
    pub before_reply: Option<Box<dyn FnOnce() + Send>>,
}

impl Default for Publish<'_> {
    fn default() -> Self {
        Publish {
            user: "alice",
            event: Some("presence"),
            tag: None,
            body: "",
            expires: None,
            content_type: None,
            sender: None,
            cseq: None,
            demands: Demands::default(),
            verdict: PackageVerdict::Accepted,
            before_reply: None,
        }
    }
}

/// A SUBSCRIBE to `alice`'s presence, initial by default.
pub struct Subscribe<'a> {
    pub call_id: &'a str,
    pub from_tag: &'a str,
    pub user: &'a str,
    pub watcher: &'a str,
    pub watcher_host: &'a str,
    pub event: Option<&'a str>,
    pub expires: Option<&'a str>,
    pub contact_host: &'a str,
    /// Our tag; by default one made of the Call-ID.
    pub to_tag: Option<&'a str>,
    pub in_dialog: bool,
    pub cseq: Option<u32>,
    pub demands: Demands<'a>,
    pub verdict: PackageVerdict,
    pub before_reply: Option<Box<dyn FnOnce() + Send>>,
}

impl<'a> Subscribe<'a> {
    pub fn new(call_id: &'a str) -> Self {
        Subscribe {
            call_id,
            from_tag: "ft",
            user: "alice",
            watcher: call_id,
            watcher_host: "h",
            event: Some("presence"),
            expires: None,
            contact_host: "h",
            to_tag: None,
            in_dialog: false,
            cseq: None,
            demands: Demands::default(),
            verdict: PackageVerdict::Accepted,
            before_reply: None,
        }
    }

    pub fn refresh(call_id: &'a str) -> Self {
        Subscribe { in_dialog: true, ..Subscribe::new(call_id) }
    }

    pub fn end(call_id: &'a str) -> Self {
        Subscribe { expires: Some("0"), ..Subscribe::refresh(call_id) }
    }
}

/// The answer to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answered {
    pub served: RequestOutcome,
    /// 0 if there was no reply.
    pub code: u16,
    pub reason: &'static str,
    pub headers: String,
    pub tag: String,
    pub expires: String,
}

impl Answered {
    #[track_caller]
    fn new(served: RequestOutcome, replies: Vec<Reply>) -> Answered {
        assert!(replies.len() <= 1, "several final replies: {replies:?}");
        let reply = replies.into_iter().next();
        let headers = reply.as_ref().map(|r| String::from_utf8_lossy(&r.headers).into_owned());
        let headers = headers.unwrap_or_default();
        let value = |name: &str| {
            let line = headers.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
            line.unwrap_or_default().to_owned()
        };
        Answered {
            served,
            code: reply.as_ref().map_or(0, |reply| reply.code),
            reason: reply.as_ref().map_or("", |reply| reply.reason),
            tag: value("SIP-ETag"),
            expires: value("Expires"),
            headers,
        }
    }
}
