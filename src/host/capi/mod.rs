//! The interface that sibling modules get from `bind_presence`, with the
//! layouts and the ownership rules of Kamailio's own headers.

pub mod bind;
pub mod events;
pub mod shtable;
pub mod subs;
pub mod unavailable;
