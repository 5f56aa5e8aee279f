//! How a tick waits for what other threads do for it.
//!
//! Whatever happens for a tick happens in a [`Slot`] of its own, and then rings the tick's one
//! [`Bell`]. The tick looks at its slots whenever the bell rings, and never waits for a thread.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use edgestore_engine::env::{Env, Notify};

/// Locks; a panic elsewhere leaves nothing half done in what this module and the pool guard.
pub(super) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Wakes a tick.
pub(super) struct Bell {
    env: Arc<dyn Env>,
    signal: Box<dyn Notify>,
}

impl Bell {
    pub(super) fn new(env: &Arc<dyn Env>) -> Self {
        Self { env: Arc::clone(env), signal: env.notify() }
    }

    /// To be called after what `ready` looks at has changed.
    pub(super) fn ring(&self) {
        self.signal.raise();
    }

    /// What `ready` returns, as soon as it returns something; none when that did not happen until
    /// the clock of the environment was at `until`. `ready` runs at least once.
    pub(super) fn wait<R>(
        &self,
        until: Duration,
        mut ready: impl FnMut() -> Option<R>,
    ) -> Option<R> {
        loop {
            let seen = self.signal.count();
            if let Some(ready) = ready() {
                return Some(ready);
            }
            if self.env.monotonic() >= until {
                return None;
            }
            self.signal.wait(seen, Some(until));
        }
    }
}

enum State<T> {
    Running,
    /// None when the job ended without an outcome: it was dropped, or it panicked.
    Done(Option<T>),
    Taken,
}

/// The outcome of one job, sooner or later.
pub(super) struct Slot<T>(Mutex<State<T>>);

impl<T> Slot<T> {
    /// A slot, and the end that fills it.
    pub(super) fn new(bell: &Arc<Bell>) -> (Arc<Self>, Filler<T>) {
        let slot = Arc::new(Self(Mutex::new(State::Running)));
        (Arc::clone(&slot), Filler { slot, bell: Arc::clone(bell) })
    }

    /// Whether there is an outcome to take.
    pub(super) fn is_done(&self) -> bool {
        matches!(*lock(&self.0), State::Done(_))
    }

    /// The outcome, once; the inner option is none when the job was lost.
    pub(super) fn take(&self) -> Option<Option<T>> {
        let mut state = lock(&self.0);
        match std::mem::replace(&mut *state, State::Taken) {
            State::Done(outcome) => Some(outcome),
            other => {
                *state = other;
                None
            }
        }
    }
}

/// The end of a slot that the job holds. Dropping it tells the waiter that nothing comes.
pub(super) struct Filler<T> {
    slot: Arc<Slot<T>>,
    bell: Arc<Bell>,
}

impl<T> Filler<T> {
    pub(super) fn fill(self, outcome: T) {
        *lock(&self.slot.0) = State::Done(Some(outcome));
    }
}

impl<T> Drop for Filler<T> {
    fn drop(&mut self) {
        {
            let mut state = lock(&self.slot.0);
            if matches!(*state, State::Running) {
                *state = State::Done(None);
            }
        }
        self.bell.ring();
    }
}

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::Instant;

    use edgestore_engine::env::SystemEnv;
    use edgestore_engine::testing::LONG;

    use super::*;
    use crate::Clock as _;

    fn bell() -> Bell {
        Bell::new(&SystemEnv::shared())
    }

    #[test]
    fn an_outcome_is_taken_once() {
        let bell = Arc::new(bell());
        let (slot, filler) = Slot::new(&bell);
        assert!(!slot.is_done() && slot.take().is_none());
        let filling = thread::spawn(move || filler.fill(7));
        let until = SystemEnv.monotonic() + LONG;
        assert_eq!(bell.wait(until, || slot.take()), Some(Some(7)));
        filling.join().unwrap();
        assert!(!slot.is_done() && slot.take().is_none());
    }

    #[test]
    fn a_dropped_job_is_told() {
        let bell = Arc::new(bell());
        let (slot, filler) = Slot::<()>::new(&bell);
        drop(filler);
        assert_eq!(slot.take(), Some(None));
    }

    #[test]
    fn a_wait_ends_in_time() {
        let start = Instant::now();
        let until = SystemEnv.monotonic() + Duration::from_millis(30);
        assert_eq!(bell().wait(until, || None::<()>), None);
        assert!(start.elapsed() >= Duration::from_millis(30));
    }
}
