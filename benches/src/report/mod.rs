//! Writes what came out: the table, the raw numbers, the plots.

mod plot;
mod table;

pub use table::table;

use crate::Fallible;
use crate::cli::Options;
use crate::machine;
use crate::samples::Samples;
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Makes the folder of this run: `target/bench/<date and time>`.
pub fn folder(_options: &Options) -> Fallible<PathBuf> {
    let date = Command::new("date").arg("+%Y-%m-%d-%H%M%S").output();
    let date = date.map_err(|error| format!("cannot run date: {error}"))?;
    let date = String::from_utf8_lossy(&date.stdout).trim().to_owned();
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"), PathBuf::from);
    let folder = target.join("bench").join(date);
    std::fs::create_dir_all(&folder)
        .and_then(|()| folder.canonicalize())
        .map_err(|error| format!("cannot create {}: {error}", folder.display()))
}

/// Writes all files with what is known so far.
pub fn write(options: &Options, folder: &Path, samples: &Samples) -> Fallible<()> {
    let put = |name: &str, text: &str| {
        let file = folder.join(name);
        std::fs::write(&file, text)
            .map_err(|error| format!("cannot write {}: {error}", file.display()))
    };
    put("summary.md", &table(options, samples))?;
    let machine: Map<String, Value> = machine::describe()
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value.into()))
        .collect();
    let raw = json!({
        "command": options.command,
        "machine": machine,
        "samples": samples.0.iter().map(|sample| sample.to_json()).collect::<Vec<_>>(),
    });
    put("raw.json", &format!("{raw:#}\n"))?;
    for (name, svg) in plot::all(samples) {
        put(&name, &svg)?;
    }
    Ok(())
}
