//! Subscriptions of other servers, kept so that their dialogs can be taken over; and
//! those that have ended, so that no message that comes late brings one back. They
//! are in no presentity's list: nobody walks over them, and nothing is sent for them.

use super::Replication;
use crate::error::Fault;
use crate::presence::cseq::CSeq;
use crate::presence::event_package::PackageId;
use crate::presence::presentity::PresentityKey;
use crate::presence::replication::ownership::{Judgment, Known, judge};
use crate::presence::subscription::{DialogId, Snapshot, Status, Text};
use crate::shm::{Blob, HashIndex, Heap, Id, Memory, Slab};
use crate::store::records::Seconds;

/// Parts, each with a lock.
pub(super) const PARTS: usize = 64;

/// A copy of a replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirrored {
    /// The subscription, with the CSeq and the version up to which its owner may go.
    pub subscription: Snapshot,
    /// Unix time of its end; for one that is over, until when that is to be known.
    pub expires_at: i64,
    /// Who owns it.
    pub known: Known,
    /// The highest CSeq that anybody may have used: a server that did not know of a later
    /// owner may have gone further than that one.
    pub used: u32,
}

impl Mirrored {
    /// Its dialog.
    pub fn dialog(&self) -> DialogId<'_> {
        DialogId {
            call_id: self.subscription.text(Text::CallId),
            from_tag: self.subscription.text(Text::FromTag),
            to_tag: self.subscription.text(Text::ToTag),
        }
    }
}

struct Replica<M: Memory> {
    text: Blob<M>,
    /// The hash of its presentity.
    presentity: u64,
    known: Known,
    used: u32,
    version: u32,
    flags: u32,
    expires_at: Seconds,
    package: PackageId,
    status: Status,
}

impl<M: Memory> Replica<M> {
    fn copy(&self) -> Mirrored {
        let mut subscription = Snapshot::new(self.package, self.text.to_vec());
        subscription.remote_cseq = CSeq(self.known.claim.remote_cseq);
        subscription.local_cseq = CSeq(self.known.claim.local_cseq);
        (subscription.version, subscription.flags) = (self.version, self.flags);
        subscription.status = self.status;
        Mirrored {
            subscription,
            expires_at: self.expires_at.get(),
            known: self.known,
            used: self.used,
        }
    }

    fn text(&self, field: Text) -> &[u8] {
        crate::presence::text::Packed::new(&self.text).get(field)
    }

    fn is_of(&self, dialog: DialogId<'_>) -> bool {
        self.text(Text::CallId) == dialog.call_id
            && self.text(Text::FromTag) == dialog.from_tag
            && self.text(Text::ToTag) == dialog.to_tag
    }
}

/// The replicas of some dialogs.
pub struct Part<M: Memory> {
    heap: &'static Heap<M>,
    replicas: Slab<Replica<M>, M>,
    by_dialog: HashIndex<Id<Replica<M>>, M>,
    by_presentity: HashIndex<Id<Replica<M>>, M>,
    /// Of those that are over.
    over: usize,
    most_over: usize,
}

/// Under which hashes a replica is found.
#[derive(Clone, Copy)]
struct Places {
    dialog: u64,
    presentity: u64,
}

impl<M: Memory> Part<M> {
    /// An empty one, which remembers so many that are over.
    pub(super) fn new(heap: &'static Heap<M>, most_over: usize) -> Part<M> {
        Part {
            heap,
            replicas: Slab::new(heap),
            by_dialog: HashIndex::new(heap),
            by_presentity: HashIndex::new(heap),
            over: 0,
            most_over,
        }
    }

    fn find(&self, hash: u64, dialog: DialogId<'_>) -> Option<Id<Replica<M>>> {
        let is_it = |id| self.replicas.get(id).is_some_and(|replica| replica.is_of(dialog));
        self.by_dialog.find(hash, is_it)
    }

    fn remove(&mut self, id: Id<Replica<M>>, dialog: u64) {
        self.by_dialog.remove(dialog, |other| other == id);
        if let Some(replica) = self.replicas.remove(id) {
            self.by_presentity.remove(replica.presentity, |other| other == id);
            self.over -= usize::from(replica.known.is_over);
        }
    }

    /// Puts a replica in the place of the one that there is. Allocates first.
    fn put(
        &mut self,
        old: Option<Id<Replica<M>>>,
        new: &Mirrored,
        places: Places,
    ) -> Result<(), Fault> {
        let subscription = &new.subscription;
        let replica = Replica {
            text: Blob::new(self.heap, subscription.block())?,
            presentity: places.presentity,
            known: new.known,
            used: new.used,
            version: subscription.version,
            flags: subscription.flags,
            expires_at: new.expires_at.into(),
            package: subscription.package,
            status: subscription.status,
        };
        let is_over = replica.known.is_over;
        match old.and_then(|id| Some((id, self.replicas.get_mut(id)?))) {
            Some((id, old)) => {
                self.over -= usize::from(old.known.is_over);
                let before = std::mem::replace(old, replica).presentity;
                self.by_presentity.rekey(before, places.presentity, |other| other == id);
            }
            None => {
                let id = self.replicas.insert(replica).map_err(|_| Fault::SharedMemory)?;
                let entered = self
                    .by_dialog
                    .insert(places.dialog, id)
                    .and_then(|()| self.by_presentity.insert(places.presentity, id));
                if let Err(fault) = entered {
                    self.by_dialog.remove(places.dialog, |other| other == id);
                    self.replicas.remove(id);
                    return Err(fault.into());
                }
            }
        }
        self.over += usize::from(is_over);
        Ok(())
    }
}

/// What became of something that was to be mirrored.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct Put {
    /// What it means here.
    pub word: Judgment,
    /// What there was of the dialog before.
    pub before: Option<Mirrored>,
    /// The highest CSeq that anybody may have used.
    pub used: u32,
}

impl<M: Memory> Replication<M> {
    fn places(&self, new: &Mirrored, key: &PresentityKey) -> Places {
        Places {
            dialog: self.dialog_hash(new.dialog()),
            presentity: self.presentity_hash(&key.identity, key.package),
        }
    }

    fn dialog_hash(&self, dialog: DialogId<'_>) -> u64 {
        let DialogId { call_id, from_tag, to_tag } = dialog;
        self.hash.hash_parts(&[b"mirror", call_id, from_tag, to_tag])
    }

    fn presentity_hash(&self, identity: &[u8], package: PackageId) -> u64 {
        self.hash.hash_parts(&[b"mirrored", &package.0.to_le_bytes(), identity])
    }

    fn part<R>(&self, hash: u64, work: impl FnOnce(&mut Part<M>) -> R) -> Result<R, Fault> {
        let part = self.mirror.get(hash as usize % PARTS).ok_or(Fault::Host)?;
        Ok(work(&mut part.lock()))
    }

    /// What is known of a dialog that this server does not own.
    pub fn mirrored(&self, dialog: DialogId<'_>) -> Option<Mirrored> {
        let hash = self.dialog_hash(dialog);
        self.part(hash, |part| {
            let id = part.find(hash, dialog)?;
            part.replicas.get(id).map(Replica::copy)
        })
        .ok()
        .flatten()
    }

    /// A word about a dialog is kept if it is news; how far others have counted in any
    /// case. `key` is that of its presentity.
    pub fn mirror(&self, new: &Mirrored, key: &PresentityKey) -> Result<Put, Fault> {
        let places = self.places(new, key);
        self.part(places.dialog, |part| {
            let old = part.find(places.dialog, new.dialog());
            let before = old.and_then(|id| part.replicas.get(id)).map(Replica::copy);
            let word = judge(before.as_ref().map(|before| &before.known), &new.known);
            // Ends that are too many to be remembered: what there was goes.
            let no_room = new.known.is_over && part.over >= part.most_over;
            let used = before.as_ref().map_or(0, |before| before.used).max(new.used);
            match (word, old) {
                (Judgment::News, Some(id)) if no_room => part.remove(id, places.dialog),
                (Judgment::News, None) if no_room => {}
                (Judgment::News, _) => {
                    part.put(old, &Mirrored { used, ..new.clone() }, places)?;
                }
                (Judgment::Old | Judgment::Mistaken, id) => {
                    if let Some(replica) = id.and_then(|id| part.replicas.get_mut(id)) {
                        replica.used = used;
                    }
                }
            }
            Ok(Put { word, before, used })
        })?
    }

    /// NOTIFYs of a dialog may have gone as far as this.
    pub fn note_used(&self, dialog: DialogId<'_>, used: u32) {
        let hash = self.dialog_hash(dialog);
        let _ = self.part(hash, |part| {
            let id = part.find(hash, dialog)?;
            let replica = part.replicas.get_mut(id)?;
            replica.used = replica.used.max(used);
            Some(())
        });
    }

    /// This server has got the dialog: it is no replica any more.
    pub fn unmirror(&self, dialog: DialogId<'_>) {
        let hash = self.dialog_hash(dialog);
        let _ = self.part(hash, |part| {
            if let Some(id) = part.find(hash, dialog) {
                part.remove(id, hash);
            }
        });
    }

    /// The replicas of subscriptions to a presentity that are not over.
    pub fn mirrored_watchers(&self, key: &PresentityKey) -> Vec<Mirrored> {
        let hash = self.presentity_hash(&key.identity, key.package);
        let mut all = Vec::new();
        for part in self.mirror {
            let part = part.lock();
            part.by_presentity.find(hash, |id| {
                let replica = part.replicas.get(id).filter(|replica| !replica.known.is_over);
                let copy = replica.map(Replica::copy);
                all.extend(copy.filter(|copy| copy.subscription.package == key.package));
                false
            });
        }
        all
    }

    /// Looks at up to so many replicas of a part, from a place on. Gives those that
    /// are wanted, by who owns them, when they end and how far they have been counted, and where the next ones begin,
    /// if there may be some.
    pub fn mirrored_from(
        &self,
        part: usize,
        from: u32,
        most: usize,
        is_wanted: impl Fn(&Known, i64, u32) -> bool,
    ) -> (Vec<Mirrored>, Option<u32>) {
        let Some(part) = self.mirror.get(part) else { return (Vec::new(), None) };
        let part = part.lock();
        let mut all = part.replicas.iter_from(from);
        let mut next = from;
        let portion: Vec<Mirrored> = all
            .by_ref()
            .take(most)
            .filter_map(|(id, replica)| {
                next = id.index() + 1;
                let expires_at = replica.expires_at.get();
                is_wanted(&replica.known, expires_at, replica.used).then(|| replica.copy())
            })
            .collect();
        (portion, all.next().map(|_| next))
    }

    /// Replicas that are not over.
    pub fn count_mirrored(&self) -> usize {
        let living = |part: &Part<M>| part.replicas.len() - part.over;
        self.mirror.iter().map(|part| living(&part.lock())).sum()
    }

    /// Number of parts.
    pub fn mirror_parts(&self) -> usize {
        self.mirror.len()
    }
}
