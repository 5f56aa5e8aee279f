//! The medians as Markdown, to be pasted into docs/benchmarks.md, and whether they are good enough.

use std::fmt::Write as _;

use crate::cases::Cases;
use crate::pairs::{Pairs, Spread};

/// By how many microseconds a tick in sync may take longer in WebAssembly.
const TICK_LIMIT: f64 = 100.0;
/// How fast a bootstrap has to be at least, where native code is 1.
const BOOTSTRAP_LIMIT: f64 = 0.95;

pub fn render(machine: &str, cases: &Cases) -> String {
    let mut out = format!(
        "\n{machine}.\n\n\
        | | native, µs | wasm, µs | difference, µs | wasm / native | wasm's share |\n\
        |---|---:|---:|---:|---:|---:|\n"
    );
    let singles = [
        ("compile (once a database)", cases.compile),
        ("load from the cache (once a start)", cases.load),
        ("instantiate, `describe`", cases.instantiate),
    ];
    for (name, wasm) in singles {
        let Some(wasm) = wasm.map(|wasm| show(wasm.median)) else { continue };
        let _ = writeln!(out, "| {name} | - | {wasm} | {wasm} | - | - |");
    }
    let Cases { empty, in_sync, in_sync_on_disk, manifest, transfers, bootstrap, .. } = cases;
    let pairs = [empty, in_sync, in_sync_on_disk, manifest, transfers, bootstrap];
    out.extend(pairs.into_iter().filter_map(line));
    out + &verdicts(cases)
}

/// None of what was not measured.
fn line(pairs: &Pairs) -> Option<String> {
    let (native, wasm) = (pairs.native()?.median, pairs.wasm()?.median);
    let difference = pairs.difference()?;
    Some(format!(
        "| {} | {} | {} | {} | {:.3} | {:.1} % |\n",
        pairs.name,
        show(native),
        show(wasm),
        spread(difference),
        wasm / native,
        100.0 * difference.median / wasm,
    ))
}

fn verdicts(cases: &Cases) -> String {
    let mut out = String::new();
    if let Some(difference) = cases.in_sync.difference() {
        let holds = verdict(difference.median <= TICK_LIMIT);
        let _ = write!(
            out,
            "\nin-sync tick: wasm − native = {:.1} µs (limit {TICK_LIMIT}): {holds}\n",
            difference.median
        );
    }
    if let (Some(speed), count) = (cases.bootstrap.speed(), cases.bootstrap.count()) {
        let holds = verdict(speed.median >= BOOTSTRAP_LIMIT);
        let _ = writeln!(
            out,
            "bootstrap: wasm at {:.3} of native's speed (limit {BOOTSTRAP_LIMIT}; {:.3}..{:.3} in \
             the middle half of {count} pairs): {holds}",
            speed.median, speed.low, speed.high
        );
    }
    out
}

fn verdict(holds: bool) -> &'static str {
    if holds { "holds" } else { "FAILS" }
}

/// With the middle half.
fn spread(spread: Spread) -> String {
    format!("{} ({}..{})", show(spread.median), show(spread.low), show(spread.high))
}

/// Three digits at least.
fn show(micros: f64) -> String {
    match micros.abs() {
        size if size < 9.995 => format!("{micros:.2}"),
        size if size < 99.95 => format!("{micros:.1}"),
        _ => format!("{micros:.0}"),
    }
}
