//! Segment files that are registered nowhere: a crash between the rename of a new file and the
//! commit of its batch leaves one, and so does whoever puts a file into `segments/`, or an older
//! `records/` beside it.
//!
//! None is removed. One whose bytes are what its name says is applied as if a peer had brought it,
//! which finishes what the crash cut short, and changes nothing where its records are here already.
//! Any other goes to `quarantine/`.

use std::collections::{BTreeMap, BTreeSet};

use fjall::PersistMode;

use super::apply::Tied;
use super::chunks::Survey;
use super::folder::Folder;
use super::index::Registration;
use super::record::Stored;
use super::segment::{Bounds, Invalid, Reader, Records};
use super::store::{POSITION, Store};
use super::{Engine, EngineError, SegmentMeta};
use crate::Hash;

/// So many files a crash may leave: one of a flush or a segment that was being applied, and one of
/// a compaction.
pub(super) const LEFT_BY_A_CRASH: usize = 2;

/// Whether a file has a record that is later than what the store has, deletes aside: those may have
/// been forgotten.
pub(super) fn has_news(
    folder: &Folder,
    store: &Store,
    hash: &Hash,
    len: u64,
) -> Result<bool, EngineError> {
    let path = folder.segment(hash);
    let file = folder.disk().open(&path).map_err(EngineError::io("open", &path))?;
    let read = || -> Result<bool, Invalid> {
        let mut reader = Reader::new(file, len, Bounds::NONE)?;
        let mut block = Records::default();
        while reader.next_block(&mut block)? {
            for entry in block.iter().filter(|entry| !entry.version.deleted) {
                let later = |there: Option<Stored<&[u8]>>| {
                    there.is_none_or(|there| there.version < entry.version)
                };
                // What can't be read of the store is lost.
                if store.version(entry.key, later).unwrap_or(true) {
                    return Ok(true);
                }
            }
            block.clear();
        }
        Ok(false)
    };
    match read() {
        Ok(news) => Ok(news),
        Err(Invalid::Rejected(_)) => Ok(false),
        Err(Invalid::Io(error)) => Err(EngineError::io("read", &path)(error)),
    }
}

impl Engine {
    /// Adopts files, or sets them aside. Returns those with which the disk did not let it do either,
    /// which are left for the next start.
    pub(super) fn adopt_all(&self, files: Vec<(Hash, u64)>) -> Vec<(Hash, u64)> {
        let mut left = Vec::new();
        for (hash, bytes) in files {
            match self.adopt(hash, bytes) {
                Ok(Ok(records)) => {
                    tracing::warn!(
                        %hash,
                        records,
                        "the file of a segment was registered nowhere; it was sound, and is \
                         registered now"
                    );
                }
                Ok(Err(why)) => match self.folder.set_aside(&hash) {
                    Ok(to) => tracing::warn!(
                        file = %to.display(),
                        "a file in segments/ was registered nowhere and {why}; it is kept in \
                         quarantine/"
                    ),
                    Err(error) => {
                        tracing::warn!(%hash, %error, "a file stays in segments/");
                        left.push((hash, bytes));
                    }
                },
                Err(error) => {
                    tracing::warn!(
                        %hash, %error, "the file of a segment is registered nowhere, and stays so"
                    );
                    left.push((hash, bytes));
                }
            }
        }
        left
    }

    /// Merges the records of a file in `segments/` and registers it. Returns how many there are, or
    /// why the file is no sound segment.
    fn adopt(&self, hash: Hash, bytes: u64) -> Result<Result<u64, String>, EngineError> {
        let meta = SegmentMeta { id: 0, hash, bytes, records: 0 };
        let file = Registration { meta, own: false, tied: false, drained: false, bounded: true };
        let mut reader = match self.open_checked(&file)? {
            Ok(reader) => reader,
            Err(why) => return Ok(Err(why)),
        };
        let mut writer = self.writer();
        self.make_room(&mut writer)?;
        let mut position = writer.position;
        let id = position.take_id();
        let mut batch = self.store.batch(PersistMode::SyncAll);
        let (mut survey, mut tied) = (Survey::new(), Tied::default());
        // A flush that was cut short: its writes are here, and wait for one.
        let mut flushed = BTreeMap::new();
        let mut overtaken = BTreeSet::new();
        let (mut keys, mut won) = (0, 0);
        // All of them, where they are few.
        let mut records = None;
        loop {
            let mut chunk = match reader.read_chunk(self.options.memtable_bytes) {
                Ok(Some(chunk)) => chunk,
                Ok(None) => break,
                Err(Invalid::Rejected(why)) => return Ok(Err(format!("is no segment: {why}"))),
                Err(Invalid::Io(source)) => {
                    return Err(EngineError::io("read", &self.folder.segment(&hash))(source));
                }
            };
            let is_all = keys == 0 && reader.is_at_end();
            survey.add(&mut chunk);
            keys += chunk.len();
            for entry in chunk.iter().filter(|entry| writer.pending.contains_key(entry.key)) {
                let same = |there: Option<Stored<&[u8]>>| {
                    there.is_some_and(|there| there.version == entry.version)
                };
                if self.store.version(entry.key, same)? {
                    flushed.insert(entry.key.to_vec(), entry.version.to_owned());
                }
            }
            tied = tied.and(self.keep_winners(&mut chunk)?);
            won += chunk.len();
            overtaken.extend(self.overtake(&writer, &chunk, &mut batch));
            records = is_all.then_some(chunk);
        }
        let (count, extent) = survey.finish();
        if won > 0 && self.check_clock(hash, extent.newest).is_err() {
            return Ok(Err("has a record that is stamped too far in the future \
                           (--max-clock-ahead)"
                .to_owned()));
        }

        position.stamp = position.stamp.max(extent.newest);
        for (key, version) in &flushed {
            let stored = Stored { owner: id, version: version.as_ref() };
            batch.insert(&self.store.records, key.as_slice(), stored.encode());
            batch.remove(&self.store.pending, key.as_slice());
        }
        let settled: BTreeSet<_> = flushed.keys().chain(&overtaken).collect();
        if settled.len() == writer.pending.len() && !flushed.is_empty() {
            position.confirmed_lsn = position.lsn;
        }
        let waits = won > 0 || tied.beside_memtable;
        let registration = Registration {
            meta: SegmentMeta { id, hash, bytes, records: count },
            own: !flushed.is_empty(),
            // Of what was here already, only the flushed writes are certain to be its own.
            tied: tied.any && won + flushed.len() < keys,
            drained: !waits,
            bounded: false,
        };
        self.begin_epoch(&mut batch);
        let (key, value) = registration.encode();
        batch.insert(&self.store.segments, key, value);
        batch.insert(&self.store.extents, key, extent.encode());
        batch.insert(&self.store.state, POSITION, position.encode());
        batch.remove(&self.store.lost, *hash.as_bytes());
        self.folder.sync_segments()?;
        self.store.commit(batch)?;

        settled.into_iter().for_each(|key| writer.forget_pending(key));
        writer.position = position;
        match records {
            Some(records) if waits => self.hold(&mut writer, id, records),
            None if waits => drop(self.hold_file(&mut writer, &registration)?),
            _ => {}
        }
        self.publish(&writer)?;
        self.register(registration);
        Ok(Ok(count))
    }
}
