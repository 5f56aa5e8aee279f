//! What went wrong, what was broken, and what the nodes were busy with, on one time axis.

use super::super::super::Outcome;
use super::super::words;
use super::Text;
use super::scale::item;
use super::svg::{Anchor, Area, LEFT, RIGHT, Svg, TimeAxis, column_x, stretches};

/// Lanes of faults at most. Those that find no place are counted.
const LANES: usize = 14;
/// Faults that the list below has.
const LISTED: usize = 300;
/// Height of a lane.
const LANE: f64 = 18.0;
/// Width of a character in a lane, about.
const CHARACTER: f64 = 6.0;
/// Columns of a row of ticks.
const COLUMNS: usize = 448;
/// The least width of what happens in an instant.
const INSTANT: f64 = 3.0;

pub(super) fn figure(run: &Outcome) -> String {
    if run.faults.is_empty() && run.ticks.is_empty() && run.violations.is_empty() {
        return String::new();
    }
    let axis = TimeAxis::new(run.simulated);
    let mut svg = Svg::default();
    let mut y = violations(&mut svg, run, axis, 4.0);
    y = faults(&mut svg, run, axis, y);
    y = ticks(&mut svg, run, axis, y);
    let end = svg.time_axis(axis, y + 2.0);
    let mut legend = String::new();
    if !run.faults.is_empty() {
        legend += &item("fault", "fault");
    }
    if !run.violations.is_empty() {
        legend += &item("bad", "what must not be, triangle");
    }
    if !run.ticks.is_empty() {
        legend += &item("tick-ok", "tick, low bar");
        legend += &item("bad", "failed tick, tall bar");
    }
    svg.figure(end, "Timeline of faults and ticks", &legend) + &list(run)
}

/// The faults in words, for those who have no pointer to rest on a bar.
fn list(run: &Outcome) -> String {
    if run.faults.is_empty() {
        return String::new();
    }
    let shown = run.faults.iter().take(LISTED);
    let mut items: String = shown
        .map(|fault| {
            let (from, until) = (words::time(fault.from), words::time(fault.until));
            format!("<li>{from} to {until}: {}</li>", Text(&fault.what))
        })
        .collect();
    if run.faults.len() > LISTED {
        items += &format!("<li>and {} more</li>", run.faults.len() - LISTED);
    }
    let count = words::many(run.faults.len() as u64, "fault");
    format!("<details><summary>{count}</summary><ul>{items}</ul></details>\n")
}

/// Triangles in a lane of their own.
fn violations(svg: &mut Svg, run: &Outcome, axis: TimeAxis, y: f64) -> f64 {
    if run.violations.is_empty() {
        return y;
    }
    svg.text((LEFT - 6.0, y + 12.0), Anchor::End, "label", "broken");
    let mut last = f64::NEG_INFINITY;
    let mut path = String::new();
    for violation in &run.violations {
        let x = axis.x(violation.at).clamp(LEFT + 6.0, RIGHT - 6.0);
        // One that another one covers is in the list above.
        if x - last >= 4.0 {
            path += &format!("M{:.1} {y}h12l-6 13z", x - 6.0);
            last = x;
        }
    }
    svg.path(&path, "bad");
    y + LANE + 2.0
}

/// Bars with their words beside them, in as few lanes as keep them apart.
fn faults(svg: &mut Svg, run: &Outcome, axis: TimeAxis, top: f64) -> f64 {
    if run.faults.is_empty() {
        return top;
    }
    let mut ends: Vec<f64> = Vec::new();
    let mut left_out = 0;
    // Words are left out where there are too many faults to read them.
    let named = run.faults.len() <= 2 * LANES;
    for fault in &run.faults {
        let x = axis.x(fault.from).min(RIGHT - INSTANT);
        let until = axis.x(fault.until).max(x + INSTANT);
        let what = words::clean(&fault.what);
        let words_width = if named { what.chars().count() as f64 * CHARACTER + 8.0 } else { 2.0 };
        // Within the bar, or right of it, or left of it where the plot ends.
        let within = named && words_width <= until - x;
        let to_the_right = until + words_width <= RIGHT;
        let (from, to) = match (within, to_the_right) {
            (true, _) => (x, until),
            (false, true) => (x, until + words_width),
            (false, false) => (x - words_width, until),
        };
        let lane = match ends.iter().position(|end| *end + 4.0 <= from) {
            Some(lane) => lane,
            None if ends.len() < LANES => {
                ends.push(0.0);
                ends.len() - 1
            }
            None => {
                left_out += 1;
                continue;
            }
        };
        ends[lane] = to;
        let y = top + lane as f64 * LANE;
        let times = format!("{} to {}: {what}", words::time(fault.from), words::time(fault.until));
        let bar = Area { x, y, width: until - x, height: LANE - 4.0 };
        svg.rect(bar, "fault", &times);
        if named {
            let (at, anchor, class) = match (within, to_the_right) {
                (true, _) => (x + 4.0, Anchor::Start, "on-fault"),
                (false, true) => (until + 4.0, Anchor::Start, "beside"),
                (false, false) => (x - 4.0, Anchor::End, "beside"),
            };
            svg.text((at, y + 11.0), anchor, class, &what);
        }
    }
    svg.text((LEFT - 6.0, top + 11.0), Anchor::End, "label", "faults");
    let mut y = top + ends.len() as f64 * LANE + 4.0;
    if left_out > 0 {
        let more = format!("and {}", words::many(left_out, "more fault"));
        svg.text((LEFT, y + 8.0), Anchor::Start, "beside", &more);
        y += LANE;
    }
    y
}

/// What a node did in a column, the worst of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Busy {
    Idle,
    Well,
    Failed,
}

fn ticks(svg: &mut Svg, run: &Outcome, axis: TimeAxis, top: f64) -> f64 {
    let Some(last) = run.ticks.iter().map(|tick| tick.node).max() else {
        return top;
    };
    let nodes = run.nodes.len().max(last + 1);
    let height: f64 = match nodes {
        0..=12 => 18.0,
        13..=40 => 12.0,
        _ => 7.0,
    };
    let mut rows = vec![vec![Busy::Idle; COLUMNS]; nodes];
    for tick in &run.ticks {
        let from = axis.column(tick.at, COLUMNS);
        let until = axis.column(tick.at.saturating_add(tick.took), COLUMNS);
        let busy = if tick.ok { Busy::Well } else { Busy::Failed };
        for column in &mut rows[tick.node][from..=until] {
            *column = busy.max(*column);
        }
    }
    let every = (12.0 / height).ceil() as usize;
    let (mut well, mut failed) = (String::new(), String::new());
    for (node, row) in rows.iter().enumerate() {
        let y = top + node as f64 * height;
        svg.line((LEFT, y + height - 1.0), (RIGHT, y + height - 1.0), "grid");
        for (busy, from, until) in stretches(row) {
            let x = column_x(from, COLUMNS);
            let width = column_x(until, COLUMNS) - x;
            let tall = height - 2.0;
            let low = (tall * 0.55).round();
            match busy {
                Busy::Idle => {}
                Busy::Well => {
                    let y = y + height - 1.0 - low;
                    well += &Area { x, y, width, height: low }.outline();
                }
                Busy::Failed => {
                    let y = y + height - 1.0 - tall;
                    failed += &Area { x, y, width, height: tall }.outline();
                }
            }
        }
        if node.is_multiple_of(every) {
            let middle = y + height / 2.0 + 4.0;
            svg.text((LEFT - 6.0, middle), Anchor::End, "tick", &format!("n{node}"));
        }
    }
    svg.path(&well, "tick-ok");
    svg.path(&failed, "bad");
    top + nodes as f64 * height
}
