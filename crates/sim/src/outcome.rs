//! What came of a simulation: counts, times, what was broken, and what happened before it was.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// One run of a scenario.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// Of the scenario.
    pub scenario: String,
    /// Name and version of the policy.
    pub policy: String,
    /// What the run can be repeated with.
    pub seed: u64,
    /// How long it took in its own time.
    pub simulated: Duration,
    /// From the last write or fault until all nodes were equal; none when they were not in time.
    pub converged_after: Option<Duration>,
    /// By node.
    pub nodes: Vec<NodeCounts>,
    /// By link, in the order of puller, then source.
    pub links: Vec<LinkCounts>,
    /// Bytes of segments that have to cross the network at least: each segment of a flush to each
    /// node but the one that made it. Those that compactions make come on top.
    pub least_bytes: u64,
    /// How far the nodes were apart, over time.
    pub divergence: Vec<Divergence>,
    /// What went wrong, in order of time.
    pub faults: Vec<Span>,
    /// What the nodes were busy with, in order of time. May leave out what no plot can show.
    #[serde(default)]
    pub ticks: Vec<TickMark>,
    /// What must not be. Empty when all is well.
    pub violations: Vec<Violation>,
    /// BLAKE3 of the event log, 64 hex digits: equal for equal runs.
    pub log_hash: String,
    /// The last events, or all of them where that was asked for. One line each.
    pub log: Vec<String>,
}

/// What one node did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeCounts {
    /// Ticks that ended.
    pub ticks: u64,
    /// Of these, the ones that failed.
    pub failed_ticks: u64,
    /// Requests of its policy to peers.
    pub requests: u64,
    /// Of these, the ones that failed.
    pub failed_requests: u64,
    /// Segments that it pulled, those that it had pulled before included.
    pub pulls: u64,
    /// Of these, the ones that it had pulled before.
    pub duplicate_pulls: u64,
    /// Fuel that its ticks have used.
    pub fuel: u64,
    /// Writes that it acknowledged.
    pub writes: u64,
    /// Times that it lost power.
    pub crashes: u64,
}

/// What went over one link.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkCounts {
    /// The node that asks.
    pub puller: usize,
    /// The node that answers.
    pub source: usize,
    /// Requests.
    pub requests: u64,
    /// Bytes of segments, of which cut and lost ones count as far as they came.
    pub segment_bytes: u64,
    /// Bytes of all other answers, about.
    pub control_bytes: u64,
}

/// How far a node was behind at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Divergence {
    /// Since the start.
    pub at: Duration,
    /// By node: keys whose newest acknowledged write it did not show. None while it was down.
    pub behind: Vec<Option<u64>>,
}

/// Something that lasted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    /// Since the start.
    pub from: Duration,
    /// Since the start.
    pub until: Duration,
    /// In words.
    pub what: String,
}

/// One tick of one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TickMark {
    /// When it began, since the start.
    pub at: Duration,
    /// Which node ticked.
    pub node: usize,
    /// How long it lasted.
    pub took: Duration,
    /// Whether it ended well.
    pub ok: bool,
}

/// What must not be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Violation {
    /// Since the start.
    pub at: Duration,
    /// Which invariant.
    pub invariant: Invariant,
    /// In words.
    pub what: String,
}

/// What has to hold, whatever goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Invariant {
    /// No acknowledged write is lost.
    Durability,
    /// Every read is the merge of writes that were made.
    Merge,
    /// All nodes are equal in time, once nothing goes wrong any more.
    Convergence,
    /// A cursor never says more than is true.
    Cursor,
    /// A host says that a peer is in sync only when it has all that the peer lists.
    Honesty,
    /// Nothing is applied that is not what its hash names.
    Integrity,
    /// No limit is exceeded.
    Limits,
    /// Every peer is ticked.
    Starvation,
    /// What the scenario expects beside.
    Expectation,
}

impl Outcome {
    /// Whether all is well.
    pub fn passed(&self) -> bool {
        self.violations.is_empty()
    }

    /// Leaves out what happened over time, which takes much memory and which plots alone show: how
    /// far nodes were apart, and their ticks.
    pub fn forget_plots(&mut self) {
        (self.divergence, self.ticks) = (Vec::new(), Vec::new());
    }

    /// Bytes of segments that crossed the network.
    pub fn segment_bytes(&self) -> u64 {
        self.links.iter().map(|link| link.segment_bytes).sum()
    }

    /// Bytes of segments as a multiple of the least possible; none where nothing had to cross.
    pub fn overhead(&self) -> Option<f64> {
        (self.least_bytes > 0).then(|| self.segment_bytes() as f64 / self.least_bytes as f64)
    }
}
