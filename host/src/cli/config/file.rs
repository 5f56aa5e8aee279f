//! From the text of a configuration file to values that are good, or to all that is wrong with it.

use std::collections::HashSet;
use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::limits::LimitValue;
use super::schema::{Schema, Section};
use crate::protocol::{ClientLimits, HttpPeer};
use crate::runtime::PeerId;
use crate::text::{
    Diagnostics, FileError, Item, document, items, nearest, read_file, scalar, secretless,
};

/// What a configuration file says.
#[derive(Debug)]
pub(in crate::cli) struct ConfigFile {
    pub(super) path: PathBuf,
    pub(super) bytes: Vec<u8>,
    /// In the order of the file.
    pub(super) values: Vec<FileValue>,
}

/// One key and its value, as the option of this name would have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FileValue {
    pub(super) section: Section,
    pub(super) key: String,
    pub(super) text: String,
    pub(super) line: usize,
}

impl ConfigFile {
    pub(super) fn read(path: &Path) -> Result<Self> {
        let bytes = read_file(path)
            .with_context(|| format!("can't read the configuration file {}", path.display()))?;
        Ok(Self::parse(path, bytes)?)
    }

    /// Relative paths in it are those of the folder of `path`.
    ///
    /// # Errors
    /// [`FileError`], with all diagnostics.
    pub(super) fn parse(path: &Path, bytes: Vec<u8>) -> Result<Self, FileError> {
        let (table, text) = document(path, &bytes)?;
        let mut reader = Reader {
            schema: &Schema::new(),
            folder: path.parent().unwrap_or(Path::new("")),
            diagnostics: Diagnostics::new(path, text),
            values: Vec::new(),
        };
        reader.document(&table);
        let Reader { diagnostics, values, .. } = reader;
        diagnostics.check()?;
        Ok(Self { path: path.to_owned(), bytes, values })
    }
}

/// The database folder that a file names, whatever else is wrong with it.
pub(super) fn database(path: &Path) -> Result<Option<PathBuf>> {
    let bytes = read_file(path)
        .with_context(|| format!("can't read the configuration file {}", path.display()))?;
    let (table, _) = document(path, &bytes)?;
    let host = table.get("host").and_then(|host| host.get_ref().as_table());
    let db = host.and_then(|host| host.get("db")).and_then(|db| db.get_ref().as_str());
    Ok(db.map(|db| path.parent().unwrap_or(Path::new("")).join(db)))
}

struct Reader<'a> {
    schema: &'a Schema,
    folder: &'a Path,
    diagnostics: Diagnostics<'a>,
    values: Vec<FileValue>,
}

impl Reader<'_> {
    fn document(&mut self, table: &DeTable<'_>) {
        for (key, span, value) in items(table) {
            let section = match key {
                "host" => Section::Host,
                "peers" => Section::Peers,
                "limits" => Section::Limits,
                "policy" => Section::Policy,
                _ => {
                    let known = ["host", "peers", "limits", "policy"];
                    let message = self.unknown(key, None, &known);
                    self.diagnostics.add(span, message);
                    continue;
                }
            };
            self.section(section, span, value);
        }
    }

    fn section(&mut self, section: Section, span: Range<usize>, value: &Spanned<DeValue<'_>>) {
        let Some(table) = value.get_ref().as_table() else {
            let name = section.name();
            self.diagnostics.add(
                span,
                format!("this is a section: write [{name}] on a line, and its keys below"),
            );
            return;
        };
        let mut peers = HashSet::new();
        for (key, span, value) in items(table) {
            match section {
                Section::Policy if key == "settings" => {
                    self.section(Section::Settings, span, value);
                }
                Section::Host | Section::Policy => self.option(section, (key, span, value)),
                Section::Limits => self.limit((key, span, value)),
                Section::Settings => self.setting((key, span, value)),
                Section::Peers => self.peer((key, span, value), &mut peers),
            }
        }
    }

    fn option(&mut self, section: Section, (name, span, value): Item<'_>) {
        let Some(key) = self.schema.key(section, name) else {
            let message = self.unknown(name, Some(section), &self.schema.names(section));
            self.diagnostics.add(span, message);
            return;
        };
        let Some(mut text) = self.text(value) else { return };
        if let Err(why) = key.check(&text) {
            self.diagnostics.add(value.span(), format!("{name}: {why}"));
            return;
        }
        if key.is_path() {
            text = self.folder.join(text).to_string_lossy().into_owned();
        }
        self.keep(section, name, text, span);
    }

    fn limit(&mut self, (name, span, value): Item<'_>) {
        let names = self.schema.names(Section::Limits);
        if !names.contains(&name) {
            let message = self.unknown(name, Some(Section::Limits), &names);
            self.diagnostics.add(span, message);
            return;
        }
        let Some(text) = self.text(value) else { return };
        match LimitValue::new(name, &text) {
            Ok(_) => self.keep(Section::Limits, name, text, span),
            Err(why) => self.diagnostics.add(value.span(), format!("{name}: {why}")),
        }
    }

    fn setting(&mut self, (key, span, value): Item<'_>) {
        // As `--set` has it.
        if key.is_empty() || key.contains('=') {
            self.diagnostics.add(span, "the key of a setting is not empty, and has no `=`");
            return;
        }
        if let Some(text) = self.text(value) {
            self.keep(Section::Settings, key, text, span);
        }
    }

    fn peer(&mut self, (id, span, value): Item<'_>, ids: &mut HashSet<String>) {
        let url = match value.get_ref() {
            DeValue::String(url) => url,
            DeValue::Table(_) => {
                let hint = "an id with dots is written in quotes, as in \
                            \"10.0.0.1\" = \"http://10.0.0.1:8900\"";
                self.diagnostics
                    .add(span, format!("{} is a table, and no peer: {hint}", secretless(id)));
                return;
            }
            _ => {
                let hint = "write ID = \"http://host:port\"";
                self.diagnostics.add(value.span(), format!("peer {}: {hint}", secretless(id)));
                return;
            }
        };
        let checked = id.parse::<PeerId>().map_err(|error| (span.clone(), error.to_string()));
        let checked = checked.and_then(|id| {
            // Some file systems hold names that differ in case alone to be the same.
            let new = ids.insert(id.as_str().to_ascii_lowercase());
            let twice = "a peer of this id stands above, and ids that differ in case are the same";
            if new { Ok(()) } else { Err((span.clone(), twice.to_owned())) }
        });
        let checked = checked.and_then(|()| {
            let peer = HttpPeer::new(url, ClientLimits::default());
            peer.map(drop).map_err(|error| (value.span(), error.to_string()))
        });
        match checked {
            Ok(()) => self.keep(Section::Peers, id, url.to_string(), span),
            Err((span, why)) => self.diagnostics.add(span, why),
        }
    }

    fn keep(&mut self, section: Section, key: &str, text: String, span: Range<usize>) {
        let line = self.diagnostics.line(span.start);
        self.values.push(FileValue { section, key: key.to_owned(), text, line });
    }

    /// A value as it would stand on the command line.
    fn text(&mut self, value: &Spanned<DeValue<'_>>) -> Option<String> {
        scalar(value.get_ref()).map_err(|why| self.diagnostics.add(value.span(), why)).ok()
    }

    /// What to say of a name that is none of `known`.
    fn unknown(&self, name: &str, section: Option<Section>, known: &[&str]) -> String {
        let of = section.map_or(String::new(), |section| format!(" in [{}]", section.name()));
        let elsewhere = Section::ALL
            .into_iter()
            .find(|other| Some(*other) != section && self.schema.names(*other).contains(&name));
        let hint = match (nearest(name, known), elsewhere) {
            (_, Some(other)) => format!("it belongs in [{}]", other.name()),
            _ if name == "peer" => "peers are in [peers]".to_owned(),
            _ if name == "set" => "settings are in [policy.settings]".to_owned(),
            (Some(near), None) => format!("did you mean `{near}`?"),
            _ if self.schema.is_no_setting(name) => {
                format!("--{name} is an option of the command line alone")
            }
            (None, None) => format!("known are {}", known.join(", ")),
        };
        let what = if section.is_some() { "key" } else { "section" };
        let name = secretless(name);
        format!("unknown {what} `{name}`{of}; {hint}")
    }
}
