//! The headers that presence adds to a NOTIFY, byte for byte as the stock
//! module writes them.

use std::borrow::Cow;

use crate::presence::text;

/// The state that a NOTIFY reports (RFC 6665 4.1.3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SubscriptionState {
    /// The watcher may see the state.
    Active {
        /// Seconds left.
        expires: u32,
    },
    /// Nobody has decided yet.
    Pending {
        /// Seconds left.
        expires: u32,
    },
    /// The subscription is over with this NOTIFY.
    Terminated {
        /// Why, such as `timeout`; left out if empty.
        reason: Vec<u8>,
    },
}

/// Appends the header lines, each ended by CR LF.
///
/// `event_name` is the package's registered name and `event_id` the `id` that
/// the watcher gave, empty for none. `local_contact` is our Contact URI
/// (`contact_uri`). `content_type` is `None` when there is no body.
pub fn headers(
    out: &mut Vec<u8>,
    event_name: &[u8],
    event_id: &[u8],
    local_contact: &[u8],
    state: &SubscriptionState,
    content_type: Option<&[u8]>,
) {
    out.extend_from_slice(b"Max-Forwards: 70\r\nEvent: ");
    value(out, event_name);
    if !event_id.is_empty() {
        out.extend_from_slice(b";id=");
        value(out, event_id);
    }
    out.extend_from_slice(b"\r\nContact: <");
    value(out, local_contact);
    out.extend_from_slice(b">\r\nSubscription-State: ");
    match state {
        SubscriptionState::Active { expires } => {
            out.extend_from_slice(b"active;expires=");
            text::push_decimal(out, *expires);
        }
        SubscriptionState::Pending { expires } => {
            out.extend_from_slice(b"pending;expires=");
            text::push_decimal(out, *expires);
        }
        SubscriptionState::Terminated { reason } => {
            out.extend_from_slice(b"terminated");
            if !reason.is_empty() {
                out.extend_from_slice(b";reason=");
                value(out, reason);
            }
        }
    }
    out.extend_from_slice(b"\r\n");
    if let Some(content_type) = content_type {
        out.extend_from_slice(b"Content-Type: ");
        value(out, content_type);
        out.extend_from_slice(b"\r\n");
    }
}

/// Our Contact URI in replies and NOTIFYs: a `server_address` that names no
/// transport gets that of the socket (`proto:ip:port`) on which we were reached.
pub fn contact_uri<'a>(local_contact: &'a [u8], socket: &[u8]) -> Cow<'a, [u8]> {
    const TRANSPORT: &[u8] = b";transport=";
    let is_named = || local_contact.windows(TRANSPORT.len()).any(|window| window == TRANSPORT);
    let protocol = [&b"sctp"[..], b"tcp", b"tls", b"ws"].into_iter().find(|protocol| {
        socket.get(..protocol.len()).is_some_and(|start| start.eq_ignore_ascii_case(protocol))
    });
    match protocol {
        Some(protocol) if !is_named() => Cow::Owned([local_contact, TRANSPORT, protocol].concat()),
        _ => Cow::Borrowed(local_contact),
    }
}

/// Appends a header value. Line breaks and NULs, which a folded header or a
/// foreign database row may hold, become spaces: no value starts a header.
fn value(out: &mut Vec<u8>, text: &[u8]) {
    let start = out.len();
    out.extend_from_slice(text);
    // Writing each byte, changed or not, takes many of them at a time.
    for byte in out.get_mut(start..).unwrap_or_default() {
        let breaks = (*byte == b'\r') | (*byte == b'\n') | (*byte == 0);
        *byte = if breaks { b' ' } else { *byte };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn written(id: &str, state: SubscriptionState, content_type: Option<&str>) -> String {
        let mut out = Vec::new();
        let content_type = content_type.map(str::as_bytes);
        headers(&mut out, b"dialog;sla", id.as_bytes(), b"sip:1.2.3.4:5060", &state, content_type);
        String::from_utf8_lossy(&out).into_owned()
    }

    #[test]
    fn headers_are_those_of_stock_in_its_order() {
        assert_eq!(
            written("7", SubscriptionState::Active { expires: 3600 }, Some("application/pidf+xml")),
            "Max-Forwards: 70\r\nEvent: dialog;sla;id=7\r\nContact: <sip:1.2.3.4:5060>\r\n\
             Subscription-State: active;expires=3600\r\nContent-Type: application/pidf+xml\r\n"
        );
        assert_eq!(
            written("", SubscriptionState::Terminated { reason: b"timeout".to_vec() }, None),
            "Max-Forwards: 70\r\nEvent: dialog;sla\r\nContact: <sip:1.2.3.4:5060>\r\n\
             Subscription-State: terminated;reason=timeout\r\n"
        );
    }

    #[test]
    fn every_state_has_its_line() {
        for (state, line) in [
            (SubscriptionState::Active { expires: 0 }, "active;expires=0"),
            (SubscriptionState::Pending { expires: u32::MAX }, "pending;expires=4294967295"),
            (SubscriptionState::Terminated { reason: Vec::new() }, "terminated"),
        ] {
            let headers = written("", state, None);
            assert!(headers.ends_with(&format!("\r\nSubscription-State: {line}\r\n")), "{headers}");
        }
    }

    #[test]
    fn the_contact_names_the_transport() {
        for (contact, socket, uri) in [
            ("sip:a", "udp:1.2.3.4:5060", "sip:a"),
            ("sip:a", "tcp:1.2.3.4:5060", "sip:a;transport=tcp"),
            ("sip:a", "TLS:1.2.3.4:5061", "sip:a;transport=tls"),
            ("sip:a", "sctp:1.2.3.4:5060", "sip:a;transport=sctp"),
            ("sip:a", "ws:1.2.3.4:80", "sip:a;transport=ws"),
            ("sip:a", "", "sip:a"),
            ("sip:a;transport=udp", "tcp:1.2.3.4:5060", "sip:a;transport=udp"),
        ] {
            assert_eq!(contact_uri(contact.as_bytes(), socket.as_bytes()), uri.as_bytes());
        }
    }

    proptest! {
        #[test]
        fn no_value_starts_a_header(
            name: Vec<u8>, id: Vec<u8>, contact: Vec<u8>, reason: Vec<u8>, content_type: Vec<u8>,
        ) {
            let mut out = Vec::new();
            let state = SubscriptionState::Terminated { reason };
            headers(&mut out, &name, &id, &contact, &state, Some(&content_type));
            prop_assert!(out.ends_with(b"\r\n"));
            let breaks = out.iter().filter(|b| matches!(b, b'\r' | b'\n')).count();
            prop_assert_eq!(breaks, 5 * 2);
        }
    }
}
