//! The way back from a record store that has lost some of what it held.
//!
//! Where journals alone are damaged, the batches that can't be read are left out. Where more is, a
//! new record store is made of the segments, and of what the old one can still say. The damaged
//! files are in `quarantine/` before anything is changed, and what is lost is noted before it goes,
//! so that a repair that is stopped says so when it is run again.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use fjall::PersistMode;
use tempfile::TempDir;

use super::acknowledged::Acknowledged;
use super::clean_stop::{JournalMark, Mark, Progress};
use super::folder::{Access, Folder, free_name};
use super::inspect::{
    Findings, Inspected, VERSION, damaged_tables, inspect, journals, without_lists,
};
use super::record::{Stored, Version};
use super::store::{LOST_RECORDS, POSITION, Pending, Position, Store, Writer};
use super::{Engine, EngineError, EngineOptions, journal, unknown_after_stop, view};
use crate::Hash;
use crate::disk::{RealDisk, is_no_file};

/// What became of a damaged record store, a sentence each. Empty for a sound one.
#[derive(Debug, Clone, Default)]
pub struct StoreRepair {
    /// What was found, and done.
    pub done: Vec<String>,
    /// What is gone, or may be, and no peer is known to have.
    pub lost: Vec<String>,
}

/// Of a record store in the making.
const NEW_STORE: &str = "records.new";

/// Noted while a repair runs.
const UNFINISHED: &str =
    "a repair was stopped before it said what it lost: some local writes may be missing";

impl StoreRepair {
    /// Makes durable what is lost, before it goes.
    fn note(&self, folder: &Folder) -> Result<(), EngineError> {
        let mut lost = folder.unfinished_repair()?.unwrap_or_default();
        for line in self.lost.iter().map(String::as_str).chain([UNFINISHED]) {
            if !lost.iter().any(|noted| noted == line) {
                lost.push(line.to_owned());
            }
        }
        folder.note_repair(&lost)
    }
}

/// What a record store is known to have held.
#[derive(Debug, Clone, Copy)]
struct Before {
    progress: Progress,
    /// Counts of segments and pending writes are known as well.
    whole: bool,
}

impl Before {
    /// Of a closed record store, as far as it says so.
    fn read(records: &Path) -> Option<Self> {
        if let Ok(Some(mark)) = Mark::read(records) {
            return Some(Self { progress: mark.progress, whole: true });
        }
        let Acknowledged { lsn, next_id, .. } = Acknowledged::read(records).ok().flatten()?;
        let progress = Progress { lsn, next_id, ..Progress::default() };
        Some(Self { progress, whole: false })
    }
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
    lost: BTreeMap<Hash, Vec<u8>>,
    /// Some of the above may be missing, and nothing would show it.
    partial: bool,
}

impl Salvaged {
    /// How many files in `segments/` a record store did not know that stopped cleanly.
    fn unknown_files(&self, folder: &Folder, stop: Progress) -> Result<usize, EngineError> {
        let files = folder.segment_files()?.files.into_iter().map(|(hash, _)| hash);
        let files = files.filter(|hash| !self.retired.contains(hash));
        Ok(match &self.segments {
            Some(segments) if !self.partial => {
                files.filter(|hash| !segments.contains(hash)).count()
            }
            // It does not say which it knew, but how many.
            _ => files.count().saturating_sub(usize::try_from(stop.segments).unwrap_or(usize::MAX)),
        })
    }

    /// Registered segments without an intact file.
    fn gone(&self, folder: &Folder) -> Result<Vec<Hash>, EngineError> {
        let mut gone = Vec::new();
        for hash in self.segments.iter().flatten() {
            let intact = match folder.is_intact(hash) {
                Err(EngineError::Io { source, .. }) if is_no_file(&source) => false,
                intact => intact?,
            };
            gone.extend((!intact).then_some(*hash));
        }
        Ok(gone)
    }
}

impl Engine {
    /// Opens a database that may have lost some of what was acknowledged, and accepts the loss: see
    /// [`EngineError::Damaged`]. Also returns what was done. Who has told it calls
    /// [`Engine::end_repair`]; until then nobody else opens the database after damage.
    ///
    /// # Errors
    /// As [`Engine::open_with`], but for damage.
    pub fn open_to_repair(
        path: impl AsRef<Path>,
        options: EngineOptions,
    ) -> Result<(Self, StoreRepair), EngineError> {
        let (engine, mut report) = Self::open_repaired(path.as_ref(), options)?;
        report.lost.extend(engine.losses.iter().cloned());
        Ok((engine, report))
    }

    /// As [`Engine::open_to_repair`], without the losses that starts have noted.
    fn open_repaired(
        path: &Path,
        options: EngineOptions,
    ) -> Result<(Self, StoreRepair), EngineError> {
        let mut report = StoreRepair::default();
        let damage = match Self::open_for(path, options.clone(), RealDisk::shared(), Access::Resume)
        {
            Ok(engine) => {
                report.lost = engine.folder.unfinished_repair()?.unwrap_or_default();
                if !report.lost.is_empty() {
                    report.done.push("a repair that was stopped has been finished".to_owned());
                }
                return Ok((engine, report));
            }
            Err(error) if error.is_damage() => error,
            Err(error) => return Err(error),
        };
        let folder = Folder::open_damaged(path, RealDisk::shared())?;
        let lost_segments = folder.displaced().contains(&folder.segments());
        let moved = folder.clear_places()?;
        if !moved.is_empty() {
            drop(folder);
            let (engine, mut report) = Self::open_repaired(path, options)?;
            if lost_segments {
                report.lost.push(
                    "segments/ was no folder: what was in segments that the record store does not \
                     know is lost, if there were any"
                        .to_owned(),
                );
            }
            let moved = moved
                .iter()
                .map(|to| format!("what was in the place of a folder is kept as {}", to.display()));
            report.done.splice(0..0, moved);
            return Ok((engine, report));
        }
        let records = folder.records();
        let unfinished = folder.unfinished_repair()?;
        let made = path.join(NEW_STORE);
        if unfinished.is_some() && !records.exists() && made.is_dir() {
            // It was through when the old one was moved away.
            fs::rename(&made, &records).map_err(EngineError::io("rename", &made))?;
            folder.disk().sync_dir(path).map_err(EngineError::io("sync", path))?;
            drop(folder);
            return Self::open_repaired(path, options);
        }
        report.lost = unfinished.unwrap_or_default();
        let mut found = match records.is_dir() {
            true => inspect(&records, options.sync_writes)?.err(),
            false => Some(Findings { store: true, ..Findings::default() }),
        };
        if found.is_none() && matches!(damage, EngineError::Damaged { .. }) {
            // What is missing was at the end of one.
            let journals = journals(&records).map_err(EngineError::io("read", &records))?;
            found = Some(Findings { journals, ..Findings::default() });
            report.lost.push(
                "writes that were acknowledged are lost; of those in no segment, it is not known which"
                    .to_owned(),
            );
        }
        report.done.push(match &damage {
            EngineError::Damaged { what, .. } => format!("the database was damaged: {what}"),
            other => format!("the database was damaged: {other}"),
        });
        if let Some(found) = &found {
            say_what_journals_lost(&records, found, &mut report)?;
        }
        let before = Before::read(&records);
        if let Some(findings) = found.take_if(|findings| findings.store && records.is_dir()) {
            found = repair_lists(&folder, findings, &options, &mut report)?;
        }
        let lists_are_damaged = found.take_if(|found| found.store).is_some();
        if !lists_are_damaged {
            let journals = found.map(|found| found.journals).unwrap_or_default();
            keep_journals(&folder, &journals, &mut report)?;
        }
        if !lists_are_damaged {
            report.note(&folder)?;
        }
        drop(folder);
        if !lists_are_damaged {
            let disk = RealDisk::shared();
            match Self::open_for(path, options.clone(), disk, Access::Repair) {
                Ok(engine) => {
                    engine.forget_marks()?;
                    engine.give_up_lost_pending(&mut report)?;
                    let now = engine.stop_progress(&engine.writer());
                    say_what_is_lost(now, before, &mut report);
                    return Ok((engine, report));
                }
                Err(error) if error.is_damage() => {}
                Err(error) => return Err(error),
            }
        }
        // Where a single table is damaged, the rest can be read as it is.
        let closed =
            (!lists_are_damaged).then(|| salvage_closed(&records, &options).ok()).flatten();
        let salvaged = match closed {
            Some(salvaged) => salvaged,
            None if records.is_dir() => salvage_journals(&records, &options, &mut report.done)?,
            None => Salvaged::default(),
        };
        let engine = Self::make_anew(path, options, salvaged, before, &mut report)?;
        Ok((engine, report))
    }

    /// Local writes that were in no segment, and are not in the record store, are lost.
    fn give_up_lost_pending(&self, report: &mut StoreRepair) -> Result<(), EngineError> {
        let mut writer = self.writer();
        let lost = self.store.lost_pending(&writer)?;
        if lost.is_empty() {
            return Ok(());
        }
        report.lost.push(format!(
            "{} local writes that were in no segment are gone from the record store",
            lost.len()
        ));
        let mut batch = self.store.batch(PersistMode::SyncAll);
        for key in &lost {
            batch.remove(&self.store.pending, key.as_slice());
            writer.forget_pending(key);
        }
        self.store.commit(batch)?;
        self.publish(&writer)
    }

    /// A repair has told what it lost.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn end_repair(&self) -> Result<(), EngineError> {
        self.folder.forget_losses()
    }

    /// Makes a new record store of the segments, and of what this one can still say: for one whose
    /// tables can't be read. Also returns what was done, as [`Engine::open_to_repair`].
    ///
    /// # Errors
    /// When the disk fails.
    pub fn rebuild(self) -> Result<(Self, StoreRepair), EngineError> {
        let (path, options) = (self.path().to_owned(), self.options.clone());
        let mut report = StoreRepair::default();
        let (salvaged, before) = {
            let writer = self.writer();
            let before = Before { progress: self.stop_progress(&writer), whole: true };
            (salvage(&self.store, &writer), before)
        };
        self.poison();
        drop(self);
        let engine = Self::make_anew(&path, options, salvaged, Some(before), &mut report)?;
        Ok((engine, report))
    }

    /// Accepts that the segments which repairs gave up are gone, so that they are no [`Engine::lost`]
    /// ones any more. Returns how many had the only copy of their records.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn accept_loss(&self) -> Result<usize, EngineError> {
        let accepted = self.store.lost_records()?.len();
        let _writer = self.writer();
        let mut batch = self.store.batch(PersistMode::SyncAll);
        for (hash, note) in self.store.load_lost()? {
            // Somebody may bring one back all the same, and a compaction has to know.
            batch.insert(&self.store.lost, *hash.as_bytes(), &note[..note.len().min(8)]);
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
        before: Option<Before>,
        report: &mut StoreRepair,
    ) -> Result<Self, EngineError> {
        let folder = Folder::open_damaged(path, RealDisk::shared())?;
        let gone = salvaged.gone(&folder)?;
        // What a retired segment held is in others, as long as all of these are here, and known.
        let all_here = gone.is_empty() && salvaged.lost.is_empty();
        let retired_are_covered = salvaged.segments.is_some() && all_here && !salvaged.partial;
        if let Some(Before { progress, whole: true }) = before {
            let unknown = salvaged.unknown_files(&folder, progress)?;
            report.lost.extend(unknown_after_stop(unknown, progress.lsn));
        }
        let records = folder.records();
        let half = path.join(NEW_STORE);
        if half.exists() {
            fs::remove_dir_all(&half).map_err(EngineError::io("remove", &half))?;
        }
        {
            let store = Store::open(&half, &options, false)?;
            let mut position = salvaged.position.unwrap_or_default();
            if let Some(Before { progress, .. }) = before {
                position.lsn = position.lsn.max(progress.lsn);
                position.next_id = position.next_id.max(progress.next_id);
                position.stamp = position.stamp.max(progress.stamp);
            }
            for (_, version, pending) in &salvaged.pending {
                position.lsn = position.lsn.max(pending.lsn);
                position.stamp = position.stamp.max(version.timestamp);
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
            for (hash, note) in &salvaged.lost {
                batch.insert(&store.lost, *hash.as_bytes(), note.as_slice());
            }
            for hash in &gone {
                let value = [&now().to_le_bytes()[..], &[LOST_RECORDS]].concat();
                batch.insert(&store.lost, *hash.as_bytes(), value);
            }
            batch.insert(&store.state, POSITION, position.encode());
            store.commit(batch)?;
        }
        report.note(&folder)?;
        if fs::symlink_metadata(&records).is_ok() {
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
        let kept = salvaged.position.unwrap_or_default().lsn;
        let now = Progress {
            // What was pending tells it better.
            lsn: before.filter(|before| before.whole).map_or(kept, |before| before.progress.lsn),
            pending: salvaged.pending.len() as u64,
            segments: segments as u64,
            ..Progress::default()
        };
        let before = before.filter(|before| before.whole || !salvaged.partial);
        say_what_is_lost(now, before, report);
        Ok(engine)
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

/// Compares what is left with what a record store is known to have held.
fn say_what_is_lost(now: Progress, before: Option<Before>, report: &mut StoreRepair) {
    let Some(Before { progress: before, .. }) = before else {
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
        report.lost.push(format!(
            "of {} segments, {} are left; what peers have of the others is pulled again",
            before.segments, now.segments
        ));
    }
}

/// Gives a record store what a new one has in the place of damaged files that say nothing more than
/// that: the version, and the lists of tables of keyspaces that have none. What those hold is in the
/// journals. Returns what is still wrong.
fn repair_lists(
    folder: &Folder,
    found: Findings,
    options: &EngineOptions,
    report: &mut StoreRepair,
) -> Result<Option<Findings>, EngineError> {
    if !found.odd.is_empty() {
        return Ok(Some(found));
    }
    let (records, half) = (folder.records(), folder.path().join(NEW_STORE));
    let repaired = || -> io::Result<PathBuf> {
        let kept = free_name(&folder.quarantine(), "records");
        fs::create_dir_all(&kept)?;
        let replace = |file: &Path| -> io::Result<()> {
            let to = kept.join(file);
            fs::create_dir_all(to.parent().unwrap_or(&kept))?;
            match fs::copy(records.join(file), &to) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                copied => drop(copied?),
            }
            fs::copy(half.join(file), records.join(file))?;
            File::open(records.join(file))?.sync_all()
        };
        if fs::read(records.join("version")).unwrap_or_default() != VERSION {
            replace(Path::new("version"))?;
        }
        for dir in &found.keyspaces {
            let dir = Path::new("keyspaces").join(dir.file_name().unwrap_or_default());
            for entry in fs::read_dir(half.join(&dir))? {
                let entry = entry?;
                if entry.file_type()?.is_file() {
                    replace(&dir.join(entry.file_name()))?;
                }
            }
            File::open(records.join(&dir))?.sync_all()?;
        }
        File::open(&records)?.sync_all()?;
        Ok(kept)
    };
    if half.exists() {
        fs::remove_dir_all(&half).map_err(EngineError::io("remove", &half))?;
    }
    drop(Store::open(&half, options, false)?);
    let is_empty = |dir: &PathBuf| {
        let tables = fs::read_dir(dir.join("tables"));
        tables.is_ok_and(|mut tables| tables.next().is_none())
            && half.join("keyspaces").join(dir.file_name().unwrap_or_default()).is_dir()
    };
    let can_be = found.keyspaces.iter().all(is_empty);
    if can_be {
        report.note(folder)?;
    }
    let result = can_be.then(repaired);
    fs::remove_dir_all(&half).map_err(EngineError::io("remove", &half))?;
    let Some(kept) = result.transpose().map_err(EngineError::io("repair", &records))? else {
        return Ok(Some(found));
    };
    let kept = kept.display();
    report.done.push(format!("the damaged files of the record store are kept in {kept}"));
    Ok(inspect(&records, options.sync_writes)?.err())
}

/// What can be read of a closed record store with sound lists of tables.
fn salvage_closed(records: &Path, options: &EngineOptions) -> Result<Salvaged, EngineError> {
    let store = Store::open(records, options, false)?;
    Ok(salvage(&store, &store.load_writer()?))
}

/// What can be read of a record store some of whose keyspaces have lost their lists of tables, or
/// some of their tables: of those, what the journals say. Changes nothing of it. The error is of the copy that this makes.
fn salvage_journals(
    records: &Path,
    options: &EngineOptions,
    done: &mut Vec<String>,
) -> Result<Salvaged, EngineError> {
    let make = || -> io::Result<(TempDir, PathBuf)> {
        let dir = tempfile::Builder::new().prefix("edgestore-read-").tempdir()?;
        let copy = dir.path().join("records");
        view::make(records, &Inspected::default(), &copy)?;
        Ok((dir, copy))
    };
    let (dir, copy) = make().map_err(EngineError::io("copy", records))?;
    let new = dir.path().join("new");
    drop(Store::open(&new, options, false)?);
    let complete = || -> io::Result<()> {
        fs::copy(new.join("version"), copy.join("version"))?;
        fs::create_dir_all(copy.join("keyspaces"))?;
        for journal in journals(&copy)? {
            leave_out_damage(&journal)?;
        }
        let mut lost = without_lists(&copy)?;
        for (table, _) in damaged_tables(&copy, true)? {
            lost.extend(table.ancestors().nth(2).map(Path::to_owned));
        }
        for keyspace in fs::read_dir(new.join("keyspaces"))? {
            let (from, name) = keyspace.map(|entry| (entry.path(), entry.file_name()))?;
            let to = copy.join("keyspaces").join(&name);
            if to.is_dir() && !lost.contains(&to) {
                continue;
            }
            if to.is_dir() {
                fs::remove_dir_all(&to)?;
            }
            fs::create_dir_all(to.join("tables"))?;
            // That of the names of the others, which are the same in all databases of this version,
            // has a table.
            for dir in ["", "tables"] {
                for entry in fs::read_dir(from.join(dir))? {
                    let entry = entry?;
                    if entry.file_type()?.is_file() {
                        fs::copy(entry.path(), to.join(dir).join(entry.file_name()))?;
                    }
                }
            }
        }
        Ok(())
    };
    complete().map_err(EngineError::io("copy", records))?;
    let salvaged = salvage_closed(&copy, options).unwrap_or_else(|error| {
        done.push(format!("nothing can be read of the damaged record store: {error}"));
        Salvaged::default()
    });
    Ok(Salvaged { partial: true, ..salvaged })
}

/// What can be read of an open record store.
fn salvage(store: &Store, writer: &Writer) -> Salvaged {
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
    for (key, pending) in &writer.pending {
        let version = store.version(key, |there| {
            let there = there.filter(|there| writer.position.is_of(pending, there));
            there.map(|there| there.version.to_owned())
        });
        match version {
            Ok(Some(version)) => salvaged.pending.push((key.clone(), version, *pending)),
            _ => salvaged.partial = true,
        }
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

/// What of the journals can't be read, or is not there.
fn say_what_journals_lost(
    records: &Path,
    found: &Findings,
    report: &mut StoreRepair,
) -> Result<(), EngineError> {
    for name in &found.gone {
        report.lost.push(format!("writes that were in the journal {name} are lost"));
    }
    for path in &found.journals {
        let ranges = journal::salvage(path).map_err(EngineError::io("read", path))?;
        let left: u64 = ranges.iter().map(|range| range.end - range.start).sum();
        let len = journal::end(path, 0).map_err(EngineError::io("read", path))?;
        let name = path.strip_prefix(records).unwrap_or(path).to_string_lossy();
        let marked = found.mark.iter().flat_map(|mark| &mark.journals);
        let marked = marked.clone().find(|marked| marked.name == name);
        let holds = |marked: &JournalMark| marked.holds(path).unwrap_or(false);
        report.done.push(format!("of the {len} bytes of the journal {name}, {left} could be read"));
        if left < len {
            report.lost.push(format!(
                "writes that were in the other {} bytes of the journal {name} are lost",
                len - left
            ));
        } else if !marked.is_none_or(holds) {
            report.lost.push(format!(
                "the journal {name} is whole, and not the one that the last clean stop left: writes \
                 in that one are lost"
            ));
        }
    }
    Ok(())
}

/// Copies damaged journals, and the mark, to `quarantine/`, and leaves out what can't be read.
fn keep_journals(
    folder: &Folder,
    journals: &[PathBuf],
    report: &mut StoreRepair,
) -> Result<(), EngineError> {
    if journals.is_empty() {
        return Ok(());
    }
    report.note(folder)?;
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
    report.done.push(format!("the damaged journals are kept in {}", kept.display()));
    for path in journals {
        leave_out_damage(path).map_err(EngineError::io("repair", path))?;
    }
    folder.forget_clean_stop()
}

/// Leaves out of a journal what can't be read.
fn leave_out_damage(path: &Path) -> io::Result<()> {
    let dir = path.parent().unwrap_or(path);
    let mut file = tempfile::NamedTempFile::new_in(dir)?;
    for range in journal::salvage(path)? {
        file.write_all(&journal::read(path, range)?)?;
    }
    file.as_file().sync_all()?;
    file.persist(path)?;
    File::open(dir)?.sync_all()
}
