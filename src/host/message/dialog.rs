//! What a SUBSCRIBE says about its dialog: remote target, route set, and the
//! address at which we are reached.

use crate::error::Rejection;
use crate::host::message::Message;
use crate::host::message::header::Header;
use crate::host::{sys, text};
use crate::presence::name_addr;
use crate::presence::text::push_decimal;

/// Where NOTIFYs are to go.
pub(super) struct Contact<'a> {
    /// The first address, without header parameters.
    pub uri: &'a [u8],
    /// There are more.
    pub is_list: bool,
}

impl<'a> Message<'a> {
    /// The Contact as the script has left it.
    pub(super) fn contact(self) -> Result<Contact<'a>, Rejection> {
        const MISSING: Rejection = Rejection::bad_request("Missing Contact");
        // SAFETY: the field belongs to this message.
        let header = unsafe { Header::new(self.fields().contact) }.ok_or(MISSING)?;
        if header.text().is_empty() {
            return Err(MISSING);
        }
        let has_sibling = header.sibling().is_some_and(|other| !other.text().is_empty());
        if let Some(address) = header.untouched().and_then(name_addr::single) {
            return Ok(Contact { uri: address.uri, is_list: has_sibling });
        }
        // SAFETY: the parser of Contacts makes a `contact_body`; its URIs point
        // into the message's text, or into what the script has made of it, which
        // stays as long.
        let contact = unsafe {
            header
                .parsed::<sys::contact_body>(sys::parse_contact)
                .filter(|body| body.star == 0)
                .and_then(|body| body.contacts.as_ref())
                .map(|contact| Contact {
                    uri: text::bytes(contact.uri),
                    is_list: has_sibling || !contact.next.is_null(),
                })
        };
        // A line folded inside the URI would break the request line of NOTIFYs.
        let whole = |uri: &[u8]| !uri.is_empty() && !uri.iter().any(u8::is_ascii_control);
        contact
            .filter(|contact| whole(contact.uri))
            .ok_or(Rejection::bad_request("Malformed Contact"))
    }

    /// All Record-Route values in received order. As in stock, one that
    /// cannot be parsed leaves the dialog without a route set.
    pub(super) fn record_route(self) -> Vec<u8> {
        let mut route = Vec::new();
        // SAFETY: the field belongs to this message.
        let first = unsafe { Header::new(self.fields().record_route) };
        for header in std::iter::successors(first, |header| header.sibling()) {
            if let Some(plain) = header.untouched().and_then(name_addr::list) {
                for address in plain {
                    append(&mut route, address.whole);
                }
                continue;
            }
            // SAFETY: the parser of routes makes an `rr`.
            let Some(parsed) = (unsafe { header.parsed::<sys::rr_t>(sys::parse_rr) }) else {
                return Vec::new();
            };
            let mut value = Some(parsed);
            while let Some(one) = value {
                let content = sys::_str { s: one.nameaddr.name.s, len: one.len };
                // SAFETY: parsed routes point into the message's text; `len`
                // covers the address and its parameters.
                append(&mut route, unsafe { text::bytes(content) });
                // SAFETY: a list that lives as long as the message.
                value = unsafe { one.next.as_ref() };
            }
        }
        route
    }

    /// `sip:` address and port of the receiving socket, as advertised.
    pub(super) fn local_contact(self) -> Vec<u8> {
        let received = &self.fields().rcv;
        // SAFETY: every received request has the socket it came in on, which
        // stays while the server runs.
        let (name, port) = unsafe {
            let socket = &*received.bind_address;
            let name = match text::bytes(socket.useinfo.name) {
                b"" => text::bytes(socket.address_str),
                advertised => advertised,
            };
            let advertised = u32::from(socket.useinfo.port_no);
            (name, if advertised > 0 { advertised } else { u32::from(socket.port_no) })
        };
        let transport = match u32::try_from(received.proto).unwrap_or(0) {
            sys::sip_protos_PROTO_TCP => "tcp",
            sys::sip_protos_PROTO_TLS => "tls",
            sys::sip_protos_PROTO_SCTP => "sctp",
            sys::sip_protos_PROTO_WS | sys::sip_protos_PROTO_WSS => "ws",
            _ => "udp",
        };
        let scheme: &[u8] = if name.starts_with(b"sip:") { b"" } else { b"sip:" };
        let (open, close): (&[u8], &[u8]) =
            if name.contains(&b':') && !name.starts_with(b"[") && !scheme.is_empty() {
                (b"[", b"]")
            } else {
                (b"", b"")
            };
        let mut contact = Vec::with_capacity(name.len() + 32);
        for part in [scheme, open, name, close, b":"] {
            contact.extend_from_slice(part);
        }
        push_decimal(&mut contact, port);
        contact.extend_from_slice(b";transport=");
        contact.extend_from_slice(transport.as_bytes());
        contact
    }
}

/// Appends one value of a route set.
fn append(route: &mut Vec<u8>, value: &[u8]) {
    if !route.is_empty() {
        route.extend_from_slice(b", ");
    }
    route.extend(text::unfolded(value));
}

/// The script's flags of the request's first branch.
pub(super) fn branch_flags() -> u32 {
    let mut flags: sys::flag_t = 0;
    // SAFETY: writes one integer.
    if unsafe { sys::getbflagsval(0, &raw mut flags) } < 0 {
        return 0;
    }
    flags
}
