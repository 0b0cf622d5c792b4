//! What can go wrong, in two kinds: a request that is refused with a SIP
//! reply, and a fault of what the server stands on.

use std::fmt;

/// A failure below the presence logic. The request that met it gets a 500 or
/// 503; whatever was stored before stays as it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Shared memory is exhausted.
    SharedMemory,
    /// The database could not be reached, or did not do its work.
    Database,
    /// The database answers, but refuses this statement: the fault is the
    /// request's or the row's own.
    Refused,
    /// A sibling module's callback failed.
    Package,
    /// The host refused: parsing, reply or transaction failed.
    Host,
    /// What the request brings is longer than a record can keep.
    TooLong,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Fault::SharedMemory => "out of shared memory",
            Fault::Database => "database failure",
            Fault::Refused => "refused by the database",
            Fault::Package => "event package callback failed",
            Fault::Host => "host refused",
            Fault::TooLong => "longer than a record can keep",
        })
    }
}

impl std::error::Error for Fault {}

/// A request that is refused: the reply says why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// SIP status code.
    pub code: u16,
    /// Reason phrase; names the header at fault where there is one.
    pub reason: &'static str,
    /// Header lines of the reply, each ended by CR LF.
    pub headers: Vec<u8>,
    /// It is the server that failed; what a client does wrong must not fill
    /// the error log.
    pub is_fault: bool,
    /// A limit of the operator's says no.
    pub exceeded: Option<Box<Exceeded>>,
}

/// Which limit, and who is over it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exceeded {
    /// The parameter that sets it.
    pub parameter: &'static str,
    /// The watcher or presentity, as the log names it.
    pub offender: Vec<u8>,
}

impl Rejection {
    /// A reply without headers of its own.
    pub const fn new(code: u16, reason: &'static str) -> Rejection {
        Rejection { code, reason, headers: Vec::new(), is_fault: false, exceeded: None }
    }

    /// 400 with a reason phrase that names the fault (RFC 3261 21.4.1).
    pub const fn bad_request(reason: &'static str) -> Rejection {
        Rejection::new(400, reason)
    }
}

impl From<crate::presence::text::TooLong> for Fault {
    fn from(_: crate::presence::text::TooLong) -> Fault {
        Fault::TooLong
    }
}

impl From<Fault> for Rejection {
    fn from(fault: Fault) -> Rejection {
        match fault {
            // The condition passes when records expire: ask the client to
            // come back (RFC 3261 21.5.4).
            Fault::SharedMemory => Rejection {
                headers: b"Retry-After: 10\r\n".to_vec(),
                is_fault: true,
                ..Rejection::new(503, "Service Unavailable")
            },
            // It is the request that is at fault, and stays so.
            Fault::TooLong => Rejection::bad_request("Header Fields Too Long"),
            // The value is known not to fit: to send it again is no use.
            Fault::Refused => Rejection::bad_request("Refused by the Database"),
            Fault::Database | Fault::Package | Fault::Host => {
                Rejection { is_fault: true, ..Rejection::new(500, "Server Internal Error") }
            }
        }
    }
}
