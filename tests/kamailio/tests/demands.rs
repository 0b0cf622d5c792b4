//! What a request demands (B47): extensions, encodings, types, one Contact.

use presence_kamailio_tests::prelude::*;

/// Status and the header that explains it.
type Outcome = (u16, Option<(&'static str, &'static str)>);
type Change = fn(&mut Message);
type Row = (&'static str, Change, Outcome);

/// Demands that both kinds of request may make.
const BOTH: &[Row] = &[
    (
        "unknown tag",
        |m| {
            m.push("Require", "x");
        },
        (420, Some(("Unsupported", "x"))),
    ),
    (
        "some unknown",
        |m| {
            m.push("Require", "a, eventlist").push("Require", "b");
        },
        (420, Some(("Unsupported", "a, b"))),
    ),
    (
        "a list",
        |m| {
            m.push("Require", "eventlist");
        },
        (200, None),
    ),
    (
        "Supported",
        |m| {
            m.push("Supported", "x, timer");
        },
        (200, None),
    ),
    (
        "gzip",
        |m| {
            m.push("Content-Encoding", "gzip");
        },
        (415, Some(("Accept-Encoding", "identity"))),
    ),
    (
        "gzip, compact",
        |m| {
            m.push("e", "gzip");
        },
        (415, Some(("Accept-Encoding", "identity"))),
    ),
    (
        "identity",
        |m| {
            m.push("Content-Encoding", "Identity");
        },
        (200, None),
    ),
    ("CSeq 2^31", |m| cseq(m, 1 << 31), (400, None)),
    ("CSeq 2^32-1", |m| cseq(m, u32::MAX), (400, None)),
    ("CSeq 2^31-1", |m| cseq(m, (1 << 31) - 1), (200, None)),
];

fn cseq(message: &mut Message, number: u32) {
    let method = message.method().to_owned();
    message.set("CSeq", format!("{number} {method}"));
}

const SUBSCRIBE: &[Row] = &[
    (
        "two Contacts",
        |m| {
            m.push("Contact", "<sip:second@127.0.0.1:9>");
        },
        (400, None),
    ),
    (
        "two in one",
        |m| {
            let first = m.header("Contact").unwrap_or("").to_owned();
            m.set("Contact", format!("{first}, <sip:second@127.0.0.1:9>"));
        },
        (400, None),
    ),
    (
        "one and *",
        |m| {
            m.push("Contact", "*");
        },
        (400, None),
    ),
    (
        "one and none",
        |m| {
            m.push("Contact", "");
        },
        (200, None),
    ),
    (
        "Accept of another type",
        |m| {
            m.set("Accept", "text/plain");
        },
        (406, None),
    ),
    (
        "several of them",
        |m| {
            m.set("Accept", "text/plain").push("Accept", "image/png, text/*");
        },
        (406, None),
    ),
    (
        "refused",
        |m| {
            m.set("Accept", "*/*, application/pidf+xml;q=0");
        },
        (406, None),
    ),
    (
        "no Accept",
        |m| {
            m.remove("Accept");
        },
        (200, None),
    ),
    (
        "empty Accept",
        |m| {
            m.set("Accept", "");
        },
        (200, None),
    ),
    (
        "a wildcard",
        |m| {
            m.set("Accept", "text/plain, */*;q=0.1");
        },
        (200, None),
    ),
    (
        "the second one",
        |m| {
            m.set("Accept", "text/plain").push("Accept", "application/pidf+xml");
        },
        (200, None),
    ),
    (
        "a list",
        |m| {
            m.set("Accept", "multipart/related, application/rlmi+xml");
        },
        (200, None),
    ),
    (
        "an older name",
        |m| {
            m.set("Accept", "application/xpidf+xml, text/xml+msrtc.pidf");
        },
        (200, None),
    ),
    (
        "winfo",
        |m| {
            m.set("Event", "presence.winfo").set("Accept", "application/watcherinfo+xml");
        },
        (200, None),
    ),
    (
        "winfo as presence",
        |m| {
            m.set("Event", "presence.winfo");
        },
        (406, None),
    ),
    (
        "lamp",
        |m| {
            m.set("Event", "dialog").set("Accept", "application/dialog-info+xml");
        },
        (200, None),
    ),
    (
        "lamp as presence",
        |m| {
            m.set("Event", "dialog");
        },
        (406, None),
    ),
    (
        "mailbox",
        |m| {
            m.set("Event", "message-summary").set("Accept", "application/simple-message-summary");
        },
        (200, None),
    ),
];

fn compare(what: &str, reply: &Message, (code, header): Outcome) {
    // Stock looks at none of this.
    let expected = differs(&format!("B47 {what}"), 200, code);
    assert_eq!(reply.status(), Some(expected), "{what}");
    if expected == code
        && let Some((name, value)) = header
    {
        assert_eq!(reply.header(name), Some(value), "{what}");
    }
}

both_storages! {
    fn b47_demands_that_cannot_be_met_are_refused(storage) {
        let kamailio = Kamailio::start(Config::new(storage).stateless());
        for (what, change, outcome) in BOTH {
            let mut phone = Publisher::udp(&kamailio, "alice");
            let mut message = phone.message(Some(&bodies::open("alice")));
            change(&mut message);
            compare(&format!("PUBLISH, {what}"), &phone.send(&message), *outcome);
        }
        for (what, change, outcome) in BOTH.iter().chain(SUBSCRIBE) {
            if what.contains("winfo") && storage == Storage::Memory && !ours_only("D2: it crashes") {
                continue;
            }
            let mut watcher = Watcher::udp(&kamailio, "alice");
            let mut message = watcher.message();
            change(&mut message);
            compare(&format!("SUBSCRIBE, {what}"), &watcher.send(&message), *outcome);
        }
        // In a dialog as well; the subscription stays, and can be ended.
        let mut watcher = Watcher::udp(&kamailio, "alice");
        watcher.subscribe(600);
        for (what, change, outcome) in BOTH.iter().chain(SUBSCRIBE).filter(|row| {
            row.2.0 != 200 && !row.0.contains(" as ") && !row.0.starts_with("CSeq")
        }) {
            let mut message = watcher.message();
            change(&mut message);
            compare(&format!("refresh, {what}"), &watcher.send(&message), *outcome);
        }
        let mut message = watcher.message();
        message.set("Accept", "text/plain").set("Expires", "0");
        assert_eq!(watcher.send(&message).status(), Some(200));
        watcher.wait_notify("the last one", |n| n.state == "terminated");
        kamailio.finish();
    }

    fn a_long_contact_is_400_in_a_refresh_too(storage) {
        let storages = match storage {
            Storage::Memory => vec![storage, Storage::sqlite(3, 0), Storage::sqlite(1, 1)],
            _ => vec![storage],
        };
        for storage in storages {
            let kamailio = Kamailio::start(Config::new(storage));
            let mut watcher = Watcher::udp(&kamailio, "alice");
            watcher.subscribe(600);
            let contact = watcher.contact.clone();
            let long = contact.replace('>', &format!(";x={}>", "y".repeat(17_000)));
            for refresh in [true, false] {
                if !refresh {
                    watcher.new_dialog();
                }
                watcher.contact = long.clone();
                let reply = watcher.try_subscribe(600);
                let expected = differs("B3 a Contact of 17 kB", vec![200, 500], vec![400]);
                let code = reply.status().unwrap_or(0);
                assert!(expected.contains(&code), "{storage:?}, refresh {refresh}: {code}");
                if code == 400 {
                    assert_eq!(reply.reason(), "Header Fields Too Long");
                }
            }
            kamailio.finish();
        }
    }
}

#[test]
fn a_reason_names_the_header_that_is_at_fault() {
    let kamailio = Kamailio::start(Config::new(Storage::Memory).stateless());
    let rows: &[(&str, Change, &str)] = &[
        (
            "two Max-Forwards",
            |m| {
                m.push("Max-Forwards", "5");
            },
            "More Than One Max-Forwards",
        ),
        (
            "no Contact",
            |m| {
                m.remove("Contact");
            },
            "Missing Contact",
        ),
        (
            "Contact *",
            |m| {
                m.set("Contact", "*");
            },
            "Malformed Contact",
        ),
        (
            "two Contacts",
            |m| {
                m.push("Contact", "<sip:x@127.0.0.1:9>");
            },
            "More Than One Contact",
        ),
        (
            "From without URI",
            |m| {
                m.set("From", "<nonsense>;tag=x");
            },
            "Malformed From",
        ),
        (
            "To without URI",
            |m| {
                m.set("To", "<nonsense>");
            },
            "Malformed To",
        ),
        (
            "To that names no host",
            |m| {
                m.set("To", "<sip:>");
            },
            "Malformed To",
        ),
        (
            "no From tag",
            |m| {
                m.set("From", "<sip:w@example.test>");
            },
            "Missing From Tag",
        ),
        (
            "Expires",
            |m| {
                m.set("Expires", "soon");
            },
            "Malformed Expires",
        ),
        (
            "CSeq",
            |m| {
                m.set("CSeq", "x SUBSCRIBE");
            },
            "Malformed CSeq",
        ),
        ("CSeq too high", |m| cseq(m, 1 << 31), "CSeq Out Of Range"),
    ];
    for (what, change, reason) in rows {
        let mut watcher = Watcher::udp(&kamailio, "alice");
        let mut message = watcher.message();
        change(&mut message);
        let replies = watcher.endpoint.exchange(&message.to_bytes(), Duration::ZERO);
        let replies: Vec<_> =
            replies.iter().map(|reply| (reply.status(), reply.reason())).collect();
        let named = replies == [(Some(400), *reason)];
        assert_eq!(named, differs(&format!("B3 {what}"), false, true), "{what}: {replies:?}");
    }
    kamailio.finish();
}

/// From and To values that are none, or are no party to a dialog.
const NOT_ADDRESSES: &[&str] = &[
    "<nonsense>;tag=1",
    "nonsense;tag=1",
    "<sip:>;tag=1",
    "<>;tag=1",
    ";tag=1",
    "<sip:a@b:port>;tag=1",
    "<sip:a@>;tag=1",
    "<sip:@b>;tag=1",
    "<sip:a@b;tag=1",
    "\"open <sip:a@b>;tag=1",
    "<sip:a@[::1>;tag=1",
    "<http://b>;tag=1",
    "<sip:a@b>;tag=",
    "<sip:a@b> <sip:c@d>;tag=1",
    "sip:a@b, sip:c@d",
];

#[test]
fn a_party_that_cannot_be_read_is_never_a_fault_of_the_server() {
    for stateless in [true, false] {
        let config = Config::new(Storage::Memory);
        let kamailio = Kamailio::start(if stateless { config.stateless() } else { config });
        let mut wrong = Vec::new();
        for (name, value) in
            ["From", "To"].into_iter().flat_map(|n| NOT_ADDRESSES.iter().map(move |v| (n, *v)))
        {
            let mut watcher = Watcher::udp(&kamailio, "alice");
            let mut phone = Publisher::udp(&kamailio, "alice");
            let subscribe = watcher.message();
            let publish = phone.message(Some(&bodies::open("alice")));
            for (endpoint, mut message) in
                [(&watcher.endpoint, subscribe), (&phone.endpoint, publish)]
            {
                message.set(name, value);
                let replies = endpoint.exchange(&message.to_bytes(), Duration::ZERO);
                let codes: Vec<u16> = replies.iter().filter_map(Message::status).collect();
                let reached = kamailio.log().contains(&format!(
                    "SCRIPT-RESULT {} -1 {}",
                    message.method(),
                    message.call_id()
                ));
                if reached && codes.contains(&500) {
                    wrong.push(format!("{} {name}: {value}: {codes:?}", message.method()));
                }
            }
        }
        let wrong_ones =
            differs("B3 a From or To that cannot be parsed", wrong.clone(), Vec::new());
        assert_eq!(wrong, wrong_ones);
        kamailio.finish();
    }
}
