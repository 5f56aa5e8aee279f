//! `policy run`: a pull from real peers, to see what a policy does.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result};

use super::trace::Explain;
use super::{cache_dir, compiler};
use crate::cli::args::{self, PeerSpec};
use crate::cli::database::{Database, Missing};
use crate::cli::run::once;
use crate::engine::EngineOptions;
use crate::runtime::{Host, HostBuilder};

#[derive(Debug, clap::Args)]
pub(super) struct RunArgs {
    /// The policy, a WebAssembly component
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// A node to pull from; may be given many times. ID names it in logs and is made from the
    /// URL where it is left out
    #[arg(long = "peer", value_name = "[ID=]URL", value_parser = args::peer, required = true)]
    peers: Vec<PeerSpec>,
    /// Pulls once, prints how it went, and exits with 0 when all peers are in sync. There is no
    /// other way yet: a host that goes on is `run --plugin FILE`
    #[arg(long)]
    once: bool,
    /// Prints each call of the policy into the host, with its time
    #[arg(long)]
    explain: bool,
    /// A setting for the policy; may be given many times
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = args::setting)]
    settings: Vec<(String, String)>,
}

pub(super) fn run(db: Option<&Path>, args: &RunArgs) -> Result<ExitCode> {
    let peers = args.peers.iter().map(|peer| (peer.id.as_str(), peer.url.as_str()));
    if let Some(error) = HostBuilder::check_peers(peers).into_iter().next() {
        return Err(error.into());
    }
    // Goes when this returns, after the engine in it.
    let temporary;
    let db = match db {
        Some(db) => db,
        None => {
            let made = tempfile::Builder::new().prefix("edgestore-policy-").tempdir();
            temporary = made.context("can't make a temporary folder: give --db DIR")?;
            temporary.path()
        }
    };
    let engine = Arc::new(Database::own(db, Missing::Create, &EngineOptions::default())?);
    let mut builder =
        Host::builder(Arc::clone(&engine)).plugin(&args.file).policy_compiler(compiler()?);
    if let Some(dir) = cache_dir() {
        builder = builder.policy_cache(dir);
    }
    for PeerSpec { id, url } in &args.peers {
        builder = builder.peer(id, url);
    }
    for (key, value) in &args.settings {
        builder = builder.setting(key, value);
    }
    if args.explain {
        builder = builder.observer(Arc::new(Explain));
    }
    once(builder, &engine)
}
