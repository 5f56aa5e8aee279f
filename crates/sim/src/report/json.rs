//! The report for programs: one JSON object, whose fields keep their names and meaning for as long
//! as [`VERSION`] stays.

use std::io::{self, Write};
use std::time::Duration;

use serde::{Serialize, Serializer};

use super::super::{Invariant, LinkCounts, NodeCounts, Outcome};
use super::{Comparison, Report, Side, Summary, words};

/// Raised when a field goes, or changes its meaning. New fields may come at any time.
const VERSION: u32 = 1;

#[derive(Serialize)]
struct Document<'a> {
    format: &'static str,
    version: u32,
    passed: bool,
    policies: Vec<Policy<'a>>,
    comparison: Option<&'a Comparison>,
}

#[derive(Serialize)]
struct Policy<'a> {
    file: &'a str,
    summaries: &'a [Summary],
    runs: Vec<Run<'a>>,
}

#[derive(Serialize)]
struct Run<'a> {
    scenario: &'a str,
    policy: &'a str,
    seed: u64,
    passed: bool,
    simulated_seconds: f64,
    converge_seconds: Option<f64>,
    segment_bytes: u64,
    least_bytes: u64,
    overhead: Option<f64>,
    nodes: &'a [NodeCounts],
    links: &'a [LinkCounts],
    faults: Vec<Fault<'a>>,
    violations: Vec<Violation<'a>>,
    log_hash: &'a str,
    /// Of runs that failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    log: Option<&'a [String]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    replay: Option<String>,
}

#[derive(Serialize)]
struct Fault<'a> {
    #[serde(serialize_with = "seconds")]
    from_seconds: Duration,
    #[serde(serialize_with = "seconds")]
    until_seconds: Duration,
    what: &'a str,
}

#[derive(Serialize)]
struct Violation<'a> {
    #[serde(serialize_with = "seconds")]
    at_seconds: Duration,
    invariant: Invariant,
    what: &'a str,
}

fn seconds<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(time.as_secs_f64())
}

pub(super) fn write(report: &Report<'_>, mut to: impl Write) -> io::Result<()> {
    let policies = report.sides.iter().map(|(side, summaries)| Policy {
        file: side.file,
        summaries,
        runs: side.outcomes.iter().map(|outcome| run(*side, outcome)).collect(),
    });
    let document = Document {
        format: "edgestore-policy-test",
        version: VERSION,
        passed: report.passed(),
        policies: policies.collect(),
        comparison: report.comparison.as_ref(),
    };
    serde_json::to_writer(&mut to, &document)?;
    to.write_all(b"\n")
}

fn run<'a>(side: Side<'_>, outcome: &'a Outcome) -> Run<'a> {
    let failed = !outcome.passed();
    let faults = outcome.faults.iter().map(|span| Fault {
        from_seconds: span.from,
        until_seconds: span.until,
        what: &span.what,
    });
    let violations = outcome.violations.iter().map(|one| Violation {
        at_seconds: one.at,
        invariant: one.invariant,
        what: &one.what,
    });
    Run {
        scenario: &outcome.scenario,
        policy: &outcome.policy,
        seed: outcome.seed,
        passed: outcome.passed(),
        simulated_seconds: outcome.simulated.as_secs_f64(),
        converge_seconds: outcome.converged_after.map(|time| time.as_secs_f64()),
        segment_bytes: outcome.segment_bytes(),
        least_bytes: outcome.least_bytes,
        overhead: outcome.overhead(),
        nodes: &outcome.nodes,
        links: &outcome.links,
        faults: faults.collect(),
        violations: violations.collect(),
        log_hash: &outcome.log_hash,
        log: failed.then_some(outcome.log.as_slice()),
        replay: failed.then(|| words::replay(side, outcome)),
    }
}
