//! Many publications that end at once: every watcher sees each end once, whatever
//! the server makes one document of.

use presence_kamailio_tests::prelude::*;
use std::collections::BTreeMap;

/// Publications, and phones that end them at the same time.
const COUNT: usize = 48;
const PHONES: usize = 12;
/// So many that telling them takes longer than ending the next publications.
const WATCHERS: usize = 12;

/// How often each id was shown in its last state.
fn shown(
    watcher: &Watcher,
    over: &str,
    all: fn(&str) -> Vec<(String, String)>,
) -> BTreeMap<String, usize> {
    let mut times = BTreeMap::new();
    for notify in watcher.notifies() {
        for (id, state) in all(&notify.body()) {
            if state == over {
                *times.entry(id).or_insert(0) += 1;
            }
        }
    }
    times
}

fn pidf_tuples(body: &str) -> Vec<(String, String)> {
    bodies::tuples(body).into_iter().map(|t| (t.id, t.basic)).collect()
}

fn dialogs(body: &str) -> Vec<(String, String)> {
    bodies::dialogs(body)
}

fn all_end(storage: Storage, event: &str, over: &str, all: fn(&str) -> Vec<(String, String)>) {
    let kamailio = Kamailio::start(Config::new(storage).children(4));
    let mut watchers: Vec<_> =
        (0..WATCHERS).map(|_| Watcher::udp(&kamailio, "alice").event(event)).collect();
    let body = |n: usize| match event {
        "dialog" => bodies::dialog_info("alice", 1, &[(&format!("d{n}"), "confirmed")]),
        _ => bodies::pidf("alice", &format!("t{n}"), "open", ""),
    };
    let mut phones: Vec<_> =
        (0..COUNT).map(|_| Publisher::udp(&kamailio, "alice").event(event)).collect();
    for (n, phone) in phones.iter_mut().enumerate() {
        phone.publish(body(n));
    }
    watchers.iter_mut().for_each(|watcher| drop(watcher.subscribe(600)));
    std::thread::scope(|scope| {
        for own in phones.chunks_mut(COUNT / PHONES) {
            scope.spawn(|| own.iter_mut().for_each(|phone| drop(phone.remove())));
        }
    });
    // presence_dialoginfo does not know of an end what presence_xml does.
    let ends = match event {
        "dialog" => differs("B12 dialogs of a publisher that is gone", 0, COUNT),
        _ => COUNT,
    };
    for watcher in &watchers {
        let begin = Instant::now();
        while shown(watcher, over, all).len() < ends && begin.elapsed() < Duration::from_secs(10) {
            std::thread::sleep(Duration::from_millis(50));
        }
        let times = shown(watcher, over, all);
        assert_eq!(times.len(), ends, "{times:?}");
        assert!(times.values().all(|times| *times == 1), "{times:?}");
        if target() == Target::Ours {
            // The stock module's workers overtake each other.
            watcher.assert_rising_cseq();
        }
    }
    kamailio.finish();
}

both_storages! {
    fn many_presence_publications_end_at_once(storage) {
        all_end(storage, "presence", "closed", pidf_tuples);
    }

    fn many_dialogs_end_at_once(storage) {
        all_end(storage, "dialog", "terminated", dialogs);
    }
}
