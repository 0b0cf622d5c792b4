//! Which module is under test, and how a test states that the two differ.

use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::SystemTime;

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
    folder_of("PRESENCE_MODULE_DIR", "kamailio")
}

/// The folder that the variable names, or that one below `target`.
fn folder_of(variable: &str, folder: &str) -> PathBuf {
    let built_here = || repository().join("target").join(folder);
    std::env::var_os(variable).map_or_else(built_here, PathBuf::from)
}

/// The repository.
fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The value of Kamailio's `mpath` for the target; panics when our module is
/// wanted and not built, for otherwise the stock module would be tested.
pub fn module_path(target: Target) -> String {
    match target {
        Target::Upstream => STOCK_MODULE_DIR.to_owned(),
        Target::Ours => ours_first("PRESENCE_MODULE_DIR", "kamailio", "scripts/build"),
    }
}

/// As `module_path`, with our module as built with feature `fault-injection`:
/// that of `PRESENCE_FAULT_MODULE_DIR`, or of `target/kamailio-faults`.
pub fn fault_module_path() -> String {
    let build = "scripts/build --features fault-injection --out target/kamailio-faults";
    ours_first("PRESENCE_FAULT_MODULE_DIR", "kamailio-faults", build)
}

/// The folder of a module of ours, then the stock one's. Panics when there is no
/// module, and when it is older than its sources: otherwise something else would
/// be tested than what is there to be read.
fn ours_first(variable: &str, folder: &str, build: &str) -> String {
    let module = folder_of(variable, folder).join("presence.so");
    let module = module.canonicalize().unwrap_or_else(|error| {
        panic!("no module at {}: {error}\nbuild it ({build}), or set {variable}", module.display())
    });
    let is_built_here = std::env::var_os(variable).is_none();
    if is_built_here && let Some(newer) = newer_source(&module) {
        panic!("{} is older than {}: build it again ({build})", module.display(), newer.display());
    }
    let folder = module.parent().expect("a file has a parent folder");
    format!("{}:{STOCK_MODULE_DIR}", folder.display())
}

/// A source that was changed after the module was built.
fn newer_source(module: &Path) -> Option<PathBuf> {
    static LATEST: OnceLock<Option<(SystemTime, PathBuf)>> = OnceLock::new();
    let latest = LATEST.get_or_init(|| {
        let parts = ["src", "kamailio-shim", "build", "build.rs", "Cargo.toml", "Cargo.lock"];
        parts.iter().filter_map(|part| latest_in(&repository().join(part))).max()
    });
    let (changed, source) = latest.as_ref()?;
    (changed > &modified(module)?).then(|| source.clone())
}

/// The file below this one that was changed last.
fn latest_in(path: &Path) -> Option<(SystemTime, PathBuf)> {
    if !path.is_dir() {
        return Some((modified(path)?, path.to_owned()));
    }
    let entries = std::fs::read_dir(path).ok()?.flatten();
    entries.filter_map(|entry| latest_in(&entry.path())).max()
}

fn modified(path: &Path) -> Option<SystemTime> {
    path.metadata().and_then(|data| data.modified()).ok()
}

/// What the target under test is expected to do where they differ: `decision`
/// is the row of the difference table in `docs/differences.md` (`D…` is a defect of stock).
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
