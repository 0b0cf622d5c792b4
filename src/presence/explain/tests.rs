#![allow(clippy::unwrap_used, reason = "tests fail loudly")]
use super::*;
use proptest::prelude::*;

const NOW: i64 = 1_800_000_000;

/// An active subscription that has been told of all there is.
fn subscription() -> KnownSubscription {
    KnownSubscription {
        whereabouts: Whereabouts::Memory,
        status: Status::Active,
        is_politely_blocked: false,
        phase: Phase::Live,
        expires_at: NOW + 600,
        cseq: CSeq(5),
        fate: NotifyFate::Answered(200),
        notified_at: NOW - 10,
        is_excluded: false,
    }
}

fn facts(subscription: Option<KnownSubscription>) -> Facts {
    Facts {
        now: NOW,
        expires_offset: 0,
        subscription,
        end: None,
        decider: Some(Decider::Rules(Some(Status::Active))),
        waiting: None,
        publications: PublicationsKnown { all: 1, shown: 1, ..PublicationsKnown::default() },
        skips_empty_first: false,
    }
}

fn ended(reason: EndReason) -> Facts {
    let end = End { reason, at: NOW - 60, cseq: CSeq(7) };
    Facts { end: Some(end), decider: None, ..facts(None) }
}

fn waits(what: WaitsFor) -> Facts {
    let waiting = Waiting { what, since: Some(NOW - 5), next_try: Some(NOW + 2) };
    Facts { waiting: Some(waiting), ..facts(Some(subscription())) }
}

fn pending(decider: Option<Decider>) -> Facts {
    let subscription = KnownSubscription { status: Status::Pending, ..subscription() };
    Facts { decider, ..facts(Some(subscription)) }
}

fn fate(fate: NotifyFate) -> Facts {
    facts(Some(KnownSubscription { fate, ..subscription() }))
}

type Cause = (Facts, &'static str);

/// Causes and what is said of them.
fn causes() -> Vec<Cause> {
    [no_subscription(), subscribed(), state()].concat()
}

fn no_subscription() -> Vec<Cause> {
    vec![
        (facts(None), "no subscription: this watcher has not subscribed"),
        (
            Facts { decider: Some(Decider::Rules(Some(Status::Terminated))), ..facts(None) },
            "no subscription: the rules block this watcher",
        ),
        (ended(EndReason::Ended(Ending::Unsubscribed)), "the watcher has unsubscribed"),
        (ended(EndReason::Ended(Ending::Expired)), "expired: it was not refreshed"),
        (ended(EndReason::Ended(Ending::Rejected)), "rejected: the rules block this watcher"),
        (ended(EndReason::Ended(Ending::Deactivated)), "deactivated by the rules"),
        (ended(EndReason::Ended(Ending::Probation)), "put on probation"),
        (ended(EndReason::Ended(Ending::GiveUp)), "no decision came while it was pending"),
        (ended(EndReason::Ended(Ending::NoResource)), "does not exist any more (noresource)"),
        (ended(EndReason::NotifyAnswered(481)), "a NOTIFY was answered 481 (CSeq 7)"),
        (ended(EndReason::NotifyAnswered(408)), "a NOTIFY was not answered (408) (CSeq 7)"),
        (ended(EndReason::ConnectionGone), "connection was gone when a NOTIFY was to be sent"),
        (ended(EndReason::Script), "the script has ended it"),
        (ended(EndReason::Replaced), "subscribed anew in the same call"),
        (ended(EndReason::Fetch), "it was a fetch"),
        (ended(EndReason::Refused(403)), "the SUBSCRIBE was refused with 403"),
    ]
}

fn subscribed() -> Vec<Cause> {
    let known = subscription();
    let of = |subscription| facts(Some(subscription));
    let row = |status, by_hand| Some(Decider::Row { status, by_hand });
    vec![
        (
            of(KnownSubscription { phase: Phase::AwaitingResponse, ..known }),
            "just subscribed: no NOTIFY may leave before the 2xx",
        ),
        (of(KnownSubscription { expires_at: NOW - 3, ..known }), "expired at 2027-01-15T07:59:57Z"),
        (
            of(KnownSubscription { phase: Phase::Ending(Ending::Expired), ..known }),
            "ended: expired: it was not refreshed; its last NOTIFY waits",
        ),
        (
            of(KnownSubscription { whereabouts: Whereabouts::ForeignRow, ..known }),
            "only in the table: another server or program has written the row",
        ),
        (pending(Some(Decider::NoRules(Status::Pending))), "pending: no rule names this watcher"),
        (
            pending(Some(Decider::Rules(Some(Status::Pending)))),
            "pending: no rule names this watcher",
        ),
        (pending(row(Status::Pending, true)), "pending: the table watchers says so"),
        (pending(Some(Decider::Rules(None))), "pending, and the rules cannot be read now"),
        (
            pending(Some(Decider::Rules(Some(Status::Active)))),
            "pending, though it would be active if it was judged now",
        ),
        (pending(row(Status::Active, true)), "pending, though it would be active"),
        (
            Facts { decider: Some(Decider::Rules(Some(Status::Terminated))), ..of(known) },
            "active, though it would be terminated if it was judged now",
        ),
        (of(KnownSubscription { is_politely_blocked: true, ..known }), "politely blocked"),
    ]
}

fn state() -> Vec<Cause> {
    let known = subscription();
    let of = |subscription| facts(Some(subscription));
    let nothing = PublicationsKnown::default();
    vec![
        (waits(WaitsFor::Delivery), "waits: it is being sent at this moment"),
        (waits(WaitsFor::Sender), "waits: a sender process has yet to take it"),
        (waits(WaitsFor::FanOut(12)), "waits: the fan-out has 12 watchers to go"),
        (waits(WaitsFor::Database), "waits: database away since 2027-01-15T07:59:55Z"),
        (waits(WaitsFor::Memory), "waits: no shared memory for a NOTIFY"),
        (waits(WaitsFor::Package), "waits: the package fails"),
        (waits(WaitsFor::Other(Fault::Host)), "waits: host refused"),
        (waits(WaitsFor::NotifierProcess(5)), "waits: a notifier process comes by within 5 s"),
        (waits(WaitsFor::NextChange), "waits: given up until the next change"),
        (
            of(KnownSubscription { is_excluded: true, ..known }),
            "suppressed: the watcher is the publisher",
        ),
        (
            Facts {
                publications: nothing,
                skips_empty_first: true,
                ..of(KnownSubscription { cseq: CSeq(1), fate: NotifyFate::None, ..known })
            },
            "send_fast_notify is off",
        ),
        (fate(NotifyFate::Dropped), "the script has dropped the last NOTIFY"),
        (fate(NotifyFate::Unroutable), "the last NOTIFY could not be sent"),
        (fate(NotifyFate::ConnectionGone), "timeout_rm_subs is off: nothing is sent"),
        (fate(NotifyFate::Sent), "sent at 2027-01-15T07:59:50Z, has not been answered yet"),
        (fate(NotifyFate::Answered(500)), "was answered 500: the watcher has refused it"),
        (fate(NotifyFate::Answered(408)), "was never answered (408)"),
        (Facts { publications: nothing, ..of(known) }, "presentity has no publication"),
        (
            Facts {
                publications: PublicationsKnown { all: 2, expired: 2, ..nothing },
                ..of(known)
            },
            "no publication that lives: all have expired",
        ),
        (
            Facts {
                publications: PublicationsKnown { all: 2, expired: 1, ..nothing },
                ..of(known)
            },
            "nothing of what is published can be shown",
        ),
        (of(known), "in order: the last NOTIFY, sent at 2027-01-15T07:59:50Z, was answered 200"),
        (fate(NotifyFate::None), "in order: nothing has changed since this server was started"),
    ]
}

#[test]
fn each_cause_has_its_verdict() {
    let causes = causes();
    assert!(causes.len() >= 30);
    for (facts, expected) in causes {
        let words = verdict(&facts).to_string();
        assert!(words.contains(expected), "{facts:?}\n{words}\n{expected}");
    }
}

#[test]
fn no_two_verdicts_say_the_same() {
    let all: std::collections::BTreeSet<String> =
        causes().iter().map(|(facts, _)| verdict(facts).to_string()).collect();
    // Rules that say nothing of a watcher are as good as none, and a row by hand as
    // good as a rule.
    assert_eq!(all.len(), causes().len() - 2);
}

#[test]
fn what_keeps_the_state_from_a_watcher_comes_before_what_delays_it() {
    let waiting = waits(WaitsFor::Database).waiting;
    let facts = Facts { waiting, ..pending(Some(Decider::NoRules(Status::Pending))) };
    assert_eq!(verdict(&facts), Verdict::PendingNoRule);
    let facts = Facts { waiting, ..fate(NotifyFate::Answered(500)) };
    assert!(matches!(verdict(&facts), Verdict::Waits(_)));
    // A living subscription is not over because an earlier one is.
    let end = ended(EndReason::NotifyAnswered(481)).end;
    let facts = Facts { end, ..facts_in_order() };
    assert!(matches!(verdict(&facts), Verdict::InOrder(..)));
}

fn facts_in_order() -> Facts {
    facts(Some(subscription()))
}

#[test]
fn times_are_those_of_the_calendar() {
    for (time, text) in [
        (0, "1970-01-01T00:00:00Z"),
        (951_782_400, "2000-02-29T00:00:00Z"),
        (1_709_251_199, "2024-02-29T23:59:59Z"),
        (4_107_542_400, "2100-03-01T00:00:00Z"),
        (-1, "1969-12-31T23:59:59Z"),
    ] {
        assert_eq!(Time(time).to_string(), text);
    }
}

proptest! {
    #[test]
    fn reasons_come_back_from_their_bits(code: u16, kind in 0usize..16) {
        let endings = [
            Ending::Unsubscribed, Ending::Expired, Ending::Rejected, Ending::Deactivated,
            Ending::Probation, Ending::GiveUp, Ending::NoResource,
        ];
        let others = [
            EndReason::NotifyAnswered(code), EndReason::ConnectionGone, EndReason::Script,
            EndReason::Replaced, EndReason::Fetch, EndReason::Refused(code),
        ];
        let all = endings.into_iter().map(EndReason::Ended).chain(others);
        if let Some(reason) = all.into_iter().nth(kind) {
            prop_assert_eq!(EndReason::from_bits(reason.to_bits()), Some(reason));
        }
    }

    #[test]
    fn any_bits_are_read_somehow(bits: u32, time: i64) {
        let _ = EndReason::from_bits(bits).map(|reason| reason.to_string());
        if time.abs() < 1 << 50 {
            prop_assert!(Time(time).to_string().ends_with('Z'));
        }
    }
}
