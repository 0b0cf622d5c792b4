//! P4 and P5: one presentity with many watchers.

use crate::Fallible;
use crate::bench::{Bench, Context, Row, WARM, scattered};
use crate::load::{Operation, Phase};
use crate::samples::Goal;
use crate::setup::Variant;
use serde_json::json;
use std::time::Duration;

/// The row that growth is held against.
const BASE: u32 = 100;

/// P4: CPU per NOTIFY, and whether all are told.
pub fn ladder(mut context: Context<'_>) -> Fallible<()> {
    let steps: &[u32] =
        context.size(&[BASE, 1_000, 10_000, 20_000, 100_000], &[BASE, 1_000, 10_000]);
    for watchers in steps {
        one_size(&mut context, *watchers, 4096, Goal::Growth(title(BASE, 4096), 1.2))?;
    }
    if context.variant != Variant::Floor {
        // Room for the subscriptions, and not for as many transactions.
        one_size(&mut context, 20_000, 64, Goal::None)?;
    }
    Ok(())
}

fn title(watchers: u32, shared: u32) -> String {
    format!("per NOTIFY, {watchers} watchers, -m {shared}")
}

fn one_size(context: &mut Context<'_>, watchers: u32, shared: u32, goal: Goal) -> Fallible<()> {
    let mut bench = context.start(&format!("{watchers}-{shared}"), |mut setup, port| {
        setup.shared = shared;
        setup.fan_out = Some((port, watchers));
        setup
    })?;
    let crowd = bench.load.add_watchers(watchers, |_| 0);
    let mut fill = Phase::new(format!("{watchers} SUBSCRIBEs")).limit(context.size(90.0, 40.0));
    if shared < 1024 {
        // tm keeps about 10 KB for 5 s after each.
        fill = fill.rate(f64::from(shared) * 6.0).limit(f64::from(watchers) / 200.0);
    }
    let fill = bench.load.run(&fill, crowd.map(Operation::Subscribe));
    let name = title(watchers, shared);
    let living = bench.load.living();
    let row = Row::new(format!("subscribed, {watchers} watchers, -m {shared}"), "%");
    let share = 100.0 * living as f64 / f64::from(watchers);
    context.record(row.goal(Goal::AtLeast(100.0)), Some(share), fill.complaints(), json!(null));
    let mut notes = Vec::new();
    bench.load.idle(if shared < 1024 { WARM } else { 1.0 });
    let sources = bench.load.add_sources(1, |_| 0);
    let publish = || scattered(sources.clone()).map(Operation::Publish);
    let patience = context.size(60.0, 30.0);
    let phase = Phase::new(name.clone()).window(1).limit(patience);
    // The first PUBLISH makes the publication. At large sizes it is the memory
    // of as many rounds that has to be touched, and given back by tm, before.
    let rounds = (50_000 / watchers).clamp(2, 200) as usize;
    let large = watchers > 5000;
    let before = publish().take(if large { rounds } else { usize::MAX });
    bench.load.run(&phase.clone().stop_after(WARM), before);
    if large {
        bench.load.idle(WARM);
    }
    let mut cost = bench.measure(&phase.stop_after(patience / 2.0), publish().take(rounds));
    let notifies = cost.tally.notifies;
    let expected = cost.tally.started * living as u64;
    notes.push(format!("{notifies} of {expected} NOTIFYs"));
    let complaints = cost.note();
    if !complaints.is_empty() {
        notes.push(complaints);
    }
    let value = (notifies > 0).then(|| cost.cpu.as_secs_f64() * 1e6 / notifies as f64);
    let goal = if watchers > 20_000 || watchers == BASE { Goal::None } else { goal };
    let series = format!("per NOTIFY, -m {shared}");
    let row = Row::new(name, "µs CPU").goal(goal).at(&series, f64::from(watchers));
    let details = cost.json(notifies);
    context.record(row, value, notes.join(", "), details);

    let told = Row::new(format!("told, {watchers} watchers, -m {shared}"), "%");
    let share = 100.0 * notifies as f64 / expected.max(1) as f64;
    context.record(told.goal(Goal::AtLeast(100.0)), Some(share), "", json!(null));
    let last = Row::new(format!("last NOTIFY, {watchers} watchers, -m {shared}"), "ms");
    context.record(last, Some(cost.tally.notify.quantile(1.0)), "", json!(null));
    bench.server.stop(Duration::from_secs(10));
    Ok(())
}

/// P5: a refresh by one of many watchers.
pub fn hot_refresh(mut context: Context<'_>) -> Fallible<()> {
    let watchers = context.size(20_000, 5_000);
    let mut bench: Bench = context.start("hot", |setup, _| setup)?;
    bench.publish(0..1);
    let (range, fill) = bench.subscribe(watchers, 180.0, |_| 0);
    bench.warm(32, scattered(range.clone()).map(Operation::Refresh));
    let phase = Phase::new("refresh").stop_after(12.0).limit(60.0);
    let refresh = scattered(range).map(Operation::Refresh).take(20_000);
    let mut cost = bench.measure(&phase, refresh);
    let done = cost.tally.done;
    let row = Row::new(format!("refresh, {watchers} watchers of one presentity"), "µs CPU");
    context.record_cpu(row.goal(Goal::BelowStock(20.0)), &mut cost, done);
    let row = Row::new("initial SUBSCRIBEs to it", "1/s");
    let rate = fill.done as f64 / fill.wall.as_secs_f64();
    context.record(row, Some(rate), fill.complaints(), json!(null));
    bench.server.stop(Duration::from_secs(10));
    Ok(())
}
