//! The metrics are in the format that Prometheus reads, and say what is counted.

use crate::fakes::{Publish, Subscribe, World};
use presence::service::census;
use presence::service::metrics::{self, Resources};
use std::collections::{BTreeMap, BTreeSet};

fn text(world: &mut World) -> String {
    let census = census::take(&world.server, &mut world.host).unwrap();
    let resources = Resources { memory: (1000, 2000), database_is_away: true };
    metrics::text(&world.server, &world.host, &census, resources)
}

fn is_name(name: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '_';
    name.starts_with(|c: char| c.is_ascii_alphabetic()) && name.chars().all(fits)
}

/// A sample's name, its labels and its value; anything that is not in the format
/// fails.
fn sample(line: &str) -> (String, BTreeMap<String, String>, f64) {
    let (head, value) = line.rsplit_once(' ').unwrap();
    let value = value.parse().unwrap();
    let Some((name, labels)) = head.split_once('{') else {
        assert!(is_name(head), "{line}");
        return (head.to_owned(), BTreeMap::new(), value);
    };
    assert!(is_name(name), "{line}");
    let mut rest = labels.strip_suffix('}').unwrap();
    let mut all = BTreeMap::new();
    while !rest.is_empty() {
        let (label, quoted) = rest.split_once("=\"").unwrap();
        assert!(is_name(label), "{line}");
        let (mut value, mut end, mut escaped) = (String::new(), None, false);
        for (at, c) in quoted.char_indices() {
            match (escaped, c) {
                (true, 'n') => value.push('\n'),
                (true, '\\' | '"') => value.push(c),
                (true, _) => panic!("{line}"),
                (false, '"') => {
                    end = Some(at);
                    break;
                }
                (false, '\\') => {}
                (false, c) => value.push(c),
            }
            escaped = !escaped && c == '\\';
        }
        assert!(all.insert(label.to_owned(), value).is_none(), "{line}");
        rest = &quoted[end.unwrap() + 1..];
        rest = rest.strip_prefix(',').unwrap_or(rest);
    }
    (name.to_owned(), all, value)
}

/// All samples; what the format asks for is checked.
fn samples(text: &str) -> Vec<(String, BTreeMap<String, String>, f64)> {
    assert!(text.ends_with('\n') && !text.contains("\n\n"));
    let (mut family, mut kind) = (String::new(), String::new());
    let (mut families, mut series) = (BTreeSet::new(), BTreeSet::new());
    let (mut all, mut helped) = (Vec::new(), false);
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, said) = help.split_once(' ').unwrap();
            assert!(
                is_name(name) && !said.is_empty() && families.insert(name.to_owned()),
                "{line}"
            );
            (family, helped) = (name.to_owned(), true);
            continue;
        }
        if let Some(said) = line.strip_prefix("# TYPE ") {
            let (name, is) = said.split_once(' ').unwrap();
            assert!(helped && name == family, "{line}");
            assert!(["counter", "gauge", "histogram"].contains(&is), "{line}");
            assert_eq!(is == "counter", name.ends_with("_total"), "{line}");
            kind = is.to_owned();
            continue;
        }
        let (name, labels, value) = sample(line);
        let belongs = match kind.as_str() {
            "histogram" => {
                ["_bucket", "_sum", "_count"].iter().any(|end| name == format!("{family}{end}"))
            }
            _ => name == family,
        };
        assert!(belongs, "{line} is not of {family}");
        assert_eq!(labels.contains_key("le"), name.ends_with("_bucket"), "{line}");
        assert!(series.insert((name.clone(), labels.clone())), "twice: {line}");
        assert!(value >= 0.0, "{line}");
        all.push((name, labels, value));
    }
    all
}

#[test]
fn the_text_is_in_the_format_and_says_what_was_counted() {
    let mut world = World::default();
    (0..3).for_each(|n| world.watch(&format!("w{n}"), "presence"));
    world.subscribe(Subscribe { watcher: "pending", ..Subscribe::new("pending") });
    world.create("presence", "a");
    world.publish(Publish { event: Some("weather"), body: "a", ..Publish::default() });
    let all = samples(&text(&mut world));
    let of = |name: &str, labels: &[(&str, &str)]| {
        let fits = |found: &BTreeMap<String, String>| {
            labels.iter().all(|(label, value)| found.get(*label).is_some_and(|is| is == value))
        };
        all.iter().filter(|(is, found, _)| is == name && fits(found)).map(|it| it.2).sum::<f64>()
    };
    let presence = ("event", "presence");
    assert_eq!(of("presence_subscriptions", &[presence, ("state", "active")]), 3.0);
    assert_eq!(of("presence_subscriptions", &[("state", "pending")]), 1.0);
    assert_eq!(of("presence_publications", &[]), 1.0);
    assert_eq!(of("presence_requests_total", &[("method", "PUBLISH"), ("result", "2xx")]), 1.0);
    assert_eq!(of("presence_requests_total", &[("event", "unknown"), ("result", "489")]), 1.0);
    assert_eq!(of("presence_notifies_total", &[presence, ("result", "sent")]), 7.0);
    assert_eq!(of("presence_publish_to_notify_seconds_count", &[presence]), 3.0);
    assert_eq!(of("presence_fan_out_watchers_sum", &[presence]), 4.0);
    assert_eq!(of("presence_memory_held_bytes", &[]), 2000.0);
    assert_eq!(of("presence_database_away", &[]), 1.0);
    // Classes count up to the number of all.
    let buckets: Vec<_> = all
        .iter()
        .filter(|(name, found, _)| {
            name == "presence_publish_to_notify_seconds_bucket" && found["event"] == "presence"
        })
        .map(|it| it.2)
        .collect();
    assert!(buckets.is_sorted() && buckets.last() == Some(&3.0), "{buckets:?}");
}
