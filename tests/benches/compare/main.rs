//! This host beside the published crates `edgestore` and `edgestore-repl`: the same data, machine
//! and build, in one run, printed as Markdown. docs/benchmarks.md says what is measured and how.
//!
//! ```text
//! cargo bench -p edgestore-host-tests --bench compare                  # all
//! cargo bench -p edgestore-host-tests --bench compare -- --quick       # small, to see it work
//! cargo bench -p edgestore-host-tests --bench compare -- [OPTIONS]
//!
//!   --only NAME      bootstrap, incremental, tick, reads or writes alone (repeat for several)
//!   --no-stock       do not measure the published crates
//!   --records N      one database of this size in place of all sizes
//!   --value BYTES    size of each value; 100 unless told
//!   --dir DIR        where temporary folders go
//! ```
//!
//! Each measurement is a process of its own ([`job`]), and so is the primary that it pulls from
//! ([`server`]): what one of them leaves in memory is not charged to another.

mod args;
mod bootstrap;
mod data;
mod engines;
mod job;
mod machine;
mod process;
mod reads;
mod server;
mod suite;
mod table;
mod tick;
mod writes;

use std::process::ExitCode;

use anyhow::{Context as _, Result};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    if let Some(job) = process::job_of_child() {
        return process::run_child(&job?);
    }
    let args = args::parse(std::env::args().skip(1))?;
    process::catch_signals()?;
    let parent = args.dir.clone().unwrap_or_else(std::env::temp_dir);
    let dir = tempfile::Builder::new()
        .prefix("edgestore-compare-")
        .tempdir_in(&parent)
        .with_context(|| format!("can't make a folder in {}", parent.display()))?;
    let results = suite::run(&args, dir.path())?;
    print!("{}", table::render(&machine::describe(dir.path()), &args, &results));
    Ok(())
}
