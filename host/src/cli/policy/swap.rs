//! `policy swap`: another policy takes over in the running host.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};

use super::super::{exit, output};
use crate::runtime::PolicyChange;

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct SwapArgs {
    /// The policy, a WebAssembly component
    file: PathBuf,
}

pub(super) fn run(db: &Path, args: &SwapArgs) -> Result<ExitCode> {
    let mut host = super::running(db)?;
    // The host has a working directory of its own.
    let path = std::fs::canonicalize(&args.file)
        .with_context(|| format!("can't read the policy {}", args.file.display()))?;
    let path = path.to_str().context("the path of the policy must be UTF-8")?;
    let change = exit::answered(host.swap_policy(path))?;
    output::print(&match change.changed {
        true => format!("{}\nsee how it does by `policy history` and `status`\n", words(&change)),
        false => format!("{} runs already\n", change.to),
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Who took over from whom.
pub(super) fn words(change: &PolicyChange) -> String {
    let hash = change.hash.get(..8).unwrap_or(&change.hash);
    format!("{} ({hash}) runs in place of {}", change.to, change.from)
}
