//! A look at the whole database: every file against its hash, every record against the segments,
//! and the way back to a sound one.
//!
//! Three things must hold. A registered segment's file is there, and is what its hash says. No
//! record is behind what a segment holds, or else a merge was lost. Every record is in a segment
//! or waits for the next flush, or else peers would never get it.

use std::collections::HashSet;
use std::fmt;
use std::io;
use std::ops::Bound;
use std::path::PathBuf;
use std::sync::PoisonError;

use fjall::PersistMode;

use super::index::Registration;
use super::record::{Stored, split};
use super::segment::{Entry, Invalid, Records};
use super::store::{LOST_RECORDS, POSITION, Pending};
use super::{Engine, EngineError, inspect};
use crate::Hash;
use crate::disk::is_no_file;

/// Problems that are told one by one; further ones are only counted.
const TOLD: usize = 100;

/// What [`Engine::verify`] found.
#[derive(Debug, Default)]
pub struct Verified {
    /// Segments that were looked at.
    pub segments: u64,
    /// Records that were looked at, tombstones and expired ones included.
    pub records: u64,
    /// The first problems, at most 100.
    pub problems: Vec<Problem>,
    /// All problems.
    pub count: u64,
    /// The record store itself can't be read: see [`Engine::rebuild`]. Nothing else was looked at,
    /// and nothing repaired.
    pub unreadable: bool,
}

/// Something in a database that should not be.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Problem {
    /// The file of a registered segment is gone or damaged, and was known to be so before.
    Missing(Hash),
    /// The file is not what its hash says, or no segment.
    Damaged(Hash, String),
    /// A stored record can't be read; its store key.
    Unreadable(Vec<u8>),
    /// A segment has a later record than the store; the segment and the store key.
    Behind(Hash, Vec<u8>),
    /// A record is in no segment and does not wait for a flush; its store key.
    Uncovered(Vec<u8>),
    /// A repair gave the segment up, and the only copy of its records with it.
    Lost(Hash),
    /// The file of a segment that is registered nowhere; what is wrong with it, if anything.
    Unregistered(Hash, Option<String>),
    /// A file of the record store is not what it was.
    Table(PathBuf, String),
    /// The record store can't be read.
    Store(String),
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(hash) => write!(
                f,
                "segment {hash}: its file is missing or damaged; it is pulled again from a \
                 peer that has it. --repair puts what was only in it into the next segment"
            ),
            Self::Damaged(hash, why) => write!(
                f,
                "segment {hash}: {why}; --repair moves the file to quarantine/, and it is pulled \
                 again from a peer that has it"
            ),
            Self::Unreadable(key) => write!(
                f,
                "record {}: it can't be read; --repair takes it from the segments",
                display_key(key)
            ),
            Self::Behind(hash, key) => write!(
                f,
                "record {}: segment {hash} has a later one; --repair merges it",
                display_key(key)
            ),
            Self::Uncovered(key) => write!(
                f,
                "record {}: it is in no segment, so no peer can pull it; --repair puts it into \
                 the next one",
                display_key(key)
            ),
            Self::Lost(hash) => write!(
                f,
                "segment {hash}: its records were in its file alone, which is gone or damaged; only \
                 a peer that has it can bring them back: run the host with one, or put a backup in \
                 the place of the database"
            ),
            Self::Unregistered(hash, None) => write!(
                f,
                "segment {hash}: its file is sound and registered nowhere; --repair, or the start \
                 of a host, registers it"
            ),
            Self::Unregistered(hash, Some(why)) => write!(
                f,
                "segment {hash}: its file is registered nowhere and {why}; --repair, or the start \
                 of a host, moves it to quarantine/"
            ),
            Self::Table(file, why) => write!(
                f,
                "record store: {}: {why}; --repair makes a new record store of the segments and of \
                 what this one can still say",
                file.display()
            ),
            Self::Store(why) => write!(
                f,
                "record store: {why}; --repair makes a new one of the segments and of what this one \
                 can still say"
            ),
        }
    }
}

/// A store key in words.
pub(super) fn display_key(key: &[u8]) -> String {
    match split(key) {
        Some((ns, key)) => format!("{} in {}", ns_or_key(key), ns_or_key(ns)),
        None => ns_or_key(key),
    }
}

fn ns_or_key(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.chars().any(char::is_control) => format!("{text:?}"),
        _ => format!("0x{}", hex::encode(bytes)),
    }
}

impl Verified {
    fn note(&mut self, problem: Problem) {
        self.count += 1;
        if self.problems.len() < TOLD {
            self.problems.push(problem);
        }
    }
}

impl Engine {
    /// Checks everything, and with `repair` fixes what can be fixed: damaged segment files go to
    /// `quarantine/`, segments without a file are forgotten, unreadable records are taken from the
    /// segments, and what no peer could pull is put into the next segment. `progress` is told how
    /// many segments are done, and of how many. For a database that nobody writes to: what comes
    /// meanwhile may look like a problem.
    ///
    /// Needs memory for a hash of each record.
    ///
    /// # Errors
    /// When the disk fails. What is wrong with the database is no error, but the result.
    pub fn verify(
        &self,
        repair: bool,
        mut progress: impl FnMut(u64, u64),
    ) -> Result<Verified, EngineError> {
        let _maintenance = self.maintenance.lock().unwrap_or_else(PoisonError::into_inner);
        let mut found = Verified::default();
        if !self.verify_store(&mut found)? {
            return Ok(found);
        }
        match self.verify_all(repair, &mut found, &mut progress) {
            Err(error) if error.is_damage() => {
                found.note(Problem::Store(error.to_string()));
                found.unreadable = true;
            }
            result => result?,
        }
        Ok(found)
    }

    /// Whether the record store can be read.
    fn verify_store(&self, found: &mut Verified) -> Result<bool, EngineError> {
        let records = self.folder.records();
        let damaged = inspect::damaged_tables(&records, false);
        for (file, why) in damaged.map_err(EngineError::io("read", &records))? {
            found.note(Problem::Table(file, why));
        }
        found.unreadable = found.count > 0;
        Ok(!found.unreadable)
    }

    fn verify_all(
        &self,
        repair: bool,
        found: &mut Verified,
        progress: &mut impl FnMut(u64, u64),
    ) -> Result<(), EngineError> {
        if repair {
            self.settle_absent()?;
            // What is in the memtable is in no file but those that may go to quarantine.
            self.drain(&mut self.writer())?;
        }
        for hash in self.store.lost_records()? {
            found.note(Problem::Lost(hash));
        }
        {
            let writer = self.writer();
            let mut missing: Vec<_> = writer.absent.keys().copied().collect();
            missing.sort_unstable();
            missing.into_iter().for_each(|hash| found.note(Problem::Missing(hash)));
        }
        for (hash, _) in self.writer().unregistered.clone() {
            let why = match self.folder.is_folder(&hash) {
                true => Some("is a folder"),
                // It came since, or went.
                false if self.has(&hash) || !self.folder.is_file(&hash) => continue,
                false => match self.folder.is_intact(&hash) {
                    Err(EngineError::Io { source, .. }) if is_no_file(&source) => {
                        Some("can't be opened")
                    }
                    intact => (!intact?).then_some("is damaged"),
                },
            };
            found.note(Problem::Unregistered(hash, why.map(str::to_owned)));
        }
        self.verify_readable(repair, found)?;
        let manifest = self.index().all().to_vec();
        let mut covered = HashSet::new();
        for (done, segment) in (0..).zip(&manifest) {
            progress(done, manifest.len() as u64);
            self.verify_segment(segment, repair, &mut covered, found)?;
        }
        progress(manifest.len() as u64, manifest.len() as u64);
        found.segments = manifest.len() as u64;
        self.verify_covered(&covered, repair, found)
    }

    fn verify_readable(&self, repair: bool, found: &mut Verified) -> Result<(), EngineError> {
        let mut unreadable = Vec::new();
        for version in self.versions((Bound::Unbounded, Bound::Unbounded)) {
            let (key, value) = version?;
            found.records += 1;
            if split(&key).is_none() || Stored::decode(&value).is_err() {
                found.note(Problem::Unreadable(key.to_vec()));
                unreadable.push(key.to_vec());
            }
        }
        if repair && !unreadable.is_empty() {
            let mut writer = self.writer();
            // What has been written since can be read.
            let still = |key: &Vec<u8>| {
                let stored = self.store.version(key, |_| ());
                split(key).is_none() || matches!(stored, Err(EngineError::Corrupt(_)))
            };
            unreadable.retain(still);
            let mut batch = self.store.batch(PersistMode::SyncAll);
            for key in &unreadable {
                batch.remove(&self.store.records, key.as_slice());
                batch.remove(&self.store.pending, key.as_slice());
            }
            self.store.commit(batch)?;
            for key in &unreadable {
                writer.forget_pending(key);
                writer.overwritten.remove(key);
            }
            self.publish(&writer)?;
        }
        Ok(())
    }

    /// One segment; adds the keys whose stored record is in it to `covered`.
    fn verify_segment(
        &self,
        segment: &Registration,
        repair: bool,
        covered: &mut HashSet<u128>,
        found: &mut Verified,
    ) -> Result<(), EngineError> {
        let hash = segment.meta.hash;
        let damaged = |why: String, found: &mut Verified| {
            found.note(Problem::Damaged(hash, why));
            if repair { self.quarantine(segment) } else { Ok(()) }
        };
        let mut reader = match self.open_checked(segment)? {
            Ok(reader) => reader,
            Err(why) => return damaged(why, found),
        };
        // Block by block: those that older versions of this host made may be of any size.
        let (mut block, mut count, mut keys) = (Records::default(), 0, HashSet::new());
        loop {
            block.clear();
            match reader.next_block(&mut block) {
                Ok(true) => {}
                Ok(false) => break,
                Err(Invalid::Rejected(why)) => return damaged(why, found),
                Err(Invalid::Io(source)) => {
                    return Err(EngineError::io("read", &self.folder.segment(&hash))(source));
                }
            }
            count += block.len() as u64;
            block.normalize();
            self.verify_block(segment, &block, repair, &mut keys, found)?;
        }
        if count != segment.meta.records {
            let why = format!("it has {count} records, not {}", segment.meta.records);
            return damaged(why, found);
        }
        covered.extend(keys);
        Ok(())
    }

    /// Some of the records of a segment.
    fn verify_block(
        &self,
        segment: &Registration,
        records: &Records,
        repair: bool,
        covered: &mut HashSet<u128>,
        found: &mut Verified,
    ) -> Result<(), EngineError> {
        let hash = segment.meta.hash;
        let (now, grace) = (self.now(), self.options.tombstone_grace);
        let mut behind = Vec::new();
        for entry in records.iter() {
            let order =
                self.version(entry.key, |there| there.map(|there| there.cmp(&entry.version)));
            match order {
                Ok(Some(std::cmp::Ordering::Equal)) => {
                    covered.insert(fingerprint(entry.key));
                }
                Ok(Some(std::cmp::Ordering::Greater)) => {}
                // The store forgets it by and by.
                Ok(None) if entry.version.is_past(now, grace) => {}
                Ok(Some(std::cmp::Ordering::Less) | None) => {
                    found.note(Problem::Behind(hash, entry.key.to_vec()));
                    behind.push(entry);
                }
                // Told before.
                Err(EngineError::Corrupt(_)) => behind.push(entry),
                Err(error) => return Err(error),
            }
        }
        if repair && !behind.is_empty() {
            covered.extend(behind.iter().map(|entry| fingerprint(entry.key)));
            self.merge(segment.meta.id, &behind)?;
        }
        Ok(())
    }

    /// A start leaves the files of segments that it can't read where they are. Those that can be read
    /// now are not missing any more; what else has their names goes to quarantine, or it would be
    /// registered nowhere after this.
    fn settle_absent(&self) -> Result<(), EngineError> {
        let mut writer = self.writer();
        for (hash, segment) in writer.absent.clone() {
            let opened = self.open_checked(&segment).unwrap_or_else(|error| Err(error.to_string()));
            if let Ok(reader) = opened
                && self.hold_chunks(&mut writer, &segment, reader)?.is_ok()
            {
                writer.absent.remove(&hash);
                self.register(Registration { drained: false, ..segment });
            } else if self.folder.is_file(&hash) {
                self.folder.set_aside(&hash)?;
            }
        }
        Ok(())
    }

    /// From here on the segment counts as missing. [`Engine::verify_covered`] makes that durable.
    pub(super) fn quarantine(&self, segment: &Registration) -> Result<(), EngineError> {
        let mut writer = self.writer();
        let hash = segment.meta.hash;
        match self.folder.set_aside(&hash) {
            // It vanished while the database was open.
            Err(EngineError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            result => drop(result?),
        }
        self.lineage().end();
        let segment = self.index().get(&hash).unwrap_or(segment).clone();
        writer.absent.insert(hash, segment);
        self.index_mut().remove(&[hash].into());
        Ok(())
    }

    /// Merges entries of a segment that is registered already, one a key.
    fn merge(&self, owner: u64, entries: &[Entry<&[u8]>]) -> Result<(), EngineError> {
        let mut writer = self.writer();
        let memtable = self.memtable();
        let mut batch = self.store.batch(PersistMode::SyncAll);
        let mut merged = Vec::new();
        for Entry { key, version, .. } in entries {
            if self.version(key, |there| there.is_none_or(|there| there < *version))? {
                self.filter.insert(key);
                batch.insert(
                    &self.store.records,
                    *key,
                    Stored { owner, version: *version }.encode(),
                );
                batch.remove(&self.store.pending, *key);
                merged.push(*key);
            }
        }
        self.store.commit(batch)?;
        for key in merged {
            writer.forget_pending(key);
            writer.note_overwritten(&memtable, key);
        }
        self.publish(&writer)?;
        Ok(())
    }

    fn verify_covered(
        &self,
        covered: &HashSet<u128>,
        repair: bool,
        found: &mut Verified,
    ) -> Result<(), EngineError> {
        let mut writer = self.writer();
        let mut position = writer.position;
        let mut uncovered = Vec::new();
        for version in self.versions((Bound::Unbounded, Bound::Unbounded)) {
            let (key, value) = version?;
            let known = covered.contains(&fingerprint(&key)) || writer.pending.contains_key(&*key);
            let Ok(stored) = Stored::decode(&value) else { continue };
            if known {
                continue;
            }
            found.note(Problem::Uncovered(key.to_vec()));
            if repair {
                position.lsn += 1;
                let pending =
                    Pending { lsn: position.lsn, bytes: (key.len() + value.len()) as u64 };
                let stored = Stored { owner: position.flush_id, ..stored };
                uncovered.push((key.to_vec(), stored.encode(), pending));
            }
        }
        if repair && !(uncovered.is_empty() && writer.absent.is_empty()) {
            // A file that has moved may be in its old place alone until its new one is synced.
            let quarantine = self.folder.quarantine();
            if !writer.absent.is_empty() && quarantine.is_dir() {
                let sync = self.folder.disk().sync_dir(&quarantine);
                sync.map_err(EngineError::io("sync", &quarantine))?;
            }
            let mut batch = self.store.batch(PersistMode::SyncAll);
            // What was in them is in the store, but for those that wait for a drain. A peer that has
            // them offers them.
            let time = self.now().to_le_bytes();
            for segment in writer.absent.values() {
                self.store.unregister(&mut batch, segment.meta.id);
                let hash = *segment.meta.hash.as_bytes();
                let mut value = time.to_vec();
                if !segment.drained {
                    // It is where they were.
                    value.push(LOST_RECORDS);
                }
                batch.insert(&self.store.lost, hash, value);
            }
            for (key, stored, pending) in &uncovered {
                self.filter.insert(key);
                batch.insert(&self.store.records, key.as_slice(), stored.as_slice());
                batch.insert(&self.store.pending, key.as_slice(), pending.encode());
            }
            batch.insert(&self.store.state, POSITION, position.encode());
            if !writer.absent.is_empty() {
                self.end_epochs(&mut batch);
            }
            self.store.commit(batch)?;
            writer.position = position;
            writer.absent.clear();
            let memtable = self.memtable();
            for (key, _, pending) in uncovered {
                writer.note_overwritten(&memtable, &key);
                writer.note_pending(key, pending);
            }
            self.publish(&writer)?;
        }
        Ok(())
    }
}

/// Enough of a hash for all keys of a database to have different ones.
fn fingerprint(key: &[u8]) -> u128 {
    let hash = blake3::hash(key);
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash.as_bytes()[..16]);
    u128::from_le_bytes(bytes)
}
