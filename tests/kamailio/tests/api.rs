//! The developer interface (`presence_api_t`): a module of our own
//! (tests/api-module) calls all its members, on the stock module and on ours,
//! and says what it saw and whether memory is as before.

use presence_kamailio_tests::prelude::*;
use presence_kamailio_tests::sip;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Kamailio's source tree: KAMAILIO_SRC or the fetched one.
fn source() -> PathBuf {
    if let Some(given) = std::env::var_os("KAMAILIO_SRC") {
        return given.into();
    }
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/kamailio-src");
    let tree = std::fs::read_dir(&folder).ok().and_then(|entries| {
        entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .find(|path| path.join("src/core/sr_module.h").is_file())
    });
    tree.unwrap_or_else(|| {
        panic!("no Kamailio source: scripts/fetch-kamailio-source, or set KAMAILIO_SRC")
    })
}

/// The compiled module, without `.so`; made once.
fn module() -> &'static str {
    static MODULE: OnceLock<(tempfile::TempDir, String)> = OnceLock::new();
    let (_, path) = MODULE.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap_or_else(|error| panic!("folder: {error}"));
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../api-module/build");
        let output = Command::new("bash").arg(&script).arg(source()).arg(folder.path()).output();
        let output = output.unwrap_or_else(|error| panic!("bash: {error}"));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let path = folder.path().join("api_check").display().to_string();
        (folder, path)
    });
    path
}

/// A Kamailio with the module; a MESSAGE with the body `x` calls `api_check(x)`.
fn start(storage: Storage, before_subscribe: &str) -> Kamailio {
    Kamailio::start(
        Config::new(storage)
            .siblings(&["presence_xml", module()])
            .parameter("presence_xml", "force_active", 1)
            .before("if(method==\"MESSAGE\") { api_check(\"$rb\"); sl_send_reply(\"200\", \"OK\"); exit; }\n")
            .before_subscribe(before_subscribe),
    )
}

/// Runs a check and gives what it said.
fn check(kamailio: &Kamailio, endpoint: &Endpoint, what: &str) -> Vec<String> {
    let before = said(kamailio).len();
    let mut message = Message::new(format!("MESSAGE {} SIP/2.0", aor("check")));
    message
        .push("Via", endpoint.via())
        .push("From", format!("<{}>;tag=c", aor("check")))
        .push("To", format!("<{}>", aor("check")))
        .push("Call-ID", sip::unique("api"))
        .push("CSeq", "1 MESSAGE")
        .set_body(what);
    assert_eq!(endpoint.request(&message).status(), Some(200));
    let mark = format!("MEMORY {what} ");
    let lines = eventually(Duration::from_secs(3), || {
        let lines = said(kamailio).split_off(before);
        lines.iter().any(|line| line.starts_with(&mark)).then_some(lines)
    });
    lines.unwrap_or_else(|| kamailio.fail(&format!("nothing said about {what}")))
}

fn said(kamailio: &Kamailio) -> Vec<String> {
    let lines = kamailio.log_lines("API-CHECK ");
    lines
        .iter()
        .filter_map(|line| Some(line.split_once("API-CHECK ")?.1.trim_end().to_owned()))
        .collect()
}

/// Without the line about memory; pkg memory must be as it was.
fn same_memory(lines: Vec<String>) -> Vec<String> {
    let (memory, rest): (Vec<_>, Vec<_>) =
        lines.into_iter().partition(|line| line.starts_with("MEMORY"));
    assert!(memory[0].contains(" pkg=0 "), "{memory:?}");
    rest
}

both_storages! {
    fn events_are_registered_and_found(storage) {
        let kamailio = start(storage, "");
        assert_eq!(said(&kamailio)[0], "add_event=0 again=0 bad=-1");
        let endpoint = Endpoint::udp(kamailio.address(), kamailio.trace(), "check");
        for _ in 0..3 {
            let lines = same_memory(check(&kamailio, &endpoint, "events"));
            assert_eq!(lines, [
                "event found=1 same=1 type=2",
                "event strange=0",
                "event list=0 has=1",
                "events result=1",
            ]);
        }
        kamailio.finish();
    }

    fn the_table_of_siblings_works_and_leaves_nothing(storage) {
        let kamailio = start(storage, "");
        let endpoint = Endpoint::udp(kamailio.address(), kamailio.trace(), "check");
        for _ in 0..3 {
            let lines = check(&kamailio, &endpoint, "table");
            let memory = lines.last().cloned().unwrap_or_default();
            let clean = "MEMORY table pkg=0 shm=0";
            let expected = differs("D21 route sets leak", "MEMORY table pkg=0 shm=224", clean);
            assert_eq!(memory, expected);
            assert_eq!(lines, [
                "table insert=0 found=1 first=1 expires=1 db_flag=4 flags=3 id=7",
                "table remote=0 local_cseq=1 db_flag=4",
                "table local=0 local_cseq=2 version=2",
                "table unknown=-1 delete=-1",
                "copy pkg callid=call-1 route=<sip:proxy;lr>",
                "insert key=call-1",
                "update key=call-2",
                "delete where expires <",
                "timer expired=1 left=1",
                "timer db_flag=1",
                "table deleted=3 again=-1",
                "table result=1",
                expected,
            ]);
        }
        kamailio.finish();
    }

    fn state_is_published_read_and_removed(storage) {
        if !storage.has_database() && !ours_only("D2 crashes in update_watchers_status") {
            return;
        }
        let kamailio = start(storage, "");
        let mut phone = Publisher::udp(&kamailio, "alice");
        phone.publish(bodies::pidf("alice", "desk", "open", "here"));
        let mut watcher = Watcher::udp(&kamailio, "alice");
        watcher.subscribe(600);
        watcher.wait_notify("state", |n| n.body().contains("here"));
        let endpoint = Endpoint::udp(kamailio.address(), kamailio.trace(), "check");
        for round in 0..3 {
            let lines = check(&kamailio, &endpoint, "state");
            // The first call opens what stays open.
            let lines = if round > 0 { same_memory(lines) } else { lines[..lines.len() - 1].into() };
            assert_eq!(lines, [
                "publish new=0 state=one",
                "publish unknown tag=0",
                "publish event=-1",
                "state pidf=1",
                "state none=1",
                "sphere=(none)",
                "auth bob=2",
                "update_watchers=0",
                "refresh state=0 event=-1",
                "publish remove=0 state=0",
                "state result=1",
            ]);
        }
        watcher.skip_notifies();
        check(&kamailio, &endpoint, "state");
        let again = watcher.next_notify("pres_refresh_watchers, type 1");
        assert!(again.body().contains("here"));
        kamailio.finish();
    }

    fn requests_can_be_handed_over(storage) {
        let kamailio = start(storage, "api_check(\"$hdr(X-Check)\"); exit;\n");
        let mut watcher = Watcher::udp(&kamailio, "alice").named("bob");
        watcher.extra_headers.push(("X-Check".into(), "subscribe0".into()));
        watcher.subscribe(600);
        watcher.next_notify("initial");
        let mut other = Watcher::udp(&kamailio, "alice").named("bob");
        other.extra_headers.push(("X-Check".into(), "subscribe-as-carol".into()));
        other.subscribe(600);
        other.next_notify("initial");
        if !storage.has_database() && !ours_only("D2 crashes") {
            return;
        }
        let mut winfo = Watcher::udp(&kamailio, "alice").event("presence.winfo");
        winfo.extra_headers.push(("X-Check".into(), "subscribe0".into()));
        winfo.subscribe(600);
        let notify = winfo.next_notify("watchers");
        let mut uris: Vec<String> =
            bodies::watchers(&notify.body()).into_iter().map(|w| w.uri).collect();
        uris.sort();
        assert_eq!(uris, [aor("bob"), aor("carol")]);
        kamailio.finish();
    }

    fn many_long_event_names_are_all_listed(storage) {
        if !ours_only("D27 the names overflow a buffer of 256 bytes on the stack") {
            return;
        }
        let kamailio = Kamailio::start(
            Config::new(storage)
                .siblings(&["presence_xml", module()])
                .parameter("presence_xml", "force_active", 1)
                .parameter("api_check", "more_events", 40)
                .before("if(method==\"MESSAGE\") { api_check(\"$rb\"); sl_send_reply(\"200\", \"OK\"); exit; }\n"),
        );
        assert_eq!(said(&kamailio)[1], "more events=40");
        let mut expected: Vec<String> =
            (0..40).map(|n| format!("check-event-with-a-rather-long-name-{n:02}")).collect();
        expected.extend(
["check-event", "presence", "presence.winfo", "xcap-diff"].map(str::to_owned),
);
        expected.sort();
        let names = |list: &str| {
            let mut names: Vec<String> = list.split(',').map(|name| name.trim().to_owned()).collect();
            names.sort();
            names
        };
        let mut watcher = Watcher::udp(&kamailio, "alice");
        for _ in 0..3 {
            watcher.new_dialog();
            watcher.event = "weather".into();
            let reply = watcher.try_subscribe(600);
            assert_eq!(reply.status(), Some(489), "{}", reply.start_line);
            assert_eq!(names(reply.header("Allow-Events").unwrap_or("")), expected);
        }
        let mut phone = Publisher::udp(&kamailio, "alice").event("weather");
        let reply = phone.try_publish("sunny");
        assert_eq!(reply.status(), Some(489), "{}", reply.start_line);
        assert_eq!(names(reply.header("Allow-Events").unwrap_or("")), expected);
        // The same by get_event_list.
        let lines = same_memory(check(&kamailio, &watcher.endpoint, "events"));
        let list = lines.iter().find_map(|line| line.strip_prefix("event names="));
        assert_eq!(names(list.unwrap_or("")), expected);
        // One of them is served as any other.
        let mut last = Watcher::udp(&kamailio, "alice");
        last.event = expected[40].clone();
        last.subscribe(600);
        let mut phone = Publisher::udp(&kamailio, "alice").event(&expected[40]);
        phone.content_type = "text/check".into();
        phone.publish("sunny");
        last.wait_notify("state", |n| n.body() == "sunny");
        kamailio.finish();
    }

    fn a_publish_can_be_handed_over(storage) {
        let kamailio = Kamailio::start(
            Config::new(storage)
                .siblings(&["presence_xml", module()])
                .parameter("presence_xml", "force_active", 1)
                .before_publish("api_check(\"publish\"); exit;\n"),
        );
        let mut watcher = Watcher::udp(&kamailio, "alice");
        watcher.subscribe(600);
        watcher.next_notify("initial");
        let mut phone = Publisher::udp(&kamailio, "alice");
        phone.publish(bodies::pidf("alice", "desk", "open", "handed over"));
        watcher.wait_notify("state", |n| n.body().contains("handed over"));
        phone.modify(bodies::pidf("alice", "desk", "closed", "changed"));
        watcher.wait_notify("change", |n| n.body().contains("changed"));
        let first = phone.tag();
        phone.remove();
        phone.etag = Some(first);
        let reply = phone.try_modify(bodies::pidf("alice", "desk", "open", "late"));
        assert_eq!(reply.status(), Some(412), "{}", reply.start_line);
        let results = eventually(Duration::from_secs(3), || {
            let lines: Vec<String> =
                said(&kamailio).into_iter().filter(|line| line.contains("result=")).collect();
            (lines.len() == 4).then_some(lines)
        });
        let results = results.unwrap_or_else(|| kamailio.fail("not four results"));
        assert_eq!(results[..3], ["publish result=1"; 3]);
        let refused = differs("B32", "publish result=1", "publish result=-1");
        assert_eq!(results[3], refused);
        kamailio.finish();
    }
}

/// `extract_sdialog_info` as rls uses it, also in library mode (B26).
fn extract(kamailio: &Kamailio) {
    let mut watcher = Watcher::udp(kamailio, "alice").named("bob");
    watcher.extra_headers = vec![
        ("X-Check".into(), "extract".into()),
        ("Record-Route".into(), "<sip:one;lr>, <sip:two;lr>".into()),
        ("User-Agent".into(), "phone".into()),
    ];
    let contact = watcher.contact.trim_matches(['<', '>']).to_owned();
    for _ in 0..3 {
        let before = said(kamailio).len();
        let message = watcher.message();
        let _ = watcher.endpoint.try_request(&message, Duration::from_millis(300));
        let lines = eventually(Duration::from_secs(3), || {
            Some(said(kamailio).split_off(before))
                .filter(|lines| lines.iter().any(|line| line.starts_with("MEMORY")))
        });
        let lines = lines.unwrap_or_else(|| kamailio.fail("nothing said"));
        let cseq = watcher.cseq;
        assert_eq!(
            lines[0],
            format!(
                "extract=0 generated=1 expires=600 to=alice@{DOMAIN} from=bob@{DOMAIN} watcher=wu@wd"
            )
        );
        assert_eq!(
            lines[1],
            format!("extract tags=1,1 cseq={cseq} version=1 pres_uri=0 socket=1 local=1")
        );
        assert_eq!(
            lines[2],
            format!("extract contact={contact} route=<sip:one;lr>, <sip:two;lr> agent=phone")
                .replace(
                    "lr>, <",
                    differs("route sets are joined with a space", "lr>,<", "lr>, <")
                )
        );
        // Memory of the parser belongs to the message; the last line is ours.
    }
}

both_storages! {
    fn a_subscribe_is_read_for_a_sibling(storage) {
        let kamailio = start(storage, "api_check(\"$hdr(X-Check)\"); sl_send_reply(\"200\",\"OK\"); exit;\n");
        extract(&kamailio);
        kamailio.finish();
    }
}

/// Without a database, and publications not in memory: only the interface works.
#[test]
fn b26_library_mode_reads_subscribe_requests() {
    if !ours_only("B26 crashes in extract_sdialog_info") {
        return;
    }
    let script = format!(
        "#!KAMAILIO
debug=2
log_stderror=yes
fork=yes
children=1
listen=udp:127.0.0.1:@PORT@
disable_tcp=yes
dns=no
auto_aliases=no
mpath=\"@MPATH@\"
loadmodule \"tm.so\"
loadmodule \"sl.so\"
loadmodule \"pv.so\"
loadmodule \"ctl.so\"
loadmodule \"presence.so\"
loadmodule \"presence_mwi.so\"
loadmodule \"presence_dialoginfo.so\"
loadmodule \"presence_xml.so\"
loadmodule \"{}.so\"
modparam(\"presence_xml\", \"force_active\", 1)
modparam(\"ctl\", \"binrpc\", \"unix:@FOLDER@/ctl.sock\")
request_route {{
  api_check(\"$hdr(X-Check)\");
  sl_send_reply(\"200\", \"OK\");
}}
",
        module()
    );
    let kamailio = Kamailio::start(Config::new(Storage::Memory).raw(&script));
    extract(&kamailio);
    kamailio.finish();
}
