//! The terms of ARCHITECTURE.md: the code has the names that the page gives, and no
//! word that one of them has replaced comes back.

use crate::markdown::{codes, table};
use crate::source::{Token, files, tokens};
use std::collections::HashSet;

/// Words that a term has replaced, and the term.
const REPLACED: &[(&str, &str)] = &[
    ("Farewell", "FinalPublication"),
    ("farewells", "finals"),
    ("told", "notified"),
    ("Told", "FanOut"),
    ("Seldom", "RateLimitedLog"),
    ("seize", "force_unlock"),
    ("Aside", "PresentityExtra"),
    ("spared", "excluded"),
    ("DueRow", "PendingNotify"),
    ("WalkStep", "FanOutStep"),
    ("turn_of", "slot_of"),
    ("Served", "RequestOutcome"),
    ("Publishing", "PublicationRequest"),
    ("left_over", "orphaned_rows"),
];

/// The layers that the terms are about.
const LAYERS: [&str; 4] = ["src/presence", "src/store", "src/service", "src/shm"];

fn names() -> HashSet<String> {
    let all = files("src").into_iter().flat_map(|file| tokens(&crate::read(file)));
    all.map(|token| token.text).collect()
}

#[test]
fn the_code_has_the_names_of_the_terms() {
    let (names, page) = (names(), crate::read("ARCHITECTURE.md"));
    let mut missing = Vec::new();
    for row in table(&page, &["term", "meaning"]) {
        for code in codes(&row[2]).into_iter().filter(|code| !names.contains(code.text)) {
            missing.push(format!("{}: there is no {}", row[0], code.text));
        }
    }
    assert!(missing.is_empty(), "ARCHITECTURE.md, terms:\n{}", missing.join("\n"));
}

#[test]
fn a_word_that_was_replaced_does_not_come_back() {
    let mut found = Vec::new();
    for file in LAYERS.iter().flat_map(|layer| files(layer)) {
        for token in tokens(&crate::read(&file)) {
            if let Some((_, term)) = REPLACED.iter().find(|(word, _)| *word == token.text) {
                let Token { text, line } = token;
                found.push(format!("{}:{line}: {text} is {term}", file.display()));
            }
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}
