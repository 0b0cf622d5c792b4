//! A host whose packages make documents that are easily read: publications
//! are joined by `+`, a closing one is written `closed(...)`.

use super::database::FakeDatabase;
use super::world::{SLA, WINFO, label};
use presence::error::Fault;
use presence::ports::{
    Database, Dispatch, Host, Incoming, Level, Notify, NotifyOutcome, PackageVerdict, Packages,
    Reply, Transport,
};
use presence::presence::event_package::PackageId;
use presence::presence::subscription::{Authorization, Snapshot, Status, Text};
use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::atomic::{
    AtomicBool, AtomicI64, AtomicU32, AtomicU64, AtomicUsize, Ordering::SeqCst,
};
use std::sync::{Arc, Mutex};

/// What left the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    Reply(u16),
    Notify(Sent),
}

/// A NOTIFY as its watcher sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    pub call_id: String,
    pub cseq: u32,
    /// Value of Subscription-State without `expires`.
    pub state: String,
    pub headers: String,
    pub body: String,
    pub contact: String,
    pub token: u64,
}

impl Sent {
    /// `call-id cseq state document`.
    pub fn brief(&self) -> String {
        let Sent { call_id, cseq, state, body, .. } = self;
        format!("{call_id} {cseq} {state} {body}").trim_end().to_owned()
    }
}

/// A message for other servers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dispatched {
    pub to: Option<String>,
    pub message: Vec<u8>,
    pub content_type: Vec<u8>,
    pub is_stored: bool,
}

/// What all processes share outside the server.
#[derive(Default)]
pub struct Outside {
    pub now: AtomicI64,
    /// Milliseconds since that second began.
    pub milliseconds: AtomicU64,
    pub log: Mutex<Vec<Event>>,
    /// Log lines of level error and warning.
    pub complaints: Mutex<Vec<String>>,
    pub woken: AtomicUsize,
    /// Messages for other servers.
    pub dispatched: Mutex<Vec<Dispatched>>,
    /// No reply can be sent.
    pub replies_fail: AtomicBool,
    /// The packages' rules cannot be read.
    pub rules_fail: AtomicBool,
    /// Processes so far.
    pub forks: AtomicU32,
    random: AtomicU64,
}

type Hook = Box<dyn FnOnce() + Send>;

/// One process of the host.
pub struct FakeHost {
    pub outside: Arc<Outside>,
    pub database: Option<FakeDatabase>,
    /// Each runs while a NOTIFY is being sent, the first in the first one.
    pub during_notify: VecDeque<Hook>,
    /// Gives other threads a chance now and then.
    pub yields: bool,
    /// After so many NOTIFYs there is no memory for more.
    pub room: Option<usize>,
    /// There is no memory for longer documents.
    pub longest: Option<usize>,
    /// What becomes of NOTIFYs of these dialogs, by Call-ID or Contact.
    pub outcomes: HashMap<String, NotifyOutcome>,
    /// NOTIFYs are counted, and not kept.
    pub counts: Option<usize>,
    /// Packages refuse what peers tell.
    pub refuses_documents: bool,
}

impl FakeHost {
    pub fn new(outside: Arc<Outside>, database: Option<FakeDatabase>) -> FakeHost {
        FakeHost {
            outside,
            database,
            during_notify: VecDeque::new(),
            yields: false,
            room: None,
            longest: None,
            outcomes: HashMap::new(),
            counts: None,
            refuses_documents: false,
        }
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

impl Transport for FakeHost {
    fn notify(&mut self, notify: &Notify<'_>) -> NotifyOutcome {
        if let Some(hook) = self.during_notify.pop_front() {
            hook();
        }
        let of = |field| text(notify.subscription.text(field));
        let outcome = |field| self.outcomes.get(&of(field));
        if let Some(outcome) = outcome(Text::CallId).or_else(|| outcome(Text::Contact)) {
            return *outcome;
        }
        if self.longest.is_some_and(|longest| notify.body.len() > longest) {
            return NotifyOutcome::NoMemory;
        }
        match &mut self.room {
            Some(0) => return NotifyOutcome::NoMemory,
            Some(room) => *room -= 1,
            None => {}
        }
        if let Some(count) = &mut self.counts {
            *count += 1;
            return NotifyOutcome::Sent;
        }
        let random = self.outside.random.fetch_add(1, SeqCst);
        if self.yields && random.is_multiple_of(3) {
            std::thread::yield_now();
        }
        let headers = text(notify.headers);
        let state = headers.split("Subscription-State: ").nth(1).unwrap_or_default();
        let state = state.lines().next().unwrap_or_default();
        let sent = Sent {
            call_id: of(Text::CallId),
            cseq: notify.cseq.0,
            state: state.split(";expires").next().unwrap_or_default().to_owned(),
            headers: headers.clone(),
            body: label(notify.body),
            contact: of(Text::Contact),
            token: notify.token,
        };
        self.outside.log.lock().unwrap().push(Event::Notify(sent));
        NotifyOutcome::Sent
    }
}

impl Packages for FakeHost {
    fn aggregate(
        &mut self,
        package: PackageId,
        _user: &[u8],
        _domain: &[u8],
        bodies: &[&[u8]],
        closing: Option<usize>,
    ) -> Option<Vec<u8>> {
        assert_ne!(package, SLA, "it has no such callback");
        if bodies.is_empty() {
            return Some(b"offline".to_vec());
        }
        if bodies.iter().any(|body| *body == b"poison" || body.is_empty()) {
            return None;
        }
        let shown = |(n, body): (usize, &&[u8])| match closing == Some(n) {
            true => format!("closed({})", label(body)),
            false => label(body),
        };
        Some(bodies.iter().enumerate().map(shown).collect::<Vec<_>>().join("+").into_bytes())
    }

    fn personalise(&mut self, _: PackageId, _: &Snapshot, _: &[u8]) -> Option<Vec<u8>> {
        None
    }

    fn restrict(
        &mut self,
        _: PackageId,
        _: &Snapshot,
        _: &[u8],
        _: &[u8],
    ) -> Result<Option<Vec<u8>>, Fault> {
        Ok(None)
    }

    fn rules(&mut self, _: PackageId, _: &[u8], _: &[u8]) -> Result<Option<Vec<u8>>, Fault> {
        match self.outside.rules_fail.load(SeqCst) {
            true => Err(Fault::Package),
            false => Ok(Some(b"rules".to_vec())),
        }
    }

    fn authorize(
        &mut self,
        package: PackageId,
        subscription: &Snapshot,
        _rules: Option<&[u8]>,
    ) -> Result<Authorization, Fault> {
        assert_ne!(package, WINFO);
        let (status, reason) = match subscription.text(Text::WatcherUser) {
            b"pending" => (Status::Pending, ""),
            b"blocked" => (Status::Terminated, "rejected"),
            b"unknowable" if self.outside.rules_fail.load(SeqCst) => return Err(Fault::Package),
            b"polite" => (Status::Active, "polite-block"),
            _ => (Status::Active, ""),
        };
        Ok(Authorization { status, reason: reason.as_bytes().to_vec() })
    }
}

impl Host for FakeHost {
    fn now(&self) -> i64 {
        self.outside.now.load(SeqCst)
    }

    fn milliseconds(&self) -> u64 {
        self.now().unsigned_abs() * 1000 + self.outside.milliseconds.load(SeqCst)
    }

    fn random(&mut self) -> [u8; 16] {
        // Unguessable is not needed here; never the same again is, also for
        // the next world on the same database.
        static NEXT: AtomicU64 = AtomicU64::new(1);
        u128::from(NEXT.fetch_add(1, SeqCst)).to_be_bytes()
    }

    fn database(&mut self) -> Option<&mut dyn Database> {
        self.database.as_mut().map(|database| database as &mut dyn Database)
    }

    fn wake_senders(&mut self) {
        self.outside.woken.fetch_add(1, SeqCst);
    }

    fn check_document(&mut self, _: PackageId, _: &[u8]) -> PackageVerdict {
        match self.refuses_documents {
            true => PackageVerdict::Refused { replied: false },
            false => PackageVerdict::Accepted,
        }
    }

    fn dispatch(&mut self, dispatch: &Dispatch<'_>) -> Result<(), Fault> {
        self.outside.dispatched.lock().unwrap().push(Dispatched {
            to: dispatch.to.map(text),
            message: dispatch.message.to_vec(),
            content_type: dispatch.content_type.to_vec(),
            is_stored: dispatch.is_stored,
        });
        Ok(())
    }

    fn log(&mut self, level: Level, line: fmt::Arguments<'_>) {
        if level <= Level::Warning {
            self.outside.complaints.lock().unwrap().push(line.to_string());
        }
    }

    fn logs(&self, _level: Level) -> bool {
        true
    }
}

/// The request in hand.
pub struct FakeIncoming {
    pub outside: Arc<Outside>,
    pub in_transaction: bool,
    pub to_tag: Vec<u8>,
    /// What the sibling's handler says.
    pub verdict: PackageVerdict,
    /// Runs just before the reply leaves.
    pub before_reply: Option<Hook>,
    pub replies: Vec<Reply>,
}

impl Incoming for FakeIncoming {
    fn in_transaction(&mut self) -> bool {
        self.in_transaction
    }

    fn reply(&mut self, reply: &Reply) -> Result<(), Fault> {
        if let Some(hook) = self.before_reply.take() {
            hook();
        }
        if self.outside.replies_fail.load(SeqCst) {
            return Err(Fault::Host);
        }
        self.replies.push(reply.clone());
        self.outside.log.lock().unwrap().push(Event::Reply(reply.code));
        Ok(())
    }

    fn reply_to_tag(&mut self) -> Result<Vec<u8>, Fault> {
        Ok(self.to_tag.clone())
    }

    fn check_publication(&mut self, _: PackageId) -> PackageVerdict {
        self.verdict
    }

    fn check_subscription(&mut self, _: PackageId) -> PackageVerdict {
        self.verdict
    }
}
