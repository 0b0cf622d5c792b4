//! Statements that PostgreSQL parses once in a session: that takes it about as
//! long as to carry out the UPDATE of a PUBLISH.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, Instant};

use crate::ports::{Assignment, Condition, Value};
use crate::sql::{Names, literal};

/// Forms of statements that one connection prepares at most.
const MOST: usize = 32;

/// A call that fails weighs as much as so many that do not. What pools sessions
/// between us and the server may give each statement another one.
const FAILURE: u16 = 1000;
/// At this weight statements of a form are sent as they are, for good. Others
/// are not touched: it may be a form whose failure is normal, such as an INSERT
/// that finds a row there.
const PATIENCE: u16 = 3 * FAILURE;

/// The server keeps the plans of prepared statements. One that was made while a
/// table was small reads all of it, so plans are forgotten after so many calls
/// or so long: the table has not grown much since.
const PLAN_CALLS: u32 = 100;
const PLAN_AGE: Duration = Duration::from_secs(1);
/// A statement of its own: pgpool-II looks at the first one of a text only.
pub const FORGET_PLANS: &[u8] = b"DISCARD PLANS";

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
#[derive(Debug)]
pub struct Prepared {
    has_session: bool,
    forms: Vec<Form>,
    most: usize,
    /// When plans were last forgotten, and calls since then.
    planned: Option<(Instant, u32)>,
}

#[derive(Debug)]
struct Form {
    text: Vec<u8>,
    /// The session knows it.
    is_known: bool,
    failures: u16,
}

/// What is to be sent.
#[derive(Debug, PartialEq, Eq)]
pub struct Statements {
    /// Before, if it is the first of its form in this session.
    pub prepare: Option<Vec<u8>>,
    /// The server is to plan anew first.
    pub forgets_plans: bool,
    /// The statement itself.
    pub execute: Vec<u8>,
    form: usize,
}

impl Default for Prepared {
    fn default() -> Prepared {
        Prepared { has_session: false, forms: Vec::new(), most: MOST, planned: None }
    }
}

impl Prepared {
    /// Never prepares anything.
    pub fn never() -> Prepared {
        Prepared { most: 0, ..Prepared::default() }
    }

    /// Something may be prepared.
    pub fn is_used(&self) -> bool {
        self.most > 0
    }

    /// Whether the server has yet to be asked which session it is.
    pub fn lacks_session(&self) -> bool {
        !self.has_session && self.is_used()
    }

    /// The session of the connection was asked for, at the beginning or after a
    /// failure. Another one knows nothing of what was prepared.
    pub fn begin_session(&mut self, is_same: bool) {
        if !is_same {
            self.forms.iter_mut().for_each(|form| form.is_known = false);
        }
        self.has_session = true;
    }

    /// How a call is made. `connection` tells this connection's statements from
    /// those of others that share its session. `None` if it has to be left to
    /// the driver.
    pub fn statements(&mut self, connection: u32, call: &Call, now: Instant) -> Option<Statements> {
        let form = match self.forms.iter().position(|form| form.text == call.form) {
            Some(form) => form,
            None if self.forms.len() < self.most => {
                let form = Form { text: call.form.clone(), is_known: false, failures: 0 };
                self.forms.push(form);
                self.forms.len() - 1
            }
            None => return None,
        };
        let known = self.forms.get(form).filter(|form| form.failures < PATIENCE)?;
        // A pooler may give us a session in which another process has prepared:
        // the same name must be the same statement there.
        let mut hasher = DefaultHasher::new();
        call.form.hash(&mut hasher);
        let name = format!("presence_{connection}_{:016x}", hasher.finish()).into_bytes();
        let prepare =
            (!known.is_known).then(|| [b"PREPARE ", &name[..], b" AS ", &call.form].concat());
        let forgets_plans = self.plans_are_old(now);
        let execute = [b"EXECUTE ", &name[..], &call.values].concat();
        Some(Statements { prepare, forgets_plans, execute, form })
    }

    /// Whether the server has to plan anew; counts the call.
    fn plans_are_old(&mut self, now: Instant) -> bool {
        match &mut self.planned {
            Some((since, calls))
                if *calls < PLAN_CALLS && now.saturating_duration_since(*since) < PLAN_AGE =>
            {
                *calls += 1;
                false
            }
            planned => planned.replace((now, 1)).is_some(),
        }
    }

    /// The session knows the form from now on.
    pub fn learn(&mut self, statements: &Statements) {
        if let Some(form) = self.forms.get_mut(statements.form) {
            form.is_known = true;
        }
    }

    /// Whether a call has failed.
    pub fn count(&mut self, statements: &Statements, has_failed: bool) {
        if let Some(form) = self.forms.get_mut(statements.form) {
            form.failures = match has_failed {
                true => form.failures.saturating_add(FAILURE),
                false => form.failures.saturating_sub(1),
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::Compare;
    use std::sync::LazyLock;

    const NAMES: Names<'static> = Names { table: "t", quote: "\"" };

    fn an_update(etag: &str) -> Call {
        let set = [("body", Value::Blob(b"\0'\xff".to_vec())), ("a", Value::Int(-5))];
        let conditions = [
            ("etag", Compare::Eq, Value::text(etag.as_bytes())),
            ("n", Compare::Less, Value::Int(3)),
        ];
        update(NAMES, &conditions, &set).unwrap()
    }

    static NOW: LazyLock<Instant> = LazyLock::new(Instant::now);

    fn statements(prepared: &mut Prepared, connection: u32, call: &Call) -> Option<Statements> {
        prepared.statements(connection, call, *NOW)
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
        prepared.begin_session(false);
        let first = statements(&mut prepared, 4, &an_update("a")).unwrap();
        let prepare = first.prepare.clone().unwrap();
        assert!(prepare.starts_with(b"PREPARE presence_4_"), "{}", text(&prepare));
        prepared.learn(&first);
        let second = statements(&mut prepared, 4, &an_update("b")).unwrap();
        assert_eq!(second.prepare, None);
        assert!(second.execute.ends_with(b",'b',3)"));
        prepared.begin_session(true);
        assert_eq!(statements(&mut prepared, 4, &an_update("b")).unwrap().prepare, None);
        prepared.begin_session(false);
        assert_eq!(statements(&mut prepared, 4, &an_update("b")).unwrap().prepare, Some(prepare));
    }

    #[test]
    fn plans_are_not_kept_for_long() {
        let mut prepared = Prepared::default();
        let mut forgets = |after: Duration| {
            let call = prepared.statements(0, &an_update("a"), *NOW + after).unwrap();
            assert!(call.execute.starts_with(b"EXECUTE presence_0_"));
            call.forgets_plans
        };
        assert_eq!((0..=PLAN_CALLS).filter(|_| forgets(Duration::ZERO)).count(), 1);
        let later = PLAN_AGE - Duration::from_millis(1);
        assert!(!forgets(later));
        assert!(forgets(PLAN_AGE));
        assert!(!forgets(PLAN_AGE + later));
        assert!(!forgets(Duration::ZERO), "a clock that goes back");
    }

    /// Behind a pooler one process may meet what another has prepared.
    #[test]
    fn a_name_is_always_the_same_statement() {
        let name = |prepared: &mut Prepared, call: &Call| {
            let execute = statements(prepared, 4, call).unwrap().execute;
            text(&execute).split(['(', ' ']).nth(1).unwrap().to_owned()
        };
        let delete = delete(NAMES, &[]).unwrap();
        let (mut one, mut other) = (Prepared::default(), Prepared::default());
        let update_name = name(&mut one, &an_update("a"));
        let delete_name = name(&mut other, &delete);
        assert_ne!(update_name, delete_name);
        assert_eq!(name(&mut one, &delete), delete_name);
        assert_eq!(name(&mut other, &an_update("b")), update_name);
    }

    #[test]
    fn a_form_is_given_up_where_it_does_not_work() {
        let mut prepared = Prepared::default();
        let update = statements(&mut prepared, 0, &an_update("a")).unwrap();
        for _ in 0..20 {
            prepared.count(&update, true);
            (0..FAILURE).for_each(|_| prepared.count(&update, false));
        }
        let insert = insert(NAMES, &[]).unwrap();
        let inserts = statements(&mut prepared, 0, &insert).unwrap();
        (0..4).for_each(|_| prepared.count(&inserts, true));
        prepared.begin_session(false);
        assert_eq!(statements(&mut prepared, 0, &insert), None);
        assert!(statements(&mut prepared, 0, &an_update("a")).is_some(), "others go on");
    }

    #[test]
    fn their_number_is_bounded() {
        let mut prepared = Prepared::default();
        let form = |at: usize| {
            let row: Vec<_> = (0..at).map(|_| ("a", Value::Null)).collect();
            insert(NAMES, &row).unwrap()
        };
        for at in 0..MOST {
            assert!(statements(&mut prepared, 0, &form(at)).is_some());
        }
        assert_eq!(statements(&mut prepared, 0, &form(MOST)), None);
        assert!(statements(&mut prepared, 0, &form(0)).is_some());
        assert_eq!(statements(&mut Prepared::never(), 0, &form(0)), None);
        assert!(!Prepared::never().lacks_session());
    }
}
