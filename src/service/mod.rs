//! The use cases: what a PUBLISH, a SUBSCRIBE, a timer tick does, in which
//! order. Decisions come from `presence`, state from `store`, everything slow
//! from `ports`; here they are put together. No lock is ever held while a
//! port is called, because only `store` has locks and it never calls out.

pub mod answer;
pub mod authorization;
pub mod census;
pub mod compose;
mod durable;
pub mod ends;
pub mod expired_rows;
pub mod expiry;
pub mod explain;
pub mod flagged_rows;
pub mod gone_back;
pub mod limits;
pub mod listing;
pub mod metrics;
pub mod notifier;
pub mod notifier_slots;
pub mod notify_reply;
pub mod orphaned_rows;
pub mod overview;
mod paging;
pub mod policy;
pub mod publication_request;
pub mod publications;
pub mod publish;
mod rate_limited_log;
pub mod refresh;
mod reopened;
pub mod replication;
pub mod restore;
pub mod sibling_publication;
pub mod sphere;
pub mod subscribe;
mod subscription_rows;
pub mod subscriptions;
pub mod watcher_info;
pub mod watchers;
pub mod write_back;

use crate::config::Config;
use crate::error::{Fault, Rejection};
use crate::ports::{Assignment, Database, Host, Incoming};
use crate::presence::event_package::{Event, EventPackage, PackageId};
use crate::presence::expires::ExpiresPolicy;
use crate::presence::registry::EventPackageRegistry;
use crate::presence::request::RequestId;
use crate::shm::Memory;
use crate::store::counters::Counters;
use crate::store::retransmissions::{Answer, RequestKey, Seen};
use crate::store::widths::{TableWidths, Unfit, Widths};
use crate::store::{Shared, Store};

/// The server as every process sees it: configuration and registry are frozen
/// before the host forks, the store is shared.
pub struct Server<M: Memory> {
    /// The module's parameters.
    pub config: Config,
    /// The event packages.
    pub registry: EventPackageRegistry,
    /// Publications, subscriptions, lanes.
    pub store: Store<M>,
    /// What the columns of tables take.
    pub widths: TableWidths,
    subscriptions: &'static dyn subscriptions::Storage<M>,
    publications: &'static dyn publications::Publications<M>,
}

impl<M: Memory> Server<M> {
    /// A server over what lies in shared memory: where things are kept is decided
    /// here, once.
    pub fn new(
        config: Config,
        registry: EventPackageRegistry,
        shared: Shared<M>,
        counters: Counters,
        mut widths: TableWidths,
    ) -> Server<M> {
        // What has no row has no columns that it must fit into.
        if !subscriptions::keeping(&config).has_rows {
            widths.subscriptions = Widths::default();
        }
        if !publications::are_rows(&config) {
            widths.publications = Widths::default();
        }
        let store = Store::new(shared, counters, policy::store(&config, &registry));
        let subscriptions = subscriptions::storage(&config);
        let publications = publications::publications(&config);
        Server { config, registry, store, widths, subscriptions, publications }
    }

    /// Where subscriptions are kept.
    fn subscriptions(&self) -> &'static dyn subscriptions::Storage<M> {
        self.subscriptions
    }

    /// Where publications are kept.
    pub fn publications(&self) -> &'static dyn publications::Publications<M> {
        self.publications
    }

    /// The database; `None` where nothing is stored at all. One that cannot be
    /// reached is a fault.
    fn database<'a>(&self, host: &'a mut dyn Host) -> Result<Option<&'a mut dyn Database>, Fault> {
        match host.database() {
            None if self.config.needs_database() => Err(Fault::Database),
            database => Ok(database),
        }
    }

    /// Wakes the sender processes if lanes were handed over to them.
    fn wake_senders(&self, host: &mut dyn Host) {
        if self.store.take_wake() {
            host.wake_senders();
        }
    }

    /// The limits on the lifetimes of subscriptions: a row must be able to say
    /// when one ends.
    fn subscription_lifetimes(&self, now: i64) -> ExpiresPolicy {
        self.config.expires_policy().until(self.widths.subscriptions.most("expires"), now)
    }

    /// The limits on the lifetimes of publications.
    fn publication_lifetimes(&self, now: i64) -> ExpiresPolicy {
        self.config.expires_policy().until(self.widths.publications.most("expires"), now)
    }

    /// The package that serves an Event header, and the parsed header.
    fn package(
        &self,
        event: Option<&[u8]>,
    ) -> Result<(PackageId, &EventPackage, Event), Rejection> {
        let value = event.map(<[u8]>::trim_ascii).filter(|value| !value.is_empty());
        let value = value.ok_or_else(|| self.bad_event())?;
        let event = Event::parse(value).ok_or(Rejection::bad_request("Malformed Event"))?;
        let id = self.registry.serving(&event).ok_or_else(|| self.bad_event())?;
        let package = self.registry.get(id).ok_or_else(|| self.bad_event())?;
        Ok((id, package, event))
    }

    /// 489 with the packages there are (RFC 6665 8.3.2).
    fn bad_event(&self) -> Rejection {
        let mut headers = b"Allow-Events: ".to_vec();
        headers.extend(self.registry.allow_events());
        headers.extend_from_slice(b"\r\n");
        Rejection { headers, ..Rejection::new(489, "Bad Event") }
    }
}

/// Refuses a request whose row would not fit into its table (B20).
fn check_widths(widths: &Widths, row: &[Assignment]) -> Result<(), Rejection> {
    match widths.unfit(row) {
        Some((_, Unfit::TooLong)) => Err(Rejection::bad_request("Header Fields Too Long")),
        Some((_, Unfit::Characters)) => {
            Err(Rejection::bad_request("Invalid Characters in Header Fields"))
        }
        // The numbers are ours: times after 2038, in a column of 32 bits.
        Some((_, Unfit::Range)) => Err(Fault::Database.into()),
        None => Ok(()),
    }
}

/// Looks, 2 ms apart, at a request that another process is handling before it
/// is left to that process alone.
const PATIENCE: u32 = 25;

/// A request that may be a retransmission (A9). Inside a transaction the host
/// absorbs those itself.
struct TrackedRequest {
    key: Option<RequestKey>,
}

/// How to go on with a request.
enum Arrival {
    /// It is new.
    New(TrackedRequest),
    /// Another process is at it and will answer.
    InProgress,
    /// It was answered: the same answer again.
    Answered(Answer),
}

impl TrackedRequest {
    fn begin<M: Memory>(
        server: &Server<M>,
        incoming: &mut dyn Incoming,
        method: &[u8],
        id: RequestId<'_>,
        now: i64,
    ) -> Arrival {
        if incoming.in_transaction() {
            return Arrival::New(TrackedRequest { key: None });
        }
        let table = server.store.retransmissions();
        let key = table.key(method, id);
        for _ in 0..PATIENCE {
            match table.claim(key, now) {
                Seen::New => return Arrival::New(TrackedRequest { key: Some(key) }),
                Seen::InProgress => std::thread::sleep(std::time::Duration::from_millis(2)),
                Seen::Answered(answer) => return Arrival::Answered(answer),
            }
        }
        Arrival::InProgress
    }

    fn answered<M: Memory>(&self, server: &Server<M>, answer: &Answer) {
        if let Some(key) = self.key {
            server.store.retransmissions().answered(key, answer);
        }
    }

    fn refused<M: Memory>(&self, server: &Server<M>) {
        if let Some(key) = self.key {
            server.store.retransmissions().forget(key);
        }
    }
}
