//! When the next tick is due.
//!
//! The policy says; this only keeps its wishes within reason. A tick that asks for the next one at
//! once gets it as long as ticks get something done, and then ever more rarely, so that no policy
//! makes a busy loop. Waits that the policy did not choose are spread a little, so that hosts that
//! were started together do not ask their common peer together for ever.

use std::time::Duration;

use edgestore_policy_host::{Reason, TickError, TickReport};

/// No wait is longer, whatever the policy asks for: no peer must be forgotten.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// Ticks that fail by themselves, not by what the policy says, come at the interval first and at
/// this at last.
const FAILURE_CAP: Duration = Duration::from_secs(15 * 60);

/// The wait after the first idle tick in a row that asked for another one at once; doubles.
const IDLE_WAIT: Duration = Duration::from_millis(100);

/// The wait before the next tick, and why that will happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Due {
    pub(super) wait: Duration,
    pub(super) reason: Reason,
}

/// What the schedule of one peer remembers.
#[derive(Debug)]
pub(super) struct Schedule {
    interval: Duration,
    failures: u32,
    /// Ticks in a row that got nothing done and asked for another one before the interval.
    idle: u32,
}

impl Schedule {
    pub(super) fn new(interval: Duration) -> Self {
        Self { interval, failures: 0, idle: 0 }
    }

    /// Failed ticks in a row.
    pub(super) fn failures(&self) -> u32 {
        self.failures
    }

    /// After a tick that ended like this. `random` is any number.
    pub(super) fn after(&mut self, tick: &Result<TickReport, TickError>, random: u64) -> Due {
        let wish = match tick {
            Ok(report) => {
                self.failures = 0;
                report.next_tick
            }
            Err(error) => {
                self.failures = self.failures.saturating_add(1);
                match error {
                    TickError::Policy { next_tick, .. } => *next_tick,
                    _ => None,
                }
            }
        };
        let progress = matches!(tick, Ok(report) if report.applied > 0);
        let wait = match wish {
            Some(wish) if progress || wish >= self.interval => wish,
            Some(wish) => {
                self.idle = self.idle.saturating_add(1);
                wish.max(doubled(IDLE_WAIT, self.idle).min(self.interval))
            }
            None if tick.is_ok() => spread(self.interval, random),
            None => {
                let cap = FAILURE_CAP.max(self.interval);
                spread(doubled(self.interval, self.failures).min(cap), random)
            }
        };
        if progress || wish.is_none_or(|wish| wish >= self.interval) {
            self.idle = 0;
        }
        let reason = if tick.is_ok() { Reason::Interval } else { Reason::Retry };
        Due { wait: wait.min(LONGEST), reason }
    }
}

/// `base * 2^(times - 1)`.
fn doubled(base: Duration, times: u32) -> Duration {
    base.saturating_mul(1u32.checked_shl(times.saturating_sub(1)).unwrap_or(u32::MAX))
}

/// From nine tenths to eleven tenths of `wait`.
fn spread(wait: Duration, random: u64) -> Duration {
    wait.min(LONGEST).mul_f64(0.9 + 0.2 * (random as f64 / u64::MAX as f64))
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(30);

    fn report(applied: u32, next_tick: Option<Duration>) -> Result<TickReport, TickError> {
        Ok(TickReport { applied, next_tick, ..TickReport::default() })
    }

    fn trap() -> Result<TickReport, TickError> {
        Err(TickError::Trap("unreachable".into()))
    }

    #[test]
    fn a_tick_without_a_wish_is_followed_at_the_interval_give_or_take_a_tenth() {
        for (random, secs) in [(0, 27.0), (u64::MAX, 33.0)] {
            let due = Schedule::new(INTERVAL).after(&report(0, None), random);
            assert!((due.wait.as_secs_f64() - secs).abs() < 0.001, "{due:?}");
            assert_eq!(due.reason, Reason::Interval);
        }
    }

    #[test]
    fn an_interval_beyond_all_time_is_a_day() {
        let mut schedule = Schedule::new(Duration::MAX);
        assert_eq!(schedule.after(&report(0, None), u64::MAX).wait, LONGEST);
        assert_eq!(schedule.after(&trap(), u64::MAX).wait, LONGEST);
    }

    #[test]
    fn a_tick_that_got_something_done_gets_the_next_one_when_it_wants() {
        let mut schedule = Schedule::new(INTERVAL);
        for _ in 0..1000 {
            assert_eq!(schedule.after(&report(1, Some(Duration::ZERO)), 7).wait, Duration::ZERO);
        }
    }

    #[test]
    fn a_policy_that_does_nothing_at_once_and_for_ever_is_slowed_down_to_the_interval() {
        let mut schedule = Schedule::new(INTERVAL);
        let mut total = Duration::ZERO;
        for _ in 0..20 {
            total += schedule.after(&report(0, Some(Duration::ZERO)), 7).wait;
        }
        assert!(total > 10 * INTERVAL, "{total:?}");
        assert_eq!(schedule.after(&report(0, Some(Duration::ZERO)), 7).wait, INTERVAL);
        schedule.after(&report(1, Some(Duration::ZERO)), 7);
        assert!(schedule.after(&report(0, Some(Duration::ZERO)), 7).wait <= IDLE_WAIT);
    }

    #[test]
    fn no_wish_is_for_longer_than_a_day() {
        let due = Schedule::new(INTERVAL).after(&report(0, Some(Duration::MAX)), 7);
        assert_eq!(due.wait, LONGEST);
    }

    #[test]
    fn a_policy_that_traps_is_retried_ever_more_rarely() {
        let mut schedule = Schedule::new(INTERVAL);
        let waits: Vec<_> =
            (0..40).map(|_| schedule.after(&trap(), u64::MAX / 2).wait.as_secs_f64()).collect();
        assert!((waits[0] - 30.0).abs() < 0.1 && (waits[1] - 60.0).abs() < 0.1, "{waits:?}");
        assert!((waits[39] - 900.0).abs() < 0.1, "{waits:?}");
        assert_eq!(schedule.failures(), 40);
        assert_eq!(schedule.after(&trap(), 0).reason, Reason::Retry);
        schedule.after(&report(0, None), 0);
        assert_eq!(schedule.failures(), 0);
    }

    #[test]
    fn a_policy_that_fails_chooses_when_it_is_retried() {
        let wish = Duration::from_secs(90);
        let failed =
            TickError::Policy { message: "peer".into(), next_tick: Some(wish), blame: false };
        let due = Schedule::new(INTERVAL).after(&Err(failed), 7);
        assert_eq!((due.wait, due.reason), (wish, Reason::Retry));
    }
}
