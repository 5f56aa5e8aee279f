//! A peer's segment becomes part of this node.

use std::io::{BufReader, Seek as _};
use std::sync::PoisonError;
use std::time::Duration;

use fjall::PersistMode;

use super::record::now;
use super::segment::{Entry, Invalid, Reader};
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
        let hash = segment.hash();
        // Of two peers that bring the same segment, the second finds it here and reads nothing.
        let _applying = self.applying.lock().unwrap_or_else(PoisonError::into_inner);
        if self.has(&hash) {
            return Ok(Applied { duplicate: true, ..Applied::default() });
        }
        self.store.check()?;
        let entries = self.read_segment(segment)?;
        let latest = entries.iter().map(|entry| entry.version.timestamp).max();
        let latest = latest.unwrap_or(i64::MIN);
        self.check_clock(hash, latest)?;
        let mut writer = self.writer();
        if self.has(&hash) {
            return Ok(Applied { duplicate: true, ..Applied::default() });
        }
        let records = entries.len() as u64;
        let winners = self.winners(entries)?;
        let mut batch = self.store.batch(PersistMode::SyncAll);
        self.store.put_winners(&mut batch, &writer, &winners);
        let id = writer.absent.get(&hash).copied().unwrap_or(writer.next_id);
        let meta = SegmentMeta { id, hash, bytes: segment.len(), records };
        let mut position = writer.position;
        position.stamp = position.stamp.max(latest);
        batch.insert(&self.store.state, POSITION, position.encode());
        self.commit_with(batch, segment, &meta)?;

        winners.iter().for_each(|entry| writer.forget_pending(&entry.key));
        writer.position = position;
        let Writer { next_id, absent, .. } = &mut *writer;
        absent.remove(&hash);
        *next_id = (*next_id).max(id + 1);
        self.publish(&writer);
        self.register(meta);
        let written = winners.len() as u64;
        Ok(Applied { written, skipped: records - written, duplicate: false })
    }

    /// What is stamped too far ahead would win over all that nodes with a right clock write, and
    /// drag their clocks along.
    fn check_clock(&self, hash: Hash, latest: i64) -> Result<(), ApplyError> {
        let ahead = u64::try_from(i128::from(latest) - i128::from(now())).unwrap_or(0);
        let (ahead, bound) = (Duration::from_nanos(ahead), self.options.max_clock_ahead);
        if ahead <= bound {
            return Ok(());
        }
        let ahead = Duration::from_secs(ahead.as_secs());
        Err(ApplyError::ClockAhead { hash, ahead, bound })
    }

    fn read_segment(&self, segment: &mut StagedSegment) -> Result<Vec<Entry>, ApplyError> {
        let mut read = || -> Result<Vec<Entry>, Invalid> {
            segment.file.rewind()?;
            let file = BufReader::with_capacity(256 << 10, &segment.file);
            let limit = self.options.max_segment_inflated_bytes;
            Reader::new(file, segment.len(), limit)?.read_all()
        };
        read().map_err(|invalid| match invalid {
            Invalid::Rejected(why) => ApplyError::Rejected { hash: segment.hash(), why },
            Invalid::Io(source) => {
                let context = format!("can't read the staged segment {}", segment.hash());
                ApplyError::Storage(EngineError::Io { context, source })
            }
        })
    }

    /// The entries that win over what is stored, in key order, one a key.
    pub(super) fn winners(&self, mut entries: Vec<Entry>) -> Result<Vec<Entry>, EngineError> {
        // In order already, but for segments that no known writer makes. Of several entries of a
        // key the greatest comes first, and stays.
        entries.sort_by(|a, b| a.key.cmp(&b.key).then_with(|| b.version.cmp(&a.version)));
        entries.dedup_by(|later, first| later.key == first.key);
        let (Some(first), Some(last)) = (entries.first(), entries.last()) else {
            return Ok(entries);
        };
        if self.store.records.range(&first.key[..]..=&last.key[..]).next().is_none() {
            return Ok(entries);
        }
        let mut winners = Vec::with_capacity(entries.len());
        for entry in entries {
            let ours = entry.version.as_ref();
            if self.store.version(&entry.key, |there| there.is_none_or(|there| ours > there))? {
                winners.push(entry);
            }
        }
        Ok(winners)
    }
}
