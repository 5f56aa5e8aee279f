//! From a run that failed to a smaller one that fails in the same way.
//!
//! Greedy, as property tests shrink: of the changes that make a scenario smaller, the first one
//! that still breaks the same invariant with the same seed is kept, until none does. A smaller
//! scenario draws other numbers from the seed, so that not every change that could be kept is.

use std::time::{Duration, Instant};

use super::outcome::{Invariant, Outcome};
use super::policy_under_test::PolicyUnderTest;
use super::run::run;
use super::scenario::{FaultKind, Scenario, Topology, When};

/// Runs that are tried, at most.
const TRIES: usize = 200;

/// Makes a scenario smaller that fails with `seed`, for as long as `time` lasts. Returns the smallest
/// one that was found, and its run; none when the scenario does not fail.
pub fn shrink(
    scenario: &Scenario,
    subject: &PolicyUnderTest,
    seed: u64,
    time: Duration,
) -> Option<(Scenario, Outcome)> {
    let start = Instant::now();
    let first = run(scenario, subject, seed, false).ok()?;
    let invariant = first.violations.first()?.invariant;
    let fails = |candidate: &Scenario| {
        let outcome = run(candidate, subject, seed, false).ok()?;
        broken(&outcome, invariant).then_some(outcome)
    };
    let mut best = (scenario.clone(), first);
    let mut tries = 0;
    'smaller: loop {
        for candidate in smaller(&best.0) {
            if tries == TRIES || start.elapsed() >= time {
                return Some(best);
            }
            tries += 1;
            if let Some(outcome) = fails(&candidate) {
                best = (candidate, outcome);
                continue 'smaller;
            }
        }
        return Some(best);
    }
}

fn broken(outcome: &Outcome, invariant: Invariant) -> bool {
    outcome.violations.iter().any(|violation| violation.invariant == invariant)
}

/// What can be left out of a scenario, the most first.
fn smaller(scenario: &Scenario) -> Vec<Scenario> {
    let mut all = Vec::new();
    if !scenario.faults.is_empty() {
        all.push(Scenario { faults: Vec::new(), ..scenario.clone() });
    }
    for nodes in [scenario.nodes / 2, scenario.nodes - 1] {
        if nodes >= 2 && nodes < scenario.nodes {
            all.extend(with_nodes(scenario, nodes));
        }
    }
    for duration in [scenario.duration / 2, scenario.duration * 3 / 4] {
        if duration >= Duration::from_secs(60) {
            all.push(shorter(scenario, duration));
        }
    }
    for at in 0..scenario.faults.len() {
        let mut fewer = scenario.clone();
        fewer.faults.remove(at);
        all.push(fewer);
    }
    all.extend(CALMER.map(|calm| {
        let mut calmer = scenario.clone();
        calm(&mut calmer);
        calmer
    }));
    if scenario.writers.len() > 1 {
        for at in 0..scenario.writers.len() {
            let mut fewer = scenario.clone();
            fewer.writers.remove(at);
            all.push(fewer);
        }
    }
    for at in 0..scenario.writers.len() {
        let mut slower = scenario.clone();
        slower.writers[at].per_minute /= 2.0;
        slower.writers[at].keys = (slower.writers[at].keys / 2).max(1);
        if slower.writers[at].per_minute >= 0.5 {
            all.push(slower);
        }
    }
    all.retain(|candidate| candidate != scenario);
    all
}

/// Makes one thing simpler that may have no part in a failure.
const CALMER: [fn(&mut Scenario); 4] = [
    |scenario| scenario.compact_interval = None,
    |scenario| (scenario.clock_skew, scenario.clock_drift_ppm) = (Duration::ZERO, 0),
    |scenario| {
        (scenario.link.loss, scenario.link.jitter) = (0.0, Duration::ZERO);
        if let Topology::Wan { between, .. } = &mut scenario.topology {
            (between.loss, between.jitter) = (0.0, Duration::ZERO);
        }
    },
    |scenario| {
        for writer in &mut scenario.writers {
            (writer.skew, writer.conflicts, writer.deletes, writer.expiring) = (0.0, 0.0, 0.0, 0.0);
        }
    },
];

/// With the first so many nodes; none where the scenario makes no sense with them.
fn with_nodes(scenario: &Scenario, nodes: usize) -> Option<Scenario> {
    let mut fewer = Scenario { nodes, ..scenario.clone() };
    match &mut fewer.topology {
        Topology::Random { degree } => *degree = (*degree).min(nodes - 1),
        Topology::Wan { regions, .. } => *regions = (*regions).min(nodes),
        Topology::Star | Topology::Ring | Topology::Mesh => {}
    }
    for writer in &mut fewer.writers {
        writer.nodes.retain(|node| *node < nodes);
    }
    fewer.writers.retain(|writer| !writer.nodes.is_empty());
    for fault in &mut fewer.faults {
        fault.nodes.retain(|node| *node < nodes);
    }
    fewer.faults.retain(|fault| {
        let all = fault.kind == FaultKind::Partition && fault.nodes.len() == nodes;
        !fault.nodes.is_empty() && !all
    });
    (!fewer.writers.is_empty()).then_some(fewer)
}

/// With what happens before `duration`.
fn shorter(scenario: &Scenario, duration: Duration) -> Scenario {
    let mut shorter = Scenario { duration, ..scenario.clone() };
    for fault in &mut shorter.faults {
        if let When::At(times) = &mut fault.when {
            times.retain(|time| *time < duration);
        }
    }
    shorter.faults.retain(|fault| !matches!(&fault.when, When::At(times) if times.is_empty()));
    shorter
}
