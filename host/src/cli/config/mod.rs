//! What a host runs with: the command line over a file over the defaults.
//!
//! The file is read into the options of `run` and these are parsed like a command line, so that
//! there is one place that knows names, forms and defaults. See docs/configuration.md.

mod file;
mod limits;
mod live;
mod print;
mod schema;
#[cfg(test)]
mod tests;
mod trial;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use clap::parser::ValueSource;
use clap::{ArgMatches, FromArgMatches as _, Subcommand};

use self::file::ConfigFile;
use self::limits::LIMITS;
pub(super) use self::limits::{LimitValue, help as limits_help};
use self::schema::{Key, Schema, Section};
use super::args::PeerSpec;
use super::run::RunArgs;
use super::{DEFAULT_DB, GlobalArgs};
use super::{exit, output};
use crate::policy::LoadError;
use crate::text::FileError;

/// Read where no other is named, if it is there.
const DEFAULT_FILE: &str = "edgestore-host.toml";

#[derive(Debug, clap::Args)]
pub(super) struct ConfigArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Checks a configuration, its policy and settings too, and prints what a host would run with
    Check(Box<CheckArgs>),
    /// Prints a configuration file with every key, what it means and its default
    Example,
}

#[derive(Debug, clap::Args)]
struct CheckArgs {
    /// The file [default: as for run]
    #[arg(conflicts_with = "config")]
    file: Option<PathBuf>,
    #[command(flatten)]
    run: RunArgs,
}

/// `config`. The matches are those of the whole command line.
pub(super) fn run(
    matches: &ArgMatches,
    global: &GlobalArgs,
    args: &ConfigArgs,
) -> Result<ExitCode> {
    match &args.action {
        Action::Check(check) => {
            let file = file(check.file.as_deref().or(global.config.as_deref()))?;
            let given = matches.subcommand_matches("config");
            let given = given.and_then(|given| given.subcommand_matches("check"));
            let given = given.unwrap_or(matches).clone();
            let effective = Effective::new(given, file)?;
            effective.check().and_then(|()| effective.try_database()).map_err(refused)?;
            effective.try_policy()?;
            output::print(&print::effective(&effective))?;
        }
        Action::Example => output::print(&print::example())?,
    }
    Ok(ExitCode::SUCCESS)
}

/// What `run` runs with. The matches are those of the whole command line.
pub(super) fn effective(matches: &ArgMatches, global: &GlobalArgs) -> Result<Effective> {
    let given = matches.subcommand_matches("run").unwrap_or(matches).clone();
    Effective::new(given, file(global.config.as_deref())?)
}

/// The database folder for other commands than `run`: they find that which a host would use.
pub(super) fn database(global: &GlobalArgs) -> Result<PathBuf> {
    let db = match (&global.db, path(global.config.as_deref())) {
        (Some(db), _) => Some(db.clone()),
        (None, Some(path)) => file::database(path)?,
        (None, None) => None,
    };
    Ok(db.unwrap_or_else(|| DEFAULT_DB.into()))
}

fn path(given: Option<&Path>) -> Option<&Path> {
    given.or(Some(Path::new(DEFAULT_FILE)).filter(|path| path.exists()))
}

fn file(given: Option<&Path>) -> Result<Option<ConfigFile>> {
    path(given).map(ConfigFile::read).transpose()
}

/// What a host runs with, and where each value comes from.
#[derive(Debug)]
pub(super) struct Effective {
    /// As they were typed.
    given: ArgMatches,
    file: Option<ConfigFile>,
    values: Vec<Value>,
    db: PathBuf,
    args: RunArgs,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Value {
    section: Section,
    key: String,
    /// None where there is none, and no default that is one.
    text: Option<String>,
    origin: Origin,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Origin {
    Default,
    /// The line.
    File(usize),
    /// The option.
    Flag(String),
}

impl Origin {
    /// `path` is that of the file.
    fn text(&self, path: Option<&Path>) -> String {
        match (self, path) {
            (Self::File(line), Some(path)) => format!("{}:{line}", path.display()),
            (Self::Flag(option), _) => option.clone(),
            _ => "default".to_owned(),
        }
    }
}

impl Effective {
    fn new(given: ArgMatches, file: Option<ConfigFile>) -> Result<Self> {
        let schema = Schema::new();
        let mut merge = Merge { given: &given, file: file.as_ref(), values: vec![], argv: vec![] };
        for key in schema.keys() {
            merge.option(key);
        }
        merge.peers();
        merge.limits();
        merge.settings();
        let Merge { mut values, mut argv, .. } = merge;
        values.sort_by_key(|value| value.section);
        if given.get_flag("once") {
            argv.push("--once".into());
        }
        let parsed = schema.command.try_get_matches_from(argv)?;
        let args = RunArgs::from_arg_matches(&parsed)?;
        let db = parsed.get_one::<PathBuf>("db").cloned().unwrap_or_else(|| DEFAULT_DB.into());
        let config = Self { given, file, values, db, args };
        config.check_settings(config.args.limits().settings_bytes)?;
        Ok(config)
    }

    /// Says so when the settings have more bytes than `limit`.
    fn check_settings(&self, limit: usize) -> Result<()> {
        let settings = self.settings();
        let size: usize = settings.iter().map(|(key, value)| key.len() + value.len()).sum();
        if size > limit {
            return Err(exit::usage(format!(
                "the settings of the policy have {size} bytes, keys and values, and may have \
                 {limit}: make them shorter, or start with a greater limit `settings`"
            )));
        }
        Ok(())
    }

    /// Folder of the database.
    pub(super) fn db(&self) -> &Path {
        &self.db
    }

    /// The options, those of the file among them.
    pub(super) fn args(&self) -> &RunArgs {
        &self.args
    }

    /// The file that was read.
    pub(super) fn path(&self) -> Option<&Path> {
        self.file.as_ref().map(|file| file.path.as_path())
    }

    /// What the policy is told.
    fn settings(&self) -> BTreeMap<String, String> {
        let settings = self.of(Section::Settings);
        settings.filter_map(|value| Some((value.key.clone(), value.text.clone()?))).collect()
    }

    fn of(&self, section: Section) -> impl Iterator<Item = &Value> {
        self.values.iter().filter(move |value| value.section == section)
    }

    /// What only a start changes, by its full name.
    fn fixed(&self) -> BTreeMap<String, Option<String>> {
        let fixed = self.values.iter().filter(|value| value.section != Section::Settings);
        let name = |value: &Value| format!("{}.{}", value.section.name(), value.key);
        fixed.map(|value| (name(value), value.text.clone())).collect()
    }
}

/// Lays the command line over the file, value by value, and over the defaults.
struct Merge<'a> {
    given: &'a ArgMatches,
    file: Option<&'a ConfigFile>,
    values: Vec<Value>,
    /// The same as a command line, but for defaults.
    argv: Vec<OsString>,
}

impl Merge<'_> {
    fn option(&mut self, key: &Key) {
        let (name, id) = (key.name(), key.arg.get_id().as_str());
        let typed = self.given.value_source(id) == Some(ValueSource::CommandLine);
        let (raw, origin) = if typed {
            let raw = self.given.get_raw(id).and_then(Iterator::last).unwrap_or_default();
            (Some(raw.to_owned()), Origin::Flag(format!("--{name}")))
        } else if let Some((text, line)) = self.in_file(key.section, name) {
            (Some(text.into()), Origin::File(line))
        } else {
            (None, Origin::Default)
        };
        if let Some(raw) = &raw {
            let mut arg = OsString::from(format!("--{name}"));
            if !key.is_flag() {
                arg.push("=");
                arg.push(raw);
            }
            // A flag that is false is left out.
            if !key.is_flag() || raw == "true" {
                self.argv.push(arg);
            }
        }
        let text = raw.map(|raw| raw.to_string_lossy().into_owned());
        let text = text.or_else(|| key.default_text());
        self.values.push(Value { section: key.section, key: name.to_owned(), text, origin });
    }

    /// A peer of the command line takes the place of the file's with that id.
    fn peers(&mut self) {
        let typed = self.given.get_many::<PeerSpec>("peers").into_iter().flatten();
        let typed = typed.map(|peer| (peer.id.clone(), peer.url.clone())).collect();
        self.table(Section::Peers, "peer", typed, |a, b| a.eq_ignore_ascii_case(b));
    }

    fn settings(&mut self) {
        let typed = self.given.get_many::<(String, String)>("settings").into_iter().flatten();
        let mut last = Vec::<(String, String)>::new();
        for (key, value) in typed {
            last.retain(|(other, _)| other != key);
            last.push((key.clone(), value.clone()));
        }
        self.table(Section::Settings, "set", last, |a, b| a == b);
    }

    /// Lays the entries of an option over those of its section.
    fn table(
        &mut self,
        section: Section,
        option: &str,
        typed: Vec<(String, String)>,
        same: fn(&str, &str) -> bool,
    ) {
        let file = self.file.map_or(&[][..], |file| &file.values);
        let file = file.iter().filter(|value| value.section == section);
        let kept = file.filter(|value| !typed.iter().any(|(key, _)| same(key, &value.key)));
        let kept = kept.map(|v| (v.key.clone(), v.text.clone(), Origin::File(v.line)));
        let mut all: Vec<_> = kept.collect();
        let flag = Origin::Flag(format!("--{option}"));
        all.extend(typed.into_iter().map(|(key, text)| (key, text, flag.clone())));
        for (key, text, origin) in all {
            self.argv.push(format!("--{option}={key}={text}").into());
            self.values.push(Value { section, key, text: Some(text), origin });
        }
    }

    fn limits(&mut self) {
        let mut typed = BTreeMap::new();
        for (id, option) in [
            ("limits", "--limit"),
            ("tick_timeout", "--tick-timeout"),
            ("memory_limit", "--memory-limit"),
        ] {
            for LimitValue { name, text } in
                self.given.get_many::<LimitValue>(id).into_iter().flatten()
            {
                typed.insert(*name, (text.clone(), Origin::Flag(option.to_owned())));
            }
        }
        for limit in &LIMITS {
            let section = Section::Limits;
            let in_file = || self.in_file(section, limit.name);
            let in_file = || in_file().map(|(text, line)| (text.to_owned(), Origin::File(line)));
            let (text, origin) = match typed.remove(limit.name).or_else(in_file) {
                Some((text, origin)) => {
                    self.argv.push(format!("--limit={}={text}", limit.name).into());
                    (text, origin)
                }
                None => (limit.default_text(), Origin::Default),
            };
            self.values.push(Value {
                section,
                key: limit.name.to_owned(),
                text: Some(text),
                origin,
            });
        }
    }

    fn in_file(&self, section: Section, key: &str) -> Option<(&str, usize)> {
        let mut values = self.file?.values.iter();
        let value = values.find(|value| value.section == section && value.key == key)?;
        Some((&value.text, value.line))
    }
}

/// What is wrong with a configuration is what `config check` was asked. A machine that runs no policy
/// at all says nothing of it.
fn refused(error: anyhow::Error) -> anyhow::Error {
    match error.downcast_ref::<LoadError>() {
        Some(LoadError::System(_)) => error,
        _ => exit::no(super::logging::chain(&error)),
    }
}

/// An error of a configuration in a line of the log.
fn logged(error: &anyhow::Error) -> String {
    let file = error.downcast_ref::<FileError>();
    file.map_or_else(|| super::logging::chain(error), FileError::in_a_line)
}
