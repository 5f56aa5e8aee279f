//! `segments`: lists the segments, in order of registration.

use std::path::Path;
use std::process::ExitCode;

use super::database::Database;
use super::output;

#[derive(Debug, clap::Args)]
pub(super) struct SegmentsArgs {
    /// Prints a JSON array
    #[arg(long)]
    json: bool,
}

pub(super) fn run(db: &Path, args: &SegmentsArgs) -> anyhow::Result<ExitCode> {
    let segments = Database::read(db)?.segments()?;
    if args.json {
        let segments = segments.iter().map(|segment| {
            serde_json::json!({
                "id": segment.id,
                "hash": segment.hash.to_string(),
                "bytes": segment.bytes,
                "records": segment.records,
            })
        });
        let segments = serde_json::Value::from_iter(segments);
        output::print_json(&format!("{segments:#}\n"))?;
    } else {
        let mut table = output::table(&[">id", "hash", ">bytes", ">records"]);
        for segment in segments {
            let (id, hash) = (segment.id.to_string(), segment.hash.to_string());
            table.add_row([id, hash, segment.bytes.to_string(), segment.records.to_string()]);
        }
        output::print(&output::lines(&table))?;
    }
    Ok(ExitCode::SUCCESS)
}
