//! A peer whose fetches fail one after the other is left alone for a while, whatever the policy
//! wants: a peer can list more segments in a second than a policy gets round to blame in a day.

use std::time::Duration;

use edgestore_protocol::{FetchError, PeerError};

/// The first pause. Each further one is twice as long.
const FIRST: Duration = Duration::from_secs(1);

/// When a peer that serves nothing is left alone, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FetchBackoff {
    /// Fetches in a row that fail before there is a pause. Default: 100.
    pub failures: u32,
    /// The longest pause. They begin with 1 s, and double as long as after each again as many in a
    /// row fail. Default: 1 min.
    pub longest: Duration,
}

impl Default for FetchBackoff {
    fn default() -> Self {
        Self { failures: 100, longest: Duration::from_secs(60) }
    }
}

/// How the fetches from one peer have gone. Times are those of its environment.
#[derive(Debug, Default)]
pub(super) struct FetchHealth {
    rule: FetchBackoff,
    /// In a row.
    failures: u64,
    /// None while there are few failures.
    pause: Option<Pause>,
    /// Since that has ended.
    failures_after: u32,
}

#[derive(Debug, Clone, Copy)]
struct Pause {
    wait: Duration,
    until: Duration,
}

impl FetchHealth {
    pub(super) fn new(rule: FetchBackoff) -> Self {
        Self { rule, ..Self::default() }
    }

    /// As if none had failed.
    pub(super) fn forget(&mut self) {
        *self = Self::new(self.rule);
    }

    /// Whether a fetch may be begun. After a pause all are, until the next one: a policy takes one that
    /// is refused beside one that is sent for a sign that the peer is away, and waits for neither.
    pub(super) fn admit(&self, now: Duration) -> Result<(), PeerError> {
        match self.pause {
            Some(pause) if now < pause.until => Err(self.refusal(pause.until, now)),
            _ => Ok(()),
        }
    }

    fn refusal(&self, until: Duration, now: Duration) -> PeerError {
        let left = until.saturating_sub(now).as_secs_f32();
        PeerError::Unreachable(format!(
            "its last {} fetches have failed, so it is left alone for {left:.1} s more",
            self.failures
        ))
    }

    /// What came of a fetch that was sent at `sent`. Says the length of the pause that it begins, where
    /// it is the first one or a longer one.
    pub(super) fn note<T>(
        &mut self,
        outcome: &Result<T, FetchError>,
        sent: Duration,
        now: Duration,
    ) -> Option<Duration> {
        match outcome {
            Ok(_) => {
                self.forget();
                return None;
            }
            // Nothing of the peer.
            Err(FetchError::Cancelled | FetchError::Storage(_)) => return None,
            Err(FetchError::NotFound | FetchError::HashMismatch(_) | FetchError::Peer(_)) => {}
        }
        self.failures += 1;
        let wait = match self.pause {
            // It says nothing of the peer after the pause.
            Some(pause) if sent < pause.until => return None,
            Some(pause) => {
                self.failures_after += 1;
                // It may have lost many segments, or a box on the way, and have those behind them.
                if self.failures_after < self.rule.failures {
                    return None;
                }
                pause.wait.saturating_mul(2)
            }
            None if self.failures < u64::from(self.rule.failures) => return None,
            None => FIRST,
        };
        let wait = wait.min(self.rule.longest);
        self.pause = Some(Pause { wait, until: now.saturating_add(wait) });
        self.failures_after = 0;
        Some(wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAILED: Result<(), FetchError> = Err(FetchError::Peer(PeerError::Status(500)));

    fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    fn failing(failures: u32) -> FetchHealth {
        let mut health = FetchHealth::new(FetchBackoff { failures, longest: secs(5) });
        for left in (0..failures).rev() {
            health.admit(secs(0)).unwrap();
            assert_eq!(health.note(&FAILED, secs(0), secs(0)).is_some(), left == 0);
        }
        health
    }

    #[test]
    fn pauses_double_up_to_the_longest_and_a_good_fetch_ends_them() {
        let mut health = failing(3);
        let mut now = secs(0);
        for pause in [1, 2, 4, 5, 5] {
            let just_before = now + secs(pause) - Duration::from_nanos(1);
            let refused = health.admit(just_before).unwrap_err();
            assert!(matches!(refused, PeerError::Unreachable(_)), "{refused}");
            now += secs(pause);
            health.admit(now).unwrap();
            for _ in 0..2 {
                assert_eq!(health.note(&FAILED, now, now), None);
                assert!(health.admit(now).is_ok(), "what is behind them may be there");
            }
            assert!(health.note(&FAILED, now, now).is_some());
            // Of the others that were sent then.
            assert_eq!((health.note(&FAILED, now, now), health.admit(now).is_ok()), (None, false));
        }
        now += secs(5);
        health.admit(now).unwrap();
        health.note(&Ok(()), now, now);
        assert!(health.admit(now).is_ok());
    }

    #[test]
    fn fetches_that_come_to_nothing_after_a_pause_hold_up_no_others() {
        let mut health = failing(1);
        health.admit(secs(1)).unwrap();
        assert_eq!(health.note(&Err::<(), _>(FetchError::Cancelled), secs(1), secs(1)), None);
        assert!(health.admit(secs(1)).is_ok());
    }

    #[test]
    fn what_is_on_its_way_when_a_pause_begins_makes_it_no_longer() {
        let mut health = failing(1);
        assert!(health.admit(secs(0)).is_err());
        health.admit(secs(1)).unwrap();
        // Sent before the pause, it makes none longer, whenever it fails.
        for now in [0, 1, 9].map(secs) {
            assert_eq!(health.note(&FAILED, secs(0), now), None);
        }
        assert_eq!(health.admit(secs(1)), Ok(()));
        assert_eq!(health.note(&FAILED, secs(1), secs(9)), Some(secs(2)));
        assert!(health.admit(secs(10)).is_err());
    }

    #[test]
    fn failures_of_this_node_are_none_of_the_peer() {
        let mut health = FetchHealth::new(FetchBackoff { failures: 1, longest: secs(5) });
        for own in [FetchError::Cancelled, FetchError::Storage(std::io::Error::other("full"))] {
            health.admit(secs(0)).unwrap();
            assert_eq!(health.note(&Err::<(), _>(own), secs(0), secs(0)), None);
        }
        assert!(health.admit(secs(0)).is_ok());
    }
}
