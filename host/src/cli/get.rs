//! `get`: prints one value, byte for byte; on a terminal, with what would act on it escaped.

use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

use super::args::NsArg;
use super::database::Database;
use super::exit;
use super::output::{self, Output};
use crate::text::{LINES, exact};

#[derive(Debug, clap::Args)]
pub(super) struct GetArgs {
    #[command(flatten)]
    ns: NsArg,
    /// Key in the namespace
    key: String,
    /// KEY is hexadecimal, and the value is printed so
    #[arg(long)]
    hex: bool,
}

pub(super) fn run(db: &Path, args: &GetArgs) -> anyhow::Result<ExitCode> {
    let (ns, key) = (args.ns.bytes()?, output::bytes(&args.key, args.hex)?);
    let mut database = Database::read(db)?;
    let Some(value) = database.get(&ns, &key)? else {
        let (key, ns) = (&args.key, args.ns.text());
        let what = format!("there is no record {key:?} in the namespace {ns:?}");
        return Err(match database.incomplete()? {
            Some(why) => exit::unknown(format!("{what} as far as it can be read: {why}")),
            None => exit::no(what),
        });
    };
    let mut output = Output::new();
    if args.hex {
        writeln!(output, "{}", hex::encode(value))?;
    } else {
        match output::is_terminal() {
            true => {
                output.write_all(exact(&value, LINES).as_bytes())?;
                // For the prompt that follows; a program gets the value alone.
                if !value.ends_with(b"\n") {
                    output.write_all(b"\n")?;
                }
            }
            false => output.write_all(&value)?,
        }
    }
    output.flush()?;
    match database.incomplete()? {
        Some(why) => Err(exit::unknown(format!("there may be a later value: {why}"))),
        None => Ok(ExitCode::SUCCESS),
    }
}
