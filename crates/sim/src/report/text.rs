//! The terminal's report: what passed, what it cost, how two policies differ, and what failed.

use comfy_table::{ContentArrangement, Table};
use edgestore_text as text;

use super::super::Outcome;
use super::compare::{Comparison, Verdict};
use super::metric::{Metric, Unit};
use super::summary::Summary;
use super::{Report, Side, words};

/// Columns that tables have at most.
const WIDTH: u16 = 100;
/// Failed runs that are told in full; the tables name the seeds of more.
const FAILURES: usize = 10;
/// Violations and events of each of these.
const LINES: usize = 20;
/// Seeds that a line names.
const SEEDS: usize = 12;

pub(super) fn of(report: &Report<'_>) -> String {
    let mut text = String::new();
    for (side, summaries) in &report.sides {
        let policies = policies(summaries);
        let known = if policies.is_empty() { String::new() } else { format!(" ({policies})") };
        text += &format!("{}{known}\n", words::clean(side.file));
        if summaries.is_empty() {
            text += "no runs\n\n";
            continue;
        }
        text += &format!("\n{}\n{}\n", fit(results(summaries)), fit(costs(summaries)));
        for summary in summaries.iter().filter(|summary| summary.failed > 0) {
            let seeds = words::seeds(&summary.failing_seeds, SEEDS);
            text += &format!("{} failed with seeds {seeds}\n\n", words::clean(&summary.scenario));
        }
    }
    if let Some(comparison) = &report.comparison {
        text += &compared(comparison, report.sides[0].0.file, report.sides[1].0.file);
    }
    text + &failures(report) + &verdict(report)
}

/// Names and versions of what ran, of which there is one, but for wrong input.
fn policies(summaries: &[Summary]) -> String {
    let mut names: Vec<String> = summaries.iter().map(|one| words::clean(&one.policy)).collect();
    names.sort();
    names.dedup();
    names.join(", ")
}

fn fit(mut table: Table) -> String {
    table.set_content_arrangement(ContentArrangement::Dynamic).set_width(WIDTH);
    text::lines(&table)
}

fn results(summaries: &[Summary]) -> Table {
    let mut table = text::table(&[
        "scenario",
        ">runs",
        ">failed",
        ">converged",
        ">converge p50",
        ">p95",
        ">max",
        ">node-hours",
    ]);
    for summary in summaries {
        let time = |value| words::mean(value, Unit::Seconds);
        let times = summary.converge_seconds;
        table.add_row(vec![
            words::clean(&summary.scenario),
            summary.runs.to_string(),
            summary.failed.to_string(),
            summary.converged.to_string(),
            time(times.map(|times| times.p50)),
            time(times.map(|times| times.p95)),
            time(times.map(|times| times.max)),
            format!("{:.1}", summary.node_hours),
        ]);
    }
    table
}

/// Sums over all runs, but for the overhead, which is by run.
fn costs(summaries: &[Summary]) -> Table {
    let mut table = text::table(&[
        "scenario",
        ">segments",
        ">overhead p50",
        ">max",
        ">requests",
        ">failed",
        ">twice",
        ">ticks",
        ">failed",
        ">fuel",
    ]);
    for summary in summaries {
        let ratio = |value| words::mean(value, Unit::Ratio);
        table.add_row(vec![
            words::clean(&summary.scenario),
            words::bytes(summary.segment_bytes),
            ratio(summary.overhead.map(|overhead| overhead.p50)),
            ratio(summary.overhead.map(|overhead| overhead.max)),
            words::count(summary.requests),
            words::count(summary.failed_requests),
            words::count(summary.duplicate_pulls),
            words::count(summary.ticks),
            words::count(summary.failed_ticks),
            words::count(summary.fuel),
        ]);
    }
    table
}

fn compared(comparison: &Comparison, a: &str, b: &str) -> String {
    let (a, b) = (words::clean(a), words::clean(b));
    let mut text = format!("a = {a}, b = {b}: means of the same seeds, and b - a\n\n");
    if comparison.scenarios.is_empty() {
        text += "no scenario was run with both\n\n";
    }
    for pairs in &comparison.scenarios {
        let (name, count) = (words::clean(&pairs.scenario), words::many(pairs.pairs, "pair"));
        text += &format!("{name}, {count} of runs");
        if pairs.unpaired > 0 {
            text += &format!("; {} not paired", words::many(pairs.unpaired, "run"));
        }
        let columns = ["metric", ">pairs", ">a", ">b", ">b - a", ">95% interval", "b is"];
        let mut table = text::table(&columns);
        for (metric, one) in Metric::ALL.iter().zip(&pairs.metrics) {
            table.add_row(vec![
                metric.title.to_owned(),
                one.pairs.to_string(),
                words::mean(one.a, one.unit),
                words::mean(one.b, one.unit),
                words::change(one.difference, one.unit),
                interval(one),
                sign(one.verdict).to_owned(),
            ]);
        }
        text += &format!("\n\n{}\n", fit(table));
    }
    text
}

pub(super) fn interval(one: &super::Difference) -> String {
    let Some(interval) = one.interval else {
        return "-".to_owned();
    };
    let end = |value| words::change(Some(value), one.unit);
    format!("{} .. {}", end(interval.low), end(interval.high))
}

/// Stars are for what is significant.
pub(super) fn sign(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Better => "* better",
        Verdict::Worse => "* worse",
        Verdict::Same => "the same",
        Verdict::Unclear => "not clear",
        Verdict::TooFew => "too few",
    }
}

fn failures(report: &Report<'_>) -> String {
    let failed: Vec<_> = report.outcomes().filter(|(_, run)| !run.passed()).collect();
    let mut text: String =
        failed.iter().take(FAILURES).map(|(side, run)| failure(*side, run) + "\n").collect();
    if failed.len() > FAILURES {
        let left = words::many((failed.len() - FAILURES) as u64, "more run");
        text += &format!("{left} failed; --json and --junit have all of them\n\n");
    }
    text
}

/// All there is to know of a failed run, as lines.
pub(super) fn failure(side: Side<'_>, run: &Outcome) -> String {
    let (scenario, policy) = (words::clean(&run.scenario), words::clean(&run.policy));
    let mut text = format!("FAILED {scenario}, seed {}, {policy}\n", run.seed);
    for violation in run.violations.iter().take(LINES) {
        text += &format!("  {}\n", words::violation(violation));
    }
    if run.violations.len() > LINES {
        text += &format!("  and {} more\n", run.violations.len() - LINES);
    }
    text += &format!("  replay: {}\n", words::clean(&words::replay(side, run)));
    let last = run.log.len().saturating_sub(LINES);
    if !run.log.is_empty() {
        text += "  last events:\n";
    }
    for line in &run.log[last..] {
        text += &format!("    {}\n", words::clean(line));
    }
    text
}

fn verdict(report: &Report<'_>) -> String {
    let runs = report.outcomes().count();
    let failed = report.outcomes().filter(|(_, run)| !run.passed()).count();
    match (runs, failed) {
        (0, _) => "nothing was run\n".to_owned(),
        (_, 0) => format!("{} passed\n", words::many(runs as u64, "run")),
        _ => format!("{failed} of {} failed\n", words::many(runs as u64, "run")),
    }
}
