//! P10: everything in the database (`subs_db_mode` 3, `publ_cache` 0), with and
//! without notifier processes; two publishers on each presentity.

use crate::Fallible;
use crate::bench::{Bench, Context, Row};
use crate::database::{Engine, Store};
use crate::load::{Load, Operation, Package, Phase};
use crate::samples::Goal;
use crate::server::Server;
use crate::setup::Setup;
use serde_json::json;
use std::time::Duration;

const PRESENTITIES: u32 = 200;
const WATCHERS_EACH: u32 = 5;
/// PUBLISHes per second of both publishers together.
const RATE: f64 = 100.0;
/// `waitn_time`, the default, and as much again for a slow machine.
const PATIENCE: f64 = 10.0;

/// P10.
pub fn run(mut context: Context<'_>) -> Fallible<()> {
    let mut failures = Vec::new();
    for engine in [Engine::Postgres, Engine::MariaDb] {
        for notifiers in [0, 2] {
            let name = format!("{}, {notifiers} notifiers", engine.name());
            if let Err(error) = one(&mut context, engine, notifiers, &name) {
                context.record(Row::new(name, ""), None, error.clone(), json!(null));
                failures.push(error);
            }
        }
    }
    if failures.len() == 4 { Err(failures.swap_remove(0)) } else { Ok(()) }
}

fn one(context: &mut Context<'_>, engine: Engine, notifiers: u32, name: &str) -> Fallible<()> {
    let store = Store::new(engine);
    let load = Load::new(Package::Presence)?;
    let mut setup = Setup::memory(context.variant);
    setup.storage = store.storage(3, 0);
    setup = setup.parameter("notifier_processes", notifiers);
    if notifiers > 0 {
        // Without this the stock module refuses each SUBSCRIBE in a dialog.
        setup = setup.parameter("send_fast_notify", 0);
    }
    let folder = context.folder.join(name.replace([' ', ','], "-"));
    let server = Server::start(setup, &folder)?;
    load.connect(server.address())?;
    let mut bench = Bench { server, load, database: store.processes() };
    let total = PRESENTITIES * WATCHERS_EACH;
    let sources = bench.load.add_sources(2 * PRESENTITIES, |number| number % PRESENTITIES);
    let fill = Phase::new("first PUBLISHes").window(2).replies_only().limit(60.0);
    bench.load.run(&fill, sources.clone().map(Operation::Publish));
    let watchers = bench.load.add_watchers(total, |number| number % PRESENTITIES);
    let phase = Phase::new("SUBSCRIBEs").window(4).replies_only().limit(90.0);
    let subscribed = bench.load.run(&phase, watchers.map(Operation::Subscribe));
    bench.load.idle(PATIENCE);
    bench.database = store.processes();

    let count = context.size(1000, 500);
    let phase = Phase::new(name).bursts(RATE, 2).replies_only().limit(60.0);
    let mut cost = bench.measure(&phase, both_publish(sources.start).take(count));
    let wait = Duration::from_secs_f64(PATIENCE);
    let mut after = bench.load.wait(wait, |load, _| load.behind() == 0);
    let behind = bench.load.behind();
    let living = bench.load.living();
    let settled = after.wall.as_secs_f64();
    let waited = json!({ "after": after.json(), "subscribe": subscribed.complaints() });
    cost.tally.absorb(after);
    let note = format!(
        "{} ({living} of {total} subscribed, {} log errors)",
        cost.note(),
        bench.server.log_count("ERROR")
    );
    let row = Row::new(format!("{name}: PUBLISHes answered 2xx"), "%");
    let share = 100.0 * cost.tally.done as f64 / cost.tally.started.max(1) as f64;
    let started = cost.tally.started;
    let mut details = cost.json(started);
    details["cpu_over_load_cpu"] = json!(null);
    details["waited"] = waited;
    context.record(row.goal(Goal::AtLeast(100.0)), Some(share), note, details);
    let row = Row::new(format!("{name}: watchers with the final state"), "%");
    let share = 100.0 * living.saturating_sub(behind) as f64 / f64::from(total);
    let note = format!("{behind} behind after {settled:.1} s");
    context.record(row.goal(Goal::AtLeast(100.0)), Some(share), note, json!(null));
    let row = Row::new(format!("{name}: CSeqs reused or backwards"), "");
    let wrong = cost.tally.cseq_reused + cost.tally.cseq_backwards;
    context.record(row.goal(Goal::AtMost(0.0)), Some(wrong as f64), "", json!(null));
    let row = Row::new(format!("{name}: PUBLISH to NOTIFY, p50"), "ms");
    let row = if notifiers == 0 { row.goal(Goal::AtMost(10.0)) } else { row };
    let p50 = Some(cost.tally.notify.quantile(0.5)).filter(|value| value.is_finite());
    context.record(row, p50, "", json!(null));
    let row = Row::new(format!("{name}: Kamailio + database per PUBLISH"), "µs CPU");
    let both = (cost.cpu + cost.database_cpu).as_secs_f64() * 1e6 / started.max(1) as f64;
    context.record(row, Some(both), "", json!(null));
    bench.server.stop(Duration::from_secs(30));
    Ok(())
}

/// Both publishers of each presentity in turn, at the same moment.
fn both_publish(first: u32) -> impl Iterator<Item = Operation> {
    (0..).map(move |step: u32| {
        let (presentity, publisher) = (step / 2 % PRESENTITIES, step % 2);
        Operation::Publish(first + publisher * PRESENTITIES + presentity)
    })
}
