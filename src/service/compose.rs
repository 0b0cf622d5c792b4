//! The documents that NOTIFYs carry, made of published state by the package's
//! callbacks. Nothing here holds a lock.

use crate::config::OrderColumn;
use crate::error::Fault;
use crate::ports::{Host, Level};
use crate::presence::event_package::{EventPackage, Kind};
use crate::presence::subscription::{Snapshot, Text};
use crate::presence::{dialog_info, uri, winfo};
use crate::service::{Server, publication_rows};
use crate::shm::Memory;
use crate::store::lanes::{Document, Farewell, PublicationCopy, State};
use crate::store::rows::dialog_of;
use std::cmp::Ordering;

/// A presentity's state, composed.
#[derive(Debug, Default)]
pub struct Composition {
    /// Round of the state.
    pub round: u32,
    /// What has ended and is shown a last time.
    pub farewells: Vec<Farewell>,
    newest: Vec<u8>,
    farewell_documents: Vec<Vec<u8>>,
    watchers: Vec<Snapshot>,
    /// Key of the watchers' ids.
    id_key: [u8; 16],
    uri: Vec<u8>,
    /// Watcher URI of the newest publication (shared lines).
    newest_sender: Vec<u8>,
    rules: Option<Vec<u8>>,
}

impl Composition {
    /// The newest document is empty.
    pub fn is_empty(&self) -> bool {
        self.newest.is_empty() && self.watchers.is_empty()
    }
}

/// Composes the state's documents.
pub fn compose<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    package: &EventPackage,
    mut state: State,
) -> Result<Composition, Fault> {
    let uri = uri::presentity_uri(&state.key.user, &state.key.host);
    let mut composition = Composition { round: state.round, uri, ..Composition::default() };
    if package.kind == Kind::WatcherInfo {
        if let Some(base) = package.peer {
            let key = crate::store::shard::PresentityKey { package: base, ..state.key.clone() };
            composition.watchers = server.store.watchers(&key, host.now());
            composition.id_key = server.store.secret(b"watcher id");
        }
        return Ok(composition);
    }
    if server.publications_in_database() && !state.publications.is_empty() {
        let rows = publication_rows::read(server, host, &state.key, &package.name)?;
        state.publications = in_index_order(&state.publications, rows);
    }
    let now = host.now();
    if server.config.startup_mode {
        state.publications.retain(|p| p.expires_at.is_none_or(|at| at >= now));
    }
    sort(server, &mut state.publications, &state.key.user, &state.key.host);
    composition.newest_sender =
        state.publications.last().map(|p| p.sender.clone()).unwrap_or_default();
    composition.newest = document(host, package, &state, None);
    for farewell in &state.farewells {
        composition.farewell_documents.push(document(host, package, &state, Some(farewell)));
    }
    if package.requires_authorization && package.restricts && !server.config.force_active {
        composition.rules = host.rules(state.key.package, &state.key.user, &state.key.host)?;
    }
    composition.farewells = state.farewells;
    Ok(composition)
}

/// The document for one watcher; empty for none.
pub fn for_watcher(
    host: &mut dyn Host,
    package: &EventPackage,
    composition: &Composition,
    document: Document,
    subscription: &Snapshot,
) -> Result<Vec<u8>, Fault> {
    let common = match document {
        Document::None => return Ok(Vec::new()),
        Document::Newest => &composition.newest,
        Document::Farewell(n) => {
            composition.farewell_documents.get(n).unwrap_or(&composition.newest)
        }
    };
    if package.kind == Kind::WatcherInfo {
        return Ok(watcher_info(package, composition, subscription));
    }
    // The owner of a shared line's state is not told of itself.
    if package.is_shared_line()
        && !composition.newest_sender.is_empty()
        && composition.newest_sender == subscription.text(Text::Contact)
    {
        return Ok(dialog_info::empty_document(&composition.uri, 1));
    }
    if common.is_empty() {
        return Ok(Vec::new());
    }
    let mut body = match package.personalises {
        true => host.personalise(subscription.package, subscription, common),
        false => None,
    };
    if let Some(rules) = &composition.rules {
        let whole = body.as_deref().unwrap_or(common);
        if let Some(less) = host.restrict(subscription.package, subscription, rules, whole)? {
            body = Some(less);
        }
    }
    Ok(body.unwrap_or_else(|| common.clone()))
}

fn document(
    host: &mut dyn Host,
    package: &EventPackage,
    state: &State,
    farewell: Option<&Farewell>,
) -> Vec<u8> {
    if !package.aggregates {
        let ended = farewell.filter(|f| !f.closing).map(|f| &f.publication);
        let shown = ended.or(state.publications.last());
        return shown.map(|p| p.body.clone()).unwrap_or_default();
    }
    // What ends comes first, as the oldest: where it says the same thing as a
    // living publication, that one counts.
    let over = farewell
        .filter(|f| f.closing && package.is_dialog())
        .and_then(|f| dialog_info::ended(&f.publication.body));
    let ending = over.as_deref().or(farewell.map(|f| f.publication.body.as_slice()));
    let mut bodies: Vec<&[u8]> = Vec::with_capacity(state.publications.len() + 1);
    bodies.extend(ending);
    bodies.extend(state.publications.iter().map(|p| p.body.as_slice()));
    let closing = farewell.filter(|f| f.closing).map(|_| 0);
    aggregate(host, package, state, &bodies, closing)
}

/// Merges documents. One that the package cannot read must not hide the
/// others: if the whole fails, each is tried alone and the bad ones left out.
fn aggregate(
    host: &mut dyn Host,
    package: &EventPackage,
    state: &State,
    bodies: &[&[u8]],
    closing: Option<usize>,
) -> Vec<u8> {
    let (user, domain) = (&state.key.user, &state.key.host);
    let id = state.key.package;
    if let Some(whole) = host.aggregate(id, user, domain, bodies, closing) {
        return whole;
    }
    if bodies.is_empty() {
        return Vec::new();
    }
    let mut good = Vec::with_capacity(bodies.len());
    let mut closing_good = None;
    for (n, body) in bodies.iter().enumerate() {
        let closes = closing == Some(n);
        if host.aggregate(id, user, domain, &[body], closes.then_some(0)).is_some() {
            if closes {
                closing_good = Some(good.len());
            }
            good.push(*body);
        }
    }
    host.log(
        Level::Warning,
        format_args!(
            "{} of {} documents published for {}@{} ({}) cannot be read and are left out",
            bodies.len() - good.len(),
            bodies.len(),
            user.escape_ascii(),
            domain.escape_ascii(),
            package.name.escape_ascii()
        ),
    );
    host.aggregate(id, user, domain, &good, closing_good).unwrap_or_default()
}

/// The rows in the order of the index; rows it does not know come first.
fn in_index_order(
    index: &[PublicationCopy],
    mut rows: Vec<PublicationCopy>,
) -> Vec<PublicationCopy> {
    let place = |row: &PublicationCopy| index.iter().position(|p| p.ruid == row.ruid);
    rows.sort_by_cached_key(|row| place(row));
    rows
}

fn sort<M: Memory>(
    server: &Server<M>,
    publications: &mut [PublicationCopy],
    _user: &[u8],
    _host: &[u8],
) {
    let order = &server.config.retrieve_order;
    if *order == crate::config::RetrieveOrder::by_received_time() {
        return;
    }
    publications.sort_by(|a, b| {
        order.terms().iter().fold(Ordering::Equal, |so_far, term| {
            so_far.then_with(|| {
                let by_column = match term.column {
                    OrderColumn::Expires => a.expires_at.cmp(&b.expires_at),
                    OrderColumn::ReceivedTime => a.received.cmp(&b.received),
                    OrderColumn::Priority => a.priority.cmp(&b.priority),
                    OrderColumn::Etag => a.entity_tag.cmp(&b.entity_tag),
                    OrderColumn::Sender => a.sender.cmp(&b.sender),
                    OrderColumn::Ruid => a.ruid.cmp(&b.ruid),
                    // The same for all publications of a presentity, or (id)
                    // the order they are in.
                    OrderColumn::Id
                    | OrderColumn::Username
                    | OrderColumn::Domain
                    | OrderColumn::Event => Ordering::Equal,
                };
                if term.descending { by_column.reverse() } else { by_column }
            })
        })
    });
}

fn watcher_info(package: &EventPackage, composition: &Composition, of: &Snapshot) -> Vec<u8> {
    let name = &package.event.name;
    let base = &name[..name.len().saturating_sub(".winfo".len())];
    let described: Vec<(String, Vec<u8>, &Snapshot)> = composition
        .watchers
        .iter()
        .map(|watcher| {
            let dialog = dialog_of(watcher);
            let (call_id, key) = (dialog.call_id, composition.id_key);
            let id = winfo::watcher_id(call_id, dialog.from_tag, dialog.to_tag, key);
            let uri = uri::presentity_uri(
                watcher.text(Text::WatcherUser),
                watcher.text(Text::WatcherHost),
            );
            (id, uri, watcher)
        })
        .collect();
    let watchers: Vec<winfo::Watcher<'_>> = described
        .iter()
        .map(|(id, uri, watcher)| winfo::Watcher {
            id,
            uri,
            status: watcher.status,
            event: match watcher.text(Text::Reason) {
                b"" => winfo::WatcherEvent::Subscribe,
                reason => winfo::WatcherEvent::from_reason(reason),
            },
            display_name: None,
            expiration: None,
            duration_subscribed: None,
        })
        .collect();
    winfo::WatcherInfo {
        // The first NOTIFY of a dialog has version 1 in memory, 0 on the wire.
        version: of.version.saturating_sub(1),
        full: true,
        resource: &composition.uri,
        package: base,
        watchers: &watchers,
    }
    .to_xml()
}
