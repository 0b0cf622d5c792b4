//! P2 and P3: many subscriptions, built up by traffic.

use crate::Fallible;
use crate::bench::{Bench, Context, Row, scattered};
use crate::load::{Operation, Phase};
use crate::samples::Goal;
use serde_json::json;
use std::time::Duration;

/// The sources and presentities that publish; away from those that are watched.
const PUBLISHERS: u32 = 1000;
/// Presentity of publishers in [`growth`].
const FIRST_PUBLISHER: u32 = 2_000_000;

/// P2: a refresh among N subscriptions over N presentities.
pub fn refresh(mut context: Context<'_>) -> Fallible<()> {
    // The stock module collapses at this size, so it is not smaller with --quick.
    let count = 100_000;
    let mut bench = context.start("refresh", |setup, _| setup)?;
    let (watchers, filled) = bench.subscribe(count, 300.0, |number| number);
    bench.load.idle(1.0);
    bench.warm(32, scattered(watchers.clone()).map(Operation::Refresh));
    let phase = Phase::new("refresh").stop_after(context.size(15.0, 8.0)).limit(60.0);
    let mut cost = bench.measure(&phase, scattered(watchers).map(Operation::Refresh));
    let done = cost.tally.done;
    let row = Row::new(format!("refresh, {count} subscriptions"), "µs CPU");
    context.record_cpu(row.goal(Goal::BelowStock(20.0)), &mut cost, done);
    for (name, share) in [("p50", 0.5), ("p99", 0.99), ("max", 1.0)] {
        let row = Row::new(format!("refresh latency {name}"), "ms");
        context.record(row, Some(cost.tally.reply.quantile(share)), "", json!(null));
    }
    let row = Row::new("accepted per second", "1/s");
    context.record(row, Some(done as f64 / cost.tally.wall.as_secs_f64()), "", json!(null));
    let memory = bench.server.shared_memory()?;
    let note = format!("the fill took {:.1} s", filled.wall.as_secs_f64());
    let row = Row::new("free fragments of shared memory", "");
    context.record(row, Some(memory.fragments as f64), note, json!(filled.wall.as_secs_f64()));
    bench.server.stop(Duration::from_secs(20));
    Ok(())
}

/// P3: all operations while the number of subscriptions grows, all to one
/// presentity and each to its own.
pub fn growth(mut context: Context<'_>) -> Fallible<()> {
    let steps: &[u32] =
        context.size(&[1_000, 10_000, 100_000, 1_000_000], &[1_000, 10_000, 50_000]);
    for one in [false, true] {
        if context.options.times {
            ladder(&mut context, steps, one, false)?;
        }
    }
    if context.options.instructions {
        // The fill runs under valgrind too: a million would take an hour.
        let steps: &[u32] = context.size(&[1_000, 100_000], &[1_000, 10_000]);
        ladder(&mut context, steps, false, true)?;
    }
    Ok(())
}

fn ladder(context: &mut Context<'_>, steps: &[u32], one: bool, count: bool) -> Fallible<()> {
    let place = if one { "one presentity" } else { "own presentities" };
    let name =
        format!("{}{}", if one { "one" } else { "own" }, if count { "-callgrind" } else { "" });
    let mut bench = context.start(&name, |mut setup, _| {
        setup.callgrind = count;
        setup.children = if count { 1 } else { 2 };
        // Transactions of the fill take more than the subscriptions.
        setup.shared = 8192;
        setup
    })?;
    let (sources, _) = bench.publish(FIRST_PUBLISHER..FIRST_PUBLISHER + PUBLISHERS);
    let mut have = 0;
    let mut watchers = Vec::new();
    for step in steps {
        let presentity = move |number| if one { 0 } else { have + number };
        let limit = context.size(240.0, 60.0);
        let (added, tally) = bench.subscribe(step - have, limit, presentity);
        watchers.extend(added);
        have = *step;
        let stuck = tally.gave_up;
        if stuck {
            let row = Row::new(format!("fill to {step}, {place}"), "s");
            context.record(row, None, tally.complaints(), json!(null));
        }
        let mut run = Step { context, bench: &mut bench, have, one, count, base: steps[0], stuck };
        run.all(place, sources.clone(), &watchers)?;
        if stuck {
            break;
        }
    }
    bench.server.stop(Duration::from_secs(20));
    Ok(())
}

/// All operations at one size.
struct Step<'a, 'b> {
    context: &'a mut Context<'b>,
    bench: &'a mut Bench,
    have: u32,
    one: bool,
    count: bool,
    base: u32,
    stuck: bool,
}

impl Step<'_, '_> {
    fn all(
        &mut self,
        place: &str,
        sources: std::ops::Range<u32>,
        watchers: &[u32],
    ) -> Fallible<()> {
        let watchers = || scattered(watchers.iter().copied());
        let window = if self.count { 1 } else { 32 };
        self.bench.warm(window, watchers().map(Operation::Refresh));
        let take = if self.count { 500 } else { self.context.size(20_000, 5_000) };
        let publish = scattered(sources).map(Operation::Publish);
        self.measure("PUBLISH modify", place, publish.take(take))?;
        let refresh = watchers().map(Operation::Refresh);
        self.measure("refresh", place, refresh.take(take))?;
        let unknown = watchers().map(Operation::Unknown);
        self.measure("unknown dialog (481)", place, unknown.take(take))?;
        let first = if self.one { 0 } else { 3_000_000 };
        let spread = u32::from(!self.one);
        let extra = take.min(2_000) as u32;
        let new = self.bench.load.add_watchers(extra, |number| first + number * spread);
        self.measure("SUBSCRIBE initial", place, new.clone().map(Operation::Subscribe))?;
        self.measure("unsubscribe", place, new.map(Operation::Unsubscribe))
    }

    fn measure(
        &mut self,
        name: &str,
        place: &str,
        operations: impl IntoIterator<Item = Operation>,
    ) -> Fallible<()> {
        let unit = if self.count { "k instructions" } else { "µs CPU" };
        let title = |size: u32| format!("{name}, {size}, {place}, {unit}");
        let allowed = if self.count { 1.2 } else { 1.5 };
        let goal = match self.have {
            size if size == self.base || self.stuck => Goal::None,
            _ => Goal::Growth(title(self.base), allowed),
        };
        let series = format!("{name}, {place}, {unit}");
        let row = Row::new(title(self.have), unit).goal(goal).at(&series, f64::from(self.have));
        let phase = Phase::new(name).stop_after(12.0).limit(40.0);
        if self.count {
            let (tally, counted) = self.bench.count(&phase.window(1), operations)?;
            let value = counted.workers.total() as f64 / tally.done as f64 / 1000.0;
            let value = (tally.done > 0).then_some(value);
            let details = json!({ "operations": tally.done, "others": counted.others.total() });
            self.context.record(row, value, tally.complaints(), details);
            // The allocator's cost depends on the heap's history: see the README.
            let outside = |size: u32| format!("{}, outside the allocator", title(size));
            let goal = match self.have {
                size if size == self.base || self.stuck => Goal::None,
                _ => Goal::Growth(outside(self.base), allowed),
            };
            let row = Row::new(outside(self.have), unit).goal(goal);
            let cost = counted.workers.total() - counted.workers.allocator();
            let value = (tally.done > 0).then(|| cost as f64 / tally.done as f64 / 1000.0);
            self.context.record(row, value, "", json!(null));
        } else {
            let mut cost = self.bench.measure(&phase, operations);
            let done = cost.tally.done;
            self.context.record_cpu(row, &mut cost, done);
        }
        Ok(())
    }
}
