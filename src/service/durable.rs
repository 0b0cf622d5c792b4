//! Changes of the database that are made whole or not at all, and are repeated
//! where that may help. Nobody waits here for a database that is away, nor for
//! one to take what it refuses: only a conflict passes by waiting.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::time::{Duration, Instant};

use crate::error::Fault;
use crate::ports::{Condition, Database, Verdict};

/// Attempts for a statement that fails while the database answers others. The
/// first may have met a lost connection, the second a conflict of which the
/// database does not tell.
const ATTEMPTS: u32 = 3;

/// Attempts for a change that conflicts with those of others.
const CONFLICTS: u32 = 8;

/// Nothing is repeated after so long: who has waited for somebody's lock until the
/// server has given up would wait so long again.
const PATIENCE: Duration = Duration::from_secs(2);

/// Longest pause between two of them, in microseconds; the first is a quarter
/// of a millisecond.
const LONGEST: u64 = 16_000;

/// Runs a change in a transaction.
pub fn durable(
    database: &mut dyn Database,
    mut work: impl FnMut(&mut dyn Database) -> Result<(), Fault>,
) -> Result<(), Fault> {
    repeated(database, |database, _| {
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
    work: impl FnMut(&mut dyn Database, u32) -> Result<T, Fault>,
) -> Result<T, Fault> {
    repeated(database, work)
}

/// Deletes a row; false if somebody else has. A repeated attempt may find that the
/// first one has done it, if only its answer was lost.
pub fn delete(database: &mut dyn Database, table: &str, row: &[Condition]) -> Result<bool, Fault> {
    single(database, |database, attempt| {
        database.delete(table, row)?;
        Ok(attempt > 0 || database.affected_rows() != Some(0))
    })
}

/// Does the work for all of `items` in one transaction; if the database refuses
/// that, for each alone: one at fault does not keep it from the others. Fails
/// with `Fault::Refused` if some were refused.
pub fn each_or_all<T>(
    database: &mut dyn Database,
    items: &[T],
    work: impl Fn(&mut dyn Database, &T) -> Result<(), Fault>,
) -> Result<(), Fault> {
    let together = durable(database, |database| items.iter().try_for_each(|i| work(database, i)));
    if together != Err(Fault::Refused) || items.len() < 2 {
        return together;
    }
    let mut all = Ok(());
    for item in items {
        match single(database, |database, _| work(database, item)) {
            Ok(()) => {}
            Err(Fault::Refused) => all = Err(Fault::Refused),
            Err(fault) => return Err(fault),
        }
    }
    all
}

fn repeated<T>(
    database: &mut dyn Database,
    mut work: impl FnMut(&mut dyn Database, u32) -> Result<T, Fault>,
) -> Result<T, Fault> {
    let (mut attempt, since) = (0, Instant::now());
    loop {
        let done = work(database, attempt);
        // Any other fault is known before anything is sent.
        let Err(Fault::Database) = done else { return done };
        attempt += 1;
        let verdict = database.verdict();
        if since.elapsed() > PATIENCE && verdict != Verdict::Statement {
            return Err(Fault::Database);
        }
        match verdict {
            Verdict::Away => return Err(Fault::Database),
            Verdict::Statement => return Err(Fault::Refused),
            Verdict::Conflict if attempt < CONFLICTS => std::thread::sleep(pause(attempt)),
            Verdict::Conflict => return Err(Fault::Database),
            Verdict::Unclear if attempt < ATTEMPTS => {}
            Verdict::Unclear => return Err(Fault::Refused),
        }
    }
}

/// Processes that have met each other must not do so again.
fn pause(attempt: u32) -> Duration {
    let longest = (250u64 << attempt.min(10)).min(LONGEST);
    Duration::from_micros(longest / 2 + RandomState::new().hash_one(attempt) % (longest / 2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_have_a_bound() {
        for attempt in 1..CONFLICTS {
            let pause = pause(attempt).as_micros() as u64;
            let longest = (250 << attempt).min(LONGEST);
            assert!((longest / 2..=longest).contains(&pause), "{attempt}: {pause}");
        }
    }
}
