//! `policy`: what is done with policies, one file a subcommand. Who writes one makes, packs, checks
//! and tries it; who runs a host lets it take over, goes back, and looks at what happened.

mod check;
mod compile;
mod describe;
mod history;
mod new;
mod pack;
mod rollback;
mod run;
mod swap;
mod test;
mod trace;

use std::env;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Result, bail};

pub(super) use self::compile::{compiler, policy_engine};
use super::GlobalArgs;
use super::config;
use super::database::Database;
use crate::admin::AdminClient;

#[derive(Debug, clap::Args)]
pub(super) struct PolicyArgs {
    #[command(subcommand)]
    command: PolicyCommand,
}

#[derive(Debug, clap::Subcommand)]
enum PolicyCommand {
    /// Makes a project for a policy of your own, which works and can be built at once
    New(new::NewArgs),
    /// Makes a component of the core module that a compiler leaves
    Pack(pack::PackArgs),
    /// Says whether a file is a policy that works, and if not, how to fix it
    Check(check::CheckArgs),
    /// Shows what a policy says of itself, and what it imports and exports
    Describe(describe::DescribeArgs),
    /// Pulls from a peer once by a policy, into a database that is thrown away unless --db is given
    Run(run::RunArgs),
    /// Plays scenarios with a policy in a simulated network, and says what came of it
    Test(test::TestArgs),
    /// Lets another policy take over in the running host, which rolls it back by itself if it fails
    Swap(swap::SwapArgs),
    /// Lets the last good policy take over again in the running host
    Rollback,
    /// Lists what happened to the policies of a database
    History(history::HistoryArgs),
    #[command(hide = true)]
    Compile(compile::CompileArgs),
}

impl PolicyArgs {
    /// Whether `--db` means something to the command.
    pub(super) fn takes_database(&self) -> bool {
        use PolicyCommand::{History, Rollback, Run, Swap};
        matches!(self.command, Run(_) | Swap(_) | Rollback | History(_))
    }

    /// How much is logged where nothing is said of it: see [`Verbosity`](super::logging::Verbosity).
    pub(super) fn verbosity(&self) -> u8 {
        match self.command {
            // What policies say.
            PolicyCommand::Run(_) => 3,
            // Nodes that are made up say what is wrong with them, as they should.
            PolicyCommand::Test(_) => 0,
            _ => 2,
        }
    }
}

pub(super) fn run(global: &GlobalArgs, args: &PolicyArgs) -> Result<ExitCode> {
    let db = || config::database(global);
    match &args.command {
        PolicyCommand::New(args) => new::run(args),
        PolicyCommand::Pack(args) => pack::run(args),
        PolicyCommand::Check(args) => check::run(args),
        PolicyCommand::Describe(args) => describe::run(args),
        PolicyCommand::Run(args) => run::run(global.db.as_deref(), args),
        PolicyCommand::Test(args) => test::run(args),
        PolicyCommand::Swap(args) => swap::run(&db()?, args),
        PolicyCommand::Rollback => rollback::run(&db()?),
        PolicyCommand::History(args) => history::run(&db()?, args),
        PolicyCommand::Compile(args) => Ok(compile::run(args)),
    }
}

/// The host that runs on a database.
fn running(db: &Path) -> Result<AdminClient> {
    match Database::read(db)? {
        Database::Remote(host) => Ok(host),
        Database::Direct(_) => {
            bail!("no host runs on {}: start one by `run`", db.display())
        }
    }
}

/// Where the compiled code of policies is kept that are looked at outside of a database; none where
/// the system has no place for it.
fn cache_dir() -> Option<PathBuf> {
    let absolute = |name| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")))?;
    Some(base.join("edgestore-host/policies"))
}
