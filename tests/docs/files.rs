//! Every source file that ARCHITECTURE.md names is there.

use crate::markdown::codes;
use crate::source::files;

#[test]
fn files_that_are_named_exist() {
    let mut known: Vec<String> = Vec::new();
    for folder in ["src", "tests", "build", "benches"] {
        known.extend(files(folder).iter().map(|path| format!("/{}", path.display())));
    }
    known.push("/kamailio-shim/shim.c".to_owned());
    let document = crate::read("ARCHITECTURE.md");
    // Walks have a test of their own.
    let lines = document.lines().filter(|line| !line.starts_with("```"));
    let mut wrong = Vec::new();
    for line in lines {
        for code in codes(line) {
            let is_file = code.text.ends_with(".rs") || code.text.ends_with(".c");
            let end = format!("/{}", code.text);
            if is_file
                && !crate::root().join(code.text).is_file()
                && !known.iter().any(|path| path.ends_with(&end))
            {
                wrong.push(code.text.to_owned());
            }
        }
    }
    assert!(wrong.is_empty(), "ARCHITECTURE.md names files that are not there: {wrong:?}");
}
