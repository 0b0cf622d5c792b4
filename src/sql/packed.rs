//! Rows that are read as one text each. Drivers allocate private memory for
//! every value of a row, and Kamailio's default allocator is slow: reading a
//! hundred thousand rows takes seconds.

use crate::ports::Value;
use crate::sql::{Dialect, Names};

/// What to select for that; `None` where it gains nothing.
pub fn expression(dialect: Dialect, names: Names<'_>, columns: &[&'static str]) -> Option<Vec<u8>> {
    let mut text = Vec::new();
    match dialect {
        // PostgreSQL writes a row as text, with a well-defined quoting. As
        // `text` the driver would take it for a binary value.
        Dialect::Postgres => {
            text.extend_from_slice(b"CAST(ROW(");
            names.push_list(&mut text, "", columns.iter().copied());
            text.extend_from_slice(b") AS VARCHAR)");
        }
        Dialect::Sqlite => {
            for (at, column) in columns.iter().enumerate() {
                text.extend_from_slice(if at == 0 { b"quote(" } else { b"||','||quote(" });
                names.push(&mut text, column);
                text.push(b')');
            }
        }
        // Its driver copies no values.
        Dialect::MySql => return None,
    }
    Some(text)
}

/// Reads a value; gives it and what is behind it.
type Next = fn(&[u8]) -> Option<(Value, &[u8])>;

/// The values of such a row; numbers may be text. `None` if
/// it has another form: then it has to be read in the driver's way.
pub fn read(dialect: Dialect, row: &[u8], columns: usize) -> Option<Vec<Value>> {
    let mut values = Vec::with_capacity(columns);
    let (mut rest, next): (_, Next) = match dialect {
        Dialect::Postgres => (row.strip_prefix(b"(")?.strip_suffix(b")")?, field),
        Dialect::Sqlite => (row, literal_of),
        Dialect::MySql => return None,
    };
    loop {
        let (value, behind) = next(rest)?;
        values.push(value);
        rest = match behind {
            [] => break,
            [b',', behind @ ..] => behind,
            _ => return None,
        };
    }
    (values.len() == columns).then_some(values)
}

/// A field of PostgreSQL's text for a row, and what is behind it.
fn field(text: &[u8]) -> Option<(Value, &[u8])> {
    if let Some(text) = text.strip_prefix(b"\"") {
        return quoted(text, b'"', b'\\').map(|(text, behind)| (Value::Text(text), behind));
    }
    let end = text.iter().position(|byte| *byte == b',').unwrap_or(text.len());
    let (text, behind) = text.split_at(end);
    if text.iter().any(|byte| matches!(byte, b'"' | b'\\')) {
        return None;
    }
    // An empty text is between quotes.
    Some((if text.is_empty() { Value::Null } else { Value::text(text) }, behind))
}

/// A literal as SQLite's `quote` writes it, and what is behind it.
fn literal_of(text: &[u8]) -> Option<(Value, &[u8])> {
    if let Some(text) = text.strip_prefix(b"'") {
        return quoted(text, b'\'', b'\'').map(|(text, behind)| (Value::Text(text), behind));
    }
    let end = text.iter().position(|byte| *byte == b',').unwrap_or(text.len());
    let (text, behind) = text.split_at(end);
    let value = match text {
        b"NULL" => Value::Null,
        number => Value::Int(std::str::from_utf8(number).ok()?.parse().ok()?),
    };
    Some((value, behind))
}

/// Text up to its closing quote. Within it the quote and the `escape` stand
/// twice, and nothing else is escaped.
fn quoted(text: &[u8], quote: u8, escape: u8) -> Option<(Vec<u8>, &[u8])> {
    let mut read = Vec::with_capacity(text.len().min(64));
    let mut rest = text;
    loop {
        let special = rest.iter().position(|byte| *byte == quote || *byte == escape)?;
        read.extend_from_slice(&rest[..special]);
        match &rest[special..] {
            [first, second, behind @ ..] if first == second => {
                read.push(*first);
                rest = behind;
            }
            [first, behind @ ..] if *first == quote => return Some((read, behind)),
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_selected() {
        let of = |dialect| {
            let names = Names { table: "t", quote: "\"" };
            expression(dialect, names, &["a", "id"]).map(|text| String::from_utf8(text).unwrap())
        };
        let postgres = "CAST(ROW(\"a\",\"id\") AS VARCHAR)";
        assert_eq!(of(Dialect::Postgres).as_deref(), Some(postgres));
        assert_eq!(of(Dialect::Sqlite).as_deref(), Some("quote(\"a\")||','||quote(\"id\")"));
        assert_eq!(of(Dialect::MySql), None);
    }

    #[test]
    fn rows_of_postgresql() {
        let read = |row: &[u8], columns| read(Dialect::Postgres, row, columns);
        let text = |text: &str| Value::text(text.as_bytes());
        assert_eq!(read(b"(a,1)", 2), Some(vec![text("a"), text("1")]));
        assert_eq!(read(b"(,\"\",)", 3), Some(vec![Value::Null, text(""), Value::Null]));
        assert_eq!(
            read(br#"("a b","<""x"">,\\",c)"#, 3),
            Some(vec![text("a b"), text("<\"x\">,\\"), text("c")])
        );
        for odd in [&br#"("a"#[..], br#"("a\b")"#, br#"(a"b)"#, br"(a\b)", br#"("a"b)"#, b"a"] {
            assert_eq!(read(odd, 1), None, "{}", odd.escape_ascii());
        }
        assert_eq!(read(b"(a,b)", 1), None);
        assert_eq!(read(b"(a)", 2), None);
    }

    #[test]
    fn rows_of_sqlite() {
        let read = |row: &[u8], columns| read(Dialect::Sqlite, row, columns);
        let text = |text: &str| Value::text(text.as_bytes());
        assert_eq!(
            read(b"'o''b,\\',-5,NULL,''", 4),
            Some(vec![text("o'b,\\"), Value::Int(-5), Value::Null, text("")])
        );
        for odd in [&b"X'41'"[..], b"1.5", b"'a", b"'a'b", b"", b"1,"] {
            assert_eq!(read(odd, 1), None, "{}", odd.escape_ascii());
        }
    }

    fn doubled(text: &[u8], special: &[u8], quote: u8) -> Vec<u8> {
        let each = text.iter().flat_map(|b| [*b].repeat(1 + usize::from(special.contains(b))));
        [quote].into_iter().chain(each).chain([quote]).collect()
    }

    proptest! {
        #[test]
        fn every_text_is_read_as_it_was(
            texts in proptest::collection::vec(proptest::collection::vec(
                prop_oneof![any::<u8>(), Just(b'\''), Just(b'\\'), Just(b'"'), Just(b',')], 0..20),
                1..5),
        ) {
            let values: Vec<_> = texts.iter().map(|text| Value::text(text)).collect();
            let sqlite: Vec<_> = texts.iter().map(|text| doubled(text, b"'", b'\'')).collect();
            prop_assert_eq!(read(Dialect::Sqlite, &sqlite.join(&b','), texts.len()), Some(values.clone()));
            let postgres: Vec<_> = texts.iter().map(|text| doubled(text, b"\"\\", b'"')).collect();
            let row = [&b"("[..], &postgres.join(&b','), b")"].concat();
            prop_assert_eq!(read(Dialect::Postgres, &row, texts.len()), Some(values));
        }
    }
}
