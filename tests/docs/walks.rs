//! The walks of a PUBLISH, a SUBSCRIBE and a NOTIFY in ARCHITECTURE.md: each file has
//! the function that it is named with, and the file above calls it.

use crate::source::tokens;

/// A line of a walk.
#[derive(Debug)]
struct Stop {
    depth: usize,
    file: String,
    function: String,
}

fn walks(document: &str) -> Vec<Vec<Stop>> {
    let blocks = document.split("```walk\n").skip(1);
    let blocks = blocks.map(|block| block.split("```").next().unwrap_or_default());
    blocks.map(|block| block.lines().map(stop).collect()).collect()
}

fn stop(line: &str) -> Stop {
    let start = line.trim_start();
    let said = start.split("  ").next().unwrap_or_default();
    let (file, function) = said.split_once(": ").unwrap_or((said, ""));
    let depth = line.len() - start.len();
    Stop { depth, file: file.to_owned(), function: function.trim().to_owned() }
}

/// Whether these words follow each other in a source.
fn has(source: &str, words: &[&str]) -> bool {
    let tokens = tokens(source);
    tokens.windows(words.len()).any(|found| found.iter().zip(words).all(|(a, b)| a.text == *b))
}

/// Whether a source calls the function of this file, or hands it over: as a method,
/// by the name of its module or type, or by its own.
fn names(source: &str, file: &str, function: &str) -> bool {
    let tokens = tokens(source);
    let word = |at: usize| tokens.get(at).map_or("", |token| token.text.as_str());
    let module = file.trim_end_matches("/mod.rs").trim_end_matches(".rs");
    let module = module.rsplit('/').next().unwrap_or_default();
    (0..tokens.len()).filter(|at| word(*at) == function).any(|at| match word(at.wrapping_sub(1)) {
        "fn" => false,
        "::" => {
            let of = word(at.wrapping_sub(2));
            of == module || of.starts_with(char::is_uppercase)
        }
        _ => true,
    })
}

#[test]
fn calls_are_told_from_others() {
    let source = "use crate::service::other; fn run() { other::run(); x.take(); Owned::begin(); }";
    assert!(names(source, "src/service/other.rs", "run"));
    assert!(!names(source, "src/service/notifier.rs", "run"));
    assert!(names(source, "src/store/lanes.rs", "take"));
    assert!(names(source, "src/service/mod.rs", "begin"));
    assert!(!names(source, "src/service/mod.rs", "end"));
}

#[test]
fn each_file_of_a_walk_calls_the_next() {
    let walks = walks(&crate::read("ARCHITECTURE.md"));
    assert_eq!(
        walks.len(),
        5,
        "a PUBLISH, a SUBSCRIBE, a NOTIFY, a message of a peer, one to peers"
    );
    let mut wrong = Vec::new();
    for walk in walks {
        let mut above: Vec<Stop> = Vec::new();
        for stop in walk {
            above.retain(|caller| caller.depth < stop.depth);
            if !crate::root().join(&stop.file).is_file() {
                wrong.push(format!("there is no {}", stop.file));
                continue;
            }
            let source = crate::read(&stop.file);
            let function = stop.function.as_str();
            if !function.is_empty() && !has(&source, &["fn", function]) {
                wrong.push(format!("{} has no {function}", stop.file));
            }
            if let Some(caller) = above.last() {
                let calling = crate::read(&caller.file);
                if !names(&calling, &stop.file, function) {
                    wrong.push(format!("{} does not name {function}", caller.file));
                }
            }
            above.push(stop);
        }
    }
    assert!(wrong.is_empty(), "ARCHITECTURE.md, walks:\n{}", wrong.join("\n"));
}
