//! Whether the policy of a configuration can be loaded, and takes its settings.

use std::env;

use anyhow::{Context as _, Result, anyhow};

use super::Effective;
use super::schema::Section;
use crate::cli::policy::cache_dir;
use crate::policy::{PolicyEngine, RehearsalError, rehearse};

impl Effective {
    /// Loads the policy, and ticks it once with its settings against a canned peer. The embedded
    /// policy without settings is known to be good.
    ///
    /// # Errors
    /// What is wrong with the policy or the settings, with their places in the file.
    pub(super) fn try_policy(&self) -> Result<()> {
        let plugin = self.of(Section::Policy).find(|value| value.key == "plugin");
        let plugin = plugin.and_then(|value| value.text.as_deref());
        let settings = self.settings();
        if plugin.is_none() && settings.is_empty() {
            return Ok(());
        }
        let engine = PolicyEngine::new(cache_dir().as_deref(), self.args.limits())?;
        let policy = match plugin {
            None => engine.load_default()?,
            Some(path) => PolicyEngine::read_file(path.as_ref())
                .and_then(|component| engine.load(&component))
                .with_context(|| {
                    format!("{}: can't use the policy {path}", self.place("plugin"))
                })?,
        };
        let settings = settings.into_iter().collect();
        match rehearse(&policy, &env::temp_dir(), settings, None) {
            Ok(_) => Ok(()),
            Err(error @ RehearsalError::Stage(_)) => {
                Err(anyhow!(error).context("can't try the settings of the policy"))
            }
            Err(error) => {
                let (name, version) = (policy.name(), policy.version());
                let error = self.at_their_lines(&error.to_string());
                Err(anyhow!("the policy {name} {version} refuses its settings: {error}"))
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
