//! What ARCHITECTURE.md and the manual say about the sources, compared with the
//! sources: neither can change without the other.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail loudly")]

mod files;
mod layers;
mod links;
mod markdown;
mod modes;
mod parameters;
mod safety;
mod scripts;
mod sizes;
mod source;
mod statistics;
mod terms;
mod walks;

use std::path::{Path, PathBuf};

/// The folder of the project.
fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// A file of the project.
fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
