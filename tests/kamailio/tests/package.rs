//! The Debian package, unpacked into a folder, and `presence-switch` on copies of
//! configurations of many forms. Nothing is installed.

use presence_kamailio_tests::prelude::*;
use presence_kamailio_tests::target::{STOCK_MODULE_DIR, our_module_dir};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Exit status, and what was said on both outputs.
fn run(command: &mut Command) -> (i32, String) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&text).into_owned())
}

fn run_well(command: &mut Command) -> String {
    let (status, text) = run(command);
    assert_eq!(status, 0, "{command:?}: {text}");
    text
}

/// The packages of the module under test, and the first of them unpacked.
struct Package {
    deb: PathBuf,
    debug: PathBuf,
    root: PathBuf,
}

/// Makes them once, twice over, which must give the same bytes.
fn package() -> &'static Package {
    static PACKAGE: OnceLock<Package> = OnceLock::new();
    PACKAGE.get_or_init(|| {
        let folder = repository().join("target/package-test");
        let _ = fs::remove_dir_all(&folder);
        let module = our_module_dir().join("presence.so");
        let mut script = Command::new(repository().join("scripts/package"));
        script.args(["--no-install", "--twice", "--module"]).arg(&module).arg("--out").arg(&folder);
        let said = run_well(&mut script);
        assert!(said.contains("the same bytes"), "{said}");
        let made = |part: &str| {
            let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{error}"));
            let mut paths = entries.flatten().map(|entry| entry.path());
            let is = |path: &PathBuf| path.to_string_lossy().contains(part);
            paths.find(is).unwrap_or_else(|| panic!("no {part}: {said}"))
        };
        let (deb, debug) = (made("kamailio-presence-rs_"), made("-dbgsym_"));
        let root = folder.join("root");
        run_well(Command::new("dpkg-deb").arg("-x").arg(&deb).arg(&root));
        Package { deb, debug, root }
    })
}

impl Package {
    fn folder(&self) -> PathBuf {
        self.root.join("usr/lib/x86_64-linux-gnu/kamailio-presence-rs")
    }

    fn field(&self, deb: &Path, name: &str) -> String {
        let text = run_well(Command::new("dpkg-deb").arg("-f").arg(deb).arg(name));
        text.trim().to_owned()
    }
}

#[test]
fn the_package_has_files_of_its_own_and_fits_one_kamailio() {
    if !ours_only("the package is ours") {
        return;
    }
    let package = package();
    let list = run_well(Command::new("dpkg-deb").arg("-c").arg(&package.deb));
    for line in list.lines() {
        let Some((_, path)) = line.rsplit_once(" ./") else { panic!("{line}") };
        assert!(line.contains(" root/root "), "{line}");
        let is_ours = ["kamailio-presence-rs", "presence-switch"].iter().any(|n| path.contains(n));
        assert!(path.ends_with('/') || path.is_empty() || is_ours, "{path}");
    }
    let kamailio =
        run_well(Command::new("dpkg-query").args(["-W", "-f", "${Version}", "kamailio"]));
    let depends = package.field(&package.deb, "Depends");
    assert!(depends.split(", ").any(|one| one == format!("kamailio (= {kamailio})")), "{depends}");
    let version = package.field(&package.deb, "Version");
    let name = package.deb.file_name().unwrap_or_default().to_string_lossy().into_owned();
    assert_eq!(name, format!("kamailio-presence-rs_{version}_amd64.deb"));
    let upstream = kamailio.split('-').next().unwrap_or_default();
    assert!(version.ends_with(&format!("+kamailio{upstream}")), "{version}");
    assert_eq!(package.field(&package.deb, "Conffiles"), "");
    let symbols = package.field(&package.debug, "Depends");
    assert_eq!(symbols, format!("kamailio-presence-rs (= {version})"));

    let module = package.folder().join("presence.so");
    let notes = run_well(Command::new("readelf").args(["-n", "-S", "-W"]).arg(&module));
    assert!(!notes.contains(".debug_info") && !notes.contains(".symtab"), "not stripped");
    let build = notes.split("Build ID: ").nth(1).and_then(|rest| rest.split_whitespace().next());
    let (first, rest) = build.unwrap_or_else(|| panic!("no build id")).split_at(2);
    let list = run_well(Command::new("dpkg-deb").arg("-c").arg(&package.debug));
    assert!(list.contains(&format!("/usr/lib/debug/.build-id/{first}/{rest}.debug")), "{list}");

    let documents = package.root.join("usr/share/doc/kamailio-presence-rs");
    let bill = fs::read_to_string(documents.join("sbom.spdx.json")).unwrap_or_default();
    let bill: serde_json::Value = serde_json::from_str(&bill).unwrap_or_default();
    assert_eq!(bill["spdxVersion"], "SPDX-2.3");
    let parts = bill["packages"].as_array().cloned().unwrap_or_default();
    assert_eq!(parts[0]["versionInfo"], version.as_str());
    for part in &parts[1..] {
        let sum = part["checksums"][0]["checksumValue"].as_str().unwrap_or_default();
        assert!(sum.len() == 64 && part["licenseDeclared"] != "NOASSERTION", "{part}");
    }
    assert!(parts.iter().any(|part| part["name"] == "quick-xml"), "{parts:?}");
    for page in ["man8/presence-switch.8.gz", "man7/kamailio-presence-rs.7.gz"] {
        let text =
            run_well(Command::new("zcat").arg(package.root.join("usr/share/man").join(page)));
        assert!(text.contains(&version) && !text.contains("@VERSION@"), "{page}: {text}");
    }
}

/// A configuration in a folder of its own.
struct Site {
    folder: tempfile::TempDir,
    stock: PathBuf,
}

impl Site {
    fn new(files: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap_or_else(|error| panic!("{error}"));
        for (name, text) in files {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap_or(&path)).unwrap_or_default();
            fs::write(&path, text).unwrap_or_else(|error| panic!("{name}: {error}"));
        }
        Site { folder, stock: STOCK_MODULE_DIR.into() }
    }

    fn switch(&self, arguments: &[&str]) -> (i32, String) {
        let package = package();
        let config = self.folder.path().join("kamailio.cfg");
        let mut command = Command::new(package.root.join("usr/sbin/presence-switch"));
        command.arg("--config").arg(config).arg("--folder").arg(package.folder());
        run(command.arg("--stock").arg(&self.stock).args(arguments))
    }

    /// What must go well; returns what was said.
    fn switch_well(&self, arguments: &[&str]) -> String {
        let (status, text) = self.switch(arguments);
        assert_eq!(status, 0, "{arguments:?}: {text}\n{}", self.text("kamailio.cfg"));
        text
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.folder.path().join(name)).unwrap_or_default()
    }

    fn files(&self) -> Vec<(PathBuf, String)> {
        fn below(folder: &Path, found: &mut Vec<(PathBuf, String)>) {
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                let path = entry.path();
                match path.is_dir() {
                    true => below(&path, found),
                    false => {
                        found.push((path.clone(), fs::read_to_string(&path).unwrap_or_default()))
                    }
                }
            }
        }
        let mut found = Vec::new();
        below(self.folder.path(), &mut found);
        found.sort();
        found
    }
}

const CORE: &str = "debug=1\nlog_stderror=yes\nlisten=udp:127.0.0.1:5999\n";
const BASE: &str = "loadmodule \"sl.so\"\nloadmodule \"tm.so\"\n";
const PATH: &str = "mpath=\"/usr/lib/x86_64-linux-gnu/kamailio/modules\"\n";
const REST: &str = "request_route { drop; }\n";

/// The forms in which sites write mpath and the line that loads the module.
fn forms() -> Vec<(&'static str, Vec<(&'static str, String)>)> {
    let whole = |middle: &str| vec![("kamailio.cfg", format!("#!KAMAILIO\n{CORE}{middle}{REST}"))];
    let presence = "loadmodule \"presence.so\"\n";
    let bare = PATH.replace("mpath=", "").trim().to_owned();
    vec![
        ("as Debian's: no mpath", whole(&format!("# {PATH}{BASE}{presence}"))),
        ("one mpath", whole(&format!("{PATH}{BASE}{presence}"))),
        ("no equals sign, slash at the end", {
            whole(&format!(
                "loadpath {} # here\n{BASE}loadmodule 'presence'\n",
                bare.replace("s\"", "s/\"")
            ))
        }),
        ("mpath by a define, in a branch", {
            let branches = "#!ifdef NONE\nmpath=\"/nowhere\"\n#!else\nmpath=MODULES\n#!endif\n";
            whole(&format!("#!define MODULES {bare}\n{branches}{BASE}{presence}"))
        }),
        ("text that is none: comments, strings, other modules", {
            let noise = "/* loadmodule \"presence.so\"\n mpath=\"/a\" */\n// mpath=\"/b\"\n";
            let later = "modparam(\"sl\", \"default_reason\", \"mpath=\\\"/c\\\" # no\")\n";
            whole(&format!("{noise}{PATH}{BASE}{later}{presence}loadmodule \"pv.so\"\n"))
        }),
        ("includes: mpath in one, the module in another", {
            vec![
                (
                    "kamailio.cfg",
                    format!(
                        "{CORE}include_file \"a/path.cfg\"\n#!include_file \"a/b/modules.cfg\"\nimport_file \"none.cfg\"\n{REST}"
                    ),
                ),
                ("a/path.cfg", PATH.to_owned()),
                ("a/b/modules.cfg", format!("{BASE}include_file \"last.cfg\"\n")),
                ("a/b/last.cfg", presence.to_owned()),
            ]
        }),
        (
            "the whole path",
            whole(&format!("{BASE}loadmodule \"{STOCK_MODULE_DIR}/presence.so\"\n")),
        ),
    ]
}

#[test]
fn presence_switch_goes_on_and_back_in_every_form() {
    if !ours_only("the package is ours") {
        return;
    }
    let ours = package().folder().join("presence.so").display().to_string();
    for (name, files) in forms() {
        let files: Vec<(&str, &str)> = files.iter().map(|(n, text)| (*n, text.as_str())).collect();
        let site = Site::new(&files);
        let before = site.files();
        let (status, said) = site.switch(&["status"]);
        assert_eq!(status, 3, "{name}: {said}");
        assert!(said.contains(&format!("{STOCK_MODULE_DIR}/presence.so (off)")), "{name}: {said}");
        site.switch_well(&["off"]);
        assert_eq!(site.files(), before, "{name}: off when it is off");

        site.switch_well(&["on"]);
        let on = site.files();
        let said = site.switch_well(&["status"]);
        assert!(said.contains(&format!("Configured:  {ours} (on)")), "{name}: {said}");
        assert!(site.switch_well(&["on"]).contains("already"), "{name}");
        assert_eq!(site.files(), on, "{name}: on when it is on");
        let said = site.switch_well(&["check"]);
        assert!(said.contains("presence-switch off works"), "{name}: {said}");
        assert_eq!(site.files(), on, "{name}: check changes nothing");

        site.switch_well(&["off"]);
        let changed: Vec<_> = before.iter().zip(site.files()).filter(|(a, b)| **a != *b).collect();
        assert!(changed.is_empty() && site.files().len() == before.len(), "{name}: {changed:?}");
    }
}

#[test]
fn presence_switch_names_what_the_stock_module_refuses() {
    if !ours_only("the package is ours") {
        return;
    }
    let own = "modparam(\"presence\",\n    \"winfo_presentity_only\",\n    1)\n";
    let both =
        "modparam(\"presence\", \"max_expires\", 600)\nmodparam(\"presence\", \"db_url\", \"\")\n";
    let text = format!("{CORE}{PATH}{BASE}loadmodule \"presence.so\"\n{both}{own}{REST}");
    let line = text.lines().position(|line| {
        line.starts_with("modparam(\"presence\",")
            && !line.contains("max_expires")
            && !line.contains("db_url")
    });
    let site = Site::new(&[("kamailio.cfg", &text)]);
    site.switch_well(&["on"]);
    let on = site.files();
    let place =
        format!("kamailio.cfg:{}: parameter \"winfo_presentity_only\"", line.unwrap_or(0) + 1);
    for action in ["check", "off"] {
        let (status, said) = site.switch(&[action]);
        assert_eq!(status, 1, "{action}: {said}");
        assert!(said.contains(&place), "{action}: {said}");
        assert!(!said.contains("max_expires") && !said.contains("parameter \"db_url\""), "{said}");
        assert_eq!(site.files(), on, "{action}");
    }
    site.switch_well(&["off", "--comment-out"]);
    let off = site.text("kamailio.cfg");
    assert!(off.contains("#     \"winfo_presentity_only\",\n"), "{off}");
    site.switch_well(&["on"]);
    assert_eq!(site.text("kamailio.cfg"), on[0].1);
}

#[test]
fn presence_switch_leaves_a_configuration_alone_that_would_not_load() {
    if !ours_only("the package is ours") {
        return;
    }
    let good = format!("{CORE}{PATH}{BASE}loadmodule \"presence.so\"\n{REST}");
    let bad = format!("{good}modparam(\"presence\", \"no_such_thing\", 1)\n");
    let site = Site::new(&[("kamailio.cfg", &bad)]);
    let before = site.files();
    let (status, said) = site.switch(&["on"]);
    assert!(status == 1 && said.contains("no_such_thing"), "{said}");
    assert_eq!(site.files(), before);

    // Kamailio was upgraded: the stock modules are of another version.
    let mut site = Site::new(&[("kamailio.cfg", &good)]);
    site.switch_well(&["on"]);
    let newer = tempfile::tempdir().unwrap_or_else(|error| panic!("{error}"));
    for name in ["tm.so", "presence.so"] {
        let mut bytes = fs::read(Path::new(STOCK_MODULE_DIR).join(name)).unwrap_or_default();
        let found = bytes
            .windows(10)
            .position(|part| part.starts_with(b"kamailio ") && part[9].is_ascii_digit());
        bytes[found.unwrap_or_else(|| panic!("no version in {name}")) + 9] = b'9';
        fs::write(newer.path().join(name), bytes).unwrap_or_else(|error| panic!("{error}"));
    }
    site.stock = newer.path().to_owned();
    let on = site.files();
    let (status, said) = site.switch(&["check", "--quiet"]);
    assert!(
        status == 1 && said.contains("does not fit") && said.contains("Before a restart"),
        "{said}"
    );
    let (status, said) = site.switch(&["on"]);
    assert!(status == 1 && said.contains("does not fit"), "{said}");
    assert_eq!(site.files(), on);
}

#[test]
fn presence_switch_says_how_it_is_used() {
    if !ours_only("the package is ours") {
        return;
    }
    let site = Site::new(&[("kamailio.cfg", &format!("{CORE}{REST}"))]);
    assert!(site.switch_well(&["--help"]).contains("Usage: presence-switch"));
    for wrong in [&["--no-such-option"][..], &[], &["on", "off"], &["--config"]] {
        assert_eq!(site.switch(wrong).0, 2, "{wrong:?}");
    }
    let (status, said) = site.switch(&["on"]);
    assert!(status == 1 && said.contains("does not load presence.so"), "{said}");
}
