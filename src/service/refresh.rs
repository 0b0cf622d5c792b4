//! What script, operator and siblings ask for: watchers are to be notified again,
//! rules to be applied again, hard state has changed (manual 4.5, 4.6).

use crate::presence::presentity::PresentityKey;
use std::fmt;

use crate::error::Fault;
use crate::ports::Host;
use crate::presence::event_package::{Event, EventPackage, PackageId};
use crate::presence::pidf;
use crate::presence::publication::{Refused, Step};
use crate::presence::request::UriParts;
use crate::service::notifier::{self, Budget};
use crate::service::publication_request::{Origin, PublicationRequest};
use crate::service::publish::publish_for_sibling;
use crate::service::{Server, watchers};
use crate::shm::Memory;

/// Attempts to change hard state while others change it, too.
const ATTEMPTS: usize = 5;

/// What has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refresh<'a> {
    /// Who may watch (type 0).
    Authorization,
    /// Published state, perhaps by hand in the table (type 1).
    State,
    /// A document of hard state on the XCAP server (type 2).
    HardState {
        /// Its URI there.
        file: &'a [u8],
        /// Its name, which becomes its entity-tag.
        name: &'a [u8],
    },
}

/// Why nothing was refreshed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The event package is not registered.
    Event,
    /// The package or the presentity has no rules.
    Rules,
    /// The document is not well-formed XML.
    Document,
    /// Something failed.
    Fault(Fault),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::Event => f.write_str("the event package is not registered"),
            Refusal::Rules => f.write_str("there are no rules for this presentity and package"),
            Refusal::Document => f.write_str("the document is not well-formed XML"),
            Refusal::Fault(fault) => write!(f, "{fault}"),
        }
    }
}

impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Refusal {
        Refusal::Fault(fault)
    }
}

/// The package of exactly this name.
pub fn package<'a, M: Memory>(
    server: &'a Server<M>,
    event: &[u8],
) -> Option<(PackageId, &'a EventPackage)> {
    let id = server.registry.exact(&Event::parse(event.trim_ascii())?)?;
    // A placeholder for stored rows is not registered.
    Some((id, server.registry.get(id).filter(|package| !package.content_type.is_empty())?))
}

/// Refreshes the watchers of a presentity.
pub fn refresh<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    presentity: UriParts<'_>,
    event: &[u8],
    what: Refresh<'_>,
) -> Result<(), Refusal> {
    let (id, package) = package(server, event).ok_or(Refusal::Event)?;
    let key = server.store.key(presentity.user, presentity.host, id);
    match what {
        Refresh::Authorization => {
            let rules = host.rules(id, &key.user, presentity.host)?.ok_or(Refusal::Rules)?;
            watchers::update_watchers(
                server,
                host,
                id,
                presentity.user,
                presentity.host,
                Some(&rules),
            )?;
            server.wake_senders(host);
            return Ok(());
        }
        Refresh::State => server.publications().follow(server, host, &key, package)?,
        Refresh::HardState { file, name } => {
            let document = host.hard_state(id, &key.user, presentity.host, file)?;
            if document.as_deref().is_some_and(|document| !pidf::is_well_formed(document)) {
                return Err(Refusal::Document);
            }
            server.publications().follow(server, host, &key, package)?;
            // Whoever watches is notified by the change itself.
            let domain = presentity.host;
            if store(server, host, (&key, domain), package, name, document.as_deref())? {
                return Ok(());
            }
        }
    }
    if let Some(lane) = server.store.notify_all_again(&key)? {
        notifier::run(server, host, lane, Budget::WORKER);
    }
    server.wake_senders(host);
    Ok(())
}

/// Stores hard state, or removes it. False if there was nothing to remove.
fn store<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    (key, domain): (&PresentityKey, &[u8]),
    package: &EventPackage,
    name: &[u8],
    document: Option<&[u8]>,
) -> Result<bool, Refusal> {
    for _ in 0..ATTEMPTS {
        let known = server.publications().has_tag(server, host, key, name)?;
        let step = match (document, known) {
            (None, false) => return Ok(false),
            (None, true) => Step::Remove,
            (Some(_), true) => Step::Modify,
            (Some(_), false) => Step::Create,
        };
        let publishing = PublicationRequest {
            package_id: key.package,
            package,
            key: key.clone(),
            step,
            if_match: known.then_some(name),
            own_tag: Some(name),
            expires: 0,
            for_ever: true,
            sender: None,
            body: document.unwrap_or_default(),
            origin: Origin::Here { domain },
        };
        match publish_for_sibling(server, host, &publishing) {
            Ok(()) => return Ok(true),
            // Somebody is changing it at this moment.
            Err(Refused::EntityTag) => {}
            Err(Refused::TooManyEnds | Refused::Fault(Fault::SharedMemory)) => {
                return Err(Fault::SharedMemory.into());
            }
            Err(Refused::Request(_) | Refused::Fault(_)) => return Err(Fault::Database.into()),
        }
    }
    Err(Fault::Database.into())
}
