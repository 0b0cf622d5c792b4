//! Which session of the server a connection has. Drivers connect again by themselves,
//! behind a proxy perhaps to another server, where the session may get the same
//! number. So each has something of its own: a variable that dies with it.

use std::sync::atomic::Ordering;

use crate::error::Fault;
use crate::host::database::{ANYTHING, Connection, Driver, verdict};
use crate::host::log::{log_error, log_info};
use crate::ports::Value;
use crate::sql::Dialect;
use crate::sql::prepared::Prepared;

/// How often two connections look whether they meet in one session: poolers give the
/// session that was used last, or one after the other.
const MEETINGS: usize = 4;

/// What is known of a connection's session.
#[derive(Debug, Default)]
pub(super) struct Session {
    /// The variable was set in it.
    is_marked: bool,
    /// The database was away since then: it may be another one.
    may_be_new: bool,
}

/// What was found where the variable should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    Same,
    /// Nothing: it is a new session.
    New,
    /// Another process's: a pooler gives sessions to one after the other.
    Anothers,
}

impl Connection {
    /// Asks whether it is still the session that it was; one that is not is marked.
    /// False also where it was not marked before.
    pub(super) fn is_same_session(&mut self) -> Result<bool, Fault> {
        let found = match self.driver.dialect() {
            Some(Dialect::MySql) => self.ask_mysql()?,
            Some(Dialect::Postgres) => self.ask_postgres()?,
            _ => return Ok(true),
        };
        if found == Found::Anothers {
            self.driver.sessions_are_shared();
            self.prepared = Prepared::never();
        }
        let is_same = found == Found::Same && self.session.is_marked;
        let was_exchanged = found == Found::New && self.session.is_marked;
        if was_exchanged && !self.session.may_be_new {
            // Nobody has noticed that the database was away.
            if let Some(outage) = self.driver.outage {
                outage.exchanged(verdict::milliseconds());
                self.outages = outage.count();
            }
        }
        self.session = Session { is_marked: true, may_be_new: false };
        Ok(is_same)
    }

    fn ask_mysql(&mut self) -> Result<Found, Fault> {
        let found = self.plain(b"SELECT @presence_session")?;
        let found = self.driver.found(found);
        if found != Found::Same {
            let mark = format!("SET @presence_session='{}'", self.driver.token());
            self.plain(mark.as_bytes())?;
        }
        // No pooler of MySQL's shares sessions that have variables.
        Ok(if found == Found::Anothers { Found::New } else { found })
    }

    fn ask_postgres(&mut self) -> Result<Found, Fault> {
        let question = format!(
            "SELECT CAST(current_setting('presence.session', true) AS VARCHAR), \
             set_config('presence.session', '{}', false)",
            self.driver.token()
        );
        let found = self.plain(question.as_bytes())?;
        Ok(self.driver.found(found))
    }

    /// The database was away: the session may be another one.
    pub(super) fn may_have_new_session(&mut self) {
        self.session.may_be_new = true;
    }

    /// Asks which session this is: another one knows nothing of what was prepared.
    /// Where the server cannot say, nothing is prepared any more.
    pub(super) fn ask_session(&mut self) -> Result<(), Fault> {
        for _ in 0..2 {
            match self.is_same_session() {
                Ok(is_same) => {
                    if self.prepared.is_used() {
                        self.prepared.begin_session(is_same);
                    }
                    return Ok(());
                }
                // Was it the connection or the question?
                Err(_) => self.plain(ANYTHING)?,
            };
        }
        self.prepared = Prepared::never();
        Ok(())
    }

    /// Both connections are used in turns: true if they meet in one session, as behind
    /// a pooler that gives each transaction another one.
    pub fn shares_sessions(&mut self, other: &mut Connection) -> bool {
        if self.driver.dialect() != Some(Dialect::Postgres) {
            return false;
        }
        let token = self.driver.token();
        let mark = format!("SELECT set_config('presence.probe', '{token}', false)");
        let ask = b"SELECT CAST(current_setting('presence.probe', true) AS VARCHAR)";
        (0..MEETINGS).any(|_| {
            self.plain(mark.as_bytes()).is_ok()
                && other.plain(ask).is_ok_and(|found| {
                    found.is_some_and(|found| found.as_bytes() == token.as_bytes())
                })
        })
    }

    /// Whether what is read comes from where changes go. pgpool-II may send SELECTs to
    /// standbys, which lag.
    pub fn check_reads(&mut self) {
        let is_postgres = self.driver.dialect() == Some(Dialect::Postgres);
        if !is_postgres || !self.reads_only().is_ok_and(|reads_only| reads_only) {
            return;
        }
        let harmless = b"UPDATE version SET table_version=table_version WHERE table_name=''";
        if self.plain(harmless).is_ok() && self.driver.may_warn_of_reads() {
            log_error!(
                "what is read comes from a standby, while changes go to another server: several \
                 servers on one database would tell old states. pgpool-II needs \
                 load_balance_mode = off"
            );
        }
    }

    /// A server that answers may be a standby, or be told to take no changes.
    pub(super) fn reads_only(&mut self) -> Result<bool, Fault> {
        let answer = self.plain(b"SELECT current_setting('transaction_read_only')")?;
        Ok(answer.is_some_and(|answer| answer.as_bytes() == b"on"))
    }

    /// Whether its server is a node of a Galera cluster, which may be behind others.
    pub(super) fn is_node(&mut self) -> bool {
        if self.driver.dialect() != Some(Dialect::MySql) {
            return false;
        }
        if let Some(is_node) = self.is_node {
            return is_node;
        }
        let mut value = None;
        let asked = self.ask_plain(b"SHOW VARIABLES LIKE 'wsrep_on'", &mut |row| {
            value = row.get(1).map(|value| value.as_bytes().eq_ignore_ascii_case(b"on"));
        });
        let is_node = value.unwrap_or(false);
        self.is_node = asked.is_ok().then_some(is_node);
        is_node
    }

    /// Waits until this node has applied what others had committed.
    pub(super) fn wait_for_node(&mut self) -> Result<(), Fault> {
        // In one packet: the server is not asked four times.
        self.plain(
            b"SET @presence_wait=@@SESSION.wsrep_sync_wait; SET SESSION wsrep_sync_wait=3; \
              SELECT 1; SET SESSION wsrep_sync_wait=@presence_wait",
        )?;
        Ok(())
    }
}

impl Driver {
    /// What is in the variable of this process's sessions: nobody else has it.
    fn token(&self) -> String {
        let digits: String = self.random.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{digits}-{}", std::process::id())
    }

    fn found(&self, value: Option<Value>) -> Found {
        match value.as_ref().map_or(&b""[..], Value::as_bytes) {
            b"" => Found::New,
            value if value == self.token().as_bytes() => Found::Same,
            _ => Found::Anothers,
        }
    }

    /// A pooler gives sessions to one after the other: what is prepared in one is
    /// prepared in another's.
    pub fn sessions_are_shared(&self) {
        let first = self.shared.is_some_and(|shared| !shared.pooled.swap(true, Ordering::Relaxed));
        if first {
            log_info!("a pooler gives each transaction another session: nothing is prepared");
        }
    }

    /// That was found out, by some process.
    pub(super) fn is_pooled(&self) -> bool {
        self.shared.is_some_and(|shared| shared.pooled.load(Ordering::Relaxed))
    }

    fn may_warn_of_reads(&self) -> bool {
        self.shared.is_some_and(|shared| !shared.warned_of_reads.swap(true, Ordering::Relaxed))
    }
}
