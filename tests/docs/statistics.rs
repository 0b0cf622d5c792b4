//! The manual's table of statistics has those that there are.

use crate::markdown::{codes, table};
use std::collections::BTreeSet;

/// Names that the module registers: the first text of each row of its table.
fn registered() -> BTreeSet<String> {
    let source = crate::read("src/host/statistics.rs");
    let rows = source.split("const STATISTICS").nth(1).unwrap().split("\n];").next().unwrap();
    let rows = rows.lines().filter_map(|line| line.trim().strip_prefix("(\""));
    rows.filter_map(|row| Some(row.split_once('"')?.0.to_owned())).collect()
}

#[test]
fn the_manual_has_every_statistic() {
    let rows = table(&crate::read("docs/monitoring.md"), &["statistic", "type", "meaning"]);
    let named: BTreeSet<_> = rows.iter().map(|row| codes(&row[0])[0].text.to_owned()).collect();
    assert_eq!(named, registered());
    assert!(rows.iter().all(|row| ["gauge", "counter"].contains(&row[1].as_str())));
    assert_eq!(rows.len(), named.len());
}

/// Exporters put a prefix before the name: what is left has to be a name for them.
#[test]
fn names_fit_into_exporters() {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let names = registered();
    assert!(names.len() > 30 && names.iter().all(|name| name.chars().all(fits)), "{names:?}");
}

/// What the trait does by default must not take the place of what the connection does.
#[test]
fn the_measured_database_hands_everything_on() {
    let ports = crate::read("src/ports.rs");
    let database = ports.split("pub trait Database").nth(1).unwrap().split("\n}\n").next().unwrap();
    let measured = crate::read("src/host/database/measured.rs");
    let names = database.lines().filter_map(|line| line.strip_prefix("    fn ")?.split('(').next());
    let names: Vec<_> = names.collect();
    assert!(names.len() > 15, "{names:?}");
    for name in names {
        assert!(measured.contains(&format!("    fn {name}(")), "{name} is not handed on");
    }
}

/// Alerts and dashboard name metrics that there are.
#[test]
fn the_examples_name_metrics_that_there_are() {
    let source = crate::read("src/service/metrics.rs");
    for example in ["examples/prometheus-rules.yml", "examples/grafana-dashboard.json"] {
        let text = crate::read(example);
        let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let names: BTreeSet<_> = words.filter(|word| word.starts_with("presence_")).collect();
        assert!(names.len() > 4, "{example}: {names:?}");
        for name in names {
            let name = name.trim_end_matches("_bucket");
            assert!(source.contains(&format!("\"{name}\"")), "{example}: {name}");
        }
    }
}
