//! `compact`: retires, merges and forgets now what can be, and says how much that was.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;

use super::args::{self, OrOff};
use super::database::{Database, Missing};
use super::status::health_rows;
use super::{exit, output};
use crate::engine::{Compacted, EngineOptions};

#[derive(Debug, clap::Args)]
pub(super) struct CompactArgs {
    /// Most bytes to read and write a second, or off for no bound
    #[arg(long, value_name = "SIZE", default_value = "off", value_parser = args::size_or_off)]
    rate: OrOff<u64>,
    /// As of `run`, where no host runs: one that runs has its own [default: 10d]
    #[arg(long, value_name = "DURATION", value_parser = args::duration)]
    tombstone_grace: Option<Duration>,
    /// Prints a JSON object
    #[arg(long)]
    json: bool,
}

pub(super) fn run(db: &Path, args: &CompactArgs) -> Result<ExitCode> {
    let mut options = EngineOptions::default();
    options.tombstone_grace = args.tombstone_grace.unwrap_or(options.tombstone_grace);
    let mut database = Database::open_with(db, Missing::Fail, &options)?;
    if matches!(database, Database::Remote(_)) && args.tombstone_grace.is_some() {
        return Err(exit::usage(format!(
            "a host runs on {}, with a --tombstone-grace of its own: leave it out here",
            db.display()
        )));
    }
    let done = database.compact(args.rate.0)?;
    if args.json {
        output::print_json(&format!("{:#}\n", serde_json::to_value(done)?))?;
    } else if is_nothing(&done) && !done.stopped && !done.waits {
        output::note("nothing to compact");
    } else {
        output::print(&format!("{}\n", words(&done)))?;
    }
    if done.stopped {
        return Err(exit::no(
            "it was stopped before it was through: the host stops, or was asked once more",
        ));
    }
    let health = database.health()?;
    if !health.is_good() {
        return Err(exit::no(format!("not all could be compacted:\n{}", health_rows(&health))));
    }
    Ok(ExitCode::SUCCESS)
}

fn is_nothing(done: &Compacted) -> bool {
    done.retired == 0 && done.forgotten == 0
}

/// What a compaction did.
pub(super) fn words(done: &Compacted) -> String {
    let waits = "what was deleted or written over is kept, because the wall clock has jumped, or the \
                 database is too new to tell: it is trusted once it is right by what was seen \
                 before, or has gone on evenly for an hour while the database is open";
    if is_nothing(done) {
        return if done.waits { waits } else { "nothing to do" }.to_owned();
    }
    let segments = |count| format!("{count} segment{}", if count == 1 { "" } else { "s" });
    let mut text = format!("retired {}", segments(done.retired));
    if done.merged > 0 {
        let made = output::size(done.made_bytes);
        text += &format!(", {} of them merged into {} ({made})", done.merged, done.made);
    }
    if done.forgotten > 0 {
        text += &format!(", forgot {}", output::records(done.forgotten));
    }
    if done.waits {
        text += &format!("; {waits}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_done_is_told_and_nothing_else() {
        let done = Compacted { retired: 1, ..Compacted::default() };
        assert_eq!(words(&done), "retired 1 segment");
        let done = Compacted {
            retired: 9,
            merged: 8,
            made: 1,
            made_bytes: 4096,
            forgotten: 2,
            stopped: false,
            waits: false,
        };
        let all = "retired 9 segments, 8 of them merged into 1 (4.00 KiB), forgot 2 records";
        assert_eq!(words(&done), all);
        assert_eq!(words(&Compacted::default()), "nothing to do");
    }
}
