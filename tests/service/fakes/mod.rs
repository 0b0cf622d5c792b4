//! A server on the process's own heap, with a host that records everything it
//! is asked to do, in order.

mod database;
mod host;
#[path = "../../limit/mod.rs"]
mod limit;
mod nodes;
mod world;

pub use database::{CutCommit, FakeDatabase};
pub use host::{Event, Sent};
pub use nodes::{Nodes, Random, Weather};
pub use world::{
    Answered, DIALOG, FakeMemory, MWI, PRESENCE, Publish, SLA, Setup, Subscribe, WINFO, World,
    dialog,
};
