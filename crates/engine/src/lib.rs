//! The engine of an EdgeStore node: records on disk, segments to exchange them, and the merge that
//! makes both agree.
//!
//! A local write goes into the record store at once and is marked as pending. [`Engine::flush`]
//! puts all pending records into one segment, an immutable file named by its BLAKE3 hash, which
//! peers can pull. A segment of a peer is merged record by record ([`Engine::apply`]): the later
//! write wins, and every node decides alike. What won waits in memory, and goes to the record store
//! with that of other segments, in key order. Reads look into both; segment files are there for
//! peers, and to fill the memory again after a crash.
//!
//! A step is either on disk as a whole or not there: segment files are fsynced and renamed into
//! place first, then one atomic batch of the record store (fjall) changes local records, pending
//! marks and the registration of the segment. After a crash, a file that is registered nowhere is
//! adopted, or set aside if it is damaged, and a registered segment whose file is gone counts as
//! missing, so that it is pulled again. What the record store would lose in silence is looked for
//! before it is opened, and found by the mark that a clean stop leaves.
//!
//! Each version of a record has one owner among the segments that hold it. [`Engine::compact`]
//! retires the segments that own nothing, and merges small ones.
//!
//! Local writes are stamped by a hybrid logical clock (Kulkarni et al., "Logical Physical Clocks",
//! 2014): the wall clock, or one more than the latest stamp that this node has given or seen,
//! whichever is later. So a write wins over all that the node knew, whatever clocks do, and no
//! record from further ahead than a bound is let in to drag the clock along.
//!
//! One write runs at a time; reads never wait for it.

#![forbid(unsafe_code)]
// These panic where nobody reads what they print.
#![deny(clippy::print_stdout, clippy::print_stderr, clippy::dbg_macro)]

mod acknowledged;
mod adopt;
mod apply;
mod changes;
mod chunks;
mod clean_stop;
mod clock;
mod compact;
pub mod disk;
mod disk_quota;
mod drain;
pub mod env;
mod error;
mod extent;
mod filter;
mod flush;
mod folder;
mod hash;
mod index;
mod inspect;
mod journal;
mod lineage;
mod lost_files;
mod memtable;
mod open_journals;
mod options;
mod read;
mod record;
mod redirect;
mod rejected;
mod repair;
mod restamp;
mod scan;
mod segment;
mod staging;
mod store;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod verify;
mod view;
mod write;

use std::collections::HashMap;
#[cfg(test)]
use std::fs;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use fjall::PersistMode;

use self::acknowledged::AcknowledgedFile;
use self::changes::Watchers;
pub use self::changes::{Changes, Delta, Revision, Waker};
use self::clock::ClockTrust;
pub use self::compact::{Compacted, RateLimiter};
use self::disk::{Disk, RealDisk};
use self::disk_quota::DiskQuota;
pub use self::error::{ApplyError, EngineError};
pub use self::extent::{Extent, KeyRange};
use self::filter::Filter;
pub use self::folder::lost_format;
use self::folder::{Access, Folder, SegmentFiles};
pub use self::hash::{Hash, ParseHashError};
use self::index::{Index, Registration};
use self::inspect::Inspected;
use self::lineage::Lineage;
pub use self::lineage::Mark;
use self::memtable::Memtable;
use self::open_journals::OpenJournals;
pub use self::options::{EngineOptions, MonotonicClock, WallClock};
pub use self::read::prefix_end;
pub use self::record::{MAX_BATCH, MAX_KEY, MAX_RECORD, Record};
use self::rejected::Rejected;
pub use self::repair::StoreRepair;
pub use self::restamp::{ClockState, RestampError, Restamped};
#[cfg(any(test, feature = "testing"))]
#[doc(hidden)]
pub use self::segment::fuzz::segment as fuzz_segment;
pub use self::segment::{MAX_FILE, MIN_INFLATED};
pub use self::staging::{ByteQuota, ByteQuotaSpent, HashMismatch, StagedSegment, StagingFile};
use self::store::{Progress, Store, Writer};
pub use self::verify::{Problem, Verified};
pub use self::write::WriteBatch;

/// Hashes that are looked up in the index together.
const LOOKED_UP: usize = 1000;

/// One registered segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentMeta {
    /// Local number. Never used again; that of a flush is taken at the flush before.
    pub id: u64,
    /// BLAKE3 of the file, and its name on every node.
    pub hash: Hash,
    /// Size of the file.
    pub bytes: u64,
    /// Records in it.
    pub records: u64,
}

/// How far this node is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Watermark {
    /// Highest sequence number of a local write that is in a segment.
    pub confirmed_lsn: u64,
    /// See [`Engine::set_write_token`].
    pub write_token: u64,
}

/// What applying a segment did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Applied {
    /// Records that won and were written. Where a large segment has a key several times, more than one
    /// of them may have.
    pub written: u64,
    /// Records that lost, or were there already.
    pub skipped: u64,
    /// The segment had been applied before; nothing was done.
    pub duplicate: bool,
}

/// Counters for status.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct EngineStats {
    /// Segments that peers can pull.
    pub segments: u64,
    /// Size of their files.
    pub segment_bytes: u64,
    /// Records in all segments, superseded ones included.
    pub segment_records: u64,
    /// Segments that were here and are not needed any more.
    pub retired_segments: u64,
    /// Writes not yet in a segment.
    pub pending_records: u64,
    /// Bytes of their keys and values.
    pub pending_bytes: u64,
    /// All bytes in the database folder, as the disk counts them.
    pub disk_bytes: u64,
    /// Bytes that are free on its disk; `None` where the disk does not say.
    #[serde(default)]
    pub disk_free: Option<u64>,
    /// Bytes of it that puts and downloads leave free.
    #[serde(default)]
    pub disk_reserve: Option<u64>,
    /// [`EngineOptions::max_db_bytes`].
    #[serde(default)]
    pub max_db_bytes: Option<u64>,
    /// How far the stamp of the next local write is ahead of the wall clock, in whole seconds.
    #[serde(default)]
    pub clock_ahead_secs: u64,
    /// Segments of this node's own that peers do not apply yet, because a record is stamped too
    /// far ahead.
    #[serde(default)]
    pub segments_ahead: u64,
    /// Records in them.
    #[serde(default)]
    pub records_ahead: u64,
}

/// An open database. All methods take `&self`; share it in an [`std::sync::Arc`].
///
/// ```
/// # let dir = tempfile::tempdir()?;
/// use edgestore_engine::Engine;
///
/// let engine = Engine::open(dir.path())?;
/// engine.put(b"sensors", b"t1", b"21.5")?;
/// assert_eq!(engine.get(b"sensors", b"t1")?.as_deref(), Some(&b"21.5"[..]));
/// let segment = engine.flush()?.unwrap();
/// assert_eq!(engine.manifest(), [segment]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Engine {
    // In this order: the store is closed before the lock on the folder goes. The order of locks is in
    // docs/ARCHITECTURE.md.
    store: Store,
    /// Commits: held from the first look at what is stored until memory agrees with the disk. It guards
    /// what only a writer needs to know.
    writer: Mutex<Writer>,
    /// The one segment that is decoded and applied: memory for more is not there.
    applying: Mutex<()>,
    /// Segments that peers see, in the order of their ids. Changed while `writer` is held.
    index: RwLock<Index>,
    /// Keys that may be in the record store.
    filter: Filter,
    /// One compaction, `verify` or new stamping at a time: held by what retires segments, or counts on
    /// none to go.
    maintenance: Mutex<()>,
    /// Whether there may be a file in `segments/` that is registered nowhere.
    has_strays: AtomicBool,
    /// Called when there are writes to flush.
    pending_watchers: Watchers,
    /// See [`Revision`].
    epoch: u64,
    /// Segments that came since the last compaction.
    registered: AtomicU64,
    /// Bytes of segments that flushes have made since the start.
    flushed: AtomicU64,
    /// Why the last flush failed; `None` where it did not.
    unflushed: Mutex<Option<String>>,
    /// What is lost and no repair has reported, a sentence each.
    losses: Vec<String>,
    /// Retired segments whose files are still there, with the sizes of these.
    leaving: Mutex<HashMap<Hash, u64>>,
    /// Bytes of memory that staged segments take.
    prepared: Arc<AtomicU64>,
    /// Records that are not in the record store yet. Changed while `writer` is held.
    memtable: RwLock<Arc<Memtable>>,
    /// What readers see of the writer, published at the end of each commit.
    progress: RwLock<Progress>,
    /// Segments that can never be applied, and why.
    rejected: Mutex<Rejected>,
    /// To which state of the database notes about it are bound. Locked after `writer`.
    lineage: Mutex<Lineage>,
    /// How far the wall clock is trusted.
    trust: Mutex<ClockTrust>,
    /// When somebody looked for lost files, by the monotonic clock; `None` before the first look.
    looked: Mutex<Option<Duration>>,
    /// The copy of how far acknowledged writes are; `None` of a database that is open to read alone.
    acknowledged: Mutex<Option<AcknowledgedFile>>,
    options: EngineOptions,
    quota: Arc<DiskQuota>,
    folder: Folder,
}

impl Engine {
    /// Opens the database in the folder `path`, or makes one there.
    ///
    /// # Errors
    /// [`EngineError::Locked`] while another engine has it open, [`EngineError::Foreign`] when the
    /// folder holds something else, and when it can't be read or written.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, EngineError> {
        Self::open_with(path, EngineOptions::default())
    }

    /// [`Engine::open`] with other than the default options.
    ///
    /// # Errors
    /// As there.
    pub fn open_with(path: impl AsRef<Path>, options: EngineOptions) -> Result<Self, EngineError> {
        Self::open_on(path.as_ref(), options, RealDisk::shared())
    }

    /// [`Engine::open_with`], of a database that there is: none is made.
    ///
    /// # Errors
    /// As [`Engine::open`]; [`EngineError::Foreign`] when there is none, too.
    pub fn open_existing(
        path: impl AsRef<Path>,
        options: EngineOptions,
    ) -> Result<Self, EngineError> {
        Self::open_for(path.as_ref(), options, RealDisk::shared(), Access::Existing)
    }

    /// Opens a database to read alone: nothing in its folder changes. Others may do so meanwhile,
    /// and none may write. It sees the database as it is now.
    ///
    /// # Errors
    /// As [`Engine::open`]; [`EngineError::Foreign`] when there is none, too. What would write fails
    /// with [`EngineError::ReadOnly`].
    pub fn open_to_read(
        path: impl AsRef<Path>,
        options: EngineOptions,
    ) -> Result<Self, EngineError> {
        Self::open_for(path.as_ref(), options, RealDisk::shared(), Access::Read)
    }

    /// [`Engine::open_with`] on another disk.
    pub fn open_on(
        path: &Path,
        options: EngineOptions,
        disk: Arc<dyn Disk>,
    ) -> Result<Self, EngineError> {
        Self::open_for(path, options, disk, Access::Write)
    }

    fn open_for(
        path: &Path,
        options: EngineOptions,
        disk: Arc<dyn Disk>,
        access: Access,
    ) -> Result<Self, EngineError> {
        let reads = access == Access::Read;
        let open = |records: &Path| Store::open(records, &options, reads);
        let check = |store: &Store, inspected: &Inspected| {
            missing_commits(store, inspected, &store.load_writer()?)
        };
        let (folder, store, inspected) =
            Folder::open(path, disk, access, options.sync_writes, open, check)?;
        let mut writer = store.load_writer()?;
        let Recovered { index, undrained, retired, unknown, strays } =
            recover_segments(&folder, &store, &mut writer)?;
        if access != Access::Repair {
            let missing = missing_writes(&folder, &store, &inspected, &index, &writer, &unknown)?;
            missing.map_or(Ok(()), |what| Err(folder.damaged(&[what])))?;
        }
        let mut losses = folder.losses()?;
        let folders = strays.iter().filter(|hash| !writer.absent.contains_key(*hash));
        let older = match folder.stopped_cleanly() {
            true => unknown_after_stop(unknown.len() + folders.count(), writer.position.lsn),
            false => None,
        };
        let older = folder.older_records(&writer.position)?.or(older);
        if let Some(older) = older.filter(|older| !losses.contains(older)) {
            tracing::warn!("{older}");
            losses.push(older);
            if !reads {
                // Before what shows it goes.
                folder.note_losses(&losses)?;
            }
        }
        let mut acknowledged = None;
        if !reads {
            acknowledged = Some(folder.note_acknowledged(&writer, options.sync_writes)?);
            store
                .watch_journals(&folder.disk().real(&folder.records()))
                .map_err(EngineError::io("watch the journals in", &folder.records()))?;
            folder.forget_clean_stop()?;
            // While a segment is absent, they may be all that is left of what was merged into it.
            for hash in retired.into_iter().filter(|_| writer.absent.is_empty()) {
                let path = folder.segment(&hash);
                folder.disk().remove(&path).map_err(EngineError::io("remove", &path))?;
            }
            for hash in &strays {
                let to = folder.set_aside(hash)?;
                tracing::warn!(
                    file = %to.display(),
                    "what had the name of a segment in segments/ was another thing; it is kept in \
                     quarantine/"
                );
            }
        }
        let lineage = store.load_lineage(options.seed)?;
        let rejected = store.load_rejected(options.max_segment_inflated_bytes)?;
        let trust = options.trust(&store, writer.position.stamp)?;
        let (reserve, max) = (options.disk_reserve, options.max_db_bytes);
        let quota = Arc::new(DiskQuota::new(
            folder.shared_disk(),
            path,
            reserve,
            max,
            options.monotonic.clone(),
        ));
        let engine = Self {
            progress: RwLock::new(writer.progress()),
            filter: Filter::new(options.filter_bytes, store.is_empty()?),
            maintenance: Mutex::default(),
            has_strays: AtomicBool::new(false),
            pending_watchers: Watchers::default(),
            epoch: options.epoch(),
            registered: AtomicU64::new(index.all().len() as u64),
            flushed: AtomicU64::new(0),
            unflushed: Mutex::default(),
            losses,
            leaving: Mutex::default(),
            prepared: Arc::default(),
            store,
            writer: Mutex::new(writer),
            applying: Mutex::default(),
            index: RwLock::new(index),
            memtable: RwLock::default(),
            rejected: Mutex::new(rejected),
            lineage: Mutex::new(lineage),
            trust: Mutex::new(trust),
            looked: Mutex::default(),
            acknowledged: Mutex::new(acknowledged),
            options,
            quota,
            folder,
        };
        engine.recover_memtable(undrained)?;
        if !engine.writer().absent.is_empty() {
            engine.lineage().end();
        }
        if reads {
            let mut writer = engine.writer();
            let strays = unknown.into_iter().chain(strays.into_iter().map(|hash| (hash, 0)));
            writer.unregistered =
                strays.filter(|(hash, _)| !writer.absent.contains_key(hash)).collect();
        } else {
            engine.writer().unregistered = engine.adopt_all(unknown);
        }
        Ok(engine)
    }

    /// What the next start compares with what it finds.
    fn stop_progress(&self, writer: &Writer) -> clean_stop::Progress {
        let store::Position { lsn, next_id, stamp, .. } = writer.position;
        let segments = (self.index().all().len() + writer.absent.len()) as u64;
        let pending = writer.pending.len() as u64;
        clean_stop::Progress { lsn, next_id, stamp, segments, pending }
    }

    /// The database folder.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The database folder by a name that follows it when it is moved, where the system has one.
    pub fn home(&self) -> PathBuf {
        self.folder.disk().real(self.folder.path())
    }

    /// Whether [`Engine::path`] still names the folder that was opened.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn is_in_place(&self) -> io::Result<bool> {
        self.folder.disk().is_in_place()
    }

    /// Looks whether the files of the folder are those that were opened, as after a backup was put
    /// into it. If not, nothing more is written or removed.
    ///
    /// # Errors
    /// [`EngineError::Replaced`].
    pub fn check_files(&self) -> Result<(), EngineError> {
        let acknowledged = self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner);
        let is_in_place = acknowledged.as_ref().is_none_or(AcknowledgedFile::is_in_place)
            && self.store.journals_are_in_place()
            && self.folder.is_locked();
        self.store.give_up_unless(is_in_place && !self.store.is_replaced())
    }

    /// Whether nothing more is written for want of space, descriptors or memory, and there seems to be
    /// enough again: the database should be closed and opened, which finds out what became of the last
    /// batch.
    pub fn should_reopen(&self) -> bool {
        self.store.look();
        self.store.is_short() && self.folder.try_out().is_ok()
    }

    /// Closes the database, as if it were dropped.
    ///
    /// # Errors
    /// What the stop has found: it is damaged, or another one, so the next start will not take it for
    /// sound.
    pub fn close(self) -> Result<(), String> {
        let wrong = self.folder.wrong();
        drop(self);
        wrong.get().map_or(Ok(()), |why| Err(why.clone()))
    }

    /// Puts all that is in memory into the record store, as a stop does. What fails here shows in
    /// [`Engine::poisoned`].
    pub fn settle(&self) {
        if let Err(error) = self.drain(&mut self.writer()) {
            tracing::warn!(%error, "applied segments are read again at the next start");
        }
    }

    /// The disk that it is on.
    pub fn disk(&self) -> Arc<dyn Disk> {
        self.folder.shared_disk()
    }

    /// The latest stamp that was given to a record, or seen in one.
    pub fn last_stamp(&self) -> i64 {
        self.writer().position.stamp
    }

    /// Bytes of the segments that were made of local writes since the database was opened, whatever
    /// a compaction has made of them.
    pub fn flushed_bytes(&self) -> u64 {
        self.flushed.load(Ordering::Relaxed)
    }

    /// Counters. Those of the disk are read from it.
    pub fn stats(&self) -> EngineStats {
        let progress = self.progress();
        let index = self.index();
        let (segment_bytes, segment_records) = index.totals();
        let (segments, retired) = (index.all().len() as u64, index.retired());
        drop(index);
        let (segments_ahead, records_ahead) = self.count_ahead(progress.stamp);
        let (disk_free, disk_reserve) = self.quota.free_and_reserve().unzip();
        EngineStats {
            segments,
            segment_bytes,
            segment_records,
            retired_segments: retired,
            pending_records: progress.pending_records,
            pending_bytes: progress.pending_bytes,
            disk_bytes: self.quota.taken(),
            disk_free,
            disk_reserve,
            max_db_bytes: self.quota.max(),
            clock_ahead_secs: self.clock_ahead().as_secs(),
            segments_ahead,
            records_ahead,
        }
    }

    /// The root over all segments: [`Hash::root`] of their hashes.
    pub fn root(&self) -> Hash {
        if let Some(root) = self.index().cached_root() {
            return root;
        }
        self.index_mut().root()
    }

    /// Whether a node of this root has the same segments.
    pub fn compare(&self, root: &Hash) -> bool {
        self.root() == *root
    }

    /// Whether the segment is here, or was and is not needed any more. One of which that can't be
    /// read counts as missing.
    pub fn has(&self, hash: &Hash) -> bool {
        self.was_here(hash).unwrap_or(false)
    }

    /// Whether the segment is here, or was and is not needed any more.
    fn was_here(&self, hash: &Hash) -> Result<bool, EngineError> {
        let is_here = self.index().get(hash).is_some();
        Ok(is_here || self.store.was_retired(hash)?)
    }

    /// Those of `hashes` that are not here and never were, in their order.
    pub fn missing(&self, hashes: &[Hash]) -> Vec<Hash> {
        self.lacking(hashes).collect()
    }

    /// Whether one of `hashes` is not here and never was.
    pub fn is_any_missing(&self, hashes: &[Hash]) -> bool {
        self.lacking(hashes).next().is_some()
    }

    fn lacking<'a>(&'a self, hashes: &'a [Hash]) -> impl Iterator<Item = Hash> + 'a {
        let not_here = |some: &[Hash]| -> Vec<Hash> {
            let index = self.index();
            some.iter().filter(|hash| index.get(hash).is_none()).copied().collect()
        };
        // The index is not held while the store is read.
        let not_here = hashes.chunks(LOOKED_UP).flat_map(not_here);
        not_here.filter(|hash| !self.store.was_retired(hash).unwrap_or(false))
    }

    /// All segments, by id.
    pub fn manifest(&self) -> Vec<SegmentMeta> {
        self.index().all().iter().map(|segment| segment.meta.clone()).collect()
    }

    /// Unix nanoseconds, by the wall clock that the options name.
    fn now(&self) -> i64 {
        self.options.clock.now()
    }

    /// How far this node is.
    pub fn watermark(&self) -> Watermark {
        self.progress().watermark
    }

    /// Registered segments whose files are missing or damaged, as far as that is known, in the order
    /// of their hashes.
    pub fn unreadable(&self) -> Vec<Hash> {
        let mut unreadable: Vec<_> = self.writer().absent.keys().copied().collect();
        unreadable.sort_unstable();
        unreadable
    }

    /// Segments with records that reads don't find, in the order of their hashes: their files were
    /// lost or damaged before the records were anywhere else, or a repair gave them up.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn lost(&self) -> Result<Vec<Hash>, EngineError> {
        let mut lost = self.store.lost_records()?;
        let writer = self.writer();
        let absent = writer.absent.values().filter(|segment| !segment.drained);
        lost.extend(absent.map(|segment| segment.meta.hash));
        lost.sort_unstable();
        lost.dedup();
        Ok(lost)
    }

    /// Of a database that is open to read alone: sound segment files that are registered nowhere and
    /// have records that reads don't find. Whoever opens it to write registers them.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn unregistered(&self) -> Result<Vec<Hash>, EngineError> {
        let mut found = Vec::new();
        for (hash, len) in self.writer().unregistered.clone() {
            if !self.folder.is_folder(&hash)
                && self.folder.is_intact(&hash)?
                && adopt::has_news(&self.folder, &self.store, &hash, len)?
            {
                found.push(hash);
            }
        }
        Ok(found)
    }

    /// What a start found to be lost, a sentence each, and no repair has reported.
    pub fn losses(&self) -> &[String] {
        &self.losses
    }

    /// Why the last flush failed; `None` where it did not.
    pub fn unflushed(&self) -> Option<String> {
        self.unflushed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Why puts and downloads are refused for want of room; `None` where they are not.
    pub fn full(&self) -> Option<String> {
        self.quota.check(staging::GRANT).err().map(|error| error.to_string())
    }

    /// Why nothing more is written until the database is opened again; `None` where writes go on.
    pub fn poisoned(&self) -> Option<String> {
        self.store.poisoned()
    }

    /// Sets the write token, which a node raises when it takes over from another. Zero at first.
    /// The engine only keeps it and tells it to peers.
    ///
    /// # Errors
    /// When it can't be stored.
    pub fn set_write_token(&self, token: u64) -> Result<(), EngineError> {
        let mut writer = self.writer();
        let mut batch = self.store.batch(PersistMode::SyncAll);
        let position = store::Position { write_token: token, ..writer.position };
        batch.insert(&self.store.state, store::POSITION, position.encode());
        self.store.commit(batch)?;
        writer.position = position;
        self.publish(&writer)?;
        Ok(())
    }

    /// The file of a segment and its size; none when it is not here.
    ///
    /// # Errors
    /// When the file is there and can't be opened.
    pub fn open_segment(&self, hash: &Hash) -> Result<Option<(File, u64)>, EngineError> {
        let here = self.index().get(hash).map(|segment| segment.meta.bytes);
        let Some(len) = here.or_else(|| self.leaving().get(hash).copied()) else {
            return Ok(None);
        };
        let path = self.folder.segment(hash);
        let open = || -> io::Result<Option<File>> {
            let file = File::open(&path)?;
            Ok((file.metadata()?.len() == len).then_some(file))
        };
        match open() {
            Ok(Some(file)) => return Ok(Some((file, len))),
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(EngineError::io("open", &path)(error));
            }
            Ok(None) | Err(_) => {}
        }
        self.note_damage(hash)?;
        Ok(None)
    }

    /// A file to download a segment into. It takes bytes as long as there is room.
    ///
    /// # Errors
    /// When it can't be made: the disk is full or read-only. When the engine writes nothing more,
    /// so that nobody downloads what can't be applied.
    pub fn stage(&self) -> io::Result<StagingFile> {
        let file = self.stage_own()?;
        file.within_quota(&self.quota)
    }

    /// A file for a segment of this node's own.
    fn stage_own(&self) -> io::Result<StagingFile> {
        self.store.check().map_err(io::Error::other)?;
        self.folder.stage()
    }

    fn writer(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock().unwrap_or_else(|poisoned| {
            // Memory changes only after the disk has: it may be behind, and must not be written.
            self.store.poison(EngineError::Panicked);
            poisoned.into_inner()
        })
    }

    fn index(&self) -> RwLockReadGuard<'_, Index> {
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn progress(&self) -> Progress {
        *self.progress.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn rejections(&self) -> MutexGuard<'_, Rejected> {
        self.rejected.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lineage(&self) -> MutexGuard<'_, Lineage> {
        self.lineage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets readers see how far the writer is, and the next start.
    ///
    /// # Errors
    /// [`EngineError::Replaced`]: no start will find what was committed.
    fn publish(&self, writer: &Writer) -> Result<(), EngineError> {
        let mut acknowledged = self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner);
        // Nothing that is not acknowledged is noted.
        let in_place = self.store.journals_are(OpenJournals::is_in_place)
            && acknowledged.as_mut().is_none_or(|file| file.note(writer));
        drop(acknowledged);
        *self.progress.write().unwrap_or_else(PoisonError::into_inner) = writer.progress();
        self.store.give_up_unless(in_place)
    }

    fn memtable(&self) -> Arc<Memtable> {
        Arc::clone(&self.memtable.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn set_memtable(&self, memtable: Memtable) {
        *self.memtable.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(memtable);
    }

    fn leaving(&self) -> MutexGuard<'_, HashMap<Hash, u64>> {
        self.leaving.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn index_mut(&self) -> RwLockWriteGuard<'_, Index> {
        self.index.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn register(&self, segment: Registration) {
        self.registered.fetch_add(1, Ordering::Relaxed);
        self.index_mut().insert(segment);
    }
}

/// What a start finds in `segments/`.
struct Recovered {
    index: Index,
    /// Registered, and not yet drained from the memtable.
    undrained: Vec<Registration>,
    /// Files of segments that are known not to be needed any more.
    retired: Vec<Hash>,
    /// Files that are registered nowhere, by hash, with their sizes.
    unknown: Vec<(Hash, u64)>,
    /// Folders with the names of segment files, and files of other sizes than those registered.
    strays: Vec<Hash>,
}

/// Compares files with registrations. What has lost its file is remembered as absent. Changes
/// nothing on disk.
fn recover_segments(
    folder: &Folder,
    store: &Store,
    writer: &mut Writer,
) -> Result<Recovered, EngineError> {
    let SegmentFiles { files, folders: mut strays } = folder.segment_files()?;
    let mut files: HashMap<Hash, u64> = files.into_iter().collect();
    let mut index = Index::default();
    let mut undrained = Vec::new();
    *index.retired_mut() = store.retired.len()? as u64;
    for segment in store.load_segments()? {
        let SegmentMeta { hash, bytes, .. } = segment.meta;
        match files.remove(&hash) {
            Some(len) if len == bytes => {
                if !segment.drained {
                    undrained.push(segment.clone());
                }
                index.insert(segment);
            }
            found => {
                tracing::warn!(
                    %hash,
                    expected_bytes = bytes,
                    found_bytes = found,
                    "the file of a segment is gone or damaged; it is pulled again from a peer that \
                     has it. If none has: verify --repair"
                );
                writer.absent.insert(hash, segment);
                strays.extend(found.map(|_| hash));
            }
        }
    }
    let mut files: Vec<_> = files.into_iter().collect();
    files.sort_unstable();
    let (mut retired, mut unknown) = (Vec::new(), Vec::new());
    for (hash, len) in files {
        match store.was_retired(&hash)? {
            true => retired.push(hash),
            false => unknown.push((hash, len)),
        }
    }
    Ok(Recovered { index, undrained, retired, unknown, strays })
}

/// What files that are registered nowhere say after a clean stop, which leaves none; `None` where
/// there are none, or this node has made no writes of its own, up to the number `lsn`.
fn unknown_after_stop(files: usize, lsn: u64) -> Option<String> {
    (files > 0 && lsn > 0).then(|| {
        format!(
            "segments/ has {files} files that the record store does not know, and a clean stop \
             leaves none: the record store is older. What sound ones hold is merged; other local \
             writes since then are lost, if there were any"
        )
    })
}

/// What the record store should hold and does not, by what every commit has left, as a clause.
fn missing_commits(
    store: &Store,
    inspected: &Inspected,
    writer: &Writer,
) -> Result<Option<String>, EngineError> {
    if let Some(left) = inspected.acknowledged.as_ref() {
        if left.is_ahead_of(&writer.position) {
            let store::Position { lsn, next_id, .. } = writer.position;
            return Ok(Some(format!(
                "it had acknowledged {} local writes and segments up to the number {}, and the \
                 record store has {lsn} and {next_id}",
                left.lsn, left.next_id
            )));
        }
        let here = writer.pending.len();
        let missing = left.missing_pending(&writer.position, here);
        if missing > 0 {
            return Ok(Some(format!(
                "of {} local writes that were acknowledged and in no segment, the record store has \
                 {here}",
                missing + here as u64
            )));
        }
    }
    let lost = store.lost_pending(writer)?.len();
    Ok((lost > 0).then(|| {
        format!(
            "of {} local writes that are in no segment, the record store has lost {lost}",
            writer.pending.len()
        )
    }))
}

/// What the record store should hold and does not, as a clause. A clean stop has said how far it
/// was, and every commit says so for the time after a crash. Without that, more segments that nobody
/// registered and that hold something new than a crash leaves are proof. What a flush or a compaction
/// was about to register holds nothing new, however many files it is.
fn missing_writes(
    folder: &Folder,
    store: &Store,
    inspected: &Inspected,
    index: &Index,
    writer: &Writer,
    unknown: &[(Hash, u64)],
) -> Result<Option<String>, EngineError> {
    if let Some(what) = missing_commits(store, inspected, writer)? {
        return Ok(Some(what));
    }
    if let Some(mark) = &inspected.mark {
        let left = mark.progress;
        let segments = (index.all().len() + writer.absent.len()) as u64;
        let (position, pending) = (writer.position, writer.pending.len() as u64);
        let behind = position.lsn < left.lsn || position.next_id < left.next_id;
        let other = inspected.exact && (segments, pending) != (left.segments, left.pending);
        if behind || other {
            return Ok(Some(format!(
                "its last clean stop left {} local writes, {} of them in no segment, and {} \
                 segments, and the record store has {}, {pending} and {segments}",
                left.lsn, left.pending, left.segments, position.lsn
            )));
        }
        return Ok(None);
    }
    if unknown.len() <= adopt::LEFT_BY_A_CRASH {
        return Ok(None);
    }
    let mut sound = 0;
    for (hash, len) in unknown {
        let news = folder.is_intact(hash)? && adopt::has_news(folder, store, hash, *len)?;
        sound += usize::from(news);
    }
    Ok((sound > adopt::LEFT_BY_A_CRASH).then(|| {
        format!(
            "{sound} sound segment files are registered nowhere, and a crash leaves {} at most: the \
             record store has lost what it knew of them",
            adopt::LEFT_BY_A_CRASH
        )
    }))
}

#[cfg(test)]
mod crash_tests;
#[cfg(test)]
mod tests;
