//! Which state of the database a note beside it speaks of.
//!
//! A cursor says what was pulled into this database, so it is true of this database alone, and only
//! until a segment is lost. A [`Mark`] binds a cursor to a state of the database: the epoch in which
//! it was stored, and the next segment id at that time. [`Lineage`] is the list of epochs that led to
//! the present state. It is kept in the record store, so it goes back with the records when a backup
//! is restored.
//!
//! - Each session that registers a segment begins an epoch with a random id.
//! - A segment that is missing, set aside or given up ends the list, and a new one begins.
//!
//! A mark holds when its epoch is in the list and the epoch went on at least as far as the mark. So a
//! mark does not hold after a segment was lost, after older records were restored, or in another
//! database.

use fjall::{OwnedWriteBatch, PersistMode};

use super::{Engine, EngineError};

/// Key of the lineage among the state.
pub(super) const LINEAGE: &[u8] = b"lineage";

/// Older epochs are forgotten: a cursor that nobody stored for so long costs a manifest.
const MAX_EPOCHS: usize = 256;

/// A state of a database, to be kept beside what was noted about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// Random id of the epoch.
    pub epoch: u64,
    /// No segment that was registered before the mark had this id, nor a higher one.
    pub next_id: u64,
}

/// The epochs that led to the present state.
#[derive(Debug)]
pub(super) struct Lineage {
    epochs: Vec<Mark>,
    /// Whether the last epoch was begun in this session.
    current: bool,
    random: fastrand::Rng,
}

impl Lineage {
    /// Reads what the record store holds; anything else than a lineage is none.
    pub(super) fn decode(bytes: Option<&[u8]>, seed: Option<u64>) -> Self {
        let (pairs, rest) = bytes.unwrap_or_default().as_chunks::<16>();
        let epochs = pairs.iter().map(|pair| {
            let (epoch, next_id) = pair.split_at(8);
            let number = |bytes: &[u8]| bytes.try_into().map_or(0, u64::from_le_bytes);
            Mark { epoch: number(epoch), next_id: number(next_id) }
        });
        let epochs = if rest.is_empty() { epochs.collect() } else { Vec::new() };
        let random = seed.map_or_else(fastrand::Rng::new, fastrand::Rng::with_seed);
        Self { epochs, current: false, random }
    }

    /// `epoch: u64, next_id: u64` of each epoch at its begin, little-endian, oldest first.
    fn encode(&self) -> Vec<u8> {
        let pair = |mark: &Mark| [mark.epoch.to_le_bytes(), mark.next_id.to_le_bytes()];
        self.epochs.iter().flat_map(pair).flatten().collect()
    }

    /// No mark from before holds any more.
    pub(super) fn end(&mut self) {
        self.epochs.clear();
        self.current = false;
    }

    /// Begins an epoch unless this session has one. Returns whether there is something to write.
    fn begin(&mut self, next_id: u64) -> bool {
        if self.current {
            return false;
        }
        let excess = (self.epochs.len() + 1).saturating_sub(MAX_EPOCHS);
        self.epochs.drain(..excess);
        self.epochs.push(Mark { epoch: self.random.u64(..), next_id });
        self.current = true;
        true
    }

    fn holds(&self, mark: &Mark, next_id: u64) -> bool {
        let Some(at) = self.epochs.iter().rposition(|epoch| epoch.epoch == mark.epoch) else {
            return false;
        };
        let end = self.epochs.get(at + 1).map_or(next_id, |next| next.next_id);
        mark.next_id <= end
    }
}

impl Engine {
    /// The present state, to which a note about it can be bound. What this engine knew before the
    /// call is part of it.
    ///
    /// # Errors
    /// When the epoch can't be stored.
    pub fn mark(&self) -> Result<Mark, EngineError> {
        if !self.lineage().current {
            let _writer = self.writer();
            let mut batch = self.store.batch(PersistMode::SyncAll);
            self.begin_epoch(&mut batch);
            self.store.commit(batch)?;
        }
        let next_id = self.progress().next_id;
        let lineage = self.lineage();
        let epoch = lineage.epochs.last().map_or(0, |last| last.epoch);
        Ok(Mark { epoch, next_id })
    }

    /// Whether all that this database knew at the mark is still known.
    pub fn holds(&self, mark: &Mark) -> bool {
        let next_id = self.progress().next_id;
        self.lineage().holds(mark, next_id)
    }

    /// Ends the lineage for good: nobody knows what the database has lost.
    pub(super) fn forget_marks(&self) -> Result<(), EngineError> {
        let _writer = self.writer();
        let mut batch = self.store.batch(PersistMode::SyncAll);
        self.end_epochs(&mut batch);
        self.store.commit(batch)
    }

    /// Adds to a batch that this session has an epoch, where it has none yet. To be called by the
    /// writer, before it registers a segment. When the batch fails, marks of the epoch hold in this
    /// session alone.
    pub(super) fn begin_epoch(&self, batch: &mut OwnedWriteBatch) {
        let next_id = self.progress().next_id;
        let mut lineage = self.lineage();
        if lineage.begin(next_id) {
            batch.insert(&self.store.state, LINEAGE, lineage.encode());
        }
    }

    /// Adds to a batch that segments are lost: no mark from before holds any more.
    pub(super) fn end_epochs(&self, batch: &mut OwnedWriteBatch) {
        self.lineage().end();
        self.begin_epoch(batch);
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::Engine;

    fn open(dir: &Path) -> Engine {
        Engine::open(dir).unwrap()
    }

    fn flush(engine: &Engine, key: &[u8]) {
        engine.put(b"ns", key, b"value").unwrap();
        engine.flush().unwrap();
    }

    #[test]
    fn lineage_holds_marks_across_restarts_and_writes() {
        let dir = tempfile::tempdir().unwrap();
        let mut marks = Vec::new();
        for session in 0..4_u8 {
            let engine = open(dir.path());
            assert!(marks.iter().all(|mark| engine.holds(mark)), "session {session}");
            marks.push(engine.mark().unwrap());
            flush(&engine, &[session]);
            marks.push(engine.mark().unwrap());
        }
        let engine = open(dir.path());
        assert!(marks.iter().all(|mark| engine.holds(mark)));
        assert!(!engine.holds(&Mark { epoch: 1, next_id: 0 }));
    }

    #[test]
    fn lineage_of_a_restored_database_holds_no_mark_of_what_it_lost() {
        let (dir, backup) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let engine = open(dir.path());
        flush(&engine, b"before");
        let before = engine.mark().unwrap();
        drop(engine);
        copy(dir.path(), backup.path());
        let engine = open(dir.path());
        flush(&engine, b"after");
        let after = engine.mark().unwrap();
        drop(engine);
        // It goes on from the backup, in several sessions, and gets further than the mark.
        for key in 0..3_u8 {
            let restored = open(backup.path());
            assert!(restored.holds(&before) && !restored.holds(&after));
            flush(&restored, &[key]);
            assert!(restored.holds(&before) && !restored.holds(&after));
        }
        // A backup of a session that went on: the epoch is known, and it did not get that far.
        let epochs = vec![Mark { epoch: 7, next_id: 1 }, Mark { epoch: 8, next_id: 5 }];
        let lineage = Lineage { epochs, current: true, random: fastrand::Rng::new() };
        assert!(lineage.holds(&Mark { epoch: 7, next_id: 5 }, 9));
        assert!(!lineage.holds(&Mark { epoch: 7, next_id: 6 }, 9));
        assert!(!lineage.holds(&Mark { epoch: 8, next_id: 10 }, 9));
    }

    fn copy(from: &Path, to: &Path) {
        for entry in std::fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            let to = to.join(entry.file_name());
            if entry.file_type().unwrap().is_dir() {
                std::fs::create_dir_all(&to).unwrap();
                copy(&entry.path(), &to);
            } else {
                std::fs::copy(entry.path(), to).unwrap();
            }
        }
    }

    #[test]
    fn lineage_ends_when_a_segment_is_missing_damaged_or_set_aside() {
        for damage in ["gone", "flipped"] {
            let dir = tempfile::tempdir().unwrap();
            let engine = open(dir.path());
            flush(&engine, b"a");
            let (mark, segment) = (engine.mark().unwrap(), engine.manifest()[0].hash);
            let file = engine.folder.segment(&segment);
            drop(engine);
            match damage {
                "gone" => std::fs::remove_file(&file).unwrap(),
                _ => {
                    let mut bytes = std::fs::read(&file).unwrap();
                    bytes[20] ^= 1;
                    std::fs::write(&file, bytes).unwrap();
                }
            }
            let engine = open(dir.path());
            engine.verify(true, |_, _| {}).unwrap();
            assert!(!engine.holds(&mark), "{damage}");
            let repaired = engine.mark().unwrap();
            assert!(engine.holds(&repaired));
            drop(engine);
            let engine = open(dir.path());
            assert!(!engine.holds(&mark) && engine.holds(&repaired), "{damage}");
        }
    }
}
