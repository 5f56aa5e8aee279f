//! `verify`: checks a whole database, and says what to do about what is wrong, or does it.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};

use super::database::Database;
use super::{args, exit, output};
use crate::engine::{Engine, EngineError, EngineOptions, Verified};
use crate::runtime::CursorFiles;
use crate::text::{LINE, visible};

#[derive(Debug, clap::Args)]
pub(super) struct VerifyArgs {
    /// Fixes what can be fixed, and accepts the loss of what can't; see docs/storage.md
    #[arg(long)]
    repair: bool,
    /// Forgets segments that are lost, so that they are reported no more: for those that no peer
    /// and no backup has
    #[arg(long, requires = "repair")]
    accept_loss: bool,
    /// As of `run`: what had to be kept for this long may not be missing
    #[arg(long, value_name = "DURATION", default_value = "10d", value_parser = args::duration)]
    tombstone_grace: Duration,
}

pub(super) fn run(db: &Path, args: &VerifyArgs) -> Result<ExitCode> {
    let options =
        EngineOptions { tombstone_grace: args.tombstone_grace, ..EngineOptions::default() };
    if args.repair { repair(db, &options, args.accept_loss) } else { look(db, &options) }
}

/// Changes nothing.
fn look(db: &Path, options: &EngineOptions) -> Result<ExitCode> {
    let database = Database::read_with(db, options).map_err(|error| {
        let damaged = error.downcast_ref().is_some_and(EngineError::is_damage);
        // That is what it was to find out.
        if damaged { exit::no(format!("{error:#}")) } else { error }
    })?;
    let Database::Direct(engine) = database else { return running(db) };
    let found = verify(&engine, false)?;
    let cursors = cursors(db)?;
    print_problems(&found)?;
    for (file, why) in &cursors {
        print(&format!("cursor {}: it {why}; --repair keeps it aside", file.display()))?;
    }
    for line in engine.losses() {
        print(&format!("{line}; --repair reports it and ends this"))?;
    }
    if found.count > 0 || !cursors.is_empty() || !engine.losses().is_empty() {
        return Ok(ExitCode::FAILURE);
    }
    let Verified { segments, records, .. } = found;
    output::print(&format!("sound: {segments} segments, {records} records\n"))?;
    Ok(ExitCode::SUCCESS)
}

/// Says "repaired" only of what a second look finds sound.
fn repair(db: &Path, options: &EngineOptions, accept_loss: bool) -> Result<ExitCode> {
    let Some((mut engine, mut store)) = Database::repair(db, options)? else { return running(db) };
    let mut count = u64::from(!store.done.is_empty());
    let mut found = verify(&engine, true)?;
    if found.unreadable {
        print_problems(&found)?;
        let (anew, more) = engine.rebuild()?;
        engine = anew;
        store.done.extend(more.done);
        store.lost.extend(more.lost);
        count += found.count;
        found = verify(&engine, true)?;
    }
    for line in store.done.iter().chain(&store.lost) {
        print(line)?;
    }
    print_problems(&found)?;
    let cursors = CursorFiles::look(db).set_aside_damaged();
    let cursors = cursors.with_context(|| unreadable_cursors(db))?;
    for (file, why, aside) in &cursors {
        let (file, aside) = (file.display(), aside.display());
        print(&format!(
            "cursor {file}: it {why}; it is kept as {aside}, and the policy starts from an empty one"
        ))?;
    }
    count += found.count + cursors.len() as u64;
    if accept_loss {
        let accepted = engine.accept_loss()?;
        count = count.saturating_sub(accepted as u64);
        output::print(&format!("{accepted} lost segments are forgotten\n"))?;
    }
    let left = verify(&engine, false)?;
    let code = print_what_is_left(&left, count, !store.lost.is_empty())?;
    engine.end_repair()?;
    Ok(code)
}

/// Prints what a second look finds after a repair of `count` problems.
fn print_what_is_left(left: &Verified, count: u64, lost: bool) -> Result<ExitCode> {
    if left.count > 0 {
        output::print(&format!(
            "repaired {} of {count} problems; what is left:\n",
            count.saturating_sub(left.count)
        ))?;
        print_problems(left)?;
        return Ok(ExitCode::FAILURE);
    }
    if count > 0 {
        output::print(&format!("repaired {count} of {count} problems\n"))?;
    }
    let Verified { segments, records, .. } = left;
    if lost {
        output::print(&format!("what is left is sound: {segments} segments, {records} records\n"))?;
        return Ok(ExitCode::FAILURE);
    }
    output::print(&format!("sound: {segments} segments, {records} records\n"))?;
    Ok(ExitCode::SUCCESS)
}

fn running(db: &Path) -> Result<ExitCode> {
    bail!("a host runs on {}: stop it first, so that nothing changes meanwhile", db.display());
}

fn verify(engine: &Engine, repair: bool) -> Result<Verified> {
    let style = ProgressStyle::with_template("{bar:32} {pos}/{len} segments");
    let bar =
        ProgressBar::new(0).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let found = engine.verify(repair, |done, all| {
        bar.set_length(all);
        bar.set_position(done);
    })?;
    bar.finish_and_clear();
    Ok(found)
}

fn cursors(db: &Path) -> Result<Vec<(PathBuf, &'static str)>> {
    CursorFiles::look(db).damaged().with_context(|| unreadable_cursors(db))
}

fn unreadable_cursors(db: &Path) -> String {
    format!("can't read the cursors in {}", db.join("sync").display())
}

/// Prints a line that names files. It stays one, whatever their names are.
fn print(line: &str) -> Result<()> {
    Ok(output::print(&format!("{}\n", visible(line, LINE)))?)
}

fn print_problems(found: &Verified) -> Result<()> {
    for problem in &found.problems {
        print(&problem.to_string())?;
    }
    let more = found.count.saturating_sub(found.problems.len() as u64);
    if more > 0 {
        output::print(&format!("and {more} more\n"))?;
    }
    Ok(())
}
