//! Where a presentity says it is (`enable_sphere_check`, B35): rules may hold
//! in one sphere only, so that they are looked at again when it changes.

use crate::ports::{Host, Level};
use crate::presence::event_package::{Event, EventPackage, PackageId};
use crate::presence::pidf;
use crate::presence::presentity::PresentityKey;
use crate::presence::publication::{PublicationCopy, is_shown};
use crate::service::{Server, watchers};
use crate::shm::Memory;

/// The sphere of the newest publication that names one; `None` also where
/// spheres are not looked at.
pub fn of<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    user: &[u8],
    domain: &[u8],
) -> Option<Vec<u8>> {
    if !server.config.enable_sphere_check {
        return None;
    }
    let id = server.registry.serving(&Event::parse(b"presence")?)?;
    read(server, host, &server.store.key(user, domain, id), &server.registry.get(id)?.name)
}

fn read<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    key: &PresentityKey,
    event: &[u8],
) -> Option<Vec<u8>> {
    let now = host.now();
    let of = |publication: &PublicationCopy| match is_shown(publication.expires_at, now) {
        true => pidf::sphere(&publication.body),
        false => None,
    };
    // Mostly the newest says it; there may be very many.
    let (mut seen, mut most) = (0, 1);
    let publications = server.publications();
    while let Some((newest, is_all)) = publications.newest_here(server, key, most) {
        let found = newest.get(seen..).unwrap_or_default().iter().find_map(of);
        if found.is_some() || is_all {
            return found;
        }
        (seen, most) = (newest.len(), most * 8);
    }
    let publications = publications.current(server, host, key, event).ok()?;
    publications.iter().rev().find_map(of)
}

/// What a publication may change: remembers the sphere before it.
#[derive(Debug)]
pub struct Watched {
    key: PresentityKey,
    package: PackageId,
    before: Option<Vec<u8>>,
}

impl Watched {
    /// Looks at the sphere, if it matters for this package.
    pub fn before<M: Memory>(
        server: &Server<M>,
        host: &mut dyn Host,
        key: &PresentityKey,
        package: &EventPackage,
    ) -> Option<Watched> {
        let matters = server.config.enable_sphere_check
            && package.is_presence()
            && package.requires_authorization
            && !server.config.force_active;
        matters.then(|| Watched {
            key: key.clone(),
            package: key.package,
            before: read(server, host, key, &package.name),
        })
    }

    /// Judges the watchers anew if the sphere is another one now.
    pub fn after<M: Memory>(self, server: &Server<M>, host: &mut dyn Host) {
        let Some(package) = server.registry.get(self.package) else { return };
        if read(server, host, &self.key, &package.name) == self.before {
            return;
        }
        let (user, domain) = (&self.key.user, &self.key.host);
        let judged = host.rules(self.package, user, domain).and_then(|rules| match rules {
            Some(rules) => {
                watchers::update_watchers(server, host, self.package, user, domain, Some(&rules))
            }
            None => Ok(0),
        });
        if let Err(fault) = judged {
            host.log(
                Level::Error,
                format_args!("watchers keep their states in the new sphere: {fault}"),
            );
        }
    }
}
