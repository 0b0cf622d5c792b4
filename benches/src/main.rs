//! The project's own benchmark: the stock presence module, ours, and Kamailio
//! without one, under the same load, in turn. See `benches/README.md`.

mod bench;
mod callgrind;
mod cli;
mod database;
mod load;
mod machine;
mod processes;
mod progress;
mod report;
mod samples;
mod scenarios;
mod server;
mod setup;

use presence_kamailio_tests::limit;
use samples::Samples;
use setup::Variant;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::Duration;

/// How long one variant of a scenario may take at most.
const LONGEST: Duration = Duration::from_secs(4 * 3600);

/// A result whose error is a sentence for the user.
pub type Fallible<T> = Result<T, String>;

fn main() -> ExitCode {
    match cli::Options::from_arguments(std::env::args().skip(1)) {
        Ok(Some(options)) if options.only_check => ExitCode::SUCCESS,
        Ok(Some(options)) => match run(&options) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(&error),
        },
        Ok(None) => {
            print!("{}", cli::HELP);
            ExitCode::SUCCESS
        }
        Err(error) => fail(&error),
    }
}

fn fail(error: &str) -> ExitCode {
    eprintln!("presence-bench: {error}");
    ExitCode::FAILURE
}

/// Runs the scenarios that are wanted, and writes the report after each, so
/// that an interrupted run has results too.
fn run(options: &cli::Options) -> Fallible<()> {
    let output = report::folder(options)?;
    eprintln!("results go to {}", output.display());
    let mut samples = Samples::default();
    for scenario in scenarios::wanted(&options.scenarios)? {
        for run in 1..=options.runs {
            for variant in Variant::ALL {
                if !options.variants.contains(&variant) {
                    continue;
                }
                if variant == Variant::Floor && !scenario.has_floor {
                    continue;
                }
                let name = format!("{} {} run {run}", scenario.id, variant.name());
                eprintln!("{name}: {}", scenario.title);
                // The limits of tests are not for a benchmark, whose phases have their own.
                limit::allow(LONGEST);
                let context = bench::Context {
                    options,
                    scenario: scenario.id,
                    variant,
                    run,
                    folder: output.join(format!("{}-{}-{run}", scenario.id, variant.name())),
                    samples: &mut samples,
                };
                // The fixtures of the tests panic when a server does not start.
                let outcome = catch_unwind(AssertUnwindSafe(|| (scenario.run)(context)));
                let outcome = outcome.unwrap_or_else(|_| Err("given up: see above".to_owned()));
                if let Err(error) = outcome {
                    eprintln!("{name}: {error}");
                    samples.failed(scenario.id, variant, run, &error);
                }
                report::write(options, &output, &samples)?;
            }
        }
    }
    print!("{}", report::table(options, &samples));
    eprintln!("results are in {}", output.display());
    Ok(())
}
