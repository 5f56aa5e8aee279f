//! How fast a compaction may read and write, and that it ends at once when it must.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::CompactionStop;
use crate::env::{Env, Notify, SystemEnv};

/// A token bucket (Turner, "New Directions in Communications", 1986) of a tenth of a second, that
/// can be stopped.
#[derive(Debug)]
pub struct RateLimiter {
    bytes_per_sec: Option<u64>,
    state: Mutex<State>,
    stopped: Box<dyn Notify>,
    env: Arc<dyn Env>,
}

#[derive(Debug)]
struct State {
    /// When all that was spent so far is paid.
    paid: Duration,
    stop: bool,
}

const BURST: Duration = Duration::from_millis(100);

impl RateLimiter {
    /// As many bytes a second, read and written together; none for no bound.
    pub fn new(bytes_per_sec: Option<u64>) -> Self {
        Self::in_env(&SystemEnv::shared(), bytes_per_sec)
    }

    /// [`RateLimiter::new`], by the clock of another environment, in which its waits are.
    pub fn in_env(env: &Arc<dyn Env>, bytes_per_sec: Option<u64>) -> Self {
        let state = Mutex::new(State { paid: env.monotonic(), stop: false });
        Self { bytes_per_sec, state, stopped: env.notify(), env: Arc::clone(env) }
    }

    /// As fast as it goes.
    pub fn unbounded() -> Self {
        Self::new(None)
    }

    /// Ends what keeps to this pace. For good.
    pub fn stop(&self) {
        self.state().stop = true;
        self.stopped.raise();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until these bytes may be read or written.
    pub(super) fn spend(&self, bytes: u64) -> Result<(), CompactionStop> {
        if let Some(rate) = self.bytes_per_sec {
            let start = self.env.monotonic().saturating_sub(BURST);
            let cost = bytes as f64 / rate.max(1) as f64;
            let mut state = self.state();
            state.paid = state.paid.max(start) + Duration::from_secs_f64(cost.min(1e6));
        }
        loop {
            let seen = self.stopped.count();
            let State { paid, stop } = *self.state();
            if stop {
                return Err(CompactionStop::Stopped);
            }
            if self.bytes_per_sec.is_none() || self.env.monotonic() >= paid {
                return Ok(());
            }
            self.stopped.wait(seen, Some(paid));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn what_is_spent_takes_its_time_and_a_stop_ends_the_wait() {
        let limiter = RateLimiter::new(Some(1_000_000));
        let start = Instant::now();
        (0..40).for_each(|_| limiter.spend(10_000).unwrap());
        assert!(start.elapsed() >= Duration::from_millis(290), "400 ms, less the burst");
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| limiter.spend(1 << 40));
            std::thread::sleep(Duration::from_millis(20));
            limiter.stop();
            assert!(matches!(waiting.join().unwrap(), Err(CompactionStop::Stopped)));
        });
        assert!(
            matches!(RateLimiter::spend(&limiter, 0), Err(CompactionStop::Stopped)),
            "for good"
        );
    }
}
