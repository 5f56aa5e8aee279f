//! `flush`: makes a segment of the pending writes now, and says which.

use std::path::Path;
use std::process::ExitCode;

use super::database::{Database, Missing};
use super::output;

pub(super) fn run(db: &Path) -> anyhow::Result<ExitCode> {
    match Database::open(db, Missing::Fail)?.flush()? {
        Some(segment) => output::print(&format!(
            "segment {} {}: {}, {} bytes\n",
            segment.id,
            segment.hash,
            output::records(segment.records),
            segment.bytes
        ))?,
        None => output::note("nothing to flush: all writes are in segments"),
    }
    Ok(ExitCode::SUCCESS)
}
