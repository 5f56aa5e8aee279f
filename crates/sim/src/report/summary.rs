//! Many runs of one scenario by one policy, in one line.

use std::collections::BTreeMap;

use serde::Serialize;

use super::super::{Invariant, NodeCounts, Outcome};
use super::metric::{control_bytes, total};
use super::stats::Spread;

/// The runs of one scenario by one policy. Counts and bytes are sums over all runs and nodes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// Of the scenario.
    pub scenario: String,
    /// Name and version of the policy.
    pub policy: String,
    /// How many.
    pub runs: u64,
    /// Of these, the ones in which all was well.
    pub passed: u64,
    /// And the others.
    pub failed: u64,
    /// The seeds of the others, in order.
    pub failing_seeds: Vec<u64>,
    /// In how many runs each invariant was broken.
    pub broken: BTreeMap<Invariant, u64>,
    /// Runs whose nodes became equal in time.
    pub converged: u64,
    /// Simulated seconds that these took.
    pub converge_seconds: Option<Spread>,
    /// Of segments, over the network.
    pub segment_bytes: u64,
    /// Of segments, the least possible.
    pub least_bytes: u64,
    /// Of all other answers.
    pub control_bytes: u64,
    /// By run: bytes of segments as a multiple of the least possible.
    pub overhead: Option<Spread>,
    /// Requests of policies to peers.
    pub requests: u64,
    /// Of these, the ones that failed, and so may have been tried again.
    pub failed_requests: u64,
    /// Segments that were pulled.
    pub pulls: u64,
    /// Of these, the ones that the node had pulled before.
    pub duplicate_pulls: u64,
    /// Ticks that ended.
    pub ticks: u64,
    /// Of these, the ones that failed.
    pub failed_ticks: u64,
    /// Fuel that ticks have used.
    pub fuel: u64,
    /// Writes that were acknowledged.
    pub writes: u64,
    /// Times that a node lost power.
    pub crashes: u64,
    /// Nodes times the hours that were simulated.
    pub node_hours: f64,
}

impl Summary {
    /// One for each scenario and policy, in the order of their first runs.
    pub fn of(outcomes: &[Outcome]) -> Vec<Self> {
        let mut groups: Vec<((&str, &str), Vec<&Outcome>)> = Vec::new();
        for outcome in outcomes {
            let key = (outcome.scenario.as_str(), outcome.policy.as_str());
            match groups.iter_mut().find(|(of, _)| *of == key) {
                Some((_, runs)) => runs.push(outcome),
                None => groups.push((key, vec![outcome])),
            }
        }
        groups.into_iter().map(|((scenario, policy), runs)| one(scenario, policy, &runs)).collect()
    }
}

fn one(scenario: &str, policy: &str, runs: &[&Outcome]) -> Summary {
    let count = |of: fn(&NodeCounts) -> u64| runs.iter().map(|run| total(run, of)).sum();
    let mut failing_seeds: Vec<u64> =
        runs.iter().filter(|run| !run.passed()).map(|run| run.seed).collect();
    failing_seeds.sort_unstable();
    let mut broken = BTreeMap::new();
    for run in runs {
        let mut kinds: Vec<Invariant> = run.violations.iter().map(|one| one.invariant).collect();
        kinds.sort_unstable();
        kinds.dedup();
        for kind in kinds {
            *broken.entry(kind).or_default() += 1;
        }
    }
    let times = || runs.iter().filter_map(|run| run.converged_after);
    Summary {
        scenario: scenario.to_owned(),
        policy: policy.to_owned(),
        runs: runs.len() as u64,
        passed: (runs.len() - failing_seeds.len()) as u64,
        failed: failing_seeds.len() as u64,
        failing_seeds,
        broken,
        converged: times().count() as u64,
        converge_seconds: Spread::of(times().map(|time| time.as_secs_f64())),
        segment_bytes: runs.iter().map(|run| run.segment_bytes()).sum(),
        least_bytes: runs.iter().map(|run| run.least_bytes).sum(),
        control_bytes: runs.iter().map(|run| control_bytes(run)).sum(),
        overhead: Spread::of(runs.iter().filter_map(|run| run.overhead())),
        requests: count(|node| node.requests),
        failed_requests: count(|node| node.failed_requests),
        pulls: count(|node| node.pulls),
        duplicate_pulls: count(|node| node.duplicate_pulls),
        ticks: count(|node| node.ticks),
        failed_ticks: count(|node| node.failed_ticks),
        fuel: count(|node| node.fuel),
        writes: count(|node| node.writes),
        crashes: count(|node| node.crashes),
        node_hours: runs
            .iter()
            .map(|run| run.nodes.len() as f64 * run.simulated.as_secs_f64() / 3600.0)
            .sum(),
    }
}
