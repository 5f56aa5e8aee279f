//! The log, on standard error, and the last words of a failing program.

use std::io;
use std::time::SystemTime;

use tracing_subscriber::EnvFilter;

use super::Command;
use super::stderr::{self, Stderr};

const VARIABLE: &str = "EDGESTORE_LOG";

/// Form of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub(super) enum LogFormat {
    /// Lines for people
    #[default]
    Human,
    /// A JSON object on each line
    Json,
}

/// What is logged where the environment does not say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Verbosity(&'static str);

impl Verbosity {
    pub(super) fn new(command: &Command, verbose: u8, quiet: bool) -> Self {
        let usual = match command {
            Command::Run(_) => 3,
            Command::Policy(args) => args.verbosity(),
            _ => 2,
        };
        let level = if quiet { usual.min(1) } else { usual + verbose };
        Self(match level {
            0 => "off",
            1 => "error",
            2 => "warn",
            3 => "warn,edgestore_host=info",
            4 => "info,edgestore_host=debug",
            _ => "debug,edgestore_host=trace",
        })
    }
}

/// From here on events are logged. A log that can't be written is dropped, and ends nothing. A
/// detached one is not waited for either.
pub(super) fn start(format: LogFormat, verbosity: Verbosity, detached: bool) {
    let given = std::env::var(VARIABLE).ok().filter(|text| !text.trim().is_empty());
    let (filter, problem) = match given.map(EnvFilter::try_new) {
        Some(Ok(filter)) => (filter, None),
        Some(Err(error)) => (EnvFilter::new(verbosity.0), Some(error)),
        None => (EnvFilter::new(verbosity.0), None),
    };
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(|| Stderr);
    // Its own report of what it can't write panics where standard error is closed.
    let log = log.log_internal_errors(false);
    let started = match format {
        LogFormat::Human => {
            log.with_ansi(io::IsTerminal::is_terminal(&io::stderr())).with_target(false).try_init()
        }
        LogFormat::Json => log.json().flatten_event(true).try_init(),
    };
    if detached && let Err(error) = stderr::detach() {
        tracing::warn!(%error, "the log has no thread of its own, and is waited for");
    }
    if let Err(error) = started {
        stderr::line(&format!("warning: there is no log: {error}"));
    }
    if let Some(error) = problem {
        tracing::warn!(
            %error,
            "{VARIABLE} is no log filter and is ignored; write one as in `info` or \
             `edgestore_host=debug`"
        );
    }
}

/// Says why the program fails, whatever the log leaves out.
pub(super) fn fatal(format: LogFormat, error: &anyhow::Error) {
    match format {
        LogFormat::Human => stderr::line(&format!("error: {}", chain(error))),
        LogFormat::Json => {
            let timestamp = humantime::format_rfc3339_micros(SystemTime::now()).to_string();
            let message = chain(error);
            let line = serde_json::json!({
                "timestamp": timestamp, "level": "ERROR", "message": message,
                "target": "edgestore_host::cli",
            });
            stderr::line(&line.to_string());
        }
    }
}

/// The error and its causes, but for those that the text before them tells already.
pub(super) fn chain(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |text, cause| {
        match (text.is_empty(), text.contains(&cause)) {
            (true, _) => cause,
            (false, true) => text,
            (false, false) => format!("{text}: {cause}"),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_told_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("can't listen: {source}")]
        struct Tells {
            source: io::Error,
        }
        let error = anyhow::Error::from(Tells { source: io::Error::other("port taken") });
        assert_eq!(chain(&error.context("no host")), "no host: can't listen: port taken");
    }
}
