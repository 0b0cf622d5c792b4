//! Sends what a presentity's lane has to send where subscriptions are rows of
//! the database (`subs_db_mode=3`). The lane orders the processes of this
//! server; between servers each NOTIFY first takes its CSeq in the row, and
//! shows what is published after that: of two NOTIFYs in a dialog the higher
//! one never lacks a change that was accepted before the lower one left.

use crate::config::PublicationCache;
use crate::error::Fault;
use crate::ports::{Compare, Database, Host, Level, Value};
use crate::presence::event_package::{EventPackage, Kind};
use crate::presence::subscription::{Ending, Snapshot, Status, Text};
use crate::service::compose::{compose, fold};
use crate::service::durable::{durable, single};
use crate::service::notifier::{Budget, Delivery, PORTION, deliver};
use crate::service::seldom::Seldom;
use crate::service::subscription_rows::{self as rows, Claimed, Row};
use crate::service::turns::turn_of;
use crate::service::{Server, notify_reply, watcher_info};
use crate::shm::Memory;
use crate::store::lanes::{Composed, ComposedWatchers, Document, Send, State};
use crate::store::records::Claim;
use crate::store::row_lanes::{DueRow, WalkStep};
use crate::store::rows::dialog_of;
use crate::store::shard::PresentityKey;
use crate::store::subscriptions::may_see;
use crate::store::{LaneRef, Token};

static UNDELETED: Seldom = Seldom::new();
static UNQUEUED: Seldom = Seldom::new();

/// Rows of watchers read in one go.
const PAGE: usize = 1000;

/// How often another CSeq is tried because others keep taking them.
const ATTEMPTS: usize = 16;

/// The NOTIFYs of one dialog, which leave together.
struct Group {
    sends: Vec<Send>,
    state: Taken,
    /// An attempt to take its numbers has failed: perhaps only the answer was
    /// lost.
    unsure: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Taken {
    NotYet,
    Ours,
    /// Nothing is to be sent any more.
    Needless,
}

impl Group {
    fn ending(&self) -> Option<Ending> {
        self.sends.last().and_then(|last| last.ending)
    }

    /// CSeq and version that were used last.
    fn used(&self) -> (u32, u32) {
        self.sends.first().map_or((0, 0), |first| {
            let subscription = &first.subscription;
            (subscription.local_cseq.wrapping_sub(1), subscription.version.wrapping_sub(1))
        })
    }

    /// Follows the row, which somebody has changed. What its watcher may see
    /// may be another thing now.
    fn renumber(&mut self, row: &Row) {
        let sees =
            |subscription: &Snapshot| may_see(subscription.status, subscription.text(Text::Reason));
        let saw = self.sends.first().is_some_and(|first| sees(&first.subscription));
        let will_see = sees(&row.subscription);
        if saw != will_see {
            // One NOTIFY says how it is now.
            self.sends.drain(..self.sends.len() - 1);
        }
        let mut next = row.subscription.clone();
        for send in &mut self.sends {
            next.local_cseq = next.local_cseq.wrapping_add(1);
            next.version = next.version.wrapping_add(1);
            next.package = send.subscription.package;
            send.subscription = next.clone();
            send.expires_at = row.expires_at;
            send.null_reason = row.null_reason;
            if row.updated < 0 && matches!(send.claim, Claim::Turn(_)) {
                // It was us who took the flag off.
                send.claim = Claim::Asked;
            }
            match (saw, will_see) {
                (true, false) => send.document = Document::None,
                (false, true) if send.ending.is_none_or(Ending::shows_state) => {
                    send.document = Document::Newest;
                }
                _ => {}
            }
        }
    }
}

/// One round for the lane. False when the budget is used.
pub fn round<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    lane: LaneRef<M>,
    budget: Budget,
    sent: &mut usize,
) -> Result<bool, Fault> {
    loop {
        if portion(server, host, lane, sent)? {
            if *sent >= budget.notifies {
                return Ok(false);
            }
            continue;
        }
        let Some(state) = server.store.lane_state(lane) else { return Ok(true) };
        let Some(package) = server.registry.get(state.key.package) else { return Ok(true) };
        match server.store.walk(lane, server.config.notifier_processes > 0) {
            WalkStep::Done => return Ok(true),
            // Something was done: the lane is looked at again.
            WalkStep::Leave(spared) => {
                *sent += 1;
                let turn = turn_of(server, &state.key);
                rows::flag_watchers(server, host, &state.key, package, (turn, &spared))?;
                server.store.walked(lane, None);
            }
            WalkStep::Page(after) => {
                let last = load(server, host, lane, &state.key, package, after)?;
                server.store.walked(lane, last);
                *sent += 1;
            }
        }
    }
}

/// Puts a page of watchers on the list of those to be notified. Gives where
/// the walk goes on, or that it has seen all.
fn load<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    lane: LaneRef<M>,
    key: &PresentityKey,
    package: &EventPackage,
    after: i64,
) -> Result<Option<i64>, Fault> {
    let now = host.now();
    let living = [
        ("status", Compare::Eq, Value::Int(Status::Active as i64)),
        ("expires", Compare::Greater, Value::Int(now)),
    ];
    let lists = rows::of_presentity(key, package, &living);
    let page = rows::page_of_any(server, host, &lists, after, PAGE)?;
    let mut last = page.last;
    let mut ids = Vec::with_capacity(page.rows.len());
    let mut due: Vec<DueRow> = Vec::with_capacity(page.rows.len());
    for row in page.rows {
        if row.subscription.text(Text::Reason).is_empty() {
            ids.push(row.id);
            due.push(row.due(None, Claim::Walk));
        }
    }
    let queued = server.store.queue_page(lane, &due);
    if queued < due.len() {
        // The rest when these have made room.
        last = Some(queued.checked_sub(1).and_then(|n| ids.get(n).copied()).unwrap_or(after));
        if queued == 0 {
            return Err(Fault::SharedMemory);
        }
    }
    Ok(last)
}

/// Sends to some of those who are due; false if nobody is.
fn portion<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    lane: LaneRef<M>,
    sent: &mut usize,
) -> Result<bool, Fault> {
    let Some(mut state) = server.store.lane_state_shown(lane, host.now()) else {
        return Ok(false);
    };
    let Some(package) = server.registry.get(state.key.package) else { return Ok(false) };
    let all_here = server.config.publications() != PublicationCache::None
        && state.publications.iter().all(|living| !living.body.is_empty());
    let living = state.publications.iter().map(|living| living.body.len()).sum();
    fold(package, &mut state.farewells, all_here.then_some(living));
    let composed = Composed {
        round: state.round,
        farewells: &state.farewells,
        // Notifier processes send them all (B28).
        skip_first: !server.config.send_fast_notify
            && server.config.notifier_processes == 0
            && package.peer.is_none()
            && compose(server, host, package, living_only(&state))?.is_empty(),
        watchers: (package.kind == Kind::WatcherInfo).then_some(ComposedWatchers {
            full_since: state.watchers.full_since,
            has_all: state.watchers.wants_full,
        }),
    };
    let taken = server.store.take(lane, composed, host.now(), PORTION);
    if taken.sends.is_empty() {
        return Ok(false);
    }
    *sent += taken.sends.len();
    let key = state.key.clone();
    let mut groups = groups(taken.sends);
    let claimed = claim(server, host, &mut groups);
    let (ours, others): (Vec<_>, Vec<_>) =
        groups.into_iter().partition(|group| group.state == Taken::Ours);
    if claimed.is_err() {
        requeue(
            server,
            host,
            &key,
            others.into_iter().filter(|group| group.state == Taken::NotYet),
        );
    }
    for group in &ours {
        if let (Some(Ending::Expired), Some(last)) = (group.ending(), group.sends.last()) {
            watcher_info::row_ended(server, &key, &last.subscription);
        }
    }
    // After the CSeqs were taken: see above.
    let composition = match compose(server, host, package, state) {
        Ok(composition) => composition,
        Err(fault) => {
            requeue(server, host, &key, ours.into_iter());
            return Err(fault);
        }
    };
    let mut gone = Vec::new();
    let full = ours.iter().position(|group| {
        let failed = group.sends.iter().find_map(|send| {
            let delivery = deliver(host, package, &composition, send);
            (delivery != Delivery::Done).then_some((delivery, send))
        });
        match failed {
            Some((Delivery::Gone, send)) if send.ending.is_none() => {
                gone.push(send.subscription.clone())
            }
            _ => {}
        }
        failed.is_some_and(|(delivery, _)| delivery == Delivery::Postponed)
    });
    for subscription in &gone {
        notify_reply::gone(server, host, Token::ROW, subscription);
    }
    let mut sent = ours;
    let unsent = full.map(|first| sent.split_off(first)).unwrap_or_default();
    delete_ended(server, host, &sent);
    if !unsent.is_empty() {
        requeue(server, host, &key, unsent.into_iter());
        return Err(Fault::SharedMemory);
    }
    claimed.map(|()| true)
}

/// Deletes the rows of dialogs whose last NOTIFY has left. One that stays is
/// found by the timer, and told a second time.
fn delete_ended<M: Memory>(server: &Server<M>, host: &mut dyn Host, sent: &[Group]) {
    let ended: Vec<_> = sent
        .iter()
        .filter(|group| group.ending().is_some())
        .filter_map(|group| group.sends.last())
        .collect();
    let (Ok(table), false) = (rows::table(server), ended.is_empty()) else { return };
    let delete = |database: &mut dyn Database, send: &Send| {
        rows::delete_ended(database, table, &send.subscription)
    };
    let deleted = host.database().ok_or(Fault::Database).and_then(|database| {
        if server.config.notifier_processes > 0 || ended.len() == 1 {
            return ended
                .iter()
                .try_for_each(|send| single(database, |database, _| delete(database, send)));
        }
        durable(database, |database| ended.iter().try_for_each(|send| delete(database, send)))
    });
    if let Err(fault) = deleted {
        let line = format_args!("ended subscriptions stay in the table for now: {fault}");
        UNDELETED.log(host, Level::Error, line);
    }
}

/// The NOTIFYs by dialog, in an order that is the same on all servers: two of
/// them must not wait for each other's rows.
fn groups(sends: Vec<Send>) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for send in sends {
        match groups.last_mut() {
            Some(group)
                if group.sends.last().is_some_and(|last| {
                    dialog_of(&last.subscription) == dialog_of(&send.subscription)
                }) =>
            {
                group.sends.push(send);
            }
            _ => groups.push(Group { sends: vec![send], state: Taken::NotYet, unsure: false }),
        }
    }
    groups.sort_by(|a, b| name(a).cmp(&name(b)));
    groups
}

fn name(group: &Group) -> [&[u8]; 3] {
    group.sends.first().map_or([b"", b"", b""], |first| {
        [Text::CallId, Text::FromTag, Text::ToTag].map(|field| first.subscription.text(field))
    })
}

/// Takes the CSeqs of all groups, or finds that a NOTIFY is needless. On a
/// failure some may be taken.
fn claim<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    groups: &mut [Group],
) -> Result<(), Fault> {
    let table = rows::table(server)?;
    for _ in 0..ATTEMPTS {
        let mut open: Vec<&mut Group> =
            groups.iter_mut().filter(|group| group.state == Taken::NotYet).collect();
        let database = host.database().ok_or(Fault::Database)?;
        // Notifier processes flag many rows in one statement. Beside those a
        // transaction over several rows could end in a deadlock.
        if server.config.notifier_processes > 0 || open.len() == 1 {
            for group in &mut open {
                let mut attempts = 0;
                let taken = single(database, |database, attempt| {
                    attempts = attempt;
                    claim_group(database, table, group)
                });
                group.unsure |= attempts > 0;
                if taken? {
                    group.state = Taken::Ours;
                }
            }
        } else {
            let mut verdicts = Vec::new();
            durable(database, |database| {
                verdicts.clear();
                for group in &open {
                    verdicts.push(claim_group(database, table, group)?);
                }
                Ok(())
            })?;
            for (group, ours) in open.iter_mut().zip(verdicts) {
                if ours {
                    group.state = Taken::Ours;
                }
            }
        }
        let mut again = false;
        for group in open.into_iter().filter(|group| group.state == Taken::NotYet) {
            group.state = follow(server, host, group)?;
            again |= group.state == Taken::NotYet;
        }
        if !again {
            return Ok(());
        }
    }
    Err(Fault::Database)
}

fn claim_group(database: &mut dyn Database, table: &str, group: &Group) -> Result<bool, Fault> {
    let Some(first) = group.sends.first() else { return Ok(false) };
    let count = u32::try_from(group.sends.len()).unwrap_or(1);
    let expired = group.ending() == Some(Ending::Expired);
    let wanted = Claimed {
        claim: first.claim,
        expired: expired.then_some(first.expires_at),
        null_reason: first.null_reason,
    };
    rows::claim(database, table, &first.subscription, group.used(), count, wanted)
}

/// The row is not as it was read: somebody has changed it, or has taken the
/// number, or it was us and only the answer was lost. Then a number is left out.
fn follow<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    group: &mut Group,
) -> Result<Taken, Fault> {
    let Some(first) = group.sends.first() else { return Ok(Taken::Needless) };
    let claim = first.claim;
    let Some(row) = rows::find(server, host, dialog_of(&first.subscription))? else {
        return Ok(Taken::Needless);
    };
    let runs = row.expires_at >= host.now() - i64::from(server.config.expires_offset);
    let needless = match (group.ending(), claim) {
        // Another server's notifier process has sent it.
        (_, Claim::Turn(turn)) if row.updated != i64::from(turn) && !group.unsure => true,
        (Some(Ending::Expired), _) => runs && !row.has_ended(),
        (Some(_), _) => false,
        (None, Claim::Turn(_)) => row.has_ended(),
        (None, Claim::Walk) => row.has_ended() || row.subscription.status != Status::Active,
        (None, Claim::Asked | Claim::None) => row.has_ended(),
    };
    if needless {
        return Ok(Taken::Needless);
    }
    group.renumber(&row);
    Ok(Taken::NotYet)
}

/// What could not be sent is due again, as far as there is memory. A watcher for
/// whom there is none is told at the presentity's next change.
fn requeue<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    key: &PresentityKey,
    groups: impl Iterator<Item = Group>,
) {
    for group in groups {
        let used = if group.state == Taken::Ours { None } else { Some(group.used()) };
        let ending = group.ending();
        let Some(last) = group.sends.into_iter().next_back() else { continue };
        let mut subscription = last.subscription;
        if let Some((cseq, version)) = used {
            (subscription.local_cseq, subscription.version) = (cseq, version);
        }
        let due = DueRow {
            subscription,
            expires_at: last.expires_at,
            ending,
            claim: Claim::Asked,
            told: Some(last.told),
            null_reason: last.null_reason,
        };
        // The lane is the caller's: it is not given again.
        if let Err(fault) = server.store.queue_row(key, &due) {
            let call_id = due.subscription.text(Text::CallId).escape_ascii();
            let line = format_args!("NOTIFY given up: {fault} (Call-ID {call_id})");
            UNQUEUED.log(host, Level::Error, line);
        }
    }
}

/// A state without what has ended.
fn living_only(state: &State) -> State {
    State {
        key: state.key.clone(),
        round: state.round,
        publications: state.publications.clone(),
        farewells: Vec::new(),
        watchers: state.watchers.clone(),
    }
}
