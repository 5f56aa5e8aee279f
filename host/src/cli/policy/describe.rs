//! `policy describe`: who a policy says it is, and what it wants.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::compile;
use crate::cli::output;
use crate::policy::{LoadError, Outline, Policy, PolicyEngine};
use crate::text::{LINE, visible};

#[derive(Debug, clap::Args)]
pub(super) struct DescribeArgs {
    /// The policy, a WebAssembly component
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Prints a JSON object
    #[arg(long)]
    json: bool,
}

/// A policy that was loaded, and how that went.
pub(super) struct Loaded {
    pub(super) policy: Policy,
    /// To compile it, or to find it compiled, and to ask it who it is.
    pub(super) took: Duration,
    /// Whether it was found compiled.
    pub(super) cached: bool,
}

impl Loaded {
    pub(super) fn new(component: &[u8]) -> Result<Self, LoadError> {
        let start = Instant::now();
        let (policy, cached) = compile::load(component)?;
        Ok(Self { policy, took: start.elapsed(), cached })
    }

    /// As in `loads in 12.3 ms, from the cache`.
    pub(super) fn words(&self) -> String {
        let how = if self.cached { "from the cache" } else { "compiled" };
        format!("{}, {how}", time(self.took))
    }

    pub(super) fn json(&self, bytes: usize, outline: &Outline) -> serde_json::Value {
        let policy = &self.policy;
        serde_json::json!({
            "name": policy.name(),
            "version": policy.version(),
            "contract": policy.contract(),
            "cursor_schema": policy.cursor_schema(),
            "hash": policy.hash().to_string(),
            "bytes": bytes,
            "imports": outline.imports,
            "exports": outline.exports,
            "load_ms": self.took.as_secs_f64() * 1e3,
            "cached": self.cached,
        })
    }
}

pub(super) fn run(args: &DescribeArgs) -> Result<ExitCode> {
    let in_file = |error| in_file(&args.file, error);
    let component = PolicyEngine::read_file(&args.file)?;
    let outline = Outline::of(&component).map_err(in_file)?;
    let loaded = Loaded::new(&component).map_err(in_file)?;
    match args.json {
        true => output::print_json(&format!("{:#}\n", loaded.json(component.len(), &outline)))?,
        false => output::print(&text(&loaded, component.len(), &outline))?,
    }
    Ok(ExitCode::SUCCESS)
}

fn text(loaded: &Loaded, bytes: usize, outline: &Outline) -> String {
    let policy = &loaded.policy;
    let mut rows = vec![
        ("name", policy.name().to_owned()),
        ("version", policy.version().to_owned()),
        ("contract", format!("edgestore:sync {}", policy.contract())),
        ("cursor", format!("schema {}", policy.cursor_schema())),
        ("blake3", policy.hash().to_string()),
        ("size", output::size(bytes as u64)),
        ("loads in", loaded.words()),
    ];
    for (key, names) in [("imports", &outline.imports), ("exports", &outline.exports)] {
        rows.extend(names.iter().enumerate().map(|(i, name)| {
            let key = if i == 0 { key } else { "" };
            (key, name.clone())
        }));
    }
    // Imports and exports have any names.
    rows.iter().map(|(key, value)| format!("{key:<9} {}\n", visible(value, LINE))).collect()
}

/// The error with the file's name.
fn in_file(path: &Path, error: LoadError) -> LoadError {
    LoadError::File { path: path.to_owned(), error: Box::new(error) }
}

/// As in `4.1 ms` or `11.3 s`.
pub(super) fn time(duration: Duration) -> String {
    match duration.as_secs_f64() {
        secs if secs < 1.0 => format!("{:.1} ms", secs * 1e3),
        secs => format!("{secs:.1} s"),
    }
}
