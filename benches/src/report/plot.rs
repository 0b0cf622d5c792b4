//! Plots of cost against size, both axes logarithmic, as SVG.

use crate::samples::Samples;
use crate::setup::Variant;
use std::collections::BTreeMap;
use std::fmt::Write as _;

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 420.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 90.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 50.0;

/// Points of each variant.
type Lines = BTreeMap<Variant, Vec<(f64, f64)>>;

/// A file name and its SVG for each series of each scenario with two sizes or more.
pub fn all(samples: &Samples) -> Vec<(String, String)> {
    let mut series: BTreeMap<(&str, &str), (&str, Lines)> = BTreeMap::new();
    for (scenario, row) in samples.rows() {
        let Some(first) = samples.of(scenario, row).next() else { continue };
        let Some((name, x)) = &first.point else { continue };
        let entry = series.entry((scenario, name)).or_insert((first.unit, Lines::new()));
        for variant in Variant::ALL {
            if let Some(value) = samples.median(scenario, row, variant).filter(|value| *value > 0.0)
            {
                entry.1.entry(variant).or_default().push((*x, value));
            }
        }
    }
    series
        .into_iter()
        .filter(|(_, (_, lines))| lines.values().any(|points| points.len() > 1))
        .map(|((scenario, name), (unit, lines))| {
            let slug = name.replace(|byte: char| !byte.is_ascii_alphanumeric(), "-");
            (format!("{scenario}-{slug}.svg"), svg(&format!("{scenario}: {name}"), unit, &lines))
        })
        .collect()
}

/// An axis from a power of ten to a power of ten.
struct Axis {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
}

impl Axis {
    fn new(values: impl Iterator<Item = f64> + Clone, from: f64, to: f64) -> Self {
        let low = values.clone().fold(f64::INFINITY, f64::min).log10().floor();
        let high = values.fold(0.0, f64::max).log10().ceil().max(low + 1.0);
        Self { low, high, from, to }
    }

    fn place(&self, value: f64) -> f64 {
        self.from + (value.log10() - self.low) / (self.high - self.low) * (self.to - self.from)
    }

    fn ticks(&self) -> impl Iterator<Item = f64> {
        (self.low as i32..=self.high as i32).map(|power| 10f64.powi(power))
    }
}

fn label(value: f64) -> String {
    match value {
        value if value >= 1e6 => format!("{} M", value / 1e6),
        value if value >= 1e3 => format!("{} k", value / 1e3),
        value => format!("{value}"),
    }
}

fn svg(title: &str, unit: &str, lines: &Lines) -> String {
    let points = || lines.values().flatten();
    let across = Axis::new(points().map(|point| point.0), LEFT, WIDTH - RIGHT);
    let up = Axis::new(points().map(|point| point.1), HEIGHT - BOTTOM, TOP);
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{HEIGHT}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"{LEFT}\" y=\"22\" font-size=\"14\">{title}</text>\n\
         <text x=\"10\" y=\"{}\" transform=\"rotate(-90 14 {})\">{unit}</text>\n",
        HEIGHT / 2.0,
        HEIGHT / 2.0,
    );
    for tick in across.ticks() {
        let x = across.place(tick);
        let _ = writeln!(
            text,
            "<path d=\"M{x:.1} {TOP}V{}\" stroke=\"#ddd\"/>\
             <text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
            HEIGHT - BOTTOM,
            HEIGHT - BOTTOM + 18.0,
            label(tick)
        );
    }
    for tick in up.ticks() {
        let y = up.place(tick);
        let _ = writeln!(
            text,
            "<path d=\"M{LEFT} {y:.1}H{}\" stroke=\"#ddd\"/>\
             <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            WIDTH - RIGHT,
            LEFT - 6.0,
            y + 4.0,
            label(tick)
        );
    }
    for (variant, points) in lines {
        let colour = match variant {
            Variant::Stock => "#c33",
            Variant::Ours => "#06c",
            Variant::Floor => "#888",
        };
        let mut path = String::new();
        for (number, (x, y)) in points.iter().enumerate() {
            let (x, y) = (across.place(*x), up.place(*y));
            let _ = write!(path, "{}{x:.1} {y:.1}", if number == 0 { "M" } else { "L" });
            let _ =
                writeln!(text, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{colour}\"/>");
        }
        let (x, y) = points.last().copied().unwrap_or((1.0, 1.0));
        let _ = writeln!(
            text,
            "<path d=\"{path}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" fill=\"{colour}\">{}</text>",
            across.place(x) + 8.0,
            up.place(y) + 4.0,
            variant.name()
        );
    }
    text + "</svg>\n"
}
