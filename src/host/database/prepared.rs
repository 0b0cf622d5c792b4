//! Prepared statements of a connection to PostgreSQL.

use std::time::Instant;

use crate::error::Fault;
use crate::host::database::{Connection, columns};
use crate::sql::prepared::{Call, FORGET_PLANS, Prepared, Statements};
use crate::sql::{Dialect, Names};

impl Connection {
    /// Prepares nothing: its session is that of another connection, and goes on
    /// when this one is closed.
    pub fn for_a_while(mut self) -> Connection {
        self.prepared = Prepared::never();
        self
    }

    /// Carries out a prepared statement, where the server has them. `None` if it
    /// has to be left to the driver.
    pub(super) fn execute(
        &mut self,
        table: &str,
        call: impl FnOnce(Names<'_>) -> Option<Call>,
    ) -> Option<Result<(), Fault>> {
        if self.driver.dialect() != Some(Dialect::Postgres) {
            return None;
        }
        self.touched = columns::ours(table);
        let quote = self.quote();
        let call = call(Names { table, quote: &quote })?;
        self.execute_call(call).transpose()
    }

    fn execute_call(&mut self, call: Call) -> Result<Option<()>, Fault> {
        self.try_again()?;
        if self.driver.is_pooled() {
            self.prepared = Prepared::never();
        }
        if self.prepared.lacks_session()
            && let Err(fault) = self.ask_session()
        {
            self.word = Some(self.away());
            return Err(fault);
        }
        let Some(statements) = self.prepared.statements(self.number, &call, Instant::now()) else {
            return Ok(None);
        };
        let done = self.send_prepared(&statements);
        self.prepared.count(&statements, done.is_err());
        done.map(Some)
    }

    fn send_prepared(&mut self, statements: &Statements) -> Result<(), Fault> {
        if statements.forgets_plans {
            self.raw(FORGET_PLANS)?;
        }
        if let Some(prepare) = &statements.prepare {
            let prepared = self.raw(prepare);
            // It fails where the session, behind a pooler or after the driver has
            // connected again, knows the name already.
            self.prepared.learn(statements);
            prepared?;
        }
        self.raw(&statements.execute).map(|_| ())
    }
}
