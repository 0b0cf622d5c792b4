//! Retransmissions, races, order, memory.

use presence_kamailio_tests::bodies::open;
use presence_kamailio_tests::prelude::*;
use std::collections::BTreeMap;
use std::sync::Barrier;

/// The number of publications that are stored for `alice`.
fn publications(kamailio: &Kamailio, storage: Storage) -> usize {
    if storage.has_publication_rows() {
        kamailio.rows("presentity").len()
    } else {
        kamailio.rpc_ok(&["presence.presentity_list"]).matches("user: alice").count()
    }
}

/// Ends the racing threads, also when the test panics.
struct StopOnDrop<'a>(&'a std::sync::atomic::AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, std::sync::atomic::Ordering::Relaxed);
    }
}

every_storage! {
    fn a9_a_retransmitted_initial_subscribe(storage) {
        let kamailio = Kamailio::start(Config::new(storage).stateless());
        let mut watcher = Watcher::udp(&kamailio, "alice");
        let message = watcher.message();
        let first = watcher.send(&message);
        watcher.next_notify("initial");
        let again = watcher.send(&message);
        let inserts_at_once = storage.has_database() && matches!(storage.subs_db_mode(), 1 | 3);
        if inserts_at_once && target() == Target::Upstream {
            assert_eq!(again.status(), Some(500), "A9 stock meets its own row");
            return;
        }
        assert_eq!(again.status(), Some(200));
        assert_eq!(again.to_tag(), first.to_tag());
        assert_eq!(again.header("Expires"), first.header("Expires"));
        watcher.endpoint.barrier();
        watcher.skip_notifies();
        // One record: one NOTIFY per change.
        let mut phone = Publisher::udp(&kamailio, "alice");
        phone.publish(open("alice"));
        watcher.wait_notify("open", |n| n.body().contains(">open<"));
        phone.endpoint.barrier();
        std::thread::sleep(Duration::from_millis(50));
        let told = watcher.notifies().iter().filter(|n| n.body().contains(">open<")).count();
        assert_eq!(told, differs("A9/D9 records after a retransmission", 2, 1));
        watcher.subscribe(300);
        watcher.unsubscribe();
        kamailio.finish();
    }
}

both_storages! {
    fn a9_a_retransmitted_refresh_and_unsubscribe(storage) {
        let kamailio = Kamailio::start(Config::new(storage).stateless());
        let mut watcher = Watcher::udp(&kamailio, "alice");
        watcher.subscribe(600);
        let mut message = watcher.message();
        message.set("Expires", "300");
        assert_eq!(watcher.send(&message).number("Expires"), Some(300));
        watcher.wait_notify("refresh", |n| n.cseq == storage.first_cseq() + 1);
        watcher.skip_notifies();
        let again = watcher.endpoint.request(&message);
        let expected = differs("A9 retransmitted refresh", (400, None), (200, Some(300)));
        assert_eq!((again.status().unwrap_or(0), again.number("Expires")), expected);
        watcher.no_more_notify(Duration::from_millis(100), "nothing changed");
        let mut message = watcher.message();
        message.set("Expires", "0");
        assert_eq!(watcher.send(&message).status(), Some(200));
        watcher.next_notify("final");
        let again = watcher.endpoint.request(&message).status();
        assert_eq!(again, Some(differs("A9 retransmitted unsubscribe", 481, 200)));
        watcher.no_more_notify(Duration::from_millis(100), "one final NOTIFY");
        kamailio.finish();
    }

    fn a9_a_retransmitted_publish(storage) {
        let kamailio = Kamailio::start(Config::new(storage).stateless());
        let mut watcher = Watcher::udp(&kamailio, "alice");
        watcher.subscribe(600);
        watcher.next_notify("initial");
        let mut phone = Publisher::udp(&kamailio, "alice");
        let message = phone.message(Some(&open("alice")));
        let first = phone.endpoint.request(&message);
        watcher.next_notify("open");
        let again = phone.endpoint.request(&message);
        assert_eq!(again.status(), Some(200));
        let same = again.header("SIP-ETag") == first.header("SIP-ETag");
        assert_eq!(same, differs("A9 same entity-tag again", false, true));
        assert_eq!(publications(&kamailio, storage), differs("A9 publications", 2, 1));
        if same {
            watcher.no_more_notify(Duration::from_millis(100), "nothing changed");
        }
        // The same for a modification and a removal.
        phone.etag = first.header("SIP-ETag").map(str::to_owned);
        let message = phone.message(Some(&bodies::pidf("alice", "phone", "open", "new")));
        let first = phone.endpoint.request(&message);
        assert_eq!(first.status(), Some(200));
        let again = phone.endpoint.request(&message);
        let expected = differs("A9 retransmitted modification", 412, 200);
        assert_eq!(again.status(), Some(expected));
        if expected == 200 {
            assert_eq!(again.header("SIP-ETag"), first.header("SIP-ETag"));
        }
        phone.etag = first.header("SIP-ETag").map(str::to_owned);
        let mut message = phone.message(None);
        message.set("Expires", "0");
        assert_eq!(phone.endpoint.request(&message).number("Expires"), Some(0));
        let again = phone.endpoint.request(&message);
        assert_eq!(again.status(), Some(differs("A9 retransmitted removal", 412, 200)));
        kamailio.finish();
    }

    fn a9_two_workers_meet_one_request(storage) {
        // Stock stores it twice, or reports a locked database.
        if !ours_only("A9/D9 stock stores a retransmission as another record") {
            return;
        }
        let kamailio = Kamailio::start(Config::new(storage).stateless().children(4));
        for round in 0..10 {
            let user = format!("user{round}");
            let mut watcher = Watcher::udp(&kamailio, &user);
            let message = watcher.message();
            for _ in 0..4 {
                watcher.endpoint.send(&message.to_bytes());
            }
            let reply = watcher.send(&message);
            assert_eq!(reply.status(), Some(200));
            let mut phone = Publisher::udp(&kamailio, &user);
            let message = phone.message(Some(&open(&user)));
            for _ in 0..4 {
                phone.endpoint.send(&message.to_bytes());
            }
            assert_eq!(phone.send(&message).status(), Some(200));
            watcher.wait_notify("open", |n| n.body().contains(">open<"));
            // A copy may be dropped while another worker has the first in hand;
            // those that are answered are answered alike.
            let tags: Vec<String> = phone
                .endpoint
                .received()
                .iter()
                .filter(|entry| entry.message.cseq() == 1)
                .filter_map(|entry| {
                    assert_eq!(entry.message.status(), Some(200), "{}", entry.message.start_line);
                    entry.message.header("SIP-ETag").map(str::to_owned)
                })
                .collect();
            assert!(!tags.is_empty() && tags.windows(2).all(|t| t[0] == t[1]), "{tags:?}");
            phone.remove();
            watcher.wait_notify("closed", |n| n.body().contains(">closed<"));
            watcher.assert_rising_cseq();
            let told = watcher.notifies().iter().filter(|n| n.body().contains(">open<")).count();
            assert!(told <= 2, "the initial NOTIFY and one for the change: {told}");
        }
        kamailio.finish();
    }

    fn a_new_dialog_is_no_retransmission(storage) {
        let kamailio = Kamailio::start(Config::new(storage).stateless());
        let mut watcher = Watcher::udp(&kamailio, "alice");
        watcher.subscribe(600);
        let first = watcher.call_id.clone();
        watcher.new_dialog();
        watcher.subscribe(600);
        watcher.wait_notify("initial of the second", |_| true);
        Publisher::udp(&kamailio, "alice").publish(open("alice"));
        watcher.wait_notify("open in the second", |n| n.body().contains(">open<"));
        watcher.call_id = first;
        watcher.wait_notify("open in the first", |n| n.body().contains(">open<"));
        kamailio.finish();
    }
}

every_storage! {
    fn b10_racing_updates_of_one_publication(storage) {
        if storage.has_database() && !ours_only("D17 stock answers with 500, database is locked") {
            return;
        }
        let kamailio = Kamailio::start(Config::new(storage).children(4));
        let mut phone = Publisher::udp(&kamailio, "alice");
        for _ in 0..5 {
            phone.publish(open("alice"));
            let tag = phone.tag();
            let start = Barrier::new(6);
            let (address, trace) = (kamailio.address(), kamailio.trace());
            let replies: Vec<(u16, Option<String>)> = std::thread::scope(|scope| {
                let threads: Vec<_> = (0..6)
                    .map(|index| {
                        let (tag, trace, start) = (tag.clone(), trace.clone(), &start);
                        scope.spawn(move || {
                            let mut racer = Publisher::with(address, trace, "alice");
                            racer.etag = Some(tag);
                            start.wait();
                            let reply = racer.try_modify(bodies::pidf("alice", "phone", "open", &format!("racer {index}")));
                            (reply.status().unwrap_or(0), racer.etag)
                        })
                    })
                    .collect();
                threads.into_iter().filter_map(|thread| thread.join().ok()).collect()
            });
            let mut codes: Vec<u16> = replies.iter().map(|(code, _)| *code).collect();
            codes.sort_unstable();
            assert_eq!(codes, [200, 412, 412, 412, 412, 412]);
            phone.etag = replies.into_iter().find(|(code, _)| *code == 200).and_then(|(_, tag)| tag);
            phone.remove();
        }
        kamailio.finish();
    }

    fn a1_no_watcher_sees_an_older_state_on_a_higher_cseq(storage) {
        if !ours_only("D6 CSeq inversions and older states; D17 database is locked") {
            return;
        }
        let usual = matches!(storage, Storage::Memory | Storage::Default);
        let runs = if usual { rounds("PRESENCE_ORDER_RUNS", 2) } else { 2 };
        for _ in 0..runs {
            race_on_one_presentity(storage);
        }
    }
}

both_storages! {
    fn a1_a_final_state_is_not_lost(storage) {
        if !ours_only("D6 lost updates; D17 database is locked") {
            return;
        }
        // Unsubscribing while publishers race: terminated comes, and is the last.
        let config = Config::new(storage).children(8).shared_memory(64);
        let kamailio = Kamailio::start(config.parameter("tm", "wt_timer", 1000));
        let (address, trace) = (kamailio.address(), kamailio.trace());
        let stop = std::sync::atomic::AtomicBool::new(false);
        // Watchers that are told once a second see fewer states; tm keeps every
        // transaction for a second, so the publishers must not be too fast.
        let buffered = !storage.notify_delay().is_zero();
        let (watchers, seen, pause) = if buffered { (4, 4, 10) } else { (10, 5, 1) };
        let pause = Duration::from_millis(pause);
        std::thread::scope(|scope| {
            for index in 0..4 {
                let (trace, stop) = (trace.clone(), &stop);
                scope.spawn(move || {
                    let mut phone = Publisher::with(address, trace, "alice");
                    let id = format!("p{index}");
                    phone.publish(bodies::pidf("alice", &id, "open", "0"));
                    let mut round = 0;
                    while round < 5000 && !stop.load(std::sync::atomic::Ordering::Relaxed) {
                        round += 1;
                        phone.modify(bodies::pidf("alice", &id, "open", &round.to_string()));
                        std::thread::sleep(pause);
                    }
                });
            }
            let _stop_on_panic = StopOnDrop(&stop);
            for _ in 0..watchers {
                let mut watcher = Watcher::udp(&kamailio, "alice");
                watcher.subscribe(600);
                watcher.wait_notify("some states", |n| n.cseq >= seen);
                watcher.unsubscribe();
                let last = watcher.wait_notify("terminated", |n| n.state == "terminated");
                assert!(!last.body().is_empty(), "the final NOTIFY has the state");
                watcher.endpoint.barrier();
                let list = watcher.notifies();
                assert_eq!(list.last().map(|n| n.cseq), Some(last.cseq), "nothing after terminated");
                assert_eq!(list.iter().filter(|n| n.state == "terminated").count(), 1);
                watcher.assert_rising_cseq();
            }
        });
        kamailio.finish();
    }

    fn memory_is_given_back(storage) {
        if storage.has_database() && !ours_only("D17 database is locked") {
            return;
        }
        let config = Config::new(storage)
            // tm keeps all transactions of a run when its timer gets no processor.
            .shared_memory(256)
            .parameter("tm", "wt_timer", 500)
            .presence("db_update_period", 1)
            .presence("clean_period", 1);
        let kamailio = Kamailio::start(config);
        let dialogs = 1000;
        let start = settled_memory(&kamailio);
        come_and_go(&kamailio, dialogs);
        come_and_go(&kamailio, dialogs);
        let after = settled_memory(&kamailio);
        let growth = after as i64 - start as i64;
        let allowed = differs("P11 nothing is left of a dialog", dialogs as i64 * 8, 0);
        assert!(
            growth <= allowed,
            "shared memory grew by {growth} bytes over {dialogs} dialogs ({start} -> {after})"
        );
        kamailio.finish();
    }
}

/// SQLite has one writer: neither a write-back of several rows nor publishers
/// may wait for what the other one holds.
#[test]
fn a6_a_write_back_and_publishers_share_sqlite() {
    const WATCHERS: usize = 30;
    if !ours_only("D17 stock answers with 500, database is locked") {
        return;
    }
    let storage = Storage::sqlite(2, 1);
    // tm keeps a transaction for 5 s.
    let config = Config::new(storage).children(4).shared_memory(1024);
    let kamailio = Kamailio::start(config.presence("db_update_period", 1));
    let mut watchers: Vec<Watcher> =
        (0..WATCHERS).map(|n| Watcher::udp(&kamailio, &format!("line{n}"))).collect();
    let stop = std::sync::atomic::AtomicBool::new(false);
    let (address, trace) = (kamailio.address(), kamailio.trace());
    let slowest = std::thread::scope(|scope| {
        let publishing = StopOnDrop(&stop);
        let threads: Vec<_> = (0..4)
            .map(|index| {
                let (trace, stop) = (trace.clone(), &stop);
                scope.spawn(move || {
                    let mut phone = Publisher::with(address, trace, &format!("phone{index}"));
                    phone.publish(open("phone"));
                    let mut slowest = Duration::ZERO;
                    while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                        let begin = Instant::now();
                        phone.modify(open("phone"));
                        slowest = slowest.max(begin.elapsed());
                    }
                    slowest
                })
            })
            .collect();
        for watcher in &mut watchers {
            watcher.subscribe(600);
        }
        for watcher in &watchers {
            kamailio.wait_row_of(watcher, |_| true);
        }
        for watcher in &mut watchers {
            watcher.unsubscribe();
        }
        for watcher in &watchers {
            kamailio.wait_no_row_of(watcher);
        }
        drop(publishing);
        threads.into_iter().map(|thread| thread.join().unwrap()).max().unwrap()
    });
    // SQLite gives up after 5 s.
    assert!(slowest < Duration::from_secs(4), "a PUBLISH took {slowest:?}");
    assert!(!kamailio.log().contains("database is locked"));
    kamailio.finish();
}

/// 40 publishers change their part of one presentity at once; three watchers.
fn race_on_one_presentity(storage: Storage) {
    const PUBLISHERS: usize = 40;
    const ROUNDS: u32 = 5;
    let config = Config::new(storage).children(8).shared_memory(64);
    let kamailio = Kamailio::start(config);
    let mut watchers: Vec<Watcher> =
        (0..3).map(|n| Watcher::udp(&kamailio, "alice").named(&format!("watcher{n}"))).collect();
    for watcher in &mut watchers {
        watcher.subscribe(600);
    }
    let start = Barrier::new(PUBLISHERS);
    let (address, trace) = (kamailio.address(), kamailio.trace());
    let replies: Vec<String> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..PUBLISHERS)
            .map(|index| {
                let (trace, start) = (trace.clone(), &start);
                scope.spawn(move || {
                    let mut phone = Publisher::with(address, trace, "alice");
                    start.wait();
                    let mut wrong = Vec::new();
                    for round in 1..=ROUNDS {
                        let body =
                            bodies::pidf("alice", &format!("p{index}"), "open", &round.to_string());
                        let reply = if round == 1 {
                            phone.try_publish(body)
                        } else {
                            phone.try_modify(body)
                        };
                        if reply.status() != Some(200) {
                            wrong.push(format!(
                                "publisher {index}, round {round}: {}",
                                reply.start_line
                            ));
                        }
                    }
                    wrong
                })
            })
            .collect();
        threads
            .into_iter()
            .flat_map(|thread| {
                thread.join().unwrap_or_else(|_| vec!["a publisher panicked".into()])
            })
            .collect()
    });
    if !replies.is_empty() {
        kamailio.fail(&format!("not every PUBLISH got a 200:\n{}", replies.join("\n")));
    }
    for watcher in &watchers {
        // The newest state of all arrives.
        watcher.wait_notify_for(Duration::from_secs(10), "everybody's last round", |n| {
            let tuples = bodies::tuples(&n.body());
            tuples.len() == PUBLISHERS && tuples.iter().all(|t| t.note == ROUNDS.to_string())
        });
        watcher.assert_rising_cseq();
        let mut newest: BTreeMap<String, u32> = BTreeMap::new();
        for notify in watcher.notifies() {
            let mut seen = BTreeMap::new();
            for tuple in bodies::tuples(&notify.body()) {
                seen.insert(tuple.id, tuple.note.parse::<u32>().unwrap_or(0));
            }
            for (id, counter) in &newest {
                let now = seen.get(id).copied().unwrap_or(0);
                if now < *counter {
                    kamailio
                        .fail(&format!("CSeq {} shows {id} at {now} after {counter}", notify.cseq));
                }
            }
            newest.append(&mut seen);
        }
    }
    kamailio.finish();
}

/// `count` subscriptions and publications that come and go.
fn come_and_go(kamailio: &Kamailio, count: usize) {
    let mut watcher = Watcher::udp(kamailio, "alice");
    let mut dialogs = Vec::with_capacity(count);
    for index in 0..count {
        watcher.presentity = aor(&format!("user{}", index % 100));
        watcher.new_dialog();
        watcher.subscribe(600);
        dialogs.push((
            watcher.presentity.clone(),
            watcher.call_id.clone(),
            watcher.from_tag.clone(),
            watcher.to_tag.clone(),
            watcher.remote_target.clone(),
        ));
    }
    for index in 0..count / 10 {
        let mut phone = Publisher::udp(kamailio, &format!("user{}", index % 100));
        phone.publish(open("alice"));
        phone.modify(open("alice"));
        phone.remove();
        // Keeps pace with the NOTIFYs, so that no datagram is dropped.
        watcher.endpoint.barrier();
    }
    for (presentity, call_id, from_tag, to_tag, remote_target) in dialogs {
        watcher.presentity = presentity;
        watcher.call_id = call_id;
        watcher.from_tag = from_tag;
        watcher.to_tag = to_tag;
        watcher.remote_target = remote_target;
        watcher.cseq = 1;
        watcher.unsubscribe();
    }
    // All NOTIFYs have been answered when this is.
    watcher.endpoint.barrier();
}

/// Shared memory in use once the transactions are gone: the least of a while
/// in which it does not fall any more.
fn settled_memory(kamailio: &Kamailio) -> u64 {
    let mut least = kamailio.shm_used();
    let mut since = Instant::now();
    let end = Instant::now() + Duration::from_secs(15);
    while since.elapsed() < Duration::from_millis(1500) && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(100));
        let now = kamailio.shm_used();
        if now < least {
            least = now;
            since = Instant::now();
        }
    }
    least
}
