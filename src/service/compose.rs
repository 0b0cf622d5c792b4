//! The documents that NOTIFYs carry, made of published state by the package's
//! callbacks. Nothing here holds a lock.

use crate::config::OrderColumn;
use crate::error::Fault;
use crate::ports::{Host, Level};
use crate::presence::event_package::{EventPackage, Kind};
use crate::presence::folding::{self, End};
use crate::presence::presentity::PresentityKey;
use crate::presence::publication::{PublicationCopy, is_shown};
use crate::presence::state_version::StateVersion;
use crate::presence::subscription::Text;
use crate::presence::{dialog_info, uri};
use crate::service::Server;
use crate::service::publications;
use crate::service::rate_limited_log::RateLimitedLog;
use crate::service::watcher_info::WatcherList;
use crate::shm::Memory;
use crate::store::lanes::{Document, FinalPublication, PlannedNotify, State};
use crate::store::watcher_changes::WatcherChanges;
use std::borrow::Cow;
use std::cell::RefCell;
use std::cmp::Ordering;
use std::collections::HashSet;
use std::ops::Range;

static UNREADABLE: RateLimitedLog = RateLimitedLog::new();

/// A presentity's state, composed.
#[derive(Debug, Default)]
pub struct Composition<'s> {
    /// Version of the state.
    pub state_version: StateVersion,
    newest: Vec<u8>,
    /// What the documents about ended publications are made of.
    state: Option<Cow<'s, State>>,
    /// The one of these that was made last, and what it reports. There is but
    /// one at a time: together they may be much larger than the state.
    ended: RefCell<(Range<usize>, Vec<u8>)>,
    /// For watcher information.
    pub watchers: Option<WatcherList>,
    uri: Vec<u8>,
    /// Watcher URI of the newest publication (shared lines).
    newest_sender: Vec<u8>,
    rules: Option<Vec<u8>>,
}

impl Composition<'_> {
    /// The newest document is empty.
    pub fn is_empty(&self) -> bool {
        self.newest.is_empty() && self.watchers.is_none()
    }

    /// What has ended and is shown a last time.
    pub fn finals(&self) -> &[FinalPublication] {
        self.state.as_ref().map_or(&[], |state| &state.finals)
    }

    /// The document about these final publications.
    fn about(
        &self,
        host: &mut dyn Host,
        package: &EventPackage,
        range: Range<usize>,
    ) -> Cow<'_, [u8]> {
        let Some(state) = &self.state else { return Cow::Borrowed(&self.newest) };
        let ends = state.finals.get(range.clone()).unwrap_or_default();
        match ends {
            [] => return Cow::Borrowed(&self.newest),
            [only] if !package.aggregates => {
                let shown = if only.closing { &self.newest } else { &only.publication.body };
                return Cow::Borrowed(shown);
            }
            _ => {}
        }
        let mut made = self.ended.borrow_mut();
        if made.0 != range {
            // The old one goes before the new one is made.
            *made = Default::default();
            *made = (range, with_ends(host, package, state, ends));
        }
        Cow::Owned(made.1.clone())
    }
}

/// Says which document reports which final publications. `living`: bytes of what lives,
/// if that is known.
pub fn fold(package: &EventPackage, finals: &mut [FinalPublication], living: Option<usize>) {
    let numbers: Vec<u32> = match package.aggregates {
        true => {
            let ends = finals.iter().map(|final_publication| End {
                state_version: final_publication.state_version,
                bytes: final_publication.publication.body.len(),
            });
            folding::documents(ends, living)
        }
        // They are documents of their own.
        false => (0..).take(finals.len()).collect(),
    };
    for (final_publication, number) in finals.iter_mut().zip(numbers) {
        final_publication.document = number;
    }
}

/// Composes the state's documents.
pub fn compose<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    package: &EventPackage,
    mut state: State,
) -> Result<Composition<'static>, Fault> {
    let changes = std::mem::take(&mut state.watchers);
    let watchers = read(server, host, package, &mut state, changes)?;
    let living = state.publications.iter().map(|living| living.body.len()).sum();
    fold(package, &mut state.finals, Some(living));
    documents(server, host, package, Cow::Owned(state), watchers)
}

/// Completes a state by what the database has of it; gives the list of watchers
/// where that is the state. Can be done again, for what has changed since.
pub fn read<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    package: &EventPackage,
    state: &mut State,
    changes: WatcherChanges,
) -> Result<Option<WatcherList>, Fault> {
    if package.kind != Kind::WatcherInfo {
        return settle(server, host, package, state).map(|()| None);
    }
    let Some(base) = package.peer else { return Ok(None) };
    let key = PresentityKey { package: base, ..state.key.clone() };
    WatcherList::new(server, host, &key, changes).map(Some)
}

/// The documents of a state that was read, and whose ends are folded.
pub fn documents<'s, M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    package: &EventPackage,
    mut state: Cow<'s, State>,
    watchers: Option<WatcherList>,
) -> Result<Composition<'s>, Fault> {
    let uri = uri::presentity_uri(&state.key.user, &state.key.host);
    let mut composition =
        Composition { state_version: state.state_version, uri, watchers, ..Composition::default() };
    if package.kind == Kind::WatcherInfo {
        return Ok(composition);
    }
    composition.newest_sender =
        state.publications.last().map(|p| p.sender.clone()).unwrap_or_default();
    composition.newest = document(host, package, &state, None);
    if package.requires_authorization && package.restricts && !server.config.force_active {
        composition.rules = host.rules(state.key.package, &state.key.user, &state.key.host)?;
    }
    if let Cow::Owned(state) = &mut state
        && (state.finals.is_empty() || !package.aggregates)
    {
        // No other document is made of them.
        state.publications = Vec::new();
    }
    composition.state = Some(state);
    Ok(composition)
}

/// The document for one watcher; empty for none.
pub fn for_watcher<'a>(
    host: &mut dyn Host,
    package: &EventPackage,
    composition: &'a Composition<'_>,
    notify: &PlannedNotify,
) -> Result<Cow<'a, [u8]>, Fault> {
    let subscription = &notify.subscription;
    let common = match notify.document {
        Document::None => return Ok(Cow::default()),
        Document::Newest | Document::Changed => Cow::Borrowed(composition.newest.as_slice()),
        Document::Finals(from, to) => composition.about(host, package, from..to),
    };
    if let Some(watchers) = &composition.watchers {
        return Ok(watchers.document(package, &composition.uri, notify).into());
    }
    // The owner of a shared line's state is not told of itself.
    if package.is_shared_line()
        && !composition.newest_sender.is_empty()
        && composition.newest_sender == subscription.text(Text::Contact)
    {
        return Ok(dialog_info::empty_document(&composition.uri, 1).into());
    }
    if common.is_empty() {
        return Ok(Cow::default());
    }
    let mut body = match package.personalises {
        true => host.personalise(subscription.package, subscription, &common),
        false => None,
    };
    if let Some(rules) = &composition.rules {
        let whole = body.as_deref().unwrap_or(&common);
        if let Some(less) = host.restrict(subscription.package, subscription, rules, whole)? {
            body = Some(less);
        }
    }
    Ok(body.map_or(common, Cow::Owned))
}

/// A document that reports ended publications, and of all that live.
fn with_ends(
    host: &mut dyn Host,
    package: &EventPackage,
    state: &State,
    ends: &[FinalPublication],
) -> Vec<u8> {
    if let [only] = ends {
        return document(host, package, state, Some(only));
    }
    // The package shows one publication closed at a time, so each is made a
    // document that says so.
    let ended: Vec<_> =
        latest(package, ends).filter_map(|end| closed(host, package, state, end)).collect();
    let mut bodies: Vec<&[u8]> = Vec::with_capacity(ended.len() + state.publications.len());
    bodies.extend(ended.iter().map(|body| &**body));
    bodies.extend(state.publications.iter().map(|living| living.body.as_slice()));
    aggregate(host, package, state, &bodies, None)
}

/// Leaves out all ends of a dialog but the last one; the others keep their order.
fn latest<'a>(
    package: &EventPackage,
    ends: &'a [FinalPublication],
) -> impl Iterator<Item = &'a FinalPublication> + use<'a> {
    let dialog_of = |end: &FinalPublication| {
        let info = dialog_info::summary(&end.publication.body).filter(|info| info.dialogs == 1);
        info.and_then(|info| info.first_id).filter(|_| package.is_dialog())
    };
    let mut seen = HashSet::new();
    let mut kept: Vec<_> =
        ends.iter().rev().filter(|end| dialog_of(end).is_none_or(|id| seen.insert(id))).collect();
    kept.reverse();
    kept.into_iter()
}

/// The document of an ended publication as it is shown a last time; `None` if
/// the package cannot read it.
fn closed<'a>(
    host: &mut dyn Host,
    package: &EventPackage,
    state: &State,
    end: &'a FinalPublication,
) -> Option<Cow<'a, [u8]>> {
    let body = &end.publication.body;
    if !end.closing {
        return Some(Cow::Borrowed(body));
    }
    if package.is_dialog() {
        return Some(dialog_info::ended(body).map_or(Cow::Borrowed(body), Cow::Owned));
    }
    let (user, domain) = (&state.key.user, &state.key.host);
    host.aggregate(state.key.package, user, domain, &[body], Some(0)).map(Cow::Owned)
}

fn document(
    host: &mut dyn Host,
    package: &EventPackage,
    state: &State,
    final_publication: Option<&FinalPublication>,
) -> Vec<u8> {
    if !package.aggregates {
        let ended = final_publication.filter(|f| !f.closing).map(|f| &f.publication);
        let shown = ended.or(state.publications.last());
        return shown.map(|p| p.body.clone()).unwrap_or_default();
    }
    // What ends comes first, as the oldest: where it says the same thing as a
    // living publication, that one counts.
    let over = final_publication
        .filter(|f| f.closing && package.is_dialog())
        .and_then(|f| dialog_info::ended(&f.publication.body));
    let ending = over.as_deref().or(final_publication.map(|f| f.publication.body.as_slice()));
    let mut bodies: Vec<&[u8]> = Vec::with_capacity(state.publications.len() + 1);
    bodies.extend(ending);
    bodies.extend(state.publications.iter().map(|p| p.body.as_slice()));
    let closing = final_publication.filter(|f| f.closing).map(|_| 0);
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
    UNREADABLE.log(
        host,
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

/// Completes the publications of a state: their documents where the database
/// keeps them, without those that have run out, in the configured order.
fn settle<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    package: &EventPackage,
    state: &mut State,
) -> Result<(), Fault> {
    let indexed = std::mem::take(&mut state.publications);
    state.publications = match &*indexed {
        // The newest, and no other was asked for.
        [newest] if newest.body.is_empty() && server.config.shows_newest(Some(package)) => {
            server.publications().newest(server, host, &state.key, &package.name, newest)?
        }
        _ => server.publications().complete(server, host, &state.key, &package.name, indexed)?,
    };
    let now = host.now();
    if server.config.startup_mode {
        state.publications.retain(|p| is_shown(p.expires_at, now));
    }
    publications::newest_that_fit(host, &state.key, &mut state.publications);
    sort(server, &mut state.publications);
    Ok(())
}

fn sort<M: Memory>(server: &Server<M>, publications: &mut [PublicationCopy]) {
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

/// The document that somebody without a subscription would see; `without` is
/// the entity-tag of a publication to be shown closed, `contact` that of the
/// one who asks (shared lines). Rules are not applied.
pub fn current<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    key: &PresentityKey,
    package: &EventPackage,
    without: Option<&[u8]>,
    contact: Option<&[u8]>,
) -> Result<Vec<u8>, Fault> {
    let mut state = server.store.living(key);
    settle(server, host, package, &mut state)?;
    let newest_sender = state.publications.last().map(|p| p.sender.as_slice()).unwrap_or_default();
    if package.is_shared_line() && !newest_sender.is_empty() && contact == Some(newest_sender) {
        let uri = uri::presentity_uri(&state.key.user, &state.key.host);
        return Ok(dialog_info::empty_document(&uri, 1));
    }
    let ending = state.publications.iter().position(|p| Some(p.entity_tag.as_slice()) == without);
    let final_publication = ending.filter(|_| package.aggregates).map(|at| FinalPublication {
        state_version: state.state_version,
        closing: true,
        publication: state.publications.remove(at),
        document: 0,
    });
    Ok(document(host, package, &state, final_publication.as_ref()))
}
