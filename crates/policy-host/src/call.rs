//! The one way of a policy's calls into the host: each is counted, and told to whoever watches.

use super::log::printable;
use super::state::State;
use super::words::Words;
use super::{HostCall, TickError};

impl State {
    /// Runs what an import does. `name` is that of [`HostCall::name`].
    pub(super) fn call<A: Words, R: Words>(
        &mut self,
        name: &'static str,
        arguments: A,
        run: impl FnOnce(&mut Self, A) -> wasmtime::Result<R>,
    ) -> wasmtime::Result<R> {
        let tick = self.tick()?;
        tick.calls += 1;
        if tick.calls > tick.limits.host_calls {
            return Err(TickError::HostCalls(tick.limits.host_calls).into());
        }
        let observer = tick.services.observer.clone().filter(|observer| observer.watches_calls());
        let Some(observer) = observer else {
            return run(self, arguments);
        };
        let start = tick.monotonic();
        let at = start.saturating_sub(tick.start);
        // Now, for a handle means nothing once it is dropped.
        let told = arguments.words(self);
        let result = run(self, arguments);
        let took = self.tick()?.monotonic().saturating_sub(start);
        let outcome = match &result {
            Ok(outcome) => outcome.words(self),
            Err(error) => format!("ends the tick: {}", printable(&error.to_string())),
        };
        observer.called(&HostCall { name, arguments: &told, outcome: &outcome, at, took });
        result
    }
}
