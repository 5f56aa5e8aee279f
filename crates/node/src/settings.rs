//! What the user tells the policy, and may change while it runs.

use std::sync::{Arc, PoisonError, RwLock};

use edgestore_policy_host::{RehearsalError, SettingsTooLarge};

/// Why settings were not taken. Those before them stay.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// They are larger than the limit `settings`.
    #[error(transparent)]
    TooLarge(#[from] SettingsTooLarge),
    /// The policy fails with them in a dry run, and not without them.
    #[error("the policy {policy} refuses its settings: {source}")]
    Refused {
        /// Name and version of the policy.
        policy: String,
        /// What the policy said.
        source: RehearsalError,
    },
    /// There was no dry run.
    #[error("the settings can't be tried: {0}; check the disk of the database")]
    Untried(#[source] RehearsalError),
}

/// Keys and values for the policy, which alone knows what they mean. Clones share them: whoever
/// sets them sets them for all.
#[derive(Debug, Clone, Default)]
pub(super) struct Settings(Arc<RwLock<Vec<(String, String)>>>);

impl Settings {
    /// As they are now, each key once.
    pub(super) fn get(&self) -> Vec<(String, String)> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Replaces all of them. Of a key that comes twice the later value holds.
    pub(super) fn set(&self, settings: impl IntoIterator<Item = (String, String)>) {
        let mut new: Vec<(String, String)> = Vec::new();
        for (key, value) in settings {
            new.retain(|(other, _)| *other != key);
            new.push((key, value));
        }
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = new;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn the_later_value_of_a_key_holds() {
        let settings = Settings::default();
        settings.set(pairs(&[("a", "1"), ("b", "2"), ("a", "3")]));
        assert_eq!(settings.get(), pairs(&[("b", "2"), ("a", "3")]));
    }

    #[test]
    fn whoever_sets_them_sets_them_for_all() {
        let settings = Settings::default();
        let shared = settings.clone();
        settings.set(pairs(&[("a", "1")]));
        let before = shared.get();
        settings.set(pairs(&[("b", "2")]));
        assert_eq!((before, shared.get()), (pairs(&[("a", "1")]), pairs(&[("b", "2")])));
    }
}
