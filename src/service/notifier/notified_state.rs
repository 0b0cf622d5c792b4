//! The version of a presentity's state that its watchers are notified of: copied from
//! the store once, and composed into the documents that NOTIFYs carry.

use std::borrow::Cow;
use std::hash::{DefaultHasher, Hash, Hasher};

use crate::error::Fault;
use crate::ports::Host;
use crate::presence::event_package::{EventPackage, Kind, PackageId};
use crate::service::compose::{self, Composition, compose, fold};
use crate::service::subscriptions::Numbering;
use crate::service::watcher_info::WatcherList;
use crate::service::{Server, notifier_slots};
use crate::shm::Memory;
use crate::store::LaneRef;
use crate::store::lanes::{Composed, ComposedWatchers, State};

/// A state version with its documents, for all portions of its watchers.
pub(super) struct NotifiedState<'a> {
    /// The event package.
    pub package: &'a EventPackage,
    /// Its number.
    pub package_id: PackageId,
    content: Content,
    /// The newest document is empty, and such are not sent to those who have just
    /// subscribed.
    skip_first: bool,
    /// All that its documents are made of was copied.
    is_in_memory: bool,
}

#[expect(clippy::large_enum_variant, reason = "one at a time, on the stack")]
enum Content {
    /// Documents for all NOTIFYs.
    Composed(Composition<'static>),
    /// What the database has of it is read for each portion.
    Copied(State),
}

/// What was read before numbers were taken.
pub(super) enum Read {
    /// No NOTIFY shows it.
    Nothing,
    /// The state, with its list of watchers where that is the state.
    State(Option<WatcherList>),
}

/// Of what was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fingerprint(u64);

impl<'a> NotifiedState<'a> {
    /// The newest one of a lane that the caller owns; `None` if nobody can be notified.
    pub fn copy<M: Memory>(
        server: &'a Server<M>,
        host: &mut dyn Host,
        lane: LaneRef<M>,
        numbering: Numbering,
    ) -> Result<Option<NotifiedState<'a>>, Fault> {
        let Some(mut state) = server.store.lane_state_shown(lane, host.now()) else {
            return Ok(None);
        };
        let package_id = state.key.package;
        let Some(package) = server.registry.get(package_id) else { return Ok(None) };
        let is_in_memory = is_in_memory(server, package, &state);
        let may_skip = may_skip_first(server, package);
        let (content, is_empty) = if numbering.composes_first() {
            let composition = compose(server, host, package, state)?;
            let is_empty = composition.is_empty();
            (Content::Composed(composition), is_empty)
        } else {
            let is_empty =
                may_skip && compose(server, host, package, without_ends(&state))?.is_empty();
            let known = server.publications().are_complete(&state.publications);
            let living = state.publications.iter().map(|living| living.body.len()).sum();
            fold(package, &mut state.finals, known.then_some(living));
            (Content::Copied(state), is_empty)
        };
        let skip_first = may_skip && is_empty;
        Ok(Some(NotifiedState { package, package_id, content, skip_first, is_in_memory }))
    }

    /// What the store has to know of it to pick those who lack it.
    pub fn composed(&self) -> Composed<'_> {
        let (state_version, finals, watchers) = match &self.content {
            Content::Composed(made) => {
                let watchers = made.watchers.as_ref();
                let watchers = watchers.map(|list| (list.full_since, list.has_all()));
                (made.state_version, made.finals(), watchers)
            }
            Content::Copied(state) => {
                let changes = &state.watchers;
                let watchers = (changes.full_since, changes.wants_full);
                let reports = self.package.kind == Kind::WatcherInfo;
                (state.state_version, state.finals.as_slice(), reports.then_some(watchers))
            }
        };
        Composed {
            state_version,
            finals,
            skip_first: self.skip_first,
            watchers: watchers
                .map(|(full_since, has_all)| ComposedWatchers { full_since, has_all }),
        }
    }

    /// Several processes may notify watchers of it at the same time. (What is read later may be
    /// newer: of two processes the one that composes the same version first may
    /// send an older document.)
    pub fn may_be_shared(&self) -> bool {
        self.is_in_memory
    }

    /// The next portion may be notified of it, too. `is_latest`: nothing has changed here
    /// since it was copied. (That the newest document was empty may be over by then,
    /// where others write rows: who has just subscribed must not be left out.)
    pub fn serves_next(&self, is_latest: bool) -> bool {
        match &self.content {
            Content::Composed(_) => true,
            Content::Copied(_) => is_latest && !self.skip_first,
        }
    }

    /// The documents, if they were made for all portions.
    pub fn documents(&self) -> Option<&Composition<'_>> {
        match &self.content {
            Content::Composed(composition) => Some(composition),
            Content::Copied(_) => None,
        }
    }

    /// Reads what the database has of the state, again if need be: after the rows of
    /// those who are picked, and before their numbers are taken. `shows`: some of
    /// the NOTIFYs show it.
    pub fn read<M: Memory>(
        &mut self,
        server: &Server<M>,
        host: &mut dyn Host,
        shows: bool,
    ) -> Result<Read, Fault> {
        match &mut self.content {
            Content::Copied(state) if shows => {
                let changes = state.watchers.clone();
                compose::read(server, host, self.package, state, changes).map(Read::State)
            }
            Content::Copied(_) | Content::Composed(_) => Ok(Read::Nothing),
        }
    }

    /// What tells what was read from what is read later, if it is other state.
    pub fn fingerprint(&self, read: &Read) -> Fingerprint {
        let mut hasher = DefaultHasher::new();
        if let (Content::Copied(state), Read::State(watchers)) = (&self.content, read) {
            for publication in &state.publications {
                (&publication.ruid, &publication.body).hash(&mut hasher);
            }
            watchers.hash(&mut hasher);
        }
        Fingerprint(hasher.finish())
    }

    /// The database has other state by now than what was read, or cannot be asked.
    pub fn differs<M: Memory>(
        &mut self,
        server: &Server<M>,
        host: &mut dyn Host,
        seen: Fingerprint,
    ) -> bool {
        match self.read(server, host, true) {
            Ok(read) => self.fingerprint(&read) != seen,
            Err(_) => true,
        }
    }

    /// Makes the documents of what was read.
    pub fn compose<M: Memory>(
        &self,
        server: &Server<M>,
        host: &mut dyn Host,
        read: Read,
    ) -> Result<Composition<'_>, Fault> {
        match (&self.content, read) {
            (Content::Copied(state), Read::State(watchers)) => {
                compose::documents(server, host, self.package, Cow::Borrowed(state), watchers)
            }
            _ => Ok(Composition::default()),
        }
    }
}

/// Who has just subscribed is not sent an empty document (`send_fast_notify=0`).
fn may_skip_first<M: Memory>(server: &Server<M>, package: &EventPackage) -> bool {
    !server.config.send_fast_notify
        && !notifier_slots::sends_empty(server)
        && package.peer.is_none()
}

fn is_in_memory<M: Memory>(server: &Server<M>, package: &EventPackage, state: &State) -> bool {
    package.kind == Kind::Publication && server.publications().are_complete(&state.publications)
}

fn without_ends(state: &State) -> State {
    State {
        key: state.key.clone(),
        state_version: state.state_version,
        publications: state.publications.clone(),
        finals: Vec::new(),
        watchers: state.watchers.clone(),
    }
}
