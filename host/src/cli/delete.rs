//! `delete`: writes a tombstone, whether or not there is a record here: a peer may have one.

use std::path::Path;
use std::process::ExitCode;

use super::database::{Database, Missing};
use super::{args, output};
use crate::admin::Op;

#[derive(Debug, clap::Args)]
pub(super) struct DeleteArgs {
    /// Namespace
    #[arg(value_parser = args::namespace)]
    ns: String,
    /// Key in the namespace
    key: String,
    /// KEY is hexadecimal
    #[arg(long)]
    hex: bool,
}

pub(super) fn run(db: &Path, args: &DeleteArgs) -> anyhow::Result<ExitCode> {
    let key = output::bytes(&args.key, args.hex)?;
    let op = Op { ns: args.ns.clone().into_bytes(), key, value: None, ttl: None };
    Database::open(db, Missing::Fail)?.write(vec![op])?;
    Ok(ExitCode::SUCCESS)
}
