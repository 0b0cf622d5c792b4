//! What the rules say about those who watch already (B17), and about anybody.

pub mod purge;

use crate::error::Fault;
use crate::ports::{Host, Level};
use crate::presence::event_package::{Event, PackageId};
use crate::presence::presentity::PresentityKey;
use crate::presence::request::UriParts;
use crate::presence::subscription::{Authorization, Snapshot, Status, Text, is_polite_block};
use crate::presence::{text, uri};
use crate::service::Server;
use crate::service::authorization::{self, Name, Place, StoredDecision};
use crate::service::durable::each_or_all;
use crate::service::notifier::{self, Budget};
use crate::service::rate_limited_log::RateLimitedLog;
use crate::service::subscriptions::{self, WatcherRef};
use crate::shm::Memory;
use std::collections::HashMap;
use std::collections::hash_map::Entry;

static UNJUDGED: RateLimitedLog = RateLimitedLog::new();

/// Rows changed in one transaction.
const BATCH: usize = 200;

/// The rules of a presentity have changed: everybody who watches it, or has
/// tried to, is judged anew, and is notified where that makes a difference.
/// Gives the number of subscriptions whose state has changed.
pub fn update_watchers<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    package_id: PackageId,
    user: &[u8],
    host_part: &[u8],
    rules: Option<&[u8]>,
) -> Result<usize, Fault> {
    let package = server.registry.get(package_id).ok_or(Fault::Package)?;
    if !package.requires_authorization || server.config.force_active {
        return Ok(0);
    }
    let key = server.store.key(user, host_part, package_id);
    let mut rows = authorization::rows(server, host, &key, &package.name)?;
    // Of several spellings of one watcher the one that was decided by hand counts.
    rows.sort_by_key(|(_, row)| row.by_hand);
    let mut living: Vec<(WatcherRef, Name, Authorization)> = Vec::new();
    subscriptions::each_watcher(server, host, &key, |watching, copy| {
        living.push((watching, Name::of(&copy), state_of(&copy)));
    })?;
    let Judged { decisions, changed, unjudged } =
        judge_all(server, host, &key, rows, &living, rules);
    if let Some(fault) = unjudged {
        let line = format_args!("a watcher cannot be judged and keeps its state: {fault}");
        UNJUDGED.log(host, Level::Error, line);
        if decisions.is_empty() {
            return Err(fault);
        }
    }
    store(server, host, &changed)?;
    let mut notified = 0;
    for (watching, name, _) in living {
        let Some(decision) = decisions.get(&name.identity(server)) else { continue };
        match subscriptions::decide(server, host, &key, &watching, decision) {
            Ok(true) => notified += 1,
            Ok(false) => {}
            Err(fault) => {
                host.log(Level::Error, format_args!("a watcher keeps its old state: {fault}"))
            }
        }
    }
    if let Some(lane) = server.store.lane_of(&key) {
        notifier::run(server, host, lane, Budget::WORKER);
    }
    server.wake_senders(host);
    Ok(notified)
}

/// What the rules make of the watchers of a presentity.
#[derive(Default)]
struct Judged {
    /// By the watcher's identity.
    decisions: HashMap<Vec<u8>, Authorization>,
    /// Rows that say otherwise, and whether it is the watcher's only one.
    changed: Vec<(Place, Authorization, bool)>,
    /// One about whom the package cannot say anything keeps its state.
    unjudged: Option<Fault>,
}

/// Judges those whom the table has, then those whom it does not have, by what they are.
fn judge_all<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    key: &PresentityKey,
    rows: Vec<(Place, StoredDecision)>,
    living: &[(WatcherRef, Name, Authorization)],
    rules: Option<&[u8]>,
) -> Judged {
    let mut spellings: HashMap<Vec<u8>, usize> = HashMap::new();
    for (place, _) in &rows {
        *spellings.entry(place.name.identity(server)).or_default() += 1;
    }
    let mut judged = Judged::default();
    for (place, row) in rows {
        let decision = match judge(host, key, &place.name, &row, rules) {
            Ok(decision) => decision,
            Err(fault) => {
                judged.unjudged = Some(fault);
                continue;
            }
        };
        let watcher = place.name.identity(server);
        if decision != row.state {
            let is_only = spellings.get(&watcher) == Some(&1);
            judged.changed.push((place, decision.clone(), is_only));
        }
        judged.decisions.insert(watcher, decision);
    }
    for (_, name, state) in living {
        if let Entry::Vacant(unknown) = judged.decisions.entry(name.identity(server)) {
            let row = StoredDecision { state: state.clone(), by_hand: false };
            match judge(host, key, name, &row, rules) {
                Ok(decision) => drop(unknown.insert(decision)),
                Err(fault) => judged.unjudged = Some(fault),
            }
        }
    }
    judged
}

/// What the rules make of a watcher. One approved by hand stays approved unless
/// the rules name it.
fn judge(
    host: &mut dyn Host,
    key: &PresentityKey,
    name: &Name,
    row: &StoredDecision,
    rules: Option<&[u8]>,
) -> Result<Authorization, Fault> {
    let assumed = if row.by_hand { Status::Pending } else { row.state.status };
    let verdict = ask(host, key, name, assumed, rules)?;
    Ok(if row.by_hand && verdict.status == Status::Pending { row.state.clone() } else { verdict })
}

/// Asks the package about a watcher whose status is `assumed` so far.
pub(super) fn ask(
    host: &mut dyn Host,
    key: &PresentityKey,
    watcher: &Name,
    assumed: Status,
    rules: Option<&[u8]>,
) -> Result<Authorization, Fault> {
    // Spelled as a subscription of theirs has it.
    let user = uri::user::stored(&watcher.user);
    let block = text::pack::<Text>(|n| match Text::ALL[n] {
        Text::PresentityUser => &key.user,
        Text::PresentityHost => &key.host,
        Text::WatcherUser | Text::FromUser => &user,
        Text::WatcherHost | Text::FromHost => &watcher.host,
        _ => b"",
    })
    .map_err(|_| Fault::Host)?;
    let mut subscription = Snapshot::new(key.package, block);
    subscription.status = assumed;
    host.authorize(key.package, &subscription, rules)
}

fn state_of(copy: &Snapshot) -> Authorization {
    Authorization { status: copy.status, reason: copy.text(Text::Reason).to_vec() }
}

fn store<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    changed: &[(Place, Authorization, bool)],
) -> Result<(), Fault> {
    if changed.is_empty() {
        return Ok(());
    }
    let table = authorization::table(server)?;
    let Some(database) = server.database(host)? else { return Ok(()) };
    for batch in changed.chunks(BATCH) {
        each_or_all(database, batch, |database, (place, state, is_only)| {
            database.update(table, &place.conditions(), &place.columns(state, *is_only))
        })?;
    }
    Ok(())
}

/// What the rules of `presentity` say about `watcher`, without regard to any
/// subscription; the flag is for polite blocking.
pub fn auth_status<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    watcher: UriParts<'_>,
    presentity: UriParts<'_>,
) -> Result<(Status, bool), Fault> {
    let event = Event::parse(b"presence").ok_or(Fault::Package)?;
    let id = server.registry.serving(&event).ok_or(Fault::Package)?;
    let package = server.registry.get(id).ok_or(Fault::Package)?;
    if !package.requires_authorization || server.config.force_active {
        return Ok((Status::Active, false));
    }
    let key = server.store.key(presentity.user, presentity.host, id);
    let Some(rules) = host.rules(id, &key.user, presentity.host)? else {
        return Ok((Status::Pending, false));
    };
    let name = Name { user: watcher.user.to_vec(), host: watcher.host.to_vec() };
    let verdict = ask(host, &key, &name, Status::Pending, Some(&rules))?;
    Ok((verdict.status, is_polite_block(&verdict.reason)))
}
