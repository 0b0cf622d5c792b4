//! Subscriptions (RFC 6665 4.2): what a watcher's SUBSCRIBE means for the
//! dialog it belongs to.

use crate::presence::cseq::CSeq;
use crate::presence::event_package::PackageId;
use crate::presence::text::{self, Packed, TooLong, fields};

fields! {
    /// The text of a subscription.
    Text {
        /// Call-ID.
        CallId,
        /// The watcher's tag: From tag of its requests.
        FromTag,
        /// Our tag.
        ToTag,
        /// The remote target.
        Contact,
        /// Our own Contact.
        LocalContact,
        /// Receiving socket, `proto:ip:port`.
        Socket,
        /// `id` parameter of Event.
        EventId,
        /// Reason of the state.
        Reason,
        /// User of the presentity (Request-URI of the initial request).
        PresentityUser,
        /// Host of the presentity.
        PresentityHost,
        /// User of To, as spelled.
        ToUser,
        /// Host of To, as spelled.
        ToHost,
        /// User of From, as spelled.
        FromUser,
        /// Host of From, as spelled.
        FromHost,
        /// User of the watcher's identity.
        WatcherUser,
        /// Host of the watcher's identity.
        WatcherHost,
        /// Route set as received, joined by ", ".
        RecordRoute,
        /// User-Agent of the watcher.
        UserAgent,
    }
}

/// State of a subscription (RFC 3857 4.7.1); the numbers are those of the
/// `status` columns and of `pres_auth_status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
#[repr(u8)]
pub enum Status {
    /// May see the state.
    #[default]
    Active = 1,
    /// Awaits a decision.
    Pending = 2,
    /// Over.
    Terminated = 3,
    /// Was pending when it ended (RFC 3857 only).
    Waiting = 4,
}

impl Status {
    /// Reads the number of a column or a callback. One that is not known is pending,
    /// which shows nothing to anybody.
    pub fn from_number(number: i64) -> Status {
        match number {
            1 => Status::Active,
            3 => Status::Terminated,
            4 => Status::Waiting,
            _ => Status::Pending,
        }
    }

    /// The word in Subscription-State and watcher information.
    pub fn word(self) -> &'static str {
        match self {
            Status::Active => "active",
            Status::Pending => "pending",
            Status::Terminated => "terminated",
            Status::Waiting => "waiting",
        }
    }
}

/// What authorization said: a status and its reason, often empty.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Authorization {
    /// The state the subscription is to have.
    pub status: Status,
    /// Such as `rejected` or `polite-block`.
    pub reason: Vec<u8>,
}

/// The subscription ends without another word.
pub static TURNED_AWAY: Authorization =
    Authorization { status: Status::Terminated, reason: Vec::new() };

/// What a record keeps free for a reason that it may be given later: its watcher
/// must not be able to take that room.
pub const ROOM_FOR_REASON: usize = 256;

/// A dialog's identity as the notifier sees it (RFC 3261 12).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DialogId<'a> {
    /// Call-ID.
    pub call_id: &'a [u8],
    /// The watcher's tag.
    pub from_tag: &'a [u8],
    /// Our tag.
    pub to_tag: &'a [u8],
}

/// A subscription copied out of the store: complete, owned, unlocked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Its event package.
    pub package: PackageId,
    /// Highest CSeq received.
    pub remote_cseq: CSeq,
    /// CSeq of the latest NOTIFY.
    pub local_cseq: CSeq,
    /// Document version of the latest NOTIFY.
    pub version: u32,
    /// Seconds it has left.
    pub expires: u32,
    /// Its state.
    pub status: Status,
    /// Branch flags for the script.
    pub flags: u32,
    text: Vec<u8>,
}

impl Snapshot {
    /// A snapshot around a packed block of `Text`.
    pub fn new(package: PackageId, text: Vec<u8>) -> Snapshot {
        Snapshot {
            package,
            remote_cseq: CSeq::default(),
            local_cseq: CSeq::default(),
            version: 0,
            expires: 0,
            status: Status::Active,
            flags: 0,
            text,
        }
    }

    /// One of its strings.
    pub fn text(&self, field: Text) -> &[u8] {
        Packed::new(&self.text).get(field)
    }

    /// The packed strings.
    pub fn block(&self) -> &[u8] {
        &self.text
    }

    /// CSeq and document version of the latest NOTIFY.
    pub fn numbers(&self) -> NotifyNumbers {
        NotifyNumbers { cseq: self.local_cseq, version: self.version }
    }

    /// Sets both.
    pub fn set_numbers(&mut self, numbers: NotifyNumbers) {
        (self.local_cseq, self.version) = (numbers.cseq, numbers.version);
    }

    /// There is room for a reason.
    pub fn has_room(&self) -> bool {
        text::has_room(&self.text, ROOM_FOR_REASON)
    }

    /// Replaces all of them by those of a packed block.
    pub fn set_block(&mut self, text: Vec<u8>) {
        self.text = text;
    }

    /// Replaces one string.
    pub fn set_text(&mut self, field: Text, value: &[u8]) -> Result<(), TooLong> {
        if self.text(field) != value {
            self.text = with_text(&self.text, field, value)?;
        }
        Ok(())
    }
}

/// What counts the NOTIFYs of a dialog: each has the next CSeq, and its document the
/// next version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NotifyNumbers {
    /// CSeq.
    pub cseq: CSeq,
    /// Version of the document.
    pub version: u32,
}

impl NotifyNumbers {
    /// Those of the next NOTIFY.
    pub fn next(self) -> NotifyNumbers {
        self.after(1)
    }

    /// Those that the last of so many more NOTIFYs has.
    pub fn after(self, count: u32) -> NotifyNumbers {
        NotifyNumbers {
            cseq: self.cseq.wrapping_add(count),
            version: self.version.wrapping_add(count),
        }
    }

    /// Those of the NOTIFY before.
    pub fn before(self) -> NotifyNumbers {
        NotifyNumbers { cseq: self.cseq.wrapping_sub(1), version: self.version.wrapping_sub(1) }
    }
}

/// Seconds until this Unix time; none when it is over.
pub fn seconds_left(expires_at: i64, now: i64) -> u32 {
    u32::try_from((expires_at - now).max(0)).unwrap_or(u32::MAX)
}

/// A packed block with one string replaced.
pub fn with_text(block: &[u8], field: Text, value: &[u8]) -> Result<Vec<u8>, TooLong> {
    let old = Packed::<Text>::new(block);
    text::pack::<Text>(|n| {
        let this = Text::ALL[n];
        if this == field { value } else { old.get(this) }
    })
}

/// Why a subscription ends (RFC 6665 4.1.3, RFC 3857 4.7.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Ending {
    /// The watcher unsubscribed or fetched: it sees the state a last time.
    Unsubscribed,
    /// It ran out.
    Expired,
    /// The rules block the watcher.
    Rejected,
    /// The rules allow it no more; it may ask again.
    Deactivated,
    /// The watcher may subscribe anew, but should wait first.
    Probation,
    /// It waited for a decision for too long.
    GiveUp,
    /// There is nothing to watch any more.
    NoResource,
}

impl Ending {
    /// The `reason` of the last NOTIFY's Subscription-State.
    pub fn reason(self) -> &'static [u8] {
        match self {
            Ending::Unsubscribed | Ending::Expired => b"timeout",
            Ending::Rejected => b"rejected",
            Ending::Deactivated => b"deactivated",
            Ending::Probation => b"probation",
            Ending::GiveUp => b"giveup",
            Ending::NoResource => b"noresource",
        }
    }

    /// What a package's reason for ending a subscription stands for. One that
    /// is not known turns the watcher away for good.
    pub fn from_reason(reason: &[u8]) -> Ending {
        [
            Ending::Expired,
            Ending::Deactivated,
            Ending::Probation,
            Ending::GiveUp,
            Ending::NoResource,
        ]
        .into_iter()
        .find(|ending| ending.reason().eq_ignore_ascii_case(reason))
        .unwrap_or(Ending::Rejected)
    }

    /// The last NOTIFY carries the state.
    pub fn shows_state(self) -> bool {
        self == Ending::Unsubscribed
    }
}

/// The time of a subscription that ends at this Unix time is over: it ends more than
/// `offset` seconds (`expires_offset`) after that; the second in which it ends is its own.
pub fn has_expired(expires_at: i64, now: i64, offset: i64) -> bool {
    expires_at < now - offset
}

/// It is within the time that its watcher was granted: it counts, and is notified of
/// changes.
pub fn is_within_its_time(expires_at: i64, now: i64) -> bool {
    expires_at > now
}

/// The watcher may subscribe, and is not to know that it is shown nothing.
pub fn is_polite_block(reason: &[u8]) -> bool {
    reason == b"polite-block"
}

/// A watcher that may not see the state gets NOTIFYs without a document.
pub fn may_see(status: Status, reason: &[u8]) -> bool {
    status == Status::Active && !is_polite_block(reason)
}

/// A watcher is sent a NOTIFY when published state changes. Who is politely
/// blocked would learn of changes from NOTIFYs without documents.
pub fn is_notified_of_changes(status: Status, reason: &[u8]) -> bool {
    status == Status::Active && reason.is_empty()
}

/// What the final answer to a NOTIFY means for the subscription (RFC 6665
/// 4.2.2, RFC 5057). `script_decides`: `xavp_cfg` is set, the event route has
/// the say over all codes but those of the manual (3.30).
pub fn ends_subscription(
    code: u16,
    has_retry_after: bool,
    timeout_ends: bool,
    script_decides: bool,
) -> bool {
    match code {
        404 | 481 => true,
        // 430: an edge proxy has lost the watcher's connection (RFC 5626 5.3.1).
        408 | 430 => timeout_ends,
        // 482 and 483 tell of the path, not of the watcher.
        405 | 410 | 416 | 480 | 484 | 485 | 489 | 501 | 604 => !has_retry_after && !script_decides,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_some_codes_end_a_subscription() {
        for code in [404, 405, 408, 410, 416, 430, 480, 481, 484, 485, 489, 501, 604] {
            assert!(ends_subscription(code, false, true, false), "{code}");
        }
        for code in [200, 202, 401, 407, 482, 483, 486, 500, 503, 600, 603] {
            assert!(!ends_subscription(code, false, true, false), "{code}");
        }
        assert!(!ends_subscription(408, false, false, false));
        assert!(!ends_subscription(430, false, false, false));
        assert!(!ends_subscription(480, true, true, false));
        assert!(!ends_subscription(480, false, true, true));
        assert!(ends_subscription(481, true, false, true));
    }

    #[test]
    fn its_time_is_over_before_it_ends() {
        let at = [98, 99, 100, 101, 102, 103];
        assert_eq!(at.map(|now| is_within_its_time(100, now)), at.map(|now| now < 100));
        assert_eq!(at.map(|now| has_expired(100, now, 0)), at.map(|now| now > 100));
        assert_eq!(at.map(|now| has_expired(100, now, 2)), at.map(|now| now > 102));
    }

    #[test]
    fn text_can_be_replaced() {
        let block = text::pack::<Text>(|n| &[b'a'; 18][n..]).unwrap_or_default();
        let mut snapshot = Snapshot::new(PackageId(0), block);
        assert_eq!(snapshot.set_text(Text::Contact, b"sip:new@host"), Ok(()));
        assert_eq!(snapshot.text(Text::Contact), b"sip:new@host");
        assert_eq!(snapshot.text(Text::CallId).len(), 18);
    }

    #[test]
    fn a_status_is_the_number_of_its_column() {
        for status in [Status::Active, Status::Pending, Status::Terminated, Status::Waiting] {
            assert_eq!(Status::from_number(status as i64), status);
        }
        // What nobody knows shows nothing.
        for number in [i64::MIN, -1, 0, 5, i64::MAX] {
            assert_eq!(Status::from_number(number), Status::Pending);
        }
        assert_eq!(
            [1, 2, 3, 4].map(|number| Status::from_number(number).word()),
            ["active", "pending", "terminated", "waiting"]
        );
    }

    #[test]
    fn only_an_active_watcher_sees_and_only_one_without_a_reason_is_told() {
        for status in [Status::Active, Status::Pending, Status::Terminated, Status::Waiting] {
            let is_active = status == Status::Active;
            for (reason, sees, is_notified) in [
                (&b""[..], true, true),
                (b"polite-block", false, false),
                (b"confirmed", true, false),
            ] {
                assert_eq!(may_see(status, reason), is_active && sees, "{status:?}");
                assert_eq!(
                    is_notified_of_changes(status, reason),
                    is_active && is_notified,
                    "{status:?}"
                );
            }
        }
        let turned_away = &TURNED_AWAY;
        assert!(!may_see(turned_away.status, &turned_away.reason));
        assert_eq!(turned_away.status, Status::Terminated);
    }

    #[test]
    fn a_package_names_why_a_subscription_ends() {
        for (reason, ending) in [
            ("timeout", Ending::Expired),
            ("deactivated", Ending::Deactivated),
            ("Probation", Ending::Probation),
            ("giveup", Ending::GiveUp),
            ("noresource", Ending::NoResource),
            ("rejected", Ending::Rejected),
            ("", Ending::Rejected),
            ("because", Ending::Rejected),
        ] {
            let found = Ending::from_reason(reason.as_bytes());
            assert_eq!(found, ending, "{reason}");
            assert!(!found.shows_state(), "{reason}");
            if !matches!(reason, "" | "because") {
                assert_eq!(found.reason(), reason.to_ascii_lowercase().as_bytes());
            }
        }
        // Who unsubscribes sees the state a last time.
        assert!(Ending::Unsubscribed.shows_state());
        assert_eq!(Ending::Unsubscribed.reason(), b"timeout");
    }

    /// What a watcher makes as long as it can has room for a reason all the same.
    #[test]
    fn a_reason_finds_room_or_the_subscription_has_none() {
        let of_length = |length| {
            let contact = vec![b'c'; length];
            let text = |n| if Text::ALL[n] == Text::Contact { &contact[..] } else { b"" };
            text::pack::<Text>(text).map(|block| Snapshot::new(PackageId(0), block))
        };
        let mut longest = of_length(16_000).unwrap_or_else(|_| unreachable!());
        assert!(longest.has_room());
        let reason = [b'r'; ROOM_FOR_REASON];
        assert_eq!(longest.set_text(Text::Reason, &reason), Ok(()));
        assert_eq!(longest.text(Text::Reason), reason);
        assert_eq!(longest.text(Text::Contact).len(), 16_000);
        assert!(of_length(20_000).is_ok_and(|snapshot| !snapshot.has_room()));
        assert_eq!(of_length(40_000), Err(TooLong));
    }

    #[test]
    fn a_block_makes_the_same_snapshot_again() {
        let block = text::pack::<Text>(|n| &[b'a'; 18][n..]).unwrap_or_default();
        let snapshot = Snapshot::new(PackageId(3), block.clone());
        assert_eq!(snapshot.block(), block);
        assert_eq!(Snapshot::new(PackageId(3), snapshot.block().to_vec()), snapshot);
    }
}
