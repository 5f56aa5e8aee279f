//! What can be said of a configuration before a host runs with it: whether its peers and limits are
//! good, and whether its policy can be loaded and takes its settings.

use std::path::Path;
use std::{env, io};

use anyhow::{Context as _, Result, anyhow};

use super::schema::Section;
use super::{Effective, refused};
use crate::cli::exit;
use crate::cli::policy::policy_engine;
use crate::policy::{Limits, PolicyEngine, RehearsalError, rehearse_settings};
use crate::runtime::HostBuilder;

impl Effective {
    /// Checks peers, limits and the archive. A host does so before it opens anything.
    ///
    /// # Errors
    /// All that is wrong with them. The archive alone is no problem of the configuration, as it may
    /// be there later.
    pub(in crate::cli) fn check(&self) -> Result<()> {
        let peers = self.args.peers.iter().map(|peer| (peer.id.as_str(), peer.url.as_str()));
        let peers = HostBuilder::check_peers(peers);
        let mut problems: Vec<_> = peers.iter().map(ToString::to_string).collect();
        problems.extend(self.check_limits()?);
        // Of a bucket, say. A folder of that name is not what was meant, and the name may have a key.
        let is_url = |dir: &&Path| dir.to_string_lossy().contains("://");
        if self.args.archive().is_some_and(|dir| is_url(&dir)) {
            problems.push("the archive is a URL, and must be a folder: write its path".to_owned());
        }
        let usage = !problems.is_empty();
        if let Some(dir) = self.args.archive().filter(|dir| !is_url(dir))
            && let Err(error) = can_be_made(dir)
        {
            problems.push(format!("can't use {} as archive: {error}", dir.display()));
        }
        match (problems.join("\n"), usage) {
            (text, _) if text.is_empty() => Ok(()),
            (text, true) => Err(exit::usage(text)),
            (text, false) => Err(anyhow!(text)),
        }
    }

    /// Says so when the policy that is built in, to which every host comes back in the end, does
    /// not start within the limits.
    fn check_limits(&self) -> Result<Option<String>> {
        let (limits, default) = (self.args.limits(), Limits::default());
        let lowered: Vec<_> = [
            ("fuel", limits.fuel < default.fuel),
            ("memory", limits.memory_bytes < default.memory_bytes),
            ("table-elements", limits.table_elements < default.table_elements),
            ("instances", limits.instances < default.instances),
        ]
        .into_iter()
        .filter_map(|(name, lowered)| lowered.then_some(name))
        .collect();
        if lowered.is_empty() {
            return Ok(None);
        }
        let loaded = policy_engine(limits)?.load_default();
        let error = match loaded {
            Ok(_) => return Ok(None),
            Err(error) if !error.is_answer() => return Err(error.into()),
            Err(error) => error,
        };
        let places = self.of(Section::Limits).filter(|value| lowered.contains(&value.key.as_str()));
        let places: Vec<_> = places
            .map(|value| format!("{} ({})", value.origin.text(self.path()), value.key))
            .collect();
        Ok(Some(format!(
            "{}: too little for the policy that is built in, which a host falls back to: {error}",
            places.join(", ")
        )))
    }

    /// Says so when the database is not there and can't be made.
    pub(super) fn try_database(&self) -> Result<()> {
        let db = self.db.as_path();
        if db.exists() {
            return Ok(());
        }
        can_be_made(db).with_context(|| format!("can't make the database {}", db.display()))
    }

    /// Loads the policy, and ticks it once with its settings against a canned peer. The embedded
    /// policy within the usual limits is known to be good.
    ///
    /// # Errors
    /// What is wrong with the policy or the settings, with their places in the file.
    pub(super) fn try_policy(&self) -> Result<()> {
        let plugin = self.of(Section::Policy).find(|value| value.key == "plugin");
        let plugin = plugin.and_then(|value| value.text.as_deref());
        let settings = self.settings();
        let limits = self.args.limits();
        if plugin.is_none() && settings.is_empty() && limits == Limits::default() {
            return Ok(());
        }
        let engine = policy_engine(limits)?;
        let policy = match plugin {
            None => engine.load_default()?,
            Some(path) => PolicyEngine::read_file(path.as_ref())
                .and_then(|component| engine.load(&component))
                .with_context(|| format!("{}: can't use the policy {path}", self.place("plugin")))
                .map_err(refused)?,
        };
        let (name, version) = (policy.name(), policy.version());
        let settings: Vec<_> = settings.into_iter().collect();
        match rehearse_settings(&policy, &env::temp_dir(), &[], &settings) {
            Ok(None) => Ok(()),
            // A host starts with it, too.
            Ok(Some(error)) => {
                tracing::warn!(
                    policy = %format_args!("{name} {version}"), %error,
                    "the policy fails in a dry run, and not by its settings"
                );
                Ok(())
            }
            Err(error @ RehearsalError::Stage(_)) => {
                Err(anyhow!(error).context("can't try the settings of the policy"))
            }
            Err(error) => {
                let error = self.at_their_lines(&error.to_string());
                Err(exit::no(format!("the policy {name} {version} refuses its settings: {error}")))
            }
        }
    }

    /// An error of the policy, behind the places of those settings that it names.
    pub(super) fn at_their_lines(&self, error: &str) -> String {
        let keys = || self.of(Section::Settings).map(|value| value.key.as_str());
        // In quotes, or else as a word: what a policy says is its own affair.
        let quoted =
            |key: &&str| ["\"", "`", "'"].iter().any(|q| error.contains(&format!("{q}{key}{q}")));
        let word = |c: char| !(c.is_alphanumeric() || "_-.".contains(c));
        let named = |key: &&str| error.split(word).any(|word| word.trim_matches('.') == *key);
        let mut keys_named: Vec<_> = keys().filter(quoted).collect();
        if keys_named.is_empty() {
            keys_named = keys().filter(named).collect();
        }
        let keys = keys_named.into_iter();
        let places: Vec<_> = keys.map(|key| format!("{} ({key})", self.place(key))).collect();
        if places.is_empty() { error.to_owned() } else { format!("{}: {error}", places.join(", ")) }
    }

    /// Where the value of a key of the policy or of its settings comes from.
    fn place(&self, key: &str) -> String {
        let values = self.of(Section::Settings).chain(self.of(Section::Policy));
        let value = { values }.find(|value| value.key == key);
        value.map_or_else(String::new, |value| value.origin.text(self.path()))
    }
}

/// Whether a folder can be written to, or else made.
fn can_be_made(dir: &Path) -> io::Result<()> {
    let there = dir.ancestors().find(|dir| dir.exists());
    // A relative path has the empty one as its last ancestor.
    tempfile::tempfile_in(there.unwrap_or(Path::new("."))).map(drop)
}
