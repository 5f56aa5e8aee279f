//! `policy`: what is done with policies, one file a subcommand.

mod history;
mod rollback;
mod swap;

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Result, bail};

use super::database::{Database, Missing};
use crate::admin::AdminClient;

#[derive(Debug, clap::Args)]
pub(super) struct PolicyArgs {
    #[command(subcommand)]
    command: PolicyCommand,
}

#[derive(Debug, clap::Subcommand)]
enum PolicyCommand {
    /// Lets another policy take over in the running host, which rolls it back by itself if it fails
    Swap(swap::SwapArgs),
    /// Lets the last good policy take over again in the running host
    Rollback,
    /// Lists what happened to the policies of a database
    History(history::HistoryArgs),
}

pub(super) fn run(db: &Path, args: &PolicyArgs) -> Result<ExitCode> {
    match &args.command {
        PolicyCommand::Swap(args) => swap::run(db, args),
        PolicyCommand::Rollback => rollback::run(db),
        PolicyCommand::History(args) => history::run(db, args),
    }
}

/// The host that runs on a database.
fn running(db: &Path) -> Result<AdminClient> {
    match Database::open(db, Missing::Fail)? {
        Database::Remote(host) => Ok(host),
        Database::Direct(_) => {
            bail!("no host runs on {}: start one by `run`", db.display())
        }
    }
}
