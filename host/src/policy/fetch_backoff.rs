//! A peer whose fetches fail one after the other is left alone for a while, whatever the policy
//! wants: a peer can list more segments in a second than a policy gets round to blame in a day.

use std::time::Duration;

use crate::protocol::{FetchError, PeerError};

/// The first pause. Each further one is twice as long.
const FIRST: Duration = Duration::from_secs(1);

/// When a peer that serves nothing is left alone, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FetchBackoff {
    /// Fetches in a row that fail before there is a pause. Default: 100.
    pub failures: u32,
    /// The longest pause: they begin with 1 s, and double as long as the one fetch after each fails.
    /// Default: 1 min.
    pub longest: Duration,
}

impl Default for FetchBackoff {
    fn default() -> Self {
        Self { failures: 100, longest: Duration::from_secs(60) }
    }
}

/// How the fetches from one peer have gone. Times are those of its world.
#[derive(Debug, Default)]
pub(super) struct FetchHealth {
    rule: FetchBackoff,
    /// In a row.
    failures: u64,
    /// None while there are few failures.
    pause: Option<Pause>,
}

#[derive(Debug, Clone, Copy)]
struct Pause {
    wait: Duration,
    until: Duration,
}

/// A fetch that may be begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Admitted {
    /// It finds out whether the peer is well again.
    trial: bool,
}

impl FetchHealth {
    pub(super) fn new(rule: FetchBackoff) -> Self {
        Self { rule, ..Self::default() }
    }

    /// As if none had failed.
    pub(super) fn forget(&mut self) {
        (self.failures, self.pause) = (0, None);
    }

    /// Whether a fetch may be begun. After a pause, one is.
    pub(super) fn admit(&mut self, now: Duration) -> Result<Admitted, PeerError> {
        let Some(pause) = self.pause else { return Ok(Admitted { trial: false }) };
        if now < pause.until {
            return Err(self.refusal(pause.until, now));
        }
        // The others wait for what comes of this one. It may come to nothing.
        self.pause = Some(Pause { until: now.saturating_add(pause.wait), ..pause });
        Ok(Admitted { trial: true })
    }

    /// Whether one that was admitted, and has waited for a thread, is still to be sent.
    pub(super) fn check(&self, admitted: Admitted, now: Duration) -> Result<(), PeerError> {
        match self.pause {
            Some(pause) if !admitted.trial && now < pause.until => {
                Err(self.refusal(pause.until, now))
            }
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

    /// What came of a fetch that was sent. Says the length of the pause that it begins, where it is
    /// the first one or a longer one.
    pub(super) fn note<T>(
        &mut self,
        outcome: &Result<T, FetchError>,
        admitted: Admitted,
        now: Duration,
    ) -> Option<Duration> {
        match outcome {
            Ok(_) => {
                self.forget();
                return None;
            }
            // Nothing of the peer.
            Err(FetchError::Cancelled | FetchError::Storage(_)) => return None,
            Err(FetchError::Peer(_) | FetchError::NotFound | FetchError::HashMismatch(_)) => {}
        }
        self.failures += 1;
        let wait = match self.pause {
            // One that was sent before the pause.
            Some(_) if !admitted.trial => return None,
            Some(pause) => pause.wait.saturating_mul(2),
            None if self.failures < u64::from(self.rule.failures) => return None,
            None => FIRST,
        };
        let wait = wait.min(self.rule.longest);
        self.pause = Some(Pause { wait, until: now.saturating_add(wait) });
        Some(wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAILED: Result<(), FetchError> = Err(FetchError::NotFound);

    fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    fn failing(failures: u32) -> FetchHealth {
        let mut health = FetchHealth::new(FetchBackoff { failures, longest: secs(5) });
        for left in (0..failures).rev() {
            let admitted = health.admit(secs(0)).unwrap();
            assert_eq!(health.note(&FAILED, admitted, secs(0)).is_some(), left == 0);
        }
        health
    }

    #[test]
    fn pauses_double_up_to_the_longest_and_one_fetch_ends_each() {
        let mut health = failing(3);
        let mut now = secs(0);
        for pause in [1, 2, 4, 5, 5] {
            let just_before = now + secs(pause) - Duration::from_nanos(1);
            let refused = health.admit(just_before).unwrap_err();
            assert!(matches!(refused, PeerError::Unreachable(_)), "{refused}");
            now += secs(pause);
            let trial = health.admit(now).unwrap();
            assert!(health.admit(now).is_err(), "one alone finds out");
            health.note(&FAILED, trial, now);
        }
        let trial = health.admit(now + secs(5)).unwrap();
        health.note(&Ok(()), trial, now + secs(5));
        assert_eq!(health.admit(now + secs(5)), Ok(Admitted { trial: false }));
    }

    #[test]
    fn a_fetch_that_comes_to_nothing_holds_up_the_next_no_longer_than_a_pause() {
        let mut health = failing(1);
        let lost = health.admit(secs(1)).unwrap();
        assert_eq!(health.note(&Err::<(), _>(FetchError::Cancelled), lost, secs(1)), None);
        assert!(health.admit(secs(1)).is_err());
        assert!(health.admit(secs(2)).is_ok());
    }

    #[test]
    fn what_waits_for_a_thread_when_a_pause_begins_is_not_sent() {
        let mut health = FetchHealth::new(FetchBackoff { failures: 1, longest: secs(5) });
        let [first, second] = [(); 2].map(|()| health.admit(secs(0)).unwrap());
        health.note(&FAILED, first, secs(0));
        assert!(health.check(second, secs(0)).is_err());
        let trial = health.admit(secs(1)).unwrap();
        assert_eq!(health.check(trial, secs(1)), Ok(()));
        // It was sent before, and makes the pause no longer.
        assert_eq!(health.note(&FAILED, second, secs(1)), None);
    }

    #[test]
    fn failures_of_this_node_are_none_of_the_peer() {
        let mut health = FetchHealth::new(FetchBackoff { failures: 1, longest: secs(5) });
        for own in [FetchError::Cancelled, FetchError::Storage(std::io::Error::other("full"))] {
            let admitted = health.admit(secs(0)).unwrap();
            assert_eq!(health.note(&Err::<(), _>(own), admitted, secs(0)), None);
        }
        assert!(health.admit(secs(0)).is_ok());
    }
}
