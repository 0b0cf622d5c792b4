//! Rust sources as far as these tests read them: the paths that a file names.

use std::path::{Path, PathBuf};

/// A path into the crate or the standard library, as a file names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// From the crate's root, or from `std`.
    pub path: Vec<String>,
    /// Where it stands.
    pub line: usize,
}

/// A word or a sign of the source. Comments, texts and characters are none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    pub text: String,
    pub line: usize,
}

/// All Rust files below a folder of the project, with their paths from there.
pub fn files(folder: &str) -> Vec<PathBuf> {
    let root = super::root();
    let mut found = Vec::new();
    let mut folders = vec![root.join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|end| end == "rs") {
                found.push(path.strip_prefix(&root).unwrap().to_owned());
            }
        }
    }
    found.sort();
    found
}

/// The module that a file below `src/` is: `src/store/mod.rs` is `["store"]`.
pub fn module(file: &Path) -> Vec<String> {
    let path = file.strip_prefix("src").unwrap().with_extension("");
    let names = path.iter().map(|name| name.to_str().unwrap().to_owned());
    names.filter(|name| name != "mod" && name != "lib").collect()
}

/// The words and signs of a source.
pub fn tokens(source: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let (mut rest, mut line) = (source, 1);
    while let Some(first) = rest.chars().next() {
        let length = match first {
            '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            '/' if rest.starts_with("/*") => block_comment(rest),
            '"' => text(rest),
            '\'' => character(rest),
            _ if is_word(first) => {
                let word = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
                match raw_text(&rest[..word], &rest[word..]) {
                    Some(text) => word + text,
                    None => {
                        tokens.push(Token { text: rest[..word].to_owned(), line });
                        word
                    }
                }
            }
            _ if first.is_whitespace() => first.len_utf8(),
            _ => {
                let sign = if rest.starts_with("::") { 2 } else { first.len_utf8() };
                tokens.push(Token { text: rest[..sign].to_owned(), line });
                sign
            }
        };
        line += rest[..length].matches('\n').count();
        rest = &rest[length..];
    }
    tokens
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn block_comment(rest: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        match rest.as_bytes()[at..] {
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

/// The length of a text with its quotes.
fn text(rest: &str) -> usize {
    let mut escaped = false;
    let end = rest.bytes().skip(1).position(|byte| {
        let ends = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        ends
    });
    end.map_or(rest.len(), |end| end + 2)
}

/// The length of a raw text behind its prefix.
fn raw_text(prefix: &str, rest: &str) -> Option<usize> {
    if !["r", "br", "cr"].contains(&prefix) {
        return None;
    }
    let hashes = rest.find(|c| c != '#')?;
    rest[hashes..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    Some(hashes + 1 + rest[hashes + 1..].find(&end)? + end.len())
}

/// The length of a character in its quotes, or of the quote of a lifetime.
fn character(rest: &str) -> usize {
    let mut inside = rest[1..].chars();
    match (inside.next(), inside.next()) {
        (Some('\\'), Some(escaped)) => {
            let behind = 2 + escaped.len_utf8();
            behind + rest[behind..].find('\'').map_or(0, |end| end + 1)
        }
        (Some(one), Some('\'')) => one.len_utf8() + 2,
        _ => 1,
    }
}

/// All paths into the crate that a file of this module names, by `crate::` or
/// `super::`, and those into `std`.
pub fn paths(module: &[String], source: &str) -> Vec<Named> {
    let tokens = tokens(source);
    let word = |at: usize| tokens.get(at).map_or("", |token| token.text.as_str());
    let mut found = Vec::new();
    let (mut inside, mut open) = (module.to_vec(), Vec::new());
    let mut at = 0;
    while at < tokens.len() {
        let goes_on = word(at + 1) == "::";
        let starts = at == 0 || word(at - 1) != "::";
        match word(at) {
            "mod" if word(at + 2) == "{" => {
                inside.push(word(at + 1).to_owned());
                open.push(true);
                at += 2;
            }
            "{" => open.push(false),
            "}" if open.pop() == Some(true) => {
                inside.pop();
            }
            "crate" if goes_on => at = tree(&tokens, at + 2, &[], &mut found) - 1,
            "std" if goes_on && starts => {
                at = tree(&tokens, at + 2, &["std".to_owned()], &mut found) - 1;
            }
            "super" if goes_on && starts => {
                let mut up = 0;
                while word(at) == "super" && word(at + 1) == "::" {
                    (at, up) = (at + 2, up + 1);
                }
                let base = &inside[..inside.len().saturating_sub(up)];
                at = tree(&tokens, at, base, &mut found) - 1;
            }
            _ => {}
        }
        at += 1;
    }
    found
}

/// Reads a path, or a group of them, that begins at a token. Gives the token
/// behind.
fn tree(tokens: &[Token], mut at: usize, prefix: &[String], found: &mut Vec<Named>) -> usize {
    let word = |at: usize| tokens.get(at).map_or("", |token| token.text.as_str());
    let line = tokens.get(at).map_or(0, |token| token.line);
    let mut path = prefix.to_vec();
    loop {
        if word(at) == "{" {
            at += 1;
            while at < tokens.len() && word(at) != "}" {
                at = tree(tokens, at, &path, found);
                if word(at) == "," {
                    at += 1;
                }
            }
            return at + 1;
        }
        path.push(word(at).to_owned());
        at += 1;
        let goes_on = word(at) == "::"
            && (word(at + 1) == "{" || word(at + 1) == "*" || word(at + 1).starts_with(is_word));
        if !goes_on {
            break;
        }
        at += 1;
    }
    found.push(Named { path, line });
    if word(at) == "as" { at + 2 } else { at }
}

#[test]
fn paths_are_found_wherever_they_stand() {
    let source = r##"
        //! crate::comment::no
        use crate::store::{lanes::{Lane, self}, Store as S};
        pub(super) use super::other::Thing;
        fn f<'a>(x: &'a crate::ports::Value) -> char {
            let _ = ("crate::text::no", r#"crate::raw::no""#, b"\"crate::no", '"', '\'');
            /* crate::no /* */ crate::no */
            $crate::presence::text::pack::<u8>(x);
            std::time::Instant::now(); 'x'
        }
        mod inner { use super::super::up; fn g() { super::same(); } }
        use super::super::config::Config;
    "##;
    let module = ["store", "lanes"].map(str::to_owned);
    let found: Vec<_> = paths(&module, source).iter().map(|named| named.path.join("::")).collect();
    let wanted = [
        "store::lanes::Lane",
        "store::lanes::self",
        "store::Store",
        "store::other::Thing",
        "ports::Value",
        "presence::text::pack",
        "std::time::Instant::now",
        "store::up",
        "store::lanes::same",
        "config::Config",
    ];
    assert_eq!(found, wanted);
}
