//! `put`: writes one record.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use super::args::{self, NsArg};
use super::database::Database;
use super::output;
use crate::admin::Op;
use crate::engine::WriteBatch;

#[derive(Debug, clap::Args)]
pub(super) struct PutArgs {
    #[command(flatten)]
    ns: NsArg,
    /// Key in the namespace
    key: String,
    /// Value; `import` takes many, from a file
    #[arg(allow_hyphen_values = true)]
    value: String,
    /// The record goes after this time, as in 1h
    #[arg(long, value_name = "DURATION", value_parser = args::ttl)]
    ttl: Option<Duration>,
    /// KEY and VALUE are hexadecimal
    #[arg(long)]
    hex: bool,
    /// Makes the database if there is none
    #[arg(long)]
    create: bool,
}

pub(super) fn run(db: &Path, args: &PutArgs) -> anyhow::Result<ExitCode> {
    let (ns, key) = (args.ns.bytes()?, output::bytes(&args.key, args.hex)?);
    let value = output::bytes(&args.value, args.hex)?;
    WriteBatch::check(&ns, &key, Some(&value), args.ttl)?;
    let op = Op { ns, key, value: Some(value), ttl: args.ttl };
    Database::open_to_write(db, args.create)?.write(vec![op])?;
    Ok(ExitCode::SUCCESS)
}
