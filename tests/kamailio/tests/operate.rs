//! What an operator is told: the commands of docs/operate.md, and lists that are
//! longer than an answer.

use presence_kamailio_tests::prelude::*;
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// The commands of the manual, each with the fields that it shows.
fn manual() -> Vec<(String, BTreeSet<String>)> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/operate.md");
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let mut commands: Vec<(String, BTreeSet<String>)> = Vec::new();
    let mut is_answer = false;
    for line in text.lines() {
        if line.starts_with("```") {
            is_answer = !is_answer;
        } else if let Some(command) = line.strip_prefix("    kamcmd presence.") {
            commands.push((format!("presence.{command}"), BTreeSet::new()));
        } else if let (true, Some((_, fields)), Some((name, _))) =
            (is_answer, commands.last_mut(), line.trim().split_once(':'))
        {
            fields.insert(name.to_owned());
        }
    }
    commands
}

fn fields(answer: &str) -> BTreeSet<String> {
    let name = |line: &str| line.trim().split_once(':').map(|(name, _)| name.to_owned());
    answer.lines().filter_map(name).collect()
}

both_storages! {
    fn the_commands_of_the_manual_answer(storage) {
        if !ours_only("commands of ours") { return; }
        let kamailio = Kamailio::start(Config::new(storage));
        let mut phone = Publisher::udp(&kamailio, "alice");
        phone.publish(bodies::pidf("alice", "phone", "open", ""));
        let mut bob = Watcher::udp(&kamailio, "alice").named("bob");
        bob.subscribe(600);
        bob.next_notify("initial");
        let mut mail = Watcher::udp(&kamailio, "alice").named("bob").event("message-summary");
        mail.subscribe(600);
        mail.next_notify("initial");
        let commands = manual();
        assert!(commands.len() >= 8, "{commands:?}");
        for (command, expected) in commands {
            let command = command.replace("example.org", DOMAIN).replace("CALLID", &bob.call_id);
            let words: Vec<&str> = command.split_whitespace().collect();
            let answer = kamailio.rpc_ok(&words);
            let missing: Vec<_> = expected.difference(&fields(&answer)).cloned().collect();
            assert!(!expected.is_empty() && missing.is_empty(), "{command}: {missing:?}\n{answer}");
        }
        kamailio.finish();
    }

    fn a_list_that_is_longer_than_an_answer_comes_in_pieces(storage) {
        if !ours_only("commands of ours") { return; }
        let kamailio = Kamailio::start(Config::new(storage).jsonrpcs());
        let mut watcher = Watcher::udp(&kamailio, "alice").named("bob");
        let mut expected = BTreeSet::new();
        for _ in 0..350 {
            watcher.subscribe(600);
            expected.insert(watcher.call_id.clone());
            watcher.new_dialog();
        }
        let alice = aor("alice");
        // Through JSON-RPC.
        let (mut found, mut pieces, mut after) = (Vec::new(), 0, String::new());
        loop {
            let reply = kamailio.json_rpc("presence.watcher_list", &json!(["basic", alice, after]));
            assert!(reply.to_string().len() < 65_456);
            let entries = reply["result"].as_array().cloned().unwrap_or_default();
            found.extend(entries.iter().filter_map(|one| Some(one["callid"].as_str()?.to_owned())));
            pieces += 1;
            match entries.last().and_then(|last| last["after"].as_str()) {
                Some(next) => after = format!("after={next}"),
                None => break,
            }
        }
        assert!(pieces > 1 && found.len() == 350, "{pieces} {}", found.len());
        assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), expected);
        // Through kamcmd, which takes more.
        let (mut found, mut pieces, mut after) = (Vec::new(), 0, "after=".to_owned());
        loop {
            let text = kamailio.rpc_ok(&["presence.watcher_list", "full", &alice, &after]);
            let values = |name: &str| -> Vec<String> {
                let value = |line: &str| Some(line.trim().strip_prefix(name)?.trim().to_owned());
                text.lines().filter_map(value).collect()
            };
            found.extend(values("callid:"));
            pieces += 1;
            match values("after:").first() {
                Some(next) => after = format!("after={next}"),
                None => break,
            }
        }
        assert!(pieces > 1 && found.len() == 350, "{pieces} {}", found.len());
        assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), expected);
        // As many as are asked for, and no more.
        let count = |words: Value| {
            let reply = kamailio.json_rpc("presence.watcher_list", &words);
            reply["result"].as_array().map_or(0, Vec::len)
        };
        assert_eq!(count(json!(["basic", alice, "limit=3"])), 3);
        assert_eq!(count(json!(["basic", alice, 3])), 3);
        assert_eq!(count(json!(["basic", alice, "limit=9", "like=carol"])), 0);
        assert_eq!(count(json!(["basic", alice, "limit=9", "event=message-summary"])), 0);
        kamailio.finish();
    }
}

#[test]
fn wrong_arguments_get_a_usage_text() {
    if !ours_only("commands of ours") {
        return;
    }
    let kamailio = Kamailio::start(Config::new(Storage::Memory).jsonrpcs());
    let alice = aor("alice");
    for (command, words) in [
        ("watcher_list", json!([])),
        ("watcher_list", json!(["basic"])),
        ("watcher_list", json!(["basic", alice, "limit=none"])),
        ("watcher_list", json!(["basic", alice, "limit=0"])),
        ("watcher_list", json!(["basic", alice, "after=here"])),
        ("watcher_list", json!(["basic", alice, "after=17"])),
        ("watcher_list", json!(["basic", alice, "event=nonsense"])),
        ("watcher_list", json!(["basic", alice, "1", "", "", "", "more"])),
        ("presentity_list", json!(["odd"])),
        ("presentity_list", json!(["full", "limit=-1"])),
        ("presentity_show", json!(["basic", "alice"])),
        ("presentity_show", json!(["basic", "alice", "*", "limit=x"])),
        ("subscription_show", json!([])),
        ("subscription_show", json!(["a", "b"])),
        ("summary", json!(["all"])),
        ("top", json!([])),
        ("top", json!(["nobody"])),
        ("top", json!(["watchers", 0])),
        ("top", json!(["watchers", 1000])),
    ] {
        let reply = kamailio.json_rpc(&format!("presence.{command}"), &words);
        let message = reply["error"]["message"].as_str().unwrap_or_default();
        let usage = format!("usage: presence.{command} ");
        assert!(format!("{message} ").contains(&usage), "{command} {words}: {reply}");
    }
    kamailio.finish();
}

#[test]
fn who_floods_is_named_with_its_address() {
    if !ours_only("commands of ours") {
        return;
    }
    let kamailio = Kamailio::start(Config::new(Storage::Memory).jsonrpcs());
    let mut phone = Publisher::udp(&kamailio, "flood");
    phone.publish(bodies::pidf("flood", "phone", "open", ""));
    for _ in 0..20 {
        phone.refresh();
    }
    let reply = kamailio.json_rpc("presence.top", &json!(["sources", 3]));
    let entries = reply["result"].as_array().cloned().unwrap_or_default();
    let count = |kind: &str, source: &str| {
        let is = |one: &&Value| one["kind"] == kind && one["source"] == source;
        let one = entries.iter().find(is).cloned().unwrap_or_default();
        one["this_minute"].as_u64().unwrap_or(0) + one["last_minute"].as_u64().unwrap_or(0)
    };
    assert_eq!(count("address", "127.0.0.1"), 21, "{reply}");
    assert_eq!(count("client", &format!("flood@{DOMAIN}")), 21, "{reply}");
    kamailio.finish();
}

/// Some of the causes, in a real server; `tests/service/explain.rs` has the others.
#[test]
fn explain_tells_of_real_causes() {
    if !ours_only("commands of ours") {
        return;
    }
    let kamailio = Kamailio::start(Config::new(Storage::Default).jsonrpcs());
    let alice = aor("alice");
    let ask = |watcher: &str| {
        let words = json!([aor(watcher), alice, "presence"]);
        let reply = kamailio.json_rpc("presence.explain", &words);
        reply["result"].clone()
    };
    let verdict = |watcher: &str, expected: &str| {
        let said = eventually(Duration::from_secs(10), || {
            let answer = ask(watcher);
            answer["verdict"]
                .as_str()
                .is_some_and(|words| words.contains(expected))
                .then_some(answer)
        });
        said.unwrap_or_else(|| {
            kamailio.fail(&format!("{watcher}: {} not {expected}", ask(watcher)))
        })
    };
    verdict("bob", "no subscription: this watcher has not subscribed");
    let mut bob = Watcher::udp(&kamailio, "alice").named("bob");
    bob.subscribe(600);
    bob.next_notify("initial");
    verdict("bob", "presentity has no publication");
    let mut phone = Publisher::udp(&kamailio, "alice");
    phone.publish(bodies::pidf("alice", "phone", "open", ""));
    bob.next_notify("published");
    let answer = verdict("bob", "in order: the last NOTIFY");
    assert_eq!(answer["last_notify"]["answer"], "200", "{answer}");
    assert_eq!(answer["last_notify"]["cseq"], 3, "{answer}");
    assert_eq!(answer["publications"][0]["shown"], "yes", "{answer}");
    assert_eq!(answer["callid"], bob.call_id, "{answer}");
    bob.answer(Answer::Code(500));
    phone.modify(bodies::pidf("alice", "phone", "closed", ""));
    verdict("bob", "was answered 500: the watcher has refused it");
    bob.answer(Answer::Code(481));
    phone.modify(bodies::pidf("alice", "phone", "open", ""));
    verdict("bob", "a NOTIFY was answered 481");
    bob.answer(Answer::Code(200));
    bob.new_dialog();
    bob.subscribe(600);
    verdict("bob", "in order");
    bob.unsubscribe();
    verdict("bob", "the watcher has unsubscribed");
    let usage = kamailio.json_rpc("presence.explain", &json!([alice]));
    assert!(
        usage["error"]["message"].as_str().is_some_and(|text| text.contains("usage:")),
        "{usage}"
    );
    kamailio.finish();
}
