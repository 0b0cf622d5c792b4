//! Statements that PostgreSQL has parsed before. To parse and plan a PUBLISH's
//! UPDATE costs the server as much as to carry it out.

use std::fmt::Write;
use std::hash::{DefaultHasher, Hash, Hasher};

use crate::ports::{Assignment, Condition, Value};
use crate::sql::{Names, literal};

/// Forms of statements that one connection prepares at most.
const MOST: usize = 32;

/// A call that fails weighs as much as so many that do not. What pools sessions
/// between us and the server may give each statement another one.
const FAILURE: u16 = 1000;
/// At this weight statements are sent as they are, for good.
const PATIENCE: u16 = 3 * FAILURE;

/// A statement with numbered parameters, and their values.
#[derive(Debug, PartialEq, Eq)]
pub struct Call {
    form: Vec<u8>,
    values: Vec<u8>,
}

/// An UPDATE; `None` if a value has to be left to the driver.
pub fn update(names: Names<'_>, conditions: &[Condition], set: &[Assignment]) -> Option<Call> {
    let mut call = Writer::new(b"UPDATE ", names);
    call.form.extend_from_slice(b" SET ");
    for (at, (column, value)) in set.iter().enumerate() {
        call.form.extend_from_slice(if at == 0 { b"" } else { b"," });
        names.push(&mut call.form, column);
        call.form.push(b'=');
        call.parameter(value)?;
    }
    call.conditions(conditions)?;
    Some(call.end())
}

/// A DELETE; `None` as above.
pub fn delete(names: Names<'_>, conditions: &[Condition]) -> Option<Call> {
    let mut call = Writer::new(b"DELETE FROM ", names);
    call.conditions(conditions)?;
    Some(call.end())
}

/// An INSERT; `None` as above.
pub fn insert(names: Names<'_>, row: &[Assignment]) -> Option<Call> {
    let mut call = Writer::new(b"INSERT INTO ", names);
    call.form.extend_from_slice(b" (");
    names.push_list(&mut call.form, "", row.iter().map(|(column, _)| *column));
    call.form.extend_from_slice(b") VALUES ");
    for (at, (_, value)) in row.iter().enumerate() {
        call.form.push(if at == 0 { b'(' } else { b',' });
        call.parameter(value)?;
    }
    call.form.push(b')');
    Some(call.end())
}

struct Writer<'n> {
    names: Names<'n>,
    count: usize,
    form: Vec<u8>,
    values: Vec<u8>,
}

impl<'n> Writer<'n> {
    fn new(verb: &[u8], names: Names<'n>) -> Self {
        let mut form = Vec::with_capacity(256);
        form.extend_from_slice(verb);
        names.push_table(&mut form);
        Self { names, count: 0, form, values: Vec::with_capacity(512) }
    }

    fn conditions(&mut self, conditions: &[Condition]) -> Option<()> {
        for (at, (column, compare, value)) in conditions.iter().enumerate() {
            self.form.extend_from_slice(if at == 0 { b" WHERE " } else { b" AND " });
            self.names.push(&mut self.form, column);
            self.form.extend_from_slice(compare.sign().to_bytes());
            self.parameter(value)?;
        }
        Some(())
    }

    fn parameter(&mut self, value: &Value) -> Option<()> {
        self.values.push(if self.count == 0 { b'(' } else { b',' });
        self.count += 1;
        self.form.push(b'$');
        self.form.extend_from_slice(self.count.to_string().as_bytes());
        match value {
            Value::Null => self.values.extend_from_slice(b"NULL"),
            Value::Blob(bytes) => push_binary(&mut self.values, bytes),
            Value::Int(_) | Value::Text(_) => {
                return literal::push(&mut self.values, value, true).then_some(());
            }
        }
        Some(())
    }

    fn end(mut self) -> Call {
        self.values.extend_from_slice(if self.count == 0 { b"" } else { b")" });
        Call { form: self.form, values: self.values }
    }
}

/// In hexadecimal digits: nothing in it has to be escaped.
fn push_binary(text: &mut Vec<u8>, bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |half: u8| DIGITS.get(usize::from(half)).copied().unwrap_or_default();
    text.extend_from_slice(b"decode('");
    text.extend(bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]));
    text.extend_from_slice(b"','hex')");
}

/// What a connection has prepared in its session with the server.
#[derive(Debug, Default)]
pub struct Prepared {
    session: Option<Value>,
    forms: Vec<Vec<u8>>,
    failures: u16,
}

/// What is to be sent.
#[derive(Debug, PartialEq, Eq)]
pub struct Statements {
    /// Before, if it is the first of its form in this session.
    pub prepare: Option<Vec<u8>>,
    /// The statement itself.
    pub execute: Vec<u8>,
}

impl Prepared {
    /// Never prepares anything.
    pub fn never() -> Prepared {
        Prepared { failures: u16::MAX, ..Prepared::default() }
    }

    /// Whether statements are to be prepared at all.
    pub fn is_of_use(&self) -> bool {
        self.failures < PATIENCE
    }

    /// Whether the server has yet to be asked which session it is.
    pub fn lacks_session(&self) -> bool {
        self.session.is_none()
    }

    /// The session of the connection, asked for at the beginning and after a
    /// failure. Another one knows nothing of what was prepared; true if it is.
    pub fn set_session(&mut self, session: Option<Value>) -> bool {
        let is_new = self.session != session;
        if is_new {
            self.forms.clear();
        }
        self.session = session;
        is_new
    }

    /// How a call is made. `connection` tells this connection's statements from
    /// those of others that share its session. `None` if it has too many.
    pub fn statements(&mut self, connection: u32, call: &Call) -> Option<Statements> {
        let known = self.forms.iter().position(|form| *form == call.form);
        if known.is_none() && self.forms.len() == MOST {
            return None;
        }
        // A pooler may give us a session in which another process has prepared:
        // the same name must be the same statement there.
        let mut hasher = DefaultHasher::new();
        call.form.hash(&mut hasher);
        let mut name = String::new();
        let _ = write!(name, "presence_{connection}_{:016x}", hasher.finish());
        let prepare =
            known.is_none().then(|| [b"PREPARE ", name.as_bytes(), b" AS ", &call.form].concat());
        let execute = [b"EXECUTE ", name.as_bytes(), &call.values].concat();
        Some(Statements { prepare, execute })
    }

    /// A form has been prepared.
    pub fn learn(&mut self, call: Call) {
        self.forms.push(call.form);
    }

    /// Whether the last call has failed.
    pub fn count(&mut self, has_failed: bool) {
        self.failures = match has_failed {
            true => self.failures.saturating_add(FAILURE),
            false => self.failures.saturating_sub(1),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::Compare;

    const NAMES: Names<'static> = Names { table: "t", quote: "\"" };

    fn an_update(etag: &str) -> Call {
        let set = [("body", Value::Blob(b"\0'\xff".to_vec())), ("a", Value::Int(-5))];
        let conditions = [
            ("etag", Compare::Eq, Value::text(etag.as_bytes())),
            ("n", Compare::Less, Value::Int(3)),
        ];
        update(NAMES, &conditions, &set).unwrap()
    }

    fn text(bytes: &[u8]) -> &str {
        std::str::from_utf8(bytes).unwrap()
    }

    #[test]
    fn forms_and_values() {
        let call = an_update("o'x");
        assert_eq!(
            text(&call.form),
            r#"UPDATE "t" SET "body"=$1,"a"=$2 WHERE "etag"=$3 AND "n"<$4"#
        );
        assert_eq!(text(&call.values), "(decode('0027ff','hex'),-5,'o''x',3)");
        let row = [("a", Value::Null), ("b", Value::text(b""))];
        let call = insert(NAMES, &row).unwrap();
        assert_eq!(text(&call.form), r#"INSERT INTO "t" ("a","b") VALUES ($1,$2)"#);
        assert_eq!(text(&call.values), "(NULL,'')");
        let call = delete(NAMES, &[]).unwrap();
        assert_eq!((text(&call.form), text(&call.values)), (r#"DELETE FROM "t""#, ""));
    }

    #[test]
    fn the_driver_gets_what_is_not_plain() {
        let odd = [("a", Value::text("\u{e9}".as_bytes()))];
        assert_eq!(insert(NAMES, &odd), None);
        assert_eq!(delete(NAMES, &[("a", Compare::Eq, Value::text(b"\\"))]), None);
    }

    #[test]
    fn a_form_is_prepared_once_in_a_session() {
        let mut prepared = Prepared::default();
        assert!(prepared.lacks_session());
        assert!(prepared.set_session(Some(Value::Int(7))));
        let first = prepared.statements(4, &an_update("a")).unwrap();
        assert!(first.prepare.is_some_and(|text| text.starts_with(b"PREPARE presence_4_")));
        assert!(first.execute.starts_with(b"EXECUTE presence_4_"));
        prepared.learn(an_update("a"));
        let second = prepared.statements(4, &an_update("b")).unwrap();
        assert_eq!(second.prepare, None);
        assert!(second.execute.ends_with(b",'b',3)"));
        let other = prepared.statements(4, &delete(NAMES, &[]).unwrap()).unwrap();
        assert!(other.execute.starts_with(b"EXECUTE presence_4_"));
        assert_ne!(&other.execute[..], &first.execute[..other.execute.len()]);
        assert!(!prepared.set_session(Some(Value::Int(7))));
        assert_eq!(prepared.statements(4, &an_update("b")).unwrap().prepare, None);
        assert!(prepared.set_session(Some(Value::Int(8))));
        assert!(prepared.statements(4, &an_update("b")).unwrap().prepare.is_some());
    }

    #[test]
    fn it_is_given_up_where_it_does_not_work() {
        let mut prepared = Prepared::default();
        for _ in 0..20 {
            prepared.count(true);
            (0..FAILURE).for_each(|_| prepared.count(false));
        }
        assert!(prepared.is_of_use(), "the server was away now and then");
        for has_failed in [true, false, true] {
            prepared.count(has_failed);
        }
        assert!(prepared.is_of_use());
        prepared.count(true);
        prepared.count(true);
        assert!(!prepared.is_of_use());
    }

    #[test]
    fn their_number_is_bounded() {
        let mut prepared = Prepared::default();
        for _ in 0..MOST {
            assert!(prepared.statements(0, &an_update("a")).is_some());
            prepared.learn(insert(NAMES, &[]).unwrap());
        }
        assert_eq!(prepared.statements(0, &an_update("a")), None);
    }
}
