//! The publications of a presentity, few or many, against a plain list.

use super::fakes::{DIALOG, FakeMemory, Setup, World};
use presence::presence::presentity::PresentityKey;
use presence::presence::publication::{Facts, Step};
use presence::store::publications::{Begun, Pending, PublicationChange};
use proptest::prelude::*;

#[derive(Debug, Clone)]
enum Op {
    /// So many new ones of this dialog and the next ones.
    Create {
        dialog: u8,
        count: u8,
    },
    PublicationChange {
        which: u8,
        step: u8,
        dialog: u8,
        abort: bool,
    },
    /// Two requests at once: the second one is to be finished first.
    Cross {
        which: u8,
        dialog: u8,
        other: u8,
    },
    Restore {
        received: u8,
        dialog: u8,
    },
    Order,
}

fn op() -> impl Strategy<Value = Op> {
    let dialog = || 0..9u8;
    prop_oneof![
        3 => (dialog(), 1..8u8).prop_map(|(dialog, count)| Op::Create { dialog, count }),
        6 => (any::<u8>(), 0..3u8, dialog(), proptest::bool::weighted(0.2))
            .prop_map(|(which, step, dialog, abort)| Op::PublicationChange { which, step, dialog, abort }),
        2 => (any::<u8>(), dialog(), dialog())
            .prop_map(|(which, dialog, other)| Op::Cross { which, dialog, other }),
        2 => (0..50u8, dialog()).prop_map(|(received, dialog)| Op::Restore { received, dialog }),
        1 => Just(Op::Order),
    ]
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Known {
    tag: Vec<u8>,
    dialog: Vec<u8>,
    received: i64,
}

struct Model {
    world: World,
    key: PresentityKey,
    /// Oldest first.
    all: Vec<Known>,
    minted: u32,
}

/// Dialog 0 is none; there are few, so that publications share them.
fn dialog(n: u8) -> Vec<u8> {
    if n == 0 { Vec::new() } else { vec![b'd', n] }
}

impl Model {
    fn tag(&mut self) -> Vec<u8> {
        self.minted += 1;
        match self.minted % 2 {
            0 => format!("{:032x}.{}", self.minted, self.minted),
            _ => format!("t{}", self.minted),
        }
        .into_bytes()
    }

    fn begin(&self, step: Step, old: Option<&[u8]>, new: &Known) -> Option<Pending<FakeMemory>> {
        let change = PublicationChange {
            step,
            if_match: old,
            entity_tag: &new.tag,
            ruid: b"r",
            sender: None,
            body: (step == Step::Create || step == Step::Modify).then_some(&new.tag),
            facts: (step == Step::Create || step == Step::Modify).then(Facts::default),
            dialog_id: &new.dialog,
            expires_at: None,
            now: new.received,
            priority: 0,
            judged_by: None,
        };
        let package = self.world.server.registry.get(DIALOG).unwrap();
        match self.world.server.store.begin_publication(&self.key, package, &change).unwrap() {
            Begun::Pending(pending) => Some(pending),
            _ => None,
        }
    }

    fn commit(&self, pending: Pending<FakeMemory>) {
        assert!(self.world.server.store.commit_publication(pending, true, None, None).is_none());
    }

    /// A new one replaces the oldest of its dialog that nobody is changing.
    fn create(&mut self, id: u8, busy: Option<&[u8]>) {
        let new = Known { tag: self.tag(), dialog: dialog(id), received: self.world.now() };
        let pending = self.begin(Step::Create, None, &new).unwrap();
        let replaced = self.all.iter().position(|known| {
            !id.eq(&0) && known.dialog == new.dialog && Some(&*known.tag) != busy
        });
        let row = pending.replaced_row.as_ref().map(|row| row.entity_tag.clone());
        assert_eq!(row, replaced.map(|at| self.all[at].tag.clone()));
        self.commit(pending);
        replaced.map(|at| self.all.remove(at));
        self.all.push(new);
    }

    fn at(&self, which: u8) -> Option<usize> {
        usize::from(which).checked_rem(self.all.len())
    }

    fn apply(&mut self, op: &Op) {
        match *op {
            Op::Create { dialog, count } => {
                (0..count).for_each(|n| self.create((dialog + n) % 9, None));
            }
            Op::PublicationChange { which, step, dialog: id, abort } => {
                let Some(at) = self.at(which) else { return };
                let step = [Step::Refresh, Step::Modify, Step::Remove][usize::from(step)];
                let old = self.all[at].clone();
                let mut new = Known { tag: self.tag(), ..old.clone() };
                if step == Step::Modify {
                    (new.dialog, new.received) = (dialog(id), self.world.now());
                }
                let pending = self.begin(step, Some(&old.tag), &new).unwrap();
                assert!(self.begin(step, Some(&old.tag), &new).is_none(), "claimed twice");
                if abort {
                    return self.world.server.store.abort_publication(pending);
                }
                self.commit(pending);
                match step {
                    Step::Refresh => self.all[at] = new.clone(),
                    _ => drop(self.all.remove(at)),
                }
                if step == Step::Modify {
                    self.all.push(new);
                }
            }
            Op::Cross { which, dialog: id, other } => {
                let Some(at) = self.at(which) else { return };
                let old = self.all[at].clone();
                let (tag, received) = (self.tag(), self.world.now());
                let new = Known { tag, dialog: dialog(id), received };
                let pending = self.begin(Step::Modify, Some(&old.tag), &new).unwrap();
                self.create(other, Some(&old.tag));
                self.commit(pending);
                let at = self.all.iter().position(|known| *known == old).unwrap();
                self.all.remove(at);
                self.all.push(new);
            }
            Op::Restore { received, dialog: id } => {
                let received = self.world.now() - i64::from(received);
                let new = Known { tag: self.tag(), dialog: dialog(id), received };
                let change = PublicationChange {
                    step: Step::Create,
                    if_match: None,
                    entity_tag: &new.tag,
                    ruid: b"r",
                    sender: None,
                    body: Some(&new.tag),
                    facts: None,
                    dialog_id: &new.dialog,
                    expires_at: None,
                    now: received,
                    priority: 0,
                    judged_by: None,
                };
                self.world.server.store.restore_publication(&self.key, &change).unwrap();
                self.all.push(new);
            }
            Op::Order => {
                self.world.server.store.put_all_in_order();
                self.all.sort_by_key(|known| known.received);
            }
        }
    }

    fn check(&self) {
        let state = self.world.server.store.state(&self.key);
        let stored: Vec<_> = state.publications.iter().map(|p| p.entity_tag.clone()).collect();
        let expected: Vec<_> = self.all.iter().map(|known| known.tag.clone()).collect();
        assert_eq!(stored, expected);
        for known in &self.all {
            assert!(self.world.server.store.has_publication(&self.key, &known.tag));
        }
        assert!(!self.world.server.store.has_publication(&self.key, b"t0"));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..Default::default() })]

    #[test]
    fn many_publications_are_found_as_in_a_list(
        ops in proptest::collection::vec(op(), 1..60),
    ) {
        let world = World::new(Setup { shards: 1, ..Setup::default() });
        let key = world.key("alice", DIALOG);
        let mut model = Model { world, key, all: Vec::new(), minted: 0 };
        for op in &ops {
            model.apply(op);
            model.check();
        }
        while !model.all.is_empty() {
            model.apply(&Op::PublicationChange { which: 0, step: 2, dialog: 0, abort: false });
        }
        model.world.assert_empty();
    }
}
