//! Publications that sibling modules make without a SIP request: they bring an
//! entity-tag of their own, and the lower limit of lifetimes is not for them.

use crate::error::{Fault, Rejection};
use crate::ports::Host;
use crate::presence::event_package::{Kind, PackageId};
use crate::presence::presentity::PresentityKey;
use crate::presence::publication::{Refused, Step};
use crate::service::Server;
use crate::service::publication_request::{Origin, PublicationRequest};
use crate::service::publish::publish_for_sibling;
use crate::shm::Memory;

/// What a sibling wants to be published.
#[derive(Debug, Clone, Copy)]
pub struct SiblingPublication<'a> {
    /// The event package.
    pub package: PackageId,
    /// User of the presentity.
    pub user: &'a [u8],
    /// Host of the presentity.
    pub domain: &'a [u8],
    /// The sibling's tag, which stays.
    pub entity_tag: &'a [u8],
    /// The publisher's watcher URI.
    pub sender: Option<&'a [u8]>,
    /// The document; empty for none.
    pub body: &'a [u8],
    /// Lifetime in seconds.
    pub expires: u32,
    /// It never ends by itself.
    pub for_ever: bool,
    /// It is new, or replaces what has the same tag; else there has to be one
    /// with that tag.
    pub is_new: bool,
}

fn key<M: Memory>(server: &Server<M>, given: &SiblingPublication<'_>) -> PresentityKey {
    server.store.key(given.user, given.domain, given.package)
}

/// There is a publication with this tag.
pub fn has_tag<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    given: &SiblingPublication<'_>,
) -> Result<bool, Fault> {
    server.publications().has_tag(server, host, &key(server, given), given.entity_tag)
}

/// Publishes it. 412 when nothing has the tag that should be there, or when
/// another process is changing that publication.
pub fn publish<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    given: &SiblingPublication<'_>,
) -> Result<(), Refused> {
    match publish_once(server, host, given) {
        // Another process has created it since we looked: it is there now.
        Err(Refused::EntityTag) if given.is_new => publish_once(server, host, given),
        result => result,
    }
}

fn publish_once<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    given: &SiblingPublication<'_>,
) -> Result<(), Refused> {
    let package = server.registry.get(given.package).ok_or(Fault::Package)?;
    if package.kind == Kind::WatcherInfo {
        return Err(Fault::Package.into());
    }
    let ends = given.expires == 0 && !given.for_ever;
    let step = match (given.is_new, given.body.is_empty()) {
        (true, true) => return Err(Rejection::bad_request("Missing Body").into()),
        (true, false) if !has_tag(server, host, given)? => Step::Create,
        // The document of the last moment is shown before it ends.
        (true, false) => Step::Modify,
        (false, _) if ends => Step::Remove,
        (false, true) => Step::Refresh,
        (false, false) => Step::Modify,
    };
    let policy = server.publication_lifetimes(host.now());
    let publishing = PublicationRequest {
        package_id: given.package,
        package,
        key: key(server, given),
        step,
        if_match: (step != Step::Create).then_some(given.entity_tag),
        own_tag: Some(given.entity_tag),
        expires: policy.capped(Some(given.expires), package.default_expires),
        for_ever: given.for_ever,
        sender: given.sender,
        body: given.body,
        origin: Origin::Here { domain: given.domain },
    };
    publish_for_sibling(server, host, &publishing)
}
