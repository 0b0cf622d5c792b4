//! Lifetimes: what a request asks for, what the server grants and what it
//! tells the client.

use crate::error::Rejection;

/// Seconds since 1970-01-01 UTC.
pub type UnixTime = i64;

/// Seconds that a request may take until its end is computed.
const MARGIN: UnixTime = 60;

/// Reads the value of an Expires header (RFC 3261 20.19) in seconds.
///
/// `None` when the header is absent or empty: the package's default applies.
/// A number beyond 32 bits asks for as long as possible. 400 when it is not a
/// decimal number.
pub fn parse(value: Option<&[u8]>) -> Result<Option<u32>, Rejection> {
    let digits = value.unwrap_or_default().trim_ascii();
    if digits.is_empty() {
        return Ok(None);
    }
    let mut seconds = 0u32;
    for byte in digits {
        if !byte.is_ascii_digit() {
            return Err(Rejection::bad_request("Malformed Expires"));
        }
        seconds = seconds.saturating_mul(10).saturating_add(u32::from(byte - b'0'));
    }
    Ok(Some(seconds))
}

/// What happens to a lifetime below the minimum (`min_expires_action`, manual
/// 3.16; the numbers are the parameter's).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum MinExpiresAction {
    /// 423 with Min-Expires.
    #[default]
    Reject = 1,
    /// The minimum is granted.
    Raise = 2,
}

/// What a PUBLISH does, as far as its lifetime is concerned (RFC 3903 4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PublicationKind {
    /// Creates a publication.
    Initial,
    /// Extends one and leaves its document alone.
    BodylessRefresh,
    /// Replaces the document of one, or removes it: never too brief, because
    /// pua does not handle a 423 and lamps would stay busy.
    Modification,
}

/// The limits that `max_expires`, `min_expires`, `min_expires_action` and
/// `expires_offset` set (manual 3.13-3.16), in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExpiresPolicy {
    /// Longest lifetime granted.
    pub max: u32,
    /// Shortest lifetime granted; 0 for none. Zero always means "end now" and
    /// is never too brief.
    pub min: u32,
    /// What a lifetime below `min` leads to.
    pub action: MinExpiresAction,
    /// A publisher is told this much less than it was granted.
    pub offset: u32,
}

impl ExpiresPolicy {
    /// Nothing lives longer than to `last`, if there is an end to the times that
    /// can be stored and it is not over.
    pub fn until(self, last: Option<UnixTime>, now: UnixTime) -> ExpiresPolicy {
        let left = last.and_then(|last| last.checked_sub(now + MARGIN)).filter(|left| *left > 0);
        let most = left.map_or(u32::MAX, |left| u32::try_from(left).unwrap_or(u32::MAX));
        ExpiresPolicy { max: self.max.min(most), ..self }
    }

    /// The lifetime of a subscription; `default` is its package's. 423 with
    /// Min-Expires if it is too brief (RFC 6665 4.2.1.1).
    pub fn subscription(&self, requested: Option<u32>, default: u32) -> Result<u32, Rejection> {
        self.at_least_min(requested, default)
    }

    /// The lifetime of a publication; `default` is its package's. 423 with
    /// Min-Expires if it is too brief (RFC 3903 6).
    pub fn publication(
        &self,
        requested: Option<u32>,
        default: u32,
        kind: PublicationKind,
    ) -> Result<u32, Rejection> {
        match kind {
            PublicationKind::Initial | PublicationKind::BodylessRefresh => {
                self.at_least_min(requested, default)
            }
            PublicationKind::Modification => Ok(self.capped(requested, default)),
        }
    }

    /// The lifetime with the upper limit only: for siblings and other nodes,
    /// which are not refused.
    pub fn capped(&self, requested: Option<u32>, default: u32) -> u32 {
        requested.unwrap_or(default).min(self.max)
    }

    /// The lifetime written in the 200 to a PUBLISH that was granted `granted`
    /// seconds: less by the offset, so that the client refreshes in time. A
    /// live publication is told half its lifetime rather than less than 1.
    pub fn announced(&self, granted: u32) -> u32 {
        match granted.checked_sub(self.offset) {
            _ if granted == 0 => 0,
            Some(rest) if rest >= 1 => rest,
            _ => (granted / 2).max(1),
        }
    }

    fn at_least_min(&self, requested: Option<u32>, default: u32) -> Result<u32, Rejection> {
        let granted = self.capped(requested, default);
        let min = self.min.min(self.max);
        if granted == 0 || granted >= min {
            return Ok(granted);
        }
        match (self.action, requested) {
            (MinExpiresAction::Reject, Some(_)) => Err(Rejection {
                headers: format!("Min-Expires: {min}\r\n").into_bytes(),
                ..Rejection::new(423, "Interval Too Brief")
            }),
            // Who asked for nothing cannot have asked for too little.
            (MinExpiresAction::Reject, None) | (MinExpiresAction::Raise, _) => Ok(min),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn policy(min: u32, action: MinExpiresAction) -> ExpiresPolicy {
        ExpiresPolicy { max: 3600, min, action, offset: 10 }
    }

    #[test]
    fn expires_is_a_decimal_number() {
        for (value, seconds) in [
            (None, None),
            (Some(""), None),
            (Some(" \t"), None),
            (Some("0"), Some(0)),
            (Some(" 60 "), Some(60)),
            (Some("0000000000060"), Some(60)),
            (Some("4294967295"), Some(u32::MAX)),
            (Some("4294967296"), Some(u32::MAX)),
            (Some("99999999999999999999999"), Some(u32::MAX)),
        ] {
            assert_eq!(parse(value.map(str::as_bytes)), Ok(seconds), "{value:?}");
        }
        for value in ["x", "60;a=b", "-1", "+1", "1.5", "0x10", "6 0", "6\r\n 0"] {
            let refused = parse(Some(value.as_bytes()));
            assert_eq!(refused, Err(Rejection::bad_request("Malformed Expires")), "{value}");
        }
    }

    #[test]
    fn a_subscription_is_capped_and_never_too_brief_to_end() {
        let policy = policy(600, MinExpiresAction::Reject);
        for (requested, granted) in
            [(Some(7200), 3600), (Some(600), 600), (Some(0), 0), (None, 3000)]
        {
            assert_eq!(policy.subscription(requested, 3000), Ok(granted));
        }
    }

    #[test]
    fn too_brief_is_refused_with_the_minimum_or_raised() {
        let refused = policy(600, MinExpiresAction::Reject).subscription(Some(599), 3600);
        assert_eq!(
            refused,
            Err(Rejection {
                headers: b"Min-Expires: 600\r\n".to_vec(),
                ..Rejection::new(423, "Interval Too Brief")
            })
        );
        let raise = policy(600, MinExpiresAction::Raise);
        assert_eq!(raise.subscription(Some(1), 3600), Ok(600));
    }

    #[test]
    fn a_brief_default_is_raised_not_refused() {
        let policy = policy(600, MinExpiresAction::Reject);
        assert_eq!(policy.subscription(None, 60), Ok(600));
        assert_eq!(policy.subscription(None, 0), Ok(0));
    }

    #[test]
    fn only_a_new_or_refreshed_publication_can_be_too_brief() {
        let policy = policy(600, MinExpiresAction::Reject);
        let granted = |kind| policy.publication(Some(10), 3600, kind).map_err(|r| r.code);
        assert_eq!(granted(PublicationKind::Initial), Err(423));
        assert_eq!(granted(PublicationKind::BodylessRefresh), Err(423));
        assert_eq!(granted(PublicationKind::Modification), Ok(10));
        let raise = ExpiresPolicy { action: MinExpiresAction::Raise, ..policy };
        let raised = |kind| raise.publication(Some(10), 3600, kind);
        assert_eq!(raised(PublicationKind::Initial), Ok(600));
        assert_eq!(raised(PublicationKind::Modification), Ok(10));
    }

    #[test]
    fn the_offset_never_tells_a_live_publication_that_it_is_over() {
        let policy = policy(0, MinExpiresAction::Reject);
        for (granted, announced) in
            [(0, 0), (1, 1), (2, 1), (10, 5), (11, 1), (12, 2), (3600, 3590)]
        {
            assert_eq!(policy.announced(granted), announced, "{granted}");
        }
        assert_eq!(ExpiresPolicy { offset: 0, ..policy }.announced(5), 5);
    }

    /// What is granted must be over, with a minute to spare, before the times
    /// that can be stored are.
    #[test]
    fn nothing_outlives_the_times_that_can_be_stored() {
        let policy = policy(10, MinExpiresAction::Reject);
        let max = |last, now| policy.until(last, now).max;
        assert_eq!(max(None, 1_000_000), 3600);
        assert_eq!(max(Some(1_003_660), 1_000_000), 3600);
        assert_eq!(max(Some(1_003_659), 1_000_000), 3599);
        assert_eq!(max(Some(1_000_061), 1_000_000), 1);
        assert_eq!(max(Some(UnixTime::MAX), 1_000_000), 3600);
        // Nobody is served by a lifetime of nothing.
        for last in [1_000_060, 1_000_000, 0, UnixTime::MIN] {
            assert_eq!(max(Some(last), 1_000_000), 3600, "{last}");
        }
        assert_eq!(policy.until(Some(1_000_100), 1_000_000), ExpiresPolicy { max: 40, ..policy });
        let endless = ExpiresPolicy { max: u32::MAX, ..policy };
        assert_eq!(endless.until(Some(1 << 40), 0).max, u32::MAX);
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_number_or_refused(value: Vec<u8>) {
            if let Err(rejection) = parse(Some(&value)) {
                prop_assert_eq!(rejection.code, 400);
            }
        }

        #[test]
        fn numbers_come_back(seconds: u32) {
            prop_assert_eq!(parse(Some(seconds.to_string().as_bytes())), Ok(Some(seconds)));
        }

        #[test]
        fn what_is_granted_and_told_is_within_bounds(
            requested: Option<u32>, default: u32, max in 1u32.., min: u32, offset: u32,
        ) {
            for action in [MinExpiresAction::Reject, MinExpiresAction::Raise] {
                let policy = ExpiresPolicy { max, min, action, offset };
                let Ok(granted) = policy.subscription(requested, default) else { continue };
                prop_assert!(granted <= max);
                prop_assert!(granted == 0 || granted >= min.min(max));
                let announced = policy.announced(granted);
                prop_assert!(announced <= granted);
                prop_assert_eq!(announced == 0, granted == 0);
            }
        }
    }
}
