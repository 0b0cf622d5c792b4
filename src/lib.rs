//! SIP presence server for Kamailio: a drop-in replacement for its `presence`
//! module. ARCHITECTURE.md says which layer may use which, and why.

#[forbid(unsafe_code)]
pub mod config;
#[forbid(unsafe_code)]
pub mod error;
#[forbid(unsafe_code)]
pub mod ports;
#[forbid(unsafe_code)]
pub mod presence;
#[forbid(unsafe_code)]
pub mod service;
pub mod shm;
#[forbid(unsafe_code)]
pub mod sql;
#[forbid(unsafe_code)]
pub mod store;

#[cfg(feature = "kamailio")]
pub mod host;
