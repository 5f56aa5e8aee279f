//! The way back from a record store that has lost some of what it held.
//!
//! Where journals alone are damaged, the batches that can't be read are left out. Where more is, a
//! new record store is made of the segments, and of what the old one can still say. The damaged
//! files are in `quarantine/` before anything is changed.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use fjall::PersistMode;

use super::clean_stop::{Mark, Progress};
use super::folder::{Access, Folder, free_name};
use super::inspect::{Findings, inspect};
use super::record::{Stored, Version};
use super::store::{LOST_RECORDS, POSITION, Pending, Position, Store, Writer};
use super::{Engine, EngineError, EngineOptions, journal};
use crate::Hash;
use crate::disk::RealDisk;

/// What became of a damaged record store, a sentence each. Empty for a sound one.
#[derive(Debug, Clone, Default)]
pub struct StoreRepair {
    /// What was found, and done.
    pub done: Vec<String>,
    /// What is gone, or may be, and no peer is known to have.
    pub lost: Vec<String>,
}

/// What a damaged record store can still say.
#[derive(Debug, Default)]
struct Salvaged {
    position: Option<Position>,
    /// Local writes that are in no segment.
    pending: Vec<(Vec<u8>, Version<Vec<u8>>, Pending)>,
    retired: HashSet<Hash>,
    /// Segments that this node made.
    own: HashSet<Hash>,
    /// Segments that were registered.
    segments: Option<HashSet<Hash>>,
    /// Segments that a repair gave up, as the store has them.
    lost: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Salvaged {
    /// Registered segments without an intact file.
    fn gone(&self, folder: &Folder) -> Vec<Hash> {
        let known = self.segments.iter().flatten();
        known.filter(|hash| !folder.is_intact(hash).unwrap_or(false)).copied().collect()
    }
}

impl Engine {
    /// Opens a database that may have lost some of what was acknowledged, and accepts the loss: see
    /// [`EngineError::Damaged`]. Also returns what was done.
    ///
    /// # Errors
    /// As [`Engine::open_with`], but for damage.
    pub fn open_to_repair(
        path: impl AsRef<Path>,
        options: EngineOptions,
    ) -> Result<(Self, StoreRepair), EngineError> {
        let path = path.as_ref();
        let mut report = StoreRepair::default();
        let damage = match Self::open_with(path, options.clone()) {
            Ok(engine) => return Ok((engine, report)),
            Err(error) if error.is_damage() => error,
            Err(error) => return Err(error),
        };
        let folder = Folder::open_damaged(path, RealDisk::shared())?;
        let records = folder.records();
        let found = match records.is_dir() {
            true => inspect(&records, options.sync_writes)?.err(),
            false => Some(Findings { store: true, ..Findings::default() }),
        };
        report.done.push(match &damage {
            EngineError::Damaged { what, .. } => format!("the database was damaged: {what}"),
            other => format!("the database was damaged: {other}"),
        });
        let mark = Mark::read(&records).ok().flatten();
        let journals_only = found.as_ref().is_none_or(|found| !found.store);
        if journals_only {
            let journals = found.map(|found| found.journals).unwrap_or_default();
            keep_journals(&folder, &journals, &mut report.done)?;
        }
        drop(folder);
        if journals_only {
            let disk = RealDisk::shared();
            match Self::open_for(path, options.clone(), disk, Access::Repair) {
                Ok(engine) => {
                    engine.forget_marks()?;
                    engine.say_what_is_lost(mark.map(|mark| mark.progress), &mut report);
                    return Ok((engine, report));
                }
                Err(error) if error.is_damage() => {}
                Err(error) => return Err(error),
            }
        }
        // A table may be damaged, and the rest can be read.
        let salvaged = match journals_only {
            true => Store::open(&records, options.cache_bytes, false)
                .and_then(|store| Ok(salvage(&store, &store.load_writer()?, &mut report)))
                .unwrap_or_default(),
            false => Salvaged::default(),
        };
        let progress = mark.map(|mark| mark.progress);
        let engine = Self::make_anew(path, options, salvaged, progress, &mut report)?;
        Ok((engine, report))
    }

    /// Makes a new record store of the segments, and of what this one can still say: for one whose
    /// tables can't be read. Also returns what was done.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn rebuild(self) -> Result<(Self, StoreRepair), EngineError> {
        let (path, options) = (self.path().to_owned(), self.options.clone());
        let mut report = StoreRepair::default();
        let (salvaged, progress) = {
            let writer = self.writer();
            (salvage(&self.store, &writer, &mut report), self.stop_progress(&writer))
        };
        self.poison();
        drop(self);
        let engine = Self::make_anew(&path, options, salvaged, Some(progress), &mut report)?;
        Ok((engine, report))
    }

    /// Forgets the segments that repairs gave up: nobody is to bring them back any more. Returns how
    /// many of them had the only copy of their records.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn accept_loss(&self) -> Result<usize, EngineError> {
        let accepted = self.store.lost_records()?.len();
        let _writer = self.writer();
        let mut batch = self.store.batch(PersistMode::SyncAll);
        for (hash, _) in self.store.load_lost()? {
            batch.remove(&self.store.lost, hash.as_slice());
        }
        self.store.commit(batch)?;
        Ok(accepted)
    }

    /// Nothing more is written, and no mark is left.
    fn poison(&self) {
        self.store.poisoned.store(true, std::sync::atomic::Ordering::Relaxed);
    }

    fn make_anew(
        path: &Path,
        options: EngineOptions,
        salvaged: Salvaged,
        progress: Option<Progress>,
        report: &mut StoreRepair,
    ) -> Result<Self, EngineError> {
        let folder = Folder::open_damaged(path, RealDisk::shared())?;
        let gone = salvaged.gone(&folder);
        // What a retired segment held is in others, as long as all of these are here.
        let retired_are_covered = gone.is_empty() && salvaged.lost.is_empty();
        let records = folder.records();
        let half = path.join("records.new");
        if half.exists() {
            fs::remove_dir_all(&half).map_err(EngineError::io("remove", &half))?;
        }
        {
            let store = Store::open(&half, options.cache_bytes, false)?;
            let mut position = salvaged.position.unwrap_or_default();
            if let Some(progress) = progress {
                position.lsn = position.lsn.max(progress.lsn);
                position.next_id = position.next_id.max(progress.next_id);
                position.stamp = position.stamp.max(progress.stamp);
            }
            position.flush_id = position.take_id();
            let mut batch = store.batch(PersistMode::SyncAll);
            for (key, version, pending) in &salvaged.pending {
                let stored = Stored { owner: position.flush_id, version: version.as_ref() };
                batch.insert(&store.records, key.as_slice(), stored.encode());
                batch.insert(&store.pending, key.as_slice(), pending.encode());
            }
            for hash in salvaged.retired.iter().filter(|_| retired_are_covered) {
                batch.insert(&store.retired, *hash.as_bytes(), now().to_le_bytes());
            }
            for (hash, value) in &salvaged.lost {
                batch.insert(&store.lost, hash.as_slice(), value.as_slice());
            }
            for hash in &gone {
                let value = [&now().to_le_bytes()[..], &[LOST_RECORDS]].concat();
                batch.insert(&store.lost, *hash.as_bytes(), value);
            }
            batch.insert(&store.state, POSITION, position.encode());
            store.commit(batch)?;
        }
        if records.exists() {
            let kept = keep(&folder)?;
            fs::rename(&records, &kept).map_err(EngineError::io("move to quarantine", &records))?;
            let dir = folder.quarantine();
            folder.disk().sync_dir(&dir).map_err(EngineError::io("sync", &dir))?;
            report.done.push(format!("the old record store is kept in {}", kept.display()));
        }
        fs::rename(&half, &records).map_err(EngineError::io("rename", &half))?;
        folder.disk().sync_dir(path).map_err(EngineError::io("sync", path))?;
        drop(folder);

        let engine = Self::open_for(path, options, RealDisk::shared(), Access::Repair)?;
        engine.set_own(&salvaged.own)?;
        let segments = engine.index().all().len();
        report.done.push(format!(
            "a new record store was made of {segments} segments and {} local writes that were in \
             none",
            salvaged.pending.len()
        ));
        if !gone.is_empty() {
            report.done.push(format!(
                "{} segments are lost; they are pulled again from peers that have them, and so is \
                 what was merged into them",
                gone.len()
            ));
        }
        if salvaged.position.is_none() {
            engine.say_what_is_lost(progress, report);
        }
        Ok(engine)
    }

    fn say_what_is_lost(&self, before: Option<Progress>, report: &mut StoreRepair) {
        let now = self.stop_progress(&self.writer());
        let Some(before) = before else {
            let what = "local writes that were in no segment may be lost: how many is not known";
            report.lost.push(what.to_owned());
            return;
        };
        if now.lsn < before.lsn {
            report.lost.push(format!(
                "local writes with the numbers {} to {} are lost, but for those in segments",
                now.lsn + 1,
                before.lsn
            ));
        }
        if now.pending < before.pending {
            report.lost.push(format!(
                "of {} local writes that were in no segment, {} are left",
                before.pending, now.pending
            ));
        }
        if now.segments < before.segments {
            report.done.push(format!(
                "of {} segments, {} are left; what peers have of the others is pulled again",
                before.segments, now.segments
            ));
        }
    }

    /// This node made these segments, and may merge them.
    fn set_own(&self, own: &HashSet<Hash>) -> Result<(), EngineError> {
        let mut batch = self.store.batch(PersistMode::SyncAll);
        let mut changed = HashMap::new();
        for segment in self.index().all() {
            if own.contains(&segment.meta.hash) && !segment.own {
                let segment = super::Registration { own: true, ..segment.clone() };
                let (key, value) = segment.encode();
                batch.insert(&self.store.segments, key, value);
                changed.insert(segment.meta.hash, segment);
            }
        }
        if changed.is_empty() {
            return Ok(());
        }
        self.store.commit(batch)?;
        let mut index = self.index_mut();
        index.remove(&changed.keys().copied().collect());
        changed.into_values().for_each(|segment| index.insert(segment));
        Ok(())
    }
}

/// What can be read of an open record store.
fn salvage(store: &Store, writer: &Writer, report: &mut StoreRepair) -> Salvaged {
    let mut salvaged = Salvaged {
        position: Some(writer.position),
        retired: store.load_retired().unwrap_or_default(),
        lost: store.load_lost().unwrap_or_default(),
        ..Salvaged::default()
    };
    if let Ok(segments) = store.load_segments() {
        let own = segments.iter().filter(|segment| segment.own);
        salvaged.own = own.map(|segment| segment.meta.hash).collect();
        salvaged.segments = Some(segments.iter().map(|segment| segment.meta.hash).collect());
    }
    let mut lost = 0;
    for (key, &pending) in &writer.pending {
        let version = store.version(key, |there| there.map(|there| there.version.to_owned()));
        match version {
            Ok(Some(version)) => salvaged.pending.push((key.clone(), version, pending)),
            _ => lost += 1,
        }
    }
    if lost > 0 {
        report.lost.push(format!("{lost} local writes that were in no segment are lost"));
    }
    salvaged
}

/// Unix nanoseconds.
fn now() -> i64 {
    super::WallClock::default().now()
}

/// A free name for a record store in `quarantine/`, which is made.
fn keep(folder: &Folder) -> Result<PathBuf, EngineError> {
    let dir = folder.quarantine();
    folder.disk().make_dir(&dir).map_err(EngineError::io("make", &dir))?;
    Ok(free_name(&dir, "records"))
}

/// Copies damaged journals, and the mark, to `quarantine/`, and leaves out what can't be read.
fn keep_journals(
    folder: &Folder,
    journals: &[PathBuf],
    done: &mut Vec<String>,
) -> Result<(), EngineError> {
    if journals.is_empty() {
        return Ok(());
    }
    let kept = keep(folder)?;
    let copy = || -> io::Result<()> {
        fs::create_dir(&kept)?;
        for journal in journals {
            let to = kept.join(journal.file_name().unwrap_or_default());
            fs::copy(journal, &to)?;
            File::open(&to)?.sync_all()?;
        }
        File::open(&kept)?.sync_all()?;
        File::open(folder.quarantine())?.sync_all()?;
        File::open(folder.path())?.sync_all()
    };
    copy().map_err(EngineError::io("keep the damaged journals in", &kept))?;
    done.push(format!("the damaged journals are kept in {}", kept.display()));
    for path in journals {
        let salvage = || -> io::Result<(u64, u64)> {
            let (mut left, len) = (0, journal::end(path, 0)?);
            let dir = path.parent().unwrap_or(path);
            let mut file = tempfile::NamedTempFile::new_in(dir)?;
            for range in journal::salvage(path)? {
                left += range.end - range.start;
                file.write_all(&journal::read(path, range)?)?;
            }
            file.as_file().sync_all()?;
            file.persist(path)?;
            File::open(dir)?.sync_all()?;
            Ok((left, len))
        };
        let (left, len) = salvage().map_err(EngineError::io("repair", path))?;
        let name = path.file_name().unwrap_or_default().display();
        done.push(format!("of the {len} bytes of the journal {name}, {left} could be read"));
    }
    folder.forget_clean_stop()
}
