//! What the module counts is what its clients have seen, to the last one.

use presence_kamailio_tests::prelude::*;
use std::collections::{BTreeMap, HashSet};

/// All statistics of group `presence`.
fn statistics(kamailio: &Kamailio) -> BTreeMap<String, u64> {
    let all = kamailio.rpc_ok(&["stats.get_statistics", "presence:"]);
    all.lines()
        .filter_map(|line| {
            let (name, value) = line.split_once('=')?;
            Some((name.trim().strip_prefix("presence:")?.to_owned(), value.trim().parse().ok()?))
        })
        .collect()
}

/// What the agents have seen.
#[derive(Default)]
struct Seen {
    answers: BTreeMap<(&'static str, u16), u64>,
}

impl Seen {
    fn answer(&mut self, method: &'static str, reply: &Message) -> u16 {
        let code = reply.status().unwrap_or_default();
        *self.answers.entry((method, code)).or_default() += 1;
        code
    }

    fn of(&self, method: &str, fits: impl Fn(u16) -> bool) -> u64 {
        let all = self.answers.iter().filter(|((name, code), _)| *name == method && fits(*code));
        all.map(|(_, count)| count).sum()
    }

    /// What the statistics of requests have to be.
    fn expected(&self) -> BTreeMap<String, u64> {
        let mut expected = BTreeMap::new();
        for (method, name, codes) in [
            ("PUBLISH", "publish", [403, 412, 423, 489]),
            ("SUBSCRIBE", "subscribe", [403, 481, 423, 489]),
        ] {
            expected.insert(format!("{name}_accepted"), self.of(method, |code| code < 300));
            expected.insert(format!("{name}_refused"), self.of(method, |code| code >= 300));
            expected.insert(format!("{name}_5xx"), self.of(method, |code| code >= 500));
            for special in codes {
                expected.insert(format!("{name}_{special}"), self.of(method, |c| c == special));
            }
        }
        expected
    }
}

/// Requests of each kind, in an order that is not that of the kinds.
fn every_publish(seen: &mut Seen, phone: &mut Publisher, round: u32) {
    let document = bodies::pidf("alice", &format!("phone{round}"), "open", "");
    match round % 10 {
        0 | 4 => {
            let reply = phone.try_publish(document);
            assert_eq!(seen.answer("PUBLISH", &reply), 200);
        }
        1 | 5 => drop(seen.answer("PUBLISH", &phone.try_modify(document))),
        2 => drop(seen.answer("PUBLISH", &phone.try_refresh())),
        3 => drop(seen.answer("PUBLISH", &phone.try_remove())),
        6 => {
            // No such entity-tag.
            let known = phone.etag.replace("nothing".into());
            assert_eq!(seen.answer("PUBLISH", &phone.try_modify(document)), 412);
            phone.etag = known;
        }
        7 => {
            // No such package; too short; too large.
            let known = std::mem::replace(&mut phone.event, "weather".into());
            assert_eq!(seen.answer("PUBLISH", &phone.try_refresh()), 489);
            phone.event = known;
            let (expires, etag) = (phone.expires.replace(5), phone.etag.clone());
            assert_eq!(seen.answer("PUBLISH", &phone.try_publish(&document)), 423);
            (phone.expires, phone.etag) = (expires, etag);
            let large = bodies::pidf("alice", "phone", "open", &"x".repeat(4000));
            assert_eq!(seen.answer("PUBLISH", &phone.try_modify(large)), 413);
        }
        8 => {
            // Malformed in the host's part, and in ours.
            let mut message = phone.message(Some(&document));
            message.set("Expires", "soon");
            assert_eq!(seen.answer("PUBLISH", &phone.send(&message)), 400);
            let mut message = phone.message(Some(&document));
            message.set("Content-Type", "text/plain");
            assert_eq!(seen.answer("PUBLISH", &phone.send(&message)), 415);
            let mut message = phone.message(Some(&document));
            message.remove("Event");
            assert_eq!(seen.answer("PUBLISH", &phone.send(&message)), 489);
        }
        _ => drop(seen.answer("PUBLISH", &phone.try_remove())),
    }
}

/// Everything that can be refused of a SUBSCRIBE.
fn every_refusal(seen: &mut Seen, watcher: &mut Watcher) {
    watcher.new_dialog();
    watcher.to_tag = Some("nobody".into());
    assert_eq!(seen.answer("SUBSCRIBE", &watcher.try_subscribe(600)), 481);
    watcher.new_dialog();
    assert_eq!(seen.answer("SUBSCRIBE", &watcher.try_subscribe(5)), 423);
    let event = std::mem::replace(&mut watcher.event, "weather".into());
    assert_eq!(seen.answer("SUBSCRIBE", &watcher.try_subscribe(600)), 489);
    watcher.event = event;
    let accept = std::mem::replace(&mut watcher.accept, "text/plain".into());
    assert_eq!(seen.answer("SUBSCRIBE", &watcher.try_subscribe(600)), 406);
    watcher.accept = accept;
    let mut message = watcher.message();
    message.set("Expires", "soon");
    assert_eq!(seen.answer("SUBSCRIBE", &watcher.send(&message)), 400);
    let mut message = watcher.message();
    message.remove("Contact");
    assert_eq!(seen.answer("SUBSCRIBE", &watcher.send(&message)), 400);
}

/// NOTIFYs that came in, retransmissions aside.
fn notifies(watchers: &[Watcher]) -> u64 {
    let mut all = HashSet::new();
    for watcher in watchers {
        for entry in watcher.endpoint.received() {
            let message = &entry.message;
            if message.method() == "NOTIFY" {
                all.insert((message.call_id().to_owned(), message.cseq()));
            }
        }
    }
    all.len() as u64
}

#[test]
fn counters_are_what_clients_have_seen() {
    if !ours_only("stock counts nothing") {
        return;
    }
    for storage in [Storage::Memory, Storage::Default] {
        let config = Config::new(storage)
            .presence("min_expires", 10)
            .presence("max_document_size", 3000)
            .parameter("tm", "fr_timer", 800)
            .ignore_log("refused: ");
        let kamailio = Kamailio::start(config);
        mixed_load(&kamailio);
        kamailio.finish();
    }
}

fn mixed_load(kamailio: &Kamailio) {
    let mut seen = Seen::default();
    let watch = |presentity: &str, event: &str| Watcher::udp(kamailio, presentity).event(event);
    let mut watchers: Vec<Watcher> = (0..4).map(|_| watch("alice", "presence")).collect();
    // One that says that it is gone, and one that says nothing.
    watchers[2].answer(Answer::Code(481));
    watchers[3].answer(Answer::Silence);
    let mut phones: Vec<Publisher> = (0..3).map(|_| Publisher::udp(kamailio, "alice")).collect();
    for watcher in &mut watchers {
        assert!(seen.answer("SUBSCRIBE", &watcher.try_subscribe(600)) < 300);
    }
    for round in 0..40 {
        let phone = round as usize % phones.len();
        every_publish(&mut seen, &mut phones[phone], round);
        if round % 10 == 5 {
            seen.answer("SUBSCRIBE", &watchers[0].try_subscribe(600));
        }
    }
    let mut other = watch("bob", "dialog");
    // A fetch, refusals, and a subscription that stays.
    assert!(seen.answer("SUBSCRIBE", &other.try_subscribe(0)) < 300);
    every_refusal(&mut seen, &mut other);
    other.new_dialog();
    assert!(seen.answer("SUBSCRIBE", &other.try_subscribe(600)) < 300);
    seen.answer("SUBSCRIBE", &watchers[1].try_subscribe(0));
    watchers.push(other);

    let settled = |all: &BTreeMap<String, u64>| all["notify_unanswered"] == 0;
    let all = eventually(Duration::from_secs(10), || Some(statistics(kamailio)).filter(settled));
    let all = all.unwrap_or_else(|| kamailio.fail("NOTIFYs stay without an outcome"));
    let mut expected = seen.expected();
    let sent = notifies(&watchers);
    let of = |watcher: &Watcher| notifies(std::slice::from_ref(watcher));
    let (failed, silent) = (of(&watchers[2]), of(&watchers[3]));
    expected.extend(
        [
            ("notify_sent", sent),
            ("notify_failed", failed),
            ("notify_timeout", silent),
            ("notify_2xx", sent - failed - silent),
            ("notify_unsent", 0),
            ("notify_dropped", 0),
            ("refused_by_limit", seen.of("PUBLISH", |code| code == 413)),
            ("requests_repeated", 0),
            ("requests_unanswered", 0),
            // The first watcher, and the one of bob.
            ("active_subscriptions", 2),
            ("active_subscriptions_presence", 1),
            ("active_subscriptions_dialog", 1),
            ("pending_subscriptions", 0),
            ("fanouts_waiting", 0),
            ("oldest_fanout_ms", 0),
            ("db_errors", 0),
            ("dmq_in", 0),
            ("dmq_out", 0),
            ("dmq_refused", 0),
        ]
        .map(|(name, value)| (name.to_owned(), value)),
    );
    let listed = kamailio.rpc_ok(&["presence.presentity_list"]);
    let published = listed.matches("etag:").count() as u64;
    expected.insert("publications".into(), published);
    expected.insert("publications_presence".into(), published);
    let counted: BTreeMap<_, _> =
        expected.keys().map(|name| (name.clone(), all.get(name).copied())).collect();
    let expected = expected.into_iter().map(|(name, value)| (name, Some(value))).collect();
    assert_eq!(counted, expected, "{:?}", seen.answers);
    assert!(sent > 20 && failed > 0 && silent > 0, "{sent} {failed} {silent}");
    assert!(all["memory_bytes"] >= all["memory_used_bytes"] && all["memory_used_bytes"] > 0);
    assert_eq!(all["db_statements"] > 0, kamailio.storage().has_database());
    let limit = |name: &char| name.is_ascii_lowercase() || name.is_ascii_digit() || *name == '_';
    assert!(all.keys().all(|name| name.chars().all(|c| limit(&c))), "{:?}", all.keys());
}

/// A request that comes again without a transaction is answered as before, and is
/// not counted a second time.
#[test]
fn what_comes_again_is_counted_once() {
    if !ours_only("stock counts nothing") {
        return;
    }
    let kamailio = Kamailio::start(Config::new(Storage::Memory).stateless());
    let mut phone = Publisher::udp(&kamailio, "alice");
    let message = phone.message(Some(&bodies::pidf("alice", "phone", "open", "")));
    assert_eq!(phone.send(&message).status(), Some(200));
    assert_eq!(phone.send(&message).status(), Some(200));
    let mut watcher = Watcher::udp(&kamailio, "alice");
    let message = watcher.message();
    assert_eq!(watcher.send(&message).status(), Some(200));
    assert_eq!(watcher.send(&message).status(), Some(200));
    let all = statistics(&kamailio);
    let names = ["publish_accepted", "subscribe_accepted", "requests_repeated", "publications"];
    assert_eq!(names.map(|name| all[name]), [1, 1, 2, 1]);
    kamailio.finish();
}

/// The same numbers as text for Prometheus, by a command and by a variable of the
/// script.
#[test]
fn metrics_are_shown_by_command_and_variable() {
    if !ours_only("stock has no metrics") {
        return;
    }
    let before = "xlog(\"L_NOTICE\", \"METRICS $(presence(metrics){s.len})\\n\");";
    let kamailio = Kamailio::start(Config::new(Storage::Default).before(before));
    let mut watcher = Watcher::udp(&kamailio, "alice");
    watcher.subscribe(600);
    let mut phone = Publisher::udp(&kamailio, "alice");
    phone.publish(bodies::pidf("alice", "phone", "open", ""));
    watcher.wait_notify("the publication", |notify| notify.body().contains("open"));
    let text = kamailio.rpc_ok(&["presence.metrics"]);
    for line in [
        "# TYPE presence_requests_total counter",
        "presence_subscriptions{event=\"presence\",state=\"active\"} 1",
        "presence_publications{event=\"presence\"} 1",
        "presence_requests_total{method=\"PUBLISH\",event=\"presence\",result=\"2xx\"} 1",
        "presence_notifies_total{event=\"presence\",state=\"active\",result=\"sent\"} 2",
        "presence_publish_to_notify_seconds_count{event=\"presence\"} 1",
        "presence_fan_out_watchers_sum{event=\"presence\"} 1",
    ] {
        assert!(text.lines().any(|is| is == line), "{line} is not in\n{text}");
    }
    assert!(text.contains("presence_database_seconds_count{statement=\"insert\"}"), "{text}");
    let line = kamailio.wait_log("METRICS ");
    let length =
        line.split("METRICS ").nth(1).and_then(|length| length.trim().parse::<usize>().ok());
    assert!(length.is_some_and(|length| length > 1000), "{line}");
    kamailio.finish();
}
