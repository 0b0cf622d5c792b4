//! SIP requests as the presence logic sees them: borrowed header values, not
//! yet judged. The host fills them from its parsed message; a header that is
//! mandatory for any SIP request and missing or malformed never gets here
//! (the host's reader refuses it with a 400 that names the header).

use crate::presence::cseq::CSeq;
use crate::presence::demands::Demands;

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
    pub cseq: CSeq,
    /// Branch of the topmost Via; empty if there is none.
    pub branch: &'a [u8],
}

/// A PUBLISH (RFC 3903).
#[derive(Debug, Clone)]
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
    /// The socket that received the request, `proto:ip:port`.
    pub socket: &'a [u8],
    /// What it demands of the server.
    pub demands: Demands<'a>,
}

/// A SUBSCRIBE (RFC 6665).
#[derive(Debug, Clone)]
pub struct SubscribeRequest<'a> {
    /// Retransmission identity.
    pub id: RequestId<'a>,
    /// The presentity of an initial request: the Request-URI (`watched`).
    pub presentity: UriParts<'a>,
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
    /// What it demands of the server.
    pub demands: Demands<'a>,
}

/// Whom an initial SUBSCRIBE watches: the Request-URI. Some phones put only
/// their server's address there, and the watched user into To (B48); a script
/// that takes the user out of a Request-URI means what it does.
pub fn watched<'a>(
    request_uri: UriParts<'a>,
    to: UriParts<'a>,
    user_taken_out: bool,
) -> UriParts<'a> {
    let to_names = request_uri.user.is_empty() && !to.user.is_empty() && !to.host.is_empty();
    if to_names && !user_taken_out { to } else { request_uri }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn to_names_who_is_watched_only_where_the_request_uri_names_nobody() {
        let uri = |user: &'static str, host: &'static str| UriParts {
            user: user.as_bytes(),
            host: host.as_bytes(),
        };
        let (server, alice, bob) =
            (uri("", "10.0.0.1"), uri("alice", "a.test"), uri("bob", "b.test"));
        assert_eq!(watched(server, alice, false), alice);
        assert_eq!(watched(bob, alice, false), bob);
        assert_eq!(watched(server, uri("", "a.test"), false), server);
        assert_eq!(watched(server, uri("+49301", ""), false), server, "tel: has no host");
        assert_eq!(watched(server, alice, true), server, "the script has the last word");
    }
}
