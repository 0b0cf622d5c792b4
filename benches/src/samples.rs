//! The numbers that scenarios give, and the goals they are held against.

use crate::setup::Variant;
use serde_json::{Value, json};

/// What our value has to be.
#[derive(Clone, Debug, PartialEq)]
pub enum Goal {
    /// Just to know.
    None,
    /// At most so many times the floor.
    OverFloor(f64),
    /// At least so many times less than stock.
    BelowStock(f64),
    /// At least so many times more than stock.
    AboveStock(f64),
    /// At most this.
    AtMost(f64),
    /// At least this.
    AtLeast(f64),
    /// At most so many times our own value in another row.
    Growth(String, f64),
}

/// One number of one run.
#[derive(Clone, Debug)]
pub struct Sample {
    /// P1 to P12.
    pub scenario: &'static str,
    /// What was measured.
    pub row: String,
    /// Of the value.
    pub unit: &'static str,
    /// Of whom.
    pub variant: Variant,
    /// From 1.
    pub run: u32,
    /// Series and abscissa in the plot of the scenario.
    pub point: Option<(String, f64)>,
    /// None when there is nothing to measure: the note says why.
    pub value: Option<f64>,
    /// CPU as a multiple of the load's own, where it is CPU.
    pub normalised: Option<f64>,
    /// What went wrong; empty when nothing did.
    pub note: String,
    /// What is to be reached.
    pub goal: Goal,
    /// All counts.
    pub details: Value,
}

impl Sample {
    /// For the file of raw numbers.
    pub fn to_json(&self) -> Value {
        json!({
            "scenario": self.scenario,
            "row": self.row,
            "unit": self.unit,
            "variant": self.variant.name(),
            "run": self.run,
            "value": self.value,
            "normalised": self.normalised,
            "note": self.note,
            "details": self.details,
        })
    }
}

/// All of them, in the order in which they came.
#[derive(Default)]
pub struct Samples(pub Vec<Sample>);

impl Samples {
    /// A scenario that could not be run to its end.
    pub fn failed(&mut self, scenario: &'static str, variant: Variant, run: u32, why: &str) {
        self.0.push(Sample {
            scenario,
            row: "the whole run".to_owned(),
            unit: "",
            variant,
            run,
            point: None,
            value: None,
            normalised: None,
            note: why.to_owned(),
            goal: Goal::None,
            details: Value::Null,
        });
    }

    /// Names of scenarios, each with its rows, in order.
    pub fn rows(&self) -> Vec<(&'static str, &str)> {
        let mut rows: Vec<(&'static str, &str)> = Vec::new();
        for sample in &self.0 {
            if !rows.contains(&(sample.scenario, &sample.row)) {
                rows.push((sample.scenario, &sample.row));
            }
        }
        rows.sort_by_key(|(scenario, _)| scenario[1..].parse::<u32>().unwrap_or(u32::MAX));
        rows
    }

    /// The samples of a row.
    pub fn of<'a>(&'a self, scenario: &'a str, row: &'a str) -> impl Iterator<Item = &'a Sample> {
        self.0.iter().filter(move |sample| sample.scenario == scenario && sample.row == row)
    }

    /// The median over the runs.
    pub fn median(&self, scenario: &str, row: &str, variant: Variant) -> Option<f64> {
        self.median_by(scenario, row, variant, |sample| sample.value)
    }

    /// The median of what `value` takes of each sample.
    pub fn median_by(
        &self,
        scenario: &str,
        row: &str,
        variant: Variant,
        value: impl Fn(&Sample) -> Option<f64>,
    ) -> Option<f64> {
        let mut values: Vec<f64> = self
            .of(scenario, row)
            .filter(|sample| sample.variant == variant)
            .filter_map(value)
            .collect();
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        match values.len() {
            0 => None,
            count if count % 2 == 1 => Some(values[middle]),
            _ => Some((values[middle - 1] + values[middle]) / 2.0),
        }
    }
}
