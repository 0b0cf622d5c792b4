//! Event packages (RFC 6665 7): what a name in an Event header stands for.

use crate::presence::text::{is_token, split_unquoted};
use crate::presence::uri::eq_ignore_case;

/// Identifies a registered event package for the life of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct PackageId(pub u16);

/// What a package's NOTIFYs report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Published state.
    Publication,
    /// The watchers of another package (RFC 3857).
    WatcherInfo,
}

/// The value of an Event header: package name and parameters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Package name as spelled.
    pub name: Vec<u8>,
    /// Parameters in order; a parameter without `=` has an empty value.
    pub parameters: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Event {
    /// Parses an Event header value (RFC 6665 8.2.1). `None` when it does not
    /// begin with a token or a parameter has no name.
    pub fn parse(value: &[u8]) -> Option<Event> {
        if is_token(value) {
            return Some(Event { name: value.to_vec(), parameters: Vec::new() });
        }
        let mut parts = split_unquoted(value, b';').into_iter();
        let name = parts.next()?.trim_ascii();
        if !is_token(name) {
            return None;
        }
        let mut parameters = Vec::new();
        for part in parts {
            let part = part.trim_ascii();
            if part.is_empty() {
                continue;
            }
            let (key, value) = match part.iter().position(|b| *b == b'=') {
                Some(at) => (part[..at].trim_ascii(), part[at + 1..].trim_ascii()),
                None => (part, &b""[..]),
            };
            if !is_token(key) {
                return None;
            }
            parameters.push((key.to_vec(), value.to_vec()));
        }
        Some(Event { name: name.to_vec(), parameters })
    }

    /// The value of a parameter, its name compared without case.
    pub fn parameter(&self, name: &[u8]) -> Option<&[u8]> {
        self.parameters
            .iter()
            .find(|(key, _)| eq_ignore_case(key, name))
            .map(|(_, value)| value.as_slice())
    }

    /// The `id` parameter (RFC 6665 4.5.2); empty if there is none.
    pub fn id(&self) -> &[u8] {
        self.parameter(b"id").unwrap_or_default()
    }
}

/// An event package as its module registered it (manual, developer guide 2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventPackage {
    /// The name as registered, parameters included: what NOTIFYs carry and
    /// database rows store.
    pub name: Vec<u8>,
    /// The name, parsed.
    pub event: Event,
    /// Content type of its documents; empty while only a placeholder made for
    /// stored rows whose module is not (yet) loaded.
    pub content_type: Vec<u8>,
    /// Lifetime in seconds when a request has no Expires.
    pub default_expires: u32,
    /// Published state or watcher information.
    pub kind: Kind,
    /// Its watcher-information package, or the package it reports on.
    pub peer: Option<PackageId>,
    /// A modification keeps the client's entity-tag (`etag_not_new`).
    pub keeps_entity_tag: bool,
    /// Subscriptions need authorization (`req_auth`).
    pub requires_authorization: bool,
    /// Documents of several publications are merged (`agg_nbody`).
    pub aggregates: bool,
    /// Documents are adapted to each watcher (`aux_body_processing`).
    pub personalises: bool,
    /// Documents are reduced by the rules (`apply_auth_nbody`).
    pub restricts: bool,
}

impl EventPackage {
    /// A package with a name and nothing else yet. `None` if the name is not
    /// that of an event.
    pub fn named(name: &[u8]) -> Option<EventPackage> {
        let event = Event::parse(name)?;
        let kind = if event.name.windows(6).any(|w| eq_ignore_case(w, b".winfo")) {
            Kind::WatcherInfo
        } else {
            Kind::Publication
        };
        Some(EventPackage {
            name: name.trim_ascii().to_vec(),
            event,
            content_type: Vec::new(),
            default_expires: 0,
            kind,
            peer: None,
            keeps_entity_tag: false,
            requires_authorization: false,
            aggregates: false,
            personalises: false,
            restricts: false,
        })
    }

    /// Dialog information (RFC 4235), shared line appearance included.
    pub fn is_dialog(&self) -> bool {
        eq_ignore_case(&self.event.name, b"dialog")
    }

    /// Shared or bridged line appearance: `dialog;sla` or `dialog;ma`.
    pub fn is_shared_line(&self) -> bool {
        self.is_dialog()
            && (self.event.parameter(b"sla").is_some() || self.event.parameter(b"ma").is_some())
    }

    /// A dialog that has terminated stays so (B44). Shared lines use what names
    /// a dialog for the next one, too.
    pub fn keeps_terminated(&self) -> bool {
        self.is_dialog() && !self.is_shared_line()
    }

    /// Presence (RFC 3856).
    pub fn is_presence(&self) -> bool {
        eq_ignore_case(&self.event.name, b"presence")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_has_a_name_and_parameters() {
        let event = Event::parse(b"dialog; sla ;id=\"a;b\"").unwrap_or_else(|| panic!("parses"));
        assert_eq!(event.name, b"dialog");
        assert_eq!(event.parameter(b"SLA"), Some(&b""[..]));
        assert_eq!(event.id(), b"\"a;b\"");
    }

    #[test]
    fn what_is_no_token_is_no_event() {
        for bad in [&b""[..], b";id=1", b"pres ence", b"\"presence\"", b"presence;=1"] {
            assert_eq!(Event::parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn kinds_follow_the_name() {
        let kind = |name: &[u8]| EventPackage::named(name).map(|p| p.kind);
        assert_eq!(kind(b"presence"), Some(Kind::Publication));
        assert_eq!(kind(b"presence.winfo"), Some(Kind::WatcherInfo));
    }
}
