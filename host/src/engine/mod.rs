//! The engine: records on disk, segments to exchange them, and the merge that makes both agree.
//!
//! A local write goes into the record store at once and is marked as pending. [`Engine::flush`]
//! puts all pending records into one segment, an immutable file named by its BLAKE3 hash, which
//! peers can pull. A segment of a peer is merged record by record ([`Engine::apply`]): the later
//! write wins, and every node decides alike. What a read returns comes from the record store
//! alone; segment files are there for peers.
//!
//! A step is either on disk as a whole or not there: segment files are fsynced and renamed into
//! place first, then one atomic batch of the record store (fjall) changes records, pending marks
//! and the registration of the segment. After a crash, files that are registered nowhere are
//! removed, and a registered segment whose file is gone counts as missing, so that it is pulled
//! again.
//!
//! Local writes are stamped by a hybrid logical clock (Kulkarni et al., "Logical Physical Clocks",
//! 2014): the wall clock, or one more than the latest stamp that this node has given or seen,
//! whichever is later. So a write wins over all that the node knew, whatever clocks do, and no
//! record from further ahead than a bound is let in to drag the clock along.
//!
//! One write runs at a time; reads never wait for it.

mod apply;
mod error;
mod flush;
mod folder;
mod index;
mod read;
mod record;
mod segment;
mod staging;
mod store;
mod verify;
mod write;

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use fjall::PersistMode;

pub use self::error::{ApplyError, EngineError};
use self::folder::Folder;
use self::index::Index;
pub(crate) use self::read::prefix_end;
pub use self::record::{MAX_BATCH, MAX_KEY, MAX_RECORD, Record};
pub use self::staging::{HashMismatch, StagedSegment, StagingFile};
use self::store::{Progress, Store, Writer};
pub use self::verify::{Problem, Verified};
pub use self::write::WriteBatch;
use crate::Hash;

/// What the engine may use and promises.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineOptions {
    /// Whether a write is on disk (fsynced) when it returns. Without it, a write survives the
    /// death of the process and may be lost with the machine. Segments are always fsynced.
    /// Default: true.
    pub sync_writes: bool,
    /// Writes are flushed to a segment by themselves when they take this many bytes, at most
    /// [`MAX_BATCH`]. Default: 8 MiB.
    pub flush_bytes: u64,
    /// Block cache of the record store, in bytes. Default: 64 MiB.
    pub cache_bytes: u64,
    /// A segment that takes more than this many bytes in memory, 128 for each record included, is
    /// rejected. Default: 512 MiB.
    pub max_segment_inflated_bytes: u64,
    /// A segment with a record that is stamped further than this in the future is not applied.
    /// Default: 5 min.
    pub max_clock_ahead: Duration,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            sync_writes: true,
            flush_bytes: 8 << 20,
            cache_bytes: 64 << 20,
            max_segment_inflated_bytes: 512 << 20,
            max_clock_ahead: Duration::from_secs(5 * 60),
        }
    }
}

/// One registered segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentMeta {
    /// Local number, ascending in order of registration.
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
    /// Records that won and were written.
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
    /// Writes not yet in a segment.
    pub pending_records: u64,
    /// Bytes of their keys and values.
    pub pending_bytes: u64,
    /// All bytes in the database folder, as the disk counts them.
    pub disk_bytes: u64,
}

/// An open database. All methods take `&self`; share it in an [`std::sync::Arc`].
///
/// ```
/// # let dir = tempfile::tempdir()?;
/// use edgestore_host::engine::Engine;
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
    // In this order: the store is closed before the lock goes.
    store: Store,
    writer: Mutex<Writer>,
    /// Held while a segment is in memory.
    applying: Mutex<()>,
    index: RwLock<Index>,
    progress: RwLock<Progress>,
    options: EngineOptions,
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
        let (folder, store) =
            Folder::open(path.as_ref(), |records| Store::open(records, options.cache_bytes))?;
        let mut writer = store.load_writer()?;
        let index = recover_segments(&folder, &store, &mut writer)?;
        let progress = RwLock::new(writer.progress());
        let (writer, index) = (Mutex::new(writer), RwLock::new(index));
        let applying = Mutex::default();
        Ok(Self { store, writer, applying, index, progress, options, folder })
    }

    /// The database folder.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Counters. Those of the disk are read from it.
    pub fn stats(&self) -> EngineStats {
        let progress = *self.progress.read().unwrap_or_else(PoisonError::into_inner);
        let index = self.index();
        let (segment_bytes, segment_records) = index.totals();
        let segments = index.all().len() as u64;
        drop(index);
        EngineStats {
            segments,
            segment_bytes,
            segment_records,
            pending_records: progress.pending_records,
            pending_bytes: progress.pending_bytes,
            disk_bytes: self.folder.disk_bytes(),
        }
    }

    /// The root over all segments: [`Hash::root`] of their hashes.
    pub fn root(&self) -> Hash {
        if let Some(root) = self.index().cached_root() {
            return root;
        }
        self.index.write().unwrap_or_else(PoisonError::into_inner).root()
    }

    /// Whether a node of this root has the same segments.
    pub fn compare(&self, root: &Hash) -> bool {
        self.root() == *root
    }

    /// Whether the segment is here.
    pub fn has(&self, hash: &Hash) -> bool {
        self.index().get(hash).is_some()
    }

    /// Those of `hashes` that are not here, in their order.
    pub fn missing(&self, hashes: &[Hash]) -> Vec<Hash> {
        let index = self.index();
        hashes.iter().filter(|hash| index.get(hash).is_none()).copied().collect()
    }

    /// All segments, in the order in which they were registered.
    pub fn manifest(&self) -> Vec<SegmentMeta> {
        self.index().all().to_vec()
    }

    /// How far this node is.
    pub fn watermark(&self) -> Watermark {
        self.progress.read().unwrap_or_else(PoisonError::into_inner).watermark
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
        self.publish(&writer);
        Ok(())
    }

    /// The file of a segment and its size; none when it is not here.
    ///
    /// # Errors
    /// When the file is there and can't be opened.
    pub fn open_segment(&self, hash: &Hash) -> Result<Option<(File, u64)>, EngineError> {
        let Some(len) = self.index().get(hash).map(|segment| segment.bytes) else {
            return Ok(None);
        };
        let path = self.folder.segment(hash);
        match File::open(&path) {
            Ok(file) => Ok(Some((file, len))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(EngineError::io("open", &path)(error)),
        }
    }

    /// A file to download a segment into.
    ///
    /// # Errors
    /// When it can't be made: the disk is full or read-only. When the engine writes nothing more,
    /// so that nobody downloads what can't be applied.
    pub fn stage(&self) -> io::Result<StagingFile> {
        self.store.check().map_err(io::Error::other)?;
        StagingFile::create_in(&self.folder.staging())
    }

    fn writer(&self) -> MutexGuard<'_, Writer> {
        // What a panic left is sound: memory changes only after the disk has.
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn index(&self) -> RwLockReadGuard<'_, Index> {
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets readers see how far the writer is.
    fn publish(&self, writer: &Writer) {
        *self.progress.write().unwrap_or_else(PoisonError::into_inner) = writer.progress();
    }

    fn register(&self, segment: SegmentMeta) {
        self.index.write().unwrap_or_else(PoisonError::into_inner).insert(segment);
    }

    fn unregister(&self, hash: &Hash) {
        self.index.write().unwrap_or_else(PoisonError::into_inner).remove(hash);
    }
}

/// Makes files and registrations agree after whatever happened: what is registered nowhere never
/// became visible, and goes; what has lost its file is remembered as absent.
fn recover_segments(
    folder: &Folder,
    store: &Store,
    writer: &mut Writer,
) -> Result<Index, EngineError> {
    let mut files: std::collections::HashMap<Hash, u64> =
        folder.segment_files()?.into_iter().collect();
    let mut index = Index::default();
    for segment in store.load_segments()? {
        writer.next_id = writer.next_id.max(segment.id + 1);
        match files.remove(&segment.hash) {
            Some(len) if len == segment.bytes => index.insert(segment),
            found => {
                tracing::warn!(
                    hash = %segment.hash,
                    expected_bytes = segment.bytes,
                    found_bytes = found,
                    "the file of a segment is gone or damaged; its records are safe, and the file \
                     is pulled again from a peer that has it. If none has: verify --repair"
                );
                writer.absent.insert(segment.hash, segment.id);
            }
        }
    }
    for hash in files.into_keys() {
        let path = folder.segment(&hash);
        fs::remove_file(&path).map_err(EngineError::io("remove", &path))?;
    }
    Ok(index)
}

#[cfg(test)]
mod tests;
