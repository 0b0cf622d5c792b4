//! First step of a change: it is judged, the publication is claimed, and all
//! that the change needs is allocated.

use std::borrow::Cow;

use crate::error::Fault;
use crate::presence::event_package::EventPackage;
use crate::presence::limits::Limit;
use crate::presence::presentity::PresentityKey;
use crate::presence::publication::{
    Step, leaves_shared_line_alone, too_many_ends, unknown_entity_tag,
};
use crate::presence::uri::{presentity_uri, user};
use crate::shm::{Blob, Id, Memory};
use crate::store::Store;
use crate::store::publication_block::{self, Block, Parts};
use crate::store::records::{Presentity, Publication, PublicationPhase, Seconds};
use crate::store::shard::Shard;

use super::{Begun, Change, Pending, enter, stored, unseen_final};

impl<M: Memory> Store<M> {
    /// First step: judges the change against what is stored and claims it.
    pub fn begin_publication(
        &self,
        key: &PresentityKey,
        package: &EventPackage,
        change: &Change<'_>,
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
        (change, is_stored): (&Change<'_>, bool),
    ) -> Result<Begun<M>, Fault> {
        let presentity = self.find_or_create(records, key, hash)?;
        // A sibling's own tag may be in use: two living publications with one
        // tag could never be told apart again.
        if records.with_tag(presentity, change.entity_tag).is_some() {
            return Ok(Begun::Refused(unknown_entity_tag()));
        }
        let room = self.policy.limits.has_room(Limit::Publications, records.published(presentity));
        if !is_stored && !room && change.expires_at.is_some() {
            // One of a dialog takes the place of another one.
            if records.with_dialog(presentity, change.dialog_id, None).is_none() {
                let offender = presentity_uri(&key.user, &key.host);
                let refusal = self.policy.limits.exceeded(Limit::Publications, offender);
                return Ok(Begun::Refused(refusal));
            }
        }
        let reserved = reserve(records, presentity, key, change);
        let publication = match reserved {
            Ok(publication) => publication,
            Err(fault) => {
                self.drop_if_idle(records, presentity);
                return Err(fault);
            }
        };
        let replaced = records.with_dialog(presentity, change.dialog_id, Some(publication));
        if replaced.is_some_and(|id| records.must_wait_to_end(id, false)) {
            records.remove_publication(publication);
            self.drop_if_idle(records, presentity);
            return Ok(Begun::Refused(too_many_ends()));
        }
        if let Some(record) = replaced.and_then(|id| records.publications.get_mut(id)) {
            record.phase = PublicationPhase::Changing;
        }
        Ok(Begun::Pending(Pending {
            shard,
            presentity,
            publication,
            step: Step::Create,
            block: None,
            facts: change.facts,
            expires_at: change.expires_at,
            now: change.now,
            priority: change.priority,
            sender: change.sender.unwrap_or_default().to_vec(),
            stored: stored(records, publication)?,
            replaced_row: replaced.map(|id| stored(records, id)).transpose()?,
            replaced,
            has_watchers: records.may_be_watched(presentity),
            unseen_final: replaced.is_some_and(|id| unseen_final(records, id)),
        }))
    }

    /// Takes over a publication that the database has kept.
    pub fn restore_publication(
        &self,
        key: &PresentityKey,
        change: &Change<'_>,
    ) -> Result<(), Fault> {
        let hash = self.presentity_hash(&key.identity, key.package);
        let shard = self.shard_of(&key.identity);
        self.with(shard, |records| {
            match self.begin_new(records, shard, key, hash, (change, true))? {
                Begun::Pending(mut pending) => {
                    // Rows of one dialog coexist in the table; so they do here.
                    if let Some(record) =
                        pending.replaced.take().and_then(|id| records.publications.get_mut(id))
                    {
                        record.phase = PublicationPhase::Live;
                    }
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

    /// The same for all presentities.
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
    change: &Change<'_>,
) -> Result<Begun<M>, Fault> {
    let found = presentity.and_then(|owner| Some((owner, records.with_tag(owner, tag)?)));
    let Some((presentity, publication)) = found else {
        return Ok(Begun::Refused(unknown_entity_tag()));
    };
    let Some(record) = records.publications.get(publication) else {
        return Ok(Begun::Refused(unknown_entity_tag()));
    };
    if record.phase != PublicationPhase::Live {
        return Ok(Begun::Refused(unknown_entity_tag()));
    }
    if package.is_shared_line()
        && let Some(facts) = change.facts
        && change.step == Step::Modify
        && leaves_shared_line_alone(record.facts, record.block().sender(), facts, change.sender)
    {
        return Ok(Begun::Unchanged);
    }
    if let Some(begun) = reopens(records, package, publication, change)? {
        return Ok(begun);
    }
    let must_wait = match change.step {
        Step::Remove => records.must_wait_to_end(publication, package.aggregates),
        Step::Modify => records.must_wait_to_end(publication, false),
        Step::Create | Step::Refresh => false,
    };
    if must_wait {
        return Ok(Begun::Refused(too_many_ends()));
    }
    // A removal needs no memory: it makes room.
    let block = match change.step {
        Step::Remove => None,
        _ => {
            let stored = record.block();
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
            let block = repack(records, &stored, &parts)?;
            if change.facts.is_some() {
                records.reserve_dialog(publication, change.dialog_id)?;
            }
            Some(block)
        }
    };
    if let Some(record) = records.publications.get_mut(publication) {
        record.phase = PublicationPhase::Changing;
    }
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
        replaced: None,
        stored: stored(records, publication)?,
        replaced_row: None,
        has_watchers: records.may_be_watched(presentity),
        unseen_final: unseen_final(records, publication),
    }))
}

/// Says so if the change has to be judged by the stored document, and has not
/// been (B44).
fn reopens<M: Memory>(
    records: &Shard<M>,
    package: &EventPackage,
    publication: Id<Publication<M>>,
    change: &Change<'_>,
) -> Result<Option<Begun<M>>, Fault> {
    let Some(record) = records.publications.get(publication) else { return Ok(None) };
    let concerned = change.step == Step::Modify
        && package.keeps_terminated()
        && change.facts.is_some_and(|facts| facts.may_reopen(record.facts));
    let body = records.body(record);
    let is_judged = change.judged_by.is_some_and(|judged| body.is_empty() || judged == body);
    if !concerned || is_judged {
        return Ok(None);
    }
    let body = (!body.is_empty()).then(|| body.to_vec());
    Ok(Some(Begun::Reopens(stored(records, publication)?, body)))
}

/// Puts an invisible new publication at the end of the presentity's list.
fn reserve<M: Memory>(
    records: &mut Shard<M>,
    presentity: Id<Presentity<M>>,
    key: &PresentityKey,
    change: &Change<'_>,
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
