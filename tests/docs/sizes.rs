//! No file has 500 lines, no function more than 60: what is longer is about more than
//! one thing.

use crate::source::{Token, files, tokens};

const LINES_OF_A_FILE: usize = 500;
const LINES_OF_A_FUNCTION: usize = 60;

#[test]
fn files_are_short() {
    let mut long = Vec::new();
    for file in files("src") {
        let lines = crate::read(&file).lines().count();
        if lines >= LINES_OF_A_FILE {
            long.push(format!("{}: {lines} lines", file.display()));
        }
    }
    assert!(long.is_empty(), "split by topic:\n{}", long.join("\n"));
}

#[test]
fn functions_are_short() {
    let mut long = Vec::new();
    for file in files("src") {
        for (name, first, last) in functions(&tokens(&crate::read(&file))) {
            let lines = last - first + 1;
            if lines > LINES_OF_A_FUNCTION {
                long.push(format!("{}:{first}: {name} has {lines} lines", file.display()));
            }
        }
    }
    assert!(long.is_empty(), "split by step:\n{}", long.join("\n"));
}

/// All functions with a body: name, and the lines of `fn` and of the last brace. What
/// is inside of brackets before the body (`[u8; 4]`) ends none.
fn functions(tokens: &[Token]) -> Vec<(String, usize, usize)> {
    let text = |at: usize| tokens.get(at).map_or("", |token: &Token| token.text.as_str());
    let mut found = Vec::new();
    for at in 0..tokens.len() {
        if text(at) != "fn" || !text(at + 1).starts_with(|c: char| c.is_alphabetic() || c == '_') {
            continue;
        }
        let (mut end, mut inside) = (at + 2, 0);
        while end < tokens.len() && (inside > 0 || !["{", ";"].contains(&text(end))) {
            match text(end) {
                "(" | "[" => inside += 1,
                ")" | "]" => inside -= 1,
                _ => {}
            }
            end += 1;
        }
        let mut open = 0;
        while end < tokens.len() {
            match text(end) {
                ";" if open == 0 => break,
                "{" => open += 1,
                "}" => open -= 1,
                _ => {}
            }
            if open == 0 {
                found.push((text(at + 1).to_owned(), tokens[at].line, tokens[end].line));
                break;
            }
            end += 1;
        }
    }
    found
}

#[test]
fn functions_are_measured() {
    let source = "trait T { fn none(); fn one() {} }\nimpl T for [u8; 4] {\n fn two(\n  a: [u8; 2],\n ) -> u8 {\n  fn inner() {\n  }\n  \"}\"\n }\n}\ntype F = fn(u8);";
    let found = functions(&tokens(source));
    let wanted = [("one", 1, 1), ("two", 3, 9), ("inner", 6, 7)];
    assert_eq!(found, wanted.map(|(name, first, last)| (name.to_owned(), first, last)));
}
