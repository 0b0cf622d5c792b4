//! What one Kamailio process offers the presence logic.

use std::cell::RefCell;
use std::fmt;
use std::mem::ManuallyDrop;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::error::Fault;
use crate::host::database::Connection;
use crate::host::database::measured::Measured;
use crate::host::packages::SiblingPackages;
use crate::host::tm::TmTransport;
use crate::host::{dmq, log, script, state};
use crate::ports::{
    Database, Dispatch, Host, Level, Notify, NotifyOutcome, PackageVerdict, Packages, Transport,
};
use crate::presence::event_package::PackageId;
use crate::presence::subscription::{Authorization, Snapshot};

thread_local! {
    /// The process's database connection, while nobody is using it. Not closed
    /// by a destructor: at the exit of a process its driver is gone already.
    static CONNECTION: RefCell<ManuallyDrop<Option<Connection>>> =
        const { RefCell::new(ManuallyDrop::new(None)) };
}

/// Makes this process's connection, or none, the one that is used.
pub fn set_connection(connection: Option<Connection>) {
    drop(ManuallyDrop::into_inner(CONNECTION.replace(ManuallyDrop::new(connection))));
}

fn take_connection() -> Option<Connection> {
    ManuallyDrop::into_inner(CONNECTION.replace(ManuallyDrop::new(None)))
}

/// The process at work. It holds the database connection only between calls
/// of siblings and of the script: those may come back into this module.
pub struct Worker {
    transport: TmTransport,
    packages: SiblingPackages,
    connection: Option<Measured>,
}

impl Default for Worker {
    fn default() -> Worker {
        if let Some(server) = state::server() {
            server.store.set_clock(milliseconds());
        }
        Worker { transport: TmTransport, packages: SiblingPackages, connection: None }
    }
}

impl Worker {
    fn give_connection_back(&mut self) {
        if let Some(Measured(mut connection)) = self.connection.take() {
            connection.leave_transaction();
            set_connection(Some(connection));
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.give_connection_back();
    }
}

/// Unix time in milliseconds.
pub fn milliseconds() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// Unix time.
pub fn now() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}

impl Transport for Worker {
    fn notify(&mut self, notify: &Notify<'_>) -> NotifyOutcome {
        self.give_connection_back();
        self.transport.notify(notify)
    }
}

impl Packages for Worker {
    fn aggregate(
        &mut self,
        package: PackageId,
        user: &[u8],
        domain: &[u8],
        bodies: &[&[u8]],
        closing: Option<usize>,
    ) -> Option<Vec<u8>> {
        self.give_connection_back();
        self.packages.aggregate(package, user, domain, bodies, closing)
    }

    fn personalise(
        &mut self,
        package: PackageId,
        subscription: &Snapshot,
        body: &[u8],
    ) -> Option<Vec<u8>> {
        self.give_connection_back();
        self.packages.personalise(package, subscription, body)
    }

    fn restrict(
        &mut self,
        package: PackageId,
        subscription: &Snapshot,
        rules: &[u8],
        body: &[u8],
    ) -> Result<Option<Vec<u8>>, Fault> {
        self.give_connection_back();
        self.packages.restrict(package, subscription, rules, body)
    }

    fn rules(
        &mut self,
        package: PackageId,
        user: &[u8],
        domain: &[u8],
    ) -> Result<Option<Vec<u8>>, Fault> {
        self.give_connection_back();
        self.packages.rules(package, user, domain)
    }

    fn authorize(
        &mut self,
        package: PackageId,
        subscription: &Snapshot,
        rules: Option<&[u8]>,
    ) -> Result<Authorization, Fault> {
        self.give_connection_back();
        self.packages.authorize(package, subscription, rules)
    }

    fn hard_state(
        &mut self,
        package: PackageId,
        user: &[u8],
        domain: &[u8],
        file: &[u8],
    ) -> Result<Option<Vec<u8>>, Fault> {
        self.give_connection_back();
        self.packages.hard_state(package, user, domain, file)
    }
}

impl Host for Worker {
    fn now(&self) -> i64 {
        now()
    }

    fn milliseconds(&self) -> u64 {
        milliseconds()
    }

    fn random(&mut self) -> [u8; 16] {
        state::random()
    }

    fn database(&mut self) -> Option<&mut dyn Database> {
        if self.connection.is_none() {
            // A caller further out may hold it: it is replying, and the
            // script's event route for replies has come back to us.
            let connection = take_connection().or_else(state::another_connection);
            self.connection = connection.map(Measured);
        }
        self.connection.as_mut().map(|connection| connection as &mut dyn Database)
    }

    fn script_number(&mut self, root: &[u8], name: &[u8]) -> Option<i64> {
        script::xavp_number(root, name)
    }

    fn database_away_since(&self) -> Option<i64> {
        let lasts = state::DRIVER.get()?.as_ref()?.away_for()?;
        Some(now() - i64::try_from(lasts / 1000).unwrap_or(0))
    }

    fn wake_senders(&mut self) {
        state::wake_senders();
    }

    fn wake_replicator(&mut self) {
        state::wake_replicator();
    }

    fn dispatch(&mut self, dispatch: &Dispatch<'_>) -> Result<(), Fault> {
        self.give_connection_back();
        dmq::dispatch(dispatch)
    }

    fn check_document(&mut self, package: PackageId, document: &[u8]) -> PackageVerdict {
        self.give_connection_back();
        dmq::check_document(package, document)
    }

    fn log(&mut self, level: Level, line: fmt::Arguments<'_>) {
        log::write(level_of(level), file!(), line!(), line);
    }

    fn logs(&self, level: Level) -> bool {
        log::enabled(level_of(level))
    }
}

fn level_of(level: Level) -> log::Level {
    match level {
        Level::Error => log::Level::Error,
        Level::Warning => log::Level::Warning,
        Level::Info => log::Level::Info,
        Level::Debug => log::Level::Debug,
    }
}
