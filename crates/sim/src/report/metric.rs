//! What a run is measured by.

use serde::Serialize;

use super::super::{NodeCounts, Outcome};

/// A figure of a run. Less is better, for all of them.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// As JSON has it. Stable.
    pub name: &'static str,
    /// As people read it.
    pub title: &'static str,
    /// What it counts.
    pub unit: Unit,
    /// Its value; none where the run has none.
    pub of: fn(&Outcome) -> Option<f64>,
}

/// What a figure counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unit {
    /// One for a run that has it, zero for one that has not.
    Share,
    /// Simulated seconds.
    Seconds,
    /// Bytes.
    Bytes,
    /// A multiple of the least possible.
    Ratio,
    /// A number of things.
    Count,
}

impl Metric {
    /// All of them, in the order of reports.
    pub const ALL: [Self; 11] = [
        Self::new("failed", "failed runs", Unit::Share, |run| {
            Some(if run.passed() { 0.0 } else { 1.0 })
        }),
        Self::new("converge_seconds", "time to converge", Unit::Seconds, |run| {
            run.converged_after.map(|time| time.as_secs_f64())
        }),
        Self::new("segment_bytes", "segment bytes", Unit::Bytes, |run| {
            Some(run.segment_bytes() as f64)
        }),
        Self::new("control_bytes", "other bytes", Unit::Bytes, |run| {
            Some(control_bytes(run) as f64)
        }),
        Self::new("overhead", "overhead", Unit::Ratio, Outcome::overhead),
        Self::new("requests", "requests", Unit::Count, |run| sum(run, |node| node.requests)),
        Self::new("failed_requests", "failed requests", Unit::Count, |run| {
            sum(run, |node| node.failed_requests)
        }),
        Self::new("duplicate_pulls", "duplicate pulls", Unit::Count, |run| {
            sum(run, |node| node.duplicate_pulls)
        }),
        Self::new("ticks", "ticks", Unit::Count, |run| sum(run, |node| node.ticks)),
        Self::new("failed_ticks", "failed ticks", Unit::Count, |run| {
            sum(run, |node| node.failed_ticks)
        }),
        Self::new("fuel", "fuel", Unit::Count, |run| sum(run, |node| node.fuel)),
    ];

    const fn new(
        name: &'static str,
        title: &'static str,
        unit: Unit,
        of: fn(&Outcome) -> Option<f64>,
    ) -> Self {
        Self { name, title, unit, of }
    }
}

/// Bytes of all answers but segments.
pub(super) fn control_bytes(run: &Outcome) -> u64 {
    run.links.iter().map(|link| link.control_bytes).sum()
}

/// Of all nodes together.
pub(super) fn total(run: &Outcome, count: fn(&NodeCounts) -> u64) -> u64 {
    run.nodes.iter().map(count).sum()
}

fn sum(run: &Outcome, count: fn(&NodeCounts) -> u64) -> Option<f64> {
    Some(total(run, count) as f64)
}
