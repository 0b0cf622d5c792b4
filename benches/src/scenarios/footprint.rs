//! P11: shared memory per record, the allocator's overhead included.

use crate::Fallible;
use crate::bench::{Context, Row};
use crate::load::{Load, Operation, Package, Phase};
use crate::samples::Goal;
use crate::server::{Server, SharedMemory};
use crate::setup::{Setup, Variant};
use serde_json::json;
use std::time::Duration;

/// Longer than all of tm's timers (`fr_timer`, `wt_timer`).
const SETTLED: f64 = 8.0;

/// Waits until nothing is given back any more, a minute at most; what is in use then.
fn settled(server: &Server, load: &mut Load) -> Fallible<SharedMemory> {
    load.idle(SETTLED);
    let mut last = server.shared_memory()?;
    for _ in 0..12 {
        load.idle(4.0);
        let now = server.shared_memory()?;
        if now.real_used == last.real_used {
            return Ok(now);
        }
        last = now;
    }
    Ok(last)
}

/// P11.
pub fn run(mut context: Context<'_>) -> Fallible<()> {
    // Ours takes memory in blocks, which are much beside few records. Stock asks
    // for each record, and is slow when they are many.
    let count = if context.variant == Variant::Stock { 20_000 } else { 100_000 };
    records(&mut context, Package::Mwi, count)?;
    records(&mut context, Package::Presence, count)
}

fn per_record(before: SharedMemory, after: SharedMemory, count: u64) -> (f64, f64) {
    let each = |before: u64, after: u64| (after as f64 - before as f64) / count as f64;
    (each(before.real_used, after.real_used), each(before.used, after.used))
}

fn records(context: &mut Context<'_>, package: Package, count: u32) -> Fallible<()> {
    let mut load = Load::new(package)?;
    let event = package.event();
    let server = Server::start(Setup::memory(context.variant), &context.folder.join(event))?;
    load.connect(server.address())?;
    let mut server = server;

    // What is taken once (tables, first chunks, tm's own) is not per record.
    let warm = load.add_watchers(count / 10, |number| number);
    let phase = Phase::new("SUBSCRIBEs");
    load.run(&phase, warm.map(Operation::Subscribe));
    let warm = load.add_sources(count / 10, |number| 600_000 + number);
    load.run(&Phase::new("PUBLISHes"), warm.map(Operation::Publish));
    let empty = settled(&server, &mut load)?;
    let watchers = load.add_watchers(count, |number| 100_000 + number);
    let made = load.run(&phase, watchers.clone().map(Operation::Subscribe));
    let after = settled(&server, &mut load)?;
    let (real, used) = per_record(empty, after, made.done);
    let row = Row::new(format!("subscription, {event}"), "B real");
    let details = json!({ "used": used });
    context.record(row.goal(Goal::AtMost(450.0)), Some(real), made.complaints(), details);

    let before = after;
    let sources = load.add_sources(count, |number| 300_000 + number);
    let made = load.run(&Phase::new("PUBLISHes"), sources.clone().map(Operation::Publish));
    let after = settled(&server, &mut load)?;
    let (real, used) = per_record(before, after, made.done);
    let body = f64::from(package.typical_body());
    let row = Row::new(format!("publication, {event}, body of {body} B"), "B real");
    let details = json!({ "used": used });
    context.record(row.goal(Goal::AtMost(body + 200.0)), Some(real), made.complaints(), details);

    load.run(&Phase::new("unsubscribe"), watchers.map(Operation::Unsubscribe));
    load.run(&Phase::new("remove"), sources.map(Operation::RemovePublication));
    let left = settled(&server, &mut load)?;
    let row = Row::new(format!("left after removing all, {event}"), "B real per record");
    context.record(row, Some(per_record(empty, left, 2 * u64::from(count)).0), "", json!(null));
    server.stop(Duration::from_secs(20));
    Ok(())
}
