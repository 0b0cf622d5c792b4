use super::*;
use crate::presence::cseq::CSeq;
use crate::presence::text::{Packed, pack};

const NOW: i64 = 1_000;

const LIVE: CurrentSubscription<'_> = CurrentSubscription {
    package: PackageId(1),
    event_id: b"1",
    contact: b"sip:here",
    socket: b"",
    local_contact: b"",
    remote_cseq: CSeq(10),
    expires_at: NOW + 60,
    status: Status::Active,
    reason: b"",
    phase: Phase::Live,
};

const REFRESH: Renewal<'_> = Renewal {
    package: PackageId(1),
    event_id: Some(b"1"),
    cseq: CSeq(11),
    cseq_offset: 0,
    expires: 60,
    now: NOW,
    contact: b"sip:here",
    socket: b"",
    local_contact: b"",
    flags: 0,
};

/// All phases that are over but for what remains to be sent or deleted.
const ENDED: [Phase; 4] = [
    Phase::Ending(Ending::Unsubscribed),
    Phase::Ending(Ending::Rejected),
    Phase::Leaving,
    Phase::Gone,
];

fn block() -> Vec<u8> {
    pack::<Text>(|n| if Text::ALL[n] == Text::Contact { b"sip:here" } else { b"" }).unwrap()
}

fn handle<'e>(current: CurrentSubscription<'_>, event: &Event<'e>) -> Transition<'e> {
    current.handle(event, block).unwrap()
}

fn renew<'e>(current: CurrentSubscription<'_>, renewal: &'e Renewal<'e>) -> Transition<'e> {
    handle(current, &Event::Subscribe(renewal))
}

/// The phase after a renewal; `Err` for why it is refused.
fn renewed(current: CurrentSubscription<'_>, renewal: Renewal<'_>) -> Result<Phase, Refusal> {
    match renew(current, &renewal).next {
        Next::Renewed(_, phase) => Ok(phase),
        Next::Refused(why) => Err(why),
        other => panic!("{other:?}"),
    }
}

fn decision(status: Status, reason: &[u8]) -> Authorization {
    Authorization { status, reason: reason.to_vec() }
}

fn decide<'e>(current: CurrentSubscription<'_>, decision: &'e Authorization) -> Transition<'e> {
    handle(current, &Event::Decision(decision, NOW))
}

#[test]
fn a_request_must_fit_its_dialog() {
    assert_eq!(renewed(LIVE, REFRESH), Ok(Phase::Live));
    assert_eq!(renewed(LIVE, Renewal { event_id: None, ..REFRESH }), Ok(Phase::Live));
    let unknown = |current| assert_eq!(renewed(current, REFRESH), Err(Refusal::Unknown));
    unknown(CurrentSubscription { package: PackageId(2), ..LIVE });
    unknown(CurrentSubscription { event_id: b"2", ..LIVE });
    for phase in ENDED {
        unknown(CurrentSubscription { phase, ..LIVE });
    }
}

#[test]
fn cseq_rises_within_the_offset() {
    let judge =
        |cseq, cseq_offset| renewed(LIVE, Renewal { cseq: CSeq(cseq), cseq_offset, ..REFRESH });
    for (cseq, offset) in [(11, 0), (9, 2), (u32::MAX, u32::MAX)] {
        assert_eq!(judge(cseq, offset), Ok(Phase::Live), "{cseq} {offset}");
    }
    for (cseq, offset) in [(10, 0), (9, 1), (0, 10)] {
        assert_eq!(judge(cseq, offset), Err(Refusal::OutOfOrder), "{cseq} {offset}");
    }
}

/// One that an offset lets in does not let the same one in again.
#[test]
fn cseq_is_the_highest() {
    for (cseq, highest) in [(9, 10), (11, 11)] {
        let renewal = Renewal { cseq: CSeq(cseq), cseq_offset: 2, ..REFRESH };
        let Next::Renewed(renewed, _) = renew(LIVE, &renewal).next else { panic!("refused") };
        assert_eq!(renewed.remote_cseq, CSeq(highest));
        assert_eq!((renewed.expires, renewed.expires_at), (60, NOW + 60));
    }
}

#[test]
fn one_that_is_not_there_is_so_whatever_its_cseq() {
    let gone = CurrentSubscription { phase: Phase::Leaving, ..LIVE };
    assert_eq!(renewed(gone, Renewal { cseq: CSeq(1), ..REFRESH }), Err(Refusal::Unknown));
    let event = Event::Subscribe(&REFRESH);
    assert_eq!(Transition::of_nobody(&event).next, Next::Refused(Refusal::Unknown));
    assert_eq!(Transition::of_nobody(&Event::Replaced), Transition::NOTHING);
}

#[test]
fn a_refresh_is_told_to_nobody_but_its_watcher() {
    for phase in [Phase::Live, Phase::AwaitingResponse] {
        let refreshed = renew(CurrentSubscription { phase, ..LIVE }, &REFRESH);
        let notify = Notify::AfterResponse;
        let again = Some(NOW + 60);
        let next = Next::Renewed(REFRESH.renewed(LIVE.remote_cseq), phase);
        let expected = Transition { again, notify, ..Transition::silently(next) };
        assert_eq!(refreshed, expected);
        assert!(refreshed.is_change() && !refreshed.is_over());
    }
}

#[test]
fn one_that_ran_out_goes_on_until_its_watcher_was_told() {
    let ran_out = CurrentSubscription { phase: Phase::Ending(Ending::Expired), ..LIVE };
    let back = renew(ran_out, &REFRESH);
    assert_eq!(back.next, Next::Renewed(REFRESH.renewed(LIVE.remote_cseq), Phase::Live));
    assert_eq!(back.winfo, Some(WatcherNews::began(Status::Active)));
    // The rules have ended it, with the same reason.
    let ended = CurrentSubscription { status: Status::Terminated, reason: b"timeout", ..ran_out };
    assert_eq!(renewed(ended, REFRESH), Err(Refusal::Unknown));
}

#[test]
fn its_target_follows_the_request() {
    let contact = b"sip:there";
    let moved = Renewal { contact, ..REFRESH };
    for renewal in [moved, Renewal { expires: 0, ..moved }] {
        let text = renew(LIVE, &renewal).text.unwrap();
        assert_eq!(Packed::<Text>::new(&text).get(Text::Contact), contact);
    }
    // It must leave room for a reason, or its watcher could not be turned away.
    let long = vec![b'a'; 65_500];
    let event_of = Renewal { contact: &long, ..REFRESH };
    assert_eq!(LIVE.handle(&Event::Subscribe(&event_of), block), Err(TooLong));
}

#[test]
fn unsubscribing_ends_it() {
    for phase in [Phase::Live, Phase::AwaitingResponse, Phase::Ending(Ending::Expired)] {
        for (status, shown) in
            [(Status::Active, Status::Terminated), (Status::Pending, Status::Waiting)]
        {
            let current = CurrentSubscription { phase, status, ..LIVE };
            let unsubscribe = Renewal { expires: 0, ..REFRESH };
            let ended = renew(current, &unsubscribe);
            let phase = Phase::Ending(Ending::Unsubscribed);
            assert_eq!(ended.next, Next::Renewed(unsubscribe.renewed(LIVE.remote_cseq), phase));
            let winfo = ended.winfo.unwrap();
            assert_eq!((winfo.status, winfo.full), (shown, true));
            assert_eq!(winfo.event.word(), "timeout");
            assert_eq!(ended.notify, Notify::AfterResponse);
            assert_eq!(ended.again, Some(NOW + REPLY_TIME));
            assert!(ended.is_over());
        }
    }
}

#[test]
fn a_decision_that_changes_nothing_is_none() {
    assert_eq!(decide(LIVE, &decision(Status::Active, b"")), Transition::NOTHING);
    for phase in ENDED.into_iter().chain([Phase::Ending(Ending::Expired)]) {
        let ended = CurrentSubscription { phase, ..LIVE };
        assert_eq!(decide(ended, &decision(Status::Pending, b"")), Transition::NOTHING);
    }
}

#[test]
fn an_approval_is_told() {
    let pending = CurrentSubscription { status: Status::Pending, ..LIVE };
    let approval = decision(Status::Active, b"");
    let approved = decide(pending, &approval);
    assert_eq!(approved.next, Next::Decided(&approval, Phase::Live));
    assert_eq!(approved.notify, Notify::Now);
    let winfo = approved.winfo.unwrap();
    assert_eq!((winfo.status, winfo.event.word()), (Status::Active, "approved"));
    assert!(!winfo.full);
    // Who is politely blocked is active all the same.
    let block = decision(Status::Active, b"polite-block");
    let polite = decide(LIVE, &block);
    assert_eq!((polite.next, polite.winfo), (Next::Decided(&block, Phase::Live), None));
    let text = polite.text.unwrap();
    assert_eq!(Packed::<Text>::new(&text).get(Text::Reason), b"polite-block");
}

#[test]
fn who_is_turned_away_is_told_why() {
    for (reason, ending, word) in [
        (&b"rejected"[..], Ending::Rejected, "rejected"),
        (b"", Ending::Rejected, "rejected"),
        (b"probation", Ending::Probation, "probation"),
        (b"giveup", Ending::GiveUp, "giveup"),
    ] {
        for status in [Status::Active, Status::Pending] {
            let decision = decision(Status::Terminated, reason);
            let ended = decide(CurrentSubscription { status, ..LIVE }, &decision);
            assert_eq!(ended.next, Next::Decided(&decision, Phase::Ending(ending)));
            assert_eq!(ended.notify, Notify::Last(ending));
            let winfo = ended.winfo.unwrap();
            // Whoever has been decided about does not wait for a decision.
            assert_eq!((winfo.status, winfo.event.word()), (Status::Terminated, word));
            assert!(ended.is_over());
        }
    }
}

#[test]
fn who_leaves_no_room_for_a_reason_is_turned_away() {
    let decision = decision(Status::Pending, &[b'a'; 65_535]);
    let ended = decide(LIVE, &decision);
    assert_eq!(ended.next, Next::Decided(&TURNED_AWAY, Phase::Ending(Ending::Rejected)));
}

#[test]
fn no_notify_of_a_decision_overtakes_the_2xx() {
    let awaiting = CurrentSubscription { phase: Phase::AwaitingResponse, ..LIVE };
    for (status, phase) in [
        (Status::Pending, Phase::AwaitingResponse),
        (Status::Terminated, Phase::Ending(Ending::Rejected)),
    ] {
        let decision = decision(status, b"");
        let decided = decide(awaiting, &decision);
        assert_eq!(decided.next, Next::Decided(&decision, phase));
        assert_eq!(decided.notify, Notify::AfterResponse);
        // Should that never leave, the end is reported without.
        assert_eq!(decided.again, decided.is_over().then_some(NOW + REPLY_TIME));
    }
}

#[test]
fn the_second_in_which_it_ends_is_its_own() {
    let at = |now, offset| handle(LIVE, &Event::Clock { now, offset });
    let end = LIVE.expires_at;
    assert_eq!(at(end, 0), Transition::NOTHING);
    assert_eq!(at(end + 1, 0).next, Next::Expired);
    assert_eq!(at(end + 5, 5), Transition::NOTHING);
    let expired = at(end + 6, 5);
    assert_eq!(expired.notify, Notify::Last(Ending::Expired));
    let winfo = expired.winfo.unwrap();
    assert_eq!((winfo.status, winfo.event.word()), (Status::Terminated, "timeout"));
}

#[test]
fn the_2xx_has_a_while_to_leave() {
    let awaiting = CurrentSubscription { phase: Phase::AwaitingResponse, expires_at: NOW, ..LIVE };
    let at = |now| handle(awaiting, &Event::Clock { now, offset: 0 });
    let waits = Transition { again: Some(NOW + REPLY_TIME), ..Transition::NOTHING };
    assert_eq!(at(NOW + 1), waits);
    assert_eq!(at(NOW + REPLY_TIME), waits);
    assert_eq!(at(NOW + REPLY_TIME + 1).next, Next::Expired);
}

#[test]
fn a_last_notify_that_has_not_left_is_sent_again() {
    for why in [Ending::Unsubscribed, Ending::Expired, Ending::Deactivated] {
        let ending = CurrentSubscription { phase: Phase::Ending(why), ..LIVE };
        let again = handle(ending, &Event::Clock { now: NOW, offset: 0 });
        assert_eq!(again, Transition { notify: Notify::Last(why), ..Transition::NOTHING });
    }
    for phase in [Phase::Leaving, Phase::Gone] {
        let clock = Event::Clock { now: NOW + 1000, offset: 0 };
        assert_eq!(handle(CurrentSubscription { phase, ..LIVE }, &clock), Transition::NOTHING);
    }
}

#[test]
fn a_watcher_that_is_gone_is_told_nothing() {
    for event in
        [Event::NotifyAnswer(None), Event::NotifyAnswer(Some(b"sip:here")), Event::Replaced]
    {
        for phase in [Phase::Live, Phase::AwaitingResponse] {
            let gone = handle(CurrentSubscription { phase, ..LIVE }, &event);
            assert_eq!((gone.next, gone.notify), (Next::Removed, Notify::None));
            let winfo = gone.winfo.unwrap();
            assert_eq!((winfo.status, winfo.event.word()), (Status::Terminated, "timeout"));
        }
        // Its end was reported when it came.
        let ended =
            handle(CurrentSubscription { phase: Phase::Ending(Ending::Expired), ..LIVE }, &event);
        assert_eq!((ended.next, ended.winfo), (Next::Removed, None));
        for phase in [Phase::Leaving, Phase::Gone] {
            assert_eq!(handle(CurrentSubscription { phase, ..LIVE }, &event), Transition::NOTHING);
        }
    }
}

#[test]
fn who_has_moved_is_not_gone() {
    let gone = Event::NotifyAnswer(Some(b"sip:there"));
    assert_eq!(handle(LIVE, &gone), Transition::NOTHING);
}
