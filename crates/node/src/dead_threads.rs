//! Threads of the host that ended by a panic: what they did is not done any more.
//!
//! The loops go on after a panic, so this is for what nobody thought of. It shows in the status.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

/// The names of the threads that are dead.
#[derive(Debug, Clone, Default)]
pub(super) struct DeadThreads(Arc<Mutex<Vec<String>>>);

impl DeadThreads {
    /// To be held by a thread as long as it runs.
    pub(super) fn watch(&self, name: &str) -> Watched {
        Watched { name: name.to_owned(), all: self.clone() }
    }

    /// Those that have died so far, in that order.
    pub(super) fn names(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Notes a thread's death when a panic drops it.
pub(super) struct Watched {
    name: String,
    all: DeadThreads,
}

impl Drop for Watched {
    fn drop(&mut self) {
        if thread::panicking() {
            let mut all = self.all.0.lock().unwrap_or_else(PoisonError::into_inner);
            all.push(std::mem::take(&mut self.name));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dead_threads_are_those_that_panicked() {
        let dead = DeadThreads::default();
        for (name, panics) in [("fine", false), ("dead", true)] {
            let dead = dead.clone();
            let run = move || {
                let _watched = dead.watch(name);
                assert!(!panics, "on purpose");
            };
            assert_eq!(thread::spawn(run).join().is_err(), panics);
        }
        assert_eq!(dead.names(), ["dead"]);
    }
}
