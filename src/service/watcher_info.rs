//! Watcher information (RFC 3857): the documents about a presentity's watchers,
//! made of the living subscriptions, of what has changed, and of those in the
//! `watchers` table who wait for a decision.

use crate::error::Fault;
use crate::ports::{Compare, Host, Level, Value};
use crate::presence::event_package::EventPackage;
use crate::presence::presentity::PresentityKey;
use crate::presence::state_version::StateVersion;
use crate::presence::subscription::{Ending, Snapshot, Status, Text};
use crate::presence::{uri, winfo};
use crate::service::authorization::Name;
use crate::service::rate_limited_log::RateLimitedLog;
use crate::service::{Server, replication, subscriptions};
use crate::shm::Memory;
use crate::store::lanes::{Document, PlannedNotify};
use crate::store::rows::dialog_of;
use crate::store::watcher_changes::{ChangedWatcher, WatcherChanges, id_key};
use std::collections::{HashMap, HashSet};

static UNREADABLE: RateLimitedLog = RateLimitedLog::new();

/// One watcher in a document.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Entry {
    /// State version of its change; `None` for one that is just there.
    state_version: Option<StateVersion>,
    id: String,
    uri: Vec<u8>,
    status: Status,
    event: winfo::WatcherEvent,
}

/// What the documents are made of.
#[derive(Debug, Default, Hash)]
pub struct WatcherList {
    /// All watchers, if somebody gets all.
    all: Option<Vec<Entry>>,
    changed: Vec<Entry>,
    /// `WatcherChanges::full_since`.
    pub full_since: StateVersion,
}

impl WatcherList {
    /// The list of all watchers was made.
    pub fn has_all(&self) -> bool {
        self.all.is_some()
    }

    /// Collects the watchers of `key`, and what has become of others.
    pub fn new<M: Memory>(
        server: &Server<M>,
        host: &mut dyn Host,
        key: &PresentityKey,
        changes: WatcherChanges,
    ) -> Result<WatcherList, Fault> {
        let all = changes.wants_full.then(|| all(server, host, key)).transpose()?;
        let living = living(server, host, key, &changes.list, all.as_deref())?;
        let mut changed = latest(changes.list);
        if let Some(living) = living {
            follow_rows(&mut changed, &living);
        }
        Ok(WatcherList { all, changed, full_since: changes.full_since })
    }

    /// The document for one watcher of the watchers.
    pub fn document(
        &self,
        package: &EventPackage,
        resource: &[u8],
        notify: &PlannedNotify,
    ) -> Vec<u8> {
        let full = notify.document != Document::Changed;
        let name = &package.event.name;
        let base = &name[..name.len().saturating_sub(".winfo".len())];
        let changed = self.changed.iter().filter(|entry| {
            // A full list lacks nobody but those who are gone.
            let gone = matches!(entry.status, Status::Terminated | Status::Waiting);
            (gone || !full)
                && entry
                    .state_version
                    .is_some_and(|state_version| state_version.is_after(notify.notified))
        });
        let listed = self.all.iter().flatten().filter(|_| full);
        let mut named = HashSet::new();
        let watchers: Vec<winfo::Watcher<'_>> = listed
            .chain(changed)
            .filter(|entry| named.insert(entry.id.as_str()))
            .map(|entry| winfo::Watcher {
                id: &entry.id,
                uri: &entry.uri,
                status: entry.status,
                event: entry.event,
                display_name: None,
                expiration: None,
                duration_subscribed: None,
            })
            .collect();
        winfo::WatcherInfo {
            // The first NOTIFY of a dialog has version 1 in memory, 0 on the wire.
            version: notify.subscription.version.saturating_sub(1),
            full,
            resource,
            package: base,
            watchers: &watchers,
        }
        .to_xml()
    }
}

/// A subscription that is a row has ended.
pub fn row_ended<M: Memory>(
    server: &Server<M>,
    key: &PresentityKey,
    watcher: &Snapshot,
    ending: Ending,
) {
    let news = winfo::WatcherNews::ended(watcher.status, ending);
    server.store.watcher_row_changed(key, watcher, news);
}

/// Another server may have reported a later state of the watchers: what is reported
/// now is what their rows say. A watcher that is gone by now is reported by the server
/// that has ended it.
fn follow_rows(changed: &mut Vec<Entry>, living: &HashMap<String, Status>) {
    changed.retain_mut(|entry| {
        if !lives(entry.status) {
            return true;
        }
        let status = living.get(&entry.id);
        entry.status = status.copied().unwrap_or(entry.status);
        status.is_some()
    });
}

fn lives(status: Status) -> bool {
    matches!(status, Status::Active | Status::Pending)
}

/// The state of those watchers that have changed and live, by their ids, where
/// others than we may have changed it; `None` if there are none.
fn living<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    key: &PresentityKey,
    changes: &[ChangedWatcher],
    all: Option<&[Entry]>,
) -> Result<Option<HashMap<String, Status>>, Fault> {
    let storage = server.subscriptions();
    let users: HashSet<&[u8]> =
        changes.iter().filter(|one| lives(one.status)).map(|one| one.user.as_slice()).collect();
    if users.is_empty() || !storage.is_shared() {
        return Ok(None);
    }
    if let Some(all) = all {
        return Ok(Some(all.iter().map(|entry| (entry.id.clone(), entry.status)).collect()));
    }
    let users: Vec<&[u8]> = users.into_iter().collect();
    let (mut found, id_key) = (HashMap::new(), id_key(&server.store));
    storage.watchers_named(server, host, key, &users, &mut |_, watcher| {
        let dialog = dialog_of(&watcher);
        let id = winfo::watcher_id(dialog.call_id, dialog.from_tag, dialog.to_tag, id_key);
        found.insert(id, watcher.status);
    })?;
    Ok(Some(found))
}

/// Leaves out all changes of a watcher but the last one.
fn latest(changes: Vec<ChangedWatcher>) -> Vec<Entry> {
    let mut named = HashSet::new();
    let mut kept: Vec<Entry> = Vec::with_capacity(changes.len());
    for change in changes.into_iter().rev() {
        if named.insert(change.id.clone()) {
            kept.push(Entry {
                state_version: Some(change.state_version),
                id: change.id,
                uri: uri::presentity_uri(&change.user, &change.host),
                status: change.status,
                event: change.event,
            });
        }
    }
    kept.reverse();
    kept
}

fn all<M: Memory>(
    server: &Server<M>,
    host: &mut dyn Host,
    key: &PresentityKey,
) -> Result<Vec<Entry>, Fault> {
    let id_key = id_key(&server.store);
    let mut entries = Vec::new();
    let mut subscribed = HashSet::new();
    subscriptions::each_watcher(server, host, key, |_, watcher| {
        subscribed.insert(Name::of(&watcher).identity(server));
        entries.push(entry_of(&watcher, id_key));
    })?;
    replication::subscriptions::each_replica(server, key, |watcher| {
        subscribed.insert(Name::of(&watcher).identity(server));
        entries.push(entry_of(&watcher, id_key));
    });
    let resource = uri::presentity_uri(&key.user, &key.host);
    for name in waiting(server, host, key) {
        // Once, however often the table spells it otherwise.
        if subscribed.insert(name.identity(server)) {
            let uri = uri::presentity_uri(&name.user, &name.host);
            entries.push(Entry {
                state_version: None,
                id: winfo::watcher_id(&uri, &resource, b"", id_key),
                uri,
                status: Status::Waiting,
                event: winfo::WatcherEvent::Timeout,
            });
        }
    }
    Ok(entries)
}

/// One who watches, in a list of all.
fn entry_of(watcher: &Snapshot, id_key: [u8; 16]) -> Entry {
    let dialog = dialog_of(watcher);
    Entry {
        state_version: None,
        id: winfo::watcher_id(dialog.call_id, dialog.from_tag, dialog.to_tag, id_key),
        uri: uri::presentity_uri(watcher.text(Text::WatcherUser), watcher.text(Text::WatcherHost)),
        status: watcher.status,
        event: winfo::WatcherEvent::Subscribe,
    }
}

/// Those whom the table has as pending; nobody without a database.
fn waiting<M: Memory>(server: &Server<M>, host: &mut dyn Host, key: &PresentityKey) -> Vec<Name> {
    let mut found = Vec::new();
    let Some(package) = server.registry.get(key.package) else { return found };
    if !package.requires_authorization {
        return found;
    }
    let Ok(table) = std::str::from_utf8(&server.config.watchers_table) else { return found };
    let columns = ["watcher_username", "watcher_domain"];
    let Some(database) = host.database() else { return found };
    let read = uri::spellings(&key.user, &key.host).into_iter().try_for_each(|resource| {
        let conditions = [
            ("presentity_uri", Compare::Eq, Value::Text(resource)),
            ("event", Compare::Eq, Value::text(&package.name)),
            ("status", Compare::Eq, Value::Int(Status::Pending as i64)),
        ];
        database.query(table, &conditions, &columns, None, &mut |row| {
            if let [user, domain] = row {
                let (user, host) = (user.as_bytes().to_vec(), domain.as_bytes().to_vec());
                found.push(Name { user, host });
            }
        })
    });
    if read.is_err() {
        UNREADABLE.log(
            host,
            Level::Warning,
            format_args!("waiting watchers cannot be read: left out"),
        );
    }
    found
}
