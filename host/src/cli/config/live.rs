//! A running host takes the settings of its policy from the file as it is now. What only a start
//! changes is said, and left alone.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Result;

use super::file::ConfigFile;
use super::{Effective, logged};
use crate::runtime::Host;
use crate::runtime::watch::FileWatch;

impl Effective {
    /// Follows the file, if there is one, until what is returned is dropped.
    pub(in crate::cli) fn watch(self: &Arc<Self>, host: &Arc<Host>) -> Option<FileWatch> {
        let file = self.file.as_ref()?;
        let mut follower = Follower {
            path: file.path.clone(),
            running: Arc::clone(self),
            settings: self.settings(),
            host: Arc::clone(host),
        };
        let watch = FileWatch::start(&file.path, &file.bytes, move |bytes| follower.take(bytes));
        let because = |error| {
            tracing::warn!(%error, "can't follow the file: its changes wait for a restart");
        };
        watch.map_err(because).ok()
    }

    /// The same command line over another content of the file.
    fn with_file(&self, bytes: Vec<u8>) -> Result<Self> {
        let file = self.path().map(|path| ConfigFile::parse(path, bytes)).transpose()?;
        let new = Self::new(self.given.clone(), file)?;
        // A greater limit waits for a restart.
        new.check_settings(self.args.limits().settings_bytes)?;
        Ok(new)
    }
}

struct Follower {
    path: PathBuf,
    /// As the host was started.
    running: Arc<Effective>,
    /// As the policy has them.
    settings: BTreeMap<String, String>,
    host: Arc<Host>,
}

impl Follower {
    fn take(&mut self, bytes: Vec<u8>) {
        let file = self.path.display();
        let new = match self.running.with_file(bytes) {
            Ok(new) => new,
            Err(error) => {
                let error = logged(&error);
                tracing::warn!(%file, error, "the file is refused, and what it said before holds");
                return;
            }
        };
        let settings = new.settings();
        let changed = differing(&self.settings, &settings);
        if !changed.is_empty() {
            match self.host.set_settings(settings.clone()) {
                Ok(()) => {
                    tracing::info!(%file, changed, "settings changed, from the policy's next tick on");
                    self.settings = settings;
                }
                Err(error) => {
                    let error = new.at_their_lines(&error.to_string());
                    tracing::warn!(
                        %file, error,
                        "the new settings are refused, and those before hold"
                    );
                }
            }
        }
        let later = differing(&self.running.fixed(), &new.fixed());
        if !later.is_empty() {
            tracing::warn!(%file, "takes effect after a restart: {later}");
        }
    }
}

/// The names that do not have the same value in both, separated by commas.
fn differing<V: PartialEq>(a: &BTreeMap<String, V>, b: &BTreeMap<String, V>) -> String {
    let mut names: Vec<_> =
        a.keys().chain(b.keys()).filter(|name| a.get(*name) != b.get(*name)).collect();
    names.sort();
    names.dedup();
    names.into_iter().map(String::as_str).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::super::tests::config;
    use super::*;

    #[test]
    fn the_command_line_beats_a_new_file_too() {
        let running = config("--set window=2", Some("[policy.settings]\nwindow = 3")).unwrap();
        let new = running.with_file(b"[policy.settings]\nwindow = 4\nx = 1".to_vec()).unwrap();
        assert_eq!(new.settings()["window"], "2");
        assert_eq!(differing(&running.settings(), &new.settings()), "x");
        assert_eq!(differing(&running.fixed(), &new.fixed()), "");
    }

    #[test]
    fn new_settings_keep_to_the_limit_that_the_host_was_started_with() {
        let running = config("", Some("[limits]\nsettings = 5")).unwrap();
        let new = "[limits]\nsettings = 500\n[policy.settings]\nkey = \"value\"";
        let error = running.with_file(new.into()).unwrap_err().to_string();
        assert!(error.contains("8 bytes") && error.contains("may have 5"), "{error}");
    }

    #[test]
    fn what_is_new_gone_or_another_differs() {
        let map = |pairs: &[(&str, u8)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), *v)).collect();
        let a = map(&[("same", 1), ("other", 1), ("gone", 1)]);
        assert_eq!(
            differing(&a, &map(&[("same", 1), ("other", 2), ("new", 1)])),
            "gone, new, other"
        );
        assert_eq!(differing(&a, &a), "");
    }
}
