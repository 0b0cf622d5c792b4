//! The order in which publications of one presentity are composed
//! (`retrieve_order_by`, manual 3.32). It is parsed, so that it can be applied
//! in memory and that nothing but column names gets into SQL.

use std::fmt;

/// A column of the `presentity` table that can order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // the names are the columns
pub enum OrderColumn {
    Id,
    Username,
    Domain,
    Event,
    Etag,
    Expires,
    ReceivedTime,
    Priority,
    Sender,
    Ruid,
}

const COLUMNS: [(OrderColumn, &str); 10] = [
    (OrderColumn::Id, "id"),
    (OrderColumn::Username, "username"),
    (OrderColumn::Domain, "domain"),
    (OrderColumn::Event, "event"),
    (OrderColumn::Etag, "etag"),
    (OrderColumn::Expires, "expires"),
    (OrderColumn::ReceivedTime, "received_time"),
    (OrderColumn::Priority, "priority"),
    (OrderColumn::Sender, "sender"),
    (OrderColumn::Ruid, "ruid"),
];

impl OrderColumn {
    /// The column's name in the table.
    pub fn name(self) -> &'static str {
        COLUMNS.iter().find(|(column, _)| *column == self).map_or("id", |(_, name)| name)
    }

    fn parse(name: &[u8]) -> Option<OrderColumn> {
        let known = |(_, text): &&(OrderColumn, &str)| text.as_bytes().eq_ignore_ascii_case(name);
        COLUMNS.iter().find(known).map(|(column, _)| *column)
    }
}

/// One column and its direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OrderTerm {
    /// What is compared.
    pub column: OrderColumn,
    /// Greatest first.
    pub descending: bool,
}

/// An ORDER BY list, never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetrieveOrder(Vec<OrderTerm>);

impl RetrieveOrder {
    /// Parses `column [ASC|DESC] {, column [ASC|DESC]}`, without regard to
    /// case. `None` if it is anything else.
    pub fn parse(text: &[u8]) -> Option<RetrieveOrder> {
        text.split(|byte| *byte == b',').map(term).collect::<Option<_>>().map(RetrieveOrder)
    }

    /// Oldest first: the order without `retrieve_order`.
    pub fn by_received_time() -> RetrieveOrder {
        RetrieveOrder(vec![OrderTerm { column: OrderColumn::ReceivedTime, descending: false }])
    }

    /// The columns, most significant first.
    pub fn terms(&self) -> &[OrderTerm] {
        &self.0
    }
}

fn term(text: &[u8]) -> Option<OrderTerm> {
    let mut words = text.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
    let column = OrderColumn::parse(words.next()?)?;
    let descending = match words.next() {
        None => false,
        Some(word) if word.eq_ignore_ascii_case(b"asc") => false,
        Some(word) if word.eq_ignore_ascii_case(b"desc") => true,
        Some(_) => return None,
    };
    words.next().is_none().then_some(OrderTerm { column, descending })
}

/// Writes it in SQL, for ORDER BY.
impl fmt::Display for RetrieveOrder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, term) in self.0.iter().enumerate() {
            let comma = if position > 0 { ", " } else { "" };
            let direction = if term.descending { " DESC" } else { "" };
            write!(f, "{comma}{}{direction}", term.column.name())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn columns_and_directions() {
        for (text, sql) in [
            ("priority", "priority"),
            ("Priority DESC", "priority DESC"),
            (" priority\tdesc , received_time  asc,id", "priority DESC, received_time, id"),
            (
                "username,domain,event,etag,expires,sender,ruid",
                "username, domain, event, etag, expires, sender, ruid",
            ),
        ] {
            let order = RetrieveOrder::parse(text.as_bytes()).map(|order| order.to_string());
            assert_eq!(order.as_deref(), Some(sql), "{text}");
        }
    }

    #[test]
    fn nothing_else_gets_into_sql() {
        for text in [
            "",
            ",",
            "priority,",
            "body",
            "priority up",
            "priority desc desc",
            "priority; DROP TABLE presentity",
            "1",
            "abs(priority)",
            "`priority`",
        ] {
            assert_eq!(RetrieveOrder::parse(text.as_bytes()), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_parses_comes_back(text: Vec<u8>) {
            let _ = RetrieveOrder::parse(&text);
        }

        #[test]
        fn sql_means_the_same(terms in proptest::collection::vec((0usize..10, any::<bool>()), 1..5)) {
            let terms = terms.iter().map(|(column, descending)| OrderTerm {
                column: COLUMNS[*column].0,
                descending: *descending,
            });
            let order = RetrieveOrder(terms.collect());
            prop_assert_eq!(RetrieveOrder::parse(order.to_string().as_bytes()), Some(order));
        }
    }
}
