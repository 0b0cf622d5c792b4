//! Changes of the database that are made whole or not at all, and are repeated
//! when they fail.

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
    repeated(|_| {
        // What does not begin is not ours to roll back: a script may have begun one.
        database.begin()?;
        let done = work(database).and_then(|()| database.commit());
        if done.is_err() {
            let _ = database.rollback();
        }
        done
    })
}

/// Runs a statement that is durable by itself, so that no transaction is
/// needed around it. The attempt is counted from 0: a repeated one may find
/// what the first one has done, if only its answer was lost.
pub fn single<T>(
    database: &mut dyn Database,
    mut work: impl FnMut(&mut dyn Database, u32) -> Result<T, Fault>,
) -> Result<T, Fault> {
    repeated(|attempt| work(database, attempt))
}

fn repeated<T>(mut work: impl FnMut(u32) -> Result<T, Fault>) -> Result<T, Fault> {
    let mut attempt = 0;
    loop {
        let done = work(attempt);
        attempt += 1;
        if done.is_ok() || attempt == ATTEMPTS {
            return done;
        }
        std::thread::sleep(std::time::Duration::from_millis(5 << attempt));
    }
}
