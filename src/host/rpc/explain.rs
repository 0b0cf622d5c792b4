//! `presence.explain`: one answer to why a watcher sees what it sees.

use crate::host::log::log_error;
use crate::host::rpc::call::{Call, Field, Inner, Record, Value};
use crate::host::state;
use crate::host::worker::Worker;
use crate::presence::explain::{Facts, Time, Whereabouts};
use crate::presence::notify_fate::NotifyFate;
use crate::presence::request::UriParts;
use crate::presence::subscription::Text;
use crate::presence::uri;
use crate::service::explain::{Explanation, Shown, explain as collect};
use crate::service::listing::Refused;

const USAGE: &[u8] = b"usage: presence.explain WATCHER PRESENTITY [EVENT], both URIs";

/// `explain watcher presentity [event]`.
pub fn explain(call: &Call) {
    let words = call.words();
    let words: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
    let (watcher, presentity, event) = match &words[..] {
        [watcher, presentity] => (watcher, presentity, &b"presence"[..]),
        [watcher, presentity, event] => (watcher, presentity, *event),
        _ => return call.refuse(&[USAGE]),
    };
    let parts = |uri| {
        let (user, host) = uri::split(uri);
        UriParts { user, host }
    };
    let (watcher, presentity) = (parts(watcher), parts(presentity));
    if watcher.host.is_empty() || presentity.host.is_empty() {
        return call.refuse(&[USAGE]);
    }
    let Some(server) = state::server() else {
        return call.fault(c"The module is a library: it keeps nothing");
    };
    match collect(server, &mut Worker::default(), watcher, presentity, event) {
        Ok(explanation) => answer(call, &explanation),
        Err(Refused::Event) => call.refuse(&[b"No such event; ", USAGE]),
        Err(refused) => {
            log_error!("presence.explain: {refused:?}");
            call.fault(c"Execution failed");
        }
    }
}

fn answer(call: &Call, explanation: &Explanation) {
    let Some(record) = call.record() else { return };
    let verdict = explanation.verdict.to_string();
    let decided_by = explanation.facts.decider.map(|decider| decider.to_string());
    let decided_by = decided_by.unwrap_or_else(|| "unknown: the table cannot be read".into());
    let told = record.add(&[
        (c"verdict", Value::Text(verdict.as_bytes())),
        (c"subscription", Value::Text(whereabouts(&explanation.facts))),
        (c"subscriptions", Value::Unsigned(u32::try_from(explanation.count).unwrap_or(u32::MAX))),
        (c"decided_by", Value::Text(decided_by.as_bytes())),
        (c"row", Value::Text(explanation.row.as_bytes())),
    ]);
    let done = told
        && add_subscription(&record, explanation)
        && add_waiting(&record, &explanation.facts)
        && add_publications(&record, explanation)
        && add_end(&record, &explanation.facts);
    let _ = done;
}

fn whereabouts(facts: &Facts) -> &'static [u8] {
    match facts.subscription.map(|known| known.whereabouts) {
        None => b"none",
        Some(Whereabouts::Memory) => b"in memory",
        Some(Whereabouts::Row) => b"in the table",
        Some(Whereabouts::ForeignRow) => b"in the table only",
    }
}

fn time(at: i64) -> String {
    if at > 0 { Time(at).to_string() } else { "unknown".into() }
}

fn add_subscription(record: &Record<'_>, explanation: &Explanation) -> bool {
    let (Some(subscription), Some(known)) =
        (&explanation.subscription, &explanation.facts.subscription)
    else {
        return true;
    };
    let text = |field| Value::Text(subscription.text(field));
    let expires = time(known.expires_at);
    let added = record.add(&[
        (c"state", Value::Text(known.status.word().as_bytes())),
        (c"reason", text(Text::Reason)),
        (c"expires", Value::Text(expires.as_bytes())),
        (c"callid", text(Text::CallId)),
        (c"contact", text(Text::Contact)),
        (c"socket", text(Text::Socket)),
    ]);
    if !added || known.fate == NotifyFate::None {
        return added;
    }
    let Some(notify) = record.inner(Inner::Record, c"last_notify") else { return false };
    let (sent, answer) = (time(known.notified_at), fate(known.fate));
    notify.add(&[
        (c"cseq", Value::Unsigned(known.cseq.0)),
        (c"sent", Value::Text(sent.as_bytes())),
        (c"answer", Value::Text(answer.as_bytes())),
    ])
}

fn fate(fate: NotifyFate) -> String {
    match fate {
        NotifyFate::None | NotifyFate::Sent => "none yet".into(),
        NotifyFate::Answered(code) => code.to_string(),
        NotifyFate::Dropped => "dropped by the script".into(),
        NotifyFate::Unroutable => "could not be sent".into(),
        NotifyFate::ConnectionGone => "connection gone".into(),
    }
}

fn add_waiting(record: &Record<'_>, facts: &Facts) -> bool {
    let Some(waiting) = facts.waiting else { return true };
    let Some(inner) = record.inner(Inner::Record, c"waiting") else { return false };
    let (what, since) = (waiting.what.to_string(), time(waiting.since.unwrap_or(0)));
    let next = waiting.next_try.map_or("as soon as possible".into(), time);
    inner.add(&[
        (c"for", Value::Text(what.as_bytes())),
        (c"since", Value::Text(since.as_bytes())),
        (c"next_try", Value::Text(next.as_bytes())),
    ])
}

fn add_publications(record: &Record<'_>, explanation: &Explanation) -> bool {
    let Some(all) = record.inner(Inner::Array, c"publications") else { return false };
    for (publication, shown) in &explanation.publications {
        let Some(item) = all.item() else { return false };
        let expires = publication.expires_at.map_or("never".into(), time);
        let changed = time(publication.received);
        let shown: &[u8] = match shown {
            Shown::Yes => b"yes",
            Shown::Expired => b"no: its time is over",
            Shown::NotNewest => b"no: this package shows the newest alone",
        };
        let fields: [Field<'_>; 5] = [
            (c"etag", Value::Text(&publication.entity_tag)),
            (c"sender", Value::Text(&publication.sender)),
            (c"changed", Value::Text(changed.as_bytes())),
            (c"expires", Value::Text(expires.as_bytes())),
            (c"shown", Value::Text(shown)),
        ];
        if !item.add(&fields) {
            return false;
        }
    }
    let more = Value::Text(b"yes, older ones");
    !explanation.more_publications || record.add(&[(c"more_publications", more)])
}

fn add_end(record: &Record<'_>, facts: &Facts) -> bool {
    let Some(end) = facts.end else { return true };
    let Some(inner) = record.inner(Inner::Record, c"last_end") else { return false };
    let (reason, at) = (end.reason.to_string(), time(end.at));
    inner.add(&[
        (c"reason", Value::Text(reason.as_bytes())),
        (c"at", Value::Text(at.as_bytes())),
        (c"cseq", Value::Unsigned(end.cseq.0)),
    ])
}
