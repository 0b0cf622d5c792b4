//! A publication to be made or changed, whoever asks for it.

use crate::presence::dialog_info;
use crate::presence::event_package::{EventPackage, PackageId};
use crate::presence::presentity::PresentityKey;
use crate::presence::publication::{Facts, Step};

/// What later decisions need to know of a dialog-info document.
pub fn facts_of(document: &[u8]) -> Facts {
    dialog_info::summary(document).as_ref().map(Facts::of).unwrap_or_default()
}

/// Where a change comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin<'a> {
    /// From a client, sibling or operator of this server.
    Here {
        /// The presentity's domain as it was given: peers are notified that.
        domain: &'a [u8],
    },
    /// From a peer: it has told the others.
    Peer {
        /// The publication's id at its server.
        ruid: &'a [u8],
        /// Unix time at which it was accepted there.
        received: i64,
        /// Nobody is notified of it here.
        is_silent: bool,
    },
}

/// A publication to be made or changed, from a request or from a sibling.
#[derive(Debug, Clone)]
pub struct PublicationRequest<'a> {
    /// The package's id.
    pub package_id: PackageId,
    /// The package.
    pub package: &'a EventPackage,
    /// The presentity.
    pub key: PresentityKey,
    /// Create, refresh, modify or remove.
    pub step: Step,
    /// The entity-tag it refers to.
    pub if_match: Option<&'a [u8]>,
    /// The entity-tag of a new publication if the caller brings its own.
    pub own_tag: Option<&'a [u8]>,
    /// Seconds granted.
    pub expires: u32,
    /// It stays until it is removed (hard state); `expires` does not matter.
    pub for_ever: bool,
    /// The publisher's watcher URI.
    pub sender: Option<&'a [u8]>,
    /// The document; empty for none.
    pub body: &'a [u8],
    /// Where it comes from.
    pub origin: Origin<'a>,
}

impl PublicationRequest<'_> {
    /// Nobody is notified of it.
    pub fn is_silent(&self) -> bool {
        matches!(self.origin, Origin::Peer { is_silent: true, .. })
    }
}
