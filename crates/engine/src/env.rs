//! Time, waiting, threads and chance: what a host takes from the machine that it runs on, and a
//! simulator makes up.
//!
//! All that waits in the runtime waits for a [`Notify`], with or without an end, and all that runs
//! beside something else is a [`Task`]. So a simulator that decides which task runs next, and what
//! time it is when none can, decides everything.

use std::fmt::Debug;
use std::io;
use std::sync::{Arc, Condvar, LazyLock, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

/// The time, as policies see it.
pub trait Clock: Send + Sync {
    /// The wall clock.
    fn now(&self) -> SystemTime;

    /// Since some fixed instant.
    fn monotonic(&self) -> Duration;
}

/// The clock of this machine.
#[derive(Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> SystemTime {
        SystemTime::now()
    }

    fn monotonic(&self) -> Duration {
        static START: LazyLock<Instant> = LazyLock::new(Instant::now);
        START.elapsed()
    }
}

/// Where a host runs.
pub trait Env: Clock + Debug {
    /// Any number.
    fn random(&self) -> u64;

    /// Runs something beside what runs already.
    ///
    /// # Errors
    /// When the system gives no thread.
    fn spawn(&self, name: String, run: Box<dyn FnOnce() + Send>) -> io::Result<Task>;

    /// Something to wait for.
    fn notify(&self) -> Box<dyn Notify>;

    /// Waits.
    fn sleep(&self, time: Duration) {
        let signal = self.notify();
        signal.wait(signal.count(), Some(self.monotonic().saturating_add(time)));
    }
}

/// Tells those who wait that something has changed. To miss nothing, take the count, then look at
/// what may have changed, then wait with that count.
pub trait Notify: Debug + Send + Sync {
    /// How often it was raised.
    fn count(&self) -> u64;

    /// To be called after the change.
    fn raise(&self);

    /// Until it was raised more often than `seen`, or until the clock of its environment is at `until`.
    fn wait(&self, seen: u64, until: Option<Duration>);
}

/// Something that runs beside the rest.
pub struct Task(Box<dyn FnOnce() -> bool + Send + Sync>);

impl Task {
    /// `join` waits for its end and says whether that was a good one.
    pub fn new(join: impl FnOnce() -> bool + Send + Sync + 'static) -> Self {
        Self(Box::new(join))
    }

    /// Waits for its end. False when it panicked.
    pub fn join(self) -> bool {
        (self.0)()
    }
}

impl Debug for Task {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Task")
    }
}

/// This machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemEnv;

impl SystemEnv {
    /// One to share.
    pub fn shared() -> Arc<dyn Env> {
        static MACHINE: LazyLock<Arc<SystemEnv>> = LazyLock::new(Arc::default);
        Arc::clone(&MACHINE) as _
    }
}

impl Clock for SystemEnv {
    fn now(&self) -> SystemTime {
        SystemClock.now()
    }

    fn monotonic(&self) -> Duration {
        SystemClock.monotonic()
    }
}

impl Env for SystemEnv {
    fn random(&self) -> u64 {
        fastrand::u64(..)
    }

    fn spawn(&self, name: String, run: Box<dyn FnOnce() + Send>) -> io::Result<Task> {
        let thread = thread::Builder::new().name(name).spawn(run)?;
        Ok(Task::new(move || thread.join().is_ok()))
    }

    fn notify(&self) -> Box<dyn Notify> {
        Box::new(Bell::default())
    }

    fn sleep(&self, time: Duration) {
        thread::sleep(time);
    }
}

#[derive(Debug, Default)]
struct Bell {
    count: Mutex<u64>,
    rung: Condvar,
}

impl Notify for Bell {
    fn count(&self) -> u64 {
        *self.count.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn raise(&self) {
        *self.count.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.rung.notify_all();
    }

    fn wait(&self, seen: u64, until: Option<Duration>) {
        // A time that is too far away to be told is none.
        let until = until.and_then(|until| {
            Instant::now().checked_add(until.saturating_sub(SystemClock.monotonic()))
        });
        let mut count = self.count.lock().unwrap_or_else(PoisonError::into_inner);
        while *count == seen {
            let Some(until) = until else {
                count = self.rung.wait(count).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            count = self.rung.wait_timeout(count, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_misses_a_signal_that_is_raised_after_the_look() {
        let signal: Arc<dyn Notify> = SystemEnv.notify().into();
        let seen = signal.count();
        signal.raise();
        signal.wait(seen, None);
        let seen = signal.count();
        let raising = Arc::clone(&signal);
        let task = SystemEnv.spawn("raise".into(), Box::new(move || raising.raise())).unwrap();
        signal.wait(seen, None);
        assert!(task.join());
    }

    #[test]
    fn a_wait_ends_in_time() {
        let signal = SystemEnv.notify();
        let start = Instant::now();
        let until = SystemEnv.monotonic() + Duration::from_millis(30);
        signal.wait(signal.count(), Some(until));
        assert!(start.elapsed() >= Duration::from_millis(30));
        signal.wait(signal.count(), Some(Duration::ZERO));
    }

    #[test]
    fn a_task_that_panics_is_told() {
        let task = SystemEnv.spawn("panic".into(), Box::new(|| panic!("on purpose"))).unwrap();
        assert!(!task.join());
    }
}
