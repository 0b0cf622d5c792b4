//! A SAFETY line names the fact that it relies on.

use crate::source::files;

#[test]
fn safety_lines_name_a_fact() {
    let mut wrong = Vec::new();
    for file in files("src") {
        for (number, line) in crate::read(&file).lines().enumerate() {
            let Some((_, reason)) = line.split_once("// SAFETY:") else { continue };
            let says = |words: &str| reason.trim_start().starts_with(words);
            if says("as above") || says("as below") || says("the caller's promise") {
                wrong.push(format!("{}:{}:{reason}", file.display(), number + 1));
            }
        }
    }
    assert!(wrong.is_empty(), "no fact is named:\n{}", wrong.join("\n"));
}
