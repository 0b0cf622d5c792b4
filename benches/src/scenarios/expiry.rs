//! P9: many subscriptions expire in one second.

use crate::Fallible;
use crate::bench::{Context, Row, scattered};
use crate::load::{Operation, Phase, Tally};
use crate::samples::Goal;
use serde_json::json;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Subscriptions that stay.
const OTHERS: u32 = 500;

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs_f64()
}

/// P9.
pub fn run(mut context: Context<'_>) -> Fallible<()> {
    let count = context.size(50_000u32, 10_000);
    // Both timers as often as they come, so that the moment is not the timer's.
    let mut bench = context.start("expiry", |setup, _| {
        setup.parameter("db_update_period", 1).parameter("clean_period", 1)
    })?;
    let (others, _) = bench.subscribe(OTHERS, 60.0, |number| 100_000 + number);
    let mut filled = Tally::default();
    let ends = now().ceil() + context.size(35.0, 15.0);
    for start in (0..count).step_by(1000) {
        bench.load.expires = (ends - now().floor()).max(1.0) as u32;
        let (_, tally) = bench.subscribe(1000, 20.0, move |number| start + number);
        filled.absorb(tally);
    }
    bench.load.expires = 3600;
    let living = bench.load.living() as u64 - u64::from(OTHERS);
    let late = now() > ends - 3.0;
    bench.load.idle((ends - 1.0 - now()).max(0.0));

    let refresh = scattered(others).map(Operation::Refresh);
    let patience = context.size(60.0, 30.0);
    let mut storm = Tally::default();
    let mut told_in_time = 0;
    let mut all_told = None;
    let mut refresh = refresh;
    while now() - ends < patience {
        let slice = Phase::new("expiry").rate(100.0).stop_after(0.25).limit(5.0);
        storm.absorb(bench.load.run(&slice, refresh.by_ref().take(25)));
        storm.absorb(bench.load.idle(0.01));
        if now() - ends <= 6.0 {
            told_in_time = storm.terminated;
        }
        if all_told.is_none() && storm.terminated >= living {
            all_told = Some(now() - ends);
        }
        if all_told.is_some() && now() - ends > 6.0 {
            break;
        }
    }
    let mut note = format!("{} of {living} told in {patience} s", storm.terminated);
    if late {
        note += "; the fill took too long, some expired later";
    }
    let row = Row::new(format!("{count} expire: told within 5 s (and 1 s of timer)"), "%");
    let share = 100.0 * told_in_time as f64 / living.max(1) as f64;
    let details = json!({ "fill": filled.json(), "storm": storm.json() });
    context.record(row.goal(Goal::AtLeast(100.0)), Some(share), note, details);
    let row = Row::new(format!("{count} expire: the last is told after"), "s");
    context.record(row, all_told, "", json!(null));
    for (name, share) in [("p99", 0.99), ("slowest", 1.0)] {
        let row = Row::new(format!("refresh of others meanwhile, {name}"), "ms");
        let value = storm.reply.quantile(share);
        context.record(row.goal(Goal::AtMost(50.0)), Some(value), storm.complaints(), json!(null));
    }
    bench.server.stop(Duration::from_secs(20));
    Ok(())
}
