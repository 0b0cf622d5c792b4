//! Publications for the operator's commands, wherever they are kept.

use crate::error::Fault;
use crate::ports::Host;
use crate::presence::publication::PublicationCopy;
use crate::presence::uri::{UserCase, same_user};
use crate::service::Server;
use crate::shm::Memory;

/// A publication and what it belongs to.
#[derive(Debug, Clone)]
pub struct Published {
    /// User of the presentity.
    pub user: Vec<u8>,
    /// Host of the presentity.
    pub host: Vec<u8>,
    /// Name of the event package.
    pub event: Vec<u8>,
    /// The publication.
    pub publication: PublicationCopy,
}

/// The publications of these users and hosts; `None` stands for all. Both are
/// compared without case.
pub fn publications<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    user: Option<&[u8]>,
    domain: Option<&[u8]>,
) -> Result<Vec<Published>, Fault> {
    // A user in any spelling is also any host, which has none.
    let fits = |wanted: Option<&[u8]>, is: &[u8]| {
        wanted.is_none_or(|wanted| same_user(wanted, is, UserCase::Insensitive))
    };
    let both = |is_user: &[u8], is_domain: &[u8]| fits(user, is_user) && fits(domain, is_domain);
    server.publications().list(server, host, &both)
}
