//! The table of medians.

use crate::cli::Options;
use crate::machine;
use crate::samples::{Goal, Samples};
use crate::setup::Variant;
use std::fmt::Write as _;

/// The whole summary as markdown.
pub fn table(options: &Options, samples: &Samples) -> String {
    let mut text = format!("# Benchmark\n\n    {}\n\n", options.command.trim());
    for (name, value) in machine::describe() {
        let _ = writeln!(text, "* {name}: {value}");
    }
    let _ = writeln!(text, "* medians of {} runs, in turn", options.runs);
    text += "\nIn brackets: the ratio of CPU divided by the load generator's own.\n";
    text += "\n| | what | unit | stock | ours | floor | stock/ours | ours/floor | goal | met |\n\
             |---|---|---|---|---|---|---|---|---|---|\n";
    let mut notes = String::new();
    for (scenario, row) in samples.rows() {
        let Some(first) = samples.of(scenario, row).next() else { continue };
        let value = |variant| samples.median(scenario, row, variant);
        let [stock, ours, floor] = Variant::ALL.map(value);
        let normal = Variant::ALL
            .map(|variant| samples.median_by(scenario, row, variant, |sample| sample.normalised));
        let (goal, met) = judge(samples, scenario, &first.goal, [stock, ours, floor]);
        let _ = writeln!(
            text,
            "| {scenario} | {row} | {} | {} | {} | {} | {} | {} | {goal} | {met} |",
            first.unit,
            number(stock),
            number(ours),
            number(floor),
            ratios(ratio(stock, ours), ratio(normal[0], normal[1])),
            ratios(ratio(ours, floor), ratio(normal[1], normal[2])),
        );
        for sample in samples.of(scenario, row).filter(|sample| !sample.note.is_empty()) {
            let (who, run) = (sample.variant.name(), sample.run);
            let note = sample.note.replace('\n', "\n  ");
            let _ = writeln!(notes, "* {scenario} {row}, {who}, run {run}: {note}");
        }
    }
    if !notes.is_empty() {
        let _ = write!(text, "\n## Notes\n\n{notes}");
    }
    text
}

fn ratio(over: Option<f64>, under: Option<f64>) -> Option<f64> {
    Some(over? / under?).filter(|ratio| ratio.is_finite())
}

/// A ratio and, in brackets, that of the values over the load's own CPU.
fn ratios(plain: Option<f64>, normalised: Option<f64>) -> String {
    match normalised {
        Some(_) => format!("{} [{}]", number(plain), number(normalised)),
        None => number(plain),
    }
}

fn number(value: Option<f64>) -> String {
    match value {
        None => String::new(),
        Some(value) if value.abs() >= 100.0 => format!("{value:.0}"),
        Some(value) if value.abs() >= 10.0 => format!("{value:.1}"),
        Some(value) => format!("{value:.2}"),
    }
}

/// The goal in words, and whether it is met.
fn judge(
    samples: &Samples,
    scenario: &str,
    goal: &Goal,
    [stock, ours, floor]: [Option<f64>; 3],
) -> (String, &'static str) {
    let (text, reached, limit, at_most) = match goal {
        Goal::None => return (String::new(), ""),
        Goal::OverFloor(limit) => (format!("≤ {limit} × floor"), ratio(ours, floor), limit, true),
        Goal::BelowStock(limit) => {
            (format!("stock ≥ {limit} × ours"), ratio(stock, ours), limit, false)
        }
        Goal::AboveStock(limit) => {
            (format!("ours ≥ {limit} × stock"), ratio(ours, stock), limit, false)
        }
        Goal::AtMost(limit) => (format!("≤ {limit}"), ours, limit, true),
        Goal::AtLeast(limit) => (format!("≥ {limit}"), ours, limit, false),
        Goal::Growth(base, limit) => {
            let reached = ratio(ours, samples.median(scenario, base, Variant::Ours));
            (format!("≤ {limit} × “{base}”: {}", number(reached)), reached, limit, true)
        }
    };
    let verdict = match reached {
        None => "?",
        Some(value) if (at_most && value <= *limit) || (!at_most && value >= *limit) => "yes",
        Some(_) => "**no**",
    };
    (text, verdict)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goals_are_judged() {
        let samples = Samples::default();
        let judged = |goal: Goal, values| judge(&samples, "P1", &goal, values).1;
        assert_eq!(judged(Goal::OverFloor(1.15), [None, Some(110.0), Some(100.0)]), "yes");
        assert_eq!(judged(Goal::OverFloor(1.15), [None, Some(120.0), Some(100.0)]), "**no**");
        assert_eq!(judged(Goal::BelowStock(20.0), [Some(100.0), Some(4.0), None]), "yes");
        assert_eq!(judged(Goal::AboveStock(20.0), [Some(0.0), Some(4.0), None]), "?");
        assert_eq!(judged(Goal::AtMost(5.0), [None, None, None]), "?");
        assert_eq!(judged(Goal::None, [None, None, None]), "");
    }
}
