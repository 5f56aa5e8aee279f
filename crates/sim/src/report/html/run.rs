//! One run: what came of it, and its plots.

use super::super::super::Outcome;
use super::super::metric::{control_bytes, total};
use super::super::{Side, words};
use super::{Text, divergence, links, replay, timeline};

/// Violations that are shown.
const VIOLATIONS: usize = 50;

pub(super) fn section(side: Side<'_>, run: &Outcome, label: &str, id: &str) -> String {
    let violations = violations(run);
    format!(
        "<div class=\"run\" id=\"{id}\">\n<h3>Seed {}, {label}: {}</h3>\n{}{violations}{}{}{}{}\
         </div>\n",
        run.seed,
        Text(side.file),
        facts(side, run),
        divergence::figure(run),
        timeline::figure(run),
        links::figure(run),
        log(run),
    )
}

fn facts(side: Side<'_>, run: &Outcome) -> String {
    let or_dash = |text: Option<String>| text.unwrap_or("-".to_owned());
    let some_of = |part: u64, whole: u64| match part {
        0 => words::count(whole),
        _ => format!("{}, {} failed", words::count(whole), words::count(part)),
    };
    let sum = |count| total(run, count);
    let duplicates = sum(|node| node.duplicate_pulls);
    let pulls = words::count(sum(|node| node.pulls));
    let facts = [
        ("Policy", run.policy.clone()),
        ("Nodes", run.nodes.len().to_string()),
        ("Simulated", words::time(run.simulated)),
        ("Equal after", run.converged_after.map_or("not in time".to_owned(), words::time)),
        ("Segments sent", words::bytes(run.segment_bytes())),
        ("Least possible", words::bytes(run.least_bytes)),
        ("Overhead", or_dash(run.overhead().map(words::ratio))),
        ("Other answers", words::bytes(control_bytes(run))),
        ("Requests", some_of(sum(|node| node.failed_requests), sum(|node| node.requests))),
        ("Pulls", format!("{pulls}, {} twice", words::count(duplicates))),
        ("Ticks", some_of(sum(|node| node.failed_ticks), sum(|node| node.ticks))),
        ("Fuel", words::count(sum(|node| node.fuel))),
        ("Writes", words::count(sum(|node| node.writes))),
        ("Crashes", words::count(sum(|node| node.crashes))),
    ];
    let facts: String = facts
        .iter()
        .map(|(name, value)| format!("<div><dt>{name}</dt><dd>{}</dd></div>", Text(value)))
        .collect();
    format!(
        "<dl>{facts}</dl>\n<p class=\"replay\">Replay: <code>{}</code><br/>\
         Event log: <code>{}</code></p>\n",
        replay(side, run),
        Text(&run.log_hash)
    )
}

fn violations(run: &Outcome) -> String {
    if run.passed() {
        return String::new();
    }
    let shown = run.violations.iter().take(VIOLATIONS);
    let mut items: String =
        shown.map(|one| format!("<li>{}</li>", Text(&words::violation(one)))).collect();
    if run.violations.len() > VIOLATIONS {
        items += &format!("<li>and {} more</li>", run.violations.len() - VIOLATIONS);
    }
    format!("<div class=\"broken\"><h4>✗ What must not be</h4><ul>{items}</ul></div>\n")
}

fn log(run: &Outcome) -> String {
    if run.log.is_empty() {
        return String::new();
    }
    let open = if run.passed() { "" } else { " open=\"\"" };
    let lines: String = run.log.iter().map(|line| format!("{}\n", Text(line))).collect();
    format!("<details{open}><summary>Last events</summary><pre>{lines}</pre></details>\n")
}
