//! Why a watcher sees what it sees: collects what is known of it, in memory, in the
//! tables and from the package's rules, and asks `presence::explain` for the verdict.
//! Nothing is changed.

use crate::error::Fault;
use crate::ports::Host;
use crate::presence::event_package::{Event, EventPackage, Kind, PackageId};
use crate::presence::explain::{
    Decider, Facts, KnownSubscription, PublicationsKnown, Verdict, Waiting, WaitsFor, Whereabouts,
    verdict,
};
use crate::presence::notify_fate::LatestNotify;
use crate::presence::presentity::PresentityKey;
use crate::presence::publication::PublicationCopy;
use crate::presence::request::UriParts;
use crate::presence::subscription::{Snapshot, Status, Text, may_see};
use crate::presence::text;
use crate::presence::transition::Phase;
use crate::presence::uri;
use crate::service::listing::Refused;
use crate::service::subscription_rows::{self as rows, ActiveWatcherRow};
use crate::service::{Server, authorization, notifier_slots};
use crate::shm::Memory;
use crate::store::explain::{Explained, LaneState};
use crate::store::records::Lag;
use crate::store::rows::{NOT_FLAGGED, dialog_of};

/// Publications that are looked at.
const PUBLICATIONS: usize = 50;

/// Whether a publication is part of what is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shown {
    /// It is.
    Yes,
    /// Its time is over.
    Expired,
    /// The package shows the newest alone.
    NotNewest,
}

/// Everything about a watcher of a presentity.
#[derive(Debug, Clone)]
pub struct Explanation {
    /// What is known.
    pub facts: Facts,
    /// What that means.
    pub verdict: Verdict,
    /// The subscription that this is about, if there is one.
    pub subscription: Option<Snapshot>,
    /// How many this watcher has to this presentity.
    pub count: usize,
    /// How its row is.
    pub row: &'static str,
    /// What is published, the newest first, and whether it is shown.
    pub publications: Vec<(PublicationCopy, Shown)>,
    /// There are more.
    pub more_publications: bool,
}

/// Explains what a watcher sees of a presentity in a package.
pub fn explain<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    watcher: UriParts<'_>,
    presentity: UriParts<'_>,
    event: &[u8],
) -> Result<Explanation, Refused> {
    let event = Event::parse(event).ok_or(Refused::Event)?;
    let id = server.registry.serving(&event).ok_or(Refused::Event)?;
    let package = server.registry.get(id).ok_or(Refused::Event)?;
    let key = server.store.key(presentity.user, presentity.host, id);
    let now = host.now();
    let mut found = subscriptions(server, host, &key, watcher)?;
    found.sort_by_key(Found::relevance);
    let count = found.iter().filter(|found| found.known.phase.lives()).count();
    let found = found.pop();
    let (publications, is_all) = publications(server, host, &key, package)?;
    let published = known_publications(&publications, package);
    let decider = decider(server, host, (id, package), watcher, &key);
    let newest = publications.first().map(|(publication, _)| publication.received);
    let waiting = found.as_ref().and_then(|found| waiting(server, host, &key, found, newest));
    let names = (watcher.user, watcher.host);
    let facts = Facts {
        now,
        expires_offset: i64::from(server.config.expires_offset),
        subscription: found.as_ref().map(|found| found.known),
        end: server.store.remembered_end(&key, names),
        decider,
        waiting,
        publications: published,
        skips_empty_first: !server.config.send_fast_notify,
    };
    Ok(Explanation {
        verdict: verdict(&facts),
        facts,
        count,
        row: found.as_ref().map_or("none", |found| found.row),
        subscription: found.map(|found| found.subscription),
        publications,
        more_publications: !is_all,
    })
}

/// A subscription that was found.
struct Found {
    subscription: Snapshot,
    known: KnownSubscription,
    row: &'static str,
    /// Where NOTIFYs of it stand.
    progress: Progress,
}

/// How far a watcher is with its NOTIFYs.
#[derive(Default, Clone, Copy)]
struct Progress {
    in_flight: bool,
    has_pending_notify: bool,
    is_behind: bool,
    is_flagged: bool,
}

impl Found {
    /// The one that a question is about comes last.
    fn relevance(&self) -> (bool, bool, i64) {
        let known = &self.known;
        (known.phase.lives(), known.whereabouts != Whereabouts::ForeignRow, known.notified_at)
    }

    fn of_record(explained: Explained, follows: bool) -> Found {
        let row = match (follows, explained.lag, explained.has_row) {
            (false, ..) => "none: subscriptions are in memory only",
            (_, Lag::Refused, _) => "refused by the database, and tried again",
            (_, Lag::Urgent, false) => "not written yet",
            (_, Lag::Urgent, true) => "to be deleted",
            (_, Lag::Changed, _) => "written, and out of date until the timer comes",
            (_, Lag::None, true) => "written",
            (_, Lag::None, false) => "cannot be written as it is: see the log",
        };
        let progress = Progress {
            in_flight: explained.in_flight,
            has_pending_notify: explained.has_pending_notify,
            is_behind: explained.is_behind,
            is_flagged: false,
        };
        let known = known(
            &explained.subscription,
            (Whereabouts::Memory, explained.phase, explained.expires_at),
            explained.latest,
            explained.is_excluded,
        );
        Found { subscription: explained.subscription, known, row, progress }
    }
}

fn known(
    subscription: &Snapshot,
    (whereabouts, phase, expires_at): (Whereabouts, Phase, i64),
    latest: LatestNotify,
    is_excluded: bool,
) -> KnownSubscription {
    let sees = may_see(subscription.status, subscription.text(Text::Reason));
    KnownSubscription {
        whereabouts,
        status: subscription.status,
        is_politely_blocked: subscription.status == Status::Active && !sees,
        phase,
        expires_at,
        cseq: subscription.local_cseq,
        fate: latest.fate(),
        notified_at: latest.sent_at(),
        is_excluded,
    }
}

/// The watcher's subscriptions to the presentity, wherever they are.
fn subscriptions<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    key: &PresentityKey,
    watcher: UriParts<'_>,
) -> Result<Vec<Found>, Fault> {
    let storage = server.subscriptions();
    if storage.is_shared() {
        let rows = rows_of(server, host, key, watcher)?;
        return Ok(rows.into_iter().map(|row| of_row(server, host, key, row)).collect());
    }
    let outlive = storage.kept().outlive_server;
    let records = server.store.explained(key, (watcher.user, watcher.host), host.now());
    let found: Vec<_> =
        records.into_iter().map(|record| Found::of_record(record, outlive)).collect();
    if !outlive || found.iter().any(|found| found.known.phase.lives()) {
        return Ok(found);
    }
    // A row without a record is another server's. Where the table cannot be read,
    // memory has said what there is to say.
    let now = host.now();
    let rows = rows_of(server, host, key, watcher).unwrap_or_default();
    let foreign = rows.into_iter().filter(|row| {
        let dialog = dialog_of(&row.subscription);
        // One of ours that is over may have its row for a while.
        !row.has_ended() && row.expires_at > now && !server.store.awaits_deletion(key, dialog)
    });
    let foreign = foreign.map(|row| {
        let place = (Whereabouts::ForeignRow, Phase::Live, row.expires_at);
        let known = known(&row.subscription, place, LatestNotify::default(), false);
        let row_is = "written, by another server or program";
        Found { subscription: row.subscription, known, row: row_is, progress: Progress::default() }
    });
    Ok(found.into_iter().chain(foreign).collect())
}

/// The watcher's rows, in whichever spelling of its user.
fn rows_of<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    key: &PresentityKey,
    watcher: UriParts<'_>,
) -> Result<Vec<ActiveWatcherRow>, Fault> {
    let wanted = uri::identity(watcher.user, watcher.host, server.store.policy.user_case);
    let mut found = Vec::new();
    for user in uri::user::spellings(watcher.user) {
        for row in rows::all_of_watcher(server, host, key, &user)? {
            let text = |field| row.subscription.text(field);
            let (user, domain) = (text(Text::WatcherUser), text(Text::WatcherHost));
            if uri::identity(user, domain, server.store.policy.user_case) == wanted {
                found.push(row);
            }
        }
    }
    Ok(found)
}

fn of_row<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    key: &PresentityKey,
    row: ActiveWatcherRow,
) -> Found {
    let now = host.now();
    let dialog = dialog_of(&row.subscription);
    let pending = server.store.explained_row(key, dialog, now);
    let latest = server.store.remembered_latest(dialog);
    let lane = server.store.lane_seen(key).unwrap_or_default();
    let excluded = pending.as_ref().is_some_and(|pending| pending.is_excluded);
    let phase = row.current().phase;
    let known =
        known(&row.subscription, (Whereabouts::Row, phase, row.expires_at), latest, excluded);
    let progress = Progress {
        in_flight: pending.as_ref().is_some_and(|pending| pending.in_flight),
        has_pending_notify: pending.is_some(),
        is_behind: lane.is_behind && !excluded,
        is_flagged: row.updated > NOT_FLAGGED,
    };
    let is = if progress.is_flagged { "written, and flagged" } else { "written" };
    Found { subscription: row.subscription, known, row: is, progress }
}

/// What a NOTIFY of this subscription waits for. What its watcher lacks has been there
/// since the `newest` publication, as far as that is known.
fn waiting<M: Memory>(
    server: &Server<M>,
    host: &dyn Host,
    key: &PresentityKey,
    found: &Found,
    newest: Option<i64>,
) -> Option<Waiting> {
    let Progress { in_flight, has_pending_notify, is_behind, is_flagged } = found.progress;
    let is_last = !found.known.phase.lives();
    if !(in_flight || has_pending_notify || is_behind || is_flagged || is_last) {
        return None;
    }
    let since = newest.filter(|_| is_behind && !has_pending_notify);
    let plain = |what| Some(Waiting { what, since, next_try: None });
    if in_flight {
        return plain(WaitsFor::Delivery);
    }
    if let Some(retry) = server.store.remembered_retry(key) {
        let what = match (retry.fault, retry.next) {
            (_, None) => WaitsFor::NextChange,
            (Fault::Database, _) => WaitsFor::Database,
            (Fault::SharedMemory, _) => WaitsFor::Memory,
            (Fault::Package, _) => WaitsFor::Package,
            (fault, _) => WaitsFor::Other(fault),
        };
        return Some(Waiting { what, since: Some(retry.since), next_try: retry.next });
    }
    let needs_database =
        server.subscriptions().is_shared() || !server.publications().are_in_memory();
    if let Some(since) = host.database_away_since().filter(|_| needs_database) {
        return Some(Waiting { what: WaitsFor::Database, since: Some(since), next_try: None });
    }
    if is_flagged && !has_pending_notify {
        let within = u32::try_from(notifier_slots::longest_wait(server)).unwrap_or(u32::MAX);
        return plain(WaitsFor::NotifierProcess(within));
    }
    let lane = server.store.lane_seen(key).unwrap_or_default();
    plain(match lane {
        LaneState { is_queued: true, owners: 0, .. } => WaitsFor::Sender,
        LaneState { unvisited: 1.., owners: 1.., .. } if !has_pending_notify => {
            WaitsFor::FanOut(lane.unvisited)
        }
        LaneState { owners: 1.., .. } => WaitsFor::Delivery,
        _ => WaitsFor::NextChange,
    })
}

/// What is published, the newest first, and whether that is all.
fn publications<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    key: &PresentityKey,
    package: &EventPackage,
) -> Result<(Vec<(PublicationCopy, Shown)>, bool), Fault> {
    let (newest, is_all) = if server.publications().are_in_memory() {
        server.store.newest(key, PUBLICATIONS)
    } else {
        let mut all = server.publications().current(server, host, key, &package.name)?;
        all.reverse();
        let is_all = all.len() <= PUBLICATIONS;
        all.truncate(PUBLICATIONS);
        (all, is_all)
    };
    let (now, shows_newest) = (host.now(), server.store.policy.shows_newest(key.package));
    let mut has_shown = false;
    let shown = |publication: PublicationCopy| {
        let is_over = publication.expires_at.is_some_and(|at| at < now);
        let shown = match (is_over, shows_newest && has_shown) {
            (true, _) => Shown::Expired,
            (_, true) => Shown::NotNewest,
            _ => Shown::Yes,
        };
        has_shown |= shown == Shown::Yes;
        (publication, shown)
    };
    Ok((newest.into_iter().map(shown).collect(), is_all))
}

fn known_publications(
    publications: &[(PublicationCopy, Shown)],
    package: &EventPackage,
) -> PublicationsKnown {
    let count = |wanted| publications.iter().filter(|(_, shown)| *shown == wanted).count();
    PublicationsKnown {
        all: publications.len(),
        shown: count(Shown::Yes),
        expired: count(Shown::Expired),
        is_watcher_info: package.kind == Kind::WatcherInfo,
    }
}

/// Who decides about the watcher; `None` where that cannot be found out.
fn decider<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    (id, package): (PackageId, &EventPackage),
    watcher: UriParts<'_>,
    key: &PresentityKey,
) -> Option<Decider> {
    let user = uri::user::stored(watcher.user);
    let block = text::pack::<Text>(|n| match Text::ALL[n] {
        Text::PresentityUser | Text::ToUser => &key.user,
        Text::PresentityHost | Text::ToHost => &key.host,
        Text::WatcherUser | Text::FromUser => &user,
        Text::WatcherHost | Text::FromHost => watcher.host,
        _ => b"",
    });
    let asked = Snapshot::new(id, block.ok()?);
    authorization::decider(server, host, package, asked).ok()
}
