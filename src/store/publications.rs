//! Publications: one change at a time, in two steps. `begin` claims the
//! publication and allocates all that the change needs; between the steps the
//! service writes the database where there is one; `commit` makes the change
//! part of the state, or `abort` leaves everything as it was.

use crate::error::{Fault, Rejection};
use crate::presence::event_package::EventPackage;
use crate::presence::publication::{
    Facts, Step, Text, leaves_shared_line_alone, unknown_entity_tag,
};
use crate::presence::text;
use crate::shm::{Blob, Id, Links, Memory, Timer};
use crate::store::records::{Presentity, Publication, PublicationPhase};
use crate::store::shard::{PresentityKey, Shard, later};
use crate::store::{LaneRef, Store};

/// What a PUBLISH makes of a publication.
#[derive(Debug, Clone)]
pub struct Change<'a> {
    /// Create, refresh, modify or remove.
    pub step: Step,
    /// The entity-tag it refers to; `None` for a new one.
    pub if_match: Option<&'a [u8]>,
    /// The entity-tag that it hands out.
    pub entity_tag: &'a [u8],
    /// Stable id of a new publication.
    pub ruid: &'a [u8],
    /// The publisher's watcher URI, if given.
    pub sender: Option<&'a [u8]>,
    /// The new document; `None` leaves it, or the database keeps it.
    pub body: Option<&'a [u8]>,
    /// What is known of the new document; `None` leaves it.
    pub facts: Option<Facts>,
    /// `id` of its first dialog: another publication of the same dialog is
    /// replaced. Empty for none.
    pub dialog_id: &'a [u8],
    /// Unix time of its end; `None` for hard state.
    pub expires_at: Option<i64>,
    /// Unix time now.
    pub now: i64,
    /// Its order among publications.
    pub priority: i32,
}

/// A publication as the database knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Entity-tag of its row.
    pub entity_tag: Vec<u8>,
    /// Sender of its row.
    pub sender: Vec<u8>,
}

/// What `begin` says.
#[expect(clippy::large_enum_variant, reason = "it is moved once, and the large one is the rule")]
pub enum Begun<M: Memory> {
    /// Claimed: write the database, then commit or abort.
    Pending(Pending<M>),
    /// Nothing changes; the entity-tag stays (shared lines).
    Unchanged,
    /// Refused.
    Refused(Rejection),
}

/// A claimed publication and what it is to become.
pub struct Pending<M: Memory> {
    shard: usize,
    presentity: Id<Presentity<M>>,
    publication: Id<Publication<M>>,
    step: Step,
    text: Option<Blob<M>>,
    body: Option<Blob<M>>,
    facts: Option<Facts>,
    expires_at: Option<i64>,
    now: i64,
    priority: i32,
    sender: Vec<u8>,
    replaced: Option<Id<Publication<M>>>,
    /// The publication as it was; for a new one as it will be.
    pub stored: Stored,
    /// The publication of the same dialog that the new one replaces.
    pub replaced_row: Option<Stored>,
    /// Its presentity, as spelled when it became known.
    pub key: PresentityKey,
    /// There are watchers whom a removal has to be shown to.
    pub has_watchers: bool,
    /// There are watchers who have not seen that the stored document, or the
    /// one that is replaced, reports a final state.
    pub unseen_final: bool,
}

/// An expired publication that was claimed for removal.
pub struct Expired<M: Memory> {
    shard: usize,
    publication: Id<Publication<M>>,
    /// Its presentity.
    pub key: PresentityKey,
    /// Its row.
    pub stored: Stored,
    /// There are watchers whom the removal has to be shown to.
    pub has_watchers: bool,
    /// As with `Pending`.
    pub unseen_final: bool,
}

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
            None => self.begin_new(records, shard, key, hash, change),
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
        change: &Change<'_>,
    ) -> Result<Begun<M>, Fault> {
        let presentity = records.find_or_create(key, hash)?;
        // A sibling's own tag may be in use: two living publications with one
        // tag could never be told apart again.
        if with_tag(records, presentity, change.entity_tag).is_some() {
            return Ok(Begun::Refused(unknown_entity_tag()));
        }
        let reserved = reserve(records, presentity, change);
        let publication = match reserved {
            Ok(publication) => publication,
            Err(fault) => {
                self.drop_if_idle(records, presentity);
                return Err(fault);
            }
        };
        let replaced = same_dialog(records, presentity, publication, change.dialog_id);
        if let Some(record) = replaced.and_then(|id| records.publications.get_mut(id)) {
            record.phase = PublicationPhase::Changing;
        }
        Ok(Begun::Pending(Pending {
            shard,
            presentity,
            publication,
            step: Step::Create,
            text: None,
            body: None,
            facts: change.facts,
            expires_at: change.expires_at,
            now: change.now,
            priority: change.priority,
            sender: change.sender.unwrap_or_default().to_vec(),
            stored: stored(records, publication),
            replaced_row: replaced.map(|id| stored(records, id)),
            replaced,
            key: key_of(records, presentity).unwrap_or_else(|| key.clone()),
            has_watchers: has_watchers(records, presentity),
            unseen_final: replaced.is_some_and(|id| unseen_final(records, id)),
        }))
    }

    /// Second step: the change is part of the state from here on. Gives the
    /// lane when the caller is the one to notify.
    /// `shows_closed`: the package shows a removed publication closed once;
    /// `document` is what was published before, where the database has kept
    /// that.
    pub fn commit_publication(
        &self,
        pending: Pending<M>,
        shows_closed: bool,
        document: Option<&[u8]>,
    ) -> Option<LaneRef<M>> {
        self.with(pending.shard, |records| {
            let (shard, presentity) = (pending.shard, pending.presentity);
            let sender = pending.sender.clone();
            match pending.step {
                Step::Create => {
                    if let Some(replaced) = pending.replaced {
                        // Its watchers see the new document of the dialog
                        // instead, so it is not shown closed.
                        keep_document(records, replaced, document);
                        records.end_publication(replaced, false, &sender);
                    }
                    enter(records, pending);
                    records.state_changed(presentity, &sender);
                    touch(records, presentity);
                }
                Step::Refresh => enter(records, pending),
                Step::Modify => {
                    supersede_final(records, pending.publication, document);
                    let publication = pending.publication;
                    enter(records, pending);
                    records.state_changed(presentity, &sender);
                    if let (Some(record), Some(owner)) = (
                        records.publications.get_mut(publication),
                        records.presentities.get(presentity),
                    ) {
                        record.round = owner.round;
                    }
                }
                Step::Remove => {
                    keep_document(records, pending.publication, document);
                    records.end_publication(pending.publication, shows_closed, &sender);
                }
            }
            let lane = records.take_lane(presentity);
            if !lane {
                self.drop_if_idle(records, presentity);
            }
            lane.then_some(LaneRef { shard: shard as u16, presentity })
        })
        .ok()
        .flatten()
    }

    /// Gives a claim up: everything is as before.
    pub fn abort_publication(&self, pending: Pending<M>) {
        let _ = self.with(pending.shard, |records| {
            if let Some(record) = pending.replaced.and_then(|id| records.publications.get_mut(id)) {
                record.phase = PublicationPhase::Live;
            }
            if pending.step == Step::Create {
                if let Some(owner) = records.presentities.get_mut(pending.presentity) {
                    owner.publications.unlink(&mut records.publications, pending.publication);
                }
                records.publications.remove(pending.publication);
                self.drop_if_idle(records, pending.presentity);
            } else if let Some(record) = records.publications.get_mut(pending.publication) {
                record.phase = PublicationPhase::Live;
            }
        });
    }

    /// Claims up to `budget` publications of one shard that have expired. True
    /// if there may be more.
    pub fn claim_expired(&self, shard: usize, now: i64, budget: usize) -> (Vec<Expired<M>>, bool) {
        self.with(shard, |records| {
            let mut claimed = Vec::new();
            let mut looks = budget;
            while let Some(publication) =
                records.publication_expiry.pop_due(&mut records.publications, now, &mut looks)
            {
                let Some(record) = records.publications.get_mut(publication) else { continue };
                if record.phase != PublicationPhase::Live {
                    // A request is changing it: look again in a second.
                    records.publication_expiry.schedule(
                        &mut records.publications,
                        publication,
                        now + 1,
                    );
                    continue;
                }
                record.phase = PublicationPhase::Changing;
                let presentity = record.presentity;
                let Some(key) = key_of(records, presentity) else { continue };
                claimed.push(Expired {
                    shard,
                    publication,
                    key,
                    stored: stored(records, publication),
                    has_watchers: has_watchers(records, presentity),
                    unseen_final: unseen_final(records, publication),
                });
            }
            (claimed, looks == 0)
        })
        .unwrap_or_default()
    }

    /// Removes a claimed publication. Its watchers are told by the sender
    /// processes, unless `quietly`.
    pub fn remove_expired(
        &self,
        expired: Expired<M>,
        shows_closed: bool,
        document: Option<&[u8]>,
        quietly: bool,
    ) {
        let _ = self.with(expired.shard, |records| {
            let Some(record) = records.publications.get_mut(expired.publication) else { return };
            let presentity = record.presentity;
            keep_document(records, expired.publication, document);
            if quietly {
                let told = records.presentities.get(presentity).map(|p| (p.completed, p.round));
                records.end_publication(expired.publication, false, b"");
                if let (Some((completed, round)), Some(owner)) =
                    (told, records.presentities.get_mut(presentity))
                    && completed == round
                {
                    owner.completed = owner.round;
                }
            } else {
                records.end_publication(expired.publication, shows_closed, b"");
            }
            self.queue_lane(records, presentity);
            self.drop_if_idle(records, presentity);
        });
    }

    /// Gives a claimed publication back because its row could not be deleted;
    /// it is tried again after `delay` seconds.
    pub fn keep_expired(&self, expired: Expired<M>, now: i64, delay: i64) {
        let _ = self.with(expired.shard, |records| {
            if let Some(record) = records.publications.get_mut(expired.publication) {
                record.phase = PublicationPhase::Live;
                records.publication_expiry.schedule(
                    &mut records.publications,
                    expired.publication,
                    now + delay,
                );
            }
        });
    }

    /// Takes over a publication that the database has kept.
    pub fn restore_publication(
        &self,
        key: &PresentityKey,
        change: &Change<'_>,
    ) -> Result<(), Fault> {
        let hash = self.presentity_hash(&key.identity, key.package);
        let shard = self.shard_of(&key.identity);
        self.with(shard, |records| match self.begin_new(records, shard, key, hash, change)? {
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
            Begun::Unchanged | Begun::Refused(_) => Err(Fault::Host),
        })?
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
    let found = presentity.and_then(|owner| Some((owner, with_tag(records, owner, tag)?)));
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
        && leaves_shared_line_alone(record.facts, record.text(Text::Sender), facts, change.sender)
    {
        return Ok(Begun::Unchanged);
    }
    let packed = text::pack::<Text>(|n| match Text::ALL[n] {
        Text::EntityTag => change.entity_tag.to_vec(),
        Text::Sender => change.sender.unwrap_or(record.text(Text::Sender)).to_vec(),
        Text::Ruid => record.text(Text::Ruid).to_vec(),
        Text::DialogId if change.facts.is_some() => change.dialog_id.to_vec(),
        Text::DialogId => record.text(Text::DialogId).to_vec(),
    })
    .map_err(|_| Fault::Host)?;
    // A removal needs no memory: it makes room.
    let text = match change.step {
        Step::Remove => None,
        _ => Some(records.blob(&packed)?),
    };
    let body = change.body.map(|body| records.blob(body)).transpose()?;
    if let Some(record) = records.publications.get_mut(publication) {
        record.phase = PublicationPhase::Changing;
    }
    Ok(Begun::Pending(Pending {
        shard,
        presentity,
        publication,
        step: change.step,
        text,
        body,
        facts: change.facts,
        expires_at: change.expires_at,
        now: change.now,
        priority: change.priority,
        sender: change.sender.unwrap_or_default().to_vec(),
        replaced: None,
        stored: stored(records, publication),
        replaced_row: None,
        key: key_of(records, presentity).ok_or(Fault::Host)?,
        has_watchers: has_watchers(records, presentity),
        unseen_final: unseen_final(records, publication),
    }))
}

/// Puts an invisible new publication at the end of the presentity's list.
fn reserve<M: Memory>(
    records: &mut Shard<M>,
    presentity: Id<Presentity<M>>,
    change: &Change<'_>,
) -> Result<Id<Publication<M>>, Fault> {
    let packed = text::pack::<Text>(|n| {
        match Text::ALL[n] {
            Text::EntityTag => change.entity_tag,
            Text::Sender => change.sender.unwrap_or_default(),
            Text::Ruid => change.ruid,
            Text::DialogId => change.dialog_id,
        }
        .to_vec()
    })
    .map_err(|_| Fault::Host)?;
    let record = Publication {
        presentity,
        text: records.blob(&packed)?,
        body: records.blob(change.body.unwrap_or_default())?,
        expires_at: change.expires_at,
        received: change.now,
        priority: change.priority,
        round: 0,
        facts: change.facts.unwrap_or_default(),
        phase: PublicationPhase::Reserved,
        published: Links::new(),
        expiring: Timer::new(),
    };
    let id = records.publications.insert(record).map_err(|_| Fault::SharedMemory)?;
    if let Some(owner) = records.presentities.get_mut(presentity) {
        owner.publications.push_back(&mut records.publications, id);
    }
    Ok(id)
}

/// The claimed change takes effect. The publication becomes the newest, unless
/// it is only refreshed: then nothing changes for the watchers.
fn enter<M: Memory>(records: &mut Shard<M>, pending: Pending<M>) {
    let id = pending.publication;
    if let Some(record) = records.publications.get_mut(id) {
        if let Some(text) = pending.text {
            record.text = text;
        }
        if let Some(body) = pending.body {
            record.body = body;
        }
        if let Some(facts) = pending.facts {
            record.facts = facts;
        }
        record.expires_at = pending.expires_at;
        if pending.step != Step::Refresh {
            record.received = pending.now;
        }
        record.priority = pending.priority;
        record.phase = PublicationPhase::Live;
    }
    match pending.expires_at {
        Some(at) => records.publication_expiry.schedule(&mut records.publications, id, at),
        None => records.publication_expiry.cancel(&mut records.publications, id),
    };
    if pending.step != Step::Refresh
        && let Some(owner) = records.presentities.get_mut(pending.presentity)
    {
        owner.publications.unlink(&mut records.publications, id);
        owner.publications.push_back(&mut records.publications, id);
    }
}

/// The newest publication has changed in the presentity's current round.
fn touch<M: Memory>(records: &mut Shard<M>, presentity: Id<Presentity<M>>) {
    let Some(owner) = records.presentities.get(presentity) else { return };
    let (newest, round) = (owner.publications.back(), owner.round);
    if let Some(record) = newest.and_then(|id| records.publications.get_mut(id)) {
        record.round = round;
    }
}

/// A final state that not all watchers have seen must not be lost when it is
/// replaced: a copy of the record says farewell with it.
fn supersede_final<M: Memory>(
    records: &mut Shard<M>,
    id: Id<Publication<M>>,
    document: Option<&[u8]>,
) {
    let Some(record) = records.publications.get(id) else { return };
    let document = document.unwrap_or(&record.body);
    if document.is_empty() || !unseen_final(records, id) {
        return;
    }
    // Without memory for the copy the watchers see the newer state at once.
    let (Ok(text), Ok(body)) = (records.blob(&record.text), records.blob(document)) else {
        return;
    };
    let copy = Publication {
        presentity: record.presentity,
        text,
        body,
        expires_at: None,
        received: record.received,
        priority: record.priority,
        round: record.round,
        facts: record.facts,
        phase: PublicationPhase::Superseded,
        published: Links::new(),
        expiring: Timer::new(),
    };
    let owner = record.presentity;
    let Ok(copy) = records.publications.insert(copy) else { return };
    if let Some(owner) = records.presentities.get_mut(owner) {
        owner.farewells.push_back(&mut records.publications, copy);
    }
}

/// The publication reports a final state that not all watchers have seen.
fn unseen_final<M: Memory>(records: &Shard<M>, id: Id<Publication<M>>) -> bool {
    let Some(record) = records.publications.get(id) else { return false };
    record.facts.is_final
        && records
            .presentities
            .get(record.presentity)
            .is_some_and(|p| !p.watchers.is_empty() && later(record.round, p.completed))
}

/// Gives a publication that ends the document that the database has kept.
fn keep_document<M: Memory>(
    records: &mut Shard<M>,
    id: Id<Publication<M>>,
    document: Option<&[u8]>,
) {
    if let Some(body) = document.and_then(|body| records.blob(body).ok())
        && let Some(record) = records.publications.get_mut(id)
    {
        record.body = body;
    }
}

pub(super) fn with_tag<M: Memory>(
    records: &Shard<M>,
    presentity: Id<Presentity<M>>,
    tag: &[u8],
) -> Option<Id<Publication<M>>> {
    let owner = records.presentities.get(presentity)?;
    let mut all = owner.publications.iter(&records.publications);
    all.find(|(_, p)| p.text(Text::EntityTag) == tag).map(|(id, _)| id)
}

fn same_dialog<M: Memory>(
    records: &Shard<M>,
    presentity: Id<Presentity<M>>,
    new: Id<Publication<M>>,
    dialog_id: &[u8],
) -> Option<Id<Publication<M>>> {
    if dialog_id.is_empty() {
        return None;
    }
    let owner = records.presentities.get(presentity)?;
    let mut all = owner.publications.iter(&records.publications);
    all.find(|(id, p)| {
        *id != new && p.phase == PublicationPhase::Live && p.text(Text::DialogId) == dialog_id
    })
    .map(|(id, _)| id)
}

fn stored<M: Memory>(records: &Shard<M>, id: Id<Publication<M>>) -> Stored {
    let text = |field| records.publications.get(id).map(|p| p.text(field).to_vec());
    Stored {
        entity_tag: text(Text::EntityTag).unwrap_or_default(),
        sender: text(Text::Sender).unwrap_or_default(),
    }
}

fn has_watchers<M: Memory>(records: &Shard<M>, presentity: Id<Presentity<M>>) -> bool {
    records.presentities.get(presentity).is_some_and(|p| !p.watchers.is_empty())
}

pub(super) fn key_of<M: Memory>(
    records: &Shard<M>,
    id: Id<Presentity<M>>,
) -> Option<PresentityKey> {
    use crate::store::records::PresentityText as Field;
    let record = records.presentities.get(id)?;
    Some(PresentityKey {
        identity: record.text(Field::Identity).to_vec(),
        user: record.text(Field::User).to_vec(),
        host: record.text(Field::Host).to_vec(),
        package: record.package,
    })
}
