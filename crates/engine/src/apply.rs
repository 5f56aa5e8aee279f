//! A peer's segment becomes part of this node.

use std::cmp::Ordering;
use std::sync::atomic::{self, AtomicU64};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use fjall::{OwnedWriteBatch, PersistMode};

use super::chunks::Survey;
use super::extent::{Extent, Measure};
use super::index::Registration;
use super::memtable::{Cursors, Run};
use super::record::Stored;
use super::segment::{Entry, Invalid, Records};
use super::store::{POSITION, Writer};
use super::{Applied, ApplyError, Engine, EngineError, SegmentMeta, StagedSegment};
use crate::Hash;

impl Engine {
    /// Merges a segment's records and registers it, in one durable step. The whole segment is
    /// checked first. When this is done, the staged file has become the segment file.
    ///
    /// # Errors
    /// [`ApplyError::Rejected`] when the bytes are no segment, which no further try changes.
    /// [`ApplyError::ClockAhead`] when a record is from the future, until it is not.
    /// [`ApplyError::Storage`] when the disk fails; the same staged segment can be applied again.
    pub fn apply(&self, segment: &mut StagedSegment) -> Result<Applied, ApplyError> {
        let applied = self.apply_checked(segment);
        if let Err(ApplyError::Rejected { hash, why }) = &applied {
            self.note_rejected(*hash, why);
        }
        applied
    }

    fn apply_checked(&self, segment: &mut StagedSegment) -> Result<Applied, ApplyError> {
        let hash = segment.hash();
        // Of two peers that bring the same segment, the second finds it here and reads nothing.
        let _applying = self.applying.lock().unwrap_or_else(PoisonError::into_inner);
        if self.was_here(&hash)? {
            return Ok(Applied { duplicate: true, ..Applied::default() });
        }
        self.store.check()?;
        let Prepared { mut records, count, extent, .. } = match segment.prepared.take() {
            Some(prepared) => *prepared,
            None => self.read_ahead(segment, self.options.memtable_bytes, None)?,
        };
        self.check_clock(hash, extent.newest)?;
        if self.is_full() {
            // Local writes need not wait for that.
            self.store.wait_for_tables()?;
        }
        let mut writer = self.writer();
        if self.was_here(&hash)? {
            return Ok(Applied { duplicate: true, ..Applied::default() });
        }
        self.make_room(&mut writer)?;
        let mut batch = self.store.batch(PersistMode::SyncAll);
        let (tied, overtaken) = match &mut records {
            Some(records) => {
                let tied = self.keep_winners(records)?;
                (tied, self.overtake(&writer, records, &mut batch))
            }
            None => (Tied::MAYBE, self.overtake_in_chunks(&writer, segment, &mut batch)?),
        };
        let mut position = writer.position;
        position.stamp = position.stamp.max(extent.newest);
        let id = position.take_id();
        let known = writer.absent.get(&hash);
        if let Some(known) = known {
            self.store.unregister(&mut batch, known.meta.id);
        }
        batch.remove(&self.store.lost, *hash.as_bytes());
        let waits =
            records.as_ref().is_none_or(|records| records.len() > 0) || tied.beside_memtable;
        let registration = Registration {
            meta: SegmentMeta { id, hash, bytes: segment.len(), records: count },
            own: known.is_some_and(|known| known.own),
            tied: tied.any,
            drained: !waits,
            bounded: false,
        };
        batch.insert(&self.store.state, POSITION, position.encode());
        self.commit_with(batch, segment, &registration, &extent)?;

        overtaken.iter().for_each(|key| writer.forget_pending(key));
        writer.position = position;
        writer.absent.remove(&hash);
        let written = match records {
            Some(records) => {
                let written = records.len() as u64;
                if waits {
                    self.hold(&mut writer, id, records);
                }
                written
            }
            None => {
                let held = self.hold_file(&mut writer, &registration);
                held.inspect_err(|_| segment.link_back(&self.folder.segment(&hash)))?
            }
        };
        segment.release();
        self.publish(&writer)?;
        self.register(registration);
        Ok(Applied { written, skipped: count.saturating_sub(written), duplicate: false })
    }

    /// Adds to a batch that local writes which lose against these records do not wait for a flush any
    /// more. Returns their keys.
    pub(super) fn overtake(
        &self,
        writer: &Writer,
        records: &Records,
        batch: &mut OwnedWriteBatch,
    ) -> Vec<Vec<u8>> {
        let pending = |key: &&[u8]| writer.pending.contains_key(*key);
        let overtaken = records.iter().map(|entry| entry.key).filter(pending);
        let overtaken: Vec<_> = overtaken.map(<[u8]>::to_vec).collect();
        overtaken.iter().for_each(|key| batch.remove(&self.store.pending, key.as_slice()));
        overtaken
    }

    /// Takes what won of a registered segment into the memtable.
    pub(super) fn hold(&self, writer: &mut Writer, id: u64, records: Records) {
        self.hold_part(writer, id, records);
        self.set_memtable(self.memtable().with(id, Run::new(id, Records::default())));
    }

    /// The same of a part of it. [`Engine::hold`] of the last one says that it was.
    pub(super) fn hold_part(&self, writer: &mut Writer, id: u64, records: Records) {
        // What was written locally meanwhile is not the latest any more.
        if !writer.overwritten.is_empty() {
            for entry in records.iter() {
                writer.overwritten.remove(entry.key);
            }
        }
        self.set_memtable(self.memtable().with_part(Run::new(id, records)));
    }

    /// What is stamped too far ahead would win over all that nodes with a right clock write, and
    /// drag their clocks along.
    pub(super) fn check_clock(&self, hash: Hash, latest: i64) -> Result<(), ApplyError> {
        let ahead = u64::try_from(i128::from(latest) - i128::from(self.now())).unwrap_or(0);
        let (ahead, bound) = (Duration::from_nanos(ahead), self.options.max_clock_ahead);
        if ahead <= bound {
            return Ok(());
        }
        let ahead = Duration::from_secs(ahead.as_secs());
        Err(ApplyError::ClockAhead { hash, ahead, bound })
    }

    /// Does what can be done ahead of [`Engine::apply`], and beside it: the bytes go to disk, all of
    /// them are checked, and the records stay in memory where there is room. What fails here fails
    /// there again, with its error.
    pub fn prepare(&self, segment: &mut StagedSegment) {
        // What the records take is not known yet. Those that take more are read again when it is
        // their turn.
        let bytes = segment.len().saturating_mul(4).min(self.options.max_segment_inflated_bytes);
        let most = self.options.prepared_bytes;
        let share = Share::take(&self.prepared, bytes, most);
        // There is room for it later.
        if share.is_none() && bytes <= most {
            return;
        }
        if segment.sync().is_ok() {
            let held = share.as_ref().map_or(0, |share| share.bytes);
            segment.prepared = self.read_ahead(segment, held, share).ok().map(Box::new);
        }
    }

    /// Reads a segment through. Its records are held where they take no more than so many bytes.
    fn read_ahead(
        &self,
        segment: &mut StagedSegment,
        held: u64,
        share: Option<Share>,
    ) -> Result<Prepared, ApplyError> {
        let hash = segment.hash();
        let read = || -> Result<Prepared, Invalid> {
            let mut reader = segment.reader(self.options.reader_bounds())?;
            let mut records = reader.read_chunk(held)?.unwrap_or_default();
            if reader.is_at_end() {
                let count = records.len() as u64;
                records.normalize();
                let extent = extent_of(&records);
                return Ok(Prepared { records: Some(records), count, extent, _share: share });
            }
            let mut survey = Survey::new();
            survey.add(&mut records);
            drop((records, share));
            while let Some(mut records) = reader.read_chunk(self.options.memtable_bytes)? {
                survey.add(&mut records);
            }
            let (count, extent) = survey.finish();
            Ok(Prepared { records: None, count, extent, _share: None })
        };
        read().map_err(|invalid| not_applied(hash, invalid))
    }

    /// Of a segment's records, in key order, leaves those that win over what is here.
    pub(super) fn keep_winners(&self, records: &mut Records) -> Result<Tied, EngineError> {
        let mut tied = Tied::default();
        let Some(last) = records.len().checked_sub(1) else { return Ok(tied) };
        let memtable = self.memtable();
        let mut cursors = Cursors::new(memtable.runs());
        let range = records.key(0)..=records.key(last);
        let stored = self.store.records.range(range).next().is_some();
        let mut winners = Vec::with_capacity(records.len());
        for i in 0..records.len() {
            let Entry { key, version, .. } = records.get(i);
            let against = |there: Stored<&[u8]>| {
                #[cfg(any(test, feature = "testing"))]
                if self.options.ties_keep_local
                    && version.timestamp == there.version.timestamp
                    && version > there.version
                {
                    return Ordering::Less;
                }
                version.cmp(&there.version)
            };
            let mut there = cursors.get(key).map(against);
            tied.beside_memtable |= there.is_some();
            if stored && there.is_none_or(Ordering::is_gt) && self.filter.may_contain(key) {
                let order = self.store.version(key, |stored| stored.map(against).or(there));
                there = match order {
                    Ok(order) => order,
                    // It may be later. A repair takes the latest of all segments.
                    Err(EngineError::Corrupt(_)) => Some(Ordering::Less),
                    Err(error) => return Err(error),
                };
            }
            match there {
                None | Some(Ordering::Greater) => winners.push(i),
                Some(Ordering::Equal) => tied.any = true,
                Some(Ordering::Less) => {}
            }
        }
        if winners.len() < records.len() {
            records.keep(&winners);
        }
        Ok(tied)
    }
}

pub(super) fn not_applied(hash: Hash, invalid: Invalid) -> ApplyError {
    match invalid {
        Invalid::Rejected(why) => ApplyError::Rejected { hash, why },
        Invalid::Io(source) => {
            let context = format!("can't read the staged segment {hash}");
            ApplyError::Storage(EngineError::Io { context, source })
        }
    }
}

/// The extent of records in key order.
fn extent_of(records: &Records) -> Extent {
    let mut measure = Measure::new();
    records.iter().for_each(|entry| measure.add(entry.key, entry.version.timestamp));
    measure.finish()
}

/// Whether records are here already.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Tied {
    pub(super) any: bool,
    /// Some of their keys are in the memtable, and so in files alone.
    pub(super) beside_memtable: bool,
}

impl Tied {
    /// Where nobody has looked.
    const MAYBE: Self = Self { any: true, beside_memtable: true };

    /// Of these records and others.
    pub(super) fn and(self, other: Self) -> Self {
        Self {
            any: self.any || other.any,
            beside_memtable: self.beside_memtable || other.beside_memtable,
        }
    }
}

/// A segment that was read ahead.
#[derive(Debug)]
pub(super) struct Prepared {
    /// In key order, each key once. None where they take too much memory to be held together.
    records: Option<Records>,
    /// How many there are in the file.
    count: u64,
    extent: Extent,
    _share: Option<Share>,
}

/// A share of a bounded number of bytes. It is free again when this is dropped.
#[derive(Debug)]
struct Share {
    all: Arc<AtomicU64>,
    bytes: u64,
}

impl Share {
    fn take(all: &Arc<AtomicU64>, bytes: u64, bound: u64) -> Option<Self> {
        let more = |taken: u64| taken.checked_add(bytes).filter(|&sum| sum <= bound);
        let relaxed = atomic::Ordering::Relaxed;
        all.fetch_update(relaxed, relaxed, more).ok()?;
        Some(Self { all: Arc::clone(all), bytes })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.all.fetch_sub(self.bytes, atomic::Ordering::Relaxed);
    }
}
