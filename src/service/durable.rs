//! Changes of the database that are made whole or not at all.

use crate::error::Fault;
use crate::ports::Database;

/// Attempts for one change before the client is told to try again.
const ATTEMPTS: u32 = 4;

/// Runs a change in a transaction. The host's API does not say why a statement
/// failed (a lock, a lost connection, a bad value), so any failure repeats the
/// whole a few times.
pub fn durable(
    database: &mut dyn Database,
    mut work: impl FnMut(&mut dyn Database) -> Result<(), Fault>,
) -> Result<(), Fault> {
    let mut last = Fault::Database;
    for attempt in 0..ATTEMPTS {
        if attempt > 0 {
            std::thread::sleep(std::time::Duration::from_millis(5 << attempt));
        }
        match database.begin().and_then(|()| work(database)).and_then(|()| database.commit()) {
            Ok(()) => return Ok(()),
            Err(fault) => {
                let _ = database.rollback();
                last = fault;
            }
        }
    }
    Err(last)
}
