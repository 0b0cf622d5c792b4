//! P6 and P7: PUBLISH with a database.

use crate::Fallible;
use crate::bench::{Context, Row, scattered};
use crate::database::{Engine, Store};
use crate::load::{Operation, Phase};
use crate::samples::Goal;
use serde_json::json;
use std::time::Duration;

/// Publications.
const PARTIES: u32 = 2000;

/// P6: PUBLISH on database servers; CPU of both sides.
pub fn servers(mut context: Context<'_>) -> Fallible<()> {
    for engine in [Engine::Postgres, Engine::MariaDb] {
        let store = Store::new(engine);
        let name = engine.name();
        let mut bench = context.start(name, |mut setup, _| {
            setup.storage = store.storage(2, 1);
            setup
        })?;
        bench.database = store.processes();
        let (sources, _) = bench.publish(0..PARTIES);
        let modify = || scattered(sources.clone()).map(Operation::Publish);
        bench.warm(16, modify());
        let phase = Phase::new(format!("PUBLISH on {name}")).window(16);
        let phase = phase.stop_after(30.0).limit(60.0);
        let take = context.size(20_000, 5_000);
        let mut cost = bench.measure(&phase, modify().take(take));
        let done = cost.tally.done;
        let both = (cost.cpu + cost.database_cpu).as_secs_f64() * 1e6 / done as f64;
        let row = Row::new(format!("PUBLISH modify, {name}, Kamailio + database"), "µs CPU");
        let note = cost.note();
        let mut details = cost.json(done);
        details["cpu_over_load_cpu"] =
            json!((cost.cpu + cost.database_cpu).as_secs_f64() / cost.tally.own_cpu.as_secs_f64());
        let value = (done > 0).then_some(both);
        context.record(row.goal(Goal::BelowStock(2.0)), value, note, details);
        context.record_cpu(
            Row::new(format!("PUBLISH modify, {name}, Kamailio alone"), "µs CPU"),
            &mut cost,
            done,
        );
        let row = Row::new(format!("PUBLISHes per second, {name}"), "1/s");
        let rate = done as f64 / cost.tally.wall.as_secs_f64();
        context.record(row, Some(rate), "", json!(null));
        let (tally, trips) =
            store.round_trips(|| bench.load.run(&phase.clone().window(1), modify().take(200)))?;
        let row = Row::new(format!("round trips per PUBLISH, {name}"), "");
        let trips = trips.map(|trips| trips as f64 / tally.done.max(1) as f64);
        // The timers' own statements are among them.
        context.record(row.goal(Goal::AtMost(1.05)), trips, tally.complaints(), json!(null));
        bench.server.stop(Duration::from_secs(20));
    }
    Ok(())
}

/// P7: four workers on SQLite, PUBLISH as fast as it goes.
pub fn sqlite(mut context: Context<'_>) -> Fallible<()> {
    let store = Store::new(Engine::Sqlite);
    let mut bench = context.start("sqlite", |mut setup, _| {
        setup.storage = store.storage(2, 1);
        setup.children = 4;
        setup
    })?;
    // One at a time: nobody is refused.
    let sources = bench.load.add_sources(PARTIES, |number| number);
    let first = Phase::new("first PUBLISHes").window(1).limit(60.0);
    bench.load.run(&first, sources.clone().map(Operation::Publish));
    let phase = Phase::new("PUBLISH on SQLite").stop_after(context.size(20.0, 8.0)).limit(90.0);
    let publish = scattered(sources).map(Operation::Publish);
    let mut cost = bench.measure(&phase.window(64), publish);
    let (started, done) = (cost.tally.started, cost.tally.done);
    let row = Row::new("PUBLISH accepted, 4 workers", "1/s").goal(Goal::AboveStock(20.0));
    let rate = done as f64 / cost.tally.wall.as_secs_f64();
    context.record(row, Some(rate), cost.note(), json!(null));
    let row = Row::new("PUBLISH refused or lost", "%").goal(Goal::AtMost(0.0));
    let lost = 100.0 * (started - done) as f64 / started.max(1) as f64;
    context.record(row, Some(lost), "", json!(null));
    let row = Row::new("PUBLISH accepted, CPU", "µs CPU");
    context.record_cpu(row, &mut cost, done);
    bench.server.stop(Duration::from_secs(30));
    Ok(())
}
