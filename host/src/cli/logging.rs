//! The log, on standard error, and the last words of a failing program.

use std::fmt;
use std::time::SystemTime;

use tracing::field::{Field, Visit};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::field::{MakeVisitor, VisitFmt, VisitOutput};
use tracing_subscriber::fmt::format::Writer;

use super::Command;
use super::stderr::{self, Stderr};
use crate::text::{LINE, visible, without_secrets};

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
            3 => "warn,edgestore=info",
            4 => "info,edgestore=debug",
            _ => "debug,edgestore=trace",
        })
    }
}

/// From here on events are logged. A log that can't be written is dropped, and ends nothing. A
/// detached one is not waited for either.
pub(super) fn start(format: LogFormat, verbosity: Verbosity, detached: bool) {
    let given = std::env::var(VARIABLE).ok().filter(|text| !text.trim().is_empty());
    let (filter, problem) = match given.map(|text| EnvFilter::try_new(of_all_crates(&text))) {
        Some(Ok(filter)) => (filter, None),
        Some(Err(error)) => (EnvFilter::new(verbosity.0), Some(error)),
        None => (EnvFilter::new(verbosity.0), None),
    };
    let log = tracing_subscriber::fmt().with_env_filter(filter);
    // Its own report of what it can't write panics where standard error is closed.
    let log = log.log_internal_errors(false);
    let started = match format {
        LogFormat::Human => log
            .with_writer(|| Stderr::Human)
            .with_ansi(stderr::is_terminal())
            .with_target(false)
            .fmt_fields(Fields)
            .try_init(),
        LogFormat::Json => log.with_writer(|| Stderr::Json).json().flatten_event(true).try_init(),
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
             `edgestore=debug`"
        );
    }
}

/// A filter that was written for this program when it was one crate, for all that it is made of now.
/// A name in a filter stands for all names that begin with it.
fn of_all_crates(filter: &str) -> String {
    filter.replace("edgestore_host=", "edgestore=")
}

/// Writes the fields of an event on one line: what is hidden in them is escaped, line breaks too, so
/// that nobody forges a line, and secrets of URLs are left out. The formatter that comes with the
/// crate escapes some of the message, and nothing of the fields.
struct Fields;

struct FieldsVisitor<'w> {
    writer: Writer<'w>,
    first: bool,
    result: fmt::Result,
}

impl<'w> MakeVisitor<Writer<'w>> for Fields {
    type Visitor = FieldsVisitor<'w>;

    fn make_visitor(&self, writer: Writer<'w>) -> Self::Visitor {
        FieldsVisitor { writer, first: true, result: Ok(()) }
    }
}

impl FieldsVisitor<'_> {
    fn write(&mut self, name: &str, value: &dyn fmt::Debug) -> fmt::Result {
        let space = if std::mem::take(&mut self.first) { "" } else { " " };
        let value = format!("{value:?}");
        let value = without_secrets(&value);
        let value = visible(&value, LINE);
        if name == "message" {
            return write!(self.writer, "{space}{value}");
        }
        let name = name.strip_prefix("r#").unwrap_or(name);
        // As the crate's own: italic names.
        match self.writer.has_ansi_escapes() {
            true => write!(self.writer, "{space}\x1b[3m{name}\x1b[0m\x1b[2m=\x1b[0m{value}"),
            false => write!(self.writer, "{space}{name}={value}"),
        }
    }
}

impl Visit for FieldsVisitor<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Where an event of the `log` crate comes from: known already.
        if self.result.is_ok() && !field.name().starts_with("log.") {
            self.result = self.write(field.name(), value);
        }
    }
}

impl VisitOutput<fmt::Result> for FieldsVisitor<'_> {
    fn finish(self) -> fmt::Result {
        self.result
    }
}

impl VisitFmt for FieldsVisitor<'_> {
    fn writer(&mut self) -> &mut dyn fmt::Write {
        &mut self.writer
    }
}

/// Says why the program fails, whatever the log leaves out.
pub(super) fn fatal(format: LogFormat, error: &anyhow::Error) {
    match format {
        LogFormat::Human => stderr::line(&format!("error: {}", chain(error))),
        LogFormat::Json => {
            let timestamp = humantime::format_rfc3339_micros(SystemTime::now()).to_string();
            let message = stderr::shown(&chain(error), false).into_owned();
            let line = serde_json::json!({
                "timestamp": timestamp, "level": "ERROR", "message": message,
                "target": "edgestore_host::cli",
            });
            stderr::json_line(&line.to_string());
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
    use std::io;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[test]
    fn a_filter_for_the_host_is_one_for_all_its_crates() {
        use tracing_subscriber::layer::SubscriberExt as _;

        let filter = EnvFilter::new(of_all_crates("warn,edgestore_host=debug"));
        tracing::subscriber::with_default(tracing_subscriber::registry().with(filter), || {
            assert!(tracing::enabled!(target: "edgestore_node::peer_loop", tracing::Level::DEBUG));
            assert!(tracing::enabled!(target: "edgestore_host::cli", tracing::Level::DEBUG));
            assert!(!tracing::enabled!(target: "hyper", tracing::Level::INFO));
        });
    }

    /// What a log with these fields says.
    fn logged(ansi: bool, log: impl FnOnce()) -> String {
        #[derive(Clone, Default)]
        struct Kept(Arc<Mutex<Vec<u8>>>);
        impl io::Write for Kept {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0.lock().unwrap().extend(bytes);
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let kept = Kept::default();
        let writer = kept.clone();
        let log_to = tracing_subscriber::fmt()
            .with_writer(move || writer.clone())
            .with_ansi(ansi)
            .with_target(false)
            .without_time()
            .fmt_fields(Fields)
            .finish();
        tracing::subscriber::with_default(log_to, log);
        let bytes = kept.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn an_event_is_one_line_in_which_nothing_is_hidden() {
        let bad = "a\x1b[2J\nERROR forged \u{9b}\u{202e}";
        let shown = "a\\u{1b}[2J\\u{a}ERROR forged \\u{9b}\\u{202e}";
        let event = || tracing::warn!(%bad, quoted = "x y", n = 1_u64, "say {bad}");
        assert_eq!(
            logged(false, event),
            format!(" WARN say {shown} bad={shown} quoted=\"x y\" n=1\n")
        );
        let coloured = logged(true, event);
        assert_eq!(coloured.matches(shown).count(), 2, "{coloured:?}");
        // Nothing but the colours of the formatter is left.
        let plain = ["0m", "2m", "3m", "33m"];
        let plain =
            plain.iter().fold(coloured, |text, code| text.replace(&format!("\x1b[{code}"), ""));
        assert!(!plain.trim_end_matches('\n').contains(crate::text::is_hidden), "{plain:?}");
    }

    #[test]
    fn an_event_has_no_secrets() {
        let url = "http://me:hunter2@a/?token=hunter2";
        let event = || tracing::warn!(url, error = %format!("no `{url}`"), "can't ask {url}");
        let text = logged(false, event);
        assert_eq!(text.matches("http://***@a/?***").count(), 3, "{text}");
        assert!(!text.contains("hunter2"), "{text}");
    }

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
