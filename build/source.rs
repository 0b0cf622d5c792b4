//! The Kamailio source tree: where it is, and with which definitions the
//! distribution compiled it. Modules must be compiled with the same ones: they
//! decide the layout of structures, and the loader compares a string of them.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::words;

/// How to get a source tree; ends the error messages.
const MEND: &str = "run scripts/fetch-kamailio-source, or set KAMAILIO_SRC to the unpacked source of the Kamailio you run";

/// A source tree and how it was configured.
pub struct Kamailio {
    /// The folder that holds `core/` and `modules/`.
    pub src: PathBuf,
    /// `-D…` arguments.
    pub definitions: Vec<String>,
    /// First number of the version.
    pub major: u32,
}

impl Kamailio {
    /// Finds the tree and learns its definitions.
    pub fn discover(root: &Path, out: &Path) -> Result<Kamailio, String> {
        let tree = locate(root)?;
        let src = tree.join("src");
        println!("cargo:rerun-if-changed={}", src.join("Makefile.defs").display());
        let lists = tree.join("CMakeLists.txt");
        if lists.is_file() {
            println!("cargo:rerun-if-changed={}", lists.display());
        }
        let definitions = if built_with_cmake(&tree) {
            definitions_of_cmake(&tree, out)?
        } else {
            definitions_of_make(&src, out)?
        };
        let has = |name: &str| definitions.iter().any(|d| d.strip_prefix("-D") == Some(name));
        if !has("USE_FUTEX") && !has("FAST_LOCK") {
            return Err(format!(
                "{} is configured with neither USE_FUTEX nor FAST_LOCK; only these locks are free when all zero, which shared tables rely on: set KAMAILIO_SRC to a tree for this platform",
                tree.display()
            ));
        }
        let major = definitions
            .iter()
            .find_map(|d| d.strip_prefix("-DVERSION=\"")?.split('.').next()?.parse().ok())
            .ok_or_else(|| {
                format!("no VERSION among the definitions of {}: {MEND}", tree.display())
            })?;
        Ok(Kamailio { src, definitions, major })
    }

    /// Arguments for a C compiler and for libclang.
    pub fn compiler_arguments(&self) -> Vec<String> {
        let mut arguments = self.definitions.clone();
        arguments.push("-DMOD_NAME=\"presence\"".into());
        // As system headers: their warnings are not ours.
        arguments.push("-isystem".into());
        arguments.push(self.src.display().to_string());
        arguments.push("-std=gnu11".into());
        arguments
    }
}

fn locate(root: &Path) -> Result<PathBuf, String> {
    println!("cargo:rerun-if-env-changed=KAMAILIO_SRC");
    let candidates = match std::env::var_os("KAMAILIO_SRC") {
        Some(given) => vec![PathBuf::from(given)],
        None => fetched(&root.join("target/kamailio-src")),
    };
    match candidates.as_slice() {
        [] => Err(format!("no Kamailio source: {MEND}")),
        [tree] if tree.join("src/core/sr_module.h").is_file() => {
            tree.canonicalize().map_err(|e| format!("{}: {e}: {MEND}", tree.display()))
        }
        [tree] => Err(format!("{} has no src/core/sr_module.h: {MEND}", tree.display())),
        _ => Err(format!("several trees in target/kamailio-src: {MEND}")),
    }
}

fn fetched(folder: &Path) -> Vec<PathBuf> {
    println!("cargo:rerun-if-changed={}", folder.display());
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            path.is_dir()
                && path.file_name().is_some_and(|n| n.to_string_lossy().starts_with("kamailio-"))
        })
        .collect()
}

/// From 6.1 the distributions build with CMake, and the makefiles that are
/// still there give other definitions. 6.0 can be built with either. Master may
/// have no makefiles at all.
fn built_with_cmake(tree: &Path) -> bool {
    let lists = std::fs::read_to_string(tree.join("CMakeLists.txt")).unwrap_or_default();
    let makefile = std::fs::read_to_string(tree.join("src/Makefile.defs")).unwrap_or_default();
    let version = version_of_cmake(&lists).or_else(|| version_of_make(&makefile));
    version.is_some_and(|version| version >= (6, 1))
}

/// The version in `project(kamailio VERSION x.y.z …)`.
fn version_of_cmake(lists: &str) -> Option<(u32, u32)> {
    let project = lists.split("project(").nth(1)?.split(')').next()?;
    let mut words = project.split_whitespace().skip_while(|word| *word != "VERSION");
    let mut numbers = words.nth(1)?.split('.').map(|number| number.parse().ok());
    Some((numbers.next()??, numbers.next()??))
}

/// The version that `Makefile.defs` sets.
fn version_of_make(makefile: &str) -> Option<(u32, u32)> {
    let number = |name: &str| {
        makefile.lines().find_map(|line| {
            line.strip_prefix(name)?.trim().strip_prefix('=')?.trim().parse::<u32>().ok()
        })
    };
    Some((number("VERSION")?, number("PATCHLEVEL")?))
}

/// 5.6 and 6.0: `make cfg` writes the definitions to `config.mak`. It needs
/// the makefiles only, so it runs in a copy and the tree stays untouched.
fn definitions_of_make(src: &Path, out: &Path) -> Result<Vec<String>, String> {
    let copy = out.join("kamailio-config");
    for folder in ["", "core"] {
        let into = copy.join(folder);
        std::fs::create_dir_all(&into).map_err(|e| format!("{}: {e}", into.display()))?;
        let entries = std::fs::read_dir(src.join(folder))
            .map_err(|e| format!("{}: {e}: {MEND}", src.join(folder).display()))?;
        for file in entries.filter_map(|entry| Some(entry.ok()?.path())) {
            let Some(name) = file.file_name() else { continue };
            if name.to_string_lossy().starts_with("Makefile") {
                std::fs::copy(&file, into.join(name))
                    .map_err(|e| format!("{}: {e}", file.display()))?;
            }
        }
    }
    // Cargo's variables (TARGET, PROFILE, DEBUG …) mean something else there.
    // The makefiles look for libssl, whose presence at Debian's build decides
    // one flag of the loader's comparison; the module does not need it.
    let configure = ["cfg", "FLAVOUR=kamailio", "LIBSSL_SET_MUTEX_SHARED=1"];
    run(Command::new("make").args(configure).current_dir(&copy), "make gcc")?;
    let config = copy.join("config.mak");
    let text =
        std::fs::read_to_string(&config).map_err(|e| format!("{}: {e}", config.display()))?;
    Ok(text
        .lines()
        .filter_map(|line| {
            // The mutex option is part of the loader's string, too.
            line.strip_prefix("C_DEFS=").or_else(|| line.strip_prefix("CC_PMUTEX_OPTS="))
        })
        .flat_map(words::definitions)
        .collect())
}

/// 6.1: CMake lists the command that compiles each file. Two modules that need no
/// library are enough; the group of all usual ones would ask for many.
fn definitions_of_cmake(tree: &Path, out: &Path) -> Result<Vec<String>, String> {
    let build = out.join("kamailio-cmake");
    // What is left of another tree would be refused.
    match std::fs::remove_dir_all(&build) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            return Err(format!("{}: {e}", build.display()));
        }
        _ => {}
    }
    run(
        Command::new("cmake").arg("-S").arg(tree).arg("-B").arg(&build).args([
            "-DCMAKE_EXPORT_COMPILE_COMMANDS=ON",
            "-DMODULE_GROUP_NAME=",
            "-DINCLUDE_MODULES=tm sl",
            "-DCMAKE_BUILD_TYPE=None",
        ]),
        "cmake flex bison gcc",
    )?;
    let commands = build.join("compile_commands.json");
    let text =
        std::fs::read_to_string(&commands).map_err(|e| format!("{}: {e}", commands.display()))?;
    // One command a line; only the JSON string's quotes are escaped.
    let command = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix("\"command\": \"")?.strip_suffix("\","))
        .find(|command| command.contains("modules/tm/"))
        .ok_or_else(|| format!("{} does not compile modules/tm", commands.display()))?;
    let command = command.replace("\\\"", "\"").replace("\\\\", "\\");
    let is_of_tm = |d: &String| d.starts_with("-DMOD_NAME") || d == "-Dtm_EXPORTS";
    Ok(words::definitions(&command).filter(|d| !is_of_tm(d)).collect())
}

fn run(command: &mut Command, packages: &str) -> Result<(), String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command
        .env_clear()
        .env("PATH", path)
        .output()
        .map_err(|e| format!("{name}: {e}: apt-get install {packages}"))?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let last = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("no message");
    Err(format!("{name} failed on Kamailio's build files ({last}): apt-get install {packages}"))
}
