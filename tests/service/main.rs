//! What PUBLISH, SUBSCRIBE and the timers do, seen from outside: replies,
//! NOTIFYs, rows and memory, with everything below the server faked.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail loudly")]

mod clusters;
mod conformance;
mod database_only;
mod delivery;
mod ended_dialogs;
mod exhaustion;
mod explain;
mod fakes;
mod folding;
mod footprint;
mod identity;
mod limits;
mod listing;
mod many;
mod metrics;
mod ordering;
mod orphaned_rows;
mod prompt_rows;
mod publish;
mod publish_stored;
mod replicated_dialogs;
mod replicated_history;
mod replication;
mod statistics;
mod subscribe;
mod unanswered;
mod winfo;
mod write_back;
mod write_through;
