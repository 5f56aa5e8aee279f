//! A look at the whole database: every file against its hash, every record against the segments,
//! and the way back to a sound one.
//!
//! Three things must hold. A registered segment's file is there, and is what its hash says. No
//! record is behind what a segment holds, or else a merge was lost. Every record is in a segment
//! or waits for the next flush, or else peers would never get it.

use std::collections::HashSet;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, BufReader};

use fjall::PersistMode;

use super::record::{Version, split};
use super::segment::{Entry, Invalid, Reader};
use super::store::{POSITION, Pending};
use super::{Engine, EngineError, SegmentMeta};
use crate::Hash;

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
}

/// Something in a database that should not be.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Problem {
    /// The file of a registered segment is gone or of another size, and was when the database was
    /// opened.
    Missing(Hash),
    /// The file is not what its hash says, or no segment.
    Damaged(Hash, String),
    /// A stored record can't be read; its store key.
    Unreadable(Vec<u8>),
    /// A segment has a later record than the store; the segment and the store key.
    Behind(Hash, Vec<u8>),
    /// A record is in no segment and does not wait for a flush; its store key.
    Uncovered(Vec<u8>),
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |key: &[u8]| match split(key) {
            Some((ns, key)) => format!("{} in {}", ns_or_key(key), ns_or_key(ns)),
            None => ns_or_key(key),
        };
        match self {
            Self::Missing(hash) => write!(
                f,
                "segment {hash}: its file is missing or of another size; it is pulled again from \
                 a peer that has it. --repair puts what was only in it into the next segment"
            ),
            Self::Damaged(hash, why) => write!(
                f,
                "segment {hash}: {why}; --repair moves the file to quarantine/, and it is pulled \
                 again from a peer that has it"
            ),
            Self::Unreadable(key) => write!(
                f,
                "record {}: it can't be read; --repair takes it from the segments",
                name(key)
            ),
            Self::Behind(hash, key) => write!(
                f,
                "record {}: segment {hash} has a later one; --repair merges it",
                name(key)
            ),
            Self::Uncovered(key) => write!(
                f,
                "record {}: it is in no segment, so no peer can pull it; --repair puts it into \
                 the next one",
                name(key)
            ),
        }
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
    /// Checks everything, and with `repair` mends what can be mended: damaged segment files go to
    /// `quarantine/`, segments without a file are forgotten, unreadable records are taken from the
    /// segments, and what no peer could pull is put into the next segment. `progress` is told how many segments
    /// are done, and of how many. Writes wait meanwhile.
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
        let mut found = Verified::default();
        {
            let writer = self.writer();
            let mut missing: Vec<_> = writer.absent.keys().copied().collect();
            missing.sort_unstable();
            missing.into_iter().for_each(|hash| found.note(Problem::Missing(hash)));
        }
        self.verify_readable(repair, &mut found)?;
        let manifest = self.manifest();
        let mut covered = HashSet::new();
        for (done, segment) in (0..).zip(&manifest) {
            progress(done, manifest.len() as u64);
            self.verify_segment(segment, repair, &mut covered, &mut found)?;
        }
        progress(manifest.len() as u64, manifest.len() as u64);
        found.segments = manifest.len() as u64;
        self.verify_covered(&covered, repair, &mut found)?;
        Ok(found)
    }

    fn verify_readable(&self, repair: bool, found: &mut Verified) -> Result<(), EngineError> {
        let mut unreadable = Vec::new();
        for guard in self.store.all() {
            let (key, value) = guard.into_inner()?;
            found.records += 1;
            if split(&key).is_none() || Version::decode(&value).is_err() {
                found.note(Problem::Unreadable(key.to_vec()));
                unreadable.push(key.to_vec());
            }
        }
        if repair && !unreadable.is_empty() {
            let mut writer = self.writer();
            let mut batch = self.store.batch(PersistMode::SyncAll);
            for key in &unreadable {
                batch.remove(&self.store.records, key.as_slice());
                batch.remove(&self.store.pending, key.as_slice());
            }
            self.store.commit(batch)?;
            unreadable.iter().for_each(|key| writer.forget_pending(key));
            self.publish(&writer);
        }
        Ok(())
    }

    /// One segment; adds the keys whose stored record is in it to `covered`.
    fn verify_segment(
        &self,
        segment: &SegmentMeta,
        repair: bool,
        covered: &mut HashSet<u128>,
        found: &mut Verified,
    ) -> Result<(), EngineError> {
        let hash = segment.hash;
        let entries = match self.read_registered(segment)? {
            Ok(entries) => entries,
            Err(why) => {
                found.note(Problem::Damaged(hash, why));
                return if repair { self.quarantine(segment) } else { Ok(()) };
            }
        };
        let mut behind = Vec::new();
        for entry in entries {
            let theirs = &entry.version;
            let order = self
                .store
                .version(&entry.key, |there| there.map(|there| there.cmp(&theirs.as_ref())));
            match order {
                Ok(Some(std::cmp::Ordering::Equal)) => {
                    covered.insert(fingerprint(&entry.key));
                }
                Ok(Some(std::cmp::Ordering::Greater)) => {}
                Ok(Some(std::cmp::Ordering::Less) | None) => {
                    found.note(Problem::Behind(hash, entry.key.clone()));
                    behind.push(entry);
                }
                // Told before.
                Err(EngineError::Corrupt(_)) => behind.push(entry),
                Err(error) => return Err(error),
            }
        }
        if repair && !behind.is_empty() {
            covered.extend(behind.iter().map(|entry| fingerprint(&entry.key)));
            self.merge(behind)?;
        }
        Ok(())
    }

    /// The entries of a registered segment, or what is wrong with its file.
    fn read_registered(
        &self,
        segment: &SegmentMeta,
    ) -> Result<Result<Vec<Entry>, String>, EngineError> {
        let path = self.folder.segment(&segment.hash);
        let open = || File::open(&path).map_err(EngineError::io("open", &path));
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(open()?).map_err(EngineError::io("read", &path))?;
        let actual = Hash::from(hasher.finalize());
        if actual != segment.hash {
            return Ok(Err(format!("its file has the bytes of {}", actual.short())));
        }
        let read = || -> Result<Vec<Entry>, Invalid> {
            let file = BufReader::with_capacity(256 << 10, File::open(&path)?);
            // Bounded by what it was when it was applied.
            Reader::new(file, segment.bytes, u64::MAX)?.read_all()
        };
        Ok(match read() {
            Ok(entries) if entries.len() as u64 == segment.records => Ok(entries),
            Ok(entries) => {
                Err(format!("it has {} records, not {}", entries.len(), segment.records))
            }
            Err(Invalid::Rejected(why)) => Err(why),
            Err(Invalid::Io(source)) => return Err(EngineError::io("read", &path)(source)),
        })
    }

    /// From here on the segment counts as missing.
    fn quarantine(&self, segment: &SegmentMeta) -> Result<(), EngineError> {
        let mut writer = self.writer();
        let (from, dir) = (self.folder.segment(&segment.hash), self.path().join("quarantine"));
        let to = dir.join(format!("{}.dat", segment.hash));
        let quarantine = || -> io::Result<()> {
            fs::create_dir_all(&dir)?;
            fs::rename(&from, &to)
        };
        quarantine().map_err(EngineError::io("move to quarantine", &from))?;
        self.folder.sync_segments()?;
        writer.absent.insert(segment.hash, segment.id);
        self.unregister(&segment.hash);
        Ok(())
    }

    /// Merges entries of a segment that is registered already.
    fn merge(&self, entries: Vec<Entry>) -> Result<(), EngineError> {
        let mut writer = self.writer();
        let winners = self.winners(entries)?;
        let mut batch = self.store.batch(PersistMode::SyncAll);
        self.store.put_winners(&mut batch, &writer, &winners);
        self.store.commit(batch)?;
        winners.iter().for_each(|entry| writer.forget_pending(&entry.key));
        self.publish(&writer);
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
        for guard in self.store.all() {
            let (key, value) = guard.into_inner()?;
            let known = covered.contains(&fingerprint(&key)) || writer.pending.contains_key(&*key);
            if known || Version::decode(&value).is_err() {
                continue;
            }
            found.note(Problem::Uncovered(key.to_vec()));
            if repair {
                position.lsn += 1;
                let bytes = (key.len() + value.len()) as u64;
                uncovered.push((key.to_vec(), Pending { lsn: position.lsn, bytes }));
            }
        }
        if repair && !(uncovered.is_empty() && writer.absent.is_empty()) {
            let mut batch = self.store.batch(PersistMode::SyncAll);
            // All that was in them is somewhere else now. A peer that has them offers them.
            for id in writer.absent.values() {
                batch.remove(&self.store.segments, id.to_be_bytes());
            }
            for (key, pending) in &uncovered {
                batch.insert(&self.store.pending, key.as_slice(), pending.encode());
            }
            batch.insert(&self.store.state, POSITION, position.encode());
            self.store.commit(batch)?;
            writer.position = position;
            writer.absent.clear();
            for (key, pending) in uncovered {
                writer.note_pending(key, pending);
            }
            self.publish(&writer);
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
