//! Kamailio: everything that touches its structures, functions and memory.
//! With `shm` the only place of `unsafe`. The layers above see it through
//! `ports`; the C shim calls `exports`.

pub mod boundary;
pub mod capi;
pub mod commands;
pub mod database;
mod database_value;
mod dmq;
pub mod exports;
mod fragments;
pub mod lock;
pub mod log;
pub mod memory;
pub mod message;
mod metrics;
pub mod module;
mod notified_subscription;
pub mod packages;
pub mod params;
pub mod process;
mod replicator;
pub mod reply;
mod reply_event;
mod rpc;
mod script;
mod sender;
pub mod state;
mod statistics;
pub mod sys;
pub mod text;
pub mod timers;
pub mod tm;
mod variables;
mod worker;
