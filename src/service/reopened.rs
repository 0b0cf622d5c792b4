//! Updates that may open a dialog again which has terminated (B44). The store
//! says so before it changes anything, and gives the stored document; here the
//! update is made one that leaves the dialog as it is.

use crate::ports::Host;
use crate::presence::dialog_info;
use crate::presence::publication::Refused;
use crate::service::Server;
use crate::service::publication_request::{PublicationRequest, facts_of};
use crate::service::publications::Applied;
use crate::shm::Memory;
use crate::store::publications::PublicationChange;

/// Looks at the stored document. Only a sibling that keeps its entity-tag can
/// change it between two of them.
const ATTEMPTS: usize = 4;

/// Makes the change, with the dialogs that `stored` has as terminated.
pub(super) fn apply<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    publishing: &PublicationRequest<'_>,
    change: &PublicationChange<'_>,
    mut stored: Vec<u8>,
) -> Result<Applied<M>, Refused> {
    for _ in 0..ATTEMPTS {
        let kept = dialog_info::reopened::without_reopened(&stored, publishing.body);
        let body = kept.as_deref().unwrap_or(publishing.body);
        let publishing = PublicationRequest { body, ..publishing.clone() };
        let change = PublicationChange {
            body: change.body.map(|_| body),
            facts: Some(facts_of(body)),
            judged_by: Some(&stored),
            ..change.clone()
        };
        match server.publications().publish(server, host, &publishing, &change)? {
            Applied::Reopens(other) => stored = other,
            applied => return Ok(applied),
        }
    }
    Err(Refused::EntityTag)
}
