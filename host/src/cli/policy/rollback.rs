//! `policy rollback`: the last good policy takes over again.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;

use super::super::{exit, output};
use super::swap;

pub(super) fn run(db: &Path) -> Result<ExitCode> {
    let change = exit::answered(super::running(db)?.roll_back_policy())?;
    output::print(&format!("{}\n", swap::words(&change)))?;
    Ok(ExitCode::SUCCESS)
}
