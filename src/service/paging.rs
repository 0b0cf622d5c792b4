//! Tables read in pages by `id`: a driver that cannot fetch a result in steps
//! would take all of it into private memory.

use crate::error::Fault;
use crate::ports::{Compare, Condition, Database, Value};
use crate::service::durable::single;

/// Reads the rows after the one with this `id`, about `most` of them, each
/// without the `id` that ends it. Gives the `id` of the last one; `None` when
/// there was none.
pub fn page(
    database: &mut dyn Database,
    table: &str,
    conditions: &[Condition],
    columns: &[&'static str],
    (after, most): (i64, usize),
    each: &mut dyn FnMut(i64, &[Value]),
) -> Result<Option<i64>, Fault> {
    let mut conditions = conditions.to_vec();
    conditions.push(("id", Compare::Greater, Value::Int(after)));
    let mut columns = columns.to_vec();
    columns.push("id");
    // Collected, for a repeated attempt must not give rows twice.
    let rows = single(database, |database, _| {
        let mut rows = Vec::new();
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

/// Reads all rows, page by page.
pub fn all(
    database: &mut dyn Database,
    table: &str,
    conditions: &[Condition],
    columns: &[&'static str],
    most: usize,
    each: &mut dyn FnMut(&[Value]),
) -> Result<(), Fault> {
    let mut after = 0;
    while let Some(last) =
        page(database, table, conditions, columns, (after, most), &mut |_, row| {
            each(row);
        })?
    {
        after = last;
    }
    Ok(())
}
