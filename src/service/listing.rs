//! Publications for the operator's commands, wherever they are kept.

use crate::error::Fault;
use crate::ports::Host;
use crate::presence::publication::PublicationCopy;
use crate::presence::uri::{UserCase, same_user};
use crate::service::Server;
use crate::shm::Memory;
use crate::store::rows::{PUBLICATION_COLUMNS, read_publication};

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
    let mut found = Vec::new();
    if server.publications_in_database() {
        let table =
            std::str::from_utf8(&server.config.presentity_table).map_err(|_| Fault::Database)?;
        let database = host.database().ok_or(Fault::Database)?;
        database.query(table, &[], PUBLICATION_COLUMNS, Some("id"), &mut |row| {
            let row = read_publication(row)
                .filter(|row| fits(user, &row.user) && fits(domain, &row.host));
            found.extend(row.map(|row| Published {
                user: row.user,
                host: row.host,
                event: row.event,
                publication: row.publication,
            }));
        })?;
        return Ok(found);
    }
    for shard in 0..server.store.shards() {
        let listed = server.store.list_publications(shard);
        let fitting =
            listed.into_iter().filter(|(key, _)| fits(user, &key.user) && fits(domain, &key.host));
        found.extend(fitting.filter_map(|(key, publication)| {
            let event = server.registry.get(key.package)?.name.clone();
            Some(Published { user: key.user, host: key.host, event, publication })
        }));
    }
    Ok(found)
}
