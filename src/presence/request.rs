//! SIP requests as the presence logic sees them: borrowed header values, not
//! yet judged. The host fills them from its parsed message; a header that is
//! mandatory for any SIP request and missing or malformed never gets here
//! (the host's reader refuses it with a 400 that names the header).

/// User and host of a SIP, SIPS, PRES or TEL URI, as spelled in the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UriParts<'a> {
    /// User part without password or parameters; empty if there is none.
    pub user: &'a [u8],
    /// Host without port.
    pub host: &'a [u8],
}

/// What tells a retransmission from a new request (RFC 3261 8.2.2.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestId<'a> {
    /// Call-ID.
    pub call_id: &'a [u8],
    /// From tag; empty if there is none.
    pub from_tag: &'a [u8],
    /// CSeq number.
    pub cseq: u32,
    /// Branch of the topmost Via; empty if there is none.
    pub branch: &'a [u8],
}

/// A PUBLISH (RFC 3903).
#[derive(Debug, Clone, Copy)]
pub struct PublishRequest<'a> {
    /// Retransmission identity.
    pub id: RequestId<'a>,
    /// The presentity: the Request-URI.
    pub presentity: UriParts<'a>,
    /// Value of Event, the first if there are several.
    pub event: Option<&'a [u8]>,
    /// Value of Expires.
    pub expires: Option<&'a [u8]>,
    /// Value of SIP-If-Match.
    pub if_match: Option<&'a [u8]>,
    /// Value of Content-Type.
    pub content_type: Option<&'a [u8]>,
    /// The body as Content-Length bounds it; empty for none.
    pub body: &'a [u8],
    /// The publisher's own watcher URI, not to be notified (`sender_uri`).
    pub sender: Option<&'a [u8]>,
}

/// A SUBSCRIBE (RFC 6665).
#[derive(Debug, Clone)]
pub struct SubscribeRequest<'a> {
    /// Retransmission identity.
    pub id: RequestId<'a>,
    /// The Request-URI: the presentity of an initial request.
    pub request_uri: UriParts<'a>,
    /// URI of To.
    pub to: UriParts<'a>,
    /// To tag: absent in an initial request.
    pub to_tag: Option<&'a [u8]>,
    /// URI of From.
    pub from: UriParts<'a>,
    /// Identity of the watcher: `watcher_uri`, else From.
    pub watcher: UriParts<'a>,
    /// Value of Event.
    pub event: Option<&'a [u8]>,
    /// Value of Expires.
    pub expires: Option<&'a [u8]>,
    /// First URI of Contact, without header parameters.
    pub contact: &'a [u8],
    /// User part of the Contact URI (dialog;sla takes the presentity from it).
    pub contact_user: &'a [u8],
    /// Record-Route values in received order, joined by ", "; empty for none.
    pub record_route: Vec<u8>,
    /// The socket that received the request, `proto:ip:port`.
    pub socket: &'a [u8],
    /// Our own Contact for this dialog: `server_address`, else made of the socket.
    pub local_contact: Vec<u8>,
    /// Value of User-Agent, empty if absent or longer than 255 bytes.
    pub user_agent: &'a [u8],
    /// Branch flags of branch 0, for the script's use in NOTIFY routes.
    pub flags: u32,
}
