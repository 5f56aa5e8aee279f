//! `wake`: ticks peers of the running host now.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Result, bail};

use super::database::Database;
use super::exit;

#[derive(Debug, clap::Args)]
pub(super) struct WakeArgs {
    /// The peer's id [default: all]
    peer: Option<String>,
    /// Tries what the policy has set aside as well: its next tick starts without a cursor
    #[arg(long)]
    retry: bool,
}

pub(super) fn run(db: &Path, args: &WakeArgs) -> Result<ExitCode> {
    let Database::Remote(mut host) = Database::read(db)? else {
        bail!("no host runs on {}: start one by `run`", db.display());
    };
    if !host.wake(args.peer.as_deref(), args.retry)? {
        let ids: Vec<_> = host.status()?.peers.into_iter().map(|peer| peer.id).collect();
        let ids = ids.join(", ");
        return Err(exit::no(format!("the host has no such peer; it has: {ids}")));
    }
    Ok(ExitCode::SUCCESS)
}
