//! What a SUBSCRIBE says about its dialog: remote target, route set, and the
//! address at which we are reached.

use crate::error::Rejection;
use crate::host::message::Message;
use crate::host::{sys, text};
use crate::presence::name_addr;
use crate::presence::text::push_decimal;

impl<'a> Message<'a> {
    pub(super) fn contact(self) -> Result<&'a [u8], Rejection> {
        let field = self.fields().contact;
        let value = self.filled(field).ok_or(Rejection::bad_request("Missing Contact"))?;
        if let Some(address) = name_addr::single(value) {
            return Ok(address.uri);
        }
        // SAFETY: the field is not NULL; a parsed Contact lives as long as the
        // message, its URI points into the request's text.
        let uri = unsafe {
            if sys::parse_contact(field) < 0 {
                None
            } else {
                (*field)
                    .parsed
                    .cast::<sys::contact_body>()
                    .as_ref()
                    .filter(|body| body.star == 0)
                    .and_then(|body| body.contacts.as_ref())
                    .map(|contact| text::bytes(contact.uri))
            }
        };
        // A line folded inside the URI would break the request line of NOTIFYs.
        let whole = |uri: &&[u8]| !uri.is_empty() && !uri.iter().any(u8::is_ascii_control);
        uri.filter(whole).ok_or(Rejection::bad_request("Malformed Contact"))
    }

    /// All Record-Route values in received order. As in stock, one that
    /// cannot be parsed leaves the dialog without a route set.
    pub(super) fn record_route(self) -> Vec<u8> {
        let mut route = Vec::new();
        let mut field = self.fields().record_route;
        // SAFETY: header fields live as long as the message; `sibling` leads
        // to the next one of the same type. Parsed routes point into the text.
        while let Some(header) = unsafe { field.as_mut() } {
            if let Some(plain) = self.header(header).and_then(name_addr::list) {
                for address in plain {
                    append(&mut route, address.whole);
                }
                // SAFETY: as above.
                field = unsafe { next_sibling(header) };
                continue;
            }
            // SAFETY: as above.
            if unsafe { sys::parse_rr(header) } < 0 {
                return Vec::new();
            }
            let mut value = header.parsed.cast::<sys::rr_t>();
            // SAFETY: as above; `len` covers the address and its parameters.
            while let Some(one) = unsafe { value.as_ref() } {
                let content = sys::_str { s: one.nameaddr.name.s, len: one.len };
                // SAFETY: as above.
                append(&mut route, unsafe { text::bytes(content) });
                value = one.next;
            }
            // SAFETY: as above.
            field = unsafe { next_sibling(header) };
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

/// The next header of the same type (Kamailio's `next_sibling_hdr`).
///
/// # Safety
/// `field` belongs to a message's list of headers.
unsafe fn next_sibling(field: &sys::hdr_field) -> *mut sys::hdr_field {
    let mut next = field.next;
    // SAFETY: the caller's promise.
    while let Some(header) = unsafe { next.as_ref() } {
        if header.type_ == field.type_ {
            break;
        }
        next = header.next;
    }
    next
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
