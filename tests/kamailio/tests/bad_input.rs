//! Requests that are not what they should be: one final reply each, the server
//! lives on, and what is stored is untouched.

use presence_kamailio_tests::prelude::*;

/// The final replies a request may get.
#[derive(Clone, Copy, Debug)]
enum Expect {
    /// Exactly one, with this code.
    Is(u16),
    /// Exactly one, with one of these codes.
    OneOf(&'static [u16]),
    /// No reply at all.
    Silence,
    /// None, or one with one of these codes (the core may be unable to build a reply).
    AtMost(&'static [u16]),
    /// These, in this order.
    These(&'static [u16]),
}
use Expect::{AtMost, Is, OneOf, Silence, These};

impl Expect {
    fn fits(self, codes: &[u16]) -> bool {
        match self {
            Is(code) => codes == [code],
            OneOf(list) => codes.len() == 1 && list.contains(&codes[0]),
            Silence => codes.is_empty(),
            AtMost(list) => codes.is_empty() || OneOf(list).fits(codes),
            These(list) => codes == list,
        }
    }
}

/// Name, change of a good request, what stock does, what ours does.
type Case = (&'static str, fn(&mut Message), Expect, Expect);

/// A server with one publication and one subscription that must survive.
struct Bystanders {
    kamailio: Kamailio,
    phone: Publisher,
    watcher: Watcher,
}

impl Bystanders {
    fn start(storage: Storage) -> Self {
        let kamailio = Kamailio::start(Config::new(storage).stateless());
        let mut watcher = Watcher::udp(&kamailio, "alice");
        watcher.subscribe(600);
        let mut phone = Publisher::udp(&kamailio, "alice");
        phone.publish(bodies::pidf("alice", "phone", "open", "untouched"));
        watcher.wait_notify("open", |n| n.body().contains("untouched"));
        watcher.skip_notifies();
        Self { kamailio, phone, watcher }
    }

    fn run(
        &mut self,
        what: &str,
        make: &mut dyn FnMut() -> Message,
        endpoint: &Endpoint,
        cases: &[Case],
    ) {
        let mut wrong = Vec::new();
        for (name, change, upstream, ours) in cases {
            let mut message = make();
            change(&mut message);
            let mut expected = differs(&format!("bad input: {name}"), *upstream, *ours);
            let too_long = name.contains(" characters") && matches!(expected, Is(200));
            if too_long && self.kamailio.storage().enforces_lengths() {
                expected = differs("B20", OneOf(&[200, 500]), OneOf(&[200, 400]));
            }
            // The drivers of servers make a statement in 64 kB (sql_buffer_size),
            // of which each byte may take two. On PostgreSQL ours prepares its
            // statements and goes without.
            let no_statement = *name == "body of 50 kB"
                && self.kamailio.storage().has_publication_rows()
                && self.kamailio.storage().enforces_lengths();
            if no_statement {
                let ours = if self.kamailio.storage().is_postgres() { 200 } else { 500 };
                expected = differs("A6", Is(500), Is(ours));
            }
            let replies = endpoint.exchange(&message.to_bytes(), Duration::ZERO);
            let codes: Vec<u16> = replies.iter().filter_map(Message::status).collect();
            if !expected.fits(&codes) {
                wrong.push(format!("{what}, {name}: {codes:?} instead of {expected:?}"));
            }
            if !self.kamailio.is_alive() {
                self.kamailio.fail(&format!("{what}, {name}: Kamailio is gone"));
            }
            let call_id = message.call_id();
            if !call_id.is_empty() && target() == Target::Ours {
                let lines: Vec<String> = self
                    .kamailio
                    .log_lines(call_id)
                    .into_iter()
                    .filter(|line| line.contains("ERROR:") || line.contains("WARNING:"))
                    .collect();
                if lines.len() > 1 {
                    wrong.push(format!(
                        "{what}, {name}: {} log lines:\n{}",
                        lines.len(),
                        lines.join("\n")
                    ));
                }
            }
        }
        if !wrong.is_empty() {
            self.kamailio.fail(&wrong.join("\n"));
        }
    }

    fn finish(mut self) {
        // The stored state is as it was, and lives on.
        let mut other = Watcher::udp(&self.kamailio, "alice").named("late");
        let body = other.fetch().body();
        assert!(body.contains("untouched"), "{body:?}");
        self.watcher.subscribe(600);
        let third = self.kamailio.storage().first_cseq() + 2;
        self.watcher.wait_notify("refresh", |n| n.cseq >= third && n.body().contains("untouched"));
        self.phone.modify(bodies::pidf("alice", "phone", "open", "changed"));
        self.watcher.wait_notify("changed", |n| n.body().contains("changed"));
        self.kamailio.finish();
    }
}

const PUBLISH_CASES: &[Case] = &[
    (
        "no Event",
        |m| {
            m.remove("Event");
        },
        Is(489),
        Is(489),
    ),
    (
        "empty Event",
        |m| {
            m.set("Event", "");
        },
        Is(489),
        OneOf(&[400, 489]),
    ),
    (
        "unknown Event",
        |m| {
            m.set("Event", "weather");
        },
        Is(489),
        Is(489),
    ),
    (
        "Event that is no token",
        |m| {
            m.set("Event", "pre sence/@");
        },
        Is(489),
        OneOf(&[400, 489]),
    ),
    (
        "winfo Event",
        |m| {
            m.set("Event", "presence.winfo");
        },
        Is(200),
        OneOf(&[200, 400, 415, 489]),
    ),
    (
        "Event of 3000 characters",
        |m| {
            m.set("Event", "e".repeat(3000));
        },
        Is(489),
        Is(489),
    ),
    (
        "Event with 400 parameters",
        |m| {
            m.set("Event", format!("presence{}", ";a=b".repeat(400)));
        },
        Is(489),
        Is(200),
    ),
    (
        "two Events",
        |m| {
            m.push("Event", "dialog");
        },
        Is(200),
        OneOf(&[200, 400]),
    ),
    (
        "no To",
        |m| {
            m.remove("To");
        },
        Silence,
        AtMost(&[400]),
    ),
    (
        "no From",
        |m| {
            m.remove("From");
        },
        Silence,
        AtMost(&[400]),
    ),
    (
        "no Call-ID",
        |m| {
            m.remove("Call-ID");
        },
        Silence,
        AtMost(&[400]),
    ),
    (
        "no CSeq",
        |m| {
            m.remove("CSeq");
        },
        Silence,
        AtMost(&[400]),
    ),
    (
        "malformed CSeq",
        |m| {
            m.set("CSeq", "one PUBLISH");
        },
        Is(200),
        Is(400),
    ),
    (
        "CSeq beyond 32 bits",
        |m| {
            m.set("CSeq", "99999999999 PUBLISH");
        },
        Is(200),
        Is(400),
    ),
    (
        "malformed From",
        |m| {
            m.set("From", "<<>>;;tag");
        },
        Is(200),
        OneOf(&[200, 400]),
    ),
    (
        "malformed To",
        |m| {
            m.set("To", "\"open");
        },
        Silence,
        AtMost(&[400]),
    ),
    (
        "R-URI that is none",
        |m| {
            m.start_line = "PUBLISH garbage SIP/2.0".into();
        },
        Is(400),
        Is(400),
    ),
    (
        "R-URI without host",
        |m| {
            m.start_line = "PUBLISH sip: SIP/2.0".into();
        },
        Is(400),
        Is(400),
    ),
    (
        "R-URI with bad port",
        |m| {
            m.start_line = "PUBLISH sip:alice@example.test:port SIP/2.0".into();
        },
        Is(400),
        Is(400),
    ),
    (
        "user of 500 characters",
        |m| {
            m.start_line = format!("PUBLISH sip:{}@example.test SIP/2.0", "u".repeat(500));
        },
        Is(200),
        Is(200),
    ),
    (
        "empty SIP-If-Match",
        |m| {
            m.push("SIP-If-Match", "");
        },
        Is(500),
        OneOf(&[200, 400, 412]),
    ),
    (
        "long SIP-If-Match",
        |m| {
            m.push("SIP-If-Match", "x".repeat(5000));
        },
        Is(500),
        Is(412),
    ),
    (
        "SIP-If-Match with spaces",
        |m| {
            m.push("SIP-If-Match", "a b c");
        },
        Is(500),
        OneOf(&[400, 412]),
    ),
    (
        "two SIP-If-Match",
        |m| {
            m.push("SIP-If-Match", "a.1.2.3.4").push("SIP-If-Match", "a.1.2.3.5");
        },
        Is(412),
        OneOf(&[400, 412]),
    ),
    (
        "body of binary garbage",
        |m| {
            m.set_body((0u8..=255).collect::<Vec<u8>>());
        },
        These(&[415, 500]),
        Is(415),
    ),
    (
        "body of NUL bytes",
        |m| {
            m.set_body(vec![0; 2000]);
        },
        These(&[415, 500]),
        Is(415),
    ),
    (
        "body cut in the middle",
        |m| {
            let half = m.body[..60].to_vec();
            m.set_body(half);
        },
        These(&[415, 500]),
        Is(415),
    ),
    (
        "Content-Length that is no number",
        |m| {
            m.set("Content-Length", "many");
        },
        Silence,
        AtMost(&[400]),
    ),
    (
        "negative Content-Length",
        |m| {
            m.set("Content-Length", "-1");
        },
        Silence,
        AtMost(&[400]),
    ),
    (
        "Content-Length 0 with a body",
        |m| {
            m.set("Content-Length", "0");
        },
        Is(400),
        Is(400),
    ),
    (
        "Content-Length beyond 64 bits",
        |m| {
            m.set("Content-Length", "99999999999999999999999");
        },
        Silence,
        AtMost(&[400]),
    ),
    (
        "malformed Content-Type",
        |m| {
            m.set("Content-Type", "///;;");
        },
        Is(200),
        OneOf(&[400, 415]),
    ),
    (
        "two Max-Forwards",
        |m| {
            m.push("Max-Forwards", "5");
        },
        Silence,
        Is(400),
    ),
    (
        "two Content-Types",
        |m| {
            m.push("Content-Type", "text/plain");
        },
        Is(200),
        OneOf(&[200, 400, 415]),
    ),
    (
        "body of 50 kB",
        |m| {
            m.set_body(bodies::pidf("bob", "big", "open", &"x".repeat(50_000)));
        },
        Is(200),
        Is(200),
    ),
    (
        "header of 20 kB",
        |m| {
            m.push("X-Long", "x".repeat(20_000));
        },
        Is(200),
        Is(200),
    ),
    (
        "500 headers",
        |m| {
            for n in 0..500 {
                m.push(format!("X-{n}"), "y");
            }
        },
        Is(200),
        Is(200),
    ),
];

const SUBSCRIBE_CASES: &[Case] = &[
    (
        "no Event",
        |m| {
            m.remove("Event");
        },
        Is(489),
        Is(489),
    ),
    (
        "empty Event",
        |m| {
            m.set("Event", "");
        },
        Is(489),
        OneOf(&[400, 489]),
    ),
    (
        "unknown Event",
        |m| {
            m.set("Event", "weather");
        },
        Is(489),
        Is(489),
    ),
    (
        "Event of 3000 characters",
        |m| {
            m.set("Event", "e".repeat(3000));
        },
        Is(489),
        Is(489),
    ),
    (
        "no To",
        |m| {
            m.remove("To");
        },
        Silence,
        AtMost(&[400]),
    ),
    (
        "no From",
        |m| {
            m.remove("From");
        },
        Silence,
        AtMost(&[400]),
    ),
    (
        "no From tag",
        |m| {
            m.set("From", "<sip:watcher@example.test>");
        },
        Is(500),
        Is(400),
    ),
    (
        "no Call-ID",
        |m| {
            m.remove("Call-ID");
        },
        Silence,
        AtMost(&[400]),
    ),
    (
        "no CSeq",
        |m| {
            m.remove("CSeq");
        },
        Silence,
        AtMost(&[400]),
    ),
    (
        "malformed CSeq",
        |m| {
            m.set("CSeq", "one SUBSCRIBE");
        },
        Is(500),
        Is(400),
    ),
    (
        "negative CSeq",
        |m| {
            m.set("CSeq", "-1 SUBSCRIBE");
        },
        Is(500),
        Is(400),
    ),
    (
        "CSeq beyond 32 bits",
        |m| {
            m.set("CSeq", "99999999999 SUBSCRIBE");
        },
        Is(500),
        Is(400),
    ),
    (
        "no Contact",
        |m| {
            m.remove("Contact");
        },
        Is(500),
        Is(400),
    ),
    (
        "Contact *",
        |m| {
            m.set("Contact", "*");
        },
        Is(500),
        Is(400),
    ),
    (
        "empty Contact",
        |m| {
            m.set("Contact", "");
        },
        Is(500),
        Is(400),
    ),
    (
        // Stock begins its NOTIFY with a line that ends in the middle.
        "Contact with a folded line in its URI",
        |m| {
            m.set("Contact", "<sip:x\r\n X-Y: 1@127.0.0.1:9>");
        },
        Is(200),
        Is(400),
    ),
    (
        "malformed Contact",
        |m| {
            m.set("Contact", "<sip:x@127.0.0.1");
        },
        Is(500),
        Is(400),
    ),
    (
        "malformed From",
        |m| {
            m.set("From", "<<>>;;tag");
        },
        Is(400),
        Is(400),
    ),
    (
        "malformed To",
        |m| {
            m.set("To", "\"open");
        },
        Silence,
        AtMost(&[400]),
    ),
    (
        "From that is no SIP URI",
        |m| {
            m.set("From", "<nonsense>;tag=1");
        },
        Is(400),
        Is(400),
    ),
    (
        "R-URI that is none",
        |m| {
            m.start_line = "SUBSCRIBE garbage SIP/2.0".into();
        },
        Silence,
        Is(400),
    ),
    (
        "R-URI without host",
        |m| {
            m.start_line = "SUBSCRIBE sip: SIP/2.0".into();
        },
        Silence,
        Is(400),
    ),
    (
        "two Contacts",
        |m| {
            m.push("Contact", "<sip:second@127.0.0.1:9>");
        },
        Is(200),
        Is(400),
    ),
    (
        "two Max-Forwards",
        |m| {
            m.push("Max-Forwards", "5");
        },
        Silence,
        Is(400),
    ),
    (
        "two Expires",
        |m| {
            m.push("Expires", "5");
        },
        Is(200),
        OneOf(&[200, 400]),
    ),
    (
        "two Call-IDs",
        |m| {
            m.push("Call-ID", "another");
        },
        Silence,
        AtMost(&[200, 400]),
    ),
    (
        "empty Expires",
        |m| {
            m.set("Expires", "");
        },
        Is(200),
        OneOf(&[200, 400]),
    ),
    (
        "Call-ID of 300 characters",
        |m| {
            m.set("Call-ID", "c".repeat(300));
        },
        Is(200),
        Is(200),
    ),
    (
        "Call-ID of 5000 characters",
        |m| {
            m.set("Call-ID", "c".repeat(5000));
        },
        Is(200),
        OneOf(&[200, 400]),
    ),
    (
        "user of 250 characters",
        |m| {
            m.set("From", format!("<sip:{}@example.test>;tag=long", "u".repeat(250)));
        },
        Is(200),
        Is(200),
    ),
    (
        "Contact of 400 characters",
        |m| {
            let contact = m
                .header("Contact")
                .unwrap_or("")
                .replace('>', &format!(";pn={}>", "p".repeat(400)));
            m.set("Contact", contact);
        },
        Is(200),
        Is(200),
    ),
    (
        "malformed Record-Route",
        |m| {
            m.push("Record-Route", "nonsense <<");
        },
        Is(200),
        OneOf(&[200, 400]),
    ),
    (
        "unknown To tag",
        |m| {
            m.set("To", "<sip:alice@example.test>;tag=nobody");
        },
        Is(481),
        Is(481),
    ),
    (
        "To tag of 2000 characters",
        |m| {
            m.set("To", format!("<sip:alice@example.test>;tag={}", "t".repeat(2000)));
        },
        Is(481),
        Is(481),
    ),
    (
        "a body that nobody asked for",
        |m| {
            m.set_body(vec![b'x'; 3000]);
        },
        Is(200),
        Is(200),
    ),
    (
        "Accept of another type",
        |m| {
            m.set("Accept", "text/plain");
        },
        Is(200),
        Is(406),
    ),
    (
        "bytes that are not UTF-8",
        |m| {
            m.push("Subject", "\u{fffd}\u{1}\u{7f}");
        },
        Is(200),
        Is(200),
    ),
];

both_storages! {
    fn bad_publish(storage) {
        let mut server = Bystanders::start(storage);
        let mut bad = Publisher::udp(&server.kamailio, "bob");
        let endpoint = Endpoint::udp(server.kamailio.address(), server.kamailio.trace(), "bad-publisher");
        let via = |message: &mut Message| { message.set("Via", endpoint.via()); };
        server.run("PUBLISH", &mut || {
            bad.call_id = presence_kamailio_tests::sip::unique("badpub");
            let mut message = bad.message(Some(&bodies::pidf("bob", "phone", "open", "")));
            via(&mut message);
            message
        }, &endpoint, PUBLISH_CASES);
        server.finish();
    }

    fn bad_subscribe(storage) {
        let mut server = Bystanders::start(storage);
        let mut bad = Watcher::udp(&server.kamailio, "bob");
        let endpoint = Endpoint::udp(server.kamailio.address(), server.kamailio.trace(), "bad-watcher");
        server.run("SUBSCRIBE", &mut || {
            bad.new_dialog();
            let mut message = bad.message();
            message.set("Via", endpoint.via());
            message
        }, &endpoint, SUBSCRIBE_CASES);
        server.finish();
    }

    fn bad_events_name_the_good_ones(storage) {
        let kamailio = Kamailio::start(Config::new(storage));
        let mut watcher = Watcher::udp(&kamailio, "alice").event("weather");
        let reply = watcher.try_subscribe(600);
        assert_eq!(reply.status(), Some(489));
        assert_eq!(reply.reason(), "Bad Event");
        let mut events: Vec<&str> =
            reply.header("Allow-Events").unwrap_or("").split(',').map(str::trim).collect();
        events.sort_unstable();
        for wanted in ["dialog", "message-summary", "presence", "presence.winfo"] {
            assert!(events.contains(&wanted), "{wanted} in {events:?}");
        }
        let mut phone = Publisher::udp(&kamailio, "alice").event("weather");
        let reply = phone.try_publish("<weather/>");
        assert_eq!(reply.status(), Some(489));
        assert!(reply.header("Allow-Events").is_some());
        assert_eq!(kamailio.script_results(&watcher.call_id, 1), [-1]);
        kamailio.finish();
    }

    fn absurd_cseqs_in_a_dialog(storage) {
        let kamailio = Kamailio::start(Config::new(storage).stateless());
        let mut watcher = Watcher::udp(&kamailio, "alice");
        watcher.cseq = 2_147_483_640;
        watcher.subscribe(600);
        watcher.cseq = 2_147_483_646;
        watcher.subscribe(600);
        let mut message = watcher.message();
        message.set("CSeq", "4294967295 SUBSCRIBE");
        let expected = differs("B47 CSeq of 2^31 and more", 200, 400);
        assert_eq!(watcher.endpoint.request(&message).status(), Some(expected));
        let mut message = watcher.message();
        message.set("CSeq", "1 SUBSCRIBE");
        let expected = differs("B4 CSeq too low", 400, 500);
        assert_eq!(watcher.endpoint.request(&message).status(), Some(expected));
        kamailio.finish();
    }

    fn noise_on_the_socket(storage) {
        // Deterministic garbage: the good phone and watcher do not notice.
        let mut server = Bystanders::start(storage);
        let noise = Endpoint::udp(server.kamailio.address(), server.kamailio.trace(), "noise");
        let good = server.phone.message(Some(&bodies::pidf("alice", "phone", "open", "x")));
        let bytes = {
            let mut other = good.clone();
            other.remove("SIP-If-Match").set("Event", "weather");
            other.to_bytes()
        };
        server.phone.cseq -= 1;
        let mut seed = 0x2545_f491_4f6c_dd1d_u64;
        let mut random = move || {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed
        };
        for round in 0..400 {
            let mut mutated = bytes.clone();
            for _ in 0..=(random() % 4) {
                let at = (random() % mutated.len() as u64) as usize;
                match random() % 3 {
                    0 => mutated[at] = random() as u8,
                    1 => mutated.truncate(at.max(1)),
                    _ => mutated.insert(at, random() as u8),
                }
            }
            noise.send(&mutated);
            if round % 50 == 0 {
                noise.barrier();
            }
        }
        noise.barrier();
        server.finish();
    }
}

#[test]
fn d1_a_long_watcher_uri_with_a_winfo_subscriber() {
    if !ours_only("D1 aborts the stock server") {
        return;
    }
    for storage in [Storage::Memory, Storage::Default] {
        let kamailio = Kamailio::start(Config::new(storage));
        let mut guard = Watcher::udp(&kamailio, "alice").event("presence.winfo").named("alice");
        guard.subscribe(600);
        guard.next_notify("initial winfo");
        let long = format!("sip:{}@example.test", "u".repeat(240));
        let mut watcher = Watcher::udp(&kamailio, "alice").named(&long);
        let reply = watcher.try_subscribe(600).status();
        if storage.enforces_lengths() && reply == Some(400) {
            continue; // B20: it does not fit into `watchers`.
        }
        assert_eq!(reply, Some(200));
        let notify = guard.next_notify("the long watcher");
        assert_eq!(bodies::watchers(&notify.body())[0].uri, long);
        kamailio.finish();
    }
}

#[test]
fn d3_sphere_check_without_content_type() {
    if !ours_only("D3 crashes the stock server") {
        return;
    }
    for storage in [Storage::Memory, Storage::Default] {
        let kamailio = Kamailio::start(Config::new(storage).presence("enable_sphere_check", 1));
        let mut phone = Publisher::udp(&kamailio, "alice");
        let mut message = phone.message(Some(&bodies::pidf("alice", "phone", "open", "")));
        message.remove("Content-Type");
        assert_eq!(phone.send(&message).status(), Some(200));
        kamailio.finish();
    }
}
