//! SIP on the wire: only what the load needs is read, and requests are written
//! into a buffer that is used again.

use std::io::Write as _;

/// What the presentities publish and the watchers ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Package {
    /// `message-summary`: small text bodies, no XML.
    Mwi,
    /// `presence`: PIDF of about 500 bytes.
    Presence,
}

impl Package {
    /// The value of Event.
    pub fn event(self) -> &'static str {
        match self {
            Package::Mwi => "message-summary",
            Package::Presence => "presence",
        }
    }

    /// About how long a document is.
    pub fn typical_body(self) -> u32 {
        self.body(300_000, 10_000, 10_000).len() as u32
    }

    fn content_type(self) -> &'static str {
        match self {
            Package::Mwi => "application/simple-message-summary",
            Package::Presence => "application/pidf+xml",
        }
    }

    /// A document of presentity `presentity` that carries the number `state`.
    fn body(self, presentity: u32, source: u32, state: u32) -> String {
        match self {
            Package::Mwi => format!(
                "Messages-Waiting: yes\r\nMessage-Account: sip:p{presentity}@bench.test\r\n\
                 Voice-Message: {state}/0 (0/0)\r\n"
            ),
            Package::Presence => format!(
                "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
                 <presence xmlns=\"urn:ietf:params:xml:ns:pidf\" \
                 xmlns:dm=\"urn:ietf:params:xml:ns:pidf:data-model\" \
                 xmlns:rpid=\"urn:ietf:params:xml:ns:pidf:rpid\" \
                 entity=\"sip:p{presentity}@bench.test\">\n\
                 <tuple id=\"t{source}\"><status><basic>open</basic></status>\
                 <contact priority=\"0.8\">sip:p{presentity}@127.0.0.1:5070</contact>\
                 <note>{state}</note></tuple>\n\
                 <dm:person id=\"p{source}\"><rpid:activities><rpid:on-the-phone/>\
                 </rpid:activities></dm:person>\n</presence>\n"
            ),
        }
    }
}

/// The number that the newest document in a NOTIFY's body carries; 0 when it
/// carries none. Where documents of several sources are shown it is the largest.
pub fn state_in(body: &[u8]) -> u32 {
    let mut newest = 0;
    for mark in [b"Voice-Message: ".as_slice(), b"<note>"] {
        for at in memchr::memmem::find_iter(body, mark) {
            newest = newest.max(number(&body[at + mark.len()..]));
        }
    }
    newest
}

/// The decimal number at the start of `bytes`.
pub fn number(bytes: &[u8]) -> u32 {
    bytes
        .iter()
        .take_while(|byte| byte.is_ascii_digit())
        .fold(0u32, |value, digit| value.wrapping_mul(10).wrapping_add(u32::from(digit - b'0')))
}

/// What is common to all requests of a run.
pub struct Writer {
    /// Port of the socket that sends and is in Via and Contact.
    pub port: u16,
    /// Event package of all requests.
    pub package: Package,
}

/// What a SUBSCRIBE needs.
pub struct Subscribe<'a> {
    pub branch: (u32, u32),
    pub watcher: u32,
    pub epoch: u32,
    pub presentity: u32,
    pub cseq: u32,
    pub to_tag: &'a str,
    pub expires: u32,
}

/// What a PUBLISH needs.
pub struct Publish<'a> {
    pub branch: (u32, u32),
    pub source: u32,
    pub presentity: u32,
    pub cseq: u32,
    pub etag: &'a str,
    pub expires: u32,
    /// The number in the document; no body for a refresh or a removal.
    pub state: Option<u32>,
}

impl Writer {
    /// Writes a SUBSCRIBE.
    pub fn subscribe(&self, out: &mut Vec<u8>, request: &Subscribe<'_>) {
        let Subscribe { branch, watcher, epoch, presentity, cseq, to_tag, expires } = *request;
        let port = self.port;
        let tag = if to_tag.is_empty() { "" } else { ";tag=" };
        let _ = write!(
            out,
            "SUBSCRIBE sip:p{presentity}@bench.test SIP/2.0\r\n\
             Via: SIP/2.0/UDP 127.0.0.1:{port};branch=z9hG4bK-{}-{}\r\n\
             Max-Forwards: 70\r\n\
             From: <sip:w{watcher}@bench.test>;tag=f{watcher}\r\n\
             To: <sip:p{presentity}@bench.test>{tag}{to_tag}\r\n\
             Call-ID: w{watcher}.{epoch}\r\n\
             CSeq: {cseq} SUBSCRIBE\r\n\
             Contact: <sip:w{watcher}@127.0.0.1:{port}>\r\n\
             Event: {}\r\n\
             Expires: {expires}\r\n\
             User-Agent: bench\r\n\
             Content-Length: 0\r\n\r\n",
            branch.0,
            branch.1,
            self.package.event(),
        );
    }

    /// Writes a PUBLISH.
    pub fn publish(&self, out: &mut Vec<u8>, request: &Publish<'_>) {
        let Publish { branch, source, presentity, cseq, etag, expires, state } = *request;
        let body = state.map(|state| self.package.body(presentity, source, state));
        let _ = write!(
            out,
            "PUBLISH sip:p{presentity}@bench.test SIP/2.0\r\n\
             Via: SIP/2.0/UDP 127.0.0.1:{};branch=z9hG4bK-{}-{}\r\n\
             Max-Forwards: 70\r\n\
             From: <sip:p{presentity}@bench.test>;tag=s{source}\r\n\
             To: <sip:p{presentity}@bench.test>\r\n\
             Call-ID: b{source}.{cseq}\r\n\
             CSeq: {cseq} PUBLISH\r\n\
             Event: {}\r\n\
             Expires: {expires}\r\n\
             User-Agent: bench\r\n",
            self.port,
            branch.0,
            branch.1,
            self.package.event(),
        );
        if !etag.is_empty() {
            let _ = write!(out, "SIP-If-Match: {etag}\r\n");
        }
        match body {
            Some(body) => {
                let _ = write!(
                    out,
                    "Content-Type: {}\r\nContent-Length: {}\r\n\r\n{body}",
                    self.package.content_type(),
                    body.len()
                );
            }
            None => out.extend_from_slice(b"Content-Length: 0\r\n\r\n"),
        }
    }
}

/// The parts of a message that the load looks at; slices of the datagram.
#[derive(Default)]
pub struct Incoming<'a> {
    /// Status of a reply; 0 for a request.
    pub status: u16,
    /// True for NOTIFY requests.
    pub notify: bool,
    vias: [&'a [u8]; 2],
    from: &'a [u8],
    to: &'a [u8],
    call_id: &'a [u8],
    cseq: &'a [u8],
    /// Value of SIP-ETag.
    pub etag: &'a [u8],
    /// True when Subscription-State says terminated.
    pub terminated: bool,
    /// What follows the empty line.
    pub body: &'a [u8],
}

/// Reads a datagram in one pass; `None` for what is no SIP message.
pub fn parse(datagram: &[u8]) -> Option<Incoming<'_>> {
    let mut message = Incoming::default();
    let mut rest = datagram;
    let start = take_line(&mut rest)?;
    match start.strip_prefix(b"SIP/2.0 ") {
        Some(status) => message.status = number(status) as u16,
        None => message.notify = start.starts_with(b"NOTIFY "),
    }
    let mut vias = 0;
    while let Some(line) = take_line(&mut rest) {
        if line.is_empty() {
            message.body = rest;
            break;
        }
        match line[0] {
            b'V' if line.starts_with(b"Via: ") && vias < 2 => {
                message.vias[vias] = line;
                vias += 1;
            }
            b'F' if line.starts_with(b"From: ") => message.from = line,
            b'T' if line.starts_with(b"To: ") => message.to = line,
            b'C' if line.starts_with(b"Call-ID: ") => message.call_id = line,
            b'C' if line.starts_with(b"CSeq: ") => message.cseq = line,
            b'S' if line.starts_with(b"SIP-ETag: ") => message.etag = &line[10..],
            b'S' if line.starts_with(b"Subscription-State: terminated") => {
                message.terminated = true;
            }
            _ => {}
        }
    }
    Some(message)
}

fn take_line<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let end = memchr::memchr(b'\n', rest)?;
    let line = &rest[..end];
    *rest = &rest[end + 1..];
    Some(line.strip_suffix(b"\r").unwrap_or(line))
}

impl<'a> Incoming<'a> {
    /// The slot and generation that our branch names (replies).
    pub fn branch(&self) -> Option<(u32, u32)> {
        let mark = b"branch=z9hG4bK-";
        let at = memchr::memmem::find(self.vias[0], mark)?;
        let rest = &self.vias[0][at + mark.len()..];
        let dash = memchr::memchr(b'-', rest)?;
        Some((number(rest), number(&rest[dash + 1..])))
    }

    /// The watcher and epoch that the Call-ID names (NOTIFY).
    pub fn dialog(&self) -> Option<(u32, u32)> {
        let value = self.call_id.strip_prefix(b"Call-ID: w")?;
        let dot = memchr::memchr(b'.', value)?;
        Some((number(value), number(&value[dot + 1..])))
    }

    /// The number in CSeq.
    pub fn cseq(&self) -> u32 {
        self.cseq.strip_prefix(b"CSeq: ").map_or(0, number)
    }

    /// A number that stands for the top Via: two transactions differ in it.
    pub fn via_hash(&self) -> u32 {
        self.vias[0]
            .iter()
            .fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
    }

    /// The tag in To.
    pub fn to_tag(&self) -> &'a str {
        let Some(at) = memchr::memmem::find(self.to, b";tag=") else { return "" };
        let tag = &self.to[at + 5..];
        let end = memchr::memchr(b';', tag).unwrap_or(tag.len());
        std::str::from_utf8(&tag[..end]).unwrap_or("")
    }

    /// Writes the 200 to this request.
    pub fn ok(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"SIP/2.0 200 OK\r\n");
        let lines = [self.vias[0], self.vias[1], self.from, self.to, self.call_id, self.cseq];
        for line in lines.into_iter().filter(|line| !line.is_empty()) {
            out.extend_from_slice(line);
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(b"Content-Length: 0\r\n\r\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_notify_is_read_and_answered() {
        let text = b"NOTIFY sip:w7@127.0.0.1:9 SIP/2.0\r\nVia: SIP/2.0/UDP a;branch=z9hG4bKx\r\n\
            To: <sip:w7@b>;tag=f7\r\nFrom: <sip:p@b>;tag=k\r\nCSeq: 12 NOTIFY\r\nCall-ID: w7.3\r\n\
            Subscription-State: terminated;reason=timeout\r\n\r\nVoice-Message: 41/0\r\n";
        let message = parse(text).unwrap();
        assert!(message.notify && message.terminated);
        assert_eq!(message.dialog(), Some((7, 3)));
        assert_eq!(message.cseq(), 12);
        assert_eq!(state_in(message.body), 41);
        let mut answer = Vec::new();
        message.ok(&mut answer);
        let answer = String::from_utf8(answer).unwrap();
        assert!(answer.starts_with("SIP/2.0 200 OK\r\nVia: SIP/2.0/UDP a;branch=z9hG4bKx\r\n"));
        assert!(answer.contains("\r\nCall-ID: w7.3\r\n"));
    }

    #[test]
    fn a_reply_names_its_transaction() {
        let text = b"SIP/2.0 200 OK\r\nVia: SIP/2.0/UDP a;branch=z9hG4bK-12-99;rport\r\n\
            To: <sip:p@b>;tag=abc-1;x\r\nSIP-ETag: a.1.2\r\n\r\n";
        let message = parse(text).unwrap();
        assert_eq!((message.status, message.branch()), (200, Some((12, 99))));
        assert_eq!((message.to_tag(), message.etag), ("abc-1", b"a.1.2".as_slice()));
    }
}
