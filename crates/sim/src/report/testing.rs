//! Made-up outcomes.

use std::time::Duration;

use super::super::{
    Divergence, Invariant, LinkCounts, NodeCounts, Outcome, Span, TickMark, Violation,
};

/// A run of `nodes` nodes for ten minutes, in a mesh, in which all went well and every figure is
/// made from the seed.
pub(crate) fn outcome(scenario: &str, seed: u64, nodes: usize) -> Outcome {
    let mut chance = fastrand::Rng::with_seed(seed);
    let some = seed % 1000;
    let simulated = Duration::from_secs(600);
    let at = |step: u64| simulated.mul_f64(step as f64 / 120.0);
    let links = (0..nodes)
        .flat_map(|puller| (0..nodes).map(move |source| (puller, source)))
        .filter(|(puller, source)| puller != source)
        .map(|(puller, source)| LinkCounts {
            puller,
            source,
            requests: chance.u64(20..60),
            segment_bytes: chance.u64(1..200) * 4096,
            control_bytes: chance.u64(2000..9000),
        })
        .collect();
    let node = |index: usize| NodeCounts {
        ticks: 20,
        failed_ticks: index as u64 % 2,
        requests: 80,
        failed_requests: 3,
        pulls: 12,
        duplicate_pulls: 1,
        fuel: 4_000_000 + some * 1000,
        writes: 50,
        crashes: u64::from(index == 1),
    };
    let divergence = (0..=120)
        .map(|step| {
            let behind = |node: usize| match step {
                30..=42 if node == 1 => None,
                _ => Some((step * (node as u64 + 2) % 17 * (120 - step)) / 40),
            };
            Divergence { at: at(step), behind: (0..nodes).map(behind).collect() }
        })
        .collect();
    let ticks = (0..nodes)
        .flat_map(|node| (0..20).map(move |step| (node, step)))
        .map(|(node, step)| TickMark {
            at: at(step * 6) + Duration::from_millis(chance.u64(0..9000)),
            node,
            took: Duration::from_millis(chance.u64(20..6000)),
            ok: step != 7 || node % 2 == 0,
        })
        .collect();
    let mut outcome = Outcome {
        scenario: scenario.to_owned(),
        policy: "default 0.1.0".to_owned(),
        seed,
        simulated,
        converged_after: Some(Duration::from_secs(10 + some)),
        nodes: (0..nodes).map(node).collect(),
        links,
        least_bytes: 0,
        divergence,
        faults: vec![
            span(150, 210, "n1 has no power"),
            span(200, 320, "n0 is cut off from the others"),
            span(330, 330, "the clock of n0 jumps by 3600 s"),
        ],
        ticks,
        violations: Vec::new(),
        log_hash: format!("{seed:016x}").repeat(4),
        log: vec!["9m 58s n0 tick of n1 ends".to_owned(), "10m 0s all nodes are equal".to_owned()],
    };
    outcome.least_bytes = outcome.segment_bytes() * 4 / 5;
    outcome
}

/// One that did not become equal, and whose log is hostile.
pub(crate) fn failing(scenario: &str, seed: u64, nodes: usize) -> Outcome {
    let mut outcome = outcome(scenario, seed, nodes);
    outcome.converged_after = None;
    outcome.violations = vec![
        Violation {
            at: Duration::from_secs(312),
            invariant: Invariant::Cursor,
            what: "n1 notes the root of n0 & lacks 3 of its segments".to_owned(),
        },
        Violation {
            at: Duration::from_secs(600),
            invariant: Invariant::Convergence,
            what: "n1 is behind by 3 keys: \"a\", <b>, c".to_owned(),
        },
    ];
    outcome.log = vec![
        "5m 12s n1 stores a cursor".to_owned(),
        "5m 13s n1 logs: \u{1b}[31m</script>]]>\u{0} & \"quotes\"".to_owned(),
    ];
    outcome
}

/// One in which nothing happened, by no nodes, in no time.
pub(crate) fn empty(scenario: &str, seed: u64) -> Outcome {
    Outcome {
        scenario: scenario.to_owned(),
        policy: String::new(),
        seed,
        simulated: Duration::ZERO,
        converged_after: None,
        nodes: Vec::new(),
        links: Vec::new(),
        least_bytes: 0,
        divergence: Vec::new(),
        faults: Vec::new(),
        ticks: Vec::new(),
        violations: Vec::new(),
        log_hash: String::new(),
        log: Vec::new(),
    }
}

fn span(from: u64, until: u64, what: &str) -> Span {
    let [from, until] = [from, until].map(Duration::from_secs);
    Span { from, until, what: what.to_owned() }
}
