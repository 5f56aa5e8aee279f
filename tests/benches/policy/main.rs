//! What a policy costs because it is WebAssembly: the default policy as a component, beside the
//! very same code run natively on the same host functions. docs/benchmarks.md says what is measured
//! and how.
//!
//! ```text
//! cargo bench -p edgestore-host-tests --bench policy
//! ```
//!
//! Criterion runs it all and prints its statistics; the last lines are a table of the medians.

mod cases;
#[path = "../compare/data.rs"]
mod data;
#[path = "../compare/machine.rs"]
#[expect(dead_code, reason = "memory is not measured here")]
mod machine;
mod native;
mod pairs;
mod peer;
mod source;
mod table;
mod world;

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use criterion::Criterion;

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
    let mut criterion = Criterion::default().configure_from_args();
    let folders = source::Folders::new().context("can't make temporary folders")?;
    let cases = cases::run(&mut criterion, &folders)?;
    criterion.final_summary();
    print!("{}", table::render(&machine::describe(folders.disk()), &cases));
    Ok(())
}
