//! The program: its arguments, and one file for each command.
//!
//! Data goes to standard output, everything else to standard error. The exit status is 0 when all
//! was done and the answer is yes, 1 when the answer is no, 2 when the command line or the
//! configuration is wrong, and 3 when the program could not find out: see `exit`.

mod args;
mod clock;
mod compact;
mod config;
mod database;
mod delete;
mod demo;
mod exit;
mod flush;
mod get;
mod import;
mod logging;
pub(crate) mod output;
mod policy;
mod put;
mod run;
mod scan;
mod segments;
mod status;
mod stderr;
mod streams;
mod verify;
mod wake;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand};

use self::exit::Status;
#[cfg(any(test, fuzzing))]
pub(crate) use self::import::{fuzz_csv, fuzz_json};
use self::logging::{LogFormat, Verbosity};
use crate::disk::make_private;
use crate::text::secretless;

const DEFAULT_DB: &str = "./edgestore";

/// At the end of `--help`. See docs/configuration.md.
const EXIT_STATUS: &str = "\
Exit status:
  0  all was done, and the answer is yes
  1  the answer is no: not found, not in sync, a check failed
  2  the command line or the configuration is wrong
  3  could not find out: no database, the host does not answer, I/O failed";

/// Keeps a local database and pulls from its peers what it lacks.
#[derive(Debug, Parser)]
#[command(name = "edgestore-host", version, arg_required_else_help = true, max_term_width = 100,
    override_usage = "edgestore-host [OPTIONS] [COMMAND]", after_help = EXIT_STATUS)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    global: GlobalArgs,
}

#[derive(Debug, clap::Args)]
struct GlobalArgs {
    /// Folder of the database [default: ./edgestore]
    #[arg(long, value_name = "DIR", global = true)]
    db: Option<PathBuf>,
    /// Configuration of the host; see `config example` [default: ./edgestore-host.toml, if it is
    /// there]
    #[arg(long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    /// How long a running host may be silent before a command gives up
    #[arg(long, value_name = "DURATION", global = true, default_value = "10s",
        value_parser = args::timeout)]
    timeout: Duration,
    /// Form of the log on standard error
    #[arg(long, value_name = "FORMAT", global = true, value_enum, default_value_t)]
    log_format: LogFormat,
    /// Logs more; twice, still more. EDGESTORE_LOG=FILTER overrides it
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
    /// Logs errors only
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    quiet: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs a host: serves the database, and pulls from peers (this is the default command)
    Run(Box<run::RunArgs>),
    /// Writes a record
    Put(put::PutArgs),
    /// Prints the value of a record
    Get(get::GetArgs),
    /// Deletes a record
    Delete(delete::DeleteArgs),
    /// Lists the records of a namespace
    Scan(scan::ScanArgs),
    /// Makes a segment of the pending writes, so that peers can pull them
    Flush,
    /// Merges small segments and drops what nobody needs any more; a running host does so by itself
    Compact(compact::CompactArgs),
    /// Shows how far stamps are ahead of the clock, and stamps records again after it was wrong
    Clock(clock::ClockArgs),
    /// Shows the database, and what the host that runs on it is doing
    Status(status::StatusArgs),
    /// Lists the segments
    Segments(segments::SegmentsArgs),
    /// Writes the records of a CSV or JSON file
    ///
    /// CSV has a header, and `,`, `;`, tab or `|` between its columns. JSON is objects, one after the
    /// other on lines of their own, or in one array.
    Import(import::ImportArgs),
    /// Lets the running host ask a peer now, or all of them
    Wake(wake::WakeArgs),
    /// Makes, checks and tries policies; swaps the one of the running host
    Policy(policy::PolicyArgs),
    /// Checks the whole database, and repairs it by --repair
    Verify(verify::VerifyArgs),
    /// Shows what a host would run with, or prints a configuration file to start from
    Config(config::ConfigArgs),
    /// Makes two databases, syncs them with each other, and shows that they agree
    Demo(demo::DemoArgs),
}

impl Command {
    /// Whether `--db` means something to the command.
    fn takes_database(&self) -> bool {
        match self {
            Self::Demo(_) => false,
            Self::Policy(args) => args.takes_database(),
            _ => true,
        }
    }
}

/// Runs the program with the arguments of the process. Returns its exit status.
pub fn main() -> ExitCode {
    give_memory_back();
    let (cli, matches) = match parse(std::env::args_os()) {
        Ok(parsed) => parsed,
        Err(error) => return explained(&error),
    };
    let GlobalArgs { log_format, verbose, quiet, timeout, .. } = cli.global;
    // A host must not wait for who reads its log. A command that ends may.
    let detached = matches!(&cli.command, Command::Run(args) if !args.is_once());
    logging::start(log_format, Verbosity::new(&cli.command, verbose, quiet), detached);
    args::set_host_timeout(timeout);
    let code = dispatch(&cli, &matches).unwrap_or_else(|error| {
        logging::fatal(log_format, &error);
        match (Status::of(&error), &cli.command) {
            // What a configuration says wrong is what `config` was asked.
            (Status::Usage, Command::Config(_)) => Status::No,
            (status, _) => status,
        }
        .into()
    });
    stderr::flush();
    code
}

/// From now on blocks of 256 KiB or more go back to the system when they are freed. By itself, glibc
/// raises this bound up to 32 MiB once such blocks were freed, and then keeps what is freed for the
/// thread that freed it: a host has many of those, and twice the memory of what it holds
/// (<https://sourceware.org/glibc/manual/latest/html_node/Malloc-Tunable-Parameters.html>).
#[cfg_attr(
    all(target_os = "linux", target_env = "gnu"),
    expect(unsafe_code, reason = "only a function of C sets this in glibc")
)]
fn give_memory_back() {
    // SAFETY: This changes from where later blocks come. Other threads may allocate meanwhile.
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 256 * 1024);
    }
}

/// Prints the help that was asked for, or what is wrong with the arguments, which it repeats.
fn explained(error: &clap::Error) -> ExitCode {
    let code = u8::try_from(error.exit_code()).unwrap_or(2);
    let text = error.render().to_string();
    if error.use_stderr() && stderr::shown(&text, stderr::is_terminal()) != text {
        stderr::line(text.trim_end());
        return ExitCode::from(code);
    }
    if !error.use_stderr() && streams::no_output() {
        return Status::Unknown.into();
    }
    match error.print() {
        // The help could not be printed, and not because its reader has gone.
        Err(error) if code == 0 && error.kind() != std::io::ErrorKind::BrokenPipe => {
            Status::Unknown.into()
        }
        _ => ExitCode::from(code),
    }
}

fn dispatch(Cli { command, global }: &Cli, matches: &ArgMatches) -> anyhow::Result<ExitCode> {
    if command.takes_database() {
        make_private();
    }
    let db = || config::database(global);
    match command {
        Command::Run(_) => run::run(config::effective(matches, global)?),
        Command::Put(args) => put::run(&db()?, args),
        Command::Get(args) => get::run(&db()?, args),
        Command::Delete(args) => delete::run(&db()?, args),
        Command::Scan(args) => scan::run(&db()?, args),
        Command::Flush => flush::run(&db()?),
        Command::Compact(args) => compact::run(&db()?, args),
        Command::Clock(args) => clock::run(&db()?, args),
        Command::Status(args) => status::run(&db()?, args),
        Command::Segments(args) => segments::run(&db()?, args),
        Command::Import(args) => import::run(&db()?, args),
        Command::Wake(args) => wake::run(&db()?, args),
        Command::Policy(args) => policy::run(global, args),
        Command::Verify(args) => verify::run(&db()?, args),
        Command::Config(args) => config::run(matches, global, args),
        Command::Demo(args) => demo::run(args),
    }
}

/// The arguments, and the same as clap found them.
fn parse(args: impl IntoIterator<Item = OsString>) -> Result<(Cli, ArgMatches), clap::Error> {
    let args = with_default_command(args.into_iter().collect());
    let matches = Cli::command().try_get_matches_from(args).map_err(without_secrets)?;
    let cli = Cli::from_arg_matches(&matches)
        .map_err(|error| without_secrets(error.format(&mut Cli::command())))?;
    let text = match &cli.command {
        Command::Demo(_) => {
            "the demo makes databases of its own: leave out --db, or give --keep DIR"
        }
        _ => "this command works without a database: leave out --db",
    };
    if cli.global.db.is_some() && !cli.command.takes_database() {
        return Err(Cli::command().error(ErrorKind::ArgumentConflict, text));
    }
    Ok((cli, matches))
}

/// The same of arguments that may be URLs with a user or a password in them: a password may have any
/// character, so that nobody would find its end in the text of the error.
fn without_secrets(mut error: clap::Error) -> clap::Error {
    let repeated =
        [ContextKind::InvalidValue, ContextKind::InvalidArg, ContextKind::InvalidSubcommand];
    for kind in repeated {
        if let Some(ContextValue::String(text)) = error.get(kind) {
            let text = secretless(text).into_owned();
            error.insert(kind, ContextValue::String(text));
        }
    }
    error
}

/// Puts in `run` where the arguments, after those that any command takes, name no command.
fn with_default_command(mut args: Vec<OsString>) -> Vec<OsString> {
    let mut at = 1;
    while let Some(arg) = args.get(at) {
        let arg = arg.to_string_lossy();
        let options = ["--db", "--config", "--log-format", "--timeout"];
        let takes_value = options.contains(&&*arg);
        let with_value = arg.split_once('=').is_some_and(|(name, _)| options.contains(&name));
        let flag = ["--verbose", "--quiet"].contains(&&*arg)
            || (arg.len() > 1
                && arg.strip_prefix('-').is_some_and(|s| s.trim_matches(['v', 'q']).is_empty()));
        match (takes_value, with_value || flag) {
            (true, _) => at += 2,
            (_, true) => at += 1,
            _ => break,
        }
    }
    // A word that is no option names a command, if a mistyped one.
    let named = args.get(at).map(|arg| arg.to_string_lossy()).is_some_and(|arg| {
        !arg.starts_with('-') || ["-h", "--help", "-V", "--version"].contains(&&*arg)
    });
    // Behind the end when an option lacks its value, which is then what is wrong.
    if args.len() > 1 && at <= args.len() && !named {
        args.insert(at, "run".into());
    }
    args
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn command(line: &str) -> Result<Cli, clap::Error> {
        let words = std::iter::once("edgestore-host").chain(line.split_whitespace());
        parse(words.map(OsString::from)).map(|(cli, _)| cli)
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn run_is_the_default_command() {
        for line in [
            "--db d --peer http://a:1",
            "--peer http://a:1 --db d",
            "run --db d --peer http://a:1",
            "--db=d run --peer http://a:1",
            "-v --db d --peer=http://a:1",
            "--config c --db d --peer=http://a:1",
            "--log-format json -vv --db d --peer=http://a:1 -v",
            "--timeout 5s --db d --peer http://a:1",
            "--timeout=5s --db d --peer http://a:1",
        ] {
            let cli = command(line).unwrap();
            assert_eq!(cli.global.db.as_deref(), Some(Path::new("d")), "{line}");
            let Command::Run(args) = cli.command else { panic!("{line}") };
            assert_eq!(args.peers.len(), 1, "{line}");
        }
        assert!(matches!(command("--db d").unwrap().command, Command::Run(_)));
        assert!(matches!(command("-q").unwrap().command, Command::Run(_)));
    }

    #[test]
    fn other_commands_are_found_behind_and_before_global_options() {
        for line in ["--db d status", "status --db d", "-v --db=d --log-format json status -v"] {
            let cli = command(line).unwrap();
            assert_eq!(cli.global.db.as_deref(), Some(Path::new("d")), "{line}");
            assert!(matches!(cli.command, Command::Status(_)), "{line}");
        }
    }

    #[test]
    fn what_is_no_command_is_a_usage_error() {
        for line in [
            "statsu",
            "--db d statsu",
            "demo --db d",
            "policy check f --db d",
            "--db",
            "--nope",
            "-q -v status",
            "",
        ] {
            assert_eq!(command(line).unwrap_err().exit_code(), 2, "{line}");
        }
        for line in ["--help", "help", "help put", "put --help", "-V"] {
            assert_eq!(command(line).unwrap_err().exit_code(), 0, "{line}");
        }
    }
}
