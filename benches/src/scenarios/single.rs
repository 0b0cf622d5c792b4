//! P1: what each operation costs when nothing is large, in instructions (the
//! judge of small differences) and in CPU time.

use crate::Fallible;
use crate::bench::{Bench, Context, Row, WARM, scattered};
use crate::load::{Operation, Phase};
use crate::samples::Goal;
use serde_json::{Value, json};

/// Watchers of the fan-out.
const WATCHERS: u32 = 100;
/// Publications, and subscriptions that are there before.
const PARTIES: u32 = 500;

/// How costs are taken.
#[derive(Clone, Copy, PartialEq)]
enum Unit {
    Instructions,
    Time,
}

/// P1.
pub fn run(mut context: Context<'_>) -> Fallible<()> {
    if context.options.instructions {
        operations(&mut context, Unit::Instructions)?;
        fan_out(&mut context, Unit::Instructions)?;
    }
    if context.options.times {
        operations(&mut context, Unit::Time)?;
        fan_out(&mut context, Unit::Time)?;
    }
    Ok(())
}

fn start(context: &Context<'_>, unit: Unit, name: &str, watchers: u32) -> Fallible<Bench> {
    let (name, children) = match unit {
        Unit::Instructions => (format!("{name}-callgrind"), 1),
        Unit::Time => (name.to_owned(), 2),
    };
    context.start(&name, |mut setup, port| {
        setup.callgrind = unit == Unit::Instructions;
        setup.children = children;
        setup.fan_out = (watchers > 0).then_some((port, watchers));
        setup
    })
}

/// Measures one phase in either unit. `per` says what the cost is divided by:
/// the operations done, or their NOTIFYs.
fn measure(
    context: &mut Context<'_>,
    bench: &mut Bench,
    unit: Unit,
    name: &str,
    window: usize,
    per_notify: bool,
    operations: impl IntoIterator<Item = Operation>,
) -> Fallible<()> {
    let phase = Phase::new(name).limit(120.0);
    let divisor = |tally: &crate::load::Tally| if per_notify { tally.notifies } else { tally.done };
    match unit {
        Unit::Time => {
            let mut cost = bench.measure(&phase.window(window), operations);
            let count = divisor(&cost.tally);
            let row = Row::new(format!("{name}, CPU"), "µs CPU");
            context.record_cpu(row, &mut cost, count);
        }
        Unit::Instructions => {
            let (mut tally, counted) = bench.count(&phase.window(1), operations)?;
            let count = divisor(&tally) as f64;
            let row = Row::new(name, "k instructions").goal(Goal::OverFloor(1.15));
            let slug = name.replace(|byte: char| !byte.is_ascii_alphanumeric(), "-");
            let file = context.folder.join(format!("top-{slug}.txt"));
            for line in counted.write(count, &file)? {
                eprintln!("    {line}");
            }
            let details = json!({
                "operations": count,
                "worker_instructions": counted.workers.total(),
                "other_instructions": counted.others.total(),
                "functions": file.display().to_string(),
                "load": tally.json(),
            });
            let per = |number: u64| (count > 0.0).then(|| number as f64 / count);
            let thousands = |number: u64| per(number).map(|number| number / 1000.0);
            let workers = &counted.workers;
            let (total, outside) = (workers.total(), workers.total() - workers.allocator());
            context.record(row, thousands(total), tally.complaints(), details);
            let row = Row::new(format!("{name}, outside the allocator"), "k instructions");
            context.record(row, thousands(outside), "", json!(null));
            let row = Row::new(format!("{name}, allocations"), "calls");
            context.record(row, per(workers.allocations()), "", json!(null));
        }
    }
    Ok(())
}

fn operations(context: &mut Context<'_>, unit: Unit) -> Fallible<()> {
    let mut bench = start(context, unit, "operations", 0)?;
    let count = match unit {
        Unit::Instructions => context.size(2000, 1000),
        Unit::Time => context.size(20_000, 10_000),
    };
    let window = if unit == Unit::Instructions { 1 } else { 16 };
    let (sources, _) = bench.publish(0..PARTIES);
    let modify = || scattered(sources.clone()).map(Operation::Publish);
    bench.warm(window, modify());
    let take = count as usize;
    measure(context, &mut bench, unit, "PUBLISH modify", window, false, modify().take(take))?;

    let extend = scattered(sources.clone()).map(Operation::RefreshPublication).take(take);
    measure(context, &mut bench, unit, "PUBLISH refresh", window, false, extend)?;

    // Subscriptions are to presentities of their own, without a state.
    let (old, _) = bench.subscribe(PARTIES, 60.0, |number| 10_000 + number);
    bench.warm(window, scattered(old.clone()).map(Operation::Refresh));
    let new = bench.load.add_watchers(count, |number| 20_000 + number);
    let subscribe = new.clone().map(Operation::Subscribe);
    measure(context, &mut bench, unit, "SUBSCRIBE initial + NOTIFY", window, false, subscribe)?;
    let refresh = scattered(new.clone()).map(Operation::Refresh).take(take);
    measure(context, &mut bench, unit, "SUBSCRIBE refresh + NOTIFY", window, false, refresh)?;
    let end = new.map(Operation::Unsubscribe);
    measure(context, &mut bench, unit, "unsubscribe + NOTIFY", window, false, end)?;
    let memory = bench.server.shared_memory()?;
    let row = Row::new("shared memory after that", "MB");
    let details: Value = json!({ "used": memory.used, "fragments": memory.fragments });
    if unit == Unit::Time {
        context.record(row, Some(memory.real_used as f64 / 1e6), "", details);
    }
    bench.server.stop(std::time::Duration::from_secs(20));
    Ok(())
}

fn fan_out(context: &mut Context<'_>, unit: Unit) -> Fallible<()> {
    let mut bench = start(context, unit, "fan-out", WATCHERS)?;
    let (sources, _) = bench.publish(0..1);
    bench.subscribe(WATCHERS, 60.0, |_| 0);
    let publish = || scattered(sources.clone()).map(Operation::Publish);
    let rounds = match unit {
        Unit::Instructions => context.size(30, 15),
        Unit::Time => context.size(400, 200),
    };
    let warm = Phase::new("warm-up").window(1).stop_after(WARM).limit(120.0);
    bench.load.run(&warm, publish());
    let name = "fan-out to 100, per NOTIFY";
    measure(context, &mut bench, unit, name, 1, true, publish().take(rounds))?;
    bench.server.stop(std::time::Duration::from_secs(20));
    Ok(())
}
