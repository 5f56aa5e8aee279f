//! Pending writes become a segment.

use std::io::{self, BufWriter};
use std::sync::atomic::Ordering;

use fjall::PersistMode;

use super::index::Registration;
use super::segment::{self, Entry};
use super::store::{POSITION, Writer};
use super::{Engine, EngineError, Extent, SegmentMeta, StagedSegment};

impl Engine {
    /// Puts all pending writes into one segment, so that peers can pull them. None when there were
    /// none.
    ///
    /// # Errors
    /// When the disk fails. The writes stay pending then.
    pub fn flush(&self) -> Result<Option<SegmentMeta>, EngineError> {
        let mut writer = self.writer();
        let flushed = self.flush_locked(&mut writer);
        self.publish(&writer);
        flushed
    }

    pub(super) fn flush_locked(
        &self,
        writer: &mut Writer,
    ) -> Result<Option<SegmentMeta>, EngineError> {
        if writer.pending.is_empty() {
            return Ok(None);
        }
        self.store.check()?;
        let entries = writer.pending.iter().map(|(key, pending)| {
            // What the memtable has of the key is older.
            let version =
                self.store.version(key, |stored| stored.map(|stored| stored.version.to_owned()))?;
            let missing = || EngineError::Corrupt("a pending write has no record".to_owned());
            let version = version.ok_or_else(missing)?;
            Ok(Entry { key: key.clone(), version, lsn: pending.lsn })
        });
        let (mut staged, records, extent) = self.write_segment::<EngineError>(entries)?;
        let id = writer.position.flush_id;
        let meta = SegmentMeta { id, hash: staged.hash(), bytes: staged.len(), records };
        let segment = Registration { meta, own: true, tied: false, drained: true };
        let mut position = writer.position;
        position.confirmed_lsn = position.lsn;
        position.flush_id = position.take_id();

        let mut batch = self.store.batch(PersistMode::SyncAll);
        for key in writer.pending.keys() {
            batch.remove(&self.store.pending, key.as_slice());
        }
        batch.insert(&self.store.state, POSITION, position.encode());
        self.commit_with(batch, &mut staged, &segment, &extent.made(self.now()))?;

        writer.position = position;
        writer.pending.clear();
        writer.pending_bytes = 0;
        let meta = segment.meta.clone();
        self.flushed.fetch_add(meta.bytes, Ordering::Relaxed);
        self.register(segment);
        Ok(Some(meta))
    }

    /// Writes entries, which must be in key order, to a staged file, and says how many there are and
    /// where they lie.
    pub(super) fn write_segment<E: From<io::Error> + From<EngineError>>(
        &self,
        entries: impl Iterator<Item = Result<Entry, E>>,
    ) -> Result<(StagedSegment, u64, Extent), E> {
        let staging = self.folder.staging();
        let io = || EngineError::io("write a segment in", &staging);
        let mut out = BufWriter::with_capacity(256 << 10, self.stage().map_err(io())?);
        let (records, extent) = segment::write(&mut out, entries)?;
        let file = out.into_inner().map_err(|error| io()(error.into_error()))?;
        Ok((file.finish(), records, extent))
    }

    /// Makes a segment file, its registration and the rest of a batch durable as one step. When
    /// that fails, the staged file is what it was.
    pub(super) fn commit_with(
        &self,
        mut batch: fjall::OwnedWriteBatch,
        staged: &mut StagedSegment,
        segment: &Registration,
        extent: &Extent,
    ) -> Result<(), EngineError> {
        let path = self.folder.segment(&segment.meta.hash);
        staged.move_to(&path).map_err(EngineError::io("write", &path))?;
        self.begin_epoch(&mut batch);
        let (key, value) = segment.encode();
        batch.insert(&self.store.segments, key, value);
        batch.insert(&self.store.extents, key, extent.encode());
        let committed = self.folder.sync_segments().and_then(|()| self.store.commit(batch));
        match committed {
            Ok(()) => staged.release(),
            Err(_) => {
                // What became of the batch is known at the next start. If it is on disk after all,
                // the file must be there; if not, the file is registered nowhere and goes.
                staged.link_back(&path);
            }
        }
        committed
    }
}

impl From<io::Error> for EngineError {
    fn from(source: io::Error) -> Self {
        Self::Io { context: "can't write a segment".to_owned(), source }
    }
}
