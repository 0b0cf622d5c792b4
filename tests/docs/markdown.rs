//! Tables and code spans of the documents.

/// The rows of the table whose header begins with these cells, without header and
/// rule; each row as its cells.
pub fn table(document: &str, header: &[&str]) -> Vec<Vec<String>> {
    let begins = |line: &&str| cells(line).iter().zip(header).filter(|(a, b)| a == b).count();
    let rows = document.lines().skip_while(|line| begins(line) < header.len());
    let rows: Vec<_> = rows.skip(2).take_while(|line| line.starts_with('|')).map(cells).collect();
    assert!(!rows.is_empty(), "there is no table {header:?}");
    rows
}

fn cells(line: &str) -> Vec<String> {
    let line = line.trim().trim_matches('|');
    line.split(" | ").map(|cell| cell.trim().to_owned()).collect()
}

/// A code span, and whether it stands in brackets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Code<'a> {
    pub text: &'a str,
    pub in_brackets: bool,
}

/// All code spans of a text, in order.
pub fn codes(text: &str) -> Vec<Code<'_>> {
    let mut open: usize = 0;
    let mut codes = Vec::new();
    for (number, part) in text.split('`').enumerate() {
        match number % 2 {
            0 => {
                open += part.matches('(').count();
                open = open.saturating_sub(part.matches(')').count());
            }
            _ => codes.push(Code { text: part, in_brackets: open > 0 }),
        }
    }
    codes
}

#[test]
fn tables_and_codes_are_read() {
    let text = "a\n\n| x | y |\n|---|---|\n| `b` (`c`, `d`), `e` | 1 |\n| f | 2 |\n\nend";
    let rows = table(text, &["x", "y"]);
    assert_eq!(rows, [["`b` (`c`, `d`), `e`", "1"], ["f", "2"]]);
    let found = codes(&rows[0][0]);
    let found: Vec<_> = found.iter().map(|code| (code.text, code.in_brackets)).collect();
    assert_eq!(found, [("b", false), ("c", true), ("d", true), ("e", false)]);
}
