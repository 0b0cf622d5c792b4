//! What a presence server has to do, as simply as it can be said: one
//! presentity, its publications and its watchers.

use super::storage::Storage;
use presence::presence::event_package::PackageId;
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Who watches, as the rules see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Watcher {
    Active,
    /// Nobody has decided yet.
    Pending,
    /// Thinks that it is active, and is shown nothing.
    Polite,
    /// Turned away.
    Blocked,
}

impl Watcher {
    /// The user that the rules know it by.
    pub fn name(self) -> &'static str {
        match self {
            Watcher::Active => "friend",
            Watcher::Pending => "pending",
            Watcher::Polite => "polite",
            Watcher::Blocked => "blocked",
        }
    }

    fn state(self) -> &'static str {
        match self {
            Watcher::Active | Watcher::Polite => "active",
            Watcher::Pending => "pending",
            Watcher::Blocked => "terminated;reason=rejected",
        }
    }
}

struct Subscription {
    call: String,
    watcher: Watcher,
    expires_at: i64,
    host: &'static str,
}

struct Publication {
    slot: u8,
    tag: String,
    body: String,
    expires_at: i64,
}

/// The state of the NOTIFYs that an operation causes, by dialog.
#[derive(Default)]
pub struct Expected {
    /// State and document, in this order.
    exactly: BTreeMap<String, Vec<(String, String)>>,
    /// Each of these is seen closed once, the rest is in the last NOTIFY. The
    /// number of NOTIFYs is the server's business.
    ends: Option<Ends>,
}

struct Ends {
    calls: Vec<String>,
    closed: BTreeSet<String>,
    last: Vec<String>,
}

impl Expected {
    fn one(call: &str, state: &str, body: String) -> Expected {
        let mut expected = Expected::default();
        expected.add(call, state, body);
        expected
    }

    fn add(&mut self, call: &str, state: &str, body: String) {
        self.exactly.entry(call.to_owned()).or_default().push((state.to_owned(), body));
    }

    pub fn check(
        &self,
        what: &str,
        sent: &HashMap<String, Vec<(String, String)>>,
    ) -> Result<(), TestCaseError> {
        let ends = self.ends.as_ref().map_or(&[][..], |ends| &ends.calls);
        for (call, notifies) in sent {
            if ends.contains(call) {
                continue;
            }
            let expected = self.exactly.get(call).map_or(&[][..], Vec::as_slice);
            prop_assert_eq!(notifies.as_slice(), expected, "{} to {}", what, call);
        }
        for (call, expected) in &self.exactly {
            prop_assert!(sent.contains_key(call), "{}: {} lacks {:?}", what, call, expected);
        }
        let Some(ends) = &self.ends else { return Ok(()) };
        for call in &ends.calls {
            let notifies = sent.get(call).map_or(&[][..], Vec::as_slice);
            let mut closed = Vec::new();
            let mut last = Vec::new();
            for (_, body) in notifies {
                let parts = body.split('+').filter(|part| !["", "offline"].contains(part));
                let (ended, open): (Vec<_>, Vec<_>) =
                    parts.partition(|part| part.starts_with("closed("));
                closed.extend(ended.iter().map(|part| part[7..part.len() - 1].to_owned()));
                last = open.into_iter().map(str::to_owned).collect();
            }
            let once: BTreeSet<_> = closed.iter().cloned().collect();
            prop_assert_eq!(once.len(), closed.len(), "{} to {}: twice {:?}", what, call, notifies);
            prop_assert_eq!(&once, &ends.closed, "{} to {}: {:?}", what, call, notifies);
            prop_assert_eq!(&last, &ends.last, "{} to {}: {:?}", what, call, notifies);
        }
        Ok(())
    }
}

pub struct Model {
    pub package: PackageId,
    pub event: &'static str,
    storage: Storage,
    subscriptions: BTreeMap<u8, Subscription>,
    calls_made: u32,
    old_calls: BTreeMap<u8, String>,
    /// Oldest first.
    publications: Vec<Publication>,
    stale: BTreeMap<u8, String>,
    /// Pending watchers without a subscription.
    waits: bool,
    now: i64,
    /// The latest CSeq of each dialog.
    pub cseqs: HashMap<String, u32>,
}

impl Model {
    pub fn new(package: PackageId, event: &'static str, storage: Storage) -> Model {
        Model {
            package,
            event,
            storage,
            subscriptions: BTreeMap::new(),
            calls_made: 0,
            old_calls: BTreeMap::new(),
            publications: Vec::new(),
            stale: BTreeMap::new(),
            waits: false,
            now: 0,
            cseqs: HashMap::new(),
        }
    }

    fn aggregates(&self) -> bool {
        self.event == "presence"
    }

    /// Only presence asks the rules here.
    fn judged(&self, watcher: Watcher) -> Watcher {
        if self.aggregates() { watcher } else { Watcher::Active }
    }

    /// The state as it is.
    fn document(&self) -> String {
        let all: Vec<_> = self.publications.iter().map(|it| it.body.clone()).collect();
        if !self.aggregates() {
            return all.last().cloned().unwrap_or_default();
        }
        if all.is_empty() { "offline".to_owned() } else { all.join("+") }
    }

    /// What this watcher is shown.
    fn shown(&self, watcher: Watcher) -> String {
        if watcher == Watcher::Active { self.document() } else { String::new() }
    }

    fn seers(&self) -> Vec<String> {
        // In its last second a subscription is only ended or renewed: a NOTIFY
        // could not say that it goes on.
        let sees = |it: &&Subscription| it.watcher == Watcher::Active && it.expires_at > self.now;
        let all = self.subscriptions.values().filter(sees);
        all.map(|it| it.call.clone()).collect()
    }

    fn notified(&self, document: &str) -> Expected {
        let mut expected = Expected::default();
        for call in self.seers() {
            expected.add(&call, "active", document.to_owned());
        }
        expected
    }

    /// The dialog of a living subscription.
    pub fn call(&self, dialog: u8) -> Option<(String, Watcher)> {
        self.subscriptions.get(&dialog).map(|it| (it.call.clone(), it.watcher))
    }

    /// A dialog that has ended, or never was.
    pub fn old_call(&self, dialog: u8) -> String {
        self.old_calls.get(&dialog).cloned().unwrap_or_else(|| "never".to_owned())
    }

    pub fn new_call(&mut self, dialog: u8) -> String {
        self.calls_made += 1;
        format!("c{dialog}.{}", self.calls_made)
    }

    pub fn contact_host(&self, call: &str) -> Option<&'static str> {
        self.subscriptions.values().find(|it| it.call == call).map(|it| it.host)
    }

    pub fn subscribe(
        &mut self,
        dialog: u8,
        call: String,
        watcher: Watcher,
        expires_at: i64,
    ) -> Expected {
        let watcher = self.judged(watcher);
        let expected = Expected::one(&call, watcher.state(), self.shown(watcher));
        if watcher == Watcher::Pending {
            self.waits = self.storage.has_database();
        }
        if watcher == Watcher::Blocked {
            self.old_calls.insert(dialog, call);
        } else {
            let new = Subscription { call, watcher, expires_at, host: "@h" };
            self.subscriptions.insert(dialog, new);
        }
        expected
    }

    pub fn renew(&mut self, dialog: u8, expires_at: i64, moved: bool) -> Expected {
        let Some(known) = self.subscriptions.get_mut(&dialog) else { return Expected::default() };
        known.expires_at = expires_at;
        known.host = if moved { "@moved" } else { "@h" };
        let (call, watcher) = (known.call.clone(), known.watcher);
        Expected::one(&call, watcher.state(), self.shown(watcher))
    }

    pub fn unsubscribe(&mut self, dialog: u8) -> Expected {
        let Some(gone) = self.subscriptions.remove(&dialog) else { return Expected::default() };
        self.old_calls.insert(dialog, gone.call.clone());
        Expected::one(&gone.call, "terminated;reason=timeout", self.shown(gone.watcher))
    }

    /// It ends without a NOTIFY.
    pub fn gone(&mut self, dialog: u8) -> Expected {
        if let Some(gone) = self.subscriptions.remove(&dialog) {
            self.old_calls.insert(dialog, gone.call);
        }
        Expected::default()
    }

    pub fn fetch(&mut self, call: &str, watcher: Watcher) -> Expected {
        let watcher = self.judged(watcher);
        if watcher == Watcher::Pending {
            self.waits = self.storage.has_database();
        }
        let state = match watcher {
            Watcher::Blocked => watcher.state(),
            _ => "terminated;reason=timeout",
        };
        Expected::one(call, state, self.shown(watcher))
    }

    pub fn tag(&self, slot: u8) -> Option<String> {
        self.publications.iter().find(|it| it.slot == slot).map(|it| it.tag.clone())
    }

    pub fn stale_tag(&self, slot: u8) -> Option<String> {
        self.stale.get(&slot).cloned()
    }

    pub fn create(&mut self, slot: u8, tag: String, body: String, expires_at: i64) -> Expected {
        self.publications.push(Publication { slot, tag, body, expires_at });
        self.notified(&self.document())
    }

    pub fn modify(&mut self, slot: u8, tag: String, body: String, expires_at: i64) -> Expected {
        self.take_out(slot);
        self.create(slot, tag, body, expires_at)
    }

    pub fn refresh(&mut self, slot: u8, tag: String, expires_at: i64) -> Expected {
        if let Some(known) = self.publications.iter_mut().find(|it| it.slot == slot) {
            let old = std::mem::replace(&mut known.tag, tag);
            known.expires_at = expires_at;
            self.stale.insert(slot, old);
        }
        Expected::default()
    }

    pub fn remove(&mut self, slot: u8) -> Expected {
        let gone = self.publications.iter().find(|it| it.slot == slot).map(|it| it.body.clone());
        self.take_out(slot);
        self.told_of_ends(gone.into_iter().collect())
    }

    /// Watchers see what has ended closed, once, where the package can say so.
    fn told_of_ends(&self, closed: BTreeSet<String>) -> Expected {
        if !self.aggregates() {
            return self.notified(&self.document());
        }
        let last = self.publications.iter().map(|it| it.body.clone()).collect();
        Expected { ends: Some(Ends { calls: self.seers(), closed, last }), ..Expected::default() }
    }

    fn take_out(&mut self, slot: u8) {
        if let Some(at) = self.publications.iter().position(|it| it.slot == slot) {
            self.stale.insert(slot, self.publications.remove(at).tag);
        }
    }

    /// What has run out ends, and its watchers are notified.
    pub fn pass(&mut self, now: i64) -> Expected {
        self.now = now;
        let closed: BTreeSet<_> = self
            .publications
            .iter()
            .filter(|it| it.expires_at <= now)
            .map(|it| it.body.clone())
            .collect();
        self.publications.retain(|it| it.expires_at > now);
        let ended: Vec<u8> = self
            .subscriptions
            .iter()
            .filter(|(_, it)| it.expires_at < now)
            .map(|(dialog, _)| *dialog)
            .collect();
        let mut expected = Expected::default();
        for dialog in ended {
            let Some(gone) = self.subscriptions.remove(&dialog) else { continue };
            expected.add(&gone.call, "terminated;reason=timeout", String::new());
            self.old_calls.insert(dialog, gone.call);
        }
        if closed.is_empty() {
            return expected;
        }
        let notified = self.told_of_ends(closed);
        expected.exactly.extend(notified.exactly);
        Expected { ends: notified.ends, ..expected }
    }

    pub fn crash(&mut self) -> Expected {
        if !self.storage.keeps_subscriptions() {
            let gone = std::mem::take(&mut self.subscriptions);
            self.old_calls.extend(gone.into_iter().map(|(dialog, it)| (dialog, it.call)));
        }
        if !self.storage.keeps_publications() {
            self.publications.clear();
        }
        Expected::default()
    }

    /// State and user of all watchers.
    pub fn watcher_list(&self) -> Vec<String> {
        let mut list: Vec<_> = self
            .subscriptions
            .values()
            .map(|it| format!("{} sip:{}@h", it.watcher.state(), it.watcher.name()))
            .collect();
        if self.waits && !self.subscriptions.values().any(|it| it.watcher == Watcher::Pending) {
            list.push("waiting sip:pending@h".to_owned());
        }
        list.sort();
        list
    }

    /// Active and pending subscriptions, and publications.
    pub fn counts(&self) -> [u64; 3] {
        let is_pending = |it: &&Subscription| it.watcher == Watcher::Pending;
        let pending = self.subscriptions.values().filter(is_pending).count();
        let active = self.subscriptions.len() - pending;
        [active, pending, self.publications.len()].map(|count| count as u64)
    }

    /// Call-IDs of all subscriptions.
    pub fn calls(&self) -> Vec<String> {
        let mut calls: Vec<_> = self.subscriptions.values().map(|it| it.call.clone()).collect();
        calls.sort();
        calls
    }

    /// Entity-tags of all publications.
    pub fn tags(&self) -> Vec<String> {
        let mut tags: Vec<_> = self.publications.iter().map(|it| it.tag.clone()).collect();
        tags.sort();
        tags
    }
}

/// `status uri` of each watcher of a watcher information document.
pub fn labels(document: &str) -> Vec<String> {
    let watchers = document.split("<watcher ").skip(1);
    watchers
        .filter_map(|watcher| {
            let status = watcher.split("status=\"").nth(1)?.split('"').next()?;
            let uri = watcher.split('>').nth(1)?.split('<').next()?;
            Some(format!("{status} {uri}"))
        })
        .collect()
}
