//! What a policy asks of the host, as text.

use std::sync::{Mutex, PoisonError};

use super::describe::time;
use crate::cli::output;
use crate::policy::{HostCall, Observer};

/// Most calls that are kept.
const MAX_CALLS: usize = 1000;

/// As in `+12.3 ms  peer.probe() -> root 3f2a…  (4.1 ms)`.
fn line(call: &HostCall<'_>) -> String {
    let HostCall { name, arguments, outcome, at, took } = call;
    let at = format!("+{}", time(*at));
    let arrow = if outcome.is_empty() { "" } else { " -> " };
    format!("{at:>12}  {name}({arguments}){arrow}{outcome}  ({})", time(*took))
}

/// Keeps the calls of one tick.
#[derive(Default)]
pub(super) struct Calls(Mutex<Vec<String>>);

impl Calls {
    pub(super) fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Observer for Calls {
    fn called(&self, call: &HostCall<'_>) {
        let mut calls = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match calls.len() {
            0..MAX_CALLS => calls.push(line(call)),
            MAX_CALLS => calls.push("further calls are not shown".to_owned()),
            _ => {}
        }
    }
}

/// Prints each call to standard error when it has returned.
pub(super) struct Explain;

impl Observer for Explain {
    fn called(&self, call: &HostCall<'_>) {
        output::note(&line(call));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn call<'a>(arguments: &'a str, outcome: &'a str) -> HostCall<'a> {
        HostCall {
            name: "peer.probe",
            arguments,
            outcome,
            at: Duration::from_micros(12_340),
            took: Duration::from_micros(4_060),
        }
    }

    #[test]
    fn a_call_is_a_line_with_when_it_was_made_and_how_long_it_took() {
        let text = "    +12.3 ms  peer.probe() -> root 3f2a  (4.1 ms)";
        assert_eq!(line(&call("", "root 3f2a")), text);
        assert_eq!(line(&call("a, 1", "")), "    +12.3 ms  peer.probe(a, 1)  (4.1 ms)");
    }

    #[test]
    fn a_policy_that_calls_without_end_fills_no_memory() {
        let calls = Calls::default();
        (0..2 * MAX_CALLS).for_each(|_| calls.called(&call("", "")));
        assert_eq!(calls.lines().len(), MAX_CALLS + 1);
        assert!(calls.lines()[MAX_CALLS].contains("not shown"));
    }
}
