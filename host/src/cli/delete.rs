//! `delete`: writes a tombstone, whether or not there is a record here: a peer may have one.

use std::path::Path;
use std::process::ExitCode;

use super::args::NsArg;
use super::database::{Database, Missing};
use super::output;
use crate::admin::Op;
use crate::engine::WriteBatch;

#[derive(Debug, clap::Args)]
pub(super) struct DeleteArgs {
    #[command(flatten)]
    ns: NsArg,
    /// Key in the namespace; a peer may have made one that is empty
    key: String,
    /// KEY is hexadecimal
    #[arg(long)]
    hex: bool,
}

pub(super) fn run(db: &Path, args: &DeleteArgs) -> anyhow::Result<ExitCode> {
    let (ns, key) = (args.ns.bytes()?, output::bytes(&args.key, args.hex)?);
    WriteBatch::check(&ns, &key, None, None)?;
    let op = Op { ns, key, value: None, ttl: None };
    Database::open(db, Missing::Fail)?.write(vec![op])?;
    Ok(ExitCode::SUCCESS)
}
