//! Subscriptions in memory change: what `presence::transition` says becomes of
//! one is written into its record, under the shard's lock.

use crate::error::Fault;
use crate::presence::event_package::PackageId;
use crate::presence::renewal::Renewed;
use crate::presence::subscription::{Authorization, DialogId, Ending, Text};
use crate::presence::transition::{CurrentSubscription, Event, Next, Notify, Phase, Transition};
use crate::shm::{Blob, Id, Memory};
use crate::store::dialogs::Places;
use crate::store::records::Subscription;
use crate::store::shard::Shard;
use crate::store::subscription_block::{expand, shrink};
use crate::store::{Store, Token};

impl<M: Memory> Store<M> {
    /// Something happens to a subscription. What that leads to is done, but for
    /// what its watcher is notified of: the NOTIFY is pending, and the lane is the caller's to
    /// look for.
    pub fn update<'e>(&self, token: Token, event: &Event<'e>) -> Result<Transition<'e>, Fault> {
        let done = self.with(token.shard(), |records| match Self::resolve(records, token) {
            Some(id) => self.handle(records, id, event),
            None => Ok((Transition::of_nobody(event), None)),
        });
        let (transition, places) = done??;
        if let Some(places) = places {
            self.forget(places, token);
        }
        Ok(transition)
    }

    /// Something happens to the subscription of a dialog. Gives its token, too.
    pub fn update_dialog<'e>(
        &self,
        dialog: DialogId<'_>,
        event: &Event<'e>,
    ) -> Result<(Transition<'e>, Option<Token>), Fault> {
        match self.find_dialog(dialog)? {
            Some(token) => Ok((self.update(token, event)?, Some(token))),
            None => Ok((Transition::of_nobody(event), None)),
        }
    }

    /// Removes a subscription without another NOTIFY (its watcher is gone).
    /// False if it was gone already.
    pub fn remove_subscription(&self, token: Token) -> bool {
        self.update(token, &Event::NotifyAnswer(None)).is_ok_and(|removed| removed.is_change())
    }

    /// Ends up to `budget` subscriptions of one shard that expired more than
    /// `offset` seconds ago. Their last NOTIFY is left to the sender processes.
    /// True if there may be more.
    pub fn expire_subscriptions(&self, shard: usize, now: i64, offset: i64, budget: usize) -> bool {
        let clock = Event::Clock { now, offset };
        self.with(shard, |records| {
            let mut looks = budget;
            while let Some(id) = records.subscription_expiry.pop_due(
                &mut records.subscriptions,
                now - offset - 1,
                &mut looks,
            ) {
                let Some(record) = records.subscriptions.get(id) else { continue };
                let presentity = record.presentity;
                let ended = self.handle(records, id, &clock);
                if ended.is_ok_and(|(ended, _)| matches!(ended.notify, Notify::Last(_))) {
                    self.queue_lane(records, presentity);
                }
            }
            looks == 0
        })
        .unwrap_or(false)
    }

    /// What the event leads to is done to the record. One that is gone has to be
    /// taken out of the index by the caller.
    fn handle<'e>(
        &self,
        records: &mut Shard<M>,
        id: Id<Subscription<M>>,
        event: &Event<'e>,
    ) -> Result<(Transition<'e>, Option<Places>), Fault> {
        let Some(record) = records.subscriptions.get(id) else {
            return Ok((Transition::of_nobody(event), None));
        };
        let (presentity, watched) = (record.presentity, records.watched(record.presentity));
        let current = current(record, watched.package);
        let transition = current.handle(event, || expand(&record.text, watched.owner))?;
        let removed = matches!(transition.next, Next::Removed);
        let places = removed.then(|| self.places(records, record));
        match transition.next {
            Next::Renewed(renewed, phase) => {
                renew(records, id, renewed, phase, transition.text.as_deref())?;
            }
            Next::Decided(decision, phase) => {
                decide(records, id, decision, phase, transition.text.as_deref())?;
            }
            Next::Expired => records.end_subscription(id, Ending::Expired),
            Next::Unchanged | Next::Refused(_) | Next::Removed => {}
        }
        if let Some(at) = transition.again {
            records.subscription_expiry.schedule(&mut records.subscriptions, id, at);
        }
        if let Some(news) = transition.winfo {
            self.watcher_changed(records, id, news);
        }
        match transition.next {
            Next::Removed => {
                records.retire_subscription(id);
                if records.presentities.get(presentity).is_some_and(|p| p.watchers.is_empty()) {
                    records.mark_all_notified(presentity);
                }
                self.drop_if_idle(records, presentity);
            }
            Next::Renewed(..) | Next::Decided(..) => records.row_follows(id),
            Next::Expired | Next::Unchanged | Next::Refused(_) => {}
        }
        if matches!(transition.notify, Notify::Now | Notify::Last(_)) {
            records.mark_notify_pending(id);
        }
        Ok((transition, places))
    }
}

/// What is known of a subscription in this package.
fn current<M: Memory>(record: &Subscription<M>, package: PackageId) -> CurrentSubscription<'_> {
    CurrentSubscription {
        package,
        event_id: record.text(Text::EventId),
        contact: record.text(Text::Contact),
        socket: record.text(Text::Socket),
        local_contact: record.text(Text::LocalContact),
        remote_cseq: record.remote_cseq,
        expires_at: record.expires_at.get(),
        status: record.status,
        reason: record.text(Text::Reason),
        phase: record.phase,
    }
}

/// The record as a SUBSCRIBE leaves it. Allocates first, changes after.
fn renew<M: Memory>(
    records: &mut Shard<M>,
    id: Id<Subscription<M>>,
    renewed: Renewed,
    phase: Phase,
    text: Option<&[u8]>,
) -> Result<(), Fault> {
    let text = text.map(|block| text_of(records, id, block)).transpose()?;
    match phase {
        Phase::Ending(why) => records.end_subscription(id, why),
        Phase::AwaitingResponse | Phase::Live | Phase::Leaving | Phase::Gone => {
            records.revive_subscription(id)?;
        }
    }
    if let Some(record) = records.subscriptions.get_mut(id) {
        if let Some(text) = text {
            record.text = text;
        }
        record.remote_cseq = renewed.remote_cseq;
        record.flags = renewed.flags;
        record.expires_at = renewed.expires_at.into();
    }
    Ok(())
}

/// The record as a decision leaves it. One that is to end ends also without
/// memory for the reason.
fn decide<M: Memory>(
    records: &mut Shard<M>,
    id: Id<Subscription<M>>,
    decision: &Authorization,
    phase: Phase,
    text: Option<&[u8]>,
) -> Result<(), Fault> {
    let text = text.map(|block| text_of(records, id, block)).transpose();
    let text = match text {
        Err(fault) if phase.lives() => return Err(fault),
        text => text.ok().flatten(),
    };
    records.set_status(id, decision.status);
    if let Some(text) = text
        && let Some(record) = records.subscriptions.get_mut(id)
    {
        record.text = text;
    }
    if let Phase::Ending(why) = phase {
        records.end_subscription(id, why);
    }
    Ok(())
}

/// A packed block as it is kept.
fn text_of<M: Memory>(
    records: &Shard<M>,
    id: Id<Subscription<M>>,
    block: &[u8],
) -> Result<Blob<M>, Fault> {
    let record = records.subscriptions.get(id);
    let watched = record.map(|record| records.watched(record.presentity)).unwrap_or_default();
    records.blob(&shrink(block, watched.owner))
}
