//! Links between the documents lead somewhere, and the book has every page.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The documents for readers.
fn pages() -> Vec<PathBuf> {
    let root = crate::root();
    let mut pages: Vec<PathBuf> =
        ["README.md", "CHANGELOG.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md"]
            .iter()
            .map(PathBuf::from)
            .collect();
    let entries = root.join("docs").read_dir().unwrap_or_else(|error| panic!("docs: {error}"));
    let names = entries.flatten().map(|entry| Path::new("docs").join(entry.file_name()));
    pages.extend(names.filter(|page| page.extension().is_some_and(|end| end == "md")));
    pages
}

/// The targets of a page's links, code aside.
fn links(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut in_block = false;
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            in_block = !in_block;
        }
        if in_block {
            continue;
        }
        let prose: String = line.split('`').step_by(2).collect::<Vec<_>>().join("``");
        for part in prose.split("](").skip(1) {
            if let Some((target, _)) = part.split_once(')') {
                found.push(target.to_owned());
            }
        }
    }
    found
}

/// The anchor that a heading gets, as GitHub and mdBook make it.
fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}

fn anchors(text: &str) -> BTreeSet<String> {
    let headings = text.lines().filter(|line| line.starts_with('#'));
    headings.map(|line| anchor(line.trim_start_matches('#').trim())).collect()
}

#[test]
fn links_and_anchors_are_read() {
    let text = "# A `b(c)`\n\n[x](y.md#z) `[n](o)` [v](w)\n```\n[k](l)\n```\n";
    assert_eq!(links(text), ["y.md#z", "w"]);
    assert_eq!(anchors(text).into_iter().collect::<Vec<_>>(), ["a-bc"]);
}

#[test]
fn every_link_leads_somewhere() {
    let mut wrong = Vec::new();
    for page in pages() {
        let text = crate::read(&page);
        for link in links(&text) {
            if link.contains("://") || link.starts_with("mailto:") {
                continue;
            }
            let (file, heading) = link.split_once('#').unwrap_or((&link, ""));
            let folder = page.parent().unwrap_or(Path::new(""));
            let path = if file.is_empty() { page.clone() } else { folder.join(file) };
            let there = crate::root().join(&path);
            if !there.exists() {
                wrong.push(format!("{}: there is no {link}", page.display()));
            } else if !heading.is_empty() && !anchors(&crate::read(&path)).contains(heading) {
                wrong.push(format!("{}: {} has no #{heading}", page.display(), path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_book_has_every_page() {
    let summary: BTreeSet<String> = links(&crate::read("docs/SUMMARY.md")).into_iter().collect();
    let names = pages().into_iter().filter_map(|page| {
        let name = page.strip_prefix("docs").ok()?.to_string_lossy().into_owned();
        (name != "SUMMARY.md").then_some(name)
    });
    let missing: Vec<String> = names.filter(|name| !summary.contains(name)).collect();
    assert!(missing.is_empty(), "docs/SUMMARY.md lacks {missing:?}");
}
