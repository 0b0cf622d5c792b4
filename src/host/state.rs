//! What all parts of the host layer refer to: the configuration, the server,
//! the database driver. `module` fills it before the fork; each process then
//! has the same.

use once_cell::sync::OnceCell;

use crate::config::Config;
use crate::host::database::{Connection, Driver};
use crate::host::lock::KamLock;
use crate::host::memory::ShmArena;
use crate::host::process::Wake;
use crate::service::Server;
use crate::shm::{Memory, PagePool, PoolUsage};

/// Kamailio's shared memory and its locks.
pub enum Kamailio {}

impl Memory for Kamailio {
    type Arena = ShmArena;
    type Lock = KamLock;
}

/// The server on Kamailio.
pub type KamailioServer = Server<Kamailio>;

pub(super) static CONFIG: OnceCell<Config> = OnceCell::new();
pub(super) static DRIVER: OnceCell<Option<Driver>> = OnceCell::new();
pub(super) static SERVER: OnceCell<KamailioServer> = OnceCell::new();
pub(super) static WAKE: OnceCell<Wake> = OnceCell::new();
pub(super) static POOL: OnceCell<&PagePool<Kamailio>> = OnceCell::new();

/// What shared memory is used for records; `None` before mod_init.
pub fn pool_usage() -> Option<PoolUsage> {
    POOL.get().map(|pool| pool.usage())
}
/// Wakes the replicator, where there is one.
pub(super) static REPLICATOR: OnceCell<Wake> = OnceCell::new();
/// Bytes of shared memory that were taken before the fork, but for the pool's.
pub(super) static FIXED: OnceCell<usize> = OnceCell::new();

/// The server; `None` in library mode and before all modules are initialised.
pub fn server() -> Option<&'static KamailioServer> {
    SERVER.get()
}

/// The parameters; `None` before mod_init.
pub fn config() -> Option<&'static Config> {
    CONFIG.get()
}

/// Bytes of shared memory that are in use, free slots of pages included, and bytes
/// that are held.
pub fn memory() -> (usize, usize) {
    let usage = POOL.get().map(|pool| pool.usage()).unwrap_or_default();
    let fixed = FIXED.get().copied().unwrap_or(0);
    (fixed + usage.used(), fixed + usage.held())
}

/// The database is known to be away.
pub fn database_is_away() -> bool {
    DRIVER.get().and_then(Option::as_ref).is_some_and(Driver::is_away)
}

/// Wakes the sender processes.
pub fn wake_senders() {
    if let Some(wake) = WAKE.get() {
        wake.notify();
    }
}

/// Wakes the process that talks to other servers.
pub fn wake_replicator() {
    if let Some(wake) = REPLICATOR.get() {
        wake.notify();
    }
}

/// Bytes that nobody can guess. The system's generator does not fail once it
/// has been seeded; should it, time and process tell values apart at least.
pub fn random() -> [u8; 16] {
    let mut bytes = [0u8; 16];
    if getrandom::fill(&mut bytes).is_err() {
        let nanos = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |since| since.as_nanos());
        bytes = (nanos ^ u128::from(std::process::id()) << 64).to_be_bytes();
    }
    bytes
}

/// One more connection for this process, besides the one that a caller further
/// out is using.
pub fn another_connection() -> Option<Connection> {
    DRIVER.get()?.as_ref()?.open(false).ok().map(Connection::for_a_while)
}
