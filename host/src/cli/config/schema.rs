//! What a configuration file may say.
//!
//! There is no list of it: the keys of `[host]` and `[policy]` are the options of `run`, with their
//! parsers and defaults, so an option that is added there is a key of `[host]` by itself. Those of
//! `[limits]` are the table in [`super::limits`].

use std::any::TypeId;
use std::error::Error as _;
use std::path::PathBuf;

use clap::{Arg, ArgAction, Args as _, Command, CommandFactory as _};

use super::limits::LIMITS;
use crate::cli::args::DEFAULT_PORT;
use crate::cli::run::RunArgs;
use crate::cli::{Cli, DEFAULT_DB};

/// A table of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Section {
    Host,
    Peers,
    Limits,
    Policy,
    Settings,
}

impl Section {
    pub(super) const ALL: [Self; 5] =
        [Self::Host, Self::Peers, Self::Limits, Self::Policy, Self::Settings];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Peers => "peers",
            Self::Limits => "limits",
            Self::Policy => "policy",
            Self::Settings => "policy.settings",
        }
    }
}

/// Where the file has an option of `run`, by its long name.
fn place(option: &str) -> Option<Section> {
    match option {
        // What this one run does.
        "once" | "config" => None,
        // These have sections of their own.
        "peer" | "set" | "limit" | "tick-timeout" | "memory-limit" => None,
        "plugin" | "probation" | "max-failures" => Some(Section::Policy),
        _ => Some(Section::Host),
    }
}

/// The keys of `[host]` and `[policy]`.
pub(super) struct Schema {
    /// `run`, with the options of any command that are keys, too.
    pub(super) command: Command,
    keys: Vec<Key>,
}

/// A key, and the option that it is.
#[derive(Debug, Clone)]
pub(super) struct Key {
    pub(super) section: Section,
    pub(super) arg: Arg,
}

impl Schema {
    pub(super) fn new() -> Self {
        let cli = Cli::command();
        let db = cli.get_arguments().filter(|arg| arg.get_long() == Some("db")).cloned();
        let command = Command::new("run").no_binary_name(true).args(db);
        let command = RunArgs::augment_args(command);
        let key = |arg: &Arg| Some(Key { section: place(arg.get_long()?)?, arg: arg.clone() });
        let keys = command.get_arguments().filter_map(key).collect();
        Self { command, keys }
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &Key> {
        self.keys.iter()
    }

    pub(super) fn key(&self, section: Section, name: &str) -> Option<&Key> {
        self.keys.iter().find(|key| key.section == section && key.name() == name)
    }

    /// All keys of a section that has no others.
    pub(super) fn names(&self, section: Section) -> Vec<&str> {
        let own = self.keys.iter().filter(|key| key.section == section).map(Key::name);
        match section {
            Section::Limits => LIMITS.iter().map(|limit| limit.name).collect(),
            Section::Policy => own.chain(["settings"]).collect(),
            _ => own.collect(),
        }
    }

    /// Whether `run` has this option, and the file has no such key.
    pub(super) fn is_no_setting(&self, name: &str) -> bool {
        name == "config"
            || place(name).is_none()
                && self.command.get_arguments().any(|arg| arg.get_long() == Some(name))
    }
}

impl Key {
    pub(super) fn name(&self) -> &str {
        self.arg.get_long().unwrap_or_default()
    }

    pub(super) fn help(&self) -> String {
        self.arg.get_help().map(ToString::to_string).unwrap_or_default()
    }

    /// Whether a relative path is one of the file's folder.
    pub(super) fn is_path(&self) -> bool {
        self.arg.get_value_parser().type_id() == TypeId::of::<PathBuf>()
    }

    /// Whether it is true or false, and an option without a value.
    pub(super) fn is_flag(&self) -> bool {
        matches!(self.arg.get_action(), ArgAction::SetTrue)
    }

    /// Says what is wrong with a value, as the option does.
    pub(super) fn check(&self, text: &str) -> Result<(), String> {
        if self.is_flag() {
            let known = ["true", "false"].contains(&text);
            return if known { Ok(()) } else { Err("write true or false".to_owned()) };
        }
        let alone = Command::new("alone").no_binary_name(true).arg(self.arg.clone());
        let error = match alone.try_get_matches_from([format!("--{}={text}", self.name())]) {
            Ok(_) => return Ok(()),
            Err(error) => error,
        };
        Err(error.source().map_or_else(|| first_line(&error), ToString::to_string))
    }

    /// Its value where nobody says another, if that is a value.
    pub(super) fn default_text(&self) -> Option<String> {
        match (self.name(), self.arg.get_default_values()) {
            ("db", _) => Some(DEFAULT_DB.to_owned()),
            ("listen", _) => Some(format!("127.0.0.1:{DEFAULT_PORT}")),
            (_, []) if self.is_flag() => Some("false".to_owned()),
            (_, []) => None,
            (_, [value, ..]) => Some(value.to_string_lossy().into_owned()),
        }
    }

    /// A value to show how one is written, where there is no default.
    pub(super) fn example(&self) -> &'static str {
        match self.name() {
            "flush-interval" => "30s",
            "disk-reserve" => "64MiB",
            "max-db-bytes" => "8GiB",
            "memory-budget" => "256MiB",
            "manifest-memory" => "16MiB",
            "archive" => "archive",
            "plugin" => "my-sync.wasm",
            _ => "",
        }
    }
}

fn first_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let line = text.lines().next().unwrap_or_default();
    line.strip_prefix("error: ").unwrap_or(line).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_options_of_run_are_keys_of_the_host_and_the_policy() {
        let schema = Schema::new();
        let host = schema.names(Section::Host);
        for name in ["db", "listen", "interval", "flush-interval", "archive", "max-clock-ahead"] {
            assert!(host.contains(&name), "{name}: {host:?}");
        }
        let policy = schema.names(Section::Policy);
        assert_eq!(policy, ["plugin", "probation", "max-failures", "settings"]);
        for name in ["once", "peer", "set", "limit", "tick-timeout", "memory-limit", "config"] {
            assert!(!host.contains(&name), "{name}");
            assert!(schema.is_no_setting(name), "{name}");
        }
    }

    #[test]
    fn a_value_is_checked_as_that_of_the_option() {
        let schema = Schema::new();
        let check = |name, text| schema.key(Section::Host, name).unwrap().check(text);
        assert_eq!(check("interval", "5s"), Ok(()));
        assert!(check("interval", "5").unwrap_err().starts_with("the unit is missing"));
        assert!(check("compact-rate", "fast").unwrap_err().ends_with("or off"));
        assert!(check("archive", "").unwrap_err().contains("value"));
        let probation = schema.key(Section::Policy, "probation").unwrap();
        assert!(probation.check("many").unwrap_err().contains("invalid digit"));
        assert!(probation.check("0").is_err() && probation.check("20").is_ok());
    }

    #[test]
    fn paths_are_told_from_other_values() {
        let schema = Schema::new();
        let paths: Vec<_> = schema.keys().filter(|key| key.is_path()).map(Key::name).collect();
        for name in ["db", "archive", "plugin"] {
            assert!(paths.contains(&name), "{name}: {paths:?}");
        }
        assert!(!paths.contains(&"interval") && !paths.contains(&"listen"));
    }
}
