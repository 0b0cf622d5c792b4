//! The state machine of a publication (RFC 3903 6): what is stored of it and
//! what happens go in; what it is next, whether its state stays as a *final
//! publication* until watchers have seen it, and who is notified come out. Where
//! publications are kept makes no difference here.

use crate::presence::event_package::EventPackage;
use crate::presence::publication::{Facts, Refused, Step};

/// What is stored of a publication, as far as its transitions need it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CurrentPublication<'a> {
    /// What is known of its document.
    pub facts: Facts,
    /// Watcher URI of its publisher, or empty. `None` before it is read: it may
    /// be anybody's.
    pub sender: Option<&'a [u8]>,
    /// It has a document that can be shown.
    pub has_document: bool,
    /// Some watchers may not have seen its document yet.
    pub unseen: bool,
}

impl CurrentPublication<'_> {
    /// What may be stored, where that costs a statement to read: the most that
    /// would make a difference. If it makes none, nothing has to be read.
    pub fn unread(package: &EventPackage, unseen: bool) -> CurrentPublication<'static> {
        let facts = match package.is_dialog() {
            true => Facts { dialogs: u8::MAX, is_final: true, has_terminated: true },
            false => Facts::default(),
        };
        CurrentPublication { facts, sender: None, has_document: true, unseen }
    }

    /// Whether it stays as a final publication when it ends or is replaced:
    /// watchers see it closed if the package shows that (`closing`), and a final
    /// state that some have not seen once more.
    pub fn ends(&self, closing: bool, watchers: Watchers) -> Option<FinalForm> {
        let shown = match closing {
            true => Some(FinalForm::Closed),
            false => (self.facts.is_final && self.unseen).then_some(FinalForm::AsItWas),
        };
        shown.filter(|_| self.has_document && watchers.any)
    }
}

/// Those who watch the presentity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Watchers {
    /// There are some, or may be.
    pub any: bool,
    /// They have yet to see so many final publications that no other
    /// publication may become one before (A14).
    pub backlogged: bool,
}

/// How a final publication is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinalForm {
    /// Closed.
    Closed,
    /// As it was: its document says that it is final.
    AsItWas,
}

/// What happens to a publication.
#[derive(Debug, Clone, Copy)]
pub enum Event<'a> {
    /// A request or a sibling changes it.
    Publish(Publish<'a>),
    /// Its lifetime is over. `force_delete`: nobody is to be notified of that.
    Clock {
        /// The parameter of this name.
        force_delete: bool,
    },
    /// Somebody else has removed its row.
    Removed,
}

/// A change of a publication that there is.
#[derive(Debug, Clone, Copy)]
pub struct Publish<'a> {
    /// Refresh, modify or remove.
    pub step: Step,
    /// What is known of the new document; `None` leaves it.
    pub facts: Option<Facts>,
    /// The publisher's watcher URI, if given.
    pub sender: Option<&'a [u8]>,
    /// The stored document was looked at: no dialog comes back to life (B44).
    pub is_judged: bool,
}

/// What becomes of a publication.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Outcome {
    /// It changes.
    Change(PublicationTransition),
    /// Nothing changes, and the entity-tag stays: another one's part of a shared
    /// line.
    Unchanged,
    /// The stored document has to be looked at first: a dialog of it may come
    /// back to life (B44).
    Reopens,
    /// Nothing changes: the final publications have to be seen first.
    TooManyEnds,
}

/// A change of what is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub struct PublicationTransition {
    /// What the publication is next.
    pub next: Next,
    /// What was stored stays as a final publication: this one's former state, or
    /// the publication that a new one replaces.
    pub ended: Option<FinalForm>,
    /// Who is notified.
    pub fan_out: FanOut,
}

impl PublicationTransition {
    /// The same, and nobody is notified.
    pub fn silently(self) -> PublicationTransition {
        PublicationTransition { ended: None, fan_out: FanOut::None, ..self }
    }
}

/// What a publication is next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// The presentity's newest.
    Newest,
    /// What and where it was, for longer.
    Refreshed,
    /// Part of the state no more.
    Gone,
}

/// Who is notified of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FanOut {
    /// Nobody: the state is what it was.
    None,
    /// Nobody for its own sake: who has been notified of everything before has been
    /// notified of everything.
    Silent,
    /// Who watches, but for its publisher. `urgent`: at once, not when the
    /// notifier processes come by.
    Watchers {
        /// See above.
        urgent: bool,
    },
}

/// A new publication. `tag_in_use`: there is one of its entity-tag, which could
/// never be told apart from it. `replaced`: the publication of the same dialog,
/// whose place it takes. Watchers see its document instead of that one's, so
/// that is not shown closed.
pub fn create(
    facts: Option<Facts>,
    tag_in_use: bool,
    replaced: Option<&CurrentPublication<'_>>,
    watchers: Watchers,
) -> Result<PublicationTransition, Refused> {
    if tag_in_use {
        return Err(Refused::EntityTag);
    }
    let ended = replaced.and_then(|stored| stored.ends(false, watchers));
    if ended.is_some() && watchers.backlogged {
        return Err(Refused::TooManyEnds);
    }
    Ok(PublicationTransition {
        next: Next::Newest,
        ended,
        fan_out: fan_out_of(Next::Newest, facts, ended),
    })
}

/// A new publication takes the place of one whose document begins with the same
/// dialog.
pub fn is_same_dialog(new: &[u8], stored: &[u8]) -> bool {
    !new.is_empty() && new == stored
}

/// What happens to a stored publication.
pub fn transition(
    stored: &CurrentPublication<'_>,
    event: Event<'_>,
    package: &EventPackage,
    watchers: Watchers,
) -> Outcome {
    if let Event::Publish(publish) = event {
        if package.is_shared_line() && leaves_shared_line_alone(stored, &publish) {
            return Outcome::Unchanged;
        }
        if package.keeps_terminated() && may_reopen(stored, &publish) {
            return Outcome::Reopens;
        }
    }
    let (next, facts) = match event {
        Event::Publish(Publish { step: Step::Refresh, .. }) => {
            let change =
                PublicationTransition { next: Next::Refreshed, ended: None, fan_out: FanOut::None };
            return Outcome::Change(change);
        }
        Event::Publish(Publish { step: Step::Create | Step::Modify, facts, .. }) => {
            (Next::Newest, facts)
        }
        Event::Publish(Publish { step: Step::Remove, .. })
        | Event::Clock { .. }
        | Event::Removed => (Next::Gone, None),
    };
    let ended = stored.ends(closes(event, package), watchers);
    match event {
        // It has gone already.
        Event::Removed => {}
        _ if ended.is_some() && watchers.backlogged => return Outcome::TooManyEnds,
        _ => {}
    }
    let fan_out = match event {
        Event::Clock { force_delete: true } => FanOut::Silent,
        _ => fan_out_of(next, facts, ended),
    };
    Outcome::Change(PublicationTransition { next, ended, fan_out })
}

/// What ends so is shown closed, whatever its document says.
pub fn closes(event: Event<'_>, package: &EventPackage) -> bool {
    match event {
        Event::Publish(publish) => publish.step == Step::Remove && package.aggregates,
        Event::Clock { force_delete } => package.aggregates && !force_delete,
        Event::Removed => false,
    }
}

/// A final state, and an end, are not left to the notifier processes.
fn fan_out_of(next: Next, facts: Option<Facts>, ended: Option<FinalForm>) -> FanOut {
    let is_final = facts.is_some_and(|facts| facts.is_final);
    FanOut::Watchers { urgent: is_final || next == Next::Gone || ended.is_some() }
}

/// Shared lines: a state without dialogs from somebody who does not own the
/// line's stored dialog must not clear it.
fn leaves_shared_line_alone(stored: &CurrentPublication<'_>, publish: &Publish<'_>) -> bool {
    publish.step == Step::Modify
        && publish.facts.is_some_and(|facts| facts.dialogs == 0)
        && stored.facts.dialogs > 0
        && publish.sender.is_some_and(|sender| stored.sender != Some(sender))
}

fn may_reopen(stored: &CurrentPublication<'_>, publish: &Publish<'_>) -> bool {
    publish.step == Step::Modify
        && !publish.is_judged
        && publish.facts.is_some_and(|facts| facts.may_reopen(stored.facts))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail loudly")]
    use super::*;

    const WATCHED: Watchers = Watchers { any: true, backlogged: false };
    const URGENT: FanOut = FanOut::Watchers { urgent: true };
    const ORDINARY: FanOut = FanOut::Watchers { urgent: false };

    fn package(event: &str, aggregates: bool) -> EventPackage {
        EventPackage { aggregates, ..EventPackage::named(event.as_bytes()).unwrap() }
    }

    fn facts(dialogs: u8, over: u8) -> Facts {
        Facts { dialogs, is_final: dialogs > 0 && over == dialogs, has_terminated: over > 0 }
    }

    fn stored(facts: Facts, unseen: bool) -> CurrentPublication<'static> {
        CurrentPublication { facts, sender: Some(b"a"), has_document: true, unseen }
    }

    fn publish(step: Step, facts: Option<Facts>) -> Event<'static> {
        Event::Publish(Publish { step, facts, sender: Some(b"b"), is_judged: false })
    }

    fn gone(ended: Option<FinalForm>, fan_out: FanOut) -> Outcome {
        Outcome::Change(PublicationTransition { next: Next::Gone, ended, fan_out })
    }

    #[test]
    fn an_entity_tag_in_use_is_not_given_twice() {
        assert_eq!(create(None, true, None, WATCHED), Err(Refused::EntityTag));
        let change = PublicationTransition { next: Next::Newest, ended: None, fan_out: ORDINARY };
        assert_eq!(create(None, false, None, WATCHED), Ok(change));
    }

    #[test]
    fn a_final_state_that_is_replaced_is_shown_to_who_has_not_seen_it() {
        let over = facts(1, 1);
        for (old, unseen, any, ended) in [
            (over, true, true, Some(FinalForm::AsItWas)),
            (over, false, true, None),
            (over, true, false, None),
            (facts(2, 1), true, true, None),
        ] {
            let watchers = Watchers { any, backlogged: false };
            let fan_out = FanOut::Watchers { urgent: ended.is_some() };
            let change = PublicationTransition { next: Next::Newest, ended, fan_out };
            let old = stored(old, unseen);
            assert_eq!(create(None, false, Some(&old), watchers), Ok(change));
            let modify = publish(Step::Modify, Some(facts(1, 0)));
            let Event::Publish(modify) = modify else { unreachable!() };
            let modify = Event::Publish(Publish { is_judged: true, ..modify });
            let dialog = package("dialog", true);
            assert_eq!(transition(&old, modify, &dialog, watchers), Outcome::Change(change));
        }
    }

    #[test]
    fn a_document_that_is_gone_cannot_be_shown() {
        let none = CurrentPublication { has_document: false, ..stored(facts(1, 1), true) };
        assert_eq!(none.ends(true, WATCHED), None);
        assert_eq!(none.ends(false, WATCHED), None);
    }

    #[test]
    fn what_ends_is_shown_closed_by_packages_that_aggregate() {
        let (old, clock) = (stored(Facts::default(), false), Event::Clock { force_delete: false });
        for event in [publish(Step::Remove, None), clock] {
            let shown = transition(&old, event, &package("presence", true), WATCHED);
            assert_eq!(shown, gone(Some(FinalForm::Closed), URGENT));
            let silent = transition(&old, event, &package("presence", false), WATCHED);
            assert_eq!(silent, gone(None, URGENT));
        }
        let removed = transition(&old, Event::Removed, &package("presence", true), WATCHED);
        assert_eq!(removed, gone(None, URGENT));
    }

    #[test]
    fn force_delete_tells_nobody_but_keeps_an_unseen_final_state() {
        let (dialog, clock) = (package("dialog", true), Event::Clock { force_delete: true });
        let seen = transition(&stored(facts(1, 1), false), clock, &dialog, WATCHED);
        assert_eq!(seen, gone(None, FanOut::Silent));
        let unseen = transition(&stored(facts(1, 1), true), clock, &dialog, WATCHED);
        assert_eq!(unseen, gone(Some(FinalForm::AsItWas), FanOut::Silent));
    }

    #[test]
    fn a_refresh_is_told_to_nobody() {
        let refresh = publish(Step::Refresh, None);
        let change =
            PublicationTransition { next: Next::Refreshed, ended: None, fan_out: FanOut::None };
        let backlogged = Watchers { any: true, backlogged: true };
        let old = stored(facts(1, 1), true);
        let outcome = transition(&old, refresh, &package("dialog", true), backlogged);
        assert_eq!(outcome, Outcome::Change(change));
    }

    #[test]
    fn with_too_many_final_publications_only_what_adds_one_waits() {
        let (presence, backlogged) =
            (package("presence", true), Watchers { any: true, backlogged: true });
        let old = stored(Facts::default(), false);
        for event in [publish(Step::Remove, None), Event::Clock { force_delete: false }] {
            assert_eq!(transition(&old, event, &presence, backlogged), Outcome::TooManyEnds);
        }
        let ordinary = [publish(Step::Modify, Some(Facts::default())), Event::Removed];
        for event in ordinary {
            assert!(matches!(transition(&old, event, &presence, backlogged), Outcome::Change(_)));
        }
        let over = stored(facts(1, 1), true);
        assert_eq!(create(None, false, Some(&over), backlogged), Err(Refused::TooManyEnds));
    }

    #[test]
    fn only_the_owner_clears_a_shared_line() {
        let line = package("dialog;sla", true);
        let idle = |sender, stored_sender, dialogs| {
            let old = CurrentPublication {
                sender: Some(stored_sender),
                ..stored(facts(dialogs, 0), false)
            };
            let idle = Publish {
                step: Step::Modify,
                facts: Some(Facts::default()),
                sender,
                is_judged: false,
            };
            transition(&old, Event::Publish(idle), &line, WATCHED) == Outcome::Unchanged
        };
        assert!(idle(Some(b"b"), b"a", 1));
        assert!(!idle(Some(b"a"), b"a", 1));
        assert!(!idle(None, b"a", 1));
        assert!(!idle(Some(b"b"), b"a", 0));
    }

    #[test]
    fn a_dialog_that_may_come_back_is_looked_at_once() {
        let dialog = package("dialog", true);
        let old = stored(facts(2, 1), false);
        let busy = Publish {
            step: Step::Modify,
            facts: Some(facts(1, 0)),
            sender: None,
            is_judged: false,
        };
        assert_eq!(transition(&old, Event::Publish(busy), &dialog, WATCHED), Outcome::Reopens);
        let judged = Publish { is_judged: true, ..busy };
        let outcome = transition(&old, Event::Publish(judged), &dialog, WATCHED);
        assert!(matches!(outcome, Outcome::Change(_)));
        let line = package("dialog;sla", true);
        let outcome = transition(&old, Event::Publish(busy), &line, WATCHED);
        assert!(matches!(outcome, Outcome::Change(_)));
    }

    #[test]
    fn a_row_is_read_only_where_it_makes_a_difference() {
        let plain = |package: &EventPackage, event, unseen, any| {
            let unread = CurrentPublication::unread(package, unseen);
            let watchers = Watchers { any, backlogged: false };
            match transition(&unread, event, package, watchers) {
                Outcome::Change(change) => change.ended.is_none(),
                _ => false,
            }
        };
        let (presence, dialog) = (package("presence", true), package("dialog", true));
        let line = package("dialog;sla", false);
        let (remove, over) = (publish(Step::Remove, None), Some(facts(1, 1)));
        assert!(plain(&presence, publish(Step::Modify, Some(Facts::default())), true, true));
        assert!(plain(&presence, publish(Step::Refresh, None), true, true));
        assert!(plain(&presence, remove, true, false));
        assert!(!plain(&presence, remove, false, true));
        assert!(plain(&dialog, publish(Step::Modify, over), false, true));
        assert!(!plain(&dialog, publish(Step::Modify, over), true, true));
        assert!(!plain(&dialog, publish(Step::Modify, Some(facts(1, 0))), false, true));
        assert!(plain(&line, publish(Step::Modify, Some(facts(1, 0))), false, true));
        assert!(!plain(&line, publish(Step::Modify, Some(Facts::default())), false, true));
    }

    #[test]
    fn dialogs_are_the_same_if_they_have_an_id() {
        assert!(is_same_dialog(b"d", b"d"));
        assert!(!is_same_dialog(b"d", b"e"));
        assert!(!is_same_dialog(b"", b""));
    }
}
