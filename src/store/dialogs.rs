//! Which subscription a dialog or a call has: the index of tokens by hash.

use crate::error::Fault;
use crate::presence::event_package::PackageId;
use crate::presence::presentity::PresentityKey;
use crate::presence::subscription::{DialogId, Snapshot, Text};
use crate::presence::transition::Phase;
use crate::shm::{HashIndex, Memory};
use crate::store::records::Subscription;
use crate::store::shard::Shard;
use crate::store::subscriptions::dialog_of_record;
use crate::store::{Store, Token};

impl<M: Memory> Store<M> {
    /// The token of a dialog.
    pub fn find_dialog(&self, dialog: DialogId<'_>) -> Result<Option<Token>, Fault> {
        let hash = self.dialog_hash(dialog);
        // Two dialogs may share a hash: ask the record itself.
        let mut rejected = Vec::new();
        loop {
            let candidate =
                self.dialogs(hash)?.lock().find(hash, |token| !rejected.contains(&token));
            let Some(token) = candidate else { return Ok(None) };
            if self.with(token.shard(), |records| is_dialog(records, token, dialog))? {
                return Ok(Some(token));
            }
            rejected.push(token);
        }
    }

    /// Takes a subscription out of the index.
    pub(super) fn forget(&self, places: Places, token: Token) {
        for hash in [Some(places.dialog), places.call].into_iter().flatten() {
            if let Ok(index) = self.dialogs(hash) {
                index.lock().remove(hash, |known| known == token);
            }
        }
    }

    /// Where the index has a subscription.
    pub(super) fn places(&self, records: &Shard<M>, record: &Subscription<M>) -> Places {
        let named = self.policy.replaces_same_call.then_some(record.presentity);
        let call = named
            .and_then(|id| records.key_of(id))
            .map(|key| self.call_hash(&key.identity, key.package, record.text(Text::CallId)));
        Places { dialog: self.dialog_hash(dialog_of_record(record)), call }
    }

    fn call_hash(&self, identity: &[u8], package: PackageId, call_id: &[u8]) -> u64 {
        self.shared.hash.hash_parts(&[b"call", identity, &package.0.to_le_bytes(), call_id])
    }

    pub(super) fn dialog_hash(&self, dialog: DialogId<'_>) -> u64 {
        self.shared.hash.hash_parts(&[dialog.call_id, dialog.from_tag, dialog.to_tag])
    }

    pub(super) fn dialogs(
        &self,
        hash: u64,
    ) -> Result<&lock_api::Mutex<M::Lock, HashIndex<Token, M>>, Fault> {
        let count = self.shared.dialogs.len();
        self.shared.dialogs.get(hash as usize & count.saturating_sub(1)).ok_or(Fault::Host)
    }

    /// `delete_same_subs`: earlier subscriptions of the same call go without
    /// a NOTIFY; the client has forgotten them. The new one takes their place
    /// in the index.
    pub(super) fn replace_same_call(
        &self,
        key: &PresentityKey,
        snapshot: &Snapshot,
        new: Token,
        now: i64,
    ) -> Vec<Snapshot> {
        let call_id = snapshot.text(Text::CallId);
        let replaced = self.remove_same_call(key, call_id, (None, Some(new)), now);
        let hash = self.call_hash(&key.identity, key.package, call_id);
        if let Ok(index) = self.dialogs(hash) {
            // Without memory it is merely not replaced by the next one.
            let _ = index.lock().insert(hash, new);
        }
        replaced
    }

    /// `delete_same_subs`: the subscriptions of a call go without a NOTIFY: all
    /// but one, or with `from_tag` those of one client. Gives copies of them.
    pub fn remove_same_call(
        &self,
        key: &PresentityKey,
        call_id: &[u8],
        (from_tag, but): (Option<&[u8]>, Option<Token>),
        now: i64,
    ) -> Vec<Snapshot> {
        let mut removed = Vec::new();
        let hash = self.call_hash(&key.identity, key.package, call_id);
        let Ok(index) = self.dialogs(hash) else { return removed };
        // Others may share the hash: what is to go has to be of this call.
        let mut kept: Vec<Token> = but.into_iter().collect();
        loop {
            let Some(old) = index.lock().find(hash, |token| !kept.contains(&token)) else { break };
            let other = self.with(old.shard(), |records| {
                is_other_call(records, old, key, call_id)
                    || from_tag.is_some_and(|tag| is_other_client(records, old, tag))
            });
            if other.unwrap_or(true) {
                kept.push(old);
                continue;
            }
            let copy = self.subscription(old, now);
            match self.remove_subscription(old) {
                true => removed.extend(copy),
                false => drop(index.lock().remove(hash, |token| token == old)),
            }
        }
        removed
    }

    /// A new subscription takes the place of one of the same call.
    pub(super) fn replaces_one(&self, key: &PresentityKey, snapshot: &Snapshot) -> bool {
        let call_id = snapshot.text(Text::CallId);
        let hash = self.call_hash(&key.identity, key.package, call_id);
        let known = |token: Token| {
            !self
                .with(token.shard(), |records| is_other_call(records, token, key, call_id))
                .unwrap_or(true)
        };
        let Ok(index) = self.dialogs(hash) else { return false };
        let mut others = Vec::new();
        loop {
            let next = index.lock().find(hash, |token| !others.contains(&token));
            match next {
                Some(token) if known(token) => return true,
                Some(token) => others.push(token),
                None => return false,
            }
        }
    }

    /// The token is that of a subscription to this presentity.
    pub fn is_watching(&self, token: Token, key: &PresentityKey) -> Result<bool, Fault> {
        self.with(token.shard(), |records| watches(records, token, key))
    }
}

/// The hashes under which the index has a subscription.
#[derive(Debug, Clone, Copy)]
pub(super) struct Places {
    dialog: u64,
    /// With `delete_same_subs`.
    call: Option<u64>,
}

/// The token is that of a subscription of this dialog which is not over.
pub(super) fn is_dialog<M: Memory>(records: &Shard<M>, token: Token, dialog: DialogId<'_>) -> bool {
    Store::resolve(records, token).and_then(|id| records.subscriptions.get(id)).is_some_and(
        |record| {
            !matches!(record.phase, Phase::Leaving | Phase::Gone)
                && dialog_of_record(record) == dialog
        },
    )
}

/// The token is that of a subscription to this presentity.
pub(super) fn watches<M: Memory>(records: &Shard<M>, token: Token, key: &PresentityKey) -> bool {
    Store::resolve(records, token)
        .and_then(|id| records.presentities.get(records.subscriptions.get(id)?.presentity))
        .is_some_and(|known| records.is(known, key))
}

/// The token is that of a subscription, but not one of this call.
fn is_other_call<M: Memory>(
    records: &Shard<M>,
    token: Token,
    key: &PresentityKey,
    call_id: &[u8],
) -> bool {
    let record = Store::resolve(records, token).and_then(|id| records.subscriptions.get(id));
    record.is_some_and(|record| {
        let owner = records.presentities.get(record.presentity);
        record.text(Text::CallId) != call_id || owner.is_some_and(|owner| !records.is(owner, key))
    })
}

/// The token is that of a subscription with another From tag.
fn is_other_client<M: Memory>(records: &Shard<M>, token: Token, from_tag: &[u8]) -> bool {
    let record = Store::resolve(records, token).and_then(|id| records.subscriptions.get(id));
    record.is_some_and(|record| record.text(Text::FromTag) != from_tag)
}
