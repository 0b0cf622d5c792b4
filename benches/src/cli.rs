//! The command line.

use crate::Fallible;
use crate::scenarios;
use crate::setup::Variant;

/// Text of `--help`.
pub const HELP: &str = "\
Usage: scripts/bench [options] [SCENARIO...]

Measures the stock presence module, ours and the floor (Kamailio without a
presence module) side by side, and prints a table. Scenarios are the rows P1 to
P12; without any, all are run. See benches/README.md.

  --quick         smaller numbers, a few minutes
  --runs N        repetitions, of which the medians are taken (default 3; 1 with --quick)
  --only WHICH    stock, ours or floor; may be given several times
  --callgrind     of P1 and P3 only the part that counts instructions
  --no-callgrind  of P1 and P3 only the part that takes CPU time
  --package P     mwi (default) or presence: the event package of P1 to P5
  --no-install    install nothing; say what is missing
  --help          this text
";

/// What is wanted.
#[derive(Clone, Debug)]
pub struct Options {
    /// Smaller numbers.
    pub quick: bool,
    /// Repetitions.
    pub runs: u32,
    /// Which variants.
    pub variants: Vec<Variant>,
    /// Names of scenarios; none: all.
    pub scenarios: Vec<String>,
    /// Whether CPU time is measured where both are possible.
    pub times: bool,
    /// Whether instructions are counted.
    pub instructions: bool,
    /// `presence` instead of `message-summary`.
    pub pidf: bool,
    /// The arguments are to be checked, and nothing else.
    pub only_check: bool,
    /// The arguments as given.
    pub command: String,
}

impl Options {
    /// Reads the arguments; `None` when help is asked for.
    pub fn from_arguments(arguments: impl Iterator<Item = String>) -> Fallible<Option<Self>> {
        let arguments: Vec<String> = arguments.collect();
        let mut options = Self {
            quick: false,
            runs: 0,
            variants: Vec::new(),
            scenarios: Vec::new(),
            times: true,
            instructions: true,
            pidf: false,
            only_check: false,
            command: format!("scripts/bench {}", arguments.join(" ")),
        };
        let mut rest = arguments.into_iter();
        while let Some(argument) = rest.next() {
            let mut value = || rest.next().ok_or(format!("{argument} needs a value"));
            match argument.as_str() {
                "--help" | "-h" => return Ok(None),
                "--check" => options.only_check = true,
                "--quick" => options.quick = true,
                "--callgrind" => options.times = false,
                "--no-callgrind" => options.instructions = false,
                "--runs" => {
                    let text = value()?;
                    options.runs = text
                        .parse()
                        .ok()
                        .filter(|runs| *runs > 0)
                        .ok_or(format!("--runs {text}: a number from 1 is needed"))?;
                }
                "--only" => {
                    let name = value()?;
                    let variant = Variant::ALL.into_iter().find(|variant| variant.name() == name);
                    options
                        .variants
                        .push(variant.ok_or(format!("--only {name}: it is stock, ours or floor"))?);
                }
                "--package" => {
                    options.pidf = match value()?.as_str() {
                        "mwi" => false,
                        "presence" => true,
                        other => return Err(format!("--package {other}: it is mwi or presence")),
                    };
                }
                option if option.starts_with('-') => {
                    return Err(format!("unknown option {option}; --help lists them"));
                }
                _ => options.scenarios.push(argument),
            }
        }
        if !options.times && !options.instructions {
            return Err("--callgrind and --no-callgrind leave nothing to do".to_owned());
        }
        if options.runs == 0 {
            options.runs = if options.quick { 1 } else { 3 };
        }
        if options.variants.is_empty() {
            options.variants = Variant::ALL.to_vec();
        }
        scenarios::wanted(&options.scenarios)?;
        Ok(Some(options))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Fallible<Option<Options>> {
        Options::from_arguments(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn options_are_understood() {
        let options = parse("--quick P2 P4 --only ours").unwrap().unwrap();
        assert!(options.quick && options.runs == 1);
        assert_eq!(options.variants, [Variant::Ours]);
        assert_eq!(options.scenarios, ["P2", "P4"]);
        assert!(parse("--help").unwrap().is_none());
        for wrong in ["--runs", "--runs 0", "--only me", "--what", "P99"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
