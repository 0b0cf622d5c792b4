//! Sends what a presentity's lane has to send where subscriptions are rows of
//! the database (`subs_db_mode=3`). The lane orders the processes of this
//! server; between servers each NOTIFY first takes its CSeq in the row, and
//! shows what is published after that: of two NOTIFYs in a dialog the higher
//! one never lacks a change that was accepted before the lower one left.

use crate::error::Fault;
use crate::ports::{Compare, Database, Host, Value};
use crate::presence::event_package::{EventPackage, Kind};
use crate::presence::subscription::{Ending, Status, Text};
use crate::service::compose::{Composition, compose};
use crate::service::durable::{durable, single};
use crate::service::notifier::{Budget, PORTION, deliver};
use crate::service::subscription_rows::{self as rows, Row};
use crate::service::turns::turn_of;
use crate::service::{Server, watcher_info};
use crate::shm::Memory;
use crate::store::LaneRef;
use crate::store::lanes::{Composed, ComposedWatchers, Send};
use crate::store::records::Claim;
use crate::store::row_lanes::{DueRow, WalkStep};
use crate::store::rows::dialog_of;
use crate::store::shard::PresentityKey;

/// Rows of watchers read in one go.
const PAGE: usize = 250;

/// How often another CSeq is tried because others keep taking them.
const ATTEMPTS: usize = 16;

/// The NOTIFYs of one dialog, which leave together.
struct Group {
    sends: Vec<Send>,
    state: Taken,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Taken {
    NotYet,
    Ours,
    /// Nothing is to be sent any more.
    Needless,
}

impl Group {
    fn ending(&self) -> Option<(Ending, i64)> {
        self.sends.last().and_then(|last| Some((last.ending?, last.expires_at)))
    }

    /// CSeq and version that were used last.
    fn used(&self) -> (u32, u32) {
        self.sends.first().map_or((0, 0), |first| {
            let subscription = &first.subscription;
            (subscription.local_cseq.wrapping_sub(1), subscription.version.wrapping_sub(1))
        })
    }

    /// Follows the row, which somebody has changed.
    fn renumber(&mut self, row: &Row) {
        let mut next = row.subscription.clone();
        for send in &mut self.sends {
            next.local_cseq = next.local_cseq.wrapping_add(1);
            next.version = next.version.wrapping_add(1);
            next.expires = send.subscription.expires;
            next.package = send.subscription.package;
            send.subscription = next.clone();
            send.expires_at = row.expires_at;
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
    let mut conditions = rows::of_presentity(key, package);
    conditions.push(("status", Compare::Eq, Value::Int(Status::Active as i64)));
    conditions.push(("expires", Compare::Greater, Value::Int(now)));
    let page = rows::page(server, host, &conditions, after, PAGE)?;
    let mut last = page.last;
    let mut ids = Vec::with_capacity(page.rows.len());
    let mut due: Vec<DueRow> = Vec::with_capacity(page.rows.len());
    for row in page.rows {
        if row.subscription.text(Text::Reason).is_empty() {
            ids.push(row.id);
            due.push(row.due(None, Claim::UnlessTold));
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
    let Some(state) = server.store.lane_state(lane) else { return Ok(false) };
    let Some(package) = server.registry.get(state.key.package) else { return Ok(false) };
    let farewells = state.farewells.clone();
    let composed = Composed {
        round: state.round,
        farewells: &farewells,
        skip_first: !server.config.send_fast_notify
            && package.peer.is_none()
            && compose(server, host, package, state.clone())?.is_empty(),
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
    if let Err(fault) = claim(server, host, package, &mut groups) {
        requeue(server, &key, groups);
        return Err(fault);
    }
    groups.retain(|group| group.state == Taken::Ours);
    for group in &groups {
        if let Some((why, _)) = group.ending()
            && let Some(last) = group.sends.last()
            && why == Ending::Expired
        {
            watcher_info::row_ended(server, &key, &last.subscription);
        }
    }
    // After the CSeqs were taken: see above.
    let composition = match compose(server, host, package, state) {
        Ok(composition) => composition,
        Err(fault) => {
            let (over, living) = groups.into_iter().partition(|group| group.ending().is_some());
            send(host, package, &Composition::default(), over);
            requeue(server, &key, living);
            return Err(fault);
        }
    };
    send(host, package, &composition, groups);
    Ok(true)
}

fn send(
    host: &mut dyn Host,
    package: &EventPackage,
    composition: &Composition,
    groups: Vec<Group>,
) {
    for send in groups.iter().flat_map(|group| &group.sends) {
        deliver(host, package, composition, send);
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
            _ => groups.push(Group { sends: vec![send], state: Taken::NotYet }),
        }
    }
    groups.sort_by(|a, b| call_id(a).cmp(call_id(b)));
    groups
}

fn call_id(group: &Group) -> &[u8] {
    group.sends.first().map_or(b"", |first| first.subscription.text(Text::CallId))
}

/// Takes the CSeqs of all groups, or finds that a NOTIFY is needless.
fn claim<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    package: &EventPackage,
    groups: &mut [Group],
) -> Result<(), Fault> {
    let table = rows::table(server)?;
    // Notifier processes flag many rows in one statement. Beside those a
    // transaction over several rows could end in a deadlock.
    let one_by_one = server.config.notifier_processes > 0;
    let mut unsure = false;
    for _ in 0..ATTEMPTS {
        let database = host.database().ok_or(Fault::Database)?;
        let open: Vec<_> = groups.iter().filter(|group| group.state == Taken::NotYet).collect();
        let mut verdicts = Vec::new();
        if one_by_one || open.len() == 1 {
            for group in open {
                verdicts.push(single(database, |database, attempt| {
                    unsure |= attempt > 0;
                    claim_group(database, table, group)
                })?);
            }
        } else {
            let mut attempts = 0;
            durable(database, |database| {
                attempts += 1;
                verdicts.clear();
                for group in &open {
                    verdicts.push(claim_group(database, table, group)?);
                }
                Ok(())
            })?;
            unsure |= attempts > 1;
        }
        let open = groups.iter_mut().filter(|group| group.state == Taken::NotYet);
        let mut again = false;
        for (group, ours) in open.zip(verdicts) {
            if ours {
                group.state = Taken::Ours;
                continue;
            }
            group.state = follow(server, host, package, group, unsure)?;
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
    rows::claim(database, table, &first.subscription, group.used(), count, group.ending())
}

/// The row is not as it was read. `unsure`: that may be our own doing.
fn follow<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    package: &EventPackage,
    group: &mut Group,
    unsure: bool,
) -> Result<Taken, Fault> {
    let Some(first) = group.sends.first() else { return Ok(Taken::Needless) };
    let Some(row) = rows::find(server, host, dialog_of(&first.subscription))? else {
        // The last NOTIFY was ours to send, unless another server has sent it.
        let ours = unsure && group.ending().is_some();
        return Ok(if ours { Taken::Ours } else { Taken::Needless });
    };
    let refreshed = row.expires_at >= host.now() - i64::from(server.config.expires_offset);
    match group.ending() {
        Some((Ending::Expired, _)) if refreshed => return Ok(Taken::Needless),
        Some(_) => {}
        None if row.has_ended() => return Ok(Taken::Needless),
        // Whoever has taken a CSeq since the row was read shows a state that
        // was read after that. Watcher information shows changes, though.
        None if first.claim == Claim::UnlessTold
            && package.kind != Kind::WatcherInfo
            && !unsure =>
        {
            return Ok(Taken::Needless);
        }
        None => {}
    }
    group.renumber(&row);
    Ok(Taken::NotYet)
}

/// What could not be sent is due again, as far as there is memory.
fn requeue<M: Memory>(server: &Server<M>, key: &PresentityKey, groups: Vec<Group>) {
    for group in groups {
        let used = if group.state == Taken::Ours { None } else { Some(group.used()) };
        let ending = group.ending().map(|(why, _)| why);
        let Some(last) = group.sends.into_iter().next_back() else { continue };
        let mut subscription = last.subscription;
        if let Some((cseq, version)) = used {
            (subscription.local_cseq, subscription.version) = (cseq, version);
        }
        let due =
            DueRow { subscription, expires_at: last.expires_at, ending, claim: Claim::Always };
        // The lane is the caller's: it is not given again.
        let _ = server.store.queue_row(key, &due);
    }
}
