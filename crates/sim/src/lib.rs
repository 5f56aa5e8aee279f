//! A simulated environment for real policies.
//!
//! A simulation runs whole hosts, with their engines, their tick loops and the very component that
//! will be deployed, over a network, disks and clocks that it makes up, and that fail as the
//! scenario says. Time passes only when every task waits, so a day takes as long as its work does.
//! One task runs at a time, and a seed decides whatever is left to chance: the same seed, scenario
//! and policy make the same run, event for event.
//!
//! ```text
//! Scenario ──► run ──► Outcome
//!               │
//!               ├─ schedule   which task runs, and what time it is
//!               ├─ network    what requests take, lose and change
//!               ├─ node       one host, its disk and its clock
//!               └─ check      what must hold
//! ```

mod check;
mod faults;
#[cfg(test)]
mod injected_bugs;
mod log;
mod model;
mod network;
mod node;
mod outcome;
mod policy_under_test;
pub mod report;
mod run;
mod scenario;
mod schedule;
mod shrink;
#[cfg(test)]
mod tests;
mod topology;

pub use self::outcome::{
    Divergence, Invariant, LinkCounts, NodeCounts, Outcome, Span, TickMark, Violation,
};
pub use self::policy_under_test::{PolicyUnderTest, SimError};
pub use self::run::run;
#[cfg(any(test, feature = "testing"))]
#[doc(hidden)]
pub use self::scenario::fuzz::scenario as fuzz_scenario;
pub use self::scenario::{
    Expect, Fault, FaultKind, Link, Scenario, ScenarioError, Topology, When, Writer,
};
pub use self::shrink::shrink;
