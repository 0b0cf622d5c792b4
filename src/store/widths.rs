//! How long the values of columns may be. A driver that enforces that refuses
//! a row whose value is longer, or cuts it off so that it is never found again
//! (B20).

use crate::ports::{Assignment, Value};

/// The widths of one table's columns, in characters; a column that is not
/// listed takes anything.
#[derive(Debug, Clone, Default)]
pub struct Widths(Vec<(String, usize)>);

/// The widths of the three tables.
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
    /// From column names and widths.
    pub fn new(columns: Vec<(String, usize)>) -> Widths {
        Widths(columns)
    }

    /// The first column whose value is too long.
    pub fn too_long(&self, row: &[Assignment]) -> Option<&'static str> {
        if self.0.is_empty() {
            return None;
        }
        row.iter().find(|(column, value)| !self.takes(column, value)).map(|(column, _)| *column)
    }

    fn takes(&self, column: &str, value: &Value) -> bool {
        let Value::Text(bytes) = value else { return true };
        let Some((_, width)) = self.0.iter().find(|(known, _)| known.eq_ignore_ascii_case(column))
        else {
            return true;
        };
        bytes.len() <= *width
            || std::str::from_utf8(bytes).is_ok_and(|text| text.chars().count() <= *width)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_count() {
        let widths = Widths::new(vec![("Contact".into(), 3)]);
        let row = |text: &str| [("contact", Value::text(text.as_bytes()))];
        assert_eq!(widths.too_long(&row("äöü")), None);
        assert_eq!(widths.too_long(&row("abcd")), Some("contact"));
        assert_eq!(widths.too_long(&[("reason", Value::text(b"abcd"))]), None);
        assert_eq!(widths.too_long(&[("contact", Value::Int(12345))]), None);
        assert_eq!(Widths::default().too_long(&row("abcd")), None);
    }
}
