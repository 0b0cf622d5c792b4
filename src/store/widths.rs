//! What columns take: how long a text may be and which characters it may have,
//! how large a number. It is read from the database at start, so that a value
//! that a column cannot hold is known before it is sent. A server refuses the
//! row with such a value, and with it those that are written together; or cuts
//! it off, so that it is never found again (B20).

use crate::ports::{Assignment, Compare, Condition, Value};
use crate::sql::columns::Charset;

/// What one column takes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// Longest text in characters; `None` for a number, or no limit.
    pub width: Option<usize>,
    /// Characters of a text.
    pub charset: Charset,
    /// Smallest and largest number; `None` for a text.
    pub range: Option<(i64, i64)>,
}

/// Why a column does not take a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unfit {
    /// It is longer than the column.
    TooLong,
    /// It has characters that the column cannot have.
    Characters,
    /// The number is too large, or too small.
    Range,
}

impl Unfit {
    /// Says so in a log line, after the column's name.
    pub fn reason(self) -> &'static str {
        match self {
            Unfit::TooLong => "is longer than the column",
            Unfit::Characters => "has characters that the column cannot have",
            Unfit::Range => "is a number that the column cannot have",
        }
    }
}

impl Column {
    fn refuses(&self, value: &Value) -> Option<Unfit> {
        match value {
            Value::Text(bytes) if !self.charset.takes(bytes) => Some(Unfit::Characters),
            Value::Text(bytes) => {
                let long = |width| bytes.len() > width && self.charset.count(bytes) > width;
                self.width.is_some_and(long).then_some(Unfit::TooLong)
            }
            Value::Int(number) => {
                let outside = |(least, most)| !(least..=most).contains(number);
                self.range.is_some_and(outside).then_some(Unfit::Range)
            }
            Value::Blob(_) | Value::Null => None,
        }
    }
}

/// What one table's columns take; a column that is not listed takes anything.
#[derive(Debug, Clone, Default)]
pub struct Widths(Vec<Column>);

/// What the three tables take.
#[derive(Debug, Clone, Default)]
pub struct TableWidths {
    /// `presentity`.
    pub publications: Widths,
    /// `active_watchers`.
    pub subscriptions: Widths,
    /// `watchers`.
    pub watchers: Widths,
}

impl Widths {
    /// Makes them of the columns of a table.
    pub fn new(columns: Vec<Column>) -> Widths {
        Widths(columns)
    }

    /// The first column whose value it does not take, and why.
    pub fn unfit(&self, row: &[Assignment]) -> Option<(&'static str, Unfit)> {
        if self.0.is_empty() {
            return None;
        }
        row.iter().find_map(|(column, value)| Some((*column, self.refuses(column, value)?)))
    }

    /// No row can meet the conditions: one asks for a text with characters that
    /// its column cannot have. A server would not say so, but fail.
    pub fn meet_nothing(&self, conditions: &[Condition]) -> bool {
        !self.0.is_empty()
            && conditions.iter().any(|(column, compare, value)| {
                *compare == Compare::Eq && self.refuses(column, value) == Some(Unfit::Characters)
            })
    }

    /// The largest number that a column takes.
    pub fn most(&self, column: &str) -> Option<i64> {
        self.column(column)?.range.map(|(_, most)| most)
    }

    /// Drops what a row is only told for information and its column does not
    /// take: nobody must be refused for the sake of it.
    pub fn drop_unfit_optional(&self, row: &mut [Assignment]) {
        for (column, value) in row.iter_mut().filter(|(column, _)| *column == "user_agent") {
            if self.refuses(column, value).is_some() {
                *value = Value::text(b"");
            }
        }
    }

    fn refuses(&self, column: &str, value: &Value) -> Option<Unfit> {
        self.column(column)?.refuses(value)
    }

    fn column(&self, column: &str) -> Option<&Column> {
        self.0.iter().find(|known| known.name.eq_ignore_ascii_case(column))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UTF8: Charset = Charset::Utf8 { longest: 4, nul: false };

    fn text(name: &str, width: usize, charset: Charset) -> Column {
        Column { name: name.into(), width: Some(width), charset, range: None }
    }

    #[test]
    fn characters_count() {
        let widths = Widths::new(vec![text("Contact", 3, UTF8)]);
        let row = |text: &str| [("contact", Value::text(text.as_bytes()))];
        assert_eq!(widths.unfit(&row("äöü")), None);
        assert_eq!(widths.unfit(&row("abcd")), Some(("contact", Unfit::TooLong)));
        assert_eq!(widths.unfit(&[("reason", Value::text(b"abcd"))]), None);
        assert_eq!(widths.unfit(&[("contact", Value::Int(12345))]), None);
        assert_eq!(Widths::default().unfit(&row("abcd")), None);
    }

    #[test]
    fn numbers() {
        let range = Some((i64::from(i32::MIN), i64::from(i32::MAX)));
        let widths =
            Widths::new(vec![Column { name: "expires".into(), range, ..Column::default() }]);
        assert_eq!(
            widths.unfit(&[("expires", Value::Int(1 << 31))]),
            Some(("expires", Unfit::Range))
        );
        assert_eq!(widths.unfit(&[("expires", Value::Int((1 << 31) - 1))]), None);
        assert_eq!(widths.most("expires"), Some((1 << 31) - 1));
        assert_eq!(widths.most("callid"), None);
    }

    #[test]
    fn bytes_that_no_row_can_have() {
        let widths = Widths::new(vec![text("callid", 9, UTF8)]);
        let condition = |compare, bytes| [("callid", compare, Value::text(bytes))];
        assert!(widths.meet_nothing(&condition(Compare::Eq, b"a\xff")));
        assert!(!widths.meet_nothing(&condition(Compare::Eq, b"abc")));
        // One that is too long meets none, and the server says so.
        assert!(!widths.meet_nothing(&condition(Compare::Eq, b"0123456789")));
        assert!(!widths.meet_nothing(&[("body", Compare::Eq, Value::Blob(b"\xff".to_vec()))]));
    }

    #[test]
    fn a_user_agent_is_not_worth_a_refusal() {
        let widths = Widths::new(vec![text("user_agent", 9, UTF8), text("callid", 9, UTF8)]);
        let mut row = [("user_agent", Value::text(b"x\xff")), ("callid", Value::text(b"y\xff"))];
        widths.drop_unfit_optional(&mut row);
        assert_eq!(row[0].1, Value::text(b""));
        assert_eq!(widths.unfit(&row), Some(("callid", Unfit::Characters)));
    }
}
