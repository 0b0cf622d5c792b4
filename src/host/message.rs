//! Kamailio's parsed request, read into what the presence logic works on.
//!
//! A header that every request must have and that is missing or malformed is
//! refused here with a 400 that names it. What the script has changed counts
//! (A16): the parsed form of a header, a new Request-URI.

mod dialog;
mod header;
mod malformed;

use std::marker::PhantomData;
use std::ptr::NonNull;

use crate::error::Rejection;
use crate::host::message::header::Header;
use crate::host::{sys, text};
use crate::presence::cseq::CSeq;
use crate::presence::demands::Demands;
use crate::presence::notify_headers::contact_uri;
use crate::presence::request::{PublishRequest, RequestId, SubscribeRequest, UriParts, watched};
use crate::presence::uri;

/// Longest User-Agent that is kept (width of its database column).
const MAX_USER_AGENT: usize = 254;

/// The request being handled. Its text stays in place and unchanged while
/// Kamailio routes it, which is what `'a` stands for.
#[derive(Debug, Clone, Copy)]
pub struct Message<'a> {
    raw: NonNull<sys::sip_msg>,
    text: PhantomData<&'a [u8]>,
}

impl<'a> Message<'a> {
    /// Around Kamailio's message; `None` for NULL.
    ///
    /// # Safety
    /// `msg` is NULL or the request that this process is routing, and stays
    /// so for `'a`.
    pub unsafe fn new(msg: *mut sys::sip_msg) -> Option<Message<'a>> {
        Some(Message { raw: NonNull::new(msg)?, text: PhantomData })
    }

    /// Kamailio's message.
    pub fn as_ptr(self) -> *mut sys::sip_msg {
        self.raw.as_ptr()
    }

    /// Call-ID for log lines; empty if there is none.
    pub fn call_id(self) -> &'a [u8] {
        self.header(self.fields().callid).unwrap_or_default()
    }

    /// Bytes of the body; 0 where it cannot be read.
    pub fn body_length(self) -> usize {
        self.body().map_or(0, <[u8]>::len)
    }

    /// The body, Content-Type and From URI of a message of another server.
    pub fn peer_message(self) -> Result<[&'a [u8]; 3], Rejection> {
        self.parse_headers()?;
        // SAFETY: the URI lies in the message's text.
        let from = unsafe { text::bytes(self.from()?.uri) };
        let content_type = self.filled(self.fields().content_type).unwrap_or_default();
        Ok([self.body()?, content_type, from])
    }

    /// Reads a PUBLISH. `sender` is the script's parameter.
    pub fn publish(self, sender: Option<&'a [u8]>) -> Result<PublishRequest<'a>, Rejection> {
        self.parse_headers()?;
        let from = self.from()?;
        self.to()?;
        if let Some(sender) = sender {
            parse_uri(sender).ok_or(Rejection::bad_request("Malformed Sender URI"))?;
        }
        let demands = self.demands();
        Ok(PublishRequest {
            id: self.id(from)?,
            presentity: self.request_uri()?,
            event: self.filled(self.fields().event),
            expires: self.filled(self.fields().expires),
            if_match: self.entity_tag_condition(),
            content_type: self.filled(self.fields().content_type),
            body: self.body()?,
            sender,
            socket: match self.is_websocket() {
                // It listens where TCP does.
                true => b"ws:",
                false => self.socket(),
            },
            demands,
        })
    }

    /// Reads a SUBSCRIBE. `watcher` is the script's parameter;
    /// `server_address` our Contact, if configured.
    pub fn subscribe(
        self,
        watcher: Option<&'a [u8]>,
        server_address: &[u8],
    ) -> Result<SubscribeRequest<'a>, Rejection> {
        self.parse_headers()?;
        let from = self.from()?;
        let to = self.to()?;
        let id = self.id(from)?;
        if id.from_tag.is_empty() {
            return Err(Rejection::bad_request("Missing From Tag"));
        }
        let from_uri = party(from).ok_or(Rejection::bad_request("Malformed From"))?;
        let to_uri = party(to).ok_or(Rejection::bad_request("Malformed To"))?;
        let watcher = match watcher {
            Some(uri) => parts(uri).ok_or(Rejection::bad_request("Malformed Watcher URI"))?,
            None => from_uri,
        };
        // SAFETY: the tag lies in the request's text.
        let to_tag = unsafe { text::bytes(to.tag_value) };
        let contact = self.contact()?;
        let mut demands = self.demands();
        demands.second_contact |= contact.is_list;
        let contact = contact.uri;
        let local_contact = match server_address {
            [] => self.local_contact(),
            address if self.is_websocket() => contact_uri(address, b"ws:").into_owned(),
            address => address.to_vec(),
        };
        Ok(SubscribeRequest {
            id,
            presentity: watched(self.request_uri()?, to_uri, self.user_taken_out()),
            to: to_uri,
            to_tag: (!to_tag.is_empty()).then_some(to_tag),
            from: from_uri,
            watcher,
            event: self.filled(self.fields().event),
            expires: self.filled(self.fields().expires),
            contact,
            contact_user: parts(contact).map_or(b"", |uri| uri.user),
            record_route: self.record_route(),
            socket: self.socket(),
            local_contact,
            user_agent: self
                .filled(self.fields().user_agent)
                .filter(|agent| agent.len() <= MAX_USER_AGENT)
                .unwrap_or_default(),
            flags: dialog::branch_flags(),
            demands,
        })
    }

    fn fields(self) -> &'a sys::sip_msg {
        // SAFETY: `new` was promised a valid message; parsing adds to it
        // between, not during, uses of this reference.
        unsafe { self.raw.as_ref() }
    }

    /// The trimmed value of a header that was found.
    fn header(self, field: *mut sys::hdr_field) -> Option<&'a [u8]> {
        // SAFETY: `field` is one of this message's list.
        unsafe { Header::new(field) }.map(Header::text)
    }

    /// Gives what `header` gives; one without a value counts as absent.
    fn filled(self, field: *mut sys::hdr_field) -> Option<&'a [u8]> {
        self.header(field).filter(|value| !value.is_empty())
    }

    fn parse_headers(self) -> Result<(), Rejection> {
        // SAFETY: the message is valid; parsing only completes it.
        if unsafe { sys::kshim_parse_headers(self.as_ptr()) } == 0 {
            return Ok(());
        }
        let reason = self.malformed();
        self.pass_over();
        Err(Rejection::bad_request(reason))
    }

    fn to(self) -> Result<&'a sys::to_body, Rejection> {
        // SAFETY: To is parsed when it is found, into a `to_body` that lives
        // as long as the message.
        match unsafe { self.fields().to.as_ref() } {
            None => Err(Rejection::bad_request("Missing To")),
            // SAFETY: a To that is found was parsed into a `to_body`, which stays
            // with the message.
            Some(field) => unsafe { field.parsed.cast::<sys::to_body>().as_ref() }
                .filter(|to| to.uri.len > 0)
                .ok_or(Rejection::bad_request("Malformed To")),
        }
    }

    fn from(self) -> Result<&'a sys::to_body, Rejection> {
        if self.header(self.fields().from).is_none() {
            return Err(Rejection::bad_request("Missing From"));
        }
        // SAFETY: the message is valid; a parsed From lives as long as it does.
        let from = unsafe {
            if sys::parse_from_header(self.as_ptr()) != 0 {
                None
            } else {
                self.fields()
                    .from
                    .as_ref()
                    .and_then(|field| field.parsed.cast::<sys::to_body>().as_ref())
            }
        };
        from.filter(|from| from.uri.len > 0).ok_or(Rejection::bad_request("Malformed From"))
    }

    fn id(self, from: &'a sys::to_body) -> Result<RequestId<'a>, Rejection> {
        let call_id = match self.header(self.fields().callid) {
            None => return Err(Rejection::bad_request("Missing Call-ID")),
            Some([]) => return Err(Rejection::bad_request("Malformed Call-ID")),
            Some(call_id) => call_id,
        };
        // SAFETY: CSeq is parsed when it is found, into a `cseq_body` that
        // lives as long as the message, as does the first Via with its branch.
        let (number, branch) = unsafe {
            let field =
                self.fields().cseq.as_ref().ok_or(Rejection::bad_request("Missing CSeq"))?;
            let number =
                field.parsed.cast::<sys::cseq_body>().as_ref().map(|cseq| text::bytes(cseq.number));
            let via = self.fields().via1.as_ref().ok_or(Rejection::bad_request("Missing Via"))?;
            (number, via.branch.as_ref().map_or(&b""[..], |branch| text::bytes(branch.value)))
        };
        let cseq = number
            .and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok())
            .ok_or(Rejection::bad_request("Malformed CSeq"))?;
        // SAFETY: the tag lies in the request's text.
        let from_tag = unsafe { text::bytes(from.tag_value) };
        Ok(RequestId { call_id, from_tag, cseq: CSeq(cseq), branch })
    }

    fn request_uri(self) -> Result<UriParts<'a>, Rejection> {
        // SAFETY: the message is valid; the parts point into the Request-URI,
        // which no one rewrites while we handle the request.
        unsafe {
            if sys::parse_sip_msg_uri(self.as_ptr()) < 0 {
                return Err(Rejection::bad_request("Malformed Request-URI"));
            }
            let uri = &self.fields().parsed_uri;
            Ok(UriParts { user: text::bytes(uri.user), host: text::bytes(uri.host) })
        }
    }

    /// The script has taken the user out of the Request-URI.
    fn user_taken_out(self) -> bool {
        let message = self.fields();
        // SAFETY: the first line of a request, and what the script has put in
        // the place of its URI, stay while we handle it.
        let (received, rewritten) =
            unsafe { (text::bytes(message.first_line.u.request.uri), message.new_uri) };
        !rewritten.s.is_null() && parts(received).is_some_and(|uri| !uri.user.is_empty())
    }

    /// The address that it has come from, in bytes.
    pub fn source(self) -> &'a [u8] {
        // SAFETY: the request stays for `'a`, and with it its own address, of which
        // all 16 bytes can be read.
        let address = unsafe { &(*self.raw.as_ptr()).rcv.src_ip };
        // SAFETY: the union is all bytes.
        let bytes = unsafe { &address.u.addr };
        bytes.get(..address.len as usize).unwrap_or_default()
    }

    /// The socket that received it.
    fn socket(self) -> &'a [u8] {
        // SAFETY: every received request has the socket it came in on, which
        // stays while the server runs.
        unsafe { text::bytes((*self.fields().rcv.bind_address).sock_str) }
    }

    fn is_websocket(self) -> bool {
        let protocol = u32::try_from(self.fields().rcv.proto).unwrap_or(0);
        matches!(protocol, sys::sip_protos_PROTO_WS | sys::sip_protos_PROTO_WSS)
    }

    /// All its headers, in received order.
    fn headers(self) -> impl Iterator<Item = Header<'a>> {
        // SAFETY: the list belongs to this message.
        let first = unsafe { Header::new(self.fields().headers) };
        std::iter::successors(first, |header| header.next())
    }

    fn demands(self) -> Demands<'a> {
        let mut demands = Demands::default();
        for header in self.headers() {
            match header.kind() {
                sys::_hdr_types_t_HDR_REQUIRE_T => demands.require.push(header.text()),
                sys::_hdr_types_t_HDR_CONTENTENCODING_T => {
                    demands.content_encoding.push(header.text());
                }
                sys::_hdr_types_t_HDR_ACCEPT_T => demands.accept.push(header.text()),
                _ => {}
            }
        }
        demands
    }

    /// The first header of exactly this name, as stock looks for it.
    fn entity_tag_condition(self) -> Option<&'a [u8]> {
        self.headers()
            .find(|header| header.name().eq_ignore_ascii_case(b"SIP-If-Match"))
            .map(Header::text)
    }

    fn body(self) -> Result<&'a [u8], Rejection> {
        let message = self.fields();
        // SAFETY: all headers are parsed, so the body's start is known; it
        // lies within the `len` bytes at `buf`.
        let available = unsafe {
            let start = sys::get_body(self.as_ptr());
            let end = message.buf.add(usize::try_from(message.len).unwrap_or(0));
            if start.is_null() || start > end {
                &b""[..]
            } else {
                let length = usize::try_from(end.offset_from(start)).unwrap_or(0);
                std::slice::from_raw_parts(start.cast::<u8>(), length)
            }
        };
        // SAFETY: the parser stores the number of a Content-Length in the
        // place of the pointer.
        match unsafe { message.content_length.as_ref() }.map(|field| field.parsed.addr()) {
            None => Ok(available),
            Some(length) => {
                available.get(..length).ok_or(Rejection::bad_request("Malformed Content-Length"))
            }
        }
    }
}

fn parse_uri(uri: &[u8]) -> Option<sys::sip_uri> {
    let mut parsed = sys::sip_uri::default();
    let lent = text::lend(uri);
    // SAFETY: reads the URI's bytes, writes to `parsed` only.
    (!uri.is_empty() && unsafe { sys::parse_uri(lent.s, lent.len, &raw mut parsed) } == 0)
        .then_some(parsed)
}

/// User and host of a URI; `None` if it cannot be parsed.
pub fn parts(uri: &[u8]) -> Option<UriParts<'_>> {
    if let Some(plain) = uri::plain(uri) {
        return Some(plain);
    }
    let parsed = parse_uri(uri)?;
    // SAFETY: the parsed parts point into `uri`.
    unsafe { Some(UriParts { user: text::bytes(parsed.user), host: text::bytes(parsed.host) }) }
}

/// User and host of a From or To; the parsed URI counts where there is one.
fn party(body: &sys::to_body) -> Option<UriParts<'_>> {
    let uri = &body.parsed_uri;
    // SAFETY: a parsed header points into the request's text, which outlives it.
    let (user, host, text) =
        unsafe { (text::bytes(uri.user), text::bytes(uri.host), text::bytes(body.uri)) };
    if user.is_empty() || host.is_empty() { parts(text) } else { Some(UriParts { user, host }) }
}
