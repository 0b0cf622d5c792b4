//! When a change was made, as servers with different clocks can agree on: the
//! last one wins. Our servers count with a clock that never stands behind what
//! it has seen; a stock server gives seconds.

/// How far a peer's clock may be from ours before it is not believed, in
/// milliseconds.
pub const TRUSTED: u64 = 60_000;

/// When a change was made, and by whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stamp {
    /// Unix time in milliseconds.
    pub milliseconds: u64,
    /// Tells changes within one millisecond apart.
    pub counter: u16,
    /// The server that accepted it.
    pub node: u64,
    /// It gives no more than the second.
    pub is_coarse: bool,
}

impl Stamp {
    /// Of a stock server, which gives seconds.
    pub fn coarse(seconds: i64, node: u64) -> Stamp {
        let milliseconds = u64::try_from(seconds).unwrap_or(0).saturating_mul(1000);
        Stamp { milliseconds, counter: 0, node, is_coarse: true }
    }

    /// Of a time of our clock (`Clock`).
    pub fn of(time: u64, node: u64) -> Stamp {
        Stamp { milliseconds: time >> 16, counter: time as u16, node, is_coarse: false }
    }

    /// The time that our clock shows for it.
    pub fn time(self) -> u64 {
        self.milliseconds << 16 | u64::from(self.counter)
    }

    fn seconds(self) -> u64 {
        self.milliseconds / 1000
    }

    /// A change made then takes the place of what was `stored` then. Between
    /// our servers all agree on it. A stock server compares nothing: what it
    /// says wins as it arrives, but for what it has said itself before.
    pub fn beats(self, stored: Stamp) -> bool {
        match (self.is_coarse, stored.is_coarse) {
            (false, false) => {
                let order = |stamp: Stamp| (stamp.milliseconds, stamp.counter, stamp.node);
                order(self) > order(stored)
            }
            (true, _) if self.node == stored.node => self.seconds() >= stored.seconds(),
            (true, _) => true,
            (false, true) => self.seconds() >= stored.seconds(),
        }
    }

    /// As it is taken at `now`, milliseconds of our own clock: one that is far
    /// from it says nothing, or a clock that is wrong would hold a presentity for
    /// ever. `is_old` is allowed where a peer tells what it has.
    pub fn believed(self, now: u64, is_old: bool) -> Stamp {
        let is_early = self.milliseconds.saturating_add(TRUSTED) < now && !is_old;
        if is_early || self.milliseconds > now.saturating_add(TRUSTED) {
            return Stamp { milliseconds: now, counter: 0, ..self };
        }
        self
    }
}

/// A number for a stock server, the same at all of ours (FNV-1a).
pub fn node_of(uri: &[u8]) -> u64 {
    uri.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// The time after `last`, which is our clock's `now` in milliseconds unless that
/// stands behind.
pub fn next(last: u64, now: u64) -> u64 {
    (now << 16).max(last.saturating_add(1))
}

/// Our clock when it was `last`, and has now seen a change of this stamp.
pub fn seen(last: u64, stamp: Stamp, now: u64) -> u64 {
    let limit = now.saturating_add(TRUSTED) << 16;
    last.max(stamp.time().min(limit))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ours() -> impl Strategy<Value = Stamp> {
        (0u64..4, 0u16..3, 0u64..3).prop_map(|(milliseconds, counter, node)| Stamp {
            milliseconds,
            counter,
            node,
            is_coarse: false,
        })
    }

    proptest! {
        /// So servers that see the same changes in any order keep the same one.
        #[test]
        fn the_order_of_our_servers_is_total(a in ours(), b in ours(), c in ours()) {
            prop_assert!(!a.beats(a));
            prop_assert_eq!(a.beats(b) || b.beats(a), a != b);
            prop_assert!(!(a.beats(b) && b.beats(a)));
            prop_assert!(!(a.beats(b) && b.beats(c)) || a.beats(c));
        }

        #[test]
        fn our_clock_stands_behind_nothing_that_it_has_seen(
            last: u32, milliseconds: u32, counter: u16, now: u32,
        ) {
            let (last, now) = (u64::from(last), u64::from(now));
            let stamp = Stamp {
                milliseconds: u64::from(milliseconds), counter, node: 1, is_coarse: false,
            };
            let believed = stamp.believed(now, true);
            let clock = next(seen(last, believed, now), now);
            prop_assert!(clock > last);
            prop_assert!(Stamp::of(clock, 0).beats(believed));
            prop_assert!(clock <= last.max((now + TRUSTED) << 16) + 1);
        }
    }

    #[test]
    fn a_stock_server_wins_as_it_arrives() {
        let (stock, other) = (Stamp::coarse(100, 7), Stamp::coarse(100, 8));
        let ours = Stamp { milliseconds: 100_500, counter: 0, node: 1, is_coarse: false };
        assert!(stock.beats(ours) && ours.beats(stock));
        assert!(stock.beats(stock) && stock.beats(other));
        // Its clock lags: the presentity is not frozen.
        assert!(Stamp::coarse(10, 7).beats(ours));
        // What it has said before comes late.
        assert!(!Stamp::coarse(99, 7).beats(stock));
        let older = Stamp { milliseconds: 99_999, ..ours };
        assert!(!older.beats(stock));
    }

    #[test]
    fn a_clock_that_is_wrong_says_nothing() {
        let now = 1_000_000;
        let stamp = |milliseconds| Stamp { milliseconds, counter: 3, node: 1, is_coarse: false };
        for (at, is_old, taken) in [
            (now, false, now),
            (now + TRUSTED, false, now + TRUSTED),
            (now + TRUSTED + 1, false, now),
            (u64::MAX, true, now),
            (now - TRUSTED, false, now - TRUSTED),
            (now - TRUSTED - 1, false, now),
            (now - TRUSTED - 1, true, now - TRUSTED - 1),
            (0, true, 0),
        ] {
            assert_eq!(stamp(at).believed(now, is_old).milliseconds, taken, "{at}");
        }
    }
}
