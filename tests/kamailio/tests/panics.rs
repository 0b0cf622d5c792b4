//! A panic in any entry point is logged, answered, and leaves the server up.
//! Needs the module built with feature `fault-injection`, so ours only.

use presence_kamailio_tests::prelude::*;

const WHY: &str = "A panic switch is built into our module only";

/// Starts Kamailio with an entry point that always panics.
fn start(entry: &str, storage: Storage) -> Option<Kamailio> {
    ours_only(WHY).then(|| {
        let config = Config::new(storage)
            .panic_at(entry)
            .children(2)
            .presence("clean_period", 1)
            .presence("db_update_period", 1);
        Kamailio::start(config)
    })
}

fn open() -> String {
    bodies::pidf("alice", "phone", "open", "")
}

fn logged(kamailio: &Kamailio, entry: &str) {
    let line = kamailio.wait_log("injected fault");
    assert!(line.contains(entry) && line.contains("panic at "), "{line}");
}

#[test]
fn handle_publish_answers_500() {
    let Some(kamailio) = start("handle_publish", Storage::Memory) else { return };
    let mut phone = Publisher::udp(&kamailio, "alice");
    for _ in 0..3 {
        assert_eq!(phone.try_publish(open()).status(), Some(500));
    }
    assert_eq!(kamailio.script_results(&phone.call_id, 3), [-1, -1, -1]);
    logged(&kamailio, "handle_publish");
    let mut watcher = Watcher::udp(&kamailio, "alice");
    watcher.subscribe(600);
    watcher.next_notify("the other entry point works");
    kamailio.finish();
}

#[test]
fn handle_subscribe_answers_500() {
    let Some(kamailio) = start("handle_subscribe", Storage::Memory) else { return };
    let mut watcher = Watcher::udp(&kamailio, "alice");
    assert_eq!(watcher.try_subscribe(600).status(), Some(500));
    logged(&kamailio, "handle_subscribe");
    Publisher::udp(&kamailio, "alice").publish(open());
    kamailio.finish();
}

#[test]
fn a_panic_without_a_transaction_is_answered_too() {
    if !ours_only(WHY) {
        return;
    }
    let config = Config::new(Storage::Memory).stateless().panic_at("handle_publish");
    let kamailio = Kamailio::start(config);
    assert_eq!(Publisher::udp(&kamailio, "alice").try_publish(open()).status(), Some(500));
    kamailio.finish();
}

#[test]
fn an_answer_to_a_notify() {
    let Some(kamailio) = start("notify_reply", Storage::Memory) else { return };
    let mut watcher = Watcher::udp(&kamailio, "alice");
    watcher.subscribe(600);
    watcher.next_notify("first");
    logged(&kamailio, "notify_reply");
    Publisher::udp(&kamailio, "alice").publish(open());
    watcher.next_notify("still notified");
    kamailio.finish();
}

#[test]
fn timers_and_the_sender_process() {
    for entry in ["clean_timer", "update_timer", "process"] {
        let Some(kamailio) = start(entry, Storage::Default) else { return };
        logged(&kamailio, entry);
        let mut watcher = Watcher::udp(&kamailio, "alice");
        watcher.subscribe(600);
        watcher.next_notify("first");
        let mut phone = Publisher::udp(&kamailio, "alice");
        phone.publish(open());
        if entry == "process" && !kamailio.storage().notify_delay().is_zero() {
            // Notifier processes would tell of that. An end does not wait for them.
            phone.remove();
        }
        watcher.next_notify("a change");
        kamailio.finish();
    }
}

#[test]
fn a_panic_at_start_refuses_to_start() {
    for entry in ["mod_init", "child_init", "set_parameter", "add_event", "bind_presence"] {
        if !ours_only(WHY) {
            return;
        }
        let started = Kamailio::try_start(Config::new(Storage::Memory).panic_at(entry));
        let Err(log) = started else { panic!("{entry}: started all the same") };
        assert!(log.contains("injected fault") && !log.contains("signal"), "{entry}: {log}");
    }
}

#[test]
fn an_rpc_command_faults() {
    for command in [
        "presence.cleanup",
        "presence.refreshWatchers",
        "presence.updateWatchers",
        "presence.presentity_list",
        "presence.presentity_show",
        "presence.watcher_list",
        "presence.publish_cache_sync",
    ] {
        let Some(kamailio) = start(command, Storage::Memory) else { return };
        let answer = kamailio.rpc(&[command, "full", "sip:alice@example.test", "1"]);
        assert!(answer.as_ref().is_err_and(|text| text.contains("500")), "{command}: {answer:?}");
        logged(&kamailio, command);
        Publisher::udp(&kamailio, "alice").publish(open());
        kamailio.finish();
    }
}
