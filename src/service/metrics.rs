//! Counts, times and sizes in the text format of Prometheus. Lines that would say 0
//! of a package's rarer results are left out: what is not there counts as 0.

use crate::ports::Host;
use crate::presence::event_package::PackageId;
use crate::presence::measures::{
    Answer, Method, NotifyResult, SIZES, StateShown, Statement, TIMES, Total,
};
use crate::service::Server;
use crate::service::census::Census;
use crate::shm::Memory;
use crate::store::counters::Histogram;
use crate::store::gauges::Gauge;
use std::fmt::{Display, Write};

/// What the host knows.
#[derive(Debug, Clone, Copy, Default)]
pub struct Resources {
    /// Bytes of shared memory in use, and held.
    pub memory: (usize, usize),
    /// The database is known to be away.
    pub database_is_away: bool,
}

/// A text under way.
struct Exposition(String);

impl Exposition {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &dyn Display)], value: impl Display) {
        self.0.push_str(name);
        for (at, (label, value)) in labels.iter().enumerate() {
            self.0.push(if at == 0 { '{' } else { ',' });
            let _ = write!(self.0, "{label}=\"");
            for c in value.to_string().chars() {
                match c {
                    '\\' | '"' => self.0.extend(['\\', c]),
                    '\n' => self.0.push_str("\\n"),
                    c => self.0.push(c),
                }
            }
            self.0.push('"');
        }
        if !labels.is_empty() {
            self.0.push('}');
        }
        let _ = writeln!(self.0, " {value}");
    }

    fn one(&mut self, (name, kind): (&str, &str), help: &str, value: impl Display) {
        self.family(name, kind, help);
        self.sample(name, &[], value);
    }

    /// `unit`: so many of what is counted make one of what is shown.
    fn histogram(
        &mut self,
        name: &str,
        (label, of): (&str, &dyn Display),
        (ends, unit): (&[u64], f64),
        read: &Histogram,
    ) {
        let count = read.up_to.last().copied().unwrap_or(0);
        let bucket = format!("{name}_bucket");
        for (end, up_to) in ends.iter().zip(&read.up_to) {
            let end = *end as f64 / unit;
            self.sample(&bucket, &[(label, of), ("le", &end)], up_to);
        }
        self.sample(&bucket, &[(label, of), ("le", &"+Inf")], count);
        self.sample(&format!("{name}_sum"), &[(label, of)], read.sum as f64 / unit);
        self.sample(&format!("{name}_count"), &[(label, of)], count);
    }
}

/// Microseconds in a second.
const MICROSECONDS: f64 = 1e6;

/// The metrics of this server; `census` is what there is.
pub fn text<M: Memory>(
    server: &Server<M>,
    host: &dyn Host,
    census: &Census,
    resources: Resources,
) -> String {
    let mut text = Exposition(String::with_capacity(16 * 1024));
    what_there_is(&mut text, server, census);
    requests(&mut text, server);
    notifies(&mut text, server);
    times(&mut text, server);
    totals(&mut text, server);
    levels(&mut text, server, host, resources);
    text.0
}

fn packages<M: Memory>(server: &Server<M>) -> Vec<(PackageId, String)> {
    let name =
        |id| Some((id, String::from_utf8_lossy(&server.registry.get(id)?.name).into_owned()));
    server.registry.ids().filter_map(name).collect()
}

fn what_there_is<M: Memory>(text: &mut Exposition, server: &Server<M>, census: &Census) {
    let packages = packages(server);
    text.family("presence_subscriptions", "gauge", "Subscriptions that live.");
    for (id, event) in &packages {
        for (state, gauge) in [("active", Gauge::Active), ("pending", Gauge::Pending)] {
            let labels: [(&str, &dyn Display); 2] = [("event", event), ("state", &state)];
            text.sample("presence_subscriptions", &labels, census.of(*id, gauge));
        }
    }
    for (name, gauge, help) in [
        ("presence_publications", Gauge::Publications, "Publications that have not ended."),
        ("presence_presentities", Gauge::Presentities, "Presentities that memory knows."),
    ] {
        text.family(name, "gauge", help);
        for (id, event) in &packages {
            text.sample(name, &[("event", event)], census.of(*id, gauge));
        }
    }
}

fn requests<M: Memory>(text: &mut Exposition, server: &Server<M>) {
    let (name, counters) = ("presence_requests_total", server.store.counters());
    text.family(name, "counter", "PUBLISH and SUBSCRIBE requests by their answer.");
    let unknown = (None, "unknown".to_owned());
    let known = packages(server).into_iter().map(|(id, event)| (Some(id), event));
    for (id, event) in known.chain([unknown]) {
        for method in Method::ALL {
            for answer in Answer::ALL {
                let count = counters.requests_of(id, method, answer);
                if count > 0 || (answer == Answer::Accepted && id.is_some()) {
                    let labels: [(&str, &dyn Display); 3] = [
                        ("method", &method.name()),
                        ("event", &event),
                        ("result", &answer.label()),
                    ];
                    text.sample(name, &labels, count);
                }
            }
        }
    }
}

fn notifies<M: Memory>(text: &mut Exposition, server: &Server<M>) {
    let (name, counters) = ("presence_notifies_total", server.store.counters());
    text.family(
        name,
        "counter",
        "NOTIFY requests by what became of them; each that was sent has one other result later.",
    );
    for (id, event) in packages(server) {
        for shown in StateShown::ALL {
            for result in NotifyResult::ALL {
                let count = counters.notifies_of(id, shown, result);
                if count > 0 || (result, shown) == (NotifyResult::Sent, StateShown::Active) {
                    let labels: [(&str, &dyn Display); 3] =
                        [("event", &event), ("state", &shown.label()), ("result", &result.label())];
                    text.sample(name, &labels, count);
                }
            }
        }
    }
}

fn times<M: Memory>(text: &mut Exposition, server: &Server<M>) {
    let counters = server.store.counters();
    let has_any = |read: &Histogram| read.up_to.last().is_some_and(|count| *count > 0);
    let name = "presence_publish_to_notify_seconds";
    text.family(
        name,
        "histogram",
        "From a PUBLISH to each of its NOTIFYs being handed to the network.",
    );
    for (id, event) in packages(server) {
        let read = counters.latencies(id);
        if has_any(&read) {
            text.histogram(name, ("event", &event), (&TIMES, MICROSECONDS), &read);
        }
    }
    let name = "presence_fan_out_watchers";
    text.family(name, "histogram", "Watchers that a change has, those in memory.");
    for (id, event) in packages(server) {
        let read = counters.fan_outs(id);
        if has_any(&read) {
            text.histogram(name, ("event", &event), (&SIZES, 1.0), &read);
        }
    }
    let name = "presence_database_seconds";
    text.family(name, "histogram", "Time that database statements take, by kind.");
    for kind in Statement::ALL {
        let read = counters.statements(kind);
        if has_any(&read) {
            text.histogram(name, ("statement", &kind.label()), (&TIMES, MICROSECONDS), &read);
        }
    }
}

fn totals<M: Memory>(text: &mut Exposition, server: &Server<M>) {
    let (store, counters) = (&server.store, server.store.counters());
    let counter = |name| (name, "counter");
    let total = |what| counters.total(what);
    text.one(
        counter("presence_requests_repeated_total"),
        "Requests that came again and were answered as before.",
        total(Total::Repeated),
    );
    text.one(
        counter("presence_requests_unanswered_total"),
        "Requests whose answer could not be sent.",
        total(Total::Unanswered),
    );
    text.one(
        counter("presence_refused_by_limit_total"),
        "Requests refused by a limit.",
        store.tally().refusals(),
    );
    text.one(
        counter("presence_database_errors_total"),
        "Statements that the database has not done.",
        total(Total::DatabaseErrors),
    );
    text.one(
        counter("presence_database_retries_total"),
        "Statements and transactions that were repeated.",
        total(Total::DatabaseRetries),
    );
}

/// How it is now.
fn levels<M: Memory>(
    text: &mut Exposition,
    server: &Server<M>,
    host: &dyn Host,
    resources: Resources,
) {
    let (store, counters) = (&server.store, server.store.counters());
    let gauge = |name| (name, "gauge");
    text.one(
        gauge("presence_database_away"),
        "1 while the database is known to be away.",
        u8::from(resources.database_is_away),
    );
    text.one(
        gauge("presence_notifies_unanswered"),
        "NOTIFY requests whose outcome is not known yet.",
        counters.unanswered(),
    );
    text.one(
        gauge("presence_fan_outs_waiting"),
        "Presentities whose watchers wait for a sender process.",
        store.gauges().queued() + counters.total(Total::Waiting),
    );
    text.one(
        gauge("presence_oldest_fan_out_seconds"),
        "For how long the one has waited that has waited longest.",
        store.longest_wait(host.milliseconds()) as f64 / 1000.0,
    );
    text.one(
        gauge("presence_rows_unwritten"),
        "Subscriptions whose rows lag behind memory.",
        store.unwritten(),
    );
    text.one(gauge("presence_memory_used_bytes"), "Shared memory in use.", resources.memory.0);
    text.one(
        gauge("presence_memory_held_bytes"),
        "Shared memory that is held.",
        resources.memory.1,
    );
}
