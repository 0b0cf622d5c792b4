//! P8: the write-back of many subscriptions, stop and restart.

use crate::Fallible;
use crate::bench::{Bench, Context, Row, scattered};
use crate::database::{Engine, Store};
use crate::load::{Operation, Phase, Tally};
use crate::processes;
use crate::samples::Goal;
use serde_json::json;
use std::time::{Duration, Instant};

/// `db_update_period`: long enough for the fill and a refresh of all.
const PERIOD: f64 = 60.0;
/// What the fill leaves of it.
const REST: f64 = 25.0;
/// How often the database's CPU is looked at.
const SLICE: f64 = 0.2;
/// Refreshes per second meanwhile.
const RATE: f64 = 100.0;
/// So much of a slice is a busy database.
const BUSY: f64 = 0.25;

/// P8.
pub fn run(mut context: Context<'_>) -> Fallible<()> {
    let count = context.size(100_000, 20_000);
    let store = Store::new(Engine::Postgres);
    let started = Instant::now();
    let mut bench = context.start("flush", |mut setup, _| {
        setup.storage = store.storage(2, 1);
        setup.parameter("db_update_period", PERIOD as u32)
    })?;
    bench.database = store.processes();
    let cpu = processes::cpu(&bench.database);
    let (watchers, fill) = bench.subscribe(count, PERIOD - REST, |number| number);
    let living = bench.load.living();
    bench.load.idle(1.0);
    let rows = store.count("active_watchers");
    let share = rows as f64 * 100.0 / living.max(1) as f64;
    let row = Row::new("new subscriptions in the table after a second", "%");
    let note = format!("{rows} rows of {living} subscriptions; {}", fill.complaints());
    context.record(row.goal(Goal::AtLeast(100.0)), Some(share), note, json!(null));
    let first = watchers.start;
    let others = || scattered(first..first + 500).map(Operation::Refresh);

    // All lag behind when the timer comes: a light load until all is written.
    let mut spent = processes::cpu(&bench.database);
    let prompt = rows >= living;
    if prompt {
        let left = PERIOD - 5.0 - started.elapsed().as_secs_f64();
        let changes = Phase::new("refresh of all").stop_after(left).limit(left);
        bench.load.run(&changes, watchers.clone().map(Operation::Refresh));
    }
    let before = (PERIOD - 3.0 - started.elapsed().as_secs_f64()).max(0.0);
    bench.load.idle(before);
    let (tally, duration) = watch(&mut bench, others(), context.size(150.0, 60.0));
    let rows = store.count("active_watchers");
    let note = format!("{rows} rows of {living} subscriptions; {}", fill.complaints());
    let row = Row::new(format!("flush of {count} subscriptions"), "s");
    context.record(row.goal(Goal::AtMost(5.0)), duration, note, json!(null));
    if !prompt {
        spent = processes::cpu(&bench.database);
    }
    let cpu = spent.saturating_sub(cpu).as_secs_f64();
    let row = Row::new("database CPU of a new subscription, written", "µs");
    context.record(row, Some(cpu * 1e6 / living.max(1) as f64), String::new(), json!(null));
    stall(&mut context, "flush", tally);

    // All are dirty again when it stops. A module that has collapsed gets no
    // further in the time there is.
    let dirty = Phase::new("refresh of all").stop_after(context.size(40.0, 20.0)).limit(80.0);
    let all = bench.load.run(&dirty, watchers.map(Operation::Refresh));
    let row = Row::new(format!("clean stop after {count} refreshes"), "s");
    let stopped = bench.server.stop(Duration::from_secs(150));
    let note = match stopped {
        Some(_) => format!("{} refreshed", all.done),
        None => format!("killed after 150 s, {} refreshed", all.done),
    };
    let seconds = stopped.map(|time| time.as_secs_f64());
    context.record(row.goal(Goal::AtMost(5.0)), seconds, note, json!(null));
    let rows = store.count("active_watchers");
    let row = Row::new(format!("restart with {count} subscriptions"), "s");
    bench.server.launch()?;
    let took = bench.server.start_time.as_secs_f64();
    let note = format!("{rows} rows");
    context.record(row.goal(Goal::AtMost(1.5)), Some(took), note, json!(null));
    let known = bench.load.run(&Phase::new("after the restart").limit(40.0), others().take(500));
    let row = Row::new("subscriptions known after the restart", "%");
    let share = known.done as f64 / 5.0;
    context.record(row.goal(Goal::AtLeast(100.0)), Some(share), known.complaints(), json!(null));
    bench.server.stop(Duration::from_secs(20));
    Ok(())
}

/// Refreshes at a low rate until the database has been busy and is not any
/// more; the time that took. `None` when it does not end.
fn watch(
    bench: &mut Bench,
    mut operations: impl Iterator<Item = Operation>,
    limit: f64,
) -> (Tally, Option<f64>) {
    let begin = Instant::now();
    let mut sum = Tally::default();
    let (mut first, mut last) = (None, None);
    let slice = Phase::new("flush").rate(RATE).stop_after(SLICE).limit(SLICE + 5.0);
    while begin.elapsed().as_secs_f64() < limit {
        let (cpu, at) = (processes::cpu(&bench.database), begin.elapsed().as_secs_f64());
        let tally = bench.load.run(&slice, operations.by_ref().take((RATE * SLICE) as usize));
        sum.absorb(tally);
        let rest = SLICE - (begin.elapsed().as_secs_f64() - at);
        if rest > 0.0 {
            bench.load.idle(rest);
        }
        let now = begin.elapsed().as_secs_f64();
        let busy = (processes::cpu(&bench.database) - cpu).as_secs_f64() / (now - at);
        if busy > BUSY {
            first = first.or(Some(at));
            last = Some(now);
        }
        match (first, last) {
            (Some(first), Some(last)) if now - last > 4.0 => return (sum, Some(last - first)),
            (None, _) if now > 20.0 => return (sum, None),
            _ => {}
        }
    }
    (sum, None)
}

fn stall(context: &mut Context<'_>, what: &str, mut tally: Tally) {
    let row = Row::new(format!("slowest refresh during the {what}"), "ms");
    let worst = tally.reply.quantile(1.0);
    let (note, details) = (tally.complaints(), tally.json());
    context.record(row.goal(Goal::AtMost(20.0)), Some(worst), note, details);
}
