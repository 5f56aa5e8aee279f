//! The record store: which keyspaces there are, and what the writer remembers between two writes.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::io;
use std::ops::Bound;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use fjall::compaction::Leveled;
use fjall::config::{PartitioningPolicy, PinningPolicy};
use fjall::{
    Database, Keyspace, KeyspaceCreateOptions, OwnedWriteBatch, PersistMode, Readable as _,
};

use super::index::Registration;
use super::lineage::{LINEAGE, Lineage};
use super::memtable::Memtable;
use super::open_journals::OpenJournals;
use super::record::Stored;
use super::redirect::{Redirect, Redirects};
use super::{EngineError, EngineOptions, Extent, MonotonicClock, Watermark};
use crate::Hash;

/// How long a commit waits for the disk.
const STALL: Duration = Duration::from_secs(60);

/// Just before the store would let writes wait for ever.
const HALT_TABLES: usize = 28;

/// The store begins another journal where one is longer than this, in bytes.
const MAX_JOURNAL: u64 = 64 << 20;

/// Tables that are not sorted into the others yet.
const MAX_TABLES: usize = 16;

/// Of the keyspaces besides the records. They take few bytes a write, and the journal goes on as
/// long as one of them has not been written out.
const SMALL_MEMTABLE: u64 = 4 << 20;

/// Behind the time in the value of a lost segment: no other copy of its records was here.
pub(super) const LOST_RECORDS: u8 = 1;

/// Key of the [`Position`] among the state.
pub(super) const POSITION: &[u8] = b"position";

/// The keyspaces of the database.
pub(super) struct Store {
    db: Database,
    /// Store key to [`Stored`] version.
    pub(super) records: Keyspace,
    /// Store key of each local write that is in no segment, to [`Pending`].
    pub(super) pending: Keyspace,
    /// Segments by id, to [`Registration`].
    pub(super) segments: Keyspace,
    /// Segments by id, to [`Extent`](super::Extent): those that were registered since this is noted.
    pub(super) extents: Keyspace,
    /// Hashes of segments that are not needed any more, to when they went (Unix nanoseconds).
    pub(super) retired: Keyspace,
    /// Store keys of which a retired segment had an older version, beneath what may be forgotten one
    /// day, to when it went (Unix nanoseconds).
    pub(super) shadowed: Keyspace,
    /// Hashes of segments that a repair gave up, because their files were gone, to when.
    pub(super) lost: Keyspace,
    /// Ids of segments, and of flushes that made several, to the [`Redirect`] of what they owned.
    pub(super) redirects: Keyspace,
    pub(super) state: Keyspace,
    /// Set once a commit has failed.
    pub(super) poisoned: AtomicBool,
    /// What failed first.
    poison: OnceLock<Poison>,
    /// Set once the files have turned out to be another database's.
    replaced: AtomicBool,
    /// None until the database is open to be written, and where nothing is.
    journals: OnceLock<Mutex<OpenJournals>>,
    /// Nothing is written.
    read_only: bool,
    monotonic: MonotonicClock,
}

/// Why nothing more is written.
#[derive(Debug)]
struct Poison {
    why: String,
    /// Of space, descriptors or memory: see [`EngineError::is_shortage`].
    shortage: bool,
}

/// How far the writer is. On disk in the same batch as what it speaks of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Position {
    /// Of the last local write.
    pub(super) lsn: u64,
    /// Of the last local write that is in a segment.
    pub(super) confirmed_lsn: u64,
    pub(super) write_token: u64,
    /// The latest stamp that was given or seen, so that the clock may go back.
    pub(super) stamp: i64,
    /// The id that the segment of the next flush will have, and owner of what is pending.
    pub(super) flush_id: u64,
    /// No segment had this id, nor a higher one.
    pub(super) next_id: u64,
}

/// A local write that is in no segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pending {
    pub(super) lsn: u64,
    /// Of key and value.
    pub(super) bytes: u64,
}

/// What only the one writer needs, and the store can give again.
#[derive(Debug, Default)]
pub(super) struct Writer {
    pub(super) position: Position,
    pub(super) pending: BTreeMap<Vec<u8>, Pending>,
    pub(super) pending_bytes: u64,
    /// Keys of the memtable that were written since, and so are later in the store.
    pub(super) overwritten: HashSet<Vec<u8>>,
    /// Registered segments whose files are gone.
    pub(super) absent: HashMap<Hash, Registration>,
    /// Segment files that are registered nowhere, with their sizes: of a database that is open to
    /// read alone, all; else those that the disk did not let it adopt.
    pub(super) unregistered: Vec<(Hash, u64)>,
}

/// What readers see of the writer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Progress {
    pub(super) watermark: Watermark,
    pub(super) next_id: u64,
    pub(super) pending_records: u64,
    pub(super) pending_bytes: u64,
    /// See [`Position::stamp`].
    pub(super) stamp: i64,
}

impl Store {
    /// Opens or makes a record store. The store panics where a file is not what it expects, and that
    /// is an error here as well.
    pub(super) fn open(
        path: &Path,
        options: &EngineOptions,
        read_only: bool,
    ) -> Result<Self, EngineError> {
        let open = || Self::open_at(path, options, read_only);
        std::panic::catch_unwind(AssertUnwindSafe(open)).unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<&str>().map(ToString::to_string);
            let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
            Err(EngineError::Corrupt(format!(
                "the record store {} can't be opened ({text}). Put a backup in the place of the \
                 database, or run `edgestore-host verify --repair`",
                path.display()
            )))
        })
    }

    fn open_at(path: &Path, options: &EngineOptions, read_only: bool) -> Result<Self, EngineError> {
        // The store makes this empty file with the others, and opens nothing without it.
        let lock = path.join("lock");
        if path.join("version").exists() && !lock.exists() {
            File::create(&lock).map_err(EngineError::io("make", &lock))?;
        }
        // With several, one of them spins while another one compacts.
        let builder = Database::builder(path).cache_size(options.cache_bytes).worker_threads(1);
        let db = builder.open().map_err(|error| match error {
            fjall::Error::Locked => EngineError::Locked { path: path.to_owned() },
            error => error.into(),
        })?;
        let small = || KeyspaceCreateOptions::default().max_memtable_size(SMALL_MEMTABLE);
        let open = |name| db.keyspace(name, small);
        Ok(Self {
            records: db.keyspace("records", || {
                // Their indexes and filters are in the cache, like their blocks, and so bounded; in
                // parts, for what does not fit into it is read again for each look.
                let (pinned, parts) = (PinningPolicy::all(false), PartitioningPolicy::all(true));
                // A compaction takes memory for each of its tables' filters.
                let strategy = Leveled::default().with_table_target_size(16 << 20);
                KeyspaceCreateOptions::default()
                    .compaction_strategy(Arc::new(strategy))
                    .index_block_pinning_policy(pinned.clone())
                    .filter_block_pinning_policy(pinned)
                    .index_block_partitioning_policy(parts.clone())
                    .filter_block_partitioning_policy(parts)
            })?,
            pending: open("pending")?,
            segments: open("segments")?,
            extents: open("extents")?,
            retired: open("retired")?,
            shadowed: open("hidden")?,
            lost: open("lost")?,
            redirects: open("heirs")?,
            state: open("state")?,
            db,
            poisoned: AtomicBool::new(false),
            poison: OnceLock::new(),
            replaced: AtomicBool::new(false),
            journals: OnceLock::new(),
            read_only,
            monotonic: options.monotonic.clone(),
        })
    }

    /// Whether there are no records.
    pub(super) fn is_empty(&self) -> Result<bool, EngineError> {
        Ok(self.records.is_empty()?)
    }

    /// Nothing more is written: what became of the last batch is known when the database is opened
    /// again.
    pub(super) fn poison(&self, error: impl Into<EngineError>) -> EngineError {
        let error = error.into();
        let shortage = error.is_shortage();
        let advice = match (error.is_damage(), shortage) {
            (true, _) => "",
            _ if matches!(error, EngineError::Panicked) => {
                ": please report this, and restart; acknowledged writes are on the disk"
            }
            (_, true) => {
                ". A host opens the database again by itself once there is room; acknowledged writes \
                 are on the disk"
            }
            (_, false) => {
                ": see that the disk has space and is healthy, then restart; acknowledged writes are \
                 on it"
            }
        };
        // The first failure is the cause of the others.
        let _ = self.poison.set(Poison { why: format!("{error}{advice}"), shortage });
        self.poisoned.store(true, Ordering::Relaxed);
        error
    }

    /// Whether nothing more is written for want of space, descriptors or memory.
    pub(super) fn is_short(&self) -> bool {
        self.poisoned.load(Ordering::Relaxed)
            && !self.replaced.load(Ordering::Relaxed)
            && self.poison.get().is_some_and(|poison| poison.shortage)
    }

    /// Whether the files have turned out to be another database's.
    pub(super) fn is_replaced(&self) -> bool {
        self.replaced.load(Ordering::Relaxed)
    }

    /// Notices where a thread of the record store has failed, while nobody writes.
    pub(super) fn look(&self) {
        if !self.read_only
            && !self.poisoned.load(Ordering::Relaxed)
            && let Err(error) = self.db.persist(PersistMode::Buffer)
        {
            self.poison(error);
        }
    }

    /// Nothing more is written, as the files are another database's, or gone.
    pub(super) fn give_up(&self) -> EngineError {
        let why = EngineError::Replaced.to_string();
        let _ = self.poison.set(Poison { why, shortage: false });
        self.replaced.store(true, Ordering::Relaxed);
        self.poisoned.store(true, Ordering::Relaxed);
        EngineError::Replaced
    }

    /// [`Store::give_up`] where the files are not those that were opened.
    pub(super) fn give_up_unless(&self, in_place: bool) -> Result<(), EngineError> {
        if in_place { Ok(()) } else { Err(self.give_up()) }
    }

    /// Why nothing more is written; `None` where writes go on.
    pub(super) fn poisoned(&self) -> Option<String> {
        let unknown = || "a commit failed".to_owned();
        let poisoned = self.poisoned.load(Ordering::Relaxed);
        poisoned.then(|| self.poison.get().map(|poison| poison.why.clone()).unwrap_or_else(unknown))
    }

    /// Whether a write may succeed at all.
    pub(super) fn check(&self) -> Result<(), EngineError> {
        if self.read_only {
            return Err(EngineError::ReadOnly);
        }
        if self.replaced.load(Ordering::Relaxed) {
            return Err(EngineError::Replaced);
        }
        if self.poisoned.load(Ordering::Relaxed) {
            return Err(fjall::Error::Poisoned.into());
        }
        Ok(())
    }

    /// Watches the journals in `records` from now on.
    pub(super) fn watch_journals(&self, records: &Path) -> io::Result<()> {
        let _ = self.journals.set(Mutex::new(OpenJournals::open(records)?));
        Ok(())
    }

    /// Asks whether the journals are as this store left them, also where the system does not say.
    pub(super) fn journals_are(&self, ask: impl FnOnce(&mut OpenJournals) -> bool) -> bool {
        let Some(journals) = self.journals.get() else { return true };
        ask(&mut journals.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether all journals are where this store has put them.
    pub(super) fn journals_are_in_place(&self) -> bool {
        self.journals_are(|journals| journals.are_in_place(|| self.db.journal_count()))
    }

    /// Makes a batch durable and visible. After an error nothing more is written: what became of
    /// the batch is known at the next start.
    ///
    /// # Errors
    /// [`EngineError::Replaced`] before anything is written, where the journal was cut.
    pub(super) fn commit(&self, batch: OwnedWriteBatch) -> Result<(), EngineError> {
        self.check()?;
        // The store's own commit waits for four memtables to get to disk, or while it has 30 tables
        // to compact, and for ever when the disk is full.
        self.wait_while(|| {
            self.records.sealed_memtable_count() > 2
                || self.pending.sealed_memtable_count() > 2
                || self.shadowed.sealed_memtable_count() > 2
                || self.records.l0_table_count() > HALT_TABLES
        })?;
        // A batch may be longer than what was cut.
        self.give_up_unless(self.journals_are(OpenJournals::is_whole))?;
        batch.commit().map_err(|error| self.poison(error))?;
        self.give_up_unless(self.journals_are(OpenJournals::is_whole_after_commit))
    }

    /// Each ingestion makes a table or two that reads look into, until they have been compacted.
    /// Waits until there are not too many of them.
    pub(super) fn wait_for_tables(&self) -> Result<(), EngineError> {
        self.wait_while(|| self.has_many_tables())
    }

    pub(super) fn has_many_tables(&self) -> bool {
        self.records.l0_table_count() > MAX_TABLES
    }

    /// What it waits for are threads of the store, which run on the machine, as does the pause between
    /// two looks. How long is too long goes by the engine's clock: in a simulation that stands still
    /// meanwhile, so that no run depends on how fast a machine is.
    fn wait_while(&self, busy: impl Fn() -> bool) -> Result<(), EngineError> {
        let start = self.monotonic.now();
        while busy() {
            if self.monotonic.now().saturating_sub(start) > STALL {
                return Err(EngineError::Stalled(STALL));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    pub(super) fn batch(&self, mode: PersistMode) -> OwnedWriteBatch {
        self.db.batch().durability(Some(mode))
    }

    /// The records of a range of store keys, as they are now.
    pub(super) fn range(&self, range: (Bound<Vec<u8>>, Bound<Vec<u8>>)) -> fjall::Iter {
        self.db.snapshot().range(&self.records, range)
    }

    /// What is known of the records of segments whose id is at least `first`, by id, as it is now.
    pub(super) fn extents_from(&self, first: u64) -> fjall::Iter {
        self.db.snapshot().range(&self.extents, first.to_be_bytes()..)
    }

    /// What is known of the records of one segment.
    pub(super) fn extent(&self, id: u64) -> Result<Option<Extent>, EngineError> {
        Ok(self.extents.get(id.to_be_bytes())?.and_then(|value| Extent::decode(&value)))
    }

    /// Adds to a batch that a segment is not registered any more.
    pub(super) fn unregister(&self, batch: &mut OwnedWriteBatch, id: u64) {
        batch.remove(&self.segments, id.to_be_bytes());
        batch.remove(&self.extents, id.to_be_bytes());
    }

    /// All keyspaces as they are now.
    pub(super) fn snapshot(&self) -> fjall::Snapshot {
        self.db.snapshot()
    }

    /// Runs `read` on what is stored under a key.
    pub(super) fn version<T>(
        &self,
        key: &[u8],
        read: impl FnOnce(Option<Stored<&[u8]>>) -> T,
    ) -> Result<T, EngineError> {
        decoded(self.records.get(key)?, read)
    }

    /// As [`Store::version`], but never between the records of a batch that is being committed.
    pub(super) fn committed_version<T>(
        &self,
        key: &[u8],
        read: impl FnOnce(Option<Stored<&[u8]>>) -> T,
    ) -> Result<T, EngineError> {
        decoded(self.db.snapshot().get(&self.records, key)?, read)
    }

    /// Puts many records into the store at once, in ascending key order, past its journal and
    /// memtable. Durable when it returns. After an error nothing more is written.
    pub(super) fn ingest<K: AsRef<[u8]>>(
        &self,
        records: impl IntoIterator<Item = (K, Vec<u8>)>,
    ) -> Result<(), EngineError> {
        self.check()?;
        let ingest = || -> fjall::Result<()> {
            // What is before it in the store's memtable becomes durable with it, and its journal
            // must be, too. The store rotates its journal only when it rotates a memtable.
            self.db.persist(PersistMode::SyncAll)?;
            if self.db.journal_disk_space()? > MAX_JOURNAL {
                self.records.rotate_memtable()?;
            }
            let mut ingestion = self.records.start_ingestion()?;
            for (key, value) in records {
                ingestion.write(key.as_ref(), value)?;
            }
            ingestion.finish()
        };
        ingest().map_err(|error| self.poison(error))
    }

    pub(super) fn load_writer(&self) -> Result<Writer, EngineError> {
        let mut writer = Writer::default();
        if let Some(bytes) = self.state.get(POSITION)? {
            writer.position = Position::decode(&bytes)?;
        }
        for guard in self.pending.iter() {
            let (key, value) = guard.into_inner()?;
            writer.note_pending(key.to_vec(), Pending::decode(&value)?);
        }
        Ok(writer)
    }

    /// Keys of local writes that are in no segment, and that the store has lost, or has in an older
    /// version.
    pub(super) fn lost_pending(&self, writer: &Writer) -> Result<Vec<Vec<u8>>, EngineError> {
        let mut lost = Vec::new();
        for (key, pending) in &writer.pending {
            let is_here = |stored: Option<Stored<&[u8]>>| {
                stored.is_some_and(|stored| writer.position.is_of(pending, &stored))
            };
            match self.version(key, is_here) {
                Ok(true) => {}
                Ok(false) => lost.push(key.clone()),
                // It is told by who reads it.
                Err(EngineError::Corrupt(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(lost)
    }

    /// `seed`: of the ids of epochs; none takes a random one.
    pub(super) fn load_lineage(&self, seed: Option<u64>) -> Result<Lineage, EngineError> {
        Ok(Lineage::decode(self.state.get(LINEAGE)?.as_deref(), seed))
    }

    pub(super) fn load_segments(&self) -> Result<Vec<Registration>, EngineError> {
        let load = |guard: fjall::Guard| {
            let (key, value) = guard.into_inner()?;
            Registration::decode(&key, &value)
        };
        self.segments.iter().map(load).collect()
    }

    pub(super) fn load_redirects(&self) -> Result<Redirects, EngineError> {
        let load = |guard: fjall::Guard| {
            let (from, to) = guard.into_inner()?;
            let from = <[u8; 8]>::try_from(&*from).ok().map(u64::from_be_bytes);
            match from.zip(Redirect::decode(&to)) {
                Some(redirect) => Ok(redirect),
                None => corrupt("who took over from a segment"),
            }
        };
        self.redirects.iter().map(load).collect()
    }

    /// Segments that a repair gave up, with what is noted of each.
    pub(super) fn load_lost(&self) -> Result<BTreeMap<Hash, Vec<u8>>, EngineError> {
        let load = |guard: fjall::Guard| {
            let (hash, note) = guard.into_inner()?;
            match <[u8; 32]>::try_from(&*hash) {
                Ok(hash) => Ok((Hash::from_bytes(hash), note.to_vec())),
                Err(_) => corrupt("a lost segment"),
            }
        };
        self.lost.iter().map(load).collect()
    }

    /// Segments that a repair gave up with the only copy of their records.
    pub(super) fn lost_records(&self) -> Result<Vec<Hash>, EngineError> {
        let lost = self.load_lost()?.into_iter();
        let lost = lost.filter(|(_, note)| note.get(8) == Some(&LOST_RECORDS));
        Ok(lost.map(|(hash, _)| hash).collect())
    }

    /// Whether the segment was here and is not needed any more.
    pub(super) fn was_retired(&self, hash: &Hash) -> Result<bool, EngineError> {
        Ok(self.retired.contains_key(hash.as_bytes())?)
    }

    pub(super) fn load_retired(&self) -> Result<HashSet<Hash>, EngineError> {
        let load = |guard: fjall::Guard| {
            let hash = <[u8; 32]>::try_from(&*guard.key()?);
            hash.map(Hash::from_bytes).or_else(|_| corrupt("the hash of a retired segment"))
        };
        self.retired.iter().map(load).collect()
    }
}

fn decoded<T>(
    found: Option<fjall::UserValue>,
    read: impl FnOnce(Option<Stored<&[u8]>>) -> T,
) -> Result<T, EngineError> {
    Ok(read(found.as_deref().map(Stored::decode).transpose()?))
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").finish_non_exhaustive()
    }
}

impl Writer {
    pub(super) fn note_pending(&mut self, key: Vec<u8>, pending: Pending) {
        self.pending_bytes += pending.bytes;
        if let Some(old) = self.pending.insert(key, pending) {
            self.pending_bytes -= old.bytes;
        }
    }

    /// To be told of what the store has of a key later than the memtable.
    pub(super) fn note_overwritten(&mut self, memtable: &Memtable, key: &[u8]) {
        if memtable.get(key).is_some() {
            self.overwritten.insert(key.to_vec());
        }
    }

    pub(super) fn forget_pending(&mut self, key: &[u8]) {
        if let Some(old) = self.pending.remove(key) {
            self.pending_bytes -= old.bytes;
        }
    }

    pub(super) fn progress(&self) -> Progress {
        let Position { confirmed_lsn, write_token, stamp, next_id, .. } = self.position;
        Progress {
            watermark: Watermark { confirmed_lsn, write_token },
            next_id,
            pending_records: self.pending.len() as u64,
            pending_bytes: self.pending_bytes,
            stamp,
        }
    }
}

impl Default for Position {
    fn default() -> Self {
        Self { lsn: 0, confirmed_lsn: 0, write_token: 0, stamp: 0, flush_id: 0, next_id: 1 }
    }
}

impl Position {
    /// An id for another segment.
    pub(super) fn take_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id - 1
    }

    /// Whether what is stored under the key of a pending write is that write, as far as its owner
    /// says. What is in a segment already has another one.
    pub(super) fn is_of(&self, pending: &Pending, stored: &Stored<&[u8]>) -> bool {
        stored.owner == self.flush_id || pending.lsn <= self.confirmed_lsn
    }

    /// All fields, little-endian, in their order.
    pub(super) fn encode(&self) -> Vec<u8> {
        let Self { lsn, confirmed_lsn, write_token, stamp, flush_id, next_id } = *self;
        [
            lsn.to_le_bytes(),
            confirmed_lsn.to_le_bytes(),
            write_token.to_le_bytes(),
            stamp.to_le_bytes(),
            flush_id.to_le_bytes(),
            next_id.to_le_bytes(),
        ]
        .concat()
    }

    fn decode(bytes: &[u8]) -> Result<Self, EngineError> {
        let (words, []) = bytes.as_chunks::<8>() else { return corrupt("the writer's position") };
        let &[lsn, confirmed_lsn, write_token, stamp, flush_id, next_id] = words else {
            return corrupt("the writer's position");
        };
        Ok(Self {
            lsn: u64::from_le_bytes(lsn),
            confirmed_lsn: u64::from_le_bytes(confirmed_lsn),
            write_token: u64::from_le_bytes(write_token),
            stamp: i64::from_le_bytes(stamp),
            flush_id: u64::from_le_bytes(flush_id),
            next_id: u64::from_le_bytes(next_id),
        })
    }
}

impl Pending {
    pub(super) fn encode(&self) -> Vec<u8> {
        [self.lsn.to_le_bytes(), self.bytes.to_le_bytes()].concat()
    }

    fn decode(bytes: &[u8]) -> Result<Self, EngineError> {
        let (&[lsn, bytes], []) = bytes.as_chunks::<8>() else {
            return corrupt("the mark of a pending write");
        };
        Ok(Self { lsn: u64::from_le_bytes(lsn), bytes: u64::from_le_bytes(bytes) })
    }
}

fn corrupt<T>(what: &str) -> Result<T, EngineError> {
    Err(EngineError::Corrupt(what.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::test_folder;

    #[test]
    fn how_long_the_store_may_stall_goes_by_the_engines_clock() {
        let dir = test_folder();
        let secs = std::sync::atomic::AtomicU64::new(0);
        let monotonic = MonotonicClock::new(move || {
            Duration::from_secs(secs.fetch_add(STALL.as_secs() / 2, Ordering::Relaxed))
        });
        let options = EngineOptions { monotonic, ..EngineOptions::default() };
        let store = Store::open(&dir.path().join("records"), &options, false).unwrap();
        assert!(matches!(store.wait_while(|| true), Err(EngineError::Stalled(STALL))));
        store.wait_while(|| false).unwrap();
    }
}
