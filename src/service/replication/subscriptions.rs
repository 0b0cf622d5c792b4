//! Subscriptions of peers.

use crate::ports::Host;
use crate::presence::replication::json::Object;
use crate::service::Server;
use crate::shm::Memory;

use super::incoming::{From, Unapplied};
use super::outgoing::Stored;

/// How far a node has been sent what there is.
#[derive(Debug, Default)]
pub struct Cursor(());

/// Applies a message.
pub(super) fn apply<M: Memory>(
    _server: &Server<M>,
    _host: &mut dyn Host,
    _subscription: &Object,
    _from: &From<'_>,
) -> Result<(), Unapplied> {
    Ok(())
}

/// Gives some more of what there is; false when that was all.
pub(super) fn portion<M: Memory>(
    _server: &Server<M>,
    _host: &mut dyn Host,
    _cursor: &mut Cursor,
    _each: &mut dyn FnMut(Stored),
) -> bool {
    false
}

/// The message that waits as `payload`.
pub(super) fn unpack<M: Memory>(_server: &Server<M>, _payload: &[u8]) -> Option<Stored> {
    None
}

/// Once a second, in the process that talks to the peers.
pub(super) fn tick<M: Memory>(_server: &Server<M>, _host: &mut dyn Host) {}
