//! What clients may pile up (A14): limits that the operator sets, and what a
//! request over one is told. 0 is no limit.

use crate::error::{Exceeded, Rejection};

/// The limits. Counts are of what lives; what is stored already is never thrown
/// out, and what ends or keeps something is never refused by a count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// `max_publications`: of one presentity in one package.
    pub publications: u32,
    /// `max_subscriptions`: of all watchers.
    pub subscriptions: u32,
    /// `max_subscriptions_per_watcher`; `Limits::BY_MEMORY` until it is known how
    /// much there is.
    pub of_watcher: u32,
    /// `max_subscriptions_per_presentity`: in one package.
    pub of_presentity: u32,
    /// `max_document_size`, in bytes.
    pub document: u32,
    /// `min_refresh_gap`: milliseconds between two refreshes of one dialog.
    pub refresh_gap: u32,
    /// `min_publish_gap`: milliseconds between two PUBLISHes of one entity-tag
    /// chain.
    pub publish_gap: u32,
}

/// Bytes of shared memory that a subscription takes, about.
const SUBSCRIPTION: usize = 400;
/// So many a watcher may have however little memory there is.
const FEWEST_OF_WATCHER: u32 = 10_000;

/// Seconds after which a client may ask again whether there is room.
const PATIENCE: u32 = 60;

/// One of the limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// `Limits::publications`.
    Publications,
    /// `Limits::subscriptions`.
    Subscriptions,
    /// `Limits::of_watcher`.
    OfWatcher,
    /// `Limits::of_presentity`.
    OfPresentity,
    /// `Limits::document`.
    Document,
    /// `Limits::refresh_gap`.
    RefreshGap,
    /// `Limits::publish_gap`.
    PublishGap,
}

impl Limits {
    /// No limits: for what is taken over.
    pub const NONE: Limits = Limits {
        publications: 0,
        subscriptions: 0,
        of_watcher: 0,
        of_presentity: 0,
        document: 0,
        refresh_gap: 0,
        publish_gap: 0,
    };

    /// A watcher may have as many subscriptions as a quarter of the memory has room for.
    pub const BY_MEMORY: u32 = u32::MAX;

    /// The limits where `free` bytes of shared memory are free at start. A proxy, or
    /// a PBX that subscribes for all its users, is one watcher: whoever serves many
    /// of them has given the server memory for it.
    pub fn in_memory(self, free: usize) -> Limits {
        let of_watcher = match self.of_watcher {
            Limits::BY_MEMORY => {
                let room = u32::try_from(free / 4 / SUBSCRIPTION).unwrap_or(u32::MAX);
                room.max(FEWEST_OF_WATCHER)
            }
            number => number,
        };
        Limits { of_watcher, ..self }
    }

    /// The number that was set.
    pub fn of(&self, limit: Limit) -> u32 {
        match limit {
            Limit::Publications => self.publications,
            Limit::Subscriptions => self.subscriptions,
            Limit::OfWatcher => self.of_watcher,
            Limit::OfPresentity => self.of_presentity,
            Limit::Document => self.document,
            Limit::RefreshGap => self.refresh_gap,
            Limit::PublishGap => self.publish_gap,
        }
    }

    /// There is room for one more beside `count`.
    pub fn has_room(&self, limit: Limit, count: u32) -> bool {
        let most = self.of(limit);
        most == 0 || count < most
    }

    /// A document of this length may be published.
    pub fn takes_document(&self, length: usize) -> bool {
        self.document == 0 || length <= self.document as usize
    }

    /// The reply to a request over a limit. `offender` is named in the log.
    pub fn exceeded(&self, limit: Limit, offender: Vec<u8>) -> Rejection {
        let exceeded = Some(Box::new(Exceeded { parameter: limit.parameter(), offender }));
        let wait = match limit {
            // Waiting does not make it smaller (RFC 3261 21.4.11).
            Limit::Document => {
                return Rejection { exceeded, ..Rejection::new(413, "Request Entity Too Large") };
            }
            Limit::RefreshGap | Limit::PublishGap => self.of(limit).div_ceil(1000).max(1),
            Limit::Publications | Limit::Subscriptions | Limit::OfWatcher | Limit::OfPresentity => {
                PATIENCE
            }
        };
        let headers = format!("Retry-After: {wait}\r\n").into_bytes();
        Rejection { headers, exceeded, ..Rejection::new(503, "Service Unavailable") }
    }
}

impl Limit {
    /// The parameter that sets it.
    pub fn parameter(self) -> &'static str {
        match self {
            Limit::Publications => "max_publications",
            Limit::Subscriptions => "max_subscriptions",
            Limit::OfWatcher => "max_subscriptions_per_watcher",
            Limit::OfPresentity => "max_subscriptions_per_presentity",
            Limit::Document => "max_document_size",
            Limit::RefreshGap => "min_refresh_gap",
            Limit::PublishGap => "min_publish_gap",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_is_no_limit() {
        assert!(Limits::NONE.has_room(Limit::OfWatcher, u32::MAX));
        assert!(Limits::NONE.takes_document(usize::MAX));
        let limits = Limits { of_watcher: 2, document: 3, ..Limits::NONE };
        let room = |count| limits.has_room(Limit::OfWatcher, count);
        assert_eq!([room(0), room(1), room(2), room(3)], [true, true, false, false]);
        assert_eq!([3, 4].map(|length| limits.takes_document(length)), [true, false]);
    }

    #[test]
    fn a_watcher_may_have_a_quarter_of_the_memory() {
        let of =
            |of_watcher, free| Limits { of_watcher, ..Limits::NONE }.in_memory(free).of_watcher;
        assert_eq!(of(Limits::BY_MEMORY, 0), 10_000);
        assert_eq!(of(Limits::BY_MEMORY, 64 << 20), 41_943);
        assert_eq!(of(Limits::BY_MEMORY, 1 << 30), 671_088);
        assert_eq!((of(0, 1 << 30), of(7, 1 << 30)), (0, 7), "what was set holds");
    }

    #[test]
    fn a_refusal_says_when_to_come_back() {
        let limits = Limits { refresh_gap: 1500, publish_gap: 20, ..Limits::NONE };
        for (limit, code, headers) in [
            (Limit::Document, 413, ""),
            (Limit::OfWatcher, 503, "Retry-After: 60\r\n"),
            (Limit::RefreshGap, 503, "Retry-After: 2\r\n"),
            (Limit::PublishGap, 503, "Retry-After: 1\r\n"),
        ] {
            let rejection = limits.exceeded(limit, b"w".to_vec());
            assert_eq!((rejection.code, &*rejection.headers), (code, headers.as_bytes()));
            assert!(!rejection.is_fault);
            assert_eq!(rejection.exceeded.unwrap().parameter, limit.parameter());
        }
    }
}
