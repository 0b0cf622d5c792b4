//! Tables read in pages by `id`: a driver that cannot fetch a result in steps
//! would take all of it into private memory.

use crate::error::Fault;
use crate::ports::{Compare, Condition, Database, Extent, Value};
use crate::service::durable::single;

/// Which page of a table.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    /// `id` of the last row before it.
    pub after: i64,
    /// Rows of a page.
    pub most: usize,
    /// How much of the table there is to read.
    pub extent: Extent,
}

/// Reads a page; gives the `id` of its last row, `None` when there was none.
pub fn page(
    database: &mut dyn Database,
    table: &str,
    conditions: &[Condition],
    columns: &[&'static str],
    place: Place,
    each: &mut dyn FnMut(i64, &[Value]),
) -> Result<Option<i64>, Fault> {
    let mut conditions = conditions.to_vec();
    conditions.push(("id", Compare::Greater, Value::Int(place.after)));
    let mut columns = columns.to_vec();
    columns.push("id");
    // Collected, for a repeated attempt must not give rows twice.
    let rows = single(database, |database, _| {
        let mut rows = Vec::new();
        let most = (place.most, place.extent);
        database.page(table, &conditions, &columns, most, &mut |row| {
            if let Some((id, row)) = row.split_last()
                && let Some(id) = id.as_int()
            {
                rows.push((id, row.to_vec()));
            }
        })?;
        Ok(rows)
    })?;
    let last = rows.iter().map(|(id, _)| *id).max();
    for (id, row) in &rows {
        each(*id, row);
    }
    Ok(last)
}

/// Reads all of a table, or most, page by page.
pub fn all(
    database: &mut dyn Database,
    table: &str,
    conditions: &[Condition],
    columns: &[&'static str],
    most: usize,
    each: &mut dyn FnMut(&[Value]),
) -> Result<(), Fault> {
    let mut place = Place { after: 0, most, extent: Extent::Most };
    let mut each = |_: i64, row: &[Value]| each(row);
    while let Some(last) = page(database, table, conditions, columns, place, &mut each)? {
        place.after = last;
    }
    Ok(())
}
