//! `policy history`: what happened to the policies of a database.

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};

use super::super::{database, output};
use crate::runtime::policy_history;
use crate::text::{LINE, visible};

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct HistoryArgs {
    /// Shows so many events, the last ones
    #[arg(long, value_name = "N", default_value_t = 20)]
    limit: usize,
    /// Prints a JSON object a line
    #[arg(long)]
    json: bool,
}

/// The journal is read as it is: no host need run, and one that runs is not disturbed.
pub(super) fn run(db: &Path, args: &HistoryArgs) -> Result<ExitCode> {
    database::exists(db)?;
    let events = policy_history(db, args.limit).context("can't read the history")?;
    let mut text = String::new();
    if args.json {
        for event in &events {
            text += &serde_json::to_string(event)?;
            text.push('\n');
        }
        output::print_json(&text)?;
        return Ok(ExitCode::SUCCESS);
    }
    if events.is_empty() {
        text.push_str("no policy has run yet\n");
    } else {
        let line = |text| visible(text, LINE).into_owned();
        let mut table = output::table(&["when", "event", "policy", "hash", "why"]);
        for event in &events {
            let at = SystemTime::UNIX_EPOCH + Duration::from_secs(event.at_secs);
            table.add_row([
                humantime::format_rfc3339_seconds(at).to_string(),
                event.event.as_str().to_owned(),
                line(event.policy.as_deref().unwrap_or_default()),
                event.hash.as_deref().and_then(|hash| hash.get(..8)).unwrap_or("").to_owned(),
                line(&event.why),
            ]);
        }
        text = output::lines(&table);
    }
    output::print(&text)?;
    Ok(ExitCode::SUCCESS)
}
