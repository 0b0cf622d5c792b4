//! Sends what a presentity's lane has to send where subscriptions are rows of
//! the database (`subs_db_mode=3`). The lane orders the processes of this
//! server. Between servers each NOTIFY takes its CSeq in the row, by the number
//! that was read, and the state is read in between: who takes the next number
//! has read this one, so its state is not older. Nothing is locked for that.

use std::collections::VecDeque;

use crate::config::PublicationCache;
use crate::error::Fault;
use crate::ports::{Compare, Database, Host, Level, Value};
use crate::presence::event_package::{EventPackage, Kind};
use crate::presence::presentity::PresentityKey;
use crate::presence::subscription::{Status, Text, is_told_of_changes};
use crate::service::compose::{self, Composition, compose, fold};
use crate::service::durable::{each_or_all, single};
use crate::service::notifier::{Budget, Delivery, PORTION, deliver};
use crate::service::row_claims::{self, Group, Taken, groups};
use crate::service::seldom::Seldom;
use crate::service::shortage::{Shortage, requeue};
use crate::service::subscription_rows as rows;
use crate::service::turns::turn_of;
use crate::service::{Server, notify_reply};
use crate::shm::Memory;
use crate::store::lanes::{Composed, ComposedWatchers, Send, State};
use crate::store::records::Claim;
use crate::store::row_lanes::{DueRow, WalkStep};
use crate::store::{LaneRef, Token};

static UNDELETED: Seldom = Seldom::new();
static GIVEN_UP: Seldom = Seldom::new();

/// Rows of watchers read in one go.
const PAGE: usize = 1000;

/// Where a walk stands that has read all rows: its watchers are being told.
const READ_ALL: i64 = i64::MAX;

/// How often another CSeq is tried because others keep taking them.
const ATTEMPTS: usize = 16;

/// One round for the lane. False when the budget is used.
pub fn round<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    lane: LaneRef<M>,
    budget: Budget,
    sent: &mut usize,
    shortage: &mut Shortage,
) -> Result<bool, Fault> {
    loop {
        if portion(server, host, lane, sent, shortage)? {
            if shortage.is_full() || *sent >= budget.notifies {
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
            // Their farewells have been kept until now.
            WalkStep::Page(READ_ALL) => server.store.walked(lane, None),
            WalkStep::Page(after) => {
                let last = load(server, host, lane, &state.key, package, after)?;
                server.store.walked(lane, Some(last.unwrap_or(READ_ALL)));
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
        let subscription = &row.subscription;
        if is_told_of_changes(subscription.status, subscription.text(Text::Reason)) {
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
    shortage: &mut Shortage,
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
    let mut state = Some(state);
    let mut open = groups(taken.sends);
    for _ in 0..ATTEMPTS {
        let outcome = attempt(server, host, package, &mut state, &mut open, shortage);
        open = give_up(host, open);
        if let Err(fault) = outcome {
            requeue(server, host, &key, open.into_iter().filter_map(Group::due));
            return Err(fault);
        }
        if open.is_empty() {
            break;
        }
    }
    // Others keep taking the numbers: they have told of more than we have.
    requeue(server, host, &key, open.into_iter().filter_map(Group::due));
    Ok(true)
}

/// Reads the state, takes numbers, and sends what has got one. Leaves those
/// that have to be tried again.
fn attempt<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    package: &EventPackage,
    whole: &mut Option<State>,
    open: &mut Vec<Group>,
    shortage: &mut Shortage,
) -> Result<(), Fault> {
    let Some(state) = whole else { return Ok(()) };
    // The rows were read before, and the numbers are taken after that: see above.
    let shows = open.iter().any(Group::shows_state);
    let read = match shows {
        true => {
            let changes = state.watchers.clone();
            Some(compose::read(server, host, package, state, changes)?)
        }
        false => None,
    };
    // One that fetches has no row.
    let is_ours = |group: &Group| group.state == Taken::Ours;
    let (mut ours, mut others): (Vec<_>, Vec<_>) =
        std::mem::take(open).into_iter().partition(is_ours);
    let claimed = row_claims::claim(server, host, &mut others);
    let (taken, others): (Vec<_>, Vec<_>) = others.into_iter().partition(is_ours);
    ours.extend(taken);
    *open = others;
    if !ours.is_empty() {
        for group in &ours {
            group.tell_watchers_of(server, &state.key);
        }
        let key = state.key.clone();
        // Another attempt has to read it again.
        let state = if open.is_empty() { whole.take() } else { whole.clone() };
        let composed = match read.zip(state) {
            Some((watchers, state)) => compose::documents(server, host, package, state, watchers),
            None => Ok(Composition::default()),
        };
        let composition = match composed {
            Ok(composition) => composition,
            Err(fault) => {
                open.extend(ours);
                return Err(fault);
            }
        };
        send(server, host, package, &composition, (&key, ours), shortage);
    }
    claimed?;
    row_claims::follow(server, host, open)
}

/// Sends what has its numbers.
fn send<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    package: &EventPackage,
    composition: &Composition,
    (key, ours): (&PresentityKey, Vec<Group>),
    shortage: &mut Shortage,
) {
    let mut in_hand = InHand { server, key, groups: ours.into() };
    let mut sent = Vec::new();
    while let Some(group) = in_hand.groups.pop_front() {
        let delivery = group
            .sends
            .iter()
            .map(|send| deliver(host, package, composition, send, shortage))
            .find(|delivery| *delivery != Delivery::Done);
        match delivery {
            None => sent.push(group),
            Some(Delivery::Postponed) => {
                group.due().into_iter().for_each(|due| shortage.keep_row(key, due));
            }
            Some(Delivery::Done | Delivery::Gone) => {
                match group.sends.first().filter(|_| group.ending().is_none()) {
                    Some(first) => {
                        notify_reply::gone(server, host, Token::ROW, &first.subscription);
                    }
                    None => sent.push(group),
                }
            }
        }
    }
    drop(in_hand);
    delete_ended(server, host, &sent);
}

/// NOTIFYs whose CSeqs are taken. When a callback panics, those whose turn had not
/// come are due again.
struct InHand<'a, M: Memory> {
    server: &'a Server<M>,
    key: &'a PresentityKey,
    groups: VecDeque<Group>,
}

impl<M: Memory> Drop for InHand<'_, M> {
    fn drop(&mut self) {
        for due in self.groups.drain(..).filter_map(Group::due) {
            // The lane is the caller's: it is not given again.
            let _ = self.server.store.queue_row(self.key, &due);
        }
    }
}

/// Without those whose NOTIFY is needless, and those whose row is at fault:
/// they must not hold the others.
fn give_up(host: &mut dyn Host, open: Vec<Group>) -> Vec<Group> {
    let (hopeless, mut open): (Vec<_>, Vec<_>) = open.into_iter().partition(Group::is_hopeless);
    for group in hopeless {
        let call_id = group.call_id().escape_ascii();
        let line = format_args!("NOTIFY given up: its row cannot be changed (Call-ID {call_id})");
        GIVEN_UP.log(host, Level::Error, line);
    }
    open.retain(|group| group.state != Taken::Needless);
    open
}

/// Deletes the rows of dialogs whose last NOTIFY has left. One that stays is
/// found by the timer, and told a second time.
fn delete_ended<M: Memory>(server: &Server<M>, host: &mut dyn Host, sent: &[Group]) {
    let ended: Vec<_> = sent
        .iter()
        .filter(|group| group.ending().is_some())
        .filter_map(|group| group.sends.last())
        .filter(|last| last.claim != Claim::None)
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
        each_or_all(database, &ended, |database, send| delete(database, send))
    });
    if let Err(fault) = deleted {
        let line = format_args!("ended subscriptions stay in the table for now: {fault}");
        UNDELETED.log(host, Level::Error, line);
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
