//! What each segment owns, counted in one pass over the records.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use fjall::{OwnedWriteBatch, Readable as _};

use super::{Halt, Pace};
use crate::engine::index::Registration;
use crate::engine::record::Stored;
use crate::engine::store::Store;
use crate::engine::{Engine, EngineError};

/// Records that one compaction forgets at most, and the bytes that they take in memory; the rest is
/// for the next one.
const MAX_PAST: usize = 100_000;
const MAX_PAST_BYTES: usize = 16 << 20;

/// The records as they were at one instant, by their owners.
pub(super) struct Census {
    pub(super) snapshot: fjall::Snapshot,
    /// Those that were registered then, and have not been retired since.
    pub(super) segments: Vec<Registration>,
    owned: HashMap<u64, u64>,
    /// Segments that hold what nobody here owns: the file of its owner is gone.
    needed: HashSet<u64>,
    heirs: HashMap<u64, u64>,
    /// What is not on disk yet of `heirs`; none for those that are not needed any more.
    changed_heirs: Vec<(u64, Option<u64>)>,
    /// Segments that own all that wins of what they hold.
    pub(super) untied: HashSet<u64>,
    /// Owner of what waits for the next flush.
    pub(super) flush_id: u64,
    /// What may be forgotten: store keys and stored versions.
    pub(super) past: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Census {
    /// How many records a segment owns.
    pub(super) fn owned(&self, id: u64) -> u64 {
        self.owned.get(&id).copied().unwrap_or(0)
    }

    /// The segment of an id, until some are retired.
    pub(super) fn segment(&self, id: u64) -> Option<&Registration> {
        let at = self.segments.binary_search_by_key(&id, |segment| segment.meta.id);
        at.ok().map(|at| &self.segments[at])
    }

    /// Keeps a segment, whatever it owns.
    pub(super) fn keep(&mut self, id: u64) {
        self.needed.insert(id);
    }

    /// Whether a segment may go.
    pub(super) fn is_unneeded(&self, id: u64) -> bool {
        self.owned(id) == 0 && !self.needed.contains(&id)
    }

    /// Who owns a version now.
    pub(super) fn owner(&self, stored: &Stored<&[u8]>) -> u64 {
        resolve(&self.heirs, stored.owner)
    }

    /// Whether all that a segment owned went to another one.
    pub(super) fn is_given(&self, id: u64) -> bool {
        self.heirs.contains_key(&id)
    }

    /// Gives all that one segment owns to another.
    pub(super) fn give(&mut self, from: u64, to: u64) {
        let given = self.owned.remove(&from).unwrap_or(0);
        *self.owned.entry(to).or_default() += given;
        self.heirs.insert(from, to);
        self.changed_heirs.push((from, Some(to)));
    }

    /// Forgets who took over from segments that no record names any more, nor leads through.
    fn forget_heirs(&mut self, named: &HashSet<u64>) {
        let mut needed = HashSet::new();
        for &id in named {
            let mut id = id;
            while let Some(&heir) = self.heirs.get(&id)
                && needed.insert(id)
            {
                id = heir;
            }
        }
        self.heirs.retain(|&id, _| {
            let keep = needed.contains(&id);
            if !keep {
                self.changed_heirs.push((id, None));
            }
            keep
        });
    }

    /// One record less.
    pub(super) fn forget(&mut self, stored: &Stored<&[u8]>) {
        let owner = self.owner(stored);
        if let Some(owned) = self.owned.get_mut(&owner) {
            *owned = owned.saturating_sub(1);
        }
    }

    /// Adds what has changed of the heirs to a batch.
    pub(super) fn write_heirs(&mut self, batch: &mut OwnedWriteBatch, store: &Store) {
        for (from, to) in self.changed_heirs.drain(..) {
            match to {
                Some(to) => batch.insert(&store.heirs, from.to_be_bytes(), to.to_be_bytes()),
                None => batch.remove(&store.heirs, from.to_be_bytes()),
            }
        }
    }
}

/// Follows a segment to the one that has taken over what it owned.
pub(super) fn resolve(heirs: &HashMap<u64, u64>, mut id: u64) -> u64 {
    // There are no circles.
    for _ in 0..heirs.len() {
        match heirs.get(&id) {
            Some(&heir) => id = heir,
            None => break,
        }
    }
    id
}

impl Engine {
    pub(super) fn take_census(&self, pace: &Pace) -> Result<Census, Halt> {
        while self.store.has_many_tables() {
            pace.spend(0)?;
            std::thread::sleep(Duration::from_millis(10));
        }
        let mut writer = self.writer();
        self.drain(&mut writer)?;
        let snapshot = self.store.snapshot();
        let segments = self.index().all().to_vec();
        let flush_id = writer.position.flush_id;
        drop(writer);
        let heirs = self.store.load_heirs()?;
        let mut census = Census {
            snapshot,
            segments,
            owned: HashMap::new(),
            needed: HashSet::new(),
            heirs,
            changed_heirs: Vec::new(),
            untied: HashSet::new(),
            flush_id,
            past: BTreeMap::new(),
        };
        let (mut named, mut past_bytes) = (HashSet::new(), 0);
        let (now, grace) = (self.now(), self.options.tombstone_grace);
        for guard in census.snapshot.iter(&self.store.records) {
            let (key, value) = guard.into_inner()?;
            pace.spend((key.len() + value.len()) as u64)?;
            let stored = Stored::decode(&value).map_err(|_| {
                let why = "a stored record can't be read: run verify --repair";
                EngineError::Corrupt(why.to_owned())
            })?;
            if !self.filter.is_complete() {
                self.filter.insert(&key);
            }
            named.insert(stored.owner);
            let owner = resolve(&census.heirs, stored.owner);
            *census.owned.entry(owner).or_default() += 1;
            let past = owner != flush_id && stored.version.is_past(now, grace);
            if past && census.past.len() < MAX_PAST && past_bytes < MAX_PAST_BYTES {
                past_bytes += key.len() + value.len();
                census.past.insert(key.to_vec(), value.to_vec());
            }
        }
        self.filter.complete();
        census.forget_heirs(&named);
        Ok(census)
    }
}
