//! Where things are kept is asked for in one place for each seam: nothing else names the
//! parameters that say so, or their types. (What the parameters mean together is
//! `config`'s.)

use crate::source::{files, tokens};

/// What names a mode, and the one file that may.
const SEAMS: [(&[&str], &str); 3] = [
    (&["subs_db_mode", "SubscriptionMode"], "src/service/subscriptions/storage.rs"),
    (&["publ_cache", "PublicationCache"], "src/service/publications/mod.rs"),
    (&["notifier_processes"], "src/service/notifier_slots.rs"),
];

/// Those who prepare for where subscriptions are kept: what they are told (`Keeping`)
/// is for nobody else.
const PREPARES: [&str; 6] = [
    "src/host/module.rs",
    "src/host/reply_event.rs",
    "src/service/mod.rs",
    "src/service/policy.rs",
    "src/service/subscriptions.rs",
    "src/service/subscriptions/storage.rs",
];

/// Where a source names one of these, outside of comments and texts.
fn lines_with(source: &str, names: &[&str]) -> Vec<usize> {
    let found = tokens(source).into_iter().filter(|token| names.contains(&token.text.as_str()));
    found.map(|token| token.line).collect()
}

#[test]
fn a_mode_is_asked_for_in_one_place() {
    let mut wrong = Vec::new();
    for file in files("src") {
        let name = file.to_str().unwrap();
        if name == "src/config.rs" || name.starts_with("src/config/") {
            continue;
        }
        let source = crate::read(&file);
        for (names, seam) in SEAMS {
            if name != seam {
                let found = lines_with(&source, names);
                wrong.extend(found.iter().map(|line| format!("{name}:{line}: ask {seam}")));
            }
        }
        if !PREPARES.contains(&name) {
            let found = lines_with(&source, &["Keeping", "keeping"]);
            wrong.extend(found.iter().map(|line| format!("{name}:{line}: ask the storage")));
        }
    }
    assert!(wrong.is_empty(), "a mode is asked for:\n{}", wrong.join("\n"));
}

/// Each seam does ask, or the test above would say nothing.
#[test]
fn each_seam_asks() {
    for (names, seam) in SEAMS {
        assert!(!lines_with(&crate::read(seam), names).is_empty(), "{seam} asks for nothing");
    }
    let source = "// subs_db_mode\nfn f(c: &Config) { \"publ_cache\"; c.subs_db_mode; }";
    assert_eq!(lines_with(source, &["subs_db_mode", "publ_cache"]), [2]);
}
