//! Two real phones (Debian's baresip-core): one sees the other come online and
//! go away through the module.

use presence_kamailio_tests::kamailio::Port;
use presence_kamailio_tests::prelude::*;
use std::io::Write;
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

const MODULES: &str = "/usr/lib/baresip/modules";

/// A running baresip without audio, commanded through ctrl_tcp.
struct Baresip {
    name: &'static str,
    folder: PathBuf,
    process: Child,
    control: Port,
}

impl Baresip {
    fn start(
        kamailio: &Kamailio,
        name: &'static str,
        account_parameters: &str,
        contacts: &str,
    ) -> Self {
        let folder = kamailio.folder().join(name);
        let control = Port::reserve();
        std::fs::create_dir_all(&folder)
            .unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        let write = |file: &str, text: String| {
            std::fs::write(folder.join(file), text)
                .unwrap_or_else(|error| panic!("{file}: {error}"));
        };
        write(
            "config",
            format!(
                "poll_method epoll\nsip_listen 127.0.0.1:0\nnet_interface 127.0.0.1\n\
                 module_path {MODULES}\nctrl_tcp_listen 127.0.0.1:{}\nmodule account.so\n\
                 module_app contact.so\nmodule_app menu.so\nmodule_app ctrl_tcp.so\n\
                 module_app presence.so\n",
                control.number
            ),
        );
        write(
            "accounts",
            format!(
                "<{}>;regint=0;{account_parameters}outbound=\"sip:{};transport=udp\"\n",
                aor(name),
                kamailio.address()
            ),
        );
        write("contacts", contacts.to_owned());
        let output = std::fs::File::create(folder.join("output"))
            .unwrap_or_else(|error| panic!("output: {error}"));
        let errors = output.try_clone().unwrap_or_else(|error| panic!("output: {error}"));
        let process = Command::new("baresip")
            .arg("-f")
            .arg(&folder)
            .arg("-v")
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .spawn();
        let process = process.unwrap_or_else(|error| {
            panic!("FAIL: cannot run `baresip`: {error}; install Debian's package baresip-core")
        });
        assert!(
            PathBuf::from(MODULES).join("presence.so").exists(),
            "FAIL: baresip has no presence module in {MODULES}"
        );
        let phone = Self { name, folder, process, control };
        phone.wait("baresip is ready", 1);
        phone
    }

    /// What it has printed, without colours.
    fn output(&self) -> String {
        let bytes = std::fs::read(self.folder.join("output")).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let mut parts = text.split('\u{1b}');
        let mut plain = parts.next().unwrap_or("").to_owned();
        for part in parts {
            plain += part.split_once('m').map_or("", |(_, rest)| rest);
        }
        plain
    }

    /// Waits until `text` has been printed `count` times.
    fn wait(&self, text: &str, count: usize) {
        let found = eventually(Duration::from_secs(8), || {
            (self.output().matches(text).count() >= count).then_some(())
        });
        assert!(
            found.is_some(),
            "{} did not print {text:?} {count} times:\n{}",
            self.name,
            self.output()
        );
    }

    fn command(&self, command: &str) {
        let executed = format!("cmd='{command}'");
        let before = self.output().matches(&executed).count();
        let text = format!("{{\"command\":\"{command}\",\"token\":\"t\"}}");
        let connection = TcpStream::connect(("127.0.0.1", self.control.number));
        let mut connection = connection.unwrap_or_else(|error| {
            panic!("ctrl_tcp of {}: {error}\n{}", self.name, self.output())
        });
        let sent = connection.write_all(format!("{}:{text},", text.len()).as_bytes());
        assert!(sent.is_ok(), "ctrl_tcp of {}: {sent:?}", self.name);
        // It is executed before the connection is closed.
        self.wait(&executed, before + 1);
    }

    fn kill(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Drop for Baresip {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("---- output of {} ----\n{}", self.name, self.output());
        }
    }
}

both_storages! {
    fn a_phone_sees_another_come_and_go(storage) {
        let workers = differs("D17 database is locked", 1, 4);
        let kamailio = Kamailio::start(Config::new(storage).children(workers));
        let bob = Baresip::start(&kamailio, "bob", "", "\"Alice\" <sip:alice@example.test>;presence=p2p\n");
        // A first state must be there: baresip is silent about the first one it learns.
        kamailio.wait_log("SCRIPT-RESULT SUBSCRIBE 1");
        let mut alice = Baresip::start(&kamailio, "alice", "pubint=60;", "");
        // Its first PUBLISH says `closed`.
        kamailio.wait_log("SCRIPT-RESULT PUBLISH 1");
        // Notifier processes may have buffered it.
        std::thread::sleep(storage.notify_delay());
        alice.command("presence_online");
        bob.wait("<sip:alice@example.test> changed status from Offline to Online", 1);
        alice.command("presence_offline");
        bob.wait("<sip:alice@example.test> changed status from Online to Offline", 1);
        alice.command("presence_online");
        bob.wait("changed status from Offline to Online", 2);
        // Alice's phone is switched off in good order: it removes its publication.
        alice.command("quit");
        let ended = eventually(Duration::from_secs(5), || alice.process.try_wait().ok().flatten());
        assert!(ended.is_some_and(|status| status.success()), "{ended:?}\n{}", alice.output());
        bob.wait("changed status from Online to Offline", 2);
        let mut late = Watcher::udp(&kamailio, "alice");
        assert!(!late.fetch().body().contains(">open<"));
        kamailio.finish();
    }

    fn a_phone_that_dies_goes_offline(storage) {
        let kamailio =
            Kamailio::start(Config::new(storage).children(2).presence("clean_period", 1));
        let bob = Baresip::start(&kamailio, "bob", "", "\"Alice\" <sip:alice@example.test>;presence=p2p\n");
        // A first state must be there: baresip is silent about the first one it learns.
        kamailio.wait_log("SCRIPT-RESULT SUBSCRIBE 1");
        let mut alice = Baresip::start(&kamailio, "alice", "pubint=2;", "");
        // Its first PUBLISH says `closed`.
        kamailio.wait_log("SCRIPT-RESULT PUBLISH 1");
        // Notifier processes may have buffered it.
        std::thread::sleep(storage.notify_delay());
        alice.command("presence_online");
        bob.wait("<sip:alice@example.test> changed status from Offline to Online", 1);
        alice.kill();
        // An empty NOTIFY tells the phone nothing.
        let shown = differs("B12 what the other phone shows after the expiry", "Unknown", "Offline");
        bob.wait(&format!("<sip:alice@example.test> changed status from Online to {shown}"), 1);
        kamailio.finish();
    }
}
