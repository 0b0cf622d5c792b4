//! The interface that sibling modules get from `bind_presence`, with the
//! layouts and the ownership rules of Kamailio's own headers. What its functions
//! may be called with is what those headers say; no Rust code calls them.

#![allow(clippy::missing_safety_doc)]

pub mod authorization;
pub mod bind;
pub mod db_timer;
pub mod dialog;
pub mod documents;
pub mod events;
pub mod publication;
pub mod requests;
pub mod shtable;
pub mod subs;
