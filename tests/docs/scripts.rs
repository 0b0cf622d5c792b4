//! Every script says how it is used.

use std::process::Command;

#[test]
fn every_script_has_help() {
    let folder = crate::root().join("scripts");
    let entries = folder.read_dir().unwrap_or_else(|error| panic!("scripts: {error}"));
    let mut seen = 0;
    for path in entries.flatten().map(|entry| entry.path()) {
        // Sourced by the others.
        if path.file_name().is_some_and(|name| name == "lib.sh") {
            continue;
        }
        let output = Command::new(&path).arg("--help").output();
        let output = output.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{}: {said}", path.display());
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        assert!(said.starts_with(&format!("Usage: scripts/{name}")), "{name}: {said}");
        assert!(said.contains("--help"), "{name} --help does not name itself: {said}");
        // A word that is no option is refused, and says where help is.
        let output = Command::new(&path).arg("--no-such-option").output();
        let output = output.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert!(!output.status.success(), "{name} takes --no-such-option");
        seen += 1;
    }
    assert!(seen > 8, "only {seen} scripts");
}
