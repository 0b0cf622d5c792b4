//! Which header the host's parser could not read, for the reason phrase, and how
//! the request can be answered nevertheless.

use std::ffi::c_int;

use crate::host::message::Message;
use crate::host::message::header::Header;
use crate::host::{sys, text};

/// A header that the parser reads, or takes only once.
struct Read {
    name: &'static [u8],
    compact: &'static [u8],
    /// The first one that was found.
    first: fn(&sys::sip_msg) -> *mut sys::hdr_field,
    malformed: &'static str,
    /// A second one is refused: always, or in the parser's strict mode.
    repeated: &'static str,
}

const READ: [Read; 6] = [
    Read {
        name: b"To",
        compact: b"t",
        first: |message| message.to,
        malformed: "Malformed To",
        repeated: "More Than One To",
    },
    Read {
        name: b"From",
        compact: b"f",
        first: |message| message.from,
        malformed: "Malformed From",
        repeated: "More Than One From",
    },
    Read {
        name: b"CSeq",
        compact: b"CSeq",
        first: |message| message.cseq,
        malformed: "Malformed CSeq",
        repeated: "More Than One CSeq",
    },
    Read {
        name: b"Call-ID",
        compact: b"i",
        first: |message| message.callid,
        malformed: "Malformed Call-ID",
        repeated: "More Than One Call-ID",
    },
    Read {
        name: b"Content-Length",
        compact: b"l",
        first: |message| message.content_length,
        malformed: "Malformed Content-Length",
        repeated: "More Than One Content-Length",
    },
    Read {
        name: b"Max-Forwards",
        compact: b"Max-Forwards",
        first: |message| message.maxforwards,
        malformed: "Malformed Max-Forwards",
        repeated: "More Than One Max-Forwards",
    },
];

/// Headers that are passed over in one request.
const MOST_PASSED_OVER: usize = 8;

impl Message<'_> {
    /// A reason phrase that names the header at which the parser has given up.
    pub(super) fn malformed(self) -> &'static str {
        let message = self.fields();
        let rest = self.rest();
        let name = rest.split(|byte| *byte == b':').next().unwrap_or_default().trim_ascii();
        let is = |one: &[u8]| name.eq_ignore_ascii_case(one);
        if is(b"Via") || is(b"v") {
            return "Malformed Via";
        }
        match READ.iter().find(|read| is(read.name) || is(read.compact)) {
            None => "Malformed Header",
            Some(read) if (read.first)(message).is_null() => read.malformed,
            Some(read) => read.repeated,
        }
    }

    /// Lets the parser go on behind what it cannot read: it has to know all
    /// headers before the host can make a reply.
    pub(super) fn pass_over(self) {
        for _ in 0..MOST_PASSED_OVER {
            let rest = self.rest();
            let Some(length) = header_length(rest) else { return };
            let next = rest.as_ptr().wrapping_add(length);
            // SAFETY: the message is this process's; the place lies within its
            // text, at the start of a line.
            let parsed = unsafe {
                (*self.as_ptr()).unparsed = next.cast_mut().cast();
                sys::kshim_parse_headers(self.as_ptr())
            };
            if parsed == 0 {
                return;
            }
        }
    }

    /// The text from the header that could not be read. The parser goes on
    /// behind the last one that it has put into the list; `unparsed` still
    /// points to where it began that time.
    fn rest(&self) -> &[u8] {
        let message = self.fields();
        let length = usize::try_from(message.len).unwrap_or(0);
        let (start, end) =
            (message.buf.cast_const(), message.buf.wrapping_add(length).cast_const());
        // SAFETY: the last header of this message's list.
        let last = unsafe { Header::new(message.last_header) }.map(Header::end);
        let from = last.filter(|at| (start..end).contains(at)).unwrap_or(message.unparsed);
        if !(start..end).contains(&from) {
            return b"";
        }
        let left = c_int::try_from(end.addr() - from.addr()).unwrap_or(0);
        // SAFETY: `from` lies within the message's text, which ends at `end`.
        unsafe { text::bytes(sys::_str { s: from.cast_mut(), len: left }) }
    }
}

/// Bytes of the header that `text` begins with, folded lines included; `None`
/// if it has no end, or is none.
fn header_length(text: &[u8]) -> Option<usize> {
    let mut length = 0;
    loop {
        length += text.get(length..)?.iter().position(|byte| *byte == b'\n')? + 1;
        match text.get(length)? {
            b' ' | b'\t' => {}
            _ => return Some(length),
        }
    }
}
