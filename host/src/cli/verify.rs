//! `verify`: looks at a whole database, and says what to do about what is wrong.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};

use super::args;
use super::database::{Database, Missing};
use super::output;
use crate::engine::{EngineOptions, Verified};
use crate::runtime::CursorFiles;

#[derive(Debug, clap::Args)]
pub(super) struct VerifyArgs {
    /// Mends what can be mended
    #[arg(long)]
    repair: bool,
    /// As of `run`: what had to be kept for this long may not be missing
    #[arg(long, value_name = "DURATION", default_value = "10d", value_parser = args::duration)]
    tombstone_grace: Duration,
}

pub(super) fn run(db: &Path, args: &VerifyArgs) -> Result<ExitCode> {
    let options =
        EngineOptions { tombstone_grace: args.tombstone_grace, ..EngineOptions::default() };
    let Database::Direct(engine) = Database::open_with(db, Missing::Fail, &options)? else {
        bail!("a host runs on {}: stop it first, so that nothing changes meanwhile", db.display());
    };
    let style = ProgressStyle::with_template("{bar:32} {pos}/{len} segments");
    let bar =
        ProgressBar::new(0).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let Verified { segments, records, problems, count } =
        engine.verify(args.repair, |done, all| {
            bar.set_length(all);
            bar.set_position(done);
        })?;
    bar.finish_and_clear();
    let cursors = CursorFiles::open(db)
        .and_then(|cursors| cursors.damaged())
        .with_context(|| format!("can't read the cursors in {}", db.join("sync").display()))?;
    let told = problems.len() as u64;
    for problem in problems {
        output::print(&format!("{problem}\n"))?;
    }
    if count > told {
        output::print(&format!("and {} more\n", count - told))?;
    }
    for (file, why) in &cursors {
        let file = file.display();
        output::print(&format!("cursor {file}: it {why}; the next tick keeps it aside\n"))?;
    }
    if args.repair && count > 0 {
        // A second look tells whether that was enough.
        let left = engine.verify(false, |_, _| {})?.count;
        output::print(&format!("repaired {} of {count} problems\n", count.saturating_sub(left)))?;
        return Ok(if left == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    if count == 0 && cursors.is_empty() {
        output::print(&format!("sound: {segments} segments, {records} records\n"))?;
        return Ok(ExitCode::SUCCESS);
    }
    Ok(ExitCode::FAILURE)
}
