//! Summaries and comparisons as tables.

use super::super::compare::{Comparison, Verdict};
use super::super::metric::{Metric, Unit};
use super::super::{Side, Summary, text, words};
use super::Text;

/// Seeds that a cell names.
const SEEDS: usize = 8;

pub(super) fn summaries(side: Side<'_>, summaries: &[Summary]) -> String {
    if summaries.is_empty() {
        return format!("<h2>{}</h2>\n<p>No runs.</p>\n", Text(side.file));
    }
    let columns = [
        "Scenario",
        "Policy",
        "Runs",
        "Failed",
        "Equal after, p50",
        "p95",
        "max",
        "Segments",
        "Least",
        "Overhead, p50",
        "max",
        "Requests",
        "failed",
        "Pulls",
        "twice",
        "Ticks",
        "failed",
        "Fuel",
        "Node-hours",
        "Failing seeds",
    ];
    let head: String = columns
        .iter()
        .map(|name| match *name {
            "Policy" => format!("<th class=\"name\">{name}</th>"),
            name => format!("<th>{name}</th>"),
        })
        .collect();
    let rows: String = summaries.iter().map(row).collect();
    format!(
        "<h2>{}</h2>\n<div class=\"wide\"><table><thead><tr>{head}</tr></thead><tbody>{rows}\
         </tbody></table></div>\n<p class=\"note\">Counts and bytes are sums over all runs and \
         nodes; times and overhead are by run. Times are simulated.</p>\n",
        Text(side.file)
    )
}

fn row(summary: &Summary) -> String {
    let time = |value| words::mean(value, Unit::Seconds);
    let ratio = |value| words::mean(value, Unit::Ratio);
    let (times, overhead) = (summary.converge_seconds, summary.overhead);
    let failed = match summary.failed {
        0 => "✓ 0".to_owned(),
        failed => format!("✗ {failed}"),
    };
    let cells = [
        summary.runs.to_string(),
        failed,
        time(times.map(|times| times.p50)),
        time(times.map(|times| times.p95)),
        time(times.map(|times| times.max)),
        words::bytes(summary.segment_bytes),
        words::bytes(summary.least_bytes),
        ratio(overhead.map(|overhead| overhead.p50)),
        ratio(overhead.map(|overhead| overhead.max)),
        words::count(summary.requests),
        words::count(summary.failed_requests),
        words::count(summary.pulls),
        words::count(summary.duplicate_pulls),
        words::count(summary.ticks),
        words::count(summary.failed_ticks),
        words::count(summary.fuel),
        format!("{:.1}", summary.node_hours),
        words::seeds(&summary.failing_seeds, SEEDS),
    ];
    let class = if summary.failed == 0 { "ok" } else { "bad" };
    let [runs, failed, rest @ ..] = cells;
    let rest: String = rest.iter().map(|cell| format!("<td>{cell}</td>")).collect();
    let (scenario, policy) = (Text(&summary.scenario), Text(&summary.policy));
    format!(
        "<tr class=\"{class}\"><th>{scenario}</th><td class=\"name\">{policy}</td><td>{runs}</td>\
         <td class=\"sign\">{failed}</td>{rest}</tr>"
    )
}

pub(super) fn comparison(comparison: &Comparison, [a, b]: [&str; 2]) -> String {
    let mut html = format!(
        "<h2>Comparison</h2>\n<p>a is <code>{}</code>, b is <code>{}</code>. Means of the runs \
         with the same seeds, and of b − a by pair. The interval has that mean with a confidence \
         of 95 % (paired, Student’s t). Less is better.</p>\n",
        Text(a),
        Text(b)
    );
    if comparison.scenarios.is_empty() {
        html += "<p>No scenario was run with both.</p>\n";
    }
    for pairs in &comparison.scenarios {
        let mut count = words::many(pairs.pairs, "pair");
        if pairs.unpaired > 0 {
            count += &format!(", {} not paired", words::many(pairs.unpaired, "run"));
        }
        let rows: String = Metric::ALL
            .iter()
            .zip(&pairs.metrics)
            .map(|(metric, one)| {
                let class = match one.verdict {
                    Verdict::Better => "ok",
                    Verdict::Worse => "bad",
                    _ => "",
                };
                format!(
                    "<tr class=\"{class}\"><th>{}</th><td>{}</td><td>{}</td><td>{}</td>\
                     <td>{}</td><td>{}</td><td class=\"name sign\">{}</td></tr>",
                    metric.title,
                    one.pairs,
                    words::mean(one.a, one.unit),
                    words::mean(one.b, one.unit),
                    words::change(one.difference, one.unit),
                    text::interval(one),
                    text::sign(one.verdict),
                )
            })
            .collect();
        html += &format!(
            "<h3>{}, {count}</h3>\n<div class=\"wide\"><table><thead><tr><th>Metric</th>\
             <th>Pairs</th><th>a</th><th>b</th><th>b − a</th><th>95 % interval</th>\
             <th class=\"name\">b is</th></tr></thead><tbody>{rows}</tbody></table></div>\n",
            Text(&pairs.scenario)
        );
    }
    html
}
