//! The examples of `docs/`: Kamailio takes every configuration, and answers every
//! command. What they are is said by the language of their block:
//!
//! * `kamailio`: statements of a configuration;
//! * `kamailio,route`: statements of `request_route`;
//! * `rpc`: lines that begin with `kamcmd`.

use presence_kamailio_tests::prelude::*;
use presence_kamailio_tests::target::module_path;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A block of code of a page.
struct Block {
    page: String,
    line: usize,
    language: String,
    text: String,
}

fn documents() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs")
}

fn blocks() -> Vec<Block> {
    let entries = documents().read_dir().unwrap_or_else(|error| panic!("docs: {error}"));
    let mut pages: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    pages.sort();
    pages.retain(|page| page.extension().is_some_and(|extension| extension == "md"));
    pages.iter().flat_map(|page| blocks_of(page)).collect()
}

fn blocks_of(page: &Path) -> Vec<Block> {
    let text = std::fs::read_to_string(page).unwrap_or_else(|error| panic!("{error}"));
    let name = page.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut found: Vec<Block> = Vec::new();
    let mut open = false;
    for (number, line) in text.lines().enumerate() {
        match (line.trim_start().strip_prefix("```"), open) {
            (Some(language), false) => {
                let (page, language) = (name.clone(), language.trim().to_owned());
                found.push(Block { page, line: number + 1, language, text: String::new() });
                open = true;
            }
            (Some(_), true) => open = false,
            (None, true) => {
                if let Some(block) = found.last_mut() {
                    block.text += line;
                    block.text.push('\n');
                }
            }
            (None, false) => {}
        }
    }
    assert!(!open, "{name}: a block of code has no end");
    found
}

/// What the examples need and do not load themselves.
const MODULES: &[&str] = &[
    "kex",
    "corex",
    "tm",
    "sl",
    "pv",
    "xlog",
    "rr",
    "maxfwd",
    "textops",
    "textopsx",
    "siputils",
    "pike",
    "ctl",
    "usrloc",
    "registrar",
    "auth",
    "auth_db",
    "db_sqlite",
    "presence",
    "presence_xml",
    "presence_dialoginfo",
];

/// Modules of packages that the tests do not ask for.
const ABSENT: &[&str] = &["tls.so"];

/// A configuration with these statements and routes. A module that several examples
/// load is loaded once, and before the parameters of all.
fn configuration(statements: &[&Block], routes: &[&Block]) -> String {
    let mut modules: Vec<String> = MODULES.iter().map(|name| format!("{name}.so")).collect();
    let mut rest = String::new();
    for block in statements {
        rest += &format!("# {} {}\n", block.page, block.line);
        for line in block.text.lines() {
            match line.strip_prefix("loadmodule \"").and_then(|line| line.split('"').next()) {
                Some(module) if modules.iter().any(|loaded| loaded == module) => {}
                Some(module) => modules.push(module.to_owned()),
                None => {
                    rest += line;
                    rest.push('\n');
                }
            }
        }
    }
    let (core, other): (Vec<&str>, Vec<&str>) = rest.lines().partition(|line| is_core(line));
    let modules: String = modules.iter().map(|name| format!("loadmodule \"{name}\"\n")).collect();
    let url = "\"sqlite:////nowhere/presence.sqlite\"";
    let mut text = format!(
        "debug=1\nlog_stderror=yes\nlisten=udp:127.0.0.1:5999\n{}\n{modules}\
         modparam(\"presence|presence_xml\", \"db_url\", {url})\n{}\nrequest_route {{ drop; }}\n",
        core.join("\n"),
        other.join("\n")
    );
    // A route is its own configuration in the eyes of a reader: each has a name.
    for (number, block) in routes.iter().enumerate() {
        text += &format!("route[EXAMPLE_{number}] {{\n{}}}\n", block.text);
    }
    text
}

/// Settings of the core stand before the modules.
fn is_core(line: &str) -> bool {
    let name = line.split('=').next().unwrap_or_default();
    line.contains('=')
        && name.chars().all(|c| c.is_ascii_lowercase() || c == '_' || c.is_ascii_digit())
}

/// What `kamailio -c` says of it, if that is not good.
fn complaint(text: &str) -> Option<String> {
    let file = tempfile::NamedTempFile::new().unwrap_or_else(|error| panic!("{error}"));
    std::fs::write(file.path(), text).unwrap_or_else(|error| panic!("{error}"));
    let output = Command::new("kamailio")
        .args(["-c", "-L", &module_path(target()), "-f"])
        .arg(file.path())
        .output()
        .unwrap_or_else(|error| panic!("kamailio: {error}"));
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    (!output.status.success()).then(|| {
        let numbered = text.lines().enumerate().map(|(n, line)| format!("{:4} {line}\n", n + 1));
        format!("{said}\n{}", numbered.collect::<String>())
    })
}

#[test]
fn kamailio_takes_every_example() {
    if !ours_only("the examples have parameters of ours") {
        return;
    }
    let blocks = blocks();
    let of = |language: &str| -> Vec<&Block> {
        blocks.iter().filter(|block| block.language == language).collect()
    };
    let is_absent = |block: &&Block| ABSENT.iter().any(|name| block.text.contains(name));
    let mut statements = of("kamailio");
    statements.retain(|block| !is_absent(block));
    // Event routes stand for themselves, and examples without a database.
    let (alone, together): (Vec<&Block>, Vec<&Block>) =
        statements.into_iter().partition(|block| stands_alone(block));
    assert!(together.len() > 10, "only {} examples are found", together.len());
    let routes = of("kamailio,route");
    if let Some(said) = complaint(&configuration(&together, &routes)) {
        panic!("{said}");
    }
    for block in alone {
        if let Some(said) = complaint(&configuration(&[block], &[])) {
            panic!("{} {}: {said}", block.page, block.line);
        }
    }
}

/// Kamailio has one of each event route, and a few values exclude others.
fn stands_alone(block: &Block) -> bool {
    block.text.contains("event_route[presence:notify-reply]")
}

#[test]
fn every_language_of_a_block_is_known() {
    let known = ["", "kamailio", "kamailio,route", "rpc", "lua", "c", "sql", "sh", "text"];
    let blocks = blocks();
    let strange: Vec<String> = blocks
        .iter()
        .filter(|block| !known.contains(&block.language.as_str()))
        .map(|block| format!("{} {}: {}", block.page, block.line, block.language))
        .collect();
    assert!(strange.is_empty(), "{strange:?}");
}

#[test]
fn every_command_of_the_examples_is_answered() {
    if !ours_only("some commands are ours") {
        return;
    }
    let commands: BTreeSet<String> = blocks()
        .iter()
        .filter(|block| block.language == "rpc")
        .flat_map(|block| block.text.lines().map(str::to_owned).collect::<Vec<_>>())
        .collect();
    assert!(commands.len() > 5, "{commands:?}");
    let kamailio = Kamailio::start(
        Config::new(Storage::Default)
            .parameter("presence_xml", "force_active", 0)
            .parameter("presence_xml", "integrated_xcap_server", 1)
            .parameter("presence_xml", "db_url", "@DATABASE@"),
    );
    // Whom the examples name: her state, her rules and who watches her.
    let rules =
        "<?xml version=\"1.0\"?><cr:ruleset xmlns:cr=\"urn:ietf:params:xml:ns:common-policy\"/>";
    kamailio.execute(&format!(
        "INSERT INTO xcap (username, domain, doc, doc_type, etag, source, doc_uri, port) \
         VALUES ('alice', 'example.org', '{rules}', 2, 'e1', 0, 'rules', 0)"
    ));
    Publisher::udp(&kamailio, "sip:alice@example.org").publish(bodies::open("alice"));
    for line in commands {
        let words: Vec<&str> = line.split_whitespace().collect();
        let ["kamcmd", arguments @ ..] = words.as_slice() else { panic!("no kamcmd: {line}") };
        kamailio.rpc_ok(arguments);
    }
    kamailio.finish();
}
