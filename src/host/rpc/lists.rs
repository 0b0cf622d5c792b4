//! Lists: of publications and of subscriptions. An answer has as much of a list as
//! its transport takes, or as is asked for; the last entry then says where to go
//! on (`after`).

use crate::host::log::log_error;
use crate::host::rpc::call::{Call, Field, Record, Value};
use crate::host::worker::Worker;
use crate::host::{state, sys, text};
use crate::presence::listing::{After, Carrier, Piece, Wanted};
use crate::presence::subscription::Text;
use crate::presence::uri::{self, presentity_uri};
use crate::service::listing::{self, Published, Refused};
use crate::store::listing::Listed;

const LIST: &[u8] =
    b"usage: presence.presentity_list [basic|full] [limit=N] [after=PLACE] [event=NAME] [like=PATTERN]";
const SHOW: &[u8] =
    b"usage: presence.presentity_show basic|full USER|* DOMAIN|* [limit=N] [after=PLACE] [event=NAME] [like=PATTERN]";
const WATCHERS: &[u8] =
    b"usage: presence.watcher_list basic|full URI [limit=N] [after=PLACE] [event=NAME] [like=PATTERN]";
const SUBSCRIPTION: &[u8] = b"usage: presence.subscription_show CALLID";

/// An answer in the making.
struct Answer<'a> {
    call: &'a Call,
    carrier: Carrier,
    piece: Piece,
    /// The last entry, and where to go on behind it.
    last: Option<(Record<'a>, After)>,
}

impl<'a> Answer<'a> {
    fn new(call: &'a Call, limit: Option<usize>) -> Answer<'a> {
        let carrier = call.carrier();
        Answer { call, carrier, piece: Piece::new(carrier, limit), last: None }
    }

    /// Adds an entry; false if that was the last one.
    fn add(&mut self, place: After, mut fields: Vec<Field<'_>>) -> bool {
        self.fit(&mut fields);
        let size = |(name, value): &Field<'_>| value.size(self.carrier, name.count_bytes());
        let bytes: usize = fields.iter().map(size).sum();
        if !self.piece.takes(bytes, self.last.is_none()) {
            if let Some((record, place)) = &self.last {
                record.add(&[(c"after", Value::Text(&place.text()))]);
            }
            return false;
        }
        let Some(record) = self.call.record() else { return false };
        let added = record.add(&fields);
        self.last = Some((record, place));
        added
    }

    /// Cuts off the longest text where an entry is longer than the transport takes,
    /// and says so.
    fn fit(&self, fields: &mut Vec<Field<'_>>) {
        let room = self.carrier.entry();
        let size = |(name, value): &Field<'_>| value.size(self.carrier, name.count_bytes());
        let all: usize = fields.iter().map(size).sum();
        let Some(excess) = all.checked_sub(room) else { return };
        let length = |(_, value): &Field<'_>| match value {
            Value::Text(text) => text.len(),
            Value::Signed(_) | Value::Unsigned(_) => 0,
        };
        let longest = fields.iter_mut().max_by_key(|field| length(field));
        if let Some((name, Value::Text(text))) = longest {
            let (name, left) = (*name, text.len().saturating_sub(excess));
            *text = text.get(..left).unwrap_or_default();
            fields.push((c"cut_off", Value::Text(name.to_bytes())));
        }
    }
}

/// `presentity_list [mode] …`.
pub fn presentity_list(call: &Call) {
    let words = call.words();
    let words: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
    let (full, words) = match &words[..] {
        [b"full", rest @ ..] => (true, rest),
        [b"basic", rest @ ..] => (false, rest),
        rest => (false, rest),
    };
    publications(call, full, Wanted::default(), words, LIST);
}

/// `presentity_show mode user domain …`.
pub fn presentity_show(call: &Call) {
    let words = call.words();
    let words: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
    let [mode, user, domain, words @ ..] = &words[..] else {
        return call.refuse(&[b"Not enough parameters; ", SHOW]);
    };
    let Some(full) = output_mode(call, mode) else { return };
    let wanted = |given: &'_ [u8]| !given.is_empty() && given != b"*";
    let wanted = Wanted {
        user: Some(*user).filter(|user| wanted(user)),
        host: Some(*domain).filter(|domain| wanted(domain)),
        ..Wanted::default()
    };
    publications(call, full, wanted, words, SHOW);
}

fn output_mode(call: &Call, mode: &[u8]) -> Option<bool> {
    match mode {
        b"full" => Some(true),
        b"basic" => Some(false),
        _ => {
            call.fault(c"Unknown output mode");
            None
        }
    }
}

fn publications<'a>(
    call: &Call,
    full: bool,
    mut wanted: Wanted<'a>,
    words: &[&'a [u8]],
    usage: &[u8],
) {
    if wanted.take(words).is_err() {
        return call.refuse(&[usage]);
    }
    // A library has no publications.
    let Some(server) = state::server() else { return };
    let mut answer = Answer::new(call, wanted.limit);
    let each = |place, published: Published| add_publication(&mut answer, place, &published, full);
    let listed = listing::publications(server, &mut Worker::default(), &wanted, full, each);
    if let Err(refused) = listed {
        refuse(call, refused, usage);
    }
}

/// What is not listed, and why.
fn refuse(call: &Call, refused: Refused, usage: &[u8]) {
    match refused {
        Refused::Event => call.refuse(&[b"No such event; ", usage]),
        Refused::After => call.refuse(&[b"after is not of this list; ", usage]),
        Refused::Fault(fault) => {
            log_error!("a list for an operator: {fault}");
            call.fault(c"Execution failed");
        }
    }
}

fn add_publication(
    answer: &mut Answer<'_>,
    place: After,
    published: &Published,
    full: bool,
) -> bool {
    let publication = &published.publication;
    let mut fields: Vec<Field<'_>> = vec![
        (c"user", Value::Text(&published.user)),
        (c"domain", Value::Text(&published.host)),
        (c"event", Value::Text(&published.event)),
        (c"etag", Value::Text(&publication.entity_tag)),
        (c"sender", Value::Text(&publication.sender)),
        (c"expires", Value::Signed(publication.expires_at.unwrap_or(-1))),
    ];
    if full {
        let (mut user, mut domain) = (text::lend(&published.user), text::lend(&published.host));
        // SAFETY: both texts are only read.
        let hash = unsafe { sys::kshim_hash_case(&raw mut user, &raw mut domain) };
        let hash = i32::from_ne_bytes(hash.to_ne_bytes());
        fields.extend([
            (c"received_time", Value::Signed(publication.received)),
            (c"priority", Value::Signed(i64::from(publication.priority))),
            (c"ruid", Value::Text(&publication.ruid)),
            (c"body", Value::Text(&publication.body)),
            (c"hashid", Value::Signed(i64::from(hash))),
        ]);
    }
    answer.add(place, fields)
}

/// `watcher_list mode uri …`.
pub fn watcher_list(call: &Call) {
    let words = call.words();
    let words: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
    let [mode, uri, words @ ..] = &words[..] else {
        return call.refuse(&[b"Not enough parameters; ", WATCHERS]);
    };
    let Some(full) = output_mode(call, mode) else { return };
    let (user, host) = uri::split(uri);
    let mut wanted = Wanted { user: Some(user), host: Some(host), ..Wanted::default() };
    if wanted.take(words).is_err() {
        return call.refuse(&[WATCHERS]);
    }
    subscriptions(call, full, &wanted, WATCHERS);
}

/// `subscription_show callid`.
pub fn subscription_show(call: &Call) {
    let words = call.words();
    let [call_id] = &words[..] else { return call.refuse(&[SUBSCRIPTION]) };
    let wanted = Wanted { call_id: Some(call_id), ..Wanted::default() };
    subscriptions(call, true, &wanted, SUBSCRIPTION);
}

fn subscriptions(call: &Call, full: bool, wanted: &Wanted<'_>, usage: &[u8]) {
    let Some(server) = state::server() else { return };
    let mut answer = Answer::new(call, wanted.limit);
    let each = |place, listed: Listed| {
        let package = server.registry.get(listed.subscription.package);
        let event = package.map_or(&b""[..], |package| &package.name);
        add_subscription(&mut answer, place, &listed, event, full)
    };
    let listed = listing::subscriptions(server, &mut Worker::default(), wanted, each);
    if let Err(refused) = listed {
        refuse(call, refused, usage);
    }
}

fn add_subscription(
    answer: &mut Answer<'_>,
    place: After,
    listed: &Listed,
    event: &[u8],
    full: bool,
) -> bool {
    let subscription = &listed.subscription;
    let text = |field| Value::Text(subscription.text(field));
    let uri = presentity_uri(
        subscription.text(Text::PresentityUser),
        subscription.text(Text::PresentityHost),
    );
    let mut fields: Vec<Field<'_>> = vec![
        (c"pres_uri", Value::Text(&uri)),
        (c"to_user", text(Text::ToUser)),
        (c"to_domain", text(Text::ToHost)),
        (c"from_user", text(Text::FromUser)),
        (c"from_domain", text(Text::FromHost)),
        (c"watcher_user", text(Text::WatcherUser)),
        (c"watcher_domain", text(Text::WatcherHost)),
        (c"contact", text(Text::Contact)),
        (c"event_id", text(Text::EventId)),
        (c"callid", text(Text::CallId)),
        (c"user_agent", text(Text::UserAgent)),
        (c"expires", Value::Unsigned(u32::try_from(listed.expires_at).unwrap_or(u32::MAX))),
        (c"status", Value::Unsigned(subscription.status as u32)),
        (c"version", Value::Signed(i64::from(subscription.version))),
        (c"flags", Value::Unsigned(subscription.flags)),
        (c"event", Value::Text(event)),
    ];
    if full {
        // The stock module counts the CSeq before the latest NOTIFY's. What it
        // keeps in the last four fields is internal, and 0 in its memory.
        fields.extend([
            (c"reason", text(Text::Reason)),
            (c"to_tag", text(Text::ToTag)),
            (c"from_tag", text(Text::FromTag)),
            (c"socket", text(Text::Socket)),
            (c"local_contact", text(Text::LocalContact)),
            (c"record_route", text(Text::RecordRoute)),
            (c"auth_rules", Value::Text(b"")),
            (c"remote_cseq", Value::Unsigned(subscription.remote_cseq.0)),
            (c"local_cseq", Value::Unsigned(subscription.local_cseq.saturating_sub(1).0)),
            (c"recv_event", Value::Signed(0)),
            (c"updated", Value::Signed(0)),
            (c"updated_winfo", Value::Signed(0)),
        ]);
    }
    answer.add(place, fields)
}
