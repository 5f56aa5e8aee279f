//! The clock by which running policies are interrupted. It stands still while none runs, so a host
//! that has nothing to do is not woken.

use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;
use std::{io, thread};

use wasmtime::{Engine, EngineWeak};

use super::wait::lock;

/// Between two looks at whether a policy is to be interrupted.
const EPOCH: Duration = Duration::from_millis(10);

/// Advances the epochs of an engine on a thread of its own, until this is dropped.
pub(super) struct EpochClock(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Instances that run.
    running: usize,
    ended: bool,
}

impl EpochClock {
    /// # Errors
    /// When the system gives no thread.
    pub(super) fn start(engine: &Engine) -> io::Result<Arc<Self>> {
        let (shared, engine) = (Arc::<Shared>::default(), engine.weak());
        let clock = Arc::new(Self(Arc::clone(&shared)));
        thread::Builder::new()
            .name("edgestore-epoch".into())
            .spawn(move || shared.advance(&engine))?;
        Ok(clock)
    }

    /// To be held by each store with an instance that runs.
    pub(super) fn running(&self) -> Running {
        lock(&self.0.state).running += 1;
        self.0.changed.notify_one();
        Running(Arc::clone(&self.0))
    }
}

impl Drop for EpochClock {
    fn drop(&mut self) {
        lock(&self.0.state).ended = true;
        self.0.changed.notify_one();
    }
}

/// Epochs advance as long as one of these lives.
pub(super) struct Running(Arc<Shared>);

impl Drop for Running {
    fn drop(&mut self) {
        lock(&self.0.state).running -= 1;
    }
}

impl Shared {
    fn advance(&self, engine: &EngineWeak) {
        loop {
            let idle = |state: &mut State| state.running == 0 && !state.ended;
            let state = self.changed.wait_while(lock(&self.state), idle);
            let state = state.unwrap_or_else(std::sync::PoisonError::into_inner);
            if state.running == 0 {
                return;
            }
            drop(state);
            thread::sleep(EPOCH);
            let Some(engine) = engine.upgrade() else { return };
            engine.increment_epoch();
        }
    }
}
