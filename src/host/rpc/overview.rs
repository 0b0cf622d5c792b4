//! `presence.summary` and `presence.top`.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::host::log::log_error;
use crate::host::rpc::call::{Call, Field, Inner, Value};
use crate::host::state::{self, KamailioServer};
use crate::host::sys;
use crate::host::worker::Worker;
use crate::presence::uri::presentity_uri;
use crate::service::overview::{self, Lost, Summary};
use crate::store::walk::Count;

const TOP: &[u8] = b"usage: presence.top watchers|presentities|sources [N], N from 1 to 100";

/// Entries without an N, and the most.
const USUAL: usize = 10;
const MOST: usize = 100;

fn number(number: u64) -> Value<'static> {
    Value::Unsigned(u32::try_from(number).unwrap_or(u32::MAX))
}

/// `summary`.
pub fn summary(call: &Call) {
    if !call.words().is_empty() {
        return call.refuse(&[b"usage: presence.summary"]);
    }
    let Some(server) = state::server() else {
        return call.fault(c"The module is a library: it keeps nothing");
    };
    match overview::summary(server, &mut Worker::default()) {
        Ok(summary) => answer(call, server, &summary),
        Err(fault) => {
            log_error!("presence.summary: {fault}");
            call.fault(c"Execution failed");
        }
    }
}

fn counts(count: &Count) -> Vec<Field<'static>> {
    vec![
        (c"subscriptions", number(count.active + count.pending)),
        (c"active", number(count.active)),
        (c"pending", number(count.pending)),
        (c"ending", number(count.ending)),
        (c"publications", number(count.publications)),
        (c"presentities", number(count.presentities)),
    ]
}

fn answer(call: &Call, server: &KamailioServer, summary: &Summary) {
    let (subscriptions, publications) = overview::kept(server);
    let Some(record) = call.record() else { return };
    let mut fields = counts(&summary.all);
    fields.extend([
        (c"subs_db_mode", Value::Unsigned(subscriptions.mode)),
        (c"publ_cache", Value::Unsigned(publications.mode)),
        (c"subscriptions_are", Value::Text(subscriptions.are.as_bytes())),
        (c"publications_are", Value::Text(publications.are.as_bytes())),
    ]);
    if let Some(replication) = server.store.replication() {
        fields.push((c"replicas", number(replication.count_mirrored() as u64)));
    }
    if !record.add(&fields) {
        return;
    }
    let Some(packages) = record.inner(Inner::Array, c"packages") else { return };
    let is_used = |count: &Count| *count != Count::default();
    for (name, count) in summary.packages.iter().filter(|(_, count)| is_used(count)) {
        let Some(package) = packages.item() else { return };
        let mut fields: Vec<Field<'_>> = vec![(c"event", Value::Text(name))];
        fields.extend(counts(count));
        if !package.add(&fields) {
            return;
        }
    }
    let unwritten = summary.unwritten;
    let Some(rows) = record.inner(Inner::Record, c"unwritten") else { return };
    let written = rows.add(&[
        (c"new_or_ended", number(unwritten.urgent as u64)),
        (c"changed", number(unwritten.changed as u64)),
        (c"refused", number(unwritten.refused as u64)),
    ]);
    let Some(restart) = record.inner(Inner::Record, c"a_restart_loses").filter(|_| written) else {
        return;
    };
    let Lost { subscriptions_by_stop, subscriptions_by_kill, publications } = summary.lost;
    let notified = restart.add(&[
        (c"subscriptions", number(subscriptions_by_stop)),
        (c"subscriptions_if_killed", number(subscriptions_by_kill)),
        (c"publications", number(publications)),
    ]);
    let Some(memory) = record.inner(Inner::Record, c"memory").filter(|_| notified) else { return };
    // SAFETY: asks the allocator for a number.
    let free = unsafe { sys::kshim_shm_available() };
    let used = state::pool_usage().unwrap_or_default();
    memory.add(&[
        (c"shared_free_kb", number(free / 1024)),
        (c"held_kb", number((used.chunks * 512 + used.large_bytes / 1024) as u64)),
        (c"used_kb", number((used.pages * 4 + used.large_bytes / 1024) as u64)),
    ]);
}

/// `top kind [n]`.
pub fn top(call: &Call) {
    let words = call.words();
    let words: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
    let (kind, most) = match &words[..] {
        [kind] => (*kind, Some(USUAL)),
        [kind, most] => (*kind, std::str::from_utf8(most).ok().and_then(|most| most.parse().ok())),
        _ => (&b""[..], None),
    };
    let Some(most) = most.filter(|most| (1..=MOST).contains(most)) else {
        return call.refuse(&[TOP]);
    };
    let Some(server) = state::server() else { return };
    let mut host = Worker::default();
    let listed = match kind {
        b"watchers" => overview::top_watchers(server, &mut host, most).map(|top| {
            top.iter().all(|(user, domain, count)| {
                let uri = presentity_uri(user, domain);
                entry(call, &[(c"watcher", Value::Text(&uri)), (c"subscriptions", number(*count))])
            })
        }),
        b"presentities" => overview::top_presentities(server, &mut host, most).map(|top| {
            top.iter().all(|(uri, event, count)| {
                let event = (c"event", Value::Text(event));
                entry(
                    call,
                    &[(c"presentity", Value::Text(uri)), event, (c"watchers", number(*count))],
                )
            })
        }),
        b"sources" => Ok(sources(call, server, &mut host, most)),
        _ => return call.refuse(&[TOP]),
    };
    if let Err(fault) = listed {
        log_error!("presence.top: {fault}");
        call.fault(c"Execution failed");
    }
}

fn entry(call: &Call, fields: &[Field<'_>]) -> bool {
    call.record().is_some_and(|record| record.add(fields))
}

fn sources(call: &Call, server: &KamailioServer, host: &mut Worker, most: usize) -> bool {
    let [addresses, clients] = overview::top_sources(server, host, most);
    let addresses = addresses.into_iter().map(|mut sent| {
        sent.name = address(&sent.name).into_bytes();
        (&b"address"[..], sent)
    });
    let clients = clients.into_iter().map(|sent| (&b"client"[..], sent));
    addresses.chain(clients).all(|(kind, sent)| {
        entry(
            call,
            &[
                (c"kind", Value::Text(kind)),
                (c"source", Value::Text(&sent.name)),
                (c"this_minute", Value::Unsigned(sent.this_minute)),
                (c"last_minute", Value::Unsigned(sent.last_minute)),
            ],
        )
    })
}

fn address(bytes: &[u8]) -> String {
    match (<[u8; 4]>::try_from(bytes), <[u8; 16]>::try_from(bytes)) {
        (Ok(four), _) => Ipv4Addr::from(four).to_string(),
        (_, Ok(sixteen)) => Ipv6Addr::from(sixteen).to_string(),
        _ => "unknown".into(),
    }
}
