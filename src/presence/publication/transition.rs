//! The state machine of a publication (RFC 3903 6): what is stored of it and
//! what happens go in; what it is next, whether its state stays as a *final
//! publication* until watchers have seen it, and who is told come out. Where
//! publications are kept makes no difference here.

use crate::presence::event_package::EventPackage;
use crate::presence::publication::{Facts, Refused, Step};

/// What is stored of a publication, as far as its transitions need it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stored<'a> {
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

impl Stored<'_> {
    /// What may be stored, where that costs a statement to read: the most that
    /// would make a difference. If it makes none, nothing has to be read.
    pub fn unread(package: &EventPackage, unseen: bool) -> Stored<'static> {
        let facts = match package.is_dialog() {
            true => Facts { dialogs: u8::MAX, is_final: true, has_terminated: true },
            false => Facts::default(),
        };
        Stored { facts, sender: None, has_document: true, unseen }
    }

    /// Whether it stays as a final publication when it ends or is replaced:
    /// watchers see it closed if the package shows that (`closing`), and a final
    /// state that some have not seen once more.
    pub fn ends(&self, closing: bool, watchers: Watchers) -> Option<Shown> {
        let shown = match closing {
            true => Some(Shown::Closed),
            false => (self.facts.is_final && self.unseen).then_some(Shown::AsItWas),
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
    pub owed: bool,
}

/// How a final publication is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shown {
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
    /// Its lifetime is over. `force_delete`: nobody is to be told of that.
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
    Change(Change),
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
pub struct Change {
    /// What the publication is next.
    pub next: Next,
    /// What was stored stays as a final publication: this one's former state, or
    /// the publication that a new one replaces.
    pub ended: Option<Shown>,
    /// Who is told.
    pub told: Told,
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

/// Who is told of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// Nobody: the state is what it was.
    Nobody,
    /// Nobody for its own sake: who has been told everything before has been
    /// told everything.
    Silently,
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
    replaced: Option<&Stored<'_>>,
    watchers: Watchers,
) -> Result<Change, Refused> {
    if tag_in_use {
        return Err(Refused::EntityTag);
    }
    let ended = replaced.and_then(|stored| stored.ends(false, watchers));
    if ended.is_some() && watchers.owed {
        return Err(Refused::TooManyEnds);
    }
    Ok(Change { next: Next::Newest, ended, told: told(Next::Newest, facts, ended) })
}

/// A new publication takes the place of one whose document begins with the same
/// dialog.
pub fn is_same_dialog(new: &[u8], stored: &[u8]) -> bool {
    !new.is_empty() && new == stored
}

/// What happens to a stored publication.
pub fn transition(
    stored: &Stored<'_>,
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
            let change = Change { next: Next::Refreshed, ended: None, told: Told::Nobody };
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
        _ if ended.is_some() && watchers.owed => return Outcome::TooManyEnds,
        _ => {}
    }
    let told = match event {
        Event::Clock { force_delete: true } => Told::Silently,
        _ => told(next, facts, ended),
    };
    Outcome::Change(Change { next, ended, told })
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
fn told(next: Next, facts: Option<Facts>, ended: Option<Shown>) -> Told {
    let is_final = facts.is_some_and(|facts| facts.is_final);
    Told::Watchers { urgent: is_final || next == Next::Gone || ended.is_some() }
}

/// Shared lines: a state without dialogs from somebody who does not own the
/// line's stored dialog must not clear it.
fn leaves_shared_line_alone(stored: &Stored<'_>, publish: &Publish<'_>) -> bool {
    publish.step == Step::Modify
        && publish.facts.is_some_and(|facts| facts.dialogs == 0)
        && stored.facts.dialogs > 0
        && publish.sender.is_some_and(|sender| stored.sender != Some(sender))
}

fn may_reopen(stored: &Stored<'_>, publish: &Publish<'_>) -> bool {
    publish.step == Step::Modify
        && !publish.is_judged
        && publish.facts.is_some_and(|facts| facts.may_reopen(stored.facts))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail loudly")]
    use super::*;

    const WATCHED: Watchers = Watchers { any: true, owed: false };
    const URGENT: Told = Told::Watchers { urgent: true };
    const ORDINARY: Told = Told::Watchers { urgent: false };

    fn package(event: &str, aggregates: bool) -> EventPackage {
        EventPackage { aggregates, ..EventPackage::named(event.as_bytes()).unwrap() }
    }

    fn facts(dialogs: u8, over: u8) -> Facts {
        Facts { dialogs, is_final: dialogs > 0 && over == dialogs, has_terminated: over > 0 }
    }

    fn stored(facts: Facts, unseen: bool) -> Stored<'static> {
        Stored { facts, sender: Some(b"a"), has_document: true, unseen }
    }

    fn publish(step: Step, facts: Option<Facts>) -> Event<'static> {
        Event::Publish(Publish { step, facts, sender: Some(b"b"), is_judged: false })
    }

    fn gone(ended: Option<Shown>, told: Told) -> Outcome {
        Outcome::Change(Change { next: Next::Gone, ended, told })
    }

    #[test]
    fn an_entity_tag_in_use_is_not_given_twice() {
        assert_eq!(create(None, true, None, WATCHED), Err(Refused::EntityTag));
        let change = Change { next: Next::Newest, ended: None, told: ORDINARY };
        assert_eq!(create(None, false, None, WATCHED), Ok(change));
    }

    #[test]
    fn a_final_state_that_is_replaced_is_shown_to_who_has_not_seen_it() {
        let over = facts(1, 1);
        for (old, unseen, any, ended) in [
            (over, true, true, Some(Shown::AsItWas)),
            (over, false, true, None),
            (over, true, false, None),
            (facts(2, 1), true, true, None),
        ] {
            let watchers = Watchers { any, owed: false };
            let told = Told::Watchers { urgent: ended.is_some() };
            let change = Change { next: Next::Newest, ended, told };
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
        let none = Stored { has_document: false, ..stored(facts(1, 1), true) };
        assert_eq!(none.ends(true, WATCHED), None);
        assert_eq!(none.ends(false, WATCHED), None);
    }

    #[test]
    fn what_ends_is_shown_closed_by_packages_that_aggregate() {
        let (old, clock) = (stored(Facts::default(), false), Event::Clock { force_delete: false });
        for event in [publish(Step::Remove, None), clock] {
            let shown = transition(&old, event, &package("presence", true), WATCHED);
            assert_eq!(shown, gone(Some(Shown::Closed), URGENT));
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
        assert_eq!(seen, gone(None, Told::Silently));
        let unseen = transition(&stored(facts(1, 1), true), clock, &dialog, WATCHED);
        assert_eq!(unseen, gone(Some(Shown::AsItWas), Told::Silently));
    }

    #[test]
    fn a_refresh_is_told_to_nobody() {
        let refresh = publish(Step::Refresh, None);
        let change = Change { next: Next::Refreshed, ended: None, told: Told::Nobody };
        let owed = Watchers { any: true, owed: true };
        let old = stored(facts(1, 1), true);
        let outcome = transition(&old, refresh, &package("dialog", true), owed);
        assert_eq!(outcome, Outcome::Change(change));
    }

    #[test]
    fn with_too_many_final_publications_only_what_adds_one_waits() {
        let (presence, owed) = (package("presence", true), Watchers { any: true, owed: true });
        let old = stored(Facts::default(), false);
        for event in [publish(Step::Remove, None), Event::Clock { force_delete: false }] {
            assert_eq!(transition(&old, event, &presence, owed), Outcome::TooManyEnds);
        }
        let ordinary = [publish(Step::Modify, Some(Facts::default())), Event::Removed];
        for event in ordinary {
            assert!(matches!(transition(&old, event, &presence, owed), Outcome::Change(_)));
        }
        let over = stored(facts(1, 1), true);
        assert_eq!(create(None, false, Some(&over), owed), Err(Refused::TooManyEnds));
    }

    #[test]
    fn only_the_owner_clears_a_shared_line() {
        let line = package("dialog;sla", true);
        let idle = |sender, stored_sender, dialogs| {
            let old = Stored { sender: Some(stored_sender), ..stored(facts(dialogs, 0), false) };
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
            let unread = Stored::unread(package, unseen);
            let watchers = Watchers { any, owed: false };
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
