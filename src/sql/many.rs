//! Changes of many rows in one statement. It costs less than a statement for
//! each by the round trips, and by what a server does to plan one.

use crate::error::Fault;
use crate::ports::{Assignment, Compare, Condition, RowUpdate, Value};
use crate::sql::{Names, literal};

/// Most rows of one statement.
const ROWS: usize = 200;

/// A statement that is this long gets no more rows: a driver may copy it into
/// private memory, and logs it whole when it fails.
const BYTES: usize = 64 * 1024;

/// What to do next.
#[derive(Debug, PartialEq, Eq)]
pub enum Step<'a, R> {
    /// Send this statement.
    Statement(&'a [u8]),
    /// Change this row by the driver's own functions.
    Row(R),
}

/// Does what is to be done next.
pub type Run<'r, R> = &'r mut dyn FnMut(Step<'_, R>) -> Result<(), Fault>;

/// Adds rows.
pub fn insert<'a>(
    names: Names<'_>,
    rows: &[&'a [Assignment]],
    run: Run<'_, &'a [Assignment]>,
) -> Result<(), Fault> {
    each(&Insert(names), rows, run)
}

/// Changes rows, as PostgreSQL has it. The values are a table that is joined;
/// its first row has none of them, but the types of the columns, so that all
/// values are read as they are when they are compared and assigned directly.
pub fn update<'a>(
    names: Names<'_>,
    rows: &[RowUpdate<'a>],
    run: Run<'_, RowUpdate<'a>>,
) -> Result<(), Fault> {
    each(&Update(names), rows, run)
}

/// Removes rows, as PostgreSQL has it.
pub fn delete<'a>(
    names: Names<'_>,
    rows: &[&'a [Condition]],
    run: Run<'_, &'a [Condition]>,
) -> Result<(), Fault> {
    each(&Delete(names), rows, run)
}

/// How a statement is put together: `head`, the values of rows that are `alike`
/// with commas between, `tail`.
trait Form<R> {
    fn alike(&self, first: R, row: R) -> bool;
    fn head(&self, text: &mut Vec<u8>, first: R);
    fn values(&self, text: &mut Vec<u8>, row: R) -> bool;
    fn tail(&self, text: &mut Vec<u8>, first: R);
}

fn each<R: Copy>(form: &impl Form<R>, rows: &[R], run: Run<'_, R>) -> Result<(), Fault> {
    let mut text = Vec::with_capacity(BYTES + 4096);
    let mut rest = rows.iter().peekable();
    while let Some(first) = rest.next() {
        text.clear();
        form.head(&mut text, *first);
        if !form.values(&mut text, *first) {
            run(Step::Row(*first))?;
            continue;
        }
        let mut count = 1;
        while count < ROWS && text.len() < BYTES {
            let Some(row) = rest.next_if(|row| form.alike(*first, **row)) else { break };
            let end = text.len();
            text.push(b',');
            if form.values(&mut text, *row) {
                count += 1;
            } else {
                text.truncate(end);
                run(Step::Row(*row))?;
            }
        }
        if count == 1 {
            run(Step::Row(*first))?;
        } else {
            form.tail(&mut text, *first);
            run(Step::Statement(&text))?;
        }
    }
    Ok(())
}

struct Insert<'n>(Names<'n>);

impl<'a> Form<&'a [Assignment]> for Insert<'_> {
    fn alike(&self, first: &'a [Assignment], row: &'a [Assignment]) -> bool {
        columns(first).eq(columns(row))
    }

    fn head(&self, text: &mut Vec<u8>, first: &'a [Assignment]) {
        text.extend_from_slice(b"INSERT INTO ");
        self.0.push_table(text);
        text.extend_from_slice(b" (");
        self.0.push_list(text, "", columns(first));
        text.extend_from_slice(b") VALUES ");
    }

    fn values(&self, text: &mut Vec<u8>, row: &'a [Assignment]) -> bool {
        push_values(text, row.iter().map(|(_, value)| value), true)
    }

    fn tail(&self, _text: &mut Vec<u8>, _first: &'a [Assignment]) {}
}

struct Update<'n>(Names<'n>);

impl<'a> Form<RowUpdate<'a>> for Update<'_> {
    fn alike(&self, first: RowUpdate<'a>, row: RowUpdate<'a>) -> bool {
        terms(first.0).eq(terms(row.0)) && columns(first.1).eq(columns(row.1))
    }

    fn head(&self, text: &mut Vec<u8>, (conditions, set): RowUpdate<'a>) {
        text.extend_from_slice(b"UPDATE ");
        self.0.push_table(text);
        text.extend_from_slice(b" AS known SET ");
        for (at, column) in columns(set).enumerate() {
            text.extend_from_slice(if at == 0 { b"" } else { b"," });
            self.0.push(text, column);
            text.extend_from_slice(format!("=given.s{at}").as_bytes());
        }
        text.extend_from_slice(b" FROM (VALUES (");
        let all = terms(conditions).map(|(column, _)| column).chain(columns(set));
        push_types(self.0, text, all);
        text.extend_from_slice(b"),");
    }

    fn values(&self, text: &mut Vec<u8>, (conditions, set): RowUpdate<'a>) -> bool {
        let values = conditions.iter().map(|(.., value)| value);
        push_values(text, values.chain(set.iter().map(|(_, value)| value)), false)
    }

    fn tail(&self, text: &mut Vec<u8>, (conditions, set): RowUpdate<'a>) {
        text.extend_from_slice(b") AS given(");
        push_numbered(text, 'k', conditions.len());
        text.push(b',');
        push_numbered(text, 's', set.len());
        text.push(b')');
        push_join(self.0, text, conditions);
    }
}

struct Delete<'n>(Names<'n>);

impl<'a> Form<&'a [Condition]> for Delete<'_> {
    fn alike(&self, first: &'a [Condition], row: &'a [Condition]) -> bool {
        terms(first).eq(terms(row))
    }

    fn head(&self, text: &mut Vec<u8>, first: &'a [Condition]) {
        text.extend_from_slice(b"DELETE FROM ");
        self.0.push_table(text);
        text.extend_from_slice(b" AS known USING (VALUES (");
        push_types(self.0, text, terms(first).map(|(column, _)| column));
        text.extend_from_slice(b"),");
    }

    fn values(&self, text: &mut Vec<u8>, row: &'a [Condition]) -> bool {
        push_values(text, row.iter().map(|(.., value)| value), false)
    }

    fn tail(&self, text: &mut Vec<u8>, first: &'a [Condition]) {
        text.extend_from_slice(b") AS given(");
        push_numbered(text, 'k', first.len());
        text.push(b')');
        push_join(self.0, text, first);
    }
}

fn columns(row: &[Assignment]) -> impl Iterator<Item = &'static str> + '_ {
    row.iter().map(|(column, _)| *column)
}

fn terms(conditions: &[Condition]) -> impl Iterator<Item = (&'static str, Compare)> + '_ {
    conditions.iter().map(|(column, compare, _)| (*column, *compare))
}

fn push_values<'v>(
    text: &mut Vec<u8>,
    values: impl Iterator<Item = &'v Value>,
    bare: bool,
) -> bool {
    for (at, value) in values.enumerate() {
        text.push(if at == 0 { b'(' } else { b',' });
        if !literal::push(text, value, bare) {
            return false;
        }
    }
    text.push(b')');
    true
}

/// A NULL of each column's type.
fn push_types<'c>(names: Names<'_>, text: &mut Vec<u8>, columns: impl Iterator<Item = &'c str>) {
    let mut null = b"(NULL::".to_vec();
    names.push_table(&mut null);
    null.extend_from_slice(b").");
    names.push_list(text, &String::from_utf8_lossy(&null), columns);
}

fn push_numbered(text: &mut Vec<u8>, letter: char, count: usize) {
    for at in 0..count {
        let comma = if at == 0 { "" } else { "," };
        text.extend_from_slice(format!("{comma}{letter}{at}").as_bytes());
    }
}

fn push_join(names: Names<'_>, text: &mut Vec<u8>, conditions: &[Condition]) {
    for (at, (column, compare)) in terms(conditions).enumerate() {
        text.extend_from_slice(if at == 0 { b" WHERE known." } else { b" AND known." });
        names.push(text, column);
        text.extend_from_slice(compare.sign().to_bytes());
        text.extend_from_slice(format!("given.k{at}").as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: Names<'_> = Names { table: "t", quote: "" };

    fn row(call_id: &str, expires: i64) -> Vec<Assignment> {
        vec![("callid", Value::text(call_id.as_bytes())), ("expires", Value::Int(expires))]
    }

    fn change(call_id: &str, cseq: i64) -> (Vec<Condition>, Vec<Assignment>) {
        let key = ("callid", Compare::Eq, Value::text(call_id.as_bytes()));
        (vec![key, ("remote_cseq", Compare::Less, Value::Int(cseq))], row(call_id, 7))
    }

    fn slices<T>(rows: &[Vec<T>]) -> Vec<&[T]> {
        rows.iter().map(Vec::as_slice).collect()
    }

    fn updates(rows: &[(Vec<Condition>, Vec<Assignment>)]) -> Vec<RowUpdate<'_>> {
        rows.iter().map(|(conditions, set)| (&conditions[..], &set[..])).collect()
    }

    /// The steps: statements as they are, rows that go alone as Debug has them.
    fn steps<R: std::fmt::Debug>(
        work: impl FnOnce(Run<'_, R>) -> Result<(), Fault>,
    ) -> (Vec<String>, Vec<String>) {
        let (mut statements, mut alone) = (Vec::new(), Vec::new());
        work(&mut |step| {
            match step {
                Step::Statement(text) => statements.push(String::from_utf8(text.to_vec()).unwrap()),
                Step::Row(row) => alone.push(format!("{row:?}")),
            }
            Ok(())
        })
        .unwrap();
        (statements, alone)
    }

    #[test]
    fn rows_are_added_by_one_statement() {
        let rows = [row("a", 1), row("b'", -2)];
        let quoted = Names { table: "t", quote: "`" };
        let (statements, alone) = steps(|run| insert(quoted, &slices(&rows), run));
        assert_eq!(statements, ["INSERT INTO `t` (`callid`,`expires`) VALUES ('a',1),('b''',-2)"]);
        assert_eq!(alone, [""; 0]);
    }

    #[test]
    fn rows_are_changed_by_one_statement() {
        let rows = [change("a", 5), change("b", 6)];
        let (statements, alone) = steps(|run| update(NAMES, &updates(&rows), run));
        assert_eq!(
            statements,
            ["UPDATE t AS known SET callid=given.s0,expires=given.s1 FROM (VALUES \
              ((NULL::t).callid,(NULL::t).remote_cseq,(NULL::t).callid,(NULL::t).expires),\
              ('a','5','a','7'),('b','6','b','7')) AS given(k0,k1,s0,s1) \
              WHERE known.callid=given.k0 AND known.remote_cseq<given.k1"]
        );
        assert_eq!(alone, [""; 0]);
    }

    #[test]
    fn rows_are_removed_by_one_statement() {
        let rows = [change("a", 5).0, change("b", 6).0];
        let (statements, _) = steps(|run| delete(NAMES, &slices(&rows), run));
        assert_eq!(
            statements,
            ["DELETE FROM t AS known USING (VALUES ((NULL::t).callid,(NULL::t).remote_cseq),\
              ('a','5'),('b','6')) AS given(k0,k1) \
              WHERE known.callid=given.k0 AND known.remote_cseq<given.k1"]
        );
    }

    #[test]
    fn what_is_not_plain_goes_alone() {
        let rows = [row("\u{e9}", 1), row("a", 2), row("b\\", 3), row("c", 4), row("\0", 5)];
        let (statements, alone) = steps(|run| insert(NAMES, &slices(&rows), run));
        assert_eq!(statements, ["INSERT INTO t (callid,expires) VALUES ('a',2),('c',4)"]);
        let odd = [&rows[0], &rows[2], &rows[4]];
        assert_eq!(alone, odd.map(|row| format!("{row:?}")));
    }

    #[test]
    fn a_lone_row_needs_no_statement() {
        let rows = [row("a", 1)];
        assert_eq!(
            steps(|run| insert(NAMES, &slices(&rows), run)),
            (vec![], vec![format!("{:?}", rows[0])])
        );
        assert_eq!(steps(|run| insert(NAMES, &[], run)), (vec![], vec![]));
    }

    #[test]
    fn rows_of_other_columns_are_not_mixed() {
        let other = vec![("callid", Value::text(b"x"))];
        let rows = [row("a", 1), row("b", 2), other, row("c", 3), row("d", 4)];
        let (statements, alone) = steps(|run| insert(NAMES, &slices(&rows), run));
        assert_eq!((statements.len(), alone.len()), (2, 1));
        // A condition may compare otherwise.
        let mut rows = [change("a", 5), change("b", 5)];
        rows[1].0[1].1 = Compare::Greater;
        let (statements, alone) = steps(|run| update(NAMES, &updates(&rows), run));
        assert_eq!((statements.len(), alone.len()), (0, 2));
    }

    #[test]
    fn statements_are_bounded() {
        let rows: Vec<_> = (0..1000).map(|n| row("a", n)).collect();
        let (statements, alone) = steps(|run| insert(NAMES, &slices(&rows), run));
        assert_eq!((statements.len(), alone.len()), (1000 / ROWS, 0));
        let long = "x".repeat(20_000);
        let rows: Vec<_> = (0..100).map(|n| row(&long, n)).collect();
        let (statements, alone) = steps(|run| insert(NAMES, &slices(&rows), run));
        assert!(statements.iter().all(|text| text.len() < BYTES + 21_000));
        assert_eq!((statements.len(), alone.len()), (25, 0));
    }

    #[test]
    fn a_failure_ends_it() {
        let rows: Vec<_> = (0..1000).map(|n| row("a", n)).collect();
        let mut asked = 0;
        let done = insert(NAMES, &slices(&rows), &mut |_| {
            asked += 1;
            Err(Fault::Database)
        });
        assert_eq!((done, asked), (Err(Fault::Database), 1));
    }
}
