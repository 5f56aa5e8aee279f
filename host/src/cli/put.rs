//! `put`: writes one record.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use super::database::Database;
use super::{args, output};
use crate::admin::Op;

#[derive(Debug, clap::Args)]
pub(super) struct PutArgs {
    /// Namespace
    #[arg(value_parser = args::namespace)]
    ns: String,
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
    let op = Op {
        ns: args.ns.clone().into_bytes(),
        key: output::bytes(&args.key, args.hex)?,
        value: Some(output::bytes(&args.value, args.hex)?),
        ttl: args.ttl,
    };
    Database::open_to_write(db, args.create)?.write(vec![op])?;
    Ok(ExitCode::SUCCESS)
}
