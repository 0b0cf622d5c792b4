//! The store against a simple model, over any sequence of operations.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail loudly")]

#[path = "../service/fakes/mod.rs"]
#[allow(dead_code, unused_imports, reason = "not everything is needed here")]
mod fakes;
mod publications;

use fakes::{FakeMemory, MWI, PRESENCE, Setup, World};
use presence::presence::cseq::CSeq;
use presence::presence::event_package::{EventPackage, PackageId};
use presence::presence::notify_fate::NotifyFate;
use presence::presence::presentity::PresentityKey;
use presence::presence::publication::Step;
use presence::presence::registry::EventPackageRegistry;
use presence::presence::renewal::Renewal;
use presence::presence::subscription::{DialogId, Ending, Snapshot, Text};
use presence::presence::transition::{Event, Next, Refusal};
use presence::store::lanes::{Composed, Document, PlannedNotify, State};
use presence::store::publications::{Begun, Pending, PublicationChange};
use presence::store::{LaneRef, Token};
use proptest::prelude::*;
use std::collections::BTreeMap;

const DIALOGS: u8 = 4;
const TAGS: u8 = 3;

#[derive(Debug, Clone)]
enum Op {
    Insert {
        dialog: u8,
        expires: u8,
    },
    Release {
        dialog: u8,
    },
    Renew {
        dialog: u8,
        cseq: u32,
        expires: u8,
        moved: bool,
    },
    Remove {
        dialog: u8,
    },
    Pass {
        seconds: u8,
    },
    Create {
        publication: u8,
        expires: u8,
    },
    PublicationChange {
        publication: u8,
        step: u8,
        abort: bool,
        expires: u8,
    },
    Expire,
    /// The owner of the lane does a little.
    Step,
    /// And all there is to do.
    Drain,
}

fn op() -> impl Strategy<Value = Op> {
    let (dialog, publication, expires) = (|| 0..DIALOGS, || 0..TAGS, || 1..40u8);
    prop_oneof![
        3 => (dialog(), expires()).prop_map(|(dialog, expires)| Op::Insert { dialog, expires }),
        3 => dialog().prop_map(|dialog| Op::Release { dialog }),
        3 => (dialog(), 0..20u32, 0..40u8, any::<bool>()).prop_map(
            |(dialog, cseq, expires, moved)| Op::Renew { dialog, cseq, expires, moved }
        ),
        1 => dialog().prop_map(|dialog| Op::Remove { dialog }),
        1 => (1..30u8).prop_map(|seconds| Op::Pass { seconds }),
        2 => (publication(), expires())
            .prop_map(|(publication, expires)| Op::Create { publication, expires }),
        4 => (publication(), 0..3u8, proptest::bool::weighted(0.2), expires()).prop_map(
            |(publication, step, abort, expires)| Op::PublicationChange { publication, step, abort, expires }
        ),
        2 => Just(Op::Expire),
        12 => Just(Op::Step),
        1 => Just(Op::Drain),
    ]
}

/// Watchers that share the dialogs.
const WATCHERS: u8 = 3;

/// A subscription as the model knows it.
#[derive(Debug)]
struct Dialog {
    token: Token,
    /// `Live` or how it ends.
    ending: Option<Ending>,
    released: bool,
    remote_cseq: u32,
    local_cseq: u32,
    contact: &'static [u8],
    expires_at: i64,
    /// Changes of the state that it has been notified of, or never will be.
    notified: u32,
    /// A NOTIFY of its own is pending.
    pending: bool,
}

struct Model {
    world: World,
    key: PresentityKey,
    package: PackageId,
    dialogs: BTreeMap<u8, Dialog>,
    /// Number, tag, body, end: oldest first.
    publications: Vec<(u8, Vec<u8>, Vec<u8>, i64)>,
    changes: u32,
    minted: u32,
    lane: Option<LaneRef<FakeMemory>>,
    /// What the owner has composed, and of how many changes.
    composed: Option<(State, u32)>,
}

fn call_id(dialog: u8) -> Vec<u8> {
    vec![b'c', dialog]
}

/// Packages that do not show what ends closed.
fn silent(registry: &EventPackageRegistry) -> EventPackageRegistry {
    let mut silent = EventPackageRegistry::default();
    for package in registry.ids().filter_map(|id| registry.get(id)) {
        let _ = silent.add(EventPackage { aggregates: false, ..package.clone() }).unwrap();
    }
    silent
}

impl Model {
    fn new(package: PackageId) -> Model {
        let world = World::new(Setup { shards: 1, ..Setup::default() });
        let key = world.key("alice", package);
        Model {
            world,
            key,
            package,
            dialogs: BTreeMap::new(),
            publications: Vec::new(),
            changes: 0,
            minted: 0,
            lane: None,
            composed: None,
        }
    }

    fn change<'a>(
        &self,
        step: Step,
        old: Option<&'a [u8]>,
        tag: &'a [u8],
        expires: u8,
    ) -> PublicationChange<'a> {
        PublicationChange {
            step,
            if_match: old,
            entity_tag: tag,
            ruid: b"r",
            sender: None,
            body: matches!(step, Step::Create | Step::Modify).then_some(tag),
            facts: None,
            dialog_id: b"",
            expires_at: Some(self.world.now() + i64::from(expires)),
            now: self.world.now(),
            priority: 0,
            judged_by: None,
        }
    }

    fn begin(&self, change: &PublicationChange<'_>) -> Option<Pending<FakeMemory>> {
        let server = &self.world.server;
        let package = server.registry.get(self.package).unwrap();
        match server.store.begin_publication(&self.key, package, change).unwrap() {
            Begun::Pending(pending) => Some(pending),
            _ => None,
        }
    }

    fn commit(&mut self, pending: Pending<FakeMemory>) {
        let lane = self.world.server.store.commit_publication(pending, false, None, None);
        self.take_lane(lane);
    }

    fn take_lane(&mut self, lane: Option<LaneRef<FakeMemory>>) {
        if let Some(lane) = lane {
            assert!(self.lane.replace(lane).is_none(), "the lane has two owners");
        }
    }

    fn apply(&mut self, op: &Op) {
        let server = self.world.server.clone();
        let (store, now) = (&server.store, self.world.now());
        match *op {
            Op::Insert { dialog, expires } => {
                if self.dialogs.contains_key(&dialog) {
                    return;
                }
                let mut snapshot = Snapshot::new(self.package, Vec::new());
                snapshot.set_text(Text::CallId, &call_id(dialog)).unwrap();
                snapshot.set_text(Text::Contact, b"old").unwrap();
                snapshot.set_text(Text::WatcherUser, &[b'w', dialog % WATCHERS]).unwrap();
                (snapshot.expires, snapshot.remote_cseq) = (u32::from(expires), CSeq(5));
                let token =
                    store.insert_subscription(&self.key, &snapshot, now).unwrap().token().unwrap();
                let new = Dialog {
                    token,
                    ending: None,
                    released: false,
                    remote_cseq: 5,
                    local_cseq: 1,
                    contact: b"old",
                    expires_at: now + i64::from(expires),
                    notified: self.changes,
                    pending: false,
                };
                self.dialogs.insert(dialog, new);
            }
            Op::Release { dialog } => {
                let Some(known) = self.dialogs.get_mut(&dialog) else { return };
                (known.released, known.pending) = (true, true);
                let lane = store.release_subscription(known.token);
                self.take_lane(lane);
            }
            Op::Renew { dialog, cseq, expires, moved } => {
                let call_id = call_id(dialog);
                let id = DialogId { call_id: &call_id, from_tag: b"", to_tag: b"" };
                let contact: &[u8] = if moved { b"new" } else { b"old" };
                let renewal = Renewal {
                    package: self.package,
                    event_id: None,
                    cseq: CSeq(cseq),
                    cseq_offset: 0,
                    expires: u32::from(expires),
                    now,
                    contact,
                    socket: b"",
                    local_contact: b"",
                    flags: 0,
                };
                let (renewed, token) =
                    store.update_dialog(id, &Event::Subscribe(&renewal)).unwrap();
                let expected = match self.dialogs.get(&dialog) {
                    Some(known) if known.ending == Some(Ending::Unsubscribed) => {
                        Err(Refusal::Unknown)
                    }
                    None => Err(Refusal::Unknown),
                    Some(known) if cseq <= known.remote_cseq => Err(Refusal::OutOfOrder),
                    Some(_) => Ok(expires == 0),
                };
                let verdict = match renewed.next {
                    Next::Refused(why) => Err(why),
                    _ => Ok(renewed.is_over()),
                };
                assert_eq!(verdict, expected);
                if let Some(known) = self.dialogs.get_mut(&dialog)
                    && renewed.is_change()
                {
                    assert_eq!(token, Some(known.token));
                    known.remote_cseq = cseq;
                    known.contact = if moved { b"new" } else { b"old" };
                    known.expires_at = now + i64::from(expires);
                    known.ending = (expires == 0).then_some(Ending::Unsubscribed);
                    self.apply(&Op::Release { dialog });
                }
            }
            Op::Remove { dialog } => {
                if let Some(known) = self.dialogs.remove(&dialog) {
                    assert!(store.remove_subscription(known.token));
                    assert!(!store.remove_subscription(known.token));
                }
            }
            Op::Pass { seconds } => self.world.pass(i64::from(seconds)),
            Op::Create { publication, expires } => {
                if self.publications.iter().any(|(n, ..)| *n == publication) {
                    return;
                }
                self.minted += 1;
                let tag = self.minted.to_string().into_bytes();
                let pending = self.begin(&self.change(Step::Create, None, &tag, expires)).unwrap();
                self.commit(pending);
                self.changes += 1;
                let end = now + i64::from(expires);
                self.publications.push((publication, tag.clone(), tag, end));
            }
            Op::PublicationChange { publication, step, abort, expires } => {
                let step = [Step::Refresh, Step::Modify, Step::Remove][usize::from(step)];
                self.minted += 1;
                let tag = self.minted.to_string().into_bytes();
                let at = self.publications.iter().position(|(n, ..)| *n == publication);
                let old = at.map_or(b"none".to_vec(), |at| self.publications[at].1.clone());
                let change = self.change(step, Some(&old), &tag, expires);
                let pending = self.begin(&change);
                assert_eq!(pending.is_some(), at.is_some());
                let (Some(pending), Some(at)) = (pending, at) else { return };
                assert!(self.begin(&change).is_none(), "claimed twice");
                if abort {
                    store.abort_publication(pending);
                    return;
                }
                self.commit(pending);
                let (number, _, body, _) = self.publications[at].clone();
                let end = now + i64::from(expires);
                match step {
                    Step::Refresh => self.publications[at] = (number, tag, body, end),
                    Step::Modify => {
                        self.publications.remove(at);
                        self.publications.push((number, tag.clone(), tag, end));
                    }
                    _ => drop(self.publications.remove(at)),
                }
                self.changes += u32::from(step != Step::Refresh);
            }
            Op::Expire => {
                let silent = silent(&self.world.server.registry);
                let (expired, _) = store.claim_expired(0, (now, 100), &silent, false);
                for expired in expired {
                    store.remove_expired(expired, None);
                    self.changes += 1;
                }
                self.publications.retain(|(.., end)| *end > now);
                while store.expire_subscriptions(0, now, 0, 3) {}
                for known in self.dialogs.values_mut() {
                    // A 2xx that has not left by then never will.
                    known.released |= known.expires_at + 64 < now;
                    if known.expires_at < now && known.ending.is_none() && known.released {
                        (known.ending, known.pending) = (Some(Ending::Expired), true);
                    }
                }
            }
            Op::Step => drop(self.step()),
            Op::Drain => self.drain(),
        }
    }

    /// One step of who owns the lane; false if nobody does and nobody has to.
    fn step(&mut self) -> bool {
        let store = &self.world.server.clone().store;
        let Some(lane) = self.lane.or_else(|| store.take_over(0)) else { return false };
        self.lane = Some(lane);
        let Some((state, changes)) = self.composed.take() else {
            let state = store.lane_state(lane).unwrap();
            let bodies: Vec<_> = state.publications.iter().map(|p| p.body.clone()).collect();
            let expected: Vec<_> = self.publications.iter().map(|p| p.2.clone()).collect();
            assert_eq!(bodies, expected);
            self.composed = Some((state, self.changes));
            return true;
        };
        let composed = Composed {
            state_version: state.state_version,
            finals: &state.finals,
            skip_first: false,
            watchers: None,
        };
        let taken = store.take(lane, composed, self.world.now(), 1);
        for send in &taken.notifies {
            self.sent(send, changes);
        }
        let store = &self.world.server.store;
        let sent = |send: &PlannedNotify| {
            Some((send.token?, send.subscription.local_cseq, NotifyFate::Sent))
        };
        store.delivered(lane, taken.notifies.iter().filter_map(sent), 0);
        if taken.more {
            self.composed = Some((state, changes));
        } else if !store.finish(lane, true) {
            self.lane = None;
        }
        true
    }

    /// Owns the lane, if there is work, until there is none.
    fn drain(&mut self) {
        let mut steps = 0;
        while self.step() {
            steps += 1;
            assert!(steps < 1000, "the lane is never done");
        }
        // Nobody may be left who is to be notified.
        let (now, changes) = (self.world.now(), self.changes);
        for known in self.dialogs.values_mut().filter(|known| known.released) {
            assert!(!known.pending && known.ending.is_none(), "{known:?}");
            assert!(known.notified == changes || known.expires_at <= now, "{known:?}");
            known.notified = changes;
        }
        self.dialogs.retain(|_, known| known.ending.is_none());
    }

    /// A NOTIFY with the state after so many changes.
    fn sent(&mut self, send: &presence::store::lanes::PlannedNotify, changes: u32) {
        let call = send.subscription.text(Text::CallId)[1];
        let known = self.dialogs.get_mut(&call).expect("nobody ends twice");
        assert!(known.released, "before its 2xx");
        assert_eq!(send.ending, known.ending);
        known.local_cseq += 1;
        assert_eq!(send.subscription.local_cseq, CSeq(known.local_cseq));
        assert_eq!(send.subscription.text(Text::Contact), known.contact);
        assert!(known.pending || known.notified < changes, "for no reason");
        assert!(known.notified <= changes, "an older state than it had");
        let shows = send.ending != Some(Ending::Expired);
        assert_eq!(send.document, if shows { Document::Newest } else { Document::None });
        (known.pending, known.notified) = (false, changes);
        if send.ending.is_some() {
            self.dialogs.remove(&call);
        }
    }

    fn check(&self) {
        let store = &self.world.server.store;
        let state = store.state(&self.key);
        let stored: Vec<_> =
            state.publications.iter().map(|p| (p.entity_tag.clone(), p.body.clone())).collect();
        let expected: Vec<_> =
            self.publications.iter().map(|p| (p.1.clone(), p.2.clone())).collect();
        assert_eq!(stored, expected);
        let watchers = store.watchers(&self.key, self.world.now()).len();
        let living = |watcher: Option<u8>| {
            let of = |dialog: &u8| watcher.is_none_or(|watcher| dialog % WATCHERS == watcher);
            let all = self.dialogs.iter().filter(|(dialog, _)| of(dialog));
            all.filter(|(_, known)| known.ending.is_none()).count()
        };
        assert_eq!(watchers, living(None));
        // The counts for limits are what is counted.
        let (subscriptions, publications) = store.counts(&self.key);
        assert_eq!(subscriptions as usize, living(None));
        assert_eq!(store.tally().subscriptions(), subscriptions);
        assert_eq!(publications as usize, self.publications.len());
        for watcher in 0..WATCHERS {
            let counted = store.subscriptions_of(&[b'w', watcher], b"");
            assert_eq!(counted as usize, living(Some(watcher)), "{watcher}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..Default::default() })]

    #[test]
    fn the_store_does_what_the_model_does(
        ops in proptest::collection::vec(op(), 1..80),
        presence: bool,
    ) {
        let mut model = Model::new(if presence { PRESENCE } else { MWI });
        for op in &ops {
            model.apply(op);
            model.check();
        }
        for dialog in 0..DIALOGS {
            model.apply(&Op::Release { dialog });
        }
        model.apply(&Op::Pass { seconds: 100 });
        model.apply(&Op::Expire);
        model.drain();
        model.world.assert_empty();
    }
}
