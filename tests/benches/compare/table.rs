//! The figures as Markdown, to be pasted into docs/benchmarks.md.

use std::fmt::Write as _;

use crate::args::Args;
use crate::job::Measured;
use crate::suite::{Results, Row, Sync};

const SYNC_HEAD: &str = "\
| records | | seconds | records/s | segments, MB/s | of raw | factor | peak, MiB |
|---|---|---:|---:|---:|---:|---:|---:|
";

const MEBI: f64 = 1_048_576.0;

const ROW_HEAD: &str = "\
| | unit | edgestore-host | stock | factor |
|---|---|---:|---:|---:|
";

pub fn render(machine: &str, args: &Args, results: &Results) -> String {
    let mut out = format!("{machine}; values of {} bytes.\n", args.value);
    if !results.bootstraps.is_empty() {
        let syncs = results.bootstraps.iter().chain(&results.incremental);
        let lines: String = syncs.map(sync_lines).collect();
        let _ = write!(out, "\n{SYNC_HEAD}{lines}");
    }
    if !results.rows.is_empty() {
        let lines: String = results.rows.iter().map(row_line).collect();
        let _ = write!(out, "\n{ROW_HEAD}{lines}");
    }
    let verdicts = verdicts(args, &results.bootstraps);
    if !verdicts.is_empty() {
        let _ = write!(out, "\n{verdicts}");
    }
    out
}

fn sync_lines(sync: &Sync) -> String {
    let what = match sync.before {
        0 => thousands(sync.records.into()),
        before => format!("{} after {}", thousands(sync.records.into()), thousands(before.into())),
    };
    let mut out = sync_line(&what, "raw limit", &sync.raw, sync);
    out += &sync_line("", "edgestore-host", &sync.ours, sync);
    if let Some(stock) = sync.stock {
        out += &sync_line("", "`AntiEntropyLoop`", &[stock], sync);
    }
    out
}

fn sync_line(records: &str, who: &str, runs: &[Measured], sync: &Sync) -> String {
    let (Some(time), Some(raw), Some(ours)) = (seconds(runs), seconds(&sync.raw), sync.ours())
    else {
        return String::new();
    };
    let first = runs.first();
    let rate = f64::from(sync.records) / time.median;
    let megabytes = first.map_or(0.0, |run| run.bytes as f64) / 1e6 / time.median;
    let of_raw = raw.median / time.median;
    let factor = match (who, &sync.stock) {
        ("edgestore-host", Some(stock)) => format!("{:.1}", stock.seconds / ours.median),
        _ => String::new(),
    };
    let peak = spread(runs.iter().filter_map(|run| run.peak_rss).map(|peak| peak as f64));
    let peak = peak.map_or("-".to_owned(), |peak| format!("{:.0}", peak.median / MEBI));
    format!(
        "| {records} | {who} | {} | {} | {megabytes:.1} | {of_raw:.3} | {factor} | {peak} |\n",
        time.show(short),
        thousands(rate as u64),
    )
}

fn row_line(row: &Row) -> String {
    let Some(ours) = spread(row.ours.iter().copied()) else { return String::new() };
    let show = |figure: f64| thousands(figure.round() as u64);
    let stock = row.stock.map_or("-".to_owned(), show);
    let factor = row.stock.map_or("-".to_owned(), |stock| {
        let factor = if row.less_is_better { stock / ours.median } else { ours.median / stock };
        short(factor)
    });
    format!("| {} | {} | {} | {stock} | {factor} |\n", row.what, row.unit, ours.show(show))
}

/// What the table is read for.
fn verdicts(args: &Args, bootstraps: &[Sync]) -> String {
    let base = bootstraps.iter().find(|sync| sync.records == args.middle());
    bootstraps.iter().filter_map(|sync| verdict(sync, base)).collect()
}

fn verdict(sync: &Sync, base: Option<&Sync>) -> Option<String> {
    let (ours, raw) = (sync.ours()?, seconds(&sync.raw)?);
    let of_raw = raw.median / ours.median;
    let mut says = vec![format!("{of_raw:.2} of the raw limit")];
    if let Some(stock) = &sync.stock {
        says.insert(0, format!("{:.1} times as fast as stock", stock.seconds / ours.median));
    }
    if let Some(base) = base.filter(|base| base.records < sync.records) {
        let of = thousands(base.records.into());
        says.push(format!("{:.2} of the rate at {of}", sync.rate()? / base.rate()?));
        if let (Some(peak), Some(base)) = (sync.peak(), base.peak()) {
            says.push(format!("{:.2} times the peak memory", peak / base));
        }
    }
    Some(format!("- {} records: {}.\n", thousands(sync.records.into()), says.join("; ")))
}

impl Sync {
    fn ours(&self) -> Option<Spread> {
        seconds(&self.ours)
    }

    fn rate(&self) -> Option<f64> {
        Some(f64::from(self.records) / self.ours()?.median)
    }

    fn peak(&self) -> Option<f64> {
        let peaks = self.ours.iter().filter_map(|run| run.peak_rss);
        Some(spread(peaks.map(|peak| peak as f64))?.median)
    }
}

struct Spread {
    median: f64,
    min: f64,
    max: f64,
    runs: usize,
}

impl Spread {
    fn show(&self, figure: impl Fn(f64) -> String) -> String {
        let median = figure(self.median);
        match self.runs {
            1 => median,
            _ => format!("{median} ({}..{})", figure(self.min), figure(self.max)),
        }
    }
}

fn seconds(runs: &[Measured]) -> Option<Spread> {
    spread(runs.iter().map(|run| run.seconds))
}

fn spread(figures: impl Iterator<Item = f64>) -> Option<Spread> {
    let mut figures: Vec<_> = figures.collect();
    figures.sort_by(f64::total_cmp);
    let (min, max) = (*figures.first()?, *figures.last()?);
    Some(Spread { median: figures[figures.len() / 2], min, max, runs: figures.len() })
}

/// About three digits.
fn short(figure: f64) -> String {
    match figure {
        ..0.1 => format!("{figure:.4}"),
        ..1.0 => format!("{figure:.3}"),
        ..10.0 => format!("{figure:.2}"),
        ..1000.0 => format!("{figure:.1}"),
        _ => thousands(figure.round() as u64),
    }
}

fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}
