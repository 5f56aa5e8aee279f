//! The report as one page of HTML: no other files, no network, no framework.
//!
//! Plots are SVG, made here. Colours are classes that the page's style gives meaning to, for light
//! and for dark; nothing is told by colour alone. The one script shows the run that is chosen.

mod divergence;
mod links;
mod run;
mod scale;
mod svg;
mod tables;
mod timeline;

use std::fmt;

use super::super::Outcome;
use super::{Report, Side, words};

/// Failed runs of a scenario and policy that are plotted.
const FAILED: usize = 3;

pub(super) fn page(report: &Report<'_>) -> String {
    let title = "Policy test";
    let style = include_str!("page.css");
    let script = include_str!("page.js");
    // Nothing is loaded, even if some name got around the escaping.
    let policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'";
    let mut html = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"{policy}\"/>\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n\
         <meta name=\"color-scheme\" content=\"light dark\"/>\n\
         <title>{title}</title>\n<style>\n{style}</style>\n</head>\n<body>\n{}\n<main>\n\
         <h1>{title}</h1>\n{}",
        svg::DEFINITIONS,
        verdict(report),
    );
    for (side, summaries) in &report.sides {
        html += &tables::summaries(*side, summaries);
    }
    if let Some(comparison) = &report.comparison {
        let files = [report.sides[0].0.file, report.sides[1].0.file];
        html += &tables::comparison(comparison, files);
    }
    for (index, name) in scenarios(report).into_iter().enumerate() {
        html += &scenario(report, name, index);
    }
    html + "</main>\n<script>\n" + script + "</script>\n</body>\n</html>\n"
}

fn verdict(report: &Report<'_>) -> String {
    let runs = report.outcomes().count() as u64;
    let failed = report.outcomes().filter(|(_, run)| !run.passed()).count();
    let (class, text) = match (runs, failed) {
        (0, _) => ("", "Nothing was run.".to_owned()),
        (_, 0) => ("ok", format!("✓ {} passed", words::many(runs, "run"))),
        _ => ("bad", format!("✗ {failed} of {} failed", words::many(runs, "run"))),
    };
    format!("<p class=\"verdict {class}\">{text}</p>\n")
}

/// In the order in which they first appear.
fn scenarios<'a>(report: &Report<'a>) -> Vec<&'a str> {
    let mut names = Vec::new();
    for (_, run) in report.outcomes() {
        if !names.contains(&run.scenario.as_str()) {
            names.push(&run.scenario);
        }
    }
    names
}

/// A scenario with the runs that are worth a look.
fn scenario(report: &Report<'_>, name: &str, index: usize) -> String {
    let mut options = String::new();
    let mut runs = String::new();
    let mut number = 0;
    for (side, _) in &report.sides {
        let of_scenario: Vec<&Outcome> =
            side.outcomes.iter().filter(|run| run.scenario == name).collect();
        options += &format!("<optgroup label=\"{}\">", Text(side.file));
        for (label, run) in chosen(&of_scenario) {
            let id = format!("s{index}r{number}");
            number += 1;
            options += &format!("<option value=\"{id}\">seed {}, {label}</option>", run.seed);
            runs += &run::section(*side, run, label, &id);
        }
        options += "</optgroup>";
    }
    format!(
        "<section class=\"scenario\" id=\"s{index}\">\n<h2>{}</h2>\n\
         <label class=\"choice\">Run <select data-runs=\"s{index}\">{options}</select></label>\n\
         {runs}</section>\n",
        Text(name)
    )
}

/// The first that failed, and of those that converged the median, the slowest and the fastest.
fn chosen<'a>(runs: &[&'a Outcome]) -> Vec<(&'static str, &'a Outcome)> {
    let failed = runs.iter().filter(|run| !run.passed()).take(FAILED);
    let mut chosen: Vec<(&str, &Outcome)> = failed.map(|run| ("failed", *run)).collect();
    let mut well: Vec<&Outcome> =
        runs.iter().copied().filter(|run| run.passed() && run.converged_after.is_some()).collect();
    well.sort_by_key(|run| (run.converged_after, run.seed));
    let median = well.len().saturating_sub(1) / 2;
    for (label, run) in
        [("median", well.get(median)), ("slowest", well.last()), ("fastest", well.first())]
    {
        if let Some(run) = run
            && !chosen.iter().any(|(_, other)| other.seed == run.seed)
        {
            chosen.push((label, *run));
        }
    }
    if chosen.is_empty() {
        chosen.extend(runs.first().map(|run| ("the first", *run)));
    }
    chosen
}

/// Text between tags or in a quoted attribute.
struct Text<'a>(&'a str);

impl fmt::Display for Text<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in words::clean(self.0).chars() {
            match character {
                '&' => formatter.write_str("&amp;")?,
                '<' => formatter.write_str("&lt;")?,
                '>' => formatter.write_str("&gt;")?,
                '"' => formatter.write_str("&quot;")?,
                '\'' => formatter.write_str("&#39;")?,
                character => fmt::Write::write_char(formatter, character)?,
            }
        }
        Ok(())
    }
}

/// What replays `run`, as text.
fn replay(side: Side<'_>, run: &Outcome) -> String {
    Text(&words::replay(side, run)).to_string()
}
