//! The components that a database knows, and which of them runs.
//!
//! ```text
//! {db}/policies/{hash}.wasm    a component, by its BLAKE3
//! {db}/policies/state.json     which one runs, and which are known to be good
//! {db}/policies/cache/         compiled code; may be removed at any time
//! ```
//!
//! The policy that is built into the host has no file, and is always good. Every file is written
//! under another name first and synced, so that after a crash the state names files that are whole.

use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use edgestore_engine::Hash;
use edgestore_engine::disk::{Disk, replace};
use edgestore_policy_host::TRIAL_FOLDER;
use serde::{Deserialize, Serialize};

/// Good policies that are kept, beside the built-in one.
const KEPT: usize = 8;

const TEMPORARY: &str = ".new-";

/// One of the policies that a database may run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub(super) enum Choice {
    /// The one that is built into the host, whichever that is.
    Embedded,
    Stored(Hash),
}

impl From<Choice> for String {
    fn from(choice: Choice) -> Self {
        match choice {
            Choice::Embedded => "embedded".to_owned(),
            Choice::Stored(hash) => hash.to_string(),
        }
    }
}

impl TryFrom<String> for Choice {
    type Error = edgestore_engine::ParseHashError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        match text.as_str() {
            "embedded" => Ok(Self::Embedded),
            hash => hash.parse().map(Self::Stored),
        }
    }
}

/// What survives a restart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Saved {
    pub(super) active: Choice,
    /// Those that are good, the last one last. The built-in one is, whether or not it stands here.
    pub(super) good: Vec<Choice>,
    /// What `--plugin` named when it was last looked at; none without one.
    pub(super) plugin: Option<Choice>,
}

impl Default for Saved {
    fn default() -> Self {
        let (active, good) = (Choice::Embedded, vec![Choice::Embedded]);
        Self { active, good, plugin: None }
    }
}

impl Saved {
    pub(super) fn is_good(&self, choice: Choice) -> bool {
        choice == Choice::Embedded || self.good.contains(&choice)
    }

    /// Where a rollback goes, the nearest first. Never empty, unless the built-in one is active.
    pub(super) fn fallbacks(&self) -> Vec<Choice> {
        let mut all = self.good.clone();
        if !all.contains(&Choice::Embedded) {
            all.insert(0, Choice::Embedded);
        }
        all.retain(|choice| *choice != self.active);
        all.reverse();
        all
    }

    pub(super) fn proven(&mut self, choice: Choice) {
        self.good.retain(|other| *other != choice);
        self.good.push(choice);
        self.good.drain(..self.good.len().saturating_sub(KEPT));
    }

    /// `to` takes the place of the active one, which is good no more.
    pub(super) fn roll_back(&mut self, to: Choice) {
        let from = std::mem::replace(&mut self.active, to);
        self.good.retain(|other| *other != from);
    }

    /// Whether the file of a component is of any use still.
    fn needs(&self, hash: &Hash) -> bool {
        let choice = Choice::Stored(*hash);
        self.active == choice || self.good.contains(&choice)
    }
}

/// The files.
#[derive(Debug)]
pub(super) struct PolicyStore {
    dir: PathBuf,
    disk: Arc<dyn Disk>,
}

impl PolicyStore {
    /// Makes the folder if it is missing, and clears it of what a crash left.
    pub(super) fn open(dir: PathBuf, disk: Arc<dyn Disk>) -> io::Result<Self> {
        disk.make_dir(&dir)?;
        if let Some(db) = dir.parent() {
            disk.sync_dir(db)?;
        }
        for name in disk.list(&dir)? {
            if name.to_string_lossy().starts_with(TEMPORARY) {
                disk.remove(&dir.join(name))?;
            } else if name.to_string_lossy().starts_with(TRIAL_FOLDER) {
                // No more than room is lost where it stays.
                let _ = std::fs::remove_dir_all(dir.join(name));
            }
        }
        Ok(Self { dir, disk })
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// What was saved last. A state that can't be understood is as none: then the built-in policy
    /// runs, which is safe.
    pub(super) fn saved(&self) -> io::Result<Saved> {
        let path = self.dir.join("state.json");
        let mut bytes = Vec::new();
        match self.disk.open(&path) {
            Ok(file) => file.take(1 << 20).read_to_end(&mut bytes)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Saved::default()),
            Err(error) => return Err(error),
        };
        Ok(serde_json::from_slice(&bytes).unwrap_or_else(|error| {
            let file = path.display();
            tracing::warn!(%error, %file, "can't tell which policy ran; the built-in one does now");
            Saved::default()
        }))
    }

    /// Replaces the state. It is on disk when this returns. Then components that it has no use for
    /// are removed.
    pub(super) fn save(&self, saved: &Saved) -> io::Result<()> {
        self.write("state.json", &serde_json::to_vec_pretty(saved)?)?;
        for name in self.disk.list(&self.dir)? {
            let stem = name.to_str().and_then(|name| name.strip_suffix(".wasm"));
            if let Some(hash) = stem.and_then(|stem| stem.parse::<Hash>().ok())
                && !saved.needs(&hash)
            {
                self.disk.remove(&self.dir.join(name))?;
            }
        }
        Ok(())
    }

    /// Keeps a component.
    pub(super) fn keep(&self, component: &[u8]) -> io::Result<()> {
        let hash = Hash::of(component);
        match self.component(&hash) {
            Ok(_) => Ok(()),
            Err(_) => self.write(&format!("{hash}.wasm"), component),
        }
    }

    /// A component that was kept.
    ///
    /// # Errors
    /// Also when the bytes are not those that were kept.
    pub(super) fn component(&self, hash: &Hash) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.disk.open(&self.dir.join(format!("{hash}.wasm")))?.read_to_end(&mut bytes)?;
        if Hash::of(&bytes) != *hash {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it has changed on disk"));
        }
        Ok(bytes)
    }

    fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        replace(&self.disk, &self.dir.join(name), TEMPORARY, &[bytes])
    }
}

#[cfg(test)]
mod tests {
    use edgestore_engine::disk::{Fault, FaultyDisk, test_folder};

    use super::*;

    fn stored(n: u8) -> Choice {
        Choice::Stored(Hash::of(&[n]))
    }

    #[test]
    fn a_rollback_goes_to_the_last_good_one_and_at_last_to_the_built_in_one() {
        let mut saved = Saved { active: stored(1), ..Saved::default() };
        saved.proven(stored(1));
        saved.active = stored(2);
        assert_eq!(saved.fallbacks(), [stored(1), Choice::Embedded]);
        saved.roll_back(stored(1));
        assert_eq!(saved.active, stored(1));
        assert_eq!(saved.fallbacks(), [Choice::Embedded]);
        saved.roll_back(Choice::Embedded);
        assert!(saved.fallbacks().is_empty());
        assert!(!saved.is_good(stored(1)) && saved.is_good(Choice::Embedded));
        // However many follow, the built-in one stays within reach.
        for n in 0..50 {
            saved.active = stored(n);
            saved.proven(stored(n));
        }
        assert_eq!(saved.fallbacks().last(), Some(&Choice::Embedded));
        assert!(saved.good.len() <= KEPT);
    }

    #[test]
    fn whenever_power_is_lost_the_state_names_components_that_are_whole() {
        for n in 0.. {
            let dir = test_folder();
            let db = dir.path().join("root/db");
            std::fs::create_dir_all(&db).unwrap();
            let disk = FaultyDisk::new(&dir.path().join("root"));
            disk.plan(n, Fault::PowerLoss);
            let mut acknowledged = Saved::default();
            let mut attempted = Saved::default();
            let mut ended = false;
            if let Ok(store) = PolicyStore::open(db.join("policies"), disk.shared()) {
                ended = (0..4).all(|n| {
                    let component = vec![n; 5000];
                    let choice = Choice::Stored(Hash::of(&component));
                    let mut saved = acknowledged.clone();
                    saved.active = choice;
                    if n % 2 == 0 {
                        saved.proven(choice);
                    }
                    attempted = saved.clone();
                    let done = store.keep(&component).and_then(|()| store.save(&saved)).is_ok();
                    if done {
                        acknowledged = saved;
                    }
                    done
                });
            }
            for seed in 0..4 {
                let to = dir.path().join(format!("crashed-{seed}"));
                disk.crash(seed, &to);
                let after = PolicyStore::open(
                    to.join("db/policies"),
                    edgestore_engine::disk::RealDisk::shared(),
                )
                .unwrap();
                let saved = after.saved().unwrap();
                assert!(saved == acknowledged || saved == attempted, "operation {n}: {saved:?}");
                for choice in saved.good.iter().chain([&saved.active]) {
                    if let Choice::Stored(hash) = choice {
                        after.component(hash).unwrap();
                    }
                }
            }
            if ended {
                assert!(n > 10, "the disk never failed");
                break;
            }
        }
    }

    #[test]
    fn a_state_that_nobody_understands_is_as_none() {
        let dir = tempfile::tempdir().unwrap();
        let store =
            PolicyStore::open(dir.path().join("p"), edgestore_engine::disk::RealDisk::shared())
                .unwrap();
        std::fs::write(dir.path().join("p/state.json"), b"{\"active\": 7}").unwrap();
        assert_eq!(store.saved().unwrap(), Saved::default());
    }
}
