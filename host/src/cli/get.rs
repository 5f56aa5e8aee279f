//! `get`: prints one value, byte for byte.

use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

use super::database::Database;
use super::output::{self, Output};
use super::{args, exit};

#[derive(Debug, clap::Args)]
pub(super) struct GetArgs {
    /// Namespace
    #[arg(value_parser = args::namespace)]
    ns: String,
    /// Key in the namespace
    key: String,
    /// KEY is hexadecimal, and the value is printed so
    #[arg(long)]
    hex: bool,
}

pub(super) fn run(db: &Path, args: &GetArgs) -> anyhow::Result<ExitCode> {
    let key = output::bytes(&args.key, args.hex)?;
    let mut database = Database::read(db)?;
    let Some(value) = database.get(args.ns.as_bytes(), &key)? else {
        let what = format!("there is no record {:?} in the namespace {:?}", args.key, args.ns);
        return Err(match database.incomplete()? {
            Some(why) => exit::unknown(format!("{what} as far as it can be read: {why}")),
            None => exit::no(what),
        });
    };
    let mut output = Output::new();
    if args.hex {
        writeln!(output, "{}", hex::encode(value))?;
    } else {
        output.write_all(&value)?;
        // For the prompt that follows; a program gets the value alone.
        if output::is_terminal() && !value.ends_with(b"\n") {
            output.write_all(b"\n")?;
        }
    }
    output.flush()?;
    match database.incomplete()? {
        Some(why) => Err(exit::unknown(format!("there may be a later value: {why}"))),
        None => Ok(ExitCode::SUCCESS),
    }
}
