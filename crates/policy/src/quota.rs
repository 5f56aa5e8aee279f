//! So many bytes an hour: for links that are paid by the byte.
//!
//! Set bytes aside before a fetch, store the cursor that the hour is a field of, and settle when the
//! fetch has landed: neither a restart nor transfers side by side exceed the budget then.

use crate::host::Segment;
use crate::types::{FetchError, PeerError};

const HOUR_MS: u64 = 3_600_000;

/// What was used of the budget since an hour began. The first tick after it begins the next one.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Hour {
    /// By the wall clock, since the Unix epoch.
    began_ms: u64,
    /// Bytes that came, that are set aside for what is to come, and that earlier hours owe.
    used: u64,
}

impl Hour {
    /// Begins a new hour when one is over. What was used beyond the budget is paid off by the hours
    /// that passed. A clock that was put back by less than an hour begins no new one.
    pub fn turn(&mut self, now_ms: u64, per_hour: u64) {
        let passed = now_ms.abs_diff(self.began_ms) / HOUR_MS;
        if passed > 0 {
            self.began_ms = now_ms;
            self.used = self.used.saturating_sub(per_hour.saturating_mul(passed));
        }
    }

    /// Until the next hour.
    pub fn left_ms(&self, now_ms: u64) -> u64 {
        self.began_ms.saturating_add(HOUR_MS).saturating_sub(now_ms)
    }

    /// Whether there is nothing left of it.
    pub fn is_used_up(&self, per_hour: u64) -> bool {
        self.used >= per_hour
    }

    /// Sets bytes aside, if they fit: a whole hour fits anything.
    pub fn reserve(&mut self, bytes: u64, per_hour: u64) -> bool {
        let used = self.used.saturating_add(bytes);
        let fits = self.used == 0 || (used <= per_hour && self.used < per_hour);
        if fits {
            self.used = used;
        }
        fits
    }

    /// A fetch for which so many bytes were set aside has ended: what came counts instead. Where
    /// some came but nobody knows how many, it is all of them.
    pub fn settle(&mut self, reserved: u64, outcome: &Result<impl Segment, FetchError>) {
        use FetchError::{NotFound, Peer};
        let came = match outcome {
            Ok(segment) => segment.size(),
            Err(NotFound | Peer(PeerError::Unreachable | PeerError::Status(_))) => 0,
            Err(_) => reserved,
        };
        self.release(reserved);
        self.used = self.used.saturating_add(came);
    }

    /// Nothing came of so many bytes that were set aside, since the fetch was never started.
    pub fn release(&mut self, reserved: u64) {
        self.used = self.used.saturating_sub(reserved);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Hash;

    #[test]
    fn what_does_not_fit_waits_for_the_next_hour() {
        let mut hour = Hour::default();
        hour.turn(10 * HOUR_MS, 100);
        assert!(hour.reserve(60, 100) && !hour.reserve(41, 100) && hour.reserve(40, 100));
        assert!(hour.is_used_up(100) && !hour.reserve(0, 100));
        hour.turn(11 * HOUR_MS - 1, 100);
        assert_eq!((hour.is_used_up(100), hour.left_ms(11 * HOUR_MS - 1)), (true, 1));
        hour.turn(11 * HOUR_MS, 100);
        assert!(!hour.is_used_up(100) && hour.reserve(100, 100));
    }

    /// A segment that came, of so many bytes.
    struct Came(u64);

    impl Segment for Came {
        fn hash(&self) -> Hash {
            Hash::ZERO
        }

        fn size(&self) -> u64 {
            self.0
        }
    }

    #[test]
    fn what_really_came_counts() {
        for (outcome, used) in [
            (Ok(Came(70)), 70),
            (Err(FetchError::HashMismatch), 60),
            (Err(FetchError::Peer(PeerError::Timeout)), 60),
            (Err(FetchError::NotFound), 0),
            (Err(FetchError::Peer(PeerError::Unreachable)), 0),
            (Err(FetchError::Peer(PeerError::Status(503))), 0),
        ] {
            let mut hour = Hour::default();
            assert!(hour.reserve(60, 100));
            hour.settle(60, &outcome);
            assert_eq!(hour.used, used, "{:?}", outcome.err());
        }
    }

    #[test]
    fn what_was_never_started_does_not_count() {
        let mut hour = Hour::default();
        assert!(hour.reserve(60, 100));
        hour.release(60);
        assert!(hour.reserve(100, 100));
    }

    #[test]
    fn a_segment_larger_than_an_hour_is_paid_off_by_the_hours_after_it() {
        let mut hour = Hour::default();
        hour.turn(10 * HOUR_MS, 100);
        assert!(hour.reserve(250, 100));
        for (at, used_up) in [(11, true), (12, false), (13, false)] {
            hour.turn(at * HOUR_MS, 100);
            assert_eq!(hour.is_used_up(100), used_up, "at hour {at}");
        }
        assert_eq!(hour.used, 0);
    }

    #[test]
    fn a_clock_that_is_put_back_a_little_gives_no_further_budget() {
        let mut hour = Hour::default();
        hour.turn(10 * HOUR_MS, 100);
        hour.reserve(100, 100);
        hour.turn(10 * HOUR_MS - 1000, 100);
        assert!(hour.is_used_up(100));
    }
}
