//! SQL text for drivers whose servers speak SQL: changes of many rows in one
//! statement, and rows that are read as one text each. Nothing is sent here.
//!
//! Values come from the network. What is written between quotes has nothing
//! that any server, character set or mode reads in another way
//! ([`literal`]); a row with anything else is left to the driver's own
//! functions, which know the connection.

pub mod columns;
pub mod explain;
pub mod literal;
pub mod many;
pub mod packed;
pub mod prepared;

use crate::ports::Condition;

/// What kind of server a driver talks to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// SQLite, in the process itself.
    Sqlite,
    /// MySQL or MariaDB.
    MySql,
    /// PostgreSQL.
    Postgres,
}

/// A table and how the driver writes the names of tables and columns.
#[derive(Debug, Clone, Copy)]
pub struct Names<'a> {
    /// The table, from the configuration.
    pub table: &'a str,
    /// What the driver puts around names; often nothing.
    pub quote: &'a str,
}

impl Names<'_> {
    /// A SELECT of `what`, in the order given; `None` if a condition has to be
    /// left to the driver.
    pub fn select(&self, what: &[u8], conditions: &[Condition], order: &str) -> Option<Vec<u8>> {
        let mut text = self.chosen(what, conditions)?;
        text.extend_from_slice(b" ORDER BY ");
        text.extend_from_slice(order.as_bytes());
        Some(text)
    }

    /// A SELECT of `what` in no order.
    fn chosen(&self, what: &[u8], conditions: &[Condition]) -> Option<Vec<u8>> {
        let mut text = [b"SELECT ", what, b" FROM "].concat();
        self.push_table(&mut text);
        for (at, (column, compare, value)) in conditions.iter().enumerate() {
            text.extend_from_slice(if at == 0 { b" WHERE " } else { b" AND " });
            self.push(&mut text, column);
            text.extend_from_slice(compare.sign().to_bytes());
            if !literal::push(&mut text, value, true) {
                return None;
            }
        }
        Some(text)
    }

    /// A SELECT that counts rows by the values of columns, the most frequent
    /// first; `None` as for `select`.
    pub fn groups(
        &self,
        columns: &[&'static str],
        conditions: &[Condition],
        most: usize,
    ) -> Option<Vec<u8>> {
        let list = self.list(columns);
        let mut text = self.chosen(&[&list[..], b",COUNT(*)"].concat(), conditions)?;
        text.extend_from_slice(b" GROUP BY ");
        text.extend_from_slice(&list);
        text.extend_from_slice(format!(" ORDER BY COUNT(*) DESC LIMIT {most}").as_bytes());
        Some(text)
    }

    /// Statements that need what ours need and change nothing. They fail where the
    /// table is missing or must not be changed.
    pub fn harmless(&self) -> [Vec<u8>; 3] {
        let (mut table, mut id, mut event) = (Vec::new(), Vec::new(), Vec::new());
        self.push_table(&mut table);
        self.push(&mut id, "id");
        self.push(&mut event, "event");
        let nobody = [b" WHERE ", &id[..], b"=-1"].concat();
        [
            [
                &b"INSERT INTO "[..],
                &table,
                b" (",
                &event,
                b") SELECT ",
                &event,
                b" FROM ",
                &table,
                &nobody,
            ]
            .concat(),
            [&b"UPDATE "[..], &table, b" SET ", &event, b"=", &event, &nobody].concat(),
            [&b"DELETE FROM "[..], &table, &nobody].concat(),
        ]
    }

    /// Names, separated by commas.
    pub fn list(&self, columns: &[&'static str]) -> Vec<u8> {
        let mut text = Vec::new();
        self.push_list(&mut text, "", columns.iter().copied());
        text
    }

    fn push(&self, text: &mut Vec<u8>, name: &str) {
        for part in [self.quote, name, self.quote] {
            text.extend_from_slice(part.as_bytes());
        }
    }

    fn push_table(&self, text: &mut Vec<u8>) {
        self.push(text, self.table);
    }

    /// Names with something before each, separated by commas.
    fn push_list<'n>(
        &self,
        text: &mut Vec<u8>,
        before: &str,
        names: impl Iterator<Item = &'n str>,
    ) {
        for (at, name) in names.enumerate() {
            text.extend_from_slice(if at == 0 { b"" } else { b"," });
            text.extend_from_slice(before.as_bytes());
            self.push(text, name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::{Compare, Value};

    #[test]
    fn a_select_has_plain_conditions_only() {
        let names = Names { table: "t", quote: "" };
        let conditions =
            [("id", Compare::Greater, Value::Int(5)), ("a", Compare::Eq, Value::text(b"o'b"))];
        let what = names.list(&["a", "id"]);
        assert_eq!(
            names.select(&what, &conditions, "id LIMIT 3").as_deref(),
            Some(&b"SELECT a,id FROM t WHERE id>5 AND a='o''b' ORDER BY id LIMIT 3"[..])
        );
        assert_eq!(
            names.groups(&["a", "b"], &conditions[..1], 7).as_deref(),
            Some(
                &b"SELECT a,b,COUNT(*) FROM t WHERE id>5 GROUP BY a,b ORDER BY COUNT(*) DESC LIMIT 7"[..]
            )
        );
        let odd = [("a", Compare::Eq, Value::text(b"\\"))];
        assert_eq!(names.select(&what, &odd, "id"), None);
    }
}
