//! Which module is under test, and how a test states that the two differ.

use std::fmt::Debug;
use std::path::{Path, PathBuf};

/// Where the distribution keeps Kamailio's modules.
pub const STOCK_MODULE_DIR: &str = "/usr/lib/x86_64-linux-gnu/kamailio/modules";

/// The `presence.so` under test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// The distribution's stock module.
    Upstream,
    /// The module of this repository.
    Ours,
}

/// The target named by `PRESENCE_UNDER_TEST` (`upstream` or `ours`; default `ours`).
pub fn target() -> Target {
    match std::env::var("PRESENCE_UNDER_TEST").as_deref() {
        Ok("upstream") => Target::Upstream,
        Ok("ours") | Err(_) => Target::Ours,
        Ok(other) => {
            panic!("PRESENCE_UNDER_TEST is `{other}`; it must be `upstream` or `ours`")
        }
    }
}

/// The folder that holds our `presence.so`: `PRESENCE_MODULE_DIR`, or
/// `target/kamailio` of the repository.
pub fn our_module_dir() -> PathBuf {
    std::env::var_os("PRESENCE_MODULE_DIR").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../target/kamailio"),
        PathBuf::from,
    )
}

/// The value of Kamailio's `mpath` for the target; panics when our module is
/// wanted and not built, for otherwise the stock module would be tested.
pub fn module_path(target: Target) -> String {
    match target {
        Target::Upstream => STOCK_MODULE_DIR.to_owned(),
        Target::Ours => first_in_path(
            &our_module_dir(),
            "build it, or set PRESENCE_MODULE_DIR, or PRESENCE_UNDER_TEST=upstream",
        ),
    }
}

/// As `module_path`, with our module as built with feature `fault-injection`:
/// that of `PRESENCE_FAULT_MODULE_DIR`, or of `target/kamailio-faults`.
pub fn fault_module_path() -> String {
    let folder = std::env::var_os("PRESENCE_FAULT_MODULE_DIR").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../target/kamailio-faults"),
        PathBuf::from,
    );
    first_in_path(
        &folder,
        "build it: scripts/build --features fault-injection --out target/kamailio-faults",
    )
}

fn first_in_path(folder: &Path, mend: &str) -> String {
    let module = folder.join("presence.so");
    let module = module
        .canonicalize()
        .unwrap_or_else(|error| panic!("no module at {}: {error}\n{mend}", module.display()));
    let folder = module.parent().expect("a file has a parent folder");
    format!("{}:{STOCK_MODULE_DIR}", folder.display())
}

/// What the target under test is expected to do where they differ: `decision`
/// is the row of the README's difference table (`D…` is a defect of stock).
pub fn differs<T: Debug>(decision: &str, upstream: T, ours: T) -> T {
    let (value, name) = match target() {
        Target::Upstream => (upstream, "upstream"),
        Target::Ours => (ours, "ours"),
    };
    eprintln!("difference {decision}: {name} is expected to give {value:?}");
    value
}

/// True when the test is to go on. A test of what the stock module cannot do
/// at all (it crashes, floods, hangs) starts with
/// `if !ours_only("D1 crashes on a long watcher URI") { return; }`.
///
/// With `PRESENCE_RUN_ALL=1` such tests run on upstream too, to show that they
/// find the defect they name.
pub fn ours_only(why: &str) -> bool {
    let go_on = target() == Target::Ours || std::env::var_os("PRESENCE_RUN_ALL").is_some();
    if !go_on {
        eprintln!("not run on upstream: {why}");
    }
    go_on
}
