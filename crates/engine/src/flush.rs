//! Pending writes become segments.

use std::io::{self, BufWriter};
use std::path::Path;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use fjall::PersistMode;

use super::index::Registration;
use super::redirect::{Part, Redirect};
use super::segment::{Bounds, Entry, SegmentWriter};
use super::staging::StagingFile;
use super::store::{POSITION, Writer};
use super::{Engine, EngineError, Extent, SegmentMeta, StagedSegment};

/// A segment of records from the future takes no more memory than this, in bytes, so that all of
/// them can be stamped again in one step.
pub(super) const MAX_AHEAD_INFLATED: u64 = 32 << 20;

impl Engine {
    /// [`Engine::flush_all`]. Returns the last segment that it made, which most often is the only
    /// one.
    ///
    /// # Errors
    /// As there.
    pub fn flush(&self) -> Result<Option<SegmentMeta>, EngineError> {
        Ok(self.flush_all()?.pop())
    }

    /// Puts all pending writes into a segment, so that peers can pull them: into several, if one
    /// would be larger than peers take, or if some of the writes are stamped so far ahead that
    /// peers wait with them. None when nothing was pending.
    ///
    /// # Errors
    /// When the disk fails. The writes stay pending then.
    pub fn flush_all(&self) -> Result<Vec<SegmentMeta>, EngineError> {
        let mut writer = self.writer();
        let flushed = self.flush_locked(&mut writer);
        self.publish(&writer)?;
        flushed
    }

    pub(super) fn flush_locked(
        &self,
        writer: &mut Writer,
    ) -> Result<Vec<SegmentMeta>, EngineError> {
        let flushed = self.flush_pending(writer);
        let failed = flushed.as_ref().err().map(ToString::to_string);
        *self.unflushed.lock().unwrap_or_else(PoisonError::into_inner) = failed;
        flushed
    }

    fn flush_pending(&self, writer: &mut Writer) -> Result<Vec<SegmentMeta>, EngineError> {
        if writer.pending.is_empty() {
            return Ok(Vec::new());
        }
        self.store.check()?;
        let entries = writer.pending.iter().map(|(key, pending)| {
            // What the memtable has of the key is older.
            let version = self.store.version(key, |stored| {
                let stored = stored.filter(|stored| writer.position.is_of(pending, stored));
                stored.map(|stored| stored.version.to_owned())
            })?;
            let missing = || EngineError::Corrupt("a pending write has no record".to_owned());
            let version = version.ok_or_else(missing)?;
            Ok(Entry { key: key.clone(), version, lsn: pending.lsn })
        });
        let horizon = self.horizon();
        let mut made = self.write_segments::<EngineError>(entries, horizon)?;
        let mut position = writer.position;
        position.confirmed_lsn = position.lsn;
        let flush_id = position.flush_id;
        if let [one] = &mut made[..] {
            one.id = flush_id;
        } else {
            made.iter_mut().for_each(|one| one.id = position.take_id());
        }
        position.flush_id = position.take_id();

        let mut batch = self.store.batch(PersistMode::SyncAll);
        for key in writer.pending.keys() {
            batch.remove(&self.store.pending, key.as_slice());
        }
        if made.len() > 1
            && let Some(redirect) = redirect(horizon, &made)
        {
            batch.insert(&self.store.redirects, flush_id.to_be_bytes(), redirect.encode());
        }
        batch.insert(&self.store.state, POSITION, position.encode());
        let registered = self.commit_made(batch, &mut made)?;

        writer.position = position;
        writer.pending.clear();
        writer.pending_bytes = 0;
        let flushed = registered.iter().map(|segment| segment.meta.clone()).collect();
        for segment in registered {
            self.flushed.fetch_add(segment.meta.bytes, Ordering::Relaxed);
            self.register(segment);
        }
        Ok(flushed)
    }

    /// Writes entries, which must be in key order, to staged files: to one, as long as it stays
    /// within the bounds of readers, and those that are stamped after `horizon` to others.
    pub(super) fn write_segments<E: From<io::Error> + From<EngineError>>(
        &self,
        entries: impl Iterator<Item = Result<Entry, E>>,
        horizon: i64,
    ) -> Result<Vec<Made>, E> {
        let staging = self.folder.staging();
        let io = || EngineError::io("write a segment in", &staging);
        let bounds = self.options.writer_bounds();
        let ahead_bounds = Bounds { inflated: bounds.inflated.min(MAX_AHEAD_INFLATED), ..bounds };
        let (mut open, mut made) = ([None, None], Vec::new());
        for entry in entries {
            let entry = entry?;
            let ahead = entry.version.timestamp > horizon;
            let slot: &mut Option<Open> = &mut open[usize::from(ahead)];
            if let Some(full) = slot.take_if(|open| !open.writer.fits(&entry.as_ref())) {
                made.push(full.finish().map_err(io())?);
            }
            let open = match slot {
                Some(open) => open,
                None => {
                    let bounds = if ahead { ahead_bounds } else { bounds };
                    let file = self.stage_own().map_err(io())?;
                    let out = BufWriter::with_capacity(256 << 10, file);
                    let writer = SegmentWriter::new(out, bounds).map_err(io())?;
                    slot.insert(Open { writer, ahead, first: entry.key.clone() })
                }
            };
            open.writer.push(entry).map_err(io())?;
        }
        for open in open.into_iter().flatten() {
            made.push(open.finish().map_err(io())?);
        }
        made.sort_by(|a, b| (a.ahead, &a.first).cmp(&(b.ahead, &b.first)));
        Ok(made)
    }

    /// Makes files of segments, their registrations and the rest of a batch durable as one step.
    /// Nothing is registered when that fails.
    pub(super) fn commit_made(
        &self,
        batch: fjall::OwnedWriteBatch,
        made: &mut [Made],
    ) -> Result<Vec<Registration>, EngineError> {
        let now = self.now();
        let mut parts: Vec<_> = made.iter_mut().map(|one| one.part(now)).collect();
        self.commit_all(batch, &mut parts)?;
        parts.iter_mut().for_each(|(staged, ..)| staged.release());
        Ok(parts.into_iter().map(|(_, registration, _)| registration).collect())
    }

    /// Makes a segment file, its registration and the rest of a batch durable as one step. When
    /// that fails, the staged file is what it was.
    pub(super) fn commit_with(
        &self,
        batch: fjall::OwnedWriteBatch,
        staged: &mut StagedSegment,
        segment: &Registration,
        extent: &Extent,
    ) -> Result<(), EngineError> {
        self.commit_all(batch, &mut [(staged, segment.clone(), extent.clone())])
    }

    fn commit_all(
        &self,
        mut batch: fjall::OwnedWriteBatch,
        parts: &mut [(&mut StagedSegment, Registration, Extent)],
    ) -> Result<(), EngineError> {
        let paths: Vec<_> =
            parts.iter().map(|(_, segment, _)| self.folder.segment(&segment.meta.hash)).collect();
        for (i, path) in paths.iter().enumerate() {
            if let Err(error) = parts[i].0.move_to(path) {
                for (moved, (_, segment, _)) in paths[..i].iter().zip(&*parts) {
                    self.take_back(moved, segment);
                }
                return Err(EngineError::io("write", path)(error));
            }
        }
        self.note_clock(&mut batch);
        self.begin_epoch(&mut batch);
        for (_, segment, extent) in &*parts {
            let (key, value) = segment.encode();
            batch.insert(&self.store.segments, key, value);
            batch.insert(&self.store.extents, key, extent.encode());
        }
        if let Err(error) = self.folder.sync_segments() {
            for ((staged, segment, _), path) in parts.iter_mut().zip(&paths) {
                staged.link_back(path);
                self.take_back(path, segment);
            }
            return Err(error);
        }
        let committed = self.store.commit(batch);
        if committed.is_err() {
            // What became of the batch is known at the next start. If it is on disk after all, the
            // file must be there; if not, the next start adopts it.
            for ((staged, ..), path) in parts.iter_mut().zip(&paths) {
                staged.link_back(path);
            }
        }
        committed
    }

    /// Removes the file of a segment whose batch was never written. As long as it is there, a stop
    /// leaves no mark: the next start takes it for what a crash left.
    fn take_back(&self, path: &Path, segment: &Registration) {
        let is_registered = self.index().get(&segment.meta.hash).is_some();
        if !is_registered && self.folder.disk().remove(path).is_err() {
            self.has_strays.store(true, Ordering::Relaxed);
        }
    }
}

/// A segment that is being written.
struct Open {
    writer: SegmentWriter<BufWriter<StagingFile>>,
    ahead: bool,
    first: Vec<u8>,
}

impl Open {
    fn finish(self) -> io::Result<Made> {
        let Self { writer, ahead, first } = self;
        let (out, records, extent) = writer.finish()?;
        let staged = out.into_inner().map_err(io::IntoInnerError::into_error)?.finish();
        Ok(Made { staged, records, extent, ahead, first, id: 0 })
    }
}

/// A segment that was written, and is registered nowhere yet.
#[derive(Debug)]
pub(super) struct Made {
    pub(super) staged: StagedSegment,
    pub(super) records: u64,
    extent: Extent,
    /// Whether its records are from the future.
    ahead: bool,
    /// The store key of its first record.
    first: Vec<u8>,
    /// The id that it is to have.
    pub(super) id: u64,
}

impl Made {
    fn part(&mut self, now: i64) -> (&mut StagedSegment, Registration, Extent) {
        let Self { staged, records, extent, id, .. } = self;
        let meta =
            SegmentMeta { id: *id, hash: staged.hash(), bytes: staged.len(), records: *records };
        let segment = Registration { meta, own: true, tied: false, drained: true, bounded: true };
        (staged, segment, extent.clone().made(now))
    }
}

/// Who owns what was put into these segments, which are in the order of
/// [`Engine::write_segments`] and have their ids. None when there are none.
pub(super) fn redirect(horizon: i64, made: &[Made]) -> Option<Redirect> {
    if let [one] = made {
        return Some(Redirect::One(one.id));
    }
    let mut parts: Vec<Part> = Vec::new();
    for one in made {
        // The first of its kind has all that is before the second.
        let more = parts.last().is_some_and(|part| part.ahead == one.ahead);
        let first = if more { one.first.clone() } else { Vec::new() };
        parts.push(Part { id: one.id, ahead: one.ahead, first });
    }
    (!parts.is_empty()).then_some(Redirect::Split { horizon, parts })
}

impl From<io::Error> for EngineError {
    fn from(source: io::Error) -> Self {
        Self::Io { context: "can't write a segment".to_owned(), source }
    }
}
