//! SIP messages with complete control over headers and bytes, and a tolerant parser.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// The domain of all users in the tests.
pub const DOMAIN: &str = "example.test";

/// `sip:<user>@example.test`; anything that contains a ':' is taken as a URI already.
pub fn aor(user: &str) -> String {
    if user.contains(':') { user.to_owned() } else { format!("sip:{user}@{DOMAIN}") }
}

/// A token that no other call in any process returns.
pub fn unique(prefix: &str) -> String {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let nanoseconds =
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos() as u64);
    let count = COUNTER.fetch_add(1, Ordering::Relaxed);
    format!("{prefix}{:x}{nanoseconds:x}{count:x}", std::process::id())
}

/// A header field as it stands in a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Name as written.
    pub name: String,
    /// Value without the surrounding white space; folded lines are joined.
    pub value: String,
}

/// A SIP message: start line, headers in order with duplicates, body.
///
/// [`Message::to_bytes`] writes exactly what is here: nothing is added, checked
/// or corrected, so malformed messages can be built as well.
#[derive(Clone, Debug)]
pub struct Message {
    /// Request line or status line.
    pub start_line: String,
    /// Header fields in order.
    pub headers: Vec<Header>,
    /// Everything after the empty line.
    pub body: Vec<u8>,
}

/// The long form of a compact header name.
fn long_name(name: &str) -> String {
    let lower = name.to_ascii_lowercase();
    match lower.as_str() {
        "i" => "call-id".into(),
        "m" => "contact".into(),
        "l" => "content-length".into(),
        "c" => "content-type".into(),
        "f" => "from".into(),
        "t" => "to".into(),
        "v" => "via".into(),
        "o" => "event".into(),
        "u" => "allow-events".into(),
        _ => lower,
    }
}

impl Message {
    /// A message with a start line only.
    pub fn new(start_line: impl Into<String>) -> Self {
        Self { start_line: start_line.into(), headers: Vec::new(), body: Vec::new() }
    }

    /// Parses a datagram; what is not understood is kept as it is. `None` for
    /// a datagram without a start line (a keep-alive).
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let end = find(bytes, b"\r\n\r\n");
        let (head, body) = match end {
            Some(at) => (&bytes[..at], bytes[at + 4..].to_vec()),
            None => (bytes, Vec::new()),
        };
        let head = String::from_utf8_lossy(head);
        let mut lines = head.split("\r\n");
        let start_line = lines.next().filter(|line| !line.trim().is_empty())?;
        let mut message = Self::new(start_line);
        for line in lines {
            if line.starts_with([' ', '\t'])
                && let Some(last) = message.headers.last_mut()
            {
                last.value.push(' ');
                last.value.push_str(line.trim());
                continue;
            }
            let (name, value) = line.split_once(':').unwrap_or((line, ""));
            message.push(name.trim(), value.trim());
        }
        message.body = body;
        Some(message)
    }

    /// Adds a header at the end.
    pub fn push(&mut self, name: impl Into<String>, value: impl Into<String>) -> &mut Self {
        self.headers.push(Header { name: name.into(), value: value.into() });
        self
    }

    /// Adds a header at the beginning.
    pub fn push_front(&mut self, name: impl Into<String>, value: impl Into<String>) -> &mut Self {
        self.headers.insert(0, Header { name: name.into(), value: value.into() });
        self
    }

    /// Replaces the first header of this name (others of the name are removed), or adds it.
    pub fn set(&mut self, name: &str, value: impl Into<String>) -> &mut Self {
        let wanted = long_name(name);
        match self.headers.iter().position(|header| long_name(&header.name) == wanted) {
            Some(at) => {
                self.headers[at].value = value.into();
                let mut index = 0;
                self.headers.retain(|header| {
                    index += 1;
                    index - 1 <= at || long_name(&header.name) != wanted
                });
                self
            }
            None => self.push(name, value),
        }
    }

    /// Removes all headers of this name.
    pub fn remove(&mut self, name: &str) -> &mut Self {
        let wanted = long_name(name);
        self.headers.retain(|header| long_name(&header.name) != wanted);
        self
    }

    /// The value of the first header of this name (compact forms included).
    pub fn header(&self, name: &str) -> Option<&str> {
        self.all(name).into_iter().next()
    }

    /// The values of all headers of this name, in order.
    pub fn all(&self, name: &str) -> Vec<&str> {
        let wanted = long_name(name);
        self.headers
            .iter()
            .filter(|header| long_name(&header.name) == wanted)
            .map(|header| header.value.as_str())
            .collect()
    }

    /// The header names in order, as written.
    pub fn header_names(&self) -> Vec<&str> {
        self.headers.iter().map(|header| header.name.as_str()).collect()
    }

    /// Sets the body and a Content-Length that fits.
    pub fn set_body(&mut self, body: impl Into<Vec<u8>>) -> &mut Self {
        self.body = body.into();
        let length = self.body.len().to_string();
        self.set("Content-Length", length)
    }

    /// The body as text.
    pub fn body_text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The bytes on the wire.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(1024 + self.body.len());
        bytes.extend_from_slice(self.start_line.as_bytes());
        bytes.extend_from_slice(b"\r\n");
        for header in &self.headers {
            bytes.extend_from_slice(header.name.as_bytes());
            bytes.extend_from_slice(b": ");
            bytes.extend_from_slice(header.value.as_bytes());
            bytes.extend_from_slice(b"\r\n");
        }
        bytes.extend_from_slice(b"\r\n");
        bytes.extend_from_slice(&self.body);
        bytes
    }

    /// The status code of a reply.
    pub fn status(&self) -> Option<u16> {
        self.start_line.strip_prefix("SIP/2.0 ")?.split(' ').next()?.parse().ok()
    }

    /// The reason phrase of a reply.
    pub fn reason(&self) -> &str {
        self.start_line.splitn(3, ' ').nth(2).unwrap_or("")
    }

    /// The method of a request (empty for a reply).
    pub fn method(&self) -> &str {
        if self.start_line.starts_with("SIP/2.0 ") {
            ""
        } else {
            self.start_line.split(' ').next().unwrap_or("")
        }
    }

    /// The Request-URI of a request.
    pub fn request_uri(&self) -> &str {
        self.start_line.split(' ').nth(1).unwrap_or("")
    }

    /// The number in CSeq (0 when there is none).
    pub fn cseq(&self) -> u32 {
        self.header("CSeq")
            .and_then(|value| value.split_whitespace().next())
            .and_then(|number| number.parse().ok())
            .unwrap_or(0)
    }

    /// The branch of the top Via.
    pub fn branch(&self) -> Option<&str> {
        parameter(self.header("Via")?, "branch")
    }

    /// The Call-ID (empty when there is none).
    pub fn call_id(&self) -> &str {
        self.header("Call-ID").unwrap_or("")
    }

    /// The tag of the To header.
    pub fn to_tag(&self) -> Option<&str> {
        tag(self.header("To")?)
    }

    /// The tag of the From header.
    pub fn from_tag(&self) -> Option<&str> {
        tag(self.header("From")?)
    }

    /// The number in a header such as Expires.
    pub fn number(&self, header: &str) -> Option<i64> {
        self.header(header)?.trim().parse().ok()
    }

    /// A reply to this request as RFC 3261 8.2.6 builds it, with Content-Length 0.
    pub fn reply(&self, code: u16, reason: &str) -> Message {
        let mut reply = Message::new(format!("SIP/2.0 {code} {reason}"));
        for via in self.all("Via") {
            reply.push("Via", via);
        }
        for name in ["From", "To", "Call-ID", "CSeq"] {
            if let Some(value) = self.header(name) {
                reply.push(name, value);
            }
        }
        reply.push("Content-Length", "0");
        reply
    }
}

/// The `tag` parameter of a From or To value.
fn tag(value: &str) -> Option<&str> {
    let after_uri = value.find('>').map_or(value, |at| &value[at + 1..]);
    parameter(after_uri, "tag")
}

/// The value of parameter `name` in a header value (`a;x=1;y` style).
pub fn parameter<'a>(value: &'a str, name: &str) -> Option<&'a str> {
    value.split(';').skip(1).find_map(|part| {
        let (key, rest) = part.split_once('=').unwrap_or((part, ""));
        key.trim().eq_ignore_ascii_case(name).then(|| rest.trim())
    })
}

/// The position of `needle` in `haystack`.
pub fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}
