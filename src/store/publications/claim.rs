//! First step of a change: it is judged, the publication is claimed, and all
//! that the change needs is allocated.

use crate::presence::presentity::PresentityKey;
use std::borrow::Cow;

use crate::error::Fault;
use crate::presence::event_package::EventPackage;
use crate::presence::limits::Limit;
use crate::presence::publication::Refused;
use crate::presence::publication::transition::{
    self, Event, Next, Outcome, Publish, create, transition,
};
use crate::presence::uri::{presentity_uri, user};
use crate::shm::{Blob, Id, Memory};
use crate::store::Store;
use crate::store::publication_block::{self, Block, Parts};
use crate::store::records::{Presentity, Publication, PublicationPhase, Seconds};
use crate::store::shard::Shard;

use super::{Begun, Pending, PublicationChange, enter, stored};

impl<M: Memory> Store<M> {
    /// First step: judges the change against what is stored and claims it.
    pub fn begin_publication(
        &self,
        key: &PresentityKey,
        package: &EventPackage,
        change: &PublicationChange<'_>,
    ) -> Result<Begun<M>, Fault> {
        let hash = self.presentity_hash(&key.identity, key.package);
        let shard = self.shard_of(&key.identity);
        self.with(shard, |records| match change.if_match {
            None => {
                let key = spelled_as_others(records, key, hash);
                self.begin_new(records, shard, &key, hash, (change, false))
            }
            Some(tag) => {
                begin_change(records, shard, records.find(key, hash), package, tag, change)
            }
        })?
    }

    fn begin_new(
        &self,
        records: &mut Shard<M>,
        shard: usize,
        key: &PresentityKey,
        hash: u64,
        (change, is_stored): (&PublicationChange<'_>, bool),
    ) -> Result<Begun<M>, Fault> {
        let presentity = self.find_or_create(records, key, hash)?;
        // Rows of one dialog coexist in the table; so they do here.
        let replaced = match is_stored {
            true => None,
            false => records.with_dialog(presentity, change.dialog_id),
        };
        let old = replaced.and_then(|id| records.publications.get(id));
        let old = old.map(|record| records.stored(record));
        let in_use = records.with_tag(presentity, change.entity_tag).is_some();
        let watchers = records.watchers_of(presentity);
        let made = match create(change.facts, in_use, old.as_ref(), watchers) {
            Ok(made) => made,
            Err(refused) => {
                self.drop_if_idle(records, presentity);
                return Ok(Begun::Refused(refused));
            }
        };
        let room = self.policy.limits.has_room(Limit::Publications, records.published(presentity));
        // One of a dialog takes the place of another one.
        if !is_stored && !room && change.expires_at.is_some() && replaced.is_none() {
            let offender = presentity_uri(&key.user, &key.host);
            let refusal = self.policy.limits.exceeded(Limit::Publications, offender);
            return Ok(Begun::Refused(refusal.into()));
        }
        let publication = match reserve(records, presentity, key, change) {
            Ok(publication) => publication,
            Err(fault) => {
                self.drop_if_idle(records, presentity);
                return Err(fault);
            }
        };
        if let Some(record) = replaced.and_then(|id| records.publications.get_mut(id)) {
            record.phase = PublicationPhase::Changing;
        }
        let claim = ClaimedChange { shard, presentity, publication, block: None, replaced };
        claim.pending(records, change, made)
    }

    /// Takes over a publication that the database has kept.
    pub fn restore_publication(
        &self,
        key: &PresentityKey,
        change: &PublicationChange<'_>,
    ) -> Result<(), Fault> {
        let hash = self.presentity_hash(&key.identity, key.package);
        let shard = self.shard_of(&key.identity);
        self.with(shard, |records| {
            match self.begin_new(records, shard, key, hash, (change, true))? {
                Begun::Pending(pending) => {
                    enter(records, pending);
                    Ok(())
                }
                Begun::Unchanged | Begun::Reopens(..) | Begun::Refused(_) => Err(Fault::Host),
            }
        })?
    }

    /// Publications of rows were taken over, in any order: they are to stand
    /// oldest change first.
    pub fn put_in_order(&self, key: &PresentityKey) {
        let hash = self.presentity_hash(&key.identity, key.package);
        let _ = self.with(self.shard_of(&key.identity), |records| {
            if let Some(presentity) = records.find(key, hash) {
                put_in_order(records, presentity);
            }
        });
    }

    /// Puts the publications of all presentities in order.
    pub fn put_all_in_order(&self) {
        for shard in 0..self.shards() {
            let _ = self.with(shard, |records| {
                let all: Vec<_> = records.presentities.iter().map(|(id, _)| id).collect();
                all.into_iter().for_each(|id| put_in_order(records, id));
            });
        }
    }
}

fn put_in_order<M: Memory>(records: &mut Shard<M>, presentity: Id<Presentity<M>>) {
    let Some(owner) = records.presentities.get(presentity) else { return };
    let all = owner.living(&records.publications);
    let mut order: Vec<_> = all.map(|(id, record)| (record.received, id)).collect();
    if order.is_sorted_by_key(|(received, _)| *received) {
        return;
    }
    order.sort_by_key(|(received, _)| *received);
    for (_, id) in order {
        let Some(owner) = records.presentities.get_mut(presentity) else { return };
        owner.publications.unlink(&mut records.publications, id);
        owner.publications.push_back(&mut records.publications, id);
        records.moved_in_index(id);
    }
}

fn begin_change<M: Memory>(
    records: &mut Shard<M>,
    shard: usize,
    presentity: Option<Id<Presentity<M>>>,
    package: &EventPackage,
    tag: &[u8],
    change: &PublicationChange<'_>,
) -> Result<Begun<M>, Fault> {
    let found = presentity.and_then(|owner| Some((owner, records.with_tag(owner, tag)?)));
    let claimable = found.and_then(|(owner, id)| {
        let record = records.publications.get(id)?;
        (record.phase == PublicationPhase::Live).then_some((owner, id, record))
    });
    let Some((presentity, publication, record)) = claimable else {
        return Ok(Begun::Refused(Refused::EntityTag));
    };
    let body = records.body(record);
    let publish = Publish {
        step: change.step,
        facts: change.facts,
        sender: change.sender,
        is_judged: change.judged_by.is_some_and(|judged| body.is_empty() || judged == body),
    };
    let watchers = records.watchers_of(presentity);
    let event = Event::Publish(publish);
    let made = match transition(&records.stored(record), event, package, watchers) {
        Outcome::Change(made) => made,
        Outcome::Unchanged => return Ok(Begun::Unchanged),
        Outcome::TooManyEnds => return Ok(Begun::Refused(Refused::TooManyEnds)),
        Outcome::Reopens => {
            let body = (!body.is_empty()).then(|| body.to_vec());
            return Ok(Begun::Reopens(stored(records, publication)?, body));
        }
    };
    // A removal needs no memory: it makes room.
    let block = match made.next {
        Next::Gone => None,
        Next::Newest | Next::Refreshed => {
            let block = changed_block(records, &record.block(), change)?;
            if change.facts.is_some() {
                records.reserve_dialog(publication, change.dialog_id)?;
            }
            Some(block)
        }
    };
    if let Some(record) = records.publications.get_mut(publication) {
        record.phase = PublicationPhase::Changing;
    }
    ClaimedChange { shard, presentity, publication, block, replaced: None }
        .pending(records, change, made)
}

/// The text of a stored publication with what a change brings.
fn changed_block<M: Memory>(
    records: &Shard<M>,
    stored: &Block<'_>,
    change: &PublicationChange<'_>,
) -> Result<Blob<M>, Fault> {
    let parts = Parts {
        entity_tag: change.entity_tag,
        sender: change.sender.unwrap_or(stored.sender()),
        dialog_id: match change.facts {
            Some(_) => change.dialog_id,
            None => stored.dialog_id(),
        },
        body: change.body.unwrap_or(stored.body()),
        ..Parts::default()
    };
    repack(records, stored, &parts)
}

/// What a change has claimed, and the text that it needs.
struct ClaimedChange<M: Memory> {
    shard: usize,
    presentity: Id<Presentity<M>>,
    publication: Id<Publication<M>>,
    block: Option<Blob<M>>,
    replaced: Option<Id<Publication<M>>>,
}

impl<M: Memory> ClaimedChange<M> {
    fn pending(
        self,
        records: &Shard<M>,
        change: &PublicationChange<'_>,
        made: transition::PublicationTransition,
    ) -> Result<Begun<M>, Fault> {
        let ClaimedChange { shard, presentity, publication, block, replaced } = self;
        Ok(Begun::Pending(Pending {
            shard,
            presentity,
            publication,
            step: change.step,
            block,
            facts: change.facts,
            expires_at: change.expires_at,
            now: change.now,
            priority: change.priority,
            sender: change.sender.unwrap_or_default().to_vec(),
            stored: stored(records, publication)?,
            replaced_row: replaced.map(|id| stored(records, id)).transpose()?,
            replaced,
            change: made,
        }))
    }
}

/// Puts an invisible new publication at the end of the presentity's list.
fn reserve<M: Memory>(
    records: &mut Shard<M>,
    presentity: Id<Presentity<M>>,
    key: &PresentityKey,
    change: &PublicationChange<'_>,
) -> Result<Id<Publication<M>>, Fault> {
    let parts = Parts {
        user: otherwise_spelled(records, presentity, key),
        entity_tag: change.entity_tag,
        sender: change.sender.unwrap_or_default(),
        ruid: change.ruid,
        dialog_id: change.dialog_id,
        body: change.body.unwrap_or_default(),
    };
    let block = pack(records, &parts)?;
    let record = Publication {
        expires_at: change.expires_at.map(Seconds::from),
        received: change.now.into(),
        priority: change.priority,
        facts: change.facts.unwrap_or_default(),
        ..Publication::new(presentity, block, PublicationPhase::Reserved)
    };
    let id = records.publications.insert(record).map_err(|_| Fault::SharedMemory)?;
    if let Some(owner) = records.presentities.get_mut(presentity) {
        owner.publications.push_back(&mut records.publications, id);
    }
    if let Err(full) = records.index_publication(id) {
        records.remove_publication(id);
        return Err(full);
    }
    Ok(id)
}

/// The key as a new row has it: in its own spelling if the presentity's rows
/// are looked for in that, else in the presentity's.
fn spelled_as_others<'k, M: Memory>(
    records: &Shard<M>,
    key: &'k PresentityKey,
    hash: u64,
) -> Cow<'k, PresentityKey> {
    let known = records.find(key, hash).and_then(|id| records.presentities.get(id));
    match known.map(|owner| &*owner.user) {
        Some(user) if *user != *key.user && !user::spellings(user).contains(&key.user) => {
            Cow::Owned(PresentityKey { user: user.to_vec(), ..key.clone() })
        }
        _ => Cow::Borrowed(key),
    }
}

/// The user of the key, if the presentity spells it otherwise.
pub(in crate::store) fn otherwise_spelled<'k, M: Memory>(
    records: &Shard<M>,
    presentity: Id<Presentity<M>>,
    key: &'k PresentityKey,
) -> &'k [u8] {
    let same = records.presentities.get(presentity).is_none_or(|owner| *owner.user == *key.user);
    if same { b"" } else { &key.user }
}

/// A block with these parts.
pub(in crate::store) fn pack<M: Memory>(
    records: &Shard<M>,
    parts: &Parts<'_>,
) -> Result<Blob<M>, Fault> {
    records.blob(&publication_block::pack(parts)?)
}

/// A block with the `ruid` of another and with these parts.
pub(in crate::store) fn repack<M: Memory>(
    records: &Shard<M>,
    block: &Block<'_>,
    parts: &Parts<'_>,
) -> Result<Blob<M>, Fault> {
    records.blob(&publication_block::repack(block, parts)?)
}
