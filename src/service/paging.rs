//! Tables read in pages by `id`: a driver that cannot fetch a result in steps
//! would take all of it into private memory.

use crate::error::Fault;
use crate::ports::{Compare, Condition, Database, Extent, Value, Wanted};
use crate::service::durable::single;

/// Which page of a table.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    /// `id` of the last row before it.
    pub after: i64,
    /// What of it.
    pub page: Wanted,
}

/// Reads a page; gives the `id` of its last row, `None` when no other page
/// follows: one that is not full is the last.
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
    let (rows, found) = match read(database, table, &conditions, &columns, place.page) {
        Err(Fault::Refused) => each_alone(database, table, &conditions, &columns, place.page)?,
        read => read?,
    };
    let last = rows.iter().map(|(id, _)| *id).max().filter(|_| found >= place.page.most);
    for (id, row) in &rows {
        each(*id, row);
    }
    Ok(last)
}

/// Rows by `id`, and how many there were.
type Rows = (Vec<(i64, Vec<Value>)>, usize);

/// Rows of `columns`, the last of which is `id`.
fn read(
    database: &mut dyn Database,
    table: &str,
    conditions: &[Condition],
    columns: &[&'static str],
    page: Wanted,
) -> Result<Rows, Fault> {
    single(database, |database, _| {
        let (mut rows, mut found) = (Vec::new(), 0);
        database.page(table, conditions, columns, page, &mut |mut row| {
            found += 1;
            if let Some(id) = row.pop().and_then(|id| id.as_int()) {
                rows.push((id, row));
            }
        })?;
        Ok((rows, found))
    })
}

/// A page with a row that the database cannot give (in this connection's
/// character set, for one): the others are read one by one. An unreadable row
/// is without columns.
fn each_alone(
    database: &mut dyn Database,
    table: &str,
    conditions: &[Condition],
    columns: &[&'static str],
    page: Wanted,
) -> Result<Rows, Fault> {
    let (ids, found) = read(database, table, conditions, &["id"], page)?;
    let mut rows = Vec::with_capacity(ids.len());
    for (id, _) in ids {
        let conditions = [("id", Compare::Eq, Value::Int(id))];
        match read(database, table, &conditions, columns, page) {
            Ok((row, _)) => rows.extend(row),
            Err(Fault::Refused) => rows.push((id, Vec::new())),
            Err(fault) => return Err(fault),
        }
    }
    Ok((rows, found))
}

/// Reads all of a table, or most, in pages of `most` rows. `is_text`: no column
/// is binary.
pub fn all(
    database: &mut dyn Database,
    table: &str,
    conditions: &[Condition],
    columns: &[&'static str],
    (most, is_text): (usize, bool),
    each: &mut dyn FnMut(&[Value]),
) -> Result<(), Fault> {
    let mut place = Place { after: 0, page: Wanted { most, extent: Extent::Most, is_text } };
    // In one go where the driver can. Should that fail, pages begin where it
    // has ended.
    let mut with_id = columns.to_vec();
    with_id.push("id");
    let scanned = database.scan(table, conditions, &with_id, place.page, &mut |mut row| {
        if let Some(id) = row.pop().and_then(|id| id.as_int()) {
            each(&row);
            place.after = id;
        }
    });
    if scanned == Ok(true) {
        return Ok(());
    }
    let mut each = |_: i64, row: &[Value]| each(row);
    while let Some(last) = page(database, table, conditions, columns, place, &mut each)? {
        place.after = last;
    }
    Ok(())
}

/// The rows of a page, each with its `id`.
pub type Page = Vec<(i64, Vec<Value>)>;

/// Pages of a table whose rows may go while they are looked at.
pub struct Pages {
    place: Place,
    done: bool,
}

impl Pages {
    /// Of so many rows each. `is_text`: no column is binary.
    pub fn new(most: usize, is_text: bool) -> Pages {
        let page = Wanted { most, extent: Extent::Part, is_text };
        Pages { place: Place { after: 0, page }, done: false }
    }

    /// The next page, each row with its `id`; `None` after the last one.
    pub fn next(
        &mut self,
        database: &mut dyn Database,
        table: &str,
        conditions: &[Condition],
        columns: &[&'static str],
    ) -> Result<Option<Page>, Fault> {
        if self.done {
            return Ok(None);
        }
        let (mut rows, place) = (Vec::new(), self.place);
        let last = page(database, table, conditions, columns, place, &mut |id, row| {
            rows.push((id, row.to_vec()));
        })?;
        match last {
            Some(last) => self.place.after = last,
            None => self.done = true,
        }
        // There are many: to find and sort all of them for each page would be
        // more than to read the table once.
        self.place.page.extent = Extent::Most;
        Ok(Some(rows))
    }
}

/// Rows that `count` reads in one step.
const COUNT_PAGE: usize = 1000;

/// Counts rows that meet the conditions, up to `most`.
pub fn count(
    database: &mut dyn Database,
    table: &str,
    conditions: &[Condition],
    most: u32,
) -> Result<u32, Fault> {
    let (mut after, mut count) = (0, 0);
    loop {
        let wanted = Wanted { most: COUNT_PAGE, extent: Extent::Part, is_text: true };
        let place = Place { after, page: wanted };
        let last = page(database, table, conditions, &["expires"], place, &mut |_, _| {
            count += 1;
        })?;
        match last {
            Some(last) if count < most => after = last,
            _ => return Ok(count.min(most)),
        }
    }
}
