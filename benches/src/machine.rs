//! What the numbers were taken on.

use presence_kamailio_tests::target::our_module_dir;
use std::process::Command;

fn first_line(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    text.ok().and_then(|text| text.lines().next().map(str::to_owned)).unwrap_or_default()
}

fn from_file(file: &str, name: &str) -> String {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    text.lines()
        .find(|line| line.starts_with(name))
        .and_then(|line| line.split_once([':', '=']))
        .map(|(_, value)| value.trim().trim_matches('"').to_owned())
        .unwrap_or_default()
}

/// Name and value of each property.
pub fn describe() -> Vec<(&'static str, String)> {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let memory = from_file("/proc/meminfo", "MemTotal");
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let buffer = std::fs::read_to_string("/proc/sys/net/core/rmem_max").unwrap_or_default();
    let module = our_module_dir().join("presence.so");
    let size = std::fs::metadata(&module).map(|data| data.len()).unwrap_or_default();
    let commit = first_line("git", &["describe", "--always", "--dirty"]);
    vec![
        ("processor", format!("{}, {cores} cores", from_file("/proc/cpuinfo", "model name"))),
        ("memory", memory),
        (
            "system",
            format!("{}, Linux {}", from_file("/etc/os-release", "PRETTY_NAME"), kernel.trim()),
        ),
        ("Kamailio", first_line("kamailio", &["-v"])),
        ("our module", format!("{size} bytes, commit {commit}")),
        ("valgrind", first_line("valgrind", &["--version"])),
        ("net.core.rmem_max", buffer.trim().to_owned()),
    ]
}
