//! Puts writes into segments, from where peers pull them: soon after the first one, and never more
//! segments than peers and compactions can follow.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use edgestore_engine::env::{Notify, Task};
use edgestore_engine::{Engine, Waker};

use super::peer_loop::Shared;

/// When writes are flushed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plan {
    /// Between two flushes while writes go on, at first; none waits for the interval.
    pub(super) delay: Option<Duration>,
    /// No write waits for longer.
    pub(super) interval: Duration,
}

/// Flushes of which each may come after the shortest delay.
const BURST: u32 = 6000;

/// How soon the next one of these is earned again: so many come in the long run, four a second.
const EARNED_EVERY: Duration = Duration::from_millis(250);

/// How many flushes may come soon, as a token bucket
/// (<https://en.wikipedia.org/wiki/Token_bucket>) whose delays grow before it is empty.
#[derive(Debug)]
struct TokenBucket {
    left: u32,
    /// Since when the next one is being earned.
    since: Duration,
}

impl TokenBucket {
    fn new(now: Duration) -> Self {
        Self { left: BURST, since: now }
    }

    /// How long after a flush the next one may come: `shortest` while half of the burst is left, and
    /// then ever longer, up to as long as one is earned in.
    fn delay(&self, shortest: Duration) -> Duration {
        let half = BURST / 2;
        let used = half.saturating_sub(self.left);
        let grown = EARNED_EVERY.saturating_sub(shortest) * used / half;
        shortest.saturating_add(grown)
    }

    fn flushed(&mut self, now: Duration) {
        let earned = now.saturating_sub(self.since).as_nanos() / EARNED_EVERY.as_nanos();
        let earned = u32::try_from(earned).unwrap_or(u32::MAX);
        self.left = self.left.saturating_add(earned).min(BURST);
        self.since = match self.left {
            BURST => now,
            _ => self.since.saturating_add(EARNED_EVERY.saturating_mul(earned)),
        };
        self.left = self.left.saturating_sub(1);
    }
}

/// The thread that flushes, until this is dropped.
pub(super) struct Flusher {
    signal: Arc<Signal>,
    task: Option<Task>,
    /// The engine calls it as long as it lives.
    _waker: Arc<Waker>,
}

struct Signal {
    stopping: AtomicBool,
    /// There are writes to flush.
    pending: AtomicBool,
    changed: Box<dyn Notify>,
}

impl Signal {
    fn raise(&self, flag: &AtomicBool) {
        flag.store(true, Ordering::Release);
        self.changed.raise();
    }
}

impl Flusher {
    pub(super) fn start(shared: &Shared, plan: Plan) -> io::Result<Self> {
        const NAME: &str = "edgestore-flush";
        let (env, engine, dead) = (&shared.env, &shared.engine, shared.dead.clone());
        let (stopping, pending) = (AtomicBool::new(false), AtomicBool::new(true));
        let signal = Arc::new(Signal { stopping, pending, changed: env.notify() });
        let waking = Arc::clone(&signal);
        let waker: Arc<Waker> = Arc::new(move || waking.raise(&waking.pending));
        if plan.delay.is_some() {
            engine.watch_pending(Arc::downgrade(&waker));
        }
        let (woken, engine, clock) = (Arc::clone(&signal), Arc::clone(engine), Arc::clone(env));
        let run = move || {
            let _watched = dead.watch(NAME);
            let mut bucket = TokenBucket::new(clock.monotonic());
            loop {
                let last = clock.monotonic();
                let due = last.saturating_add(plan.interval);
                let soon = plan.delay.map(|delay| last.saturating_add(bucket.delay(delay)));
                // At least once, however short the interval is.
                loop {
                    let seen = woken.changed.count();
                    if woken.stopping.load(Ordering::Acquire) {
                        return;
                    }
                    let soon = soon.filter(|_| woken.pending.load(Ordering::Acquire));
                    let due = soon.map_or(due, |soon| soon.min(due));
                    if clock.monotonic() >= due {
                        break;
                    }
                    woken.changed.wait(seen, Some(due));
                }
                // Before the flush: what is written meanwhile is for the next one.
                woken.pending.store(false, Ordering::Release);
                // What panics here may cost a flush, and not the thread.
                match catch_unwind(AssertUnwindSafe(|| flush(&engine))) {
                    Ok(true) => bucket.flushed(clock.monotonic()),
                    Ok(false) => {}
                    Err(_) => tracing::error!("a flush panicked; please report this"),
                }
            }
        };
        let task = env.spawn(NAME.to_owned(), Box::new(run))?;
        Ok(Self { signal, task: Some(task), _waker: waker })
    }
}

/// Whether there was something.
fn flush(engine: &Engine) -> bool {
    match engine.flush() {
        Ok(Some(segment)) => {
            tracing::debug!(
                segment = segment.hash.short(),
                records = segment.records,
                "flushed local writes"
            );
            true
        }
        Ok(None) => false,
        Err(error) => {
            tracing::error!(%error, "can't flush; the writes stay in the database");
            false
        }
    }
}

impl Drop for Flusher {
    fn drop(&mut self) {
        self.signal.raise(&self.signal.stopping);
        if self.task.take().is_some_and(|task| !task.join()) {
            tracing::error!("the flush thread panicked");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DELAY: Duration = Duration::from_millis(25);

    /// How many flushes come in a time in which writes never end.
    fn flushes(time: Duration) -> u32 {
        let (mut bucket, mut now, mut count) =
            (TokenBucket::new(Duration::ZERO), Duration::ZERO, 0);
        while now < time {
            now += bucket.delay(DELAY);
            bucket.flushed(now);
            count += 1;
        }
        count
    }

    #[test]
    fn flushes_are_as_frequent_as_they_may_be_for_a_while_and_bounded_in_the_long_run() {
        let bucket = TokenBucket::new(Duration::ZERO);
        assert_eq!(bucket.delay(DELAY), DELAY);
        assert_eq!(flushes(Duration::from_secs(60)), 60 * 40);
        let hour = flushes(Duration::from_secs(3600));
        assert!((14_400..14_400 + BURST).contains(&hour), "{hour}");
        let two = flushes(Duration::from_secs(7200));
        assert!((14_380..14_420).contains(&(two - hour)), "{}", two - hour);
    }

    #[test]
    fn what_was_used_up_is_earned_again() {
        let mut bucket = TokenBucket { left: 0, since: Duration::ZERO };
        assert_eq!(bucket.delay(DELAY), EARNED_EVERY);
        bucket.flushed(Duration::from_secs(750));
        assert_eq!(
            (bucket.left, bucket.delay(DELAY)),
            (2999, DELAY + (EARNED_EVERY - DELAY) / 3000)
        );
        bucket.flushed(Duration::from_secs(100_000));
        assert_eq!(bucket.left, BURST - 1);
    }

    #[test]
    fn a_delay_longer_than_what_is_earned_in_is_kept() {
        let bucket = TokenBucket { left: 0, since: Duration::ZERO };
        assert_eq!(bucket.delay(Duration::from_secs(5)), Duration::from_secs(5));
    }
}
