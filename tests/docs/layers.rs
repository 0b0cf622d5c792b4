//! A layer uses what the table of the layers in ARCHITECTURE.md lets it use, and
//! nothing else.

use crate::markdown::{codes, table};
use crate::source::{Named, files, module, paths, tokens};
use std::collections::BTreeMap;

/// One row of the table.
struct Layer {
    name: String,
    /// Other layers it may use; where names follow in brackets, those of it only.
    may_use: BTreeMap<String, Vec<String>>,
    may_use_all: bool,
    /// Modules of `std` that it must not use.
    must_not: Vec<String>,
}

fn layers() -> Vec<Layer> {
    let rows = table(&crate::read("ARCHITECTURE.md"), &["layer", "may use", "must not"]);
    rows.iter().map(|row| layer(row)).collect()
}

fn layer(row: &[String]) -> Layer {
    let [name, may_use, must_not] = row else { panic!("{row:?} has not three cells") };
    let mut layer = Layer {
        name: folder(codes(name)[0].text).to_owned(),
        may_use: BTreeMap::new(),
        may_use_all: may_use == "everything",
        must_not: codes(must_not).iter().map(|code| code.text.to_owned()).collect(),
    };
    layer.must_not.retain(|name| name.starts_with("std::"));
    let mut last = String::new();
    for code in codes(may_use) {
        if code.in_brackets {
            layer.may_use.get_mut(&last).unwrap().push(code.text.to_owned());
        } else {
            last = folder(code.text).to_owned();
            layer.may_use.insert(last.clone(), Vec::new());
        }
    }
    layer
}

fn folder(name: &str) -> &str {
    name.trim_end_matches('/')
}

impl Layer {
    /// Whether a path that one of its files names is one it must not name.
    fn forbids(&self, named: &Named) -> bool {
        if named.path[0] == "std" {
            let of_std = named.path.join("::") + "::";
            return self.must_not.iter().any(|name| of_std.starts_with(&format!("{name}::")));
        }
        if self.may_use_all || named.path[0] == self.name {
            return false;
        }
        match self.may_use.get(&named.path[0]) {
            None => true,
            Some(only) if only.is_empty() => false,
            Some(only) => !named.path.get(1).is_some_and(|name| only.contains(name)),
        }
    }
}

#[test]
fn layers_use_what_the_table_lets_them_use() {
    let layers = layers();
    let mut wrong = String::new();
    for file in files("src") {
        let module = module(&file);
        let Some(layer) = layers.iter().find(|layer| Some(&layer.name) == module.first()) else {
            assert!(module.is_empty(), "{}: no layer of the table", file.display());
            continue;
        };
        for named in paths(&module, &crate::read(&file)) {
            if layer.forbids(&named) {
                let (path, line) = (named.path.join("::"), named.line);
                wrong += &format!("\n{}:{line}: `{}` names {path}", file.display(), layer.name);
            }
        }
    }
    assert!(wrong.is_empty(), "ARCHITECTURE.md, Layers, forbids:{wrong}");
}

/// The table has every module of the crate; all of them but `shm` and `host`
/// forbid unsafe code.
#[test]
fn the_table_has_every_layer() {
    let words = tokens(&crate::read("src/lib.rs"));
    let words: Vec<_> = words.iter().map(|token| token.text.as_str()).collect();
    let modules = words.windows(2).enumerate().filter(|(_, pair)| pair[0] == "mod");
    let mut modules: Vec<_> = modules.map(|(at, pair)| (pair[1], at)).collect();
    for (name, at) in &modules {
        let attribute = &words[at.saturating_sub(8)..*at];
        let is_safe = attribute.windows(3).any(|words| words == ["forbid", "(", "unsafe_code"]);
        assert_eq!(is_safe, !["shm", "host"].contains(name), "unsafe code in `{name}`");
    }
    let layers = layers();
    let mut listed: Vec<_> = layers.iter().map(|layer| layer.name.as_str()).collect();
    listed.sort_unstable();
    modules.sort_unstable();
    assert_eq!(listed, modules.iter().map(|(name, _)| *name).collect::<Vec<_>>());
    for layer in &layers {
        let unknown = layer.may_use.keys().find(|name| !listed.contains(&name.as_str()));
        assert_eq!(unknown, None, "`{}` may use what there is not", layer.name);
    }
}

#[test]
fn what_the_table_does_not_let_it_use_is_found() {
    let row = ["`store`", "`shm`, `ports` (`Value`)", "wait: no `std::time`"].map(str::to_owned);
    let layer = layer(&row);
    let forbidden = |source: &str| {
        let found = paths(&module("src/store/lanes.rs".as_ref()), source);
        found.iter().any(|named| layer.forbids(named))
    };
    for fine in ["crate::shm::Id", "crate::ports::Value", "super::rows", "std::sync::Arc"] {
        assert!(!forbidden(&format!("use {fine};")), "{fine}");
    }
    let wrong = [
        "crate::config::Config",
        "crate::ports::{Value, Host}",
        "super::super::config",
        "std::time",
    ];
    for wrong in wrong {
        assert!(forbidden(&format!("use {wrong};")), "{wrong}");
    }
    assert!(forbidden("fn f() { let now = std::time::Instant::now(); }"));
}
