//! The event packages this server knows. Filled while Kamailio starts, before
//! it forks; afterwards every process has the same, frozen registry.

use crate::presence::event_package::{Event, EventPackage, Kind, PackageId};
use crate::presence::uri::eq_ignore_case;

/// Why a package was not registered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RegistryError {
    /// No name, or one that is not an event's.
    Name,
    /// The base name is too long for the database column of its `.winfo` peer.
    NameTooLong,
    /// `PackageId` is exhausted.
    Full,
}

/// Longest base name: with `.winfo` it must fit (stock's limit).
const MAX_BASE_NAME: usize = 44;

/// All registered packages.
#[derive(Debug, Clone, Default)]
pub struct EventPackageRegistry {
    packages: Vec<EventPackage>,
}

impl EventPackageRegistry {
    /// Registers a package, or completes the placeholder of that name. A
    /// package that is already complete stays as it is (its id is returned).
    pub fn add(&mut self, mut package: EventPackage) -> Result<PackageId, RegistryError> {
        if package.event.name.len() > MAX_BASE_NAME + ".winfo".len()
            || (package.kind == Kind::Publication && package.event.name.len() > MAX_BASE_NAME)
        {
            return Err(RegistryError::NameTooLong);
        }
        let id = match self.exact(&package.event) {
            Some(id) => {
                if !self.get(id).is_some_and(|known| known.content_type.is_empty()) {
                    return Ok(id);
                }
                package.peer = self.get(id).and_then(|known| known.peer);
                id
            }
            None => PackageId(u16::try_from(self.packages.len()).map_err(|_| RegistryError::Full)?),
        };
        match self.packages.get_mut(usize::from(id.0)) {
            Some(slot) => *slot = package,
            None => self.packages.push(package),
        }
        self.link_peers(id);
        Ok(id)
    }

    fn link_peers(&mut self, id: PackageId) {
        let Some(package) = self.get(id) else { return };
        let peer_name = match package.kind {
            Kind::WatcherInfo => {
                let name = &package.event.name;
                name[..name.len().saturating_sub(".winfo".len())].to_vec()
            }
            Kind::Publication => [&package.event.name[..], b".winfo"].concat(),
        };
        let parameters = package.event.parameters.clone();
        let Some(peer) = self.exact(&Event { name: peer_name, parameters }) else { return };
        for (one, other) in [(id, peer), (peer, id)] {
            if let Some(package) = self.packages.get_mut(usize::from(one.0)) {
                package.peer = Some(other);
            }
        }
    }

    /// The package registered under exactly this name and these parameters.
    pub fn exact(&self, event: &Event) -> Option<PackageId> {
        self.ids().find(|id| {
            self.get(*id).is_some_and(|package| {
                eq_ignore_case(&package.event.name, &event.name)
                    && package.event.parameters.len() == event.parameters.len()
                    && has_all(event, package)
            })
        })
    }

    /// The package that serves a request: of those whose registered parameters
    /// are all present, the one with the most (`dialog;sla` before `dialog`);
    /// further parameters do not matter. A request for a shared line needs a
    /// package for shared lines.
    pub fn serving(&self, event: &Event) -> Option<PackageId> {
        let wants_shared_line = eq_ignore_case(&event.name, b"dialog")
            && (event.parameter(b"sla").is_some() || event.parameter(b"ma").is_some());
        self.ids()
            .filter(|id| {
                self.get(*id).is_some_and(|package| {
                    !package.content_type.is_empty()
                        && eq_ignore_case(&package.event.name, &event.name)
                        && has_all(event, package)
                        && (!wants_shared_line || package.is_shared_line())
                })
            })
            .max_by_key(|id| self.get(*id).map(|package| package.event.parameters.len()))
    }

    /// A package by its id.
    pub fn get(&self, id: PackageId) -> Option<&EventPackage> {
        self.packages.get(usize::from(id.0))
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.packages.len()
    }

    /// All ids, in the order of registration.
    pub fn ids(&self) -> impl DoubleEndedIterator<Item = PackageId> + use<> {
        (0..self.packages.len()).filter_map(|n| u16::try_from(n).ok().map(PackageId))
    }

    /// The names for an Allow-Events header, last registered first, joined by
    /// ", ". Placeholders are not offered.
    pub fn allow_events(&self) -> Vec<u8> {
        self.ids()
            .rev()
            .filter_map(|id| self.get(id))
            .filter(|package| !package.content_type.is_empty())
            .map(|package| package.name.as_slice())
            .collect::<Vec<_>>()
            .join(&b", "[..])
    }
}

fn has_all(event: &Event, package: &EventPackage) -> bool {
    package
        .event
        .parameters
        .iter()
        .all(|(name, value)| event.parameter(name).is_some_and(|given| given == value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registry(names: &[&str]) -> EventPackageRegistry {
        let mut registry = EventPackageRegistry::default();
        for name in names {
            let mut package =
                EventPackage::named(name.as_bytes()).unwrap_or_else(|| panic!("{name}"));
            package.content_type = b"text/plain".to_vec();
            assert!(registry.add(package).is_ok());
        }
        registry
    }

    fn serving(registry: &EventPackageRegistry, event: &str) -> Option<u16> {
        registry.serving(&Event::parse(event.as_bytes())?).map(|id| id.0)
    }

    #[test]
    fn the_most_specific_package_serves() {
        let both = registry(&["dialog", "dialog;sla"]);
        assert_eq!(serving(&both, "dialog"), Some(0));
        assert_eq!(serving(&both, "Dialog;id=7;call-id=x"), Some(0));
        assert_eq!(serving(&both, "dialog;id=7;sla"), Some(1));
    }

    #[test]
    fn a_shared_line_is_not_served_by_plain_dialog() {
        assert_eq!(serving(&registry(&["dialog"]), "dialog;sla"), None);
        assert_eq!(serving(&registry(&["dialog", "dialog;sla"]), "dialog;ma"), None);
    }

    #[test]
    fn peers_find_each_other_in_either_order() {
        for names in [["presence", "presence.winfo"], ["presence.winfo", "presence"]] {
            let registry = registry(&names);
            for (one, other) in [(0, 1), (1, 0)] {
                let peer = registry.get(PackageId(one)).and_then(|p| p.peer);
                assert_eq!(peer, Some(PackageId(other)));
            }
        }
    }

    #[test]
    fn allow_events_names_the_newest_first() {
        assert_eq!(registry(&["presence", "dialog"]).allow_events(), b"dialog, presence");
    }

    #[test]
    fn a_placeholder_serves_nothing_until_completed() {
        let mut registry = EventPackageRegistry::default();
        let placeholder = EventPackage::named(b"dialog").unwrap_or_else(|| panic!("a name"));
        assert_eq!(registry.add(placeholder.clone()), Ok(PackageId(0)));
        assert_eq!(serving(&registry, "dialog"), None);
        let complete = EventPackage { content_type: b"x/y".to_vec(), ..placeholder };
        assert_eq!(registry.add(complete), Ok(PackageId(0)));
        assert_eq!(serving(&registry, "dialog"), Some(0));
    }
}
