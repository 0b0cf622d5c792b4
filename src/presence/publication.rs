//! Publications (RFC 3903): what a PUBLISH asks for; `transition` says what becomes
//! of the stored state.

pub mod transition;

use crate::error::{Fault, Rejection};
use crate::presence::dialog_info::DialogInfo;

/// Our `ruid`s begin with this; random hexadecimal digits follow.
pub const RUID_PREFIX: &[u8] = b"pres-";

/// A publication copied out of the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicationCopy {
    /// Its entity-tag.
    pub entity_tag: Vec<u8>,
    /// Its sender, or empty.
    pub sender: Vec<u8>,
    /// The document; empty where the database keeps it.
    pub body: Vec<u8>,
    /// Unix time of its end.
    pub expires_at: Option<i64>,
    /// Unix time of its latest change.
    pub received: i64,
    /// Its `priority`.
    pub priority: i32,
    /// Stable id.
    pub ruid: Vec<u8>,
}

/// What a PUBLISH asks for (RFC 3903 4.1, table 1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// New state, new entity-tag.
    Create,
    /// The same state for longer.
    Refresh,
    /// Other state.
    Modify,
    /// No state any more.
    Remove,
}

/// Which step a request is. A request without entity-tag needs a body.
pub fn step(if_match: Option<&[u8]>, has_body: bool, expires: u32) -> Result<Step, Rejection> {
    match (if_match, has_body) {
        (None, false) => Err(Rejection::bad_request("Missing Body")),
        (None, true) => Ok(Step::Create),
        (Some(_), _) if expires == 0 => Ok(Step::Remove),
        (Some(_), true) => Ok(Step::Modify),
        (Some(_), false) => Ok(Step::Refresh),
    }
}

/// Why a publication is not made or changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    /// The entity-tag is not that of a living publication, or another request is
    /// changing it right now (RFC 3903 6 step 5); or it is in use, where a new
    /// one brings its own.
    EntityTag,
    /// Publications end faster than their watchers can be told (A14): the request
    /// is to come again.
    TooManyEnds,
    /// The request is at fault, or a limit of the operator's says no.
    Request(Rejection),
    /// What the server stands on has failed.
    Fault(Fault),
}

impl From<Fault> for Refused {
    fn from(fault: Fault) -> Refused {
        Refused::Fault(fault)
    }
}

impl From<Rejection> for Refused {
    fn from(rejection: Rejection) -> Refused {
        Refused::Request(rejection)
    }
}

impl From<Refused> for Rejection {
    fn from(refused: Refused) -> Rejection {
        match refused {
            Refused::EntityTag => Rejection::new(412, "Conditional request failed"),
            Refused::TooManyEnds => Rejection {
                headers: b"Retry-After: 2\r\n".to_vec(),
                ..Rejection::new(503, "Service Unavailable")
            },
            Refused::Request(rejection) => rejection,
            Refused::Fault(fault) => fault.into(),
        }
    }
}

/// A publication that ends at this Unix time (`None`: hard state) is shown until it is
/// ended, but no later than in that second, from which on whoever comes by ends it: one
/// that is published for no time is seen once.
pub fn is_shown(expires_at: Option<i64>, now: i64) -> bool {
    expires_at.is_none_or(|at| at >= now)
}

/// Facts of a published document that later decisions need.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Facts {
    /// How many dialogs a dialog-info document lists; 255 stands for more, too.
    pub dialogs: u8,
    /// The document reports a final state: a dialog-info document with
    /// dialogs, all of them terminated.
    pub is_final: bool,
    /// One of its dialogs, at least, is terminated.
    pub has_terminated: bool,
}

impl Facts {
    /// Takes the facts from what a dialog-info document says.
    pub fn of(info: &DialogInfo) -> Facts {
        Facts {
            dialogs: u8::try_from(info.dialogs).unwrap_or(u8::MAX),
            is_final: info.all_terminated,
            has_terminated: info.any_terminated,
        }
    }

    /// A document with these facts may open a dialog again that the stored document,
    /// whose facts are `stored`, has as terminated (B44).
    pub fn may_reopen(self, stored: Facts) -> bool {
        self.dialogs > 0 && !self.is_final && stored.has_terminated
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_follow_table_1() {
        let tag = Some(&b"a.1"[..]);
        assert_eq!(step(None, true, 10), Ok(Step::Create));
        assert_eq!(step(None, true, 0), Ok(Step::Create));
        assert_eq!(step(tag, false, 10), Ok(Step::Refresh));
        assert_eq!(step(tag, true, 10), Ok(Step::Modify));
        assert_eq!(step(tag, true, 0), Ok(Step::Remove));
        assert_eq!(step(tag, false, 0), Ok(Step::Remove));
        assert_eq!(step(None, false, 10).map_err(|r| r.code), Err(400));
    }

    #[test]
    fn hard_state_is_always_shown() {
        assert!(is_shown(None, i64::MAX));
        assert_eq!([99, 100, 101].map(|now| is_shown(Some(100), now)), [true, true, false]);
    }

    #[test]
    fn more_dialogs_than_can_be_counted_are_many() {
        let dialogs = |dialogs| Facts::of(&DialogInfo { dialogs, ..DialogInfo::default() }).dialogs;
        assert_eq!([0, 1, 254, 255, 256, 1000].map(dialogs), [0, 1, 254, 255, 255, 255]);
    }

    /// Only a dialog that lives, over one that has terminated.
    #[test]
    fn few_documents_can_open_a_dialog_again() {
        let lives = Facts { dialogs: 2, has_terminated: true, is_final: false };
        let (over, none) = (Facts { is_final: true, ..lives }, Facts::default());
        let busy = Facts { has_terminated: false, ..lives };
        for stored in [lives, over] {
            assert!(lives.may_reopen(stored) && busy.may_reopen(stored));
            assert!(!over.may_reopen(stored) && !none.may_reopen(stored));
        }
        for stored in [busy, none] {
            assert!(!lives.may_reopen(stored) && !busy.may_reopen(stored));
        }
    }
}
