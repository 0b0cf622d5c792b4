//! Changes of the database that are made whole or not at all, and are repeated
//! where that may help. Nobody waits here for a database that is away, nor for
//! one to take what it refuses: only a conflict passes by waiting.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::time::{Duration, Instant};

use crate::error::Fault;
use crate::ports::{Condition, Database, Host, Verdict};

/// Attempts for a statement that fails while the database answers others. The
/// first may have met a lost connection, the second a conflict of which the
/// database does not tell.
const ATTEMPTS: u32 = 3;

/// Nothing is repeated after so long. A change that conflicts with those of others is
/// until then: the nodes of a cluster find out when they commit, one after the other.
/// Who has waited for somebody's lock until the server has given up would wait so long
/// again.
const PATIENCE: Duration = Duration::from_secs(2);

/// Longest pause after a conflict, in microseconds; the first is a quarter of a
/// millisecond.
const LONGEST: u64 = 64_000;

/// Conflicts after which many changes are not made together any more: each of them
/// alone meets fewer.
const TOGETHER: u32 = 4;

/// A change that was given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unmade {
    /// Why.
    pub fault: Fault,
    /// It may have been made all the same: only an answer was lost.
    pub perhaps: bool,
}

impl From<Unmade> for Fault {
    fn from(unmade: Unmade) -> Fault {
        unmade.fault
    }
}

/// Runs a change in a transaction. It is told how many attempts before may have been
/// carried out though they seem to have failed.
pub fn durable(
    database: &mut dyn Database,
    work: impl FnMut(&mut dyn Database, u32) -> Result<(), Fault>,
) -> Result<(), Fault> {
    Ok(in_transaction(database, u32::MAX, work)?)
}

/// The same for changes that are made one by one should this fail.
pub fn together(
    database: &mut dyn Database,
    work: impl FnMut(&mut dyn Database, u32) -> Result<(), Fault>,
) -> Result<(), Unmade> {
    in_transaction(database, TOGETHER, work)
}

fn in_transaction(
    database: &mut dyn Database,
    conflicts: u32,
    mut work: impl FnMut(&mut dyn Database, u32) -> Result<(), Fault>,
) -> Result<(), Unmade> {
    repeated(database, conflicts, |database, lost| {
        // What does not begin is not ours to roll back: a script may have begun one.
        database.begin()?;
        let done = work(database, lost).and_then(|()| database.commit());
        if done.is_err() {
            let _ = database.rollback();
        }
        done
    })
}

/// Runs a statement that is durable by itself, so that no transaction is
/// needed around it. It is told how many attempts before may have been carried out:
/// then it may find what one of them has done, if only its answer was lost. (One that
/// has met a conflict was not.)
pub fn single<T>(
    database: &mut dyn Database,
    work: impl FnMut(&mut dyn Database, u32) -> Result<T, Fault>,
) -> Result<T, Fault> {
    Ok(attempted(database, work)?)
}

/// The same, for who has to know whether what has failed may have been carried out.
pub fn attempted<T>(
    database: &mut dyn Database,
    work: impl FnMut(&mut dyn Database, u32) -> Result<T, Fault>,
) -> Result<T, Unmade> {
    repeated(database, u32::MAX, work)
}

/// Deletes a row; false if somebody else has. A repeated attempt may find that the
/// first one has done it, if only its answer was lost.
pub fn delete(database: &mut dyn Database, table: &str, row: &[Condition]) -> Result<bool, Fault> {
    single(database, |database, lost| {
        database.delete(table, row)?;
        Ok(lost > 0 || database.affected_rows() != Some(0))
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
    let together =
        durable(database, |database, _| items.iter().try_for_each(|i| work(database, i)));
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

/// What is not there may have been committed at another node of the database's
/// cluster: waits until it could be read here. True if it is worth to look again.
pub fn catch_up(host: &mut dyn Host) -> bool {
    host.database().is_some_and(|database| database.catch_up())
}

fn repeated<T>(
    database: &mut dyn Database,
    most_conflicts: u32,
    mut work: impl FnMut(&mut dyn Database, u32) -> Result<T, Fault>,
) -> Result<T, Unmade> {
    let (mut lost, mut conflicts, since) = (0, 0, Instant::now());
    loop {
        let given_up = |fault, perhaps| Err(Unmade { fault, perhaps: perhaps || lost > 0 });
        match work(database, lost) {
            Err(Fault::Database) => {}
            Ok(done) => return Ok(done),
            // Known before anything is sent.
            Err(fault) => return given_up(fault, false),
        }
        let verdict = database.verdict();
        if since.elapsed() > PATIENCE && verdict != Verdict::Statement {
            return given_up(Fault::Database, verdict != Verdict::Conflict);
        }
        match verdict {
            Verdict::Away => return given_up(Fault::Database, true),
            Verdict::Statement => return given_up(Fault::Refused, false),
            Verdict::Conflict => {
                conflicts += 1;
                if conflicts == most_conflicts {
                    return given_up(Fault::Database, false);
                }
                database.repeats();
                std::thread::sleep(pause(conflicts));
            }
            Verdict::Unclear => {
                if lost + 1 == ATTEMPTS {
                    return given_up(Fault::Refused, true);
                }
                database.repeats();
                lost += 1;
            }
        }
    }
}

/// Processes that have met each other must not do so again.
fn pause(conflicts: u32) -> Duration {
    let longest = (250u64 << conflicts.min(10)).min(LONGEST);
    Duration::from_micros(longest / 2 + RandomState::new().hash_one(conflicts) % (longest / 2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_have_a_bound() {
        for conflicts in 1..60 {
            let pause = pause(conflicts).as_micros() as u64;
            let longest = (250 << conflicts.min(40)).min(LONGEST);
            assert!((longest / 2..=longest).contains(&pause), "{conflicts}: {pause}");
        }
    }
}
