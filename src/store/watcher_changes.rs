//! What has become of the watchers of a presentity, kept with the presentity
//! that those watch who watch the watchers (`presence.winfo`) until all of
//! them have been notified, as final publications are kept for publications.

use crate::presence::presentity::PresentityKey;
use crate::presence::state_version::StateVersion;
use crate::presence::subscription::{DialogId, Snapshot, Status, Text};
use crate::presence::text::{self, Packed, fields};
use crate::presence::winfo::{WatcherEvent, WatcherNews, watcher_id};
use crate::shm::{Blob, Id, Linked, Links, Memory};
use crate::store::Store;
use crate::store::records::{Presentity, RowClaim, Subscription};
use crate::store::rows::dialog_of;
use crate::store::shard::Shard;
use crate::store::subscriptions::dialog_of_record;

/// Changes kept for one presentity. Beyond that a full document is shorter.
const MOST: usize = 4096;

fields! {
    /// The text of a change.
    ChangeText {
        /// The watcher's id in the documents.
        Id,
        /// User of the watcher.
        User,
        /// Host of the watcher.
        Host,
    }
}

/// List membership: the changes of a presentity's watchers.
#[derive(Debug)]
pub struct Changed;

/// One change, as it lies in shared memory.
pub struct WatcherChange<M: Memory> {
    text: Blob<M>,
    /// State version in which it came.
    pub state_version: StateVersion,
    status: Status,
    event: WatcherEvent,
    links: Links<WatcherChange<M>>,
}

impl<M: Memory> Linked<Changed> for WatcherChange<M> {
    fn links(&self) -> &Links<Self> {
        &self.links
    }
    fn links_mut(&mut self) -> &mut Links<Self> {
        &mut self.links
    }
}

/// A watcher as a document shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangedWatcher {
    /// State version in which it came to this.
    pub state_version: StateVersion,
    /// Its id.
    pub id: String,
    /// Its user.
    pub user: Vec<u8>,
    /// Its host.
    pub host: Vec<u8>,
    /// Its state.
    pub status: Status,
    /// What brought it there.
    pub event: WatcherEvent,
}

/// What is known of the watchers' changes at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct WatcherChanges {
    /// The changes that somebody has not been notified of, by state version.
    pub list: Vec<ChangedWatcher>,
    /// Who was last notified before this state version gets a full document.
    pub full_since: StateVersion,
    /// There is somebody who gets a full document.
    pub wants_full: bool,
}

/// The key of the watchers' ids.
pub fn id_key<M: Memory>(store: &Store<M>) -> [u8; 16] {
    store.secret(b"watcher id")
}

impl<M: Memory> Store<M> {
    /// A watcher is in another state now: those who watch that are to be notified.
    pub(super) fn watcher_changed(
        &self,
        records: &mut Shard<M>,
        watcher: Id<Subscription<M>>,
        news: WatcherNews,
    ) {
        let Some(record) = records.subscriptions.get(watcher) else { return };
        let Some(owner) = records.presentities.get(record.presentity) else { return };
        if self.policy.reported_by(owner.package).is_none() {
            return;
        }
        let Some(key) = records.key_of(record.presentity) else { return };
        let dialog = dialog_of_record(record);
        let user = records.text(record, Text::WatcherUser);
        let packed = pack(self, dialog, user, records.text(record, Text::WatcherHost));
        let Some(peer) = self.reporting(records, &key) else { return };
        self.note(records, peer, packed, news);
    }

    /// A watcher whose subscription is a row is in another state now.
    pub fn watcher_row_changed(&self, key: &PresentityKey, watcher: &Snapshot, news: WatcherNews) {
        let _ = self.with(self.shard_of(&key.identity), |records| {
            let Some(peer) = self.reporting(records, key) else { return };
            let dialog = dialog_of(watcher);
            let (user, host) = (watcher.text(Text::WatcherUser), watcher.text(Text::WatcherHost));
            let packed = pack(self, dialog, user, host);
            self.note(records, peer, packed, news);
        });
    }

    /// Finds the presentity whose watchers are notified of those of `key`. Where these are
    /// rows, whether there are any is seen later.
    fn reporting(&self, records: &mut Shard<M>, key: &PresentityKey) -> Option<Id<Presentity<M>>> {
        let package = self.policy.reported_by(key.package)?;
        let hash = self.presentity_hash(&key.identity, package);
        let key = PresentityKey { package, ..key.clone() };
        self.watched(records, &key, hash).ok().flatten()
    }

    fn note(
        &self,
        records: &mut Shard<M>,
        peer: Id<Presentity<M>>,
        packed: Vec<u8>,
        news: WatcherNews,
    ) {
        let Some(owner) = records.presentities.get(peer) else { return };
        let state_version = owner.state_version.next();
        let many = records.extra(owner).is_some_and(|extra| extra.changes.len() >= MOST);
        let added = records.blob(&packed).ok().filter(|_| !many).and_then(|text| {
            let WatcherNews { status, event, .. } = news;
            let change = WatcherChange { text, state_version, status, event, links: Links::new() };
            records.changes.insert(change).ok()
        });
        if many {
            records.drop_changes(peer, None);
        }
        if let Some(extra) = records.presentities.get(peer).and_then(|owner| owner.extra)
            && let Some(extra) = records.extras.get_mut(extra)
        {
            if let Some(id) = added {
                extra.changes.push_back(&mut records.changes, id);
            }
            // The notifier processes know of states, not of changes.
            extra.rows.urgent = true;
        }
        // A full document tells what could not be remembered.
        if news.full || added.is_none() {
            records.wants_full_since(peer, state_version);
        }
        records.state_changed(peer, b"");
        self.queue_lane(records, peer);
    }
}

impl<M: Memory> Shard<M> {
    /// Whoever was last notified before this state version gets a full document.
    pub(super) fn wants_full_since(&mut self, id: Id<Presentity<M>>, state_version: StateVersion) {
        if let Some(extra) = self.extra_mut(id) {
            (extra.full_since, extra.needs_full_winfo) = (state_version, true);
        }
    }

    /// Forgets changes of watchers that everybody was notified of: those up to a
    /// state version, or all.
    pub(super) fn drop_changes(&mut self, id: Id<Presentity<M>>, up_to: Option<StateVersion>) {
        let notified_since =
            |since: StateVersion| up_to.is_none_or(|state_version| !since.is_after(state_version));
        let extra = self.presentities.get(id).and_then(|owner| owner.extra);
        let Some(extra) = extra.and_then(|extra| self.extras.get_mut(extra)) else { return };
        if notified_since(extra.full_since) {
            extra.needs_full_winfo = false;
        }
        while let Some(first) = extra.changes.front() {
            if !self.changes.get(first).is_none_or(|change| notified_since(change.state_version)) {
                break;
            }
            extra.changes.unlink(&mut self.changes, first);
            self.changes.remove(first);
        }
    }
}

/// A copy of what is known of the watchers' changes.
pub(super) fn copy_changes<M: Memory>(records: &Shard<M>, owner: &Presentity<M>) -> WatcherChanges {
    let extra = records.extra(owner);
    let changes = extra.into_iter().flat_map(|extra| extra.changes.iter(&records.changes));
    let list = changes.map(|(_, change)| {
        let text = Packed::<ChangeText>::new(&change.text);
        ChangedWatcher {
            state_version: change.state_version,
            id: String::from_utf8_lossy(text.get(ChangeText::Id)).into_owned(),
            user: text.get(ChangeText::User).to_vec(),
            host: text.get(ChangeText::Host).to_vec(),
            status: change.status,
            event: change.event,
        }
    });
    WatcherChanges {
        list: list.collect(),
        full_since: extra.map_or(StateVersion::default(), |extra| extra.full_since),
        wants_full: extra.is_some_and(|extra| extra.needs_full_winfo)
            || owner
                .pending_notifies
                .iter(&records.subscriptions)
                .any(|(_, pending)| pending.claim != RowClaim::FanOut),
    }
}

fn pack<M: Memory>(store: &Store<M>, dialog: DialogId<'_>, user: &[u8], host: &[u8]) -> Vec<u8> {
    let id = watcher_id(dialog.call_id, dialog.from_tag, dialog.to_tag, id_key(store));
    // These came out of a packed block, so they fit into one.
    text::pack::<ChangeText>(|n| match ChangeText::ALL[n] {
        ChangeText::Id => id.as_bytes(),
        ChangeText::User => user,
        ChangeText::Host => host,
    })
    .unwrap_or_default()
}
