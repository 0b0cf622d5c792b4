//! A server with its load, and measuring what a phase costs.

use crate::Fallible;
use crate::callgrind::Instructions;
use crate::cli::Options;
use crate::load::{Load, Operation, Package, Phase, Tally};
use crate::processes;
use crate::samples::{Goal, Sample, Samples};
use crate::server::Server;
use crate::setup::{Setup, Variant};
use serde_json::{Value, json};
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

/// How long a warm-up lasts: longer than tm keeps a transaction (`wt_timer`, 5 s).
/// Before that its heap is not what it will be.
pub const WARM: f64 = 7.0;

/// What a scenario is told, and where it puts its numbers.
pub struct Context<'a> {
    /// The command line.
    pub options: &'a Options,
    /// P1 to P12.
    pub scenario: &'static str,
    /// Who is measured.
    pub variant: Variant,
    /// From 1.
    pub run: u32,
    /// For files of this run.
    pub folder: PathBuf,
    /// Where the numbers go.
    pub samples: &'a mut Samples,
}

impl Context<'_> {
    /// The first number, or with `--quick` the second.
    pub fn size<T>(&self, full: T, quick: T) -> T {
        if self.options.quick { quick } else { full }
    }

    /// The event package of the scenarios that leave it open.
    pub fn package(&self) -> Package {
        if self.options.pidf { Package::Presence } else { Package::Mwi }
    }

    /// Starts a server in memory mode; `change` adapts what it is started with.
    pub fn start(&self, name: &str, change: impl FnOnce(Setup, u16) -> Setup) -> Fallible<Bench> {
        let mut load = Load::new(self.package())?;
        load.checks_order = self.variant != Variant::Floor;
        let setup = change(Setup::memory(self.variant), load.port());
        let server = Server::start(setup, &self.folder.join(name))?;
        load.connect(server.address())?;
        Ok(Bench { server, load, database: Vec::new() })
    }

    /// Keeps a number.
    pub fn record(
        &mut self,
        row: Row,
        value: Option<f64>,
        note: impl Into<String>,
        details: Value,
    ) {
        let note = note.into();
        let shown = value.map_or("nothing".to_owned(), |value| format!("{value:.2}"));
        eprintln!("  {}: {shown} {} {note}", row.name, row.unit);
        self.samples.0.push(Sample {
            scenario: self.scenario,
            row: row.name,
            unit: row.unit,
            variant: self.variant,
            run: self.run,
            point: row.point,
            value,
            normalised: details["cpu_over_load_cpu"].as_f64(),
            note,
            goal: row.goal,
            details,
        });
    }

    /// Keeps Kamailio's CPU per operation, `operations` being what it is divided by.
    pub fn record_cpu(&mut self, row: Row, cost: &mut Cost, operations: u64) {
        let value = (operations > 0).then(|| cost.cpu.as_secs_f64() * 1e6 / operations as f64);
        let note = cost.note();
        self.record(row, value, note, cost.json(operations));
    }
}

/// What a number is called.
#[derive(Clone)]
pub struct Row {
    name: String,
    unit: &'static str,
    goal: Goal,
    point: Option<(String, f64)>,
}

impl Row {
    /// A row of the table.
    pub fn new(name: impl Into<String>, unit: &'static str) -> Self {
        Self { name: name.into(), unit, goal: Goal::None, point: None }
    }

    /// With a goal.
    pub fn goal(mut self, goal: Goal) -> Self {
        self.goal = goal;
        self
    }

    /// A point in the plot of the scenario.
    pub fn at(mut self, series: &str, x: f64) -> Self {
        self.point = Some((series.to_owned(), x));
        self
    }
}

/// What a phase cost.
pub struct Cost {
    /// What the load saw.
    pub tally: Tally,
    /// CPU of all of Kamailio's processes.
    pub cpu: Duration,
    /// CPU of the database server.
    pub database_cpu: Duration,
    /// Datagrams that the system dropped on both sides.
    pub drops: u64,
}

impl Cost {
    /// What was wrong in words.
    pub fn note(&self) -> String {
        let mut note = self.tally.complaints();
        if self.drops > 0 {
            note += &format!(
                "{}{} datagrams dropped",
                if note.is_empty() { "" } else { ", " },
                self.drops
            );
        }
        note
    }

    /// CPU per operation as a multiple of the load's own, which takes out most
    /// of the machine's noise.
    pub fn normalised(&self) -> f64 {
        self.cpu.as_secs_f64() / self.tally.own_cpu.as_secs_f64()
    }

    /// All counts.
    pub fn json(&mut self, operations: u64) -> Value {
        json!({
            "operations": operations,
            "kamailio_cpu_s": self.cpu.as_secs_f64(),
            "database_cpu_s": self.database_cpu.as_secs_f64(),
            "cpu_over_load_cpu": self.normalised(),
            "drops": self.drops,
            "load": self.tally.json(),
        })
    }
}

/// A server and its load.
pub struct Bench {
    /// The Kamailio.
    pub server: Server,
    /// Its publishers and watchers.
    pub load: Load,
    /// Processes of the database server, if there is one.
    pub database: Vec<i32>,
}

impl Bench {
    /// Runs a phase and takes its cost. The work that goes on after the last
    /// reply (a worker's end of route, the 200s to NOTIFYs) is included.
    pub fn measure(
        &mut self,
        phase: &Phase,
        operations: impl IntoIterator<Item = Operation>,
    ) -> Cost {
        let ports = [self.server.address().port(), self.load.port()];
        let before = (self.server.cpu(), processes::cpu(&self.database), processes::drops(&ports));
        let mut tally = self.load.run(phase, operations);
        let (wall, own_cpu) = (tally.wall, tally.own_cpu);
        tally.absorb(self.load.idle(0.2));
        (tally.wall, tally.own_cpu) = (wall, own_cpu);
        Cost {
            tally,
            cpu: self.server.cpu().saturating_sub(before.0),
            database_cpu: processes::cpu(&self.database).saturating_sub(before.1),
            drops: processes::drops(&ports).saturating_sub(before.2),
        }
    }

    /// Runs a phase and counts its instructions.
    pub fn count(
        &mut self,
        phase: &Phase,
        operations: impl IntoIterator<Item = Operation>,
    ) -> Fallible<(Tally, Instructions)> {
        let callgrind = self.server.callgrind();
        callgrind.begin()?;
        let tally = self.load.run(phase, operations);
        self.load.idle(1.0);
        Ok((tally, callgrind.end()?))
    }

    /// Runs operations for as long as tm takes to give its first memory back.
    pub fn warm(&mut self, window: usize, operations: impl IntoIterator<Item = Operation>) {
        let phase = Phase::new("warm-up").window(window).stop_after(WARM).limit(WARM * 10.0);
        self.load.run(&phase, operations);
    }

    /// Makes `count` subscriptions by traffic; who they are, and how it went.
    /// Those that were refused are tried again: a server that is filled as fast
    /// as it goes may lack memory until tm has freed its transactions.
    pub fn subscribe(
        &mut self,
        count: u32,
        limit: f64,
        presentity: impl Fn(u32) -> u32,
    ) -> (Range<u32>, Tally) {
        let watchers = self.load.add_watchers(count, presentity);
        let phase = Phase::new(format!("{count} SUBSCRIBEs")).limit(limit);
        let mut tally = self.load.run(&phase, watchers.clone().map(Operation::Subscribe));
        for _ in 0..3 {
            let missing = self.load.without_dialog(watchers.clone());
            if missing.is_empty() || tally.gave_up {
                break;
            }
            eprintln!("    {} of {count} once more: {}", missing.len(), tally.complaints());
            self.load.idle(WARM);
            tally = self.load.run(&phase, missing.into_iter().map(Operation::Subscribe));
        }
        (watchers, tally)
    }

    /// Makes a publication for each presentity of `presentities`.
    pub fn publish(&mut self, presentities: Range<u32>) -> (Range<u32>, Tally) {
        let first = presentities.start;
        let sources = self.load.add_sources(presentities.len() as u32, |number| first + number);
        let phase = Phase::new(format!("{} PUBLISHes", sources.len()));
        let tally = self.load.run(&phase, sources.clone().map(Operation::Publish));
        (sources, tally)
    }
}

/// The numbers again and again, in an order that is not that in which they were
/// made.
pub fn scattered(numbers: impl IntoIterator<Item = u32>) -> impl Iterator<Item = u32> {
    let numbers: Vec<u32> = numbers.into_iter().collect();
    let count = numbers.len().max(1);
    // A prime above every count, so each number comes once per round.
    (0..).filter_map(move |step: usize| numbers.get(step % count * 618_034_003 % count).copied())
}
