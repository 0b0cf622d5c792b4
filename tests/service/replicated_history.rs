//! Three servers over a bad network, and thousands of operations: watchers that come to
//! any server, changes, servers that are cut off or killed. Whenever the network has come
//! to rest each dialog has one owner, no CSeq was used twice, and every watcher was told
//! the last state. A history that fails is made shorter before it is printed.
//!
//! `PRESENCE_OPERATIONS` says how many operations each of the four tests has: 2500 make
//! 10 000 together, 25 000 make 100 000.

use super::fakes::{Nodes, PRESENCE, Publish, Random, Sent, Setup, Subscribe, Weather};
use presence::presence::subscription::Text;
use presence::service::notify_reply;
use presence::store::Token;
use std::collections::{BTreeMap, BTreeSet, HashSet};

const SERVERS: usize = 3;
/// Milliseconds until the network has come to rest.
const REST: u64 = 12_000;
/// Operations between two rests.
const PERIOD: usize = 40;
/// Watchers that there are at the same time.
const WATCHERS: usize = 24;

#[derive(Debug, Clone, Copy)]
enum Op {
    Subscribe { at: usize, brief: bool },
    Refresh { at: usize, which: usize },
    Unsubscribe { at: usize, which: usize },
    Publish { at: usize, number: usize },
    WatcherGone { which: usize },
    CutOff { at: usize },
    Heal,
    Kill { at: usize },
    Start,
    Weather { lost: u64, doubled: u64, delay: u64 },
    Wait { milliseconds: u64 },
    Rest,
}

fn operations(count: usize, seed: u64) -> Vec<Op> {
    let mut random = Random::new(seed);
    (1..=count)
        .map(|n| {
            let (at, which) = (random.below(SERVERS as u64) as usize, random.below(1000) as usize);
            if n % PERIOD == 0 {
                return Op::Rest;
            }
            match random.below(100) {
                0..30 => Op::Refresh { at, which },
                30..45 => Op::Subscribe { at, brief: random.percent(20) },
                45..53 => Op::Unsubscribe { at, which },
                53..65 => Op::Publish { at, number: n },
                65..68 => Op::WatcherGone { which },
                68..72 => Op::CutOff { at },
                72..78 => Op::Heal,
                78..80 => Op::Kill { at },
                80..85 => Op::Start,
                85..91 => Op::Weather {
                    lost: random.below(15),
                    doubled: random.below(20),
                    delay: random.below(400),
                },
                _ => Op::Wait { milliseconds: random.below(3000) },
            }
        })
        .collect()
}

/// What the watcher of a dialog thinks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Lives,
    /// It has unsubscribed, or its time is over.
    Over,
    /// It was told that there is no such subscription, or is gone: it does not care.
    Abandoned,
}

#[derive(Debug)]
struct Dialog {
    call_id: String,
    cseq: u32,
    state: State,
    /// Unix time of its end.
    expires_at: i64,
    /// The server that has served its last request, and the period in which.
    served: (usize, usize),
    /// That server was killed before the network came to rest: the request may be lost.
    is_lost: bool,
}

struct Run {
    nodes: Nodes,
    dialogs: Vec<Dialog>,
    down: Option<usize>,
    /// One server is killed in a period at most: who has lost everything needs the others.
    has_killed: bool,
    period: usize,
    tag: Option<String>,
    checked: usize,
    seen: BTreeMap<String, HashSet<u32>>,
    last: BTreeMap<String, Sent>,
}

fn run(operations: &[Op], seed: u64) -> Result<(), String> {
    let setup = Setup { authorizes: false, ..Setup::default() };
    let mut run = Run {
        nodes: Nodes::new(SERVERS, setup, seed),
        dialogs: Vec::new(),
        down: None,
        has_killed: false,
        period: 0,
        tag: None,
        checked: 0,
        seen: BTreeMap::new(),
        last: BTreeMap::new(),
    };
    for (n, operation) in operations.iter().enumerate() {
        run.apply(n, *operation).map_err(|why| format!("after {n} operations: {why}"))?;
    }
    run.rest()
}

impl Run {
    fn now(&self) -> i64 {
        self.nodes.worlds[0].now()
    }

    fn living(&self, which: usize) -> Option<usize> {
        let living: Vec<usize> = (0..self.dialogs.len())
            .filter(|index| self.dialogs[*index].state == State::Lives)
            .collect();
        living.get(which % living.len().max(1)).copied()
    }

    fn apply(&mut self, n: usize, operation: Op) -> Result<(), String> {
        let up = |at: usize| if self.down == Some(at) { (at + 1) % SERVERS } else { at };
        match operation {
            Op::Subscribe { at, brief } => self.subscribe(n, up(at), brief),
            Op::Refresh { at, which } => self.request(up(at), which, false),
            Op::Unsubscribe { at, which } => self.request(up(at), which, true),
            Op::Publish { at, number } => self.publish(up(at), number),
            Op::WatcherGone { which } => self.watcher_gone(which),
            Op::CutOff { at } if !self.nodes.is_cut() => self.nodes.cut_off(at),
            Op::Heal => self.nodes.heal(),
            Op::Kill { at } if self.down.is_none() && !self.has_killed => self.kill(at),
            Op::Start => self.start(),
            Op::Weather { lost, doubled, delay } => {
                self.nodes.weather = Weather { lost, doubled, delay };
            }
            Op::Wait { milliseconds } => self.nodes.run(milliseconds),
            Op::Rest => self.rest()?,
            Op::CutOff { .. } | Op::Kill { .. } => {}
        }
        self.nodes.run(100);
        self.read_history()
    }

    fn subscribe(&mut self, n: usize, at: usize, brief: bool) {
        if self.dialogs.iter().filter(|d| d.state == State::Lives).count() >= WATCHERS {
            return;
        }
        let call_id = format!("w{n}");
        let expires = if brief { 30 } else { 3600 };
        let text = expires.to_string();
        let it = Subscribe { cseq: Some(1), expires: Some(&text), ..Subscribe::new(&call_id) };
        assert_eq!(self.nodes.worlds[at].subscribe(it).code, 200);
        let expires_at = self.now() + expires;
        let served = (at, self.period);
        let (state, is_lost) = (State::Lives, false);
        self.dialogs.push(Dialog { call_id, cseq: 1, state, expires_at, served, is_lost });
    }

    fn request(&mut self, at: usize, which: usize, is_end: bool) {
        let Some(index) = self.living(which) else { return };
        let (now, period) = (self.now(), self.period);
        let dialog = &mut self.dialogs[index];
        dialog.cseq += 1;
        let expires = if is_end { "0" } else { "3600" };
        let it = Subscribe {
            cseq: Some(dialog.cseq),
            expires: Some(expires),
            ..Subscribe::refresh(&dialog.call_id)
        };
        match self.nodes.worlds[at].subscribe(it).code {
            200 => {
                dialog.state = if is_end { State::Over } else { State::Lives };
                dialog.expires_at = now + 3600;
                (dialog.served, dialog.is_lost) = ((at, period), false);
            }
            481 => dialog.state = State::Abandoned,
            code => panic!("{code} to {}", dialog.call_id),
        }
    }

    fn publish(&mut self, at: usize, number: usize) {
        let body = format!("n{number}");
        let world = &mut self.nodes.worlds[at];
        let tag = self.tag.take();
        let change = Publish { body: &body, tag: tag.as_deref(), ..Publish::default() };
        let mut answer = world.publish(change);
        if answer.code == 412 {
            // Not known there (yet): a publisher begins anew.
            answer = world.publish(Publish { body: &body, ..Publish::default() });
        }
        assert_eq!(answer.code, 200);
        self.tag = Some(answer.tag);
    }

    /// The answer to its last NOTIFY says that a watcher is gone.
    fn watcher_gone(&mut self, which: usize) {
        let Some(index) = self.living(which) else { return };
        let dialog = &mut self.dialogs[index];
        let of = |(_, sent): &&(usize, Sent)| sent.call_id == dialog.call_id;
        let Some((at, sent)) = self.nodes.history.iter().rev().find(of) else { return };
        let (at, token) = (*at, Token::from_number(sent.token));
        dialog.state = State::Abandoned;
        if self.down != Some(at)
            && let Some(token) = token
        {
            let world = &mut self.nodes.worlds[at];
            notify_reply::handle(&world.server, &mut world.host, token, None, 481, false);
        }
    }

    fn kill(&mut self, at: usize) {
        self.nodes.kill(at);
        (self.down, self.has_killed) = (Some(at), true);
        for dialog in &mut self.dialogs {
            dialog.is_lost |= dialog.served == (at, self.period);
        }
    }

    fn start(&mut self) {
        if let Some(at) = self.down.take() {
            self.nodes.start(at);
        }
    }

    fn rest(&mut self) -> Result<(), String> {
        self.start();
        self.nodes.heal();
        self.nodes.run(REST);
        self.read_history()?;
        self.check_owners()?;
        self.check_states()?;
        self.period += 1;
        self.has_killed = false;
        self.dialogs.retain(|dialog| dialog.state == State::Lives && !dialog.is_lost);
        self.nodes.history.clear();
        self.checked = 0;
        Ok(())
    }

    /// No CSeq twice.
    fn read_history(&mut self) -> Result<(), String> {
        for (at, sent) in &self.nodes.history[self.checked..] {
            if !self.seen.entry(sent.call_id.clone()).or_default().insert(sent.cseq) {
                return Err(format!("{} has CSeq {} twice, now by {at}", sent.call_id, sent.cseq));
            }
            let last = self.last.entry(sent.call_id.clone()).or_insert_with(|| sent.clone());
            if sent.cseq >= last.cseq {
                *last = sent.clone();
            }
        }
        self.checked = self.nodes.history.len();
        Ok(())
    }

    /// The servers that own each dialog, with the CSeq of its last request.
    fn owners(&mut self) -> BTreeMap<String, Vec<(usize, u32)>> {
        let mut owners: BTreeMap<String, Vec<(usize, u32)>> = BTreeMap::new();
        for (index, world) in self.nodes.worlds.iter_mut().enumerate() {
            let key = world.key("alice", PRESENCE);
            let mut each = |call_id: &[u8], cseq| {
                let call_id = String::from_utf8_lossy(call_id).into_owned();
                owners.entry(call_id).or_default().push((index, cseq));
            };
            presence::service::subscriptions::each_watcher(
                &world.server,
                &mut world.host,
                &key,
                |_, copy| each(copy.text(Text::CallId), copy.remote_cseq.0),
            )
            .unwrap();
        }
        owners
    }

    fn check_owners(&mut self) -> Result<(), String> {
        let (owners, now) = (self.owners(), self.now());
        for (call_id, list) in &owners {
            if list.len() > 1 {
                return Err(format!("{call_id} has several owners: {list:?}"));
            }
        }
        for dialog in &mut self.dialogs {
            if dialog.state == State::Lives && dialog.expires_at <= now {
                dialog.state = State::Over;
            }
            // A timer may just be about to end it.
            let is_settled = !dialog.is_lost && (dialog.expires_at - now).abs() > 5;
            let owner = owners.get(&dialog.call_id).map(|list| list[0]);
            let is_right = match (dialog.state, owner) {
                (State::Lives, Some((_, cseq))) => cseq == dialog.cseq,
                (State::Lives, None) => false,
                (State::Over, owner) => owner.is_none(),
                (State::Abandoned, _) => true,
            };
            if is_settled && !is_right {
                return Err(format!("{dialog:?} is owned by {owner:?}"));
            }
        }
        Ok(())
    }

    /// All have the same state, and every watcher was told it.
    fn check_states(&mut self) -> Result<(), String> {
        let documents: BTreeSet<String> = self
            .nodes
            .worlds
            .iter()
            .map(|world| {
                let mut documents = world.documents("alice", PRESENCE);
                documents.sort();
                documents.join("+")
            })
            .collect();
        if documents.len() > 1 {
            return Err(format!("the servers have {documents:?}"));
        }
        let parts = |document: &str| {
            let mut parts: Vec<String> = document.split('+').map(str::to_owned).collect();
            parts.sort();
            parts.join("+")
        };
        let state = documents.first().filter(|state| !state.is_empty());
        let state = state.map_or("offline", String::as_str);
        for dialog in self.dialogs.iter().filter(|d| d.state == State::Lives && !d.is_lost) {
            let told = self.last.get(&dialog.call_id).map(|sent| parts(&sent.body));
            if told.as_deref() != Some(state) {
                return Err(format!("{} was told {told:?}, not {state:?}", dialog.call_id));
            }
        }
        Ok(())
    }
}

/// A history that fails, as short as leaving out parts of it makes it.
fn shortened(mut operations: Vec<Op>, seed: u64) -> Vec<Op> {
    let (mut size, mut tries) = (operations.len() / 2, 0);
    while size > 0 && tries < 60 {
        let mut at = 0;
        while at < operations.len() && tries < 60 {
            let mut fewer = operations.clone();
            fewer.drain(at..(at + size).min(operations.len()));
            tries += 1;
            match run(&fewer, seed) {
                Err(_) => operations = fewer,
                Ok(()) => at += size,
            }
        }
        size /= 2;
    }
    operations
}

/// Operations of one history: what is published stays, and makes longer ones slow.
const LENGTH: usize = 600;

/// Histories of their own, for as many operations as are wanted; each fourth seed is
/// this test's.
fn check(first: u64) {
    let wanted = std::env::var("PRESENCE_OPERATIONS").ok().and_then(|wanted| wanted.parse().ok());
    let histories = wanted.unwrap_or(LENGTH).div_ceil(LENGTH) as u64;
    for seed in (0..histories).map(|n| first + 4 * n) {
        let operations = operations(LENGTH, seed);
        let Err(why) = run(&operations, seed) else { continue };
        let short = shortened(operations, seed);
        let again = run(&short, seed).err();
        let short: Vec<String> = short.iter().map(|operation| format!("{operation:?}")).collect();
        panic!("seed {seed}: {why}\nshortened: {again:?}\n{}", short.join("\n"));
    }
}

#[test]
fn a_history_of_dialogs_1() {
    check(1);
}

#[test]
fn a_history_of_dialogs_2() {
    check(2);
}

#[test]
fn a_history_of_dialogs_3() {
    check(3);
}

#[test]
fn a_history_of_dialogs_4() {
    check(4);
}
