//! What the presence server needs from its host, as traits.
//!
//! `host/` implements them on Kamailio, the tests with fakes. Every call here
//! may be slow (SIP, SQL, DNS, code of other modules), so none of them is made
//! while a lock is held.

use std::ffi::CStr;

use crate::error::Fault;
use crate::presence::cseq::CSeq;
use crate::presence::event_package::PackageId;
use crate::presence::explain::EndReason;
use crate::presence::subscription::{Authorization, Snapshot};

/// A final reply to the request in hand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// SIP status code.
    pub code: u16,
    /// Reason phrase.
    pub reason: &'static str,
    /// Complete header lines, each ended by CR LF; may be empty.
    pub headers: Vec<u8>,
}

/// What a sibling's handler for a request said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PackageVerdict {
    /// The package has no handler or accepted the request.
    Accepted,
    /// The package refused it; `replied` when it sent the final reply itself.
    Refused {
        /// The sibling has already answered the request.
        replied: bool,
    },
}

/// The SIP request being handled.
pub trait Incoming {
    /// The host keeps a transaction for it, which absorbs retransmissions.
    fn in_transaction(&mut self) -> bool;
    /// The address that it has come from, in bytes; empty if that is not known.
    fn source(&self) -> &[u8] {
        b""
    }
    /// Sends the final reply: through the transaction if there is one.
    fn reply(&mut self, reply: &Reply) -> Result<(), Fault>;
    /// The To tag that our replies to this request carry.
    fn reply_to_tag(&mut self) -> Result<Vec<u8>, Fault>;
    /// Lets the package inspect a PUBLISH (`evs_publ_handl`).
    fn check_publication(&mut self, package: PackageId) -> PackageVerdict;
    /// Lets the package inspect a SUBSCRIBE (`evs_subs_handl`).
    fn check_subscription(&mut self, package: PackageId) -> PackageVerdict;
    /// Whether `accepted` is of any use.
    fn shows_subscriptions(&self) -> bool {
        false
    }
    /// The subscription as the script may see it (`$subs`) once it was
    /// accepted, before its NOTIFY.
    fn accepted(&mut self, _subscription: &Snapshot, _initial: bool) {}
}

/// One NOTIFY request within a dialog.
#[derive(Debug)]
pub struct Notify<'a> {
    /// The subscription as of this NOTIFY.
    pub subscription: &'a Snapshot,
    /// The CSeq number on the wire.
    pub cseq: CSeq,
    /// Complete header lines after the dialog's own, each ended by CR LF.
    pub headers: &'a [u8],
    /// The document; empty for none.
    pub body: &'a [u8],
    /// Given back with the reply; identifies the subscription.
    pub token: u64,
}

/// What became of a NOTIFY that was handed to the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotifyOutcome {
    /// Handed to the transaction layer; its outcome is reported later.
    Sent,
    /// The routing script dropped it; no outcome will be reported.
    Dropped,
    /// It could not be built or routed; no outcome will be reported.
    Failed,
    /// Its watcher can only be reached over a connection that the watcher has
    /// opened, and that is gone; no outcome will be reported.
    Gone,
    /// It fits neither into memory, however much is free, nor into a datagram; no
    /// outcome will be reported.
    TooLarge,
    /// The host has no memory for it at the moment; no outcome will be
    /// reported.
    NoMemory,
}

/// Sends requests within dialogs.
pub trait Transport {
    /// Sends a NOTIFY; the reply comes back through the host's callback.
    fn notify(&mut self, notify: &Notify<'_>) -> NotifyOutcome;
}

/// The callbacks that sibling modules registered with their event packages.
/// Documents are copied in and out: ownership of host memory stays in `host/`.
pub trait Packages {
    /// Composes one document from all publications (`agg_nbody`), oldest
    /// first. `closing` is the one to be shown closed. `None`: no document.
    fn aggregate(
        &mut self,
        package: PackageId,
        user: &[u8],
        domain: &[u8],
        bodies: &[&[u8]],
        closing: Option<usize>,
    ) -> Option<Vec<u8>>;
    /// Adapts a document to one watcher (`aux_body_processing`), such as its
    /// version. `None`: unchanged.
    fn personalise(
        &mut self,
        package: PackageId,
        subscription: &Snapshot,
        body: &[u8],
    ) -> Option<Vec<u8>>;
    /// Reduces a document to what the rules allow this watcher
    /// (`apply_auth_nbody`). `Ok(None)`: unchanged.
    fn restrict(
        &mut self,
        package: PackageId,
        subscription: &Snapshot,
        rules: &[u8],
        body: &[u8],
    ) -> Result<Option<Vec<u8>>, Fault>;
    /// The presentity's authorization rules (`get_rules_doc`).
    fn rules(
        &mut self,
        package: PackageId,
        user: &[u8],
        domain: &[u8],
    ) -> Result<Option<Vec<u8>>, Fault>;
    /// What the rules say about this watcher (`get_auth_status`).
    fn authorize(
        &mut self,
        package: PackageId,
        subscription: &Snapshot,
        rules: Option<&[u8]>,
    ) -> Result<Authorization, Fault>;
    /// The presentity's hard state (`get_pidf_doc`) of this file. `Ok(None)`:
    /// there is none (any more).
    fn hard_state(
        &mut self,
        _package: PackageId,
        _user: &[u8],
        _domain: &[u8],
        _file: &[u8],
    ) -> Result<Option<Vec<u8>>, Fault> {
        Err(Fault::Package)
    }
}

/// A value of a database column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// SQL NULL.
    Null,
    /// Any integer column.
    Int(i64),
    /// A character column.
    Text(Vec<u8>),
    /// A binary column (`body`).
    Blob(Vec<u8>),
}

impl Value {
    /// A text value.
    pub fn text(bytes: &[u8]) -> Value {
        Value::Text(bytes.to_vec())
    }

    /// The integer, also when the driver returned it as text; NULL is `None`.
    pub fn as_int(&self) -> Option<i64> {
        match self {
            Value::Int(n) => Some(*n),
            Value::Text(t) | Value::Blob(t) => std::str::from_utf8(t).ok()?.trim().parse().ok(),
            Value::Null => None,
        }
    }

    /// The bytes of a text or binary value; anything else is empty.
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Value::Text(t) | Value::Blob(t) => t,
            Value::Null | Value::Int(_) => b"",
        }
    }
}

/// How a condition compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compare {
    /// `=`
    Eq,
    /// `<`
    Less,
    /// `>`
    Greater,
    /// `<>`
    Not,
    /// `IS`, for NULL, which nothing equals.
    Is,
}

impl Compare {
    /// The operator in SQL.
    pub fn sign(self) -> &'static CStr {
        match self {
            Compare::Eq => c"=",
            Compare::Less => c"<",
            Compare::Greater => c">",
            Compare::Not => c"<>",
            Compare::Is => c" IS ",
        }
    }
}

/// One term of a WHERE clause; terms are joined by AND.
pub type Condition = (&'static str, Compare, Value);

/// One column and its new value.
pub type Assignment = (&'static str, Value);

/// Values that rows share, and how many rows do.
pub type Group = (Vec<Value>, u64);

/// An update of what meets the conditions.
pub type RowUpdate<'a> = (&'a [Condition], &'a [Assignment]);

/// What is asked for with a page.
#[derive(Debug, Clone, Copy)]
pub struct Wanted {
    /// No more rows, where the driver can stop; one that cannot gives all.
    pub most: usize,
    /// How much of the table there is to read.
    pub extent: Extent,
    /// Rows may be asked for as one text each: no column is binary, and numbers
    /// may come as text.
    pub is_text: bool,
}

/// How much of a table meets the conditions of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// Most of it: it is read in the order of its primary key.
    Most,
    /// A part, which an index finds; its rows are put in order then. (Servers
    /// that see an order and a limit may read the whole table in that order.)
    Part,
}

/// Why the last statement failed, as far as that can be found out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The database cannot be reached, or takes no changes at the moment.
    Away,
    /// It met the change of somebody else: it may be repeated.
    Conflict,
    /// The database says that the statement itself is at fault.
    Statement,
    /// The database answers others. Repeated once or twice it is known to be
    /// the statement.
    Unclear,
}

/// The process's database connection. Table names come from the configuration.
/// `Fault::Database` says only that the statement failed (the host's API has no
/// error classes; the driver has logged why), and `verdict` says more;
/// `Fault::Refused` that it was known to be of no use, and was not sent.
pub trait Database {
    /// Adds a row.
    fn insert(&mut self, table: &str, row: &[Assignment]) -> Result<(), Fault>;
    /// Changes all rows that meet the conditions.
    fn update(
        &mut self,
        table: &str,
        conditions: &[Condition],
        set: &[Assignment],
    ) -> Result<(), Fault>;
    /// Removes all rows that meet the conditions (all rows without any).
    fn delete(&mut self, table: &str, conditions: &[Condition]) -> Result<(), Fault>;
    /// Calls `each` for every row found, in pages where the driver has them.
    /// `each` must not use the database.
    fn query(
        &mut self,
        table: &str,
        conditions: &[Condition],
        columns: &[&'static str],
        order_by: Option<&str>,
        each: &mut dyn FnMut(&[Value]),
    ) -> Result<(), Fault>;
    /// Does what `query` does, in the order of `id`.
    fn page(
        &mut self,
        table: &str,
        conditions: &[Condition],
        columns: &[&'static str],
        wanted: Wanted,
        each: &mut dyn FnMut(Vec<Value>),
    ) -> Result<(), Fault>;
    /// As `page` for the whole table, where the driver can read it in steps of
    /// `wanted.most` rows; `false` where it cannot. A failure comes after some
    /// rows, or before the first.
    fn scan(
        &mut self,
        _table: &str,
        _conditions: &[Condition],
        _columns: &[&'static str],
        _wanted: Wanted,
        _each: &mut dyn FnMut(Vec<Value>),
    ) -> Result<bool, Fault> {
        Ok(false)
    }
    /// Counts the rows that meet the conditions by the values of these columns:
    /// the `most` most frequent. `None` where the driver cannot say without
    /// giving all rows.
    fn groups(
        &mut self,
        _table: &str,
        _conditions: &[Condition],
        _columns: &[&'static str],
        _most: usize,
    ) -> Result<Option<Vec<Group>>, Fault> {
        Ok(None)
    }
    /// Adds rows, in whatever order; what that means is what `insert` for each
    /// means. Outside of a transaction a failure may leave some added.
    fn insert_rows(&mut self, table: &str, rows: &[&[Assignment]]) -> Result<(), Fault> {
        rows.iter().try_for_each(|row| self.insert(table, row))
    }
    /// Updates rows, no row twice, as `update` for each does.
    fn update_rows(&mut self, table: &str, rows: &[RowUpdate<'_>]) -> Result<(), Fault> {
        rows.iter().try_for_each(|(conditions, set)| self.update(table, conditions, set))
    }
    /// Removes rows as `delete` for each does.
    fn delete_rows(&mut self, table: &str, rows: &[&[Condition]]) -> Result<(), Fault> {
        rows.iter().try_for_each(|conditions| self.delete(table, conditions))
    }
    /// Starts a transaction for writing, where the driver has them. Statements
    /// outside of one are durable by themselves. If it fails there is nothing
    /// to roll back.
    fn begin(&mut self) -> Result<(), Fault>;
    /// Makes the transaction's changes durable.
    fn commit(&mut self) -> Result<(), Fault>;
    /// Gives the transaction's changes up.
    fn rollback(&mut self) -> Result<(), Fault>;
    /// The last statement or transaction is about to be tried again.
    fn repeats(&mut self) {}
    /// Why the last statement or transaction failed; to be asked when no
    /// transaction is open.
    fn verdict(&mut self) -> Verdict;
    /// Rows that the last update or delete met; `None` where the driver
    /// cannot tell.
    fn affected_rows(&mut self) -> Option<u64>;
    /// How often the database was away, or was found to be another one, since the
    /// start, as all processes of the server know it: what it has may be older since.
    fn outages(&mut self) -> u32 {
        0
    }
    /// Looks whether this connection is still the one that it was, and counts an
    /// outage if it is not: drivers connect again by themselves. To be asked now and
    /// then.
    fn look_for_outages(&mut self) {}
    /// Waits until this connection reads what other nodes of its cluster have
    /// committed before; false where it always does, and to ask again is of no use.
    fn catch_up(&mut self) -> bool {
        false
    }
    /// Empty texts of other programs may be NULL here.
    fn keeps_null_texts(&self) -> bool {
        false
    }
}

/// A message for other servers.
#[derive(Debug, Clone, Copy)]
pub struct Dispatch<'a> {
    /// The node that it is for (`sip:host:port`); all active ones without.
    pub to: Option<&'a [u8]>,
    /// The message.
    pub message: &'a [u8],
    /// Its Content-Type.
    pub content_type: &'a [u8],
    /// It is of what we have, for a node that wants that: its answer makes room for
    /// the next one.
    pub is_stored: bool,
}

/// How much a log line matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Something was lost or refused for our fault.
    Error,
    /// Something is odd; nothing was lost.
    Warning,
    /// Worth a line in normal operation.
    Info,
    /// For debugging.
    Debug,
}

/// Everything that a process of the host offers, but for the request in hand.
pub trait Host: Transport + Packages {
    /// Unix time.
    fn now(&self) -> i64;
    /// The same in milliseconds.
    fn milliseconds(&self) -> u64 {
        self.now().unsigned_abs() * 1000
    }
    /// Unguessable bytes.
    fn random(&mut self) -> [u8; 16];
    /// The process's database connection; `None` when nothing is stored there.
    fn database(&mut self) -> Option<&mut dyn Database>;
    /// A number that the script has set for us: `$xavp(root=>name)`.
    fn script_number(&mut self, _root: &[u8], _name: &[u8]) -> Option<i64> {
        None
    }
    /// Tells the sender processes that a lane was handed over.
    fn wake_senders(&mut self);
    /// Tells the process that talks to other servers that there is something.
    fn wake_replicator(&mut self) {}
    /// Hands a message to DMQ; by that process only. Fails if the node is not known
    /// there, or the message cannot be sent.
    fn dispatch(&mut self, _dispatch: &Dispatch<'_>) -> Result<(), Fault> {
        Err(Fault::Host)
    }
    /// Lets the package inspect a document that has come without a request.
    fn check_document(&mut self, _package: PackageId, _document: &[u8]) -> PackageVerdict {
        PackageVerdict::Accepted
    }
    /// Unix time since when the database is known to be away; `None` if it is there.
    fn database_away_since(&self) -> Option<i64> {
        None
    }
    /// A subscription has ended, and the script may want to know why. No lock is held.
    fn subscription_ended(&mut self, _subscription: &Snapshot, _reason: EndReason) {}
    /// Writes a line to the host's log.
    fn log(&mut self, level: Level, line: std::fmt::Arguments<'_>);
    /// Whether lines of this level are written at all.
    fn logs(&self, level: Level) -> bool;
}
