//! One suite for every storage: the same operations, in any order, over every
//! `subs_db_mode`, `publ_cache` and kind of notifier, against one small model
//! of RFC 3903 and RFC 6665. Where subscriptions and publications are kept must
//! not be seen from outside; the few places where it may are in [`Storage`].
//!
//! Every operation is followed by all that timers, senders and notifier
//! processes have to do, so what is compared is: the reply, the NOTIFYs that the
//! operation caused, the list of watchers, and the rows.

mod model;
mod storage;

use crate::fakes::{Publish, Sent, Subscribe, World};
use model::{Expected, Model, Watcher, labels};
use presence::config::{PublicationCache, SubscriptionMode};
use presence::presence::event_package::PackageId;
use presence::presence::subscription::{Snapshot, Text};
use presence::service::census;
use presence::service::{expiry, flagged_rows, notify_reply, restore, subscriptions, write_back};
use presence::store::Token;
use presence::store::gauges::Gauge;
use proptest::prelude::*;
use proptest::test_runner::{Config as Cases, TestCaseError, TestRunner};
use std::collections::HashMap;
use std::sync::Arc;
use storage::Storage;

/// Subscriptions that there may be at once.
const DIALOGS: u8 = 4;
/// Publications that there may be at once.
const SLOTS: u8 = 3;

#[derive(Debug, Clone)]
enum Operation {
    /// A new subscription, if this one has none.
    Subscribe {
        dialog: u8,
        watcher: Watcher,
        expires: u8,
    },
    /// The first SUBSCRIBE of a dialog once more, with a higher CSeq.
    SubscribeAgain {
        dialog: u8,
        expires: u8,
    },
    /// The same dialog, another presentity.
    SubscribeElsewhere {
        dialog: u8,
    },
    /// A SUBSCRIBE in the dialog. `stale`: with a CSeq that it has had.
    Refresh {
        dialog: u8,
        expires: u8,
        stale: bool,
        moved: bool,
    },
    /// Expires 0 in the dialog.
    Unsubscribe {
        dialog: u8,
    },
    /// In the dialog, for another package.
    OtherPackage {
        dialog: u8,
    },
    /// Expires 0 outside any dialog.
    Fetch {
        watcher: Watcher,
    },
    /// A new publication, if this one is not there.
    Create {
        slot: u8,
        expires: u8,
    },
    /// With the tag of the publication, or one that nobody knows.
    Modify {
        slot: u8,
        expires: u8,
    },
    RefreshPublication {
        slot: u8,
        expires: u8,
    },
    Remove {
        slot: u8,
    },
    /// An entity-tag that has been replaced.
    Stale {
        slot: u8,
    },
    /// The last NOTIFY of the dialog is answered so.
    Answered {
        dialog: u8,
        code: u16,
    },
    Pass {
        seconds: u8,
    },
    /// Of the next operation's first such statement: it is executed, and seems
    /// to have failed.
    LoseAnswer {
        verb: &'static str,
    },
    /// The server is killed and started again.
    Crash,
}

fn operation() -> impl Strategy<Value = Operation> {
    use Operation::{
        Answered, Crash, Create, Fetch, LoseAnswer, Modify, OtherPackage, Pass, Refresh,
        RefreshPublication, Remove, Stale, Subscribe, SubscribeAgain, SubscribeElsewhere,
        Unsubscribe,
    };
    let (dialog, slot, expires) = (|| 0..DIALOGS, || 0..SLOTS, || 2..60u8);
    let watcher = || {
        prop_oneof![
            5 => Just(Watcher::Active),
            2 => Just(Watcher::Pending),
            1 => Just(Watcher::Polite),
            1 => Just(Watcher::Blocked),
        ]
    };
    let code = proptest::sample::select(vec![200, 404, 408, 480, 481, 486, 489, 500, 603]);
    prop_oneof![
        6 => (dialog(), watcher(), expires())
            .prop_map(|(dialog, watcher, expires)| Subscribe { dialog, watcher, expires }),
        1 => (dialog(), expires())
            .prop_map(|(dialog, expires)| SubscribeAgain { dialog, expires }),
        1 => dialog().prop_map(|dialog| SubscribeElsewhere { dialog }),
        3 => (dialog(), expires(), proptest::bool::weighted(0.2), any::<bool>()).prop_map(
            |(dialog, expires, stale, moved)| Refresh { dialog, expires, stale, moved }
        ),
        2 => dialog().prop_map(|dialog| Unsubscribe { dialog }),
        1 => dialog().prop_map(|dialog| OtherPackage { dialog }),
        1 => watcher().prop_map(|watcher| Fetch { watcher }),
        5 => (slot(), expires()).prop_map(|(slot, expires)| Create { slot, expires }),
        4 => (slot(), expires()).prop_map(|(slot, expires)| Modify { slot, expires }),
        2 => proptest::sample::select(vec!["insert", "update", "delete", "query"])
            .prop_map(|verb| LoseAnswer { verb }),
        2 => (slot(), expires())
            .prop_map(|(slot, expires)| RefreshPublication { slot, expires }),
        2 => slot().prop_map(|slot| Remove { slot }),
        1 => slot().prop_map(|slot| Stale { slot }),
        2 => (dialog(), code).prop_map(|(dialog, code)| Answered { dialog, code }),
        3 => (1..40u8).prop_map(|seconds| Pass { seconds }),
        1 => Just(Crash),
    ]
}

/// A server with this storage, and what should be seen of it.
struct Run {
    storage: Storage,
    world: World,
    model: Model,
    /// The CSeq of each dialog's latest NOTIFY, and all that names it.
    latest: HashMap<String, Sent>,
    cseq: u32,
    /// The statement of the next operation whose answer is lost.
    lost: Option<&'static str>,
}

type Checked = Result<(), TestCaseError>;

impl Run {
    fn new(storage: Storage, package: PackageId, event: &'static str) -> Run {
        Run {
            world: World::new(storage.setup()),
            model: Model::new(package, event, storage),
            storage,
            latest: HashMap::new(),
            cseq: 100,
            lost: None,
        }
    }

    /// A CSeq that no request has had.
    fn next_cseq(&mut self) -> u32 {
        self.cseq += 1;
        self.cseq
    }

    /// Does what all other processes have to do, until they are done.
    fn settle(&mut self) {
        for _ in 0..3 {
            self.world.send();
            if self.storage.notifiers {
                for slot in 0..self.storage.slots() {
                    flagged_rows::serve(&self.world.server, &mut self.world.host, slot);
                }
            }
        }
        self.world.send();
        if subscriptions::keeping(&self.world.server.config).rows_follow() {
            write_back::flush(&self.world.server, &mut self.world.host, false);
        }
    }

    /// A second goes by, and with it what runs out.
    fn pass(&mut self, seconds: u8) -> Checked {
        self.world.pass(i64::from(seconds));
        expiry::publications(&self.world.server, &mut self.world.host);
        expiry::subscriptions(&self.world.server, &mut self.world.host);
        self.settle();
        let expected = self.model.pass(self.world.now());
        self.compare("time", &expected)
    }

    fn apply(&mut self, operation: &Operation) -> Checked {
        if let Operation::LoseAnswer { verb } = *operation {
            self.lost = Some(verb);
            return Ok(());
        }
        // In one second the order of publications is the store's own (A1).
        self.pass(1)?;
        let lost = self.lost.take();
        if let (Some(verb), Some(database)) = (lost, &self.world.host.database) {
            database.lose_answer(verb);
        }
        let expected = match *operation {
            Operation::Subscribe { dialog, watcher, expires } => {
                self.subscribe(dialog, watcher, expires)?
            }
            Operation::SubscribeAgain { dialog, expires } => self.again(dialog, expires)?,
            Operation::SubscribeElsewhere { dialog } => self.elsewhere(dialog)?,
            Operation::Refresh { dialog, expires, stale, moved } => {
                self.renew(dialog, expires, stale, moved)?
            }
            Operation::Unsubscribe { dialog } => self.renew(dialog, 0, false, false)?,
            Operation::OtherPackage { dialog } => self.other_package(dialog)?,
            Operation::Fetch { watcher } => self.fetch(watcher)?,
            Operation::Create { slot, expires } => self.create(slot, expires)?,
            Operation::Modify { slot, expires } => self.change(slot, expires, true)?,
            Operation::LoseAnswer { .. } => Expected::default(),
            Operation::RefreshPublication { slot, expires } => self.change(slot, expires, false)?,
            Operation::Remove { slot } => self.change(slot, 0, false)?,
            Operation::Stale { slot } => self.stale(slot)?,
            Operation::Answered { dialog, code } => self.answered(dialog, code)?,
            Operation::Pass { seconds } => return self.pass(seconds),
            Operation::Crash => self.crash()?,
        };
        if let Some(database) = &self.world.host.database {
            database.lose_none();
        }
        self.settle();
        self.compare(&format!("{operation:?}"), &expected)?;
        self.watcher_list()?;
        self.counted()?;
        self.rows()
    }

    fn subscribe(
        &mut self,
        dialog: u8,
        watcher: Watcher,
        expires: u8,
    ) -> Result<Expected, TestCaseError> {
        if self.model.call(dialog).is_some() {
            return Ok(Expected::default());
        }
        let (cseq, now) = (self.next_cseq(), self.world.now());
        let call = self.model.new_call(dialog);
        let answer = self.world.subscribe(Subscribe {
            event: Some(self.model.event),
            watcher: watcher.name(),
            expires: Some(&expires.to_string()),
            cseq: Some(cseq),
            ..Subscribe::new(&call)
        });
        prop_assert_eq!(answer.code, 200);
        prop_assert_eq!(answer.expires, expires.to_string());
        Ok(self.model.subscribe(dialog, call, watcher, now + i64::from(expires)))
    }

    /// The watcher has forgotten its To tag and goes on with its subscription.
    fn again(&mut self, dialog: u8, expires: u8) -> Result<Expected, TestCaseError> {
        let Some((call, watcher)) = self.model.call(dialog) else { return Ok(Expected::default()) };
        let (cseq, now) = (self.next_cseq(), self.world.now());
        let answer = self.world.subscribe(Subscribe {
            event: Some(self.model.event),
            watcher: watcher.name(),
            expires: Some(&expires.to_string()),
            cseq: Some(cseq),
            ..Subscribe::new(&call)
        });
        prop_assert_eq!(answer.code, 200);
        Ok(self.model.renew(dialog, now + i64::from(expires), false))
    }

    /// One dialog is one subscription (A2, B2).
    fn elsewhere(&mut self, dialog: u8) -> Result<Expected, TestCaseError> {
        let Some((call, watcher)) = self.model.call(dialog) else { return Ok(Expected::default()) };
        let cseq = self.next_cseq();
        let answer = self.world.subscribe(Subscribe {
            event: Some(self.model.event),
            user: "bob",
            watcher: watcher.name(),
            expires: Some("30"),
            cseq: Some(cseq),
            ..Subscribe::new(&call)
        });
        prop_assert!([400, 481].contains(&answer.code), "{:?}", answer);
        Ok(Expected::default())
    }

    fn renew(
        &mut self,
        dialog: u8,
        expires: u8,
        stale: bool,
        moved: bool,
    ) -> Result<Expected, TestCaseError> {
        let (cseq, now) = (self.next_cseq(), self.world.now());
        let known = self.model.call(dialog);
        let call = known.as_ref().map_or_else(|| self.model.old_call(dialog), |it| it.0.clone());
        let answer = self.world.subscribe(Subscribe {
            event: Some(self.model.event),
            expires: Some(&expires.to_string()),
            contact_host: if moved { "moved" } else { "h" },
            cseq: Some(if stale { 1 } else { cseq }),
            ..Subscribe::refresh(&call)
        });
        let expected = match (known.is_some(), stale) {
            (false, _) => 481,
            (true, true) => 500,
            (true, false) => 200,
        };
        prop_assert_eq!(answer.code, expected);
        if expected != 200 {
            return Ok(Expected::default());
        }
        if expires == 0 {
            return Ok(self.model.unsubscribe(dialog));
        }
        Ok(self.model.renew(dialog, now + i64::from(expires), moved))
    }

    fn other_package(&mut self, dialog: u8) -> Result<Expected, TestCaseError> {
        let call = self.model.call(dialog).map_or_else(|| self.model.old_call(dialog), |it| it.0);
        let cseq = self.next_cseq();
        let answer = self.world.subscribe(Subscribe {
            event: Some("dialog"),
            cseq: Some(cseq),
            ..Subscribe::refresh(&call)
        });
        prop_assert_eq!(answer.code, 481);
        Ok(Expected::default())
    }

    fn fetch(&mut self, watcher: Watcher) -> Result<Expected, TestCaseError> {
        let cseq = self.next_cseq();
        let call = format!("fetch{cseq}");
        let answer = self.world.subscribe(Subscribe {
            event: Some(self.model.event),
            watcher: watcher.name(),
            expires: Some("0"),
            cseq: Some(cseq),
            ..Subscribe::new(&call)
        });
        prop_assert_eq!(answer.code, 200);
        Ok(self.model.fetch(&call, watcher))
    }

    fn create(&mut self, slot: u8, expires: u8) -> Result<Expected, TestCaseError> {
        if self.model.tag(slot).is_some() {
            return Ok(Expected::default());
        }
        let (cseq, now) = (self.next_cseq(), self.world.now());
        let body = format!("b{cseq}");
        let answer = self.world.publish(Publish {
            event: Some(self.model.event),
            body: &body,
            expires: Some(&expires.to_string()),
            cseq: Some(cseq),
            ..Publish::default()
        });
        prop_assert_eq!(answer.code, 200);
        Ok(self.model.create(slot, answer.tag, body, now + i64::from(expires)))
    }

    /// With Expires 0 a removal, without a body a refresh.
    fn change(&mut self, slot: u8, expires: u8, has_body: bool) -> Result<Expected, TestCaseError> {
        let (cseq, now) = (self.next_cseq(), self.world.now());
        let body = if has_body { format!("b{cseq}") } else { String::new() };
        let known = self.model.tag(slot);
        let answer = self.world.publish(Publish {
            event: Some(self.model.event),
            tag: Some(known.as_deref().unwrap_or("a.1.2.3.4")),
            body: &body,
            expires: Some(&expires.to_string()),
            cseq: Some(cseq),
            ..Publish::default()
        });
        if known.is_none() {
            // Whether a DELETE whose answer was lost met a row is not known.
            let removed_already = expires == 0 && answer.code == 200;
            prop_assert!(answer.code == 412 || removed_already, "{:?}", answer);
            return Ok(if removed_already { self.model.remove(slot) } else { Expected::default() });
        }
        prop_assert_eq!(answer.code, 200);
        Ok(match (expires, has_body) {
            (0, _) => self.model.remove(slot),
            (_, true) => self.model.modify(slot, answer.tag, body, now + i64::from(expires)),
            (_, false) => self.model.refresh(slot, answer.tag, now + i64::from(expires)),
        })
    }

    fn stale(&mut self, slot: u8) -> Result<Expected, TestCaseError> {
        let Some(tag) = self.model.stale_tag(slot) else { return Ok(Expected::default()) };
        let cseq = self.next_cseq();
        let answer = self.world.publish(Publish {
            event: Some(self.model.event),
            tag: Some(&tag),
            body: "never",
            cseq: Some(cseq),
            ..Publish::default()
        });
        prop_assert_eq!(answer.code, 412);
        Ok(Expected::default())
    }

    fn answered(&mut self, dialog: u8, code: u16) -> Result<Expected, TestCaseError> {
        let Some((call, _)) = self.model.call(dialog) else { return Ok(Expected::default()) };
        let Some(sent) = self.latest.get(&call) else { return Ok(Expected::default()) };
        let Some(token) = Token::from_number(sent.token) else { return Ok(Expected::default()) };
        let shown = self.snapshot(&call);
        let (server, host) = (&self.world.server, &mut self.world.host);
        notify_reply::handle(server, host, token, shown.as_ref(), code, false);
        Ok(match code {
            200 | 486 | 500 | 603 => Expected::default(),
            _ => self.model.gone(dialog),
        })
    }

    /// The subscription as its NOTIFY had it.
    fn snapshot(&mut self, call: &str) -> Option<Snapshot> {
        let key = self.world.key("alice", self.model.package);
        let mut found = None;
        let each = |_, copy: Snapshot| {
            if copy.text(Text::CallId) == call.as_bytes() {
                found = Some(copy);
            }
        };
        let (server, host) = (&self.world.server, &mut self.world.host);
        subscriptions::each_watcher(server, host, &key, each).ok()?;
        found
    }

    /// What is in the database is there again afterwards.
    fn crash(&mut self) -> Result<Expected, TestCaseError> {
        let mut setup = self.storage.setup();
        setup.database = self.world.host.database.clone();
        let mut next = World::new(setup);
        next.host.outside = self.world.host.outside.clone();
        let indexes_rows = next.server.config.publications() == PublicationCache::Hybrid;
        let Some(server) = Arc::get_mut(&mut next.server) else {
            return Err(TestCaseError::fail("the new server is used already"));
        };
        if indexes_rows {
            restore::publications(server, &mut next.host).map_err(failed)?;
        }
        if matches!(self.storage.mode, SubscriptionMode::WriteThrough | SubscriptionMode::WriteBack)
        {
            restore::subscriptions(server, &mut next.host).map_err(failed)?;
        }
        self.world = next;
        self.latest.clear();
        Ok(self.model.crash())
    }

    /// The NOTIFYs since the last time are those that were expected.
    fn compare(&mut self, what: &str, expected: &Expected) -> Checked {
        let sent = self.world.notifies();
        for notify in &sent {
            if let Some(before) = self.model.cseqs.insert(notify.call_id.clone(), notify.cseq) {
                prop_assert!(before < notify.cseq, "{}: CSeq {} again", what, notify.cseq);
            }
            if let Some(host) = self.model.contact_host(&notify.call_id) {
                prop_assert!(notify.contact.ends_with(host), "{}: {}", what, notify.contact);
            }
            self.latest.insert(notify.call_id.clone(), notify.clone());
        }
        let mut of_dialogs: HashMap<String, Vec<(String, String)>> = HashMap::new();
        for Sent { call_id, state, body, .. } in sent {
            of_dialogs.entry(call_id).or_default().push((state, body));
        }
        expected.check(what, &of_dialogs)
    }

    /// Watcher information has just the watchers there are (RFC 3857).
    fn watcher_list(&mut self) -> Checked {
        if self.model.event != "presence" {
            return Ok(());
        }
        let cseq = self.next_cseq();
        let call = format!("list{cseq}");
        let answer = self.world.subscribe(Subscribe {
            event: Some("presence.winfo"),
            expires: Some("0"),
            cseq: Some(cseq),
            ..Subscribe::new(&call)
        });
        prop_assert_eq!(answer.code, 200);
        self.settle();
        let sent = self.world.notifies();
        prop_assert_eq!(sent.len(), 1);
        let mut listed = labels(&sent[0].body);
        listed.sort();
        prop_assert_eq!(listed, self.model.watcher_list());
        Ok(())
    }

    /// What is counted is what there is, and as many answers as there were requests.
    fn counted(&mut self) -> Checked {
        let counted = census::take(&self.world.server, &mut self.world.host).unwrap();
        let counts = |gauge| counted.of(self.model.package, gauge);
        prop_assert_eq!(
            [Gauge::Active, Gauge::Pending, Gauge::Publications].map(counts),
            self.model.counts()
        );
        Ok(())
    }

    /// The tables have what is to outlive a crash, and nothing else.
    fn rows(&mut self) -> Checked {
        let Some(database) = &self.world.host.database else { return Ok(()) };
        if self.storage.keeps_subscriptions() {
            let mut calls = database.column("active_watchers", "callid");
            calls.sort();
            prop_assert_eq!(calls, self.model.calls());
        }
        if self.storage.keeps_publications() {
            let mut tags = database.column("presentity", "etag");
            tags.sort();
            prop_assert_eq!(tags, self.model.tags());
        }
        Ok(())
    }

    /// Everything ends, and all memory goes back.
    fn end(&mut self) -> Checked {
        self.pass(100)?;
        self.rows()?;
        // Watchers that wait for a decision are rows, and stay for a day.
        self.world.assert_empty();
        Ok(())
    }
}

fn failed(fault: presence::error::Fault) -> TestCaseError {
    TestCaseError::fail(fault.to_string())
}

/// Runs random operations on one storage, and prints the shortest that fails.
fn conforms(storage: Storage) {
    let mut runner = TestRunner::new(Cases {
        cases: storage::cases(),
        failure_persistence: None,
        max_shrink_iters: 4000,
        ..Cases::default()
    });
    let operations = proptest::collection::vec(operation(), 1..40);
    let packages = proptest::sample::select(vec!["presence", "message-summary"]);
    let result = runner.run(&(operations, packages), |(operations, event)| {
        let package = if event == "presence" { crate::fakes::PRESENCE } else { crate::fakes::MWI };
        let mut run = Run::new(storage, package, event);
        for operation in &operations {
            run.apply(operation)?;
        }
        run.end()
    });
    if let Err(failure) = result {
        panic!("{storage:?}\n{failure}");
    }
}
