//! P12: one presentity with very many publications.

use crate::Fallible;
use crate::bench::{Context, Row, scattered};
use crate::database::{Engine, Store};
use crate::load::{Operation, Phase};
use crate::samples::Goal;
use crate::setup::{Setup, Variant};
use serde_json::json;
use std::time::Duration;

/// What the others are held against.
const FEW: u32 = 10;

/// P12.
pub fn run(mut context: Context<'_>) -> Fallible<()> {
    let counts: &[u32] = context.size(&[FEW, 10_000, 40_000, 100_000], &[FEW, 10_000, 40_000]);
    for watched in [false, true] {
        for count in counts {
            publish(&mut context, *count, watched)?;
        }
    }
    for count in &counts[1..] {
        start(&mut context, *count)?;
    }
    Ok(())
}

/// A PUBLISH that changes one of `count` publications of one presentity; with a
/// watcher, the state is composed for each.
/// With as many publications as the row is about.
fn unlimited(setup: Setup) -> Setup {
    match setup.variant {
        Variant::Ours => setup.parameter("max_publications", 0),
        Variant::Stock | Variant::Floor => setup,
    }
}

fn publish(context: &mut Context<'_>, count: u32, watched: bool) -> Fallible<()> {
    let what = if watched { "PUBLISH and its NOTIFY" } else { "PUBLISH" };
    let name = |count| format!("{what}, one presentity with {count} publications");
    let mut bench =
        context.start(&format!("many-{count}-{watched}"), |setup, _| unlimited(setup))?;
    let sources = bench.load.add_sources(count, |_| 0);
    // A module that walks them all does not come to an end.
    let fill = Phase::new(format!("{count} PUBLISHes")).limit(context.size(240.0, 60.0));
    let filled = bench.load.run(&fill, sources.clone().map(Operation::Publish));
    if filled.gave_up {
        let row = Row::new(name(count), "µs CPU");
        context.record(row, None, "the fill took too long", json!(null));
        bench.server.stop(Duration::from_secs(20));
        return Ok(());
    }
    if watched {
        bench.subscribe(1, 20.0, |_| 0);
    }
    // Few enough that they are changed at once by nobody else.
    let window = if watched { 1 } else { 4 };
    bench.warm(window, scattered(sources.clone()).map(Operation::Publish));
    let phase = Phase::new(what).window(window).stop_after(context.size(10.0, 4.0)).limit(40.0);
    let mut cost = bench.measure(&phase, scattered(sources).map(Operation::Publish));
    let done = cost.tally.done;
    let row = Row::new(name(count), "µs CPU");
    let row = if count == FEW { row } else { row.goal(Goal::Growth(name(FEW), 1.2)) };
    context.record_cpu(row, &mut cost, done);
    bench.server.stop(Duration::from_secs(20));
    Ok(())
}

/// A start with `count` rows, of as many presentities and of one.
fn start(context: &mut Context<'_>, count: u32) -> Fallible<()> {
    let name = |place| format!("start with {count} publications of {place}");
    for (place, user) in [("as many presentities", "'u' || n"), ("one presentity", "'u'")] {
        let store = Store::new(Engine::Postgres);
        store.execute(&format!(
            "INSERT INTO presentity (username, domain, event, etag, expires, received_time, body, \
             sender, priority, ruid) SELECT {user}, 'bench.test', 'message-summary', 'a.1.' || n, \
             2000000000, 1700000000 + n * 7919 % 100000, 'Messages-Waiting: no', '', 0, 'r' || n \
             FROM generate_series(1, {count}) AS n;"
        ));
        let mut bench =
            context.start(&format!("start-{count}-{}", place.len()), |mut setup, _| {
                setup.storage = store.storage(0, 1);
                setup
            })?;
        let took = bench.server.start_time.as_secs_f64();
        let row = Row::new(name(place), "s");
        let row = match place {
            "one presentity" => row.goal(Goal::Growth(name("as many presentities"), 1.2)),
            _ => row,
        };
        context.record(row, Some(took), "", json!(null));
        bench.server.stop(Duration::from_secs(20));
    }
    Ok(())
}
